//! A request says what the exposition says: each series once, with its labels, histograms as the protocol counts them.

use super::*;
use crate::telemetry::{GapReason, Metrics, Outcome};
use prost::Message as _;
use std::time::Duration;

fn exported(metrics: &Metrics) -> Vec<Metric> {
    let about = About { instance: "0123".into(), started_unix_ms: 1_000 };
    let encoded = request(&metrics.expose(), &about, 3_000).encode_to_vec();
    let mut decoded = ExportMetricsServiceRequest::decode(encoded.as_slice()).expect("it can be read");
    let mut of = decoded.resource_metrics.remove(0);
    assert_eq!(of.resource.expect("whose they are").attributes[0], attribute("service.name", "tidegate"));
    of.scope_metrics.remove(0).metrics
}

fn find<'m>(metrics: &'m [Metric], name: &str) -> &'m Metric {
    metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("{name} is missing"))
}

// shows: D-15
#[test]
fn a_collector_gets_the_series_of_the_exposition_and_no_others() {
    let metrics = Metrics::new();
    metrics.sessions.opened.inc_by(3);
    metrics.sessions.open.set(-2);
    metrics.events.gapped.of(GapReason::Skipped).inc_by(5);
    metrics.commands.answered("add_item", Outcome::Ok, Duration::from_millis(3));
    metrics.commands.answered("add_item", Outcome::Ok, Duration::from_secs(500));
    let told = exported(&metrics);

    let text = metrics.expose();
    assert!(told.iter().all(|metric| METRICS.iter().any(|row| row.name == metric.name)));
    let series = told.iter().map(|metric| match metric.data.as_ref().expect("data") {
        Data::Gauge(gauge) => gauge.data_points.len(),
        Data::Sum(sum) => sum.data_points.len(),
        // Each has its buckets, a sum and a count.
        Data::Histogram(of) => of.data_points.iter().map(|point| point.bucket_counts.len() + 2).sum(),
    });
    assert_eq!(series.sum::<usize>(), text.lines().filter(|line| !line.starts_with('#')).count());

    let Some(Data::Sum(opened)) = &find(&told, "tidegate_sessions_opened").data else { panic!("a sum") };
    assert!(opened.is_monotonic && opened.aggregation_temporality == CUMULATIVE);
    let point = &opened.data_points[0];
    assert_eq!(
        (&point.value, point.start_time_unix_nano, point.time_unix_nano),
        (&Some(wire::Number::AsInt(3)), 1_000_000_000, 3_000_000_000)
    );
    let Some(Data::Gauge(open)) = &find(&told, "tidegate_sessions_open").data else { panic!("a gauge") };
    assert_eq!(open.data_points[0].value, Some(wire::Number::AsInt(-2)));
    let Some(Data::Sum(gapped)) = &find(&told, "tidegate_events_gapped").data else { panic!("a sum") };
    let skipped = gapped.data_points.iter().find(|point| point.attributes == [attribute("reason", "skipped")]);
    assert_eq!(skipped.expect("its series").value, Some(wire::Number::AsInt(5)));

    let seconds = find(&told, "tidegate_command_duration_seconds");
    assert_eq!(seconds.unit, "s");
    let Some(Data::Histogram(seconds)) = &seconds.data else { panic!("a histogram") };
    let add = seconds.data_points.iter().find(|point| point.attributes == [attribute("method", "add_item")]);
    let add = add.expect("its series");
    assert_eq!((add.count, add.bucket_counts.iter().sum::<u64>()), (2, 2), "each is in one bucket");
    assert_eq!(add.bucket_counts.len(), add.explicit_bounds.len() + 1);
    assert_eq!(add.bucket_counts.last(), Some(&1), "500 s are beyond every bound");
    assert!((add.sum.expect("a sum") - 500.003).abs() < 1e-6 && add.explicit_bounds.is_sorted());
}

#[test]
fn labels_are_read_as_they_were_written() {
    let line = r#"x_total{a="b\"},{c",d="line\nbreak\\",e=""} 7"#;
    let sample = read(line).expect("a sample");
    let labels: Vec<_> = sample.labels.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!((sample.name, sample.value), ("x_total", "7"));
    assert_eq!(labels, [("a", "b\"},{c"), ("d", "line\nbreak\\"), ("e", "")]);
    for none in ["# EOF", "", "x", "x{a=\"b\" 7", "x{a} 7"] {
        assert!(read(none).is_none(), "{none}");
    }
}
