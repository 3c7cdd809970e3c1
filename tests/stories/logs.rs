//! What the log says of a session's life, by its fields: whoever collects it goes by them.

use crate::{
    harness::{Gateway, Launch, eventually},
    restart::{again, killed, reattach, signal},
};
use rustix::process::Signal;
use serde_json::Value as Json;

/// What each line has beside what the log itself adds.
const LIFE: &[(&str, &[&str])] = &[
    ("session opened", &["backend", "key", "pid", "session"]),
    ("reader attached", &["after", "head", "key", "reader", "session"]),
    ("reader detached", &["after", "head", "key", "reader", "reason", "session"]),
    ("worker adopted", &["from", "head", "pid", "session"]),
    ("session closed", &["head", "reason", "session"]),
];

/// The lines of the log about a session that say this.
fn lines(gw: &Gateway, session: &str, message: &str) -> Vec<Json> {
    let read: Vec<Json> = gw.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    read.into_iter().filter(|line| line["session"] == session && line["message"] == message).collect()
}

async fn said(gw: &Gateway, session: &str, message: &str) -> Json {
    eventually(message, async || lines(gw, session, message).into_iter().next()).await
}

fn fields(line: &Json) -> Vec<&str> {
    let own = ["timestamp", "level", "target", "message"];
    let mut fields: Vec<&str> = line.as_object().expect("an object").keys().map(String::as_str).collect();
    fields.retain(|field| !own.contains(field));
    fields.sort_unstable();
    fields
}

// shows: D-15
#[tokio::test]
async fn the_life_of_a_session_is_in_the_log_field_by_field() {
    let launch = |launch: Launch| reattach(launch).flag("--log-format", "json");
    let gw = launch(Launch::new()).start().await;
    let s = gw.open("line-1").await;
    let reader = s.reader("historian").await;
    drop(reader);
    let left = said(&gw, &s.id, "reader detached").await;
    assert_eq!((&left["reader"], &left["reason"]), (&"historian".into(), &"client".into()));

    let gw = launch(Launch::again(killed(gw).await)).start().await;
    let s = again(&gw, &s).await;
    let mut reader = s.reader("historian").await;
    s.close().await;
    assert_eq!(reader.ended().await.reason, "stream.session_ended");
    for (message, wanted) in LIFE {
        assert_eq!(fields(&said(&gw, &s.id, message).await), *wanted, "{message}");
    }
    assert_eq!(lines(&gw, &s.id, "reader attached").len(), 2);
    eventually("the second end", async || (lines(&gw, &s.id, "reader detached").len() == 2).then_some(())).await;
    assert_eq!(lines(&gw, &s.id, "reader detached")[1]["reason"], "stream.session_ended");

    let s = gw.open("line-2").await;
    signal(s.pid, Signal::KILL);
    assert_eq!(fields(&said(&gw, &s.id, "session faulted").await), ["cause", "session"]);
}
