//! Opens a database file: checks that it is ours, whole and not newer, and brings it to the present
//! schema. Knows pragmas and migrations, not tables. Invariant: a file that existed is backed up
//! before it is migrated, and a migration is done whole or not at all.

use super::failure;
use crate::error::{Code, Error, Result};
use rusqlite::{
    Connection, OpenFlags,
    backup::{Backup, StepResult},
};
use std::{
    fs::{self, OpenOptions, Permissions},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

/// Numbered, forward only; a shipped one is never edited. The version of a file is how many were applied.
pub(super) const MIGRATIONS: &[(&str, &str)] = &[
    ("0001_instance_and_keys", include_str!("migrations/0001_instance_and_keys.sql")),
    ("0002_sessions_and_swaps", include_str!("migrations/0002_sessions_and_swaps.sql")),
    ("0003_runtime_nodes", include_str!("migrations/0003_runtime_nodes.sql")),
    ("0004_people", include_str!("migrations/0004_people.sql")),
    ("0005_workers", include_str!("migrations/0005_workers.sql")),
    ("0006_nodes_that_left", include_str!("migrations/0006_nodes_that_left.sql")),
    ("0007_attended_sessions", include_str!("migrations/0007_attended_sessions.sql")),
];

/// `TIDG`: tells our files from other people's (`PRAGMA application_id`).
const APPLICATION_ID: i32 = 0x5449_4447;

/// Only a backup tool or a person with a shell can hold the lock; longer than that is a failure.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The writer's connection, at the present schema.
pub(super) fn writer(path: &Path) -> Result<Connection> {
    writer_with(path, MIGRATIONS)
}

pub(super) fn writer_with(path: &Path, migrations: &[(&str, &str)]) -> Result<Connection> {
    let existed = fs::metadata(path).is_ok_and(|meta| meta.len() > 0);
    if !existed {
        // SQLite would create it with the umask's mode; its -wal and -shm take the mode from the file.
        let created = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        created.map_err(|e| {
            Error::new(Code::StorageUnavailable, format!("cannot create the database: {e}"))
                .with("path", path.display())
        })?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |e: rusqlite::Error| failure::of("open", path, &e);
    let mut db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    if existed {
        ours(&db, path)?;
        whole(&db, path)?;
    }
    db.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    // Acknowledged means on the disk, also when the power fails.
    db.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    db.pragma_update(None, "foreign_keys", true).map_err(failed)?;
    // What is deleted is overwritten: rows of workers hold their secrets.
    db.pragma_update(None, "secure_delete", true).map_err(failed)?;
    migrate(&mut db, path, existed, migrations)?;
    Ok(db)
}

/// A connection that cannot write; it sees what is committed.
pub(super) fn reader(path: &Path) -> Result<Connection> {
    let failed = |e: rusqlite::Error| failure::of("read", path, &e);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(failed)?;
    db.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    db.pragma_update(None, "query_only", true).map_err(failed)?;
    Ok(db)
}

/// Pages that one step of a copy takes; between steps it can be seen to fail. 4 MiB.
const COPY_PAGES: i32 = 1_024;

/// A whole copy of a database that others use; its schema.
pub(super) fn copy(path: &Path, target: &Path) -> Result<usize> {
    let failed = |e: rusqlite::Error| failure::of("copy", path, &e);
    let source = reader(path)?;
    // An open read transaction holds the moment: writers go on in the journal behind it, and no step begins anew.
    source.execute_batch("BEGIN").map_err(failed)?;
    let schema = version(&source, path)?;
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(target).map_err(|e| {
        Error::new(Code::StorageUnavailable, format!("cannot create the copy: {e}")).with("path", target.display())
    })?;
    let written = |e: rusqlite::Error| failure::of("write the copy of", target, &e);
    let mut copy = Connection::open_with_flags(target, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(written)?;
    {
        let backup = Backup::new(&source, &mut copy).map_err(written)?;
        loop {
            match backup.step(COPY_PAGES).map_err(written)? {
                StepResult::Done => break,
                StepResult::More => {}
                _ => return Err(Error::new(Code::StorageUnavailable, "the database is locked by another process")),
            }
        }
    }
    // One file without a journal beside it: that is what travels.
    copy.pragma_update(None, "journal_mode", "DELETE").map_err(written)?;
    copy.close().map_err(|(_, e)| written(e))?;
    fs::File::open(target).and_then(|file| file.sync_all()).map_err(|e| {
        Error::new(Code::StorageUnavailable, format!("cannot write the copy: {e}")).with("path", target.display())
    })?;
    Ok(schema)
}

/// Bytes that this user may still write beside the file; `None` where the system does not tell.
pub(super) fn room(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path.parent()?).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Checks a file that is to become a database of this program: ours, whole, not newer. Its schema.
pub fn check_copy(path: &Path) -> Result<usize> {
    let db = reader(path)?;
    ours(&db, path)?;
    whole(&db, path)?;
    let found = version(&db, path)?;
    if found > MIGRATIONS.len() { Err(newer(path, found, MIGRATIONS.len())) } else { Ok(found) }
}

/// Where the file is copied to before it leaves `version`.
pub(super) fn backup_path(path: &Path, version: usize) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".v{version}.backup"));
    path.with_file_name(name)
}

pub(super) fn version(db: &Connection, path: &Path) -> Result<usize> {
    let number: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(|e| failure::of("read the version of", path, &e))?;
    usize::try_from(number).map_err(|_| corrupt(path, "its version number is negative"))
}

fn ours(db: &Connection, path: &Path) -> Result<()> {
    let read = |e: rusqlite::Error| failure::of("read", path, &e);
    let id: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0)).map_err(read)?;
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(read)?;
    // A crash between creation and the first migration leaves an empty file: nothing is lost with it.
    if id == APPLICATION_ID || tables == 0 {
        return Ok(());
    }
    Err(corrupt(path, "it is a database of another program"))
}

fn whole(db: &Connection, path: &Path) -> Result<()> {
    let verdict: String =
        db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(|e| failure::of("check", path, &e))?;
    // The finding itself may quote what is stored.
    if verdict == "ok" { Ok(()) } else { Err(corrupt(path, "its structure does not hold (PRAGMA quick_check)")) }
}

fn migrate(db: &mut Connection, path: &Path, existed: bool, migrations: &[(&str, &str)]) -> Result<()> {
    let from = version(db, path)?;
    if from > migrations.len() {
        return Err(newer(path, from, migrations.len()));
    }
    if from == migrations.len() {
        return Ok(());
    }
    if existed && from > 0 {
        back_up(db, path, from)?;
    }
    for (done, (name, sql)) in migrations.iter().enumerate().skip(from) {
        let failed = |e: rusqlite::Error| failure::of("migrate", path, &e).with("migration", name);
        let step = db.transaction().map_err(failed)?;
        step.execute_batch(sql).map_err(failed)?;
        step.pragma_update(None, "application_id", APPLICATION_ID).map_err(failed)?;
        step.pragma_update(None, "user_version", done as i64 + 1).map_err(failed)?;
        step.commit().map_err(failed)?;
    }
    tracing::info!(from, to = migrations.len(), "the database is at the present schema");
    Ok(())
}

/// A whole copy beside the file; under its final name only when it is complete.
fn back_up(db: &Connection, path: &Path, version: usize) -> Result<()> {
    let target = backup_path(path, version);
    let draft = target.with_extension("backup.new");
    let io = |e: std::io::Error| {
        Error::new(Code::StorageUnavailable, format!("cannot back the database up before migrating: {e}"))
            .with("path", target.display())
    };
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    // SQLite accepts an empty file as a target; made by us, its mode is right from the start.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(io)?;
    db.execute("VACUUM INTO ?1", [draft.to_string_lossy()]).map_err(|e| failure::of("back up", path, &e))?;
    fs::set_permissions(&draft, Permissions::from_mode(0o600)).map_err(io)?;
    fs::File::open(&draft).and_then(|file| file.sync_all()).map_err(io)?;
    fs::rename(&draft, &target).map_err(io)?;
    tracing::info!(backup = %target.display(), "the database was copied before it is migrated");
    Ok(())
}

fn newer(path: &Path, found: usize, known: usize) -> Error {
    Error::new(Code::StorageNewer, format!("the database has schema {found}; this program knows up to {known}"))
        .with("path", path.display())
        .with("found", found)
        .with("known", known)
}

fn corrupt(path: &Path, words: &str) -> Error {
    Error::new(Code::StorageCorrupt, format!("the database cannot be used: {words}")).with("path", path.display())
}
