//! Policies that decide over live streams, and files that must not.

use crate::harness::{Gateway, eventually, place};
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
};
use tidegate_client::{Start, wire::Event};

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
        let fence = |swap: &tidegate_client::wire::SwapRecord| {
            swap.fences.iter().find(|fence| fence.reader == name).expect("a fence for each stream").sequence
        };
        // What passed between the flips lies before the fence of the first, or after that of the second.
        let between = reader.events.iter().filter(|event| event.item_key == goes);
        let between = between.filter(|e| e.sequence > fence(&denied) && e.sequence <= fence(&allowed));
        assert_eq!(between.count(), 0, "{name}");
        assert!(reader.counts().filtered > 0 && reader.gaps.is_empty(), "{name}: {}", reader.counts());
    }
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
    fs::write(&draft, crate::harness::ACCESS).expect("written");
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
    assert!(listing.pinned);
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
