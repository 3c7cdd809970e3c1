//! A reader's place in the log. Replay and live are the same read from a different place. Knows
//! segments and what may be seen, not why. Invariants: `poll_next` does not move the cursor, only
//! `commit` does; every sequence is covered exactly once, by a batch or a gap, in order.

use super::{
    EndReason, Gap, GapReason,
    batch::{
        ADVANCE_MS, BATCH_BYTES, BATCH_EVENTS, Batch, COPY_BYTES, Next, Run, SCAN_EVENTS, SMALL_BYTES, View,
        take_payload,
    },
    conflate::Plan,
    log::Shared,
    pace::ReaderPace,
    reader::{ReaderControl, ReaderMode},
    ring::Ring,
    segment::Segment,
};
use std::{
    fmt,
    future::Future as _,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

/// One stream's place. Dropping it detaches the reader.
pub struct Cursor {
    log: Arc<Shared>,
    control: Arc<ReaderControl>,
    position: u64,
    /// What the reader missed before it attached.
    start_gap: Option<Gap>,
    /// An order to skip, as far as it goes.
    skip_to: u64,
    ended: Option<EndReason>,
    conflation: Conflation,
    /// Ordinal of the segment read last.
    hint: u64,
    /// When the last batch was committed; `None`: never, so nothing is held back.
    sent_ms: Option<u64>,
    /// What was there when holding back ended goes out without waiting again.
    flush_to: u64,
    /// The tokio timer and the time it is set to. Only wakes; whether something is due says the clock.
    timer: Option<(u64, Pin<Box<Sleep>>)>,
    /// Used within one poll only; kept for their memory.
    runs: Vec<Run>,
    window: Vec<Arc<Segment>>,
}

#[derive(Debug)]
enum Conflation {
    Off,
    Ordered,
    On(Plan),
}

enum Look {
    Ready(Next),
    Wait { until_ms: Option<u64>, wake_from: u64, head: u64 },
}

/// A batch that could be sent, before anything is copied.
struct Found {
    to: u64,
    events: usize,
    bytes: usize,
    filtered: u64,
    conflated: u64,
    /// It cannot grow.
    full: bool,
}

// === impl Cursor ===

impl Cursor {
    pub(super) fn new(log: Arc<Shared>, control: Arc<ReaderControl>, position: u64, start_gap: Option<Gap>) -> Self {
        Self {
            log,
            control,
            position,
            start_gap,
            skip_to: 0,
            ended: None,
            conflation: Conflation::Off,
            hint: 0,
            sent_ms: None,
            flush_to: 0,
            timer: None,
            runs: Vec::new(),
            window: Vec::new(),
        }
    }

    /// Everything up to here was committed. The first range begins behind it.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Where this reader stands against the log.
    pub fn pace(&self) -> ReaderPace {
        self.log.pace(&self.control)
    }

    pub fn control(&self) -> &Arc<ReaderControl> {
        &self.control
    }

    /// Publishes how far the transport may have got before the stamp is compared (sequentially consistent).
    pub fn intend(&self, to: u64) {
        self.control.intend(to);
    }

    /// What to send next, judged by `view`. Does not move the cursor: the same question again, perhaps with
    /// another view, is answered from the same place. Must be polled within a tokio runtime with time.
    pub fn poll_next(&mut self, cx: &mut Context<'_>, view: View<'_>) -> Poll<Next> {
        loop {
            let (until_ms, wake_from, head) = match self.look(view) {
                Look::Ready(next) => return Poll::Ready(next),
                Look::Wait { until_ms, wake_from, head } => (until_ms, wake_from, head),
            };
            self.control.wait(cx.waker(), wake_from);
            // What came between the look and the waker's registration would be missed. The end of the log
            // wakes only those who are registered, so it is asked for as well.
            let ring = self.log.ring.read();
            if ring.head != head || ring.closed.is_some() || self.control.has_orders() {
                continue;
            }
            drop(ring);
            let Some(until_ms) = until_ms else {
                self.timer = None;
                return Poll::Pending;
            };
            if self.poll_timer(cx, until_ms).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// The stream took `next`: the cursor moves behind it.
    pub fn commit(&mut self, next: &Next) {
        let to = match next {
            Next::Batch(batch) => {
                debug_assert_eq!(batch.from, self.position + 1, "what is committed comes next");
                self.sent_ms = Some(self.log.clock.monotonic_ms());
                batch.to
            }
            Next::Gap(gap) => {
                debug_assert_eq!(gap.from, self.position + 1, "what is committed comes next");
                self.start_gap = None;
                gap.to
            }
            Next::Ended(_) => return,
        };
        self.position = to;
        self.control.move_to(to);
    }

    fn look(&mut self, view: View<'_>) -> Look {
        let log = Arc::clone(&self.log);
        self.follow_orders(&log);
        if let Some(reason) = &self.ended {
            return Look::Ready(Next::Ended(reason.clone()));
        }
        if let Some(gap) = self.start_gap {
            return Look::Ready(Next::Gap(gap));
        }
        let ring = log.ring.read();
        let head = ring.head;
        self.control.saw_lag(head - self.position);
        for (through, reason) in [(ring.held_after(), GapReason::Evicted), (self.skip_to, GapReason::Skipped)] {
            if self.position < through {
                return Look::Ready(Next::Gap(Gap { from: self.position + 1, to: through, reason }));
            }
        }
        let plans_to = self.plan_end(head);
        if self.position == head {
            return match &ring.closed {
                Some(reason) => {
                    self.ended = Some(reason.clone());
                    Look::Ready(Next::Ended(reason.clone()))
                }
                None => Look::Wait { until_ms: None, wake_from: head.saturating_add(1), head },
            };
        }
        let closed = ring.closed.is_some();
        self.runs.clear();
        let found = if matches!(view, View::All) && matches!(self.conflation, Conflation::Off) {
            let found = self.find_slice(&ring);
            drop(ring);
            found
        } else {
            let scan_to = self.scan_end(head);
            self.open_window(&ring, plans_to.unwrap_or(0).max(scan_to));
            // The pump need not wait for what follows, and the judge may ask the log.
            drop(ring);
            if let Some(to) = plans_to {
                self.conflation = Conflation::On(Plan::new(self.position, to, &self.window));
            }
            let found = match view {
                View::All => self.find_seen(head, &|_| true),
                View::Filtered(sees) => self.find_seen(head, sees),
            };
            self.window.clear();
            found
        };
        if let Some(wait) = self.hold_back(&found, head, closed) {
            self.runs.clear();
            return wait;
        }
        let batch = Batch {
            from: self.position + 1,
            to: found.to,
            events: found.events as u64,
            filtered: found.filtered,
            conflated: found.conflated,
            lag: head - found.to,
            payload: take_payload(&mut self.runs, found.bytes),
        };
        Look::Ready(Next::Batch(batch))
    }

    fn follow_orders(&mut self, log: &Shared) {
        let Some(orders) = self.control.take_orders() else { return };
        if let Some(reason) = orders.end {
            self.ended.get_or_insert(reason);
        }
        if let Some(keep_newest) = orders.keep_newest {
            self.skip_to = self.skip_to.max(log.head.load(Ordering::Acquire).saturating_sub(keep_newest));
        }
        if orders.conflate && matches!(self.conflation, Conflation::Off) {
            self.conflation = Conflation::Ordered;
            self.control.set_mode(ReaderMode::Conflating);
        }
    }

    /// The end of the plan to be made now, if any. Conflating stops when a plan is done and no more than a
    /// batch is waiting.
    fn plan_end(&mut self, head: u64) -> Option<u64> {
        let waiting = head - self.position;
        let goes_on = match &self.conflation {
            Conflation::Off => return None,
            Conflation::Ordered => waiting > 0,
            Conflation::On(plan) if self.position < plan.to => return None,
            Conflation::On(_) => waiting > BATCH_EVENTS as u64,
        };
        if !goes_on {
            self.conflation = Conflation::Off;
            self.control.set_mode(ReaderMode::Normal);
        }
        goes_on.then(|| Plan::end(self.position, head))
    }

    /// The segments of the events after the position, up to `to`.
    fn open_window(&mut self, ring: &Ring, to: u64) {
        self.window.clear();
        let Some(ordinal) = ring.find(self.position + 1, self.hint) else { return };
        self.hint = ordinal;
        self.window.extend(ring.from(ordinal).take_while(|segment| segment.first <= to).cloned());
    }

    /// Everything may be seen: the rest of one segment as it is, or small pieces together.
    fn find_slice(&mut self, ring: &Ring) -> Found {
        let mut found = Found { to: self.position, events: 0, bytes: 0, filtered: 0, conflated: 0, full: false };
        let Some(ordinal) = ring.find(self.position + 1, self.hint) else { return found };
        self.hint = ordinal;
        let small = if self.control.max_linger_ms() == 0 { SMALL_BYTES } else { COPY_BYTES };
        for segment in ring.from(ordinal) {
            let lo = (found.to + 1 - segment.first) as usize;
            if !self.runs.is_empty() {
                let rest = segment.bytes_between(lo, segment.len());
                let first_is_large = self.runs.len() == 1 && found.bytes >= small;
                if first_is_large || rest >= small || found.bytes + rest > COPY_BYTES {
                    break;
                }
            }
            let hi = segment.fit(lo, BATCH_EVENTS - found.events, BATCH_BYTES);
            found.events += hi - lo;
            found.bytes += segment.bytes_between(lo, hi);
            found.to += (hi - lo) as u64;
            self.runs.push(Run { segment: Arc::clone(segment), lo, hi });
            if hi < segment.len() || found.events == BATCH_EVENTS {
                break;
            }
        }
        found.full = self.a_batch_waits(ring, ordinal, &found);
        found
    }

    /// Whether a whole batch is there, counting what would go in several messages. Only those who linger ask.
    fn a_batch_waits(&self, ring: &Ring, ordinal: u64, found: &Found) -> bool {
        let waiting = ring.head - self.position;
        if self.control.max_linger_ms() == 0 || waiting >= BATCH_EVENTS as u64 || found.bytes >= BATCH_BYTES {
            return true;
        }
        // Fewer events than a batch has, so fewer segments than that.
        let bytes: usize = ring
            .from(ordinal)
            .map(|segment| {
                let lo = (self.position + 1).saturating_sub(segment.first) as usize;
                segment.bytes_between(lo, segment.len())
            })
            .sum();
        bytes >= BATCH_BYTES
    }

    /// Not everything may be seen, or values are conflated: looks at each event of the window.
    fn find_seen(&mut self, head: u64, sees: &dyn Fn(u64) -> bool) -> Found {
        let mut found = Found { to: self.position, events: 0, bytes: 0, filtered: 0, conflated: 0, full: false };
        let scan_to = self.scan_end(head);
        let (plan, end) = match &self.conflation {
            Conflation::On(plan) => (Some(plan), plan.to.min(scan_to)),
            _ => (None, scan_to),
        };
        found.full = plan.is_some() || end < head;
        'segments: for segment in &self.window {
            let lo = (found.to + 1 - segment.first) as usize;
            for (nth, entry) in segment.index().iter().enumerate().skip(lo) {
                if found.to == end {
                    break 'segments;
                }
                let sequence = found.to + 1;
                if entry.item != 0 && !sees(entry.item) {
                    found.filtered += 1;
                } else if plan.is_some_and(|plan| plan.drops(sequence, entry.item, entry.kind)) {
                    found.conflated += 1;
                } else {
                    let bytes = found.bytes + segment.bytes_between(nth, nth + 1);
                    if found.events == BATCH_EVENTS || (found.events > 0 && bytes > BATCH_BYTES) {
                        found.full = true;
                        break 'segments;
                    }
                    found.events += 1;
                    found.bytes = bytes;
                    match self.runs.last_mut() {
                        Some(run) if run.hi == nth && Arc::ptr_eq(&run.segment, segment) => run.hi = nth + 1,
                        _ => self.runs.push(Run { segment: Arc::clone(segment), lo: nth, hi: nth + 1 }),
                    }
                }
                found.to = sequence;
            }
        }
        found
    }

    /// The last event to look at in this poll. A filtered stretch that waits for an event to show is short
    /// enough to keep its reader far from any pressure.
    fn scan_end(&self, head: u64) -> u64 {
        let events = match self.conflation {
            Conflation::Off => (self.log.bounds.lag_events_max / 8).clamp(1, SCAN_EVENTS as u64),
            _ => SCAN_EVENTS as u64,
        };
        head.min(self.position.saturating_add(events))
    }

    /// Whether the batch should wait: for the linger to pass, or for an event that may be seen.
    fn hold_back(&mut self, found: &Found, head: u64, closed: bool) -> Option<Look> {
        let sent_ms = self.sent_ms?;
        let gathered_ms = self.log.gather_ms.load(Ordering::Relaxed);
        let linger_ms = self.control.max_linger_ms().min(ADVANCE_MS).saturating_sub(gathered_ms);
        if found.full || closed || found.to <= self.flush_to || (found.events > 0 && linger_ms == 0) {
            return None;
        }
        let until_ms = sent_ms.saturating_add(if found.events > 0 { linger_ms } else { ADVANCE_MS });
        if self.log.clock.monotonic_ms() >= until_ms {
            self.flush_to = head;
            return None;
        }
        // Woken before the time has come only when a batch may be full by then: by number, or by bytes if events
        // stay as large as they are. Someone who waits for an event to see has to look at each.
        let wake_from = if found.events == 0 {
            head.saturating_add(1)
        } else {
            let by_number = BATCH_EVENTS - found.events.min(BATCH_EVENTS);
            let by_bytes = BATCH_BYTES.saturating_sub(found.bytes) / (found.bytes / found.events).max(1);
            head.saturating_add(by_number.min(by_bytes).max(1) as u64)
        };
        Some(Look::Wait { until_ms: Some(until_ms), wake_from, head })
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>, until_ms: u64) -> Poll<()> {
        if self.timer.as_ref().is_none_or(|(set_to, _)| *set_to != until_ms) {
            let left = until_ms.saturating_sub(self.log.clock.monotonic_ms()).max(1);
            let at = Instant::now() + Duration::from_millis(left);
            match &mut self.timer {
                Some((set_to, sleep)) => {
                    *set_to = until_ms;
                    sleep.as_mut().reset(at);
                }
                None => self.timer = Some((until_ms, Box::pin(tokio::time::sleep_until(at)))),
            }
        }
        let Some((_, sleep)) = &mut self.timer else { return Poll::Ready(()) };
        let fired = sleep.as_mut().poll(cx);
        if fired.is_ready() {
            // Looked at again by the clock, and set again if that says it is not time yet.
            self.timer = None;
        }
        fired
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.log.detach(&self.control);
    }
}

impl fmt::Debug for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor")
            .field("position", &self.position)
            .field("control", &self.control)
            .finish_non_exhaustive()
    }
}
