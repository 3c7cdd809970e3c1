//! Starts that must not succeed: each says what is wrong and what to do, and harms nobody.

use crate::harness::{Gateway, Launch, Refused, eventually, open_as};
use std::{
    fs::{self, DirBuilder, Permissions},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
};

#[track_caller]
fn says(refused: &Refused, words: &[&str]) {
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    for word in words {
        assert!(refused.words.contains(word), "no {word:?} in:\n{}", refused.words);
    }
    assert!(refused.words.contains("hint: "), "no remedy in:\n{}", refused.words);
    assert!(!refused.words.contains("panicked"), "{}", refused.words);
}

#[tokio::test]
async fn a_port_in_use() {
    let gw = Gateway::start().await;
    let launch = Launch::new().without_addresses().flag("--listen", gw.address()).flag("--http", "127.0.0.1:0");
    says(&launch.refused().await, &["listen.failed", gw.address()]);
    let s = gw.open("line-1").await;
    assert_eq!(s.close().await, 0);
}

#[tokio::test]
async fn a_plugins_folder_that_is_missing_or_writable_by_others() {
    let missing = Launch::new().without_plugins().flag("--plugins", "/nonexistent/plugins");
    says(&missing.refused().await, &["plugins.unusable", "/nonexistent/plugins"]);
    let shared = Launch::new().prepare(|folder| {
        fs::set_permissions(folder.join("plugins"), Permissions::from_mode(0o770)).expect("mode set");
    });
    says(&shared.refused().await, &["plugins.unusable"]);
    let file = Launch::new().prepare(|folder| {
        fs::remove_dir(folder.join("plugins")).expect("removed");
        fs::write(folder.join("plugins"), "a file").expect("written");
    });
    says(&file.refused().await, &["plugins.unusable"]);
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_used() {
    let under_a_file = Launch::new().prepare(|folder| fs::write(folder.join("data"), "a file").expect("written"));
    says(&under_a_file.refused().await, &["data.unusable"]);
    let long = format!("/tmp/{}", "d".repeat(120));
    says(&Launch::new().flag("--data", &long).refused().await, &["data.unusable"]);
    let _made = fs::remove_dir_all(&long);
}

#[tokio::test]
async fn a_database_that_is_corrupt_or_newer_is_left_as_it_is() {
    let corrupt = Launch::new().prepare(|folder| {
        DirBuilder::new().mode(0o700).create(folder.join("data")).expect("made");
        fs::write(folder.join("data/tidegate.db"), "not a database ".repeat(1000)).expect("written");
    });
    let file = corrupt.data().join("tidegate.db");
    let before = fs::read(&file).expect("read");
    let folder = corrupt.folder();
    says(&corrupt.refused().await, &["storage.corrupt"]);
    assert_eq!(fs::read(&file).expect("read"), before, "the evidence is untouched");
    drop(folder);

    let newer = Launch::new().prepare(|folder| {
        DirBuilder::new().mode(0o700).create(folder.join("data")).expect("made");
        let database = rusqlite::Connection::open(folder.join("data/tidegate.db")).expect("opened");
        database.pragma_update(None, "user_version", 9_999).expect("set");
    });
    says(&newer.refused().await, &["storage.newer"]);
}

#[tokio::test]
async fn two_gateways_on_one_folder() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(&["Area1.Pump1.Sine"]).await;
    reader.count(10).await;
    says(&Launch::again(gw.folder()).refused().await, &["data.locked"]);
    let before = reader.position().after;
    reader.to(before + 20).await;
}

// shows: H-06
#[tokio::test]
async fn every_wrong_setting_is_named_at_once() {
    let launch = Launch::new().flag("--max-sessions", "0").flag("--heartbeat-seconds", "soon");
    let launch = launch.flag("--log-level", "tidegate=loud").backend("x", "").backend("y", "rate=1");
    says(&launch.refused().await, &["config.invalid", "--max-sessions", "--heartbeat-seconds", "--log-level"]);
}

// shows: S-01, S-15
#[tokio::test]
async fn a_backend_with_wrong_settings_says_so_and_harms_no_other() {
    let gw = Launch::new().backend("bad", "rate=fast").backend("good", "rate=10").start().await;
    let client = gw.client().await;
    let error = open_as(&client, "line-1", "bad").await.expect_err("a rate that is no number");
    let fault = error.fault().expect("the gateway's answer").clone();
    assert_eq!(fault.reason, "session.start_failed", "{fault}");
    assert!(fault.message.contains("rate"), "{fault}");
    // Nothing of it is left: no entry, no slot, no process, and the numbers say so.
    assert!(gw.admin().await.sessions().await.expect("a listing").is_empty());
    let workers = || {
        let socket = gw.data().join("workers.sock");
        let called = |pid: &fs::DirEntry| fs::read(pid.path().join("cmdline")).unwrap_or_default();
        let ours = |words: Vec<u8>| String::from_utf8_lossy(&words).contains(&*socket.to_string_lossy());
        fs::read_dir("/proc").expect("processes").flatten().filter(|pid| ours(called(pid))).count()
    };
    eventually("its worker to be gone", async || (workers() == 0).then_some(())).await;
    let metrics = gw.metrics().await;
    for line in ["tidegate_sessions_open 0\n", "tidegate_sessions_opened_total 0\n"] {
        assert!(metrics.contains(line), "{line}{metrics}");
    }
    let opened = open_as(&client, "line-1", "good").await.expect("opened");
    assert_eq!((opened.protocol_version, workers()), (1, 1));
    for can in ["bulk", "snapshot", "resume", "resume-token", "snapshot-stream"] {
        assert!(opened.capabilities.iter().any(|capability| capability == can), "{can}: {:?}", opened.capabilities);
    }
    client.close(&opened.session_id).await.expect("closed");
    gw.open_on("good").await.close().await;
}
