//! The places of a session's readers and when the last one left. Knows numbers and times, no readers. Invariants: no more
//! places than allowed are taken; whoever sees none taken sees when the last one was given back, too, so that an attached
//! reader's session is never taken for one that nobody used (S-10, S-11, S-12). Tried in every interleaving by tests/loom.

use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// Places taken, and the clock's milliseconds at which one was last given back.
#[derive(Debug)]
pub(crate) struct Places {
    taken: AtomicU32,
    /// 0: none ever was.
    given_back_ms: AtomicU64,
}

// === impl Places ===

impl Places {
    pub(crate) fn new() -> Self {
        Self { taken: AtomicU32::new(0), given_back_ms: AtomicU64::new(0) }
    }

    /// Nobody is here, and somebody was: it counts as left now.
    pub(crate) fn leave_empty(&self, now_ms: u64) {
        self.given_back_ms.store(now_ms.max(1), Ordering::SeqCst);
    }

    /// Takes a place; false: all of `max` are taken.
    pub(crate) fn take(&self, max: u32) -> bool {
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |taken| (taken < max).then_some(taken + 1)).is_ok()
    }

    /// Gives a place back. The time first: between the two steps somebody may look.
    pub(crate) fn give_back(&self, now_ms: u64) {
        self.given_back_ms.store(now_ms.max(1), Ordering::SeqCst);
        self.taken.fetch_sub(1, Ordering::SeqCst);
    }

    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Ordering::SeqCst)
    }

    /// While no place is taken: since when, 0 for ever. `None` while one is. The count first, as `give_back` says.
    pub(crate) fn empty_since_ms(&self) -> Option<u64> {
        (self.taken() == 0).then(|| self.given_back_ms.load(Ordering::SeqCst))
    }
}
