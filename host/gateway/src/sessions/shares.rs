//! How much of something each key has: sessions, event streams. Knows keys by their ids, and not what is counted.
//! Invariant: a share that was given out is counted until it is dropped, and a key without one takes no memory.

use crate::ids::KeyId;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

/// What all keys have; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<KeyId, u32>>>);

/// One, of a key; given back on drop.
#[derive(Debug)]
pub struct Share {
    of: Shares,
    key: KeyId,
}

// === impl Shares ===

impl Shares {
    /// One more for `key`; none if it has `max` already. 0: there is no bound.
    pub(super) fn take(&self, key: &KeyId, max: u32) -> Option<Share> {
        let mut held = self.0.lock();
        let count = held.entry(key.clone()).or_insert(0);
        if max != 0 && *count >= max {
            return None;
        }
        *count += 1;
        Some(Share { of: self.clone(), key: key.clone() })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Entry::Occupied(mut held) = self.of.0.lock().entry(self.key.clone()) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_has_its_own_and_what_is_given_back_can_be_had_again() {
        let (shares, one, two) = (Shares::default(), KeyId::mint(), KeyId::mint());
        let first = shares.take(&one, 1).expect("the first");
        assert!(shares.take(&one, 1).is_none(), "no more than one");
        let other = shares.take(&two, 1).expect("another key");
        let unbounded = shares.take(&one, 0).expect("no bound");
        drop(first);
        assert!(shares.take(&one, 1).is_none(), "the unbounded one counts");
        drop(unbounded);
        drop(shares.take(&one, 1).expect("given back"));
        drop(other);
        assert!(shares.0.lock().is_empty(), "nothing stays");
    }
}
