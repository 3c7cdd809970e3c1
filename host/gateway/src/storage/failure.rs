//! Turns what SQLite says into the gateway's errors, by code and never by text. It decides nothing
//! about retrying. Invariant: no statement text and no bound value gets into a message.

use crate::error::{Code, Error};
use rusqlite::{Error as Sql, ErrorCode as Kind, ffi::SQLITE_IOERR_SHMSIZE};
use std::path::Path;

/// What a failed statement or commit means for the caller. `doing` is a verb phrase: `write to`.
pub(super) fn of(doing: &str, path: &Path, cause: &Sql) -> Error {
    // A database that was closed in order gets its index of the journal anew: 32 KiB that there must be.
    let no_index = cause.sqlite_error().is_some_and(|e| e.extended_code == SQLITE_IOERR_SHMSIZE);
    let (code, words) = match cause.sqlite_error_code() {
        Some(Kind::SystemIoFailure) if no_index => (Code::StorageFull, "no room is left"),
        Some(Kind::DiskFull) => (Code::StorageFull, "no room is left"),
        Some(Kind::ReadOnly | Kind::PermissionDenied) => (Code::StorageUnavailable, "it cannot be written"),
        Some(Kind::CannotOpen) => (Code::StorageUnavailable, "it cannot be opened or created"),
        Some(Kind::SystemIoFailure) => (Code::StorageUnavailable, "the disk failed"),
        Some(Kind::DatabaseBusy | Kind::DatabaseLocked) => (Code::StorageUnavailable, "another process holds it"),
        Some(Kind::OutOfMemory) => (Code::StorageUnavailable, "memory is short"),
        Some(Kind::FileLockingProtocolFailed) => (Code::StorageUnavailable, "the file system does not lock files"),
        Some(Kind::NoLargeFileSupport | Kind::TooBig) => (Code::StorageUnavailable, "it is too big"),
        Some(Kind::DatabaseCorrupt) => (Code::StorageCorrupt, "it is damaged"),
        Some(Kind::NotADatabase) => (Code::StorageCorrupt, "it is not a database"),
        // A constraint or a wrong statement: ours to mend, and callers that can meet one look before.
        _ => (Code::Internal, "a statement failed"),
    };
    let number = cause.sqlite_error().map_or_else(|| "none".to_owned(), |e| e.extended_code.to_string());
    Error::new(code, format!("cannot {doing} the database: {words}"))
        .with("path", path.display())
        .with("sqlite_code", number)
}

/// When the writer has gone: closed, or died of a defect.
pub(super) fn closed() -> Error {
    Error::new(Code::StorageUnavailable, "the database is closed")
}
