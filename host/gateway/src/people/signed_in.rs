//! Who is signed in, in memory: a restart signs everybody out. Knows digests of tokens, never tokens. Invariants: bounded in
//! number, for each person too, and in age; whoever watches a sign-in hears of its end at once.

use super::{
    Person,
    stream_token::{hex, unhex},
};
use sha2::{Digest as _, Sha256};
use std::{collections::HashMap, fmt, sync::Arc};
use tokio_util::sync::CancellationToken;

/// However often the page is used, after so long the password is asked again.
const LIFETIME_MS: u64 = 12 * 3600 * 1000;
/// The oldest are signed out beyond that. Guessed.
const SIGNED_IN_MAX: usize = 4_096;
/// Of one person, whose own oldest goes. Guessed: more browsers than anybody has.
const OF_ONE_PERSON_MAX: usize = 16;

/// What the browser holds: 256 random bits, hexadecimal.
pub struct SignInToken(String);

/// Which sign-in: the digest of its token, from which nobody finds the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SignInId([u8; 32]);

/// A person at one browser.
#[derive(Clone, Debug)]
pub struct SignedIn {
    pub person: Arc<Person>,
    /// What a form of this sign-in carries, so that no other site can send one.
    pub form_token: Arc<str>,
    /// Ends with the sign-in: signed out, changed, removed.
    pub over: CancellationToken,
    pub(super) id: SignInId,
    since_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct SignIns {
    by_id: HashMap<SignInId, SignedIn>,
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

// === impl SignInId ===

impl SignInId {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    pub(super) fn to_hex(self) -> String {
        hex(&self.0)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        unhex(text)?.try_into().ok().map(Self)
    }
}

// === impl SignedIn ===

impl SignedIn {
    /// How long it lasts if nobody ends it.
    pub(super) fn left_ms(&self, now_ms: u64) -> u64 {
        LIFETIME_MS.saturating_sub(now_ms.saturating_sub(self.since_ms))
    }
}

// === impl SignIns ===

impl SignIns {
    pub(super) fn add(&mut self, person: Person, now_ms: u64) -> (SignInToken, SignedIn) {
        self.end_all(|signed_in| signed_in.left_ms(now_ms) == 0);
        self.make_room(OF_ONE_PERSON_MAX, |signed_in| signed_in.person.name == person.name);
        self.make_room(SIGNED_IN_MAX, |_| true);
        let token = SignInToken(random());
        let signed_in = SignedIn {
            person: Arc::new(person),
            form_token: random().into(),
            over: CancellationToken::new(),
            id: SignInId::of(&token.0),
            since_ms: now_ms,
        };
        self.by_id.insert(signed_in.id, signed_in.clone());
        (token, signed_in)
    }

    pub(super) fn find(&self, token: &str, now_ms: u64) -> Option<SignedIn> {
        self.get(SignInId::of(token), now_ms)
    }

    pub(super) fn get(&self, id: SignInId, now_ms: u64) -> Option<SignedIn> {
        self.by_id.get(&id).filter(|signed_in| signed_in.left_ms(now_ms) > 0).cloned()
    }

    pub(super) fn remove(&mut self, token: &str) {
        self.end(SignInId::of(token));
    }

    /// In any case of letters: a local person takes the place of one of the directory.
    pub(super) fn remove_all_of(&mut self, name: &str) {
        self.end_all(|signed_in| signed_in.person.name.eq_ignore_ascii_case(name));
    }

    /// Ends the oldest of these, until there are fewer than so many.
    fn make_room(&mut self, max: usize, of: impl Fn(&SignedIn) -> bool) {
        let theirs = || self.by_id.values().filter(|signed_in| of(signed_in));
        if theirs().count() >= max
            && let Some(oldest) = theirs().min_by_key(|signed_in| signed_in.since_ms).map(|signed_in| signed_in.id)
        {
            self.end(oldest);
        }
    }

    fn end_all(&mut self, of: impl Fn(&SignedIn) -> bool) {
        self.by_id.retain(|_, signed_in| {
            let ends = of(signed_in);
            if ends {
                signed_in.over.cancel();
            }
            !ends
        });
    }

    fn end(&mut self, id: SignInId) {
        if let Some(signed_in) = self.by_id.remove(&id) {
            signed_in.over.cancel();
        }
    }
}

fn random() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    hex(&bytes)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Role, Source},
        *,
    };

    // shows: H-02
    #[test]
    fn one_person_signs_nobody_else_out_however_often_they_sign_in() {
        let person =
            |name: &str| Person { name: name.into(), role: Role::Viewer, groups: [].into(), source: Source::Local };
        let mut all = SignIns::default();
        let (hers, _) = all.add(person("ada"), 0);
        let his: Vec<_> = (1..=5_000).map(|now_ms| all.add(person("ben"), now_ms)).collect();
        assert!(all.find(hers.expose(), 5_000).is_some());
        let lasting = his.iter().filter(|(token, _)| all.find(token.expose(), 5_000).is_some()).count();
        assert_eq!((lasting, all.by_id.len()), (OF_ONE_PERSON_MAX, OF_ONE_PERSON_MAX + 1));
        assert!(his[0].1.over.is_cancelled(), "his own oldest goes, and hears of it");
        assert!(!his[4_999].1.over.is_cancelled());
        for n in 0..SIGNED_IN_MAX {
            all.add(person(&format!("crew-{n}")), 6_000);
        }
        assert_eq!(all.by_id.len(), SIGNED_IN_MAX);
    }
}
