//! Sessions of the gateway's own: opened at the start, as the operator listed them, opened again when they end. They belong
//! to nobody (S-02): no key counts them, no lease ends them, and only keys that see all sessions find them. Knows the
//! registry; what such a session is for is its readers' business. Invariants: of each name there is at most one, also behind
//! a restart that took its worker over; while one that is wanted is not there, health says so.

use super::{OpenRequest, Session, Sessions, State, Stop};
use crate::{
    error::{Code, Result},
    ids::random,
    telemetry::CloseReason,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// From the end of one, or a start that failed, to the next start (S-18): twice as long each time, up to the last. What is
/// wrong then is for an operator to mend. The last is guessed.
const REOPEN_AFTER: Duration = Duration::from_secs(5);
const REOPEN_AFTER_MAX: Duration = Duration::from_secs(300);
/// One that has lived this long did not fail at its start. Guessed.
const WORKED: Duration = Duration::from_secs(60);
/// How often is looked whether workers are awaited back.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What the records of a session say of its client.
const CLIENT_KIND: &str = "gateway";

/// One, as the operator set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalSession {
    /// Also its tag: who is shown sessions of this tag on the dashboard is shown it.
    pub name: String,
    pub backend: String,
}

impl Sessions {
    /// Keeps these open. Runs until cancelled, or until the gateway stops.
    pub async fn keep_internal(self, wanted: Vec<InternalSession>) {
        // Those of the gateway before: each is back, or is not coming.
        while self.shared.adopting.read().values().any(Option::is_none) {
            sleep(LOOK_EVERY).await;
        }
        for session in self.internal() {
            let identity = &session.identity;
            let kept = wanted.iter().any(|one| one.name == identity.name && one.backend == identity.backend);
            if !kept {
                let reason = "it is not among the internal sessions any more".to_owned();
                session.close(Stop { kill: false, why: CloseReason::Kill, reason }).await;
            }
        }
        let mut keeping = tokio::task::JoinSet::new();
        for one in wanted {
            keeping.spawn(self.clone().keep(one));
        }
        while keeping.join_next().await.is_some() {}
    }

    async fn keep(self, wanted: InternalSession) {
        let mut failures = 0;
        loop {
            let there = self.internal().into_iter().find(|session| session.identity.name == wanted.name);
            let opened = match there {
                Some(session) => Ok(session),
                None => self.open_internal(&wanted).await,
            };
            let began = Instant::now();
            let why = match opened {
                Ok(session) => {
                    self.shared.internal_missing.lock().remove(&wanted.name);
                    self.until_over(&session).await
                }
                Err(error) if error.code() == Code::Draining => return,
                Err(error) => error.message().to_owned(),
            };
            if self.shared.draining.is_cancelled() {
                return;
            }
            failures = if began.elapsed() > WORKED { 1 } else { failures + 1 };
            let wait = reopen_after(failures, u32::from_be_bytes(random()));
            let again_in_s = wait.as_secs();
            tracing::warn!(name = wanted.name, why, again_in_s, "an internal session is not there");
            self.shared.internal_missing.lock().insert(wanted.name.clone(), why);
            sleep(wait).await;
        }
    }

    /// Which of them are not there, and why; for health.
    pub fn internal_trouble(&self) -> Option<String> {
        let missing = self.shared.internal_missing.lock();
        let each: Vec<String> = missing.iter().map(|(name, why)| format!("{name} is not there: {why}")).collect();
        (!each.is_empty()).then(|| each.join("; "))
    }

    /// Opens one for nobody. The operator's settings ask for it, so no policy is asked.
    async fn open_internal(&self, wanted: &InternalSession) -> Result<Arc<Session>> {
        let request = OpenRequest {
            name: wanted.name.clone(),
            backend: wanted.backend.clone(),
            tag: wanted.name.clone(),
            command_timeout: None,
            client_kind: CLIENT_KIND.to_owned(),
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let backend = self.backend(&request.backend)?;
        self.start(backend, request, None, (None, None)).await
    }

    /// Why it is over.
    async fn until_over(&self, session: &Session) -> String {
        let open = &self.shared.metrics.sessions.internal_open;
        open.inc();
        let mut state = session.state.subscribe();
        // Its sender is the session.
        let ended = state.wait_for(|state| *state != State::Ready).await.map(|state| state.clone());
        open.dec();
        let why = match ended {
            Ok(State::Faulted(cause)) => {
                let reason = "it is opened again".to_owned();
                session.close(Stop { kill: true, why: CloseReason::Fault, reason }).await;
                cause
            }
            Ok(State::Closing(reason) | State::Leaving(reason) | State::Closed(_, reason)) => reason,
            Ok(State::Ready) | Err(_) => String::new(),
        };
        session.gone.cancelled().await;
        why
    }

    fn internal(&self) -> Vec<Arc<Session>> {
        self.all().into_iter().filter(|session| session.identity.owner.is_none()).collect()
    }
}

/// Before the next start after so many failures, one at least; up to a fifth longer, so that those that fail for the same
/// reason do not start together.
fn reopen_after(failures: u32, random: u32) -> Duration {
    let doubled = 1_u32 << failures.saturating_sub(1).min(16);
    let wait = REOPEN_AFTER.saturating_mul(doubled).min(REOPEN_AFTER_MAX);
    wait + wait.mul_f64(f64::from(random) / f64::from(u32::MAX) / 5.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: S-18
    #[test]
    fn a_session_that_cannot_be_opened_is_tried_less_and_less_often() {
        let waits: Vec<u64> = (1..=8).map(|failures| reopen_after(failures, 0).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(reopen_after(u32::MAX, u32::MAX), REOPEN_AFTER_MAX + REOPEN_AFTER_MAX / 5);
    }
}
