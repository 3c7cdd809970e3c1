//! How many events are due: exact on average however late it is asked. Knows no events. Invariant: what was not made in
//! time is due later, never lost. With a grain, events become due in groups at its multiples.

use std::time::Duration;
use tokio::time::Instant;

/// A rate and how far it has been kept up with.
#[derive(Debug)]
pub(super) struct Pace {
    rate: u32,
    /// Nanoseconds; 1: each event has its own time.
    grain: u128,
    /// When counting began; `None` at rest.
    since: Option<Instant>,
    made: u64,
}

/// Nanoseconds since events became due: what `Pace::nth_at` says of each, by adding where that divides.
#[derive(Debug)]
pub(super) struct Lates {
    passed: u64,
    rate: u64,
    grain: u64,
    /// From the beginning to the next event: whole nanoseconds, and what is over of one, in parts of `rate`.
    offset: u64,
    rest: u64,
    /// When the group of the last event became due.
    group_end: u64,
}

/// Of a second.
const NANOS: u128 = 1_000_000_000;

// === impl Pace ===

impl Pace {
    /// `rate` per second, 0: never anything; in groups every `grain_us` microseconds, 0: one by one.
    pub(super) fn new(rate: u32, grain_us: u32) -> Self {
        Self { rate, grain: (u128::from(grain_us) * 1_000).max(1), since: None, made: 0 }
    }

    pub(super) fn rate(&self) -> u32 {
        self.rate
    }

    /// Counting begins anew.
    pub(super) fn set_rate(&mut self, rate: u32) {
        *self = Self { rate, since: None, made: 0, ..*self };
    }

    /// There is nothing to spread events over: time passes without making any due.
    pub(super) fn rest(&mut self) {
        self.since = None;
    }

    /// Events due by now. Counting begins with the first call.
    pub(super) fn due(&mut self, now: Instant) -> u64 {
        let Some(since) = self.since else {
            self.since = Some(now);
            self.made = 0;
            return 0;
        };
        let passed = now.saturating_duration_since(since).as_nanos() / self.grain * self.grain;
        let all = passed * u128::from(self.rate) / NANOS;
        u64::try_from(all).unwrap_or(u64::MAX).saturating_sub(self.made)
    }

    pub(super) fn made(&mut self, count: u64) {
        self.made += count;
    }

    /// When the next one is due; in the past when some are due already.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.nth_at(1)
    }

    /// When the `nth` from now on is due.
    pub(super) fn nth_at(&self, nth: u64) -> Option<Instant> {
        let nanos = self.offset(self.made + nth)?;
        self.since?.checked_add(Duration::from_nanos(u64::try_from(nanos).ok()?))
    }

    /// How long ago the next ones became due, one after the other, nanoseconds; 0: not yet.
    pub(super) fn lates(&self, now: Instant) -> Lates {
        let passed = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)).as_nanos();
        let (nanos, rate) = (u128::from(self.made + 1) * NANOS, u128::from(self.rate).max(1));
        Lates {
            passed: passed as u64,
            rate: rate as u64,
            grain: self.grain as u64,
            offset: (nanos / rate) as u64,
            rest: (nanos % rate) as u64,
            group_end: 0,
        }
    }

    /// Nanoseconds from the beginning to an event.
    fn offset(&self, number: u64) -> Option<u128> {
        let nanos = u128::from(number) * NANOS;
        // Most numbers fit: dividing 128 bits costs ten times as much.
        let exact = match u64::try_from(nanos) {
            Ok(nanos) => {
                u128::from(nanos.checked_div(self.rate.into())? + u64::from(nanos % u64::from(self.rate) != 0))
            }
            Err(_) => nanos.div_ceil(u128::from(self.rate).max(1)),
        };
        (self.rate > 0).then(|| if self.grain > 1 { exact.next_multiple_of(self.grain) } else { exact })
    }
}

// === impl Lates ===

impl Iterator for Lates {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let exact = self.offset + u64::from(self.rest > 0);
        self.offset += NANOS as u64 / self.rate;
        self.rest += NANOS as u64 % self.rate;
        if self.rest >= self.rate {
            self.offset += 1;
            self.rest -= self.rate;
        }
        if exact > self.group_end {
            self.group_end = if self.grain > 1 { exact.next_multiple_of(self.grain) } else { exact };
        }
        Some(self.passed.saturating_sub(self.group_end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rate_is_exact_and_catches_up() {
        let start = Instant::now();
        for rate in [1, 3, 7, 999, 1_000, 333_333, 500_000] {
            let mut pace = Pace::new(rate, 0);
            assert_eq!(pace.due(start), 0);
            let mut made = 0;
            let mut now = start;
            for step in [1u64, 17, 1_000, 999_999, 3_000_000, 2_000_000_000, 7_995_000_000] {
                assert!(pace.next_at().unwrap() > now || pace.due(now) > 0);
                now += Duration::from_nanos(step);
                let due = pace.due(now);
                pace.made(due);
                made += due;
            }
            let end = start + Duration::from_secs(10);
            made += pace.due(end);
            assert_eq!(made, u64::from(rate) * 10, "{rate}");
        }
    }

    #[test]
    fn what_is_due_is_due_exactly_when_it_was_announced() {
        let start = Instant::now();
        for rate in [1, 3, 7, 333_333, 500_000] {
            let mut pace = Pace::new(rate, 0);
            pace.due(start);
            for _ in 0..100 {
                let at = pace.next_at().unwrap();
                assert_eq!(pace.due(at - Duration::from_nanos(1)), 0);
                assert_eq!(pace.due(at), 1);
                pace.made(1);
            }
        }
        let mut none = Pace::new(0, 0);
        none.due(start);
        assert_eq!((none.due(start + Duration::from_secs(1_000)), none.next_at()), (0, None));
    }

    #[test]
    fn each_is_as_late_as_its_time_says() {
        let start = Instant::now();
        for (rate, grain_us) in [(1, 0), (3, 0), (333_333, 0), (500_000, 0), (20_000, 5_000), (333_333, 1_000)] {
            let mut pace = Pace::new(rate, grain_us);
            pace.due(start);
            pace.made(12_345);
            let now = start + Duration::from_secs(4_200);
            for (nth, late) in (1..=2_000).zip(pace.lates(now)) {
                let at = pace.nth_at(nth).expect("a rate");
                assert_eq!(u128::from(late), now.saturating_duration_since(at).as_nanos(), "{rate} {grain_us} {nth}");
            }
        }
        assert_eq!(Pace::new(10, 0).lates(start).next(), Some(0), "at rest nothing is late");
        assert_eq!(Pace::new(0, 0).lates(start).next(), Some(0));
    }

    #[test]
    fn rest_makes_nothing_due() {
        let start = Instant::now();
        let mut pace = Pace::new(100, 0);
        pace.due(start);
        pace.rest();
        assert_eq!(pace.next_at(), None);
        assert_eq!(pace.due(start + Duration::from_secs(60)), 0);
        assert_eq!(pace.due(start + Duration::from_secs(61)), 100);
    }

    #[test]
    fn a_grain_makes_groups_and_loses_nothing() {
        let start = Instant::now();
        let mut pace = Pace::new(20_000, 5_000);
        pace.due(start);
        for nth in 1..=100 {
            let at = pace.next_at().unwrap();
            assert_eq!(at, start + Duration::from_millis(5 * nth));
            assert_eq!((pace.due(at - Duration::from_nanos(1)), pace.due(at)), (0, 100));
            pace.made(100);
        }
        assert_eq!(pace.due(start + Duration::from_millis(1_004)), 10_000);
    }
}
