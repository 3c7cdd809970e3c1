//! The table of metrics for a collector that speaks OTLP over HTTP, where one is set: read from the same exposition as
//! `/metrics`, so that both say the same. Knows texts and numbers, no part that counts. Invariant: nothing is sent that
//! `/metrics` does not have; no trace and no log.

mod send;
#[cfg(test)]
mod tests;
mod wire;

pub use send::{Collector, export};

use super::metrics::{METRICS, MetricRow};
use std::collections::{BTreeMap, HashMap};
use wire::{
    AnyValue, Data, ExportMetricsServiceRequest, Gauge, Histogram, HistogramDataPoint, InstrumentationScope, KeyValue,
    Metric, NumberDataPoint, Resource, ResourceMetrics, ScopeMetrics, Sum, Text,
};

/// Counts go on from the start of the process (AGGREGATION_TEMPORALITY_CUMULATIVE).
const CUMULATIVE: i32 = 2;

/// Whose metrics they are.
#[derive(Clone, Debug)]
pub struct About {
    /// Of the installation; not a secret.
    pub instance: String,
    pub started_unix_ms: u64,
}

/// One line of the exposition.
struct Sample<'t> {
    name: &'t str,
    labels: Vec<(&'t str, String)>,
    value: &'t str,
}

/// What tells the series of one histogram apart: its labels without the bound.
type Key = Vec<(String, String)>;

/// One histogram, as its lines tell it.
#[derive(Default)]
struct Told {
    /// Upper bound and how many are at or below it, ascending.
    buckets: Vec<(f64, u64)>,
    sum: f64,
    count: u64,
}

/// The moment of all its points.
#[derive(Clone, Copy)]
struct When {
    from: u64,
    to: u64,
}

/// An exposition as one request.
fn request(text: &str, about: &About, now_unix_ms: u64) -> ExportMetricsServiceRequest {
    let nanoseconds = |ms: u64| ms.saturating_mul(1_000_000);
    let when = When { from: nanoseconds(about.started_unix_ms), to: nanoseconds(now_unix_ms) };
    let mut by_name: HashMap<&str, Vec<Sample<'_>>> = HashMap::new();
    for sample in text.lines().filter_map(read) {
        by_name.entry(sample.name).or_default().push(sample);
    }
    let metrics = METRICS.iter().map(|row| metric(row, &by_name, when)).filter(|metric| metric.data.is_some());
    let attributes = vec![
        attribute("service.name", "tidegate"),
        attribute("service.version", env!("CARGO_PKG_VERSION")),
        attribute("service.instance.id", &about.instance),
    ];
    let scope = InstrumentationScope { name: "tidegate".into(), version: env!("CARGO_PKG_VERSION").into() };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes }),
            scope_metrics: vec![ScopeMetrics { scope: Some(scope), metrics: metrics.collect() }],
        }],
    }
}

/// Without data: there is no series of it yet.
fn metric(row: &MetricRow, by_name: &HashMap<&str, Vec<Sample<'_>>>, when: When) -> Metric {
    let of = |ending: &str| by_name.get(format!("{}{ending}", row.name).as_str()).map_or(&[][..], Vec::as_slice);
    let points = |samples: &[Sample<'_>]| -> Vec<NumberDataPoint> {
        samples.iter().filter_map(|sample| point(sample, when)).collect()
    };
    let data = match row.kind {
        "counter" => {
            let data_points = points(of("_total"));
            let sum = Sum { data_points, aggregation_temporality: CUMULATIVE, is_monotonic: true };
            (!sum.data_points.is_empty()).then_some(Data::Sum(sum))
        }
        "histogram" => {
            let data_points = histograms(of("_bucket"), of("_sum"), of("_count"), when);
            let told = Histogram { data_points, aggregation_temporality: CUMULATIVE };
            (!told.data_points.is_empty()).then_some(Data::Histogram(told))
        }
        _ => {
            let gauge = Gauge { data_points: points(of("")) };
            (!gauge.data_points.is_empty()).then_some(Data::Gauge(gauge))
        }
    };
    // As UCUM writes them.
    let unit = match row.unit {
        "bytes" => "By",
        "seconds" => "s",
        "microseconds" => "us",
        other => other,
    };
    Metric { name: row.name.into(), description: row.help.into(), unit: unit.into(), data }
}

fn point(sample: &Sample<'_>, when: When) -> Option<NumberDataPoint> {
    let value = match sample.value.parse() {
        Ok(whole) => wire::Number::AsInt(whole),
        Err(_) => wire::Number::AsDouble(sample.value.parse().ok()?),
    };
    Some(NumberDataPoint {
        start_time_unix_nano: when.from,
        time_unix_nano: when.to,
        value: Some(value),
        attributes: attributes(&sample.labels, ""),
    })
}

fn histograms(
    buckets: &[Sample<'_>],
    sums: &[Sample<'_>],
    counts: &[Sample<'_>],
    when: When,
) -> Vec<HistogramDataPoint> {
    let key = |sample: &Sample<'_>| -> Key {
        let others = sample.labels.iter().filter(|(name, _)| *name != "le");
        others.map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    };
    let mut told: BTreeMap<Key, (Told, Vec<KeyValue>)> = BTreeMap::new();
    for sample in buckets {
        let bound = sample.labels.iter().find(|(name, _)| *name == "le").map_or("", |(_, bound)| bound.as_str());
        let entry = told.entry(key(sample)).or_insert_with(|| (Told::default(), attributes(&sample.labels, "le")));
        if let (Ok(bound), Ok(count)) = (bound.replace('+', "").parse(), sample.value.parse()) {
            entry.0.buckets.push((bound, count));
        }
    }
    for (sample, is_sum) in sums.iter().map(|one| (one, true)).chain(counts.iter().map(|one| (one, false))) {
        let Some((told, _)) = told.get_mut(&key(sample)) else { continue };
        if is_sum {
            told.sum = sample.value.parse().unwrap_or_default();
        } else {
            told.count = sample.value.parse().unwrap_or_default();
        }
    }
    told.into_values().map(|(told, attributes)| told.point(attributes, when)).collect()
}

fn attributes(labels: &[(&str, String)], but: &str) -> Vec<KeyValue> {
    labels.iter().filter(|(name, _)| *name != but).map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(Text::StringValue(value.into())) }) }
}

/// A line that is no sample is none.
fn read(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let Some((name, rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some(Sample { name, labels: Vec::new(), value });
    };
    let mut labels = Vec::new();
    let mut rest = rest;
    loop {
        if let Some(value) = rest.strip_prefix("} ") {
            return Some(Sample { name, labels, value });
        }
        let (label, quoted) = rest.trim_start_matches(',').split_once("=\"")?;
        let (text, behind) = unquote(quoted)?;
        labels.push((label, text));
        rest = behind;
    }
}

/// A label's value up to its closing quote, and what is behind.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

// === impl Told ===

impl Told {
    /// Theirs count each bucket by itself, and the last one, without a bound, too.
    fn point(self, attributes: Vec<KeyValue>, when: When) -> HistogramDataPoint {
        let mut before = 0;
        let bucket_counts = self.buckets.iter().map(|(_, at_most)| {
            let own = at_most.saturating_sub(before);
            before = *at_most;
            own
        });
        let bucket_counts = bucket_counts.collect();
        let explicit_bounds = self.buckets.iter().map(|(bound, _)| *bound).filter(|bound| bound.is_finite()).collect();
        HistogramDataPoint {
            start_time_unix_nano: when.from,
            time_unix_nano: when.to,
            count: self.count,
            sum: Some(self.sum),
            bucket_counts,
            explicit_bounds,
            attributes,
        }
    }
}
