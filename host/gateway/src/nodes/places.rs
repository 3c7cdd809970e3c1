//! Where nodes touch the rest: what they ask of sessions and of the policies, and the gate they are for
//! sessions. No rule of its own.

use super::{FloorPolicy, Nodes};
use crate::{
    error::Result,
    ids::SessionId,
    policies::{Policies, Rate},
    sessions::{Caller, Sessions, State, WriteGate},
};
use std::{fmt, pin::Pin};
use tidegate_policy::{Action, Admission, Decision, GenerationId};

/// What nodes need to know of sessions.
pub trait Places: Send + Sync + fmt::Debug {
    /// The session, if the caller may use it and it takes commands.
    fn enter(&self, caller: &Caller, session: &str) -> Result<SessionId>;
    fn is_open(&self, session: &SessionId) -> bool;
    /// What the rate-limit policy says to a call of `caller`.
    fn admit<'a>(&'a self, caller: &'a Caller) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;
    /// What the access policy says to a node of `caller` joining the session.
    fn allow<'a>(
        &'a self,
        caller: &'a Caller,
        session: &'a SessionId,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;
}

/// What joining a session is called when the access policy is asked, as a method without a tag.
const ATTACH: &str = "attach-node";

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

    fn admit<'a>(&'a self, caller: &'a Caller) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(async { self.policies().admit(&caller.principal(), &caller.key.id, Rate::Node).await })
    }

    fn allow<'a>(
        &'a self,
        caller: &'a Caller,
        session: &'a SessionId,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        let action = Action::Command { method: ATTACH.into(), tag: "".into() };
        Box::pin(async move {
            let session = self.find(session.as_str())?;
            self.policies().authorize(&caller.principal(), &session.facts, action).await
        })
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
