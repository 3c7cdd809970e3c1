//! MXAccess methods through the gateway: what they answer, and the events that follow.

use crate::harness::{Gateway, Launch, eventually, reason};
use tidegate_client::wire::{
    BulkResult, Command, Value, WriteBulk, WriteComplete, event::Body, value::Kind, write_bulk::One,
};

fn double(value: f64) -> Option<Value> {
    Some(Value { kind: Some(Kind::Double(value)), data_type: 0 })
}

// shows: S-16, S-17
#[tokio::test]
async fn a_write_is_complete_with_its_event() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let items = s.advise(&["Area1.Setpoint.Speed", "Area1.Secured.Door"]).await;
    let (speed, door) = (&items[0], &items[1]);
    for item in &items {
        reader.until("a first value", |event| event.item_key == item.key).await;
    }
    s.write(speed, 12.5).await.expect("taken");
    let done =
        reader.until("completion", |e| e.item_key == speed.key && matches!(e.body, Some(Body::WriteComplete(_)))).await;
    let Some(Body::WriteComplete(WriteComplete { statuses })) = done.body else { panic!("a completion") };
    assert!(statuses.iter().all(|status| status.success != 0 && status.category == 0), "{statuses:?}");
    reader
        .until("the new value", |event| match &event.body {
            Some(Body::DataChange(change)) => event.item_key == speed.key && change.value == double(12.5),
            _ => false,
        })
        .await;

    // A secured attribute takes the write and refuses it in its completion.
    s.write(door, 1.0).await.expect("taken");
    let refused =
        reader.until("completion", |e| e.item_key == door.key && matches!(e.body, Some(Body::WriteComplete(_)))).await;
    let Some(Body::WriteComplete(WriteComplete { statuses })) = refused.body else { panic!("a completion") };
    assert_eq!((statuses[0].success, statuses[0].detail), (0, 1012));
    let head = s.silence().await;
    reader.to(head).await;
}

// shows: S-16
#[tokio::test]
async fn a_method_that_raises_carries_its_hresult() {
    let gw = Launch::new().backend("slow", "rate=100,first_change_ms=600000").start().await;
    let s = gw.open("line-1").await;
    let items = s.advise(&["Area1.Setpoint.Speed"]).await;
    // Before the first data change the type is not known.
    let fault = crate::harness::refused(s.write(&items[0], 1.0).await);
    assert_eq!(fault.reason, "mx.call_failed");
    assert!(fault.details["hresult"].starts_with("0x8"), "{fault:?}");
    assert_eq!(reason(s.client.add_item(&s.id, 99, "Area1.X").await), "mx.call_failed");
    assert_eq!(reason(s.client.unregister(&s.id, 99).await), "mx.call_failed");
}

// shows: S-16
#[tokio::test]
async fn one_bad_element_of_a_bulk_does_not_fail_the_rest() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let tags = ["Area1.Setpoint.A", "Denied.X", "Area1.Setpoint.B"];
    let advised = s.client.subscribe(&s.id, s.server, &tags).await.expect("answered");
    let good: Vec<bool> = advised.iter().map(|one| one.item.is_ok()).collect();
    assert_eq!(good, [true, false, true]);
    let handle = |at: usize| advised[at].item.as_ref().expect("an item").0;
    eventually("both values", async || {
        let items = s.client.snapshot(&s.id).await.expect("a snapshot").items;
        items.iter().all(|item| item.last.is_some()).then_some(())
    })
    .await;

    let writes = [(handle(0), 1.0), (9_999, 2.0), (handle(2), 3.0)];
    let writes = writes.map(|(item_handle, value)| One { item_handle, value: double(value), user_id: 0 }).to_vec();
    let written = s.client.write_bulk(&s.id, WriteBulk { server_handle: s.server, writes }).await.expect("answered");
    let raised: Vec<bool> = written.results.iter().map(|one| one.hresult != 0).collect();
    assert_eq!(raised, [false, true, false]);

    let read = s.client.read(&s.id, s.server, &["Area1.Setpoint.A", "Denied.X", "Area2.Pump1.Sine"], 5_000).await;
    let results: Vec<BulkResult> = read.expect("answered").results;
    assert_eq!(results.len(), 3);
    assert!(results[0].hresult == 0 && results[0].value.is_some(), "{results:?}");
    assert!(results[1].hresult != 0 && results[2].hresult == 0, "{results:?}");
    let head = s.silence().await;
    reader.to(head).await;
}

// shows: S-16
#[tokio::test]
async fn a_command_without_a_method_is_refused() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    assert_eq!(reason(s.client.command(&s.id, Command::default(), 0).await), "command.missing");
}
