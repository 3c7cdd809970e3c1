//! Sessions of the gateway's own: opened at the start, as the operator listed them, opened again when they end. They belong
//! to nobody (S-02): no key counts them, no lease ends them, and only keys that see all sessions find them. Knows the
//! registry; what such a session is for is its readers' business. Invariant: of each name there is at most one, also behind
//! a restart that took its worker over.

use super::{OpenRequest, Session, Sessions, State, Stop};
use crate::{
    error::{Code, Result},
    telemetry::CloseReason,
};
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// From the end of one, or a start that failed, to the next start (S-18).
const REOPEN_AFTER: Duration = Duration::from_secs(5);
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
        loop {
            let there = self.internal().into_iter().find(|session| session.identity.name == wanted.name);
            let opened = match there {
                Some(session) => Ok(session),
                None => self.open_internal(&wanted).await,
            };
            match opened {
                Ok(session) => self.until_over(&session).await,
                Err(error) if error.code() == Code::Draining => return,
                Err(error) => tracing::warn!(name = wanted.name, %error, "an internal session cannot be opened"),
            }
            if self.shared.draining.is_cancelled() {
                return;
            }
            sleep(REOPEN_AFTER).await;
        }
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

    async fn until_over(&self, session: &Session) {
        let open = &self.shared.metrics.sessions.internal_open;
        open.inc();
        let mut state = session.state.subscribe();
        // Its sender is the session.
        let faulted =
            state.wait_for(|state| *state != State::Ready).await.is_ok_and(|state| matches!(*state, State::Faulted(_)));
        open.dec();
        if faulted {
            let reason = "it is opened again".to_owned();
            session.close(Stop { kill: true, why: CloseReason::Fault, reason }).await;
        }
        session.gone.cancelled().await;
    }

    fn internal(&self) -> Vec<Arc<Session>> {
        self.all().into_iter().filter(|session| session.identity.owner.is_none()).collect()
    }
}
