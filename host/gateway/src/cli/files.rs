//! Reads the files that a command line names. Knows no meaning of them. Invariant: never more than a bound comes into
//! memory, whatever a name leads to, and what is to be a plain file is one (a pipe or a device would never end).

use anyhow::{Context as _, bail};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};
use tidegate_policy::Limits;

/// A key, a password, a certificate with its chain. Guessed: a bundle of all authorities has 250 KiB.
const SECRET_BYTES_MAX: u64 = 1 << 20;
/// A signature or a key of minisign.
const SEAL_BYTES_MAX: u64 = 4 << 10;
/// Sources of a project, vectors among them. Guessed.
pub const SOURCE_BYTES_MAX: u64 = 4 << 20;

/// A component, no larger than a gateway takes.
pub fn component(path: &Path) -> anyhow::Result<Vec<u8>> {
    plain(path, Limits::default().component_bytes_max)
}

/// Settings of a policy, no larger than a gateway takes.
pub fn settings(path: &Path) -> anyhow::Result<String> {
    text(path, plain(path, Limits::default().settings_bytes_max)?)
}

/// A signature, or a key to sign with.
pub fn seal(path: &Path) -> anyhow::Result<String> {
    text(path, plain(path, SEAL_BYTES_MAX)?)
}

/// Vectors, a manifest, a source.
pub fn source(path: &Path) -> anyhow::Result<String> {
    text(path, plain(path, SOURCE_BYTES_MAX)?)
}

/// Something that may come out of a pipe too, `<(pass show tidegate)`, and is short.
pub fn secret(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > SECRET_BYTES_MAX {
        bail!("{} goes on beyond {SECRET_BYTES_MAX} bytes; no key, password or certificate is so long", path.display());
    }
    Ok(bytes)
}

pub fn secret_text(path: &Path) -> anyhow::Result<String> {
    text(path, secret(path)?)
}

/// A plain file of at most `max` bytes.
pub fn plain(path: &Path, max: u64) -> anyhow::Result<Vec<u8>> {
    let cannot = || format!("cannot read {}", path.display());
    // A pipe opens at once, and is seen to be one.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).with_context(cannot)?;
    let metadata = file.metadata().with_context(cannot)?;
    if !metadata.is_file() {
        bail!("{} is not a regular file", path.display());
    }
    let too_large = |len: String| format!("{} has {len} bytes, at most {max} are read", path.display());
    if metadata.len() > max {
        bail!(too_large(metadata.len().to_string()));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(max + 1).read_to_end(&mut bytes).with_context(cannot)?;
    // Files of /proc say that they are empty, and others grow.
    if bytes.len() as u64 > max {
        bail!(too_large(format!("more than {max}")));
    }
    Ok(bytes)
}

/// The same, where it may not be there.
pub fn seal_if_any(path: &Path) -> anyhow::Result<Option<String>> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => seal(path).map(Some),
    }
}

fn text(path: &Path, bytes: Vec<u8>) -> anyhow::Result<String> {
    String::from_utf8(bytes).with_context(|| format!("{} is not text", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: X-14
    #[test]
    fn nothing_endless_is_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let at = |name: &str| dir.path().join(name);
        let why = |path: &Path| plain(path, 10).expect_err("refused").to_string();
        assert!(why(Path::new("/dev/zero")).contains("is not a regular file"));
        rustix::fs::mknodat(rustix::fs::CWD, at("pipe"), rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a pipe");
        assert!(why(&at("pipe")).contains("is not a regular file"), "and nobody waits for a writer");
        assert!(why(dir.path()).contains("is not a regular file"));
        std::fs::write(at("long"), [b'a'; 11]).expect("written");
        assert!(why(&at("long")).contains("has 11 bytes, at most 10"), "{}", why(&at("long")));
        assert!(why(Path::new("/proc/self/status")).contains("more than 10 bytes"));
        assert_eq!(plain(&at("long"), 11).expect("fits").len(), 11);
        let endless = secret(Path::new("/dev/zero")).expect_err("bounded").to_string();
        assert!(endless.contains("beyond 1048576 bytes"), "{endless}");
        assert_eq!(seal_if_any(&at("none")).expect("not there"), None);
        assert!(seal_if_any(dir.path()).is_err());
    }
}
