//! Who is signed in, in memory: a restart signs everybody out. Knows digests of tokens, never tokens. Invariant:
//! bounded in number and age.

use super::{Person, Source};
use sha2::{Digest as _, Sha256};
use std::{collections::HashMap, fmt, sync::Arc};

/// However often the page is used, after so long the password is asked again.
const LIFETIME_MS: u64 = 12 * 3600 * 1000;
/// The oldest are signed out beyond that. Guessed.
const SIGNED_IN_MAX: usize = 4_096;

/// What the browser holds: 256 random bits, hexadecimal.
pub struct SignInToken(String);

/// A person at one browser.
#[derive(Clone, Debug)]
pub struct SignedIn {
    pub person: Arc<Person>,
    /// What a form of this sign-in carries, so that no other site can send one.
    pub form_token: Arc<str>,
}

#[derive(Debug, Default)]
pub(super) struct SignIns {
    by_digest: HashMap<[u8; 32], (u64, SignedIn)>,
}

// === impl SignInToken ===

impl SignInToken {
    /// For the cookie and nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SignInToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SignInToken(…)")
    }
}

// === impl SignIns ===

impl SignIns {
    pub(super) fn add(&mut self, person: Person, now_ms: u64) -> (SignInToken, SignedIn) {
        self.by_digest.retain(|_, (since_ms, _)| now_ms.saturating_sub(*since_ms) < LIFETIME_MS);
        if self.by_digest.len() >= SIGNED_IN_MAX
            && let Some(oldest) = self.by_digest.iter().min_by_key(|(_, (since, _))| *since).map(|(digest, _)| *digest)
        {
            self.by_digest.remove(&oldest);
        }
        let token = SignInToken(random());
        let signed_in = SignedIn { person: Arc::new(person), form_token: random().into() };
        self.by_digest.insert(digest(&token.0), (now_ms, signed_in.clone()));
        (token, signed_in)
    }

    pub(super) fn find(&self, token: &str, now_ms: u64) -> Option<SignedIn> {
        let (since_ms, signed_in) = self.by_digest.get(&digest(token))?;
        (now_ms.saturating_sub(*since_ms) < LIFETIME_MS).then(|| signed_in.clone())
    }

    pub(super) fn remove(&mut self, token: &str) {
        self.by_digest.remove(&digest(token));
    }

    /// Somebody of the directory, as of the newest sign-in.
    pub(super) fn of_directory(&self, name: &str, now_ms: u64) -> Option<Person> {
        let theirs = self.by_digest.values().filter(|(since_ms, signed_in)| {
            let person = &signed_in.person;
            let lasts = now_ms.saturating_sub(*since_ms) < LIFETIME_MS;
            lasts && person.source == Source::Directory && &*person.name == name
        });
        theirs.max_by_key(|(since_ms, _)| *since_ms).map(|(_, signed_in)| Person::clone(&signed_in.person))
    }

    /// In any case of letters: a local person takes the place of one of the directory.
    pub(super) fn remove_all_of(&mut self, name: &str) {
        self.by_digest.retain(|_, (_, signed_in)| !signed_in.person.name.eq_ignore_ascii_case(name));
    }
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn random() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    super::stream_token::hex(&bytes)
}
