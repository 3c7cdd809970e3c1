//! Response bodies: tonic's own for unary calls, the event stream for StreamEvents, as one type for
//! hyper. Invariant: the bytes of a segment go from here to the socket's vectored write without a copy.

use super::stream::EventStream;
use crate::events::wire::EncodedHeader;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use std::{
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll},
};

/// What a connection writes.
#[derive(Debug)]
pub(super) enum EdgeBody {
    Tonic(tonic::body::Body),
    Events(Box<EventStream>),
}

/// A body, and what lasts as long as it does.
#[derive(Debug)]
pub(super) struct Lasting<T> {
    pub(super) body: EdgeBody,
    pub(super) _lasts: T,
}

/// A piece of a body.
#[derive(Debug)]
pub(super) enum Chunk {
    Plain(Bytes),
    /// A head written for this reader, and events that are everybody's.
    Message(Message),
}

/// One message of the stream, and how much of its head is written.
#[derive(Debug)]
pub(super) struct Message {
    head: EncodedHeader,
    written: usize,
    events: Bytes,
}

// === impl EdgeBody ===

impl Body for EdgeBody {
    type Data = Chunk;
    type Error = tonic::Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, tonic::Status>>> {
        match self.get_mut() {
            Self::Tonic(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map(|f| f.map_data(Chunk::Plain))))
            }
            Self::Events(stream) => stream.poll_frame(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Tonic(body) => body.is_end_stream(),
            Self::Events(stream) => stream.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Tonic(body) => body.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}

// === impl Lasting ===

impl<T: Unpin> Body for Lasting<T> {
    type Data = Chunk;
    type Error = tonic::Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, tonic::Status>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Message ===

impl Message {
    pub(super) fn new(head: EncodedHeader, events: Bytes) -> Self {
        Self { head, written: 0, events }
    }

    fn head(&self) -> &[u8] {
        &self.head.grpc()[self.written..]
    }
}

// === impl Chunk ===

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Self::Plain(bytes) => bytes.remaining(),
            Self::Message(message) => message.head().len() + message.events.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Plain(bytes) => bytes.chunk(),
            Self::Message(message) if message.head().is_empty() => message.events.chunk(),
            Self::Message(message) => message.head(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Plain(bytes) => bytes.chunks_vectored(slices),
            Self::Message(message) => {
                let mut used = 0;
                if let Some(slice) = slices.first_mut().filter(|_| !message.head().is_empty()) {
                    *slice = IoSlice::new(message.head());
                    used = 1;
                }
                used + message.events.chunks_vectored(&mut slices[used..])
            }
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Plain(bytes) => bytes.advance(count),
            Self::Message(message) => {
                let of_head = count.min(message.head().len());
                message.written += of_head;
                message.events.advance(count - of_head);
            }
        }
    }
}
