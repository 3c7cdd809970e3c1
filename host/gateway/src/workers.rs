//! Starts worker processes and matches the connections that come back to them. Knows pipes and processes,
//! not sessions or events. Invariant: a worker is handed out only after it proved that it knows its
//! session's secret, and whoever drops a `Worker` or a launch ends the process and reaps it.

mod adopt;
mod launch;
mod process;

pub use adopt::{Adopted, Adoption};
pub use launch::{Backend, Launch, Worker};
pub use process::{LastWords, Orphan, Process};

use crate::ids::SessionId;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tidegate_pipe::{Incoming, PendingHello, PipeError, Proven, Secret, WorkerListener};
use tokio::sync::{Semaphore, oneshot};

/// Connections that may be in the handshake at once; further ones wait in the socket's backlog. Guessed.
const HANDSHAKES_MAX: usize = 64;
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
}

#[derive(Debug)]
struct Awaited {
    secret: Secret,
    arrived: oneshot::Sender<Proven>,
    /// Of a worker that is to come back; `None` for one that was just started.
    orphan: Option<u32>,
}

/// Takes the session off the list of awaited ones when the launch ends, however it ends.
#[derive(Debug)]
struct Awaiting {
    shared: Arc<Shared>,
    session: SessionId,
}

// === impl WorkerHub ===

impl WorkerHub {
    /// `socket` is where `run` listens.
    pub fn new(socket: PathBuf) -> Self {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        Self { shared: Arc::new(Shared { socket, awaited: Mutex::default(), handshakes }) }
    }

    /// Accepts workers until cancelled.
    pub async fn run(self, listener: WorkerListener) {
        loop {
            let Ok(permit) = self.shared.handshakes.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok(incoming) => {
                    let shared = self.shared.clone();
                    // Bounded by the permits and the step timeouts; it owns nothing that outlives it.
                    tokio::spawn(async move {
                        let _permit = permit;
                        if let Err(error) = shared.admit(incoming).await {
                            tracing::warn!(%error, "a connection to the workers' socket was turned away");
                        }
                    });
                }
                Err(error @ PipeError::Io { .. }) => {
                    tracing::warn!(%error, "cannot accept workers just now");
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

    /// Registers a session whose worker will come, or come back.
    fn expect(&self, session: SessionId, secret: Secret, orphan: Option<u32>) -> (Awaiting, oneshot::Receiver<Proven>) {
        let (arrived, arrival) = oneshot::channel();
        self.shared.awaited.lock().insert(session.clone(), Awaited { secret, arrived, orphan });
        (Awaiting { shared: self.shared.clone(), session }, arrival)
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
        let awaited = session.and_then(|id| self.take(&id, false));
        let Some(Awaited { secret, arrived, .. }) = awaited else {
            pending.reject("worker.unknown_session", "no worker is awaited for this session").await;
            return Ok(());
        };
        let proven = pending.challenge(&secret, STEP_TIMEOUT).await?;
        // The launch may have given up in the meantime; dropping the connection tells the worker.
        let _given_up = arrived.send(proven);
        Ok(())
    }

    /// A worker that comes back. An impostor must not keep the real one out, so the place stays until a proof was right.
    async fn take_back(&self, pending: PendingHello, session: Option<SessionId>) -> Result<(), PipeError> {
        let known = session.and_then(|id| {
            let awaited = self.awaited.lock();
            let found = awaited.get(&id)?;
            Some((id, found.secret.clone(), found.orphan?))
        });
        let Some((session, secret, pid)) = known else {
            pending.reject("worker.unknown_session", "no worker is to come back for this session").await;
            return Ok(());
        };
        if pending.peer_pid.is_some_and(|peer| peer != pid) {
            pending.reject("worker.other_process", "this is not the process that serves the session").await;
            return Ok(());
        }
        let proven = pending.challenge(&secret, STEP_TIMEOUT).await?;
        match self.take(&session, true) {
            Some(awaited) => drop(awaited.arrived.send(proven)),
            None => proven.reject("worker.unknown_session", "the session's worker has come back already").await,
        }
        Ok(())
    }

    fn take(&self, session: &SessionId, orphan: bool) -> Option<Awaited> {
        let mut awaited = self.awaited.lock();
        (awaited.get(session)?.orphan.is_some() == orphan).then(|| awaited.remove(session))?
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
