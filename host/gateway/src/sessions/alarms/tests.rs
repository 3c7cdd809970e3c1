//! The table against the worker's own book, under any course of alarms, failures and slow readers: what a reader makes of a
//! snapshot and the changes after it is what stands at the worker. And the contract of the pipe, broken in each way.

use super::table::{AlarmTable, Ask, Change, Look, Why, waits};
use crate::{
    error::{Code, Error},
    telemetry::Metrics,
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use tidegate_proto::{
    v1::{Alarm, AlarmProvider, AlarmState, AlarmTransition, alarm_provider::State, alarm_transition::Kind},
    worker::v1::{self as pipe, alarm_change::What, from_worker::Frame},
};
use tidegate_worker::alarms::{AlarmBook, Raise};

#[derive(Clone, Debug)]
enum Op {
    /// Tag and whether it is the outer limit.
    Raise(u8, bool),
    Returned(u8),
    Acknowledge(u8),
    Lost,
    Open(bool),
    /// Frames on their way reach the gateway.
    Deliver(u8),
    /// A gateway takes the worker over: what was on its way is lost from here on back, and it asks anew.
    Restart(u8),
    /// A reader reads so many things.
    Read(prop::sample::Index, u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => (0..40u8, any::<bool>()).prop_map(|(tag, outer)| Op::Raise(tag, outer)),
        8 => (0..40u8).prop_map(Op::Returned),
        8 => any::<u8>().prop_map(Op::Acknowledge),
        1 => Just(Op::Lost),
        2 => any::<bool>().prop_map(Op::Open),
        8 => any::<u8>().prop_map(Op::Deliver),
        1 => any::<u8>().prop_map(Op::Restart),
        6 => (any::<prop::sample::Index>(), 1..60u8).prop_map(|(reader, times)| Op::Read(reader, times)),
    ]
}

/// What a reader makes of what it is told.
#[derive(Default)]
struct Copy {
    position: Option<u64>,
    standing: BTreeMap<u64, Arc<Alarm>>,
    provider: AlarmProvider,
    /// Tells how often it began anew, and the newest reason.
    begun: Vec<Why>,
}

impl Copy {
    /// Takes one thing; false: there is nothing.
    fn read(&mut self, table: &AlarmTable) -> bool {
        match table.look(self.position) {
            Look::Wait => return false,
            Look::Anew(why, all) => {
                self.position = Some(all.at);
                self.standing = all.alarms.into_iter().map(|alarm| (alarm.alarm_id, alarm)).collect();
                self.provider = all.provider;
                self.begun.push(why);
            }
            Look::Next(change) => {
                self.position = self.position.map(|at| at + 1);
                match change {
                    Change::Provider(provider) => self.provider = provider,
                    Change::Transition(_, alarm) if alarm.state() == AlarmState::Gone => {
                        assert!(self.standing.remove(&alarm.alarm_id).is_some(), "it went twice");
                    }
                    Change::Transition(kind, alarm) => {
                        let before = self.standing.insert(alarm.alarm_id, alarm);
                        assert!(before.is_some() || kind == Kind::Raised, "{kind:?} of one that did not stand");
                    }
                }
            }
            Look::Ended(error) => panic!("{error:?}"),
        }
        true
    }
}

/// A worker, a pipe, a gateway with readers.
struct World {
    book: AlarmBook,
    pipe: VecDeque<Frame>,
    table: AlarmTable,
    max: usize,
    readers: Vec<Copy>,
}

impl World {
    fn new(max: usize) -> Self {
        let mut world = Self {
            book: AlarmBook::new("primary"),
            pipe: VecDeque::new(),
            table: table(max),
            max,
            readers: (0..3).map(|_| Copy::default()).collect(),
        };
        world.sync();
        world
    }

    fn sync(&mut self) {
        self.book.sync();
        self.pump();
    }

    fn pump(&mut self) {
        self.pipe.extend(std::iter::from_fn(|| self.book.next_frame()));
    }

    /// The oldest alarm is over and acknowledged.
    fn end_one(&mut self) {
        let oldest = self.book.standing().next().map(|alarm| (alarm.alarm_id, alarm.tag.clone()));
        if let Some((id, tag)) = oldest {
            self.book.returned(&tag, None, 1_001);
            // Over and acknowledged already: it has gone.
            let _gone = self.book.acknowledge(id, "k1", "", 1_001);
            self.pump();
        }
    }

    fn deliver(&mut self, frames: usize) {
        for _ in 0..frames.min(self.pipe.len()) {
            let ask = match self.pipe.pop_front() {
                Some(Frame::AlarmTable(part)) => self.table.part(part).map(|()| Ask::No),
                Some(Frame::AlarmChange(change)) => self.table.change(change),
                other => panic!("{other:?}"),
            };
            if ask.expect("a worker that keeps to the contract") == Ask::Yes {
                self.sync();
            }
        }
    }

    fn run(&mut self, op: &Op, now: i64) {
        let tag = |tag: u8| format!("Area{}.Tag{tag}", tag % 4);
        match op {
            Op::Raise(of, outer) => {
                let condition = if *outer { "high-high" } else { "high" }.to_owned();
                let priority = if *outer { 100 } else { 500 };
                self.book.raise(Raise { tag: tag(*of), condition, priority, value: None, limit: None }, now);
            }
            Op::Returned(of) => self.book.returned(&tag(*of), None, now),
            Op::Acknowledge(nth) => {
                let ids: Vec<u64> = self.book.standing().map(|alarm| alarm.alarm_id).collect();
                if let Some(id) = ids.get(usize::from(*nth) % ids.len().max(1)) {
                    // Refused while there is no provider, which is no change.
                    let _refused = self.book.acknowledge(*id, "k1", "seen", now);
                }
            }
            Op::Lost => self.book.lost(),
            Op::Open(primary) => self.book.open(if *primary { "primary" } else { "secondary" }),
            Op::Deliver(frames) => self.deliver((*frames).into()),
            Op::Restart(lost) => {
                // The worker drops what it cannot send; what it has not sent yet goes to the next gateway.
                let lost = usize::from(*lost).min(self.pipe.len());
                self.pipe.drain(..lost);
                self.table = table(self.max);
                self.readers = (0..3).map(|_| Copy::default()).collect();
                self.sync();
            }
            Op::Read(reader, times) => {
                let reader = reader.index(self.readers.len());
                for _ in 0..*times {
                    self.readers[reader].read(&self.table);
                }
            }
        }
        self.pump();
    }

    /// Everything arrives, everybody reads to the end: all know the same.
    fn settle(&mut self) {
        while !self.pipe.is_empty() {
            self.deliver(usize::MAX);
        }
        let book: BTreeMap<u64, Alarm> = self.book.standing().map(|alarm| (alarm.alarm_id, alarm.clone())).collect();
        let lost = self.book.provider().state() == State::Lost;
        let table = self.table.standing();
        for reader in &mut self.readers {
            while reader.read(&self.table) {}
            let seen: Vec<&Alarm> = reader.standing.values().map(|alarm| &**alarm).collect();
            let stands: Vec<&Alarm> = table.alarms.iter().map(|alarm| &**alarm).collect();
            assert_eq!(seen, stands, "a snapshot and the changes after it are the table");
            assert_eq!(reader.provider, table.provider);
        }
        assert_eq!(&table.provider, self.book.provider());
        let waiting = table.alarms.iter().filter(|alarm| waits(alarm)).count();
        let counts = self.table.counts().expect("it has alarms");
        assert_eq!((counts.standing, counts.waiting), (table.alarms.len(), waiting), "what is counted stands");
        assert!(table.alarms.len() <= self.max);
        if lost {
            // Frozen as it was, until a provider is open.
            return;
        }
        assert_eq!(table.revision, self.book.revision());
        for alarm in &table.alarms {
            assert_eq!(book.get(&alarm.alarm_id), Some(&**alarm), "what is kept is as it is");
        }
        let left_out = usize::try_from(table.not_kept).expect("few");
        assert_eq!(table.alarms.len() + left_out, book.len(), "what is left out is counted");
        assert!(left_out == 0 || table.alarms.len() + 1 >= self.max, "nothing is left out while there is room");
    }
}

fn table(max: usize) -> AlarmTable {
    AlarmTable::new(true, max, Metrics::new().alarms)
}

#[test]
fn a_worker_without_alarms_has_none_and_says_so() {
    let none = AlarmTable::new(false, 10, Metrics::new().alarms);
    assert_eq!(none.supported().expect_err("it has none").code(), Code::AlarmUnsupported);
    assert_eq!(none.counts(), None);
    assert!(table(10).supported().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    // shows: S-18
    #[test]
    fn a_snapshot_and_the_changes_after_it_are_what_stands_at_the_worker(
        max in prop_oneof![Just(1_000usize), 1..30usize],
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut world = World::new(max);
        for (now, op) in ops.iter().enumerate() {
            world.run(op, now as i64);
        }
        world.settle();
        // Whatever was left out is there once there is room.
        world.run(&Op::Open(true), 1_000);
        while world.book.standing().count() >= max.min(20) {
            world.end_one();
        }
        world.settle();
        world.end_one();
        world.settle();
        prop_assert_eq!(world.table.standing().not_kept, 0);
    }
}

fn alarm(id: u64) -> Alarm {
    Alarm { alarm_id: id, tag: format!("T{id}"), state: AlarmState::Active.into(), ..Alarm::default() }
}

fn part(revision: u64, alarms: Vec<Alarm>, first: bool, last: bool) -> pipe::AlarmTable {
    let provider = Some(AlarmProvider { name: "p".into(), state: State::Open.into() });
    pipe::AlarmTable { revision, provider, alarms, first, last }
}

fn raised(revision: u64, id: u64) -> pipe::AlarmChange {
    let what = What::Transition(AlarmTransition { kind: Kind::Raised.into(), alarm: Some(alarm(id)) });
    pipe::AlarmChange { revision, what: Some(what) }
}

// shows: S-18, S-15
#[test]
fn a_worker_that_breaks_the_contract_is_found_and_an_earlier_gateways_table_is_passed_over() {
    let fresh = table(10);
    assert_eq!(fresh.change(raised(7, 1)), Ok(Ask::No), "of a time before the table");
    assert_eq!(fresh.part(part(3, vec![alarm(9)], false, true)), Ok(()), "the rest of another gateway's table");
    assert!(matches!(fresh.look(None), Look::Wait), "nothing stands until it is known what does");
    assert_eq!(fresh.part(part(5, vec![alarm(1)], true, true)), Ok(()));
    assert!(fresh.change(raised(7, 2)).is_err(), "a revision is missing");

    let synced = |change: pipe::AlarmChange| {
        let table = table(10);
        table.part(part(5, vec![alarm(1)], true, true)).expect("a table");
        table.change(change)
    };
    assert_eq!(synced(raised(6, 2)), Ok(Ask::No));
    let odd = |alarm: Alarm| {
        let what = What::Transition(AlarmTransition { kind: Kind::Raised.into(), alarm: Some(alarm) });
        synced(pipe::AlarmChange { revision: 6, what: Some(what) })
    };
    assert!(odd(Alarm { alarm_id: 0, ..alarm(1) }).is_err());
    assert!(odd(Alarm { state: 77, ..alarm(1) }).is_err());
    assert!(odd(Alarm { comment: "x".repeat(20_000), ..alarm(1) }).is_err());
    assert!(synced(pipe::AlarmChange { revision: 6, what: None }).is_err());

    let table = table(10);
    table.part(part(5, vec![alarm(2)], true, false)).expect("the first part");
    assert!(table.part(part(5, vec![alarm(2)], false, true)).is_err(), "twice the same id");
    table.part(part(5, vec![alarm(2)], true, false)).expect("the first part");
    assert!(table.part(part(6, Vec::new(), false, true)).is_err(), "two revisions");
}

// shows: S-18
#[test]
fn a_reader_that_is_too_slow_begins_anew_and_one_that_is_not_gets_each_change() {
    let table = table(5_000);
    table.part(part(1, Vec::new(), true, true)).expect("a table");
    let (mut quick, mut slow) = (Copy::default(), Copy::default());
    assert!(quick.read(&table) && slow.read(&table));
    for nth in 1..=3_000 {
        assert_eq!(table.change(raised(nth + 1, nth)), Ok(Ask::No));
        assert!(quick.read(&table) && !quick.read(&table));
    }
    while slow.read(&table) {}
    assert_eq!(quick.begun, [Why::Opened]);
    assert_eq!(slow.begun, [Why::Opened, Why::TooSlow]);
    assert_eq!((quick.standing.len(), slow.standing.len()), (3_000, 3_000));
    table.close(Error::new(Code::StreamSessionEnded, "over"));
    assert!(matches!(table.look(slow.position), Look::Ended(_)));
    assert!(matches!(table.look(None), Look::Ended(_)));
}
