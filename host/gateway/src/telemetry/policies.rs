//! Metrics of the policies, taken when somebody scrapes. The policy crate counts in plain numbers and
//! knows no metrics library; this asks it. Invariant: at most `SAMPLES_MAX` series, whatever it answers.

use super::metrics::{MetricRow, bare_name, row, unit};
use parking_lot::RwLock;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use std::{fmt, sync::Arc};

/// Five policies, three live generations, with room for what went a moment ago.
const SAMPLES_MAX: usize = 32;
/// Digits of a digest that tell components apart; the whole one is in `tidegate policy list`.
const DIGEST_DIGITS: usize = 12;

/// What one component of one policy has done since the start.
#[derive(Clone, Debug, Default)]
pub struct PolicySample {
    /// One of the five names.
    pub policy: &'static str,
    /// SHA-256 of the component, hexadecimal.
    pub digest: String,
    pub calls: u64,
    pub failures: u64,
    pub queue_us: u64,
    pub instantiate_us: u64,
    pub guest_us: u64,
    pub host_us: u64,
}

/// What came of the shadow that runs; zero without one.
#[derive(Clone, Copy, Debug, Default)]
pub struct ShadowSample {
    pub same: u64,
    pub changed: u64,
    pub failed: u64,
    pub skipped: u64,
}

/// All of it at one time.
#[derive(Clone, Debug, Default)]
pub struct PolicyNumbers {
    pub samples: Vec<PolicySample>,
    /// Decisions that said no, by the name of the policy: as many as the decision log calls denied.
    pub denied: Vec<(&'static str, u64)>,
    /// Decisions that are in no decision log.
    pub dropped: u64,
    pub shadow: ShadowSample,
}

type Ask = dyn Fn() -> PolicyNumbers + Send + Sync;

/// Where the samples come from; empty until `set`.
#[derive(Clone, Default)]
pub struct PolicySource {
    ask: Arc<RwLock<Option<Box<Ask>>>>,
}

// === impl PolicySource ===

impl PolicySource {
    /// Says whom to ask at each scrape; it must answer at once.
    pub fn set(&self, ask: impl Fn() -> PolicyNumbers + Send + Sync + 'static) {
        *self.ask.write() = Some(Box::new(ask));
    }

    fn numbers(&self) -> PolicyNumbers {
        let mut numbers = self.ask.read().as_ref().map(|ask| ask()).unwrap_or_default();
        numbers.samples.truncate(SAMPLES_MAX);
        numbers.denied.truncate(SAMPLES_MAX);
        for sample in &mut numbers.samples {
            let end = sample.digest.char_indices().nth(DIGEST_DIGITS).map_or(sample.digest.len(), |(at, _)| at);
            sample.digest.truncate(end);
        }
        numbers
    }
}

impl Collector for PolicySource {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let PolicyNumbers { samples, denied, dropped, shadow } = self.numbers();
        if samples.is_empty() {
            return Ok(());
        }
        let denials = row("tidegate_decisions_denied");
        let mut metric = encoder.encode_descriptor(denials.name, &help(denials), None, MetricType::Counter)?;
        for (policy, count) in &denied {
            ConstCounter::new(*count).encode(metric.encode_family(&[("policy", *policy)])?)?;
        }
        let drops = row("tidegate_decisions_dropped");
        let metric = encoder.encode_descriptor(drops.name, &help(drops), None, MetricType::Counter)?;
        ConstCounter::new(dropped).encode(metric)?;
        for (name, number) in [
            ("tidegate_policy_calls", (|sample| sample.calls) as fn(&PolicySample) -> u64),
            ("tidegate_policy_failures", |sample| sample.failures),
        ] {
            let row = row(name);
            let mut metric = encoder.encode_descriptor(row.name, &help(row), None, MetricType::Counter)?;
            for sample in &samples {
                let labels = [("policy", sample.policy), ("digest", sample.digest.as_str())];
                ConstCounter::new(number(sample)).encode(metric.encode_family(&labels)?)?;
            }
        }
        let row = row("tidegate_policy_phase_microseconds");
        let unit = unit(row);
        let mut metric = encoder.encode_descriptor(bare_name(row), &help(row), unit.as_ref(), MetricType::Counter)?;
        for sample in &samples {
            for (phase, micros) in [
                ("queue", sample.queue_us),
                ("instantiate", sample.instantiate_us),
                ("guest", sample.guest_us),
                ("host", sample.host_us),
            ] {
                let labels = [("policy", sample.policy), ("digest", sample.digest.as_str()), ("phase", phase)];
                ConstCounter::new(micros).encode(metric.encode_family(&labels)?)?;
            }
        }
        let row = self::row("tidegate_policy_shadow_answers");
        let mut metric = encoder.encode_descriptor(row.name, &help(row), None, MetricType::Gauge)?;
        for (outcome, count) in
            [("same", shadow.same), ("changed", shadow.changed), ("failed", shadow.failed), ("skipped", shadow.skipped)]
        {
            let labels = [("outcome", outcome)];
            ConstGauge::new(count as i64).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// The registry ends its helps with a stop; a collector has to.
fn help(row: &MetricRow) -> String {
    format!("{}.", row.help)
}

impl fmt::Debug for PolicySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolicySource").field("set", &self.ask.read().is_some()).finish()
    }
}
