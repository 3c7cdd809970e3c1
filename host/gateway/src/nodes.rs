//! Runtime nodes: daemons that join sessions, tell how they are, and may be too old to write. Knows storage,
//! the version-floor policy and a clock; no transport, and of sessions only whether one may be used and is
//! open. Invariants: memory follows the commits in their order; whether a node may write is asked at each
//! write and never stored; sessions and memberships are never touched.

mod floor;
mod names;
mod places;
mod registry;
mod rules;
mod sweep;
#[cfg(test)]
mod tests;
mod watch;

pub use crate::storage::NodeState;
pub use floor::{FloorPolicy, Judged};
pub use names::Version;
pub use places::Places;
pub use rules::Report;
pub use sweep::Swept;
pub use watch::{Transition, Watched, Watcher};

use crate::{
    clock::Clock,
    error::{Code, Error, Result},
    ids::{KeyId, NodeId, SessionId},
    keys::Scope,
    sessions::Caller,
    storage::{FloorRow, NodeEdited, NodeQuery, NodeRow, Storage},
    telemetry::NodeMetrics,
};
use floor::Floors;
use registry::Registry;
use rules::Wanted;
use std::{fmt, sync::Arc, time::Duration};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use watch::WATCH_QUEUE;

/// How often a node sends a heartbeat. Required by N-06.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);
/// How many attachments are in memory; each takes about 500 bytes. Twice what issue 7 asks of a sweep.
const NODES_MAX: usize = 200_000;
/// A key may hold so many times what is still free: alone three quarters of all, and always less than is there, so
/// that no key, nor a few, can shut the others out.
const KEY_TIMES_FREE: usize = 3;
/// Attachments in one page of a list.
const PAGE_MAX: u32 = 1000;

/// All nodes of the gateway; a clone is the same set.
#[derive(Clone)]
pub struct Nodes {
    shared: Arc<Shared>,
}

struct Shared {
    storage: Storage,
    clock: Arc<dyn Clock>,
    places: Arc<dyn Places>,
    metrics: NodeMetrics,
    registry: Arc<Registry>,
    floors: Arc<Floors>,
    /// How many attachments there may be.
    capacity: usize,
    transitions: broadcast::Sender<Arc<Transition>>,
    sweeping: tokio::sync::Mutex<sweep::Memory>,
    stopping: CancellationToken,
}

/// What nodes work with; made by `app`.
#[derive(Debug)]
pub struct Context {
    pub storage: Storage,
    pub clock: Arc<dyn Clock>,
    pub policy: Arc<dyn FloorPolicy>,
    pub places: Arc<dyn Places>,
    pub metrics: NodeMetrics,
}

/// On whose account a call is made.
#[derive(Clone, Debug)]
pub enum Holder {
    /// A key sees what it attached; with `sessions:all`, everything.
    Key { id: KeyId, all: bool },
    /// The operator on the machine.
    Operator,
}

/// A node that wants to join.
#[derive(Clone, Debug, Default)]
pub struct Attach {
    pub node: String,
    pub session: String,
    pub kind: String,
    pub version: String,
    pub capabilities: Vec<String>,
}

/// One attachment as its surfaces show it.
#[derive(Clone, Debug)]
pub struct Attachment {
    pub row: Arc<NodeRow>,
    pub last_heartbeat_unix_ms: Option<i64>,
}

// === impl Holder ===

impl From<&Caller> for Holder {
    fn from(caller: &Caller) -> Self {
        Self::Key { id: caller.key.id.clone(), all: caller.key.has(Scope::SessionsAll) }
    }
}

impl Holder {
    fn holds(&self, row: &NodeRow) -> bool {
        match self {
            Self::Key { id, all } => *all || *id == row.key,
            Self::Operator => true,
        }
    }

    /// The only key whose attachments are seen.
    fn only_key(&self) -> Option<KeyId> {
        match self {
            Self::Key { id, all: false } => Some(id.clone()),
            _ => None,
        }
    }
}

// === impl Nodes ===

impl Nodes {
    /// Takes the joined attachments and the floor out of storage. Silence counts from now: while no gateway
    /// ran, no node could be heard.
    pub async fn load(context: Context) -> Result<Self> {
        Self::load_within(context, NODES_MAX).await
    }

    async fn load_within(context: Context, capacity: usize) -> Result<Self> {
        let Context { storage, clock, policy, places, metrics } = context;
        let registry = Arc::new(Registry::new(metrics.attached.clone()));
        for (row, last) in storage.joined_nodes().await? {
            registry.apply(&Arc::new(row), clock.monotonic_ms(), last);
        }
        let floors = Arc::new(Floors::new(storage.version_floor().await?, policy));
        let (transitions, _) = broadcast::channel(WATCH_QUEUE);
        let sweeping = tokio::sync::Mutex::new(sweep::Memory::new(clock.monotonic_ms()));
        let shared = Shared {
            storage,
            clock,
            places,
            metrics,
            registry,
            floors,
            capacity,
            transitions,
            sweeping,
            stopping: CancellationToken::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes a call's cost out of the caller's bucket, or refuses with the time to wait. Surfaces call it for everything
    /// but heartbeats: a node that could not send them would be taken for silent. `heartbeat` itself calls it for
    /// those that report something else than the one before.
    pub async fn admit(&self, caller: &Caller) -> Result<()> {
        self.shared.places.admit(caller).await
    }

    /// Joins (N-01, N-08, N-09). The policy is asked, so that what it does not admit at all stays out; its
    /// verdict is told to the node and forgotten.
    pub async fn attach(&self, caller: &Caller, asked: Attach) -> Result<(Attachment, Judged)> {
        let shared = &self.shared;
        let node = names::node(&asked.node)?;
        let kind: Arc<str> = names::kind(&asked.kind)?.into();
        let version: Arc<str> = Version::parse(&asked.version)?.to_string().into();
        let capabilities = names::capabilities(asked.capabilities)?;
        let session = shared.places.enter(caller, &asked.session)?;
        self.check_room(&caller.key.id, &node, &session)?;
        shared.places.allow(caller, &session).await?;
        let judged = shared.floors.judge(&kind, &version).await?;
        let now = shared.clock.unix_ms() as i64;
        let wanted = Wanted { node, session, key: caller.key.id.clone(), kind, version, capabilities };
        let (node, session) = (wanted.node.clone(), wanted.session.clone());
        let holder = Holder::from(caller);
        let edited =
            self.edit(node, session, "attach", true, move |old| rules::attach(old, wanted, &holder, now)).await?;
        Ok((self.shown(edited.row), judged))
    }

    /// Attaching again takes no room, unless another key's attachment is taken over.
    fn check_room(&self, key: &KeyId, node: &NodeId, session: &SessionId) -> Result<()> {
        let Shared { registry, capacity, .. } = &*self.shared;
        let there = registry.find(node, session);
        if there.as_ref().is_some_and(|entry| entry.row().key == *key) {
            return Ok(());
        }
        let free = capacity.saturating_sub(registry.len());
        let of_key = registry.of_key(key);
        if free == 0 && there.is_none() {
            let words = format!("{capacity} nodes are attached to this gateway, and no more may be");
            return Err(Error::new(Code::NodeLimit, words).with("bound", "gateway").with("limit", capacity));
        }
        if of_key >= KEY_TIMES_FREE * free {
            let words = format!("this key has {of_key} nodes attached, which is its share while {free} more fit");
            return Err(Error::new(Code::NodeLimit, words)
                .with("bound", "key")
                .with("attached", of_key)
                .with("free", free));
        }
        Ok(())
    }

    /// A sign of life. It costs a write only when it changes the state (N-06), and counts as a call only when it reports
    /// another state than the one before: the first after an attach is paid with it, and one after a silence
    /// comes twice a minute at most. Returns the state and the time.
    pub async fn heartbeat(
        &self,
        caller: &Caller,
        node: &str,
        session: &str,
        report: Report,
    ) -> Result<(NodeState, i64)> {
        let shared = &self.shared;
        let (node, session) = names::both(node, session)?;
        let holder = Holder::from(caller);
        let now = shared.clock.unix_ms() as i64;
        shared.metrics.heartbeats.inc();
        match shared.registry.find(&node, &session) {
            Some(entry) => {
                let row = entry.row();
                if !holder.holds(&row) {
                    return Err(rules::unknown());
                }
                if row.state != report.state() && entry.report() != report {
                    self.admit(caller).await?;
                }
                entry.beat(shared.clock.monotonic_ms(), now, report);
                if row.state == report.state() {
                    return Ok((row.state, now));
                }
            }
            // Detached, revoked or not there; the rule says which, and the writer is spared strangers.
            None => {
                let row = shared.storage.node(node.clone(), session.clone()).await?;
                rules::heartbeat(row.as_ref(), &holder, report, now)?;
            }
        }
        let rule = move |old: Option<&NodeRow>| rules::heartbeat(old, &holder, report, now);
        let edited = self.edit(node, session, "heartbeat", false, rule).await?;
        Ok((edited.row.state, now))
    }

    /// Replaces the capabilities of an active attachment (N-10).
    pub async fn capability_update(
        &self,
        caller: &Caller,
        node: &str,
        session: &str,
        capabilities: Vec<String>,
        report: Option<Report>,
    ) -> Result<Attachment> {
        let shared = &self.shared;
        let (node, session) = names::both(node, session)?;
        let capabilities = names::capabilities(capabilities)?;
        let holder = Holder::from(caller);
        let now = shared.clock.unix_ms() as i64;
        let heard = (node.clone(), session.clone());
        let rule = move |old: Option<&NodeRow>| rules::capability_update(old, &holder, capabilities, report, now);
        let edited = self.edit(node, session, "report", false, rule).await?;
        if let (Some(report), Some(entry)) = (report, shared.registry.find(&heard.0, &heard.1)) {
            entry.beat(shared.clock.monotonic_ms(), now, report);
        }
        Ok(self.shown(edited.row))
    }

    /// Leaves; the record stays (N-07). Works also when the session has ended meanwhile.
    pub async fn detach(&self, caller: &Caller, node: &str, session: &str) -> Result<Attachment> {
        let (node, session) = names::both(node, session)?;
        let holder = Holder::from(caller);
        let now = self.shared.clock.unix_ms() as i64;
        let rule = move |old: Option<&NodeRow>| rules::detach(old, &holder, now);
        let edited = self.edit(node, session, "detach", false, rule).await?;
        Ok(self.shown(edited.row))
    }

    /// For good (N-09). Without a session: every record of the node. Returns how many were not revoked before.
    pub async fn revoke(&self, node: &str, session: Option<&str>) -> Result<usize> {
        let id = names::node(node)?;
        let sessions: Vec<SessionId> = match session {
            Some(session) => vec![names::session(session)?],
            None => {
                let records = self.shared.storage.records_of_node(id.clone()).await?;
                records.into_iter().map(|row| row.session).collect()
            }
        };
        if sessions.is_empty() {
            return Err(rules::no_record());
        }
        let mut revoked = 0;
        for session in sessions {
            let now = self.shared.clock.unix_ms() as i64;
            let rule = move |old: Option<&NodeRow>| rules::revoke(old, now);
            revoked += usize::from(self.edit(id.clone(), session, "revoke", false, rule).await?.changed);
        }
        tracing::info!(node = %id, revoked, "node revoked");
        Ok(revoked)
    }

    /// A page and where the next one begins.
    pub async fn list(
        &self,
        holder: &Holder,
        session: Option<&str>,
        ended: bool,
        after: i64,
        limit: u32,
    ) -> Result<(Vec<Attachment>, Option<i64>)> {
        let session = session.map(names::session).transpose()?;
        let limit = if limit == 0 { PAGE_MAX } else { limit.min(PAGE_MAX) };
        let query = NodeQuery { session, key: holder.only_key(), ended, after, limit };
        let rows = self.shared.storage.nodes(query).await?;
        let next = (rows.len() == limit as usize).then(|| rows.last().map_or(0, |(row, _)| row.seq));
        let fresh = |(row, stored): (NodeRow, Option<i64>)| {
            let shown = self.shown(Arc::new(row));
            Attachment { last_heartbeat_unix_ms: shown.last_heartbeat_unix_ms.or(stored), ..shown }
        };
        Ok((rows.into_iter().map(fresh).collect(), next))
    }

    /// Transitions from now on.
    pub fn watch(&self, holder: Holder, session: Option<&str>) -> Result<Watcher> {
        let session = session.map(names::session).transpose()?;
        let stopping = self.shared.stopping.clone();
        Ok(Watcher::new(self.shared.transitions.subscribe(), stopping, holder, session))
    }

    /// The gateway stops: every watch ends, also one that is opened later.
    pub fn end_watches(&self) {
        self.shared.stopping.cancel();
    }

    /// The floor in force, after a look at storage; an error when what is stored is damaged.
    pub async fn floor(&self) -> Result<FloorRow> {
        self.look_at_floor().await?;
        self.shared.floors.present()
    }

    async fn look_at_floor(&self) -> Result<()> {
        let turn = self.shared.floors.turn();
        let row = match self.shared.storage.version_floor().await {
            // Its table is gone, or the file is no database any more: as lost as a row.
            Err(error) if matches!(error.code(), Code::Internal | Code::StorageCorrupt) => None,
            read => read?,
        };
        self.shared.floors.found(turn, row);
        Ok(())
    }

    /// Sets or clears the floor; each node's next write feels it, whatever became of the stored one.
    pub async fn set_floor(&self, floor: Option<&str>) -> Result<FloorRow> {
        let floor = floor.map(|text| Version::parse(text).map(|floor| floor.to_string())).transpose()?;
        let now = self.shared.clock.unix_ms() as i64;
        let floors = self.shared.floors.clone();
        let above = floors.revision();
        let follow = move |row: &FloorRow| floors.committed(row.clone());
        let row = self.shared.storage.set_version_floor(floor, above, now, follow).await?;
        tracing::info!(floor = row.floor.as_deref().unwrap_or("none"), revision = row.revision, "version floor set");
        Ok(row)
    }

    /// For the health page: a floor that cannot be read.
    pub fn trouble(&self) -> Option<String> {
        self.shared.floors.trouble()
    }

    /// May this node write now? (N-04)
    pub async fn check_write(&self, caller: &Caller, session: &SessionId, node: &str) -> Result<()> {
        let shared = &self.shared;
        let id = names::node(node)?;
        let row = match shared.registry.find(&id, session) {
            Some(entry) => entry.row(),
            // Off the fast path: tells a revoked or detached node from a stranger.
            None => Arc::new(shared.storage.node(id.clone(), session.clone()).await?.ok_or_else(rules::unknown)?),
        };
        rules::may_act(&row, &Holder::from(caller))?;
        let judged = shared.floors.judge(&row.kind, &row.version).await;
        let refused = match judged {
            Ok(judged) if judged.may_write => return Ok(()),
            Ok(judged) => {
                let floor = judged.floor.unwrap_or_default();
                Error::new(
                    Code::VersionFloorExceeded,
                    format!("the node's version {} is below the floor {floor}; it may read, not write", row.version),
                )
                .with("node_id", &id)
                .with("version", &row.version)
                .with("floor", floor)
                .with("generation", judged.generation)
                .with("decision", judged.decision)
            }
            Err(error) => error,
        };
        shared.metrics.writes_refused.inc();
        Err(refused)
    }

    /// One write of one row; memory and watchers follow its commit. `anew`: silence counts from now.
    async fn edit<R>(
        &self,
        node: NodeId,
        session: SessionId,
        cause: &'static str,
        anew: bool,
        rule: R,
    ) -> Result<NodeEdited>
    where
        R: FnOnce(Option<&NodeRow>) -> Result<Option<NodeRow>> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let now = shared.clock.monotonic_ms();
        let follow = move |edited: &NodeEdited| {
            shared.follow(edited, cause);
            if anew && let Some(entry) = shared.registry.find(&edited.row.node, &edited.row.session) {
                entry.begin(now);
            }
        };
        self.shared.storage.edit_node(node, session, rule, follow).await
    }

    fn shown(&self, row: Arc<NodeRow>) -> Attachment {
        let entry = self.shared.registry.find(&row.node, &row.session);
        Attachment { last_heartbeat_unix_ms: entry.and_then(|entry| entry.last_heartbeat_unix_ms()), row }
    }
}

// === impl Shared ===

impl Shared {
    /// On the writer's thread, in the order of the commits.
    fn follow(&self, edited: &NodeEdited, cause: &'static str) {
        if !edited.changed {
            return;
        }
        self.registry.apply(&edited.row, self.clock.monotonic_ms(), None);
        if edited.before != Some(edited.row.state) {
            self.metrics.transitions.inc();
            // Nobody watches: nothing to tell.
            let _unheard = self.transitions.send(Arc::new(Transition::of(edited, cause)));
        }
    }
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes").field("attached", &self.shared.registry.len()).finish_non_exhaustive()
    }
}
