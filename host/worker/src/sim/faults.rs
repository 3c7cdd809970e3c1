//! Faults on demand, so that a gateway's answers to them can be tested on real processes. Only with `faults = true`.
//! Invariant: a fault that lets its command be answered happens after the answer.

use super::{
    PipeEnded, Sim,
    commands::Raised,
    items::{ItemRef, Kind, Sample},
};
use bytes::Bytes;
use std::time::Duration;
use tidegate_proto::v1::{Value, value::Kind as ValueKind};
use tokio::time::Instant;

/// What can be written to `$Sim.Fault`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// `crash`: the process aborts; the command is never answered.
    Crash,
    /// `hang`: the command never ends; heartbeats go on and say so.
    Hang,
    /// `stall MS`: no events and no answers for a while; what was due comes afterwards.
    Stall(Duration),
    /// `wrong-frame`: bytes that no decoder takes.
    WrongFrame,
    /// `hole`: the next event leaves out a sequence.
    Hole,
    /// `step-back`: the next event has the sequence of the one before.
    StepBack,
    /// `bad-quality MS`: sources are unreachable for a while.
    BadQuality(Duration),
    /// `silent`: no more heartbeats.
    Silent,
    /// `alarm-provider`: whoever tells of alarms fails; the next one takes over after `alarm_reopen_ms`.
    AlarmProvider,
}

/// Longest stall and bad quality.
const MS_MAX: u64 = 600_000;

pub(super) fn parse(value: &Value) -> Result<Fault, Raised> {
    let Some(ValueKind::Text(text)) = &value.kind else { return Err(Raised::argument("a fault is a text")) };
    let (name, length) = match text.trim().split_once(' ') {
        Some((name, ms)) => (name, ms.trim().parse().ok().filter(|ms| *ms <= MS_MAX).map(Duration::from_millis)),
        None => (text.trim(), None),
    };
    Ok(match (name, length) {
        ("crash", None) => Fault::Crash,
        ("hang", None) => Fault::Hang,
        ("stall", Some(length)) => Fault::Stall(length),
        ("wrong-frame", None) => Fault::WrongFrame,
        ("hole", None) => Fault::Hole,
        ("step-back", None) => Fault::StepBack,
        ("bad-quality", Some(length)) => Fault::BadQuality(length),
        ("silent", None) => Fault::Silent,
        ("alarm-provider", None) => Fault::AlarmProvider,
        _ => {
            return Err(Raised::argument(
                "a fault is crash, hang, stall MS, wrong-frame, hole, step-back, bad-quality MS, silent or alarm-provider",
            ));
        }
    })
}

// === impl Sim ===

impl Sim {
    /// Does what is left of a fault once its command has been answered.
    pub(super) async fn misbehave(&mut self, fault: Fault) -> Result<(), PipeEnded> {
        match fault {
            Fault::WrongFrame => self.outbox.garbage(Bytes::from_static(b"\x04\0\0\0\xff\xff\xff\xff")).await,
            Fault::Hole => self.outbox.shift(1).await,
            Fault::StepBack => self.outbox.shift(-1).await,
            Fault::BadQuality(length) => {
                self.bad_until = Some(Instant::now() + length);
                self.requalify().await
            }
            Fault::Silent => {
                self.vitals.silence();
                Ok(())
            }
            Fault::AlarmProvider => {
                self.alarms.fail();
                self.tell_alarms().await
            }
            // `serve` sees to these.
            Fault::Crash | Fault::Hang | Fault::Stall(_) => Ok(()),
        }
    }

    /// The quality of all sources has changed, which is a data change of each; a history has its own qualities and
    /// shows it with its next row.
    pub(super) async fn requalify(&mut self) -> Result<(), PipeEnded> {
        let (quality, status) = self.health();
        let all: Vec<ItemRef> = self
            .tables
            .all()
            .filter(|(_, item)| item.live() && matches!(item.kind, Kind::Wave(_) | Kind::Setpoint { .. }))
            .map(|(at, _)| at)
            .collect();
        for at in all {
            let Some(last) = self.tables.get(at).and_then(|item| item.last.clone()) else { continue };
            self.emit(at.slot, Sample { quality, status, time: super::emit::date_now(), ..last }).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_words_with_lengths_where_they_need_one() {
        let text = |text: &str| parse(&Value { kind: Some(ValueKind::Text(text.to_owned())), data_type: 0 }).ok();
        assert_eq!(text("crash"), Some(Fault::Crash));
        assert_eq!(text(" stall 500 "), Some(Fault::Stall(Duration::from_millis(500))));
        assert_eq!(text("bad-quality 1000"), Some(Fault::BadQuality(Duration::from_secs(1))));
        for bad in ["", "stall", "stall x", "stall 600001", "crash 1", "fire"] {
            assert_eq!(text(bad), None, "{bad}");
        }
        assert!(parse(&Value { kind: Some(ValueKind::Integer(1)), data_type: 0 }).is_err());
    }
}
