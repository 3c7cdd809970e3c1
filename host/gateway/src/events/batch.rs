//! What a stream is handed: a batch, a gap or the end; and the limits of a batch. Knows segments, not
//! positions. Invariant: a payload is one run of a segment as it is, or one exactly sized copy.

use super::{EndReason, Gap, segment::Segment};
use bytes::{BufMut as _, Bytes, BytesMut};
use std::{fmt, sync::Arc};

/// A batch ends at this many events (semantics.md, Streams) …
pub const BATCH_EVENTS: usize = 256;
/// … or at this many bytes of them; one event alone may be larger.
pub const BATCH_BYTES: usize = 256 << 10;
/// Pieces of a segment below this are copied together (semantics.md): a message costs more than the copy.
pub(super) const SMALL_BYTES: usize = 4 << 10;
/// What is copied together ends here; 256 events of usual size fit. A reader that lingers asked for fewer
/// messages, so for it pieces below this are small.
pub(super) const COPY_BYTES: usize = 32 << 10;
/// Events looked at for one batch of a filtered or conflated stream; bounds the time of a poll.
pub(super) const SCAN_EVENTS: usize = 4_096;
/// A position does not stand still longer than this because everything is filtered (semantics.md, Streams).
pub(super) const ADVANCE_MS: u64 = 1_000;

/// What the reader may see, as of this poll.
#[derive(Clone, Copy)]
pub enum View<'a> {
    All,
    /// By item key. Not asked about events that concern no item (key 0): whoever may stream sees those.
    Filtered(&'a dyn Fn(u64) -> bool),
}

/// What a stream does next.
#[derive(Clone, Debug)]
pub enum Next {
    Batch(Batch),
    Gap(Gap),
    /// Nothing follows. `Cursor::position` is where to resume.
    Ended(EndReason),
}

/// The events `from..=to` as far as they may be seen: events + filtered + conflated = to - from + 1.
#[derive(Clone, Debug)]
pub struct Batch {
    pub from: u64,
    pub to: u64,
    /// Events in the payload.
    pub events: u64,
    pub filtered: u64,
    pub conflated: u64,
    /// Events between `to` and the newest one.
    pub lag: u64,
    /// Events with tag and length, ready to follow a `BatchHeader`. While any slice of it lives, the
    /// segment it shares stays on the session's account; copies (bounded by `BATCH_BYTES`) are not counted.
    pub payload: Bytes,
}

/// Events next to each other in one segment, all of them to be sent.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    pub(super) lo: usize,
    pub(super) hi: usize,
}

impl fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "All",
            Self::Filtered(_) => "Filtered",
        })
    }
}

/// One run is handed out as it is; several are copied together, in one allocation.
pub(super) fn take_payload(runs: &mut Vec<Run>, bytes: usize) -> Bytes {
    let payload = match &runs[..] {
        [] => Bytes::new(),
        [run] => run.segment.slice(run.lo, run.hi),
        many => {
            let mut copy = BytesMut::with_capacity(bytes);
            many.iter().for_each(|run| copy.put_slice(run.segment.raw(run.lo, run.hi)));
            copy.freeze()
        }
    };
    // The cursor holds no segment between polls; those that left the ring are freed by their last slice.
    runs.clear();
    payload
}
