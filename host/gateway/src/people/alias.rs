//! What people are called in the log (D-15): the same person the same way, also after a restart, and nobody who has the
//! log alone can tell who that is. Knows a secret of the installation and names. Invariant: a name is hashed with the
//! secret, never without; the audit, which stays in the data folder, has the names.

use super::stream_token::hex;
use crate::{
    data_dir::write_private,
    error::{Code, Error, Result},
    ids::random,
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::{fmt, fs, io, path::Path};

const LABEL: &[u8] = b"tidegate person in the log 1";
/// Bytes of the hash that are shown: two people of a thousand share them once in 500 million installations.
const SHOWN: usize = 6;

/// Makes aliases. Without the file of the one before it makes others.
pub struct Aliases([u8; 32]);

// === impl Aliases ===

impl Aliases {
    /// Reads the secret, or makes it. The file is this user's alone; one that cannot be written is no reason not to serve.
    pub fn load(file: &Path) -> Result<Self> {
        let unusable = |error: io::Error| {
            let message = format!("cannot use {}, which names people in the log: {error}", file.display());
            Error::new(Code::DataFolderUnusable, message).with("path", file.display())
        };
        match fs::read(file) {
            Ok(bytes) => {
                let secret = <[u8; 32]>::try_from(bytes.as_slice());
                let damaged =
                    |_| io::Error::new(io::ErrorKind::InvalidData, "it holds no secret of 32 bytes; remove it");
                secret.map(Self).map_err(|wrong| unusable(damaged(wrong)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let new = Self::mint();
                if let Err(error) = write_private(file, &new.0) {
                    tracing::warn!(%error, "what people are called in the log cannot be kept and is another after a restart");
                }
                Ok(new)
            }
            Err(error) => Err(unusable(error)),
        }
    }

    /// One that is in no file.
    pub fn mint() -> Self {
        Self(random())
    }

    /// Of a name, in whatever case it was typed.
    pub fn of(&self, name: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key length");
        mac.update(LABEL);
        mac.update(name.to_lowercase().as_bytes());
        format!("person-{}", hex(&mac.finalize().into_bytes()[..SHOWN]))
    }
}

impl fmt::Debug for Aliases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Aliases(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: D-15
    #[test]
    fn somebody_is_called_the_same_over_a_restart_and_otherwise_elsewhere() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("log-names");
        let first = Aliases::load(&file).expect("made").of("ada");
        let again = Aliases::load(&file).expect("read");
        assert_eq!(again.of("ada"), first);
        assert_eq!(again.of("ADA"), first, "whatever was typed");
        assert_ne!(again.of("ben"), first);
        assert_ne!(Aliases::mint().of("ada"), first, "another installation, another name");
        assert!(first.len() == "person-".len() + 2 * SHOWN && !first.contains("ada"), "{first}");
        fs::write(&file, b"too short").expect("written");
        assert_eq!(Aliases::load(&file).expect_err("damaged").code(), Code::DataFolderUnusable);
    }
}
