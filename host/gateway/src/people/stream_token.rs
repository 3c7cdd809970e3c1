//! Tokens for streams of the dashboard (H-04): of which sign-in, who, in which role, with which tags, until when; signed with
//! a key of this process. Knows no person. Invariants: what was changed in a token is not accepted; it is worth nothing
//! without its sign-in.

use super::signed_in::{SignInId, SignedIn};
use crate::error::{Code, Error, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt::{self, Write as _};

/// Required by H-04.
pub const STREAM_TOKEN_MINUTES: u64 = 30;
const LIFETIME_MS: u64 = STREAM_TOKEN_MINUTES * 60 * 1000;
/// A token with 10,000 tags of the longest kind does not fit, and nobody can read such a list.
const LENGTH_MAX: usize = 64 << 10;

pub(super) struct StreamKey([u8; 32]);

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    /// The digest of the browser's token.
    sign_in: String,
    name: String,
    roles: Vec<String>,
    /// `None`: every tag.
    tags: Option<Vec<String>>,
    until_unix_ms: u64,
}

// === impl StreamKey ===

impl StreamKey {
    pub(super) fn mint() -> Self {
        let mut key = [0; 32];
        getrandom::fill(&mut key).expect("the operating system gives random bytes");
        Self(key)
    }

    pub(super) fn sign(&self, signed_in: &SignedIn, tags: Option<&[String]>, now_unix_ms: u64) -> String {
        let person = &signed_in.person;
        let claims = Claims {
            sign_in: signed_in.id.to_hex(),
            name: person.name.to_string(),
            roles: vec![person.role.as_str().to_owned()],
            tags: tags.map(<[String]>::to_vec),
            until_unix_ms: now_unix_ms + LIFETIME_MS,
        };
        let claims = hex(&serde_json::to_vec(&claims).unwrap_or_default());
        let mac = hex(&self.mac(&claims).finalize().into_bytes());
        format!("{claims}.{mac}")
    }

    /// The sign-in that it was made for, and for how long it is still good.
    pub(super) fn verify(&self, token: &str, now_unix_ms: u64) -> Result<(SignInId, u64)> {
        if token.len() > LENGTH_MAX {
            return Err(invalid());
        }
        let (claims, mac) = token.split_once('.').ok_or_else(invalid)?;
        let mac = unhex(mac).ok_or_else(invalid)?;
        // Compares in constant time.
        self.mac(claims).verify_slice(&mac).map_err(|_| invalid())?;
        let claims: Claims = unhex(claims).and_then(|bytes| serde_json::from_slice(&bytes).ok()).ok_or_else(invalid)?;
        let left_ms = claims.until_unix_ms.saturating_sub(now_unix_ms);
        let sign_in = SignInId::parse(&claims.sign_in).filter(|_| left_ms > 0);
        sign_in.map(|id| (id, left_ms)).ok_or_else(invalid)
    }

    fn mac(&self, claims: &str) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key length");
        mac.update(b"tidegate dashboard stream 1");
        mac.update(claims.as_bytes());
        mac
    }
}

impl fmt::Debug for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StreamKey(…)")
    }
}

pub(super) fn invalid() -> Error {
    Error::new(Code::StreamTokenInvalid, "the stream token is not valid, or no longer")
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
    digits.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}
