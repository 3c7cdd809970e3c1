//! Which errors pass by themselves, and how long to try again: waits that grow and are spread, until nothing has come for too
//! long. Connects nothing. Invariant: an error that is for good is never waited for by `Patience`'s users: they ask
//! `ClientError::passes` first.

use crate::{ClientError, GrpcCode};
use std::{
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// The first wait; each further one is twice as long, up to the last. Guessed: a gateway starts in a quarter of a second.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Of one reader over its connections.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    give_up_after: Duration,
    failing: Option<Failing>,
}

/// Since when, and how often it was tried since.
#[derive(Clone, Copy, Debug)]
struct Failing {
    since: Instant,
    tries: u32,
}

// === impl Patience ===

impl Patience {
    /// For how long to try again without success.
    pub fn new(give_up_after: Duration) -> Self {
        Self { give_up_after, failing: None }
    }

    /// Something came.
    pub fn works(&mut self) {
        self.failing = None;
    }

    /// Waits before the next try; hands the error out when that has been done for too long.
    pub async fn wait(&mut self, error: ClientError) -> Result<(), ClientError> {
        let failing = self.failing.get_or_insert_with(|| Failing { since: Instant::now(), tries: 0 });
        if failing.since.elapsed() > self.give_up_after {
            return Err(error);
        }
        let wait = FIRST_WAIT.saturating_mul(1 << failing.tries.min(10)).min(LAST_WAIT);
        failing.tries += 1;
        sleep(jittered(wait)).await;
        Ok(())
    }
}

// === impl ClientError ===

impl ClientError {
    /// Whether trying again may help by itself.
    pub fn passes(&self) -> bool {
        let fault = match self {
            Self::Connect { .. } | Self::Incomplete(_) => return true,
            Self::Usage(_) | Self::Violation(_) => return false,
            Self::Fault(fault) => fault,
        };
        match fault.reason.as_str() {
            // Not a gateway's answer: the connection broke, or something between gave up.
            "" => matches!(
                fault.code,
                GrpcCode::Unavailable
                    | GrpcCode::Unknown
                    | GrpcCode::Internal
                    | GrpcCode::Cancelled
                    | GrpcCode::Aborted
            ),
            "stream.draining" => !fault.session_ends(),
            "gateway.draining" | "session.adopting" => true,
            "stream.pressure" | "stream.limit" | "stream.already_open" => true,
            "policy.failed" | "policy.busy" | "rate.limited" | "storage.unavailable" => true,
            _ => false,
        }
    }
}

/// Between half and all of it, so that many readers do not come back at the same moment.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 1024;
    wait / 2 + wait.mul_f64(random as f64 / 2048.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Fault;
    use std::collections::BTreeMap;

    fn fault(code: GrpcCode, reason: &str) -> ClientError {
        let (message, details) = (String::new(), BTreeMap::new());
        ClientError::Fault(Box::new(Fault { code, reason: reason.into(), message, details }))
    }

    #[test]
    fn what_passes_is_tried_again_and_what_is_over_is_not() {
        for passing in ["", "stream.draining", "session.adopting", "stream.pressure", "stream.limit", "rate.limited"] {
            assert!(fault(GrpcCode::Unavailable, passing).passes(), "{passing}");
        }
        for over in ["stream.session_ended", "session.faulted", "auth.invalid", "policy.denied", "stream.taken_over"] {
            assert!(!fault(GrpcCode::Aborted, over).passes(), "{over}");
        }
        assert!(!fault(GrpcCode::Unauthenticated, "").passes());
        let draining = |goes_on: &str| {
            let mut error = fault(GrpcCode::Unavailable, "stream.draining");
            if let ClientError::Fault(fault) = &mut error {
                fault.details.insert("session_goes_on".into(), goes_on.into());
            }
            error
        };
        assert!(draining("true").passes() && !draining("false").passes());
    }

    #[test]
    fn waits_are_spread_and_bounded() {
        for _ in 0..1000 {
            let wait = jittered(LAST_WAIT);
            assert!(LAST_WAIT / 2 <= wait && wait <= LAST_WAIT, "{wait:?}");
        }
    }
}
