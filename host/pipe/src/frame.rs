//! Cuts a byte stream into frames: a 4-byte little-endian length, then that many bytes. Knows no messages
//! on the way in. Invariants: each payload is one allocation of exactly its size, so whoever keeps a slice of
//! it can account for it; and both sides can be cancelled at any await without losing or repeating a byte.

use crate::{PipeError, Result};
use bytes::{BufMut as _, Bytes};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};

const HEADER: usize = 4;

/// Bytes read ahead, so that small frames share a system call. Larger payloads bypass it. (Guessed.)
const READ_AHEAD: usize = 16 << 10;

/// A writer's buffer that has grown beyond this is given back after the flush. (Guessed.)
const KEPT: usize = 1 << 20;

/// Reads frames.
#[derive(Debug)]
pub struct FrameReader<R> {
    inner: BufReader<R>,
    max: usize,
    header: [u8; HEADER],
    header_len: usize,
    /// The payload under way; its capacity is exactly the frame's length.
    payload: Option<Vec<u8>>,
}

/// Gathers frames and writes them with as few system calls as the peer's buffers allow.
#[derive(Debug)]
pub struct FrameWriter<W> {
    inner: W,
    max: usize,
    buffer: Vec<u8>,
    written: usize,
}

// === impl FrameReader ===

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// `max` is the largest payload accepted.
    pub fn new(inner: R, max: usize) -> Self {
        Self {
            inner: BufReader::with_capacity(READ_AHEAD, inner),
            max,
            header: [0; HEADER],
            header_len: 0,
            payload: None,
        }
    }

    /// Applies to the next frame.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// The next payload; `None` when the pipe ended between two frames. After an error the stream has no
    /// meaning any more. Cancel safe.
    pub async fn read_frame(&mut self) -> Result<Option<Bytes>> {
        let failed = |source| PipeError::Io { context: "reading the pipe", source };
        if self.payload.is_none() {
            while self.header_len < HEADER {
                match self.inner.read(&mut self.header[self.header_len..]).await.map_err(failed)? {
                    0 if self.header_len == 0 => return Ok(None),
                    0 => return Err(PipeError::Truncated),
                    n => self.header_len += n,
                }
            }
            let len = u32::from_le_bytes(self.header) as usize;
            if len > self.max {
                return Err(PipeError::TooLarge { len, max: self.max });
            }
            self.payload = Some(Vec::with_capacity(len));
            self.header_len = 0;
        }
        let len = u32::from_le_bytes(self.header) as usize;
        if let Some(payload) = &mut self.payload {
            while payload.len() < len {
                let missing = len - payload.len();
                if self.inner.read_buf(&mut payload.limit(missing)).await.map_err(failed)? == 0 {
                    return Err(PipeError::Truncated);
                }
            }
        }
        Ok(self.payload.take().map(Bytes::from))
    }
}

// === impl FrameWriter ===

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    /// `max` is the largest payload sent.
    pub fn new(inner: W, max: usize) -> Self {
        Self { inner, max, buffer: Vec::new(), written: 0 }
    }

    /// Applies to the next frame.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Bytes waiting for a flush. The caller bounds this by flushing.
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.written
    }

    /// Adds one frame to what the next flush writes. A frame that is too large adds nothing.
    pub fn push(&mut self, message: &impl Message) -> Result<()> {
        let len = message.encoded_len();
        let header = u32::try_from(len).ok().filter(|_| len <= self.max);
        let Some(header) = header else { return Err(PipeError::TooLarge { len, max: self.max }) };
        self.buffer.reserve(HEADER + len);
        self.buffer.put_u32_le(header);
        message.encode_raw(&mut self.buffer);
        Ok(())
    }

    /// Adds bytes as they are, without a header. Only a simulator that misbehaves on demand has a use for it.
    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Writes what was pushed. Cancel safe: what is left is written by the next flush.
    pub async fn flush(&mut self) -> Result<()> {
        while self.written < self.buffer.len() {
            let rest = &self.buffer[self.written..];
            match self.inner.write(rest).await.map_err(PipeError::io("writing the pipe"))? {
                0 => return Err(PipeError::Truncated),
                n => self.written += n,
            }
        }
        self.written = 0;
        self.buffer.clear();
        if self.buffer.capacity() > KEPT {
            self.buffer = Vec::new();
        }
        self.inner.flush().await.map_err(PipeError::io("writing the pipe"))
    }
}
