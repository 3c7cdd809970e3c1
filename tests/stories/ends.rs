//! Everything ends at some time: workers that die or misbehave, gateways that are asked to stop or killed.

use crate::harness::{Gateway, Launch, PATIENCE, Session, eventually, is_alive, is_gone, reason};
use rustix::process::{Pid, Signal};
use std::time::Duration;
use tidegate_client::Start;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
    time::{Instant, timeout},
};
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const TAGS: &[&str] = &["Area1.Pump1.Sine", "Area1.Pump1.Counter"];
/// What a worker has to end after it was asked.
const SHUTDOWN: Duration = Duration::from_secs(5);

fn kill(pid: u32) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, Signal::KILL).expect("the worker is there");
}

/// More than ever are in the handshake at once, and as many again.
const STRANGERS: usize = 160;

/// Twice the heartbeat and the grace of those who are impatient.
const STOOD_STILL: Duration = Duration::from_secs(6);

/// Short times, for stories about workers that hang or fall silent.
fn impatient() -> Launch {
    let launch = Launch::new().flag("--heartbeat-seconds", "1").flag("--heartbeat-grace-seconds", "2");
    launch.flag("--stuck-ceiling-seconds", "3").flag("--command-timeout-ms", "500")
}

/// The session of a dead worker says so to everybody, and leaves nothing behind once it is closed.
async fn is_faulted(gw: &Gateway, s: &Session) {
    eventually("the worker to be reaped", async || is_gone(s.pid).then_some(())).await;
    let admin = gw.admin().await;
    let session = eventually("the session to be faulted", async || {
        let sessions = admin.sessions().await.expect("a listing");
        sessions.into_iter().find(|one| one.session_id == s.id).filter(|one| one.state == "faulted")
    })
    .await;
    assert!(!session.fault.is_empty(), "{session:?}");
    assert_eq!(reason(s.client.register(&s.id, "late").await), "session.faulted");
    assert_eq!(reason(s.client.snapshot(&s.id).await), "session.faulted");
    let stream = s.client.stream(&s.id, Start::Live, Default::default()).await;
    assert_eq!(reason(stream), "session.faulted");
    s.close().await;
    eventually("the slot to be free", async || {
        admin.sessions().await.expect("a listing").iter().all(|one| one.session_id != s.id).then_some(())
    })
    .await;
}

// shows: S-15
#[tokio::test]
async fn a_gateway_that_stood_still_blames_no_worker() {
    let gw = impatient().start().await;
    let s = gw.open("line-1").await;
    s.advise(TAGS).await;
    gw.signal(Signal::STOP);
    let until = Instant::now() + STOOD_STILL;
    eventually("more time than a worker may be silent", async || (Instant::now() > until).then_some(())).await;
    gw.signal(Signal::CONT);
    let began = Instant::now();
    // Looks at its workers several times after that.
    eventually("it to go on", async || {
        s.client.state(&s.id).await.expect("an answer");
        (began.elapsed() > Duration::from_secs(1)).then_some(())
    })
    .await;
    let session = gw.admin().await.sessions().await.expect("a listing").remove(0);
    assert_eq!((session.state.as_str(), session.fault.as_str()), ("ready", ""));
    s.close().await;
}

// shows: S-15
#[tokio::test]
async fn a_killed_worker_faults_its_session_alone() {
    let gw = Gateway::start().await;
    let (dies, lives) = (gw.open("line-1").await, gw.open("line-2").await);
    let (mut one, mut other) = (dies.reader("one").await, lives.reader("other").await);
    dies.advise(TAGS).await;
    lives.advise(TAGS).await;
    one.count(20).await;
    other.count(20).await;
    kill(dies.pid);
    let end = one.ended().await;
    assert_eq!(end.reason, "session.faulted", "{end}");
    assert_eq!(end.resume_position(), Some(one.position()));
    let before = other.position().after;
    other.to(before + 50).await;
    is_faulted(&gw, &dies).await;
    let head = lives.silence().await;
    other.to(head).await;
    assert_eq!(other.counts().delivered, head);
    assert!(is_alive(lives.pid));
}

// shows: S-15
#[tokio::test]
async fn a_worker_that_breaks_the_protocol_faults_its_session_alone() {
    let gw = Gateway::start().await;
    let lives = gw.open("line-2").await;
    let mut other = lives.reader("other").await;
    lives.advise(TAGS).await;
    for fault in ["wrong-frame", "hole", "step-back", "crash"] {
        let s = gw.open("line-1").await;
        let mut reader = s.reader(fault).await;
        s.advise(TAGS).await;
        reader.count(10).await;
        // A crash takes its own answer with it.
        let _answer = s.fault(fault).await;
        let end = reader.ended().await;
        assert_eq!(end.reason, "session.faulted", "{fault}: {end}");
        is_faulted(&gw, &s).await;
    }
    let head = lives.silence().await;
    other.to(head).await;
    assert_eq!(other.counts().delivered, head);
}

// shows: S-15
#[tokio::test]
async fn a_worker_that_hangs_is_given_up_after_the_ceiling_and_a_silent_one_after_the_grace() {
    let gw = impatient().start().await;
    for (fault, answered) in [("hang", false), ("silent", true)] {
        let s = gw.open("line-1").await;
        let mut reader = s.reader(fault).await;
        s.advise(TAGS).await;
        reader.count(10).await;
        let answer = s.fault(fault).await;
        if answered {
            answer.expect("the write is taken");
        } else {
            assert_eq!(reason(answer), "command.timeout");
        }
        let end = reader.ended().await;
        assert_eq!(end.reason, "session.faulted", "{fault}: {end}");
        is_faulted(&gw, &s).await;
    }
}

// shows: S-15
#[tokio::test]
async fn a_fault_is_counted_once_and_its_slot_is_free_only_after_the_close() {
    let gw = Launch::new().flag("--max-sessions", "1").start().await;
    let s = gw.open("line-1").await;
    let (mut one, mut other) = (s.reader("one").await, s.reader("other").await);
    s.advise(TAGS).await;
    one.count(10).await;
    kill(s.pid);
    for reader in [&mut one, &mut other] {
        let end = reader.ended().await;
        assert_eq!(end.reason, "session.faulted", "{end}");
        assert!(end.message.contains("signal"), "the cause: {end}");
    }
    let counted = async |line: &str| gw.metrics().await.lines().any(|one| one == line);
    assert!(counted("tidegate_sessions_faulted_total 1").await);
    assert_eq!(reason(gw.try_open("line-2", "").await.map(|s| s.id.clone())), "session.limit");
    s.close().await;
    gw.try_open("line-2", "").await.expect("the slot is free again").close().await;
    for line in [
        "tidegate_sessions_closed_total{reason=\"fault\"} 1",
        "tidegate_sessions_closed_total{reason=\"client\"} 1",
        "tidegate_sessions_open 0",
        "tidegate_sessions_faulted_total 1",
    ] {
        eventually(line, async || counted(line).await.then_some(())).await;
    }
}

// shows: S-14
#[tokio::test]
async fn a_worker_that_does_not_end_when_asked_is_killed_and_two_closes_are_one_end() {
    let gw = Launch::new().flag("--command-timeout-ms", "500").start().await;
    let counted = async |line: &str| gw.metrics().await.lines().any(|one| one == line);
    let obeys = gw.open("line-1").await;
    obeys.close().await;
    let s = gw.open("line-2").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(10).await;
    assert_eq!(reason(s.fault("hang").await), "command.timeout");
    assert!(counted("tidegate_workers_killed_total 0").await, "who ends when asked is not killed");

    let client = gw.client().await;
    let asked = Instant::now();
    let (one, other, end) = tokio::join!(s.client.close(&s.id), client.close(&s.id), reader.ended());
    assert!(asked.elapsed() >= SHUTDOWN, "killed after {:?}, not asked first", asked.elapsed());
    assert_eq!((end.reason.as_str(), end.resume_position()), ("stream.session_ended", Some(reader.position())));
    assert_eq!(one.expect("closed"), other.expect("closed"));
    eventually("the worker to be reaped", async || is_gone(s.pid).then_some(())).await;
    for line in [
        "tidegate_workers_killed_total 1",
        "tidegate_workers_exited_total 2",
        "tidegate_sessions_closed_total{reason=\"client\"} 2",
        "tidegate_sessions_faulted_total 0",
    ] {
        eventually(line, async || counted(line).await.then_some(())).await;
    }
}

// shows: S-14
#[tokio::test]
async fn a_kill_wants_a_reason_and_tells_it_to_every_reader() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let (mut one, mut other) = (s.reader("one").await, s.reader("other").await);
    s.advise(TAGS).await;
    let admin = gw.admin().await;
    for blank in ["", " \t"] {
        assert_eq!(reason(admin.kill_session(&s.id, blank).await), "request.invalid");
    }
    assert!(is_alive(s.pid));
    one.count(20).await;
    admin.kill_session(&s.id, "line 1 is being rebuilt").await.expect("killed");
    for reader in [&mut one, &mut other] {
        let end = reader.ended().await;
        assert_eq!(end.reason, "stream.session_ended");
        assert!(end.message.contains("line 1 is being rebuilt"), "{end}");
        assert_eq!(end.resume_position(), Some(reader.position()));
    }
    eventually("the worker to be reaped", async || is_gone(s.pid).then_some(())).await;
}

// shows: S-17
#[tokio::test]
async fn a_stall_and_bad_quality_are_passed_on_as_they_are() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(10).await;
    s.fault("bad-quality 300").await.expect("taken");
    let quality = |event: &tidegate_client::wire::Event| match &event.body {
        Some(tidegate_client::wire::event::Body::DataChange(change)) => change.quality,
        _ => 192,
    };
    reader.until("bad quality", |event| quality(event) == 24).await;
    reader.until("good quality again", |event| quality(event) == 192).await;
    s.fault("stall 300").await.expect("taken");
    let before = reader.position().after;
    reader.to(before + 50).await;
    let head = s.silence().await;
    reader.to(head).await;
    assert_eq!(reader.counts().delivered, head);
}

// shows: E-16, S-14, E-12
#[tokio::test]
async fn a_gateway_that_is_asked_to_stop_tells_its_readers_where_to_resume() {
    let mut gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(50).await;
    let alarms = gw.connect().key(gw.first_key()).alarms().await.expect("the gateway answers");
    let mut alarms = alarms.stream(&s.id).await.expect("a stream");
    gw.signal(Signal::TERM);
    let end = reader.ended().await;
    assert_eq!(end.reason, "stream.draining", "{end}");
    assert_eq!(end.resume_position(), Some(reader.position()));
    // How far it came, and that there is nothing to come back to.
    assert!(end.session_ends() && end.resume_token().is_none(), "{:?}", end.details);
    let end = loop {
        match timeout(PATIENCE, alarms.next()).await.expect("an end in time") {
            Ok(message) => assert!(message.is_some(), "an end without a word"),
            Err(end) => break end,
        }
    };
    assert!(end.reason() == Some("stream.draining") && !end.passes(), "{end}");
    let status = gw.ended().await;
    assert!(status.success(), "{status}");
    assert!(!is_alive(s.pid), "the worker outlived its gateway");
    for left in ["admin.sock", "workers.sock", "addresses.json"] {
        assert!(!gw.data().join(left).exists(), "{left} is left");
    }
}

// shows: E-16
#[tokio::test]
async fn connections_that_say_nothing_do_not_hold_up_a_stop() {
    // Longer than the story waits for the end.
    let mut gw = Launch::new().flag("--drain-seconds", "120").start().await;
    let s = gw.open("line-1").await;
    let silent = [TcpStream::connect(gw.address()).await, TcpStream::connect(gw.http()).await].map(Result::unwrap);
    let operator = UnixStream::connect(gw.data().join("admin.sock")).await.expect("connected");
    // A preface, settings, and from then on nothing: no answer to a goodbye.
    let mut begun = TcpStream::connect(gw.address()).await.expect("connected");
    begun.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.expect("sent");
    begun.read_u8().await.expect("its settings");
    let mut kept = TcpStream::connect(gw.http()).await.expect("connected");
    kept.write_all(b"GET /api/version HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.expect("sent");
    kept.read_u8().await.expect("an answer");
    gw.signal(Signal::TERM);
    assert!(gw.ended().await.success());
    assert!(!is_alive(s.pid), "the worker outlived its gateway");
    drop((silent, operator, begun, kept));
}

// shows: E-16
#[tokio::test]
async fn a_watch_of_health_hears_of_the_end_and_does_not_hold_it_up() {
    // Longer than the story waits for the end.
    let mut gw = Launch::new().flag("--drain-seconds", "120").start().await;
    let channel = Endpoint::from_shared(format!("http://{}", gw.address())).expect("an address");
    let channel = channel.connect().await.expect("connected");
    let ask = MessageRequest::ListServices(String::new());
    let ask = tokio_stream::once(ServerReflectionRequest { host: String::new(), message_request: Some(ask) });
    let listed = ServerReflectionClient::new(channel.clone()).server_reflection_info(ask).await.expect("a stream");
    let listed = listed.into_inner().message().await.expect("an answer").and_then(|told| told.message_response);
    let Some(MessageResponse::ListServicesResponse(listed)) = listed else { panic!("{listed:?}") };
    let services: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
    assert!(services.iter().any(|name| name == "tidegate.v1.Alarms"), "{services:?}");
    assert!(!services.iter().any(|name| name.ends_with("Admin")), "not served over the network: {services:?}");
    let mut health = HealthClient::new(channel);
    for service in services {
        let status = health.check(HealthCheckRequest { service }).await.expect("each has a status");
        assert_eq!(status.into_inner().status(), ServingStatus::Serving);
    }
    let watch = health.watch(HealthCheckRequest::default()).await.expect("a watch");
    let mut watch = watch.into_inner();
    assert_eq!(watch.message().await.expect("told").expect("a status").status(), ServingStatus::Serving);
    gw.signal(Signal::TERM);
    let last = timeout(PATIENCE, watch.message()).await.expect("told in time").expect("told").expect("a status");
    assert_eq!(last.status(), ServingStatus::NotServing);
    assert!(watch.message().await.expect("an end in order").is_none());
    assert!(gw.ended().await.success());
}

// shows: S-15
#[tokio::test]
async fn a_killed_gateway_leaves_no_worker_and_the_next_one_starts_on_its_folder() {
    let mut gw = Gateway::start().await;
    let key = gw.key(&[], "sessions:own").await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(50).await;
    gw.signal(Signal::KILL);
    gw.ended().await;
    // Whoever reads just sees the connection break; what it had is in order.
    let end = reader.ended().await;
    assert!(end.reason.is_empty(), "{end}");
    eventually("the worker to end", async || (!is_alive(s.pid)).then_some(())).await;

    let next = Launch::again(gw.folder()).start().await;
    assert!(next.admin().await.sessions().await.expect("a listing").is_empty());
    let client = next.client_with(&key).await;
    let opened = crate::harness::open_as(&client, "again", "").await.expect("the key of before works");
    client.close(&opened.session_id).await.expect("closed");
}

// shows: S-15
#[tokio::test]
async fn strangers_at_the_workers_socket_are_turned_away() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    let frames: [&[u8]; 4] = [
        // Longer than any frame before the proof may be.
        b"\xff\xff\xff\xff",
        // A length, then bytes that are no message.
        b"\x04\0\0\0\xff\xff\xff\xff",
        // Half a frame.
        b"\x40\0\0\0\x0a",
        b"",
    ];
    for frame in frames {
        let mut stranger = UnixStream::connect(gw.data().join("workers.sock")).await.expect("connected");
        stranger.write_all(frame).await.expect("sent");
        stranger.shutdown().await.expect("done");
        let mut answer = Vec::new();
        // Closed, or reset because not everything was read; never answered.
        let _closed = timeout(PATIENCE, stranger.read_to_end(&mut answer)).await.expect("turned away in time");
        assert!(answer.is_empty(), "{answer:?}");
    }
    let before = reader.position().after;
    reader.to(before + 20).await;
    let head = s.silence().await;
    reader.to(head).await;
    assert_eq!(reader.counts().delivered, head);
}

// shows: S-15, W-03
#[tokio::test]
async fn strangers_who_say_nothing_hold_up_no_worker_and_are_cut() {
    // Less than the silence of as many strangers as find room would take, one group after the other.
    let gw = Launch::new().flag("--worker-start-timeout-seconds", "9").start().await;
    let socket = gw.data().join("workers.sock");
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        // The backlog may be full for a moment.
        strangers.push(eventually("a connection", async || UnixStream::connect(&socket).await.ok()).await);
    }
    let s = gw.open("line-1").await;
    s.close().await;
    for mut stranger in strangers {
        let mut answer = Vec::new();
        let _closed = timeout(PATIENCE, stranger.read_to_end(&mut answer)).await.expect("cut in time");
        assert!(answer.is_empty(), "{answer:?}");
    }
}
