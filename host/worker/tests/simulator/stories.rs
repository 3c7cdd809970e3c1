//! The surprises of MXAccess (mxaccess.md), one story each.

use crate::harness::{E_ACCESSDENIED, E_INVALIDARG, Item, OK, Session, value};
use std::time::{Duration, Instant};
use tidegate_proto::v1::{
    Activate, AddBufferedItem, AddItem, AddItem2, AdviseSupervisory, ArchestrAUserToId, AuthenticateUser, DataType,
    GetSessionState, GetWorkerInfo, MxStatus, RemoveItem, SetBufferedUpdateInterval, SourceTime, Suspend, UnAdvise,
    Unregister, Write2, WriteSecured, WriteSecured2, command::Method, command_result::Result as Returned, event::Body,
    source_time::Form, value::Kind,
};

// shows: S-16, S-17
#[tokio::test]
async fn handles_are_small_and_reused_and_item_keys_never() {
    let mut s = Session::start("rate=0").await;
    assert_eq!(s.server, 1);
    let (a, b) = (s.add("A.Sine").await, s.add("B.Sine").await);
    assert_eq!((a, b), (Item { handle: 1, key: 1 }, Item { handle: 2, key: 2 }));
    s.done(Method::RemoveItem(RemoveItem { server_handle: 1, item_handle: 1 })).await;
    assert_eq!(s.add("C.Sine").await, Item { handle: 1, key: 3 });
    s.done(Method::Unregister(Unregister { server_handle: 1 })).await;
    assert_eq!(s.register().await, 1);
    assert_eq!(s.add("A.Sine").await, Item { handle: 1, key: 4 });
}

// shows: S-16
#[tokio::test]
async fn wrong_handles_and_empty_commands_raise_and_nothing_else_happens() {
    let mut s = Session::start("rate=0").await;
    let item = s.add("A.Sine").await;
    let wrong_item = RemoveItem { server_handle: 1, item_handle: 9 };
    for method in [
        Method::Unregister(Unregister { server_handle: 7 }),
        Method::AddItem(AddItem { server_handle: 0, definition: "A".to_owned() }),
        Method::AddItem(AddItem { server_handle: 1, definition: String::new() }),
        Method::AddItem(AddItem { server_handle: 1, definition: "x".repeat(1_025) }),
        Method::RemoveItem(wrong_item),
        Method::AdviseSupervisory(AdviseSupervisory { server_handle: 2, item_handle: item.handle }),
        Method::Suspend(Suspend { server_handle: 1, item_handle: -1 }),
        Method::SetBufferedUpdateInterval(SetBufferedUpdateInterval { server_handle: 1, interval_ms: 0 }),
    ] {
        let result = s.call(method).await;
        assert_eq!((result.hresult, result.result), (E_INVALIDARG, None));
        assert!(!result.message.is_empty());
    }
    let denied = s.call(Method::AddItem(AddItem { server_handle: 1, definition: "Denied.A".to_owned() })).await;
    assert_eq!(denied.hresult, E_ACCESSDENIED);
    match s.done(Method::GetSessionState(GetSessionState {})).await {
        Some(Returned::SessionState(state)) => {
            assert_eq!((state.epoch, state.head), (s.hello.epoch, 0));
            assert_eq!(state.servers.len(), 1);
            assert_eq!((state.servers[0].client_name.as_str(), state.servers[0].items.len()), ("test", 1));
            assert_eq!(state.servers[0].items[0].definition, "A.Sine");
        }
        other => panic!("{other:?}"),
    }
    match s.done(Method::GetWorkerInfo(GetWorkerInfo {})).await {
        Some(Returned::WorkerInfo(info)) => {
            assert_eq!((info.pid, info.backend.as_str(), info.events), (std::process::id(), "simulator", 0));
        }
        other => panic!("{other:?}"),
    }
}

// shows: S-17
#[tokio::test]
async fn the_first_data_change_takes_its_time_and_the_rest_follow_the_rate() {
    let mut s = Session::start("rate=1000,first_change_ms=300").await;
    let before = Instant::now();
    let item = s.subscribe("Area1.Counter").await;
    let event = s.event(item).await;
    assert!(before.elapsed() >= Duration::from_millis(300));
    let Some(Body::DataChange(change)) = event.body else { panic!("{event:?}") };
    assert_eq!((change.value, change.quality), (Some(value(Kind::Integer(0))), 192));
    assert_eq!(change.statuses, [OK], "success is not zero when all is well");
    assert!(matches!(change.time, Some(SourceTime { form: Some(Form::Date(date)) }) if date > 45_000.0));
    for count in 1..=100 {
        assert_eq!(s.change(item).await, (Some(Kind::Integer(count)), 192));
    }
    assert!(before.elapsed() >= Duration::from_millis(400));
}

// shows: S-17
#[tokio::test]
async fn no_event_comes_without_advise_and_none_after_unadvise() {
    let mut s = Session::start("rate=2000").await;
    let (silent, loud) = (s.add("A.Counter").await, s.subscribe("B.Counter").await);
    for _ in 0..50 {
        s.change(loud).await;
    }
    s.done(Method::UnAdvise(UnAdvise { server_handle: 1, item_handle: loud.handle })).await;
    s.events.clear();
    let other = s.subscribe("C.Counter").await;
    for _ in 0..50 {
        s.change(other).await;
    }
    assert!(s.events.iter().all(|event| event.item_key != silent.key && event.item_key != loud.key));
}

// shows: S-16, S-17
#[tokio::test]
async fn a_write_needs_a_known_type_and_completes_as_an_event() {
    let mut s = Session::start("rate=0,first_change_ms=100").await;
    let item = s.add("Setpoint.Speed").await;
    let early = s.writing(item, Kind::Double(5.0));
    let refused = s.call(early.clone()).await;
    assert_eq!(refused.hresult, E_INVALIDARG);
    assert_eq!(refused.message, "Value does not fall within the expected range");
    s.advise(item).await;
    assert_eq!(s.change(item).await, (Some(Kind::Double(0.0)), 192));
    s.done(early).await;
    assert_eq!(s.completion(item).await, OK);
    assert_eq!(s.change(item).await, (Some(Kind::Double(5.0)), 192));

    let time = Some(SourceTime { form: Some(Form::Text("then".to_owned())) });
    let again = Write2 {
        server_handle: 1,
        item_handle: item.handle,
        value: Some(value(Kind::Text("a word".to_owned()))),
        time: time.clone(),
        user_id: 0,
    };
    s.done(Method::Write2(again)).await;
    assert_eq!(s.completion(item).await, OK);
    match s.event(item).await.body {
        Some(Body::DataChange(change)) => {
            assert_eq!((change.value, change.time), (Some(value(Kind::Text("a word".to_owned()))), time));
        }
        other => panic!("{other:?}"),
    }
    let empty = s.writing(item, Kind::Double(0.0));
    let Method::Write(mut empty) = empty else { panic!() };
    empty.value = None;
    assert_eq!(s.call(Method::Write(empty)).await.hresult, E_INVALIDARG);
    let huge = s.writing(item, Kind::Text("x".repeat(2 << 20)));
    assert_eq!(s.call(huge).await.hresult, E_INVALIDARG);
}

// shows: S-16, S-17
#[tokio::test]
async fn what_is_written_is_the_attributes_and_every_item_of_it_has_it() {
    let mut s = Session::start("rate=0,write_ms=5").await;
    let (one, other) = (s.subscribe("Setpoint.A").await, s.subscribe("Setpoint.A").await);
    s.change(one).await;
    s.change(other).await;
    let write = s.writing(one, Kind::Double(1.5));
    s.done(write).await;
    assert_eq!(s.completion(one).await, OK);
    assert_eq!(s.change(one).await, (Some(Kind::Double(1.5)), 192));
    assert_eq!(s.change(other).await, (Some(Kind::Double(1.5)), 192));
    let later = s.subscribe("Setpoint.A").await;
    assert_eq!(s.change(later).await, (Some(Kind::Double(1.5)), 192), "added after the write");
}

// shows: S-17
#[tokio::test]
async fn an_item_that_is_no_longer_advised_hears_of_no_completion() {
    let mut s = Session::start("rate=0,write_ms=30").await;
    let item = s.subscribe("Setpoint.A").await;
    s.change(item).await;
    let write = s.writing(item, Kind::Double(1.0));
    s.done(write).await;
    s.done(Method::UnAdvise(UnAdvise { server_handle: 1, item_handle: item.handle })).await;
    // Its own later write bears witness that the first one's time has passed.
    let witness = s.subscribe("Setpoint.B").await;
    s.change(witness).await;
    let write = s.writing(witness, Kind::Double(2.0));
    s.done(write).await;
    assert_eq!(s.completion(witness).await, OK);
    assert!(s.events.iter().all(|event| event.item_key != item.key));
    s.advise(item).await;
    assert_eq!(s.change(item).await, (Some(Kind::Double(1.0)), 192), "the value is written nevertheless");
}

// shows: S-16, S-20
#[tokio::test]
async fn secured_attributes_want_one_person_and_verified_ones_two() {
    let mut s = Session::start("rate=0,users=ann:pw1:{a-1};bo:pw2").await;
    let (secured, verified) = (s.subscribe("Secured.Door").await, s.subscribe("Verified.Door").await);
    s.change(secured).await;
    s.change(verified).await;
    let security = |detail| MxStatus { success: 0, category: 6, detected_by: 5, detail };
    let write = s.writing(secured, Kind::Boolean(true));
    s.done(write).await;
    assert_eq!(s.completion(secured).await, security(1012));
    let write = s.writing(verified, Kind::Boolean(true));
    s.done(write).await;
    assert_eq!(s.completion(verified).await, security(1013));

    let login = |user: &str, password: &str| {
        let (user, password) = (user.to_owned(), password.to_owned());
        Method::AuthenticateUser(AuthenticateUser { server_handle: 1, user, password })
    };
    let refused = s.call(login("ann", "pw2")).await;
    assert_eq!(refused.hresult, E_ACCESSDENIED);
    assert!(!refused.message.contains("pw2"));
    assert_eq!(s.done(login("bo", "pw2")).await, Some(Returned::UserId(2)));
    let guid = |guid: &str| ArchestrAUserToId { server_handle: 1, user_guid: guid.to_owned() };
    assert_eq!(s.done(Method::ArchestraUserToId(guid("{A-1}"))).await, Some(Returned::UserId(1)));
    assert_eq!(s.call(Method::ArchestraUserToId(guid(""))).await.hresult, E_INVALIDARG);

    let write = |item: Item, current, verifier| {
        Method::WriteSecured(WriteSecured {
            server_handle: 1,
            item_handle: item.handle,
            current_user_id: current,
            verifier_user_id: verifier,
            value: Some(value(Kind::Boolean(true))),
        })
    };
    assert_eq!(s.call(write(secured, 3, 0)).await.hresult, E_INVALIDARG);
    s.done(write(secured, 2, 0)).await;
    assert_eq!(s.completion(secured).await, OK);
    assert_eq!(s.change(secured).await, (Some(Kind::Boolean(true)), 192));
    for verifier in [0, 1] {
        s.done(write(verified, 1, verifier)).await;
        assert_eq!(s.completion(verified).await, security(1013), "one person is not two");
    }
    let both = WriteSecured2 {
        server_handle: 1,
        item_handle: verified.handle,
        current_user_id: 1,
        verifier_user_id: 2,
        value: Some(value(Kind::Boolean(false))),
        time: None,
    };
    s.done(Method::WriteSecured2(both)).await;
    assert_eq!(s.completion(verified).await, OK);
    assert_eq!(s.change(verified).await, (Some(Kind::Boolean(false)), 192));
}

// shows: S-16, S-17
#[tokio::test]
async fn suspend_is_pending_at_once_and_complete_later() {
    let mut s = Session::start("rate=1000").await;
    let (item, other) = (s.subscribe("A.Counter").await, s.subscribe("B.Counter").await);
    s.change(item).await;
    let activate = Method::Activate(Activate { server_handle: 1, item_handle: item.handle });
    assert_eq!(s.done(activate.clone()).await, Some(Returned::Status(OK)), "an active item is ok at once");
    let pending = Some(Returned::Status(MxStatus { category: 1, ..OK }));
    let before = Instant::now();
    assert_eq!(s.done(Method::Suspend(Suspend { server_handle: 1, item_handle: item.handle })).await, pending);
    s.events.clear();
    let event = s.event(item).await;
    assert!(matches!(event.body, Some(Body::OperationComplete(ref done)) if done.statuses == [OK]), "{event:?}");
    assert!(before.elapsed() >= Duration::from_millis(200));
    s.events.clear();
    for _ in 0..20 {
        s.change(other).await;
    }
    assert!(s.events.iter().all(|event| event.item_key != item.key), "a suspended item is silent");
    assert_eq!(s.done(activate).await, pending);
    loop {
        if let Some(Body::OperationComplete(_)) = s.event(item).await.body {
            break;
        }
    }
    s.change(item).await;
}

// shows: S-17
#[tokio::test]
async fn arrays_need_brackets_and_elements_count_from_one() {
    let mut s = Session::start("rate=0").await;
    let whole = s.subscribe("A.Counter[]").await;
    assert!(matches!(s.change(whole).await, (Some(Kind::Integers(array)), 192) if array.values.len() == 10));
    let element = s.subscribe("A.Counter[1]").await;
    assert_eq!(s.change(element).await, (Some(Kind::Integer(0)), 192));
    for wrong in ["A.Counter[0]", "A.Counter[11]", "Invalid.A", "$Sim.Fault"] {
        let item = s.subscribe(wrong).await;
        assert_eq!(s.change(item).await, (None, 4), "{wrong}: a configuration error is a data change");
        let write = s.writing(item, Kind::Text("crash".to_owned()));
        assert_eq!(s.call(write).await.hresult, E_INVALIDARG, "{wrong}: its type is never known");
    }
}

// shows: S-17
#[tokio::test]
async fn buffered_items_tell_what_they_gathered_at_their_interval() {
    let mut s = Session::start("rate=1000").await;
    s.done(Method::SetBufferedUpdateInterval(SetBufferedUpdateInterval { server_handle: 1, interval_ms: 50 })).await;
    let call = AddBufferedItem { server_handle: 1, definition: "Counter".to_owned(), context: "A".to_owned() };
    let Some(Returned::Item(item)) = s.done(Method::AddBufferedItem(call)).await else { panic!() };
    let item = Item { handle: item.item_handle, key: item.item_key };
    s.advise(item).await;
    let mut next = 0;
    for _ in 0..3 {
        let Some(Body::BufferedDataChange(change)) = s.event(item).await.body else { panic!() };
        assert_eq!(change.data_type, DataType::Integer as i32);
        assert_eq!([change.qualities.len(), change.times.len(), change.statuses.len()], [change.values.len(); 3]);
        for gathered in change.values {
            assert_eq!(gathered, value(Kind::Integer(next)));
            next += 1;
        }
    }
    assert!(next > 3, "more values than events");
}

// shows: S-16
#[tokio::test]
async fn a_context_goes_before_its_definition() {
    let mut s = Session::start("rate=0").await;
    let call = AddItem2 { server_handle: 1, definition: "A".to_owned(), context: "Denied".to_owned() };
    assert_eq!(s.call(Method::AddItem2(call)).await.hresult, E_ACCESSDENIED);
    let call = AddItem2 { server_handle: 1, definition: "A".to_owned(), context: "Line1.Setpoint".to_owned() };
    let Some(Returned::Item(item)) = s.done(Method::AddItem2(call)).await else { panic!() };
    let item = Item { handle: item.item_handle, key: item.item_key };
    let supervisory = AdviseSupervisory { server_handle: 1, item_handle: item.handle };
    s.done(Method::AdviseSupervisory(supervisory)).await;
    assert_eq!(s.change(item).await, (Some(Kind::Double(0.0)), 192));
}
