//! From a value to an event: data changes, buffered ones and completions. Knows neither commands nor time tables.
//! Invariant: a value is told with its quality, time and status, and remembered as the item's last.

use super::{
    BUFFERED_INTERVAL_MS, BUFFERED_MAX, COMM_FAILURE, CONFIGURATION_ERROR, GOOD, MISCONFIGURED, OK, PipeEnded, Sim,
    UNREACHABLE,
    items::{self, Item, ItemRef, Kind, Sample},
    replay,
};
use crate::outbox::{BATCH_BYTES, Change, Outbox};
use bytes::Bytes;
use prost::Message as _;
use std::time::{Duration, SystemTime};
use tidegate_proto::{
    v1::{
        BufferedDataChange, DataChange, DataType, Event, MxStatus, OperationComplete, SourceTime, Value, WriteComplete,
        event::Body, source_time::Form, value::Kind as ValueKind,
    },
    worker::v1::{LastValues, from_worker},
};
use tokio::time::Instant;

/// Of an OLE automation date's unit.
const SECONDS_PER_DAY: f64 = 86_400.0;
pub(super) const NANOS_PER_DAY: f64 = SECONDS_PER_DAY * 1e9;

// === impl Sim ===

impl Sim {
    /// Tells an item's present value, which also makes its type known.
    pub(super) async fn current(&mut self, at: ItemRef) -> Result<(), PipeEnded> {
        let (quality, status) = self.health();
        let (state, rate) = (self.replay.state(), self.pace.rate());
        let Some(item) = self.tables.get(at).filter(|item| item.live()) else { return Ok(()) };
        let sample = |value| Sample { value, quality, time: date_now(), status };
        let text = |text: &str| Value { kind: Some(ValueKind::Text(text.to_owned())), data_type: 0 };
        let sample = match &mut item.kind {
            Kind::Wave(wave) => sample(wave.sample()),
            Kind::Setpoint { value, .. } => sample(value.clone()),
            Kind::Invalid => Sample { quality: CONFIGURATION_ERROR, status: MISCONFIGURED, ..sample(Value::default()) },
            Kind::Control(items::Control::Fault) => sample(text("")),
            Kind::Control(items::Control::Rate) => {
                sample(Value { kind: Some(ValueKind::Integer(rate as i32)), data_type: 0 })
            }
            Kind::Control(items::Control::Replay) => sample(text(state)),
            Kind::Replay(tag) => match self.replay.last(*tag) {
                Some(row) => replay::sample(row, self.bad_until.is_some()),
                // The replay has not come to this tag: its first row will be the first data change.
                None => return Ok(()),
            },
        };
        self.emit(at.slot, sample).await
    }

    /// One value of one item on its way out.
    pub(super) async fn emit(&mut self, slot: usize, sample: Sample) -> Result<(), PipeEnded> {
        let Some(item) = &mut self.tables.items[slot] else { return Ok(()) };
        if !item.known && !matches!(item.kind, Kind::Invalid) {
            item.known = true;
            self.tables.changed = true;
        }
        if item.hidden {
            item.last = Some(sample);
            return Ok(());
        }
        if item.buffered {
            item.buffer.push(sample.clone());
            item.last = Some(sample);
            let (server, full) = (item.server, item.buffer.len() >= BUFFERED_MAX);
            if full {
                return self.tell_gathered(slot).await;
            }
            let interval = self.tables.servers.get(&server).map_or(BUFFERED_INTERVAL_MS, |s| s.buffered_interval_ms);
            let interval = Duration::from_millis(interval.into());
            self.buffered_at.entry(server).or_insert_with(|| Instant::now() + interval);
            return Ok(());
        }
        item.last = Some(sample);
        tell_last(&mut self.outbox, item).await
    }

    /// The last data change of each item that is older than the event of this number, as it was told then.
    pub(super) async fn tell_last_values(&mut self, before: u64) -> Result<(), PipeEnded> {
        let (mut events, mut bytes) = (Vec::new(), 0);
        for slot in 0..self.tables.items.len() {
            let Some(item) = &self.tables.items[slot] else { continue };
            let told = (1..before).contains(&item.told_by) && !item.hidden && !item.buffered;
            let Some(Sample { value, quality, time, status }) = item.last.clone().filter(|_| told) else { continue };
            let change = DataChange { value: Some(value), quality, time: Some(time), statuses: vec![status] };
            let event = Event { sequence: item.told_by, ..event_of(item, Body::DataChange(change)) };
            let event = Bytes::from(event.encode_to_vec());
            if !events.is_empty() && bytes + event.len() > BATCH_BYTES {
                self.send_last_values(std::mem::take(&mut events)).await?;
                bytes = 0;
            }
            bytes += event.len();
            events.push(event);
        }
        if events.is_empty() { Ok(()) } else { self.send_last_values(events).await }
    }

    async fn send_last_values(&mut self, events: Vec<Bytes>) -> Result<(), PipeEnded> {
        self.outbox.tell(from_worker::Frame::LastValues(LastValues { epoch: self.epoch, events })).await
    }

    /// BufferedDataChange for each item of a server that has gathered something.
    pub(super) async fn tell_buffered(&mut self, server: i32) -> Result<(), PipeEnded> {
        let slots: Vec<usize> = match self.tables.servers.get(&server) {
            Some(server) => server.items.values().copied().collect(),
            None => return Ok(()),
        };
        for slot in slots {
            self.tell_gathered(slot).await?;
        }
        Ok(())
    }

    pub(super) async fn tell_gathered(&mut self, slot: usize) -> Result<(), PipeEnded> {
        let Some(item) = &mut self.tables.items[slot] else { return Ok(()) };
        if item.buffer.is_empty() {
            return Ok(());
        }
        let mut change = BufferedDataChange { data_type: data_type(&item.buffer[0].value), ..Default::default() };
        for Sample { value, quality, time, status } in item.buffer.drain(..) {
            change.values.push(value);
            change.qualities.push(quality);
            change.times.push(time);
            change.statuses.push(status);
        }
        let body = Body::BufferedDataChange(change);
        let mut event = Event { sequence: 0, ..event_of(item, body) };
        self.outbox.push(&mut event).await
    }

    pub(super) async fn operation_complete(&mut self, at: ItemRef) -> Result<(), PipeEnded> {
        let Some(item) = self.tables.get(at) else { return Ok(()) };
        let body = Body::OperationComplete(OperationComplete { statuses: vec![OK] });
        let mut event = event_of(item, body);
        self.outbox.push(&mut event).await?;
        // After Activate, where the item stands now; nothing while it is suspended.
        self.current(at).await
    }

    pub(super) async fn write_complete(&mut self, at: ItemRef, status: MxStatus) -> Result<(), PipeEnded> {
        let Some(item) = self.tables.get(at).filter(|item| item.advised) else { return Ok(()) };
        let body = Body::WriteComplete(WriteComplete { statuses: vec![status] });
        let mut event = event_of(item, body);
        self.outbox.push(&mut event).await
    }

    /// Quality and status of what a source says now.
    pub(super) fn health(&self) -> (i32, MxStatus) {
        if self.bad_until.is_some() { (COMM_FAILURE, UNREACHABLE) } else { (GOOD, OK) }
    }
}

fn event_of(item: &Item, body: Body) -> Event {
    Event { sequence: 0, item_key: item.key, server_handle: item.server, item_handle: item.handle, body: Some(body) }
}

/// An item's last value as a data change.
pub(super) async fn tell_last(outbox: &mut Outbox, item: &mut Item) -> Result<(), PipeEnded> {
    let Some(Sample { value, quality, time, status }) = &mut item.last else { return Ok(()) };
    let (item_key, server_handle, item_handle) = (item.key, item.server, item.handle);
    let change = Change { item_key, server_handle, item_handle, value, quality: *quality, time, status: *status };
    outbox.push_change(change).await?;
    item.told_by = outbox.head();
    Ok(())
}

/// MxDataType of a value, as the contract numbers them.
fn data_type(value: &Value) -> i32 {
    let kind = match &value.kind {
        None => DataType::NoData,
        Some(ValueKind::Boolean(_) | ValueKind::Booleans(_)) => DataType::Boolean,
        Some(ValueKind::Integer(_) | ValueKind::Integers(_)) => DataType::Integer,
        Some(ValueKind::Single(_) | ValueKind::Singles(_)) => DataType::Float,
        Some(ValueKind::Double(_) | ValueKind::Doubles(_)) => DataType::Double,
        Some(ValueKind::Text(_) | ValueKind::Texts(_)) => DataType::String,
        Some(ValueKind::Date(_) | ValueKind::Dates(_)) => DataType::Time,
        Some(ValueKind::ElapsedMs(_)) => DataType::ElapsedTime,
        Some(ValueKind::Opaque(_)) => DataType::Unknown,
    };
    kind as i32
}

/// Now as an OLE automation date.
pub(super) fn date_now() -> SourceTime {
    date(days_now())
}

/// An OLE automation date.
pub(super) fn date(days: f64) -> SourceTime {
    SourceTime { form: Some(Form::Date(days)) }
}

/// Days since 1899-12-30.
pub(super) fn days_now() -> f64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since_1970.as_secs_f64() / SECONDS_PER_DAY + 25_569.0
}
