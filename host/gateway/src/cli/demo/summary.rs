//! What the demo found, and what of it breaks a promise. Plain numbers; it knows neither processes nor
//! streams. Invariant: the demo succeeds only if `failures` is empty.

use super::{
    history::Comparison,
    reader::{Outcome, Pace},
};
use serde::Serialize;
use std::fmt::Write as _;
use tidegate_client::Counts;

/// The numbers of the last line, in this order.
#[derive(Debug, Default, Serialize)]
pub(super) struct Summary {
    pub(super) sessions: usize,
    pub(super) subscribers: usize,
    pub(super) produced: u64,
    pub(super) delivered: u64,
    pub(super) filtered: u64,
    pub(super) conflated: u64,
    pub(super) gapped: u64,
    pub(super) unaccounted: u64,
    pub(super) duplicated: u64,
    pub(super) reordered: u64,
    pub(super) swaps: usize,
    pub(super) gate_ms_p99: f64,
    pub(super) flip_to_enforced_ms_p99: f64,
    pub(super) denied_after_flip: u64,
    pub(super) policy_decisions: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) history: Option<Comparison>,
    #[serde(skip)]
    pub(super) readers: Vec<ReaderResult>,
    /// Broken promises that the story itself noticed.
    #[serde(skip)]
    pub(super) broken: Vec<String>,
}

/// One reader of the summary.
#[derive(Debug)]
pub(super) struct ReaderResult {
    pub(super) name: &'static str,
    pub(super) pace: Pace,
    /// Its session was to be killed.
    pub(super) doomed: bool,
    pub(super) outcome: Outcome,
}

/// The swaps that the demo made, as the gateway recorded them.
#[derive(Clone, Copy, Debug)]
pub(super) struct SwapTimes {
    pub(super) gate_us: u64,
    pub(super) enforced_us: u64,
}

// === impl Summary ===

impl Summary {
    pub(super) fn add_readers(&mut self, readers: Vec<ReaderResult>) {
        let total: Counts = readers.iter().map(|reader| reader.outcome.counts).sum();
        self.subscribers = readers.len();
        self.produced = total.produced;
        self.delivered = total.delivered;
        self.filtered = total.filtered;
        self.conflated = total.conflated;
        self.gapped = total.gapped;
        self.unaccounted = total.unaccounted;
        self.duplicated = total.duplicated;
        self.reordered = total.reordered;
        self.readers = readers;
    }

    pub(super) fn add_swaps(&mut self, swaps: &[SwapTimes]) {
        self.swaps = swaps.len();
        self.gate_ms_p99 = p99_ms(swaps.iter().map(|swap| swap.gate_us));
        self.flip_to_enforced_ms_p99 = p99_ms(swaps.iter().map(|swap| swap.enforced_us));
    }

    /// Every broken promise, in words.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = self.broken.clone();
        for ReaderResult { name, pace, doomed, outcome } in &self.readers {
            let counts = &outcome.counts;
            if !counts.closes() {
                failures.push(format!("the account of reader {name} does not close: {counts}"));
            }
            if let Some(violation) = &outcome.violation {
                failures.push(format!("reader {name}: {violation}"));
            }
            if *pace == Pace::Full && counts.gapped + counts.conflated > 0 {
                failures.push(format!("the fast reader {name} missed events: {counts}"));
            }
            match (&outcome.ended, doomed) {
                (Some(ended), false) => failures.push(format!("the stream of reader {name} was ended: {ended}")),
                (None, true) => failures.push(format!("reader {name} was not told that its worker died")),
                _ => {}
            }
        }
        if self.denied_after_flip > 0 {
            failures.push(format!("{} events reached readers after the flip that denied them", self.denied_after_flip));
        }
        if let Some(history) = self.history.as_ref().filter(|history| history.difference.is_some()) {
            failures.push(history.to_string());
        }
        failures
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("\n");
        let _ = writeln!(
            text,
            "{:<12}{:>10}{:>11}{:>10}{:>11}{:>8}{:>9}  account",
            "reader", "produced", "delivered", "filtered", "conflated", "gapped", "resumed"
        );
        for ReaderResult { name, outcome, doomed, .. } in &self.readers {
            let Counts { produced, delivered, filtered, conflated, gapped, .. } = outcome.counts;
            let closes = if outcome.counts.closes() { "closes" } else { "DOES NOT CLOSE" };
            let died = if *doomed { ", its worker was killed" } else { "" };
            let resumed = outcome.resumed;
            let _ = writeln!(
                text,
                "{name:<12}{produced:>10}{delivered:>11}{filtered:>10}{conflated:>11}{gapped:>8}{resumed:>9}  {closes}{died}"
            );
        }
        let _ = writeln!(
            text,
            "\n{} sessions, {} readers: {} produced = {} delivered + {} filtered + {} conflated + {} gapped",
            self.sessions, self.subscribers, self.produced, self.delivered, self.filtered, self.conflated, self.gapped
        );
        let _ = writeln!(
            text,
            "{} unaccounted, {} duplicated, {} reordered",
            self.unaccounted, self.duplicated, self.reordered
        );
        let _ = writeln!(
            text,
            "{} swaps on live streams: gate {:.1} ms, enforced {:.2} ms after the flip, {} denied events after it; \
             {} policy decisions",
            self.swaps, self.gate_ms_p99, self.flip_to_enforced_ms_p99, self.denied_after_flip, self.policy_decisions
        );
        if let Some(history) = &self.history {
            let _ = writeln!(text, "{history}");
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// The 99th percentile in milliseconds; of fewer than 100 values it is the largest.
fn p99_ms(values: impl Iterator<Item = u64>) -> f64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    let rank = (values.len() * 99).div_ceil(100);
    values.get(rank.saturating_sub(1)).map_or(0.0, |us| *us as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(pace: Pace, counts: Counts) -> ReaderResult {
        ReaderResult { name: "r", pace, doomed: false, outcome: Outcome { counts, ..Outcome::default() } }
    }

    fn failures(change: impl FnOnce(&mut Summary)) -> Vec<String> {
        let mut summary = Summary::default();
        change(&mut summary);
        summary.failures()
    }

    #[test]
    fn every_broken_promise_is_a_failure() {
        let good = Counts { produced: 3, delivered: 3, ..Counts::default() };
        let gapped = Counts { produced: 3, delivered: 2, gapped: 1, ..Counts::default() };
        let open = Counts { produced: 3, delivered: 2, unaccounted: 1, ..Counts::default() };
        let slow = Pace::Bursts { events: 1, rest: std::time::Duration::from_millis(1) };
        assert_eq!(failures(|s| s.add_readers(vec![reader(Pace::Full, good), reader(slow, gapped)])), [""; 0]);
        assert_eq!(failures(|s| s.add_readers(vec![reader(Pace::Full, gapped)])).len(), 1);
        assert_eq!(failures(|s| s.add_readers(vec![reader(slow, open)])).len(), 1);
        assert_eq!(failures(|s| s.denied_after_flip = 1).len(), 1);
        assert_eq!(failures(|s| s.broken.push("x".into())), ["x"]);
        let mut ended = reader(slow, good);
        ended.outcome.ended = Some("over".into());
        assert_eq!(failures(|s| s.add_readers(vec![ended])).len(), 1);
        let mut untold = reader(slow, good);
        untold.doomed = true;
        assert_eq!(failures(|s| s.add_readers(vec![untold])).len(), 1);
    }

    #[test]
    fn the_json_line_has_the_promised_fields_in_order() {
        let line = serde_json::to_string(&Summary::default()).expect("JSON");
        let fields = [
            "sessions",
            "subscribers",
            "produced",
            "delivered",
            "filtered",
            "conflated",
            "gapped",
            "unaccounted",
            "duplicated",
            "reordered",
            "swaps",
            "gate_ms_p99",
            "flip_to_enforced_ms_p99",
            "denied_after_flip",
            "policy_decisions",
        ];
        let places: Vec<_> = fields.iter().map(|field| line.find(&format!("\"{field}\":"))).collect();
        assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{line}");
    }

    #[test]
    fn a_percentile_of_few_is_the_largest() {
        assert_eq!(p99_ms([].into_iter()), 0.0);
        assert_eq!(p99_ms([3_000, 1_000].into_iter()), 3.0);
        assert_eq!(p99_ms((1..=200).map(|ms| ms * 1_000)), 198.0);
    }
}
