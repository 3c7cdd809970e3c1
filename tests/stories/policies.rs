//! Policies that decide over live streams, and files that must not.

use crate::harness::{ACCESS, Gateway, eventually, place, refused};
use rustix::process::Signal;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};
use tidegate_client::{
    Start,
    wire::{Event, SwapRecord},
};

const DENY_AREA2: &str = "deny = [\"Area2.*\"]\n";
const ALLOW: &str = "deny = []\n";

// shows: S-07, H-05
#[tokio::test]
async fn a_key_sees_only_what_its_globs_allow() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut all = s.reader("all").await;
    let narrow = gw.client_with(&gw.key(&["Area1.*"], "sessions:all").await).await;
    let mut some = s.try_reader(&narrow, "some", Start::Live).await.expect("a stream");
    let items = s.advise(&["Area1.Pump1.Sine", "Area2.Pump1.Sine"]).await;
    all.count(100).await;
    let snapshot = narrow.snapshot(&s.id).await.expect("a snapshot");
    assert_eq!(snapshot.items.iter().map(|item| &item.tag).collect::<Vec<_>>(), ["Area1.Pump1.Sine"]);
    let head = s.silence().await;
    all.to(head).await;
    some.to(head).await;
    let of = |key| move |event: &&Event| event.item_key == key;
    let (first, second) = (items[0].key, items[1].key);
    assert_eq!(some.events.iter().filter(of(second)).count(), 0);
    let expected: Vec<&Event> = all.events.iter().filter(of(first)).collect();
    assert_eq!(some.events.iter().collect::<Vec<_>>(), expected);
    assert_eq!(some.counts().filtered, all.events.iter().filter(of(second)).count() as u64);
}

// shows: S-07, X-02, X-03, X-04
#[tokio::test]
async fn a_swap_denies_on_the_live_stream_and_nothing_denied_comes_after_the_flip() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut readers = Vec::new();
    for name in ["a", "b", "c"] {
        readers.push(s.reader(name).await);
    }
    let items = s.advise(&["Area1.Pump1.Sine", "Area2.Pump1.Sine"]).await;
    let (stays, goes) = (items[0].key, items[1].key);
    readers[0].until("both items", |event| event.item_key == goes).await;

    let denied = gw.swap("access", DENY_AREA2).await;
    readers[0]
        .until("the other item to go on", |e| e.item_key == stays && e.sequence > denied.fences[0].sequence)
        .await;
    let allowed = gw.swap("access", ALLOW).await;
    readers[0].until("the item to come back", |e| e.item_key == goes && e.sequence > allowed.fences[0].sequence).await;
    let head = s.silence().await;

    for (reader, name) in readers.iter_mut().zip(["a", "b", "c"]) {
        // Batch by batch, so that each event is seen with its generation.
        while reader.position().after < head {
            let batch = reader.batch().await;
            let denying = batch.generation >= denied.generation && batch.generation < allowed.generation;
            assert!(!denying || batch.events.iter().all(|event| event.item_key != goes), "{batch:?}");
        }
        let fence = |swap: &SwapRecord| {
            swap.fences.iter().find(|fence| fence.reader == name).expect("a fence for each stream").sequence
        };
        // What passed between the flips lies before the fence of the first, or after that of the second.
        let between = reader.events.iter().filter(|event| event.item_key == goes);
        let between = between.filter(|e| e.sequence > fence(&denied) && e.sequence <= fence(&allowed));
        assert_eq!(between.count(), 0, "{name}");
        assert!(reader.counts().filtered > 0 && reader.gaps.is_empty(), "{name}: {}", reader.counts());
    }
}

// shows: S-07
#[tokio::test]
async fn verdicts_are_kept_until_the_policy_changes() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let items = s.advise(&["Area1.Pump1.Sine", "Area2.Pump1.Sine"]).await;
    for item in &items {
        reader.until("an event of each item", |event| event.item_key == item.key).await;
    }
    let admin = gw.admin().await;
    let asked = async || admin.policies().await.expect("a listing").policies[0].calls;
    let before = asked().await;
    assert!(before > 0, "opening, commands and the first look at each item asked");
    let had = reader.events.len();
    reader.count(had + 200).await;
    assert_eq!(asked().await, before, "events ask nothing");

    let denied = gw.swap("access", DENY_AREA2).await;
    let (stays, fence) = (items[0].key, denied.fences[0].sequence);
    reader.until("the allowed item to go on", |event| event.item_key == stays && event.sequence > fence).await;
    // Calls are counted anew for each generation's component.
    let judged = asked().await;
    assert!(judged > 0, "the new rules were asked");
    let had = reader.events.len();
    reader.count(had + 200).await;
    assert_eq!(asked().await, judged, "events that are left out ask nothing either");
    assert!(reader.counts().filtered > 0);
    let head = s.silence().await;
    reader.to(head).await;
}

// shows
#[tokio::test]
async fn a_bad_plugin_is_refused_with_its_reason_and_the_old_one_serves_on() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let items = s.advise(&["Area1.Pump1.Sine", "Area2.Pump1.Sine"]).await;
    let denied = gw.swap("access", DENY_AREA2).await;
    let fence = denied.fences.iter().find(|fence| fence.reader == "one").expect("a fence").sequence;
    let admin = gw.admin().await;
    let good = admin.policies().await.expect("a listing").generation;
    for (name, bytes) in [
        ("access.wasm", &b"this is not WebAssembly"[..]),
        ("access.wasm", b"\0asm\x0d\0\x01\0"),
        ("access.toml", b"deny = 7\n"),
        ("access.toml", b"denny = []\n"),
    ] {
        let seen = admin.policies().await.expect("a listing").swaps.len();
        place(&gw.plugins(), name, bytes);
        let refusal = eventually("the refusal", async || {
            let listing = admin.policies().await.expect("a listing");
            assert_eq!(listing.generation, good, "{name} must not decide");
            (listing.swaps.len() > seen).then(|| listing.swaps[0].clone())
        })
        .await;
        assert_eq!(refusal.outcome, "refused", "{refusal:?}");
        assert!(!refusal.code.is_empty() && !refusal.message.is_empty(), "{refusal:?}");
        let before = reader.position().after;
        reader.until("the stream to go on", |event| event.sequence > before + 20).await;
    }
    let head = s.silence().await;
    reader.to(head).await;
    let mut later = reader.events.iter().filter(|event| event.sequence > fence);
    assert!(later.all(|event| event.item_key == items[0].key), "the old rules were in force all along");
}

// shows: X-05
#[tokio::test]
async fn a_plugin_that_others_can_write_is_refused() {
    let gw = Gateway::start().await;
    let admin = gw.admin().await;
    let before = admin.policies().await.expect("a listing");
    let draft = gw.plugins().with_extension("draft");
    fs::write(&draft, ACCESS).expect("written");
    fs::set_permissions(&draft, Permissions::from_mode(0o666)).expect("mode set");
    fs::rename(&draft, gw.plugins().join("access.wasm")).expect("placed");
    let refusal = eventually("the refusal", async || {
        let listing = admin.policies().await.expect("a listing");
        (listing.swaps.len() > before.swaps.len()).then(|| listing.swaps[0].clone())
    })
    .await;
    assert_eq!(refusal.outcome, "refused", "{refusal:?}");
    assert_eq!(admin.policies().await.expect("a listing").generation, before.generation);
}

// shows: X-06
#[tokio::test]
async fn a_rollback_pins_until_a_reload() {
    let gw = Gateway::start().await;
    let denied = gw.swap("access", DENY_AREA2).await;
    let admin = gw.admin().await;
    let back = admin.rollback_policies("denies too much").await.expect("rolled back");
    assert!(back.generation > denied.generation && back.outcome == "rolled-back", "{back:?}");
    let listing = admin.policies().await.expect("a listing");
    assert_eq!((listing.pinned, listing.pinned_by.as_str()), (true, "rollback"));
    let stays = hang_up(&gw).await;
    assert_eq!(
        (stays.outcome.as_str(), stays.generation),
        ("unchanged", back.generation),
        "no word against it: {stays:?}"
    );
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let items = s.advise(&["Area2.Pump1.Sine"]).await;
    reader.until("the item that was denied", |event| event.item_key == items[0].key).await;
    let again = admin.reload_policies().await.expect("reloaded");
    assert_eq!(again.outcome, "swapped", "{again:?}");
    assert!(!admin.policies().await.expect("a listing").pinned);
    let head = s.silence().await;
    reader.to(head).await;
}

/// Asks as an operator's script would, and waits for what came of it.
async fn hang_up(gw: &Gateway) -> SwapRecord {
    let admin = gw.admin().await;
    let attempts = async || admin.policies().await.expect("a listing").swaps;
    let before = attempts().await.len();
    gw.signal(Signal::HUP);
    eventually("the folder to be looked at again", async || {
        let now = attempts().await;
        (now.len() > before).then(|| now[0].clone())
    })
    .await
}

// shows: E-15, X-05, X-06
#[tokio::test]
async fn a_hangup_reads_the_folder_again_and_a_bad_file_keeps_what_serves() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let items = s.advise(&["Area1.Pump1.Sine", "Area2.Pump1.Sine"]).await;
    let stays = items[0].key;
    reader.until("both items", |event| event.item_key == items[1].key).await;
    let nothing = hang_up(&gw).await;
    assert_eq!(nothing.outcome, "unchanged", "{nothing:?}");

    // A pin is an operator's word, and a signal for the whole gateway takes none back.
    let admin = gw.admin().await;
    admin.pin_policies(true).await.expect("pinned");
    place(&gw.plugins(), "access.toml", DENY_AREA2.as_bytes());
    place(&gw.plugins(), "access.wasm", ACCESS);
    let pinned = hang_up(&gw).await;
    assert_eq!((pinned.outcome.as_str(), pinned.generation), ("unchanged", nothing.generation), "{pinned:?}");
    assert!(pinned.message.contains("pin --off"), "{pinned:?}");
    let listing = admin.policies().await.expect("a listing");
    assert_eq!((listing.pinned, listing.pinned_by.as_str()), (true, "operator"));
    admin.pin_policies(false).await.expect("unpinned");
    let swapped = async || {
        let swap = admin.policies().await.expect("a listing").swaps[0].clone();
        (swap.outcome == "swapped").then_some(swap)
    };
    let denied = eventually("what waited to serve", swapped).await;
    let fence = denied.fences[0].sequence;
    reader.until("the allowed item to go on", |event| event.item_key == stays && event.sequence > fence).await;

    place(&gw.plugins(), "access.wasm", b"this is not WebAssembly");
    let refusal = eventually("the bad file to be refused", async || {
        hang_up(&gw).await;
        let swaps = admin.policies().await.expect("a listing").swaps;
        swaps.into_iter().find(|swap| swap.outcome == "refused")
    })
    .await;
    assert_eq!(refusal.generation, denied.generation, "{refusal:?}");
    assert!(!refusal.code.is_empty(), "{refusal:?}");
    let listed = gw.run(&["policy", "list"]).await;
    assert!(String::from_utf8_lossy(&listed.stdout).contains("refused (folder)"), "{listed:?}");
    let before = reader.position().after;
    reader.until("the stream to go on", |event| event.sequence > before + 50).await;
    let head = s.silence().await;
    reader.to(head).await;
    let mut later = reader.events.iter().filter(|event| event.sequence > fence);
    assert!(later.all(|event| event.item_key == stays), "the old rules were in force all along");
}

// shows: X-05
#[tokio::test]
async fn two_broken_files_are_both_told_wherever_an_operator_looks() {
    let gw = Gateway::start().await;
    let good = gw.admin().await.policies().await.expect("a listing").generation;
    place(&gw.plugins(), "access.toml", b"dney = []\n");
    place(&gw.plugins(), "rate-limit.wasm", b"rubbish");
    let text = async |line: &[&str]| {
        let output = gw.run(line).await;
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let told = [
        ("access.toml", "plugin.settings_invalid", "hint: Mend the settings;"),
        ("rate-limit.wasm", "plugin.not_a_component", "hint: Build it as a component"),
    ];
    let (done, reloaded) = text(&["policy", "reload"]).await;
    assert!(!done && reloaded.contains(" and 1 more; generation"), "{reloaded}");
    let (_, listed) = text(&["policy", "list"]).await;
    for (file, code, hint) in told {
        for shown in [&reloaded, &listed] {
            let line = shown.lines().find(|line| line.starts_with(&format!("  {file}: "))).unwrap_or_default();
            assert!(line.contains(code) && shown.contains(hint), "{file} in {shown}");
        }
    }
    assert!(listed.contains("in the folder and not taken:"), "{listed}");
    let (_, json) = text(&["policy", "list", "--json"]).await;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    for of in [&json["refused"], &json["swaps"][0]["refusals"]] {
        let files: Vec<_> = of
            .as_array()
            .expect("a list")
            .iter()
            .map(|of| (of["file"].as_str().unwrap_or(""), of["code"].as_str().unwrap_or("")))
            .collect();
        assert_eq!(files, told.map(|(file, code, _)| (file, code)).to_vec(), "{json}");
        assert!(of[0]["remedy"].as_str().is_some_and(|words| !words.is_empty()) && of[1]["message"].is_string());
    }
    assert_eq!(json["generation"], good);
    let counted = "tidegate_swaps_total{outcome=\"refused\",code=\"plugin.settings_invalid\"}";
    let line = eventually("the refusal to be counted", async || {
        let metrics = gw.metrics().await;
        metrics.lines().find(|line| line.starts_with(counted) && !line.ends_with(" 0")).map(str::to_owned)
    })
    .await;
    assert!(!line.is_empty());
    assert!(gw.metrics().await.contains("tidegate_swaps_total{outcome=\"refused\",code=\"plugin.held\"} 0\n"));
}

// shows: X-11
#[tokio::test]
async fn a_limited_request_names_its_rule_and_its_decision() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let before = gw.admin().await.policies().await.expect("a listing").generation;
    place(&gw.plugins(), "rate-limit.toml", b"[kinds.snapshot]\nper_second = 0.001\nburst = 1\n");
    eventually("the limit", async || {
        (gw.admin().await.policies().await.expect("a listing").generation > before).then_some(())
    })
    .await;
    s.client.snapshot(&s.id).await.expect("the first fits");
    let limited = refused(s.client.snapshot(&s.id).await);
    assert_eq!((limited.reason.as_str(), limited.details["rule"].as_str()), ("rate.limited", "limited"), "{limited}");
    let explained = gw.run(&["policy", "explain", &limited.details["decision"]]).await;
    let words = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(words.contains("of kind snapshot") && words.contains("by the rule `limited`"), "{words}");
    assert!(gw.metrics().await.contains("tidegate_decisions_denied_total{policy=\"rate-limit\"} 1\n"));
}
