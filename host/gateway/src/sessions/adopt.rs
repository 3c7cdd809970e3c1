//! What becomes of the workers that a gateway left behind: adopted with their sessions, or ended. Knows the manifest and
//! the hub; pipes and processes are theirs. Invariants: a session is not in the registry before its items are known
//! again; and every row of the manifest becomes a session, or goes together with its process.

use super::{
    Session, Sessions, Stop,
    session::{Identity, Parts},
    supervise,
};
use crate::{
    error::{Code, Error, Result},
    events::Log,
    ids::SessionId,
    storage::{SessionEnd, Storage, WorkerRow},
    telemetry::CloseReason,
    workers::{Adopted, Adoption, Orphan, Worker},
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tidegate_proto::v1::{Command, GetSessionState, SessionState, command::Method, command_result};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep},
};

/// Between two looks at who is still on his way.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// How long clients wait for workers that are back and busy. Guessed.
const SYNCHRONISED: Duration = Duration::from_millis(500);

/// RPC_E_SERVERCALL_RETRYLATER: as many commands wait at the worker as it takes.
const BUSY: i32 = 0x8001_010A_u32 as i32;
/// When such a worker is asked again. Guessed.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Until it is tried again to write down that a session has had a reader. Guessed.
const WRITE_AGAIN: Duration = Duration::from_secs(5);

impl Sessions {
    /// Sorts the manifest of the gateway before: with re-adoption its workers are awaited for as long as a start may
    /// take, without it they are ended. To be called before the workers' socket is answered; returns once every
    /// worker is expected or ended, the adoptions themselves go on.
    pub async fn inherit(&self, rows: Vec<WorkerRow>) {
        let provisional = self.shared.provisional.load(Ordering::SeqCst);
        let socket = self.shared.hub.socket().to_owned();
        let reattaches = !self.shared.settings.load().orphan_lifetime.is_zero();
        let mut surplus = 0;
        for row in rows {
            let Some(orphan) = Orphan::find(row.pid, &row.started, &row.session, &socket) else {
                tracing::info!(session = %row.session, pid = row.pid, "the worker of the manifest is gone");
                self.lost(row.session).await;
                continue;
            };
            if reattaches {
                // One of the gateway's own takes no place of clients.
                let slot = row.owner.as_ref().and_then(|_| self.place_whatever_the_bound(&mut surplus));
                self.expect(row, orphan, slot);
            } else if provisional {
                self.cannot_adopt(&row.session, "re-adoption is off");
            } else {
                self.end_orphan(row.session, orphan, "re-adoption is off").await;
            }
        }
        self.take_places_away(surplus);
    }

    /// To be called before `inherit` by a gateway that may still give way to the one before it: then nobody is ended for
    /// not coming back, and `adopted` tells of it.
    pub fn begin_provisionally(&self) {
        self.shared.provisional.store(true, Ordering::SeqCst);
        self.shared.hub.reject(false);
        self.leave_workers();
    }

    /// There is no way back: who is here is this gateway's, and nobody has been let in to them yet.
    pub fn settle(&self) {
        for session in self.all() {
            session.begin_anew();
        }
        self.shared.provisional.store(false, Ordering::SeqCst);
        self.shared.hub.reject(true);
        self.shared.leave.store(false, Ordering::SeqCst);
    }

    /// Returns when every worker is back that lives, or one could not be taken back. One that is in a slow call is back,
    /// and says what items it has when the call is over; that is waited for only a little.
    pub async fn adopted(&self) -> Result<()> {
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut all_back = None;
        loop {
            look.tick().await;
            if let Some(why) = self.shared.not_adopted.lock().clone() {
                return Err(Error::new(Code::TakeOverFailed, why));
            }
            if self.shared.adopting.read().is_empty() {
                return Ok(());
            }
            if self.shared.awaited.load(Ordering::SeqCst) == 0
                && all_back.get_or_insert_with(Instant::now).elapsed() > SYNCHRONISED
            {
                return Ok(());
            }
        }
    }

    fn cannot_adopt(&self, session: &SessionId, why: &str) {
        tracing::warn!(%session, why, "a worker cannot be taken over");
        let why = format!("the worker of {session} cannot be taken over: {why}");
        self.shared.not_adopted.lock().get_or_insert(why);
    }

    fn expect(&self, row: WorkerRow, orphan: Orphan, slot: Option<OwnedSemaphorePermit>) {
        let settings = self.shared.settings.load_full();
        let adoption = Adoption {
            session: row.session.clone(),
            secret: row.secret.clone(),
            pid: row.pid,
            started: row.started.clone(),
            epoch: row.epoch,
            heartbeat: settings.heartbeat,
            orphan_lifetime: settings.orphan_lifetime,
        };
        let deadline = Instant::now() + settings.start_timeout;
        self.shared.adopting.write().insert(row.session.clone(), row.owner.clone());
        let arrival = self.shared.hub.adopt(orphan, adoption, deadline, self.shared.draining.clone());
        let sessions = self.clone();
        self.shared.awaited.fetch_add(1, Ordering::SeqCst);
        self.shared.tasks.spawn("adoption", async move {
            let session = row.session.clone();
            let arrived = arrival.await;
            sessions.shared.awaited.fetch_sub(1, Ordering::SeqCst);
            match arrived {
                Ok(adopted) => match sessions.resume(row, adopted, slot).await {
                    Ok(()) => {}
                    Err(error) if sessions.shared.provisional.load(Ordering::SeqCst) => {
                        sessions.cannot_adopt(&session, error.message());
                    }
                    Err(error) => tracing::warn!(%session, %error, "a worker came back but could not go on"),
                },
                // It is an orphan still, with its row in the manifest.
                Err((_, error)) if error.code() == Code::Draining && sessions.leaves() => {}
                Err((orphan, error)) if sessions.shared.provisional.load(Ordering::SeqCst) && !orphan.has_ended() => {
                    sessions.cannot_adopt(&session, error.message());
                }
                Err((orphan, error)) => sessions.end_orphan(session.clone(), orphan, error.message()).await,
            }
            sessions.shared.adopting.write().remove(&session);
        });
    }

    /// The session as it was: same id, owner and epoch; its log begins with what the worker sends again.
    async fn resume(&self, row: WorkerRow, adopted: Adopted, slot: Option<OwnedSemaphorePermit>) -> Result<()> {
        let shared = &self.shared;
        let settings = shared.settings.load_full();
        let Adopted { worker, from, command } = adopted;
        let identity = Identity {
            id: row.session,
            name: row.name,
            tag: row.tag,
            backend: row.backend,
            owner: row.owner,
            client_kind: row.client_kind,
            client_version: row.client_version,
            worker_pid: worker.pid,
            epoch: row.epoch,
            opened_unix_ms: row.opened_unix_ms,
            command_timeout: row.command_timeout,
        };
        let (id, attended) = (identity.id.clone(), row.attended);
        let (log, budget, clock) = (settings.log.clone(), shared.budget.clone(), shared.clock.clone());
        let log = Log::starting_after(from - 1, identity.epoch, log, budget, clock);
        let (stop, stops) = mpsc::channel(4);
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
            command,
            alarms: worker.hello.alarms,
        });
        if attended {
            session.attended.cancel();
        }
        let pid = worker.pid;
        shared.metrics.sessions.open.inc();
        let life = supervise::run(session.clone(), worker, frames, to_worker, stops, settings.patience);
        // Taken over whatever the bound: it was there before.
        let share = session.identity.owner.as_ref().and_then(|key| shared.sessions_held.take(key, 0));
        self.run(session.clone(), (slot, share), attended, None, life);
        // What stands comes anew: the table died with the gateway that had it.
        session.ask_alarms();
        // Behind every command that was on its way when the pipe broke, and behind what was sent again.
        let synchronised = tokio::select! {
            biased;
            synchronised = items_of(&session) => synchronised,
            // Not in the registry yet, so whoever ends the sessions does not see this one.
            () = shared.draining.cancelled() => return Err(self.end_with_gateway(&session).await),
        };
        match synchronised {
            Ok(state) => {
                session.synchronise(state);
                session.begin_anew();
                // What was told again says nothing about how much comes now.
                session.log.measure_anew();
                if self.register(&session).is_err() {
                    return Err(self.end_with_gateway(&session).await);
                }
                shared.metrics.workers.adopted.inc();
                tracing::info!(session = %id, pid, from, head = session.log.head(), "worker adopted");
                Ok(())
            }
            Err(error) => {
                let reason = format!("it was not synchronised after a restart: {}", error.message());
                let provisional = self.shared.provisional.load(Ordering::SeqCst);
                // Not a fault, behind which a session keeps its place until somebody closes it: nobody can find this one.
                let why = if provisional { CloseReason::Left } else { CloseReason::Kill };
                session.close(Stop { kill: !provisional, why, reason }).await;
                Err(error)
            }
        }
    }

    /// The terminator: a worker of ours that nobody takes.
    async fn end_orphan(&self, session: SessionId, orphan: Orphan, why: &str) {
        tracing::warn!(%session, why, "a worker of the gateway before is ended");
        // The kernel ends whatever is not in an uninterruptible call; that one is left to end behind it.
        let _hung = tokio::time::timeout(Duration::from_secs(5), orphan.kill()).await;
        self.shared.metrics.workers.orphans_ended.inc();
        self.lost(session).await;
    }

    async fn lost(&self, session: SessionId) {
        let end = SessionEnd { at_unix_ms: self.shared.clock.unix_ms() as i64, reason: "lost".into() };
        let storage = &self.shared.storage;
        let (closed, gone) =
            tokio::join!(storage.session_closed(session.clone(), end), storage.worker_gone(session.clone()));
        if let Err(error) = closed.and(gone) {
            tracing::warn!(%session, %error, "the end of a lost session was not recorded");
        }
    }
}

/// What a worker has that is back. As long as that takes: whoever hangs in one command is ended by the supervisor.
async fn items_of(session: &Session) -> Result<SessionState> {
    loop {
        let ask = Command { method: Some(Method::GetSessionState(GetSessionState {})) };
        let result = session.call(ask, Duration::MAX).await?;
        match result.result {
            Some(command_result::Result::SessionState(state)) if result.hresult == 0 => return Ok(state),
            _ if result.hresult == BUSY => sleep(ASK_AGAIN).await,
            _ => return Err(Error::new(Code::Internal, "the worker did not say what items it has")),
        }
    }
}

/// What another gateway would need to take this worker.
pub(super) fn manifest(identity: &Identity, worker: &Worker) -> WorkerRow {
    WorkerRow {
        session: identity.id.clone(),
        pid: worker.pid,
        started: worker.started.clone(),
        secret: worker.secret.clone(),
        epoch: identity.epoch,
        owner: identity.owner.clone(),
        name: identity.name.clone(),
        tag: identity.tag.clone(),
        backend: identity.backend.clone(),
        client_kind: identity.client_kind.clone(),
        client_version: identity.client_version.clone(),
        opened_unix_ms: identity.opened_unix_ms,
        command_timeout: identity.command_timeout,
        attended: false,
    }
}

/// Writes down, once, that the session has had a reader: the grace for one to come back runs in the next gateway, too
/// (S-12). Beside the stream, which works without: until it is written only the lease would end the session there.
pub(super) async fn write_attended(session: Arc<Session>, storage: Storage) {
    session.attended.cancelled().await;
    // Why it fails is storage's to say.
    while storage.worker_attended(session.identity.id.clone()).await.is_err() {
        sleep(WRITE_AGAIN).await;
    }
}
