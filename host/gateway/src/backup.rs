//! What a backup is: a folder with the database as of one moment, the policies' store, the instance id, what an operator
//! wrote into the data folder, and a manifest with the digest of each. Knows files, not how they travel. Invariant: a folder
//! without a manifest is no backup (it is written last).

mod restore;

pub use restore::{Restored, restore};

use crate::{
    data_dir::{BACKING_UP, DataDir, write_private},
    error::{Code, Error, Result},
    ids::hex,
    storage::{self, Storage},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Component, Path, PathBuf},
    sync::Arc,
};
use tokio::sync::{Mutex, OwnedMutexGuard};

pub const MANIFEST: &str = "manifest.json";
const DATABASE: &str = "tidegate.db";
const INSTANCE: &str = "instance";
const REMEMBERED: &str = "policies/remembered.json";
/// Files that are taken along where they are there: the settings that lie in the data folder, and the secret by which people's
/// names in the log stay the same. Where a backup lacks one, a restore leaves the one that is there.
const KEPT: [&str; 2] = ["tidegate.toml", "log-names"];
/// Of one of `KEPT`; a file of settings may have no more.
const KEPT_BYTES_MAX: u64 = 1 << 20;
/// Version of this form. A newer one is refused.
const FORMAT: u32 = 1;
/// Files of the policies' store; far above what it keeps.
const FILES_MAX: usize = 4_096;
/// How often the policies' store may change under the copy before that is an error.
const TRIES: usize = 5;

/// What a backup says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Version of the program that made it.
    pub tidegate: String,
    /// Schema of the database.
    pub schema: usize,
    pub instance: String,
    pub created_unix_ms: i64,
    pub files: Vec<Entry>,
}

/// One file, by its path within the folder, with slashes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub path: String,
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// Makes backups of one gateway, one at a time.
#[derive(Clone, Debug)]
pub struct Backups {
    storage: Storage,
    root: PathBuf,
    store: PathBuf,
    instance: String,
    running: Arc<Mutex<()>>,
}

/// The state of one moment, on disk beside the original until it is dropped.
#[derive(Debug)]
pub struct Copy {
    pub manifest: Manifest,
    folder: tempfile::TempDir,
    _only: OwnedMutexGuard<()>,
}

// === impl Backups ===

impl Backups {
    pub fn new(storage: Storage, data: &DataDir) -> Self {
        Self {
            storage,
            root: data.root().to_owned(),
            store: data.policy_store(),
            instance: data.instance().map(ToString::to_string).unwrap_or_default(),
            running: Arc::default(),
        }
    }

    /// Copies everything. Writers go on meanwhile: the database is read as of one moment, on a connection and a
    /// thread of its own. Wants as much room in the data folder as all of it has.
    pub async fn copy(&self) -> Result<Copy> {
        let only = self
            .running
            .clone()
            .try_lock_owned()
            .map_err(|_held| Error::new(Code::BackupRunning, "another backup of this gateway is being made"))?;
        let this = self.clone();
        let work = move || {
            let folder =
                tempfile::Builder::new().prefix(BACKING_UP).tempdir_in(&this.root).map_err(failed("make room for"))?;
            let into = folder.path();
            let schema = this.storage.copy_to(&into.join(DATABASE))?;
            write_private(&into.join(INSTANCE), format!("{}\n", this.instance).as_bytes()).map_err(failed("write"))?;
            copy_kept(&this.root, into).map_err(failed("copy what lies in"))?;
            copy_store(&this.store, &into.join("policies"))?;
            let manifest = Manifest {
                format: FORMAT,
                tidegate: env!("CARGO_PKG_VERSION").to_owned(),
                schema,
                instance: this.instance,
                created_unix_ms: storage::now_unix_ms(),
                files: listing(into).map_err(failed("read"))?,
            };
            Ok(Copy { manifest, folder, _only: only })
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Error::new(Code::Internal, "the backup panicked"))?
    }
}

// === impl Copy ===

impl Copy {
    pub fn path(&self, entry: &Entry) -> PathBuf {
        self.folder.path().join(&entry.path)
    }
}

// === impl Manifest ===

impl Manifest {
    pub fn parse(text: &[u8]) -> Result<Self> {
        let manifest: Self = serde_json::from_slice(text).map_err(|_| invalid("its manifest is not readable"))?;
        if manifest.format > FORMAT {
            let newer =
                format!("it has form {}, this program knows {FORMAT}: a newer Tidegate made it", manifest.format);
            return Err(invalid(&newer).with("tidegate", &manifest.tidegate));
        }
        if manifest.files.len() > FILES_MAX || !manifest.files.iter().all(|entry| is_ours(&entry.path)) {
            return Err(invalid("its manifest names files that are not of a backup"));
        }
        let has = |path: &str| manifest.files.iter().any(|entry| entry.path == path);
        if !has(DATABASE) || !has(INSTANCE) {
            return Err(invalid("its manifest lacks the database or the instance id"));
        }
        Ok(manifest)
    }

    /// Whether a backup can hold a file of this path.
    pub fn allows(path: &str) -> bool {
        is_ours(path)
    }

    pub fn to_text(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|entry| entry.bytes).sum()
    }

    /// Reads every file of the folder and compares; the database must be whole and not newer.
    pub fn verify(&self, folder: &Path) -> Result<()> {
        for entry in &self.files {
            let path = folder.join(&entry.path);
            let found = digest(&path, &entry.path).map_err(|error| invalid(&format!("{}: {error}", entry.path)))?;
            if found != *entry {
                return Err(invalid(&format!("{} is not what was backed up", entry.path)).with("file", &entry.path));
            }
        }
        storage::check_copy(&folder.join(DATABASE)).map(drop)
    }
}

/// Reads and checks a backup.
pub fn read(folder: &Path) -> Result<Manifest> {
    let text = fs::read(folder.join(MANIFEST)).map_err(|error| {
        invalid(&format!("{}: {error}; a folder without a manifest is no backup, or not a whole one", MANIFEST))
            .with("path", folder.display())
    })?;
    let manifest = Manifest::parse(&text)?;
    manifest.verify(folder)?;
    Ok(manifest)
}

/// Path, size and digest of a file; reads it in pieces.
pub fn digest(file: &Path, path: &str) -> io::Result<Entry> {
    let (mut file, mut hasher, mut bytes) = (File::open(file)?, Sha256::new(), 0);
    let mut piece = vec![0; 64 << 10];
    loop {
        match file.read(&mut piece)? {
            0 => break,
            read => {
                hasher.update(&piece[..read]);
                bytes += read as u64;
            }
        }
    }
    Ok(Entry { path: path.to_owned(), bytes, sha256: hex(&hasher.finalize()) })
}

fn copy_kept(root: &Path, into: &Path) -> io::Result<()> {
    for name in KEPT {
        let from = root.join(name);
        // A pipe would never end, and what is too large is no file of settings.
        if fs::metadata(&from).is_ok_and(|facts| facts.is_file() && facts.len() <= KEPT_BYTES_MAX) {
            write_private(&into.join(name), &fs::read(from)?)?;
        }
    }
    Ok(())
}

/// Components, settings and what is remembered, so that everything remembered is there. The compiled code is not
/// taken along: it is bound to this installation and made again.
fn copy_store(store: &Path, into: &Path) -> Result<()> {
    for _ in 0..TRIES {
        match try_copy_store(store, into) {
            Ok(true) => return Ok(()),
            // A swap came between; its files are there now.
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("copy the policies of")(error)),
        }
    }
    Err(Error::new(Code::BackupRunning, "the policies keep changing while they are copied; try again"))
}

fn try_copy_store(store: &Path, into: &Path) -> io::Result<bool> {
    for folder in ["components", "settings"] {
        private_folder(&into.join(folder))?;
        let entries = match fs::read_dir(store.join(folder)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.take(FILES_MAX / 2) {
            let entry = entry?;
            let target = into.join(folder).join(entry.file_name());
            let name = entry.file_name().to_string_lossy().into_owned();
            // Anything else is on its way to such a name.
            if is_digest(&name) && !target.exists() {
                write_private(&target, &fs::read(entry.path())?)?;
            }
        }
    }
    let remembered = match fs::read(store.join("remembered.json")) {
        Ok(remembered) => remembered,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    write_private(&into.join("remembered.json"), &remembered)?;
    let remembered: Remembered = serde_json::from_slice(&remembered).unwrap_or_default();
    Ok(remembered.last_good.iter().all(|member| {
        into.join("components").join(&member.component).exists()
            && into.join("settings").join(&member.settings).exists()
    }))
}

/// As much of the policies' own record as a whole copy needs.
#[derive(Default, Deserialize)]
struct Remembered {
    #[serde(default)]
    last_good: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    component: String,
    settings: String,
}

fn listing(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut files = vec![DATABASE.to_owned(), INSTANCE.to_owned()];
    files.extend(KEPT.into_iter().chain([REMEMBERED]).filter(|path| folder.join(path).exists()).map(str::to_owned));
    for sub in ["policies/components", "policies/settings"] {
        let mut names = fs::read_dir(folder.join(sub))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        files.extend(names.into_iter().map(|name| format!("{sub}/{name}")));
    }
    files.iter().map(|path| digest(&folder.join(path), path)).collect()
}

/// Whether a manifest may name this path: what it says comes from outside.
fn is_ours(path: &str) -> bool {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    let known = [DATABASE, INSTANCE, REMEMBERED].contains(&path)
        || KEPT.contains(&path)
        || ["policies/components/", "policies/settings/"]
            .iter()
            .any(|folder| path.strip_prefix(folder).is_some_and(is_digest));
    plain && known
}

fn is_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn invalid(why: &str) -> Error {
    Error::new(Code::BackupInvalid, format!("the backup cannot be used: {why}"))
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> Error {
    move |error| {
        let code =
            if error.kind() == io::ErrorKind::StorageFull { Code::StorageFull } else { Code::DataFolderUnusable };
        Error::new(code, format!("cannot {doing} the folder: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Metrics;

    pub(super) struct Bed {
        pub(super) folder: tempfile::TempDir,
        storage: Storage,
        pub(super) backups: Backups,
        _data: DataDir,
    }

    impl Bed {
        pub(super) fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let data = DataDir::open(&folder.path().join("data")).expect("opens");
            let instance = data.instance().expect("an id").clone();
            let storage = Storage::open(&data.database(), &instance, Metrics::new().storage).expect("opens");
            let store = data.policy_store();
            for sub in ["components", "settings", "cache"] {
                private_folder(&store.join(sub)).expect("made");
            }
            let (component, settings) = ("a".repeat(64), "b".repeat(64));
            fs::write(store.join("components").join(&component), "code").expect("written");
            fs::write(store.join("settings").join(&settings), "deny = []").expect("written");
            fs::write(store.join("components").join("half.new-7"), "not whole").expect("written");
            fs::write(store.join("cache").join("x"), "native").expect("written");
            let member = serde_json::json!({ "stem": "s", "file": "f", "component": component, "settings": settings });
            let remembered = serde_json::json!({ "last_good": [member] });
            fs::write(store.join("remembered.json"), remembered.to_string()).expect("written");
            Self { folder, backups: Backups::new(storage.clone(), &data), storage, _data: data }
        }

        /// As `tidegate backup` leaves it.
        pub(super) async fn backed_up(&self, name: &str) -> PathBuf {
            let copy = self.backups.copy().await.expect("a copy");
            let target = self.folder.path().join(name);
            for entry in &copy.manifest.files {
                let file = target.join(&entry.path);
                private_folder(file.parent().expect("a parent")).expect("made");
                fs::copy(copy.path(entry), file).expect("copied");
            }
            fs::write(target.join(MANIFEST), copy.manifest.to_text()).expect("written");
            target
        }

        /// Backed up, and nobody works in it any more.
        pub(super) async fn ended(self, name: &str) -> (tempfile::TempDir, PathBuf) {
            let backup = self.backed_up(name).await;
            let Self { folder, storage, backups, _data } = self;
            storage.close().await;
            drop((backups, _data));
            (folder, backup)
        }
    }

    #[tokio::test]
    async fn one_at_a_time() {
        let bed = Bed::new();
        let held = bed.backups.copy().await.expect("a copy");
        assert_eq!(bed.backups.copy().await.expect_err("a second").code(), Code::BackupRunning);
        drop(held);
        bed.backups.copy().await.expect("the next");
    }
}
