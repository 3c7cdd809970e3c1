//! Puts a backup into a data folder that nobody works in. Everything is written and verified beside what is there before
//! anything is moved. Works within the folder only: it may be a mount, and its parent somebody else's. Invariants: nothing is
//! restored that does not match its digest; nothing that was there is removed; an error says where it is.

use super::{DATABASE, KEPT, Manifest, private_folder, read};
use crate::{
    data_dir::{Claim, DataDir, RESTORING, write_private},
    error::{Code, Error, Result},
    storage,
};
use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

/// How a folder within the data folder begins that has what was there before a restore.
const BEFORE: &str = "before-";

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    pub manifest: Manifest,
    /// Where what was there before is now.
    pub aside: Option<PathBuf>,
    /// Files that the backup does not have, and so were left as they are.
    pub left: Vec<&'static str>,
}

/// Puts a checked backup into a data folder that is empty or not there. `replace`: what is there is moved into a folder
/// within it first; never removed.
pub fn restore(backup: &Path, data: &Path, replace: bool) -> Result<Restored> {
    let manifest = read(backup)?;
    let unusable = |words: String| Error::new(Code::DataFolderUnusable, words).with("path", data.display());
    let used = match content(data) {
        Ok(names) => !names.is_empty(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(unusable(format!("cannot read {}: {error}", data.display()))),
    };
    if used && is_beneath(backup, data) {
        let words = "the backup lies in the data folder, whose content is to make way for it; move it out first";
        return Err(unusable(words.to_owned()));
    }
    if used && !replace {
        return Err(unusable(format!(
            "{} is not empty; name an empty folder, or say --replace to have what is there moved aside",
            data.display()
        )));
    }
    let claim = DataDir::claim(data)?;
    match refill(backup, &manifest, &claim) {
        Ok((aside, left)) => {
            claim.keep().map_err(|error| unusable(format!("restored, but the lock has a wrong owner: {error}")))?;
            Ok(Restored { manifest, aside, left })
        }
        Err(error) => {
            claim.give_up();
            Err(error)
        }
    }
}

/// Where the old content is, if there was any, and which files stayed.
fn refill(backup: &Path, manifest: &Manifest, claim: &Claim) -> Result<(Option<PathBuf>, Vec<&'static str>)> {
    let root = claim.root();
    let failed = |error: io::Error| {
        let words = format!("the backup cannot be written to {}: {error}; nothing was changed", root.display());
        Error::new(Code::DataFolderUnusable, words).with("path", root.display())
    };
    let old = content(root).map_err(failed)?;
    let left: Vec<_> = KEPT
        .into_iter()
        .filter(|name| old.iter().any(|old| *old == **name) && manifest.files.iter().all(|entry| entry.path != *name))
        .collect();
    let staged = tempfile::Builder::new().prefix(RESTORING).tempdir_in(root).map_err(failed)?;
    for entry in &manifest.files {
        let target = staged.path().join(&entry.path);
        if let Some(parent) = target.parent() {
            private_folder(parent).map_err(failed)?;
        }
        write_private(&target, &fs::read(backup.join(&entry.path)).map_err(failed)?).map_err(failed)?;
    }
    // What was written is what is used, so it is what is checked.
    manifest.verify(staged.path())?;
    claim.give(staged.path()).map_err(failed)?;
    let new = content(staged.path()).map_err(failed)?;

    let going: Vec<OsString> = old.into_iter().filter(|name| left.iter().all(|left| *name != **left)).collect();
    let aside = (!going.is_empty()).then(|| root.join(format!("{BEFORE}{}", storage::now_unix_ms())));
    let mut moves = Vec::new();
    if let Some(aside) = &aside {
        DirBuilder::new().mode(0o700).create(aside).map_err(failed)?;
        claim.give(aside).map_err(failed)?;
        // The database goes first and comes last: while there is none no gateway begins here.
        moves.extend(database(&going, true).map(|name| (root.join(name), aside.join(name))));
    }
    moves.extend(database(&new, false).map(|name| (staged.path().join(name), root.join(name))));
    if let Err((error, undone)) = exchange(&moves) {
        if undone {
            if let Some(aside) = &aside {
                let _stays = fs::remove_dir(aside);
            }
            return Err(failed(error));
        }
        let staged = staged.keep();
        let mut words = format!("the restore to {} stopped half-way: {error}", root.display());
        if let Some(aside) = &aside {
            words.push_str(&format!("; what was there before is in {}", aside.display()));
        }
        words.push_str(&format!(", the rest of the backup in {}", staged.display()));
        return Err(Error::new(Code::DataFolderUnusable, words).with("path", root.display()));
    }
    let on_disk = File::open(root).and_then(|folder| folder.sync_all());
    on_disk.map_err(|error| {
        let words = format!("everything was moved, and {} cannot be synced: {error}", root.display());
        Error::new(Code::DataFolderUnusable, words).with("path", root.display())
    })?;
    Ok((aside, left))
}

/// Makes all moves or none; `Err` has whether none is left.
fn exchange(moves: &[(PathBuf, PathBuf)]) -> std::result::Result<(), (io::Error, bool)> {
    for (done, (from, to)) in moves.iter().enumerate() {
        if let Err(error) = fs::rename(from, to) {
            let back = moves[..done].iter().rev().map(|(from, to)| fs::rename(to, from));
            // Each is tried, also after one that failed.
            let stuck = back.filter(io::Result::is_err).count();
            return Err((error, stuck == 0));
        }
    }
    Ok(())
}

fn database(names: &[OsString], first: bool) -> impl Iterator<Item = &OsString> {
    let (databases, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| **name == DATABASE);
    if first { databases.into_iter().chain(others) } else { others.into_iter().chain(databases) }
}

/// What has to make way, by name: not the lock, nor what was moved aside before.
fn content(folder: &Path) -> io::Result<Vec<OsString>> {
    let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    let stays = |name: &OsString| Claim::is_furniture(name) || name.to_string_lossy().starts_with(BEFORE);
    Ok(names.into_iter().filter(|name| !stays(name)).collect())
}

fn is_beneath(backup: &Path, data: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(backup).starts_with(real(data))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{MANIFEST, tests::Bed},
        *,
    };
    use crate::{storage::Storage, telemetry::Metrics};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};

    #[tokio::test]
    async fn what_was_backed_up_comes_back_and_nothing_else() {
        let bed = Bed::new();
        let backup = bed.backed_up("backup").await;
        assert!(
            fs::read_dir(bed.folder.path().join("data"))
                .expect("reads")
                .all(|entry| { !entry.expect("an entry").file_name().to_string_lossy().starts_with(".backup-") })
        );
        let target = bed.folder.path().join("new");
        let Restored { manifest, aside, .. } = restore(&backup, &target, false).expect("restored");
        assert_eq!(aside, None);
        let paths: Vec<_> =
            manifest.files.iter().map(|entry| entry.path.split('/').next_back().unwrap_or_default()).collect();
        assert_eq!(paths, ["tidegate.db", "instance", "remembered.json", &"a".repeat(64), &"b".repeat(64)]);
        assert_eq!(fs::read(target.join("policies/settings").join("b".repeat(64))).expect("there"), b"deny = []");
        let opened = DataDir::open(&target).expect("a data folder");
        assert_eq!(opened.instance().map(ToString::to_string), Some(manifest.instance));
        Storage::open(&opened.database(), opened.instance().expect("an id"), Metrics::new().storage).expect("opens");
    }

    #[tokio::test]
    async fn a_backup_that_was_touched_is_refused_by_name() {
        let bed = Bed::new();
        let backup = bed.backed_up("backup").await;
        let target = bed.folder.path().join("new");
        let refused = |code| {
            let error = restore(&backup, &target, false).expect_err("refused");
            assert_eq!(error.code(), code, "{error}");
            assert!(!target.exists(), "nothing was begun");
            error
        };
        let settings = backup.join("policies/settings").join("b".repeat(64));
        fs::write(&settings, "deny = [1]").expect("written");
        assert!(refused(Code::BackupInvalid).message().contains("not what was backed up"));
        fs::remove_file(&settings).expect("removed");
        refused(Code::BackupInvalid);
        fs::write(&settings, "deny = []").expect("written");
        let text = fs::read_to_string(backup.join(MANIFEST)).expect("reads");
        for (what, wrong) in [
            ("a path out of it", text.replace("\"instance\",", "\"../instance\",")),
            ("a newer form", text.replace("\"format\": 1", "\"format\": 2")),
            ("no manifest", String::new()),
            ("no database", text.replace("tidegate.db", "policies/remembered.json")),
        ] {
            fs::write(backup.join(MANIFEST), &wrong).expect("written");
            assert_ne!(wrong, text, "{what}");
            refused(Code::BackupInvalid);
        }
        fs::remove_file(backup.join(MANIFEST)).expect("removed");
        refused(Code::BackupInvalid);
    }

    #[tokio::test]
    async fn a_folder_that_holds_something_is_moved_aside_only_when_told() {
        let bed = Bed::new();
        let backup = bed.backed_up("backup").await;
        let data = bed.folder.path().join("data");
        assert_eq!(restore(&backup, &data, true).expect_err("in use").code(), Code::DataFolderLocked);
        let (folder, backup) = bed.ended("other").await;
        let error = restore(&backup, &data, false).expect_err("not empty");
        assert!(error.code() == Code::DataFolderUnusable && error.message().contains("--replace"), "{error}");
        let aside = restore(&backup, &data, true).expect("restored").aside.expect("told where");
        assert!(aside.join("tidegate.db").exists() && data.join("tidegate.db").exists());
        assert!(aside.starts_with(&data), "the parent may be somebody else's");
        drop(folder);
    }

    /// Every path beneath it, with what it holds.
    fn all(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).expect("reads") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                found.extend(all(&path));
            } else {
                found.push((path.clone(), fs::read(path).expect("reads")));
            }
        }
        found.sort();
        found
    }

    #[tokio::test]
    async fn a_restore_that_is_refused_or_fails_leaves_everything_as_it_was() {
        let bed = Bed::new();
        let (folder, backup) = bed.ended("backup").await;
        let data = folder.path().join("data");
        let foreign = folder.path().join("foreign");
        DirBuilder::new().mode(0o700).create(&foreign).expect("made");
        fs::write(foreign.join("notes.txt"), "mine").expect("written");
        let within = data.join("backups/one");
        private_folder(&within.join("policies")).expect("made");
        for (path, bytes) in all(&backup) {
            let target = within.join(path.strip_prefix(&backup).expect("beneath"));
            private_folder(target.parent().expect("a parent")).expect("made");
            fs::write(target, bytes).expect("written");
        }
        let before = (all(&data), all(&foreign));
        restore(&backup, &foreign, false).expect_err("not empty");
        let error = restore(&within, &data, true).expect_err("it would move itself");
        assert!(error.message().contains("move it out"), "{error}");
        // The last move fails, when the old content is aside.
        let aside = data.join(format!("{BEFORE}x"));
        fs::create_dir(&aside).expect("made");
        let moves = [
            (data.join("instance"), aside.join("instance")),
            (data.join("backups"), aside.join("backups")),
            (data.join("not-there"), data.join("instance")),
        ];
        let (error, undone) = exchange(&moves).expect_err("nothing to move");
        assert!(undone && error.kind() == io::ErrorKind::NotFound, "{error}");
        fs::remove_dir(&aside).expect("empty again");
        assert_eq!((all(&data), all(&foreign)), before);
    }

    #[tokio::test]
    async fn settings_and_names_of_the_log_come_back_and_stay_where_the_backup_has_none() {
        let bed = Bed::new();
        let root = bed.folder.path().join("data");
        fs::write(root.join("tidegate.toml"), "max_sessions = 7\n").expect("written");
        let (folder, backup) = bed.ended("backup").await;
        fs::write(root.join("tidegate.toml"), "max_sessions = 8\n").expect("written");
        fs::write(root.join("log-names"), "secret").expect("written");
        let done = restore(&backup, &root, true).expect("restored");
        let aside = done.aside.expect("told where");
        assert_eq!(fs::read(root.join("tidegate.toml")).expect("there"), b"max_sessions = 7\n");
        assert_eq!(fs::read(aside.join("tidegate.toml")).expect("there"), b"max_sessions = 8\n");
        assert_eq!(
            (fs::read(root.join("log-names")).expect("there"), done.left),
            (b"secret".to_vec(), vec!["log-names"])
        );
        drop(folder);
    }

    /// As root, which tests are where an owner can be given at all; elsewhere nothing is to be shown.
    #[tokio::test]
    async fn root_restores_for_the_user_whose_folder_it_is() {
        let bed = Bed::new();
        let (folder, backup) = bed.ended("backup").await;
        let data = folder.path().join("data");
        if chown(&data, Some(65_534), Some(65_534)).is_err() {
            return;
        }
        fs::remove_file(data.join("lock")).expect("removed");
        let done = restore(&backup, &data, true).expect("restored");
        for path in [data.clone(), data.join("lock"), data.join("tidegate.db"), done.aside.expect("told where")] {
            assert_eq!(fs::metadata(&path).expect("there").uid(), 65_534, "{}", path.display());
        }
        for (path, _) in all(&data.join("policies")) {
            assert_eq!(fs::metadata(&path).expect("there").uid(), 65_534, "{}", path.display());
        }
        assert_eq!(fs::metadata(&data).expect("there").permissions().mode() & 0o777, 0o700);
    }
}
