//! Configuration from the outside: a file beside flags, read again while the gateway serves.

use crate::harness::{Launch, eventually, reason, tidegate};
use rustix::process::Signal;
use std::fs;

// shows: E-15
#[tokio::test]
async fn a_hangup_reads_the_file_again_and_a_bad_one_changes_nothing() {
    let launch = Launch::new();
    let folder = launch.folder();
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, "max_sessions = 1\n").expect("written");
    let gw = launch.flag("--config", file.to_str().expect("text")).start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(&["Area1.Pump1.Sine"]).await;
    reader.count(5).await;
    assert_eq!(reason(gw.try_open("line-2", "").await.map(drop)), "session.limit");

    fs::write(&file, "max_sessions = 2\nlisten = \"0.0.0.0:1\"\nmax_session = 3\n").expect("written");
    gw.signal(Signal::HUP);
    eventually("the refusal", async || gw.log().contains("was not read again").then_some(())).await;
    assert!(gw.log().contains("tidegate.toml:3: max_session"), "{}", gw.log());
    assert_eq!(reason(gw.try_open("line-2", "").await.map(drop)), "session.limit", "what was in force is still");

    fs::write(&file, "max_sessions = 2\npolicy_threads = 3\n").expect("written");
    gw.signal(Signal::HUP);
    eventually("the change", async || gw.log().contains("settings=\"policy_threads\"").then_some(())).await;
    let second = gw.open("line-2").await;
    fs::write(&file, "max_sessions = 1\n").expect("written");
    gw.signal(Signal::HUP);
    eventually("fewer places", async || (gw.log().matches("was read again").count() == 2).then_some(())).await;
    second.close().await;
    let refused = gw.try_open("line-3", "").await.map(drop);
    assert_eq!(reason(refused), "session.limit", "the place that came back is gone");
    let before = reader.position().after;
    reader.to(before + 5).await;
}

// shows: H-06, S-20
#[tokio::test]
async fn config_check_and_show_say_what_is_wrong_and_what_is_in_force() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    fs::write(&file, "max_sessions = 9\nbackend = [\"plc=sim:password=hunter2\"]\n").expect("written");
    let run = async |line: &[&str]| tidegate().args(line).arg(&file).output().await.expect("it runs");
    let checked = run(&["config", "check"]).await;
    assert!(checked.status.success(), "{checked:?}");
    let shown = run(&["config", "show", "--origin", "--json", "--max-bulk-items", "7", "--config"]).await;
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(shown["max_sessions"]["value"], 9);
    assert!(shown["max_sessions"]["origin"].as_str().is_some_and(|from| from.ends_with("tidegate.toml:1")));
    assert_eq!(shown["max_bulk_items"]["origin"], "--max-bulk-items");
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    fs::write(&file, "max_sessions = 0\nhttps = 1\n").expect("written");
    let checked = run(&["config", "check"]).await;
    let words = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(1), "{words}");
    assert!(words.contains(":1: max_sessions") && words.contains("did you mean http"), "{words}");
}
