//! The line to the gateway: the pipe while it holds, and the way back when it breaks. Takes frames in their order, keeps
//! the tail, and looks for the gateway's successor until the orphan's time is over. Knows no backend, which hears nothing
//! of a break. Invariants: only this task writes to the pipe; every event it took is in the tail before it is sent; the
//! frames of a backend find room whether there is a gateway or not.

use crate::{
    START_TIMEOUT,
    link::{COMMANDS_AHEAD, Ended, Outcome},
    outbox::{Outgoing, TAIL_EVENTS, Tail},
};
use std::{
    path::PathBuf,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tidegate_pipe::{
    HelloFields, PipeError, Secret, WorkerEnd, WorkerReader, WorkerWriter, connect, handshake::gateway_name,
};
use tidegate_proto::{
    v1::{Command, CommandResult},
    worker::v1::{
        Accept, Adopt, Events, FromWorker, Goodbye, Heartbeat, Reply, Resend, Shutdown, from_gateway, from_worker,
    },
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

/// RPC_E_SERVERCALL_RETRYLATER.
const BUSY: i32 = 0x8001_010A_u32 as i32;
/// E_OUTOFMEMORY.
const TOO_LARGE: i32 = 0x8007_000E_u32 as i32;
/// The longest that events wait for others, whatever the gateway says: as long as a reader may linger.
const GATHER_US_MAX: u32 = 1_000_000;
/// Bytes gathered before a write; a bound, not an aim. (Guessed.)
const WRITE_BYTES: usize = 512 << 10;
/// Pauses between calls home: the first, doubled up to the last, each shortened by up to half so that many orphans do
/// not call at once. (Guessed: a restart takes longer than the first, and the last costs nothing.)
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);
/// How long what was gathered without a gateway is kept for another one after all: the one that came may give way, or
/// die before its readers were back. Guessed.
const SETTLED: Duration = Duration::from_secs(10);

/// Where the gateway is, and what proves that it is ours and we are its.
pub(crate) struct Home {
    pub(crate) socket: PathBuf,
    pub(crate) session: String,
    pub(crate) secret: Secret,
    pub(crate) backend: String,
    pub(crate) epoch: u64,
    /// The backend answers AlarmSync.
    pub(crate) alarms: bool,
}

pub(crate) struct Line {
    home: Home,
    frames: mpsc::Receiver<Outgoing>,
    ask: mpsc::Sender<(u64, Command)>,
    /// For answers to commands that find no room.
    refuse: mpsc::Sender<Outgoing>,
    asked: watch::Sender<Option<Shutdown>>,
    wishes: Wishes,
    sent: Sent,
    /// The newest command that came.
    command: u64,
}

/// What the gateway wants of the backend, beside its commands.
pub(crate) struct Wishes {
    /// How long events may wait for others; the outbox looks at it.
    pub(crate) gather_us: Arc<AtomicU32>,
    /// Rises each time it wants the whole table of alarms.
    pub(crate) alarm_syncs: watch::Sender<u64>,
    /// It wants the last values that are older than this event.
    pub(crate) values_before: watch::Sender<u64>,
}

/// What was taken to be sent.
#[derive(Default)]
struct Sent {
    epoch: u64,
    head: u64,
    tail: Tail,
    /// Without a gateway, and until this time with one, only bytes bound the tail.
    alone: bool,
    settled_at: Option<Instant>,
}

/// How a pipe ended.
enum Break {
    /// Behind Goodbye.
    Farewell,
    Gone,
}

// === impl Home ===

impl Home {
    /// Once, within `START_TIMEOUT`.
    pub(crate) async fn connect(&self, adopt: Option<Adopt>) -> Result<WorkerEnd, PipeError> {
        let fields = HelloFields {
            backend: self.backend.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            epoch: self.epoch,
            adopt,
            alarms: self.alarms,
        };
        connect(&self.socket, &self.session, &self.secret, fields, START_TIMEOUT).await
    }
}

// === impl Line ===

impl Line {
    pub(crate) fn new(
        home: Home,
        frames: mpsc::Receiver<Outgoing>,
        refuse: mpsc::Sender<Outgoing>,
        ask: mpsc::Sender<(u64, Command)>,
        asked: watch::Sender<Option<Shutdown>>,
        wishes: Wishes,
    ) -> Self {
        let sent = Sent { epoch: home.epoch, ..Sent::default() };
        Self { home, frames, ask, refuse, asked, wishes, sent, command: 0 }
    }

    /// Until Goodbye has left, or the gateway is gone for good.
    pub(crate) async fn run(mut self, mut end: WorkerEnd) -> Result<Outcome, Ended> {
        loop {
            let lifetime = lifetime(&end.accept);
            match self.carry(end).await? {
                Break::Farewell => return Ok(Outcome::Shutdown),
                // Told to end: there is nothing to come back for.
                Break::Gone if lifetime.is_zero() || self.asked.borrow().is_some() => return Ok(Outcome::PipeEnded),
                Break::Gone => {}
            }
            let Some(found) = self.call_home(Instant::now() + lifetime).await? else { return Ok(Outcome::PipeEnded) };
            end = found;
            if let Some(have) = end.accept.have_sequence {
                let from = self.sent.resend(&mut end.writer, have)?;
                if end.accept.last_values {
                    // The backend answers before any command that comes over this pipe.
                    self.wishes.values_before.send_replace(from);
                }
            }
        }
    }

    /// Both directions, side by side, until one of them ends.
    async fn carry(&mut self, end: WorkerEnd) -> Result<Break, Ended> {
        let WorkerEnd { mut reader, mut writer, .. } = end;
        let Self { frames, ask, refuse, asked, wishes, sent, command, .. } = self;
        sent.alone = false;
        // A gateway that has not said so lets nothing wait.
        wishes.gather_us.store(0, Ordering::Relaxed);
        tokio::select! {
            written = write(&mut writer, frames, sent) => match written {
                Ok(()) => Ok(Break::Farewell),
                // Without a reader at the other end the pipe has ended as well, only seen from here first.
                Err(PipeError::Io { .. }) => Ok(Break::Gone),
                Err(error) => Err(error.into()),
            },
            read = read(&mut reader, ask, refuse, asked, wishes, command) => {
                read.map(|()| Break::Gone)
            }
        }
    }

    /// An orphan's life: the backend works on into the tail while the socket is tried again and again. `None`: the time
    /// is over, or the backend said goodbye.
    async fn call_home(&mut self, deadline: Instant) -> Result<Option<WorkerEnd>, Ended> {
        let Self { home, frames, sent, command, .. } = self;
        sent.alone = true;
        let mut pause = FIRST_PAUSE;
        loop {
            let adopt = Adopt { head: sent.head, tail: sent.tail.first().unwrap_or(sent.head + 1), command: *command };
            let wait = shortened(pause);
            let mut attempt = pin!(async {
                sleep(wait).await;
                home.connect(Some(adopt)).await
            });
            let found = loop {
                tokio::select! {
                    frame = frames.recv() => match frame {
                        None | Some(Outgoing::Goodbye { .. }) => return Ok(None),
                        Some(frame) => sent.note(&frame),
                    },
                    found = &mut attempt => break found,
                    () = sleep_until(deadline) => return Ok(None),
                }
            };
            match found {
                Ok(end) => {
                    sent.settled_at = Some(Instant::now() + SETTLED);
                    return Ok(Some(end));
                }
                // Whoever says so has proved nothing, yet a gateway that wants us has no reason to.
                Err(error @ PipeError::Rejected { .. }) => return Err(error.into()),
                Err(_not_yet) => pause = (pause * 2).min(LAST_PAUSE),
            }
        }
    }
}

// === impl Sent ===

impl Sent {
    /// Keeps the events of a frame. Answers are remembered by who gave them; the rest is of the moment.
    fn note(&mut self, frame: &Outgoing) {
        if let Outgoing::Events { first, count, bytes } = frame {
            self.head = first + u64::from(*count) - 1;
            let reach = self.reach();
            self.tail.keep(*first, *count, bytes.clone(), reach);
        }
    }

    /// Events that the tail need not go beyond.
    fn reach(&mut self) -> usize {
        if !self.alone && self.settled_at.is_some_and(|at| at <= Instant::now()) {
            self.settled_at = None;
        }
        if self.alone || self.settled_at.is_some() { usize::MAX } else { TAIL_EVENTS }
    }

    /// Says where it goes on, which it returns, then what the tail still has above `have`. Leaves with the next flush.
    fn resend(&self, pipe: &mut WorkerWriter, have: u64) -> Result<u64, PipeError> {
        if have > self.head {
            return Err(PipeError::Handshake("the gateway has more events than were made here"));
        }
        let missing = self.tail.after(have);
        let from = missing.first().map_or(self.head + 1, |sent| sent.first);
        pipe.push(&FromWorker { frame: Some(from_worker::Frame::Resend(Resend { from })) })?;
        for sent in missing {
            let events = Events { epoch: self.epoch, first: sent.first, count: sent.count, events: sent.bytes };
            pipe.push(&FromWorker { frame: Some(from_worker::Frame::Events(events)) })?;
        }
        Ok(from)
    }
}

/// Writes frames in their order until Goodbye has left; first what is in the pipe's buffer already.
async fn write(
    pipe: &mut WorkerWriter,
    frames: &mut mpsc::Receiver<Outgoing>,
    sent: &mut Sent,
) -> Result<(), PipeError> {
    pipe.flush().await?;
    while let Some(frame) = frames.recv().await {
        let mut next = Some(frame);
        let mut last = false;
        while let Some(frame) = next {
            last = matches!(frame, Outgoing::Goodbye { .. });
            sent.note(&frame);
            put(pipe, frame, sent)?;
            next = if last || pipe.pending() >= WRITE_BYTES { None } else { frames.try_recv().ok() };
        }
        pipe.flush().await?;
        if last {
            break;
        }
    }
    Ok(())
}

fn put(pipe: &mut WorkerWriter, frame: Outgoing, sent: &Sent) -> Result<(), PipeError> {
    let frame = match frame {
        Outgoing::Events { first, count, bytes } => {
            from_worker::Frame::Events(Events { epoch: sent.epoch, first, count, events: bytes })
        }
        Outgoing::Reply { id, result } => from_worker::Frame::Reply(Reply { id, result: Some(result) }),
        // What it tells of the head is what the pipe has carried before it.
        Outgoing::Heartbeat { busy_ms } => from_worker::Frame::Heartbeat(Heartbeat { head: sent.head, busy_ms }),
        Outgoing::Told(frame) => *frame,
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
    pipe: &mut WorkerReader,
    ask: &mpsc::Sender<(u64, Command)>,
    refuse: &mpsc::Sender<Outgoing>,
    asked: &watch::Sender<Option<Shutdown>>,
    wishes: &Wishes,
    newest: &mut u64,
) -> Result<(), Ended> {
    loop {
        let frame = match pipe.recv().await {
            Ok(Some(message)) => message.frame,
            Ok(None) | Err(PipeError::Io { .. } | PipeError::Truncated) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        match frame {
            Some(from_gateway::Frame::Command(frame)) => {
                *newest = (*newest).max(frame.id);
                let command = frame.command.unwrap_or_default();
                if let Err(mpsc::error::TrySendError::Full(_)) = ask.try_send((frame.id, command)) {
                    let message = format!("{COMMANDS_AHEAD} commands are waiting already");
                    let result = CommandResult { hresult: BUSY, message, result: None };
                    // Never full for good: the other direction is taken from side by side with this one.
                    let _ended = refuse.send(Outgoing::Reply { id: frame.id, result }).await;
                }
            }
            Some(from_gateway::Frame::Shutdown(order)) => {
                asked.send_replace(Some(order));
            }
            // Seen by the backend at its next event; what waits already goes when it was due.
            Some(from_gateway::Frame::Gather(gather)) => {
                wishes.gather_us.store(gather.max_us.min(GATHER_US_MAX), Ordering::Relaxed);
            }
            Some(from_gateway::Frame::AlarmSync(_)) => wishes.alarm_syncs.send_modify(|syncs| *syncs += 1),
            Some(other) => return Err(Ended::Protocol(gateway_name(&other))),
            None => return Err(Ended::Protocol("an unknown frame")),
        }
    }
}

fn lifetime(accept: &Accept) -> Duration {
    Duration::from_millis(accept.orphan_lifetime_ms.into())
}

/// By up to half. Without random bytes every orphan takes the whole pause.
fn shortened(pause: Duration) -> Duration {
    let share = getrandom::u32().map_or(0.0, |bits| f64::from(bits) / f64::from(u32::MAX));
    pause.mul_f64(1.0 - share / 2.0)
}
