//! A worker's life: start, the tasks that carry frames, beat and do the work, and the end. Knows no MXAccess: a backend
//! gets a `Link` and owns everything else; the pipe is the line's. Invariants: heartbeats and the order to stop never
//! wait for a command in hand; when `serve` returns, no task of it is left.

use crate::{
    WorkerArgs,
    line::{Home, Line, Wishes},
    outbox::{FRAMES_AHEAD, Outbox, Outgoing},
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tidegate_pipe::{PipeError, Secret};
use tidegate_proto::{
    v1::Command,
    worker::v1::{Accept, Shutdown},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::Instant,
};

/// Commands that may wait for the backend. A gateway lets 255 be pending per session at most, so that after a restart there is
/// room for its own; more than this is refused at once.
pub(crate) const COMMANDS_AHEAD: usize = 256;
/// Between heartbeats when Accept does not say (semantics.md, Workers).
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the last frames may take to leave when there is no deadline of the gateway's.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a worker ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The gateway asked for it.
    Shutdown,
    /// The gateway is gone, and none came in its place.
    PipeEnded,
}

/// How a worker ended otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error(transparent)]
    Pipe(#[from] PipeError),
    /// Said to the gateway in Goodbye as well.
    #[error("{0}")]
    Backend(String),
    #[error("the gateway sent {0} where it has no place")]
    Protocol(&'static str),
    /// A simulator was told to die without a word.
    #[error("crashed on demand")]
    Crashed,
    #[error("a task of the worker panicked")]
    Panicked,
}

/// Why a backend stops.
#[derive(Debug)]
pub enum BackendEnd {
    /// Told to, or the pipe is gone.
    Stopped,
    /// It cannot go on; the gateway is told why.
    Failed(String),
    Crashed,
}

/// What a backend works with.
#[derive(Debug)]
pub struct Link {
    pub accept: Accept,
    pub epoch: u64,
    /// In the order of the pipe. Ends with it.
    pub commands: mpsc::Receiver<(u64, Command)>,
    pub outbox: Outbox,
    pub vitals: Arc<Vitals>,
    /// Changes each time the gateway wants the whole table of alarms, and every change of it from then on.
    pub alarm_syncs: watch::Receiver<u64>,
    /// Changes each time a gateway has taken the worker over: it lacks the last values that are older than the event of
    /// this number, and takes them before the answer to the next command. A backend that has none to tell ignores it.
    pub values_before: watch::Receiver<u64>,
    /// Turns true when the backend is to finish what it has in hand and return.
    pub stop: watch::Receiver<bool>,
}

/// What the heartbeat tells, shared without waiting.
#[derive(Debug)]
pub struct Vitals {
    started: Instant,
    /// Milliseconds from `started` plus one; 0 when idle.
    busy_since: AtomicU64,
    silent: AtomicBool,
    /// Told once, when the backend is set up.
    ready: Notify,
}

// === impl Vitals ===

impl Vitals {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            busy_since: AtomicU64::new(0),
            silent: AtomicBool::new(false),
            ready: Notify::new(),
        }
    }

    /// The backend is set up: the first heartbeat says so, and ends the start.
    pub fn ready(&self) {
        self.ready.notify_one();
    }

    /// A command is in hand now.
    pub fn busy(&self) {
        self.busy_since.store(self.uptime_ms() + 1, Ordering::Relaxed);
    }

    pub fn idle(&self) {
        self.busy_since.store(0, Ordering::Relaxed);
    }

    /// A fault on demand: no more heartbeats.
    pub fn silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    pub fn uptime_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn busy_ms(&self) -> u32 {
        match self.busy_since.load(Ordering::Relaxed) {
            0 => 0,
            since => u32::try_from((self.uptime_ms() + 1).saturating_sub(since)).unwrap_or(u32::MAX).max(1),
        }
    }
}

/// Connects, starts `backend` and stays until one side ends. The backend has no alarms.
pub async fn serve<F: Future<Output = BackendEnd> + Send + 'static>(
    args: &WorkerArgs,
    secret: &Secret,
    backend_name: &str,
    backend: impl FnOnce(Link) -> F,
) -> Result<Outcome, Ended> {
    serve_as(args, secret, (backend_name, false), backend).await
}

/// As `serve`, with a backend that answers `alarm_syncs`.
pub async fn serve_with_alarms<F: Future<Output = BackendEnd> + Send + 'static>(
    args: &WorkerArgs,
    secret: &Secret,
    backend_name: &str,
    backend: impl FnOnce(Link) -> F,
) -> Result<Outcome, Ended> {
    serve_as(args, secret, (backend_name, true), backend).await
}

async fn serve_as<F: Future<Output = BackendEnd> + Send + 'static>(
    args: &WorkerArgs,
    secret: &Secret,
    (backend_name, alarms): (&str, bool),
    backend: impl FnOnce(Link) -> F,
) -> Result<Outcome, Ended> {
    let epoch = mint_epoch()?;
    let home = Home {
        socket: args.connect.clone(),
        session: args.session.clone(),
        secret: secret.clone(),
        backend: backend_name.to_owned(),
        epoch,
        alarms,
    };
    let end = home.connect(None).await?;

    let (frames, to_write) = mpsc::channel(FRAMES_AHEAD);
    let (ask, commands) = mpsc::channel(COMMANDS_AHEAD);
    let (stop, stopping) = watch::channel(false);
    let (asked, mut shutdown) = watch::channel(None);
    let (sync, alarm_syncs) = watch::channel(0);
    let (lacks, values_before) = watch::channel(0);
    let vitals = Arc::new(Vitals::new());
    let period = Duration::from_millis(end.accept.heartbeat_ms.into());
    let link = Link {
        accept: end.accept.clone(),
        epoch,
        commands,
        outbox: Outbox::new(frames.clone()),
        vitals: vitals.clone(),
        alarm_syncs,
        values_before,
        stop: stopping,
    };

    let mut tasks = JoinSet::new();
    let wishes = Wishes { gather_us: link.outbox.gathering(), alarm_syncs: sync, values_before: lacks };
    let backend = backend(link);
    tasks.spawn(async move { Done::Backend(backend.await) });
    let line = Line::new(home, to_write, frames.clone(), ask, asked, wishes);
    tasks.spawn(async move { Done::Carried(line.run(end).await) });
    tasks.spawn(beat(frames.clone(), vitals, if period.is_zero() { HEARTBEAT } else { period }));
    let ended = watch_over(&mut tasks, &frames, &mut shutdown, &stop).await;
    tasks.shutdown().await;
    ended
}

/// Waits for the first thing that ends a worker, and sees to an end in order.
async fn watch_over(
    tasks: &mut JoinSet<Done>,
    frames: &mpsc::Sender<Outgoing>,
    shutdown: &mut watch::Receiver<Option<Shutdown>>,
    stop: &watch::Sender<bool>,
) -> Result<Outcome, Ended> {
    let mut deadline = None;
    let mut failure = None;
    loop {
        let done = tokio::select! {
            done = tasks.join_next() => done,
            () = until(deadline) => {
                // The backend did not return in time. Its command is abandoned, as the gateway announced.
                let goodbye = Outgoing::Goodbye { reason: "stopped at the deadline".to_owned() };
                let _told = tokio::time::timeout(FAREWELL, async {
                    frames.send(goodbye).await.ok()?;
                    while !matches!(tasks.join_next().await?, Ok(Done::Carried(_))) {}
                    Some(())
                })
                .await;
                return failure.map_or(Ok(Outcome::Shutdown), Err);
            }
            order = next_order(shutdown), if deadline.is_none() => {
                deadline = Some(Instant::now() + Duration::from_millis(order.deadline_ms.into()));
                stop.send_replace(true);
                continue;
            }
        };
        match done {
            Some(Ok(Done::Backend(end))) => {
                let reason = match end {
                    BackendEnd::Crashed => return Err(Ended::Crashed),
                    BackendEnd::Failed(reason) => {
                        failure = Some(Ended::Backend(reason.clone()));
                        reason
                    }
                    BackendEnd::Stopped => "shutdown".to_owned(),
                };
                // The line ends behind Goodbye; the clause below returns then.
                let _told = tokio::time::timeout(FAREWELL, frames.send(Outgoing::Goodbye { reason })).await;
                deadline = deadline.or(Some(Instant::now() + FAREWELL));
            }
            // An end in order does not outweigh the backend's own.
            Some(Ok(Done::Carried(Ok(outcome)))) => return failure.map_or(Ok(outcome), Err),
            Some(Ok(Done::Carried(Err(error)))) => return Err(error),
            Some(Ok(Done::Beaten)) => {}
            Some(Err(_)) | None => return Err(Ended::Panicked),
        }
    }
}

/// What a task of `serve` ended with.
enum Done {
    Backend(BackendEnd),
    Carried(Result<Outcome, Ended>),
    Beaten,
}

/// Beats in its own time, from the moment the backend is set up; waits only for room in the pipe.
async fn beat(frames: mpsc::Sender<Outgoing>, vitals: Arc<Vitals>, period: Duration) -> Done {
    vitals.ready.notified().await;
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let busy_ms = vitals.busy_ms();
        if vitals.silent.load(Ordering::Relaxed) {
            return Done::Beaten;
        }
        if frames.send(Outgoing::Heartbeat { busy_ms }).await.is_err() {
            return Done::Beaten;
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The order to stop; never when the reading task is gone, whose own end says it all.
async fn next_order(orders: &mut watch::Receiver<Option<Shutdown>>) -> Shutdown {
    match orders.wait_for(Option::is_some).await.map(|order| order.clone()) {
        Ok(Some(order)) => order,
        _ => std::future::pending().await,
    }
}

/// Random and not zero.
fn mint_epoch() -> Result<u64, PipeError> {
    loop {
        let epoch = getrandom::u64().map_err(|error| PipeError::Io {
            context: "asking the system for a random epoch",
            source: std::io::Error::other(error.to_string()),
        })?;
        if epoch != 0 {
            return Ok(epoch);
        }
    }
}
