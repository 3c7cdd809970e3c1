//! Drives the log and its model with the same operations and compares every answer; and, without the
//! model, checks the account of every reader as a client would.

use super::{
    model::{Expected, Model, ModelReader},
    wire::tests::{event, prefixed},
    *,
};
use crate::{clock::ManualClock, error::Code};
use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use std::{
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tidegate_proto::v1;

const EPOCH: u64 = 0x5EED;
const ITEMS: u64 = 6;

#[derive(Clone, Debug)]
enum Op {
    /// Item, kind, bytes of text for each event.
    Append(Vec<(u64, Kind, usize)>),
    Advance(u64),
    Attach {
        start: StartOp,
        linger_ms: u64,
    },
    Detach(prop::sample::Index),
    /// Judges by the bits of `view` (none: sees all), commits, and perhaps keeps the payload.
    Poll {
        reader: prop::sample::Index,
        view: Option<u8>,
        times: usize,
        keeps: bool,
    },
    /// Polls and throws the answer away, as a stream does whose stamp changed.
    Discard {
        reader: prop::sample::Index,
        view: Option<u8>,
    },
    Conflate(prop::sample::Index),
    Skip(prop::sample::Index, u64),
    End(prop::sample::Index),
    DropKept,
    Trim,
    Forget(u64),
    Snapshot,
    OtherBytes(u64),
    /// Says for how long a floor that is held stays so.
    Hold(u64),
    Close,
}

#[derive(Clone, Copy, Debug)]
enum StartOp {
    Live,
    Oldest,
    Within(prop::sample::Index),
    Beyond(u64),
    Foreign(u64),
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        6 => Just(Kind::DataChange),
        1 => Just(Kind::WriteComplete),
        1 => Just(Kind::OperationComplete),
        1 => Just(Kind::BufferedDataChange),
        1 => Just(Kind::Other),
    ]
}

fn frame() -> impl Strategy<Value = Vec<(u64, Kind, usize)>> {
    let events = |size: std::ops::Range<usize>, count| prop::collection::vec((0..=ITEMS, kind(), size), count);
    prop_oneof![
        30 => events(0..60, 1..12),
        4 => events(1_000..5_000, 1..6),
        2 => events(0..3, 200..600),
        1 => events(60_000..140_000, 1..5),
    ]
}

fn view() -> impl Strategy<Value = Option<u8>> {
    prop_oneof![2 => Just(None), 1 => Just(Some(0)), 3 => any::<u8>().prop_map(Some)]
}

fn start() -> impl Strategy<Value = StartOp> {
    prop_oneof![
        2 => Just(StartOp::Live),
        2 => Just(StartOp::Oldest),
        4 => any::<prop::sample::Index>().prop_map(StartOp::Within),
        1 => prop_oneof![1u64..9, Just(u64::MAX / 2)].prop_map(StartOp::Beyond),
        1 => (0u64..40).prop_map(StartOp::Foreign),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let reader = any::<prop::sample::Index>;
    let linger = prop_oneof![3 => Just(0u64), 1 => 1u64..50, 1 => Just(5_000u64)];
    prop_oneof![
        24 => frame().prop_map(Op::Append),
        8 => prop_oneof![Just(1u64), 1u64..200, 900u64..1_200].prop_map(Op::Advance),
        6 => (start(), linger).prop_map(|(start, linger_ms)| Op::Attach { start, linger_ms }),
        1 => reader().prop_map(Op::Detach),
        30 => (reader(), view(), 1usize..6, prop::bool::weighted(0.2))
            .prop_map(|(reader, view, times, keeps)| Op::Poll { reader, view, times, keeps }),
        12 => (reader(), view()).prop_map(|(reader, view)| Op::Discard { reader, view }),
        5 => reader().prop_map(Op::Conflate),
        8 => (reader(), prop_oneof![0u64..30, Just(u64::MAX)]).prop_map(|(reader, keep)| Op::Skip(reader, keep)),
        1 => reader().prop_map(Op::End),
        3 => Just(Op::DropKept),
        5 => Just(Op::Trim),
        2 => (1..=ITEMS).prop_map(Op::Forget),
        4 => Just(Op::Snapshot),
        1 => (0u64..40_000).prop_map(Op::OtherBytes),
        2 => (1u64..2_000).prop_map(Op::Hold),
    ]
}

fn bounds() -> impl Strategy<Value = (LogBounds, u64)> {
    let bytes = || prop::sample::select(vec![1u64, 2_000, 20_000, 400_000, 16 << 20, 16 << 20]);
    (
        prop::sample::select(vec![0u64, 1, 7, 60, 1_024]),
        prop::sample::select(vec![0u64, 100, 2_000]),
        prop::sample::select(vec![1u64, 10, 80, 700, 10_000, 10_000]),
        bytes(),
        bytes(),
    )
        .prop_map(|(capacity, retention, lag, session, gateway)| {
            let bounds = LogBounds {
                replay_buffer_capacity: capacity,
                replay_retention_ms: retention,
                lag_events_max: lag,
                log_bytes_max: session,
                ..LogBounds::default()
            };
            (bounds, gateway)
        })
}

/// What a client knows: it adds up what it got and checks that ranges join.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub(super) start: u64,
    pub(super) next: u64,
    pub(super) delivered: u64,
    pub(super) filtered: u64,
    pub(super) conflated: u64,
    pub(super) gapped: u64,
}

struct Reader {
    cursor: Cursor,
    model: ModelReader,
    account: Account,
    has_ended: bool,
}

struct Rig {
    log: Log,
    clock: Arc<ManualClock>,
    model: Model,
    readers: Vec<Reader>,
    kept: Vec<(Bytes, Option<usize>)>,
    /// Stands for the bytes of another session.
    other: Option<budget::Charge>,
    other_account: Arc<budget::SessionBytes>,
}

fn reason() -> EndReason {
    EndReason::new(Code::SessionClosed, "closed by the test")
}

// === impl Account ===

impl Account {
    /// `head` as it was when `next` was made, or later.
    pub(super) fn take(&mut self, next: &Next, head: u64) {
        match next {
            Next::Batch(batch) => {
                assert_eq!(batch.from, self.next, "ranges join");
                assert!(batch.to >= batch.from && batch.to + batch.lag <= head);
                let decoded = v1::EventBatch::decode(batch.payload.clone()).expect("a payload is events");
                let sequences: Vec<_> = decoded.events.iter().map(|event| event.sequence).collect();
                assert!(sequences.is_sorted_by(|one, next| one < next), "in order, none twice");
                assert!(sequences.iter().all(|sequence| (batch.from..=batch.to).contains(sequence)));
                assert_eq!(sequences.len() as u64, batch.events);
                assert_eq!(batch.events + batch.filtered + batch.conflated, batch.to - batch.from + 1);
                assert!(batch.events <= 256 && (batch.payload.len() <= 256 << 10 || batch.events == 1));
                self.delivered += batch.events;
                self.filtered += batch.filtered;
                self.conflated += batch.conflated;
                self.next = batch.to + 1;
            }
            Next::Gap(gap) => {
                assert_eq!(gap.from, self.next, "ranges join");
                assert!(gap.to >= gap.from && gap.to <= head);
                self.gapped += gap.to - gap.from + 1;
                self.next = gap.to + 1;
            }
            Next::Ended(_) => {}
        }
    }

    pub(super) fn closes(&self) {
        let told = self.delivered + self.filtered + self.conflated + self.gapped;
        assert_eq!(self.start + told, self.next - 1, "delivered + filtered + conflated + gapped = produced");
    }
}

// === impl Rig ===

impl Rig {
    /// `adopted`: the log of a worker that has told nothing before.
    fn new(bounds: LogBounds, gateway_bytes_max: u64, adopted: bool) -> Self {
        let clock = Arc::new(ManualClock::new());
        let budget = Arc::new(LogBudget::new(gateway_bytes_max));
        let (of_log, account, time) = (bounds.clone(), Arc::clone(&budget), Arc::clone(&clock) as _);
        let log = if adopted {
            Log::starting_after(0, EPOCH, of_log, account, time)
        } else {
            Log::new(EPOCH, of_log, account, time)
        };
        let mut model = Model::new(EPOCH, bounds, gateway_bytes_max, crate::clock::Clock::monotonic_ms(&*clock));
        model.held_until_ms = if adopted { u64::MAX } else { 0 };
        let other_account = Arc::new(budget::SessionBytes::new(u64::MAX, budget));
        Self { log, clock, model, readers: vec![], kept: vec![], other: None, other_account }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Append(shapes) => self.append(&shapes),
            Op::Advance(by) => {
                self.clock.advance_ms(by);
                self.model.now_ms += by;
            }
            Op::Attach { start, linger_ms } => self.attach(start, linger_ms),
            Op::Detach(at) => {
                if !self.readers.is_empty() {
                    self.readers.swap_remove(at.index(self.readers.len()));
                }
            }
            Op::Poll { reader, view, times, keeps } => {
                if let Some(at) = self.pick(reader) {
                    (0..times).for_each(|_| _ = self.poll(at, view, true, keeps));
                }
            }
            Op::Discard { reader, view } => {
                if let Some(at) = self.pick(reader) {
                    self.poll(at, view, false, false);
                }
            }
            Op::Conflate(at) => self.order(at, Order::Conflate),
            Op::Skip(at, keep_newest) => self.order(at, Order::Skip { keep_newest }),
            Op::End(at) => self.order(at, Order::End(reason())),
            Op::DropKept => {
                for (_, frame) in self.kept.drain(..) {
                    if let Some(frame) = frame {
                        self.model.frames[frame].slices -= 1;
                    }
                }
            }
            Op::Trim => {
                self.log.trim();
                self.model.trim(self.readers.iter().map(|reader| reader.model.needs_after()));
            }
            Op::Forget(item) => {
                self.log.forget(item);
                self.model.forgotten.insert(item);
            }
            Op::Snapshot => self.snapshot(),
            Op::OtherBytes(bytes) => {
                self.other = None;
                self.other = Some(self.other_account.charge(bytes));
                self.model.other_bytes = bytes;
            }
            Op::Hold(for_ms) => {
                self.log.hold_floor(for_ms);
                if self.model.held_until_ms > 0 {
                    self.model.held_until_ms = self.model.now_ms + for_ms;
                }
            }
            Op::Close => {
                self.log.close(reason());
                self.model.closed = true;
            }
        }
        self.compare_state();
    }

    fn append(&mut self, shapes: &[(u64, Kind, usize)]) {
        let first = self.model.head() + 1;
        let events: Vec<_> = (first..)
            .zip(shapes)
            .map(|(sequence, (item, kind, size))| (*item, *kind, prefixed(&event(sequence, *item, *kind, *size))))
            .collect();
        let bytes: Vec<u8> = events.iter().flat_map(|(_, _, bytes)| bytes.clone()).collect();
        let (bytes, count) = (Bytes::from(bytes), shapes.len() as u32);
        if self.model.closed {
            assert_eq!(self.log.append(EPOCH, first, count, bytes), Err(FrameError::Closed));
            return;
        }
        let foreign = FrameError::Epoch { expected: EPOCH, got: 9 };
        assert_eq!(self.log.append(9, first, count, bytes.clone()), Err(foreign));
        let hole = FrameError::Hole { expected: first, got: first + 1 };
        assert_eq!(self.log.append(EPOCH, first + 1, count, bytes.clone()), Err(hole));
        let appended = self.log.append(EPOCH, first, count, bytes).expect("a right frame");
        self.model.append(events);
        assert_eq!(appended.head, self.model.head());
    }

    fn attach(&mut self, start: StartOp, linger_ms: u64) {
        let head = self.model.head();
        let start = match start {
            StartOp::Live => Start::Live,
            StartOp::Oldest => Start::Oldest,
            StartOp::Within(at) => Start::Resume { epoch: EPOCH, after: at.index(head as usize + 1) as u64 },
            StartOp::Beyond(by) => Start::Resume { epoch: EPOCH, after: head + by },
            StartOp::Foreign(after) => Start::Resume { epoch: EPOCH + 1, after },
        };
        let spec = ReaderSpec { name: "r".into(), key_id: "k".into(), external: true, max_linger_ms: linger_ms };
        match (self.log.attach(spec, start), self.model.attach(start, linger_ms)) {
            (Ok(cursor), Ok(model)) => {
                assert_eq!(cursor.position(), model.position);
                let account = Account { start: model.position, next: model.position + 1, ..Account::default() };
                self.readers.push(Reader { cursor, model, account, has_ended: false });
            }
            (Err(AttachError::BeyondHead { head }), Err(expected)) => assert_eq!(head, expected),
            (real, expected) => panic!("{start:?}: {:?}, the model {:?}", real.err(), expected.err()),
        }
    }

    fn order(&mut self, at: prop::sample::Index, order: Order) {
        let Some(at) = self.pick(at) else { return };
        let reader = &mut self.readers[at];
        match &order {
            Order::Conflate => reader.model.orders.conflate = true,
            Order::Skip { keep_newest } => reader.model.orders.keep_newest = Some(*keep_newest),
            Order::End(_) => reader.model.orders.end = true,
        }
        reader.cursor.control().order(order);
    }

    /// Polls one reader; false: nothing to do for it now, or for ever.
    fn poll(&mut self, at: usize, view: Option<u8>, commits: bool, keeps: bool) -> bool {
        let reader = &mut self.readers[at];
        let judge = |item: u64| {
            assert_ne!(item, 0, "not asked about what concerns no item");
            view.is_none_or(|bits| bits >> item & 1 == 1)
        };
        let (real_view, model_view) = match view {
            None => (View::All, None),
            Some(_) => (View::Filtered(&judge), Some(&judge as &dyn Fn(u64) -> bool)),
        };
        let polled = reader.cursor.poll_next(&mut Context::from_waker(Waker::noop()), real_view);
        let expected = self.model.poll(&mut reader.model, model_view);
        let next = match (polled, &expected) {
            (Poll::Pending, Expected::Pending) => return false,
            (Poll::Ready(Next::Ended(_)), Expected::Ended) => {
                reader.has_ended = true;
                return false;
            }
            (Poll::Ready(Next::Gap(gap)), Expected::Gap(expected)) => {
                assert_eq!(gap, *expected);
                Next::Gap(gap)
            }
            (
                Poll::Ready(Next::Batch(batch)),
                Expected::Batch { from, to, events, filtered, conflated, lag, payload, .. },
            ) => {
                let counts = (batch.from, batch.to, batch.events, batch.filtered, batch.conflated, batch.lag);
                assert_eq!(counts, (*from, *to, *events, *filtered, *conflated, *lag));
                assert!(batch.payload == payload, "the payload of {from}..={to} differs");
                Next::Batch(batch)
            }
            (Poll::Ready(Next::Batch(batch)), expected) => panic!("{}..={}, but {expected:?}", batch.from, batch.to),
            (polled, expected) => panic!("{polled:?}, but {expected:?}"),
        };
        if commits {
            reader.cursor.commit(&next);
            reader.model.commit(&expected, self.model.now_ms);
            reader.account.take(&next, self.model.head());
            reader.account.closes();
            assert_eq!(reader.cursor.position(), reader.model.position);
            assert_eq!(reader.account.next, reader.model.position + 1);
            if let (true, Next::Batch(batch), Expected::Batch { shares, .. }) = (keeps, &next, &expected) {
                if let Some(frame) = shares {
                    self.model.frames[*frame].slices += 1;
                }
                self.kept.push((batch.payload.clone(), *shares));
            }
        }
        true
    }

    fn snapshot(&self) {
        let (real, expected) = (self.log.snapshot(), self.model.snapshot());
        assert_eq!((real.epoch, real.as_of), (EPOCH, self.model.head()));
        assert_eq!(real.values.len(), expected.len());
        for (item, (sequence, bytes)) in expected {
            let value = &real.values[&item];
            let start = wire::strip_prefix_len(bytes);
            assert!(value.sequence == sequence && value.event == bytes[start..], "item {item}");
        }
    }

    fn compare_state(&mut self) {
        let stats = self.log.stats();
        assert_eq!(stats.head, self.model.head());
        assert_eq!(stats.segments, self.model.segments());
        assert_eq!(stats.held_after, self.model.held_after());
        assert_eq!(stats.replay_floor, self.model.floor());
        assert_eq!(stats.bytes, self.model.bytes(), "slices on their way count");
        assert_eq!(stats.readers, self.readers.len());
        for reader in &self.readers {
            let conflating = reader.cursor.control().mode() == ReaderMode::Conflating;
            // An order shows at the next poll.
            assert_eq!(conflating, reader.model.is_conflating());
        }
    }

    /// Everyone reads on until nothing is left, and everything is accounted for.
    fn drain(&mut self, view: Option<u8>) {
        for at in 0..self.readers.len() {
            loop {
                while self.poll(at, view, true, false) {}
                let reader = &self.readers[at];
                if reader.has_ended || reader.account.next > self.model.head() {
                    break;
                }
                self.run(Op::Advance(1_000));
            }
            let Reader { account, has_ended, .. } = &self.readers[at];
            account.closes();
            assert!(*has_ended || account.next == self.model.head() + 1, "all that was produced is told");
            assert!(*has_ended || !self.model.closed, "the end of the log ends everyone");
        }
    }

    fn pick(&self, index: prop::sample::Index) -> Option<usize> {
        (!self.readers.is_empty()).then(|| index.index(self.readers.len()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    // shows: S-04, S-05, S-06, S-07
    #[test]
    fn the_log_answers_as_the_model_does(
        (bounds, gateway_bytes_max) in bounds(),
        ops in prop::collection::vec(op(), 1..120),
        last_view in view(),
        closes: bool,
        adopted: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let _entered = runtime.enter();
        let mut rig = Rig::new(bounds, gateway_bytes_max, adopted);
        for op in ops {
            rig.run(op);
        }
        if closes {
            rig.run(Op::Close);
            rig.run(Op::Append(vec![(1, Kind::DataChange, 3)]));
        }
        rig.drain(last_view);
        rig.run(Op::DropKept);
        rig.readers.clear();
        rig.run(Op::Snapshot);
        rig.run(Op::Trim);
        // Nothing is lost with the memory that is given back.
        rig.run(Op::Snapshot);
    }
}
