//! The table of API keys. Knows digests, never secrets; what scopes and globs mean is said in
//! `crate::keys`. Invariant: a revoked row is never live again.

use super::Storage;
use crate::{
    error::{Code, Error, Result},
    ids::KeyId,
};
use rusqlite::{Connection, OptionalExtension as _, Row, params, types::Type};

/// How many revoked keys are remembered, so that creating and revoking for ever does not fill the disk.
const REVOKED_MAX: i64 = 10_000;

/// One key as it is stored. Not secret: the digest of 256 random bits gives nothing away.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRow {
    pub id: KeyId,
    pub name: String,
    /// SHA-256 of the secret's 32 bytes.
    pub digest: [u8; 32],
    pub scopes: Vec<String>,
    pub read: Vec<String>,
    pub write: Vec<String>,
    pub created_unix_ms: i64,
    pub revoked_unix_ms: Option<i64>,
}

// === impl Storage ===

impl Storage {
    /// All of them, revoked ones too, oldest first.
    pub async fn keys(&self) -> Result<Vec<KeyRow>> {
        self.read(all).await
    }

    /// Adds one. `limit` is how many may be live, this one included; above it: `key.limit`.
    pub async fn add_key(&self, row: KeyRow, limit: usize) -> Result<()> {
        let path = self.shared.path.clone();
        self.write(move |db| {
            let live: i64 = db
                .query_row("SELECT count(*) FROM keys WHERE revoked_unix_ms IS NULL", [], |row| row.get(0))
                .map_err(|e| super::failure::of("read", &path, &e))?;
            if usize::try_from(live).is_ok_and(|live| live >= limit) {
                return Err(Error::new(Code::KeyLimit, format!("{limit} keys are live, and no more may be"))
                    .with("limit", limit));
            }
            insert(db, &row).map_err(|e| super::failure::of("write to", &path, &e))
        })
        .await
    }

    /// `false` when there is no such live key.
    pub async fn revoke_key(&self, id: KeyId, at_unix_ms: i64) -> Result<bool> {
        self.write_sql(move |db| {
            let changed = db
                .prepare_cached("UPDATE keys SET revoked_unix_ms = ?2 WHERE id = ?1 AND revoked_unix_ms IS NULL")?
                .execute(params![id.as_str(), at_unix_ms])?;
            db.prepare_cached(
                "DELETE FROM keys WHERE id IN (SELECT id FROM keys WHERE revoked_unix_ms IS NOT NULL \
                 ORDER BY revoked_unix_ms DESC LIMIT -1 OFFSET ?1)",
            )?
            .execute([REVOKED_MAX])?;
            Ok(changed > 0)
        })
        .await
    }

    /// Whether any key was ever made (and is remembered).
    pub async fn has_keys(&self) -> Result<bool> {
        self.read(|db| Ok(db.query_row("SELECT 1 FROM keys LIMIT 1", [], |_| Ok(())).optional()?.is_some())).await
    }
}

impl std::fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRow").field("id", &self.id).field("name", &self.name).finish_non_exhaustive()
    }
}

fn insert(db: &Connection, row: &KeyRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO keys (id, name, digest, scopes, read_globs, write_globs, created_unix_ms, revoked_unix_ms) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        row.id.as_str(),
        row.name,
        row.digest,
        json(&row.scopes),
        json(&row.read),
        json(&row.write),
        row.created_unix_ms,
        row.revoked_unix_ms,
    ])
    .map(drop)
}

fn all(db: &Connection) -> rusqlite::Result<Vec<KeyRow>> {
    db.prepare_cached(
        "SELECT id, name, digest, scopes, read_globs, write_globs, created_unix_ms, revoked_unix_ms \
         FROM keys ORDER BY created_unix_ms, id",
    )?
    .query_map([], read_row)?
    .collect()
}

fn read_row(row: &Row<'_>) -> rusqlite::Result<KeyRow> {
    let id: String = row.get(0)?;
    Ok(KeyRow {
        id: KeyId::parse(&id).ok_or_else(|| invalid(0))?,
        name: row.get(1)?,
        digest: row.get(2)?,
        scopes: list(row, 3)?,
        read: list(row, 4)?,
        write: list(row, 5)?,
        created_unix_ms: row.get(6)?,
        revoked_unix_ms: row.get(7)?,
    })
}

fn json(list: &[String]) -> String {
    serde_json::Value::from(list).to_string()
}

fn list(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    serde_json::from_str(&row.get::<_, String>(column)?).map_err(|_| invalid(column))
}

/// A value that this program cannot have written.
fn invalid(column: usize) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, "not a value of this column".into())
}
