//! The newest encoded events, kept for a gateway that comes back. Shares the frames' own bytes. Invariant: what is
//! kept is contiguous and ends with the newest event sent.

use bytes::{Buf as _, Bytes};
use prost::encoding::decode_varint;
use std::collections::VecDeque;

/// Events kept while there is a gateway (semantics.md, Workers).
pub const TAIL_EVENTS: usize = 1_024;
/// Encoded bytes kept; this bound wins over the other.
pub const TAIL_BYTES: usize = 4 << 20;

/// A frame's events as they were sent, or the end of it.
#[derive(Clone, Debug)]
pub struct Sent {
    pub first: u64,
    pub count: u32,
    pub bytes: Bytes,
}

/// Owned by the line: what it has taken to send, sent or not.
#[derive(Debug, Default)]
pub struct Tail {
    sent: VecDeque<Sent>,
    events: usize,
    bytes: usize,
}

// === impl Tail ===

impl Tail {
    /// Keeps a frame; lets go of whole frames that are not needed for so many `events` or do not fit `TAIL_BYTES`.
    pub fn keep(&mut self, first: u64, count: u32, bytes: Bytes, events: usize) {
        self.events += count as usize;
        self.bytes += bytes.len();
        self.sent.push_back(Sent { first, count, bytes });
        while let Some(oldest) = self.sent.front() {
            let (count, len) = (oldest.count as usize, oldest.bytes.len());
            if self.events - count < events && self.bytes <= TAIL_BYTES {
                break;
            }
            self.events -= count;
            self.bytes -= len;
            self.sent.pop_front();
        }
    }

    /// The oldest sequence that a resend can begin with.
    pub fn first(&self) -> Option<u64> {
        self.sent.front().map(|sent| sent.first)
    }

    /// What is kept above `have`, oldest first; the frame that `have` lies in is cut.
    pub fn after(&self, have: u64) -> Vec<Sent> {
        let last = |sent: &Sent| sent.first + u64::from(sent.count) - 1;
        self.sent.iter().filter(|sent| last(sent) > have).map(|sent| cut(sent, have)).collect()
    }
}

/// Leaves out the events up to `have`.
fn cut(sent: &Sent, have: u64) -> Sent {
    let mut left = sent.clone();
    while left.first <= have {
        let mut rest = left.bytes.clone();
        rest.advance(1);
        // The bytes are ours: a length that does not decode cannot be, and would only end the cutting early.
        let len = decode_varint(&mut rest).unwrap_or(0) as usize;
        rest.advance(len.min(rest.len()));
        left = Sent { first: left.first + 1, count: left.count - 1, bytes: rest };
    }
    left
}
