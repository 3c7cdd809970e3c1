//! The tables of runtime nodes: what their CHECKs and indexes refuse, the way from the schema before them,
//! and copies that a crash tore. Knows the inside of the module.

use super::{nodes::NodeState, open::*, *};
use crate::{
    ids::{KeyId, NodeId, SessionId},
    telemetry::Metrics,
};
use std::{collections::BTreeSet, fs};

struct Bed {
    folder: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tidegate.db")
    }

    fn open(&self) -> Storage {
        let instance = InstanceId::parse("00112233445566778899aabbccddeeff").expect("an id");
        Storage::open(&self.path(), &instance, Metrics::new().storage).expect("opens")
    }
}

fn row(node: &str, state: NodeState) -> NodeRow {
    NodeRow {
        seq: 0,
        node: NodeId::parse(node).expect("an id"),
        session: SessionId::mint(),
        key: KeyId::mint(),
        kind: "panel".into(),
        version: "1.0".into(),
        capabilities: vec!["read".to_owned()].into(),
        state,
        attached_unix_ms: 1,
        updated_unix_ms: 2,
        detached_unix_ms: None,
    }
}

// shows: N-05
#[tokio::test]
async fn the_schema_before_nodes_is_migrated_with_its_owners_as_members() {
    let bed = Bed::new();
    let old = writer_with(&bed.path(), &MIGRATIONS[..2]).expect("schema 2");
    old.execute_batch(
        "INSERT INTO sessions (id, owner, name, tag, backend, opened_unix_ms) VALUES \
         ('session-00000000000000000000000000000001', 'k0123456789abcdef', 'a', '', 'sim', 5), \
         ('session-00000000000000000000000000000002', NULL, 'own', '', 'sim', 6)",
    )
    .expect("rows of old");
    drop(old);
    for already in [false, true] {
        let storage = bed.open();
        let members = storage.dump("SELECT * FROM session_memberships").await;
        assert_eq!(members, ["session-00000000000000000000000000000001|k0123456789abcdef|owner|5"], "{already}");
        assert_eq!(storage.version_floor().await.expect("reads").expect("a row").floor, None);
        storage.close().await;
    }
    let backup = Connection::open(backup_path(&bed.path(), 2)).expect("the backup opens");
    let sessions: i64 = backup.query_row("SELECT count(*) FROM sessions", [], |row| row.get(0)).expect("reads");
    let tables = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'runtime_node%'";
    let new: i64 = backup.query_row(tables, [], |row| row.get(0)).expect("reads");
    assert_eq!((sessions, new), (2, 0), "made before the first write");
}

// shows: N-08, N-10
#[tokio::test]
async fn checks_and_indexes_refuse_what_no_rule_would_write() {
    let bed = Bed::new();
    let storage = bed.open();
    let first = row("n", NodeState::Online);
    let stored = first.clone();
    let (node, session) = (first.node.clone(), first.session.clone());
    storage.edit_node(node.clone(), session.clone(), |_| Ok(Some(stored)), |_| {}).await.expect("stored");
    drop(storage);
    let db = writer(&bed.path()).expect("opens");
    let insert = |node: &str, state: &str, detached: &str| {
        db.execute(
            &format!(
                "INSERT INTO runtime_node_attachments (node_id, session_id, key_id, kind, version, capabilities, state, \
                 attached_at_unix_ms, updated_at_unix_ms, detached_at_unix_ms) \
                 VALUES (?1, ?2, 'k0123456789abcdef', 'panel', '1.0', '[]', ?3, 1, 1, {detached})"
            ),
            (node, SessionId::mint().as_str(), state),
        )
    };
    for (node, state, detached) in [
        // A second active row of the node.
        ("n", "registering", "NULL"),
        ("n", "degraded", "NULL"),
        ("m", "away", "NULL"),
        ("m", "online", "7"),
        ("", "online", "NULL"),
    ] {
        assert!(insert(node, state, detached).is_err(), "{node} {state} {detached}");
    }
    insert("n", "offline", "7").expect("one that left elsewhere");
    insert("n", "revoked", "NULL").expect("one that was revoked elsewhere");
    let presence = "INSERT INTO runtime_node_presence VALUES (?1, ?2, 9, ?3)";
    assert!(db.execute(presence, (node.as_str(), session.as_str(), "offline")).is_err(), "no node reports that");
    assert!(db.execute(presence, ("stranger", session.as_str(), "online")).is_err(), "nobody attached so");
    db.execute(presence, (node.as_str(), session.as_str(), "online")).expect("a report");
}

// shows: N-06, N-08
#[tokio::test]
async fn a_copy_torn_in_the_middle_of_any_transition_is_a_state_that_was() {
    let bed = Bed::new();
    let storage = bed.open();
    // The node wanders: attach, online, degraded, offline and free, attach elsewhere.
    let mut history: BTreeSet<Vec<String>> = BTreeSet::from([vec![]]);
    let all = "SELECT node_id, session_id, state FROM runtime_node_attachments ORDER BY seq";
    for _ in 0..6 {
        let mut next = row("n", NodeState::Registering);
        for state in [NodeState::Registering, NodeState::Online, NodeState::Degraded, NodeState::Offline] {
            next.state = state;
            next.detached_unix_ms = (state == NodeState::Offline).then_some(3);
            let (stored, at) = (next.clone(), (next.node.clone(), next.session.clone()));
            storage.edit_node(at.0, at.1, |_| Ok(Some(stored)), |_| {}).await.expect("stored");
            history.insert(storage.dump(all).await);
        }
    }
    let wal = fs::read(bed.path().with_extension("db-wal")).expect("a journal");
    let mut seen = BTreeSet::new();
    for cut in (0..wal.len()).step_by(4_001).chain([wal.len()]) {
        let copy = Bed::new();
        fs::copy(bed.path(), copy.path()).expect("copies");
        fs::write(copy.path().with_extension("db-wal"), &wal[..cut]).expect("writes");
        // A cut before the schema was whole is migrated anew.
        let torn = copy.open();
        let found = torn.dump(all).await;
        assert!(history.contains(&found), "cut at {cut}: {found:?}");
        seen.insert(found.len());
    }
    assert_eq!(seen.last(), Some(&6), "all that was acknowledged is in the whole copy");
    assert!(seen.len() > 4, "the cuts fell between transitions: {seen:?}");
}
