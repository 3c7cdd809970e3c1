//! Resume tokens: signed claims of where one reader of one session stood. Made and checked here; what a position is worth
//! is the log's business. Knows two signing keys, the one that signs and the one before it, kept in one private file.
//! Invariants: a token is good for the API key, session, epoch and reader it was made for and no other; after `revoke`
//! returns no older token is good.

use crate::{
    data_dir::write_private,
    error::{Code, Error, Result},
    ids::{KeyId, SessionId, hex, random},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::RwLock;
use sha2::{Digest as _, Sha256};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use subtle::ConstantTimeEq as _;

/// How long a token is good. Longer than any log keeps events for a resume (300 s) and than the detach grace; guessed.
pub const LIFETIME: Duration = Duration::from_secs(3600);
/// How old the signing key grows before it is replaced by itself. Above `LIFETIME`, so that the key before covers
/// every token that is still good.
const ROTATE_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Of the layout below.
const VERSION: u8 = 1;
const CLAIMS_BYTES: usize = 1 + 8 + 8 + 8 + 8 + 8 + 16 + 16;
const MAC_BYTES: usize = 32;
/// Characters of a token: each byte is two.
pub const TOKEN_CHARS: usize = 2 * (CLAIMS_BYTES + MAC_BYTES);
const LABEL: &[u8] = b"tidegate resume token 1";

/// Makes and checks tokens. Clones share the keys.
#[derive(Clone)]
pub struct ResumeTokens {
    shared: Arc<Shared>,
}

struct Shared {
    file: PathBuf,
    keys: RwLock<SigningKeys>,
}

/// What tokens are signed with, and were.
#[derive(Clone)]
struct SigningKeys {
    current: SigningKey,
    previous: Option<SigningKey>,
}

#[derive(Clone)]
struct SigningKey {
    /// Names the key in a token; not a secret.
    id: u64,
    secret: [u8; 32],
    made_unix_ms: u64,
}

/// Where a reader stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Random, minted when the reader first attached; kept over resumes.
    pub reader: u64,
    pub epoch: u64,
    pub after: u64,
}

/// Whose token it is.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    pub key: &'a KeyId,
    pub session: &'a SessionId,
}

// === impl ResumeTokens ===

impl ResumeTokens {
    /// Reads the signing keys, or makes the first one. The file is this user's alone.
    pub fn load(file: PathBuf, now_unix_ms: u64) -> Result<Self> {
        let keys = match fs::read_to_string(&file) {
            Ok(text) => SigningKeys::parse(&text).ok_or_else(|| {
                unusable(&file, &io::Error::new(io::ErrorKind::InvalidData, "it holds no signing keys; remove it"))
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let keys = SigningKeys { current: SigningKey::mint(now_unix_ms), previous: None };
                write_private(&file, keys.text().as_bytes()).map_err(|error| unusable(&file, &error))?;
                keys
            }
            Err(error) => return Err(unusable(&file, &error)),
        };
        Ok(Self { shared: Arc::new(Shared { file, keys: RwLock::new(keys) }) })
    }

    /// A token for `claim`, as text.
    pub fn mint(&self, holder: Holder<'_>, claim: Claim, now_unix_ms: u64) -> String {
        let keys = self.shared.keys.read();
        let expires = now_unix_ms.saturating_add(LIFETIME.as_millis() as u64);
        let mut bytes = [0; CLAIMS_BYTES + MAC_BYTES];
        let numbers = [keys.current.id, claim.reader, claim.epoch, claim.after, expires];
        bytes[0] = VERSION;
        for (at, number) in numbers.into_iter().enumerate() {
            bytes[1 + 8 * at..9 + 8 * at].copy_from_slice(&number.to_be_bytes());
        }
        bytes[41..57].copy_from_slice(&short_digest(holder.session.as_str()));
        bytes[57..73].copy_from_slice(&short_digest(holder.key.as_str()));
        let mac = keys.current.sign(&bytes[..CLAIMS_BYTES]);
        bytes[CLAIMS_BYTES..].copy_from_slice(&mac);
        hex(&bytes)
    }

    /// What a token says, if it is whole, signed, in time, and `holder`'s. The owner gate of the session was passed before.
    pub fn check(&self, holder: Holder<'_>, epoch: u64, token: &str, now_unix_ms: u64) -> Result<Claim> {
        let damaged = || Error::new(Code::TokenDamaged, "the resume token is not one that this gateway made");
        let bytes: [u8; CLAIMS_BYTES + MAC_BYTES] = unhex(token).ok_or_else(damaged)?;
        let (claims, mac) = bytes.split_at(CLAIMS_BYTES);
        if claims[0] != VERSION {
            return Err(damaged());
        }
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&claims[1 + 8 * at..9 + 8 * at]);
            u64::from_be_bytes(eight)
        };
        let [key, reader, claimed_epoch, after, expires] = [number(0), number(1), number(2), number(3), number(4)];
        {
            let keys = self.shared.keys.read();
            let known = [Some(&keys.current), keys.previous.as_ref()].into_iter().flatten().find(|one| one.id == key);
            let Some(known) = known else {
                return Err(Error::new(Code::TokenRevoked, "the key that signed the resume token is no longer valid"));
            };
            if !bool::from(known.sign(claims).ct_eq(mac)) {
                return Err(damaged());
            }
        }
        if claims[57..73] != short_digest(holder.key.as_str()) {
            return Err(foreign("key"));
        }
        if claims[41..57] != short_digest(holder.session.as_str()) {
            return Err(foreign("session"));
        }
        if claimed_epoch != epoch {
            return Err(foreign("epoch"));
        }
        if expires < now_unix_ms {
            let age = Duration::from_millis(now_unix_ms - expires).as_secs();
            return Err(Error::new(Code::TokenExpired, format!("the resume token expired {age} s ago")));
        }
        Ok(Claim { reader, epoch, after })
    }

    /// A new signing key; tokens of the one before stay good.
    pub fn rotate(&self, now_unix_ms: u64) -> Result<()> {
        let current = self.shared.keys.read().current.clone();
        self.replace(SigningKeys { current: SigningKey::mint(now_unix_ms), previous: Some(current) })
    }

    /// A new signing key; every token that was handed out is refused from now on.
    pub fn revoke(&self, now_unix_ms: u64) -> Result<()> {
        self.replace(SigningKeys { current: SigningKey::mint(now_unix_ms), previous: None })
    }

    /// The signing key is old enough to be replaced.
    pub fn is_due(&self, now_unix_ms: u64) -> bool {
        let made = self.shared.keys.read().current.made_unix_ms;
        now_unix_ms.saturating_sub(made) > ROTATE_AFTER.as_millis() as u64
    }

    /// On disk before anybody signs with them.
    fn replace(&self, keys: SigningKeys) -> Result<()> {
        let file = &self.shared.file;
        write_private(file, keys.text().as_bytes()).map_err(|error| unusable(file, &error))?;
        *self.shared.keys.write() = keys;
        Ok(())
    }
}

impl fmt::Debug for ResumeTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumeTokens").field("file", &self.shared.file).finish_non_exhaustive()
    }
}

// === impl SigningKeys ===

impl SigningKeys {
    /// A line for each key, the current one first: id, secret, when it was made.
    fn text(&self) -> String {
        let line = |key: &SigningKey| format!("{:016x} {} {}\n", key.id, hex(&key.secret), key.made_unix_ms);
        line(&self.current) + &self.previous.as_ref().map(line).unwrap_or_default()
    }

    fn parse(text: &str) -> Option<Self> {
        let key = |line: &str| {
            let mut words = line.split(' ');
            let id = u64::from_str_radix(words.next()?, 16).ok()?;
            let secret = words.next().and_then(unhex)?;
            let made_unix_ms = words.next()?.parse().ok()?;
            words.next().is_none().then_some(SigningKey { id, secret, made_unix_ms })
        };
        let mut lines = text.lines();
        let current = key(lines.next()?)?;
        let previous = match lines.next() {
            Some(line) => Some(key(line)?),
            None => None,
        };
        lines.next().is_none().then_some(Self { current, previous })
    }
}

// === impl SigningKey ===

impl SigningKey {
    fn mint(now_unix_ms: u64) -> Self {
        Self { id: u64::from_be_bytes(random()), secret: random(), made_unix_ms: now_unix_ms }
    }

    fn sign(&self, claims: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("HMAC takes keys of any length");
        mac.update(LABEL);
        mac.update(claims);
        mac.finalize().into_bytes().into()
    }
}

fn short_digest(text: &str) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(text.as_bytes())[..16]);
    short
}

/// Exactly `N` bytes of lower-case hexadecimal.
fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn foreign(what: &'static str) -> Error {
    Error::new(Code::TokenForeign, format!("the resume token was made for another {what}")).with("of", what)
}

fn unusable(file: &Path, error: &io::Error) -> Error {
    Error::new(Code::DataFolderUnusable, format!("the signing keys of resume tokens, {}: {error}", file.display()))
        .with("path", file.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000_000;

    fn tokens(dir: &tempfile::TempDir) -> ResumeTokens {
        ResumeTokens::load(dir.path().join("resume-keys"), NOW).expect("keys")
    }

    fn code(result: Result<Claim>) -> &'static str {
        result.expect_err("refused").code().as_str()
    }

    // shows: S-06, S-13
    #[test]
    fn a_token_is_good_for_its_holder_in_its_time_and_over_a_restart() {
        let dir = tempfile::tempdir().expect("a folder");
        let (key, session) = (KeyId::mint(), SessionId::mint());
        let holder = Holder { key: &key, session: &session };
        let claim = Claim { reader: 7, epoch: 9, after: 41 };
        let made = tokens(&dir).mint(holder, claim, NOW);
        assert_eq!(made.len(), TOKEN_CHARS);
        let tokens = tokens(&dir);
        assert_eq!(tokens.check(holder, 9, &made, NOW).expect("good"), claim);
        let last_ms = NOW + LIFETIME.as_millis() as u64;
        assert_eq!(tokens.check(holder, 9, &made, last_ms).expect("good"), claim);
        assert_eq!(code(tokens.check(holder, 9, &made, last_ms + 1)), "stream.token_expired");

        let (thief, other) = (KeyId::mint(), SessionId::mint());
        assert_eq!(
            code(tokens.check(Holder { key: &thief, session: &session }, 9, &made, NOW)),
            "stream.token_foreign"
        );
        assert_eq!(code(tokens.check(Holder { key: &key, session: &other }, 9, &made, NOW)), "stream.token_foreign");
        assert_eq!(code(tokens.check(holder, 10, &made, NOW)), "stream.token_foreign");
    }

    #[test]
    fn a_key_signs_until_two_rotations_or_a_revocation() {
        let dir = tempfile::tempdir().expect("a folder");
        let tokens = tokens(&dir);
        let (key, session) = (KeyId::mint(), SessionId::mint());
        let holder = Holder { key: &key, session: &session };
        let claim = Claim { reader: 1, epoch: 2, after: 3 };
        let made = tokens.mint(holder, claim, NOW);
        assert!(!tokens.is_due(NOW + ROTATE_AFTER.as_millis() as u64));
        assert!(tokens.is_due(NOW + ROTATE_AFTER.as_millis() as u64 + 1));
        tokens.rotate(NOW).expect("rotated");
        assert!(!tokens.is_due(NOW));
        assert!(tokens.check(holder, 2, &made, NOW).is_ok(), "the key before still counts");
        tokens.rotate(NOW).expect("rotated");
        assert_eq!(code(tokens.check(holder, 2, &made, NOW)), "stream.token_revoked");

        let made = tokens.mint(holder, claim, NOW);
        tokens.revoke(NOW).expect("revoked");
        assert_eq!(code(tokens.check(holder, 2, &made, NOW)), "stream.token_revoked");
        let read_again = ResumeTokens::load(dir.path().join("resume-keys"), NOW).expect("keys");
        assert_eq!(code(read_again.check(holder, 2, &made, NOW)), "stream.token_revoked");
    }

    #[test]
    fn the_file_is_private_and_a_damaged_one_is_said() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("a folder");
        let tokens = tokens(&dir);
        let file = dir.path().join("resume-keys");
        assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&file).expect("text");
        let secret = text.split(' ').nth(1).expect("a secret");
        assert!(!format!("{tokens:?}").contains(secret));
        fs::write(&file, "nonsense").expect("written");
        assert_eq!(ResumeTokens::load(file, NOW).expect_err("damaged").code(), Code::DataFolderUnusable);
    }

    // shows: S-13
    #[test]
    fn no_changed_token_is_taken() {
        let dir = tempfile::tempdir().expect("a folder");
        let tokens = tokens(&dir);
        let (key, session) = (KeyId::mint(), SessionId::mint());
        let holder = Holder { key: &key, session: &session };
        let made = tokens.mint(holder, Claim { reader: 1, epoch: 2, after: 3 }, NOW);
        proptest!(|(at in 0..TOKEN_CHARS, digit in 0_u8..16, cut in 0..TOKEN_CHARS)| {
            let mut forged = made.clone();
            forged.replace_range(at..=at, &hex(&[digit])[1..]);
            prop_assert_eq!(tokens.check(holder, 2, &forged, NOW).is_ok(), forged == made);
            prop_assert!(tokens.check(holder, 2, &made[..cut], NOW).is_err());
        });
    }
}
