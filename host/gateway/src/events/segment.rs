//! One frame of a worker, checked and indexed, immutable from then on. Knows where its events are,
//! not who reads them. Invariant: its bytes are those that came through the pipe, and stay on the
//! session's account until the last slice of them is dropped.

use super::{
    budget::SessionBytes,
    wire::{self, FrameError, Indexed, Kind},
};
use bytes::Bytes;
use std::{mem::size_of, sync::Arc};

/// The events `first..=last`.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) arrived_ms: u64,
    /// Each event with its tag and length, so that any run of events is a valid part of a batch.
    bytes: Bytes,
    /// One for each event, in order.
    index: Box<[Indexed]>,
}

// === impl Segment ===

impl Segment {
    /// Checks and indexes a frame. The index is the only thing allocated, at its final size.
    pub(super) fn check(
        first: u64,
        count: u32,
        bytes: Bytes,
        arrived_ms: u64,
        account: &Arc<SessionBytes>,
    ) -> Result<Self, FrameError> {
        // `walk` refuses a count that the bytes cannot hold before the first event; so does this, before reserving.
        let mut index = Vec::with_capacity((count as usize).min(bytes.len() / 11));
        wire::walk(&bytes, first, count, |entry| index.push(entry))?;
        let last = first + (u64::from(count) - 1);
        let cost = Self::cost(bytes.len(), index.len());
        Ok(Self { first, last, arrived_ms, bytes: account.charged(bytes, cost), index: index.into() })
    }

    /// What a frame of `bytes` bytes and `events` events counts on the account.
    pub(super) fn cost(bytes: usize, events: usize) -> u64 {
        (size_of::<Self>() + bytes + events * size_of::<Indexed>()) as u64
    }

    /// Number of events.
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn index(&self) -> &[Indexed] {
        &self.index
    }

    pub(super) fn contains(&self, sequence: u64) -> bool {
        (self.first..=self.last).contains(&sequence)
    }

    /// Where event number `nth` begins; the end of all for `nth == len`.
    pub(super) fn start(&self, nth: usize) -> usize {
        self.index.get(nth).map_or(self.bytes.len(), |entry| entry.offset as usize)
    }

    /// Bytes of the events `lo..hi`.
    pub(super) fn bytes_between(&self, lo: usize, hi: usize) -> usize {
        self.start(hi) - self.start(lo)
    }

    /// The events from `lo` that fit into `events_max` and `bytes_max`, at least one; as the end of a range.
    pub(super) fn fit(&self, lo: usize, events_max: usize, bytes_max: usize) -> usize {
        let hi = (lo + events_max.max(1)).min(self.len());
        if self.bytes_between(lo, hi) <= bytes_max {
            return hi;
        }
        let end = self.start(lo) + bytes_max;
        let after = &self.index[lo + 1..hi];
        // The first event of the range whose end lies beyond `end` begins at or after the one before it ends.
        lo + 1 + after.partition_point(|entry| entry.offset as usize <= end).saturating_sub(1)
    }

    /// The events `lo..hi` as they are, without copying.
    pub(super) fn slice(&self, lo: usize, hi: usize) -> Bytes {
        self.bytes.slice(self.start(lo)..self.start(hi))
    }

    /// The events `lo..hi` to be copied from.
    pub(super) fn raw(&self, lo: usize, hi: usize) -> &[u8] {
        &self.bytes[self.start(lo)..self.start(hi)]
    }

    /// One event without its tag and length, sharing the segment's memory.
    pub(super) fn event(&self, nth: usize) -> Bytes {
        let prefix = wire::strip_prefix_len(self.raw(nth, nth + 1));
        self.bytes.slice(self.start(nth) + prefix..self.start(nth + 1))
    }

    /// Data changes of items, newest first: (place, item).
    pub(super) fn data_changes_back(&self) -> impl Iterator<Item = (usize, u64)> {
        let changes = |(nth, entry): (usize, &Indexed)| {
            (entry.kind == Kind::DataChange && entry.item != 0).then_some((nth, entry.item))
        };
        self.index.iter().enumerate().rev().filter_map(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{
        LogBudget,
        wire::tests::{event, prefixed},
    };

    #[test]
    fn as_many_events_fit_as_there_is_room_for_and_never_none() {
        let sizes = [10, 500, 10, 10, 3_000];
        let events: Vec<_> =
            sizes.iter().zip(1..).map(|(size, seq)| prefixed(&event(seq, 1, Kind::DataChange, *size))).collect();
        let account = Arc::new(SessionBytes::new(u64::MAX, Arc::new(LogBudget::new(u64::MAX))));
        let segment = Segment::check(1, 5, events.concat().into(), 0, &account).expect("a right frame");
        for lo in 0..5 {
            for bytes_max in [1, 50, 600, 650, 700, 5_000] {
                for events_max in 1..6 {
                    let (mut hi, mut bytes) = (lo + 1, events[lo].len());
                    while hi < 5 && hi - lo < events_max && bytes + events[hi].len() <= bytes_max {
                        bytes += events[hi].len();
                        hi += 1;
                    }
                    assert_eq!(segment.fit(lo, events_max, bytes_max), hi, "{lo} {events_max} {bytes_max}");
                }
            }
        }
    }
}
