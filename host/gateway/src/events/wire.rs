//! Reads what a worker sent just far enough to find its events, and writes the few bytes that turn
//! a run of them into a message of a stream. Knows the wire form of `Event`, `EventBatch` and
//! `StreamEventsResponse`; decodes nothing else. Invariant: the input is hostile; nothing here panics,
//! allocates or reads out of bounds, and what `walk` accepts decodes at its top level.

use thiserror::Error;

/// Field 15 of `EventBatch`, length-delimited; it stands before every event of a frame.
pub const EVENT_TAG: u8 = 0x7A;
/// Tag, length, and a sequence: no event is shorter.
const EVENT_BYTES_MIN: usize = 2 + 9;
/// The 5 bytes of gRPC, tag and length of the batch, three fixed and four varint fields.
const HEADER_BYTES_MAX: usize = 5 + 1 + 10 + 3 * 9 + 4 * 11;

/// What happened, by the field of `Event.body` that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// No body, or one that this gateway does not know. Passed on, never conflated.
    Other = 0,
    DataChange = 5,
    WriteComplete = 6,
    OperationComplete = 7,
    BufferedDataChange = 8,
}

/// Where an event of a frame is and what it concerns. 16 bytes, because there is one for each event held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed {
    /// 0 when it concerns no item.
    pub item: u64,
    /// Of its tag, within the frame's bytes.
    pub offset: u32,
    pub kind: Kind,
}

/// A worker's frame that cannot be taken. Each is a protocol error: the session faults.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    #[error("the frame is of epoch {got:016x}, the session of {expected:016x}")]
    Epoch { expected: u64, got: u64 },
    #[error("event {expected} should come next, not {got}")]
    Hole { expected: u64, got: u64 },
    #[error("the frame says {declared} events and has {found}")]
    Count { declared: u32, found: u32 },
    #[error("byte {at} of the frame's events: {what}")]
    Malformed { at: usize, what: &'static str },
    #[error("the sequence is at its end")]
    Exhausted,
    #[error("the log is closed")]
    Closed,
}

/// The fields of an `EventBatch` before its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub epoch: u64,
    pub from: u64,
    pub to: u64,
    pub generation: u64,
    pub filtered: u64,
    pub conflated: u64,
    pub lag: u64,
}

/// The bytes before the events, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct EncodedHeader {
    bytes: [u8; HEADER_BYTES_MAX],
    len: u8,
}

/// Checks `count` events with dense sequences from `first`, and gives each to `found`, in order.
pub fn walk(bytes: &[u8], first: u64, count: u32, mut found: impl FnMut(Indexed)) -> Result<(), FrameError> {
    let possible = u32::try_from(bytes.len() / EVENT_BYTES_MIN).unwrap_or(u32::MAX);
    if count == 0 || count > possible {
        return Err(FrameError::Count { declared: count, found: possible.min(count) });
    }
    if u32::try_from(bytes.len()).is_err() {
        return Err(malformed(0, "longer than 4 GiB"));
    }
    if first.checked_add(u64::from(count) - 1).is_none() {
        return Err(FrameError::Exhausted);
    }
    let mut at = 0;
    for nth in 0..count {
        if at == bytes.len() {
            return Err(FrameError::Count { declared: count, found: nth });
        }
        if bytes[at] != EVENT_TAG {
            return Err(malformed(at, "not the tag of an event"));
        }
        let (len, start) = varint(bytes, at + 1).ok_or(malformed(at + 1, "a length without end"))?;
        let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len));
        let Some(event) = end.and_then(|end| bytes.get(start..end)) else {
            return Err(malformed(at + 1, "an event longer than its frame"));
        };
        let (sequence, item, kind) = walk_event(event, start)?;
        let expected = first + u64::from(nth);
        if sequence != expected {
            return Err(FrameError::Hole { expected, got: sequence });
        }
        // Fits: the length of `bytes` does.
        found(Indexed { item, offset: at as u32, kind });
        at = start + event.len();
    }
    if at != bytes.len() {
        return Err(FrameError::Count { declared: count, found: count.saturating_add(1) });
    }
    Ok(())
}

/// The event behind a tag and a length that `walk` has accepted.
pub(super) fn strip_prefix_len(prefixed: &[u8]) -> usize {
    varint(prefixed, 1).map_or(prefixed.len(), |(_, start)| start)
}

/// Sequence, item key and kind of one event; every field in bounds and of its type.
pub(super) fn walk_event(event: &[u8], base: usize) -> Result<(u64, u64, Kind), FrameError> {
    let Some(sequence) = fixed64(event, 0, 0x09) else {
        return Err(malformed(base, "the sequence is not the first field"));
    };
    let (item, mut at) = match fixed64(event, 9, 0x11) {
        Some(item) => (item, 18),
        None => (0, 9),
    };
    let mut kind = Kind::Other;
    while at < event.len() {
        let here = base + at;
        let (tag, after) = varint(event, at).ok_or(malformed(here, "a tag without end"))?;
        let (field, wire_type) = (tag >> 3, tag & 7);
        match (field, wire_type) {
            (0, _) => return Err(malformed(here, "a field without a number")),
            (1 | 2, _) => return Err(malformed(here, "sequence or item key twice, or not where they belong")),
            (3 | 4, 0) => {}
            (5..=8, 2) => {
                if kind != Kind::Other {
                    return Err(malformed(here, "two bodies"));
                }
                kind = match field {
                    5 => Kind::DataChange,
                    6 => Kind::WriteComplete,
                    7 => Kind::OperationComplete,
                    _ => Kind::BufferedDataChange,
                };
            }
            (3..=8, _) => return Err(malformed(here, "a field of the wrong type")),
            (field, _) if field >= 1 << 29 => return Err(malformed(here, "a field number out of range")),
            _ => {}
        }
        at = skip(event, after, wire_type).ok_or(malformed(here, "a field longer than its event"))?;
    }
    Ok((sequence, item, kind))
}

/// Behind the field whose value begins at `at`; `None` when it is out of bounds or of no known type.
#[inline]
fn skip(bytes: &[u8], at: usize, wire_type: u64) -> Option<usize> {
    let end = match wire_type {
        0 => varint(bytes, at)?.1,
        1 => at.checked_add(8)?,
        2 => {
            let (len, start) = varint(bytes, at)?;
            start.checked_add(usize::try_from(len).ok()?)?
        }
        5 => at.checked_add(4)?,
        _ => return None,
    };
    (end <= bytes.len()).then_some(end)
}

#[inline]
fn fixed64(bytes: &[u8], at: usize, tag: u8) -> Option<u64> {
    let field: &[u8; 9] = bytes.get(at..at + 9)?.try_into().ok()?;
    let [first, value @ ..] = field;
    (*first == tag).then(|| u64::from_le_bytes(*value))
}

/// A varint of at most ten bytes and 64 bits, and what follows it.
#[inline]
fn varint(bytes: &[u8], at: usize) -> Option<(u64, usize)> {
    let first = *bytes.get(at)?;
    if first < 0x80 {
        return Some((u64::from(first), at + 1));
    }
    let mut value = u64::from(first & 0x7F);
    for nth in 1..10 {
        let byte = *bytes.get(at + nth)?;
        if nth == 9 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7F) << (7 * nth);
        if byte < 0x80 {
            return Some((value, at + nth + 1));
        }
    }
    None
}

fn malformed(at: usize, what: &'static str) -> FrameError {
    FrameError::Malformed { at, what }
}

// === impl BatchHeader ===

impl BatchHeader {
    /// The bytes that make one gRPC message, together with `payload_len` bytes of events behind them.
    pub fn encode(&self, payload_len: usize) -> EncodedHeader {
        let mut fields = Small::new();
        for (tag, value) in [(0x09, self.epoch), (0x11, self.from), (0x19, self.to)] {
            if value != 0 {
                fields.push(tag);
                value.to_le_bytes().into_iter().for_each(|byte| fields.push(byte));
            }
        }
        let varints = [(0x20, self.generation), (0x28, self.filtered), (0x30, self.conflated), (0x38, self.lag)];
        for (tag, value) in varints {
            if value != 0 {
                fields.push(tag);
                fields.push_varint(value);
            }
        }
        let mut prefix = Small::new();
        prefix.push(0x12);
        prefix.push_varint((fields.len + payload_len) as u64);
        let message_len = prefix.len + fields.len + payload_len;
        // A batch is bounded by one frame of the pipe (16 MiB), far below what gRPC's length can say.
        let grpc_len = u32::try_from(message_len).expect("a batch is shorter than 4 GiB");
        let mut header = EncodedHeader { bytes: [0; HEADER_BYTES_MAX], len: 0 };
        let len = 5 + prefix.len + fields.len;
        header.bytes[1..5].copy_from_slice(&grpc_len.to_be_bytes());
        header.bytes[5..5 + prefix.len].copy_from_slice(&prefix.bytes[..prefix.len]);
        header.bytes[5 + prefix.len..len].copy_from_slice(&fields.bytes[..fields.len]);
        header.len = len as u8;
        header
    }
}

// === impl EncodedHeader ===

impl EncodedHeader {
    /// With the five bytes of gRPC in front: not compressed, length of the message.
    pub fn grpc(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The beginning of the `StreamEventsResponse` alone.
    pub fn message(&self) -> &[u8] {
        &self.grpc()[5..]
    }
}

/// A small array that grows; long enough for every field of a header.
struct Small {
    bytes: [u8; HEADER_BYTES_MAX],
    len: usize,
}

impl Small {
    fn new() -> Self {
        Self { bytes: [0; HEADER_BYTES_MAX], len: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn push_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
pub(super) mod tests;
