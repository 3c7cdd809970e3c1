//! The command line by hand, against a real gateway: what it prints, what it exits with.

use crate::harness::{Gateway, Launch};
use serde_json::Value as Json;
use std::process::Output;

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("UTF-8").trim_end().to_owned()
}

fn json(output: &Output) -> Json {
    serde_json::from_str(&out(output)).expect("JSON")
}

// shows: S-06
#[tokio::test]
async fn a_session_by_hand() {
    let gw = Gateway::start().await;
    let session = out(&gw.run(&["client", "open", "--tag", "line-1", "--name", "by-hand"]).await);
    assert!(session.starts_with("session-"), "{session}");
    let tag = "Area1.Setpoint.Speed";
    out(&gw.run(&["client", "advise", &session, tag, "Area1.Pump1.Counter"]).await);

    let streamed = gw.run(&["client", "stream", &session, "--from-oldest", "--count", "20", "--json"]).await;
    let events: Vec<Json> = out(&streamed).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(events.len(), 20);
    assert!(events.iter().any(|event| event["tag"] == "Area1.Pump1.Counter"), "{events:?}");
    let told: Json = serde_json::from_slice(&streamed.stderr).expect("the account as JSON");
    assert_eq!(told["closes"], true, "{told}");
    let position = told["position"].as_str().expect("a position");
    let resumed = gw.run(&["client", "stream", &session, "--resume", position, "--count", "5"]).await;
    assert_eq!(out(&resumed).lines().count(), 5);
    assert!(String::from_utf8_lossy(&resumed.stderr).contains("0 unaccounted"), "{resumed:?}");

    assert_eq!(json(&gw.run(&["client", "write", &session, tag, "-12.5", "--json"]).await)["written"], true);
    assert_eq!(json(&gw.run(&["client", "read", &session, tag, "--json"]).await)["value"], -12.5);
    // An item that nobody advised yet.
    out(&gw.run(&["client", "write", &session, "Area1.Setpoint.Level", "3"]).await);
    assert!(
        out(&gw.run(&["client", "read", &session, "Area1.Setpoint.Level"]).await)
            .starts_with("Area1.Setpoint.Level = 3")
    );
    let snapshot = json(&gw.run(&["client", "snapshot", &session, "--json"]).await);
    assert_eq!(snapshot["items"].as_array().map(Vec::len), Some(2), "the write cleaned up: {snapshot}");

    let listed = json(&gw.run(&["session", "list", "--json"]).await);
    assert_eq!(listed["sessions"][0]["session_id"], session.as_str());
    out(&gw.run(&["client", "close", &session]).await);
}

// shows: S-14, H-05
#[tokio::test]
async fn operators_see_and_end_things() {
    let gw = Gateway::start().await;
    let key = json(&gw.run(&["key", "create", "--name", "x", "--read", "Area1.*", "--json"]).await);
    let id = key["key_id"].as_str().expect("an id");
    assert!(out(&gw.run(&["key", "list"]).await).contains(id));
    out(&gw.run(&["key", "revoke", id]).await);
    assert!(out(&gw.run(&["key", "list"]).await).contains("revoked"));

    let listed = json(&gw.run(&["policy", "list", "--json"]).await);
    assert_eq!(listed["policies"].as_array().map(Vec::len), Some(5), "{listed}");
    assert_eq!(listed["policies"][0]["policy"], "access");
    let shown = json(&gw.run(&["policy", "show", "access", "--json"]).await);
    assert_eq!((&shown["digest"], &shown["policy"]), (&listed["policies"][0]["digest"], &"access".into()));
    assert!(shown["rules"].as_array().is_some_and(|rules| rules.contains(&"owner".into())), "{shown}");
    assert!(out(&gw.run(&["policy", "show", "rate-limit"]).await).contains("answered by"));
    out(&gw.run(&["policy", "pin"]).await);
    assert!(out(&gw.run(&["policy", "list"]).await).contains("pinned"));
    out(&gw.run(&["policy", "pin", "--off"]).await);
    out(&gw.run(&["policy", "reload"]).await);

    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let killed = gw.run(&["session", "kill", &s.id]).await;
    assert_eq!(killed.status.code(), Some(2), "a kill wants a reason");
    out(&gw.run(&["session", "kill", &s.id, "--reason", "for the story"]).await);
    assert_eq!(reader.ended().await.reason, "stream.session_ended");
}

#[tokio::test]
async fn failures_say_what_to_do_and_exit_with_what_the_help_says() {
    let launch = Launch::new();
    let nowhere = launch.data();
    let gw = launch.start().await;
    let unknown = "session-00000000000000000000000000000000";
    for (line, code, words) in [
        (vec!["client", "snapshot", unknown], 1, &["session.unknown", "hint: "][..]),
        (vec!["client", "snapshot", unknown, "--json"], 1, &["\"code\":\"session.unknown\"", "\"remedy\""]),
        (vec!["client", "snapshot", unknown, "--key", "wrong"], 1, &["auth.invalid"]),
        (vec!["client", "snapshot", unknown, "--key-file", "/nonexistent"], 1, &["/nonexistent"]),
        (vec!["client", "snapshot", unknown, "--endpoint", "127.0.0.1:1"], 1, &["tidegate serve"]),
        (vec!["client", "stream", unknown, "--resume", "x"], 2, &["EPOCH:AFTER"]),
        (vec!["client", "stream"], 2, &["SESSION"]),
        (vec!["key", "revoke", "k0000000000000000"], 1, &["key.unknown"]),
        (vec!["policy", "rollback", "--reason", " "], 2, &["reason"]),
        (vec!["policy", "show", "nobody"], 2, &["rate-limit"]),
        (vec!["policy", "rollback", "--reason", "x"], 1, &["policy.nothing_to_roll_back"]),
    ] {
        let output = gw.run(&line).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{line:?}: {said}");
        for word in words {
            assert!(said.contains(word), "{line:?}: no {word:?} in {said}");
        }
    }
    drop(gw);
    assert!(nowhere.ends_with("data"));
}
