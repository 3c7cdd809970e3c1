//! Room that is set aside while there is some: as much as opening a database takes that was closed in order, so that a gateway
//! starts on a full disk after a stop as it does after a crash. Knows one file beside the database. Invariant: what is in it
//! is of no use to anybody; it is given up only to open the database, and set aside again when there is room.

use getrandom::fill;
use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// The index of the journal (SQLite, "WAL-mode File Format": its first region), and not a byte more: what it does not take
/// would let a few writes through and hide that the disk is full.
const BYTES: usize = 32 << 10;

/// Sets it aside where that is not done yet. Without room it is done later.
pub(super) fn keep(database: &Path) {
    let path = path(database);
    if fs::metadata(&path).is_ok_and(|meta| meta.len() == BYTES as u64) {
        return;
    }
    if let Err(error) = write(&path) {
        tracing::debug!(%error, "no room is set aside for a start on a full disk");
        // Half of it helps nobody.
        let _gone = fs::remove_file(&path);
    }
}

/// Gives the room back to the disk; false: there was none.
pub(super) fn give_up(database: &Path) -> bool {
    fs::remove_file(path(database)).is_ok()
}

pub(super) fn is_kept(database: &Path) -> bool {
    path(database).exists()
}

fn write(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let mut bytes = vec![0; BYTES];
    // A file system that compresses would keep no room for zeros.
    fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    file.write_all(&bytes)?;
    // Only then the blocks are its own.
    file.sync_all()
}

fn path(database: &Path) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_owned();
    name.push(".reserve");
    database.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_there_whole_or_not_at_all() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("tidegate.db");
        assert!(!is_kept(&database) && !give_up(&database));
        keep(&database);
        assert!(is_kept(&database));
        fs::write(path(&database), b"half").expect("written");
        keep(&database);
        assert_eq!(fs::metadata(path(&database)).expect("a file").len(), BYTES as u64);
        assert!(give_up(&database) && !is_kept(&database));
    }
}
