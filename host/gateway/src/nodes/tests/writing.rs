//! The version floor at the writes of nodes: N-02, N-03, N-04, N-11.

use super::*;

// shows: N-02
#[tokio::test]
async fn n02_at_or_above_the_floor_a_node_writes() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    bed.nodes.set_floor(Some("1.9")).await.expect("set");
    for (node, version) in [("equal", "1.9"), ("ten", "1.10"), ("major", "2.0")] {
        let (_, judged) = bed.attach_as(&bed.caller, node, &session, version).await.expect("admitted");
        assert!(judged.may_write, "{version}");
        bed.write(node, &session).await.expect("read-write");
    }
}

// shows: N-03
#[tokio::test]
async fn n03_below_the_floor_a_node_joins_and_only_reads() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    bed.nodes.set_floor(Some("1.10")).await.expect("set");
    for (node, version) in [("nine", "1.9"), ("zero", "0.99")] {
        let (attached, judged) = bed.attach_as(&bed.caller, node, &session, version).await.expect("admitted");
        assert!(!judged.may_write && attached.row.state == NodeState::Registering, "{version}");
        assert_eq!(bed.beat(node, &session).await.expect("heard"), NodeState::Online);
        assert_eq!(code(bed.write(node, &session).await), "version.floor_exceeded");
    }
    for wrong in ["", "1", "1.9.0", "01.9", "latest"] {
        assert_eq!(code(bed.nodes.set_floor(Some(wrong)).await), "version.malformed", "{wrong:?}");
    }
    assert_eq!(bed.nodes.floor().await.expect("sound").floor.as_deref(), Some("1.10"));
}

// shows: N-03
#[tokio::test]
async fn n03_a_malformed_stored_floor_is_loud_and_stops_writes_but_not_reads() {
    let mut bed = Bed::new().await;
    let session = bed.session().await;
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.beat("n", &session).await.expect("heard");
    bed.storage.execute("UPDATE version_floor SET floor = '1.9.0'").await;
    for after_a_restart in [false, true] {
        if after_a_restart {
            bed.restart().await;
        }
        bed.pass(5).await;
        assert!(bed.nodes.trouble().is_some_and(|words| words.contains("malformed")), "the health page says so");
        let error = bed.write("n", &session).await.expect_err("never an admission");
        assert_eq!((error.code(), error.code().class()), (Code::VersionFloorMalformed, crate::error::Class::DataLoss));
        assert_eq!(code(bed.attach("new", &session, "9.9").await), "version.floor_malformed");
        assert_eq!(bed.beat("n", &session).await.expect("it stays"), NodeState::Online);
        let (page, _) = bed.nodes.list(&Holder::Operator, None, false, 0, 0).await.expect("reads go on");
        assert_eq!(page.len(), 1);
    }
    assert_eq!(bed.policy.asked(), 1, "a damaged floor is not even asked about");
    bed.nodes.set_floor(Some("1.0")).await.expect("mended");
    assert_eq!(bed.nodes.trouble(), None);
    bed.write("n", &session).await.expect("writes again");
}

// shows: N-03
#[tokio::test]
async fn n03_a_floor_that_was_lost_or_set_back_is_damage_and_setting_it_mends_it_at_once() {
    let mut bed = Bed::new().await;
    let session = bed.session().await;
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.beat("n", &session).await.expect("heard");
    for floor in [Some("0.5"), None, Some("0.6"), None] {
        bed.nodes.set_floor(floor).await.expect("set");
    }
    let forget = "DELETE FROM version_floor";
    for (damage, name) in [
        (forget, "lost"),
        ("UPDATE version_floor SET floor = '0.1', revision = 1", "rewound"),
        ("UPDATE version_floor SET floor = 'junk', revision = 0", "malformed"),
    ] {
        // Nobody has noticed yet: what is set is in force nevertheless.
        bed.storage.execute(damage).await;
        let set = bed.nodes.set_floor(Some("2.0")).await.expect("set");
        assert_eq!(code(bed.write("n", &session).await), "version.floor_exceeded", "{name}");
        assert_eq!(bed.nodes.floor().await.expect("sound"), set);
        bed.pass(5).await;
        assert_eq!(code(bed.write("n", &session).await), "version.floor_exceeded", "{name}, after a sweep");
        bed.nodes.set_floor(None).await.expect("cleared");
        bed.write("n", &session).await.expect("no floor");

        // The sweep notices, and does the rest of its work.
        bed.storage.execute(damage).await;
        let swept = bed.pass(30).await;
        assert_eq!(swept.saved, 1, "{name}: signs of life are saved nevertheless");
        let error = bed.write("n", &session).await.expect_err("never an admission");
        assert_eq!(error.code(), Code::VersionFloorMalformed, "{name}");
        assert!(error.details().contains(&("damage", name.into())), "{error:?}");
        assert!(bed.nodes.trouble().is_some(), "{name} is on the health page");
        assert_eq!(code(bed.nodes.floor().await), "version.floor_malformed", "{name} is told to whom asks");
        assert_eq!(code(bed.attach("new", &session, "9.9").await), "version.floor_malformed");
        assert_eq!(bed.beat("n", &session).await.expect("it stays"), NodeState::Online);
        let mended = bed.nodes.set_floor(None).await.expect("mended");
        assert!(mended.revision > set.revision, "{name}: revisions only rise");
        assert_eq!(bed.nodes.trouble(), None);
        bed.write("n", &session).await.expect("writes again");
    }
    bed.storage.execute(forget).await;
    bed.restart().await;
    assert_eq!(code(bed.write("n", &session).await), "version.floor_malformed", "a start without the row");
    bed.nodes.set_floor(Some("1.0")).await.expect("mended");
    bed.write("n", &session).await.expect("writes again");
    bed.storage.execute("DROP TABLE version_floor").await;
    bed.pass(5).await;
    assert_eq!(code(bed.write("n", &session).await), "version.floor_malformed", "as lost as a row");
}

// shows: N-03
#[tokio::test]
async fn n03_a_look_at_the_floor_that_comes_late_changes_nothing() {
    let bed = Bed::new().await;
    let floors = &bed.nodes.shared.floors;
    let (turn, old) = (floors.turn(), bed.storage.version_floor().await.expect("reads"));
    let set = bed.nodes.set_floor(Some("2.0")).await.expect("set");
    floors.found(turn, old.clone());
    floors.found(turn, None);
    assert_eq!(floors.present().expect("sound"), set, "the look began before the floor was set");
    floors.found(floors.turn(), old);
    assert!(floors.present().is_err(), "one that began afterwards and finds an older floor tells of damage");
}

// shows: N-04, N-11
#[tokio::test]
async fn n04_a_read_only_nodes_write_is_refused_and_the_node_stays() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    bed.attach("n", &session, "1.9").await.expect("joined");
    bed.beat("n", &session).await.expect("heard");
    bed.nodes.set_floor(Some("1.10")).await.expect("set");
    let before = bed.stored("n", &session).await;
    let error = bed.write("n", &session).await.expect_err("below the floor");
    assert_eq!(error.code().as_str(), "version.floor_exceeded");
    assert_eq!(error.code().class(), crate::error::Class::FailedPrecondition);
    for detail in [("node_id", "n"), ("version", "1.9"), ("floor", "1.10"), ("generation", "1")] {
        assert!(error.details().contains(&(detail.0, detail.1.into())), "{detail:?} in {error:?}");
    }
    assert_eq!(bed.stored("n", &session).await, before, "it stays attached, and nothing is stored of the verdict");
    assert_eq!(bed.beat("n", &session).await.expect("heard"), NodeState::Online);
    assert_eq!(bed.metrics.nodes.writes_refused.get(), 1);
    let columns =
        bed.storage.dump("SELECT group_concat(name) FROM pragma_table_info('runtime_node_attachments')").await;
    assert!(!columns[0].contains("access") && !columns[0].contains("read_only"), "{columns:?}");
}

// shows: N-04
#[tokio::test]
async fn n04_verdicts_are_kept_by_generation_floor_version_and_kind() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    for node in ["a", "b", "c"] {
        bed.attach(node, &session, "1.0").await.expect("joined");
        for _ in 0..100 {
            bed.write(node, &session).await.expect("written");
        }
    }
    assert_eq!(bed.policy.asked(), 1, "one version, one kind, one floor, one generation: one question");
    bed.attach("d", &session, "1.1").await.expect("joined");
    assert_eq!(bed.policy.asked(), 2, "another version");
    let other_kind = Attach {
        node: "e".into(),
        session: session.to_string(),
        kind: "panel".into(),
        version: "1.0".into(),
        capabilities: vec![],
    };
    bed.nodes.attach(&bed.caller, other_kind).await.expect("joined");
    assert_eq!(bed.policy.asked(), 3, "another kind");
    bed.nodes.set_floor(Some("1.0")).await.expect("set");
    bed.write("a", &session).await.expect("written");
    assert_eq!(bed.policy.asked(), 4, "another floor");
    bed.policy.swap(Says::Numbers);
    bed.write("a", &session).await.expect("written");
    bed.write("a", &session).await.expect("written");
    assert_eq!(bed.policy.asked(), 5, "another generation");
}

// shows: N-04
#[tokio::test]
async fn n04_a_swap_or_a_moved_floor_reaches_attached_nodes_at_their_next_write() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    let attached = bed.attach("n", &session, "1.5").await.expect("joined").row;
    bed.beat("n", &session).await.expect("heard");
    bed.write("n", &session).await.expect("no floor");
    bed.nodes.set_floor(Some("1.6")).await.expect("raised");
    assert_eq!(code(bed.write("n", &session).await), "version.floor_exceeded");
    bed.nodes.set_floor(Some("1.5")).await.expect("lowered");
    bed.write("n", &session).await.expect("at the floor");
    bed.policy.swap(Says::NobodyWrites);
    assert_eq!(code(bed.write("n", &session).await), "version.floor_exceeded");
    bed.policy.swap(Says::Numbers);
    bed.write("n", &session).await.expect("the old rules are back");
    bed.nodes.set_floor(None).await.expect("cleared");
    bed.write("n", &session).await.expect("no floor");
    let now = bed.stored("n", &session).await;
    assert_eq!((now.seq, now.attached_unix_ms), (attached.seq, attached.attached_unix_ms), "no re-attach");
}

// shows: N-04, X-17
#[tokio::test]
async fn n04_a_late_verdict_and_a_failing_policy_admit_nobody() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.policy.swap(Says::SwappedMeanwhile);
    assert_eq!(code(bed.write("n", &session).await), "version.floor_exceeded", "the late yes is thrown away");
    for (cause, wanted) in [
        (FailureCause::Trap, "policy.failed"),
        (FailureCause::Timeout, "policy.failed"),
        (FailureCause::QueueFull, "policy.busy"),
    ] {
        bed.policy.swap(Says::Fails(cause));
        assert_eq!(code(bed.write("n", &session).await), wanted);
        assert_eq!(code(bed.attach("m", &session, "1.0").await), wanted);
        let asked = bed.policy.asked();
        assert_eq!(code(bed.write("n", &session).await), wanted);
        assert_eq!(bed.policy.asked(), asked + 1, "a failure is not kept");
    }
    bed.policy.swap(Says::NobodyJoins);
    assert_eq!(code(bed.write("n", &session).await), "version.refused");
    assert_eq!(code(bed.attach("m", &session, "1.0").await), "version.refused");
    assert_eq!(bed.beat("n", &session).await.expect("it stays"), NodeState::Online);
}
