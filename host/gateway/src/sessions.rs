//! Opens, finds, sweeps and ends sessions. Knows the worker hub, the log and the policies; no transport.
//! Invariant: a session is in the registry from the moment its worker proved itself until its process is
//! reaped, and a failed open leaves nothing: no slot, no process, no entry (S-01).

mod adopt;
pub mod alarms;
mod caller;
mod closed;
pub mod commands;
mod ending;
mod internal;
mod invoke;
pub mod items;
mod places;
mod pressure;
mod pump;
pub mod rejudge;
pub mod session;
mod shares;
mod slots;
mod supervise;
pub mod verdicts;

pub use caller::Caller;
pub use internal::InternalSession;
pub use session::{Session, State, Stop};
pub use shares::Share;
pub use supervise::Patience;

use crate::{
    clock::Clock,
    error::{Code, Error, Result},
    events::{Log, LogBounds, LogBudget},
    ids::{KeyId, SessionId},
    keys::{Keys, Scope, resume::ResumeTokens},
    policies::{Policies, Rate},
    storage::{SessionEnd, SessionRow, Storage, WorkerRow},
    tasks::Tasks,
    telemetry::{CloseReason, Limit, Metrics},
    workers::{Backend, Launch, WorkerHub},
};
use arc_swap::ArcSwap;
use closed::Closed;
use parking_lot::{Mutex, RwLock};
use session::{Bounds, Identity, Parts};
use shares::Shares;
use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tidegate_policy::{Action, SessionFacts};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

/// Characters of a session's name and tag, and of a client's kind and version.
const NAME_CHARS_MAX: usize = 64;
const TAG_CHARS_MAX: usize = 128;
/// How often leases and detach graces are looked at. S-11 asks for 30 s; the grace wants better.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// What the operator set, as far as sessions are concerned.
#[derive(Clone, Debug)]
pub struct Settings {
    pub backends: Vec<Backend>,
    pub default_backend: String,
    pub sessions_max: usize,
    /// Of one key; 0: no bound of its own.
    pub sessions_per_key_max: u32,
    /// Of one key, over all sessions; 0: no bound of its own.
    pub streams_per_key_max: u32,
    pub bounds: Bounds,
    pub log: LogBounds,
    pub lease: Duration,
    pub detach_grace: Duration,
    pub command_timeout: Duration,
    pub start_timeout: Duration,
    pub heartbeat: Duration,
    pub patience: Patience,
    /// How long a worker may live without a gateway; zero: re-adoption is off.
    pub orphan_lifetime: Duration,
    /// A stop leaves the workers to the next gateway.
    pub leave_workers: bool,
}

/// What a client asks for.
#[derive(Clone, Debug, Default)]
pub struct OpenRequest {
    pub name: String,
    pub backend: String,
    pub tag: String,
    pub command_timeout: Option<Duration>,
    pub client_kind: String,
    pub client_version: String,
}

/// Whoever knows runtime nodes; asked before a write on behalf of one reaches the worker.
pub trait WriteGate: Send + Sync + fmt::Debug {
    fn check<'a>(
        &'a self,
        caller: &'a Caller,
        session: &'a SessionId,
        node: &'a str,
    ) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;
}

/// What a session takes of all places, and of its key's; nothing, if it is the gateway's own.
type Places = (Option<OwnedSemaphorePermit>, Option<Share>);

/// The registry. Clones share it.
#[derive(Clone, Debug)]
pub struct Sessions {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: ArcSwap<Settings>,
    hub: WorkerHub,
    policies: Policies,
    keys: Keys,
    resume_tokens: ResumeTokens,
    storage: Storage,
    metrics: Metrics,
    clock: Arc<dyn Clock>,
    budget: Arc<LogBudget>,
    tasks: Tasks,
    slots: Arc<Semaphore>,
    /// Sessions and event streams of each key.
    sessions_held: Shares,
    streams_held: Shares,
    open: RwLock<HashMap<SessionId, Arc<Session>>>,
    /// Sessions whose worker is awaited back, with their owners.
    adopting: RwLock<HashMap<SessionId, Option<KeyId>>>,
    closed: Closed,
    draining: CancellationToken,
    /// The end of this gateway ends no worker, whatever the settings say.
    leave: AtomicBool,
    /// The one that this gateway gives way to is there.
    successor: AtomicBool,
    /// This gateway may still give way to the one before it: who does not come back is no reason to end anybody.
    provisional: AtomicBool,
    /// Workers that have not come back yet.
    awaited: AtomicUsize,
    /// Why a worker was not taken back while that was so.
    not_adopted: Mutex<Option<String>>,
    /// Internal sessions that are not there, and why.
    internal_missing: Mutex<BTreeMap<String, String>>,
    /// Set once at the start; without it nobody writes on behalf of a node.
    write_gate: OnceLock<Arc<dyn WriteGate>>,
}

/// The parts a registry works with; made by `app`.
#[derive(Debug)]
pub struct Context {
    pub hub: WorkerHub,
    pub policies: Policies,
    pub keys: Keys,
    pub resume_tokens: ResumeTokens,
    pub storage: Storage,
    pub metrics: Metrics,
    pub clock: Arc<dyn Clock>,
    pub budget: Arc<LogBudget>,
    pub tasks: Tasks,
}

// === impl Sessions ===

impl Sessions {
    pub fn new(settings: Settings, context: Context) -> Self {
        let Context { hub, policies, keys, resume_tokens, storage, metrics, clock, budget, tasks } = context;
        let slots = Arc::new(Semaphore::new(settings.sessions_max));
        let shared = Shared {
            settings: ArcSwap::from_pointee(settings),
            hub,
            policies,
            keys,
            resume_tokens,
            storage,
            metrics,
            clock,
            budget,
            tasks,
            slots,
            sessions_held: Shares::default(),
            streams_held: Shares::default(),
            open: RwLock::default(),
            adopting: RwLock::default(),
            closed: Closed::default(),
            draining: CancellationToken::new(),
            leave: AtomicBool::new(false),
            successor: AtomicBool::new(false),
            provisional: AtomicBool::new(false),
            awaited: AtomicUsize::new(0),
            not_adopted: Mutex::default(),
            internal_missing: Mutex::default(),
            write_gate: OnceLock::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Takes other settings over: at once for what the registry does, for new sessions what a session is made with.
    /// Fewer places than sessions are open: none ends, and none opens until enough have.
    pub fn apply(&self, settings: Settings) {
        let new = settings.sessions_max;
        let old = self.shared.settings.swap(Arc::new(settings)).sessions_max;
        self.change_places(old, new);
    }

    /// Nodes know sessions, so they come after them; a second gate changes nothing.
    pub fn guard_writes(&self, gate: Arc<dyn WriteGate>) {
        let _first_stays = self.shared.write_gate.set(gate);
    }

    fn write_gate(&self) -> Result<&Arc<dyn WriteGate>> {
        let missing = || Error::new(Code::NodeUnknown, "this gateway takes no runtime nodes");
        self.shared.write_gate.get().ok_or_else(missing)
    }

    pub fn policies(&self) -> &Policies {
        &self.shared.policies
    }

    pub fn resume_tokens(&self) -> &ResumeTokens {
        &self.shared.resume_tokens
    }

    /// A new signing key for resume tokens; `revoke`: what was handed out before is refused from now on. Off the
    /// threads that serve, because it waits for the disk.
    pub async fn rotate_tokens(&self, revoke: bool) -> Result<()> {
        let (tokens, now) = (self.shared.resume_tokens.clone(), self.shared.clock.unix_ms());
        let work = move || if revoke { tokens.revoke(now) } else { tokens.rotate(now) };
        let done = tokio::task::spawn_blocking(work).await;
        done.map_err(|error| Error::new(Code::Internal, format!("the rotation was lost: {error}")))?
    }

    /// Starts a worker for `caller` and registers the session. Cancelling leaves nothing behind.
    pub async fn open(&self, caller: &Caller, request: OpenRequest) -> Result<Arc<Session>> {
        let shared = &self.shared;
        if shared.draining.is_cancelled() {
            return Err(self.draining());
        }
        let settings = shared.settings.load_full();
        check_names(&request)?;
        let backend = self.backend(&request.backend)?;
        let facts = SessionFacts::new("", "", request.tag.as_str(), backend.name.as_str());
        let who = caller.principal();
        shared.policies.admit(&who, &caller.key.id, Rate::Open).await?;
        shared.policies.authorize(&who, &facts, Action::Open).await?;
        let share = self.session_share(&caller.key.id, settings.sessions_per_key_max)?;
        let slot = shared.slots.clone().try_acquire_owned().map_err(|_full| {
            let max = settings.sessions_max;
            Error::new(Code::SessionLimit, format!("{max} sessions are open, the most allowed")).with("max", max)
        })?;

        self.start(backend, request, Some(caller.key.id.clone()), (Some(slot), Some(share))).await
    }

    /// Starts the worker of a session and registers it. Cancelling leaves nothing behind.
    async fn start(
        &self,
        backend: Backend,
        request: OpenRequest,
        owner: Option<KeyId>,
        places: Places,
    ) -> Result<Arc<Session>> {
        let shared = &self.shared;
        let settings = shared.settings.load_full();
        let id = SessionId::mint();
        let launch = Launch {
            session: id.clone(),
            backend: backend.clone(),
            heartbeat: settings.heartbeat,
            timeout: settings.start_timeout,
            orphan_lifetime: settings.orphan_lifetime,
        };
        let worker = tokio::select! {
            launched = shared.hub.launch(launch) => launched?,
            // Nobody is let in from now on.
            () = shared.draining.cancelled() => return Err(self.draining()),
        };
        shared.metrics.workers.started.inc();

        let identity = Identity {
            id: id.clone(),
            name: request.name,
            tag: request.tag,
            backend: backend.name.clone(),
            owner,
            client_kind: request.client_kind,
            client_version: request.client_version,
            worker_pid: worker.pid,
            epoch: worker.hello.epoch,
            opened_unix_ms: shared.clock.unix_ms() as i64,
            command_timeout: request.command_timeout.unwrap_or(settings.command_timeout),
        };
        let row = adopt::manifest(&identity, &worker);
        let row = if settings.orphan_lifetime.is_zero() {
            // For the terminator only, should this gateway die and the worker not notice; it is written beside.
            Some(row)
        } else {
            // Who could not be adopted is not handed out. Dropping the worker ends it.
            shared.storage.worker_started(row).await?;
            None
        };
        let log = Log::new(identity.epoch, settings.log.clone(), shared.budget.clone(), shared.clock.clone());
        let (stop, stops) = mpsc::channel(4);
        // Room for every pending command, the request to end and the like: sending never waits for the worker.
        let (to_worker, frames) = mpsc::channel(settings.bounds.pending_commands_max + 3);
        let session = Session::new(Parts {
            identity,
            log,
            bounds: settings.bounds,
            lag_events_max: settings.log.lag_events_max,
            metrics: shared.metrics.clone(),
            clock: shared.clock.clone(),
            keys: shared.keys.clone(),
            stop,
            to_worker: to_worker.clone(),
            command: 0,
            alarms: worker.hello.alarms,
        });
        shared.metrics.sessions.opened.inc();
        shared.metrics.sessions.open.inc();
        let key = session.identity.owner.as_ref().map_or("the gateway", KeyId::as_str);
        tracing::info!(session = %id, pid = worker.pid, backend = backend.name, key = %key, "session opened");
        let life = supervise::run(session.clone(), worker, frames, to_worker, stops, settings.patience);
        session.ask_alarms();
        self.run(session.clone(), places, false, Some(row), life);
        if let Err(error) = self.register(&session) {
            // Nobody has heard of it, so nobody would ever close it under the next gateway.
            let reason = "the gateway is shutting down".to_owned();
            session.close(Stop { kill: true, why: CloseReason::Shutdown, reason }).await;
            return Err(error);
        }
        Ok(session)
    }

    /// Spawns the tasks of a session and what has to happen at its end, `places` given back among it.
    /// `attended`: the manifest says that it has had a reader. `fresh`: it was opened now, and perhaps its worker is not in
    /// the manifest yet.
    fn run(
        &self,
        session: Arc<Session>,
        places: Places,
        attended: bool,
        fresh: Option<Option<WorkerRow>>,
        life: impl Future<Output = ()> + Send + 'static,
    ) {
        let shared = self.shared.clone();
        let tasks = shared.tasks.clone();
        let mut helpers = tokio::task::JoinSet::new();
        helpers.spawn(session.log.clone().run_waker());
        helpers.spawn(pressure::run(session.clone(), shared.policies.clone()));
        if !attended {
            helpers.spawn(adopt::write_attended(session.clone(), shared.storage.clone()));
        }
        tasks.spawn("session", async move {
            let gone = session.gone.clone().drop_guard();
            let until_gone = async {
                life.await;
                // Dropping them at the end of this block ends them: they own nothing.
                helpers.abort_all();
                let identity = &session.identity;
                // One that was left goes on: who closes it once more has to ask the next gateway.
                if !matches!(session.state(), State::Closed(CloseReason::Left, _)) {
                    shared.closed.remember(identity.id.clone(), identity.owner.clone(), session.log.head());
                }
                shared.open.write().remove(&identity.id);
                drop(places);
                drop(gone);
            };
            // Side by side: a slow disk delays no worker, and nobody who waits for the slot.
            let opened = async {
                if let Some(manifest) = fresh {
                    shared.record_opened(&session, manifest).await;
                }
            };
            tokio::join!(opened, until_gone);
            let (why, reason) = match session.state() {
                State::Closed(why, reason) => (why, reason),
                // `supervise` ends in no other state.
                _ => (CloseReason::Fault, String::new()),
            };
            shared.metrics.sessions.open.dec();
            shared.metrics.sessions.closed.of(why).inc();
            let head = session.log.head();
            if why == CloseReason::Left {
                // Its record stays open and its worker in the manifest: the next gateway goes on with both.
                tracing::info!(session = %session.identity.id, reason, head, "session left to the next gateway");
            } else {
                tracing::info!(session = %session.identity.id, reason, head, "session closed");
                shared.metrics.workers.exited.inc();
                shared.record_closed(&session, why).await;
            }
        });
    }

    fn session_share(&self, key: &KeyId, max: u32) -> Result<Share> {
        self.shared.sessions_held.take(key, max).ok_or_else(|| {
            self.shared.metrics.limits.reached.of(Limit::SessionsPerKey).inc();
            reached(Code::SessionKeyLimit, format!("the key {key} has {max} sessions open, the most it may"), key, max)
        })
    }

    /// Whether `caller` may take a snapshot of something now.
    pub async fn admit_snapshot(&self, caller: &Caller) -> Result<()> {
        self.policies().admit(&caller.principal(), &caller.key.id, Rate::Snapshot).await
    }

    /// A place for one more event stream of this key.
    pub fn stream_share(&self, key: &KeyId) -> Result<Share> {
        let max = self.shared.settings.load().streams_per_key_max;
        self.shared.streams_held.take(key, max).ok_or_else(|| {
            self.shared.metrics.limits.reached.of(Limit::StreamsPerKey).inc();
            reached(Code::StreamKeyLimit, format!("the key {key} has {max} event streams, the most it may"), key, max)
        })
    }

    fn backend(&self, requested: &str) -> Result<Backend> {
        let settings = self.shared.settings.load_full();
        let name = if requested.is_empty() { &settings.default_backend } else { requested };
        settings.backends.iter().find(|backend| backend.name == name).cloned().ok_or_else(|| {
            let names: Vec<&str> = settings.backends.iter().map(|backend| backend.name.as_str()).collect();
            Error::new(Code::BackendUnknown, format!("no backend is named {name:?}; there are: {}", names.join(", ")))
                .with("backends", names.join(","))
        })
    }

    /// A session for its owner, or for a key that may see all. An unknown and a foreign one answer alike (S-13).
    pub fn get(&self, caller: &Caller, id: &str) -> Result<Arc<Session>> {
        let sees_all = caller.key.has(Scope::SessionsAll);
        // Asked first: one that comes back meanwhile is in the registry before it is off this list.
        let coming_back = self.is_coming_back(caller, id, sees_all);
        let found = SessionId::parse(id).and_then(|id| self.shared.open.read().get(&id).cloned());
        if found.is_none() && coming_back {
            return Err(Error::new(Code::SessionAdopting, "the session's worker is being taken over"));
        }
        let left = || self.shared.draining.is_cancelled();
        match found {
            Some(session) if sees_all || session.identity.owner.as_ref() == Some(&caller.key.id) => Ok(session),
            // Perhaps it was left to the next gateway just now, and lives. A foreign one answers alike.
            _ if left() => Err(self.draining()),
            None if sees_all => Err(Error::new(Code::SessionUnknown, "there is no such session")),
            _ => Err(Error::new(Code::SessionNotPermitted, "this key has no such session")),
        }
    }

    fn is_coming_back(&self, caller: &Caller, id: &str, sees_all: bool) -> bool {
        let adopting = self.shared.adopting.read();
        if adopting.is_empty() {
            return false;
        }
        let owner = SessionId::parse(id).and_then(|id| adopting.get(&id));
        owner.is_some_and(|owner| sees_all || owner.as_ref() == Some(&caller.key.id))
    }

    /// The newest sequence of a session that has ended and that `caller` could have closed.
    pub fn closed_head(&self, caller: &Caller, id: &str) -> Option<u64> {
        let sees_all = caller.key.has(Scope::SessionsAll);
        self.shared.closed.head(&SessionId::parse(id)?, &caller.key.id, sees_all)
    }

    /// For operators on the machine: no caller, no owner gate.
    pub fn find(&self, id: &str) -> Result<Arc<Session>> {
        SessionId::parse(id)
            .and_then(|id| self.shared.open.read().get(&id).cloned())
            .ok_or_else(|| Error::new(Code::SessionUnknown, "there is no such session"))
    }

    /// Whether every pump takes what its worker sends. A worker that is silent is ended by its supervisor within the
    /// grace; one that is still there after twice that shows that this gateway does not get on. Names it.
    pub fn progress(&self) -> Result<(), String> {
        let silence = self.shared.settings.load().patience.silence.as_millis() as u64;
        let now = self.shared.clock.monotonic_ms();
        for session in self.all() {
            // What an append needs; a lock that nobody gives back holds this up as well.
            let _stats = session.log.stats();
            let beat_at = session.beat_at.load(Ordering::Relaxed);
            if is_stuck(session.state() == State::Ready, now, beat_at, silence) {
                return Err(format!("nothing was taken from the worker of {} for too long", session.identity.id));
            }
        }
        Ok(())
    }

    /// How many may be open at a time.
    pub fn sessions_max(&self) -> usize {
        self.shared.settings.load().sessions_max
    }

    /// Bytes that the logs of all sessions hold, and may hold.
    pub fn log_bytes(&self) -> (u64, u64) {
        (self.shared.budget.used(), self.shared.budget.max())
    }

    /// Every session, oldest first.
    pub fn all(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<Arc<Session>> = self.shared.open.read().values().cloned().collect();
        all.sort_by_key(|session| session.identity.opened_unix_ms);
        all
    }
}

// === impl Shared ===

impl Shared {
    /// The record is for audit; a session works without it, so a failure is logged and counted by storage.
    async fn record_opened(&self, session: &Session, manifest: Option<WorkerRow>) {
        let identity = &session.identity;
        let opened = SessionRow {
            id: identity.id.clone(),
            owner: identity.owner.clone(),
            name: identity.name.clone(),
            tag: identity.tag.clone(),
            backend: identity.backend.clone(),
            opened_unix_ms: identity.opened_unix_ms,
            end: None,
        };
        if let Err(error) = self.storage.session_opened(opened).await {
            tracing::warn!(session = %identity.id, %error, "the opening was not recorded");
        }
        if let Some(row) = manifest
            && let Err(error) = self.storage.worker_started(row).await
        {
            tracing::warn!(session = %identity.id, %error, "the worker is not in the manifest");
        }
    }

    async fn record_closed(&self, session: &Session, why: CloseReason) {
        let end = SessionEnd { at_unix_ms: self.clock.unix_ms() as i64, reason: why.as_str().to_owned() };
        if let Err(error) = self.storage.session_closed(session.identity.id.clone(), end).await {
            tracing::warn!(session = %session.identity.id, %error, "the end was not recorded");
        }
        if let Err(error) = self.storage.worker_gone(session.identity.id.clone()).await {
            tracing::warn!(session = %session.identity.id, %error, "the worker is still in the manifest");
        }
    }
}

fn is_stuck(ready: bool, now_ms: u64, beat_at_ms: u64, silence_ms: u64) -> bool {
    ready && now_ms.saturating_sub(beat_at_ms) > silence_ms.saturating_mul(2)
}

/// When a place of its own may be free: whoever has them all decides, so this is only so that nobody asks in a loop.
const ASK_AGAIN_MS: u32 = 1_000;

fn reached(code: Code, message: String, key: &KeyId, max: u32) -> Error {
    Error::new(code, message).with("max", max).with("quota", format!("key:{key}")).with("retry_ms", ASK_AGAIN_MS)
}

fn check_names(request: &OpenRequest) -> Result<()> {
    let fields = [
        ("client_session_name", &request.name, NAME_CHARS_MAX),
        ("tag", &request.tag, TAG_CHARS_MAX),
        ("client_kind", &request.client_kind, NAME_CHARS_MAX),
        ("client_version", &request.client_version, NAME_CHARS_MAX),
    ];
    for (field, text, max) in fields {
        if text.chars().count() > max || text.chars().any(char::is_control) {
            return Err(Error::new(
                Code::LimitText,
                format!("{field} must have at most {max} characters and no control characters"),
            )
            .with("field", field)
            .with("max", max));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pump_is_stuck_when_its_worker_should_have_been_given_up_long_ago() {
        assert!(!is_stuck(true, 40_000, 10_000, 15_000), "the supervisor may be at it");
        assert!(is_stuck(true, 40_001, 10_000, 15_000));
        assert!(!is_stuck(false, 90_000, 10_000, 15_000), "it is ending");
        assert!(!is_stuck(true, 5, 10, 15_000));
    }
}
