//! MXAccess methods through the gateway: what they answer, and the events that follow.

use crate::harness::{Gateway, Launch, PATIENCE, eventually, reason};
use tidegate_client::wire::{
    AcknowledgeAlarms, Activate, ActivateBulk, AddBufferedItem, AddItem2, AddItemBulk, Advise, AdviseBulk,
    AdviseSupervisory, ArchestrAUserToId, AuthenticateUser, BulkResult, Command, DataChange, Event, GetSessionState,
    GetWorkerInfo, ItemAdded, MxStatus, RemoveItem, RemoveItemBulk, SetBufferedUpdateInterval, SourceTime, Suspend,
    SuspendBulk, UnAdvise, UnAdviseBulk, UnsubscribeBulk, Value, Write2, Write2Bulk, WriteBulk, WriteComplete,
    WriteSecured, WriteSecured2, WriteSecured2Bulk, WriteSecuredBulk, add_item_bulk::One as AddOne, command::Method,
    command_result::Result as Answer, event::Body, source_time::Form, value::Kind, write_bulk::One, write_secured_bulk,
    write_secured2_bulk, write2_bulk,
};

/// The contract itself: what it has, some story must call.
const CONTRACT: &str = include_str!("../../proto/tidegate/v1/commands.proto");

fn double(value: f64) -> Option<Value> {
    Some(Value { kind: Some(Kind::Double(value)), data_type: 0 })
}

fn change(event: &Event) -> Option<&DataChange> {
    match &event.body {
        Some(Body::DataChange(change)) => Some(change),
        _ => None,
    }
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

// shows: S-16
#[tokio::test]
async fn every_method_of_the_contract_does_its_work_through_the_gateway() {
    let gw = Launch::new().backend("plant", "rate=50,users=ann:rose:{0A};bo:lily:{0B}").start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let call = async |method| s.client.invoke(&s.id, method, 0).await.expect("answered").result;
    let item = async |method| match call(method).await {
        Some(Answer::Item(item)) => item,
        other => panic!("no item: {other:?}"),
    };
    let (server_handle, seven) = (s.server, Some(SourceTime { form: Some(Form::Text("7 o'clock".into())) }));

    // Items with and without a context; both ways to advise.
    let (handle, item_key) = s.client.add_item(&s.id, server_handle, "Area1.Setpoint.Level").await.expect("an item");
    let level = ItemAdded { item_handle: handle, item_key };
    let context = "Area1.Setpoint".to_owned();
    let speed = item(Method::AddItem2(AddItem2 { server_handle, definition: "Speed".into(), context })).await;
    let item_handle = level.item_handle;
    assert_eq!(call(Method::Advise(Advise { server_handle, item_handle })).await, None);
    let item_handle = speed.item_handle;
    assert_eq!(call(Method::AdviseSupervisory(AdviseSupervisory { server_handle, item_handle })).await, None);
    let secured = s.advise(&["Area1.Secured.Door", "Area1.Verified.Valve"]).await;
    let (door, valve) = (&secured[0], &secured[1]);
    eventually("a value of every item", async || {
        let items = s.client.snapshot(&s.id).await.expect("a snapshot").items;
        (items.len() == 4 && items.iter().all(|item| item.last.is_some())).then_some(())
    })
    .await;

    // Users, and the four ways to write.
    let ann = AuthenticateUser { server_handle, user: "ann".into(), password: "rose".into() };
    let ann = call(Method::AuthenticateUser(ann)).await;
    let bo = call(Method::ArchestraUserToId(ArchestrAUserToId { server_handle, user_guid: "{0B}".into() })).await;
    let (Some(Answer::UserId(ann)), Some(Answer::UserId(bo))) = (ann, bo) else { panic!("two users") };
    assert_ne!(ann, bo);
    s.client.write(&s.id, server_handle, level.item_handle, double(1.5).expect("a value"), ann).await.expect("taken");
    let write2 =
        Write2 { server_handle, item_handle: speed.item_handle, value: double(2.5), time: seven.clone(), user_id: 0 };
    assert_eq!(call(Method::Write2(write2)).await, None);
    let secured = WriteSecured {
        server_handle,
        item_handle: door.handle,
        current_user_id: ann,
        verifier_user_id: 0,
        value: double(3.5),
    };
    assert_eq!(call(Method::WriteSecured(secured)).await, None);
    let secured = WriteSecured2 {
        server_handle,
        item_handle: valve.handle,
        current_user_id: ann,
        verifier_user_id: bo,
        value: double(4.5),
        time: seven.clone(),
    };
    assert_eq!(call(Method::WriteSecured2(secured)).await, None);
    // They complete in the order in which they were made.
    let written =
        [(level.item_key, 1.5, false), (speed.item_key, 2.5, true), (door.key, 3.5, false), (valve.key, 4.5, true)];
    for (key, value, timed) in written {
        let complete = |e: &Event| e.item_key == key && matches!(e.body, Some(Body::WriteComplete(_)));
        let done = reader.until("completion", complete).await;
        let Some(Body::WriteComplete(WriteComplete { statuses })) = done.body else { panic!("a completion") };
        assert!(statuses.iter().all(|status| status.success != 0 && status.category == 0), "{statuses:?}");
        let is_it = |e: &Event| e.item_key == key && change(e).is_some_and(|change| change.value == double(value));
        let changed = reader.until("the new value", is_it).await;
        assert_eq!(change(&changed).and_then(|change| change.time.clone()) == seven, timed, "{changed:?}");
    }

    // Suspended: pending at once, complete later, silent in between.
    let item_handle = level.item_handle;
    let complete = |e: &Event| e.item_key == level.item_key && matches!(e.body, Some(Body::OperationComplete(_)));
    let suspend = Method::Suspend(Suspend { server_handle, item_handle });
    for method in [suspend, Method::Activate(Activate { server_handle, item_handle })] {
        let status = call(method).await;
        assert!(matches!(status, Some(Answer::Status(MxStatus { category: 1, .. }))), "{status:?}");
        reader.until("the operation to complete", complete).await;
    }

    // Buffered: many values in one event.
    let interval = SetBufferedUpdateInterval { server_handle, interval_ms: 100 };
    assert_eq!(call(Method::SetBufferedUpdateInterval(interval)).await, None);
    let buffered = AddBufferedItem { server_handle, definition: "Sine".into(), context: "Area1.Pump1".into() };
    let buffered = item(Method::AddBufferedItem(buffered)).await;
    let item_handle = buffered.item_handle;
    assert_eq!(call(Method::Advise(Advise { server_handle, item_handle })).await, None);
    reader
        .until("several values at once", |event| match &event.body {
            Some(Body::BufferedDataChange(change)) => {
                let each = [change.values.len(), change.qualities.len(), change.times.len(), change.statuses.len()];
                event.item_key == buffered.item_key && each[0] > 1 && each.iter().all(|one| *one == each[0])
            }
            _ => false,
        })
        .await;

    // What is there, and what is not there any more.
    let state = async || match call(Method::GetSessionState(GetSessionState {})).await {
        Some(Answer::SessionState(state)) => state.servers,
        other => panic!("no state: {other:?}"),
    };
    let of = |handle: i32| move |item: &&tidegate_client::wire::session_state::ItemState| item.item_handle == handle;
    let servers = state().await;
    assert_eq!((servers.len(), servers[0].items.len()), (1, 5));
    let told = servers[0].items.iter().find(of(buffered.item_handle)).expect("the buffered item");
    assert!(told.advised && told.buffered && !told.suspended, "{told:?}");
    assert_eq!((told.definition.as_str(), told.context.as_str()), ("Sine", "Area1.Pump1"));
    assert_eq!(call(Method::UnAdvise(UnAdvise { server_handle, item_handle })).await, None);
    assert!(state().await[0].items.iter().find(of(item_handle)).is_some_and(|item| !item.advised));
    assert_eq!(call(Method::RemoveItem(RemoveItem { server_handle, item_handle })).await, None);
    assert!(state().await[0].items.iter().all(|item| item.item_handle != item_handle));
    match call(Method::GetWorkerInfo(GetWorkerInfo {})).await {
        Some(Answer::WorkerInfo(info)) => assert_eq!((info.pid, info.backend.as_str()), (s.pid, "simulator")),
        other => panic!("no information: {other:?}"),
    }

    // In bulk; SubscribeBulk has made the secured items above.
    let writes = vec![One { item_handle: level.item_handle, value: double(6.5), user_id: 0 }];
    let written = s.client.write_bulk(&s.id, WriteBulk { server_handle, writes }).await.expect("answered").results;
    assert_eq!(written.iter().map(|one| one.hresult).collect::<Vec<_>>(), [0]);
    let is_it = |e: &Event| e.item_key == level.item_key && change(e).is_some_and(|one| one.value == double(6.5));
    reader.until("the value of the bulk", is_it).await;
    let read = s.client.read(&s.id, server_handle, &["Area1.Setpoint.Level"], 5_000).await.expect("answered").results;
    assert_eq!(read.iter().map(|one| one.value.clone()).collect::<Vec<_>>(), [double(6.5)]);

    // The bulk forms of the rest: each has one element that fails, between two that do not.
    let bulk = async |method| match call(method).await {
        Some(Answer::Bulk(bulk)) => bulk.results,
        other => panic!("no results: {other:?}"),
    };
    let oks = |results: &[BulkResult]| results.iter().map(|one| one.hresult == 0).collect::<Vec<_>>();
    let one = |definition: &str, context: &str, buffered| AddOne {
        definition: definition.into(),
        context: context.into(),
        buffered,
    };
    let items = vec![one("Level", "Area2.Setpoint", false), one("", "", false), one("Sine", "Area2.Pump1", true)];
    let added = bulk(Method::AddItemBulk(AddItemBulk { server_handle, items })).await;
    assert_eq!(oks(&added), [true, false, true]);
    let item_handles = vec![added[0].item_handle, 9_999, added[2].item_handle];
    let advise = AdviseBulk { server_handle, item_handles: item_handles.clone(), supervisory: true };
    let advised = bulk(Method::AdviseBulk(advise)).await;
    assert_eq!(oks(&advised), [true, false, true]);
    assert_eq!((advised[0].item_handle, advised[0].item_key), (added[0].item_handle, added[0].item_key));
    let key = added[0].item_key;
    reader.until("a first value", |event| event.item_key == key && change(event).is_some()).await;
    let handles = item_handles.clone();
    let suspended = bulk(Method::SuspendBulk(SuspendBulk { server_handle, item_handles: handles.clone() })).await;
    assert_eq!(oks(&suspended), [true, false, true]);
    assert!(matches!(suspended[0].statuses[..], [MxStatus { category: 1, .. }]), "{suspended:?}");
    let completes = |e: &Event| e.item_key == key && matches!(e.body, Some(Body::OperationComplete(_)));
    reader.until("the operation to complete", completes).await;
    let active = bulk(Method::ActivateBulk(ActivateBulk { server_handle, item_handles: handles.clone() })).await;
    assert_eq!(oks(&active), [true, false, true]);
    reader.until("the operation to complete", completes).await;

    let (item_handle, wrong, value) = (level.item_handle, 9_999, double(7.5));
    let two = |item_handle| write2_bulk::One { item_handle, value: value.clone(), time: seven.clone(), user_id: 0 };
    let writes = vec![two(item_handle), two(wrong), two(item_handle)];
    assert_eq!(oks(&bulk(Method::Write2Bulk(Write2Bulk { server_handle, writes })).await), [true, false, true]);
    let secured = |item_handle| write_secured_bulk::One {
        item_handle,
        current_user_id: ann,
        verifier_user_id: 0,
        value: value.clone(),
    };
    let writes = vec![secured(door.handle), secured(wrong), secured(door.handle)];
    let written = bulk(Method::WriteSecuredBulk(WriteSecuredBulk { server_handle, writes })).await;
    assert_eq!(oks(&written), [true, false, true]);
    let verified = |item_handle| write_secured2_bulk::One {
        item_handle,
        current_user_id: ann,
        verifier_user_id: bo,
        value: value.clone(),
        time: seven.clone(),
    };
    let writes = vec![verified(valve.handle), verified(wrong), verified(valve.handle)];
    let written = bulk(Method::WriteSecured2Bulk(WriteSecured2Bulk { server_handle, writes })).await;
    assert_eq!(oks(&written), [true, false, true]);
    for key in [level.item_key, door.key, valve.key] {
        let is_it = |e: &Event| e.item_key == key && change(e).is_some_and(|one| one.value == double(7.5));
        reader.until("the value of the bulk", is_it).await;
    }

    let un_advise = UnAdviseBulk { server_handle, item_handles: handles.clone() };
    assert_eq!(oks(&bulk(Method::UnAdviseBulk(un_advise)).await), [true, false, true]);
    let unsubscribe = UnsubscribeBulk { server_handle, item_handles: vec![handles[0], wrong] };
    assert_eq!(oks(&bulk(Method::UnsubscribeBulk(unsubscribe)).await), [true, false]);
    let remove = RemoveItemBulk { server_handle, item_handles: vec![handles[0], handles[2]] };
    assert_eq!(oks(&bulk(Method::RemoveItemBulk(remove)).await), [false, true], "the first was removed already");
    let left = s.client.snapshot(&s.id).await.expect("a snapshot").items;
    assert!(left.iter().all(|item| item.item_key != key && item.item_key != added[2].item_key));

    // Here no alarm stands; what it does where some do is a story of its own.
    let acknowledge = AcknowledgeAlarms { alarm_ids: vec![7, 8], comment: String::new(), key_id: "another's".into() };
    assert_eq!(oks(&bulk(Method::AcknowledgeAlarms(acknowledge)).await), [false, false]);

    let other = s.client.register(&s.id, "other").await.expect("a second registration");
    s.client.unregister(&s.id, other).await.expect("unregistered");
    let head = s.silence().await;
    reader.to(head).await;
    assert_eq!(reader.counts().delivered, head);
    let metrics = gw.metrics().await;
    let methods = CONTRACT.split_once("oneof method {").and_then(|(_, rest)| rest.split_once('}')).expect("methods").0;
    let names: Vec<&str> = methods.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(names.len(), 34);
    for name in names {
        let series = format!("tidegate_commands_total{{method=\"{name}\",outcome=\"ok\"}} ");
        let answered = metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse().ok());
        assert!(answered.is_some_and(|times: u64| times > 0), "no story calls {name}");
    }
}

// shows: S-01
#[tokio::test]
async fn a_hundred_and_twenty_eight_commands_wait_and_the_next_is_refused() {
    const ASKED: usize = 140;
    const WAITING: usize = 128;
    // The first read waits for a value that does not come, and the others behind it.
    let gw = Launch::new().backend("slow", "rate=1,first_change_ms=600000").start().await;
    let s = gw.open("line-1").await;
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..ASKED {
        let (client, id, server) = (s.client.clone(), s.id.clone(), s.server);
        calls.spawn(async move { reason(client.read(&id, server, &["Area1.Pump1.Sine"], 600_000).await) });
    }
    let mut answers = Vec::new();
    let mut next = async |calls: &mut tokio::task::JoinSet<String>| {
        let next = tokio::time::timeout(PATIENCE, calls.join_next()).await.expect("an answer in time");
        answers.push(next.expect("a call").expect("no panic"));
    };
    for _ in WAITING..ASKED {
        next(&mut calls).await;
    }
    s.close().await;
    for _ in 0..WAITING {
        next(&mut calls).await;
    }
    let (at_once, later) = answers.split_at(ASKED - WAITING);
    assert!(at_once.iter().all(|code| code == "command.limit"), "{at_once:?}");
    assert!(later.iter().all(|code| code == "command.outcome_unknown"), "{later:?}");
}
