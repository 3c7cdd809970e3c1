//! What may become of an attachment: from the row there is and what is asked, the row there shall be. Pure;
//! runs on the writer's thread, so that two changes of one row never miss each other. Knows nothing of
//! other rows: that a node is active once is the index's finding. Invariant: revoked is terminal.

use super::Holder;
use crate::{
    error::{Code, Error, Result},
    ids::{KeyId, NodeId, SessionId},
    storage::{NodeRow, NodeState},
};
use std::sync::Arc;

/// Silence after which a node is degraded, and offline. Required by N-06.
pub(super) const DEGRADED_AFTER_MS: u64 = 30_000;
pub(super) const OFFLINE_AFTER_MS: u64 = 60_000;

/// All that a node may say of itself (N-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Online,
    Degraded,
}

/// A new attachment.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) node: NodeId,
    pub(super) session: SessionId,
    pub(super) key: KeyId,
    pub(super) kind: Arc<str>,
    pub(super) version: Arc<str>,
    pub(super) capabilities: Arc<[String]>,
}

impl Report {
    pub fn state(self) -> NodeState {
        match self {
            Self::Online => NodeState::Online,
            Self::Degraded => NodeState::Degraded,
        }
    }
}

/// Foreign and missing attachments answer alike.
pub(super) fn unknown() -> Error {
    Error::new(Code::NodeUnknown, "there is no such attachment of this key")
}

/// The same to an operator, who sees everything.
pub(super) fn no_record() -> Error {
    Error::new(Code::NodeUnknown, "there is no record of such a node")
}

fn revoked(row: &NodeRow) -> Error {
    Error::new(Code::NodeAttachRevoked, "the node was revoked in this session, for good").with("node_id", &row.node)
}

fn not_in_state(row: &NodeRow, words: &str) -> Error {
    Error::new(Code::NodeNotInState, words).with("node_id", &row.node).with("state", row.state.as_str())
}

fn held<'r>(old: Option<&'r NodeRow>, holder: &Holder) -> Result<&'r NodeRow> {
    let row = old.filter(|row| holder.holds(row)).ok_or_else(unknown)?;
    if row.state == NodeState::Revoked { Err(revoked(row)) } else { Ok(row) }
}

/// Always ends in `registering`; a node that is already here begins anew, as after a crash of it.
pub(super) fn attach(old: Option<&NodeRow>, wanted: Wanted, holder: &Holder, now: i64) -> Result<Option<NodeRow>> {
    if let Some(row) = old {
        if row.state == NodeState::Revoked {
            return Err(revoked(row));
        }
        if row.state.is_active() && !holder.holds(row) {
            return Err(Error::new(Code::NodeAttachConflict, "the node is attached here by another key")
                .with("node_id", &row.node));
        }
    }
    let attached = old.filter(|row| row.is_joined()).map_or(now, |row| row.attached_unix_ms);
    let Wanted { node, session, key, kind, version, capabilities } = wanted;
    Ok(Some(NodeRow {
        seq: 0,
        node,
        session,
        key,
        kind,
        version,
        capabilities,
        state: NodeState::Registering,
        attached_unix_ms: attached,
        updated_unix_ms: now,
        detached_unix_ms: None,
    }))
}

/// Brings a joined node to what it reports, from whatever state.
pub(super) fn heartbeat(old: Option<&NodeRow>, holder: &Holder, report: Report, now: i64) -> Result<Option<NodeRow>> {
    let row = held(old, holder)?;
    if !row.is_joined() {
        return Err(not_in_state(row, "the node is detached; attach it again"));
    }
    Ok((row.state != report.state()).then(|| NodeRow { state: report.state(), updated_unix_ms: now, ..row.clone() }))
}

pub(super) fn capability_update(
    old: Option<&NodeRow>,
    holder: &Holder,
    capabilities: Arc<[String]>,
    report: Option<Report>,
    now: i64,
) -> Result<Option<NodeRow>> {
    let row = held(old, holder)?;
    if !row.state.is_active() {
        return Err(not_in_state(row, "only an active attachment takes capabilities"));
    }
    if row.state == NodeState::Registering && report == Some(Report::Online) {
        return Err(not_in_state(row, "a registering node becomes online by its first heartbeat"));
    }
    let state = report.map_or(row.state, Report::state);
    Ok(Some(NodeRow { capabilities, state, updated_unix_ms: now, ..row.clone() }))
}

pub(super) fn detach(old: Option<&NodeRow>, holder: &Holder, now: i64) -> Result<Option<NodeRow>> {
    let row = held(old, holder)?;
    Ok(row.is_joined().then(|| left(row, now)))
}

/// The session has ended, and with it every attachment to it.
pub(super) fn session_ended(row: &NodeRow, now: i64) -> Option<NodeRow> {
    row.is_joined().then(|| left(row, now))
}

fn left(row: &NodeRow, now: i64) -> NodeRow {
    NodeRow { state: NodeState::Offline, updated_unix_ms: now, detached_unix_ms: Some(now), ..row.clone() }
}

pub(super) fn revoke(old: Option<&NodeRow>, now: i64) -> Result<Option<NodeRow>> {
    let row = old.ok_or_else(no_record)?;
    let revoked = || NodeRow { state: NodeState::Revoked, updated_unix_ms: now, ..row.clone() };
    Ok((row.state != NodeState::Revoked).then(revoked))
}

/// What so long a silence makes of a joined node. One that never sent a heartbeat cannot get worse: it is
/// `registering` until it counts as gone.
pub(super) fn silent(state: NodeState, silence_ms: u64) -> Option<NodeState> {
    match state {
        NodeState::Registering | NodeState::Online | NodeState::Degraded if silence_ms > OFFLINE_AFTER_MS => {
            Some(NodeState::Offline)
        }
        NodeState::Online if silence_ms > DEGRADED_AFTER_MS => Some(NodeState::Degraded),
        _ => None,
    }
}

/// Before a write on behalf of a node.
pub(super) fn may_act(row: &NodeRow, holder: &Holder) -> Result<()> {
    let row = held(Some(row), holder)?;
    if row.state.is_active() {
        return Ok(());
    }
    Err(not_in_state(row, "the node counts as offline: a heartbeat, or attaching again, brings it back"))
}
