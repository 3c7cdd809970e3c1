//! The default back-pressure policy: a ladder of fill levels, each with an answer. Cursors, marks and
//! hysteresis are the gateway's. Invariant: an unconfigured gateway lets a slow reader wait and, close to
//! the hard bound, ends that reader only.

use tidegate_plugin_sdk::backpressure::{Answer, BackpressurePolicy, Outcome, Pressure};
use tidegate_plugin_sdk::{Policy, settings};

/// What an operator can set in `backpressure.toml` or `backpressure.json`.
#[settings]
#[derive(Debug)]
pub struct Settings {
    /// Rising; the highest level that is reached answers, below the lowest a reader waits.
    // 90 %: room for one more ask before events leave the log unread. Guessed.
    #[setting(max_items = 16, default = [{"at": 0.9, "answer": "disconnect"}])]
    levels: Vec<Level>,
    /// For `skip`: how many of the newest events stay.
    #[setting(default = 256)]
    keep_newest: u32,
    /// A reader under pressure for so many milliseconds is treated as at the highest level; 0: never.
    patience_ms: u32,
    /// Where a reader would be disconnected and is the session's only one, fault the session.
    fail_fast: bool,
}

/// From this share of the bound on, do this.
#[settings]
#[derive(Clone, Copy, Debug)]
struct Level {
    /// Share of the hard bound, above 0.
    #[setting(required, min = 0, max = 1)]
    at: f64,
    /// What is done then.
    #[setting(required)]
    answer: Choice,
}

#[settings]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    Wait,
    Skip,
    Conflate,
    Disconnect,
    FaultSession,
}

/// Indexes into [`Policy::RULES`], in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Rule {
    KeepsUp,
    Level,
    Patience,
    FailFast,
}

/// The configured policy.
#[derive(Debug)]
pub struct Backpressure {
    settings: Settings,
}

tidegate_plugin_sdk::export_backpressure!(Backpressure);

// === impl Backpressure ===

impl Policy for Backpressure {
    type Settings = Settings;
    const NAME: &'static str = "backpressure";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const RULES: &'static [(&'static str, &'static str)] = &[
        ("keeps-up", "the reader keeps up well enough"),
        ("level", "the reader fell too far behind"),
        ("patience", "the reader was behind for too long"),
        ("fail-fast", "the only reader fell too far behind"),
    ];
    const VECTORS: &'static str = include_str!("../vectors.toml");

    fn configure(settings: Settings) -> Result<Self, String> {
        let mut below = 0.0;
        for (n, level) in settings.levels.iter().enumerate() {
            if !(level.at > below && level.at <= 1.0) {
                return Err(format!("levels[{n}]: `at` must rise, above 0 and at most 1"));
            }
            below = level.at;
        }
        Ok(Self { settings })
    }
}

impl BackpressurePolicy for Backpressure {
    fn decide(&self, what: &Pressure) -> Answer {
        let Settings { levels, keep_newest, patience_ms, fail_fast } = &self.settings;
        let fill = fill(what);
        let (reached, rule) = if *patience_ms > 0 && what.since_ms >= *patience_ms {
            (levels.last(), Rule::Patience)
        } else {
            (levels.iter().rev().find(|level| fill >= level.at), Rule::Level)
        };
        let Some(level) = reached else { return Answer::new(Outcome::Wait, Rule::KeepsUp as u16) };
        let outcome = match level.answer {
            Choice::Wait => Outcome::Wait,
            Choice::Skip => Outcome::Skip(*keep_newest),
            Choice::Conflate => Outcome::Conflate,
            Choice::Disconnect if *fail_fast && what.readers <= 1 => {
                return Answer::new(Outcome::FaultSession, Rule::FailFast as u16);
            }
            Choice::Disconnect => Outcome::Disconnect,
            Choice::FaultSession => Outcome::FaultSession,
        };
        Answer::new(outcome, rule as u16)
    }
}

/// How full the reader's share is, 0 to 1. The session's bytes count only against a reader that is half
/// way to its own bound: a full log is the fault of whoever holds it.
fn fill(what: &Pressure) -> f64 {
    let events = share(what.lag_events, what.lag_events_max);
    if events >= 0.5 { events.max(share(what.log_bytes, what.log_bytes_max)) } else { events }
}

fn share(part: u32, whole: u32) -> f64 {
    if whole == 0 { 1.0 } else { f64::from(part) / f64::from(whole) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressure(lag_events: u32) -> Pressure {
        Pressure { lag_events, lag_events_max: 10_000, log_bytes_max: 16 << 20, readers: 2, ..Pressure::default() }
    }

    fn decided(policy: &Backpressure, what: &Pressure) -> (Outcome, &'static str) {
        let answer = policy.decide(what);
        (answer.outcome, Backpressure::RULES[answer.rule as usize].0)
    }

    fn policy(settings: &str) -> Backpressure {
        Backpressure::configure(serde_json::from_str(settings).expect("settings")).expect("policy")
    }

    // shows: S-08
    #[test]
    fn by_default_a_reader_waits_then_it_alone_is_ended() {
        let p = policy("{}");
        assert_eq!(decided(&p, &pressure(8_999)), (Outcome::Wait, "keeps-up"));
        assert_eq!(decided(&p, &pressure(9_000)), (Outcome::Disconnect, "level"));
    }

    // shows: S-08
    #[test]
    fn fail_fast_faults_only_when_the_reader_is_alone() {
        let p = policy(r#"{"fail_fast": true}"#);
        assert_eq!(decided(&p, &pressure(9_500)), (Outcome::Disconnect, "level"));
        assert_eq!(decided(&p, &Pressure { readers: 1, ..pressure(9_500) }), (Outcome::FaultSession, "fail-fast"));
    }

    #[test]
    fn a_ladder_climbs_and_patience_ends() {
        let p = policy(
            r#"{"levels": [{"at": 0.5, "answer": "conflate"}, {"at": 0.8, "answer": "skip"}], "keep_newest": 10, "patience_ms": 1000}"#,
        );
        assert_eq!(decided(&p, &pressure(4_000)), (Outcome::Wait, "keeps-up"));
        assert_eq!(decided(&p, &pressure(5_000)), (Outcome::Conflate, "level"));
        assert_eq!(decided(&p, &pressure(8_000)), (Outcome::Skip(10), "level"));
        assert_eq!(decided(&p, &Pressure { since_ms: 1_000, ..pressure(5_000) }), (Outcome::Skip(10), "patience"));
    }

    #[test]
    fn a_full_log_counts_only_against_who_lags() {
        let p = policy("{}");
        let full = |lag| Pressure { log_bytes: 16 << 20, ..pressure(lag) };
        assert_eq!(decided(&p, &full(100)), (Outcome::Wait, "keeps-up"));
        assert_eq!(decided(&p, &full(5_000)), (Outcome::Disconnect, "level"));
    }

    #[test]
    fn levels_must_rise() {
        let bad = r#"{"levels": [{"at": 0.9, "answer": "skip"}, {"at": 0.5, "answer": "wait"}]}"#;
        assert!(Backpressure::configure(serde_json::from_str(bad).unwrap()).unwrap_err().starts_with("levels[1]"));
    }
}
