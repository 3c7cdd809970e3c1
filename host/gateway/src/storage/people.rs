//! People of the dashboard, what their groups are granted, and what they changed. Knows rows, not what roles
//! mean. Invariant: the audit keeps the newest `RECORDS_MAX` rows of what was done, and what was tried in vain takes no
//! place of theirs.

use super::{RECORDS_MAX, Storage};
use crate::error::{Code, Error, Result};
use rusqlite::{Connection, OptionalExtension as _, Row, params, types::Type};

/// The outcome of what was done.
const DONE: &str = "done";
/// Tries in vain that are kept, the newest ones.
const IN_VAIN_MAX: i64 = 10_000;
/// The audit is cut back each time so many rows came.
const CUT_EVERY: i64 = 64;

/// A person as stored.
#[derive(Clone, PartialEq, Eq)]
pub struct PersonRow {
    pub name: String,
    /// Argon2id in PHC form.
    pub password: String,
    /// `Admin` or `Viewer`.
    pub role: String,
    pub groups: Vec<String>,
    pub changed_unix_ms: i64,
}

/// One change somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    /// Rises; the storage's own.
    pub seq: i64,
    pub at_unix_ms: i64,
    pub who: String,
    /// A dotted verb.
    pub what: String,
    pub target: String,
    /// `done`, or the code of the error.
    pub outcome: String,
}

// === impl Storage ===

impl Storage {
    /// All people, by name.
    pub async fn people(&self) -> Result<Vec<PersonRow>> {
        self.read(|db| {
            db.prepare_cached("SELECT name, password, role, groups, changed_unix_ms FROM people ORDER BY name")?
                .query_map([], person)?
                .collect()
        })
        .await
    }

    pub async fn person(&self, name: String) -> Result<Option<PersonRow>> {
        self.read(move |db| {
            db.prepare_cached("SELECT name, password, role, groups, changed_unix_ms FROM people WHERE name = ?1")?
                .query_row([name], person)
                .optional()
        })
        .await
    }

    /// Whether there is a person of this name, capitals aside.
    pub async fn is_person_in_any_case(&self, name: String) -> Result<bool> {
        self.read(move |db| {
            db.prepare_cached("SELECT EXISTS (SELECT 1 FROM people WHERE name = ?1 COLLATE NOCASE)")?
                .query_row([name], |row| row.get(0))
        })
        .await
    }

    /// Adds a person or replaces one. `limit`: how many there may be, this one included.
    pub async fn put_person(&self, row: PersonRow, limit: usize) -> Result<()> {
        let path = self.shared.path.clone();
        self.write(move |db| {
            let failed = |e: rusqlite::Error| super::failure::of("write to", &path, &e);
            let others: i64 = db
                .query_row("SELECT count(*) FROM people WHERE name <> ?1", [&row.name], |row| row.get(0))
                .map_err(failed)?;
            if usize::try_from(others).is_ok_and(|others| others >= limit) {
                return Err(Error::new(Code::PeopleLimit, format!("{limit} people are known, and no more may be"))
                    .with("limit", limit));
            }
            replace(db, &row).map_err(failed)
        })
        .await
    }

    /// `false` when there is no such person.
    pub async fn remove_person(&self, name: String) -> Result<bool> {
        self.write_sql(move |db| Ok(db.prepare_cached("DELETE FROM people WHERE name = ?1")?.execute([name])? > 0))
            .await
    }

    /// Group and tag, in order.
    pub async fn group_grants(&self) -> Result<Vec<(String, String)>> {
        self.read(|db| {
            db.prepare_cached("SELECT group_name, tag FROM group_grants ORDER BY group_name, tag")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        })
        .await
    }

    /// `limit`: how many grants there may be, this one included.
    pub async fn put_grant(&self, group: String, tag: String, limit: usize) -> Result<()> {
        let path = self.shared.path.clone();
        self.write(move |db| {
            let failed = |e: rusqlite::Error| super::failure::of("write to", &path, &e);
            let all: i64 = db.query_row("SELECT count(*) FROM group_grants", [], |row| row.get(0)).map_err(failed)?;
            if usize::try_from(all).is_ok_and(|all| all >= limit) {
                return Err(Error::new(Code::PeopleLimit, format!("{limit} grants are known, and no more may be"))
                    .with("limit", limit));
            }
            db.prepare_cached("INSERT OR IGNORE INTO group_grants (group_name, tag) VALUES (?1, ?2)")
                .and_then(|mut insert| insert.execute([group, tag]))
                .map_err(failed)?;
            Ok(())
        })
        .await
    }

    /// `false` when there is no such grant.
    pub async fn remove_grant(&self, group: String, tag: String) -> Result<bool> {
        self.write_sql(move |db| {
            let mut delete = db.prepare_cached("DELETE FROM group_grants WHERE group_name = ?1 AND tag = ?2")?;
            Ok(delete.execute([group, tag])? > 0)
        })
        .await
    }

    /// The row's `seq` is not looked at.
    pub async fn add_audit(&self, row: AuditRow) -> Result<()> {
        self.write_sql(move |db| {
            db.prepare_cached(
                "INSERT INTO audit (at_unix_ms, who, what, target, outcome) VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![row.at_unix_ms, row.who, row.what, row.target, row.outcome])?;
            if db.last_insert_rowid() % CUT_EVERY == 0 {
                cut(db, true, RECORDS_MAX)?;
                cut(db, false, IN_VAIN_MAX)?;
            }
            Ok(())
        })
        .await
    }

    /// The newest ones, newest first; `before`: those older than this one.
    pub async fn audit(&self, before: Option<i64>, done_only: bool, limit: u32) -> Result<Vec<AuditRow>> {
        self.read(move |db| {
            db.prepare_cached(
                "SELECT seq, at_unix_ms, who, what, target, outcome FROM audit \
                 WHERE seq < ?1 AND (outcome = ?2 OR NOT ?3) ORDER BY seq DESC LIMIT ?4",
            )?
            .query_map(params![before.unwrap_or(i64::MAX), DONE, done_only, limit], |row| {
                Ok(AuditRow {
                    seq: row.get(0)?,
                    at_unix_ms: row.get(1)?,
                    who: row.get(2)?,
                    what: row.get(3)?,
                    target: row.get(4)?,
                    outcome: row.get(5)?,
                })
            })?
            .collect()
        })
        .await
    }
}

/// Leaves the newest ones of one kind. A table scan, some milliseconds when it is full.
fn cut(db: &Connection, done: bool, max: i64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "DELETE FROM audit WHERE (outcome = ?1) = ?2 AND seq <= \
         (SELECT seq FROM audit WHERE (outcome = ?1) = ?2 ORDER BY seq DESC LIMIT 1 OFFSET ?3)",
    )?
    .execute(params![DONE, done, max])
    .map(drop)
}

impl std::fmt::Debug for PersonRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PersonRow").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

fn replace(db: &Connection, row: &PersonRow) -> rusqlite::Result<()> {
    let groups = serde_json::Value::from(row.groups.as_slice()).to_string();
    db.prepare_cached(
        "INSERT INTO people (name, password, role, groups, changed_unix_ms) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (name) DO UPDATE SET password = excluded.password, role = excluded.role, \
         groups = excluded.groups, changed_unix_ms = excluded.changed_unix_ms",
    )?
    .execute(params![row.name, row.password, row.role, groups, row.changed_unix_ms])
    .map(drop)
}

fn person(row: &Row<'_>) -> rusqlite::Result<PersonRow> {
    let groups: String = row.get(3)?;
    let damaged = |_| rusqlite::Error::FromSqlConversionFailure(3, Type::Text, "not a list of text".into());
    Ok(PersonRow {
        name: row.get(0)?,
        password: row.get(1)?,
        role: row.get(2)?,
        groups: serde_json::from_str(&groups).map_err(damaged)?,
        changed_unix_ms: row.get(4)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // A Viewer's refused tries pushed everything that was done out of the audit.
    #[test]
    fn what_was_tried_in_vain_takes_no_place_of_what_was_done() {
        let db = Connection::open_in_memory().expect("opens");
        db.execute_batch(include_str!("migrations/0004_people.sql")).expect("made");
        let add = |outcome: &str| {
            db.execute(
                "INSERT INTO audit (at_unix_ms, who, what, target, outcome) VALUES (0, 'ben', 'x', '', ?1)",
                [outcome],
            )
            .expect("added");
        };
        let count = |outcome: &str| -> i64 {
            db.query_row("SELECT count(*) FROM audit WHERE outcome = ?1", [outcome], |row| row.get(0)).expect("counted")
        };
        for _ in 0..5 {
            add("done");
        }
        for _ in 0..50 {
            add("signin.role");
        }
        for _ in 0..2 {
            cut(&db, true, 3).expect("cut");
            cut(&db, false, 7).expect("cut");
            assert_eq!((count("done"), count("signin.role")), (3, 7));
        }
        let oldest: i64 = db.query_row("SELECT min(seq) FROM audit", [], |row| row.get(0)).expect("read");
        assert_eq!(oldest, 3, "the newest of each stay");
    }
}
