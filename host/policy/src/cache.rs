//! Machine code of components that were compiled before. A file here becomes code of this process, so
//! each carries a MAC with a key of this installation, and the very buffer that was verified is what is
//! loaded. Losing the cache costs time only: every trouble with it means 'compile again'. Invariant:
//! nothing is loaded that this installation did not write.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use wasmtime::component::Component;

use crate::engine::{Allocation, Engines};
use crate::model::Digest;
use crate::store::{Durable, Trouble, private_folder, write_private};

/// Files kept; the ones that were not used for longest leave. An 18 MB guest compiles to some 60 MB.
const FILES_MAX: usize = 64;
const MAC_BYTES: usize = 32;

#[derive(Debug)]
pub(crate) struct CompileCache {
    folder: PathBuf,
    /// All files together.
    bytes_max: u64,
    key: Key,
    trouble: CacheTrouble,
}

/// Whether compiled code can be kept, and the way to find out. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct CacheTrouble {
    folder: PathBuf,
    last: Trouble,
}

struct Key([u8; 32]);

/// What a probe writes: less than any component, more than a disk that is all but full has.
const PROBE_BYTES: usize = 256 << 10;

// === impl CacheTrouble ===

impl CacheTrouble {
    pub(crate) fn get(&self) -> Option<String> {
        self.last.get()
    }

    /// Writes something and takes it away again, while writing fails.
    pub(crate) fn heal(&self) {
        if self.last.get().is_some() {
            let probe = self.folder.join("probe");
            let written = write_private(&probe, &vec![0; PROBE_BYTES], Durable::No);
            let _gone = fs::remove_file(&probe);
            self.last.note(written);
        }
    }
}

// === impl CompileCache ===

impl CompileCache {
    /// Makes folder and key where they are missing.
    pub(crate) fn open(store_dir: &Path, bytes_max: u64) -> std::io::Result<Self> {
        let folder = store_dir.join("cache");
        private_folder(&folder)?;
        let trouble = CacheTrouble { folder: folder.clone(), last: Trouble::default() };
        let path = store_dir.join("cache.key");
        let key = match fs::read(&path) {
            Ok(bytes) if bytes.len() == 32 => bytes.try_into().unwrap_or([0; 32]),
            // Missing or damaged: a new key makes the old files worthless, which is safe.
            _ => {
                let mut key = [0; 32];
                getrandom::fill(&mut key).map_err(std::io::Error::other)?;
                // Good for this run; the next one compiles again.
                trouble.last.note(write_private(&path, &key, Durable::Yes));
                key
            }
        };
        let cache = Self { folder, bytes_max, key: Key(key), trouble };
        // The bound may have been lowered.
        cache.trim();
        Ok(cache)
    }

    /// Told whenever something could not be written, or could again.
    pub(crate) fn trouble(&self) -> CacheTrouble {
        self.trouble.clone()
    }

    pub(crate) fn load(&self, engines: &Engines, digest: &Digest) -> Option<(Component, Allocation)> {
        let path = self.path(engines, digest);
        let bytes = fs::read(&path).ok()?;
        let (mac, compiled) = bytes.split_at_checked(MAC_BYTES)?;
        if self.mac(engines, digest, compiled).verify_slice(mac).is_err() {
            tracing::warn!(file = %path.display(), "a cached component was not written by this installation; compiling again");
            let _ = fs::remove_file(&path);
            return None;
        }
        // SAFETY: the MAC, keyed by this installation and bound to the engine's fingerprint, shows that
        // exactly these bytes came from `compile`; `compiled` borrows the buffer that was verified.
        match unsafe { engines.load(compiled) } {
            Ok(found) => {
                // Used now; best effort, it only orders what leaves first.
                let _ = fs::File::open(&path).and_then(|file| file.set_modified(std::time::SystemTime::now()));
                Some(found)
            }
            Err(error) => {
                tracing::debug!(%error, "a cached component does not load; compiling again");
                None
            }
        }
    }

    /// Best effort: a full disk costs the next start some milliseconds.
    pub(crate) fn keep(&self, engines: &Engines, digest: &Digest, compiled: &[u8]) {
        if (compiled.len() + MAC_BYTES) as u64 > self.bytes_max {
            tracing::debug!(bytes = compiled.len(), "a compiled component is larger than the whole cache may be");
            return;
        }
        let mut bytes = Vec::with_capacity(MAC_BYTES + compiled.len());
        bytes.extend_from_slice(&self.mac(engines, digest, compiled).finalize().into_bytes());
        let _ = bytes.write_all(compiled);
        let kept = write_private(&self.path(engines, digest), &bytes, Durable::No);
        if let Err(error) = &kept {
            tracing::warn!(%error, "a compiled component cannot be cached");
        }
        self.trouble.last.note(kept);
        self.trim();
    }

    fn mac(&self, engines: &Engines, digest: &Digest, compiled: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key.0).expect("HMAC takes any key length");
        mac.update(b"tidegate compile cache 1");
        mac.update(&engines.fingerprint().to_le_bytes());
        mac.update(&digest.0);
        mac.update(compiled);
        mac
    }

    fn path(&self, engines: &Engines, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{}-{:016x}", digest.to_hex(), engines.fingerprint()))
    }

    fn trim(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let stamped = |entry: fs::DirEntry| {
            let metadata = entry.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len(), entry.path()))
        };
        let mut files: Vec<_> = entries.filter_map(Result::ok).filter_map(stamped).collect();
        files.sort();
        let mut bytes = 0;
        for (n, (_, len, path)) in files.into_iter().rev().enumerate() {
            bytes += len;
            if n >= FILES_MAX || bytes > self.bytes_max {
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Limits;
    use std::time::{Duration, SystemTime};

    // shows: X-05
    #[test]
    fn what_was_used_last_stays_and_the_bytes_are_bounded() {
        let dir = tempfile::tempdir().expect("tempdir");
        let engines = Engines::new(&Limits::default(), 2).expect("engines");
        let compiled = engines.compile(b"\0asm\x0d\0\x01\0").expect("a component of nothing");
        let one = (compiled.len() + MAC_BYTES) as u64;
        let cache = CompileCache::open(dir.path(), one * 3).expect("a cache");
        let digest = |n: u8| Digest::of(&[n]);
        let there = || (0..6).filter(|n| cache.path(&engines, &digest(*n)).exists()).collect::<Vec<_>>();
        let aged = |n: u8, seconds: u64| {
            let file = fs::File::open(cache.path(&engines, &digest(n))).expect("kept");
            file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).expect("a time");
        };
        for n in 0..3 {
            cache.keep(&engines, &digest(n), &compiled);
            aged(n, 100 - u64::from(n));
        }
        assert!(cache.load(&engines, &digest(0)).is_some(), "used, and so the youngest");
        cache.keep(&engines, &digest(3), &compiled);
        assert_eq!(there(), [0, 2, 3]);
        // A file's own time is the kernel's, which can lie some milliseconds behind.
        aged(3, 0);
        // Less room at the next start, and none at all for what is larger than the whole.
        let cache = CompileCache::open(dir.path(), one).expect("a cache");
        assert_eq!(there(), [3]);
        assert!(cache.load(&engines, &digest(3)).is_some());
        let cache = CompileCache::open(dir.path(), one - 1).expect("a cache");
        cache.keep(&engines, &digest(4), &compiled);
        assert_eq!(there(), [0_u8; 0]);
    }
}
