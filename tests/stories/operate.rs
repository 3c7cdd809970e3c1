//! What an operator does and what happens to him: looking, backing up and restoring under load, a full disk, no
//! descriptors left, a service manager that listens, logs that are moved away.

use crate::harness::{Gateway, Launch, PATIENCE, Reader, eventually, reason, tidegate};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::Value as Json;
use std::{
    fs,
    io::Write as _,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Command, Output},
};
use tidegate_client::wire::CreateKeyRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

fn json(output: &Output) -> Json {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn key_named(name: &str) -> CreateKeyRequest {
    CreateKeyRequest { name: name.into(), scopes: vec!["sessions:own".into()], ..CreateKeyRequest::default() }
}

async fn status(gw: &Gateway) -> Json {
    json(&gw.run(&["status", "--json"]).await)
}

fn parts(status: &Json) -> Vec<&str> {
    status["degraded"].as_array().into_iter().flatten().filter_map(|part| part["part"].as_str()).collect()
}

/// Reads on and shows that what the gateway goes through does not reach its streams.
async fn goes_on(reader: &mut Reader) {
    let before = reader.events.len();
    reader.count(before + 20).await;
}

// shows: X-17
#[tokio::test]
async fn access_that_is_closed_to_everybody_is_no_good_health() {
    let gw = Gateway::start().await;
    assert_eq!(parts(&status(&gw).await), [""; 0]);
    let access = gw.plugins().join("access.toml");
    fs::write(&access, b"").expect("write");
    assert!(gw.run(&["policy", "reload"]).await.status.success());
    fs::remove_file(&access).expect("remove");
    assert!(gw.run(&["policy", "reload"]).await.status.success());
    let closed = gw.run(&["status", "--json"]).await;
    assert!(!closed.status.success(), "{closed:?}");
    let seen = json(&closed);
    assert_eq!(parts(&seen), ["policies"], "{seen}");
    assert!(seen["degraded"].to_string().contains("everything is denied"), "{seen}");
    fs::write(&access, b"").expect("write");
    assert!(gw.run(&["policy", "reload"]).await.status.success());
    assert!(gw.run(&["status"]).await.status.success());
}

#[tokio::test]
async fn status_and_top_say_who_lags_and_need_no_terminal() {
    let gw = Launch::new().backend("sim", "rate=2000").start().await;
    let looked = gw.run(&["status"]).await;
    let words = String::from_utf8_lossy(&looked.stdout).into_owned();
    assert!(looked.status.success() && words.starts_with("state       ready\n"), "{looked:?}");
    let s = gw.open("line-1").await;
    let mut quick = s.reader("quick").await;
    let slow = s.reader("slow").await;
    s.advise(&["Area1.Pump1.Sine", "Area1.Pump2.Sine"]).await;
    // The slow one reads nothing: what its connection holds is full after a while, and then it lags.
    let seen = eventually("a lag with a time until the gap", async || {
        quick.next().await;
        let seen = json(&gw.run(&["top", "--once", "--json"]).await);
        let worst = &seen["status"]["worst"];
        (worst["name"] == "slow" && worst["seconds_until_gap"].as_f64().is_some()).then_some(seen)
    });
    // Whether it comes to that within the bound depends on how much the sockets take; the rest must hold at once.
    let seen = match tokio::time::timeout(PATIENCE / 3, seen).await {
        Ok(seen) => seen,
        Err(_) => json(&gw.run(&["top", "--once", "--json"]).await),
    };
    let session = &seen["sessions"][0];
    assert_eq!(session["readers"].as_array().map(Vec::len), Some(2), "{seen}");
    assert!(session["events_per_second"].as_f64().is_some_and(|rate| rate > 0.0), "{seen}");
    assert!(session["readers"][0]["lag_bound"].as_u64().is_some_and(|bound| bound > 0), "{seen}");
    assert!(
        seen["policies"].as_array().is_some_and(|all| all.iter().any(|one| one["calls"].as_u64() > Some(0))),
        "{seen}"
    );
    let text = gw.run(&["top", "--once"]).await;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    assert!(text.contains("READER") && text.contains("quick") && text.contains("slow"), "{text}");
    let refused = gw.run(&["top"]).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--once"), "{refused:?}");
    drop((quick, slow));
}

#[tokio::test]
async fn a_backup_under_load_comes_back_whole() {
    let mut gw = Gateway::start().await;
    gw.swap("access", "deny = [\"Area2.*\"]").await;
    let admin = gw.admin().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(&["Area1.Pump1.Sine"]).await;
    // Keys are written all the while; those acknowledged before it began must be in it.
    let mut acknowledged = Vec::new();
    for n in 0..20 {
        acknowledged.push(admin.create_key(key_named(&n.to_string())).await.expect("written").key_id);
    }
    let backup = gw.folder().path().join("backup");
    let path = backup.to_str().expect("a path").to_owned();
    let during = async {
        for n in 20..60 {
            admin.create_key(key_named(&n.to_string())).await.expect("writers are not held up");
        }
    };
    let line = ["backup", path.as_str(), "--json"];
    let (done, ()) = tokio::join!(gw.run(&line), during);
    assert!(done.status.success(), "{done:?}");
    goes_on(&mut reader).await;
    let again = gw.run(&line).await;
    assert_eq!(again.status.code(), Some(2), "a folder that holds one is not written over: {again:?}");
    let told = json(&done);
    assert_eq!(told["verified"], true, "{told}");

    let data = gw.data();
    let restore = async |more: &[&str]| {
        tidegate().args(["restore", path.as_str()]).args(more).arg("--data").arg(&data).output().await.expect("it runs")
    };
    let in_use = restore(&["--replace"]).await;
    assert!(String::from_utf8_lossy(&in_use.stderr).contains("another gateway works on"), "{in_use:?}");
    let head = s.close().await;
    reader.to(head).await;
    assert_eq!(reader.ended().await.reason, "stream.session_ended");
    drop(reader);
    gw.signal(Signal::TERM);
    gw.ended().await;
    let folder = gw.folder();
    let full = restore(&[]).await;
    assert!(String::from_utf8_lossy(&full.stderr).contains("--replace"), "{full:?}");
    let done = restore(&["--replace", "--json"]).await;
    assert!(done.status.success(), "{done:?}");
    let aside = json(&done)["moved_aside"].as_str().expect("told where").to_owned();
    fs::copy(Path::new(&aside).join("first-key"), data.join("first-key")).expect("the operator's own copy");
    drop(gw);

    let gw = Launch::again(folder).start().await;
    let now = status(&gw).await;
    assert_eq!((&now["state"], &now["instance_id"]), (&Json::from("ready"), &told["instance"]), "{now}");
    let known: Vec<_> = gw.admin().await.keys().await.expect("a listing").into_iter().map(|key| key.key_id).collect();
    assert!(acknowledged.iter().all(|id| known.contains(id)), "an acknowledged key is missing");
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(&["Area1.Pump1.Sine"]).await;
    goes_on(&mut reader).await;
}

#[tokio::test]
async fn a_backup_of_a_newer_version_is_refused_with_words() {
    let gw = Gateway::start().await;
    let backup = gw.folder().path().join("backup");
    let path = backup.to_str().expect("a path").to_owned();
    assert!(gw.run(&["backup", path.as_str()]).await.status.success());
    let database = rusqlite::Connection::open(backup.join("tidegate.db")).expect("opened");
    database.pragma_update(None, "user_version", 9_999).expect("set");
    drop(database);
    let restore = async || {
        let new = gw.folder().path().join("new");
        let output = tidegate().args(["restore", path.as_str(), "--data"]).arg(&new).output().await.expect("it runs");
        assert!(!output.status.success() && !new.exists(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let words = restore().await;
    assert!(words.contains("not what was backed up") && words.contains("hint: "), "{words}");
    // One that is whole in itself, as a newer version would have made it.
    let bytes = fs::read(backup.join("tidegate.db")).expect("read");
    let mut manifest: Json =
        serde_json::from_slice(&fs::read(backup.join("manifest.json")).expect("read")).expect("JSON");
    manifest["files"][0]["bytes"] = bytes.len().into();
    manifest["files"][0]["sha256"] = sha256(&backup.join("tidegate.db")).into();
    fs::write(backup.join("manifest.json"), manifest.to_string()).expect("written");
    let words = restore().await;
    assert!(words.contains("schema 9999") && words.contains("hint: "), "{words}");
}

fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("coreutils");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned()
}

/// A small disk of its own for the data folder; gone with it.
pub(crate) struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    /// `None` where this user may not mount; there the full database of storage's own tests has to do.
    pub(crate) fn mount(at: &'a Path, mib: u32) -> Option<Self> {
        fs::create_dir_all(at).expect("made");
        let options = format!("size={mib}m,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

// shows: S-18
#[tokio::test]
async fn an_internal_session_that_cannot_be_opened_is_named_by_health_until_it_is_there() {
    let launch = Launch::new();
    let csv = launch.folder().path().join("history.csv");
    let launch = launch.backend("sim", "rate=10").backend("history", &format!("csv={}", csv.display()));
    let gw = launch.flag("--internal-session", "past=history").start().await;
    let seen = eventually("health to name it", async || {
        let seen = status(&gw).await;
        let named = parts(&seen).contains(&"internal-sessions");
        named.then_some(seen)
    })
    .await;
    assert_eq!((&seen["state"], &seen["ready"]), (&Json::from("degraded"), &Json::from(true)), "{seen}");
    assert!(seen["degraded"].to_string().contains("past is not there"), "{seen}");
    let draft = csv.with_extension("draft");
    fs::write(&draft, "timestamp,tag,value,quality\n2026-01-01T00:00:00Z,Area1.Flow,1.5,192\n").expect("written");
    fs::rename(&draft, &csv).expect("placed");
    eventually("health without anybody's help", async || (status(&gw).await["state"] == "ready").then_some(())).await;
    let sessions = gw.admin().await.sessions().await.expect("a listing");
    assert_eq!(sessions.iter().map(|one| one.tag.as_str()).collect::<Vec<_>>(), ["past"]);
}

#[tokio::test]
async fn a_full_disk_degrades_and_heals_by_itself() {
    let launch = Launch::new();
    let (folder, data) = (launch.folder(), launch.data());
    let Some(_disk) = SmallDisk::mount(&data, 24) else { return };
    let log = data.join("gateway.log");
    let launch = launch.flag("--log-file", log.to_str().expect("a path"));
    let gw = launch.start().await;
    let admin = gw.admin().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(&["Area1.Pump1.Sine", "Area1.Pump2.Sine"]).await;
    let mut acknowledged = vec![admin.create_key(key_named("before")).await.expect("written").key_id];
    let ballast = data.join("ballast");
    let mut file = fs::File::create(&ballast).expect("made");
    while file.write_all(&[0; 4_096]).is_ok() {}
    // What the database has in reserve is used up, then it says so, typed.
    let fault = eventually("the database to be full", async || match admin.create_key(key_named("during")).await {
        Ok(made) => {
            acknowledged.push(made.key_id);
            None
        }
        Err(error) => Some(error.fault().expect("the gateway's answer").clone()),
    })
    .await;
    assert_eq!(fault.reason, "storage.full", "{fault}");
    // A swap is in force all the same; that it would not survive a restart is said.
    let swap = gw.swap("access", "deny = [\"Area1.Pump2.*\"]").await;
    assert_eq!(swap.outcome, "swapped");
    let seen = eventually("all that is degraded", async || {
        // Lines for the log, and a write: the database may find room in its journal once more, and says so then.
        gw.signal(Signal::USR1);
        acknowledged.extend(admin.create_key(key_named("meanwhile")).await.ok().map(|made| made.key_id));
        // And decisions: they are in force, and nobody will be able to explain them.
        gw.client().await.state(&s.id).await.expect("reads on");
        let seen = status(&gw).await;
        let named = parts(&seen);
        ["storage", "policy-store", "log", "decisions"].iter().all(|part| named.contains(part)).then_some(seen)
    })
    .await;
    assert_eq!((&seen["state"], &seen["ready"]), (&Json::from("degraded"), &Json::from(true)), "{seen}");
    let metrics = gw.metrics().await;
    assert!(metrics.contains("\ntidegate_degraded_parts ") && !metrics.contains("\ntidegate_degraded_parts 0\n"));
    assert!(!metrics.contains("\ntidegate_decisions_dropped_total 0\n"), "{metrics}");
    let listed = json(&gw.run(&["policy", "decisions", "--json"]).await);
    assert!(listed["loss"]["dropped"].as_u64() > Some(0), "told before a file can tell it: {}", listed["loss"]);
    goes_on(&mut reader).await;
    let other = gw.open("line-2").await;
    other.close().await;

    drop(file);
    fs::remove_file(&ballast).expect("removed");
    eventually("health without anybody's help", async || (status(&gw).await["state"] == "ready").then_some(())).await;
    acknowledged.push(admin.create_key(key_named("after")).await.expect("written").key_id);
    gw.client().await.state(&s.id).await.expect("reads on");
    let listed = json(&gw.run(&["policy", "decisions", "--json"]).await);
    let loss = |what: &str| listed["loss"][what].as_u64().expect("a number");
    assert!(loss("dropped") > 0 && loss("lost") >= loss("dropped"), "and told by the files: {}", listed["loss"]);
    let known: Vec<_> = admin.keys().await.expect("a listing").into_iter().map(|key| key.key_id).collect();
    assert!(acknowledged.iter().all(|id| known.contains(id)), "an acknowledged key is missing");
    goes_on(&mut reader).await;
    drop((reader, gw, folder));
}

/// The metrics over a connection that stays.
async fn scraped(connection: &mut TcpStream) -> String {
    connection.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    // The exposition's own last line.
    while !answer.ends_with(b"# EOF\n") {
        let mut bytes = [0; 4_096];
        let read = connection.read(&mut bytes).await.expect("an answer");
        assert!(read > 0, "the connection is kept");
        answer.extend_from_slice(&bytes[..read]);
    }
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn a_gateway_without_descriptors_serves_on_and_takes_connections_again() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(&["Area1.Pump1.Sine"]).await;
    reader.count(5).await;
    // One that is there already; the first answer shows it.
    let mut scraper = TcpStream::connect(gw.http()).await.expect("connected");
    scraped(&mut scraper).await;
    let open = status(&gw).await["open_files"].as_u64().expect("a number");
    let limit = Rlimit { current: Some(open + 8), ..getrlimit(Resource::Nofile) };
    prlimit(Some(gw.pid()), Resource::Nofile, limit).expect("its limit is set");
    let mut strangers = Vec::new();
    const LINE: &str = "cannot accept connections just now";
    eventually("a connection too many", async || {
        strangers.push(TcpStream::connect(gw.address()).await.expect("the backlog takes it"));
        gw.log().contains(LINE).then_some(())
    })
    .await;
    // Tried again all the time, and not said each time.
    let failures = eventually("some more tries", async || {
        let metrics = scraped(&mut scraper).await;
        let count = metrics.lines().find_map(|line| line.strip_prefix("tidegate_accept_failures_total "))?;
        count.parse::<usize>().ok().filter(|count| *count >= 30)
    })
    .await;
    let lines = gw.log().matches(LINE).count();
    assert!(lines * 5 < failures, "{lines} lines for {failures} failures");
    // Whoever can help comes in: there is one more for the operators' socket.
    assert!(status(&gw).await["state"].is_string());
    goes_on(&mut reader).await;
    assert!(!gw.log().contains("panicked"));
    drop(strangers);
    // The very limit stays; there is room again because they went.
    let client = gw.client().await;
    eventually("a connection is taken again", async || client.state(&s.id).await.ok()).await;
    goes_on(&mut reader).await;
}

// shows: E-13
#[tokio::test]
async fn a_service_manager_hears_of_ready_reload_progress_and_stop() {
    let launch = Launch::new();
    let folder = launch.folder();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_nonblocking(true).expect("set");
    let launch = launch.env("NOTIFY_SOCKET", path.to_str().expect("a path")).env("WATCHDOG_USEC", "300000");
    let mut gw = launch.start().await;
    let heard = async |what: &str| {
        eventually(what, async || {
            let mut message = [0; 4_096];
            let read = socket.recv(&mut message).ok()?;
            let message = String::from_utf8_lossy(&message[..read]).into_owned();
            message.lines().any(|line| line == what).then_some(message)
        })
        .await
    };
    let ready = heard("READY=1").await;
    assert!(ready.contains("STATUS=serving gRPC on 127.0.0.1:"), "{ready}");
    let s = gw.open("line-1").await;
    for _ in 0..3 {
        heard("WATCHDOG=1").await;
    }
    gw.signal(Signal::HUP);
    let reloading = heard("RELOADING=1").await;
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    heard("READY=1").await;
    s.close().await;
    gw.signal(Signal::TERM);
    heard("STOPPING=1").await;
    assert!(gw.ended().await.success());
}

// shows: E-17
#[tokio::test]
async fn a_log_that_was_moved_away_is_opened_anew_on_usr1() {
    let launch = Launch::new();
    let folder = launch.folder();
    let log = folder.path().join("own.log");
    let launch = launch.flag("--log-file", log.to_str().expect("a path")).flag("--log-files-kept", "2");
    let gw = launch.start().await;
    let moved = folder.path().join("own.log-yesterday");
    let says = |path: &Path, words: &str| fs::read_to_string(path).unwrap_or_default().contains(words);
    eventually("the first lines", async || says(&log, "serving").then_some(())).await;
    fs::rename(&log, &moved).expect("moved");
    gw.signal(Signal::USR1);
    eventually("the new file", async || says(&log, "opened anew").then_some(())).await;
    let s = gw.open("line-1").await;
    eventually("what happens now", async || says(&log, &s.id).then_some(())).await;
    assert!(!says(&moved, &s.id), "the old file got a new line");
    assert_eq!(gw.log(), "", "nothing goes to standard error");
    // Where there is no way to a new file, the old one is written on.
    fs::remove_file(&log).expect("removed");
    fs::create_dir(&log).expect("a folder in its place");
    gw.signal(Signal::USR1);
    assert_eq!(reason(gw.try_open("line-2", "nonsense").await.map(drop)), "backend.unknown");
    s.close().await;
}
