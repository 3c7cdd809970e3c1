//! Everything that leaves a worker, in the one order it was made: events are numbered and encoded once and batched
//! (without waiting, unless every reader lets events wait); the tail keeps them for a resend. Knows no backend and no
//! socket. Invariants: sequences are dense and minted
//! when an event is made; a pipe that does not take more makes the backend wait, never lose.

mod quick;
mod tail;

pub use tail::{Sent, TAIL_BYTES, TAIL_EVENTS, Tail};

use bytes::{BufMut as _, Bytes};
use prost::{
    Message as _,
    encoding::{encode_varint, encoded_len_varint},
};
use quick::{Parts, Quick};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tidegate_pipe::PipeError;
use tidegate_proto::{
    v1::{CommandResult, DataChange, Event, MxStatus, SourceTime, Value, event::Body},
    worker::v1::from_worker,
};
use tokio::{sync::mpsc, time::Instant};

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
    /// Of the table of alarms, or last values.
    Told(Box<from_worker::Frame>),
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
    /// Microseconds that every reader lets events wait for others; the gateway says it.
    gather_us: Arc<AtomicU32>,
    flushed_at: Instant,
    next: u64,
    batch: Vec<u8>,
    first: u64,
    count: u32,
    quick: Quick,
}

/// A data change of one status, as a backend keeps it.
#[derive(Debug)]
pub struct Change<'a> {
    pub item_key: u64,
    pub server_handle: i32,
    pub item_handle: i32,
    pub value: &'a mut Value,
    pub quality: i32,
    pub time: &'a mut SourceTime,
    pub status: MxStatus,
}

// === impl Outbox ===

impl Outbox {
    pub fn new(frames: mpsc::Sender<Outgoing>) -> Self {
        Self {
            frames,
            head: Arc::default(),
            gather_us: Arc::default(),
            flushed_at: Instant::now(),
            next: 1,
            batch: Vec::new(),
            first: 1,
            count: 0,
            quick: Quick::new(),
        }
    }

    /// Where the gateway's `Gather` goes.
    pub(crate) fn gathering(&self) -> Arc<AtomicU32> {
        self.gather_us.clone()
    }

    /// The newest sequence made; 0 before the first.
    pub fn head(&self) -> u64 {
        self.next - 1
    }

    /// Numbers and encodes an event. Waits when the batch is full and the pipe does not take it.
    pub async fn push(&mut self, event: &mut Event) -> Result<(), PipeEnded> {
        event.sequence = self.next;
        match Parts::of(event).and_then(|parts| self.quick.encode(&parts)) {
            Some(len) => self.push_quick(len).await,
            None => self.push_plain(event).await,
        }
    }

    /// As `push`, without an event having to be made of it; value and time are as they were afterwards.
    pub async fn push_change(&mut self, change: Change<'_>) -> Result<(), PipeEnded> {
        let Change { item_key, server_handle, item_handle, value, quality, time, status } = change;
        let sequence = self.next;
        let parts = Parts { sequence, item_key, server_handle, item_handle, value, quality, time, status };
        if let Some(len) = self.quick.encode(&parts) {
            return self.push_quick(len).await;
        }
        let (moved, moved_time) = (std::mem::take(value), std::mem::take(time));
        let change = DataChange { value: Some(moved), quality, time: Some(moved_time), statuses: vec![status] };
        let body = Some(Body::DataChange(change));
        let event = Event { sequence, item_key, server_handle, item_handle, body };
        let pushed = self.push_plain(&event).await;
        // Moved there and back: a copy would cost as much as encoding it.
        if let Some(Body::DataChange(change)) = event.body {
            (*value, *time) = (change.value.unwrap_or_default(), change.time.unwrap_or_default());
        }
        pushed
    }

    async fn push_quick(&mut self, len: usize) -> Result<(), PipeEnded> {
        self.make_room(len).await?;
        self.batch.extend_from_slice(self.quick.bytes());
        self.pushed();
        Ok(())
    }

    async fn push_plain(&mut self, event: &Event) -> Result<(), PipeEnded> {
        let len = event.encoded_len();
        self.make_room(1 + encoded_len_varint(len as u64) + len).await?;
        self.batch.put_u8(EVENT_TAG);
        encode_varint(len as u64, &mut self.batch);
        event.encode_raw(&mut self.batch);
        self.pushed();
        Ok(())
    }

    fn pushed(&mut self) {
        self.head.store(self.next, Ordering::Relaxed);
        self.count += 1;
        self.next += 1;
    }

    /// Lets the batch end where an event of this length does not fit.
    async fn make_room(&mut self, framed: usize) -> Result<(), PipeEnded> {
        if self.count == BATCH_EVENTS || (self.count > 0 && self.batch.len() + framed > BATCH_BYTES) {
            self.flush().await?;
        }
        if self.count == 0 {
            self.first = self.next;
        }
        self.batch.reserve(framed);
        Ok(())
    }

    /// While every reader lets events wait: until when, and how many more fit into the batch.
    pub fn gathers(&self) -> Option<(Instant, u32)> {
        let gather = Duration::from_micros(self.gather_us.load(Ordering::Relaxed).into());
        (!gather.is_zero()).then(|| (self.flushed_at + gather, BATCH_EVENTS - self.count))
    }

    /// Sends what has gathered, unless every reader lets it wait; then it says until when. The first event after a
    /// pause goes at once.
    pub async fn settle(&mut self) -> Result<Option<Instant>, PipeEnded> {
        if let Some((due, _)) = self.gathers().filter(|_| self.count > 0)
            && Instant::now() < due
        {
            return Ok(Some(due));
        }
        self.flush().await?;
        Ok(None)
    }

    /// Sends what has gathered.
    pub async fn flush(&mut self) -> Result<(), PipeEnded> {
        if self.count == 0 {
            return Ok(());
        }
        let room = self.batch.len();
        let bytes = Bytes::from(std::mem::replace(&mut self.batch, Vec::with_capacity(room)));
        let (first, count) = (self.first, std::mem::take(&mut self.count));
        if self.gather_us.load(Ordering::Relaxed) > 0 {
            self.flushed_at = Instant::now();
        }
        self.send(Outgoing::Events { first, count, bytes }).await
    }

    /// Sends an answer, behind every event made before it.
    pub async fn reply(&mut self, id: u64, result: CommandResult) -> Result<(), PipeEnded> {
        self.flush().await?;
        self.send(Outgoing::Reply { id, result }).await
    }

    /// Sends what there is to say of alarms, or last values, behind every event made before it. Lost when there is no
    /// gateway: the next one asks for all of it.
    pub async fn tell(&mut self, frame: from_worker::Frame) -> Result<(), PipeEnded> {
        self.flush().await?;
        self.send(Outgoing::Told(Box::new(frame))).await
    }

    /// The last word.
    pub async fn goodbye(&mut self, reason: &str) -> Result<(), PipeEnded> {
        self.flush().await?;
        self.send(Outgoing::Goodbye { reason: reason.to_owned() }).await
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

impl From<PipeEnded> for PipeError {
    fn from(_: PipeEnded) -> Self {
        Self::Closed { awaited: "room in the pipe" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn events_wait_only_while_every_reader_lets_them() {
        let (send, mut sent) = mpsc::channel(FRAMES_AHEAD);
        let mut outbox = Outbox::new(send);
        let mut frames = move || std::iter::from_fn(|| sent.try_recv().ok()).count();
        outbox.push(&mut Event::default()).await.expect("room");
        assert_eq!((outbox.settle().await.expect("room"), frames()), (None, 1), "nobody lingers");

        outbox.gathering().store(5_000, Ordering::Relaxed);
        tokio::time::advance(Duration::from_millis(6)).await;
        outbox.push(&mut Event::default()).await.expect("room");
        assert_eq!((outbox.settle().await.expect("room"), frames()), (None, 1), "the first after a pause");
        let due = Instant::now() + Duration::from_millis(5);
        for _ in 0..10 {
            outbox.push(&mut Event::default()).await.expect("room");
            assert_eq!((outbox.settle().await.expect("room"), frames()), (Some(due), 0));
        }
        tokio::time::advance(Duration::from_millis(5)).await;
        assert_eq!((outbox.settle().await.expect("room"), frames()), (None, 1), "all of them together");

        outbox.push(&mut Event::default()).await.expect("room");
        outbox.reply(1, CommandResult::default()).await.expect("room");
        assert_eq!(frames(), 2, "a reply does not wait, nor does what was before it");
        outbox.push(&mut Event::default()).await.expect("room");
        outbox.gathering().store(0, Ordering::Relaxed);
        assert_eq!((outbox.settle().await.expect("room"), frames()), (None, 1), "somebody does not linger");
    }
}
