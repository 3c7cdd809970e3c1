//! The segments that are there, in order, and the two bounds on them: the replay floor, logical and
//! exact for each event, and what is physically held, in whole segments. Knows neither locks nor
//! readers. Invariants: segments join without a hole, and the floor only rises; one that is held rises later, never lower.

use super::{EndReason, LogBounds, segment::Segment};
use std::{collections::VecDeque, sync::Arc};

#[derive(Debug)]
pub(super) struct Ring {
    segments: VecDeque<Arc<Segment>>,
    /// How many segments have left, ever: the ordinal of the oldest one held.
    left: u64,
    /// The newest sequence ever seen; 0 before the first.
    pub(super) head: u64,
    /// No resume reaches back to this or an older event.
    evicted_through: u64,
    /// Ordinal of the oldest segment that is not too old for a resume.
    young: u64,
    /// Until then the floor leaves `LogBounds::held_events`; 0: it is not held.
    held_until_ms: u64,
    /// Set once; readers drain what is there and then end with it.
    pub(super) closed: Option<EndReason>,
}

// === impl Ring ===

impl Ring {
    /// A ring whose next event follows `head`.
    pub(super) fn new(head: u64) -> Self {
        let (segments, left, young, held_until_ms) = (VecDeque::new(), 0, 0, 0);
        Self { segments, left, head, evicted_through: head, young, held_until_ms, closed: None }
    }

    /// Holds the floor until this time, `u64::MAX` for until it is said.
    pub(super) fn hold(&mut self, until_ms: u64) {
        self.held_until_ms = until_ms;
    }

    pub(super) fn is_held(&self) -> bool {
        self.held_until_ms > 0
    }

    pub(super) fn push(&mut self, segment: Arc<Segment>) {
        self.head = segment.last;
        self.segments.push_back(segment);
    }

    pub(super) fn len(&self) -> usize {
        self.segments.len()
    }

    /// The sequence before the oldest event held; the head when nothing is.
    pub(super) fn held_after(&self) -> u64 {
        self.segments.front().map_or(self.head, |oldest| oldest.first - 1)
    }

    /// Brings the replay floor up to date: by count, by age, and by what has physically left.
    pub(super) fn raise_floor(&mut self, now_ms: u64, bounds: &LogBounds) -> u64 {
        let capacity = match bounds.replay_buffer_capacity {
            // Nothing is kept for a resume, whoever is on the way.
            0 => 0,
            capacity if now_ms < self.held_until_ms => capacity.max(bounds.held_events()),
            capacity => capacity,
        };
        let by_count = self.head.saturating_sub(capacity);
        self.evicted_through = self.evicted_through.max(by_count).max(self.held_after());
        if bounds.replay_retention_ms > 0 {
            self.young = self.young.max(self.left);
            // Each segment ages once, so this is constant for each append in the long run.
            while let Some(segment) = self.segments.get((self.young - self.left) as usize) {
                if now_ms.saturating_sub(segment.arrived_ms) <= bounds.replay_retention_ms {
                    break;
                }
                self.evicted_through = self.evicted_through.max(segment.last);
                self.young += 1;
            }
        }
        self.evicted_through
    }

    /// Takes out the oldest segment when all of its events are at or below `through`.
    pub(super) fn pop_through(&mut self, through: u64) -> Option<Arc<Segment>> {
        (self.segments.front()?.last <= through).then(|| self.pop())?
    }

    /// Takes out the oldest segment, unless it is the newest as well.
    pub(super) fn pop_but_newest(&mut self) -> Option<Arc<Segment>> {
        (self.segments.len() > 1).then(|| self.pop())?
    }

    fn pop(&mut self) -> Option<Arc<Segment>> {
        let segment = self.segments.pop_front()?;
        self.left += 1;
        Some(segment)
    }

    /// The ordinal of the segment with this event. `hint` is where it was or comes next: a reader that
    /// reads on finds its place without searching.
    pub(super) fn find(&self, sequence: u64, hint: u64) -> Option<u64> {
        let at = |ordinal: u64| self.get(ordinal).is_some_and(|segment| segment.contains(sequence));
        if at(hint) {
            return Some(hint);
        }
        if at(hint.saturating_add(1)) {
            return Some(hint + 1);
        }
        let nth = self.segments.partition_point(|segment| segment.last < sequence);
        let ordinal = self.left + nth as u64;
        at(ordinal).then_some(ordinal)
    }

    pub(super) fn get(&self, ordinal: u64) -> Option<&Arc<Segment>> {
        self.segments.get(usize::try_from(ordinal.checked_sub(self.left)?).ok()?)
    }

    /// The segments from this ordinal on.
    pub(super) fn from(&self, ordinal: u64) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        let skip = usize::try_from(ordinal.saturating_sub(self.left)).unwrap_or(usize::MAX).min(self.segments.len());
        self.segments.range(skip..)
    }

    /// All segments, oldest first.
    pub(super) fn all(&self) -> impl DoubleEndedIterator<Item = &Arc<Segment>> {
        self.segments.iter()
    }
}
