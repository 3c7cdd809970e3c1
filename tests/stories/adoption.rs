//! What can go wrong while a gateway takes workers back: they die, it is asked to stop, another one starts, nothing can be
//! written, somebody stands still. Whoever lives goes on; whoever does not is given up; nothing happens twice.

use crate::{
    harness::{Gateway, Launch, Session, eventually, is_alive, reason},
    operate::SmallDisk,
    restart::{TAGS, again, database, is_over, killed, reattach, signal},
};
use rustix::process::Signal;
use std::{fs, io::Write as _};
use tidegate_client::{
    ClientError, Start,
    wire::{CreateKeyRequest, Event, Value, Write, command::Method, event::Body, value::Kind},
};

/// Sockets of a process: one more while it has a line to a gateway.
fn sockets(pid: u32) -> usize {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives").filter_map(Result::ok);
    links.filter(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))).count()
}

fn rows(gw: &Gateway) -> i64 {
    let db = database(gw.folder().path());
    db.query_row("SELECT count(*) FROM workers", [], |row| row.get(0)).expect("rows")
}

/// Reads on with the same account to the end of the session's events, which must all be there.
async fn misses_nothing(s: &Session, before: &crate::harness::Reader) {
    let mut next = s.go_on("one", before).await;
    let head = s.silence().await;
    next.to(head).await;
    assert!(next.gaps.is_empty(), "{:?}", next.gaps);
    assert_eq!(next.counts().delivered, next.counts().produced, "{}", next.counts());
}

// shows: W-05, W-08
#[tokio::test]
async fn a_worker_that_dies_in_the_middle_of_its_adoption_takes_nobody_with_it() {
    let two = |launch| reattach(launch).flag("--max-sessions", "2");
    let gw = two(Launch::new()).start().await;
    let (good, dying) = (gw.open("good").await, gw.open("dying").await);
    let online = sockets(dying.pid);
    // It comes back and sends what it has; what items there are it does not say any more.
    dying.fault("stall 600000").await.expect("it hangs from now on");
    let folder = killed(gw).await;
    eventually("the worker to see its gateway gone", async || (sockets(dying.pid) < online).then_some(())).await;

    let gw = two(Launch::again(folder)).start().await;
    let good = again(&gw, &good).await;
    eventually("the worker to be back", async || (sockets(dying.pid) == online).then_some(())).await;
    let client = gw.client().await;
    assert_eq!(reason(client.state(&dying.id).await), "session.adopting");
    assert_eq!(reason(gw.try_open("third", "").await.map(|s| s.id)), "session.limit", "its place is kept");
    signal(dying.pid, Signal::KILL);
    is_over(&client, &dying).await;
    good.advise(TAGS).await;
    let third = eventually("its place to be free", async || gw.try_open("third", "").await.ok()).await;
    third.close().await;
    good.close().await;
    eventually("the manifest to be empty", async || (rows(&gw) == 0).then_some(())).await;
}

// shows: W-04
#[tokio::test]
async fn an_orphan_ends_itself_when_its_time_is_over() {
    let gw = Launch::new().switch("--enable-orphan-reattach").flag("--max-orphan-lifetime-seconds", "1").start().await;
    let s = gw.open("line-1").await;
    s.advise(TAGS).await;
    let folder = killed(gw).await;
    eventually("the worker to end by itself", async || (!is_alive(s.pid)).then_some(())).await;

    let gw = reattach(Launch::again(folder)).start().await;
    let client = gw.client().await;
    assert_eq!(reason(client.state(&s.id).await), "session.unknown");
    assert_eq!(rows(&gw), 0);
    assert!(gw.metrics().await.contains("tidegate_workers_orphans_ended_total 0"), "nobody had to be ended");
}

// shows: W-05, W-08
#[tokio::test]
async fn a_second_gateway_that_starts_in_the_middle_of_adoption_changes_nothing() {
    let gw = reattach(Launch::new()).start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(50).await;
    let folder = killed(gw).await;
    signal(s.pid, Signal::STOP);
    let gw = reattach(Launch::again(folder)).flag("--worker-start-timeout-seconds", "60").start().await;
    let client = gw.client().await;
    assert_eq!(reason(client.state(&s.id).await), "session.adopting");
    // One that would end every worker, if it came so far.
    let second = Launch::again(gw.folder()).refused().await;
    assert!(!second.status.success() && second.words.contains("data.locked"), "{}", second.words);
    signal(s.pid, Signal::CONT);
    let s = again(&gw, &s).await;
    misses_nothing(&s, &reader).await;
    s.close().await;
}

// shows: W-04, W-06, S-14
#[tokio::test]
async fn a_stop_in_the_middle_of_adoption_leaves_every_worker_to_the_next_gateway() {
    let leave = |launch| {
        let launch: Launch = reattach(launch);
        // So few events that all of them are in the tail until the last of them are read.
        let launch = launch.backend("sim", "rate=20,faults=true");
        launch.switch("--leave-workers").flag("--worker-start-timeout-seconds", "60")
    };
    let gw = leave(Launch::new()).start().await;
    let [back, hanging, silent] = [gw.open("back").await, gw.open("hanging").await, gw.open("silent").await];
    let mut reader = back.reader("one").await;
    back.advise(TAGS).await;
    reader.count(10).await;
    let online = sockets(hanging.pid);
    // One is back, one is on its way, one has not been heard of when the stop comes.
    hanging.fault("stall 6000").await.expect("it hangs from now on");
    let folder = killed(gw).await;
    signal(silent.pid, Signal::STOP);
    eventually("the worker to see its gateway gone", async || (sockets(hanging.pid) < online).then_some(())).await;
    let mut gw = leave(Launch::again(folder)).start().await;
    let _ready = again(&gw, &back).await;
    eventually("the worker to be back", async || (sockets(hanging.pid) == online).then_some(())).await;
    gw.signal(Signal::TERM);
    assert!(gw.ended().await.success());
    signal(silent.pid, Signal::CONT);

    let gw = leave(Launch::again(gw.folder())).start().await;
    for s in [&hanging, &silent] {
        again(&gw, s).await.advise(TAGS).await;
    }
    let back = again(&gw, &back).await;
    misses_nothing(&back, &reader).await;
}

// shows: W-04, S-14
#[tokio::test]
async fn a_stop_that_waits_for_clients_tells_no_worker_to_end() {
    let leave = |launch| {
        let launch: Launch = reattach(launch);
        launch.switch("--leave-workers").flag("--drain-seconds", "3").backend("sim", "rate=20000")
    };
    let mut gw = leave(Launch::new()).start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    // It takes nothing more, so the stop waits for it as long as it may; the worker calls home long before.
    let stuck = s.reader_from("stuck", Start::Live).await;
    s.advise(TAGS).await;
    reader.count(20_000).await;
    gw.signal(Signal::TERM);
    assert!(gw.ended().await.success());
    assert!(is_alive(s.pid), "the worker was told to end");
    let gw = leave(Launch::again(gw.folder())).start().await;
    again(&gw, &s).await.close().await;
    drop(stuck);
}

// shows: W-06, S-16
#[tokio::test]
async fn a_command_in_flight_at_a_stop_is_told_as_unknown_and_takes_effect_once() {
    let leave = |launch| reattach(launch).switch("--leave-workers");
    let mut gw = leave(Launch::new()).start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let items = s.advise(TAGS).await;
    reader.count(20).await;
    // Longer than a stop waits for answers.
    s.fault("stall 8000").await.expect("it hangs from now on");
    let value = Some(Value { kind: Some(Kind::Double(7.25)), data_type: 0 });
    let method = Write { server_handle: s.server, item_handle: items[0].handle, value, user_id: 0 };
    let (client, id, write) = (s.client.clone(), s.id.clone(), Method::Write(method));
    let caller = tokio::spawn({
        let write = write.clone();
        async move { client.invoke(&id, write, 0).await }
    });
    // Behind it, and so it has left when this one is over.
    assert_eq!(reason(s.client.invoke(&s.id, write, 500).await), "command.timeout");
    gw.signal(Signal::TERM);
    let told: Result<_, ClientError> = caller.await.expect("an answer");
    assert_eq!(reason(told), "command.outcome_unknown");
    assert!(gw.ended().await.success());

    let gw = leave(Launch::again(gw.folder())).start().await;
    let s = again(&gw, &s).await;
    let mut next = s.go_on("one", &reader).await;
    s.write(&items[0], 8.5).await.expect("ids go on where they were");
    let completed =
        |event: &Event| event.item_key == items[0].key && matches!(event.body, Some(Body::WriteComplete(_)));
    for what in ["the write in flight", "the one behind it", "the one afterwards"] {
        next.until(what, completed).await;
    }
    let head = s.silence().await;
    next.to(head).await;
    assert_eq!(next.events.iter().filter(|event| completed(event)).count(), 3, "each of them once");
    s.close().await;
}

// shows: W-06, S-15
#[tokio::test]
async fn commands_that_wait_at_a_worker_end_no_session_at_a_restart_however_long_they_take() {
    // Each is shorter than the ceiling, and all of them are longer.
    let strict = |launch| {
        let launch: Launch = reattach(launch).backend("sim", "rate=20,faults=true");
        let launch = launch.flag("--heartbeat-seconds", "1").flag("--heartbeat-grace-seconds", "4");
        launch.flag("--stuck-ceiling-seconds", "5")
    };
    let gw = strict(Launch::new()).start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(10).await;
    let (item_handle, _) = s.client.add_item(&s.id, s.server, "$Sim.Fault").await.expect("faults are on");
    let value = Some(Value { kind: Some(Kind::Text("stall 1800".into())), data_type: 0 });
    let stall = Method::Write(Write { server_handle: s.server, item_handle, value, user_id: 0 });
    for _ in 0..4 {
        // It is on its way when nobody waits for it any more.
        let _late = s.client.invoke(&s.id, stall.clone(), 50).await;
    }
    let gw = strict(Launch::again(killed(gw).await)).start().await;
    let s = again(&gw, &s).await;
    misses_nothing(&s, &reader).await;
    s.close().await;
}

// shows: W-05, W-08
#[tokio::test]
async fn sessions_for_which_there_are_too_few_places_go_on_and_none_opens_until_enough_have_ended() {
    let gw = reattach(Launch::new()).start().await;
    let opened = [gw.open("one").await, gw.open("two").await, gw.open("three").await];
    let fewer = |folder, places| reattach(Launch::again(folder)).flag("--max-sessions", places);
    // Behind one that was killed, and behind one that gives way.
    let gw = fewer(killed(gw).await, "2").start().await;
    for s in &opened {
        again(&gw, s).await;
    }
    let gw = fewer(gw.folder(), "1").follow().serves(gw).await;
    let full = async || assert_eq!(reason(gw.try_open("four", "").await.map(|s| s.id)), "session.limit");
    for s in &opened {
        let s = again(&gw, s).await;
        full().await;
        s.close().await;
    }
    gw.open("four").await.close().await;
}

// shows: W-05, W-08
#[tokio::test]
async fn a_gateway_that_starts_on_a_full_disk_is_degraded_takes_its_workers_and_heals() {
    let launch = reattach(Launch::new());
    let data = launch.data();
    let Some(_disk) = SmallDisk::mount(&data, 24) else { return };
    let mut gw = launch.start().await;
    let address = gw.address().to_owned();
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(50).await;
    let ballast = data.join("ballast");
    let fill = || {
        let mut file = fs::File::create(&ballast).expect("made");
        for size in [1 << 16, 1 << 10, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    };
    // The database's journal has nothing in reserve, either.
    fill();
    let admin = gw.admin().await;
    let key = || CreateKeyRequest { name: "filler".into(), scopes: vec!["node".into()], ..Default::default() };
    eventually("the database to be full", async || admin.create_key(key()).await.err()).await;
    gw.signal(Signal::KILL);
    gw.ended().await;
    let again_there = || reattach(Launch::again(gw.folder())).without_addresses().flag("--listen", &address);
    let started = again_there().flag("--http", "127.0.0.1:0").without_announcement().start().await;
    let s = again(&started, &s).await;
    let mut next = s.go_on("one", &reader).await;
    let before = next.events.len();
    next.count(before + 20).await;
    let status = started.run(&["status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!((&status["state"], &status["ready"]), (&"degraded".into(), &true.into()), "{status}");
    assert!(status["degraded"].to_string().contains("storage.full"), "{status}");
    assert_eq!(reason(started.admin().await.create_key(key()).await), "storage.full");

    fs::remove_file(&ballast).expect("removed");
    eventually("health without anybody's help", async || {
        let status = started.run(&["status", "--json"]).await;
        (serde_json::from_slice::<serde_json::Value>(&status.stdout).ok()?["state"] == "ready").then_some(())
    })
    .await;
    assert!(data.join("addresses.json").exists(), "announced when there was room");
    started.admin().await.create_key(key()).await.expect("written");
    let head = s.silence().await;
    next.to(head).await;
    assert!(next.gaps.is_empty(), "{:?}", next.gaps);
    s.close().await;
}

// shows: W-08
#[tokio::test]
async fn a_gateway_that_starts_on_a_full_disk_after_a_stop_in_order_is_degraded_as_after_a_crash() {
    let launch = Launch::new();
    let data = launch.data();
    let Some(_disk) = SmallDisk::mount(&data, 24) else { return };
    let mut gw = launch.start().await;
    let address = gw.address().to_owned();
    let key = |name: &str| CreateKeyRequest { name: name.into(), scopes: vec!["node".into()], ..Default::default() };
    gw.admin().await.create_key(key("before")).await.expect("written");
    gw.signal(Signal::TERM);
    assert!(gw.ended().await.success());
    let ballast = data.join("ballast");
    let mut file = fs::File::create(&ballast).expect("made");
    for size in [1 << 16, 1 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
    drop(file);
    let launch = Launch::again(gw.folder()).without_addresses().flag("--listen", &address);
    let started = launch.flag("--http", "127.0.0.1:0").without_announcement().start().await;
    let status = async || -> serde_json::Value {
        let status = started.run(&["status", "--json"]).await;
        serde_json::from_slice(&status.stdout).expect("JSON")
    };
    let seen = status().await;
    assert_eq!((&seen["state"], &seen["ready"]), (&"degraded".into(), &true.into()), "{seen}");
    assert!(seen["degraded"].to_string().contains("storage.full"), "{seen}");
    let admin = started.admin().await;
    assert_eq!(reason(admin.create_key(key("during")).await), "storage.full");
    assert!(admin.keys().await.expect("a listing").iter().any(|key| key.name == "before"), "what is stored serves");

    fs::remove_file(&ballast).expect("removed");
    eventually("health without anybody's help", async || (status().await["state"] == "ready").then_some(())).await;
    started.admin().await.create_key(key("after")).await.expect("written");
    eventually("room for the next time", async || data.join("tidegate.db.reserve").exists().then_some(())).await;
}

// shows: S-15, W-08
#[tokio::test]
async fn who_stands_still_for_a_while_loses_nothing() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let items = s.advise(TAGS).await;
    reader.count(50).await;
    let before = s.head().await;
    reader.to(before).await;
    signal(s.pid, Signal::STOP);
    let (client, id, server, handle) = (s.client.clone(), s.id.clone(), s.server, items[0].handle);
    let value = Value { kind: Some(Kind::Double(7.25)), data_type: 0 };
    let caller = tokio::spawn(async move { client.write(&id, server, handle, value, 0).await });
    // Others do not notice.
    let other = gw.open("line-2").await;
    other.close().await;
    assert!(!caller.is_finished(), "nobody answers for a worker that stands still");
    signal(s.pid, Signal::CONT);
    caller.await.expect("an answer").expect("late, and well");

    gw.signal(Signal::STOP);
    let silent = tokio::spawn({
        let client = s.client.clone();
        let id = s.id.clone();
        async move { client.state(&id).await }
    });
    eventually("the gateway to stand still", async || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", gw.pid().as_raw_nonzero())).expect("it is there");
        stat.contains(") T ").then_some(())
    })
    .await;
    gw.signal(Signal::CONT);
    silent.await.expect("an answer").expect("late, and well");
    let head = s.silence().await;
    reader.to(head).await;
    assert_eq!((reader.counts().delivered, reader.gaps.len()), (head, 0));
    s.close().await;
}
