//! Opens and reads one file that someone else may be changing. Invariant: what is opened lies in the
//! folder, is a regular file that only its owner writes, and is never waited for (a pipe opens at once).

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::gate::{Refusal, RefusalCode};
use crate::model::Digest;

/// What a file looked like: equal stamps are taken for equal contents between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp([u64; 6]);

/// What was read, or why it was not.
#[derive(Clone, Debug)]
pub(super) struct Content {
    pub(super) stamp: Stamp,
    /// Of the bytes, or of the refusal and the stamp.
    pub(super) digest: Digest,
    pub(super) bytes: Result<Arc<[u8]>, Refusal>,
}

pub(super) type Opened = Result<File, (RefusalCode, String)>;

impl Stamp {
    pub(super) fn of(opened: &Opened) -> Self {
        match opened {
            Ok(file) => file.metadata().map_or(Self([0; 6]), |metadata| Self(numbers(&metadata))),
            Err((code, _)) => Self([*code as u64, 0, 0, 0, 0, u64::MAX]),
        }
    }

    /// When the file last changed in any way, by the clock of its file system; None where none says it. One that
    /// runs ahead of ours makes files wait for two equal looks.
    pub(super) fn changed(&self) -> Option<SystemTime> {
        let nanos = if cfg!(unix) { self.0[4] } else { self.0[1] };
        (self.0[5] != u64::MAX).then(|| SystemTime::UNIX_EPOCH + Duration::from_nanos(nanos))
    }

    /// The same file, whatever it holds by now.
    pub(super) fn is_of_same_file(&self, other: &Self) -> bool {
        self.0[..2] == other.0[..2]
    }
}

/// None: the file changed under the reading.
pub(super) fn read(opened: Opened, name: &str, max: u64) -> Option<Content> {
    let stamp = Stamp::of(&opened);
    let bytes = opened.and_then(|file| content(&file, max));
    let bytes = match bytes {
        Ok((file_bytes, after)) => {
            if after != stamp {
                return None;
            }
            Ok(Arc::<[u8]>::from(file_bytes))
        }
        Err((code, message)) => Err(Refusal::new(code, name, message)),
    };
    let digest = match &bytes {
        Ok(bytes) => Digest::of(bytes),
        // With the stamp: another file with the same fault is told again.
        Err(refusal) => Digest::of(format!("{refusal} {stamp:?}").as_bytes()),
    };
    Some(Content { stamp, digest, bytes })
}

fn content(file: &File, max: u64) -> Result<(Vec<u8>, Stamp), (RefusalCode, String)> {
    let unreadable = |e: std::io::Error| (RefusalCode::Unreadable, e.to_string());
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err((RefusalCode::NotRegular, "it is not a regular file".into()));
    }
    if writable_by_others(&metadata) {
        let message = "group or others may write it; take that right away (chmod go-w)".into();
        return Err((RefusalCode::WritableByOthers, message));
    }
    if metadata.len() > max {
        return Err((RefusalCode::TooLarge, format!("it has {} bytes, at most {max} are read", metadata.len())));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    // One more than allowed, so that growth beyond it shows.
    let mut limited = file.take(max + 1);
    limited.read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > max {
        return Err((RefusalCode::TooLarge, format!("it grew beyond {max} bytes")));
    }
    let after = file.metadata().map_err(unreadable)?;
    Ok((bytes, Stamp(numbers(&after))))
}

#[cfg(unix)]
pub(crate) fn writable_by_others(metadata: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    metadata.mode() & 0o022 != 0
}

#[cfg(not(unix))]
pub(crate) fn writable_by_others(_: &Metadata) -> bool {
    false
}

#[cfg(unix)]
fn numbers(metadata: &Metadata) -> [u64; 6] {
    use std::os::unix::fs::MetadataExt;
    let nanos = |seconds: i64, nanos: i64| (seconds as u64).wrapping_mul(1_000_000_000).wrapping_add(nanos as u64);
    [
        metadata.dev(),
        metadata.ino(),
        metadata.len(),
        nanos(metadata.mtime(), metadata.mtime_nsec()),
        nanos(metadata.ctime(), metadata.ctime_nsec()),
        u64::from(metadata.mode()),
    ]
}

#[cfg(not(unix))]
fn numbers(metadata: &Metadata) -> [u64; 6] {
    let nanos = |time: std::io::Result<std::time::SystemTime>| {
        time.ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map_or(0, |time| time.as_nanos() as u64)
    };
    [metadata.len(), nanos(metadata.modified()), nanos(metadata.created()), 0, 0, 0]
}

/// Links are followed inside the folder (a ConfigMap is nothing but links), never out of it.
#[cfg(target_os = "linux")]
pub(super) fn open(folder: &Path, name: &str) -> Opened {
    use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
    use rustix::io::Errno;
    let failed = |e: Errno| match e {
        Errno::XDEV | Errno::LOOP => (RefusalCode::OutsideFolder, "a link leads out of the folder".to_owned()),
        // Opening a socket, or a device without a driver.
        Errno::NXIO | Errno::NODEV => (RefusalCode::NotRegular, "it is not a regular file".to_owned()),
        e => (RefusalCode::Unreadable, std::io::Error::from(e).to_string()),
    };
    let within = open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match openat2(&within, name, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS) {
        Ok(file) => Ok(File::from(file)),
        // Kernels before 5.6, and sandboxes.
        Err(Errno::NOSYS | Errno::PERM) => open_checked(folder, name),
        Err(e) => Err(failed(e)),
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn open(folder: &Path, name: &str) -> Opened {
    open_checked(folder, name)
}

/// Without the kernel's help: the path is resolved first, and what is opened must be what it named.
fn open_checked(folder: &Path, name: &str) -> Opened {
    let unreadable = |e: std::io::Error| (RefusalCode::Unreadable, e.to_string());
    let real_folder = folder.canonicalize().map_err(unreadable)?;
    let real = folder.join(name).canonicalize().map_err(unreadable)?;
    if !real.starts_with(&real_folder) {
        return Err((RefusalCode::OutsideFolder, "a link leads out of the folder".into()));
    }
    if !real.metadata().map_err(unreadable)?.is_file() {
        return Err((RefusalCode::NotRegular, "it is not a regular file".into()));
    }
    File::open(real).map_err(unreadable)
}
