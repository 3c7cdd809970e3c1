//! Honest streams close their account; every planted violation is found, named and counted.

use super::*;
use proptest::prelude::*;
use tidegate_proto::v1::Event;

const EPOCH: u64 = 7;

fn opened(after: u64) -> StreamEventsResponse {
    message(Message::Opened(StreamOpened {
        epoch: EPOCH,
        after,
        head: after,
        generation: 1,
        resume_token: String::new(),
    }))
}

fn message(message: Message) -> StreamEventsResponse {
    StreamEventsResponse { message: Some(message) }
}

fn batch_of(from: u64, to: u64, sequences: &[u64], filtered: u64, conflated: u64) -> EventBatch {
    let events = sequences.iter().map(|&sequence| Event { sequence, item_key: 1, ..Event::default() }).collect();
    EventBatch { epoch: EPOCH, from, to, generation: 1, filtered, conflated, lag: 0, events }
}

fn batch(from: u64, to: u64, sequences: &[u64], filtered: u64, conflated: u64) -> StreamEventsResponse {
    message(Message::Batch(batch_of(from, to, sequences, filtered, conflated)))
}

fn gap(from: u64, to: u64) -> StreamEventsResponse {
    message(Message::Gap(Gap { epoch: EPOCH, from, to, reason: Reason::Evicted as i32 }))
}

fn after(messages: &[StreamEventsResponse]) -> (Account, Option<Violation>) {
    let mut account = Account::new();
    let mut first = None;
    for message in messages {
        first = first.or(account.take(message).err());
    }
    (account, first)
}

#[test]
fn an_honest_stream_closes() {
    let (account, violation) = after(&[
        opened(10),
        gap(11, 20),
        batch(21, 23, &[21, 22, 23], 0, 0),
        batch(24, 30, &[25, 30], 4, 1),
        batch(31, 40, &[], 10, 0),
    ]);
    assert_eq!(violation, None);
    let counts = account.counts();
    assert!(counts.closes(), "{counts}");
    assert_eq!(
        (counts.produced, counts.delivered, counts.filtered, counts.conflated, counts.gapped),
        (30, 5, 14, 1, 10)
    );
    assert_eq!(account.position(), Some(Position { epoch: EPOCH, after: 40 }));
}

#[test]
fn each_violation_names_its_sequence() {
    let cases: &[(&str, Vec<StreamEventsResponse>, Violation)] = &[
        ("no opened", vec![batch(1, 1, &[1], 0, 0)], Violation::NotOpened),
        ("opened twice", vec![opened(0), opened(0)], Violation::OpenedTwice),
        ("nothing", vec![StreamEventsResponse::default()], Violation::Empty),
        ("a hole", vec![opened(0), batch(2, 2, &[2], 0, 0)], Violation::Hole { expected: 1, found: 2 }),
        ("a hole at a gap", vec![opened(0), gap(3, 4)], Violation::Hole { expected: 1, found: 3 }),
        (
            "a range again",
            vec![opened(0), batch(1, 2, &[1, 2], 0, 0), batch(2, 3, &[2, 3], 0, 0)],
            Violation::Overlap { expected: 3, found: 2 },
        ),
        ("range backwards", vec![opened(5), batch(6, 5, &[], 0, 0)], Violation::BadRange { from: 6, to: 5 }),
        ("sequence 0", vec![opened(0), batch(0, 1, &[1], 1, 0)], Violation::BadRange { from: 0, to: 1 }),
        ("outside", vec![opened(0), batch(1, 2, &[1, 3], 0, 0)], Violation::Outside { sequence: 3, from: 1, to: 2 }),
        ("twice", vec![opened(0), batch(1, 2, &[1, 1], 0, 0)], Violation::Duplicate { sequence: 1 }),
        ("swapped", vec![opened(0), batch(1, 2, &[2, 1], 0, 0)], Violation::Reordered { sequence: 1, previous: 2 }),
        ("too few", vec![opened(0), batch(1, 3, &[1], 1, 0)], Violation::Sum { from: 1, to: 3, explained: 2 }),
        ("too many", vec![opened(0), batch(1, 2, &[1, 2], 1, 0)], Violation::Sum { from: 1, to: 2, explained: 3 }),
    ];
    for (name, messages, expected) in cases {
        let (account, violation) = after(messages);
        assert_eq!(violation, Some(*expected), "{name}");
        assert!(
            matches!(
                expected,
                Violation::NotOpened | Violation::OpenedTwice | Violation::Empty | Violation::BadRange { .. }
            ) || !account.counts().closes(),
            "{name}: {}",
            account.counts()
        );
    }
}

#[test]
fn another_epoch_within_a_stream_is_a_violation() {
    let mut other = batch_of(1, 1, &[1], 0, 0);
    other.epoch = 8;
    let (_, violation) = after(&[opened(0), message(Message::Batch(other))]);
    assert_eq!(violation, Some(Violation::Epoch { expected: 7, found: 8, at: 1 }));
}

#[test]
fn a_continued_stream_joins_or_is_caught() {
    let (mut account, _) = after(&[opened(0), batch(1, 5, &[1, 2, 3, 4, 5], 0, 0)]);
    account.ended();
    assert_eq!(account.take(&opened(5)), Ok(()));
    assert_eq!(account.take(&batch(6, 6, &[6], 0, 0)), Ok(()));
    account.ended();
    assert_eq!(account.take(&opened(9)), Err(Violation::NotResumed { asked: 6, opened: 9 }));
    assert_eq!(account.counts().produced, 6);
}

#[test]
fn hostile_numbers_do_not_overflow() {
    let (account, violation) = after(&[
        opened(0),
        batch(1, u64::MAX - 1, &[], u64::MAX, u64::MAX),
        batch(1, u64::MAX - 1, &[], 0, 0),
        batch(u64::MAX, u64::MAX, &[u64::MAX], 0, 0),
    ]);
    assert!(violation.is_some());
    assert!(!account.counts().closes());
    let (_, violation) = after(&[opened(u64::MAX), batch(u64::MAX, u64::MAX, &[], 1, 0)]);
    assert_eq!(violation, Some(Violation::BadRange { from: u64::MAX, to: u64::MAX }));
}

/// What becomes of the next few sequences in a generated honest stream.
#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<u8>),
    Gap(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec(0u8..3, 1..12).prop_map(Step::Batch),
        1 => (1u8..20).prop_map(Step::Gap),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// The messages of an honest stream; `None` marks where a stream ended and another continues.
fn honest(start: u64, steps: &[Step]) -> Vec<Option<StreamEventsResponse>> {
    let mut after = start;
    let mut messages = vec![Some(opened(after))];
    for step in steps {
        match step {
            Step::Batch(fates) => {
                let (from, to) = (after + 1, after + fates.len() as u64);
                let seen: Vec<u64> =
                    fates.iter().zip(from..).filter(|(fate, _)| **fate == 0).map(|(_, sequence)| sequence).collect();
                let count = |which| fates.iter().filter(|fate| **fate == which).count() as u64;
                messages.push(Some(batch(from, to, &seen, count(1), count(2))));
                after = to;
            }
            Step::Gap(length) => {
                messages.push(Some(gap(after + 1, after + u64::from(*length))));
                after += u64::from(*length);
            }
            Step::Reopen => messages.extend([None, Some(opened(after))]),
        }
    }
    messages
}

fn run(messages: &[Option<StreamEventsResponse>]) -> (Account, Option<Violation>) {
    let mut account = Account::new();
    let mut first = None;
    for message in messages {
        match message {
            Some(message) => first = first.or(account.take(message).err()),
            None => account.ended(),
        }
    }
    (account, first)
}

proptest! {
    #[test]
    fn honest_streams_always_close(start in 0u64..1000, steps in steps()) {
        let (account, violation) = run(&honest(start, &steps));
        prop_assert_eq!(violation, None);
        prop_assert!(account.counts().closes());
        prop_assert_eq!(account.position().map(|p| p.after - start), Some(account.counts().produced));
    }

    #[test]
    fn a_lost_message_is_always_found(start in 0u64..1000, steps in steps(), pick in any::<prop::sample::Index>()) {
        let mut messages = honest(start, &steps);
        let carrying: Vec<usize> = messages.iter().enumerate()
            .filter(|(_, m)| matches!(m, Some(StreamEventsResponse { message: Some(Message::Batch(_) | Message::Gap(_)) })))
            .map(|(at, _)| at)
            .collect();
        prop_assume!(carrying.len() > 1);
        // The last one may be lost: the reader was simply not told yet.
        let lost = carrying[pick.index(carrying.len() - 1)];
        messages.remove(lost);
        let (account, violation) = run(&messages);
        prop_assert!(violation.is_some());
        let unresumed = matches!(violation, Some(Violation::NotResumed { .. }));
        prop_assert!(unresumed || !account.counts().closes());
    }

    #[test]
    fn a_repeated_message_is_always_found(start in 0u64..1000, steps in steps(), pick in any::<prop::sample::Index>()) {
        let mut messages = honest(start, &steps);
        let at = pick.index(messages.len());
        prop_assume!(messages[at].is_some());
        let again = messages[at].clone();
        messages.insert(at, again);
        let (_, violation) = run(&messages);
        prop_assert!(violation.is_some());
    }

    #[test]
    fn a_lost_or_doctored_event_is_always_found(
        start in 0u64..1000, steps in steps(), pick in any::<prop::sample::Index>(), how in 0u8..3,
    ) {
        let mut messages = honest(start, &steps);
        let mut batches: Vec<&mut EventBatch> = messages.iter_mut()
            .filter_map(|message| match message {
                Some(StreamEventsResponse { message: Some(Message::Batch(batch)) }) if batch.events.len() > 1 => Some(batch),
                _ => None,
            })
            .collect();
        prop_assume!(!batches.is_empty());
        let at = pick.index(batches.len());
        let events = &mut batches[at].events;
        match how {
            0 => { events.pop(); }
            1 => events.swap(0, 1),
            _ => events[1].sequence = events[0].sequence,
        }
        let (account, violation) = run(&messages);
        prop_assert!(violation.is_some());
        prop_assert!(!account.counts().closes());
    }
}
