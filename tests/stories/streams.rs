//! One session, its events and its readers: what each is owed, and that it gets it.

use crate::harness::{Gateway, Launch, Session, eventually, is_gone, reason};
use tidegate_client::{
    GrpcCode, Position, Start, StreamOptions,
    wire::{Event, event::Body, gap::Reason},
};

/// Sequence and content; handles and keys are the same for everyone.
fn told(events: &[Event]) -> Vec<(u64, &Option<Body>)> {
    events.iter().map(|event| (event.sequence, &event.body)).collect()
}

// shows: S-01, S-03, S-06, S-14, S-17
#[tokio::test]
async fn a_session_opens_streams_and_closes() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    assert!(s.id.starts_with("session-") && s.id.len() == 40, "{}", s.id);
    let mut reader = s.reader("one").await;
    assert_eq!((reader.opened().after, reader.opened().epoch), (0, s.epoch));
    let items = s.advise(&["Area1.Pump1.Sine", "Area1.Pump1.Counter"]).await;
    reader.count(100).await;
    assert_eq!(reader.sequences()[..100], (1..=100).collect::<Vec<u64>>());
    for item in &items {
        let seen = reader.events.iter().filter(|event| event.item_key == item.key).count();
        assert!(seen > 10, "{} of {}", seen, item.tag);
    }
    let head = s.close().await;
    assert!(head >= 100);
    let end = reader.ended().await;
    assert_eq!(end.reason, "stream.session_ended");
    assert!(reader.position().after <= head);
    eventually("the worker to be gone", async || is_gone(s.pid).then_some(())).await;
}

// shows: S-03, S-10
#[tokio::test]
async fn many_readers_get_the_same() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut readers = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        // A connection of its own for each.
        let client = gw.client().await;
        readers.push(s.try_reader(&client, name, Start::Live).await.expect("a stream"));
    }
    s.advise(&["Area1.Pump1.Sine", "Area1.Pump1.Walk", "Area1.Pump2.Step"]).await;
    readers[0].count(200).await;
    let head = s.silence().await;
    for reader in &mut readers {
        reader.to(head).await;
        assert_eq!(reader.counts().delivered, head);
    }
    for pair in readers.windows(2) {
        assert_eq!(told(&pair[0].events), told(&pair[1].events));
    }
}

// shows: S-03, S-08
#[tokio::test]
async fn a_slow_reader_is_ended_with_its_position_and_the_fast_one_misses_nothing() {
    // What the fast one may be held up for is half a second.
    let launch = Launch::new().backend("fast", "rate=8000").flag("--lag-events-max", "4000");
    let gw = launch.start().await;
    let s = gw.open("line-1").await;
    let mut fast = s.reader("fast").await;
    // A small window, so that what nobody reads is soon the gateway's to hold.
    let narrow = gw.connect().key(gw.first_key()).stream_window(4096).gateway().await.expect("connected");
    let mut slow = s.try_reader(&narrow, "slow", Start::Live).await.expect("a stream");
    s.advise(&["Area1.Pump1.Sine", "Area1.Pump1.Walk"]).await;
    fast.count(12_000).await;
    let end = slow.ended().await;
    assert_eq!((end.code, end.reason.as_str()), (GrpcCode::ResourceExhausted, "stream.pressure"), "{end}");
    let position = end.resume_position().expect("where to resume");
    assert_eq!(position, slow.position());

    let head = s.silence().await;
    fast.to(head).await;
    assert_eq!((fast.counts().delivered, fast.gaps.len()), (head, 0));
    let options = StreamOptions { reader_name: "slow".into(), account: slow.account(), ..Default::default() };
    let again = s.client.stream(&s.id, Start::Resume(position), options).await.expect("a stream");
    let mut slow = crate::harness::Reader::new("slow again", again);
    slow.to(head).await;
    assert_eq!(slow.counts().produced, head);
    assert!(slow.counts().gapped > 0 && slow.counts().closes(), "{}", slow.counts());
}

/// A session whose log keeps the last 64 events, and the head that it stopped at.
async fn quiet_session(gw: &Gateway) -> (Session, u64) {
    let s = gw.open("line-1").await;
    let mut reader = s.reader("first").await;
    s.advise(&["Area1.Pump1.Sine", "Area1.Pump1.Counter"]).await;
    reader.count(200).await;
    let head = s.quiet().await;
    reader.to(head).await;
    (s, head)
}

// shows: S-04, S-05, S-06
#[tokio::test]
async fn resume_continues_exactly_and_oldest_tells_what_is_gone() {
    let gw = Launch::new().flag("--replay-buffer-capacity", "64").start().await;
    let (s, head) = quiet_session(&gw).await;
    let at = |after| Start::Resume(Position { epoch: s.epoch, after });

    // The last event the log still has is the one after head - 64.
    let mut joined = s.reader_from("joined", at(head - 64)).await;
    joined.to(head).await;
    assert_eq!((joined.counts().delivered, joined.gaps.len()), (64, 0));

    let mut one_lost = s.reader_from("one lost", at(head - 65)).await;
    one_lost.to(head).await;
    let gap = one_lost.gaps[0];
    assert_eq!((gap.from, gap.to, gap.reason()), (head - 64, head - 64, Reason::Evicted));
    assert_eq!((one_lost.counts().delivered, one_lost.counts().gapped), (64, 1));

    let mut oldest = s.reader_from("oldest", Start::Oldest).await;
    oldest.to(head).await;
    let gap = oldest.gaps[0];
    assert_eq!((gap.from, gap.to, gap.reason()), (1, head - 64, Reason::Evicted));
    assert_eq!(oldest.counts().delivered, 64);

    let live = s.reader_from("live", at(head)).await;
    assert_eq!(live.position().after, head);
}

// shows: S-05, S-06
#[tokio::test]
async fn a_foreign_epoch_is_a_gap_and_a_position_beyond_the_head_is_refused() {
    let gw = Gateway::start().await;
    let (s, head) = quiet_session(&gw).await;
    let start = Start::Resume(Position { epoch: s.epoch ^ 1, after: 7 });
    let mut foreign = s.reader_from("foreign", start).await;
    foreign.to(head).await;
    let gap = foreign.gaps[0];
    assert_eq!((gap.epoch, gap.from, gap.to, gap.reason()), (s.epoch, 1, head, Reason::Restarted));
    assert_eq!(foreign.counts().delivered, 0);

    let beyond = Start::Resume(Position { epoch: s.epoch, after: head + 1 });
    let refused = s.client.stream(&s.id, beyond, StreamOptions::default()).await;
    assert_eq!(reason(refused), "stream.position_beyond_head");
}

// shows: S-06
#[tokio::test]
async fn after_a_gap_a_snapshot_has_the_last_values() {
    let gw = Launch::new().flag("--replay-buffer-capacity", "4").start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("witness").await;
    let items = s.advise(&["Area1.Pump1.Sine", "Area1.Pump1.Counter", "Area1.Pump1.Walk"]).await;
    reader.count(100).await;
    let head = s.quiet().await;
    reader.to(head).await;

    let snapshot = s.client.snapshot(&s.id).await.expect("a snapshot");
    assert_eq!((snapshot.epoch, snapshot.as_of), (s.epoch, head));
    for item in &items {
        let last =
            reader.events.iter().rev().find(|e| e.item_key == item.key && matches!(e.body, Some(Body::DataChange(_))));
        let told = snapshot.items.iter().find(|one| one.item_key == item.key).expect("the item");
        assert_eq!((told.tag.as_str(), told.last.as_ref()), (item.tag.as_str(), last));
    }
}

// shows: S-06
#[tokio::test]
async fn linger_gathers_events_and_loses_none() {
    // What a stream asks for, or what the gateway is set to for one that does not say.
    for (wish, set) in [(Some(200), "0"), (None, "200")] {
        let gw = Launch::new().backend("fast", "rate=2000").flag("--default-linger-ms", set).start().await;
        let s = gw.open("line-1").await;
        let options = StreamOptions { reader_name: "patient".into(), linger_ms: wish, ..Default::default() };
        let stream = s.client.stream(&s.id, Start::Live, options).await.expect("a stream");
        let mut reader = crate::harness::Reader::new("patient", stream);
        s.advise(&["Area1.Pump1.Sine"]).await;
        // Without linger a batch would be what the worker sent at once; with it, some hold more than a few.
        eventually("a batch that was gathered", async || (reader.batch().await.events.len() > 20).then_some(())).await;
        let head = s.silence().await;
        reader.to(head).await;
        assert_eq!(reader.counts().delivered, head);
    }
    let gw = Launch::new().start().await;
    let s = gw.open("line-1").await;
    let too_long = StreamOptions { linger_ms: Some(1001), ..Default::default() };
    assert_eq!(reason(s.client.stream(&s.id, Start::Live, too_long).await), "request.invalid");
}

// shows: S-06
#[tokio::test]
async fn a_snapshot_of_many_items_comes_in_parts_that_are_one() {
    // More than a part holds.
    const ITEMS: usize = 5_000;
    let gw = Launch::new().backend("quiet", "rate=0").start().await;
    let s = gw.open("line-1").await;
    let tags: Vec<String> = (1..=ITEMS).map(|at| format!("Area{}.Pump{at}.Sine", at % 7)).collect();
    for some in tags.chunks(1_000) {
        let advised = s.client.subscribe(&s.id, s.server, some).await.expect("answered");
        assert!(advised.iter().all(|one| one.item.is_ok()));
    }
    let snapshot = eventually("a value of every item", async || {
        let snapshot = s.client.snapshot(&s.id).await.expect("a snapshot");
        snapshot.items.iter().all(|item| item.last.is_some()).then_some(snapshot)
    })
    .await;
    assert_eq!(snapshot.as_of, s.head().await);
    assert!(snapshot.items.is_sorted_by_key(|item| item.item_key));
    let told: std::collections::HashSet<&str> = snapshot.items.iter().map(|item| item.tag.as_str()).collect();
    assert_eq!((snapshot.items.len(), told.len()), (ITEMS, ITEMS));
}
