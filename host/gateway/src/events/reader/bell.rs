//! How a reader that waits is woken, and how a swap learns what a stream may have sent. Knows sequences, no events and no
//! streams. Invariants: of 'wait, then look at the head' and 'move the head, then ring' at least one sees the other; of 'intend,
//! then compare the generation' and 'change the generation, then read the fence' at least one sees the other. Tried in
//! every interleaving by tests/loom.

use crate::sync::{AtomicU64, Mutex, Ordering, fence};

/// Wakes one waiter once an event that it waits for is there.
#[derive(Debug)]
pub(crate) struct Bell<W> {
    waiter: Mutex<Option<W>>,
    /// The waiter is not to be woken by events before this one.
    wake_from: AtomicU64,
}

/// The newest sequence that may be in the transport.
#[derive(Debug)]
pub(crate) struct Fence(AtomicU64);

// === impl Bell ===

impl<W> Bell<W> {
    pub(crate) fn new() -> Self {
        Self { waiter: Mutex::new(None), wake_from: AtomicU64::new(0) }
    }

    /// Waits for an event from `wake_from` on. The caller looks at the head again afterwards, so nothing is missed.
    /// `keep` says whether the waiter that is there already will do.
    pub(crate) fn wait(&self, wake_from: u64, keep: impl FnOnce(&W) -> bool, waiter: impl FnOnce() -> W) {
        self.wake_from.store(wake_from, Ordering::SeqCst);
        let mut held = self.waiter.lock();
        if !held.as_ref().is_some_and(keep) {
            *held = Some(waiter());
        }
    }

    /// The waiter, if it waits for an event that `head` has reached. The head is where others see it by now.
    pub(crate) fn ring_at(&self, head: u64) -> Option<W> {
        if head < self.wake_from.load(Ordering::SeqCst) {
            return None;
        }
        self.ring()
    }

    /// The waiter, whatever it waits for.
    pub(crate) fn ring(&self) -> Option<W> {
        self.waiter.lock().take()
    }
}

// === impl Fence ===

impl Fence {
    pub(crate) fn new(position: u64) -> Self {
        Self(AtomicU64::new(position))
    }

    /// Published before the generation is compared: the barrier is one half of the agreement above.
    pub(crate) fn intend(&self, to: u64) {
        self.0.store(to, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Read after the generation was changed: the barrier is the other half.
    pub(crate) fn read(&self) -> u64 {
        fence(Ordering::SeqCst);
        self.0.load(Ordering::Acquire)
    }
}
