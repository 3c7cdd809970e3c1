//! The newest data change of each item whose segment has left the ring. Knows segments, not readers;
//! copies a value only when its segment leaves. Invariants: bounded in items and bytes (an item that
//! does not fit has no entry rather than an old one), and a forgotten item does not come back.

use super::{LogBounds, segment::Segment};
use bytes::Bytes;
use std::collections::{HashMap, HashSet, VecDeque, hash_map::Entry};

/// Forgotten items that are remembered as such, oldest dropped first: one for each item that can be
/// removed while events of it are still in a full log. Guessed, generously.
const TOMBSTONES_MAX: usize = 65_536;

/// The last data change of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastValue {
    pub sequence: u64,
    /// One `tidegate.v1.Event` as the worker encoded it.
    pub event: Bytes,
}

#[derive(Debug)]
pub(super) struct LastValues {
    values: HashMap<u64, LastValue>,
    bytes: u64,
    values_max: usize,
    bytes_max: u64,
    /// Folded values that found no room.
    refused: u64,
    forgotten: HashSet<u64>,
    forgotten_order: VecDeque<u64>,
}

// === impl LastValues ===

impl LastValues {
    pub(super) fn new(bounds: &LogBounds) -> Self {
        Self {
            values: HashMap::new(),
            bytes: 0,
            values_max: bounds.last_values_max,
            bytes_max: bounds.last_value_bytes_max,
            refused: 0,
            forgotten: HashSet::new(),
            forgotten_order: VecDeque::new(),
        }
    }

    /// Takes over the newest value of each item of a segment that leaves. Segments come oldest first.
    pub(super) fn fold(&mut self, segment: &Segment) {
        // Items of this segment that found no room: an older value of theirs must not take it.
        let mut without_room = HashSet::new();
        for (nth, item) in segment.data_changes_back() {
            if self.is_forgotten(item) || (!without_room.is_empty() && without_room.contains(&item)) {
                continue;
            }
            let sequence = segment.first + nth as u64;
            let room = self.values.len() < self.values_max;
            match self.values.entry(item) {
                // From behind: the first of an item within the segment is its newest.
                Entry::Occupied(held) if held.get().sequence >= sequence => {}
                Entry::Occupied(mut held) => {
                    let shared = segment.event(nth);
                    let bytes = self.bytes - held.get().event.len() as u64 + shared.len() as u64;
                    if bytes > self.bytes_max {
                        self.bytes -= held.remove().event.len() as u64;
                        self.refused += 1;
                        without_room.insert(item);
                    } else {
                        held.insert(LastValue { sequence, event: Bytes::copy_from_slice(&shared) });
                        self.bytes = bytes;
                    }
                }
                Entry::Vacant(free) => {
                    let shared = segment.event(nth);
                    let bytes = self.bytes + shared.len() as u64;
                    if !room || bytes > self.bytes_max {
                        self.refused += 1;
                        without_room.insert(item);
                    } else {
                        free.insert(LastValue { sequence, event: Bytes::copy_from_slice(&shared) });
                        self.bytes = bytes;
                    }
                }
            }
        }
    }

    /// Takes over what a worker says that it told before the log began, unless something newer is known.
    pub(super) fn restore(&mut self, item: u64, value: LastValue) {
        let newer = self.values.get(&item).is_some_and(|held| held.sequence >= value.sequence);
        if newer || self.is_forgotten(item) {
            return;
        }
        let replaced = self.values.remove(&item);
        let bytes = self.bytes - replaced.map_or(0, |held| held.event.len() as u64) + value.event.len() as u64;
        if self.values.len() >= self.values_max || bytes > self.bytes_max {
            self.bytes = bytes - value.event.len() as u64;
            self.refused += 1;
            return;
        }
        self.bytes = bytes;
        self.values.insert(item, value);
    }

    /// The item was removed: its value goes, and values of it still in the ring do not count.
    pub(super) fn forget(&mut self, item: u64) {
        if let Some(value) = self.values.remove(&item) {
            self.bytes -= value.event.len() as u64;
        }
        if self.forgotten.insert(item) {
            self.forgotten_order.push_back(item);
            if self.forgotten_order.len() > TOMBSTONES_MAX
                && let Some(oldest) = self.forgotten_order.pop_front()
            {
                self.forgotten.remove(&oldest);
            }
        }
    }

    pub(super) fn is_forgotten(&self, item: u64) -> bool {
        !self.forgotten.is_empty() && self.forgotten.contains(&item)
    }

    pub(super) fn values(&self) -> &HashMap<u64, LastValue> {
        &self.values
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{
        LogBudget,
        budget::SessionBytes,
        wire::{
            Kind,
            tests::{event, prefixed},
        },
    };
    use std::sync::Arc;

    /// Data changes from `first`: (item, bytes of text).
    fn segment(first: u64, changes: &[(u64, usize)]) -> Segment {
        let account = Arc::new(SessionBytes::new(u64::MAX, Arc::new(LogBudget::new(u64::MAX))));
        let events: Vec<_> = (first..)
            .zip(changes)
            .map(|(seq, (item, size))| prefixed(&event(seq, *item, Kind::DataChange, *size)))
            .collect();
        Segment::check(first, changes.len() as u32, events.concat().into(), 0, &account).expect("a right frame")
    }

    fn held(values: &LastValues) -> Vec<(u64, u64)> {
        let sum: usize = values.values.values().map(|value| value.event.len()).sum();
        assert_eq!(sum as u64, values.bytes());
        let mut held: Vec<_> = values.values.iter().map(|(item, value)| (*item, value.sequence)).collect();
        held.sort_unstable();
        held
    }

    #[test]
    fn what_does_not_fit_is_absent_rather_than_old() {
        let bounds = LogBounds { last_values_max: 3, last_value_bytes_max: 600, ..LogBounds::default() };
        let mut values = LastValues::new(&bounds);
        values.fold(&segment(1, &[(1, 10), (2, 10), (1, 20)]));
        assert_eq!(held(&values), [(1, 3), (2, 2)]);
        // An older value of the item fits, but is not its last one.
        values.fold(&segment(4, &[(1, 10), (1, 5_000)]));
        assert_eq!((held(&values), values.refused()), (vec![(2, 2)], 1));
        values.fold(&segment(6, &[(3, 1), (4, 1), (5, 1)]));
        assert_eq!((held(&values), values.refused()), (vec![(2, 2), (4, 7), (5, 8)], 2));
    }

    // shows: W-06
    #[test]
    fn what_a_worker_told_before_is_taken_within_the_bounds_and_never_over_something_newer() {
        let bounds = LogBounds { last_values_max: 3, last_value_bytes_max: 600, ..LogBounds::default() };
        let mut values = LastValues::new(&bounds);
        let told = |sequence, bytes| LastValue { sequence, event: Bytes::from(vec![0; bytes]) };
        values.fold(&segment(10, &[(1, 10)]));
        values.forget(4);
        for (item, value) in [(1, told(9, 20)), (2, told(3, 20)), (2, told(2, 20)), (4, told(5, 20))] {
            values.restore(item, value);
        }
        assert_eq!((held(&values), values.refused()), (vec![(1, 10), (2, 3)], 0));
        values.restore(3, told(4, 5_000));
        values.restore(2, told(4, 30));
        values.restore(3, told(4, 30));
        values.restore(5, told(4, 1));
        assert_eq!((held(&values), values.refused()), (vec![(1, 10), (2, 4), (3, 4)], 2));
    }

    #[test]
    fn forgotten_items_are_bounded_and_do_not_come_back() {
        let mut values = LastValues::new(&LogBounds::default());
        values.fold(&segment(1, &[(1, 10), (2, 10)]));
        values.forget(1);
        values.forget(1);
        values.fold(&segment(3, &[(1, 10)]));
        assert_eq!(held(&values), [(2, 2)]);
        for item in 10..10 + TOMBSTONES_MAX as u64 {
            values.forget(item);
        }
        assert_eq!((values.forgotten.len(), values.forgotten_order.len()), (TOMBSTONES_MAX, TOMBSTONES_MAX));
        assert!(!values.is_forgotten(1) && values.is_forgotten(10));
    }
}
