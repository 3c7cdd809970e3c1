//! Transitions for those who watch: a bounded queue that all share. Keeps nothing for later. Invariant: a
//! watcher that was too slow is told how many transitions it missed before it sees the next one.

use super::{Holder, NodeState};
use crate::{
    ids::{KeyId, NodeId, SessionId},
    storage::NodeEdited,
};
use std::sync::Arc;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

/// Transitions kept for the slowest watcher; full: the oldest go, and watchers are told how many.
pub(super) const WATCH_QUEUE: usize = 4096;

/// An attachment's change of state, after its commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    pub node: NodeId,
    pub session: SessionId,
    pub key: KeyId,
    /// `None`: a new record.
    pub from: Option<NodeState>,
    pub to: NodeState,
    /// `attach`, `heartbeat`, `report`, `stale`, `detach`, `revoke`, `session-ended`.
    pub cause: &'static str,
    pub at_unix_ms: i64,
}

/// What a watcher hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    Transition(Arc<Transition>),
    /// So many are lost to it, of any node.
    Missed(u64),
}

/// One who watches.
#[derive(Debug)]
pub struct Watcher {
    transitions: broadcast::Receiver<Arc<Transition>>,
    stopping: CancellationToken,
    holder: Holder,
    session: Option<SessionId>,
}

// === impl Transition ===

impl Transition {
    pub(super) fn of(edited: &NodeEdited, cause: &'static str) -> Self {
        let row = &edited.row;
        Self {
            node: row.node.clone(),
            session: row.session.clone(),
            key: row.key.clone(),
            from: edited.before,
            to: row.state,
            cause,
            at_unix_ms: row.updated_unix_ms,
        }
    }
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(
        transitions: broadcast::Receiver<Arc<Transition>>,
        stopping: CancellationToken,
        holder: Holder,
        session: Option<SessionId>,
    ) -> Self {
        Self { transitions, stopping, holder, session }
    }

    /// The next one; `None` when the gateway stops.
    pub async fn next(&mut self) -> Option<Watched> {
        loop {
            let heard = tokio::select! {
                () = self.stopping.cancelled() => return None,
                heard = self.transitions.recv() => heard,
            };
            match heard {
                Ok(transition) if self.sees(&transition) => return Some(Watched::Transition(transition)),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => return Some(Watched::Missed(missed)),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    fn sees(&self, transition: &Transition) -> bool {
        let held = match &self.holder {
            Holder::Key { id, all } => *all || *id == transition.key,
            Holder::Operator => true,
        };
        held && self.session.as_ref().is_none_or(|session| *session == transition.session)
    }
}
