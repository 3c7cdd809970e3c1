//! Slows down who guesses passwords: by name and by address, each with a wait that doubles. Knows no password.
//! Invariants: bounded; a try counts from the moment it is let in, so that many at once are no more than one after another;
//! an address from which a name signed in well has a count of its own for it, so that nobody elsewhere locks it out.

use super::forget_oldest;
use crate::error::{Code, Error, Result};
use std::{collections::HashMap, net::IpAddr};

/// Mistakes that cost nothing.
const FREE: u32 = 5;
const FIRST_WAIT_MS: u64 = 1_000;
const LONGEST_WAIT_MS: u64 = 60_000;
/// After so long without a mistake it is forgotten.
const FORGET_MS: u64 = 900_000;
/// Names and addresses remembered; those that failed longest ago leave first.
const TRACKED_MAX: usize = 10_000;
/// Names with an address that are known to belong together; those of the oldest sign-ins leave first.
const AT_HOME_MAX: usize = 10_000;
/// Of a name that was guessed; what is longer cannot be one.
const NAME_KEPT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    tries: HashMap<Who, Tries>,
    /// When somebody of this name last signed in from this address.
    at_home: HashMap<(String, IpAddr), u64>,
}

/// A try that was let in. It counts as a mistake until `succeeded` or `taken_back` say otherwise.
#[derive(Debug)]
pub(super) struct Admitted {
    /// Whose count it is in, and when that one's last try was before.
    counted: Vec<(Who, u64)>,
    at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    /// From wherever this name has not signed in.
    Name(String),
    AtHome(String, IpAddr),
    Peer(IpAddr),
}

#[derive(Clone, Copy, Debug, Default)]
struct Tries {
    count: u32,
    last_ms: u64,
}

// === impl Throttle ===

impl Throttle {
    pub(super) fn admit(&mut self, name: &str, peer: Option<IpAddr>, now_ms: u64) -> Result<Admitted> {
        let name = plain(name);
        let at_home = peer.filter(|peer| self.at_home.contains_key(&(name.clone(), *peer)));
        let named = at_home.map_or_else(|| Who::Name(name.clone()), |peer| Who::AtHome(name.clone(), peer));
        let counts: Vec<Who> = std::iter::once(named).chain(peer.map(Who::Peer)).collect();
        let waits = counts.iter().filter_map(|who| self.tries.get(who));
        let wait_ms = waits.map(|tries| tries.free_at_ms().saturating_sub(now_ms)).max().unwrap_or(0);
        if wait_ms > 0 {
            let message = format!("too many wrong passwords; try again in {} s", wait_ms.div_ceil(1_000));
            return Err(Error::new(Code::SignInThrottled, message).with("retry_ms", wait_ms));
        }
        self.make_room(now_ms);
        let count = |who: Who| {
            let tries = self.tries.entry(who.clone()).or_default();
            let before_ms = tries.last_ms;
            let is_old = now_ms.saturating_sub(before_ms) >= FORGET_MS;
            let count = if is_old { 1 } else { tries.count.saturating_add(1) };
            *tries = Tries { count, last_ms: now_ms };
            (who, before_ms)
        };
        Ok(Admitted { counted: counts.into_iter().map(count).collect(), at_ms: now_ms })
    }

    /// It was no guess: nobody said whether the password is right.
    pub(super) fn taken_back(&mut self, admitted: Admitted) {
        for (who, before_ms) in admitted.counted {
            let Some(tries) = self.tries.get_mut(&who) else { continue };
            tries.count = tries.count.saturating_sub(1);
            if tries.last_ms == admitted.at_ms {
                tries.last_ms = before_ms;
            }
            if tries.count == 0 {
                self.tries.remove(&who);
            }
        }
    }

    /// The right password clears its name; the address stays suspicious, or one known password would free all guesses.
    pub(super) fn succeeded(&mut self, admitted: Admitted, name: &str, peer: Option<IpAddr>) {
        let (now_ms, named) = (admitted.at_ms, admitted.counted.first().map(|(who, _)| who.clone()));
        self.taken_back(admitted);
        named.map(|who| self.tries.remove(&who));
        let Some(peer) = peer else { return };
        if self.at_home.len() >= AT_HOME_MAX {
            forget_oldest(&mut self.at_home, |at_ms| *at_ms);
        }
        self.at_home.insert((plain(name), peer), now_ms);
    }

    fn make_room(&mut self, now_ms: u64) {
        if self.tries.len() >= TRACKED_MAX {
            self.tries.retain(|_, tries| now_ms.saturating_sub(tries.last_ms) < FORGET_MS);
        }
        if self.tries.len() >= TRACKED_MAX {
            forget_oldest(&mut self.tries, |tries| tries.last_ms);
        }
    }
}

// === impl Tries ===

impl Tries {
    fn free_at_ms(&self) -> u64 {
        let Some(beyond) = self.count.checked_sub(FREE) else { return 0 };
        let wait_ms = FIRST_WAIT_MS.saturating_mul(1 << beyond.min(16)).min(LONGEST_WAIT_MS);
        self.last_ms.saturating_add(wait_ms)
    }
}

/// A directory does not tell cases apart, so another case is no other name to guess for.
fn plain(name: &str) -> String {
    name.chars().take(NAME_KEPT).flat_map(char::to_lowercase).collect()
}
