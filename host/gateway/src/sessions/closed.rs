//! Remembers the sessions that ended last, because closing one twice is no error (gateway.proto). Knows
//! ids and owners only. Invariant: a session is in here before it leaves the registry, so that whoever closes
//! it once more finds it in one of the two.

use crate::ids::{KeyId, SessionId};
use parking_lot::Mutex;
use std::collections::VecDeque;

/// Guessed: a client repeats a close within seconds.
const REMEMBERED: usize = 1024;

/// The last sessions that ended, the newest last.
#[derive(Debug, Default)]
pub(super) struct Closed(Mutex<VecDeque<Ended>>);

#[derive(Debug)]
struct Ended {
    id: SessionId,
    owner: Option<KeyId>,
    head: u64,
}

// === impl Closed ===

impl Closed {
    pub(super) fn remember(&self, id: SessionId, owner: Option<KeyId>, head: u64) {
        let mut all = self.0.lock();
        if all.len() == REMEMBERED {
            all.pop_front();
        }
        all.push_back(Ended { id, owner, head });
    }

    /// The newest sequence it had; `None` also for one that `key` did not own, unless it sees all.
    pub(super) fn head(&self, id: &SessionId, key: &KeyId, sees_all: bool) -> Option<u64> {
        let all = self.0.lock();
        let ended = all.iter().rev().find(|ended| ended.id == *id)?;
        (sees_all || ended.owner.as_ref() == Some(key)).then_some(ended.head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: S-13, S-14
    #[test]
    fn only_the_owner_or_who_sees_all_finds_an_ended_session_and_the_oldest_are_forgotten() {
        let (closed, owner, other) = (Closed::default(), KeyId::mint(), KeyId::mint());
        let first = SessionId::mint();
        closed.remember(first.clone(), Some(owner.clone()), 7);
        assert_eq!(closed.head(&first, &owner, false), Some(7));
        assert_eq!(closed.head(&first, &other, false), None);
        assert_eq!(closed.head(&first, &other, true), Some(7));
        (0..REMEMBERED).for_each(|_| closed.remember(SessionId::mint(), None, 0));
        assert_eq!(closed.head(&first, &owner, false), None);
    }
}
