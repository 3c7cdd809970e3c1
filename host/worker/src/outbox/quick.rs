//! Encodes the common data change (one or a few doubles, a date, one status) without asking each part for its length
//! first: backwards, into an array, so that a length is known when it is written. Everything else is prost's. Invariant:
//! what it writes is what prost writes, byte for byte.

use super::EVENT_TAG;
use tidegate_proto::v1::{Event, MxStatus, SourceTime, Value, event::Body, source_time::Form, value::Kind};

/// Room for `DOUBLES_MAX` doubles and all that stands around them at its longest (some 110 bytes).
const ROOM: usize = 384;
const DOUBLES_MAX: usize = 32;

/// One event with its tag and length, at the end of an array.
#[derive(Debug)]
pub(super) struct Quick {
    bytes: [u8; ROOM],
    at: usize,
}

/// What it can encode, of an event or of what becomes one.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    pub(super) sequence: u64,
    pub(super) item_key: u64,
    pub(super) server_handle: i32,
    pub(super) item_handle: i32,
    pub(super) value: &'a Value,
    pub(super) quality: i32,
    pub(super) time: &'a SourceTime,
    pub(super) status: MxStatus,
}

// === impl Parts ===

impl<'a> Parts<'a> {
    pub(super) fn of(event: &'a Event) -> Option<Self> {
        let &Event { sequence, item_key, server_handle, item_handle, ref body } = event;
        let Some(Body::DataChange(change)) = body else { return None };
        let [status] = change.statuses[..] else { return None };
        let (value, time) = (change.value.as_ref()?, change.time.as_ref()?);
        Some(Self { sequence, item_key, server_handle, item_handle, value, quality: change.quality, time, status })
    }
}

// === impl Quick ===

impl Quick {
    pub(super) fn new() -> Self {
        Self { bytes: [0; ROOM], at: ROOM }
    }

    /// The event as a part of a batch, and how long that is; `None` when it is of another form.
    pub(super) fn encode(&mut self, event: &Parts<'_>) -> Option<usize> {
        let Form::Date(date) = event.time.form.as_ref()? else { return None };
        let value = event.value;
        self.at = ROOM;

        self.status(&event.status);
        self.field(0x22, ROOM);
        let end = self.at;
        self.fixed(0x09, date.to_le_bytes());
        self.field(0x1A, end);
        self.int(0x10, event.quality);
        let end = self.at;
        self.int(0x78, value.data_type);
        match value.kind.as_ref()? {
            Kind::Double(double) => self.fixed(0x21, double.to_le_bytes()),
            Kind::Doubles(doubles) if doubles.values.len() <= DOUBLES_MAX => {
                let inner = self.at;
                self.at -= 8 * doubles.values.len();
                let (room, _) = self.bytes[self.at..inner].as_chunks_mut();
                room.iter_mut().zip(&doubles.values).for_each(|(room, double)| *room = double.to_le_bytes());
                if !doubles.values.is_empty() {
                    self.field(0x0A, inner);
                }
                self.field(0x5A, inner);
            }
            _ => return None,
        }
        self.field(0x0A, end);
        self.field(0x2A, ROOM);
        self.int(0x20, event.item_handle);
        self.int(0x18, event.server_handle);
        for (tag, number) in [(0x11, event.item_key), (0x09, event.sequence)] {
            if number != 0 {
                self.fixed(tag, number.to_le_bytes());
            }
        }
        self.field(EVENT_TAG, ROOM);
        Some(ROOM - self.at)
    }

    /// What was encoded last.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    fn status(&mut self, status: &MxStatus) {
        let fields =
            [(0x20, status.detail), (0x18, status.detected_by), (0x10, status.category), (0x08, status.success)];
        for (tag, number) in fields {
            if number != 0 {
                self.varint(u64::from(((number << 1) ^ (number >> 31)) as u32));
                self.put([tag]);
            }
        }
    }

    /// Tag and length of what was written since `end`.
    fn field(&mut self, tag: u8, end: usize) {
        self.varint((end - self.at) as u64);
        self.put([tag]);
    }

    fn int(&mut self, tag: u8, number: i32) {
        if number != 0 {
            // As protobuf has it: negative numbers are sign-extended to ten bytes.
            self.varint(i64::from(number) as u64);
            self.put([tag]);
        }
    }

    fn fixed(&mut self, tag: u8, bytes: [u8; 8]) {
        self.put(bytes);
        self.put([tag]);
    }

    fn varint(&mut self, number: u64) {
        if number < 0x80 {
            return self.put([number as u8]);
        }
        let groups = (64 - number.leading_zeros()).div_ceil(7);
        for nth in (0..groups).rev() {
            let more = if nth + 1 < groups { 0x80 } else { 0 };
            self.put([(number >> (7 * nth)) as u8 & 0x7F | more]);
        }
    }

    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        let from = self.at - N;
        self.bytes[from..self.at].copy_from_slice(&bytes);
        self.at = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message as _;
    use tidegate_proto::v1::{DataChange, DoubleArray};

    proptest! {
        #[test]
        fn it_writes_what_prost_writes(
            numbers in (any::<u64>(), any::<u64>(), any::<i32>(), any::<i32>(), any::<i32>(), 0..20),
            doubles in proptest::collection::vec(any::<f64>(), 0..40),
            alone in any::<bool>(),
            date in any::<f64>(),
            status in (any::<i32>(), -2..3, 0..3, any::<i32>()),
        ) {
            let (sequence, item_key, server_handle, item_handle, quality, data_type) = numbers;
            let many = doubles.len() > DOUBLES_MAX && !alone;
            let kind = if alone {
                Kind::Double(doubles.first().copied().unwrap_or_default())
            } else {
                Kind::Doubles(DoubleArray { values: doubles })
            };
            let (success, category, detected_by, detail) = status;
            let change = DataChange {
                value: Some(Value { kind: Some(kind), data_type }),
                quality,
                time: Some(SourceTime { form: Some(Form::Date(date)) }),
                statuses: vec![MxStatus { success, category, detected_by, detail }],
            };
            let event =
                Event { sequence, item_key, server_handle, item_handle, body: Some(Body::DataChange(change)) };
            let mut wanted = vec![EVENT_TAG];
            event.encode_length_delimited(&mut wanted).expect("room");
            let mut quick = Quick::new();
            let encoded = quick.encode(&Parts::of(&event).expect("a data change with one status"));
            prop_assert_eq!(encoded, (!many).then_some(wanted.len()));
            prop_assert!(many || quick.bytes() == wanted);
        }
    }

    #[test]
    fn other_forms_are_left_to_prost() {
        assert!(Parts::of(&Event::default()).is_none());
        let change = DataChange { value: Some(Value::default()), ..DataChange::default() };
        assert!(Parts::of(&Event { body: Some(Body::DataChange(change)), ..Event::default() }).is_none());
        let parts = |value, time| Parts {
            sequence: 1,
            item_key: 1,
            server_handle: 1,
            item_handle: 1,
            value,
            quality: 192,
            time,
            status: MxStatus::default(),
        };
        let date = SourceTime { form: Some(Form::Date(1.0)) };
        let double = Value { kind: Some(Kind::Double(1.0)), data_type: 0 };
        let text = SourceTime { form: Some(Form::Text("yesterday".to_owned())) };
        let nothing = Value::default();
        assert!(Quick::new().encode(&parts(&nothing, &date)).is_none());
        assert!(Quick::new().encode(&parts(&double, &text)).is_none());
        assert!(Quick::new().encode(&parts(&double, &date)).is_some());
    }
}
