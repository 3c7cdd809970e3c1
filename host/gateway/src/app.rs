//! Wires a gateway together and takes it apart: the order of the start, the wait for a signal, the order
//! of the end. Every part is made here and handed its neighbours; none finds another by itself. Invariant: what
//! fails at the start is undone, and the end takes no longer than the drain and the workers' patience.

mod announcement;
mod swaps;

use crate::{
    backup::Backups,
    clock::{Clock, SystemClock},
    config::{Changes, ServeConfig},
    data_dir::{DataDir, InstanceId},
    descriptors,
    error::{Code, Error, Result},
    events::{LogBounds, LogBudget},
    grpc::{AdminContext, Edge, EdgeBounds, Listener, Listening, Overview},
    health::{Degraded, Health, HealthSource},
    http::{self, Dashboard, HttpState, NodePages},
    keys::{FirstKeyOut, Keys, resume::ResumeTokens},
    nodes::{self, Nodes},
    people::{Aliases, Directory, People},
    policies::{self, Policies, Waiting},
    sessions::{self, Patience, Sessions, rejudge::Flips, session::Bounds},
    storage::{self, Storage},
    takeover::{Given, Sockets},
    tasks::Tasks,
    telemetry::{self, About, Counter, Metrics},
    tls::Tls,
    workers::{Backend, WorkerHub},
};
use announcement::{Announcement, Unannounced, addresses_file};
use parking_lot::Mutex;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tidegate_policy::{PolicyHost, Warm};
use tokio::{net::TcpListener, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

/// From the request to end until a worker is killed. Guessed.
const WORKER_SHUTDOWN: Duration = Duration::from_secs(5);
/// What `tidegate_readers_near_gap` calls near: as long as an operator needs to look. Guessed.
const NEAR_GAP_SECONDS: f64 = 10.0;
/// How long what is left may take after listeners and sessions have ended.
const LAST_TASKS: Duration = Duration::from_secs(2);

/// How long streams and connections may take to end when another gateway waits for the folder: so long everybody waits.
/// Who needs longer resumes where it is. Guessed.
const HANDED_OVER: Duration = Duration::from_millis(500);

/// How soon a part that failed for want of room is tried again. Guessed.
const HEAL_EVERY: Duration = Duration::from_secs(2);

/// A gateway that is serving, or about to.
#[derive(Debug)]
pub struct App {
    pub addresses: Addresses,
    config: ServeConfig,
    /// What the dashboard shows of it.
    in_force: watch::Sender<Arc<ServeConfig>>,
    sessions: Sessions,
    storage: Storage,
    policies: PolicyHost,
    instance: InstanceId,
    nodes: Nodes,
    tls: Option<Tls>,
    tasks: Tasks,
    serving: CancellationToken,
    listeners: Tasks,
    ready: Arc<AtomicBool>,
    /// Until it is open to clients.
    doors: Option<Doors>,
    /// Before the lock: whoever has that finds no socket of ours.
    sockets: Arc<Sockets>,
    accept_failures: Counter,
    /// The lock goes with it, last.
    data: DataDir,
}

/// How a gateway comes by its folder and its sockets.
#[derive(Debug)]
pub enum Beginning {
    /// There was none before it, or it has died or stopped.
    Afresh(Given),
    /// The one before let go just now, and may still go back.
    Following { data: DataDir, given: Given, warm: Box<Warm> },
    /// The one that was to follow came to nothing.
    Returning(Arc<Sockets>),
}

/// What clients come through.
#[derive(Debug)]
struct Doors {
    edge: Arc<Edge>,
    grpc: Listener,
    admin: Listener,
    pages: TcpListener,
    http: HttpState,
}

/// Where it listens; written to `<data>/addresses.json` for whoever starts it with port 0.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    /// Both speak TLS.
    pub tls: bool,
}

struct Parts {
    ready: Arc<AtomicBool>,
    storage: Storage,
    policies: Policies,
    nodes: Nodes,
    tls: Option<Tls>,
    sessions: Sessions,
    unannounced: Unannounced,
}

// === impl App ===

impl App {
    /// Makes every part, and has workers taken back; clients wait until `open`. An error leaves nothing running, and
    /// ends no worker that could go on; so does a word to `waiting` that it is not to begin after all.
    pub async fn begin(config: ServeConfig, beginning: Beginning, waiting: &Waiting) -> Result<Self> {
        let metrics = Metrics::new();
        let files = descriptors::raise();
        if files.is_tight() {
            let descriptors::Descriptors { soft, hard } = files;
            tracing::warn!(soft, hard, "few file descriptors: each connection takes one, each session about four");
        }
        let following = matches!(beginning, Beginning::Following { .. });
        let (data, beginning) = match beginning {
            Beginning::Following { data, given, warm } => (data, Ok((given, Some(*warm)))),
            Beginning::Afresh(given) => (DataDir::open(&config.data)?, Ok((given, None))),
            Beginning::Returning(sockets) => {
                let data = DataDir::open(&config.data)?;
                storage::put_back(&data.database())?;
                (data, Err(sockets))
            }
        };
        let instance = data.instance().cloned().ok_or_else(|| Error::new(Code::Internal, "no instance id"))?;
        let storage = Storage::open(&data.database(), &instance, metrics.storage.clone())?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        match storage.end_lost_sessions(clock.unix_ms() as i64).await {
            // Their records stay open until a start that can write.
            Err(error) if error.code() == Code::StorageFull => {}
            ended => drop(ended?),
        }
        let inherited = storage.workers().await?;
        let keys = Keys::load(storage.clone(), metrics.keys.clone()).await?;
        let tls = config.tls.clone().map(|settings| Tls::load(settings, metrics.tls.clone())).transpose()?;
        let directory = config.directory.clone().map(Directory::new).transpose()?;
        let aliases = Aliases::load(&data.log_names())?;
        // Listeners first: what cannot be had is said before a key is made or a guest compiled.
        let (sockets, warm) = match beginning {
            Ok((given, warm)) => (Arc::new(Sockets::open(&config, &data, given).await?), warm),
            Err(kept) => (kept, None),
        };
        let (grpc, pages) = (sockets.grpc()?, sockets.http()?);
        let (admin, workers) = (sockets.admin()?, sockets.workers()?);
        let warm = match warm {
            Some(warm) => warm,
            None => policies::warm(&config, data.policy_store(), waiting).await?,
        };
        let host = policies::start(warm, waiting).await?;
        metrics.policies.set(policies::samples(&host));
        let policies = Policies::new(host.clone(), clock.clone());

        if let Some((id, file)) = keys.ensure_first_key(&data, FirstKeyOut::choose()).await? {
            match file {
                Some(path) => tracing::info!(key = %id, path = %path.display(), "the first key is in this file"),
                None => tracing::info!(key = %id, "the first key was shown on the terminal"),
            }
        }

        let tasks = Tasks::new();
        let hub = WorkerHub::new(data.workers_socket(), metrics.accept_failures.clone());
        let budget = Arc::new(LogBudget::new(config.log.log_bytes_total_max));
        let context = sessions::Context {
            hub: hub.clone(),
            policies: policies.clone(),
            keys: keys.clone(),
            resume_tokens: ResumeTokens::load(data.resume_keys(), clock.unix_ms())?,
            storage: storage.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            budget: budget.clone(),
            tasks: tasks.clone(),
        };
        let sessions = Sessions::new(settings(&config), context);
        let nodes = Nodes::load(nodes::Context {
            storage: storage.clone(),
            clock: clock.clone(),
            policy: Arc::new(policies.clone()),
            places: Arc::new(sessions.clone()),
            metrics: metrics.nodes.clone(),
        })
        .await?;
        sessions.guard_writes(Arc::new(nodes.clone()));
        if following {
            sessions.begin_provisionally();
        }
        // Before the workers' socket is answered: who comes back must be expected.
        sessions.inherit(inherited).await;
        let flips = Flips::default();
        host.on_flip(sessions.flip_hook(&flips));

        let people = People::new(storage.clone(), clock.clone(), directory, aliases);
        let serving = CancellationToken::new();
        let ready = Arc::new(AtomicBool::new(false));
        let (grpc_at, http_at) = sockets.addresses();
        let addresses = Addresses { grpc: grpc_at, http: http_at, tls: tls.is_some() };
        let unannounced = Arc::new(Mutex::new(None));
        let health = Arc::new(Parts {
            ready: ready.clone(),
            storage: storage.clone(),
            policies: policies.clone(),
            nodes: nodes.clone(),
            tls: tls.clone(),
            sessions: sessions.clone(),
            unannounced: unannounced.clone(),
        });
        let overview = Overview {
            health: health.clone(),
            metrics: metrics.clone(),
            clock: clock.clone(),
            instance: instance.clone(),
            started_ms: clock.monotonic_ms(),
            started_unix_ms: clock.unix_ms(),
        };
        let context = AdminContext {
            keys: keys.clone(),
            plugins_dir: config.plugins.clone(),
            nodes: nodes.clone(),
            overview,
            people: people.clone(),
            backups: Backups::new(storage.clone(), &data),
        };
        let bounds = EdgeBounds {
            admin_over_network: config.admin_over_network,
            streams_per_connection: config.sessions.max_event_streams_per_connection,
        };
        let edge = Edge::new(sessions.clone(), keys.clone(), metrics.clone(), context, bounds).await?;
        let in_force = watch::Sender::new(Arc::new(config.clone()));
        let dashboard = Dashboard::new(http::Shown {
            people,
            sessions: sessions.clone(),
            nodes: nodes.clone(),
            keys: keys.clone(),
            instance: instance.clone(),
            config: in_force.subscribe(),
            stopping: serving.clone(),
        });
        let exported = (metrics.clone(), health.clone());
        let http = HttpState {
            metrics: metrics.clone(),
            health,
            nodes: Some(NodePages { nodes: nodes.clone(), keys }),
            dashboard: Some(dashboard),
            tls: tls.is_some(),
        };

        // Behind this nothing fails any more: who was taken back would end with a gateway that does not start after all.
        let announcement = Announcement { file: addresses_file(&data), addresses, failing: unannounced };
        match announcement.write() {
            // Whoever knows the addresses is served; the file follows when there is room.
            Err(error) if error.code() == Code::StorageFull => {
                tracing::error!(%error, "the addresses are not announced")
            }
            written => written?,
        }
        let doors =
            Doors { edge, grpc: Listener::Clients(grpc, tls.clone()), admin: Listener::Operator(admin), pages, http };
        let background = tasks.stopping();
        let until_stop = |work: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>| {
            let stopping = background.clone();
            async move {
                tokio::select! {
                    () = stopping.cancelled() => {}
                    () = work => {}
                }
            }
        };
        tasks.spawn("workers", until_stop(Box::pin(hub.run(workers))));
        tasks.spawn("sweep", until_stop(Box::pin(sessions.clone().sweep())));
        tasks.spawn("nodes", until_stop(Box::pin(nodes.clone().run())));
        tasks.spawn("rejudge", until_stop(Box::pin(sessions.clone().rejudge(flips))));
        if let Some(tls) = tls.clone() {
            tasks.spawn("certificate", until_stop(Box::pin(tls.watch())));
        }
        tasks.spawn("heal", until_stop(Box::pin(heal(storage.clone(), host.clone(), announcement))));
        tasks.spawn("swaps", until_stop(Box::pin(swaps::record(host.clone(), storage.clone(), metrics.clone()))));
        if let Some(collector) = config.collector.clone() {
            let about = About { instance: instance.as_str().to_owned(), started_unix_ms: clock.unix_ms() };
            let (counted, health) = exported;
            let degraded = counted.health.degraded.clone();
            let look = move || {
                degraded.set(health.health().degraded.len() as i64);
            };
            let export = telemetry::export(collector, counted, about, look);
            tasks.spawn("metrics export", until_stop(Box::pin(export)));
        }
        let accept_failures = metrics.accept_failures.clone();
        tasks.spawn("log bytes", until_stop(Box::pin(gauge_logs(budget, sessions.clone(), metrics))));

        Ok(Self {
            addresses,
            config,
            in_force,
            sessions,
            storage,
            policies: host,
            instance,
            nodes,
            tls,
            tasks,
            serving,
            listeners: Tasks::new(),
            ready,
            doors: Some(doors),
            sockets,
            accept_failures,
            data,
        })
    }

    /// Returns when every worker is back that lives; an error when one could not be taken back. For a gateway that
    /// follows another one, before `open`.
    pub async fn adopted(&self) -> Result<()> {
        self.sessions.adopted().await
    }

    /// Lets clients in, those first who have waited in the backlog. There is no way back to the gateway before.
    pub fn open(&mut self) {
        let Some(Doors { edge, grpc, admin, pages, http }) = self.doors.take() else { return };
        self.sockets.own();
        self.sessions.settle();
        // Not before: what a gateway that gives way opened would stay without anybody.
        let internal = self.config.internal_sessions.iter();
        let internal =
            internal.map(|one| sessions::InternalSession { name: one.name.clone(), backend: one.backend.clone() });
        let (keeping, stopping) = (self.sessions.clone().keep_internal(internal.collect()), self.tasks.stopping());
        self.tasks.spawn("internal sessions", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = keeping => {}
            }
        });
        self.ready.store(true, Ordering::SeqCst);
        let listening = Listening { shutdown: self.serving.clone(), drain: self.config.drain };
        let (tls, shutdown) = (self.tls.clone(), self.serving.clone().cancelled_owned());
        self.listeners.spawn("grpc", edge.clone().serve(grpc, listening.clone()));
        self.listeners.spawn("admin", edge.serve(admin, listening));
        self.listeners.spawn("http", http::serve(pages, tls, http, shutdown, self.config.drain));
    }

    /// For a service manager.
    pub fn serves(&self) -> String {
        format!("serving gRPC on {}, HTTP on {}", self.addresses.grpc, self.addresses.http)
    }

    pub fn config(&self) -> &ServeConfig {
        &self.config
    }

    pub fn sockets(&self) -> Arc<Sockets> {
        self.sockets.clone()
    }

    /// Of every listener, the one for take-overs among them.
    pub fn accept_failures(&self) -> Counter {
        self.accept_failures.clone()
    }

    /// Of the installation.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// A question: whether every pump gets on. Takes the locks that pumps take: one that is held for ever never answers.
    pub fn progress(&self) -> impl Fn() -> Result<(), String> + Clone + Send + 'static {
        let sessions = self.sessions.clone();
        move || sessions.progress()
    }

    /// Takes over what a running gateway can change.
    pub fn reconfigure(&mut self, new: ServeConfig) -> Changes {
        let changes = self.config.adopt(new);
        self.in_force.send_replace(Arc::new(self.config.clone()));
        self.sessions.apply(settings(&self.config));
        if let Some(tls) = &self.tls {
            tls.look();
        }
        changes
    }

    /// Looks at the plugins folder now; the attempt is recorded and logged by the host.
    pub async fn look_at_policies(&self) {
        let _recorded = self.sessions.policies().host().look().await;
    }

    /// Ends everything in order: nothing new, streams told, workers ended, storage closed.
    pub async fn stop(self, reason: &str) {
        tracing::info!(reason, "stopping");
        self.end(reason, self.config.drain).await;
        // Left behind they are replaced by the next start.
        let _gone = std::fs::remove_file(addresses_file(&self.data));
        self.sockets.remove_files();
        tracing::info!("stopped");
    }

    /// Lets everything go for a gateway that follows: as a stop that leaves every worker, but in less time, and sockets and
    /// their files stay. `schema`: what that one knows; where it is newer, there is a copy of the database afterwards.
    pub async fn hand_over(self, schema: usize) {
        self.sessions.give_way();
        self.end("another gateway takes over", self.config.drain.min(HANDED_OVER)).await;
        if schema > storage::SCHEMA {
            let database = self.data.database();
            let copied = tokio::task::spawn_blocking(move || storage::set_aside(&database)).await;
            if let Ok(Err(error)) = copied {
                // The follower copies it as well before it migrates; only the way back would be a person's.
                tracing::warn!(%error, "there is no copy for a way back");
            }
        }
    }

    /// The end of a gateway that was to follow and never let clients in: its workers are for the one before.
    pub async fn give_up(self) {
        self.end("the gateway before goes on", Duration::ZERO).await;
    }

    async fn end(&self, reason: &str, drain: Duration) {
        self.ready.store(false, Ordering::SeqCst);
        self.policies.halt();
        self.nodes.end_watches();
        self.sessions.refuse_new();
        self.serving.cancel();
        self.sessions.drain(reason).await;
        self.listeners.shutdown(Instant::now() + drain + self.last_tasks(drain)).await;
        self.tasks.shutdown(Instant::now() + LAST_TASKS).await;
        if let Err(error) = self.nodes.save_presence().await {
            tracing::warn!(%error, "the last signs of life of the nodes were not saved");
        }
        self.storage.close().await;
        let host = self.policies.clone();
        // A panic there is a defect that the panic hook has logged.
        let _closed = tokio::task::spawn_blocking(move || host.close()).await;
    }

    /// What connections may take beyond the drain to be cut; none when nobody waits for them.
    fn last_tasks(&self, drain: Duration) -> Duration {
        if drain == self.config.drain { LAST_TASKS } else { Duration::ZERO }
    }
}

// === impl Parts ===

impl HealthSource for Parts {
    fn health(&self) -> Health {
        let mut degraded = Vec::new();
        if let Some(error) = self.storage.trouble() {
            degraded.push(Degraded::by("storage", &error));
        }
        if let Some(error) = &*self.unannounced.lock() {
            degraded.push(Degraded::by("storage", error));
        }
        if let Some(message) = self.nodes.trouble() {
            degraded.push(Degraded::new("storage", message));
        }
        if let Some(message) = self.policies.trouble() {
            degraded.push(Degraded::new("policies", message));
        }
        let (store, cache) = self.policies.host().store_troubles();
        let why = |words: &str, error: String| format!("{words}: {error}");
        if let Some(error) = store {
            degraded.push(Degraded::new("policy-store", why("the set that serves would not survive a restart", error)));
        }
        if let Some(error) = cache {
            degraded.push(Degraded::new("compile-cache", why("the next start compiles again", error)));
        }
        if let Some(error) = self.policies.host().decisions_trouble() {
            degraded.push(Degraded::new("decisions", why("what is decided is not kept", error)));
        }
        if let Some(message) = self.tls.as_ref().and_then(Tls::trouble) {
            degraded.push(Degraded::new("certificate", message));
        }
        if let Some(message) = self.sessions.internal_trouble() {
            degraded.push(Degraded::new("internal-sessions", message));
        }
        if let Some(message) = telemetry::log_trouble() {
            degraded.push(Degraded::new("log", message));
        }
        Health { ready: self.ready.load(Ordering::SeqCst), degraded }
    }
}

fn settings(config: &ServeConfig) -> sessions::Settings {
    let limits = &config.sessions;
    let defaults = LogBounds::default();
    sessions::Settings {
        backends: config
            .backends
            .iter()
            .map(|backend| Backend {
                name: backend.name.clone(),
                kind: backend.kind.as_str().to_owned(),
                settings: backend.settings.clone(),
            })
            .collect(),
        default_backend: config.default_backend.clone(),
        sessions_max: limits.max_sessions,
        sessions_per_key_max: limits.max_sessions_per_key,
        streams_per_key_max: limits.max_event_subscribers_per_key,
        bounds: Bounds {
            pending_commands_max: limits.max_pending_commands_per_session,
            readers_max: limits.max_event_subscribers_per_session,
            many_readers: limits.allow_multiple_event_subscribers,
            items_max: limits.max_items_per_session,
            bulk_max: limits.max_bulk_items,
            alarms_max: limits.max_alarms_per_session,
            linger: limits.default_linger,
        },
        log: LogBounds {
            replay_buffer_capacity: config.log.replay_buffer_capacity as u64,
            replay_retention_ms: config.log.replay_retention.map_or(0, |age| age.as_millis() as u64),
            lag_events_max: config.log.lag_events_max,
            log_bytes_max: config.log.log_bytes_max,
            last_values_max: limits.max_items_per_session.max(defaults.last_values_max),
            ..defaults
        },
        lease: limits.default_lease,
        detach_grace: limits.detach_grace,
        command_timeout: limits.command_timeout,
        start_timeout: config.workers.start_timeout,
        heartbeat: config.workers.heartbeat,
        orphan_lifetime: config.workers.orphan_lifetime,
        leave_workers: config.workers.leave,
        patience: Patience {
            silence: config.workers.heartbeat_grace,
            stuck: config.workers.stuck_ceiling,
            shutdown: WORKER_SHUTDOWN,
        },
    }
}

/// What fails for want of room works again when there is room: looked at every few seconds, while it fails.
async fn heal(storage: Storage, host: PolicyHost, announcement: Announcement) {
    let mut tick = tokio::time::interval(HEAL_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tick.tick().await;
        telemetry::heal_log();
        storage.heal().await;
        if announcement.failing.lock().is_some() && announcement.write().is_ok() {
            tracing::info!("the addresses are announced");
        }
        if host.store_troubles() != (None, None) {
            let host = host.clone();
            // A panic there is a defect that the panic hook has logged.
            let _healed = tokio::task::spawn_blocking(move || host.heal()).await;
        }
    }
}

/// Memory of the logs and how their readers stand, once a second: numbers that nothing counts by itself.
async fn gauge_logs(budget: Arc<LogBudget>, sessions: Sessions, metrics: Metrics) {
    let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        let (mut lag_max, mut high_water, mut near_gap) = (0, 0, 0);
        for session in sessions.all() {
            for reader in session.log.readers().iter().filter(|reader| reader.is_external()) {
                let pace = session.log.pace(reader);
                lag_max = pace.lag.max(lag_max);
                high_water = pace.lag_high_water.max(high_water);
                near_gap += u64::from(pace.seconds_until_gap.is_some_and(|seconds| seconds < NEAR_GAP_SECONDS));
            }
        }
        let log = &metrics.log;
        log.bytes.set(gauge(budget.used()));
        log.lag_max.set(gauge(lag_max));
        log.lag_high_water.set(gauge(high_water));
        log.near_gap.set(gauge(near_gap));
    }
}
