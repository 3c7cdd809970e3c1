//! Attaching, detaching, conflicts, revocation, reports: N-01, N-05, N-07 to N-10.

use super::*;

// shows: N-01
#[tokio::test]
async fn n01_without_a_floor_every_version_joins_and_the_first_heartbeat_brings_it_online() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    for (node, version) in [("old", "0.1"), ("new", "4294967295.4294967295")] {
        let (attached, judged) = bed.attach_as(&bed.caller, node, &session, version).await.expect("admitted");
        assert!(judged.may_write && judged.floor.is_none());
        assert_eq!((attached.row.state, attached.last_heartbeat_unix_ms), (NodeState::Registering, None));
        bed.write(node, &session).await.expect("read-write from the start");
        assert_eq!(bed.beat(node, &session).await.expect("heard"), NodeState::Online);
        assert_eq!(bed.state(node, &session).await, NodeState::Online);
    }
    for wrong in ["", "1", "1.2.3", "v1.2", "1.02", "1. 2", "+1.2", "1.4294967296", "٣.١"] {
        assert_eq!(code(bed.attach("odd", &session, wrong).await), "version.malformed", "{wrong:?}");
    }
    for wrong in ["", "with blank", "ä", &"x".repeat(129)] {
        assert_eq!(code(bed.attach(wrong, &session, "1.0").await), "request.invalid", "{wrong:?}");
    }
    assert_eq!(code(bed.attach("n", &SessionId::mint(), "1.0").await), "session.not_permitted");
}

// shows: N-05, N-07
#[tokio::test]
async fn n05_several_nodes_on_one_session_leave_its_rows_byte_for_byte() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    let before = bed.sessions_and_memberships().await;
    for node in ["a", "b", "c"] {
        bed.attach(node, &session, "1.0").await.expect("joined");
        bed.beat(node, &session).await.expect("heard");
    }
    let (page, _) = bed.nodes.list(&Holder::Operator, Some(session.as_str()), false, 0, 0).await.expect("listed");
    assert_eq!(page.iter().map(|one| one.row.node.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(page.iter().all(|one| one.row.state == NodeState::Online));
    assert_eq!(bed.sessions_and_memberships().await, before);
}

// shows: N-07
#[tokio::test]
async fn n07_no_transition_touches_sessions_or_memberships() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    let before = bed.sessions_and_memberships().await;
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.beat("n", &session).await.expect("heard");
    let fresh = vec!["x".to_owned()];
    bed.nodes.capability_update(&bed.caller, "n", session.as_str(), fresh, None).await.expect("taken");
    bed.pass(70).await;
    bed.beat("n", &session).await.expect("back");
    bed.nodes.detach(&bed.caller, "n", session.as_str()).await.expect("left");
    bed.attach("n", &session, "1.0").await.expect("again");
    bed.nodes.revoke("n", None).await.expect("revoked");
    bed.nodes.set_floor(Some("2.0")).await.expect("set");
    bed.close(&session);
    bed.pass(5).await;
    assert_eq!(bed.sessions_and_memberships().await, before);
}

// shows: N-08
#[tokio::test]
async fn n08_a_node_active_elsewhere_is_refused_without_naming_the_other_session() {
    let bed = Bed::new().await;
    let (first, second) = (bed.session().await, bed.session().await);
    let attached = bed.attach("n", &first, "1.0").await.expect("joined");
    let error = bed.attach("n", &second, "1.0").await.expect_err("active elsewhere");
    assert_eq!(error.code().as_str(), "runtimenode.attach_conflict");
    assert!(!format!("{error:?}").contains(first.as_str()), "{error:?}");

    bed.clock.advance_ms(1_000);
    let left = bed.nodes.detach(&bed.caller, "n", first.as_str()).await.expect("left");
    assert_eq!(left.row.state, NodeState::Offline);
    bed.nodes.detach(&bed.caller, "n", first.as_str()).await.expect("twice is no error");
    assert_eq!(code(bed.beat("n", &first).await), "runtimenode.state");
    assert_eq!(code(bed.write("n", &first).await), "runtimenode.state");
    bed.attach("n", &second, "1.0").await.expect("free now");
    bed.nodes.detach(&bed.caller, "n", second.as_str()).await.expect("left");

    let again = bed.attach("n", &first, "1.1").await.expect("the offline row comes back");
    assert_eq!((again.row.seq, again.row.state), (attached.row.seq, NodeState::Registering));
    assert!(again.row.attached_unix_ms > attached.row.attached_unix_ms);
    assert_eq!(bed.storage.dump("SELECT count(*) FROM runtime_node_attachments").await, ["2"]);
}

// shows: N-08
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn n08_of_64_concurrent_attaches_to_64_sessions_exactly_one_wins() {
    let bed = Arc::new(Bed::new().await);
    let mut sessions = Vec::new();
    for _ in 0..64 {
        sessions.push(bed.session().await);
    }
    for round in 0..5 {
        let start = Arc::new(tokio::sync::Barrier::new(64));
        let attaches: Vec<_> = sessions
            .iter()
            .cloned()
            .map(|session| {
                let (bed, start) = (bed.clone(), start.clone());
                tokio::spawn(async move {
                    start.wait().await;
                    (bed.attach("n", &session, "1.0").await, session)
                })
            })
            .collect();
        let mut winners = Vec::new();
        for attach in attaches {
            match attach.await.expect("no panic") {
                (Ok(_), session) => winners.push(session),
                (Err(error), _) => assert_eq!(error.code(), Code::NodeAttachConflict, "{error}"),
            }
        }
        assert_eq!(winners.len(), 1, "round {round}");
        let active = "SELECT session_id FROM runtime_node_attachments WHERE state = 'registering'";
        assert_eq!(bed.storage.dump(active).await, [winners[0].as_str()]);
        bed.nodes.detach(&bed.caller, "n", winners[0].as_str()).await.expect("left");
    }
}

// shows: N-08
#[tokio::test]
async fn n08_a_silent_node_may_go_elsewhere_and_its_old_place_stays_closed() {
    let bed = Bed::new().await;
    let (first, second) = (bed.session().await, bed.session().await);
    bed.attach("n", &first, "1.0").await.expect("joined");
    bed.beat("n", &first).await.expect("heard");
    bed.pass(65).await;
    assert_eq!(bed.state("n", &first).await, NodeState::Offline);
    bed.attach("n", &second, "1.0").await.expect("an offline node is active nowhere");
    assert_eq!(code(bed.beat("n", &first).await), "runtimenode.attach_conflict");
    bed.nodes.detach(&bed.caller, "n", second.as_str()).await.expect("left");
    assert_eq!(bed.beat("n", &first).await.expect("free again"), NodeState::Online);
}

// shows: N-08
#[tokio::test]
async fn n08_another_keys_attachment_is_as_if_it_were_not_there() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    bed.attach("n", &session, "1.0").await.expect("joined");
    let (other, id) = (&bed.other, session.as_str());
    let conflict = bed.attach_as(other, "n", &session, "1.0").await.map(|_| ());
    assert_eq!(code(conflict), "runtimenode.attach_conflict");
    assert_eq!(code(bed.nodes.heartbeat(other, "n", id, Report::Online).await), "runtimenode.unknown");
    assert_eq!(code(bed.nodes.detach(other, "n", id).await), "runtimenode.unknown");
    assert_eq!(code(bed.nodes.capability_update(other, "n", id, vec![], None).await), "runtimenode.unknown");
    assert_eq!(code(bed.nodes.check_write(other, &session, "n").await), "runtimenode.unknown");
    assert_eq!(code(bed.nodes.heartbeat(other, "stranger", id, Report::Online).await), "runtimenode.unknown");
    let (page, _) = bed.nodes.list(&Holder::from(other), None, true, 0, 0).await.expect("listed");
    assert!(page.is_empty());
    let (page, _) = bed.nodes.list(&Holder::from(&bed.caller), None, true, 0, 0).await.expect("listed");
    assert_eq!(page.len(), 1);
    assert_eq!(bed.state("n", &session).await, NodeState::Registering, "nothing has changed");
}

// shows: N-09
#[tokio::test]
async fn n09_revoked_is_terminal() {
    let mut bed = Bed::new().await;
    let (session, elsewhere) = (bed.session().await, bed.session().await);
    bed.attach("n", &session, "1.0").await.expect("joined");
    assert_eq!(bed.nodes.revoke("n", Some(session.as_str())).await.expect("revoked"), 1);
    assert_eq!(bed.nodes.revoke("n", None).await.expect("twice is no error"), 0);
    assert_eq!(code(bed.nodes.revoke("nobody", None).await), "runtimenode.unknown");
    for after_a_restart in [false, true] {
        if after_a_restart {
            bed.restart().await;
        }
        let id = session.as_str();
        assert_eq!(code(bed.attach("n", &session, "1.0").await), "runtimenode.attach_revoked");
        assert_eq!(code(bed.beat("n", &session).await), "runtimenode.attach_revoked");
        assert_eq!(code(bed.write("n", &session).await), "runtimenode.attach_revoked");
        assert_eq!(code(bed.nodes.detach(&bed.caller, "n", id).await), "runtimenode.attach_revoked");
        let update = bed.nodes.capability_update(&bed.caller, "n", id, vec![], None).await;
        assert_eq!(code(update), "runtimenode.attach_revoked");
        bed.pass(70).await;
        assert_eq!(bed.state("n", &session).await, NodeState::Revoked);
    }
    bed.attach("n", &elsewhere, "1.0").await.expect("another session is another row");
}

// shows: N-10
#[tokio::test]
async fn n10_reports_refresh_the_active_row_on_the_servers_clock() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    let update = async |report| {
        let fresh = vec!["write".to_owned(), "alarms".to_owned(), "write".to_owned()];
        bed.nodes.capability_update(&bed.caller, "n", session.as_str(), fresh, report).await
    };
    assert_eq!(code(update(None).await), "runtimenode.unknown");
    let attached = bed.attach("n", &session, "1.0").await.expect("joined").row;
    bed.clock.advance_ms(1_000);
    let refused = update(Some(Report::Online)).await.expect_err("a registering node is not online by saying so");
    assert_eq!(refused.code(), Code::NodeNotInState);
    assert!(refused.details().contains(&("state", "registering".into())), "{refused:?}");
    let refreshed = update(None).await.expect("capabilities alone").row;
    assert_eq!(*refreshed.capabilities, ["alarms", "write"]);
    assert_eq!(refreshed.state, NodeState::Registering);
    assert_eq!(refreshed.attached_unix_ms, attached.attached_unix_ms);
    assert_eq!(refreshed.updated_unix_ms, bed.clock.unix_ms() as i64);

    bed.beat("n", &session).await.expect("heard");
    assert_eq!(update(Some(Report::Degraded)).await.expect("it says so").row.state, NodeState::Degraded);
    assert_eq!(update(Some(Report::Online)).await.expect("it says so").row.state, NodeState::Online);
    assert_eq!(bed.report("n", &session, Report::Degraded).await.expect("heard"), NodeState::Degraded);
    assert_eq!(bed.report("n", &session, Report::Degraded).await.expect("heard"), NodeState::Degraded);
    bed.nodes.detach(&bed.caller, "n", session.as_str()).await.expect("left");
    assert_eq!(code(update(None).await), "runtimenode.state");
    let many = vec!["x".to_owned(); 65];
    let many = many.iter().enumerate().map(|(n, x)| format!("{x}{n}")).collect();
    let refused = bed.nodes.capability_update(&bed.caller, "n", session.as_str(), many, None).await;
    assert_eq!(code(refused), "request.invalid");
}

// shows: N-05
#[tokio::test]
async fn a_list_comes_in_pages() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    for n in 0..5 {
        bed.attach(&format!("n{n}"), &session, "1.0").await.expect("joined");
    }
    bed.nodes.detach(&bed.caller, "n1", session.as_str()).await.expect("left");
    let (mut seen, mut after) = (Vec::new(), Some(0));
    while let Some(from) = after {
        let (page, next) = bed.nodes.list(&Holder::Operator, None, false, from, 2).await.expect("listed");
        assert!(page.len() <= 2);
        seen.extend(page.into_iter().map(|one| one.row.node.to_string()));
        after = next;
    }
    assert_eq!(seen, ["n0", "n2", "n3", "n4"]);
}

// shows: N-08, N-09
#[tokio::test]
async fn n09_of_those_that_left_an_open_session_the_newest_thousand_are_kept_and_all_that_were_revoked() {
    let bed = Bed::new().await;
    let (session, other) = (bed.session().await, bed.session().await);
    bed.attach("barred", &session, "1.0").await.expect("joined");
    bed.nodes.detach(&bed.caller, "barred", session.as_str()).await.expect("left");
    bed.nodes.revoke("barred", None).await.expect("revoked");
    bed.attach("stays", &session, "1.0").await.expect("joined");
    for (prefix, session) in [("left", &session), ("elsewhere", &other)] {
        bed.storage
            .execute(&format!(
                "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 1499) \
                 INSERT INTO runtime_node_attachments (node_id, session_id, key_id, kind, version, capabilities, state, \
                 attached_at_unix_ms, updated_at_unix_ms, detached_at_unix_ms) \
                 SELECT '{prefix}-' || i, '{session}', '{}', 'panel', '1.0', '[]', 'offline', 1, i, i FROM n",
                bed.caller.key.id
            ))
            .await;
    }
    for n in 0..3 {
        let node = format!("fresh-{n}");
        bed.attach(&node, &session, "1.0").await.expect("joined");
        bed.nodes.detach(&bed.caller, &node, session.as_str()).await.expect("left");
    }
    let left =
        "SELECT session_id, count(*) FROM runtime_node_attachments WHERE state = 'offline' GROUP BY 1 ORDER BY 2";
    assert_eq!(bed.storage.dump(left).await, [format!("{session}|1000"), format!("{other}|1500")]);
    let oldest = "SELECT min(detached_at_unix_ms) FROM runtime_node_attachments WHERE node_id LIKE 'left-%'";
    assert_eq!(bed.storage.dump(oldest).await, ["503"], "the oldest went, and what left just now is there");
    assert_eq!(bed.state("fresh-2", &session).await, NodeState::Offline);
    assert_eq!(code(bed.beat("left-7", &session).await), "runtimenode.unknown");
    bed.attach("left-7", &session, "1.0").await.expect("as a new one");
    assert_eq!(code(bed.attach("barred", &session, "1.0").await), "runtimenode.attach_revoked");
    assert_eq!(bed.beat("stays", &session).await.expect("joined ones are not touched"), NodeState::Online);
}

#[tokio::test]
async fn a_key_attaches_its_share_and_leaves_room_for_others() {
    let mut bed = Bed::new().await;
    let session = bed.session().await;
    bed.restart_within(16).await;
    let attach = async |caller: &Caller, node: &str| bed.attach_as(caller, node, &session, "1.0").await;
    for n in 0..12 {
        attach(&bed.caller, &format!("n{n}")).await.expect("three quarters");
    }
    let error = attach(&bed.caller, "n12").await.expect_err("the others' room");
    assert_eq!(error.code(), Code::NodeLimit);
    for detail in [("bound", "key"), ("attached", "12"), ("free", "4")] {
        assert!(error.details().contains(&(detail.0, detail.1.into())), "{detail:?} in {error:?}");
    }
    attach(&bed.caller, "n0").await.expect("attaching again takes no room");
    for n in 0..3 {
        attach(&bed.other, &format!("m{n}")).await.expect("another key has room");
    }
    assert_eq!(code(attach(&bed.other, "m3").await), "runtimenode.limit");
    bed.nodes.detach(&bed.caller, "n0", session.as_str()).await.expect("left");
    assert_eq!(code(attach(&bed.caller, "n12").await), "runtimenode.limit", "11 are more than three times 2");
    attach(&bed.other, "m3").await.expect("room again");
    bed.restart_within(15).await;
    let error = bed.attach_as(&bed.other, "m4", &session, "1.0").await.expect_err("no room at all");
    assert!(error.details().contains(&("bound", "gateway".into())), "counted again at a start: {error:?}");
}
