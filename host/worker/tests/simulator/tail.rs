//! The tail that a worker keeps for a gateway that comes back, and the bounds of what it keeps for one that does
//! not read.

use prost::Message as _;
use std::time::Duration;
use tidegate_proto::v1::{DataChange, Event, EventBatch, Value, event::Body, value::Kind};
use tidegate_worker::outbox::{BATCH_BYTES, BATCH_EVENTS, FRAMES_AHEAD, Outbox, Outgoing, TAIL_EVENTS, Tail};
use tokio::sync::mpsc;

fn event(text: &str) -> Event {
    let value = Some(Value { kind: Some(Kind::Text(text.to_owned())), data_type: 0 });
    let change = DataChange { value, quality: 192, ..DataChange::default() };
    Event { item_key: 1, server_handle: 1, item_handle: 1, body: Some(Body::DataChange(change)), ..Event::default() }
}

/// What a gateway that has everything up to `have` is sent again; sees that it hangs together.
fn missing(tail: &Tail, have: u64) -> Vec<Event> {
    let mut events = Vec::<Event>::new();
    for sent in tail.after(have) {
        let batch = EventBatch::decode(sent.bytes).unwrap().events;
        assert_eq!((batch[0].sequence, batch.len()), (sent.first, sent.count as usize));
        assert!(events.last().is_none_or(|last| last.sequence + 1 == sent.first));
        events.extend(batch);
    }
    events
}

async fn tail_of(events: u64, per_frame: u64, text: &str, kept: usize) -> Tail {
    let (send, mut frames) = mpsc::channel(10_000);
    let mut outbox = Outbox::new(send);
    for n in 1..=events {
        outbox.push(&mut event(text)).await.unwrap();
        if n % per_frame == 0 {
            outbox.flush().await.unwrap();
        }
    }
    outbox.flush().await.unwrap();
    let mut tail = Tail::default();
    while let Ok(Outgoing::Events { first, count, bytes }) = frames.try_recv() {
        tail.keep(first, count, bytes, kept);
    }
    tail
}

#[tokio::test]
async fn what_is_missing_is_sent_again_exactly() {
    for per_frame in [1, 100, 256] {
        let tail = tail_of(3_000, per_frame, "x", TAIL_EVENTS).await;
        let oldest = tail.first().expect("something is kept");
        assert!(3_000 - oldest + 1 >= TAIL_EVENTS as u64, "the last 1,024 are there");
        assert!(3_000 - oldest < (TAIL_EVENTS as u64) + per_frame, "and hardly more");
        for have in [oldest - 1, oldest, 2_500, 2_501, 2_998, 2_999, 3_000] {
            let sequences: Vec<u64> = missing(&tail, have).iter().map(|event| event.sequence).collect();
            assert_eq!(sequences, (have + 1..=3_000).collect::<Vec<_>>());
        }
        assert_eq!(missing(&tail, 5)[0].sequence, oldest, "what the tail has let go of is a gap");
    }
}

#[tokio::test]
async fn the_tails_bytes_are_bounded_before_its_events() {
    for kept in [TAIL_EVENTS, usize::MAX] {
        let tail = tail_of(300, 1, &"x".repeat(100_000), kept).await;
        let events = missing(&tail, 0);
        let bytes: usize = events.iter().map(prost::Message::encoded_len).sum();
        assert!(bytes <= 4 << 20 && bytes > 3 << 20, "{bytes}");
        assert_eq!(tail.first(), Some(301 - events.len() as u64));
    }
}

#[tokio::test]
async fn frames_end_at_their_bounds() {
    let (send, mut frames) = mpsc::channel(1_000);
    let mut outbox = Outbox::new(send);
    for _ in 0..1_000 {
        outbox.push(&mut event("x")).await.unwrap();
    }
    for _ in 0..10 {
        outbox.push(&mut event(&"x".repeat(100_000))).await.unwrap();
    }
    outbox.push(&mut event(&"x".repeat(BATCH_BYTES + 1))).await.unwrap();
    outbox.flush().await.unwrap();
    let mut total = 0;
    while let Ok(Outgoing::Events { count, bytes, .. }) = frames.try_recv() {
        assert!(count <= BATCH_EVENTS && (bytes.len() <= BATCH_BYTES || count == 1));
        total += count;
    }
    assert_eq!(total, 1_011);
}

#[tokio::test(start_paused = true)]
async fn a_pipe_that_is_not_read_stops_the_clock_of_events() {
    let (send, mut frames) = mpsc::channel(FRAMES_AHEAD);
    let mut outbox = Outbox::new(send);
    let filled = tokio::time::timeout(Duration::from_secs(1), async {
        loop {
            outbox.push(&mut event("x")).await.unwrap();
        }
    });
    assert!(filled.await.is_err(), "it waits");
    let made = outbox.head();
    assert_eq!(made, (FRAMES_AHEAD as u64 + 1) * u64::from(BATCH_EVENTS), "no event beyond the bound was made");
    let first = frames.recv().await;
    assert!(matches!(first, Some(Outgoing::Events { first: 1, count: BATCH_EVENTS, .. })));
}
