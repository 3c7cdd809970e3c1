//! The manifest of workers (W-02): who they are and what proves it, for a gateway that starts after this one has died.
//! Knows rows, not processes. Invariant: a secret leaves a row only as a `Secret`, which does not print.

use super::Storage;
use crate::{
    error::Result,
    ids::{KeyId, SessionId},
};
use rusqlite::{Row, params};
use std::time::Duration;
use tidegate_pipe::Secret;

/// A worker that lives, as far as this file knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerRow {
    pub session: SessionId,
    pub pid: u32,
    /// Boot and start time (`workers::started`).
    pub started: String,
    pub secret: Secret,
    pub epoch: u64,
    pub owner: Option<KeyId>,
    pub name: String,
    pub tag: String,
    pub backend: String,
    pub client_kind: String,
    pub client_version: String,
    pub opened_unix_ms: i64,
    pub command_timeout: Duration,
    /// It has had a reader.
    pub attended: bool,
}

impl Storage {
    pub async fn worker_started(&self, row: WorkerRow) -> Result<()> {
        self.write_sql(move |db| {
            db.prepare_cached(
                "INSERT OR REPLACE INTO workers (session, pid, started, secret, epoch, owner, name, tag, backend, \
                 client_kind, client_version, opened_unix_ms, command_timeout_ms, attended) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            )?
            .execute(params![
                row.session.as_str(),
                row.pid,
                row.started,
                row.secret.to_hex(),
                format!("{:016x}", row.epoch),
                row.owner.as_ref().map(KeyId::as_str),
                row.name,
                row.tag,
                row.backend,
                row.client_kind,
                row.client_version,
                row.opened_unix_ms,
                i64::try_from(row.command_timeout.as_millis()).unwrap_or(i64::MAX),
                row.attended,
            ])
            .map(drop)
        })
        .await
    }

    /// Its session has had a reader (S-12).
    pub async fn worker_attended(&self, session: SessionId) -> Result<()> {
        self.write_sql(move |db| {
            let mut attended = db.prepare_cached("UPDATE workers SET attended = 1 WHERE session = ?1")?;
            attended.execute([session.as_str()]).map(drop)
        })
        .await
    }

    pub async fn worker_gone(&self, session: SessionId) -> Result<()> {
        self.write_sql(move |db| {
            db.prepare_cached("DELETE FROM workers WHERE session = ?1")?.execute([session.as_str()]).map(drop)
        })
        .await
    }

    /// Those that the gateway before this one left. A row that cannot be is dropped from the answer and the file.
    pub async fn workers(&self) -> Result<Vec<WorkerRow>> {
        let (rows, spoilt) = self
            .read(|db| {
                let mut statement = db.prepare(
                    "SELECT session, pid, started, secret, epoch, owner, name, tag, backend, client_kind, \
                     client_version, opened_unix_ms, command_timeout_ms, attended FROM workers ORDER BY opened_unix_ms",
                )?;
                let mut rows = statement.query([])?;
                let (mut whole, mut spoilt) = (Vec::new(), 0);
                while let Some(row) = rows.next()? {
                    match parse(row)? {
                        Some(worker) => whole.push(worker),
                        None => spoilt += 1,
                    }
                }
                Ok((whole, spoilt))
            })
            .await?;
        if spoilt > 0 {
            tracing::warn!(spoilt, "rows of the workers' manifest make no sense and are dropped");
            let keep: Vec<String> = rows.iter().map(|row| row.session.as_str().to_owned()).collect();
            self.write_sql(move |db| {
                let keep = serde_json::to_string(&keep).unwrap_or_else(|_| "[]".into());
                db.execute("DELETE FROM workers WHERE session NOT IN (SELECT value FROM json_each(?1))", [keep])
            })
            .await?;
        }
        Ok(rows)
    }
}

fn parse(row: &Row<'_>) -> rusqlite::Result<Option<WorkerRow>> {
    let texts = |at: usize| row.get::<_, String>(at);
    let (session, secret, epoch) = (texts(0)?, texts(3)?, texts(4)?);
    let (Some(session), Ok(secret), Ok(epoch)) =
        (SessionId::parse(&session), Secret::from_hex(&secret), u64::from_str_radix(&epoch, 16))
    else {
        return Ok(None);
    };
    let Ok(pid) = u32::try_from(row.get::<_, i64>(1)?) else { return Ok(None) };
    Ok(Some(WorkerRow {
        session,
        pid,
        started: texts(2)?,
        secret,
        epoch,
        owner: row.get::<_, Option<String>>(5)?.as_deref().and_then(KeyId::parse),
        name: texts(6)?,
        tag: texts(7)?,
        backend: texts(8)?,
        client_kind: texts(9)?,
        client_version: texts(10)?,
        opened_unix_ms: row.get(11)?,
        command_timeout: Duration::from_millis(u64::try_from(row.get::<_, i64>(12)?).unwrap_or(0)),
        attended: row.get(13)?,
    }))
}
