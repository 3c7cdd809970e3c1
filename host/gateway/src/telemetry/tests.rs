//! What leaves the process: the exposition has the table's names and no others, lines are redacted,
//! both formats are what they say.

use super::*;
use crate::telemetry::redact::redact;
use std::{
    collections::BTreeSet,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("sound").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("sound").clone()).expect("text")
    }
}

fn sample() -> PolicySample {
    PolicySample { policy: "access", digest: "0123456789abcdef".repeat(4), calls: 3, guest_us: 7, ..Default::default() }
}

fn numbers(samples: usize) -> PolicyNumbers {
    PolicyNumbers {
        samples: vec![sample(); samples],
        denied: vec![("access", 4), ("rate-limit", 0)],
        dropped: 9,
        ..Default::default()
    }
}

// shows: D-15
#[test]
fn the_exposition_has_exactly_the_metrics_of_the_table() {
    let metrics = Metrics::new();
    metrics.policies.set(|| numbers(1));
    let text = metrics.expose();
    let lines = |mark: &str| {
        text.lines().filter_map(|line| line.strip_prefix(mark)).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let types: BTreeSet<String> = METRICS.iter().map(|row| format!("{} {}", row.name, row.kind)).collect();
    assert_eq!(lines("# TYPE "), types);
    let helps: BTreeSet<String> = METRICS.iter().map(|row| format!("{} {}.", row.name, row.help)).collect();
    assert_eq!(lines("# HELP "), helps);
    let units: BTreeSet<String> =
        METRICS.iter().filter(|row| !row.unit.is_empty()).map(|row| format!("{} {}", row.name, row.unit)).collect();
    assert_eq!(lines("# UNIT "), units);
    assert!(METRICS.iter().all(|row| row.unit.is_empty() || row.name.ends_with(row.unit)), "units stand last");
    for row in METRICS {
        let first = text.lines().find(|line| line.starts_with(row.name)).unwrap_or_else(|| panic!("{}", row.name));
        let labels: Vec<&str> = first
            .split_once('{')
            .and_then(|(_, rest)| rest.split_once('}'))
            .map(|(labels, _)| labels.split(',').filter_map(|pair| pair.split('=').next()).collect())
            .unwrap_or_default();
        let labels: Vec<&str> = labels.into_iter().filter(|label| *label != "le").collect();
        assert_eq!(labels.join(","), row.labels, "{first}");
    }
}

// shows: X-16
#[test]
fn labelled_counts_land_in_their_series() {
    let metrics = Metrics::new();
    metrics.events.gapped.of(GapReason::Skipped).inc_by(5);
    metrics.commands.answered("add_item", Outcome::Denied, Duration::from_millis(3));
    metrics.commands.answered("Area1.Pump7.Flow", Outcome::Ok, Duration::ZERO);
    metrics.policies.set(|| numbers(100));
    metrics.swaps.refusals(["plugin.held", "plugin.unsigned"]);
    metrics.swaps.attempted(SwapOutcome::Refused, "plugin.held");
    let text = metrics.expose();
    for line in [
        r#"tidegate_events_gapped_total{reason="skipped"} 5"#,
        r#"tidegate_commands_total{method="add_item",outcome="denied"} 1"#,
        r#"tidegate_commands_total{method="other",outcome="ok"} 1"#,
        r#"tidegate_command_duration_seconds_count{method="add_item"} 1"#,
        r#"tidegate_swaps_total{outcome="refused",code="plugin.held"} 1"#,
        r#"tidegate_swaps_total{outcome="refused",code="plugin.unsigned"} 0"#,
        r#"tidegate_swaps_total{outcome="swapped",code=""} 0"#,
        r#"tidegate_decisions_denied_total{policy="access"} 4"#,
        "tidegate_decisions_dropped_total 9",
        r#"tidegate_policy_phase_microseconds_total{policy="access",digest="0123456789ab",phase="guest"} 7"#,
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    assert!(!text.contains("Pump7"), "no name from outside becomes a label");
    assert!(text.matches("tidegate_policy_calls_total{").count() <= 32, "bounded whatever the source says");
}

// shows: S-20
#[test]
fn a_key_loses_its_secret_half_on_its_way_to_the_log() {
    let secret = "f".repeat(64);
    let key = format!("tg_k0123456789abcdef_{secret}");
    for format in [LogFormat::Human, LogFormat::Json] {
        let sink = Sink::default();
        let log = subscriber(format, "trace", sink.clone(), false).expect("a level");
        tracing::dispatcher::with_default(&log, || {
            tracing::error!(%key, nested = ?Some(&key), "two: {key},{key}");
            tracing::trace!("plain");
        });
        let text = sink.text();
        assert!(!text.contains(&secret) && !text.contains("ffff"), "{text}");
        assert_eq!(text.matches("tg_k0123456789abcdef…").count(), 4, "{text}");
        assert!(text.contains("plain"), "{text}");
        if format == LogFormat::Json {
            for line in text.lines() {
                serde_json::from_str::<serde_json::Value>(line).expect("one object per line");
            }
        }
    }
}

#[test]
fn redaction_leaves_everything_else_alone() {
    for line in ["", "tg_", "a tg_ b", "tg_k0123456789abcdef is an id", "ünï tg_x"] {
        assert_eq!(redact(line.as_bytes()), line.as_bytes(), "{line}");
    }
    let cut = redact("tg_k0123456789abcdef_00 and tg_k0123456789abcdef_11".as_bytes()).into_owned();
    assert_eq!(String::from_utf8(cut).expect("text"), "tg_k0123456789abcdef… and tg_k0123456789abcdef…");
}

#[test]
fn levels_are_checked() {
    for right in ["info", "WARN", "info,tidegate::events=debug", "off"] {
        assert!(check_level(right).is_ok(), "{right}");
    }
    assert_eq!(check_level("=?=").expect_err("wrong").code(), crate::error::Code::ConfigInvalid);
}
