//! The event log of one session: what the worker sent, kept once, read by many cursors.
//! Knows frames, segments, readers and time; never sessions, policies or the transport. Invariants:
//! the pump's `append` costs the same however many readers there are, and for every reader
//! delivered + filtered + conflated + gapped = produced, each sequence once and in order.

mod batch;
mod budget;
mod conflate;
mod cursor;
mod last_values;
mod log;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
mod model_tests;
mod pace;
pub mod pressure;
mod reader;
mod ring;
mod segment;
pub mod wire;

pub use batch::{BATCH_BYTES, BATCH_EVENTS, Batch, Next, View};
pub use budget::LogBudget;
pub use cursor::Cursor;
pub use last_values::LastValue;
pub use log::{Appended, AttachError, Log, LogStats, Snapshot, Start};
pub use pace::ReaderPace;
pub use reader::{Order, ReaderControl, ReaderMode, ReaderSpec};
pub use wire::{BatchHeader, FrameError, Kind};

/// Why a stream ended: what its client will be told.
pub type EndReason = crate::error::Error;

/// How much a log keeps. The operator sets it; the log reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// Events a resume can reach back (S-04). 0: nothing is kept for a resume.
    pub replay_buffer_capacity: u64,
    /// Age a resume can reach back, in milliseconds (S-04). 0: age does not matter.
    pub replay_retention_ms: u64,
    /// Events an attached reader may be behind before they leave without it.
    pub lag_events_max: u64,
    /// Bytes of this session, index and slices on their way to a socket included.
    pub log_bytes_max: u64,
    /// Items whose last value is remembered beyond the log; more are not answered by a snapshot.
    pub last_values_max: usize,
    /// Bytes of those values.
    pub last_value_bytes_max: u64,
}

/// Events that a reader will not get, told instead of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    pub from: u64,
    pub to: u64,
    pub reason: GapReason,
}

/// Why events cannot be delivered. The numbers are those of `tidegate.v1.Gap.Reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GapReason {
    /// They had left the log.
    Evicted = 1,
    /// The back-pressure policy moved the reader on.
    Skipped = 2,
    /// The reader knew another epoch.
    Restarted = 3,
}

impl LogBounds {
    /// What a floor that is held leaves: three quarters of what attached readers may be behind, so that who comes back at
    /// the floor can catch up before it is under pressure. Guessed.
    fn held_events(&self) -> u64 {
        self.lag_events_max / 4 * 3
    }
}

impl Default for LogBounds {
    /// The numbers of S-04 and semantics.md; those of the last values are guessed.
    fn default() -> Self {
        Self {
            replay_buffer_capacity: 1_024,
            replay_retention_ms: 300_000,
            lag_events_max: 10_000,
            log_bytes_max: 16 << 20,
            last_values_max: 131_072,
            last_value_bytes_max: 16 << 20,
        }
    }
}

/// The gap rule (S-05): events newer than `after` were evicted iff `after` lies below the floor.
/// Nothing ever seen means a floor of 0 and no gap; nothing kept means that the floor is the head.
pub(crate) fn gap_after(after: u64, evicted_through: u64) -> Option<Gap> {
    // `after` is smaller than another u64 here, so adding one cannot overflow.
    (after < evicted_through).then(|| Gap { from: after + 1, to: evicted_through, reason: GapReason::Evicted })
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: S-05
    #[test]
    fn the_gap_rule_holds_at_both_ends_of_the_numbers() {
        assert_eq!(gap_after(0, 0), None, "never seen anything");
        assert_eq!(gap_after(u64::MAX, 0), None);
        assert_eq!(gap_after(u64::MAX, u64::MAX), None);
        assert_eq!(gap_after(4, 4), None, "oldest is 5: nothing missing");
        assert_eq!(gap_after(3, 4).map(|gap| (gap.from, gap.to)), Some((4, 4)));
        assert_eq!(gap_after(0, u64::MAX).map(|gap| (gap.from, gap.to)), Some((1, u64::MAX)));
        let last = gap_after(u64::MAX - 1, u64::MAX).expect("one event is missing");
        assert_eq!((last.from, last.to), (u64::MAX, u64::MAX));
    }
}
