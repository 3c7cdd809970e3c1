//! Starts worker processes and matches the connections that come back to them. Knows pipes and processes,
//! not sessions or events. Invariant: a worker is handed out only after it proved that it knows its
//! session's secret, and whoever drops a `Worker` or a launch ends the process and reaps it; processes that nobody
//! expects hold up none that is expected.

mod adopt;
mod launch;
mod process;

pub use adopt::{Adopted, Adoption};
pub use launch::{Backend, Launch, Worker};
pub use process::{LastWords, Orphan, Process};

use crate::{
    ids::SessionId,
    telemetry::{Counter, Repeated},
};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tidegate_pipe::{Incoming, PendingHello, PipeError, Proven, Secret, WorkerListener};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Connections that may be in the handshake at once; further ones wait in the socket's backlog. Guessed.
const HANDSHAKES_MAX: usize = 64;
/// Those among them that come from processes which nobody expects; further ones are cut. They get an answer, and no more
/// than the time of a step to say nothing. Guessed.
const STRANGERS_MAX: usize = 16;
/// Each step of the handshake. A worker does nothing else at that time. Guessed.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause after the system had no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The one place where workers are awaited.
#[derive(Clone, Debug)]
pub struct WorkerHub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: PathBuf,
    awaited: Mutex<HashMap<SessionId, Awaited>>,
    handshakes: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    /// Nobody is let in any more.
    closed: CancellationToken,
    /// Who comes back and is not expected is told to end.
    rejects: AtomicBool,
    /// Times that the system had no descriptor for a connection.
    failures: Counter,
}

#[derive(Debug)]
struct Awaited {
    secret: Secret,
    /// Of its process, once that has been started.
    pid: Option<u32>,
    arrived: Arrived,
}

/// Who is told of a worker that has proved itself.
#[derive(Debug)]
enum Arrived {
    /// One that was just started.
    New(oneshot::Sender<Proven>),
    /// One that comes back, as often as it takes. Full: what it left behind before is still being looked at.
    Again(mpsc::Sender<Proven>),
}

/// Takes the session off the list of awaited ones when the launch ends, however it ends.
#[derive(Debug)]
struct Awaiting {
    shared: Arc<Shared>,
    session: SessionId,
}

// === impl WorkerHub ===

impl WorkerHub {
    /// `socket` is where `run` listens; `failures` counts what could not be accepted.
    pub fn new(socket: PathBuf, failures: Counter) -> Self {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
        let closed = CancellationToken::new();
        let (awaited, rejects) = (Mutex::default(), AtomicBool::new(true));
        Self { shared: Arc::new(Shared { socket, awaited, handshakes, strangers, closed, rejects, failures }) }
    }

    /// Whether who comes back and is not expected is told to end. `false`: another gateway may still want it.
    pub fn reject(&self, rejects: bool) {
        self.shared.rejects.store(rejects, Ordering::SeqCst);
    }

    /// Lets nobody in any more, and tells nobody to end for that: who comes back is for the next gateway.
    pub fn close(&self) {
        self.shared.closed.cancel();
    }

    /// Accepts workers until closed or cancelled.
    pub async fn run(self, listener: WorkerListener) {
        let closed = self.shared.closed.clone();
        tokio::select! {
            () = closed.cancelled() => {}
            () = self.accept(&listener) => {}
        }
    }

    async fn accept(&self, listener: &WorkerListener) {
        let mut trouble = Repeated::default();
        loop {
            let Ok(mut permit) = self.shared.handshakes.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok(incoming) => {
                    let shared = self.shared.clone();
                    if !shared.is_expected(incoming.peer_pid()) {
                        let Ok(strangers) = shared.strangers.clone().try_acquire_owned() else {
                            tracing::debug!("a stranger at the workers' socket was cut: there are too many");
                            continue;
                        };
                        permit = strangers;
                    }
                    // Bounded by the permits and the step timeouts; it owns nothing that outlives it.
                    tokio::spawn(async move {
                        let _permit = permit;
                        if let Err(error) = shared.admit(incoming).await {
                            tracing::warn!(%error, "a connection to the workers' socket was turned away");
                        }
                    });
                }
                Err(error @ PipeError::Io { .. }) => {
                    self.shared.failures.inc();
                    if let Some(more) = trouble.again() {
                        tracing::warn!(%error, more, "cannot accept workers just now");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(error) => tracing::warn!(%error, "a connection to the workers' socket was refused"),
            }
        }
    }

    /// Where workers connect to.
    pub fn socket(&self) -> &Path {
        &self.shared.socket
    }

    /// Registers a session whose worker will come.
    fn expect_new(&self, session: SessionId, secret: Secret) -> (Awaiting, oneshot::Receiver<Proven>) {
        let (arrived, arrival) = oneshot::channel();
        (self.expect(session, Awaited { secret, pid: None, arrived: Arrived::New(arrived) }), arrival)
    }

    /// Registers a session whose worker will come back.
    fn expect_again(&self, session: SessionId, secret: Secret, pid: u32) -> (Awaiting, mpsc::Receiver<Proven>) {
        let (arrived, arrivals) = mpsc::channel(1);
        (self.expect(session, Awaited { secret, pid: Some(pid), arrived: Arrived::Again(arrived) }), arrivals)
    }

    fn expect(&self, session: SessionId, awaited: Awaited) -> Awaiting {
        self.shared.awaited.lock().insert(session.clone(), awaited);
        Awaiting { shared: self.shared.clone(), session }
    }
}

// === impl Shared ===

impl Shared {
    async fn admit(&self, incoming: Incoming) -> Result<(), PipeError> {
        let pending = incoming.hello(STEP_TIMEOUT).await?;
        let session = SessionId::parse(&pending.hello.session_id);
        if pending.hello.adopt.is_some() {
            return self.take_back(pending, session).await;
        }
        // Taken out at once: a secret proves one worker, and a wrong proof ends the launch.
        let Some((secret, arrived)) = session.and_then(|id| self.take_new(&id)) else {
            pending.reject("worker.unknown_session", "no worker is awaited for this session").await;
            return Ok(());
        };
        let proven = pending.challenge(&secret, STEP_TIMEOUT).await?;
        // The launch may have given up in the meantime; dropping the connection tells the worker.
        let _given_up = arrived.send(proven);
        Ok(())
    }

    /// A worker that comes back. An impostor must not keep the real one out, nor a connection that broke on the way, so
    /// the place stays until whoever waits gives it up.
    async fn take_back(&self, pending: PendingHello, session: Option<SessionId>) -> Result<(), PipeError> {
        let known = session.and_then(|id| {
            let awaited = self.awaited.lock();
            let Awaited { secret, pid, arrived: Arrived::Again(arrived) } = awaited.get(&id)? else { return None };
            Some((secret.clone(), (*pid)?, arrived.clone()))
        });
        let Some((secret, pid, arrived)) = known else {
            if !self.may_reject() {
                // A Reject would end it, and it is not ours to end: another gateway may want it.
                return Ok(());
            }
            pending.reject("worker.unknown_session", "no worker is to come back for this session").await;
            return Ok(());
        };
        if pending.peer_pid.is_some_and(|peer| peer != pid) {
            pending.reject("worker.other_process", "this is not the process that serves the session").await;
            return Ok(());
        }
        let proven = pending.challenge(&secret, STEP_TIMEOUT).await?;
        match arrived.try_send(proven) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Closed(proven)) if self.may_reject() => {
                proven.reject("worker.unknown_session", "the session is not waited for any more").await;
            }
            // Its connection ends here, so that it calls again.
            Err(_) => {}
        }
        Ok(())
    }

    fn may_reject(&self) -> bool {
        self.rejects.load(Ordering::SeqCst) && !self.closed.is_cancelled()
    }

    fn take_new(&self, session: &SessionId) -> Option<(Secret, oneshot::Sender<Proven>)> {
        let mut awaited = self.awaited.lock();
        if !matches!(awaited.get(session)?.arrived, Arrived::New(_)) {
            return None;
        }
        match awaited.remove(session)? {
            Awaited { secret, arrived: Arrived::New(arrived), .. } => Some((secret, arrived)),
            Awaited { .. } => None,
        }
    }

    /// Whether somebody waits for this process; where the system does not tell, anybody may be the one.
    fn is_expected(&self, peer: Option<u32>) -> bool {
        peer.is_none_or(|peer| self.awaited.lock().values().any(|awaited| awaited.pid == Some(peer)))
    }
}

// === impl Awaiting ===

impl Awaiting {
    /// The process has been started.
    fn process(&self, pid: u32) {
        if let Some(awaited) = self.shared.awaited.lock().get_mut(&self.session) {
            awaited.pid = Some(pid);
        }
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.shared.awaited.lock().remove(&self.session);
    }
}

/// As the frames carry times; longer ones are cut to 49 days.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
