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
    // The worker proves itself before it reads its settings, so either the open or the first command tells.
    let fault = match open_as(&client, "line-1", "bad").await {
        Err(error) => error.fault().expect("the gateway's answer").clone(),
        Ok(session) => {
            let fault = eventually("the worker's complaint", async || {
                client.register(&session.session_id, "x").await.err().and_then(|error| error.fault().cloned())
            })
            .await;
            client.close(&session.session_id).await.expect("closed");
            fault
        }
    };
    // The first command may already be on its way when the worker says goodbye.
    let told = ["session.start_failed", "session.faulted", "command.outcome_unknown"];
    assert!(told.contains(&fault.reason.as_str()), "{fault}");
    assert!(fault.message.contains("rate"), "{fault}");
    assert!(gw.admin().await.sessions().await.expect("a listing").is_empty());
    gw.open_on("good").await.close().await;
}
