//! Runtime nodes at the level of the service: a real database, time that stands until it is moved, a policy
//! and sessions that a test turns as it likes. One file for each half of the ledger's area N.

mod joining;
mod presence;
mod writing;

use super::*;
use crate::{
    clock::ManualClock,
    data_dir::InstanceId,
    keys::{Keys, NewKey},
    storage::SessionRow,
    telemetry::Metrics,
};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    pin::Pin,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};
use tidegate_policy::{Admission, Decision, DecisionId, Digest, FailureCause, GenerationId};

/// A policy that counts how often it is asked.
#[derive(Debug)]
pub(super) struct TestPolicy {
    generation: AtomicU64,
    asked: AtomicUsize,
    says: Mutex<Says>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// As the default component: by numbers.
    Numbers,
    NobodyWrites,
    NobodyJoins,
    Fails(FailureCause),
    /// Another generation comes while it thinks, once; its own answer is then of the old one.
    SwappedMeanwhile,
}

#[derive(Debug, Default)]
pub(super) struct TestPlaces {
    open: Mutex<HashSet<SessionId>>,
    /// How many calls the bucket still holds; `None`: calls are not limited.
    bucket: Mutex<Option<u32>>,
}

pub(super) struct Bed {
    pub(super) nodes: Nodes,
    pub(super) storage: Storage,
    pub(super) clock: Arc<ManualClock>,
    pub(super) policy: Arc<TestPolicy>,
    pub(super) places: Arc<TestPlaces>,
    pub(super) caller: Caller,
    pub(super) other: Caller,
    pub(super) metrics: Metrics,
    _folder: tempfile::TempDir,
}

// === impl TestPolicy ===

impl TestPolicy {
    pub(super) fn swap(&self, says: Says) {
        *self.says.lock() = says;
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn answer(&self, version: &str, floor: Option<&str>) -> Decision<Admission> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let generation = self.generation();
        let says = *self.says.lock();
        let numbers = |text: &str| {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?))
        };
        let by_numbers = match floor {
            Some(floor) if numbers(version) < numbers(floor) => Admission::ReadOnly,
            _ => Admission::ReadWrite,
        };
        let refused = || Admission::Refused { reason: "not today".into() };
        let (value, cause) = match says {
            Says::Numbers => (by_numbers, None),
            Says::NobodyWrites => (Admission::ReadOnly, None),
            Says::NobodyJoins => (refused(), None),
            Says::Fails(cause) => (refused(), Some(cause)),
            Says::SwappedMeanwhile => {
                self.swap(Says::NobodyWrites);
                (Admission::ReadWrite, None)
            }
        };
        Decision { id: DecisionId::default(), generation, digest: Digest([0; 32]), value, rule: None, cause }
    }
}

impl FloorPolicy for TestPolicy {
    fn generation(&self) -> GenerationId {
        GenerationId(self.generation.load(Ordering::SeqCst))
    }

    fn admit<'a>(
        &'a self,
        _kind: &'a str,
        version: &'a str,
        floor: Option<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Decision<Admission>> + Send + 'a>> {
        Box::pin(async move { self.answer(version, floor) })
    }
}

impl Places for TestPlaces {
    fn enter(&self, _: &Caller, session: &str) -> Result<SessionId> {
        SessionId::parse(session)
            .filter(|session| self.is_open(session))
            .ok_or_else(|| Error::new(Code::SessionNotPermitted, "this key has no such session"))
    }

    fn is_open(&self, session: &SessionId) -> bool {
        self.open.lock().contains(session)
    }

    fn admit<'a>(&'a self, _: &'a Caller) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        let left = match &mut *self.bucket.lock() {
            None => Ok(()),
            Some(0) => Err(Error::new(Code::RateLimited, "the bucket is empty")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        };
        Box::pin(async { left })
    }

    fn allow<'a>(&'a self, _: &'a Caller, _: &'a SessionId) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>> {
        Box::pin(async { Ok(()) })
    }
}

// === impl Bed ===

impl Bed {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let instance = InstanceId::parse("00112233445566778899aabbccddeeff").expect("an id");
        let metrics = Metrics::new();
        let path = folder.path().join("tidegate.db");
        let storage = Storage::open(&path, &instance, metrics.storage.clone()).expect("opens");
        let keys = Keys::load(storage.clone(), metrics.keys.clone()).await.expect("loads");
        let mut callers = Vec::new();
        for _ in 0..2 {
            let (info, _secret) = keys.create(NewKey::default()).await.expect("a key");
            callers.push(Caller {
                key: keys.get(&info.id).expect("live"),
                peer: None,
                certificate: Default::default(),
            });
        }
        let policy =
            TestPolicy { generation: AtomicU64::new(1), asked: AtomicUsize::new(0), says: Mutex::new(Says::Numbers) };
        let (clock, policy) = (Arc::new(ManualClock::new()), Arc::new(policy));
        let places = Arc::<TestPlaces>::default();
        let nodes = load(&storage, &clock, &policy, &places, &metrics, NODES_MAX).await;
        let (other, caller) = (callers.remove(1), callers.remove(0));
        Self { nodes, storage, clock, policy, places, caller, other, metrics, _folder: folder }
    }

    /// As a gateway that starts again on the same database.
    pub(super) async fn restart(&mut self) {
        self.restart_within(NODES_MAX).await;
    }

    /// The same, where only so many nodes have room.
    pub(super) async fn restart_within(&mut self, capacity: usize) {
        self.nodes = load(&self.storage, &self.clock, &self.policy, &self.places, &self.metrics, capacity).await;
    }

    /// From now on the bucket of calls holds so many.
    pub(super) fn limit_calls(&self, calls: u32) {
        *self.places.bucket.lock() = Some(calls);
    }

    /// A session with its record and its membership.
    pub(super) async fn session(&self) -> SessionId {
        let id = SessionId::mint();
        let row = SessionRow {
            id: id.clone(),
            owner: Some(self.caller.key.id.clone()),
            name: "line-1".into(),
            tag: "line-1".into(),
            backend: "sim".into(),
            opened_unix_ms: self.clock.unix_ms() as i64,
            end: None,
        };
        self.storage.session_opened(row).await.expect("recorded");
        self.places.open.lock().insert(id.clone());
        id
    }

    pub(super) fn close(&self, session: &SessionId) {
        self.places.open.lock().remove(session);
    }

    pub(super) async fn attach(&self, node: &str, session: &SessionId, version: &str) -> Result<Attachment> {
        self.attach_as(&self.caller, node, session, version).await.map(|(attached, _)| attached)
    }

    pub(super) async fn attach_as(
        &self,
        caller: &Caller,
        node: &str,
        session: &SessionId,
        version: &str,
    ) -> Result<(Attachment, Judged)> {
        let asked = Attach {
            node: node.into(),
            session: session.to_string(),
            kind: "historian".into(),
            version: version.into(),
            capabilities: vec!["read".into()],
        };
        self.nodes.attach(caller, asked).await
    }

    pub(super) async fn beat(&self, node: &str, session: &SessionId) -> Result<NodeState> {
        self.report(node, session, Report::Online).await
    }

    pub(super) async fn report(&self, node: &str, session: &SessionId, report: Report) -> Result<NodeState> {
        self.nodes.heartbeat(&self.caller, node, session.as_str(), report).await.map(|(state, _)| state)
    }

    pub(super) async fn write(&self, node: &str, session: &SessionId) -> Result<()> {
        self.nodes.check_write(&self.caller, session, node).await
    }

    /// Lets time pass with a sweep every five seconds; what the sweeps did, added up.
    pub(super) async fn pass(&self, seconds: u64) -> Swept {
        let mut all = Swept::default();
        for _ in 0..seconds / 5 {
            self.clock.advance_ms(5_000);
            let swept = self.nodes.sweep().await.expect("sweeps");
            all.degraded += swept.degraded;
            all.offline += swept.offline;
            all.ended += swept.ended;
            all.saved += swept.saved;
            all.excused_ms += swept.excused_ms;
        }
        self.clock.advance_ms(seconds % 5 * 1_000);
        all
    }

    /// The stored state.
    pub(super) async fn stored(&self, node: &str, session: &SessionId) -> NodeRow {
        let node = NodeId::parse(node).expect("an id");
        self.storage.node(node, session.clone()).await.expect("reads").expect("a row")
    }

    pub(super) async fn state(&self, node: &str, session: &SessionId) -> NodeState {
        self.stored(node, session).await.state
    }

    /// Everything about sessions that nodes must not touch.
    pub(super) async fn sessions_and_memberships(&self) -> Vec<String> {
        let mut rows = self.storage.dump("SELECT rowid, * FROM sessions ORDER BY id").await;
        rows.extend(self.storage.dump("SELECT * FROM session_memberships ORDER BY session_id, member").await);
        assert!(rows.len() >= 2, "there is something that could change");
        rows
    }
}

pub(super) fn code<T: fmt::Debug>(result: Result<T>) -> &'static str {
    result.expect_err("refused").code().as_str()
}

async fn load(
    storage: &Storage,
    clock: &Arc<ManualClock>,
    policy: &Arc<TestPolicy>,
    places: &Arc<TestPlaces>,
    metrics: &Metrics,
    capacity: usize,
) -> Nodes {
    let context = Context {
        storage: storage.clone(),
        clock: clock.clone(),
        policy: policy.clone(),
        places: places.clone(),
        metrics: metrics.nodes.clone(),
    };
    Nodes::load_within(context, capacity).await.expect("loads")
}
