//! Who may do what, how often a thing can be done twice, and where the caps are.

use crate::harness::{Gateway, Launch, open_as, reason, refused};
use tidegate_client::{GrpcCode, Start, wire::CreateKeyRequest};

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
    crate::harness::eventually("the slot of a reader that left", async || {
        s.client.stream(&s.id, Start::Live, Default::default()).await.ok()
    })
    .await;
    drop(one);

    let tags = |n: usize| (1..=n).map(|at| format!("Area1.Pump{at}.Sine")).collect::<Vec<_>>();
    assert_eq!(reason(s.client.subscribe(&s.id, s.server, &tags(5)).await), "limit.bulk");
    assert_eq!(reason(s.client.subscribe(&s.id, s.server, &tags(4)).await), "limit.items");
    s.client.subscribe(&s.id, s.server, &tags(3)).await.expect("as many as allowed");
    s.close().await;
    gw.try_open("line-2", "").await.expect("the slot is free again").close().await;
}

// shows: S-10
#[tokio::test]
async fn single_reader_mode_refuses_the_second() {
    let gw = Launch::new().flag("--allow-multiple-event-subscribers", "false").start().await;
    let s = gw.open("line-1").await;
    let _one = s.reader("one").await;
    let second = s.client.stream(&s.id, Start::Live, Default::default()).await;
    assert_eq!(reason(second), "stream.already_open");
}
