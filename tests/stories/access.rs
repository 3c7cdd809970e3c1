//! Who may do what, how often a thing can be done twice, and where the caps are.

use crate::harness::{Gateway, Launch, Session, eventually, open_as, reason, refused};
use tidegate_client::{
    GrpcCode, Start,
    wire::{CreateKeyRequest, Value, WriteBulk, event::Body, value::Kind, write_bulk::One},
};

const UNKNOWN: &str = "session-00000000000000000000000000000000";

// shows: H-05
#[tokio::test]
async fn wrong_missing_and_revoked_keys_are_told_apart_from_rights() {
    let gw = Gateway::start().await;
    let nobody = gw.connect().gateway().await.expect("connected");
    assert_eq!(reason(open_as(&nobody, "x", "").await), "auth.missing");
    let wrong = gw.client_with("not-a-key-of-this-gateway").await;
    assert_eq!(reason(open_as(&wrong, "x", "").await), "auth.invalid");

    let admin = gw.admin().await;
    let created = admin.create_key(CreateKeyRequest { name: "short".into(), ..Default::default() }).await;
    let created = created.expect("a key");
    let client = gw.client_with(&created.secret).await;
    admin.revoke_key(&created.key_id).await.expect("revoked");
    assert_eq!(reason(open_as(&client, "x", "").await), "auth.invalid");
    assert_eq!(reason(admin.revoke_key("k0000000000000000").await), "key.unknown");
    let bad = CreateKeyRequest { name: "x".into(), scopes: vec!["everything".into()], ..Default::default() };
    assert_eq!(reason(admin.create_key(bad).await), "key.invalid");
    let keys = admin.keys().await.expect("a listing");
    assert!(keys.iter().any(|key| key.key_id == created.key_id && key.revoked_at_unix_ms.is_some()));
}

// shows: H-05, S-07
#[tokio::test]
async fn a_revoked_key_loses_its_open_stream_at_once() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let admin = gw.admin().await;
    let request = CreateKeyRequest { name: "t".into(), scopes: vec!["sessions:all".into()], ..Default::default() };
    let key = admin.create_key(request).await.expect("a key");
    let client = gw.client_with(&key.secret).await;
    let mut theirs = s.try_reader(&client, "theirs", Start::Live).await.expect("a stream");
    let mut ours = s.reader("ours").await;
    s.advise(&["Area1.Pump1.Sine"]).await;
    theirs.count(10).await;
    admin.revoke_key(&key.key_id).await.expect("revoked");
    let end = theirs.ended().await;
    assert_eq!(end.reason, "auth.invalid", "{end}");
    let head = s.silence().await;
    ours.to(head).await;
    assert!(theirs.position().after <= head);
}

// shows: H-05
#[tokio::test]
async fn a_key_writes_only_what_its_globs_allow() {
    let gw = Gateway::start().await;
    let created = gw.run(&["key", "create", "--name", "t", "--write", "Area1.Setpoint.*", "--json"]).await;
    let created: serde_json::Value = serde_json::from_slice(&created.stdout).expect("JSON");
    let client = gw.client_with(created["key"].as_str().expect("a secret")).await;
    let opened = open_as(&client, "line-1", "").await.expect("a session of its own");
    let s = Session::new(client, opened).await;
    let mut reader = s.reader("one").await;
    let items = s.advise(&["Area1.Setpoint.Speed", "Area2.Setpoint.Speed"]).await;
    let (inside, outside) = (&items[0], &items[1]);
    eventually("a value of both", async || {
        let items = s.client.snapshot(&s.id).await.expect("a snapshot").items;
        items.iter().all(|item| item.last.is_some()).then_some(())
    })
    .await;

    s.write(inside, 1.5).await.expect("taken");
    let denied = refused(s.write(outside, 2.5).await);
    assert_eq!((denied.code, denied.reason.as_str()), (GrpcCode::PermissionDenied, "policy.denied"));
    assert_eq!(denied.details["rule"], "key-write");
    let one = |item_handle, value| One {
        item_handle,
        value: Some(Value { kind: Some(Kind::Double(value)), data_type: 0 }),
        user_id: 0,
    };
    let writes = vec![one(outside.handle, 3.5), one(inside.handle, 4.5)];
    let written = s.client.write_bulk(&s.id, WriteBulk { server_handle: s.server, writes }).await.expect("answered");
    let failed: Vec<bool> = written.results.iter().map(|one| one.hresult != 0).collect();
    assert_eq!(failed, [true, false]);

    for value in [1.5, 4.5] {
        reader
            .until("the written value", |event| match &event.body {
                Some(Body::DataChange(change)) => {
                    event.item_key == inside.key
                        && change.value.as_ref().and_then(|value| value.kind.clone()) == Some(Kind::Double(value))
                }
                _ => false,
            })
            .await;
    }
    let head = s.silence().await;
    reader.to(head).await;
    let complete = |key| {
        let of = reader.events.iter().filter(move |event| event.item_key == key);
        of.filter(|event| matches!(event.body, Some(Body::WriteComplete(_)))).count()
    };
    assert_eq!((complete(inside.key), complete(outside.key)), (2, 0), "what was denied never came to the server");
}

// shows: S-02, S-13
#[tokio::test]
async fn a_foreign_session_and_an_unknown_one_answer_alike() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let stranger = gw.client_with(&gw.key(&[], "sessions:own").await).await;
    for id in [s.id.as_str(), UNKNOWN, "nonsense"] {
        let answers = [
            refused(stranger.register(id, "x").await),
            refused(stranger.snapshot(id).await),
            refused(stranger.close(id).await),
            refused(stranger.stream(id, Start::Live, Default::default()).await),
        ];
        for fault in answers {
            assert_eq!((fault.code, fault.reason.as_str()), (GrpcCode::PermissionDenied, "session.not_permitted"));
            assert!(!fault.message.contains(&s.id), "{fault}");
        }
    }
    let foreign = refused(stranger.snapshot(&s.id).await);
    let unknown = refused(stranger.snapshot(UNKNOWN).await);
    assert_eq!((foreign.message, foreign.details), (unknown.message, unknown.details));
    s.close().await;
    assert_eq!(refused(stranger.close(&s.id).await).reason, "session.not_permitted", "an ended one is foreign still");
    // Whoever may see everything is told the truth.
    assert_eq!(reason(gw.client().await.snapshot(UNKNOWN).await), "session.unknown");
}

// shows: S-01, S-14, S-19
#[tokio::test]
async fn opening_twice_makes_two_and_closing_twice_closes_once() {
    let gw = Gateway::start().await;
    let client = gw.client().await;
    let one = open_as(&client, "same", "").await.expect("a session");
    let two = open_as(&client, "same", "").await.expect("a session");
    assert_ne!((&one.session_id, one.worker_pid, one.epoch), (&two.session_id, two.worker_pid, two.epoch));
    assert_eq!(one.client_correlation_id, format!("same-{}", one.session_id));
    let (a, b) = tokio::join!(client.close(&one.session_id), client.close(&one.session_id));
    assert_eq!((a.expect("closed"), b.expect("closed")), (0, 0));
    assert_eq!(client.close(&one.session_id).await.expect("closed long ago"), 0);
    client.close(&two.session_id).await.expect("closed");
    assert_eq!(reason(open_as(&client, "x", "no-such-backend").await), "backend.unknown");
    assert_eq!(reason(open_as(&client, &"n".repeat(65), "").await), "limit.text");
    assert!(gw.admin().await.sessions().await.expect("a listing").is_empty(), "a failed open leaves nothing");
}

// shows: S-19
#[tokio::test]
async fn the_correlation_id_is_made_of_the_name_or_of_client() {
    let gw = Gateway::start().await;
    let client = gw.client().await;
    for (name, begins) in [("", "client"), ("line 1", "line 1"), ("client", "client")] {
        let opened = open_as(&client, name, "").await.expect("a session");
        assert_eq!(opened.client_correlation_id, format!("{begins}-{}", opened.session_id));
        client.close(&opened.session_id).await.expect("closed");
    }
}

// shows: S-01, S-10, S-16
#[tokio::test]
async fn caps_hold_and_what_is_given_back_can_be_had_again() {
    let launch = Launch::new().flag("--max-sessions", "1").flag("--max-event-subscribers-per-session", "2");
    let gw = launch.flag("--max-items-per-session", "3").flag("--max-bulk-items", "4").start().await;
    let s = gw.open("line-1").await;
    assert_eq!(reason(gw.try_open("line-2", "").await.map(|s| s.id.clone())), "session.limit");

    let one = s.reader("one").await;
    let two = s.reader("two").await;
    let third = s.client.stream(&s.id, Start::Live, Default::default()).await;
    assert_eq!(reason(third), "stream.limit");
    drop(two);
    eventually("the slot of a reader that left", async || {
        s.client.stream(&s.id, Start::Live, Default::default()).await.ok()
    })
    .await;
    drop(one);

    let tags = |n: usize| (1..=n).map(|at| format!("Area1.Pump{at}.Sine")).collect::<Vec<_>>();
    assert_eq!(reason(s.client.subscribe(&s.id, s.server, &tags(5)).await), "limit.bulk");
    // What there is room for is added, and only the rest refused.
    let advised = s.client.subscribe(&s.id, s.server, &tags(4)).await.expect("answered");
    assert_eq!(advised.iter().map(|one| one.item.is_ok()).collect::<Vec<_>>(), [true, true, true, false]);
    assert_eq!(reason(s.client.add_item(&s.id, s.server, "Area1.Pump9.Sine").await), "limit.items");
    s.close().await;
    gw.try_open("line-2", "").await.expect("the slot is free again").close().await;
}

// shows: S-01, S-16
#[tokio::test]
async fn commands_side_by_side_add_no_more_items_than_there_is_room_for() {
    let gw = Launch::new().flag("--max-items-per-session", "5").start().await;
    let s = gw.open("line-1").await;
    // Takes one place, and the worker answers nobody for a second.
    s.fault("stall 1000").await.expect("it hangs from now on");
    let tags = ["Area1.Pump1.Sine", "Area1.Pump2.Sine", "Area1.Pump3.Sine"];
    let add = async || {
        let advised = s.client.subscribe(&s.id, s.server, &tags).await.expect("answered");
        advised.iter().filter(|one| one.item.is_ok()).count()
    };
    let (one, two, three) = tokio::join!(add(), add(), add());
    assert_eq!(one + two + three, 4, "{one}, {two}, {three}");
    s.client.unregister(&s.id, s.server).await.expect("unregistered");
    let server = s.client.register(&s.id, "again").await.expect("registered");
    let advised = s.client.subscribe(&s.id, server, &tags).await.expect("answered");
    assert!(advised.iter().all(|one| one.item.is_ok()), "nothing is reserved any more");
}

// shows: S-10
#[tokio::test]
async fn single_reader_mode_refuses_the_second() {
    let gw = Launch::new().flag("--allow-multiple-event-subscribers", "false").start().await;
    let s = gw.open("line-1").await;
    let _one = s.reader("one").await;
    let second = refused(s.client.stream(&s.id, Start::Live, Default::default()).await);
    assert_eq!((second.code, second.reason.as_str()), (GrpcCode::AlreadyExists, "stream.already_open"));
}

// shows: S-10
#[tokio::test]
async fn the_ninth_reader_is_refused() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let mut readers = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        readers.push(s.reader(name).await);
    }
    let ninth = refused(s.client.stream(&s.id, Start::Live, Default::default()).await);
    assert_eq!((ninth.code, ninth.reason.as_str()), (GrpcCode::ResourceExhausted, "stream.limit"));
    s.advise(&["Area1.Pump1.Sine"]).await;
    readers[0].count(10).await;
    let head = s.silence().await;
    for reader in &mut readers {
        reader.to(head).await;
        assert_eq!(reader.counts().delivered, head, "who is refused costs nobody an event");
    }
}

// shows: S-10
#[tokio::test]
async fn sixteen_places_that_end_in_two_ways_at_once_are_given_back_once() {
    const PLACES: usize = 16;
    let gw = Launch::new().flag("--max-event-subscribers-per-session", "16").start().await;
    let s = gw.open("line-1").await;
    s.advise(&["Area1.Pump1.Sine"]).await;
    let admin = gw.admin().await;
    let request = CreateKeyRequest { name: "t".into(), scopes: vec!["sessions:all".into()], ..Default::default() };
    let key = admin.create_key(request).await.expect("a key");
    let mut readers = Vec::new();
    for _ in 0..PLACES {
        // A connection of its own for each.
        let client = gw.client_with(&key.secret).await;
        let mut reader = s.try_reader(&client, "leaves", Start::Live).await.expect("a place");
        reader.count(1).await;
        readers.push(reader);
    }
    let one_more = async || s.client.stream(&s.id, Start::Live, Default::default()).await;
    assert_eq!(reason(one_more().await), "stream.limit");

    // The gateway ends each stream because of its key while its reader goes.
    let (revoked, ()) = tokio::join!(admin.revoke_key(&key.key_id), async { drop(readers) });
    revoked.expect("revoked");
    let mut again = Vec::new();
    for _ in 0..PLACES {
        again.push(eventually("a place that was given back", async || one_more().await.ok()).await);
    }
    // As many as before, so each was given back; one more would be one that was given back twice.
    let refusal = refused(one_more().await);
    assert_eq!((refusal.code, refusal.reason.as_str()), (GrpcCode::ResourceExhausted, "stream.limit"));
    let sessions = admin.sessions().await.expect("a listing");
    assert_eq!(sessions[0].readers.len(), PLACES);
}
