//! Where a gateway that serves hears of one that wants to follow: checks who it is and what it knows, and waits until it
//! is ready. Knows nothing of what is handed over. Invariants: one follower at a time, the others are told; nothing of
//! the gateway is touched before a follower is ready.

use super::{
    PROTOCOL,
    line::{Address, Line, Peer, Word},
};
use crate::{
    app::App,
    error::{Code, Error, Result},
    storage,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// Who calls says hello in this time. Guessed.
const STEP: Duration = Duration::from_secs(5);
/// How long a follower may prepare itself; all the while this gateway serves. Guessed: some compiles on a slow machine.
const WARM_MAX: Duration = Duration::from_secs(300);
/// Conversations at a time; who comes then waits in the backlog.
const CONVERSATIONS_MAX: usize = 8;
/// Pause after the system had no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until it is dropped.
#[derive(Debug)]
pub struct Desk(AbortHandle);

/// A follower that is ready.
#[derive(Debug)]
pub struct Standby {
    pub(super) line: Line,
    pub(super) peer: Peer,
    pub(super) version: String,
    /// The newest that it knows.
    pub(super) schema: usize,
    /// For as long as it is dealt with, every other one is turned away.
    pub(super) _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Facts {
    instance: String,
    grpc: Address,
    http: Address,
    within: Duration,
    /// Workers would outlive this gateway.
    reattach: bool,
}

// === impl Desk ===

impl Desk {
    /// Those that are ready come out of the channel, one at a time.
    pub fn open(app: &App) -> Result<(Self, mpsc::Receiver<Standby>)> {
        let sockets = app.sockets();
        let (grpc, http) = sockets.tcp();
        let config = app.config();
        let facts = Facts {
            instance: app.instance().as_str().to_owned(),
            grpc,
            http,
            within: super::give::within(config),
            reattach: !config.workers.orphan_lifetime.is_zero(),
        };
        let listener = sockets.takeover()?;
        // One at a time has the place, so sending never waits.
        let (ready, standbys) = mpsc::channel(1);
        let task = tokio::spawn(run(Arc::new(facts), listener, ready));
        Ok((Self(task.abort_handle()), standbys))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(facts: Arc<Facts>, listener: UnixListener, ready: mpsc::Sender<Standby>) {
    let place = Arc::new(Semaphore::new(1));
    let mut conversations = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            Some(_ended) = conversations.join_next() => continue,
            accepted = listener.accept(), if conversations.len() < CONVERSATIONS_MAX => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let (facts, place, ready) = (facts.clone(), place.clone(), ready.clone());
                conversations.spawn(async move {
                    if let Err(error) = facts.attend(stream, place, ready).await {
                        tracing::warn!(%error, "a gateway that wanted to take over did not");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot be asked to hand over just now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

// === impl Facts ===

impl Facts {
    async fn attend(
        &self,
        stream: UnixStream,
        place: Arc<Semaphore>,
        ready: mpsc::Sender<Standby>,
    ) -> Result<(), String> {
        let words = |error: io::Error| error.to_string();
        let mut line = Line::new(stream).map_err(words)?;
        let peer = line.caller().map_err(words)?;
        let hello = timeout(STEP, line.hear()).await.map_err(|_elapsed| "it said nothing".to_owned())?;
        let Some(hello) = hello.map_err(words)? else { return Err("it went away without a word".into()) };
        let pid = peer.pid;
        let admitted = self.check(hello).and_then(|(version, schema)| {
            let busy = |_taken| Error::new(Code::TakeOverBusy, "another gateway is just taking over");
            Ok((version, schema, place.try_acquire_owned().map_err(busy)?))
        });
        let (version, schema, place) = match admitted {
            Ok(admitted) => admitted,
            Err(error) => {
                let (code, message) = (error.code().as_str().to_owned(), error.message().to_owned());
                let _gone = line.say(&Word::Refused { code, message }).await;
                return Err(format!("process {pid}: {error}"));
            }
        };
        tracing::info!(pid, version, "a gateway prepares itself to take over");
        let welcome = Word::Welcome {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema: storage::SCHEMA,
            grpc: self.grpc,
            http: self.http,
            within_ms: self.within.as_millis() as u64,
        };
        line.say(&welcome).await.map_err(words)?;
        let prepared = timeout(WARM_MAX, line.hear()).await;
        match prepared.map_err(|_elapsed| format!("process {pid} took too long to prepare itself"))?.map_err(words)? {
            Some(Word::Ready) => {
                // Without a receiver this gateway is stopping.
                let _stopping = ready.send(Standby { line, peer, version, schema, _place: place }).await;
                Ok(())
            }
            Some(Word::Failed { message }) => Err(format!("process {pid}: {message}")),
            other => Err(format!("process {pid}: {}", super::line::unexpected(other))),
        }
    }

    /// Version and schema of one that could follow.
    fn check(&self, hello: Word) -> Result<(String, usize)> {
        let refused = |why: String| Err(Error::new(Code::TakeOverRefused, why));
        let Word::Hello { protocol, version, instance, schema, pipe } = hello else {
            return refused("it did not say hello".into());
        };
        if protocol != PROTOCOL {
            return refused(format!("the gateway that serves hands over by protocol {PROTOCOL}, not {protocol}"));
        }
        if instance != self.instance {
            return refused("it is for another installation".into());
        }
        if schema < storage::SCHEMA {
            let now = storage::SCHEMA;
            let message = format!("the database has schema {now}; that program knows up to {schema}");
            return Err(Error::new(Code::StorageNewer, message));
        }
        if pipe != tidegate_pipe::PROTOCOL_VERSION {
            let ours = tidegate_pipe::PROTOCOL_VERSION;
            return refused(format!("the workers that live speak version {ours} of the pipe, not {pipe}"));
        }
        if !self.reattach {
            let why = "the gateway that serves has no --enable-orphan-reattach: its sessions would end";
            return refused(why.into());
        }
        Ok((version, schema))
    }
}
