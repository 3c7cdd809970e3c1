//! The log on a real runtime: waiting, waking, timers, the ends of the numbers, and whose memory a
//! payload is. What is answered is compared with the model elsewhere.

use super::{
    model_tests::Account,
    wire::tests::{event, prefixed},
    *,
};
use crate::{
    clock::{ManualClock, SystemClock},
    error::Code,
};
use bytes::Bytes;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

const EPOCH: u64 = 7;

fn log_with(bounds: LogBounds) -> Log {
    Log::new(EPOCH, bounds, Arc::new(LogBudget::new(1 << 30)), Arc::new(SystemClock::new()))
}

fn spec(max_linger_ms: u64) -> ReaderSpec {
    ReaderSpec { name: "reader".into(), key_id: "k1".into(), external: true, max_linger_ms }
}

/// `count` data changes after the head, items 1 to 4 in turn.
fn append(log: &Log, count: u64) -> Bytes {
    let first = log.head() + 1;
    let events = (first..=first + (count - 1))
        .map(|sequence| prefixed(&event(sequence, sequence % 4 + 1, Kind::DataChange, 40)));
    let bytes = Bytes::from(events.collect::<Vec<_>>().concat());
    log.append(EPOCH, first, count as u32, bytes.clone()).expect("a right frame");
    bytes
}

/// What a cursor answers now, without waiting.
fn poll(cursor: &mut Cursor) -> Option<Next> {
    match cursor.poll_next(&mut Context::from_waker(Waker::noop()), View::All) {
        Poll::Ready(next) => Some(next),
        Poll::Pending => None,
    }
}

fn batch(cursor: &mut Cursor) -> Batch {
    match poll(cursor) {
        Some(Next::Batch(batch)) => {
            cursor.commit(&Next::Batch(batch.clone()));
            batch
        }
        other => panic!("a batch, not {other:?}"),
    }
}

/// The next answer, within a bound that only a defect reaches.
async fn next(cursor: &mut Cursor, sees: fn(u64) -> bool) -> Next {
    let answer = poll_fn(|cx| cursor.poll_next(cx, if sees(u64::MAX) { View::All } else { View::Filtered(&sees) }));
    tokio::time::timeout(Duration::from_secs(30), answer).await.expect("the reader is woken")
}

fn is_ready(future: impl Future<Output = ()>) -> bool {
    pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

// shows: S-03, S-06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everyone_who_waits_gets_everything_and_the_end() {
    let log = log_with(LogBounds { lag_events_max: 1_000_000, ..LogBounds::default() });
    let waker = tokio::spawn(log.clone().run_waker());
    let mut readers = Vec::new();
    for (nth, linger) in [0, 0, 0, 2, 20].into_iter().enumerate() {
        let mut cursor = log.attach(spec(linger), Start::Live).expect("from the head");
        readers.push(tokio::spawn(async move {
            let sees: fn(u64) -> bool = if nth == 2 { |item| item == 1 || item == 3 } else { |_| true };
            let (mut told, mut filtered) = (0, 0);
            loop {
                let answer = next(&mut cursor, sees).await;
                match &answer {
                    Next::Batch(batch) => {
                        assert_eq!(batch.from, told + 1);
                        told = batch.to;
                        filtered += batch.filtered;
                        cursor.intend(batch.to);
                    }
                    Next::Gap(gap) => panic!("no reader is that slow: {gap:?}"),
                    Next::Ended(reason) => {
                        assert_eq!(reason.code(), Code::SessionClosed);
                        assert_eq!(cursor.control().intended(), told);
                        return (told, filtered);
                    }
                }
                cursor.commit(&answer);
            }
        }));
    }
    for nth in 0..400 {
        append(&log, nth % 37 + 1);
        if nth % 5 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let head = log.head();
    log.close(EndReason::new(Code::SessionClosed, "done"));
    log.close(EndReason::new(Code::Internal, "too late to matter"));
    for (nth, reader) in readers.into_iter().enumerate() {
        let (told, filtered) = reader.await.expect("a reader that does not panic");
        assert_eq!(told, head);
        assert_eq!(filtered, if nth == 2 { head.div_ceil(2) } else { 0 }, "items 2 and 4 of four");
    }
    waker.await.expect("the wake-task ends with the log");
    assert_eq!(log.stats().readers, 0, "who is done has detached");
}

// shows: S-03, S-08
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_account_closes_while_events_leave_under_the_readers() {
    let bounds =
        LogBounds { replay_buffer_capacity: 100, lag_events_max: 300, log_bytes_max: 40_000, ..LogBounds::default() };
    let budget = Arc::new(LogBudget::new(1 << 30));
    let log = Log::new(EPOCH, bounds, Arc::clone(&budget), Arc::new(SystemClock::new()));
    tokio::spawn(log.clone().run_waker());
    let mut readers = Vec::new();
    for nth in 0..6u64 {
        let mut cursor = log.attach(spec(nth % 2), Start::Live).expect("from the head");
        let log = log.clone();
        readers.push(tokio::spawn(async move {
            let views: [fn(u64) -> bool; 3] = [|_| true, |item| item == 2, |_| false];
            let mut account = Account { next: 1, ..Account::default() };
            for turn in nth.. {
                let answer = next(&mut cursor, views[turn as usize / 7 % 3]).await;
                if turn % 5 == 0 && !matches!(answer, Next::Ended(_)) {
                    continue;
                }
                account.take(&answer, log.head());
                cursor.commit(&answer);
                if matches!(answer, Next::Ended(_)) {
                    break;
                }
                if turn % (nth + 2) == 0 {
                    tokio::task::yield_now().await;
                }
            }
            account.closes();
            account
        }));
    }
    let pump = log.clone();
    let pump = tokio::task::spawn_blocking(move || {
        for nth in 0..3_000u64 {
            append(&pump, nth % 23 + 1);
            for reader in pump.readers().iter().filter(|reader| (nth + reader.id()) % 61 == 0) {
                match nth % 3 {
                    0 => reader.order(Order::Skip { keep_newest: nth % 50 }),
                    _ => reader.order(Order::Conflate),
                }
            }
            if nth % 40 == 0 {
                pump.trim();
                pump.snapshot();
            }
        }
        pump.close(EndReason::new(Code::SessionClosed, "done"));
    });
    pump.await.expect("the pump does not panic");
    for reader in readers {
        let account = reader.await.expect("a reader that does not panic");
        assert_eq!(account.next, log.head() + 1, "{account:?}");
    }
    let stats = log.stats();
    assert!(stats.readers == 0 && stats.bytes <= stats.bytes_max && stats.bytes == budget.used(), "{stats:?}");
}

#[tokio::test]
async fn an_order_wakes_who_waits() {
    let log = log_with(LogBounds::default());
    append(&log, 3);
    let mut cursor = log.attach(spec(0), Start::Live).expect("from the head");
    let control = Arc::clone(cursor.control());
    let waiting = tokio::spawn(async move { next(&mut cursor, |_| true).await });
    tokio::task::yield_now().await;
    control.order(Order::End(EndReason::new(Code::StreamPressure, "too slow")));
    control.order(Order::End(EndReason::new(Code::Internal, "the first reason stands")));
    let Next::Ended(reason) = waiting.await.expect("no panic") else { panic!("an end") };
    assert_eq!(reason.code(), Code::StreamPressure);
}

#[tokio::test]
async fn who_lingers_gets_the_first_at_once_and_the_rest_together_in_time() {
    let log = log_with(LogBounds::default());
    tokio::spawn(log.clone().run_waker());
    let mut cursor = log.attach(spec(60), Start::Live).expect("from the head");
    append(&log, 1);
    let began = Instant::now();
    let first = next(&mut cursor, |_| true).await;
    cursor.commit(&first);
    for _ in 0..5 {
        append(&log, 1);
    }
    assert!(poll(&mut cursor).is_none() || began.elapsed() >= Duration::from_millis(59));
    let Next::Batch(rest) = next(&mut cursor, |_| true).await else { panic!("a batch") };
    assert_eq!((rest.from, rest.to), (2, 6));
    // The clock counts whole milliseconds.
    assert!(began.elapsed() >= Duration::from_millis(59), "no message before the linger is over");
    cursor.commit(&Next::Batch(rest));
    append(&log, 256);
    let Some(Next::Batch(full)) = poll(&mut cursor) else { panic!("a full batch does not linger") };
    assert_eq!(full.events, 256);
}

// shows: S-07
#[tokio::test]
async fn a_stretch_that_is_filtered_advances_once_a_second() {
    let clock = Arc::new(ManualClock::new());
    let log = Log::new(EPOCH, LogBounds::default(), Arc::new(LogBudget::new(1 << 30)), Arc::clone(&clock) as _);
    let mut cursor = log.attach(spec(0), Start::Live).expect("from the head");
    let nothing = |_: u64| false;
    let mut messages = Vec::new();
    for _ in 0..100 {
        append(&log, 3);
        clock.advance_ms(30);
        if let Poll::Ready(answer) = cursor.poll_next(&mut Context::from_waker(Waker::noop()), View::Filtered(&nothing))
        {
            cursor.commit(&answer);
            let Next::Batch(batch) = answer else { panic!("a batch") };
            assert!(batch.payload.is_empty() && batch.filtered == batch.to - batch.from + 1);
            messages.push(batch.to);
        }
    }
    // At once when idle, then every second of three.
    assert_eq!(messages, [3, 105, 207], "{messages:?}");
}

// shows: S-04
#[test]
fn someone_who_sets_the_clock_evicts_nothing_and_keeps_nothing() {
    let clock = Arc::new(ManualClock::new());
    let bounds = LogBounds { replay_retention_ms: 10_000, ..LogBounds::default() };
    let log = Log::new(EPOCH, bounds, Arc::new(LogBudget::new(1 << 30)), Arc::clone(&clock) as _);
    append(&log, 10);
    for unix_ms in [4_000_000_000_000, 1] {
        clock.set_unix_ms(unix_ms);
        log.trim();
        assert_eq!(log.stats().replay_floor, 0, "at {unix_ms}");
    }
    clock.advance_ms(10_001);
    log.trim();
    assert_eq!(log.stats().replay_floor, 10, "time that has passed counts");
}

// shows: S-17
#[test]
fn an_unfiltered_batch_is_the_workers_own_bytes() {
    let log = log_with(LogBounds::default());
    let mut cursor = log.attach(spec(0), Start::Live).expect("from the head");
    let frame = append(&log, 200);
    let got = batch(&mut cursor);
    assert_eq!(got.payload.as_ptr(), frame.as_ptr());
    assert_eq!(got.payload, frame);
    // The rest of it, from the middle.
    let mut middle = log.attach(spec(0), Start::Resume { epoch: EPOCH, after: 100 }).expect("within");
    let rest = batch(&mut middle);
    assert_eq!((rest.from, rest.to), (101, 200));
    assert_eq!(rest.payload.as_ptr_range().end, frame.as_ptr_range().end);
}

#[test]
fn a_judge_may_ask_the_log() {
    let log = log_with(LogBounds::default());
    let mut cursor = log.attach(spec(0), Start::Live).expect("from the head");
    append(&log, 8);
    cursor.control().order(Order::Conflate);
    // Would wait for ever if the log were locked while events are judged.
    let sees = |item: u64| item < log.stats().head && item == 1;
    let answer = cursor.poll_next(&mut Context::from_waker(Waker::noop()), View::Filtered(&sees));
    let Poll::Ready(Next::Batch(batch)) = answer else { panic!("a batch") };
    assert_eq!((batch.events, batch.filtered, batch.conflated), (1, 6, 1));
}

#[test]
fn small_segments_go_together_and_large_ones_alone() {
    let log = log_with(LogBounds::default());
    let mut cursor = log.attach(spec(0), Start::Live).expect("from the head");
    for count in [1, 2, 3, 200, 1] {
        append(&log, count);
    }
    let ranges = std::array::from_fn(|_| batch(&mut cursor)).map(|batch| (batch.from, batch.to, batch.lag));
    assert_eq!(ranges, [(1, 6, 201), (7, 206, 1), (207, 207, 0)]);
    for _ in 0..300 {
        append(&log, 1);
    }
    assert_eq!(batch(&mut cursor).events, 256);
    assert_eq!(batch(&mut cursor).events, 44);
    assert!(poll(&mut cursor).is_none());
}

// shows: S-05
#[test]
fn the_last_sequence_is_a_sequence_like_any_other() {
    let log = Log::starting_after(
        u64::MAX - 2,
        EPOCH,
        LogBounds::default(),
        Arc::new(LogBudget::new(1 << 30)),
        Arc::new(SystemClock::new()),
    );
    let mut live = log.attach(spec(0), Start::Live).expect("from the head");
    let mut oldest = log.attach(spec(0), Start::Oldest).expect("what there is");
    append(&log, 2);
    assert_eq!(log.head(), u64::MAX);
    assert_eq!(batch(&mut live).to, u64::MAX);
    assert!(poll(&mut live).is_none());
    let Some(gap @ Next::Gap(Gap { from: 1, reason: GapReason::Restarted, .. })) = poll(&mut oldest) else {
        panic!("a gap")
    };
    oldest.commit(&gap);
    assert_eq!(batch(&mut oldest).events, 2);
    let sees = |_: u64| true;
    let mut again = log.attach(spec(0), Start::Resume { epoch: EPOCH, after: u64::MAX - 1 }).expect("within");
    let seen = again.poll_next(&mut Context::from_waker(Waker::noop()), View::Filtered(&sees));
    assert!(matches!(seen, Poll::Ready(Next::Batch(Batch { from: u64::MAX, to: u64::MAX, events: 1, .. }))));
    assert_eq!(log.append(EPOCH, u64::MAX, 1, Bytes::new()), Err(FrameError::Exhausted));
    log.trim();
    assert_eq!(log.stats().segments, 1, "kept for a resume");
}

// shows: W-06
#[test]
fn the_readers_of_before_find_what_was_told_while_nobody_could_attach() {
    let clock = Arc::new(ManualClock::new());
    let bounds = LogBounds::default();
    let (held, budget) = (bounds.held_events(), Arc::new(LogBudget::new(1 << 30)));
    let log = Log::starting_after(5_000, EPOCH, bounds, budget, Arc::clone(&clock) as _);
    for _ in 0..40 {
        append(&log, 100);
    }
    clock.advance_ms(8_000);
    log.trim();
    log.hold_floor(10_000);
    let resumes = |after| log.attach(spec(0), Start::Resume { epoch: EPOCH, after }).expect("within");
    let mut back = resumes(5_000);
    assert_eq!(batch(&mut back).from, 5_001, "no gap");
    let Some(Next::Gap(gap)) = poll(&mut resumes(4_990)) else { panic!("a gap") };
    let before = Gap { from: 4_991, to: 5_000, reason: GapReason::Restarted };
    assert_eq!(gap, before, "what the gateway before had is gone with it");
    drop(back);
    // Not without bound.
    while log.head() < 5_000 + held + 300 {
        append(&log, 100);
    }
    assert_eq!(log.stats().replay_floor, 5_300);
    clock.advance_ms(10_000);
    log.trim();
    assert_eq!(log.stats().replay_floor, log.head() - 1_024, "those who come now resume as ever");
    let begun = log_with(LogBounds::default());
    begun.hold_floor(10_000);
    (0..20).for_each(|_| _ = append(&begun, 100));
    assert_eq!(begun.stats().replay_floor, 2_000 - 1_024, "a log that began with its session waits for nobody");
}

// shows: S-08
#[test]
fn the_alarm_rings_once_the_head_is_there() {
    let log = log_with(LogBounds::default());
    assert!(!is_ready(log.pressure_alarm()));
    log.set_next_alarm(5);
    append(&log, 4);
    assert!(!is_ready(log.pressure_alarm()));
    append(&log, 3);
    assert!(is_ready(log.pressure_alarm()));
    append(&log, 3);
    assert!(!is_ready(log.pressure_alarm()), "it rings again only when it was set again");
    log.set_next_alarm(9);
    assert!(is_ready(log.pressure_alarm()), "a number that has passed rings at once");
    let cursor = log.attach(spec(0), Start::Oldest).expect("what there is");
    assert!(is_ready(log.pressure_alarm()), "a reader came");
    drop(cursor);
    assert!(is_ready(log.pressure_alarm()), "a reader went");
}

#[test]
fn a_wrong_frame_leaves_the_log_as_it_was() {
    let log = log_with(LogBounds::default());
    append(&log, 3);
    let before = log.stats();
    let wrong = Bytes::from_static(b"\x7a\x09\x09\x04\0\0\0\0\0\0\0\x7a");
    for (epoch, first, count) in [(EPOCH, 4, 1), (EPOCH, 4, 2), (EPOCH, 5, 1), (EPOCH + 1, 4, 1), (EPOCH, 4, u32::MAX)]
    {
        assert!(log.append(epoch, first, count, wrong.clone()).is_err(), "{epoch} {first} {count}");
    }
    assert_eq!(log.stats(), before);
    append(&log, 1);
    assert_eq!(log.head(), 4);
}

#[test]
fn an_idle_session_gives_its_memory_back_and_keeps_the_last_values() {
    let clock = Arc::new(ManualClock::new());
    let budget = Arc::new(LogBudget::new(1 << 30));
    let log = Log::new(EPOCH, LogBounds::default(), Arc::clone(&budget), Arc::clone(&clock) as _);
    for _ in 0..50 {
        append(&log, 100);
    }
    log.trim();
    assert_eq!(log.stats().segments, 11, "1,024 events for a resume, in whole segments");
    let before = log.snapshot();
    assert_eq!(before.values.len(), 4);
    clock.advance_ms(300_001);
    log.trim();
    drop(before.clone());
    let after = log.snapshot();
    assert_eq!((after.as_of, &after.values), (before.as_of, &before.values));
    drop(before);
    assert_eq!((log.stats().segments, log.stats().bytes, budget.used()), (0, 0, 0));
    log.forget(3);
    assert_eq!(log.snapshot().values.len(), 3);
}
