//! The text of a key: `tg_` key id `_` 64 hexadecimal digits, e.g. `tg_k0123456789abcdef_…`. Hexadecimal
//! because a double click takes it whole and no shell minds it. Invariant: no way to print it but `expose`.

use crate::ids::{KEY_PREFIX, KeyId, hex, random};
use sha2::{Digest as _, Sha256};
use std::fmt;
use subtle::ConstantTimeEq as _;

/// A key's whole text; Debug shows none of it, and there is no Display.
pub struct KeySecret {
    text: String,
    bytes: [u8; 32],
}

// === impl KeySecret ===

impl KeySecret {
    /// 256 fresh random bits.
    pub(super) fn mint(id: &KeyId) -> Self {
        Self::of(id, random())
    }

    /// Takes a text apart; `None` when it cannot be a key's.
    pub(super) fn parse(text: &str) -> Option<(KeyId, Self)> {
        let (id, digits) = text.strip_prefix(KEY_PREFIX)?.split_once('_')?;
        let id = KeyId::parse(id)?;
        let bytes = from_hex(digits)?;
        let secret = Self::of(&id, bytes);
        Some((id, secret))
    }

    /// The text, to hand it to its owner. Never to a log, a metric or an error.
    pub fn expose(&self) -> &str {
        &self.text
    }

    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.bytes).into()
    }

    /// In constant time.
    pub(super) fn matches(&self, digest: &[u8; 32]) -> bool {
        self.digest().ct_eq(digest).into()
    }

    fn of(id: &KeyId, bytes: [u8; 32]) -> Self {
        Self { text: format!("{KEY_PREFIX}{id}_{}", hex(&bytes)), bytes }
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySecret(…)")
    }
}

fn from_hex(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 || !digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
