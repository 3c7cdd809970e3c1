//! What is answered when a guest does not: closed for access and the version floor, a built-in rule for
//! the others; and the breaker that counts. Knows no wasmtime. Invariant: no answer from here allows
//! more than the embedded default would.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use crate::config;
use crate::gate::RefusalCode;
use crate::model::*;

/// Why no guest's answer is there to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    Failed(FailureCause),
    /// Nothing answers access.
    Closed(Closure),
}

/// Why nothing answers access; told to whoever is denied, and remembered over restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closure {
    /// What answered it was taken away.
    Removed,
    /// It is there and may not answer; before, nothing served that could go on.
    Refused(RefusalCode),
    /// It stood in a plugins folder, and the gateway was started without one.
    NoFolder,
    /// Nobody knows what answered it.
    Forgotten,
}

/// The only rule while access is closed.
pub(crate) const CLOSED_RULE: &str = "closed";

// === impl Closure ===

impl Closure {
    const OTHERS: [Closure; 3] = [Closure::Removed, Closure::NoFolder, Closure::Forgotten];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Closure::Removed => "removed",
            Closure::Refused(code) => code.as_str(),
            Closure::NoFolder => "no_folder",
            Closure::Forgotten => "forgotten",
        }
    }

    /// What cannot be understood was written by another version.
    pub(crate) fn parse(text: &str) -> Self {
        let refused = RefusalCode::ALL.iter().copied().map(Closure::Refused);
        refused.chain(Self::OTHERS).find(|closure| closure.as_str() == text).unwrap_or(Closure::Forgotten)
    }

    /// What happened and what an operator can do, in a sentence that a client may read.
    fn reason(self) -> String {
        const ANOTHER: &str = "put one into the plugins folder (an empty access.toml is the default one; where only \
            signed ones are taken it is signed, too)";
        match self {
            Closure::Removed => {
                format!(
                    "the access policy was removed; {ANOTHER}, or `tidegate policy rollback` where there is an earlier set"
                )
            }
            Closure::Refused(code) => format!(
                "the access policy is refused [{code}]; `tidegate policy list` says why. {} Then `tidegate policy reload`",
                code.remedy()
            ),
            Closure::NoFolder => {
                "the access policy stood in a plugins folder, and the gateway was started without one; \
                start it with --plugins"
                    .to_owned()
            }
            Closure::Forgotten => format!("it cannot be read any more what answered access; {ANOTHER}"),
        }
    }
}

/// Rule 0 of a failure's answer has no name; the cause says why. While access is closed it is `closed`.
pub(crate) fn access(why: Silence) -> Verdict {
    let reason = match why {
        Silence::Failed(cause) => format!("the access policy gave no answer: {}", cause.as_str()),
        Silence::Closed(why) => why.reason(),
    };
    Verdict::Deny { rule: 0, reason }
}

pub(crate) fn judge_items(tags: usize) -> Vec<ItemVerdict> {
    vec![ItemVerdict { allow: false, rule: 0 }; tags]
}

pub(crate) fn version_floor(why: Silence) -> Admission {
    let why = match why {
        Silence::Failed(cause) => cause.as_str(),
        Silence::Closed(why) => why.as_str(),
    };
    Admission::Refused { reason: format!("the version-floor policy gave no answer: {why}") }
}

/// As the default component unconfigured: wait, and end that reader from 90 % on.
pub(crate) fn backpressure(lag_events: u64, lag_events_max: u64) -> PressureAnswer {
    if lag_events >= lag_events_max / 10 * 9 {
        PressureAnswer::Disconnect { reason: "the reader fell too far behind".to_owned() }
    } else {
        PressureAnswer::Wait
    }
}

/// Nothing is seen.
pub(crate) fn dashboard_tags() -> Sight {
    Sight::Tags(Vec::new())
}

/// As the default component unconfigured (D-08).
pub(crate) fn rate_limit(what: &RateRequest) -> RateAnswer {
    let per_second = match what.kind.as_str() {
        "move" => 20.0,
        "chat" => 5.0,
        _ => return RateAnswer::Unlimited,
    };
    match what.tokens {
        Some(tokens) if tokens < f64::from(what.cost) => {
            let wait = (f64::from(what.cost) - tokens) / per_second * 1000.0;
            RateAnswer::Limit { retry_ms: wait.ceil() as u64 }
        }
        _ => RateAnswer::Pass { per_second, burst: per_second },
    }
}

/// Counts a component's failures in a sliding window; says once that it is too many.
#[derive(Debug)]
pub(crate) struct BreakerState {
    config: config::Breaker,
    failures: Mutex<VecDeque<Instant>>,
    tripped: AtomicBool,
}

impl BreakerState {
    pub(crate) fn new(config: &config::Breaker) -> Self {
        let failures = Mutex::new(VecDeque::with_capacity(config.failures));
        Self { config: config.clone(), failures, tripped: AtomicBool::new(false) }
    }

    /// True exactly once: when this failure is the K-th within the window.
    pub(crate) fn failed(&self, now: Instant) -> bool {
        let mut failures = self.failures.lock();
        failures.push_back(now);
        while failures.front().is_some_and(|&at| now.duration_since(at) > self.config.window) {
            failures.pop_front();
        }
        failures.len() >= self.config.failures && !self.tripped.swap(true, Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    // shows: X-07
    #[test]
    fn the_breaker_trips_once_at_the_kth_failure_in_the_window() {
        let config = config::Breaker { failures: 3, window: Duration::from_secs(10), ..config::Breaker::default() };
        let breaker = BreakerState::new(&config);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!breaker.failed(at(0)) && !breaker.failed(at(9)));
        assert!(!breaker.failed(at(11)), "the first has left the window");
        assert!(breaker.failed(at(12)));
        assert!(!breaker.failed(at(12)), "said once");
    }

    // shows: X-17
    #[test]
    fn failing_never_widens() {
        assert!(!access(Silence::Failed(FailureCause::Trap)).is_allow());
        for why in RefusalCode::ALL.iter().copied().map(Closure::Refused).chain(Closure::OTHERS) {
            let Verdict::Deny { reason, .. } = access(Silence::Closed(why)) else { panic!("{why:?} allows") };
            assert!(reason.len() <= 256 && reason.contains("access policy") | reason.contains("access;"), "{reason}");
            assert_eq!(Closure::parse(why.as_str()), why);
        }
        assert!(judge_items(3).iter().all(|verdict| !verdict.allow));
        assert!(matches!(version_floor(Silence::Failed(FailureCause::Timeout)), Admission::Refused { .. }));
        assert_eq!(dashboard_tags(), Sight::Tags(vec![]));
        assert_eq!(backpressure(100, 10_000), PressureAnswer::Wait);
        assert!(matches!(backpressure(9_000, 10_000), PressureAnswer::Disconnect { .. }));
        let chat = |tokens| RateRequest { kind: "chat".into(), cost: 1, tokens, now: 0 };
        assert_eq!(rate_limit(&chat(Some(0.5))), RateAnswer::Limit { retry_ms: 100 });
        assert_eq!(rate_limit(&chat(None)), RateAnswer::Pass { per_second: 5.0, burst: 5.0 });
    }
}
