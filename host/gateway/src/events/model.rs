//! semantics.md as the simplest program that says it: a list of all events ever, and for each reader
//! what it was told. Nothing is fast and nothing is shared with the log but the numbers of its limits
//! and what a segment costs. The log must answer as this does.

use super::{
    BATCH_BYTES, BATCH_EVENTS, Gap, GapReason, Kind, LogBounds, Start,
    batch::{ADVANCE_MS, COPY_BYTES, SCAN_EVENTS, SMALL_BYTES},
    conflate::PLAN_EVENTS_MAX,
    segment::Segment,
};
use std::collections::{HashMap, HashSet};

pub(super) struct Model {
    pub(super) epoch: u64,
    pub(super) bounds: LogBounds,
    pub(super) gateway_bytes_max: u64,
    /// Bytes of other sessions.
    pub(super) other_bytes: u64,
    pub(super) now_ms: u64,
    /// Sequence = index + 1.
    pub(super) events: Vec<ModelEvent>,
    pub(super) frames: Vec<Frame>,
    pub(super) forgotten: HashSet<u64>,
    pub(super) closed: bool,
    /// Until then the floor leaves three quarters of what an attached reader would be left.
    pub(super) held_until_ms: u64,
    floor: u64,
}

#[derive(Clone)]
pub(super) struct ModelEvent {
    pub(super) item: u64,
    pub(super) kind: Kind,
    /// With tag and length.
    pub(super) bytes: Vec<u8>,
    pub(super) arrived_ms: u64,
    /// Index into `Model::frames`: segments leave whole.
    pub(super) frame: usize,
}

pub(super) struct Frame {
    first: u64,
    last: u64,
    cost: u64,
    is_held: bool,
    /// Payloads that share its memory.
    pub(super) slices: usize,
}

pub(super) struct ModelReader {
    pub(super) position: u64,
    pub(super) linger_ms: u64,
    start_gap: Option<Gap>,
    skip_to: u64,
    conflation: ModelConflation,
    sent_ms: Option<u64>,
    flush_to: u64,
    ended: bool,
    pub(super) orders: ModelOrders,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ModelConflation {
    Off,
    Ordered,
    Until(u64),
}

#[derive(Default)]
pub(super) struct ModelOrders {
    pub(super) conflate: bool,
    pub(super) keep_newest: Option<u64>,
    pub(super) end: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expected {
    Pending,
    Ended,
    Gap(Gap),
    Batch {
        from: u64,
        to: u64,
        events: u64,
        filtered: u64,
        conflated: u64,
        lag: u64,
        payload: Vec<u8>,
        /// The frame whose memory the payload shares.
        shares: Option<usize>,
    },
}

type Sees<'a> = Option<&'a dyn Fn(u64) -> bool>;

/// Sequences to be sent, counts of the others, and where it ends.
struct Found {
    to: u64,
    seen: Vec<u64>,
    filtered: u64,
    conflated: u64,
    full: bool,
}

// === impl Model ===

impl Model {
    pub(super) fn new(epoch: u64, bounds: LogBounds, gateway_bytes_max: u64, now_ms: u64) -> Self {
        Self {
            epoch,
            bounds,
            gateway_bytes_max,
            other_bytes: 0,
            now_ms,
            events: Vec::new(),
            frames: Vec::new(),
            forgotten: HashSet::new(),
            closed: false,
            held_until_ms: 0,
            floor: 0,
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.events.len() as u64
    }

    fn event(&self, sequence: u64) -> &ModelEvent {
        &self.events[sequence as usize - 1]
    }

    fn size(&self, sequences: impl IntoIterator<Item = u64>) -> usize {
        sequences.into_iter().map(|sequence| self.event(sequence).bytes.len()).sum()
    }

    pub(super) fn append(&mut self, events: Vec<(u64, Kind, Vec<u8>)>) {
        let frame = self.frames.len();
        let bytes: usize = events.iter().map(|(_, _, bytes)| bytes.len()).sum();
        let cost = Segment::cost(bytes, events.len());
        let first = self.head() + 1;
        let arrived_ms = self.now_ms;
        self.events.extend(events.into_iter().map(|(item, kind, bytes)| ModelEvent {
            item,
            kind,
            bytes,
            arrived_ms,
            frame,
        }));
        self.frames.push(Frame { first, last: self.head(), cost, is_held: true, slices: 0 });
        // Out of reach of every reader and every resume.
        let kept = self.bounds.lag_events_max.max(self.bounds.replay_buffer_capacity).max(1);
        let through = self.head().saturating_sub(kept);
        self.leave_through(through);
        self.make_room();
    }

    pub(super) fn trim(&mut self, positions: impl Iterator<Item = u64>) {
        let through = positions.min().unwrap_or(u64::MAX).min(self.floor());
        self.leave_through(through);
        self.make_room();
    }

    fn leave_through(&mut self, through: u64) {
        self.frames.iter_mut().filter(|frame| frame.last <= through).for_each(|frame| frame.is_held = false);
    }

    fn make_room(&mut self) {
        while (self.bytes() > self.bounds.log_bytes_max || self.bytes() + self.other_bytes > self.gateway_bytes_max)
            && self.segments() > 1
        {
            let oldest = self.frames.iter_mut().find(|frame| frame.is_held).expect("more than one is held");
            oldest.is_held = false;
        }
    }

    pub(super) fn segments(&self) -> usize {
        self.frames.iter().filter(|frame| frame.is_held).count()
    }

    /// What is held, and what left the log but is on its way to a socket.
    pub(super) fn bytes(&self) -> u64 {
        self.frames.iter().filter(|frame| frame.is_held || frame.slices > 0).map(|frame| frame.cost).sum()
    }

    pub(super) fn held_after(&self) -> u64 {
        self.frames.iter().find(|frame| frame.is_held).map_or(self.head(), |frame| frame.first - 1)
    }

    /// Exact per event; never falls.
    pub(super) fn floor(&mut self) -> u64 {
        let retention_ms = self.bounds.replay_retention_ms;
        let mut capacity = self.bounds.replay_buffer_capacity;
        if self.now_ms < self.held_until_ms && capacity > 0 {
            capacity = capacity.max(self.bounds.lag_events_max / 4 * 3);
        }
        let too_many = self.head().saturating_sub(capacity);
        let is_old = |event: &ModelEvent| retention_ms > 0 && self.now_ms - event.arrived_ms > retention_ms;
        let too_old = self.events.iter().rposition(is_old).map_or(0, |index| index as u64 + 1);
        self.floor = self.floor.max(too_many).max(too_old).max(self.held_after());
        self.floor
    }

    pub(super) fn attach(&mut self, start: Start, linger_ms: u64) -> Result<ModelReader, u64> {
        let (head, floor) = (self.head(), self.floor());
        let kept_from =
            |after: u64| (after < floor).then(|| Gap { from: after + 1, to: floor, reason: GapReason::Evicted });
        let (position, start_gap) = match start {
            Start::Live => (head, None),
            Start::Oldest => (0, kept_from(0)),
            Start::Resume { epoch, .. } if epoch != self.epoch => {
                (0, (head > 0).then_some(Gap { from: 1, to: head, reason: GapReason::Restarted }))
            }
            Start::Resume { after, .. } if after > head => return Err(head),
            Start::Resume { after, .. } => (after, kept_from(after)),
        };
        Ok(ModelReader {
            position,
            linger_ms,
            start_gap,
            skip_to: 0,
            conflation: ModelConflation::Off,
            sent_ms: None,
            flush_to: 0,
            ended: false,
            orders: ModelOrders::default(),
        })
    }

    /// The newest data change of each item that was not removed.
    pub(super) fn snapshot(&self) -> HashMap<u64, (u64, &[u8])> {
        let mut values = HashMap::new();
        for (sequence, event) in (1..).zip(&self.events) {
            if event.kind == Kind::DataChange && event.item != 0 && !self.forgotten.contains(&event.item) {
                values.insert(event.item, (sequence, &event.bytes[..]));
            }
        }
        values
    }

    pub(super) fn poll(&self, reader: &mut ModelReader, sees: Sees<'_>) -> Expected {
        let head = self.head();
        let orders = std::mem::take(&mut reader.orders);
        reader.ended |= orders.end;
        if let Some(keep_newest) = orders.keep_newest {
            reader.skip_to = reader.skip_to.max(head.saturating_sub(keep_newest));
        }
        if orders.conflate && reader.conflation == ModelConflation::Off {
            reader.conflation = ModelConflation::Ordered;
        }
        if reader.ended {
            return Expected::Ended;
        }
        if let Some(gap) = reader.start_gap {
            return Expected::Gap(gap);
        }
        let from = reader.position + 1;
        if reader.position < self.held_after() {
            return Expected::Gap(Gap { from, to: self.held_after(), reason: GapReason::Evicted });
        }
        if reader.position < reader.skip_to {
            return Expected::Gap(Gap { from, to: reader.skip_to, reason: GapReason::Skipped });
        }
        let waiting = head - reader.position;
        let goes_on = match reader.conflation {
            ModelConflation::Off => false,
            ModelConflation::Ordered => waiting > 0,
            ModelConflation::Until(to) => reader.position < to || waiting > BATCH_EVENTS as u64,
        };
        reader.conflation = match reader.conflation {
            ModelConflation::Until(to) if goes_on && reader.position < to => ModelConflation::Until(to),
            _ if goes_on => ModelConflation::Until(head.min(reader.position + PLAN_EVENTS_MAX)),
            _ => ModelConflation::Off,
        };
        if waiting == 0 {
            reader.ended |= self.closed;
            return if self.closed { Expected::Ended } else { Expected::Pending };
        }
        let found = match (sees, reader.conflation) {
            (None, ModelConflation::Off) => self.found_whole(reader),
            (None, _) => self.found_seen(reader, &|_| true),
            (Some(sees), _) => self.found_seen(reader, sees),
        };
        if self.holds_back(reader, &found) {
            return Expected::Pending;
        }
        let joined = found.seen.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let frame = found.seen.first().map(|first| self.event(*first).frame);
        let one_frame = found.seen.iter().all(|sequence| Some(self.event(*sequence).frame) == frame);
        Expected::Batch {
            from,
            to: found.to,
            events: found.seen.len() as u64,
            filtered: found.filtered,
            conflated: found.conflated,
            lag: head - found.to,
            payload: found.seen.iter().flat_map(|sequence| self.event(*sequence).bytes.clone()).collect(),
            shares: frame.filter(|_| joined && one_frame),
        }
    }

    fn holds_back(&self, reader: &mut ModelReader, found: &Found) -> bool {
        let Some(sent_ms) = reader.sent_ms else { return false };
        let linger_ms = reader.linger_ms.min(ADVANCE_MS);
        let something = !found.seen.is_empty();
        if found.full || self.closed || found.to <= reader.flush_to || (something && linger_ms == 0) {
            return false;
        }
        let due = self.now_ms >= sent_ms + if something { linger_ms } else { ADVANCE_MS };
        if due {
            reader.flush_to = self.head();
        }
        !due
    }

    /// One segment's rest, or small pieces of several together.
    fn found_whole(&self, reader: &ModelReader) -> Found {
        let after = reader.position;
        let mut pieces: Vec<Vec<u64>> = Vec::new();
        for frame in self.frames.iter().filter(|frame| frame.last > after) {
            pieces.push((frame.first.max(after + 1)..=frame.last).collect());
        }
        let small = if reader.linger_ms == 0 { SMALL_BYTES } else { COPY_BYTES };
        let mut seen: Vec<u64> = Vec::new();
        for (nth, piece) in pieces.iter().enumerate() {
            if nth > 0 {
                let first_is_large = nth == 1 && self.size(seen.clone()) >= small;
                let together = self.size(seen.clone()) + self.size(piece.clone());
                if first_is_large || self.size(piece.clone()) >= small || together > COPY_BYTES {
                    break;
                }
            }
            let mut cut = false;
            let mut bytes = 0;
            for (at, sequence) in piece.iter().enumerate() {
                bytes += self.event(*sequence).bytes.len();
                cut = seen.len() == BATCH_EVENTS || (at > 0 && bytes > BATCH_BYTES);
                if cut {
                    break;
                }
                seen.push(*sequence);
            }
            if cut || seen.len() == BATCH_EVENTS {
                break;
            }
        }
        let waiting = after + 1..=self.head();
        let full = reader.linger_ms == 0
            || waiting.clone().count() >= BATCH_EVENTS
            || self.size(waiting) >= BATCH_BYTES
            || self.size(seen.clone()) >= BATCH_BYTES;
        Found { to: *seen.last().expect("something waits"), seen, filtered: 0, conflated: 0, full }
    }

    fn found_seen(&self, reader: &ModelReader, sees: &dyn Fn(u64) -> bool) -> Found {
        let plan = match reader.conflation {
            ModelConflation::Until(to) => Some(to),
            _ => None,
        };
        let stretch = (self.bounds.lag_events_max / 8).clamp(1, SCAN_EVENTS as u64);
        let end = match plan {
            Some(to) => to.min(reader.position + SCAN_EVENTS as u64),
            None => self.head().min(reader.position + stretch),
        };
        let mut found =
            Found { to: end, seen: vec![], filtered: 0, conflated: 0, full: plan.is_some() || end < self.head() };
        for sequence in reader.position + 1..=end {
            let event = self.event(sequence);
            let is_newer =
                |newer: u64| self.event(newer).item == event.item && self.event(newer).kind == Kind::DataChange;
            let conflatable = event.kind == Kind::DataChange && event.item != 0;
            if event.item != 0 && !sees(event.item) {
                found.filtered += 1;
            } else if conflatable && plan.is_some_and(|to| (sequence + 1..=to).any(is_newer)) {
                found.conflated += 1;
            } else if found.seen.len() == BATCH_EVENTS
                || (!found.seen.is_empty() && self.size(found.seen.clone()) + event.bytes.len() > BATCH_BYTES)
            {
                found.to = sequence - 1;
                found.full = true;
                break;
            } else {
                found.seen.push(sequence);
            }
        }
        found
    }
}

// === impl ModelReader ===

impl ModelReader {
    pub(super) fn commit(&mut self, expected: &Expected, now_ms: u64) {
        match expected {
            Expected::Batch { to, .. } => {
                self.position = *to;
                self.sent_ms = Some(now_ms);
            }
            Expected::Gap(gap) => {
                self.position = gap.to;
                self.start_gap = None;
            }
            Expected::Pending | Expected::Ended => {}
        }
    }

    /// Memory is kept from here.
    pub(super) fn needs_after(&self) -> u64 {
        self.start_gap.map_or(self.position, |gap| gap.to)
    }

    pub(super) fn is_conflating(&self) -> bool {
        self.conflation != ModelConflation::Off
    }
}
