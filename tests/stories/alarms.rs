//! Alarms from the simulator's limits to a client's screen: those that stand, each change, acknowledgements, a provider that
//! fails, rights that change, readers that are too slow; and sessions of the gateway's own, which give them without a client.

use crate::{
    harness::{Gateway, Item, Launch, Session, eventually, is_alive, reason, refused, tidegate},
    restart::{again, killed, reattach, signal},
};
use rustix::process::Signal;
use serde_json::Value as Json;
use std::{process::Stdio, sync::Arc, time::Duration};
use tempfile::TempDir;
use tidegate_client::{
    AlarmStream, Alarms, ClientError,
    wire::{
        Alarm, AlarmState, CreateKeyRequest, ListAlarmsRequest, OpenSessionRequest, SessionSummary, Value, WriteBulk,
        alarm_provider::State, alarm_snapshot_begins::Reason, alarm_transition::Kind, stream_alarms_response::Message,
        value::Kind as ValueKind, write_bulk,
    },
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};

pub(crate) const LEVEL: &str = "Line1.Setpoint.Level";
pub(crate) const FLOW: &str = "Line2.Setpoint.Flow";
const LIMITS: &str =
    "rate=20,faults=true,alarms=Line1.Setpoint.Level::10:80:95;Line2.Setpoint.Flow:::5,alarm_reopen_ms=100";
/// One that stands for ever, and one that comes and goes every few seconds.
const WAVES: &str = "rate=20,alarms=Area1.Counter:::3;Area1.Sine:::60,alarm_every_ms=20";
const PATIENCE: Duration = Duration::from_secs(30);

/// A gateway whose simulator alarms at these limits.
pub(crate) fn limits() -> Launch {
    Launch::new().backend("sim", LIMITS)
}

pub(crate) async fn alarms(gw: &Gateway, key: &str) -> Alarms {
    gw.connect().key(key).alarms().await.expect("the gateway answers")
}

/// Items of which the type is known, so that they can be written.
pub(crate) async fn writable(s: &Session, tags: &[&str]) -> Vec<Item> {
    let items = s.advise(tags).await;
    eventually("a value of every item", async || {
        let items = s.client.snapshot(&s.id).await.expect("a snapshot").items;
        (items.len() == tags.len() && items.iter().all(|item| item.last.is_some())).then_some(())
    })
    .await;
    items
}

/// The next message, which must come.
async fn next(stream: &mut AlarmStream) -> Message {
    let next = timeout(PATIENCE, stream.next()).await.expect("a message within the bound");
    next.expect("the stream goes on").expect("a message")
}

/// The snapshot that must come next: why, and the tags that stand.
async fn snapshot(stream: &mut AlarmStream) -> (Reason, Vec<String>) {
    let Message::SnapshotBegins(begins) = next(stream).await else { panic!("a snapshot should begin") };
    assert!(!stream.is_whole());
    loop {
        match next(stream).await {
            Message::Standing(_) => {}
            Message::SnapshotComplete(end) => {
                assert_eq!(end.standing as usize, stream.standing.len());
                return (begins.reason(), stream.standing.values().map(|alarm| alarm.tag.clone()).collect());
            }
            other => panic!("within a snapshot: {other:?}"),
        }
    }
}

/// The change that must come next.
async fn change(stream: &mut AlarmStream) -> (Kind, Alarm) {
    match next(stream).await {
        Message::Transition(change) => (change.kind(), change.alarm.expect("an alarm")),
        other => panic!("not a change: {other:?}"),
    }
}

pub(crate) async fn standing(alarms: &Alarms, session: &str) -> Vec<Alarm> {
    alarms.list(session).await.expect("listed").alarms
}

// shows: S-18
#[tokio::test]
async fn alarms_are_told_as_they_stand_then_change_by_change_until_somebody_has_acknowledged_them() {
    let gw = limits().start().await;
    let s = gw.open("line-1").await;
    let alarms = alarms(&gw, gw.first_key()).await;
    let [level, flow] = writable(&s, &[LEVEL, FLOW]).await.try_into().expect("two");
    s.write(&level, 85.0).await.expect("written");
    eventually("the alarm", async || (standing(&alarms, &s.id).await.len() == 1).then_some(())).await;

    let mut stream = alarms.stream(&s.id).await.expect("a stream");
    assert_eq!(snapshot(&mut stream).await, (Reason::Opened, vec![LEVEL.to_owned()]));
    let first = stream.standing.values().next().expect("it stands").clone();
    assert_eq!((first.condition.as_str(), first.state(), first.priority), ("high", AlarmState::Active, 500));
    s.write(&level, 97.0).await.expect("written");
    let (kind, worse) = change(&mut stream).await;
    assert_eq!((kind, worse.condition.as_str(), worse.alarm_id), (Kind::Changed, "high-high", first.alarm_id));

    let done = alarms.acknowledge(&s.id, &[first.alarm_id, 4_711], "pump is off").await.expect("answered");
    assert_eq!((done[0].hresult, done[1].hresult), (0, 0x8007_0057_u32 as i32), "{done:?}");
    let now = standing(&alarms, &s.id).await;
    assert_eq!(now[0].state(), AlarmState::Acknowledged, "the answer comes behind the change");
    let (kind, seen) = change(&mut stream).await;
    assert_eq!((kind, seen.comment.as_str()), (Kind::Acknowledged, "pump is off"));
    assert!(seen.acknowledged_by.starts_with('k'), "by the key: {}", seen.acknowledged_by);
    s.write(&level, 50.0).await.expect("written");
    let (kind, over) = change(&mut stream).await;
    assert_eq!((kind, over.state()), (Kind::Returned, AlarmState::Gone));

    // One that nobody has acknowledged stands when it is over.
    s.write(&flow, 6.0).await.expect("written");
    assert_eq!(change(&mut stream).await.0, Kind::Raised);
    s.write(&flow, 1.0).await.expect("written");
    assert_eq!(change(&mut stream).await.1.state(), AlarmState::Returned);
    let listed = gw.run(&["alarms", "list", &s.id, "--json"]).await;
    let listed: Json = serde_json::from_slice(&listed.stdout).expect("JSON");
    assert_eq!((&listed["alarms"][0]["state"], &listed["alarms"][0]["tag"]), (&"returned".into(), &FLOW.into()));
    let acknowledged = gw.run(&["alarms", "ack", &s.id, "--all", "--comment", "seen"]).await;
    assert!(acknowledged.status.success(), "{acknowledged:?}");
    assert_eq!(change(&mut stream).await.1.state(), AlarmState::Gone);
    assert!(stream.standing.is_empty() && standing(&alarms, &s.id).await.is_empty());

    // What cannot be asked.
    let long = "x".repeat(257);
    assert_eq!(reason(alarms.acknowledge(&s.id, &[1], &long).await), "limit.text");
    assert_eq!(reason(alarms.acknowledge(&s.id, &[], "").await), "request.invalid");
    assert_eq!(reason(alarms.acknowledge(&s.id, &[1; 1_001], "").await), "limit.bulk");
    let page = ListAlarmsRequest { session_id: s.id.clone(), after: 0, limit: 1_001 };
    assert_eq!(reason(alarms.page(page).await), "request.invalid");

    s.close().await;
    let end = timeout(PATIENCE, stream.next()).await.expect("within the bound");
    assert_eq!(refused(end).reason, "stream.session_ended");
    let metrics = gw.metrics().await;
    for line in [
        "tidegate_alarms_standing 0",
        "tidegate_alarm_transitions_total{kind=\"returned\"} 2",
        "tidegate_alarm_transitions_total{kind=\"acknowledged\"} 2",
        "tidegate_alarm_streams_open 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
}

// shows: S-18
#[tokio::test]
async fn a_provider_that_fails_loses_and_doubles_no_alarm() {
    let gw = limits().start().await;
    let s = gw.open("line-1").await;
    let alarms = alarms(&gw, gw.first_key()).await;
    let [level, flow] = writable(&s, &[LEVEL, FLOW]).await.try_into().expect("two");
    let mut stream = alarms.stream(&s.id).await.expect("a stream");
    assert_eq!(snapshot(&mut stream).await, (Reason::Opened, Vec::new()));
    s.write(&flow, 6.0).await.expect("written");
    let (_, raised) = change(&mut stream).await;
    alarms.acknowledge(&s.id, &[raised.alarm_id], "known").await.expect("answered");
    assert_eq!(change(&mut stream).await.0, Kind::Acknowledged);

    for taken_over_by in ["secondary", "primary"] {
        s.fault("alarm-provider").await.expect("a fault");
        let Message::Provider(lost) = next(&mut stream).await else { panic!("the provider is lost") };
        assert_eq!(lost.state(), State::Lost);
        // What happens now is nobody's to tell, and not lost.
        s.write(&level, if taken_over_by == "secondary" { 85.0 } else { 50.0 }).await.expect("written");
        let Message::Provider(open) = next(&mut stream).await else { panic!("another one is open") };
        assert_eq!((open.state(), open.name.as_str()), (State::Open, taken_over_by));
        let (why, tags) = snapshot(&mut stream).await;
        assert_eq!((why, tags[0].as_str()), (Reason::Provider, FLOW));
        let kept = &stream.standing[&raised.alarm_id];
        assert_eq!((kept.comment.as_str(), kept.state()), ("known", AlarmState::Acknowledged));
        // The write's completion is a moment behind: by a change, unless the snapshot has it already.
        let wanted = if taken_over_by == "secondary" { AlarmState::Active } else { AlarmState::Returned };
        while !stream.standing.values().any(|alarm| alarm.tag == LEVEL && alarm.state() == wanted) {
            change(&mut stream).await;
        }
        assert_eq!(stream.standing.len(), 2);
    }
    let listed = standing(&alarms, &s.id).await;
    assert_eq!(listed, stream.standing.values().cloned().collect::<Vec<_>>());
    let metrics = gw.metrics().await;
    assert!(metrics.contains("tidegate_alarm_provider_changes_total{change=\"lost\"} 2"), "{metrics}");
    assert!(metrics.contains("tidegate_alarm_provider_changes_total{change=\"open\"} 2"), "{metrics}");
}

// shows: S-18, S-07, S-13, X-03
#[tokio::test]
async fn who_may_not_read_a_tag_sees_no_alarm_of_it_and_a_swap_is_told_as_a_new_snapshot() {
    let gw = limits().start().await;
    let mine = gw.key(&["Line1.*"], "sessions:own").await;
    let client = gw.client_with(&mine).await;
    let opened = client.open(OpenSessionRequest::default()).await.expect("a session");
    let id = opened.session_id.clone();
    // The first key sees every session: it writes what the owner may not.
    let s = Session::new(gw.client().await, opened).await;
    let [level, flow] = writable(&s, &[LEVEL, FLOW]).await.try_into().expect("two");
    let (all, few) = (alarms(&gw, gw.first_key()).await, alarms(&gw, &mine).await);
    s.write(&level, 85.0).await.expect("written");
    s.write(&flow, 6.0).await.expect("written");
    eventually("both alarms", async || (standing(&all, &id).await.len() == 2).then_some(())).await;
    let hidden = standing(&all, &id).await.into_iter().find(|alarm| alarm.tag == FLOW).expect("it stands");

    let seen = standing(&few, &id).await;
    assert_eq!(seen.iter().map(|alarm| alarm.tag.as_str()).collect::<Vec<_>>(), [LEVEL]);
    let mut stream = few.stream(&id).await.expect("a stream");
    assert_eq!(snapshot(&mut stream).await, (Reason::Opened, vec![LEVEL.to_owned()]));
    assert_eq!(stream.complete.map(|end| end.withheld), Some(1));
    // Neither the hidden one's end nor another one's beginning is told; what may be seen comes next.
    s.write(&flow, 1.0).await.expect("written");
    s.write(&level, 97.0).await.expect("written");
    assert_eq!(change(&mut stream).await.0, Kind::Changed);

    // Who may read and not write may not acknowledge; what one may not see does not stand.
    let reader = CreateKeyRequest {
        name: "reader".into(),
        scopes: vec!["sessions:all".into()],
        read: Vec::new(),
        write: vec!["Nothing.*".into()],
    };
    let reader = gw.admin().await.create_key(reader).await.expect("a key").secret;
    let read_only = alarms(&gw, &reader).await.acknowledge(&id, &[seen[0].alarm_id], "").await.expect("answered");
    assert_eq!(read_only[0].hresult, 0x8007_0005_u32 as i32, "{read_only:?}");

    let unseen = few.acknowledge(&id, &[hidden.alarm_id], "").await.expect("answered");
    assert_eq!(unseen[0].hresult, 0x8007_0057_u32 as i32, "{unseen:?}");

    // A swap: the same stream, at once.
    let before = stream.complete.map(|end| end.generation);
    gw.swap("access", "deny = [\"Line1.*\"]\n").await;
    assert_eq!(snapshot(&mut stream).await, (Reason::Rights, Vec::new()));
    assert_eq!(stream.complete.map(|end| end.withheld), Some(2));
    assert!(stream.complete.map(|end| end.generation) > before);
    let denied = few.acknowledge(&id, &[seen[0].alarm_id], "").await.expect("answered");
    assert_eq!(denied[0].hresult, 0x8007_0057_u32 as i32, "{denied:?}");
    gw.swap("access", "deny = [\"Nothing.*\"]\n").await;
    assert_eq!(snapshot(&mut stream).await, (Reason::Rights, vec![LEVEL.to_owned()]));

    // Others have no such session, and a key that is revoked has no stream.
    let other = alarms(&gw, &gw.key(&[], "sessions:own").await).await;
    let unknown = format!("session-{}", "0".repeat(32));
    for session in [&id, &unknown] {
        assert_eq!(reason(other.list(session).await), "session.not_permitted");
        assert_eq!(reason(other.stream(session).await.map(|_| ())), "session.not_permitted");
        assert_eq!(reason(other.acknowledge(session, &[1], "").await), "session.not_permitted");
    }
    let key = gw.admin().await.keys().await.expect("listed").into_iter().find(|key| key.read == ["Line1.*"]);
    gw.admin().await.revoke_key(&key.expect("it is there").key_id).await.expect("revoked");
    let end = timeout(PATIENCE, stream.next()).await.expect("within the bound");
    assert_eq!(refused(end).reason, "auth.invalid");
}

// shows: S-18, S-08
#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_so_and_gets_all_that_stand_anew() {
    let gw = limits().start().await;
    let s = gw.open("line-1").await;
    let level = writable(&s, &[LEVEL]).await.remove(0);
    // It takes little ahead of what it reads.
    let connect = gw.connect().key(gw.first_key()).stream_window(65_535);
    let mut slow = connect.alarms().await.expect("connected").stream(&s.id).await.expect("a stream");
    snapshot(&mut slow).await;
    let mut quick = alarms(&gw, gw.first_key()).await.stream(&s.id).await.expect("a stream");
    snapshot(&mut quick).await;
    let changes = 12_000;
    let value = |value| Some(Value { kind: Some(ValueKind::Double(value)), data_type: 0 });
    for _ in 0..changes / 1_000 {
        let one = |nth| write_bulk::One {
            item_handle: level.handle,
            value: value(if nth % 2 == 0 { 85.0 } else { 50.0 }),
            user_id: 0,
        };
        let writes = WriteBulk { server_handle: s.server, writes: (0..1_000).map(one).collect() };
        s.client.write_bulk(&s.id, writes).await.expect("written");
        // Who keeps up misses none.
        for _ in 0..1_000 {
            change(&mut quick).await;
        }
    }
    let mut told = 0;
    let why = loop {
        match next(&mut slow).await {
            Message::Transition(_) => told += 1,
            Message::SnapshotBegins(begins) => break begins.reason(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(why, Reason::TooSlow, "after {told} changes");
    assert!(told < changes);
    while !slow.is_whole() {
        next(&mut slow).await;
    }
    assert_eq!(slow.standing, quick.standing);
    assert!(gw.metrics().await.contains("tidegate_alarm_snapshots_total{reason=\"too-slow\"} 1"));
}

// shows: S-18
#[tokio::test]
async fn a_table_that_is_full_says_so_and_takes_the_rest_once_there_is_room() {
    let limits = "rate=20,alarms=A.Setpoint.X:::1;B.Setpoint.X:::1;C.Setpoint.X:::1";
    let gw = Launch::new().backend("sim", limits).flag("--max-alarms-per-session", "2").start().await;
    let s = gw.open("line-1").await;
    let alarms = alarms(&gw, gw.first_key()).await;
    let items = writable(&s, &["A.Setpoint.X", "B.Setpoint.X", "C.Setpoint.X"]).await;
    for item in &items {
        s.write(item, 2.0).await.expect("written");
    }
    let listed = eventually("all to have come", async || {
        let listed = alarms.list(&s.id).await.expect("listed");
        (listed.not_kept == 1).then_some(listed)
    })
    .await;
    let tags: Vec<&str> = listed.alarms.iter().map(|alarm| alarm.tag.as_str()).collect();
    assert_eq!(tags, ["A.Setpoint.X", "B.Setpoint.X"]);
    let page = |after| ListAlarmsRequest { session_id: s.id.clone(), after, limit: 1 };
    let first = alarms.page(page(0)).await.expect("a page");
    let second = alarms.page(page(first.next_after)).await.expect("a page");
    assert_eq!([first.alarms, second.alarms].concat(), listed.alarms);
    assert_eq!(second.next_after, 0);

    let mut stream = alarms.stream(&s.id).await.expect("a stream");
    snapshot(&mut stream).await;
    assert_eq!(stream.complete.map(|end| end.not_kept), Some(1));
    alarms.acknowledge(&s.id, &[listed.alarms[0].alarm_id], "").await.expect("answered");
    s.write(&items[0], 0.0).await.expect("written");
    // Until the table is read anew.
    while !matches!(stream.complete, Some(end) if end.not_kept == 0) {
        next(&mut stream).await;
    }
    let tags: Vec<&str> = stream.standing.values().map(|alarm| alarm.tag.as_str()).collect();
    assert_eq!(tags, ["B.Setpoint.X", "C.Setpoint.X"]);
    assert!(gw.metrics().await.contains("tidegate_alarms_not_kept_total 1"));
}

/// The gateway's own session, once it works.
async fn internal(gw: &Gateway, name: &str) -> SessionSummary {
    eventually("the gateway's own session", async || {
        let sessions = gw.admin().await.sessions().await.expect("a listing");
        sessions.into_iter().find(|one| one.name == name && one.owner_key_id.is_empty() && one.state == "ready")
    })
    .await
}

/// A gateway that opens one session by itself, and lets each key open one.
fn with_own(folder: Option<Arc<TempDir>>) -> Launch {
    let launch = reattach(folder.map_or_else(Launch::new, Launch::again)).backend("sim", WAVES);
    launch.flag("--max-sessions", "1").flag("--max-sessions-per-key", "1").flag("--detach-grace-seconds", "0")
}

// shows: S-02, S-18, S-11, S-12, W-08
#[tokio::test]
async fn a_session_of_the_gateways_own_belongs_to_nobody_and_outlives_it() {
    let gw = with_own(None).flag("--internal-session", "watch=sim").start().await;
    let own = internal(&gw, "watch").await;
    assert_eq!(own.tag, "watch");
    let key = gw.key(&[], "sessions:own").await;
    let client = gw.client_with(&key).await;

    // To a key it is as unknown as one that never was, whatever is asked.
    let unknown = format!("session-{}", "0".repeat(32));
    let foreign = alarms(&gw, &key).await;
    for id in [&own.session_id, &unknown] {
        let answers: [Result<(), ClientError>; 5] = [
            client.state(id).await.map(drop),
            client.close(id).await.map(drop),
            client.snapshot(id).await.map(drop),
            client.stream(id, tidegate_client::Start::Live, Default::default()).await.map(drop),
            foreign.list(id).await.map(drop),
        ];
        assert_eq!(answers.map(reason), ["session.not_permitted"; 5]);
    }
    // It takes no place, of the gateway's sessions or of a key's.
    let opened = client.open(OpenSessionRequest::default()).await.expect("the one place is free");
    let all = gw.client().await;
    let full = reason(all.open(OpenSessionRequest::default()).await);
    assert_eq!(full, "session.limit");
    client.close(&opened.session_id).await.expect("closed");

    // Its alarms come without a client; a reader that goes does not end it.
    let seeing = alarms(&gw, gw.first_key()).await;
    let mut stream = seeing.stream(&own.session_id).await.expect("a stream");
    snapshot(&mut stream).await;
    let counter = eventually("the alarm that stands for ever", async || {
        standing(&seeing, &own.session_id).await.into_iter().find(|alarm| alarm.tag == "Area1.Counter")
    })
    .await;
    seeing.acknowledge(&own.session_id, &[counter.alarm_id], "let it count").await.expect("answered");
    while !stream.standing.values().any(|alarm| alarm.comment == "let it count") {
        next(&mut stream).await;
    }
    drop(stream);

    // kill -9: the next gateway takes it back with its alarms, whose table died with the first.
    let folder = killed(gw).await;
    assert!(is_alive(own.worker_pid));
    let gw = with_own(Some(folder)).flag("--internal-session", "watch=sim").start().await;
    let again = internal(&gw, "watch").await;
    assert_eq!((&again.session_id, again.worker_pid), (&own.session_id, own.worker_pid), "no second one");
    let seeing = alarms(&gw, gw.first_key()).await;
    let mut stream = seeing.stream(&own.session_id).await.expect("a stream");
    assert_eq!(snapshot(&mut stream).await.0, Reason::Opened);
    let kept = &stream.standing[&counter.alarm_id];
    assert_eq!((kept.comment.as_str(), kept.state()), ("let it count", AlarmState::Acknowledged));
    // The other one comes and goes on.
    change(&mut stream).await;
    let watched = gw.run(&["alarms", "watch", &own.session_id, "--count", "1", "--json"]).await;
    let watched = String::from_utf8(watched.stdout).expect("text");
    let read = |line: &str| serde_json::from_str::<Json>(line).expect("JSON")["message"].clone();
    let messages: Vec<Json> = watched.lines().map(read).collect();
    assert_eq!(messages, ["snapshot_begins", "standing", "snapshot_complete", "transition"], "{watched}");

    // Its worker dies: another one is opened.
    signal(own.worker_pid, Signal::KILL);
    let end = loop {
        match timeout(PATIENCE, stream.next()).await.expect("within the bound") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(refused::<()>(Err(end)).reason, "session.faulted");
    let next = eventually("another one", async || {
        let next = internal(&gw, "watch").await;
        (next.session_id != own.session_id).then_some(next)
    })
    .await;

    // Nobody wants it any more: the next gateway ends it.
    let folder = killed(gw).await;
    let gw = with_own(Some(folder)).start().await;
    eventually("its worker to end", async || (!is_alive(next.worker_pid)).then_some(())).await;
    let client = gw.client().await;
    eventually("it to be gone", async || {
        (reason(client.state(&next.session_id).await) == "session.unknown").then_some(())
    })
    .await;
}

// shows: S-18, W-08
#[tokio::test]
async fn a_watch_of_alarms_goes_on_with_a_snapshot_when_another_gateway_takes_over() {
    let like = |launch: Launch| reattach(launch).backend("sim", LIMITS);
    let gw = like(Launch::new()).start().await;
    let s = gw.open("line-1").await;
    let level = writable(&s, &[LEVEL]).await.remove(0);
    s.write(&level, 85.0).await.expect("written");
    let client = alarms(&gw, gw.first_key()).await;
    eventually("the alarm", async || (standing(&client, &s.id).await.len() == 1).then_some(())).await;
    let mut stream = client.stream(&s.id).await.expect("a stream");
    snapshot(&mut stream).await;
    let mut watch = tidegate();
    watch.args(["alarms", "watch", &s.id, "--count", "1", "--json", "--data"]).arg(gw.data());
    let mut watch = watch.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
    let mut told = async || {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time");
        let line: Json = serde_json::from_str(&line.expect("text").expect("a line")).expect("JSON");
        line["message"].as_str().expect("what it is").to_owned()
    };
    const WHOLE: [&str; 3] = ["snapshot_begins", "standing", "snapshot_complete"];
    for message in WHOLE {
        assert_eq!(told().await, message);
    }
    let gw = like(Launch::again(gw.folder())).follow().serves(gw).await;
    let end = timeout(PATIENCE, stream.next()).await.expect("in time").expect_err("its end");
    let fault = end.fault().expect("the gateway's word");
    assert!(fault.reason == "stream.draining" && end.passes(), "{fault}");
    assert_eq!(fault.details["session_goes_on"], "true");
    // The watch connects again by itself, and begins anew.
    for message in WHOLE {
        assert_eq!(told().await, message);
    }
    again(&gw, &s).await.write(&level, 50.0).await.expect("written");
    assert_eq!(told().await, "transition");
    let ended = timeout(PATIENCE, watch.wait()).await.expect("in time").expect("waiting works");
    assert!(ended.success(), "{ended}");
    again(&gw, &s).await.close().await;
}
