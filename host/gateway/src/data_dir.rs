//! The data folder: who owns it, that only one gateway works in it, and where its files lie. It does
//! not know what is in them. Invariant: while a `DataDir` from `open` lives, its lock is held and the
//! folder is private to this user.

use crate::{
    error::{Code, Error, Result},
    ids::{hex, random},
};
use rustix::fs::{FlockOperation, flock};
use std::{
    ffi::OsStr,
    fmt,
    fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The longest path a Unix socket can have on Linux is 107 bytes (unix(7)).
const SOCKET_PATH_MAX: usize = 107;
const LOCK: &str = "lock";
const INSTANCE: &str = "instance";
const DATABASE: &str = "tidegate.db";
/// How a folder begins in which a backup is made; left over only by a process that was killed.
pub const BACKING_UP: &str = ".backup-";
/// How a folder begins in which a restore puts what it has not verified yet.
pub const RESTORING: &str = ".restoring-";

/// Names one installation over restarts (W-01): 32 hexadecimal digits. Not a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct InstanceId(Arc<str>);

/// A data folder. Dropping it lets the lock go.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    instance: Option<InstanceId>,
    /// Held, never read: closing the file releases the lock.
    _lock: Option<File>,
}

/// A folder that is to be filled anew, and so has nothing that a gateway would keep in it. Dropping it lets the lock go.
#[derive(Debug)]
pub struct Claim {
    root: PathBuf,
    /// User and group whose files these are to be, where root works for somebody else.
    owner: Option<(u32, u32)>,
    made: bool,
    lock: File,
    lock_made: bool,
}

// === impl DataDir ===

impl DataDir {
    /// Opens the folder for a gateway: creates it (0700) when missing, takes the lock, makes or reads
    /// the instance id. `data.unusable` or `data.locked` otherwise.
    pub fn open(path: &Path) -> Result<Self> {
        let root = prepare(path)?;
        let lock = lock(&root)?;
        clear_left_overs(&root)?;
        let instance = InstanceId::keep(&root.join(INSTANCE)).map_err(|e| unusable(&root, "keep its id in", &e))?;
        for name in ["workers.sock", "admin.sock"] {
            let length = root.join(name).as_os_str().len();
            if length > SOCKET_PATH_MAX {
                return Err(Error::new(
                    Code::DataFolderUnusable,
                    format!("the path of {name} would have {length} bytes; a Unix socket's may have {SOCKET_PATH_MAX}: use a shorter --data"),
                )
                .with("path", root.display()));
            }
        }
        Ok(Self { root, instance: Some(instance), _lock: Some(lock) })
    }

    /// For a restore: takes the lock of the folder and makes nothing else. Root may claim what belongs to another user.
    pub fn claim(path: &Path) -> Result<Claim> {
        let made = !path.exists();
        let (root, meta) = folder(path)?;
        let we = rustix::process::geteuid();
        if !we.is_root() {
            owned_by_us(&root, meta.uid(), we.as_raw())?;
        }
        make_private(&root, &meta)?;
        let lock_made = !root.join(LOCK).exists();
        let lock = lock(&root)?;
        let owner = (meta.uid() != we.as_raw()).then(|| (meta.uid(), meta.gid()));
        Ok(Claim { root, owner, made, lock, lock_made })
    }

    /// For the command line: finds the files of a gateway that may be running, without its lock.
    /// Creates nothing.
    pub fn peek(path: &Path) -> Result<Self> {
        let root = fs::canonicalize(path).map_err(|e| unusable(path, "find", &e))?;
        let meta = fs::metadata(&root).map_err(|e| unusable(&root, "look at", &e))?;
        if !meta.is_dir() {
            return Err(not_a_folder(&root));
        }
        let instance = fs::read_to_string(root.join(INSTANCE)).ok().and_then(|text| InstanceId::parse(text.trim()));
        Ok(Self { root, instance, _lock: None })
    }

    /// Absolute, links resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `None` only when peeking into a folder that no gateway has used.
    pub fn instance(&self) -> Option<&InstanceId> {
        self.instance.as_ref()
    }

    /// Where workers call (0600).
    pub fn workers_socket(&self) -> PathBuf {
        self.root.join("workers.sock")
    }

    /// Where the command line calls (0600).
    pub fn admin_socket(&self) -> PathBuf {
        self.root.join("admin.sock")
    }

    pub fn database(&self) -> PathBuf {
        self.root.join(DATABASE)
    }

    /// What resume tokens are signed with (0600).
    pub fn resume_keys(&self) -> PathBuf {
        self.root.join("resume-keys")
    }

    /// The secret that people's names in the log are hashed with (0600).
    pub fn log_names(&self) -> PathBuf {
        self.root.join("log-names")
    }

    /// Where the first key is left when there is no terminal to print it to (0600).
    pub fn first_key(&self) -> PathBuf {
        self.root.join("first-key")
    }

    /// The policies' content-addressed store; the policy crate creates and owns it.
    pub fn policy_store(&self) -> PathBuf {
        self.root.join("policies")
    }
}

// === impl Claim ===

impl Claim {
    /// Absolute, links resolved.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether a file of the folder is no content: the lock that is held, and what a file system keeps for itself.
    pub fn is_furniture(name: &OsStr) -> bool {
        name == LOCK || name == "lost+found"
    }

    /// Gives a file, or a folder with all that is in it, to whom the data folder belongs.
    pub fn give(&self, path: &Path) -> io::Result<()> {
        let Some((user, group)) = self.owner else { return Ok(()) };
        // Never through a link: the other user may put one there.
        lchown(path, Some(user), Some(group))?;
        if fs::symlink_metadata(path)?.is_dir() {
            for entry in fs::read_dir(path)? {
                self.give(&entry?.path())?;
            }
        }
        Ok(())
    }

    /// The folder is filled.
    pub fn keep(self) -> io::Result<()> {
        if self.lock_made { self.give(&self.root.join(LOCK)) } else { Ok(()) }
    }

    /// The folder is as it was before the claim, as far as the claim goes.
    pub fn give_up(self) {
        let Self { root, made, lock, lock_made, .. } = self;
        if lock_made {
            let _stays = fs::remove_file(root.join(LOCK));
        }
        if made {
            let _stays = fs::remove_dir(&root);
        }
        drop(lock);
    }
}

// === impl InstanceId ===

impl InstanceId {
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the id, or makes one and has it on disk before anybody uses it.
    fn keep(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(text.trim())
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the file `instance` holds no instance id")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let id = Self(hex(&random::<16>()).into());
                write_private(path, format!("{id}\n").as_bytes())?;
                Ok(id)
            }
            Err(e) => Err(e),
        }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes a file that only this user can read, whole or not at all, and has it on disk when it returns.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let draft = path.with_file_name(name);
    // A left-over of a crash; creating afresh makes sure of mode and owner.
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// Creates or checks the folder; returns its absolute path.
fn prepare(path: &Path) -> Result<PathBuf> {
    let (root, meta) = folder(path)?;
    owned_by_us(&root, meta.uid(), rustix::process::geteuid().as_raw())?;
    make_private(&root, &meta)?;
    Ok(root)
}

fn folder(path: &Path) -> Result<(PathBuf, Metadata)> {
    if !path.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| unusable(path, "create", &e))?;
    }
    let root = fs::canonicalize(path).map_err(|e| unusable(path, "find", &e))?;
    let meta = fs::metadata(&root).map_err(|e| unusable(&root, "look at", &e))?;
    if meta.is_dir() { Ok((root, meta)) } else { Err(not_a_folder(&root)) }
}

fn make_private(root: &Path, meta: &Metadata) -> Result<()> {
    if meta.mode() & 0o077 == 0 {
        return Ok(());
    }
    // Taking rights from others is right for a folder of ours, and wrong for, say, /tmp.
    let mut entries = fs::read_dir(root).map_err(|e| unusable(root, "read", &e))?;
    if entries.next().is_some() && !root.join(LOCK).exists() {
        return Err(Error::new(
            Code::DataFolderUnusable,
            format!(
                "{} is open to others and holds files that are not Tidegate's; name an empty or new folder",
                root.display()
            ),
        )
        .with("path", root.display()));
    }
    fs::set_permissions(root, Permissions::from_mode(0o700)).map_err(|e| unusable(root, "make private", &e))
}

/// What a backup or a restore left that was killed. Whoever has the lock may remove it.
fn clear_left_overs(root: &Path) -> Result<()> {
    let entries = fs::read_dir(root).map_err(|e| unusable(root, "read", &e))?;
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(RESTORING) && !root.join(DATABASE).exists() {
            // A restore takes the database away first and brings the other one last.
            let why = format!(
                "a restore to {} was cut short; run it again with --replace, or move back what it moved aside",
                root.display()
            );
            return Err(Error::new(Code::DataFolderUnusable, why).with("path", root.display()));
        }
        if name.starts_with(BACKING_UP) || name.starts_with(RESTORING) {
            // What cannot be removed takes room and does no other harm.
            let _stays = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn owned_by_us(root: &Path, owner: u32, we: u32) -> Result<()> {
    if owner == we {
        return Ok(());
    }
    Err(Error::new(
        Code::DataFolderUnusable,
        format!("{} belongs to user {owner}, and this process runs as user {we}", root.display()),
    )
    .with("path", root.display()))
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join(LOCK);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| unusable(root, "write to", &e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
            Err(Error::new(Code::DataFolderLocked, format!("another gateway works on {}", root.display()))
                .with("path", root.display()))
        }
        Err(e) => Err(unusable(root, "lock", &e.into())),
    }
}

fn unusable(path: &Path, doing: &str, cause: &io::Error) -> Error {
    Error::new(Code::DataFolderUnusable, format!("cannot {doing} {}: {cause}", path.display()))
        .with("path", path.display())
}

fn not_a_folder(path: &Path) -> Error {
    Error::new(Code::DataFolderUnusable, format!("{} is not a folder", path.display())).with("path", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("there").mode() & 0o777
    }

    // shows: W-01
    #[test]
    fn the_instance_id_outlives_a_restart() {
        let temp = tempfile::tempdir().expect("a folder");
        let path = temp.path().join("a/b/data");
        let first = DataDir::open(&path).expect("opens");
        let id = first.instance().expect("an id").clone();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join(INSTANCE)), 0o600);
        drop(first);
        assert_eq!(DataDir::open(&path).expect("opens again").instance(), Some(&id));
    }

    #[test]
    fn two_gateways_on_one_folder_are_refused_and_a_peek_is_not() {
        let temp = tempfile::tempdir().expect("a folder");
        let held = DataDir::open(temp.path()).expect("opens");
        assert_eq!(DataDir::open(temp.path()).expect_err("locked").code(), Code::DataFolderLocked);
        let peek = DataDir::peek(temp.path()).expect("looks");
        assert_eq!((peek.admin_socket(), peek.instance()), (held.admin_socket(), held.instance()));
        drop(held);
        DataDir::open(temp.path()).expect("free again");
    }

    #[test]
    fn a_folder_of_another_user_or_no_folder_at_all_is_refused() {
        assert_eq!(owned_by_us(Path::new("/x"), 1, 2).expect_err("foreign").code(), Code::DataFolderUnusable);
        let temp = tempfile::tempdir().expect("a folder");
        let file = temp.path().join("file");
        fs::write(&file, "x").expect("writes");
        for wrong in [file.clone(), file.join("below"), temp.path().join("x".repeat(120))] {
            assert_eq!(DataDir::open(&wrong).expect_err("refused").code(), Code::DataFolderUnusable, "{wrong:?}");
        }
        assert_eq!(DataDir::peek(&temp.path().join("none")).expect_err("none").code(), Code::DataFolderUnusable);
    }

    #[test]
    fn an_open_folder_is_made_private_only_if_it_is_ours_or_empty() {
        let temp = tempfile::tempdir().expect("a folder");
        let (empty, full) = (temp.path().join("empty"), temp.path().join("full"));
        for folder in [&empty, &full] {
            fs::create_dir(folder).expect("creates");
            fs::set_permissions(folder, Permissions::from_mode(0o755)).expect("opens up");
        }
        fs::write(full.join("somebody's"), "x").expect("writes");
        DataDir::open(&empty).expect("ours now");
        assert_eq!(mode(&empty), 0o700);
        assert_eq!(DataDir::open(&full).expect_err("not ours").code(), Code::DataFolderUnusable);
        assert_eq!(mode(&full), 0o755);
    }

    #[test]
    fn what_a_killed_backup_left_is_cleared_and_a_restore_that_was_cut_short_is_told() {
        let temp = tempfile::tempdir().expect("a folder");
        fs::set_permissions(temp.path(), Permissions::from_mode(0o700)).expect("private");
        let left = |prefix: &str| temp.path().join(format!("{prefix}x"));
        for prefix in [BACKING_UP, RESTORING] {
            fs::create_dir(left(prefix)).expect("made");
            fs::write(left(prefix).join("tidegate.db"), "half").expect("written");
        }
        let error = DataDir::open(temp.path()).expect_err("nothing that could serve");
        assert!(error.message().contains("cut short"), "{error}");
        assert!(!temp.path().join(INSTANCE).exists(), "nothing was begun");
        fs::write(temp.path().join(DATABASE), "").expect("written");
        DataDir::open(temp.path()).expect("opens");
        assert!(!left(BACKING_UP).exists() && !left(RESTORING).exists());
    }

    #[test]
    fn a_spoilt_instance_file_is_not_papered_over() {
        let temp = tempfile::tempdir().expect("a folder");
        fs::write(temp.path().join(INSTANCE), "nonsense").expect("writes");
        assert_eq!(DataDir::open(temp.path()).expect_err("spoilt").code(), Code::DataFolderUnusable);
    }
}
