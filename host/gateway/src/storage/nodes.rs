//! Tables of runtime nodes: attachments, presence, the version floor. Knows how a row is kept, not when
//! one may change: the rule comes with the write and sees its own row only. Invariant: that a node is
//! active once is the index's finding, never that of a look before the write.

use super::{RECORDS_MAX, Storage, failure};
use crate::{
    error::{Code, Error, Result},
    ids::{KeyId, NodeId, SessionId},
};
use rusqlite::{Connection, OptionalExtension as _, Row, ffi, params, types::Type};
use std::{path::Path, sync::Arc};

/// Where an attachment is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeState {
    /// Attached, no heartbeat yet.
    Registering,
    Online,
    /// Said so itself, or silent for a while.
    Degraded,
    /// Silent for long, or detached.
    Offline,
    /// For good.
    Revoked,
}

/// One attachment as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRow {
    /// 0 until it is stored.
    pub seq: i64,
    pub node: NodeId,
    pub session: SessionId,
    /// The key that attached it.
    pub key: KeyId,
    pub kind: Arc<str>,
    /// MAJOR.MINOR
    pub version: Arc<str>,
    pub capabilities: Arc<[String]>,
    pub state: NodeState,
    pub attached_unix_ms: i64,
    pub updated_unix_ms: i64,
    pub detached_unix_ms: Option<i64>,
}

/// What a write made of a row.
#[derive(Clone, Debug)]
pub struct NodeEdited {
    /// `None` for a new row.
    pub before: Option<NodeState>,
    pub row: Arc<NodeRow>,
    /// Nothing was written when the rule had nothing to change.
    pub changed: bool,
}

/// A sign of life.
#[derive(Clone, Debug)]
pub struct PresenceRow {
    pub node: NodeId,
    pub session: SessionId,
    pub last_heartbeat_unix_ms: i64,
    /// `Online` or `Degraded`.
    pub reported: NodeState,
}

/// The floor as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FloorRow {
    pub floor: Option<String>,
    pub revision: u64,
    pub set_unix_ms: i64,
}

/// Which attachments a list shows, a page at a time.
#[derive(Clone, Debug, Default)]
pub struct NodeQuery {
    pub session: Option<SessionId>,
    pub key: Option<KeyId>,
    /// Detached and revoked ones too.
    pub ended: bool,
    /// Continue behind this `seq`.
    pub after: i64,
    pub limit: u32,
}

// === impl NodeState ===

impl NodeState {
    pub const ALL: [Self; 5] = [Self::Registering, Self::Online, Self::Degraded, Self::Offline, Self::Revoked];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registering => "registering",
            Self::Online => "online",
            Self::Degraded => "degraded",
            Self::Offline => "offline",
            Self::Revoked => "revoked",
        }
    }

    /// As the partial unique index has it.
    pub const fn is_active(self) -> bool {
        matches!(self, Self::Registering | Self::Online | Self::Degraded)
    }
}

// === impl NodeRow ===

impl NodeRow {
    /// Neither detached nor revoked: active, or only silent.
    pub fn is_joined(&self) -> bool {
        self.state != NodeState::Revoked && self.detached_unix_ms.is_none()
    }
}

// === impl Storage ===

impl Storage {
    /// Shows `rule` the row of this node and session and stores what it answers; `None` leaves all as it is.
    /// `then` runs after the commit, in the order of the commits. A second active row of the node is
    /// `runtimenode.attach_conflict`.
    pub async fn edit_node<R, C>(&self, node: NodeId, session: SessionId, rule: R, then: C) -> Result<NodeEdited>
    where
        R: FnOnce(Option<&NodeRow>) -> Result<Option<NodeRow>> + Send + 'static,
        C: FnOnce(&NodeEdited) + Send + 'static,
    {
        let path = self.shared.path.clone();
        let work = move |db: &Connection| {
            let edited = edit(db, &path, &node, &session, rule)?;
            if edited.changed && edited.row.state == NodeState::Offline && edited.row.detached_unix_ms.is_some() {
                forget(db, &session).map_err(|e| failure::of("write to", &path, &e))?;
            }
            Ok(edited)
        };
        self.write_then(work, then).await
    }

    /// The same rule for many rows in one piece; those it leaves alone are not in the answer.
    pub async fn edit_nodes<R, C>(&self, which: Vec<(NodeId, SessionId)>, rule: R, then: C) -> Result<Vec<NodeEdited>>
    where
        R: Fn(usize, &NodeRow) -> Option<NodeRow> + Send + 'static,
        C: FnOnce(&Vec<NodeEdited>) + Send + 'static,
    {
        let path = self.shared.path.clone();
        let work = move |db: &Connection| {
            let mut edited = Vec::new();
            for (at, (node, session)) in which.iter().enumerate() {
                let rule = |old: Option<&NodeRow>| Ok(old.and_then(|old| rule(at, old)));
                match edit(db, &path, node, session, rule) {
                    Ok(one) if one.changed => edited.push(one),
                    Ok(_) => {}
                    Err(error) if error.code() == Code::NodeUnknown => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(edited)
        };
        self.write_then(work, then).await
    }

    /// Every record of a node, for the operator's revocation.
    pub async fn records_of_node(&self, node: NodeId) -> Result<Vec<NodeRow>> {
        self.read(move |db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM runtime_node_attachments WHERE node_id = ?1"))?
                .query_map([node.as_str()], read_row)?
                .collect()
        })
        .await
    }

    pub async fn node(&self, node: NodeId, session: SessionId) -> Result<Option<NodeRow>> {
        self.read(move |db| find(db, &node, &session)).await
    }

    /// What a start takes into memory: every joined attachment.
    pub async fn joined_nodes(&self) -> Result<Vec<(NodeRow, Option<i64>)>> {
        self.read(|db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS}, last_heartbeat_unix_ms FROM runtime_node_attachments \
                 LEFT JOIN runtime_node_presence USING (node_id, session_id) \
                 WHERE state <> 'revoked' AND detached_at_unix_ms IS NULL ORDER BY seq"
            ))?
            .query_map([], |row| Ok((read_row(row)?, row.get(11)?)))?
            .collect()
        })
        .await
    }

    /// A page, oldest first, each with its stored sign of life.
    pub async fn nodes(&self, query: NodeQuery) -> Result<Vec<(NodeRow, Option<i64>)>> {
        self.read(move |db| {
            db.prepare_cached(&format!(
                "SELECT {COLUMNS}, last_heartbeat_unix_ms FROM runtime_node_attachments \
                 LEFT JOIN runtime_node_presence USING (node_id, session_id) \
                 WHERE seq > ?1 AND (?2 IS NULL OR session_id = ?2) AND (?3 IS NULL OR key_id = ?3) \
                 AND (?4 OR (state <> 'revoked' AND detached_at_unix_ms IS NULL)) ORDER BY seq LIMIT ?5"
            ))?
            .query_map(
                params![
                    query.after,
                    query.session.as_ref().map(SessionId::as_str),
                    query.key.as_ref().map(KeyId::as_str),
                    query.ended,
                    query.limit,
                ],
                |row| Ok((read_row(row)?, row.get(11)?)),
            )?
            .collect()
        })
        .await
    }

    /// One piece; the caller keeps it small enough not to hold others up.
    pub async fn node_presence(&self, rows: Vec<PresenceRow>) -> Result<()> {
        self.write_sql(move |db| {
            let mut statement = db.prepare_cached(
                // Some may have left and been forgotten meanwhile.
                "INSERT INTO runtime_node_presence (node_id, session_id, last_heartbeat_unix_ms, reported) \
                 SELECT ?1, ?2, ?3, ?4 WHERE EXISTS \
                 (SELECT 1 FROM runtime_node_attachments WHERE node_id = ?1 AND session_id = ?2) ON CONFLICT (node_id, session_id) DO UPDATE SET \
                 last_heartbeat_unix_ms = excluded.last_heartbeat_unix_ms, reported = excluded.reported",
            )?;
            for row in &rows {
                let at = row.last_heartbeat_unix_ms;
                statement.execute(params![row.node.as_str(), row.session.as_str(), at, row.reported.as_str()])?;
            }
            Ok(())
        })
        .await
    }

    /// `None` when its row is gone, which nothing here does.
    pub async fn version_floor(&self) -> Result<Option<FloorRow>> {
        self.read(|db| read_floor(db).optional()).await
    }

    /// Its revision becomes higher than the stored one and than `above`, which the caller has seen: so the new floor is
    /// the newest also where the row was lost or set back.
    pub async fn set_version_floor<C>(
        &self,
        floor: Option<String>,
        above: u64,
        at_unix_ms: i64,
        then: C,
    ) -> Result<FloorRow>
    where
        C: FnOnce(&FloorRow) + Send + 'static,
    {
        let path = self.shared.path.clone();
        let work = move |db: &Connection| {
            let write = || {
                let stored = read_floor(db).optional()?.map_or(0, |row| row.revision);
                let revision = i64::try_from(above.max(stored).saturating_add(1)).unwrap_or(i64::MAX);
                db.prepare_cached(
                    "INSERT INTO version_floor (one, floor, revision, set_at_unix_ms) VALUES (1, ?1, ?2, ?3) \
                     ON CONFLICT (one) DO UPDATE SET floor = excluded.floor, revision = excluded.revision, \
                     set_at_unix_ms = excluded.set_at_unix_ms",
                )?
                .execute(params![floor, revision, at_unix_ms])?;
                read_floor(db)
            };
            write().map_err(|e| failure::of("write to", &path, &e))
        };
        self.write_then(work, then).await
    }
}

/// Detached attachments kept of a session. Guessed: more than anybody scrolls through; whose record is gone attaches
/// as a new one.
pub(super) const LEFT_MAX: i64 = 1_000;

const COLUMNS: &str = "seq, node_id, session_id, key_id, kind, version, capabilities, state, \
                       attached_at_unix_ms, updated_at_unix_ms, detached_at_unix_ms";

fn edit<R>(db: &Connection, path: &Path, node: &NodeId, session: &SessionId, rule: R) -> Result<NodeEdited>
where
    R: FnOnce(Option<&NodeRow>) -> Result<Option<NodeRow>>,
{
    let old = find(db, node, session).map_err(|e| failure::of("read", path, &e))?;
    let before = old.as_ref().map(|row| row.state);
    match (rule(old.as_ref())?, old) {
        (None, Some(old)) => Ok(NodeEdited { before, row: Arc::new(old), changed: false }),
        (None, None) => Err(Error::new(Code::NodeUnknown, "there is no such attachment of this key")),
        (Some(mut row), old) => {
            row.seq = old.map_or(0, |old| old.seq);
            row.seq = store(db, &row).map_err(|e| match e.sqlite_error() {
                Some(e) if e.extended_code == ffi::SQLITE_CONSTRAINT_UNIQUE => {
                    Error::new(Code::NodeAttachConflict, "the node is active in another session")
                        .with("node_id", &row.node)
                }
                _ => failure::of("write to", path, &e),
            })?;
            Ok(NodeEdited { before, row: Arc::new(row), changed: true })
        }
    }
}

/// Inserts or updates by `seq`, which it returns.
fn store(db: &Connection, row: &NodeRow) -> rusqlite::Result<i64> {
    let capabilities = serde_json::Value::from(&*row.capabilities).to_string();
    if row.seq != 0 {
        db.prepare_cached(
            "UPDATE runtime_node_attachments SET key_id = ?2, kind = ?3, version = ?4, capabilities = ?5, state = ?6, \
             attached_at_unix_ms = ?7, updated_at_unix_ms = ?8, detached_at_unix_ms = ?9 WHERE seq = ?1",
        )?
        .execute(params![
            row.seq,
            row.key.as_str(),
            row.kind,
            row.version,
            capabilities,
            row.state.as_str(),
            row.attached_unix_ms,
            row.updated_unix_ms,
            row.detached_unix_ms,
        ])?;
        return Ok(row.seq);
    }
    db.prepare_cached(
        "INSERT INTO runtime_node_attachments (node_id, session_id, key_id, kind, version, capabilities, state, \
         attached_at_unix_ms, updated_at_unix_ms) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?
    .execute(params![
        row.node.as_str(),
        row.session.as_str(),
        row.key.as_str(),
        row.kind,
        row.version,
        capabilities,
        row.state.as_str(),
        row.attached_unix_ms,
        row.updated_unix_ms,
    ])?;
    let seq = db.last_insert_rowid();
    // Now and then, of sessions that are over; what an open one knows, `forget` bounds.
    if seq % 1024 == 0 {
        db.prepare_cached(
            "DELETE FROM runtime_node_attachments WHERE seq <= ?1 \
             AND (detached_at_unix_ms IS NOT NULL OR state = 'revoked') \
             AND session_id NOT IN (SELECT id FROM sessions WHERE closed_unix_ms IS NULL)",
        )?
        .execute([seq - RECORDS_MAX])?;
    }
    Ok(seq)
}

/// Only the newest of those that left an open session stay; revoked ones all do, as the revocation has to.
fn forget(db: &Connection, session: &SessionId) -> rusqlite::Result<()> {
    db.prepare_cached(
        "DELETE FROM runtime_node_attachments WHERE seq IN (SELECT seq FROM runtime_node_attachments \
         WHERE session_id = ?1 AND detached_at_unix_ms IS NOT NULL AND state <> 'revoked' \
         ORDER BY detached_at_unix_ms DESC, seq DESC LIMIT -1 OFFSET ?2)",
    )?
    .execute(params![session.as_str(), LEFT_MAX])?;
    Ok(())
}

fn find(db: &Connection, node: &NodeId, session: &SessionId) -> rusqlite::Result<Option<NodeRow>> {
    db.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM runtime_node_attachments WHERE node_id = ?1 AND session_id = ?2"
    ))?
    .query_row([node.as_str(), session.as_str()], read_row)
    .optional()
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<NodeRow> {
    fn own<T>(column: usize, value: Option<T>) -> rusqlite::Result<T> {
        value.ok_or_else(|| {
            rusqlite::Error::FromSqlConversionFailure(column, Type::Text, "not a value of this column".into())
        })
    }
    let text = |column: usize| row.get::<_, String>(column);
    let state = text(7)?;
    Ok(NodeRow {
        seq: row.get(0)?,
        node: own(1, NodeId::parse(&text(1)?))?,
        session: own(2, SessionId::parse(&text(2)?))?,
        key: own(3, KeyId::parse(&text(3)?))?,
        kind: text(4)?.into(),
        version: text(5)?.into(),
        capabilities: own(6, serde_json::from_str::<Vec<String>>(&text(6)?).ok())?.into(),
        state: own(7, NodeState::ALL.into_iter().find(|known| known.as_str() == state))?,
        attached_unix_ms: row.get(8)?,
        updated_unix_ms: row.get(9)?,
        detached_unix_ms: row.get(10)?,
    })
}

fn read_floor(db: &Connection) -> rusqlite::Result<FloorRow> {
    db.prepare_cached("SELECT floor, revision, set_at_unix_ms FROM version_floor WHERE one = 1")?.query_row([], |row| {
        let revision = u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        Ok(FloorRow { floor: row.get(0)?, revision, set_unix_ms: row.get(2)? })
    })
}
