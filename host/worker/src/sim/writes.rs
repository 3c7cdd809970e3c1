//! Writes: taken at once, complete later. Knows no pipe. Invariant: a write never changes a value before its
//! completion is due, and completions come in the order of the writes.

use super::{
    Due, OK, PipeEnded, Sim,
    commands::Raised,
    faults,
    items::{self, Control, Guard, ItemRef, Kind},
};
use prost::Message as _;
use std::time::Duration;
use tidegate_proto::v1::{MxStatus, SourceTime, Value, value::Kind as ValueKind};
use tokio::time::Instant;

/// Largest value, encoded: far below a frame, so that a value can always be told again as an event.
const VALUE_MAX: usize = 1 << 20;

/// Attributes whose value outlives their items. (Guessed; what a session of the default size can have.)
const SETPOINTS_MAX: usize = 100_000;

/// The attribute is secured: WriteSecured is needed (mxaccess.md, surprise 3).
const SECURED: MxStatus = MxStatus { success: 0, category: 6, detected_by: 5, detail: 1012 };
/// The attribute wants a second person.
const VERIFIED: MxStatus = MxStatus { success: 0, category: 6, detected_by: 5, detail: 1013 };

// === impl Sim ===

impl Sim {
    /// All four methods that write; `users` is who writes and who verifies, for the secured ones.
    pub(super) fn write(
        &mut self,
        server: i32,
        item: i32,
        value: Option<Value>,
        time: Option<SourceTime>,
        users: Option<(i32, i32)>,
    ) -> Result<(), Raised> {
        let at = self.find(server, item)?;
        let value = value.filter(|value| value.kind.is_some());
        let value = value.ok_or_else(|| Raised::argument("a write needs a value"))?;
        if value.encoded_len() > VALUE_MAX {
            return Err(Raised::argument(format!("a value has at most {VALUE_MAX} bytes")));
        }
        if let Some((current, verifier)) = users {
            let count = self.settings.users.len() as i32;
            if !(1..=count).contains(&current) || !(0..=count).contains(&verifier) {
                return Err(Raised::argument("there is no user of this id: authenticate first"));
            }
        }
        let Some(item) = self.tables.get(at) else { return Ok(()) };
        let mut status = OK;
        match &item.kind {
            Kind::Control(control) => {
                let control = *control;
                self.control(control, &value)?;
            }
            // A write before the type is known (mxaccess.md, surprise 4).
            _ if !item.known => return Err(Raised::argument("Value does not fall within the expected range")),
            Kind::Setpoint { guard: Guard::Secured, .. } if users.is_none() => status = SECURED,
            Kind::Setpoint { guard: Guard::Verified, .. }
                if users.is_none_or(|(current, verifier)| verifier == 0 || verifier == current) =>
            {
                status = VERIFIED;
            }
            _ => {}
        }
        let delay = Duration::from_millis(self.settings.write_ms.into());
        self.after(delay, Due::Written { item: at, status, value, time });
        Ok(())
    }

    /// A write has come through: says so, and tells the new value where there is one.
    pub(super) async fn written(
        &mut self,
        at: ItemRef,
        status: MxStatus,
        written: Value,
        time: Option<SourceTime>,
    ) -> Result<(), PipeEnded> {
        self.write_complete(at, status).await?;
        let (quality, healthy) = self.health();
        let Some(item) = self.tables.get(at).filter(|_| status == OK) else { return Ok(()) };
        // Other sources go on by themselves, and what was written is gone with their next sample.
        let Kind::Setpoint { .. } = item.kind else { return Ok(()) };
        let tag = items::tag(&item.definition, &item.context);
        // The attribute has the value, so every item of it does, and those that are added later.
        if self.setpoints.len() < SETPOINTS_MAX || self.setpoints.contains_key(&tag) {
            self.setpoints.insert(tag.clone(), written.clone());
        }
        self.alarms.written(&tag, &written);
        let time = time.unwrap_or_else(super::emit::date_now);
        for slot in self.tables.of_tag(&tag) {
            let Some(Some(item)) = self.tables.items.get_mut(slot) else { continue };
            let live = item.live();
            let Kind::Setpoint { value, .. } = &mut item.kind else { continue };
            value.clone_from(&written);
            if live {
                let sample = super::Sample { value: written.clone(), quality, time: time.clone(), status: healthy };
                self.emit(slot, sample).await?;
            }
        }
        Ok(())
    }

    fn control(&mut self, control: Control, value: &Value) -> Result<(), Raised> {
        match control {
            Control::Fault => self.fault = Some(faults::parse(value)?),
            Control::Rate => {
                let rate = match value.kind {
                    Some(ValueKind::Integer(rate)) => f64::from(rate),
                    Some(ValueKind::Single(rate)) => f64::from(rate),
                    Some(ValueKind::Double(rate)) => rate,
                    _ => -1.0,
                };
                if !(0.0..=f64::from(super::settings::RATE_MAX)).contains(&rate) || rate.fract() != 0.0 {
                    return Err(Raised::argument("a rate is a whole number from 0 to 500000"));
                }
                self.pace.set_rate(rate as u32);
                self.replay.set_rate(rate as u32, Instant::now());
            }
            Control::Replay => match &value.kind {
                Some(ValueKind::Text(text)) if text == "start" => self.after(Duration::ZERO, Due::ReplayStart),
                _ => return Err(Raised::argument("the one order here is `start`")),
            },
        }
        Ok(())
    }
}
