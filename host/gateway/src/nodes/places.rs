//! Where nodes touch the rest: what they ask of sessions and of the policies, and the gate they are for
//! sessions. No rule of its own.

use super::{FloorPolicy, Nodes};
use crate::{
    error::Result,
    ids::SessionId,
    policies::Policies,
    sessions::{Caller, Sessions, State, WriteGate},
};
use std::{fmt, pin::Pin};
use tidegate_policy::{Admission, Decision, GenerationId};

/// What nodes need to know of sessions.
pub trait Places: Send + Sync + fmt::Debug {
    /// The session, if the caller may use it and it takes commands.
    fn enter(&self, caller: &Caller, session: &str) -> Result<SessionId>;
    fn is_open(&self, session: &SessionId) -> bool;
}

// === impls ===

impl Places for Sessions {
    fn enter(&self, caller: &Caller, session: &str) -> Result<SessionId> {
        let session = self.get(caller, session)?;
        session.check_ready()?;
        Ok(session.identity.id.clone())
    }

    fn is_open(&self, session: &SessionId) -> bool {
        self.find(session.as_str()).is_ok_and(|session| !matches!(session.state(), State::Closed(..)))
    }
}

impl FloorPolicy for Policies {
    fn generation(&self) -> GenerationId {
        self.host().generation()
    }

    fn admit<'a>(
        &'a self,
        kind: &'a str,
        version: &'a str,
        floor: Option<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Decision<Admission>> + Send + 'a>> {
        Box::pin(self.version_floor(kind, version, floor))
    }
}

impl WriteGate for Nodes {
    fn check<'a>(
        &'a self,
        caller: &'a Caller,
        session: &'a SessionId,
        node: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(self.check_write(caller, session, node))
    }
}
