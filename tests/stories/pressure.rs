//! Readers that fall behind: what the back-pressure policy can answer, and that it concerns them alone.

use crate::harness::{Gateway, Launch, Reader, Session, eventually};
use std::{collections::HashMap, pin::pin};
use tidegate_client::{
    Start,
    wire::{Event, event::Body, gap::Reason},
};

const TAGS: &[&str] = &["Area1.Pump1.Sine", "Area1.Pump1.Walk", "Area1.Pump1.Counter"];

/// The policy is asked first at half of what a reader may lag: after two seconds, and two before it loses anything.
const HALF: usize = 100_000;

fn roomy() -> Launch {
    let launch = Launch::new().backend("fast", "rate=50000,faults=true").flag("--lag-events-max", "200000");
    launch.flag("--log-bytes-max", "512MiB")
}

fn level(answer: &str) -> String {
    format!("levels = [{{ at = 0.4, answer = \"{answer}\" }}]\nkeep_newest = 100\n")
}

/// A reader that reads nothing until it is told to, with so little room ahead that the gateway feels it.
async fn slow(gw: &Gateway, s: &Session) -> Reader {
    let narrow = gw.connect().key(gw.first_key()).stream_window(4096).gateway().await.expect("connected");
    s.try_reader(&narrow, "slow", Start::Live).await.expect("a stream")
}

/// The last data change of each item.
fn last_values(events: &[Event]) -> HashMap<u64, u64> {
    let changes = events.iter().filter(|event| matches!(event.body, Some(Body::DataChange(_))));
    changes.map(|event| (event.item_key, event.sequence)).collect()
}

// shows: S-08, S-10
#[tokio::test]
async fn conflation_leaves_the_newest_value_of_each_item_and_every_write() {
    let gw = roomy().start().await;
    gw.swap("backpressure", &level("conflate")).await;
    let s = gw.open("line-1").await;
    let mut fast = s.reader("fast").await;
    let mut behind = slow(&gw, &s).await;
    let setpoint = s.advise(&["Area1.Setpoint.Speed"]).await.remove(0);
    fast.until("a first value", |event| event.item_key == setpoint.key).await;
    s.advise(TAGS).await;
    fast.count(HALF / 2).await;
    s.write(&setpoint, 12.5).await.expect("taken");
    fast.until("completion", |event| matches!(event.body, Some(Body::WriteComplete(_)))).await;
    fast.count(HALF + 10_000).await;
    let head = s.silence().await;
    fast.to(head).await;
    behind.to(head).await;
    let counts = behind.counts();
    assert!(counts.conflated > 0 && counts.gapped == 0, "{counts}");
    assert_eq!(fast.counts().delivered, head);
    assert_eq!(last_values(&behind.events), last_values(&fast.events));
    let writes = |reader: &Reader| {
        let writes = reader.events.iter().filter(|event| matches!(event.body, Some(Body::WriteComplete(_))));
        writes.map(|event| event.sequence).collect::<Vec<_>>()
    };
    assert_eq!(writes(&behind).len(), 1, "a write is never conflated");
    assert_eq!(writes(&behind), writes(&fast));
}

// shows: S-08
#[tokio::test]
async fn skipping_ahead_is_told_as_an_exact_gap() {
    let gw = roomy().start().await;
    gw.swap("backpressure", &level("skip")).await;
    let s = gw.open("line-1").await;
    let mut fast = s.reader("fast").await;
    let mut behind = slow(&gw, &s).await;
    s.advise(TAGS).await;
    fast.count(HALF + 10_000).await;
    let head = s.silence().await;
    fast.to(head).await;
    behind.to(head).await;
    assert_eq!((fast.counts().delivered, fast.gaps.len()), (head, 0));
    assert!(behind.counts().gapped > 0, "{}", behind.counts());
    assert!(behind.gaps.iter().all(|gap| gap.reason() == Reason::Skipped), "{:?}", behind.gaps);
}

// shows: S-08
#[tokio::test]
async fn a_policy_may_fault_the_session_for_everyone() {
    let gw = roomy().start().await;
    gw.swap("backpressure", &level("fault-session")).await;
    let s = gw.open("line-1").await;
    let other = gw.open("line-2").await;
    let mut bystander = other.reader("bystander").await;
    let mut fast = s.reader("fast").await;
    let _behind = slow(&gw, &s).await;
    other.advise(TAGS).await;
    s.advise(TAGS).await;
    let end = fast.ended().await;
    assert_eq!(end.reason, "session.faulted", "{end}");
    let before = bystander.position().after;
    bystander.to(before + 100).await;
}

// shows: S-08, X-02
#[tokio::test]
async fn a_swap_asks_again_for_readers_under_pressure() {
    let gw = roomy().start().await;
    gw.swap("backpressure", &level("wait")).await;
    let s = gw.open("line-1").await;
    let mut fast = s.reader("fast").await;
    let mut behind = slow(&gw, &s).await;
    s.advise(TAGS).await;
    fast.count(HALF + 10_000).await;
    let asked = async || gw.admin().await.policies().await.expect("a listing").policies[1].calls;
    assert!(asked().await > 0, "the first answer was to wait");
    let mut asked_again = pin!(async {
        gw.swap("backpressure", &level("disconnect")).await;
        // Calls are counted anew for each generation's component.
        eventually("the policy to be asked again", async || (asked().await > 0).then_some(())).await;
    });
    // The fast one reads on, or it would be a slow one itself.
    loop {
        tokio::select! {
            () = &mut asked_again => break,
            _ = fast.next() => {}
        }
    }
    let end = behind.ended().await;
    assert_eq!(end.reason, "stream.pressure", "{end}");
    assert_eq!(end.resume_position(), Some(behind.position()));
    let head = s.silence().await;
    fast.to(head).await;
    assert_eq!(fast.counts().delivered, head);
}

// shows: S-12
#[tokio::test]
async fn a_session_whose_last_reader_left_ends_after_the_grace() {
    let gw = Launch::new().flag("--detach-grace-seconds", "1").start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(10).await;
    drop(reader);
    let admin = gw.admin().await;
    eventually("the session to be gone", async || admin.sessions().await.expect("a listing").is_empty().then_some(()))
        .await;
    eventually("its worker to be gone", async || crate::harness::is_gone(s.pid).then_some(())).await;
}
