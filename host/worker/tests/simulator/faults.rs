//! Faults on demand do what they say, and nothing without `faults = true` (see `stories`).

use crate::harness::{E_INVALIDARG, Item, Session};
use prost::Message as _;
use std::time::{Duration, Instant};
use tidegate_pipe::PipeError;
use tidegate_proto::{
    v1::{EventBatch, GetWorkerInfo, command::Method, event::Body, value::Kind},
    worker::v1::{Accept, from_worker::Frame},
};
use tidegate_worker::Ended;

async fn faulty(settings: &str) -> (Session, Item) {
    let settings = format!("{settings},faults=true");
    let mut s = Session::accept(Accept { heartbeat_ms: 10, settings, ..Accept::default() }).await;
    s.server = s.register().await;
    let fault = s.add("$Sim.Fault").await;
    (s, fault)
}

/// Reads until events come, without the harness's own checks of them.
async fn first_sequence(s: &mut Session) -> u64 {
    loop {
        match s.raw().await.unwrap() {
            Some(Frame::Events(events)) => return EventBatch::decode(events.events).unwrap().events[0].sequence,
            Some(_) => {}
            None => panic!("the pipe ended"),
        }
    }
}

#[tokio::test]
async fn a_word_that_is_no_fault_is_refused() {
    let (mut s, fault) = faulty("rate=0").await;
    let write = s.writing(fault, Kind::Text("fire".to_owned()));
    let refused = s.call(write).await;
    assert_eq!(refused.hresult, E_INVALIDARG);
    assert!(refused.message.contains("wrong-frame"), "it says what there is: {}", refused.message);
}

// shows: S-15
#[tokio::test]
async fn a_crash_ends_the_pipe_without_a_word() {
    let (mut s, fault) = faulty("rate=100").await;
    let crash = s.writing(fault, Kind::Text("crash".to_owned()));
    s.ask(crash).await;
    loop {
        match s.frame().await {
            Ok(Some(Frame::Events(_) | Frame::Heartbeat(_))) => {}
            Ok(None) | Err(_) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(s.joined().await, Err(Ended::Crashed)));
}

#[tokio::test]
async fn a_stall_delays_and_loses_nothing() {
    let (mut s, fault) = faulty("rate=1000").await;
    let item = s.subscribe("A.Counter").await;
    s.change(item).await;
    let before = Instant::now();
    s.order(fault, "stall 300").await;
    s.done(Method::GetWorkerInfo(GetWorkerInfo {})).await;
    assert!(before.elapsed() >= Duration::from_millis(300), "no answer while it stalls");
    let mut next = None;
    for _ in 0..400 {
        let (Some(Kind::Integer(count)), _) = s.change(item).await else { panic!() };
        assert!(next.is_none_or(|next| next == count));
        next = Some(count + 1);
    }
    assert!(!s.beats.is_empty());
}

#[tokio::test]
async fn a_wrong_frame_does_not_decode() {
    let (mut s, fault) = faulty("rate=0").await;
    s.order(fault, "wrong-frame").await;
    loop {
        match s.frame().await {
            Ok(Some(Frame::Heartbeat(_))) => {}
            Err(PipeError::Malformed(_)) => break,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_hole_and_a_step_back_are_exactly_one_sequence() {
    for (word, expected) in [("hole", 3), ("step-back", 1)] {
        let (mut s, fault) = faulty("rate=0").await;
        let item = s.subscribe("A.Counter").await;
        s.change(item).await;
        assert_eq!(s.head, 1);
        s.order(fault, word).await;
        s.ask_advise("B.Counter").await;
        assert_eq!(first_sequence(&mut s).await, expected, "{word}");
    }
}

#[tokio::test]
async fn bad_quality_comes_and_goes() {
    let (mut s, fault) = faulty("rate=0").await;
    let item = s.subscribe("Setpoint.A").await;
    assert_eq!(s.change(item).await, (Some(Kind::Double(0.0)), 192));
    s.order(fault, "bad-quality 50").await;
    let event = s.event(item).await;
    let Some(Body::DataChange(change)) = event.body else { panic!("{event:?}") };
    assert_eq!((change.quality, change.statuses[0].success, change.statuses[0].category), (24, 0, 3));
    assert_eq!(s.change(item).await, (Some(Kind::Double(0.0)), 192));
}

#[tokio::test]
async fn silence_stops_the_heartbeat_and_nothing_else() {
    let (mut s, fault) = faulty("rate=1000").await;
    let item = s.subscribe("A.Counter").await;
    while s.beats.len() < 3 {
        s.frame().await.unwrap();
    }
    s.order(fault, "silent").await;
    // One may be under way; then 300 ms of events would hold 30 more.
    s.events.clear();
    let beats = s.beats.len();
    for _ in 0..300 {
        s.change(item).await;
    }
    assert!(s.beats.len() <= beats + 1);
}

#[tokio::test]
async fn the_rate_can_be_changed_while_it_runs() {
    let (mut s, _) = faulty("rate=0").await;
    let item = s.subscribe("A.Counter").await;
    s.change(item).await;
    let rate = s.add("$Sim.Rate").await;
    let write = s.writing(rate, Kind::Integer(10_000));
    s.done(write).await;
    for count in 1..1_000 {
        assert_eq!(s.change(item).await.0, Some(Kind::Integer(count)));
    }
    let write = s.writing(rate, Kind::Double(500_000.5));
    assert_eq!(s.call(write).await.hresult, E_INVALIDARG);
}
