//! Counts the bytes that logs hold: for each session and for the whole gateway. Knows nothing of
//! what the bytes are. Invariant: a charge is taken back exactly once, when the last slice of what it
//! stands for is dropped, so slices on their way to a socket are counted.

use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// The bytes of all sessions and their bound. One for each gateway.
#[derive(Debug)]
pub struct LogBudget {
    max: u64,
    used: AtomicU64,
}

/// The bytes of one session, which count for the gateway too.
#[derive(Debug)]
pub(super) struct SessionBytes {
    max: u64,
    used: AtomicU64,
    gateway: Arc<LogBudget>,
}

/// Some bytes on the account until dropped.
#[derive(Debug)]
pub(super) struct Charge {
    cost: u64,
    account: Arc<SessionBytes>,
}

/// Bytes that carry their charge with them, into every slice.
struct Charged {
    bytes: Bytes,
    _charge: Charge,
}

// === impl LogBudget ===

impl LogBudget {
    /// `max` in bytes; semantics.md says 1 GiB.
    pub fn new(max: u64) -> Self {
        Self { max, used: AtomicU64::new(0) }
    }

    /// Bytes in use by all sessions.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub fn max(&self) -> u64 {
        self.max
    }
}

// === impl SessionBytes ===

impl SessionBytes {
    pub(super) fn new(max: u64, gateway: Arc<LogBudget>) -> Self {
        Self { max, used: AtomicU64::new(0), gateway }
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The bytes this session may come to hold, as things stand: its own bound, or what the others leave it.
    pub(super) fn room(&self) -> u64 {
        let elsewhere = self.gateway.used().saturating_sub(self.used());
        self.max.min(self.gateway.max.saturating_sub(elsewhere))
    }

    /// Whether this session or all of them hold more than they may.
    pub(super) fn is_over(&self) -> bool {
        self.used() > self.max || self.gateway.used() > self.gateway.max
    }

    pub(super) fn charge(self: &Arc<Self>, cost: u64) -> Charge {
        self.used.fetch_add(cost, Ordering::Relaxed);
        self.gateway.used.fetch_add(cost, Ordering::Relaxed);
        Charge { cost, account: Arc::clone(self) }
    }

    /// The same bytes, on the account until their last slice is gone. One allocation, no copy.
    pub(super) fn charged(self: &Arc<Self>, bytes: Bytes, cost: u64) -> Bytes {
        Bytes::from_owner(Charged { bytes, _charge: self.charge(cost) })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.account.used.fetch_sub(self.cost, Ordering::Relaxed);
        self.account.gateway.used.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_keeps_the_charge_until_it_is_dropped() {
        let gateway = Arc::new(LogBudget::new(100));
        let session = Arc::new(SessionBytes::new(50, Arc::clone(&gateway)));
        let bytes = session.charged(Bytes::from_static(b"0123456789"), 60);
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert!(session.is_over());
        assert_eq!((session.used(), gateway.used()), (60, 60));
        drop(slice);
        assert!(!session.is_over());
        assert_eq!((session.used(), gateway.used()), (0, 0));
    }
}
