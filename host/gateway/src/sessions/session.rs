//! One session: its facts, its log, its items, its classes of readers, its state, and the way commands
//! take to the worker and back. Does not start or end the worker: `supervise` does, as the one owner of
//! the process. Invariant: a command has one outcome, told once.

use super::{
    Caller,
    alarms::{AlarmTable, Ask},
    commands,
    ending::elsewhere,
    items::{Items, Reserved},
    places::Places,
    verdicts::{Class, Stamp},
};
use crate::{
    clock::Clock,
    error::{Code, Error, Result},
    events::Log,
    ids::{KeyId, SessionId},
    keys::{Key, Keys},
    policies::Policies,
    telemetry::{CloseReason, Metrics},
    tls::Certificate,
};
use parking_lot::{Mutex, MutexGuard};
use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tidegate_policy::SessionFacts;
use tidegate_proto::{
    v1::{Command, CommandResult, SessionState},
    worker::v1::{AlarmSync, CommandFrame, FromGateway, Gather, from_gateway},
};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// How long the readers of a session that another gateway had may take to come back before the log keeps no more for them
/// than for any resume. Guessed: some of the longest pauses between two tries of our clients.
const COME_BACK_MS: u64 = 10_000;

/// Where a session is in its life. Ready → Closing → Closed, Ready → Leaving → Closed, or Ready → Faulted → Closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    Closing(String),
    /// Another gateway is to take the worker; the reason.
    Leaving(String),
    /// The cause; the session keeps its slot until it is closed (S-15).
    Faulted(String),
    Closed(CloseReason, String),
}

/// How the worker is to be ended.
#[derive(Clone, Debug)]
pub struct Stop {
    /// At once instead of asking first.
    pub kill: bool,
    pub why: CloseReason,
    /// For people; ends up in the streams' last words.
    pub reason: String,
}

/// What does not change.
#[derive(Debug)]
pub struct Identity {
    pub id: SessionId,
    pub name: String,
    pub tag: String,
    pub backend: String,
    /// None for sessions the gateway opens for itself (S-02).
    pub owner: Option<KeyId>,
    pub client_kind: String,
    pub client_version: String,
    pub worker_pid: u32,
    pub epoch: u64,
    pub opened_unix_ms: i64,
    pub command_timeout: Duration,
}

/// Bounds of one session; set by the operator, enforced here.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub pending_commands_max: usize,
    pub readers_max: usize,
    pub many_readers: bool,
    pub items_max: usize,
    pub bulk_max: usize,
    pub alarms_max: usize,
    /// Of readers that do not say how long their events may wait.
    pub linger: Duration,
}

/// One open session; shared by its tasks, its streams and the registry.
#[derive(Debug)]
pub struct Session {
    pub identity: Identity,
    pub log: Log,
    pub alarms: AlarmTable,
    pub facts: SessionFacts,
    pub(crate) bounds: Bounds,
    pub(super) lag_events_max: u64,
    pub metrics: Metrics,
    pub(super) clock: Arc<dyn Clock>,
    keys: Keys,
    items: Mutex<Items>,
    /// Copy of the items' revision that streams read without the lock.
    items_revision: AtomicU64,
    /// Tells the pressure task that another generation answers now.
    pub(super) policy_changed: Notify,
    classes: Mutex<HashMap<ClassKey, Weak<Class>>>,
    pub(super) state: watch::Sender<State>,
    /// Cancelled once the session has left the registry and its slot is free.
    pub(super) gone: CancellationToken,
    pub(super) stop: mpsc::Sender<Stop>,
    to_worker: mpsc::Sender<FromGateway>,
    pending: Mutex<Pending>,
    /// Commands up to here were another gateway's: nobody here waits for their answers.
    inherited: u64,
    /// Clock milliseconds of the last unary call.
    used_at: AtomicU64,
    places: Places,
    alarm_places: Places,
    /// Cancelled once it has had a reader, under whatever gateway.
    pub(super) attended: CancellationToken,
    seats: Mutex<SeatTable>,
    /// Clock milliseconds of the worker's last heartbeat, and how long its command in hand was running then.
    pub(super) beat_at: AtomicU64,
    pub(super) busy_ms: AtomicU64,
}

type ClassKey = (KeyId, Option<IpAddr>, Certificate);

/// Commands that wait for the worker.
#[derive(Debug, Default)]
struct Pending {
    next_id: u64,
    by_id: HashMap<u64, Waiting>,
    /// Set once the worker is gone; what comes later ends with it.
    over: Option<Error>,
}

#[derive(Debug)]
struct Waiting {
    /// Kept until the reply, even when the caller has gone: its result changes the item table.
    command: Command,
    caller: oneshot::Sender<Result<CommandResult>>,
    /// For the items that it may add.
    _room: Option<Reserved>,
}

/// A reader's place among those allowed; given back on drop, once.
#[derive(Debug)]
pub struct ReaderSlot {
    session: Arc<Session>,
}

/// The same for a reader of alarms.
#[derive(Debug)]
pub struct AlarmPlace {
    session: Arc<Session>,
}

/// A stream that can be made to end at once, although its peer may take nothing.
pub trait GiveWay: Send + Sync {
    /// Its place is free when this returns.
    fn give_way(&self);
}

/// Which stream each reader has, by the reader's own number, while somebody looks.
pub struct Seats<'a>(MutexGuard<'a, SeatTable>);

#[derive(Default)]
struct SeatTable(HashMap<u64, Weak<dyn GiveWay>>);

/// What `Session::new` is made of.
pub(super) struct Parts {
    pub identity: Identity,
    pub log: Log,
    pub bounds: Bounds,
    pub lag_events_max: u64,
    pub metrics: Metrics,
    pub clock: Arc<dyn Clock>,
    pub keys: Keys,
    pub stop: mpsc::Sender<Stop>,
    pub to_worker: mpsc::Sender<FromGateway>,
    /// The newest command that the worker had from a gateway before this one; 0: none.
    pub command: u64,
    /// The worker tells of its alarms when it is asked.
    pub alarms: bool,
}

// === impl Stop ===

impl Stop {
    /// Asked for by the sweep, for want of use.
    pub(super) fn is_sweep(&self) -> bool {
        matches!(self.why, CloseReason::Lease | CloseReason::Detach)
    }
}

// === impl Session ===

impl Session {
    pub(super) fn new(parts: Parts) -> Arc<Self> {
        let Parts { identity, log, bounds, lag_events_max, metrics, clock, keys, stop, to_worker, command, alarms } =
            parts;
        let owner = identity.owner.as_ref().map(KeyId::as_str).unwrap_or_default();
        let facts = SessionFacts::new(identity.id.as_str(), owner, identity.tag.as_str(), identity.backend.as_str());
        let now = clock.monotonic_ms();
        Arc::new(Self {
            identity,
            log,
            alarms: AlarmTable::new(alarms, bounds.alarms_max, metrics.alarms.clone()),
            facts,
            bounds,
            lag_events_max,
            metrics,
            clock,
            keys,
            items: Mutex::default(),
            items_revision: AtomicU64::new(0),
            policy_changed: Notify::new(),
            classes: Mutex::default(),
            state: watch::Sender::new(State::Ready),
            gone: CancellationToken::new(),
            stop,
            to_worker,
            pending: Mutex::new(Pending { next_id: command, ..Pending::default() }),
            inherited: command,
            used_at: AtomicU64::new(now),
            places: Places::new(),
            alarm_places: Places::new(),
            attended: CancellationToken::new(),
            seats: Mutex::default(),
            beat_at: AtomicU64::new(now),
            busy_ms: AtomicU64::new(0),
        })
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub fn with_items<T>(&self, look: impl FnOnce(&mut Items) -> T) -> T {
        look(&mut self.items.lock())
    }

    // --- rights ---

    /// Tells the worker how long events may wait for others before it sends them. False when there was no room.
    pub(super) fn tell_gather(&self, max_ms: u64) -> bool {
        let max_us = u32::try_from(max_ms.saturating_mul(1_000)).unwrap_or(u32::MAX);
        let gather = from_gateway::Frame::Gather(Gather { max_us });
        self.to_worker.try_send(FromGateway { frame: Some(gather) }).is_ok()
    }

    /// Has the worker tell its whole table of alarms, and each change from then on. One that has none is not asked.
    pub(super) fn ask_alarms(&self) {
        let sync = FromGateway { frame: Some(from_gateway::Frame::AlarmSync(AlarmSync {})) };
        if self.alarms.supported().is_ok() && self.to_worker.try_send(sync).is_err() {
            self.alarms.not_asked();
        }
    }

    /// What the worker told of its alarms has been taken: perhaps it has to tell more.
    pub(super) fn alarms_taken(&self, ask: Ask) {
        if ask == Ask::Yes {
            self.ask_alarms();
        }
    }

    /// What verdicts made now would depend on. Streams call it per batch: three loads.
    pub fn stamp(&self, policies: &Policies) -> Stamp {
        Stamp {
            generation: policies.host().generation().0,
            key_revision: self.keys.revision(),
            items: self.items_revision.load(Ordering::SeqCst),
        }
    }

    pub(super) fn key(&self, id: &KeyId) -> Option<Arc<Key>> {
        self.keys.get(id)
    }

    pub(super) fn watch_keys(&self) -> watch::Receiver<u64> {
        self.keys.watch()
    }

    pub(super) fn key_is_live(&self, key: &Key) -> bool {
        self.keys.get(&key.id).is_some()
    }

    /// The class of a caller's streams; shared while any of them lives.
    pub fn class(&self, caller: &Caller) -> Arc<Class> {
        let mut classes = self.classes.lock();
        let slot = (caller.key.id.clone(), caller.peer, caller.certificate.clone());
        if let Some(class) = classes.get(&slot).and_then(Weak::upgrade) {
            return class;
        }
        classes.retain(|_, class| class.strong_count() > 0);
        let class = Arc::new(Class::new(caller.clone(), self.facts.clone()));
        classes.insert(slot, Arc::downgrade(&class));
        class
    }

    /// Classes that have a stream.
    pub fn classes(&self) -> Vec<Arc<Class>> {
        self.classes.lock().values().filter_map(Weak::upgrade).collect()
    }

    // --- readers and leases ---

    /// Takes a reader's place (S-10).
    pub fn take_slot(self: &Arc<Self>) -> Result<ReaderSlot> {
        let max = if self.bounds.many_readers { self.bounds.readers_max } else { 1 };
        if self.places.take(u32::try_from(max).unwrap_or(u32::MAX)) {
            self.attended.cancel();
            return Ok(ReaderSlot { session: self.clone() });
        }
        Err(if self.bounds.many_readers {
            Error::new(Code::StreamLimit, format!("the session has {max} readers, the most allowed")).with("max", max)
        } else {
            Error::new(Code::StreamAlreadyOpen, "the session has its one reader already")
        })
    }

    /// Takes the place of a reader of alarms: as many as of events, counted by themselves, so that who reads both needs one
    /// of each.
    pub fn take_alarm_place(self: &Arc<Self>) -> Result<AlarmPlace> {
        let max = self.bounds.readers_max;
        if self.alarm_places.take(u32::try_from(max).unwrap_or(u32::MAX)) {
            self.attended.cancel();
            return Ok(AlarmPlace { session: self.clone() });
        }
        let message = format!("the session has {max} readers of alarms, the most allowed");
        Err(Error::new(Code::StreamLimit, message).with("max", max))
    }

    /// Who sits where, locked. Taken before a stream's own lock, never after it.
    pub fn seats(&self) -> Seats<'_> {
        Seats(self.seats.lock())
    }

    /// For people and for tokens; may jump.
    pub fn unix_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// Streams of clients, of events and of alarms.
    pub fn readers(&self) -> u32 {
        self.places.taken() + self.alarm_places.taken()
    }

    /// Cancelled once the session is over.
    pub fn ended(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// A unary call renews the lease (S-11).
    pub fn touch(&self) {
        self.used_at.store(self.clock.monotonic_ms(), Ordering::Relaxed);
    }

    /// Another gateway's session is this one's from now on: its lease begins anew, and when it has had a reader, the grace for
    /// one to come back (S-12); its log waits for them. For a session that nobody can have found yet.
    pub(super) fn begin_anew(&self) {
        self.touch();
        if self.attended.is_cancelled() {
            self.places.leave_empty(self.clock.monotonic_ms());
        }
        self.log.hold_floor(COME_BACK_MS);
    }

    /// Why the session should end now, if it should (S-11, S-12).
    pub(super) fn expired(&self, lease: Duration, grace: Duration) -> Option<Stop> {
        // Nobody uses them, and they are there all the same.
        self.identity.owner.as_ref()?;
        let detached = self.places.empty_since_ms()?.max(self.alarm_places.empty_since_ms()?);
        let now = self.clock.monotonic_ms();
        if detached != 0 && now.saturating_sub(detached) > grace.as_millis() as u64 {
            let reason = format!("no reader came back within {} s", grace.as_secs());
            return Some(Stop { kill: false, why: CloseReason::Detach, reason });
        }
        let used = self.used_at.load(Ordering::Relaxed).max(detached);
        (now.saturating_sub(used) > lease.as_millis() as u64)
            .then(|| format!("the lease of {} s ran out", lease.as_secs()))
            .map(|reason| Stop { kill: false, why: CloseReason::Lease, reason })
    }

    // --- life ---

    /// Asks for the end and waits until the slot is free. Concurrent callers wait for the same end (S-14).
    pub async fn close(&self, stop: Stop) {
        // Full or closed: an end is under way already, and a later kill hurries it through its own place.
        let _under_way = self.stop.try_send(stop);
        self.gone.cancelled().await;
    }

    /// As `close`, for whoever is told that the session is over. An error: it was left to another gateway meanwhile.
    pub async fn end(&self, stop: Stop) -> Result<()> {
        self.close(stop).await;
        match self.state() {
            State::Closed(CloseReason::Left, reason) => Err(elsewhere(Code::Draining, &reason)),
            _ => Ok(()),
        }
    }

    /// Refuses what a session that is ending or over cannot do.
    pub fn check_ready(&self) -> Result<()> {
        match &*self.state.borrow() {
            State::Ready => Ok(()),
            State::Faulted(cause) => Err(Error::new(Code::SessionFaulted, format!("the session is faulted: {cause}"))),
            State::Closing(reason) => {
                Err(Error::new(Code::SessionClosing, format!("the session is closing: {reason}")))
            }
            State::Leaving(reason) | State::Closed(CloseReason::Left, reason) => Err(elsewhere(Code::Draining, reason)),
            State::Closed(_, reason) => {
                Err(Error::new(Code::SessionClosed, format!("the session is closed: {reason}")))
            }
        }
    }

    // --- commands ---

    /// Sends one command to the worker and waits for its result. The caller has the rights already.
    pub async fn call(&self, command: Command, timeout: Duration) -> Result<CommandResult> {
        self.call_in(None, command, timeout).await
    }

    /// As `call`, for a command that may add items: `room` is held until the worker has answered, whoever waits for it.
    pub(super) async fn call_in(
        &self,
        room: Option<Reserved>,
        command: Command,
        timeout: Duration,
    ) -> Result<CommandResult> {
        self.check_ready()?;
        let answered = self.send(command, room)?;
        match tokio::time::timeout(timeout, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(unknown_outcome("the session ended")),
            Err(_elapsed) => {
                let ms = timeout.as_millis();
                Err(Error::new(Code::CommandTimeout, format!("no answer within {ms} ms; it may still take effect"))
                    .with("timeout_ms", ms))
            }
        }
    }

    /// Numbers a command and hands it to the writer under one lock: the worker takes ids in rising order only.
    fn send(&self, command: Command, room: Option<Reserved>) -> Result<oneshot::Receiver<Result<CommandResult>>> {
        let mut pending = self.pending.lock();
        if let Some(over) = &pending.over {
            return Err(over.clone());
        }
        let max = self.bounds.pending_commands_max;
        let full =
            || Error::new(Code::CommandLimit, format!("{max} commands of the session are waiting")).with("max", max);
        if pending.by_id.len() >= max {
            return Err(full());
        }
        let id = pending.next_id + 1;
        let frame = CommandFrame { id, command: Some(command.clone()) };
        match self.to_worker.try_send(FromGateway { frame: Some(from_gateway::Frame::Command(frame)) }) {
            Ok(()) => {}
            // It has room for every pending command; a worker that does not read is found by its silence.
            Err(mpsc::error::TrySendError::Full(_)) => return Err(full()),
            Err(mpsc::error::TrySendError::Closed(_)) => return Err(unknown_outcome("the worker is gone")),
        }
        pending.next_id = id;
        let (caller, answered) = oneshot::channel();
        pending.by_id.insert(id, Waiting { command, caller, _room: room });
        Ok(answered)
    }

    /// A reply from the worker: items first, then the caller. False: nobody asked.
    pub(super) fn replied(&self, id: u64, result: CommandResult) -> bool {
        let Some(waiting) = self.pending.lock().by_id.remove(&id) else { return id <= self.inherited };
        let mut items = self.items.lock();
        let gone = commands::apply(&waiting.command, &result, &mut items, self.log.head());
        self.items_revision.store(items.revision(), Ordering::SeqCst);
        drop(items);
        for key in gone {
            self.log.forget(key);
        }
        // The caller may have stopped waiting.
        let _gone = waiting.caller.send(Ok(result));
        true
    }

    /// After an adoption: the items that the worker has. Nobody reads yet.
    pub(super) fn synchronise(&self, state: SessionState) {
        let mut items = self.items.lock();
        commands::restore(state, &mut items);
        self.items_revision.store(items.revision(), Ordering::SeqCst);
    }

    /// Returns once no command waits for the worker.
    pub(super) async fn until_idle(&self) {
        let mut look = tokio::time::interval(Duration::from_millis(10));
        while !self.pending.lock().by_id.is_empty() {
            look.tick().await;
        }
    }

    /// Nothing more comes: readers of events and of alarms end with `error` when they have read what there is.
    pub(super) fn end_streams(&self, error: Error) {
        self.alarms.close(error.clone());
        self.log.close(error);
    }

    /// Ends every waiting command, and those to come, with `error`.
    pub(super) fn end_commands(&self, error: Error) {
        let waiting: Vec<Waiting> = {
            let mut pending = self.pending.lock();
            pending.over = Some(error.clone());
            pending.by_id.drain().map(|(_, waiting)| waiting).collect()
        };
        for one in waiting {
            let _gone = one.caller.send(Err(unknown_outcome(error.message())));
        }
    }
}

// === impl Seats ===

impl Seats<'_> {
    /// The stream of this reader that is open, if there is one.
    pub fn take(&mut self, reader: u64) -> Option<Arc<dyn GiveWay>> {
        self.0.0.remove(&reader)?.upgrade()
    }

    pub fn put(&mut self, reader: u64, stream: &Arc<dyn GiveWay>) {
        self.0.0.retain(|_, old| old.strong_count() > 0);
        self.0.0.insert(reader, Arc::downgrade(stream));
    }
}

impl fmt::Debug for Seats<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SeatTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Drop for ReaderSlot {
    fn drop(&mut self) {
        self.session.places.give_back(self.session.clock.monotonic_ms());
    }
}

impl Drop for AlarmPlace {
    fn drop(&mut self) {
        self.session.alarm_places.give_back(self.session.clock.monotonic_ms());
    }
}

fn unknown_outcome(why: &str) -> Error {
    Error::new(Code::CommandOutcomeUnknown, format!("whether the command took effect is unknown: {why}"))
}
