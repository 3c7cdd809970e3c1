//! Frames as messages of the contract, one type for each direction. Knows no order of messages: that is
//! the handshake's at first and the callers' afterwards.

use crate::{FrameReader, FrameWriter, Result};
use prost::Message;
use std::marker::PhantomData;
use tokio::io::{AsyncRead, AsyncWrite};

/// Receives messages of one type. `bytes` fields of a message are slices of the frame's one allocation.
#[derive(Debug)]
pub struct MessageReader<R, M> {
    pub(crate) frames: FrameReader<R>,
    message: PhantomData<fn() -> M>,
}

/// Sends messages of one type.
#[derive(Debug)]
pub struct MessageWriter<W, M> {
    pub(crate) frames: FrameWriter<W>,
    message: PhantomData<fn(M)>,
}

// === impl MessageReader ===

impl<R: AsyncRead + Unpin, M: Message + Default> MessageReader<R, M> {
    pub fn new(frames: FrameReader<R>) -> Self {
        Self { frames, message: PhantomData }
    }

    /// The next message; `None` when the peer ended the pipe in order. A frame of an unknown kind is a message
    /// with nothing in it: the caller's protocol error. Cancel safe.
    pub async fn recv(&mut self) -> Result<Option<M>> {
        match self.frames.read_frame().await? {
            Some(frame) => Ok(Some(M::decode(frame)?)),
            None => Ok(None),
        }
    }
}

// === impl MessageWriter ===

impl<W: AsyncWrite + Unpin, M: Message> MessageWriter<W, M> {
    pub fn new(frames: FrameWriter<W>) -> Self {
        Self { frames, message: PhantomData }
    }

    /// Adds a message to what the next flush writes.
    pub fn push(&mut self, message: &M) -> Result<()> {
        self.frames.push(message)
    }

    /// Bytes waiting for a flush.
    pub fn pending(&self) -> usize {
        self.frames.pending()
    }

    /// Writes what was pushed. Waits while the peer does not read: callers that must not wait for ever set a
    /// deadline. Cancel safe.
    pub async fn flush(&mut self) -> Result<()> {
        self.frames.flush().await
    }

    /// One message at once. When cancelled, the message goes out with the next flush.
    pub async fn send(&mut self, message: &M) -> Result<()> {
        self.push(message)?;
        self.flush().await
    }

    /// Bytes as they are, for faults on demand.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.frames.push_raw(bytes);
    }
}
