//! Records for audit: the installation, sessions that were opened and how they ended, swaps of
//! policies. Nothing here decides anything; the live truth is in memory. Invariant: never a tag's
//! value, and each table has a bound.

use super::{RECORDS_MAX, Storage};
use crate::{
    data_dir::InstanceId,
    error::Result,
    ids::{KeyId, SessionId},
};
use rusqlite::{Connection, OptionalExtension as _, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A session that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    pub id: SessionId,
    /// `None` for the gateway's own.
    pub owner: Option<KeyId>,
    pub name: String,
    /// The session's tag, as the client gave it; not an item's.
    pub tag: String,
    pub backend: String,
    pub opened_unix_ms: i64,
    pub end: Option<SessionEnd>,
}

/// How a session ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    pub at_unix_ms: i64,
    /// As in the metrics (`telemetry::CloseReason`), or `lost` when the gateway died with it.
    pub reason: String,
}

/// One attempt to change the policies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SwapRow {
    pub at_unix_ms: i64,
    pub generation: u64,
    /// `swapped`, `refused`, `rolled-back`, `unchanged`.
    pub outcome: String,
    /// What set it off: a file, `reload`, `rollback`, `breaker`, `start`.
    pub cause: String,
    /// Why it was refused; empty otherwise.
    pub code: String,
    pub message: String,
    pub gate_us: u64,
    /// From the flip until the last stream had its items judged again.
    pub enforced_us: Option<u64>,
    /// Policy → digest of the component, hexadecimal.
    pub digests: BTreeMap<String, String>,
    pub fences: Vec<FenceRow>,
}

/// The last sequence that was in a stream's transport at the flip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceRow {
    pub session: String,
    pub reader: String,
    pub sequence: u64,
}

// === impl Storage ===

impl Storage {
    pub async fn session_opened(&self, row: SessionRow) -> Result<()> {
        self.write_sql(move |db| {
            db.prepare_cached(
                "INSERT INTO sessions (id, owner, name, tag, backend, opened_unix_ms, closed_unix_ms, reason) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            )?
            .execute(params![
                row.id.as_str(),
                row.owner.as_ref().map(KeyId::as_str),
                row.name,
                row.tag,
                row.backend,
                row.opened_unix_ms,
                row.end.as_ref().map(|end| end.at_unix_ms),
                row.end.as_ref().map(|end| end.reason.as_str()),
            ])?;
            if let Some(owner) = &row.owner {
                db.prepare_cached(
                    "INSERT INTO session_memberships (session_id, member, role, joined_unix_ms) \
                     VALUES (?1, ?2, 'owner', ?3)",
                )?
                .execute(params![row.id.as_str(), owner.as_str(), row.opened_unix_ms])?;
            }
            // Open ones are bounded by `max_sessions`; only ended ones go.
            db.prepare_cached(
                "DELETE FROM sessions WHERE closed_unix_ms IS NOT NULL \
                 AND seq <= (SELECT max(seq) FROM sessions) - ?1",
            )?
            .execute([RECORDS_MAX])
            .map(drop)
        })
        .await
    }

    /// The first end counts; a second one changes nothing.
    pub async fn session_closed(&self, id: SessionId, end: SessionEnd) -> Result<()> {
        self.write_sql(move |db| {
            db.prepare_cached(
                "UPDATE sessions SET closed_unix_ms = ?2, reason = ?3 WHERE id = ?1 AND closed_unix_ms IS NULL",
            )?
            .execute(params![id.as_str(), end.at_unix_ms, end.reason])
            .map(drop)
        })
        .await
    }

    /// At start: what a killed gateway left open ended as `lost`, except for sessions in the manifest of workers, whose
    /// fate is not known yet. Returns how many.
    pub async fn end_lost_sessions(&self, at_unix_ms: i64) -> Result<usize> {
        self.write_sql(move |db| {
            db.execute(
                "UPDATE sessions SET closed_unix_ms = ?1, reason = 'lost' \
                 WHERE closed_unix_ms IS NULL AND id NOT IN (SELECT session FROM workers)",
                [at_unix_ms],
            )
        })
        .await
    }

    /// The newest `limit`, newest first.
    pub async fn sessions(&self, limit: u32) -> Result<Vec<SessionRow>> {
        self.read(move |db| {
            let mut statement = db.prepare_cached(
                "SELECT id, owner, name, tag, backend, opened_unix_ms, closed_unix_ms, reason \
                 FROM sessions ORDER BY seq DESC LIMIT ?1",
            )?;
            let rows = statement.query_map([limit], |row| {
                let (id, owner): (String, Option<String>) = (row.get(0)?, row.get(1)?);
                let (at, reason): (Option<i64>, Option<String>) = (row.get(6)?, row.get(7)?);
                let row = SessionRow {
                    // A row that a person edited by hand is left out rather than failing the list.
                    id: match SessionId::parse(&id) {
                        Some(id) => id,
                        None => return Ok(None),
                    },
                    owner: owner.as_deref().and_then(KeyId::parse),
                    name: row.get(2)?,
                    tag: row.get(3)?,
                    backend: row.get(4)?,
                    opened_unix_ms: row.get(5)?,
                    end: at.map(|at_unix_ms| SessionEnd { at_unix_ms, reason: reason.unwrap_or_default() }),
                };
                Ok(Some(row))
            })?;
            rows.filter_map(Result::transpose).collect()
        })
        .await
    }

    pub async fn swap_recorded(&self, swap: SwapRow) -> Result<()> {
        self.write_sql(move |db| {
            db.prepare_cached(
                "INSERT INTO swaps (at_unix_ms, generation, outcome, cause, code, message, gate_us, enforced_us, \
                 digests, fences) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                swap.at_unix_ms,
                signed(swap.generation),
                swap.outcome,
                swap.cause,
                swap.code,
                swap.message,
                signed(swap.gate_us),
                swap.enforced_us.map(signed),
                serde_json::to_string(&swap.digests).unwrap_or_else(|_| "{}".into()),
                serde_json::to_string(&swap.fences).unwrap_or_else(|_| "[]".into()),
            ])?;
            db.prepare_cached("DELETE FROM swaps WHERE seq <= (SELECT max(seq) FROM swaps) - ?1")?
                .execute([RECORDS_MAX])
                .map(drop)
        })
        .await
    }

    /// Completes the newest record of this generation once its streams are judged again.
    pub async fn swap_enforced(&self, generation: u64, enforced_us: u64) -> Result<()> {
        self.write_sql(move |db| {
            db.prepare_cached(
                "UPDATE swaps SET enforced_us = ?2 WHERE seq = \
                 (SELECT max(seq) FROM swaps WHERE generation = ?1 AND outcome IN ('swapped', 'rolled-back'))",
            )?
            .execute([signed(generation), signed(enforced_us)])
            .map(drop)
        })
        .await
    }

    /// The newest `limit`, newest first.
    pub async fn swaps(&self, limit: u32) -> Result<Vec<SwapRow>> {
        self.read(move |db| {
            db.prepare_cached(
                "SELECT at_unix_ms, generation, outcome, cause, code, message, gate_us, enforced_us, digests, fences \
                 FROM swaps ORDER BY seq DESC LIMIT ?1",
            )?
            .query_map([limit], |row| {
                Ok(SwapRow {
                    at_unix_ms: row.get(0)?,
                    generation: unsigned(row.get(1)?),
                    outcome: row.get(2)?,
                    cause: row.get(3)?,
                    code: row.get(4)?,
                    message: row.get(5)?,
                    gate_us: unsigned(row.get(6)?),
                    enforced_us: row.get::<_, Option<i64>>(7)?.map(unsigned),
                    digests: serde_json::from_str(&row.get::<_, String>(8)?).unwrap_or_default(),
                    fences: serde_json::from_str(&row.get::<_, String>(9)?).unwrap_or_default(),
                })
            })?
            .collect()
        })
        .await
    }

    /// The largest generation on record, so that a restart counts on; 0 when there is none.
    pub async fn last_generation(&self) -> Result<u64> {
        self.read(|db| {
            let last: Option<Option<i64>> =
                db.query_row("SELECT max(generation) FROM swaps", [], |row| row.get(0)).optional()?;
            Ok(last.flatten().map_or(0, unsigned))
        })
        .await
    }
}

/// Notes the start; the first one makes the row. A database restored beside another folder takes that folder's id.
pub(super) fn start_instance(db: &Connection, instance: &InstanceId, now_unix_ms: i64) -> rusqlite::Result<()> {
    db.execute(
        "INSERT INTO instance (one, id, created_unix_ms, started_unix_ms, version) VALUES (1, ?1, ?2, ?2, ?3) \
         ON CONFLICT (one) DO UPDATE SET id = excluded.id, started_unix_ms = excluded.started_unix_ms, \
         version = excluded.version",
        params![instance.as_str(), now_unix_ms, env!("CARGO_PKG_VERSION")],
    )
    .map(drop)
}

/// SQLite has no unsigned 64 bits; ours are counts that never come near the sign.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
