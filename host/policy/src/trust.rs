//! Holds what is to be loaded against the keys an operator trusts. Knows signatures, not what a component does.
//! Invariants: a signature of a known key that does not hold is refused even where none is asked for; what was
//! taken says who signed it.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::config::Trust;
use crate::folder::Look;
use crate::gate::{Refusal, RefusalCode};
use crate::instance::PolicySource;
use crate::model::Digest;
use crate::sign::{KeyError, SignatureFault, TrustedKeys};

/// The operator's word, and the keys as they were last read.
#[derive(Debug)]
pub(crate) struct Vouching {
    trust: Trust,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    keys: TrustedKeys,
    /// Looks come every two seconds and components can be large: each signature is held against its bytes once.
    checked: BTreeMap<Digest, Result<Arc<str>, SignatureFault>>,
}

/// Results kept; all are forgotten when there are more. Guessed: far more than a folder's files.
const CHECKED_MAX: usize = 512;

// === impl Vouching ===

impl Vouching {
    pub(crate) fn new(trust: Trust) -> Result<Self, KeyError> {
        let vouching = Self { trust, known: Mutex::default() };
        vouching.reread()?;
        Ok(vouching)
    }

    /// Reads the keys again; in trouble the ones before go on counting.
    pub(crate) fn reread(&self) -> Result<(), KeyError> {
        let keys = self.trust.keys.as_deref().map(TrustedKeys::read).transpose()?.unwrap_or_default();
        *self.known.lock() = Known { keys, checked: BTreeMap::new() };
        Ok(())
    }

    /// Refuses in a look what no trusted key vouches for. Such a version has an identity of its own, so that a
    /// signature that arrives later is news.
    pub(crate) fn insist(&self, look: &mut Look) {
        for version in look.versions.values_mut() {
            let Ok(source) = &mut version.source else { continue };
            if let Err(refusal) = self.vouch(source) {
                let seal = source.seal.as_ref().map_or(&b""[..], |seal| seal.text.as_bytes());
                version.identity = Digest::of(&[&version.identity.0[..], b"seal", seal].concat());
                version.source = Err(refusal);
            }
        }
    }

    /// Marks a source with who signed it, or says why it is not taken.
    pub(crate) fn vouch(&self, source: &mut PolicySource) -> Result<(), Refusal> {
        let refuse = |code, message: String| Err(Refusal::new(code, &source.file, message));
        if source.embedded {
            return Ok(());
        }
        let checked = source.seal.as_ref().map(|_| self.check(source));
        match checked {
            None if self.trust.signed_only => {
                let message = "there is no signature beside it; `tidegate policy sign` makes one";
                refuse(RefusalCode::Unsigned, message.to_owned())
            }
            None => Ok(()),
            Some(Ok(signer)) => {
                source.signer = Some(signer);
                Ok(())
            }
            Some(Err(SignatureFault::UnknownSigner)) if !self.trust.signed_only => Ok(()),
            Some(Err(fault @ SignatureFault::UnknownSigner)) => refuse(RefusalCode::SignerUnknown, fault.to_string()),
            Some(Err(fault)) => refuse(RefusalCode::SignatureInvalid, fault.to_string()),
        }
    }

    fn check(&self, source: &PolicySource) -> Result<Arc<str>, SignatureFault> {
        let Some(seal) = &source.seal else { return Err(SignatureFault::Malformed) };
        let over = seal.settings_file.as_deref().unwrap_or_default();
        let parts = [&source.identity().0[..], seal.text.as_bytes(), b"\0", over.as_bytes()].concat();
        let mut known = self.known.lock();
        let Known { keys, checked } = &mut *known;
        if checked.len() > CHECKED_MAX {
            checked.clear();
        }
        let made = || keys.check(seal, &source.bytes, &source.settings);
        checked.entry(Digest::of(&parts)).or_insert_with(made).clone()
    }
}
