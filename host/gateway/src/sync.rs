//! The atomics and the lock of the few files that tests/loom also compiles, with every interleaving tried. Knows nothing.
//! Invariant: those files take theirs from here and from nowhere else.

pub use parking_lot::Mutex;
pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
