//! The session's secret and the proofs that both ends hold it. Knows no frames. A proof is HMAC-SHA-256, keyed with
//! the secret, over a label (one for each end, so neither can echo the other), the session and both challenges,
//! each preceded by its length. Invariant: comparisons take the same time whatever differs.

use crate::{PipeError, Result};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::{fmt, io};
use subtle::ConstantTimeEq as _;

/// Length of challenges and proofs.
pub const LEN: usize = 32;

const GATEWAY: &[u8] = b"tidegate worker pipe 1: gateway";
const WORKER: &[u8] = b"tidegate worker pipe 1: worker";

/// What gateway and worker share: 256 random bits, minted for one session, passed on the worker's standard input.
#[derive(Clone)]
pub struct Secret([u8; LEN]);

/// Which end a proof is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Gateway,
    Worker,
}

// === impl Secret ===

impl Secret {
    pub fn mint() -> Result<Self> {
        random().map(Self)
    }

    /// 64 lower-case hexadecimal digits.
    pub fn to_hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.0
            .iter()
            .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
            .map(char::from)
            .collect()
    }

    /// The opposite of `to_hex`; exactly 64 digits, nothing around them.
    pub fn from_hex(text: &str) -> Result<Self> {
        let digits = text.as_bytes();
        if digits.len() != 2 * LEN {
            return Err(PipeError::BadSecret);
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(PipeError::BadSecret);
        let mut secret = [0; LEN];
        for (byte, pair) in secret.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
        }
        Ok(Self(secret))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

/// The proof of the gateway, which comes first: a worker says nothing to a stranger.
pub fn gateway(secret: &Secret, session: &str, worker_challenge: &[u8], gateway_challenge: &[u8]) -> [u8; LEN] {
    of(End::Gateway, secret, session, worker_challenge, gateway_challenge)
}

/// The proof of the worker.
pub fn worker(secret: &Secret, session: &str, worker_challenge: &[u8], gateway_challenge: &[u8]) -> [u8; LEN] {
    of(End::Worker, secret, session, worker_challenge, gateway_challenge)
}

/// Whether `proof` is that of `end`; in the same time whatever differs.
pub fn verify(
    end: End,
    secret: &Secret,
    session: &str,
    worker_challenge: &[u8],
    gateway_challenge: &[u8],
    proof: &[u8],
) -> bool {
    of(end, secret, session, worker_challenge, gateway_challenge).ct_eq(proof).into()
}

/// A fresh challenge.
pub fn challenge() -> Result<[u8; LEN]> {
    random()
}

fn of(end: End, secret: &Secret, session: &str, worker_challenge: &[u8], gateway_challenge: &[u8]) -> [u8; LEN] {
    let label = match end {
        End::Gateway => GATEWAY,
        End::Worker => WORKER,
    };
    // A key of 32 bytes is a block's part, so no other length can come up.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&secret.0) else { unreachable!("HMAC takes keys of any length") };
    for part in [label, session.as_bytes(), worker_challenge, gateway_challenge] {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn random() -> Result<[u8; LEN]> {
    let mut bytes = [0; LEN];
    getrandom::fill(&mut bytes).map_err(|error| PipeError::Io {
        context: "asking the system for random bytes",
        source: io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: S-20
    #[test]
    fn a_secret_survives_its_text_and_never_shows_in_debug() {
        let secret = Secret::mint().unwrap();
        let text = secret.to_hex();
        assert_eq!(Secret::from_hex(&text).unwrap(), secret);
        assert_eq!(Secret::from_hex(&text.to_uppercase()).unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "Secret(..)");
        assert_ne!(Secret::mint().unwrap(), secret);
        for bad in ["", "00", &text[1..], &format!("{text}\n"), &text.replace(&text[..1], "g"), &"é".repeat(32)] {
            assert!(matches!(Secret::from_hex(bad), Err(PipeError::BadSecret)), "{bad:?}");
        }
    }

    #[test]
    fn a_proof_depends_on_every_part_and_on_the_end() {
        let (one, two) = (Secret::from_hex(&"01".repeat(32)).unwrap(), Secret::from_hex(&"02".repeat(32)).unwrap());
        let proof = gateway(&one, "session-1", b"worker", b"gateway");
        assert!(verify(End::Gateway, &one, "session-1", b"worker", b"gateway", &proof));
        assert!(!verify(End::Gateway, &one, "session-1", b"worker", b"gateway", &proof[..31]));
        assert!(!verify(End::Gateway, &one, "session-1", b"worker", b"gateway", b""));
        for other in [
            worker(&one, "session-1", b"worker", b"gateway"),
            gateway(&two, "session-1", b"worker", b"gateway"),
            gateway(&one, "session-2", b"worker", b"gateway"),
            gateway(&one, "session-1w", b"orker", b"gateway"),
            gateway(&one, "session-1", b"workerg", b"ateway"),
            gateway(&one, "session-1", b"worker", b"gatewaz"),
        ] {
            assert_ne!(proof, other);
        }
    }
}
