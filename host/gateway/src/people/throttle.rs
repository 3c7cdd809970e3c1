//! Slows down who guesses passwords: by name and by address, each with a wait that doubles. Knows no password.
//! Invariant: bounded; who does not fail never waits for another name or address.

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
/// Of a name that was guessed; what is longer cannot be one.
const NAME_KEPT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: HashMap<Who, Failures>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    Name(String),
    Peer(IpAddr),
}

#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    count: u32,
    last_ms: u64,
}

// === impl Throttle ===

impl Throttle {
    pub(super) fn admit(&self, name: &str, peer: Option<IpAddr>, now_ms: u64) -> Result<()> {
        let wait_ms = keys(name, peer)
            .filter_map(|who| self.failures.get(&who))
            .map(|failures| failures.free_at_ms().saturating_sub(now_ms))
            .max()
            .unwrap_or(0);
        if wait_ms == 0 {
            return Ok(());
        }
        let message = format!("too many wrong passwords; try again in {} s", wait_ms.div_ceil(1_000));
        Err(Error::new(Code::SignInThrottled, message).with("retry_ms", wait_ms))
    }

    pub(super) fn failed(&mut self, name: &str, peer: Option<IpAddr>, now_ms: u64) {
        if self.failures.len() >= TRACKED_MAX {
            self.failures.retain(|_, failures| now_ms.saturating_sub(failures.last_ms) < FORGET_MS);
        }
        if self.failures.len() >= TRACKED_MAX {
            let oldest = self.failures.iter().min_by_key(|(_, failures)| failures.last_ms).map(|(who, _)| who.clone());
            oldest.map(|who| self.failures.remove(&who));
        }
        for who in keys(name, peer) {
            let failures = self.failures.entry(who).or_default();
            if now_ms.saturating_sub(failures.last_ms) >= FORGET_MS {
                failures.count = 0;
            }
            *failures = Failures { count: failures.count.saturating_add(1), last_ms: now_ms };
        }
    }

    /// The right password clears its name; the address stays suspicious, or one known password would free all guesses.
    pub(super) fn succeeded(&mut self, name: &str) {
        self.failures.remove(&who(name));
    }
}

// === impl Failures ===

impl Failures {
    fn free_at_ms(&self) -> u64 {
        let Some(beyond) = self.count.checked_sub(FREE) else { return 0 };
        let wait_ms = FIRST_WAIT_MS.saturating_mul(1 << beyond.min(16)).min(LONGEST_WAIT_MS);
        self.last_ms.saturating_add(wait_ms)
    }
}

fn keys(name: &str, peer: Option<IpAddr>) -> impl Iterator<Item = Who> {
    std::iter::once(who(name)).chain(peer.map(Who::Peer))
}

/// A directory does not tell cases apart, so another case is no other name to guess for.
fn who(name: &str) -> Who {
    Who::Name(name.chars().take(NAME_KEPT).flat_map(char::to_lowercase).collect())
}
