//! A copy of the closed database for the way back from a newer program that migrated it and then did not serve. Knows
//! files; when there is a way back is the caller's. Invariant: what is put back is whole, and of this program's schema;
//! nothing that anybody was told is stored is lost with what it replaces, because nobody was served by it.

use super::open;
use crate::error::{Code, Error, Result};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Copies the database, which is closed and whose lock is ours.
pub fn set_aside(path: &Path) -> Result<()> {
    let (aside, draft) = (beside(path, "aside"), beside(path, "aside.new"));
    (|| {
        fs::copy(path, &draft)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
        File::open(&draft)?.sync_all()?;
        fs::rename(&draft, &aside)?;
        settle(path)
    })()
    .map_err(|error| failed("copy", path, &error))
}

/// Puts the copy back where the database is newer than this program by now; otherwise the copy is only removed.
pub fn put_back(path: &Path) -> Result<()> {
    let aside = beside(path, "aside");
    if !aside.exists() {
        return Ok(());
    }
    let newer = {
        let db = open::reader(path)?;
        open::version(&db, path)? > super::SCHEMA
    };
    if newer {
        open::check_copy(&aside)?;
        (|| {
            // The journal first: it belongs to the file that goes.
            for journal in ["-wal", "-shm"] {
                let mut name = path.as_os_str().to_owned();
                name.push(journal);
                gone(fs::remove_file(PathBuf::from(name)))?;
            }
            fs::rename(&aside, path)?;
            settle(path)
        })()
        .map_err(|error| failed("put back", path, &error))?;
        tracing::warn!("the database was migrated by a program that did not come to serve; its copy is back in place");
    }
    forget_aside(path);
    Ok(())
}

/// The way back is closed, or was not needed.
pub fn forget_aside(path: &Path) {
    // Left behind it is written over by the next one, and by nothing else looked at.
    let _gone = fs::remove_file(beside(path, "aside"));
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{what}"));
    path.with_file_name(name)
}

fn settle(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(doing: &str, path: &Path, error: &io::Error) -> Error {
    let code = if error.kind() == io::ErrorKind::StorageFull { Code::StorageFull } else { Code::StorageUnavailable };
    Error::new(code, format!("cannot {doing} the database: {error}")).with("path", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::open::{MIGRATIONS, writer, writer_with};
    use rusqlite::Connection;

    fn rows(db: &Connection) -> Vec<String> {
        let mut statement = db.prepare("SELECT name FROM probe ORDER BY name").expect("a table");
        let rows = statement.query_map([], |row| row.get(0)).expect("rows");
        rows.map(|row| row.expect("a row")).collect()
    }

    // shows: W-08
    #[test]
    fn a_newer_schema_goes_back_to_the_copy_and_the_present_one_stays_as_it_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tidegate.db");
        let db = writer(&path).expect("opens");
        db.execute_batch("CREATE TABLE probe (name TEXT); INSERT INTO probe VALUES ('before')").expect("written");
        drop(db);

        // Nothing migrated: what was written in between stays.
        set_aside(&path).expect("copied");
        let db = writer(&path).expect("opens");
        db.execute_batch("INSERT INTO probe VALUES ('between')").expect("written");
        drop(db);
        put_back(&path).expect("nothing to do");
        assert!(!beside(&path, "aside").exists());
        assert_eq!(rows(&writer(&path).expect("opens")), ["before", "between"]);

        // Migrated, with a journal that was not tidied away.
        set_aside(&path).expect("copied");
        let mut next = MIGRATIONS.to_vec();
        next.push(("9999_next", "DROP TABLE probe; CREATE TABLE other (name TEXT);"));
        let db = writer_with(&path, &next).expect("migrates");
        std::mem::forget(db);
        assert_eq!(writer(&path).expect_err("newer").code(), Code::StorageNewer);
        put_back(&path).expect("put back");
        assert!(!beside(&path, "aside").exists());
        assert_eq!(rows(&writer(&path).expect("opens")), ["before", "between"]);
        put_back(&path).expect("there is no copy, and nothing happens");
    }
}
