//! The event that every side carries: what the simulator makes of an array of ten doubles, so that ours and the
//! peers move the same bytes. Also the readers' view of it, which reads the sequence and nothing else where it can.

use bytes::Bytes;
use std::time::{Duration, SystemTime};
use tidegate_proto::v1::{
    DataChange, DoubleArray, Event, MxStatus, SourceTime, Value, event::Body, source_time::Form, value::Kind,
};
use tidegate_worker::timer::Timer;
use tokio::time::Instant;

/// Items that the simulator's events are spread over.
pub(crate) const ITEMS: usize = 16;

/// From OLE automation dates to Unix time.
const DAYS_TO_UNIX: f64 = 25_569.0;
const SECONDS_PER_DAY: f64 = 86_400.0;

/// Tags that the simulator answers with an array of ten doubles.
pub(crate) fn tags() -> Vec<String> {
    (1..=ITEMS).map(|n| format!("Area1.Pump{n}.Ramp[]")).collect()
}

/// The event of this sequence, made now.
pub(crate) fn make(sequence: u64) -> Event {
    make_late(sequence, 0.0)
}

/// The event of this sequence that was due so many seconds ago, as the simulator stamps it.
pub(crate) fn make_late(sequence: u64, late: f64) -> Event {
    let item = 1 + sequence % ITEMS as u64;
    let values = (0..10).map(|n| 50.0 + (sequence + n) as f64 / 7.0).collect();
    let change = DataChange {
        value: Some(Value { kind: Some(Kind::Doubles(DoubleArray { values })), data_type: 0 }),
        quality: 192,
        time: Some(SourceTime { form: Some(Form::Date((now() - late) / SECONDS_PER_DAY + DAYS_TO_UNIX)) }),
        statuses: vec![MxStatus { success: -1, category: 0, detected_by: 0, detail: 0 }],
    };
    Event { sequence, item_key: item, server_handle: 1, item_handle: item as i32, body: Some(Body::DataChange(change)) }
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Events of a rate, as the simulator paces them: its kind of timer, its grain, and what has become due since.
#[derive(Debug)]
pub(crate) struct Pace {
    rate: u64,
    grain: u64,
    since: Instant,
    made: u64,
    timer: Timer,
}

// === impl Pace ===

impl Pace {
    /// In groups every `grain_us` microseconds; 0: one by one.
    pub(crate) fn new(rate: u32, grain_us: u32) -> Self {
        let grain = (u64::from(grain_us) * 1_000).max(1);
        Self { rate: rate.into(), grain, since: Instant::now(), made: 0, timer: Timer::new() }
    }

    /// Waits until something is due; sequence and lateness in seconds of each.
    pub(crate) async fn due(&mut self) -> impl Iterator<Item = (u64, f64)> + use<> {
        let (rate, grain) = (self.rate, self.grain);
        let offset = move |number: u64| (number * 1_000_000_000).div_ceil(rate).next_multiple_of(grain);
        self.timer.until(Some(self.since + Duration::from_nanos(offset(self.made + 1)))).await;
        let passed = self.since.elapsed().as_nanos() as u64;
        let all = (u128::from(passed / grain * grain) * u128::from(rate) / 1_000_000_000) as u64;
        let first = self.made + 1;
        self.made = self.made.max(all);
        (first..=self.made).map(move |number| (number, passed.saturating_sub(offset(number)) as f64 / 1e9))
    }
}

/// An event's sequence: its first field, always there, fixed64 (events.proto).
pub(crate) fn sequence(event: &[u8]) -> Option<u64> {
    let (tag, rest) = event.split_first()?;
    (*tag == 0x09).then_some(())?;
    Some(u64::from_le_bytes(rest.first_chunk().copied()?))
}

/// What a reader reads of an event: its number and when it was made.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Seen {
    #[prost(fixed64, tag = "1")]
    pub(crate) sequence: u64,
    #[prost(message, optional, tag = "5")]
    change: Option<SeenChange>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SeenChange {
    #[prost(message, optional, tag = "3")]
    time: Option<SeenTime>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SeenTime {
    #[prost(double, tag = "1")]
    date: f64,
}

impl Seen {
    /// Microseconds since it was made; an OLE date is good for about one.
    pub(crate) fn age_us(&self) -> Option<u32> {
        let date = self.change.as_ref()?.time.as_ref()?.date;
        Some(((now() - (date - DAYS_TO_UNIX) * SECONDS_PER_DAY) * 1e6).max(0.0) as u32)
    }
}

/// StreamEventsResponse with the events left as they are.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Response {
    #[prost(message, optional, tag = "1")]
    pub(crate) opened: Option<Opened>,
    #[prost(message, optional, tag = "2")]
    pub(crate) batch: Option<Batch>,
    #[prost(message, optional, tag = "3")]
    pub(crate) gap: Option<Gap>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Opened {
    #[prost(fixed64, tag = "2")]
    pub(crate) after: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Batch {
    #[prost(fixed64, tag = "2")]
    pub(crate) from: u64,
    #[prost(fixed64, tag = "3")]
    pub(crate) to: u64,
    #[prost(bytes = "bytes", repeated, tag = "15")]
    pub(crate) events: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Gap {
    #[prost(fixed64, tag = "2")]
    pub(crate) from: u64,
    #[prost(fixed64, tag = "3")]
    pub(crate) to: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    #[test]
    fn what_is_read_is_what_was_written() {
        let bytes = make(77).encode_to_vec();
        assert_eq!(sequence(&bytes), Some(77));
        let seen = Seen::decode(bytes.as_slice()).expect("an event");
        assert_eq!(seen.sequence, 77);
        assert!(seen.age_us().is_some_and(|age| age < 60_000_000));
        assert_eq!(sequence(&[0x09, 1]), None);
    }
}
