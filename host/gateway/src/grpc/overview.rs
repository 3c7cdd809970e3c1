//! The gateway at a glance, in the form of the admin API: health, sessions, rates, the reader to worry about.
//! Decides nothing; every number belongs to somebody else.

use crate::{
    clock::Clock,
    data_dir::InstanceId,
    descriptors,
    events::ReaderPace,
    health::HealthSource,
    sessions::{Sessions, State},
    telemetry::{GapReason, Metrics},
};
use std::{fmt, sync::Arc};
use tidegate_proto::v1::{DegradedPart, GetStatusResponse, WorstReader};

/// What the answer is made of, beside the sessions.
#[derive(Clone)]
pub struct Overview {
    pub health: Arc<dyn HealthSource>,
    pub metrics: Metrics,
    pub clock: Arc<dyn Clock>,
    pub instance: InstanceId,
    /// On both of the clock's readings.
    pub started_ms: u64,
    pub started_unix_ms: u64,
}

// === impl Overview ===

impl Overview {
    pub(super) fn status(&self, sessions: &Sessions) -> GetStatusResponse {
        let health = self.health.health();
        let listing = sessions.policies().host().list();
        let mut answer = GetStatusResponse {
            ready: health.ready,
            degraded: health
                .degraded
                .into_iter()
                .map(|part| DegradedPart {
                    part: part.part.to_owned(),
                    message: part.message,
                    code: part.code.unwrap_or_default().to_owned(),
                })
                .collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: self.instance.to_string(),
            started_at_unix_ms: self.started_unix_ms as i64,
            uptime_seconds: self.clock.monotonic_ms().saturating_sub(self.started_ms) / 1_000,
            sessions_max: sessions.sessions_max() as u32,
            generation: listing.generation.0,
            pinned: listing.pinned.is_some(),
            open_files: descriptors::open_now().unwrap_or_default(),
            open_files_max: descriptors::limit().soft,
            ..GetStatusResponse::default()
        };
        (answer.log_bytes, answer.log_bytes_max) = sessions.log_bytes();
        let events = &self.metrics.events;
        answer.events_appended = events.appended.get();
        answer.events_delivered = events.delivered.get();
        answer.events_filtered = events.filtered.get();
        answer.events_conflated = events.conflated.get();
        answer.events_gapped = [GapReason::Evicted, GapReason::Skipped, GapReason::Restarted]
            .into_iter()
            .map(|reason| events.gapped.of(reason).get())
            .sum();

        let mut worst: Option<(ReaderPace, WorstReader)> = None;
        for session in sessions.all() {
            answer.sessions += 1;
            answer.sessions_faulted += u32::from(matches!(session.state(), State::Faulted(_)));
            answer.events_per_second += session.log.produced_per_second();
            for reader in session.log.readers() {
                answer.readers += 1;
                let pace = session.log.pace(&reader);
                if worst.as_ref().is_none_or(|(other, _)| is_worse(&pace, other)) {
                    let shown = WorstReader {
                        session_id: session.identity.id.to_string(),
                        name: reader.name().to_owned(),
                        lag: pace.lag,
                        lag_bound: pace.lag_bound,
                        seconds_until_gap: pace.seconds_until_gap,
                    };
                    worst = Some((pace, shown));
                }
            }
        }
        answer.worst = worst.map(|(_, shown)| shown);
        answer
    }
}

impl fmt::Debug for Overview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overview").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// Who meets the bound first is worse; among those who do not, who has used up more of it.
fn is_worse(one: &ReaderPace, other: &ReaderPace) -> bool {
    match (one.seconds_until_gap, other.seconds_until_gap) {
        (Some(a), Some(b)) => a < b,
        (Some(_), None) => true,
        (None, Some(_)) => false,
        (None, None) => used_up(one) > used_up(other),
    }
}

fn used_up(pace: &ReaderPace) -> f64 {
    pace.lag as f64 / pace.lag_bound.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_who_loses_events_first() {
        let pace = |lag, seconds_until_gap| ReaderPace {
            lag,
            lag_high_water: lag,
            lag_bound: 100,
            per_second: 1.0,
            seconds_until_gap,
        };
        assert!(is_worse(&pace(10, Some(3.0)), &pace(90, None)));
        assert!(!is_worse(&pace(90, None), &pace(10, Some(3.0))));
        assert!(is_worse(&pace(10, Some(3.0)), &pace(90, Some(4.0))));
        assert!(is_worse(&pace(11, None), &pace(10, None)));
        assert!(!is_worse(&pace(10, None), &pace(10, None)), "the first one stands");
    }
}
