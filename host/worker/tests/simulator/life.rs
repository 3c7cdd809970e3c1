//! A worker's beginning, its heartbeat, and its ends.

use crate::harness::{BOUND, Session};
use std::time::Duration;
use tidegate_pipe::{PipeError, Secret, WorkerListener};
use tidegate_proto::{
    v1::{Command, Register, command::Method, command_result::Result as Returned},
    worker::v1::{Accept, CommandFrame, from_gateway, from_worker::Frame},
};
use tidegate_worker::{Ended, Outcome, WorkerArgs, run_sim_with};

// shows: S-14
#[tokio::test]
async fn a_worker_that_is_told_to_stop_says_goodbye() {
    let mut s = Session::start("rate=1000").await;
    let item = s.subscribe("A.Counter").await;
    s.change(item).await;
    assert_eq!(s.shutdown(BOUND).await, "shutdown");
    assert!(matches!(s.ended().await, Ok(Outcome::Shutdown)));
}

// shows: S-15
#[tokio::test]
async fn a_worker_ends_with_its_pipe() {
    let s = Session::start("rate=0").await;
    assert!(matches!(s.vanish().await, Ok(Outcome::PipeEnded)));
    let mut s = Session::start("rate=500000").await;
    let item = s.subscribe("A.Counter").await;
    s.change(item).await;
    assert!(matches!(s.vanish().await, Ok(Outcome::PipeEnded)));
}

#[tokio::test]
async fn a_command_that_hangs_stops_neither_heartbeat_nor_shutdown() {
    let accept = Accept { heartbeat_ms: 10, settings: "rate=0,faults=true".to_owned(), ..Accept::default() };
    let mut s = Session::accept(accept).await;
    s.server = s.register().await;
    let fault = s.add("$Sim.Fault").await;
    let hang = s.writing(fault, tidegate_proto::v1::value::Kind::Text("hang".to_owned()));
    s.ask(hang).await;
    s.ask(Method::Register(Register::default())).await;
    while s.beats.iter().filter(|beat| beat.busy_ms > 0).count() < 5 {
        assert!(matches!(s.frame().await.unwrap(), Some(Frame::Heartbeat(_))), "nothing is answered");
    }
    let busy: Vec<_> = s.beats.iter().map(|beat| beat.busy_ms).filter(|&ms| ms > 0).collect();
    assert!(busy.is_sorted() && busy[0] < busy[4], "{busy:?}");
    assert_eq!(s.shutdown(Duration::from_millis(20)).await, "stopped at the deadline");
    assert!(matches!(s.ended().await, Ok(Outcome::Shutdown)));
}

// shows: S-16
#[tokio::test]
async fn a_repeated_command_takes_effect_once() {
    let mut s = Session::start("rate=0").await;
    let register = Method::Register(Register { client_name: "again".to_owned() });
    let id = s.ask(register.clone()).await;
    let first = s.answer(id).await;
    s.repeat(id, register.clone()).await;
    assert_eq!(s.answer(id).await, first);
    assert_eq!(s.done(register).await, Some(Returned::ServerHandle(3)), "2 was the first one's, and only its");
}

// shows: W-06
#[tokio::test]
async fn a_worker_without_a_gateway_keeps_all_that_the_bytes_of_its_tail_hold() {
    let settings = "rate=5000".to_owned();
    let accept = Accept { settings, orphan_lifetime_ms: 600_000, have_sequence: Some(0), ..Accept::default() };
    let mut s = Session::accept(Accept { have_sequence: None, ..accept.clone() }).await;
    s.server = s.register().await;
    let item = s.subscribe("A.Counter").await;
    s.change(item).await;
    let (s, alone_at, from) = s.adopted_after(5_000, accept.clone()).await;
    assert!(from <= alone_at + 1, "of what it told to nobody from {alone_at} on it has the part from {from}");
    // Whoever took it gives way at once.
    let (mut s, again_at, from_again) = s.adopted_after(1_000, accept).await;
    assert_eq!(from_again, from, "the next one finds all of it, too");
    while s.head < again_at + 1_000 {
        assert!(matches!(s.frame().await.unwrap(), Some(Frame::Events(_) | Frame::Heartbeat(_))));
    }
}

#[tokio::test]
async fn commands_beyond_the_queue_are_refused_at_once() {
    let mut s = Session::start("rate=0,faults=true").await;
    let fault = s.add("$Sim.Fault").await;
    let hang = s.writing(fault, tidegate_proto::v1::value::Kind::Text("hang".to_owned()));
    s.ask(hang).await;
    // The queue holds 256, beside the one in hand.
    for _ in 0..258 {
        s.ask(Method::Register(Register::default())).await;
    }
    loop {
        match s.raw().await.unwrap() {
            Some(Frame::Reply(reply)) => {
                assert_eq!(reply.result.unwrap().hresult, 0x8001_010A_u32 as i32);
                break;
            }
            Some(Frame::Heartbeat(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn wrong_settings_are_said_in_goodbye() {
    let settings = "rate=fast,users=secret,tempo=1".to_owned();
    let mut s = Session::accept(Accept { settings, ..Accept::default() }).await;
    let reason = s.goodbye().await;
    for key in ["rate: ", "users: ", "tempo: "] {
        assert!(reason.contains(key), "{reason}");
    }
    assert!(!reason.contains("secret"));
    match s.ended().await {
        Err(Ended::Backend(said)) => assert_eq!(said, reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_frame_out_of_place_ends_the_worker() {
    let mut s = Session::start("rate=0").await;
    s.send(from_gateway::Frame::Accept(Accept::default())).await;
    assert!(matches!(s.ended().await, Err(Ended::Protocol("Accept"))));
    let mut s = Session::start("rate=0").await;
    let empty = CommandFrame { id: 99, command: Some(Command { method: None }) };
    s.send(from_gateway::Frame::Command(empty)).await;
    assert_ne!(s.answer(99).await.hresult, 0);
}

#[tokio::test]
async fn a_worker_whose_gateway_does_not_know_the_secret_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("workers.sock");
    let listener = WorkerListener::bind(&path).unwrap();
    let args = WorkerArgs { connect: path, session: "session-1".to_owned() };
    let worker = tokio::spawn(run_sim_with(args, Secret::mint().unwrap()));
    let pending = listener.accept().await.unwrap().hello(BOUND).await.unwrap();
    let impostor = pending.challenge(&Secret::mint().unwrap(), BOUND).await;
    assert!(matches!(impostor, Err(PipeError::Closed { awaited: "Answer" })), "{impostor:?}");
    assert!(matches!(worker.await.unwrap(), Err(Ended::Pipe(PipeError::WrongProof))));
}
