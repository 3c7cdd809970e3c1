//! The default back-pressure policy: a ladder of fill levels, each with an answer. Cursors, marks and
//! hysteresis are the gateway's. Invariant: an unconfigured gateway lets a slow reader wait and, close to
//! the hard bound, ends that reader only.

use serde::Deserialize;
use tidegate_plugin_sdk::Policy;
use tidegate_plugin_sdk::backpressure::{Answer, BackpressurePolicy, Pressure};

/// What an operator can set in `backpressure.toml` or `backpressure.json`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Rising; the highest level that is reached answers, below the lowest a reader waits.
    levels: Vec<Level>,
    /// For `skip`: how many of the newest events stay.
    keep_newest: u64,
    /// A reader under pressure for longer is treated as at the highest level; 0: never.
    patience_ms: u64,
    /// Where a reader would be disconnected and is the session's only one, fault the session.
    fail_fast: bool,
}

/// From this share of the bound on, do this.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Level {
    /// Above 0, at most 1.
    at: f64,
    answer: Choice,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Choice {
    Wait,
    Skip,
    Conflate,
    Disconnect,
    FaultSession,
}

/// The configured policy.
#[derive(Debug)]
pub struct Backpressure {
    settings: Settings,
}

tidegate_plugin_sdk::export_backpressure!(Backpressure);

impl Default for Settings {
    fn default() -> Self {
        // 90 %: room for one more ask before events leave the log unread. Guessed.
        let levels = vec![Level { at: 0.9, answer: Choice::Disconnect }];
        Self { levels, keep_newest: 256, patience_ms: 0, fail_fast: false }
    }
}

// === impl Backpressure ===

impl Policy for Backpressure {
    type Settings = Settings;
    const NAME: &'static str = "backpressure";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const RULES: &'static [&'static str] = &[];
    const VECTORS: &'static str = include_str!("../vectors.toml");
    const SETTINGS_SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn configure(settings: Settings) -> Result<Self, String> {
        let mut below = 0.0;
        for (n, level) in settings.levels.iter().enumerate() {
            if !(level.at > below && level.at <= 1.0) {
                return Err(format!("levels[{n}]: `at` must rise, above 0 and at most 1"));
            }
            below = level.at;
        }
        Ok(Self { settings })
    }
}

impl BackpressurePolicy for Backpressure {
    fn decide(&self, what: &Pressure) -> Answer {
        let Settings { levels, keep_newest, patience_ms, fail_fast } = &self.settings;
        let fill = fill(what);
        let reached = if *patience_ms > 0 && what.since_ms >= *patience_ms {
            levels.last()
        } else {
            levels.iter().rev().find(|level| fill >= level.at)
        };
        match reached.map_or(Choice::Wait, |level| level.answer) {
            Choice::Wait => Answer::Wait,
            Choice::Skip => Answer::Skip(*keep_newest),
            Choice::Conflate => Answer::Conflate,
            Choice::Disconnect if *fail_fast && what.readers <= 1 => {
                Answer::FaultSession("the only reader fell too far behind".to_owned())
            }
            Choice::Disconnect => Answer::Disconnect("the reader fell too far behind".to_owned()),
            Choice::FaultSession => Answer::FaultSession("a reader fell too far behind".to_owned()),
        }
    }
}

/// How full the reader's share is, 0 to 1. The session's bytes count only against a reader that is half
/// way to its own bound: a full log is the fault of whoever holds it.
fn fill(what: &Pressure) -> f64 {
    let events = share(what.lag_events, what.lag_events_max);
    if events >= 0.5 { events.max(share(what.log_bytes, what.log_bytes_max)) } else { events }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugin_sdk::backpressure::{Principal, Session};

    fn pressure(lag_events: u64) -> Pressure {
        let who = Principal { id: "k".into(), scopes: vec![], read: vec![], write: vec![], peer: String::new() };
        let place = Session { id: "s".into(), owner: "k".into(), tag: String::new(), backend: "sim".into() };
        Pressure {
            now: 0,
            who,
            where_: place,
            reader: "r".into(),
            lag_events,
            lag_events_max: 10_000,
            log_bytes: 0,
            log_bytes_max: 16 << 20,
            asked: 1,
            since_ms: 0,
            readers: 2,
        }
    }

    fn policy(settings: &str) -> Backpressure {
        Backpressure::configure(serde_json::from_str(settings).expect("settings")).expect("policy")
    }

    // shows: S-08
    #[test]
    fn by_default_a_reader_waits_then_it_alone_is_ended() {
        let p = policy("{}");
        assert_eq!(p.decide(&pressure(8_999)), Answer::Wait);
        assert!(matches!(p.decide(&pressure(9_000)), Answer::Disconnect(_)));
    }

    // shows: S-08
    #[test]
    fn fail_fast_faults_only_when_the_reader_is_alone() {
        let p = policy(r#"{"fail_fast": true}"#);
        assert!(matches!(p.decide(&pressure(9_500)), Answer::Disconnect(_)));
        assert!(matches!(p.decide(&Pressure { readers: 1, ..pressure(9_500) }), Answer::FaultSession(_)));
    }

    #[test]
    fn a_ladder_climbs_and_patience_ends() {
        let p = policy(
            r#"{"levels": [{"at": 0.5, "answer": "conflate"}, {"at": 0.8, "answer": "skip"}], "keep_newest": 10, "patience_ms": 1000}"#,
        );
        assert_eq!(p.decide(&pressure(4_000)), Answer::Wait);
        assert_eq!(p.decide(&pressure(5_000)), Answer::Conflate);
        assert_eq!(p.decide(&pressure(8_000)), Answer::Skip(10));
        assert_eq!(p.decide(&Pressure { since_ms: 1_000, ..pressure(5_000) }), Answer::Skip(10));
    }

    #[test]
    fn a_full_log_counts_only_against_who_lags() {
        let p = policy("{}");
        let full = |lag| Pressure { log_bytes: 16 << 20, ..pressure(lag) };
        assert_eq!(p.decide(&full(100)), Answer::Wait);
        assert!(matches!(p.decide(&full(5_000)), Answer::Disconnect(_)));
    }

    #[test]
    fn levels_must_rise() {
        let bad = r#"{"levels": [{"at": 0.9, "answer": "skip"}, {"at": 0.5, "answer": "wait"}]}"#;
        assert!(Backpressure::configure(serde_json::from_str(bad).unwrap()).unwrap_err().starts_with("levels[1]"));
    }
}
