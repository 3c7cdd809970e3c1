//! Time as a value that is handed in: milliseconds that only rise (ages, deadlines) and
//! milliseconds since 1970 (what people read). Knows no timers: what waits uses tokio's and decides
//! by this clock. Invariant: `monotonic_ms` never goes back.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

/// Where a part gets the time from.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Milliseconds from an arbitrary start; never goes back.
    fn monotonic_ms(&self) -> u64;
    /// Milliseconds since 1970; may jump when someone sets the machine's time.
    fn unix_ms(&self) -> u64;
}

/// The machine's time.
#[derive(Debug)]
pub struct SystemClock {
    origin: Instant,
}

/// Time that stands still until a test moves it. Starts far from zero, so that "long ago" exists.
#[derive(Debug)]
pub struct ManualClock {
    monotonic_ms: AtomicU64,
    unix_offset_ms: AtomicI64,
}

// === impl SystemClock ===

impl SystemClock {
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn unix_ms(&self) -> u64 {
        // A machine whose clock stands before 1970 reads as 1970.
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

// === impl ManualClock ===

impl ManualClock {
    pub fn new() -> Self {
        Self { monotonic_ms: AtomicU64::new(1_000_000), unix_offset_ms: AtomicI64::new(1_700_000_000_000) }
    }

    /// Moves both readings on.
    pub fn advance_ms(&self, by: u64) {
        self.monotonic_ms.fetch_add(by, Ordering::SeqCst);
    }

    /// As someone who sets the machine's time; the monotonic reading does not feel it.
    pub fn set_unix_ms(&self, to: u64) {
        self.unix_offset_ms.store(to as i64 - self.monotonic_ms() as i64, Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }

    fn unix_ms(&self) -> u64 {
        (self.unix_offset_ms.load(Ordering::SeqCst) + self.monotonic_ms() as i64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_clock_moves_only_when_told() {
        let clock = ManualClock::new();
        let (monotonic, unix) = (clock.monotonic_ms(), clock.unix_ms());
        clock.advance_ms(1_500);
        assert_eq!((clock.monotonic_ms(), clock.unix_ms()), (monotonic + 1_500, unix + 1_500));
        let system = SystemClock::new();
        assert!(system.monotonic_ms() <= system.monotonic_ms());
    }
}
