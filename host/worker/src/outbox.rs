//! Everything that leaves a worker, in the one order it was made: events are numbered and encoded once, batched
//! without waiting, and kept for a resend. Knows no backend and no socket. Invariants: sequences are dense and minted
//! when an event is made; a pipe that does not take more makes the backend wait, never lose.

mod tail;

pub use tail::{TAIL_BYTES, TAIL_EVENTS};

use bytes::{BufMut as _, Bytes};
use prost::{
    Message as _,
    encoding::{encode_varint, encoded_len_varint},
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tail::Tail;
use tidegate_pipe::PipeError;
use tidegate_proto::v1::{CommandResult, Event};
use tokio::sync::mpsc;

/// An events frame is sent at the latest when it has this many events (semantics.md, Streams).
pub const BATCH_EVENTS: u32 = 256;
/// Or this many bytes; a single larger event travels alone.
pub const BATCH_BYTES: usize = 256 << 10;
/// Frames between backend and pipe: with the batches' size, 4 MiB. Full means that the gateway does not read, and
/// the backend waits.
pub const FRAMES_AHEAD: usize = 16;

/// Field 15 of EventBatch, length-delimited.
const EVENT_TAG: u8 = 0x7A;

/// What the writing task puts into the pipe.
#[derive(Debug)]
pub enum Outgoing {
    Events {
        first: u64,
        count: u32,
        bytes: Bytes,
    },
    Reply {
        id: u64,
        result: CommandResult,
    },
    Heartbeat {
        busy_ms: u32,
    },
    Resend {
        from: u64,
    },
    Goodbye {
        reason: String,
    },
    /// Bytes that are no frame, for a simulator told to misbehave.
    Raw(Bytes),
}

/// The writing task is gone: the pipe has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pipe has ended")]
pub struct PipeEnded;

/// The one place where events of a worker come from. Owned by the backend's task.
#[derive(Debug)]
pub struct Outbox {
    frames: mpsc::Sender<Outgoing>,
    /// The newest sequence made, for whoever asks from outside.
    head: Arc<AtomicU64>,
    next: u64,
    batch: Vec<u8>,
    first: u64,
    count: u32,
    tail: Tail,
}

// === impl Outbox ===

impl Outbox {
    pub fn new(frames: mpsc::Sender<Outgoing>) -> Self {
        let head = Arc::new(AtomicU64::new(0));
        Self { frames, head, next: 1, batch: Vec::new(), first: 1, count: 0, tail: Tail::default() }
    }

    /// The newest sequence made; 0 before the first.
    pub fn head(&self) -> u64 {
        self.next - 1
    }

    /// Numbers and encodes an event. Waits when the batch is full and the pipe does not take it.
    pub async fn push(&mut self, event: &mut Event) -> Result<(), PipeEnded> {
        event.sequence = self.next;
        let len = event.encoded_len();
        let framed = 1 + encoded_len_varint(len as u64) + len;
        if self.count == BATCH_EVENTS || (self.count > 0 && self.batch.len() + framed > BATCH_BYTES) {
            self.flush().await?;
        }
        if self.count == 0 {
            self.first = self.next;
        }
        self.batch.reserve(framed);
        self.batch.put_u8(EVENT_TAG);
        encode_varint(len as u64, &mut self.batch);
        event.encode_raw(&mut self.batch);
        self.count += 1;
        self.next += 1;
        self.head.store(event.sequence, Ordering::Relaxed);
        Ok(())
    }

    /// Sends what has gathered.
    pub async fn flush(&mut self) -> Result<(), PipeEnded> {
        if self.count == 0 {
            return Ok(());
        }
        let room = self.batch.len();
        let bytes = Bytes::from(std::mem::replace(&mut self.batch, Vec::with_capacity(room)));
        let (first, count) = (self.first, std::mem::take(&mut self.count));
        self.tail.keep(first, count, bytes.clone());
        self.send(Outgoing::Events { first, count, bytes }).await
    }

    /// Sends an answer, behind every event made before it.
    pub async fn reply(&mut self, id: u64, result: CommandResult) -> Result<(), PipeEnded> {
        self.flush().await?;
        self.send(Outgoing::Reply { id, result }).await
    }

    /// The last word.
    pub async fn goodbye(&mut self, reason: &str) -> Result<(), PipeEnded> {
        self.flush().await?;
        self.send(Outgoing::Goodbye { reason: reason.to_owned() }).await
    }

    /// Adoption: says where it goes on, then sends what the tail still has above `have`.
    pub async fn resend(&mut self, have: u64) -> Result<(), ResendError> {
        self.flush().await?;
        let head = self.head();
        if have > head {
            return Err(ResendError::Ahead { have, head });
        }
        let missing = self.tail.after(have);
        let from = missing.first().map_or(self.next, |sent| sent.first);
        self.send(Outgoing::Resend { from }).await?;
        for sent in missing {
            self.send(Outgoing::Events { first: sent.first, count: sent.count, bytes: sent.bytes }).await?;
        }
        Ok(())
    }

    /// The oldest sequence that a resend can begin with; `head` + 1 when there is none.
    pub fn oldest(&self) -> u64 {
        match self.tail.first() {
            Some(first) => first,
            None if self.count > 0 => self.first,
            None => self.next,
        }
    }

    /// A fault on demand: bytes that are no frame.
    pub async fn garbage(&mut self, bytes: Bytes) -> Result<(), PipeEnded> {
        self.flush().await?;
        self.send(Outgoing::Raw(bytes)).await
    }

    /// A fault on demand: the next event leaves out a sequence (`1`) or uses one again (`-1`).
    pub async fn shift(&mut self, by: i64) -> Result<(), PipeEnded> {
        self.flush().await?;
        self.next = self.next.saturating_add_signed(by).max(1);
        Ok(())
    }

    async fn send(&self, frame: Outgoing) -> Result<(), PipeEnded> {
        self.frames.send(frame).await.map_err(|_closed| PipeEnded)
    }
}

/// Why nothing was resent.
#[derive(Debug, thiserror::Error)]
pub enum ResendError {
    #[error("the gateway has sequence {have}, but the newest here is {head}")]
    Ahead { have: u64, head: u64 },
    #[error(transparent)]
    PipeEnded(#[from] PipeEnded),
}

impl From<PipeEnded> for PipeError {
    fn from(_: PipeEnded) -> Self {
        Self::Closed { awaited: "room in the pipe" }
    }
}
