//! Decisions that can be explained, asked again and compared with rules that are not in force yet.

use crate::harness::{Gateway, Launch, eventually, place, refused};
use serde_json::Value as Json;
use tidegate_client::wire::DecisionWindow;

fn json(output: &std::process::Output) -> Json {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

// shows: X-11
#[tokio::test]
async fn a_client_quotes_its_denial_and_the_operator_reads_why_and_what_another_rule_would_do() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let items = s.advise(&["Area1.Setpoint.Speed", "Area2.Setpoint.Speed"]).await;
    reader.count(1).await;
    s.write(&items[0], 7.25).await.expect("allowed by the default");
    gw.swap("access", "deny = [\"Area2.*\"]\n").await;
    let denied = refused(s.write(&items[1], 314.159).await);
    assert_eq!(denied.reason, "policy.denied");
    let id = denied.details["decision"].as_str();

    let words = gw.run(&["policy", "explain", id]).await;
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    for part in
        ["wanted write on Area2.Setpoint.Speed", "denied, by the rule", "from access.wasm", &denied.details["rule"]]
    {
        assert!(words.contains(part), "{part} in {words}");
    }
    let explained = json(&gw.run(&["policy", "explain", id, "--json"]).await);
    assert_eq!(explained["generation"].to_string(), denied.details["generation"]);
    let listed =
        json(&gw.run(&["policy", "decisions", "--denied", "--last", "1h", "--policy", "access", "--json"]).await);
    assert!(listed["decisions"].as_array().expect("a list").iter().any(|of| of["decision"] == id), "{listed}");

    // Values are in no file of the log.
    let log: String = std::fs::read_dir(find(&gw.data(), "decisions"))
        .expect("the log")
        .map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("text"))
        .collect();
    assert!(log.contains("Area2.Setpoint.Speed") && !log.contains("314.159") && !log.contains("7.25"), "{log}");
    assert!(!log.contains(gw.first_key()), "a secret is in the log");

    let replayed = json(&gw.run(&["policy", "replay", "--last", "1h", "--json"]).await);
    assert_eq!((&replayed["mismatches"], &replayed["gone"], &replayed["skipped"]), (&0.into(), &0.into(), &0.into()));
    assert!(replayed["replayed"].as_u64() > Some(5), "{replayed}");

    // A candidate outside of the folder: what it would change, by key and rule, while the other serves on.
    let candidates = gw.data().join("candidates");
    std::fs::create_dir(&candidates).expect("a folder");
    place(&candidates, "access.toml", b"deny = [\"Area1.*\"]\n");
    let file = candidates.join("access.toml").display().to_string();
    let differs = json(&gw.run(&["policy", "diff", &file, "--last", "1h", "--json"]).await);
    let changes = differs["changes"].as_array().expect("rows");
    let has = |was: &str, now: &str| changes.iter().any(|of| of["was"] == was && of["now"] == now);
    assert!(has("allow", "deny") && has("deny", "allow"), "{differs}");
    assert!(differs["changed"].as_u64() < differs["asked"].as_u64(), "{differs}");
    let before = reader.position().after;
    reader.until("the stream to go on", |event| event.sequence > before).await;
    let head = s.silence().await;
    reader.to(head).await;
}

// shows: X-11
#[tokio::test]
async fn each_denied_element_quotes_its_decision_and_what_is_unknown_is_said_to_be() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    gw.swap("access", "deny = [\"Area2.*\"]\n").await;
    let tags = ["Area1.Pump1.Sine", "Area2.Pump1.Sine"];
    let read = s.client.read(&s.id, s.server, &tags, 10_000).await.expect("answered").results;
    assert!(read[0].decision_id.is_empty() && read[0].hresult == 0, "{read:?}");
    let id = read[1].decision_id.as_str();
    let words = gw.run(&["policy", "explain", id, "--tag", tags[1]]).await;
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    assert!(words.contains("wanted read-bulk on Area2.Pump1.Sine") && words.contains("denied, by the rule"), "{words}");
    let advised = s.client.subscribe(&s.id, s.server, &tags).await.expect("answered");
    assert!(advised[0].decision.is_empty() && advised[1].decision.len() == 16, "{advised:?}");
    let line = gw.run(&["client", "read", &s.id, tags[1]]).await;
    let line = String::from_utf8_lossy(&line.stdout).into_owned();
    assert!(line.contains("0x80070005, decision "), "{line}");

    let error = async |line: &[&str]| {
        let output = gw.run(line).await;
        assert!(!output.status.success(), "{output:?}");
        serde_json::from_slice::<Json>(&output.stderr).unwrap_or_else(|wrong| panic!("{wrong}: {output:?}"))
    };
    let unknown = error(&["policy", "explain", "00000000deadbeef", "--json"]).await;
    assert_eq!(unknown["error"]["code"], "policy.decision_unknown", "{unknown}");
    let words = unknown["error"].to_string();
    assert!(words.contains("it reaches back to") && words.contains("`tidegate policy decisions` lists"), "{words}");
    // No id is not the oldest decision.
    let none = gw.run(&["policy", "explain", ""]).await;
    assert_eq!(none.status.code(), Some(2), "{none:?}");
    let window = DecisionWindow { decision_id: Some(String::new()), ..DecisionWindow::default() };
    let none = gw.admin().await.decisions(window).await.expect_err("nothing is no id");
    assert_eq!(none.fault().expect("the gateway's answer").reason, "request.invalid");
    let other = error(&["policy", "explain", id, "--tag", "Nope", "--json"]).await;
    assert_eq!(other["error"]["code"], "request.invalid", "{other}");
    assert!(other.to_string().contains("was not about Nope"), "{other}");

    // What was refused is counted: the commands by what became of them, the decisions as the log has them.
    let denied = json(&gw.run(&["policy", "decisions", "--denied", "--policy", "access", "--json"]).await);
    let count = denied["decisions"].as_array().map_or(0, Vec::len);
    let metrics = gw.metrics().await;
    for line in [
        "tidegate_commands_total{method=\"read_bulk\",outcome=\"partial\"} 1".to_owned(),
        "tidegate_commands_total{method=\"read_bulk\",outcome=\"denied\"} 1".to_owned(),
        "tidegate_commands_total{method=\"subscribe_bulk\",outcome=\"partial\"} 1".to_owned(),
        format!("tidegate_decisions_denied_total{{policy=\"access\"}} {count}"),
    ] {
        assert!(count >= 3 && metrics.contains(&format!("{line}\n")), "{line} in {metrics}");
    }
}

// shows
#[tokio::test]
async fn a_rule_that_would_change_too_much_waits_for_a_word() {
    let gw = Launch::new().flag("--policy-diff-max", "10%").start().await;
    let s = gw.open("line-1").await;
    let items = s.advise(&["Area1.Setpoint.Speed"]).await;
    for n in 0..30 {
        s.write(&items[0], f64::from(n)).await.expect("allowed");
    }
    // What was decided is known to the gate once it is in the log.
    gw.run(&["policy", "decisions", "--last", "1"]).await;
    place(&gw.plugins(), "access.toml", b"deny = [\"Area1.*\"]\n");
    let held = eventually("the rule to be held", async || {
        let held = json(&gw.run(&["policy", "held", "--json"]).await);
        held["held"].as_array().is_some_and(|held| !held.is_empty()).then(|| held["held"][0].clone())
    })
    .await;
    assert_eq!((held["code"].as_str(), held["file"].as_str()), (Some("plugin.differs"), Some("access.toml")));
    s.write(&items[0], 1.0).await.expect("the old rule serves on");
    let identity = &held["identity"].as_str().expect("text")[..12];
    let done = json(&gw.run(&["policy", "approve", identity, "--reason", "meant so", "--json"]).await);
    assert_eq!((done["outcome"].as_str(), done["trigger"].as_str()), (Some("swapped"), Some("approval")), "{done}");
    assert_eq!(refused(s.write(&items[0], 2.0).await).reason, "policy.denied");
}

// shows: X-12
#[tokio::test]
async fn a_shadow_is_promoted_under_load_and_every_account_closes() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let (mut one, mut two) = (s.reader("one").await, s.reader("two").await);
    let items = s.advise(&["Area1.Setpoint.Speed", "Area2.Pump1.Sine"]).await;
    let (writes, goes) = (&items[0], items[1].key);
    one.until("the item", |event| event.item_key == goes).await;
    let candidates = gw.data().join("candidates");
    std::fs::create_dir(&candidates).expect("a folder");
    place(&candidates, "access.toml", b"deny = [\"Area2.*\"]\n");
    let file = candidates.join("access.toml").display().to_string();
    let started = gw.run(&["policy", "shadow", "start", &file]).await;
    assert!(started.status.success(), "{started:?}");
    for n in 0..20 {
        s.write(writes, f64::from(n)).await.expect("what serves decides");
    }
    // Another reader has the items judged, which the candidate would have answered otherwise.
    let client = gw.client_with(&gw.key(&[], "sessions:all").await).await;
    let mut three = s.try_reader(&client, "three", tidegate_client::Start::Live).await.expect("a stream");
    three.until("the item", |event| event.item_key == goes).await;
    let status = json(&gw.run(&["policy", "shadow", "status", "--json"]).await);
    assert!(status["difference"]["asked"].as_u64() >= Some(20), "{status}");
    assert!(status["difference"]["changed"].as_u64() >= Some(1), "{status}");
    let rows = json(&gw.run(&["policy", "shadow", "diff", "--json"]).await);
    let row = &rows["difference"]["changes"][0];
    assert_eq!(
        (&row["policy"], &row["was"], &row["now"]),
        (&"access".into(), &"allow".into(), &"deny".into()),
        "{rows}"
    );
    let few = gw.run(&["policy", "shadow", "promote", "--max-rate", "100%", "--min-answers", "1000000"]).await;
    assert!(!few.status.success() && String::from_utf8_lossy(&few.stderr).contains("policy.unproven"), "{few:?}");
    let strict = gw.run(&["policy", "shadow", "promote", "--max-rate", "0.01%", "--min-answers", "20"]).await;
    assert!(
        !strict.status.success() && String::from_utf8_lossy(&strict.stderr).contains("policy.unproven"),
        "{strict:?}"
    );
    let promoted =
        json(&gw.run(&["policy", "shadow", "promote", "--max-rate", "50%", "--min-answers", "20", "--json"]).await);
    assert_eq!((promoted["outcome"].as_str(), promoted["trigger"].as_str()), (Some("swapped"), Some("promotion")));
    let fence = |name: &str| {
        let fences = promoted["fences"].as_array().expect("fences");
        let of = fences.iter().find(|fence| fence["reader"] == name).expect("a fence for each stream");
        of["sequence"].as_u64().expect("a number")
    };
    s.write(writes, 99.0).await.expect("still allowed");
    let head = s.silence().await;
    for (reader, name) in [(&mut one, "one"), (&mut two, "two"), (&mut three, "three")] {
        reader.to(head).await;
        let late = reader.events.iter().filter(|event| event.item_key == goes && event.sequence > fence(name));
        assert_eq!(late.count(), 0, "{name}: nothing denied after the fence");
    }
}

fn find(folder: &std::path::Path, name: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).expect("a folder").filter_map(Result::ok) {
            if entry.file_type().is_ok_and(|of| of.is_dir()) {
                if entry.file_name() == name {
                    return entry.path();
                }
                folders.push(entry.path());
            }
        }
    }
    panic!("there is no {name}")
}
