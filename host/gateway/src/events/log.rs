//! The log itself: where the pump appends, readers attach, and memory is given back. Knows frames and
//! readers, not sessions. Invariants: `append` takes no lock that is held in proportion to the number
//! of readers; locks are taken in the order readers, writer, ring; a reader never sees a sequence
//! before it can be replayed.

use super::{
    Cursor, EndReason, Gap, GapReason, LastValue, LogBounds, LogBudget,
    budget::SessionBytes,
    gap_after,
    last_values::LastValues,
    pace::{self, Meter, ReaderPace, Standing},
    reader::{ReaderControl, ReaderSpec},
    ring::Ring,
    segment::Segment,
    wire::{FrameError, Kind, walk_event},
};
use crate::clock::Clock;
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Waker,
};
use thiserror::Error;
use tokio::sync::Notify;

/// A handle to the log of one session. Clones are the same log.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
}

/// What a frame added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    pub head: u64,
    /// Segments that left to make room.
    pub evicted: usize,
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After the newest event.
    Live,
    /// At the oldest event a resume can reach; what is older is told as a gap.
    Oldest,
    /// After a position it had.
    Resume { epoch: u64, after: u64 },
}

/// Why a reader cannot begin there.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AttachError {
    #[error("the position is beyond the newest event, {head}")]
    BeyondHead { head: u64 },
}

/// The last value of each item, and the sequence as of which it holds.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub epoch: u64,
    pub as_of: u64,
    /// By item key.
    pub values: HashMap<u64, LastValue>,
}

/// Plain numbers for status and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogStats {
    pub head: u64,
    /// The sequence before the oldest event that is physically there.
    pub held_after: u64,
    /// No resume reaches back to this or an older event.
    pub replay_floor: u64,
    /// Bytes on the account, slices on their way to sockets included.
    pub bytes: u64,
    pub bytes_max: u64,
    pub segments: usize,
    pub last_values: usize,
    pub last_value_bytes: u64,
    /// Values that found no room beyond the log.
    pub last_values_refused: u64,
    pub readers: usize,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) epoch: u64,
    pub(super) bounds: LogBounds,
    pub(super) clock: Arc<dyn Clock>,
    account: Arc<SessionBytes>,
    /// The ring's head, to be read without its lock.
    pub(super) head: AtomicU64,
    /// The head at which the pressure task wants to look again; `u64::MAX`: not asked for.
    next_alarm: AtomicU64,
    /// One permit is enough: the pressure task looks at everything whenever it wakes.
    alarm: Notify,
    /// How long the worker holds events back already; readers that linger wait that much less.
    pub(super) gather_ms: AtomicU64,
    /// Wakes the wake-task. One permit is enough: it wakes every reader.
    appended: Notify,
    pub(super) ring: RwLock<Ring>,
    /// Whoever changes what is in the ring holds this: the pump, trim, forget.
    writer: Mutex<LastValues>,
    readers: Mutex<Readers>,
    /// Events up to here were never in this log.
    lost_through: u64,
    /// How fast the worker produces.
    meter: Meter,
}

#[derive(Debug, Default)]
struct Readers {
    next_id: u64,
    attached: Vec<Arc<ReaderControl>>,
}

// === impl Log ===

impl Log {
    /// An empty log whose first event is 1.
    pub fn new(epoch: u64, bounds: LogBounds, budget: Arc<LogBudget>, clock: Arc<dyn Clock>) -> Self {
        Self::with(Ring::new(0), epoch, bounds, budget, clock)
    }

    /// An empty log of a worker that was adopted: its first event follows `after`; what is older went with the gateway
    /// before (`GapReason::Restarted`). Its floor is held until `hold_floor` has said for how long: the readers of before
    /// are on their way, and cannot attach yet.
    pub fn starting_after(
        after: u64,
        epoch: u64,
        bounds: LogBounds,
        budget: Arc<LogBudget>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut ring = Ring::new(after);
        ring.hold(u64::MAX);
        Self::with(ring, epoch, bounds, budget, clock)
    }

    fn with(ring: Ring, epoch: u64, bounds: LogBounds, budget: Arc<LogBudget>, clock: Arc<dyn Clock>) -> Self {
        let after = ring.head;
        let shared = Shared {
            epoch,
            meter: Meter::new(clock.monotonic_ms(), after),
            clock,
            account: Arc::new(SessionBytes::new(bounds.log_bytes_max, budget)),
            head: AtomicU64::new(after),
            next_alarm: AtomicU64::new(u64::MAX),
            alarm: Notify::new(),
            gather_ms: AtomicU64::new(0),
            appended: Notify::new(),
            ring: RwLock::new(ring),
            writer: Mutex::new(LastValues::new(&bounds)),
            readers: Mutex::default(),
            lost_through: after,
            bounds,
        };
        Self { shared: Arc::new(shared) }
    }

    pub fn epoch(&self) -> u64 {
        self.shared.epoch
    }

    /// The newest sequence ever seen; 0 before the first.
    pub fn head(&self) -> u64 {
        self.shared.head.load(Ordering::Acquire)
    }

    /// Appends one frame of the worker: `count` events from `first`, each with its tag and length. Never
    /// waits for a reader. An error means that nothing was taken.
    pub fn append(&self, epoch: u64, first: u64, count: u32, bytes: Bytes) -> Result<Appended, FrameError> {
        let shared = &*self.shared;
        if epoch != shared.epoch {
            return Err(FrameError::Epoch { expected: shared.epoch, got: epoch });
        }
        let mut writer = shared.writer.lock();
        let expected = self.head().checked_add(1).ok_or(FrameError::Exhausted)?;
        if first != expected {
            return Err(FrameError::Hole { expected, got: first });
        }
        let now_ms = shared.clock.monotonic_ms();
        let segment = Arc::new(Segment::check(first, count, bytes, now_ms, &shared.account)?);
        let head = segment.last;
        let mut leaving = Vec::new();
        {
            let mut ring = shared.ring.write();
            if ring.closed.is_some() {
                return Err(FrameError::Closed);
            }
            ring.push(segment);
            shared.head.store(head, Ordering::SeqCst);
            let bounds = &shared.bounds;
            let kept = bounds.lag_events_max.max(bounds.replay_buffer_capacity);
            // Stops before the newest one, which is above this.
            leaving.extend(std::iter::from_fn(|| ring.pop_through(head.saturating_sub(kept.max(1)))));
            ring.raise_floor(now_ms, bounds);
        }
        let mut evicted = leaving.len();
        for segment in leaving {
            writer.fold(&segment);
        }
        evicted += shared.make_room(&mut writer, now_ms);
        drop(writer);
        shared.appended.notify_one();
        let alarm = shared.next_alarm.load(Ordering::SeqCst);
        // Exchanged, not stored: a number set meanwhile must not be lost.
        if head >= alarm
            && shared.next_alarm.compare_exchange(alarm, u64::MAX, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        {
            shared.alarm.notify_one();
        }
        Ok(Appended { head, evicted })
    }

    /// Wakes waiting readers whenever something was appended, until the log is closed. The session
    /// spawns it, once; without it only timers and orders wake a reader.
    pub async fn run_waker(self) {
        let mut wakers = Vec::new();
        loop {
            self.shared.appended.notified().await;
            let head = self.head();
            {
                let readers = self.shared.readers.lock();
                wakers.extend(readers.attached.iter().filter_map(|reader| reader.take_waker_at(head)));
            }
            // Without the lock: whoever is woken may attach or go.
            wakers.drain(..).for_each(Waker::wake);
            if self.is_closed() {
                return;
            }
        }
    }

    /// A new reader. The pressure task hears of it, since it may begin far behind.
    pub fn attach(&self, spec: ReaderSpec, start: Start) -> Result<Cursor, AttachError> {
        let shared = &self.shared;
        let mut readers = shared.readers.lock();
        let (position, gap) = {
            let mut ring = shared.ring.write();
            let floor = ring.raise_floor(shared.clock.monotonic_ms(), &shared.bounds);
            let head = ring.head;
            match start {
                Start::Live => (head, None),
                Start::Oldest => (0, shared.missed(0, floor)),
                Start::Resume { epoch, .. } if epoch != shared.epoch => {
                    (0, (head > 0).then_some(Gap { from: 1, to: head, reason: GapReason::Restarted }))
                }
                Start::Resume { after, .. } if after > head => return Err(AttachError::BeyondHead { head }),
                Start::Resume { after, .. } => (after, shared.missed(after, floor)),
            }
        };
        // Memory is kept for what it will read, which begins behind the gap.
        let control =
            ReaderControl::new(readers.next_id, spec, gap.map_or(position, |gap| gap.to), shared.clock.monotonic_ms());
        readers.next_id += 1;
        readers.attached.push(Arc::clone(&control));
        drop(readers);
        shared.alarm.notify_one();
        Ok(Cursor::new(Arc::clone(shared), control, position, gap))
    }

    /// Everyone who reads now.
    pub fn readers(&self) -> Vec<Arc<ReaderControl>> {
        self.shared.readers.lock().attached.clone()
    }

    /// How long the worker was told to gather events.
    pub fn gather_ms(&self) -> u64 {
        self.shared.gather_ms.load(Ordering::Relaxed)
    }

    pub fn set_gather_ms(&self, gather_ms: u64) {
        self.shared.gather_ms.store(gather_ms, Ordering::Relaxed);
    }

    /// Gives back what neither a resume nor an attached reader needs. The session calls it once a second
    /// and under pressure, so an idle session holds next to nothing. Rates are measured with it.
    pub fn trim(&self) {
        let shared = &*self.shared;
        let readers = shared.readers.lock();
        let mut writer = shared.writer.lock();
        let now_ms = shared.clock.monotonic_ms();
        shared.meter.sample(now_ms, self.head());
        readers.attached.iter().for_each(|reader| reader.meter.sample(now_ms, reader.position()));
        let slowest = readers.attached.iter().map(|reader| reader.position()).min().unwrap_or(u64::MAX);
        let mut leaving = Vec::new();
        {
            let mut ring = shared.ring.write();
            let through = ring.raise_floor(now_ms, &shared.bounds).min(slowest);
            leaving.extend(std::iter::from_fn(|| ring.pop_through(through)));
        }
        drop(readers);
        for segment in leaving {
            writer.fold(&segment);
        }
        shared.make_room(&mut writer, now_ms);
    }

    /// The last value of each item, whoever may see it; the caller picks.
    pub fn snapshot(&self) -> Snapshot {
        let shared = &*self.shared;
        let (mut values, segments, as_of) = {
            let writer = shared.writer.lock();
            let ring = shared.ring.read();
            (writer.values().clone(), ring.all().cloned().collect::<Vec<_>>(), ring.head)
        };
        // The ring is newer than the table; within it the newest comes last. The pump goes on meanwhile.
        for segment in segments {
            for (nth, item) in segment.data_changes_back() {
                let sequence = segment.first + nth as u64;
                let held = values.entry(item).or_insert_with(|| LastValue { sequence: 0, event: Bytes::new() });
                if held.sequence < sequence {
                    *held = LastValue { sequence, event: segment.event(nth) };
                }
            }
        }
        let writer = shared.writer.lock();
        values.retain(|item, _| !writer.is_forgotten(*item));
        Snapshot { epoch: shared.epoch, as_of, values }
    }

    /// The last values from before this log began, as the worker of before tells them (`starting_after`): one event each,
    /// without tag and length. What this log has itself counts more. An error means that nothing was taken.
    pub fn restore(&self, epoch: u64, events: &[Bytes]) -> Result<(), FrameError> {
        let shared = &*self.shared;
        if epoch != shared.epoch {
            return Err(FrameError::Epoch { expected: shared.epoch, got: epoch });
        }
        let mut told = Vec::with_capacity(events.len());
        for event in events {
            let (sequence, item, kind) = walk_event(event, 0)?;
            if kind != Kind::DataChange || item == 0 || sequence == 0 || sequence > shared.lost_through {
                return Err(FrameError::Malformed { at: 0, what: "no data change from before the log" });
            }
            // A copy: the frame is larger, and goes.
            told.push((item, LastValue { sequence, event: Bytes::copy_from_slice(event) }));
        }
        let mut writer = shared.writer.lock();
        told.into_iter().for_each(|(item, value)| writer.restore(item, value));
        Ok(())
    }

    /// The item was removed; its key never comes again. A snapshot does not name it from now on.
    pub fn forget(&self, item: u64) {
        self.shared.writer.lock().forget(item);
    }

    /// No more events. Readers drain what is there and end with `reason`; the first reason stands.
    pub fn close(&self, reason: EndReason) {
        let shared = &*self.shared;
        {
            let _writer = shared.writer.lock();
            shared.ring.write().closed.get_or_insert(reason);
        }
        // Directly as well: the wake-task may be gone.
        self.readers().iter().for_each(|reader| reader.wake());
        shared.appended.notify_one();
        shared.alarm.notify_one();
    }

    pub fn is_closed(&self) -> bool {
        self.shared.ring.read().closed.is_some()
    }

    /// Waits until the head has reached the alarm, a reader came or went, or the log was closed. Something
    /// that happened before the call counts.
    pub async fn pressure_alarm(&self) {
        self.shared.alarm.notified().await;
    }

    /// The head at which `pressure_alarm` is to return next.
    pub fn set_next_alarm(&self, head: u64) {
        self.shared.next_alarm.store(head, Ordering::SeqCst);
        if self.shared.head.load(Ordering::SeqCst) >= head {
            self.shared.alarm.notify_one();
        }
    }

    /// A floor that is held stays so for this long: until then a resume reaches back almost as far as an attached
    /// reader might lag (`LogBounds::held_events`), within the bytes. Nothing for a log that began with its session.
    pub fn hold_floor(&self, for_ms: u64) {
        let until_ms = self.shared.clock.monotonic_ms().saturating_add(for_ms);
        let mut ring = self.shared.ring.write();
        if ring.is_held() {
            ring.hold(until_ms);
        }
    }

    /// Rates are measured from here on: what came up to now did not come in its own time.
    pub(crate) fn measure_anew(&self) {
        self.shared.meter.begin(self.shared.clock.monotonic_ms(), self.head());
    }

    /// Events taken per second, over the last few seconds.
    pub fn produced_per_second(&self) -> f64 {
        self.shared.meter.per_second(self.shared.clock.monotonic_ms(), self.head())
    }

    /// Where this reader stands and when it will meet the hard bound, at the present rates.
    pub fn pace(&self, reader: &ReaderControl) -> ReaderPace {
        self.shared.pace(reader)
    }

    pub fn stats(&self) -> LogStats {
        let shared = &*self.shared;
        let readers = shared.readers.lock().attached.len();
        let writer = shared.writer.lock();
        let mut ring = shared.ring.write();
        LogStats {
            head: ring.head,
            held_after: ring.held_after(),
            replay_floor: ring.raise_floor(shared.clock.monotonic_ms(), &shared.bounds),
            bytes: shared.account.used(),
            bytes_max: shared.bounds.log_bytes_max,
            segments: ring.len(),
            last_values: writer.values().len(),
            last_value_bytes: writer.bytes(),
            last_values_refused: writer.refused(),
            readers,
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The byte bounds: the oldest segments leave, read or not, until this session and all together hold
    /// no more than they may; the newest one stays. Then the floor follows.
    fn make_room(&self, writer: &mut LastValues, now_ms: u64) -> usize {
        let mut evicted = 0;
        while self.account.is_over() {
            let segment = {
                let mut ring = self.ring.write();
                let segment = ring.pop_but_newest();
                ring.raise_floor(now_ms, &self.bounds);
                segment
            };
            let Some(segment) = segment else { break };
            writer.fold(&segment);
            evicted += 1;
            // Dropped here, so that the account knows before it is asked again.
        }
        evicted
    }

    /// Not for the pump's path: takes the ring's lock to read.
    pub(super) fn pace(&self, reader: &ReaderControl) -> ReaderPace {
        let bounds = &self.bounds;
        let by_bytes = {
            let ring = self.ring.read();
            let bytes_max = self.account.room();
            pace::bound_by_bytes(ring.head - ring.held_after(), self.account.used(), bytes_max)
        };
        let lag_bound = bounds.lag_events_max.max(bounds.replay_buffer_capacity).min(by_bytes);
        let now_ms = self.clock.monotonic_ms();
        let (head, position) = (self.head.load(Ordering::Acquire), reader.position());
        let lag = head.saturating_sub(position);
        let per_second = reader.meter.per_second(now_ms, position);
        let produced_per_second = self.meter.per_second(now_ms, head);
        let standing = Standing { lag, lag_bound, produced_per_second, read_per_second: per_second };
        ReaderPace {
            lag,
            lag_high_water: reader.lag_high_water().max(lag),
            lag_bound,
            per_second,
            seconds_until_gap: standing.until_gap(),
        }
    }

    /// What a reader that had everything up to `after` will not get. One gap has one reason: that by which it begins.
    fn missed(&self, after: u64, floor: u64) -> Option<Gap> {
        let reason = if after < self.lost_through { GapReason::Restarted } else { GapReason::Evicted };
        gap_after(after, floor).map(|gap| Gap { reason, ..gap })
    }

    pub(super) fn detach(&self, control: &ReaderControl) {
        self.readers.lock().attached.retain(|reader| reader.id() != control.id());
        self.alarm.notify_one();
    }
}
