//! Which data changes a newer one stands for, within a stretch of the log. Knows segments, not
//! readers or verdicts. Invariants: only data changes of items are ever conflated, the newest of each
//! item in the stretch never is, and a plan is bounded in events and so in memory.

use super::{segment::Segment, wire::Kind};
use std::{collections::HashMap, sync::Arc};

/// Events that one plan covers at most; a reader further behind gets another plan after it. Bounds the map at
/// about 2 MiB.
pub(super) const PLAN_EVENTS_MAX: u64 = 65_536;

/// The newest data change per item of a stretch.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) to: u64,
    newest: HashMap<u64, u64>,
}

// === impl Plan ===

impl Plan {
    /// The end of the plan for a reader at `position`.
    pub(super) fn end(position: u64, head: u64) -> u64 {
        head.min(position.saturating_add(PLAN_EVENTS_MAX))
    }

    /// For the events after `position` up to `to`, which `segments` hold, oldest first.
    pub(super) fn new(position: u64, to: u64, segments: &[Arc<Segment>]) -> Self {
        let mut newest = HashMap::new();
        for segment in segments.iter().rev() {
            for (nth, item) in segment.data_changes_back() {
                let sequence = segment.first + nth as u64;
                if sequence > position && sequence <= to {
                    newest.entry(item).or_insert(sequence);
                }
            }
        }
        Self { to, newest }
    }

    /// Whether a newer event of the plan stands for this one.
    pub(super) fn drops(&self, sequence: u64, item: u64, kind: Kind) -> bool {
        kind == Kind::DataChange && self.newest.get(&item).is_some_and(|newest| *newest > sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{
        LogBudget,
        budget::SessionBytes,
        wire::tests::{event, prefixed},
    };

    #[test]
    fn a_plan_knows_nothing_outside_of_its_stretch() {
        let account = Arc::new(SessionBytes::new(u64::MAX, Arc::new(LogBudget::new(u64::MAX))));
        let events: Vec<_> = (1..=6).map(|sequence| prefixed(&event(sequence, 1, Kind::DataChange, 3))).collect();
        let segment = Segment::check(1, 6, events.concat().into(), 0, &account).expect("a right frame");
        let plan = Plan::new(1, 4, &[Arc::new(segment)]);
        let dropped: Vec<_> = (1..=6).filter(|sequence| plan.drops(*sequence, 1, Kind::DataChange)).collect();
        assert_eq!(dropped, [1, 2, 3], "4 is the newest of the stretch, whatever comes later");
        assert!(!plan.drops(2, 1, Kind::WriteComplete) && !plan.drops(2, 9, Kind::DataChange));
        assert_eq!(Plan::end(10, u64::MAX), 10 + PLAN_EVENTS_MAX);
        assert_eq!(Plan::end(u64::MAX - 1, u64::MAX), u64::MAX);
    }
}
