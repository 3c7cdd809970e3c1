//! What outlives the process: accepted components and settings by content, which of them served last,
//! which were taken back. Knows files, not generations. Invariant: a file here is complete or absent
//! (written beside and renamed), and is checked against its name when it is read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::generation::Unclaimed;
use crate::instance::PolicySource;
use crate::model::Digest;
use crate::record::{Approval, Granted};
use crate::sign::Seal;

/// The folder `PolicyConfig::store_dir`.
#[derive(Debug)]
pub(crate) struct ContentStore {
    dir: PathBuf,
}

/// Why something could not be written last time; `None`: it could. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<String>>>);

/// What is remembered over a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Remembered {
    /// The set that served last, without embedded defaults that nobody gave settings.
    pub(crate) last_good: Vec<Member>,
    /// Something chosen answered access, or should have: without it nothing is allowed.
    pub(crate) access_chosen: bool,
    /// Nothing answered it, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) closed: Option<String>,
    /// A run before wrote this: what nothing chosen answered, the embedded defaults did, and they are as good a set to
    /// go on with as any.
    #[serde(skip)]
    pub(crate) before: bool,
    pub(crate) pin: Option<RememberedPin>,
    /// Identities (component and settings) that were taken back.
    pub(crate) poisoned: Vec<String>,
    /// Identities that a roll-back left.
    pub(crate) shunned: Vec<String>,
    /// Identities that a way back put in force without a file in the folder.
    pub(crate) returned: Vec<String>,
    /// Components that an operator approved.
    pub(crate) approved: Vec<Approval>,
    /// What components that served were given to import.
    pub(crate) granted: Vec<Granted>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) stem: String,
    pub(crate) file: String,
    pub(crate) component: String,
    pub(crate) settings: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) seal: Option<Seal>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RememberedPin {
    pub(crate) by_operator: bool,
    /// Identities in the folder that are not tried again by themselves.
    pub(crate) known: Vec<String>,
    /// Why some of them do not serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) told: Vec<Told>,
}

/// A refusal of what a pin holds back, which the next run does not judge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) identity: String,
    pub(crate) file: String,
    pub(crate) code: String,
    pub(crate) message: String,
    /// It waits for an operator's word.
    #[serde(default)]
    pub(crate) held: bool,
}

/// Components, and settings, of earlier sets that are kept for replays. Guessed: some dozens of changes.
const EARLIER_FILES_MAX: usize = 64;
const EARLIER_BYTES_MAX: u64 = 256 << 20;
/// Poisoned identities kept; the oldest are forgotten. Guessed.
pub(crate) const POISONED_MAX: usize = 256;

// === impl Trouble ===

impl Trouble {
    pub(crate) fn note(&self, written: io::Result<()>) {
        *self.0.lock() = written.err().map(|error| error.to_string());
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().clone()
    }
}

// === impl Remembered ===

impl Remembered {
    pub(crate) fn unclaimed(&self) -> Unclaimed {
        if self.access_chosen { Unclaimed::Closed } else { Unclaimed::Default }
    }
}

// === impl ContentStore ===

impl ContentStore {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        private_folder(dir)?;
        private_folder(&dir.join("components"))?;
        private_folder(&dir.join("settings"))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Keeps the contents of a set and makes it the one to start with.
    pub(crate) fn keep(&self, sources: &[&PolicySource]) -> io::Result<Vec<Member>> {
        let mut members = Vec::new();
        for source in sources {
            self.keep_content("components", &source.digest, &source.bytes)?;
            self.keep_content("settings", &source.settings_digest, source.settings.as_bytes())?;
            members.push(Member {
                stem: source.stem.to_string(),
                file: source.file.to_string(),
                component: source.digest.to_hex(),
                settings: source.settings_digest.to_hex(),
                seal: source.seal.clone(),
            });
        }
        Ok(members)
    }

    /// Removes contents that no remembered set names, but for the newest: decisions they made can be asked again.
    pub(crate) fn trim(&self, keep: &[Digest]) {
        for folder in ["components", "settings"] {
            let Ok(entries) = fs::read_dir(self.dir.join(folder)) else { continue };
            let mut others = Vec::new();
            for entry in entries.filter_map(Result::ok) {
                match entry.file_name().to_str().and_then(Digest::from_hex) {
                    Some(digest) if keep.contains(&digest) => {}
                    Some(_) => others.extend(
                        entry
                            .metadata()
                            .ok()
                            .and_then(|metadata| Some((metadata.modified().ok()?, metadata.len(), entry.path()))),
                    ),
                    None => drop(fs::remove_file(entry.path())),
                }
            }
            others.sort_unstable();
            let mut bytes = 0;
            for (n, (_, len, path)) in others.into_iter().rev().enumerate() {
                bytes += len;
                if n >= EARLIER_FILES_MAX || bytes > EARLIER_BYTES_MAX {
                    let _ = fs::remove_file(path);
                }
            }
        }
    }

    pub(crate) fn source(&self, member: &Member) -> io::Result<PolicySource> {
        let (bytes, digest) = self.content("components", &member.component)?;
        let (settings, settings_digest) = self.content("settings", &member.settings)?;
        let settings = String::from_utf8(settings).map_err(io::Error::other)?;
        Ok(PolicySource {
            stem: member.stem.as_str().into(),
            file: member.file.as_str().into(),
            embedded: false,
            has_settings: true,
            bytes: bytes.into(),
            digest,
            settings: settings.into(),
            settings_digest,
            seal: member.seal.clone(),
            signer: None,
        })
    }

    /// What cannot be read may have been anything: access stays closed until the folder answers it.
    pub(crate) fn remembered(&self) -> Remembered {
        let read = match fs::read(self.dir.join("remembered.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(|read: Remembered| Remembered { before: true, ..read })
                .map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Remembered::default()),
            Err(error) => Err(error),
        };
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, "what was remembered of the policies cannot be read; starting afresh");
            Remembered { access_chosen: true, ..Remembered::default() }
        })
    }

    pub(crate) fn remember(&self, what: &Remembered) -> io::Result<()> {
        let bytes = serde_json::to_vec_pretty(what).map_err(io::Error::other)?;
        write_private(&self.dir.join("remembered.json"), &bytes, Durable::Yes)
    }

    fn keep_content(&self, folder: &str, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(folder).join(digest.to_hex());
        if path.exists() { Ok(()) } else { write_private(&path, bytes, Durable::Yes) }
    }

    fn content(&self, folder: &str, name: &str) -> io::Result<(Vec<u8>, Digest)> {
        let named = Digest::from_hex(name).ok_or_else(|| io::Error::other("not a digest"))?;
        let bytes = fs::read(self.dir.join(folder).join(named.to_hex()))?;
        if Digest::of(&bytes) != named {
            return Err(io::Error::other(format!("{folder}/{named} is damaged")));
        }
        Ok((bytes, named))
    }
}

impl PolicySource {
    pub(crate) fn new(stem: &str, file: &str, embedded: bool, bytes: Arc<[u8]>, settings: &str) -> Self {
        let digest = Digest::of(&bytes);
        Self::of_digest(stem, file, embedded, (bytes, digest), settings)
    }

    /// For bytes whose digest is known: megabytes that are looked at every two seconds are not digested each time.
    pub(crate) fn of_digest(
        stem: &str,
        file: &str,
        embedded: bool,
        (bytes, digest): (Arc<[u8]>, Digest),
        settings: &str,
    ) -> Self {
        Self {
            stem: stem.into(),
            file: file.into(),
            embedded,
            has_settings: true,
            digest,
            bytes,
            settings: settings.into(),
            settings_digest: Digest::of(settings.as_bytes()),
            seal: None,
            signer: None,
        }
    }

    /// Component and settings together: what is accepted, refused or poisoned.
    pub(crate) fn identity(&self) -> Digest {
        Digest::of(&[self.digest.0, self.settings_digest.0].concat())
    }
}

/// Makes a folder that only this user enters, and insists on it.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Is a file to outlive a power cut? What can be made again, and is checked when it is read, need not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Durable {
    Yes,
    No,
}

/// Writes a file of mode 0600, whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8], durable: Durable) -> io::Result<()> {
    let beside = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let written = (|| {
        let mut file: File = options.open(&beside)?;
        file.write_all(bytes)?;
        if durable == Durable::Yes {
            file.sync_all()?;
        }
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}
