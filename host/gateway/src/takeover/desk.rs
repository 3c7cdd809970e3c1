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
    telemetry::{Counter, Repeated},
};
use parking_lot::Mutex;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, timeout},
};

/// Who calls says hello in this time. Guessed.
const STEP: Duration = Duration::from_secs(5);
/// How long a follower may prepare itself; all the while this gateway serves, and nobody else may follow. Guessed: a hundred
/// compiles on a slow machine.
const WARM_MAX: Duration = Duration::from_secs(60);
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
    pub(super) _place: Taken,
}

/// The place of the one that follows: which process has it, and since when.
#[derive(Clone, Debug, Default)]
struct Place(Arc<Mutex<Option<(u32, Instant)>>>);

/// Gives the place back when it is dropped.
#[derive(Debug)]
pub(super) struct Taken(Place);

#[derive(Debug)]
struct Facts {
    instance: String,
    grpc: Address,
    http: Address,
    within: Duration,
    /// Workers would outlive this gateway.
    reattach: bool,
    /// This is process 1: when it ends, everything else of its container does.
    first: bool,
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
            first: std::process::id() == 1,
        };
        let listener = sockets.takeover()?;
        // One at a time has the place, so sending never waits.
        let (ready, standbys) = mpsc::channel(1);
        let task = tokio::spawn(run(Arc::new(facts), listener, ready, app.accept_failures()));
        Ok((Self(task.abort_handle()), standbys))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Place ===

impl Place {
    fn take(&self, pid: u32) -> Result<Taken> {
        let mut place = self.0.lock();
        if let Some((other, since)) = *place {
            let seconds = since.elapsed().as_secs();
            let message = format!("process {other} is just taking over, for {seconds} s now");
            return Err(Error::new(Code::TakeOverBusy, message).with("pid", other));
        }
        *place = Some((pid, Instant::now()));
        Ok(Taken(self.clone()))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        *self.0.0.lock() = None;
    }
}

async fn run(facts: Arc<Facts>, listener: UnixListener, ready: mpsc::Sender<Standby>, failures: Counter) {
    let place = Place::default();
    let mut trouble = Repeated::default();
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
                failures.inc();
                if let Some(more) = trouble.again() {
                    tracing::warn!(%error, more, "cannot be asked to hand over just now");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

// === impl Facts ===

impl Facts {
    async fn attend(&self, stream: UnixStream, place: Place, ready: mpsc::Sender<Standby>) -> Result<(), String> {
        let words = |error: io::Error| error.to_string();
        let mut line = Line::new(stream).map_err(words)?;
        let peer = line.caller().map_err(words)?;
        let hello = timeout(STEP, line.hear()).await.map_err(|_elapsed| "it said nothing".to_owned())?;
        let Some(hello) = hello.map_err(words)? else { return Err("it went away without a word".into()) };
        let pid = peer.pid;
        let admitted = self.check(hello).and_then(|(version, schema)| Ok((version, schema, place.take(pid)?)));
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
        let Ok(prepared) = timeout(WARM_MAX, line.hear()).await else {
            let message = format!("it was not ready within {} s", WARM_MAX.as_secs());
            // Without waiting for one that does not read: its place is free, and it ends when it looks.
            let _gone = timeout(STEP, line.say(&Word::Back { message })).await;
            return Err(format!("process {pid} took too long to prepare itself"));
        };
        match prepared.map_err(words)? {
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
        if self.first {
            let why = "the gateway that serves is process 1 of a container, which ends with it: replace the container";
            return refused(why.into());
        }
        if !self.reattach {
            let why = "the gateway that serves has no --enable-orphan-reattach: its sessions would end";
            return refused(why.into());
        }
        Ok((version, schema))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let address = "127.0.0.1:0".parse().expect("an address");
        let address = Address { wanted: address, bound: address };
        let (grpc, http) = (address, address);
        Facts { instance: "here".into(), grpc, http, within: Duration::from_secs(30), reattach: true, first: false }
    }

    fn hello() -> Word {
        Word::Hello {
            protocol: PROTOCOL,
            version: "9.9.9".into(),
            instance: "here".into(),
            schema: storage::SCHEMA,
            pipe: tidegate_pipe::PROTOCOL_VERSION,
        }
    }

    /// One that called and said hello, and what it hears.
    async fn calls(place: &Place) -> (Line, Word) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let (facts, place, (ready, _standbys)) = (facts(), place.clone(), mpsc::channel(1));
        tokio::spawn(async move { facts.attend(theirs, place, ready).await });
        let mut line = Line::new(ours).expect("ours");
        line.say(&hello()).await.expect("said");
        let heard = line.hear().await.expect("heard").expect("a word");
        (line, heard)
    }

    // shows: W-08
    #[test]
    fn a_gateway_whose_end_is_the_end_of_its_container_hands_over_to_nobody() {
        facts().check(hello()).expect("one that could follow");
        let error = Facts { first: true, ..facts() }.check(hello()).expect_err("it would die with this one");
        assert!(error.code() == Code::TakeOverRefused && error.message().contains("process 1"), "{error}");
    }

    // shows: W-08
    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_while_it_prepares_itself_is_named_and_loses_its_place() {
        let place = Place::default();
        let (mut hangs, welcome) = calls(&place).await;
        assert!(matches!(welcome, Word::Welcome { .. }), "{welcome:?}");
        let (_line, refused) = calls(&place).await;
        let Word::Refused { code, message } = refused else { panic!("{refused:?}") };
        assert_eq!(code, Code::TakeOverBusy.as_str());
        assert!(message.contains(&format!("process {} ", std::process::id())), "{message}");
        // Time passes when nobody has anything to do.
        assert!(matches!(hangs.hear().await, Ok(Some(Word::Back { .. }))));
        assert_eq!(hangs.hear().await.expect("an end"), None);
        let (_line, welcome) = calls(&place).await;
        assert!(matches!(welcome, Word::Welcome { .. }), "{welcome:?}");
    }
}
