//! How fast a log grows and a reader reads, and so how long until the reader meets the hard bound. The
//! one place for these numbers: the operators' API, metrics and the stream take them from here. Knows
//! counts and a clock. Invariant: measured at most every half second, never on the pump's path.

use parking_lot::Mutex;

/// Two samples closer than this are one: rates over moments say nothing.
const SAMPLE_MS: u64 = 500;
/// The rate has moved half-way to a new one after this long. Guessed: steady to the eye, still within a breath.
const HALF_LIFE_MS: f64 = 2_000.0;

/// Where a reader stands against the log, at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReaderPace {
    /// Events between its position and the head.
    pub lag: u64,
    /// The largest lag it ever had.
    pub lag_high_water: u64,
    /// The lag at which events leave without it: by number, or by bytes at the size that events have now.
    pub lag_bound: u64,
    /// Sequences it is done with, per second, whatever became of them.
    pub per_second: f64,
    /// Until the lag reaches the bound, if both rates stay; `None` while it is not falling behind.
    pub seconds_until_gap: Option<f64>,
}

/// The rate of something that only rises.
#[derive(Debug)]
pub(super) struct Meter {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    at_ms: u64,
    count: u64,
    /// Absent until the first interval is over.
    per_second: Option<f64>,
}

/// What `until_gap` is computed from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    pub(super) lag: u64,
    pub(super) lag_bound: u64,
    pub(super) produced_per_second: f64,
    pub(super) read_per_second: f64,
}

// === impl Meter ===

impl Meter {
    pub(super) fn new(now_ms: u64, count: u64) -> Self {
        Self { state: Mutex::new(State { at_ms: now_ms, count, per_second: None }) }
    }

    /// Forgets what was measured.
    pub(super) fn begin(&self, now_ms: u64, count: u64) {
        *self.state.lock() = State { at_ms: now_ms, count, per_second: None };
    }

    /// Takes a reading. Called about once a second; more often does no harm.
    pub(super) fn sample(&self, now_ms: u64, count: u64) {
        let mut state = self.state.lock();
        let Some(now) = rate(&state, now_ms, count) else { return };
        let weight = 0.5_f64.powf(now_ms.saturating_sub(state.at_ms) as f64 / HALF_LIFE_MS);
        let per_second = state.per_second.map_or(now, |before| before * weight + now * (1.0 - weight));
        *state = State { at_ms: now_ms, count, per_second: Some(per_second) };
    }

    /// Per second. Before the first sample: since the beginning, once that is long enough ago.
    pub(super) fn per_second(&self, now_ms: u64, count: u64) -> f64 {
        let state = *self.state.lock();
        state.per_second.or_else(|| rate(&state, now_ms, count)).unwrap_or(0.0)
    }
}

// === impl Standing ===

impl Standing {
    /// Seconds until the lag reaches the bound; `None` when the reader keeps up or gains.
    pub(super) fn until_gap(self) -> Option<f64> {
        let falls = self.produced_per_second - self.read_per_second;
        // A trickle of a difference is how two measured rates look that are the same.
        if self.lag == 0 || falls <= self.produced_per_second * 0.01 {
            return None;
        }
        Some(self.lag_bound.saturating_sub(self.lag) as f64 / falls)
    }
}

/// Events that may be behind before bytes push them out, at the mean size of those that are held.
pub(super) fn bound_by_bytes(held_events: u64, held_bytes: u64, bytes_max: u64) -> u64 {
    if held_events == 0 || held_bytes == 0 {
        return u64::MAX;
    }
    let events = u128::from(bytes_max) * u128::from(held_events) / u128::from(held_bytes);
    u64::try_from(events).unwrap_or(u64::MAX)
}

fn rate(state: &State, now_ms: u64, count: u64) -> Option<f64> {
    let passed = now_ms.saturating_sub(state.at_ms);
    (passed >= SAMPLE_MS).then(|| count.saturating_sub(state.count) as f64 * 1_000.0 / passed as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_settles_and_follows() {
        let meter = Meter::new(1_000, 0);
        assert_eq!(meter.per_second(1_100, 10), 0.0, "too early to say");
        assert_eq!(meter.per_second(1_500, 50), 100.0, "since the beginning");
        let mut count = 0;
        for second in 1..=5 {
            count = second * 100;
            meter.sample(1_000 + second * 1_000, count);
        }
        assert_eq!(meter.per_second(6_000, count), 100.0);
        for second in 6..=30 {
            count += 1_000;
            meter.sample(1_000 + second * 1_000, count);
            meter.sample(1_001 + second * 1_000, count);
        }
        assert!((meter.per_second(31_000, count) - 1_000.0).abs() < 1.0, "{}", meter.per_second(31_000, count));
        for second in 31..=60 {
            meter.sample(1_000 + second * 1_000, count);
        }
        assert!(meter.per_second(61_000, count) < 1.0, "and down again");
        count += 1_024;
        meter.begin(61_100, count);
        assert_eq!(meter.per_second(61_600, count), 0.0, "what came again is not counted");
    }

    #[test]
    fn the_time_until_a_gap_is_what_is_left_over_what_is_lost_each_second() {
        let standing = |lag, produced_per_second, read_per_second| Standing {
            lag,
            lag_bound: 10_000,
            produced_per_second,
            read_per_second,
        };
        assert_eq!(standing(4_000, 1_000.0, 400.0).until_gap(), Some(10.0));
        assert_eq!(standing(4_000, 1_000.0, 0.0).until_gap(), Some(6.0));
        assert_eq!(standing(4_000, 1_000.0, 1_000.0).until_gap(), None);
        assert_eq!(standing(4_000, 1_000.0, 995.0).until_gap(), None, "the same rate, measured");
        assert_eq!(standing(4_000, 1_000.0, 2_000.0).until_gap(), None, "it gains");
        assert_eq!(standing(4_000, 0.0, 0.0).until_gap(), None, "nothing comes");
        assert_eq!(standing(12_000, 1_000.0, 0.0).until_gap(), Some(0.0), "it has come to that");
        assert_eq!(standing(0, 1_000.0, 0.0).until_gap(), None);
    }

    #[test]
    fn bytes_bound_the_lag_when_events_are_large() {
        assert_eq!(bound_by_bytes(0, 0, 1 << 20), u64::MAX);
        assert_eq!(bound_by_bytes(100, 100 << 10, 1 << 20), 1_024);
    }
}
