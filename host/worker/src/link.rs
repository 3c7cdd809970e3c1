//! A worker's life at its pipe: start, the tasks that read, write and beat, and the end. Knows no MXAccess: a backend
//! gets a `Link` and owns everything else. Invariants: the writing task alone writes; heartbeats and the order to stop
//! never wait for a command in hand; when `serve` returns, no task of it is left.

use crate::{
    START_TIMEOUT, WorkerArgs,
    outbox::{FRAMES_AHEAD, Outbox, Outgoing},
};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tidegate_pipe::{HelloFields, PipeError, Secret, WorkerReader, WorkerWriter, connect, handshake};
use tidegate_proto::{
    v1::{Command, CommandResult},
    worker::v1::{Accept, Events, FromWorker, Goodbye, Heartbeat, Reply, Resend, Shutdown, from_gateway, from_worker},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
    time::Instant,
};

/// Commands that may wait for the backend. A gateway lets 128 be pending per session; more than this is refused at once.
const COMMANDS_AHEAD: usize = 256;
/// RPC_E_SERVERCALL_RETRYLATER.
const BUSY: i32 = 0x8001_010A_u32 as i32;
/// E_OUTOFMEMORY.
const TOO_LARGE: i32 = 0x8007_000E_u32 as i32;
/// Between heartbeats when Accept does not say (semantics.md, Workers).
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The longest that events wait for others, whatever the gateway says: as long as a reader may linger.
const GATHER_US_MAX: u32 = 1_000_000;
/// Bytes gathered before a write; a bound, not an aim. (Guessed.)
const WRITE_BYTES: usize = 512 << 10;
/// How long the last frames may take to leave when there is no deadline of the gateway's.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a worker ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The gateway asked for it.
    Shutdown,
    /// The gateway is gone.
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

/// Connects, starts `backend` and stays until one side ends.
pub async fn serve<F: Future<Output = BackendEnd> + Send + 'static>(
    args: &WorkerArgs,
    secret: &Secret,
    backend_name: &str,
    backend: impl FnOnce(Link) -> F,
) -> Result<Outcome, Ended> {
    let epoch = mint_epoch()?;
    let fields = HelloFields {
        backend: backend_name.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        epoch,
        adopt: None,
    };
    let end = connect(&args.connect, &args.session, secret, fields, START_TIMEOUT).await?;

    let (frames, to_write) = mpsc::channel(FRAMES_AHEAD);
    let (ask, commands) = mpsc::channel(COMMANDS_AHEAD);
    let (stop, stopping) = watch::channel(false);
    let (asked, mut shutdown) = watch::channel(None);
    let vitals = Arc::new(Vitals::new());
    let period = Duration::from_millis(end.accept.heartbeat_ms.into());
    let link = Link {
        accept: end.accept,
        epoch,
        commands,
        outbox: Outbox::new(frames.clone()),
        vitals: vitals.clone(),
        stop: stopping,
    };

    let mut tasks = JoinSet::new();
    let gather_us = link.outbox.gathering();
    let backend = backend(link);
    tasks.spawn(async move { Done::Backend(backend.await) });
    tasks.spawn(write(end.writer, to_write, epoch));
    tasks.spawn(read(end.reader, ask, frames.clone(), asked, gather_us));
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
                    while !matches!(tasks.join_next().await?, Ok(Done::Written(_) | Done::Read(_))) {}
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
                // The writing task ends behind Goodbye; the clause below returns then.
                let _told = tokio::time::timeout(FAREWELL, frames.send(Outgoing::Goodbye { reason })).await;
                deadline = deadline.or(Some(Instant::now() + FAREWELL));
            }
            Some(Ok(Done::Written(Ok(())))) => return failure.map_or(Ok(Outcome::Shutdown), Err),
            Some(Ok(Done::Read(Ok(())))) => return failure.map_or(Ok(Outcome::PipeEnded), Err),
            // Without a reader at the other end the pipe has ended as well, only seen from another task first.
            Some(Ok(Done::Written(Err(PipeError::Io { .. })))) => {
                return failure.map_or(Ok(Outcome::PipeEnded), Err);
            }
            Some(Ok(Done::Written(Err(error)))) => return Err(error.into()),
            Some(Ok(Done::Read(Err(error)))) => return Err(error),
            Some(Ok(Done::Beaten)) => {}
            Some(Err(_)) | None => return Err(Ended::Panicked),
        }
    }
}

/// What a task of `serve` ended with.
enum Done {
    Backend(BackendEnd),
    Written(Result<(), PipeError>),
    Read(Result<(), Ended>),
    Beaten,
}

/// Writes frames in their order until Goodbye has left.
async fn write(mut pipe: WorkerWriter, mut frames: mpsc::Receiver<Outgoing>, epoch: u64) -> Done {
    let mut head = 0;
    while let Some(frame) = frames.recv().await {
        let mut next = Some(frame);
        let mut last = false;
        while let Some(frame) = next {
            last = matches!(frame, Outgoing::Goodbye { .. });
            if let Err(error) = put(&mut pipe, frame, epoch, &mut head) {
                return Done::Written(Err(error));
            }
            next = if last || pipe.pending() >= WRITE_BYTES { None } else { frames.try_recv().ok() };
        }
        match pipe.flush().await {
            Ok(()) if last => break,
            Ok(()) => {}
            Err(error) => return Done::Written(Err(error)),
        }
    }
    Done::Written(Ok(()))
}

fn put(pipe: &mut WorkerWriter, frame: Outgoing, epoch: u64, head: &mut u64) -> Result<(), PipeError> {
    let frame = match frame {
        Outgoing::Events { first, count, bytes } => {
            *head = first + u64::from(count) - 1;
            from_worker::Frame::Events(Events { epoch, first, count, events: bytes })
        }
        Outgoing::Reply { id, result } => from_worker::Frame::Reply(Reply { id, result: Some(result) }),
        // What it tells of the head is what the pipe has carried before it.
        Outgoing::Heartbeat { busy_ms } => from_worker::Frame::Heartbeat(Heartbeat { head: *head, busy_ms }),
        Outgoing::Resend { from } => from_worker::Frame::Resend(Resend { from }),
        Outgoing::Goodbye { reason } => from_worker::Frame::Goodbye(Goodbye { reason }),
        Outgoing::Raw(bytes) => {
            pipe.push_raw(&bytes);
            return Ok(());
        }
    };
    let message = FromWorker { frame: Some(frame) };
    match (pipe.push(&message), message.frame) {
        // One answer that does not fit must not end the session.
        (Err(PipeError::TooLarge { len, max }), Some(from_worker::Frame::Reply(Reply { id, .. }))) => {
            let message = format!("the answer has {len} bytes, more than the {max} of a frame");
            let result = Some(CommandResult { hresult: TOO_LARGE, message, result: None });
            pipe.push(&FromWorker { frame: Some(from_worker::Frame::Reply(Reply { id, result })) })
        }
        (pushed, _) => pushed,
    }
}

/// Reads commands and the order to stop until the pipe ends.
async fn read(
    mut pipe: WorkerReader,
    ask: mpsc::Sender<(u64, Command)>,
    frames: mpsc::Sender<Outgoing>,
    asked: watch::Sender<Option<Shutdown>>,
    gather_us: Arc<AtomicU32>,
) -> Done {
    loop {
        let frame = match pipe.recv().await {
            Ok(Some(message)) => message.frame,
            Ok(None) => return Done::Read(Ok(())),
            Err(PipeError::Io { .. } | PipeError::Truncated) => return Done::Read(Ok(())),
            Err(error) => return Done::Read(Err(error.into())),
        };
        match frame {
            Some(from_gateway::Frame::Command(frame)) => {
                let command = frame.command.unwrap_or_default();
                if let Err(mpsc::error::TrySendError::Full(_)) = ask.try_send((frame.id, command)) {
                    let message = format!("{COMMANDS_AHEAD} commands are waiting already");
                    let result = CommandResult { hresult: BUSY, message, result: None };
                    // Fails when the writing task is gone, which ends this one too.
                    let _ended = frames.send(Outgoing::Reply { id: frame.id, result }).await;
                }
            }
            Some(from_gateway::Frame::Shutdown(order)) => {
                asked.send_replace(Some(order));
            }
            // Seen by the backend at its next event; what waits already goes when it was due.
            Some(from_gateway::Frame::Gather(gather)) => {
                gather_us.store(gather.max_us.min(GATHER_US_MAX), Ordering::Relaxed);
            }
            Some(other) => return Done::Read(Err(Ended::Protocol(handshake::gateway_name(&other)))),
            None => return Done::Read(Err(Ended::Protocol("an unknown frame"))),
        }
    }
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
