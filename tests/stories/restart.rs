//! A gateway dies, or gives way, and another one takes its place: workers, sessions, handles and accounts go on, and what
//! cannot go on is ended.

use crate::harness::{Gateway, Launch, Session, eventually, is_alive, open_as, reason};
use rusqlite::Connection;
use rustix::process::{Pid, Signal};
use std::{
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tidegate_client::{
    Gateway as Client,
    wire::{Event, ReadBulk, command::Method, event::Body, gap::Reason, value::Kind},
};
use tidegate_pipe::{HelloFields, PipeError, Secret, connect};
use tidegate_proto::worker::v1::Adopt;

pub(crate) const TAGS: &[&str] = &["Area1.Pump1.Sine", "Area1.Pump1.Counter"];

/// A gateway whose workers outlive it, yet no story for long.
pub(crate) fn reattach(launch: Launch) -> Launch {
    launch.switch("--enable-orphan-reattach").flag("--max-orphan-lifetime-seconds", "60")
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, signal).expect("the process is there");
}

/// kill -9, and its folder.
pub(crate) async fn killed(mut gw: Gateway) -> std::sync::Arc<TempDir> {
    gw.signal(Signal::KILL);
    gw.ended().await;
    gw.folder()
}

/// The session under another gateway, once it is there.
pub(crate) async fn again(gw: &Gateway, s: &Session) -> Session {
    let client = gw.client().await;
    eventually("the session to be back", async || client.state(&s.id).await.ok()).await;
    Session { client, id: s.id.clone(), pid: s.pid, epoch: s.epoch, server: s.server }
}

pub(crate) async fn is_over(client: &Client, s: &Session) {
    eventually("the worker to end", async || (!is_alive(s.pid)).then_some(())).await;
    eventually("the session to be given up", async || {
        (reason(client.state(&s.id).await) == "session.unknown").then_some(())
    })
    .await;
}

pub(crate) fn database(folder: &Path) -> Connection {
    let db = Connection::open(folder.join("data/tidegate.db")).expect("the database");
    db.busy_timeout(Duration::from_secs(10)).expect("set");
    db
}

/// Boot and start time, as the manifest has them.
fn started(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let ticks = stat.rsplit_once(')').expect("a name").1.split_ascii_whitespace().nth(19).expect("a start time");
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("a boot");
    format!("{} {ticks}", boot.trim())
}

/// A process that has nothing to do with any gateway.
fn bystander() -> Child {
    Command::new("cat").stdin(Stdio::piped()).spawn().expect("it starts")
}

// shows: W-01, W-02, W-03, W-04, W-06, W-08
#[tokio::test]
async fn a_killed_gateway_is_followed_by_one_that_takes_its_workers() {
    let gw = reattach(Launch::new()).start().await;
    let s = gw.open("line-1").await;
    let reader = s.reader("one").await;
    let (mut reader, items) = (reader, s.advise(TAGS).await);
    reader.count(50).await;
    // A second gateway on the folder is refused and harms nobody.
    let second = reattach(Launch::again(gw.folder())).refused().await;
    assert!(second.words.contains("data.locked"), "{}", second.words);
    let folder = killed(gw).await;
    assert!(is_alive(s.pid), "the worker outlives its gateway");

    let gw = reattach(Launch::again(folder)).start().await;
    let s = again(&gw, &s).await;
    // The same account goes on: what was made meanwhile comes from the worker's tail.
    let mut next = s.go_on("one", &reader).await;
    assert_eq!(next.opened().epoch, s.epoch);
    s.write(&items[0], 4.5).await.expect("the handles are the same");
    let before = next.position().after;
    next.to(before + 200).await;
    let head = s.silence().await;
    next.to(head).await;
    assert!(next.gaps.is_empty(), "{:?}", next.gaps);
    assert_eq!(next.counts().delivered, head, "{}", next.counts());
    s.close().await;
    eventually("the worker to end", async || (!is_alive(s.pid)).then_some(())).await;
    assert!(gw.metrics().await.contains("tidegate_workers_adopted_total 1"));
    let db = database(gw.folder().path());
    eventually("a session that was closed to be out of the manifest", async || {
        let rows: i64 = db.query_row("SELECT count(*) FROM workers", [], |row| row.get(0)).expect("rows");
        (rows == 0).then_some(())
    })
    .await;
}

// shows: W-04, W-06, S-14
#[tokio::test]
async fn a_stop_may_leave_the_workers_to_the_next_gateway() {
    let mut gw = reattach(Launch::new()).switch("--leave-workers").start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(50).await;
    gw.signal(Signal::TERM);
    let end = reader.ended().await;
    assert_eq!((end.reason.as_str(), end.resume_position()), ("stream.draining", Some(reader.position())));
    assert!(!end.session_ends() && end.resume_token().is_some(), "{:?}", end.details);
    assert!(gw.ended().await.success());
    assert!(is_alive(s.pid));

    let gw = reattach(Launch::again(gw.folder())).start().await;
    let s = again(&gw, &s).await;
    let mut next = s.go_on("one", &reader).await;
    let head = s.silence().await;
    next.to(head).await;
    assert_eq!((next.counts().delivered, next.gaps.len()), (head, 0));
    s.close().await;
}

// shows: W-06, W-08
#[tokio::test]
async fn a_gap_after_a_restart_is_exact_and_only_where_the_tail_moved_on() {
    // The tail holds less than a second of this, the log 75 ms, which no start of a process takes.
    let gw = reattach(Launch::new()).backend("sim", "rate=100000").start().await;
    let s = gw.open_on("sim").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(100).await;
    let had = reader.position().after;
    let folder = killed(gw).await;

    let gw = reattach(Launch::again(folder)).backend("sim", "rate=100000").start().await;
    let s = again(&gw, &s).await;
    // First, or whoever comes back at the floor is soon too far behind again.
    let head = s.silence().await;
    let mut next = s.go_on("one", &reader).await;
    next.to(head).await;
    let gap = next.gaps[0];
    // By which of the two it begins.
    assert!(matches!(gap.reason(), Reason::Restarted | Reason::Evicted), "{:?}", next.gaps);
    assert_eq!(gap.from, had + 1, "{:?}", next.gaps);
    let counts = next.counts();
    assert_eq!(counts.delivered + counts.gapped, head, "{counts}");
    s.close().await;
}

// shows: W-06
#[tokio::test]
async fn what_a_busy_worker_tells_before_anybody_can_attach_waits_for_its_readers() {
    let launch = |launch| reattach(launch).backend("sim", "rate=1000,first_change_ms=3000");
    let gw = launch(Launch::new()).start().await;
    let s = gw.open_on("sim").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(100).await;
    // It is busy with this for 3 s, tells events all the time, and takes no other command.
    let definitions = vec!["Area1.Pump2.Sine".to_owned()];
    let read = Method::ReadBulk(ReadBulk { server_handle: s.server, definitions, timeout_ms: 0 });
    assert_eq!(reason(s.client.invoke(&s.id, read, 200).await), "command.timeout");
    let gw = launch(Launch::again(killed(gw).await)).start().await;
    let s = again(&gw, &s).await;
    let mut next = s.go_on("one", &reader).await;
    let head = s.silence().await;
    next.to(head).await;
    assert_eq!((next.counts().delivered, next.gaps.len()), (head, 0), "{:?}", next.gaps);
    s.close().await;
}

// shows: W-06
#[tokio::test]
async fn last_values_that_are_older_than_the_tail_are_known_after_a_restart() {
    let gw = reattach(Launch::new()).backend("sim", "rate=20000").start().await;
    let s = gw.open_on("sim").await;
    let items = s.advise(&["Area1.Setpoint.Speed", "Area1.Pump1.Counter"]).await;
    let last = async |s: &Session| {
        let snapshot = s.client.snapshot(&s.id).await.expect("a snapshot");
        snapshot.items.into_iter().find(|item| item.item_key == items[0].key).and_then(|item| item.last)
    };
    eventually("its type to be known", async || last(&s).await).await;
    s.write(&items[0], 4.5).await.expect("written");
    let is_written = |event: &Event| match &event.body {
        Some(Body::DataChange(change)) => {
            change.value.as_ref().is_some_and(|value| value.kind == Some(Kind::Double(4.5)))
        }
        _ => false,
    };
    let before = eventually("the value to be told", async || last(&s).await.filter(is_written)).await;
    // Several times what the tail holds comes behind it.
    eventually("it to be long ago", async || (s.head().await > before.sequence + 5_000).then_some(())).await;
    let gw = reattach(Launch::again(killed(gw).await)).backend("sim", "rate=20000").start().await;
    let s = again(&gw, &s).await;
    assert_eq!(last(&s).await, Some(before), "bit for bit, with its sequence");
    assert!(
        eventually("the other one's", async || {
            let snapshot = s.client.snapshot(&s.id).await.expect("a snapshot");
            snapshot.items.into_iter().find(|item| item.item_key == items[1].key).and_then(|item| item.last)
        })
        .await
        .sequence
            > 5_000
    );
    s.close().await;
}

// shows: W-06, W-08
#[tokio::test]
async fn a_command_in_flight_when_the_gateway_dies_takes_effect_once() {
    let gw = reattach(Launch::new()).flag("--command-timeout-ms", "2000").start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let items = s.advise(TAGS).await;
    reader.count(20).await;
    // The worker takes it and does not answer, so the gateway dies with it unanswered.
    s.fault("stall 4000").await.expect("it hangs from now on");
    let late = s.write(&items[0], 7.25).await;
    assert_eq!(reason(late), "command.timeout");
    let folder = killed(gw).await;

    let gw = reattach(Launch::again(folder)).start().await;
    let s = again(&gw, &s).await;
    let mut next = s.go_on("one", &reader).await;
    s.write(&items[0], 8.5).await.expect("ids go on where they were");
    let completed =
        |event: &Event| event.item_key == items[0].key && matches!(event.body, Some(Body::WriteComplete(_)));
    next.until("the write in flight", completed).await;
    next.until("the write afterwards", completed).await;
    let head = s.silence().await;
    next.to(head).await;
    let completed = next.events.iter().filter(|event| completed(event)).count();
    assert_eq!(completed, 2, "the one in flight once, and the one afterwards");
    s.close().await;
}

// shows: W-03, W-05, W-08
#[tokio::test]
async fn nobody_is_adopted_who_is_not_the_one_and_nobody_is_ended_who_is_not_ours() {
    let impatient = |launch| reattach(launch).flag("--worker-start-timeout-seconds", "5");
    let gw = impatient(Launch::new()).start().await;
    let [good, dead, stopped, forged] =
        [gw.open("good").await, gw.open("dead").await, gw.open("stopped").await, gw.open("forged").await];
    let [other, reused] = [gw.open("other").await, gw.open("reused").await];
    let socket = gw.data().join("workers.sock");
    let folder = killed(gw).await;
    signal(dead.pid, Signal::KILL);
    signal(stopped.pid, Signal::STOP);
    // Somebody edits the manifest: another process, which exists, with its true start time.
    let mut innocent = bystander();
    let forge = "UPDATE workers SET pid = ?2, started = ?3 WHERE session = ?1";
    let db = database(folder.path());
    db.execute(forge, rusqlite::params![forged.id, innocent.id(), started(innocent.id())]).expect("forged");
    // Or gives a worker another secret: each holds the other for an impostor.
    let forge = "UPDATE workers SET secret = ?2 WHERE session = ?1";
    db.execute(forge, rusqlite::params![other.id, Secret::mint().expect("random bytes").to_hex()]).expect("forged");
    // And the process of this row began at another time: the number was used again.
    let forge = "UPDATE workers SET started = started || '0' WHERE session = ?1";
    db.execute(forge, [&reused.id]).expect("forged");
    drop(db);

    // Impostors call from the moment the socket is there: for a session that is awaited, with a secret that is not its.
    let impostor = eventually("an answer to the impostor", async || {
        let adopt = Some(Adopt { head: 0, tail: 1, command: 0 });
        let fields = HelloFields { backend: "x".into(), version: "1".into(), epoch: 7, adopt, alarms: false };
        let secret = Secret::mint().expect("random bytes");
        match connect(&socket, &good.id, &secret, fields, Duration::from_secs(10)).await {
            Err(PipeError::Rejected { code, .. }) => Some(code),
            Err(PipeError::WrongProof) => Some("gateway".into()),
            Ok(_) => Some("let in".into()),
            Err(_not_there_yet) => None,
        }
    });
    let (told, gw) = tokio::join!(impostor, impatient(Launch::again(folder)).start());
    let good = again(&gw, &good).await;
    assert!(["worker.other_process", "worker.unknown_session"].contains(&told.as_str()), "{told}");
    let client = gw.client().await;
    for s in [&dead, &stopped, &forged, &other, &reused] {
        is_over(&client, s).await;
    }
    assert!(innocent.try_wait().expect("waiting works").is_none(), "a process that is no worker of ours lives");
    assert!(is_alive(good.pid));
    let metrics = gw.metrics().await;
    assert!(metrics.contains("tidegate_workers_adopted_total 1"), "one came back");
    assert!(
        metrics.contains("tidegate_workers_orphans_ended_total 2"),
        "the stopped one was ended, and the one that knows another secret; the others ended by themselves"
    );
    good.close().await;
    innocent.kill().expect("ours to end");
    innocent.wait().expect("reaped");
}

// shows: W-05, W-07
#[tokio::test]
async fn without_re_adoption_orphans_end_by_themselves_or_at_the_next_start() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let folder = killed(gw).await;
    eventually("the worker to end", async || (!is_alive(s.pid)).then_some(())).await;

    let gw = reattach(Launch::again(folder)).start().await;
    let client = gw.client().await;
    assert_eq!(reason(client.state(&s.id).await), "session.unknown");
    let (calls, stopped) = (gw.open("calls").await, gw.open("stopped").await);
    let folder = killed(gw).await;
    signal(stopped.pid, Signal::STOP);
    let gw = Launch::again(folder).start().await;
    let client = gw.client().await;
    for s in [calls, stopped] {
        assert!(!is_alive(s.pid), "ended before anything was served");
        assert_eq!(reason(client.state(&s.id).await), "session.unknown");
    }
}

// shows: W-02
#[tokio::test]
async fn a_worker_that_cannot_be_written_down_is_not_handed_out() {
    let gw = reattach(Launch::new()).start().await;
    // Whoever holds the file's lock, or a full disk: the manifest cannot be written.
    let db = database(gw.folder().path());
    db.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let refused = gw.try_open("line-1", "").await;
    assert_eq!(reason(refused.map(|s| s.id)), "storage.unavailable");
    db.execute_batch("ROLLBACK").expect("free");
    drop(db);
    assert!(gw.admin().await.sessions().await.expect("a listing").is_empty());
    eventually("no worker to be left", async || workers_of(&gw.data()).is_empty().then_some(())).await;
    gw.open("line-1").await.close().await;
}

// shows: W-04, S-01
#[tokio::test]
async fn a_session_that_is_just_being_opened_at_a_stop_is_left_to_nobody() {
    let mut gw = reattach(Launch::new()).switch("--leave-workers").start().await;
    let client = gw.client().await;
    // Its worker is there, and waits to be written down.
    let db = database(gw.folder().path());
    db.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let opening = tokio::spawn(async move { open_as(&client, "line-1", "").await });
    eventually("its worker", async || gw.metrics().await.contains("tidegate_workers_started_total 1").then_some(()))
        .await;
    gw.signal(Signal::TERM);
    eventually("the stop", async || gw.log().contains("stopping").then_some(())).await;
    db.execute_batch("ROLLBACK").expect("free");
    opening.await.expect("an answer").expect_err("nobody is let in any more");
    assert!(gw.ended().await.success());
    assert!(workers_of(&gw.data()).is_empty(), "nobody would ever close it");
}

/// Living processes that were started for this folder's socket.
fn workers_of(data: &Path) -> Vec<u32> {
    let socket = data.join("workers.sock");
    let socket = socket.to_str().expect("a text");
    let processes = std::fs::read_dir("/proc").expect("a process table").filter_map(Result::ok);
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == socket.as_bytes()) && is_alive(*pid)
    })
    .collect()
}
