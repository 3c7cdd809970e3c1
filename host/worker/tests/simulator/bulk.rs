//! Bulk commands: a result for each element, in its order.

use crate::harness::{BOUND, E_ACCESSDENIED, E_INVALIDARG, Item, Session, value};
use tidegate_proto::v1::{
    BulkResult, GetSessionState, ReadBulk, SubscribeBulk, WriteBulk, command::Method,
    command_result::Result as Returned, value::Kind, write_bulk,
};

fn results(returned: Option<Returned>) -> Vec<BulkResult> {
    match returned {
        Some(Returned::Bulk(bulk)) => bulk.results,
        other => panic!("{other:?}"),
    }
}

fn strings(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|&tag| tag.to_owned()).collect()
}

// shows: S-16
#[tokio::test]
async fn one_bad_item_never_fails_the_rest() {
    let mut s = Session::start("rate=0").await;
    let tags = strings(&["Setpoint.A", "Denied.B", "", "Setpoint.C"]);
    let call = SubscribeBulk { server_handle: 1, definitions: tags, supervisory: false };
    let added = results(s.done(Method::SubscribeBulk(call)).await);
    let codes: Vec<_> = added.iter().map(|one| one.hresult).collect();
    assert_eq!(codes, [0, E_ACCESSDENIED, E_INVALIDARG, 0]);
    let item = |one: &BulkResult| Item { handle: one.item_handle, key: one.item_key };
    let (a, c) = (item(&added[0]), item(&added[3]));
    assert_eq!((a.handle, c.handle), (1, 2));
    s.change(a).await;
    s.change(c).await;

    let one =
        |item_handle, number| write_bulk::One { item_handle, value: Some(value(Kind::Double(number))), user_id: 0 };
    let call = WriteBulk { server_handle: 1, writes: vec![one(a.handle, 1.0), one(77, 2.0), one(c.handle, 3.0)] };
    let written = results(s.done(Method::WriteBulk(call)).await);
    assert_eq!(written.iter().map(|one| one.hresult).collect::<Vec<_>>(), [0, E_INVALIDARG, 0]);
    assert_eq!(written[2].item_key, c.key);
    s.completion(a).await;
    assert_eq!(s.change(a).await.0, Some(Kind::Double(1.0)));
    s.completion(c).await;
    assert_eq!(s.change(c).await.0, Some(Kind::Double(3.0)));
    for wrong in [
        Method::SubscribeBulk(SubscribeBulk { server_handle: 9, ..SubscribeBulk::default() }),
        Method::WriteBulk(WriteBulk { server_handle: 9, ..WriteBulk::default() }),
        Method::ReadBulk(ReadBulk { server_handle: 9, ..ReadBulk::default() }),
    ] {
        assert_eq!(s.call(wrong).await.hresult, E_INVALIDARG);
    }
}

// shows: S-16, S-17
#[tokio::test]
async fn a_read_leaves_no_item_and_no_event_behind() {
    let mut s = Session::start("rate=0,first_change_ms=20").await;
    let advised = s.subscribe("Setpoint.A").await;
    s.change(advised).await;
    let head = s.head;
    let tags = strings(&["B.Counter", "Setpoint.A", "Denied.C", "Invalid.D", "B.Counter"]);
    let call = ReadBulk { server_handle: 1, definitions: tags, timeout_ms: BOUND.as_millis() as u32 };
    let read = results(s.done(Method::ReadBulk(call)).await);
    assert_eq!(read.iter().map(|one| one.hresult).collect::<Vec<_>>(), [0, 0, E_ACCESSDENIED, 0, 0]);
    assert_eq!((&read[0].value, read[0].quality, read[0].item_handle), (&Some(value(Kind::Integer(0))), 192, 0));
    assert_eq!((&read[1].value, read[1].item_key), (&Some(value(Kind::Double(0.0))), advised.key));
    assert_eq!((read[3].quality, read[3].statuses[0].category), (4, 4));
    assert!(read[0].time.is_some() && read[0].statuses[0].success != 0);
    match s.done(Method::GetSessionState(GetSessionState {})).await {
        Some(Returned::SessionState(state)) => {
            assert_eq!((state.head, state.servers[0].items.len()), (head, 1));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_read_that_gets_no_value_in_time_says_so_for_that_item() {
    let mut s = Session::start("rate=1000,first_change_ms=200000").await;
    let call = ReadBulk { server_handle: 1, definitions: strings(&["A.Sine", "Denied.B"]), timeout_ms: 50 };
    let read = results(s.done(Method::ReadBulk(call)).await);
    assert_eq!(read[0].hresult, 0x8007_05B4_u32 as i32);
    assert_eq!(read[1].hresult, E_ACCESSDENIED);
}
