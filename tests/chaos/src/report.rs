//! What was seen, and which promises that breaks. Knows numbers only. Invariant: whatever counts as broken is named, and
//! makes the exit code 1.

use crate::{reader::Ended, writer::Writes};
use serde_json::json;
use std::process::ExitCode;
use tidegate_client::Counts;

/// The accounts of all readers and writers.
#[derive(Debug, Default)]
pub(crate) struct Account {
    pub(crate) counts: Counts,
    /// Produced, and beyond the end of a reader that should have come to it.
    pub(crate) short: u64,
    /// Readers that did not come to their end, or whose account does not close.
    pub(crate) open: Vec<String>,
    pub(crate) early_gaps: u64,
    pub(crate) written: Writes,
    /// Acknowledged and never complete.
    pub(crate) lost_writes: u64,
    /// Complete more often than sent.
    pub(crate) repeated_writes: u64,
    /// Readers that missed nothing, so that their writer's account could be held against them.
    pub(crate) writers_judged: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) kills: u32,
    pub(crate) restarts: u32,
    /// Those in which another gateway came to serve.
    pub(crate) takeovers: u32,
    pub(crate) sessions: usize,
    pub(crate) readers: usize,
    pub(crate) adopted: u64,
    /// From the start of a gateway's process to the session being ready under it.
    pub(crate) adoption_ms: Vec<u64>,
    /// From the first moment at which that gateway answered.
    pub(crate) serving_ms: Vec<u64>,
    /// From an order to reconnect, or the start of a gateway, to the last of all quick readers having its stream.
    pub(crate) storm_ms: Vec<u64>,
    pub(crate) live_ms: Vec<u64>,
    /// Workers that lived when their gateway died, and whose session did not go on.
    pub(crate) lost: Vec<String>,
    pub(crate) reconnects: u64,
    pub(crate) account: Account,
    pub(crate) wrong_adoptions: Vec<String>,
    pub(crate) leaked_processes: usize,
    pub(crate) leaked_sockets: usize,
    pub(crate) leaked_fds: i64,
    /// Seconds and KiB of the gateway and all workers together.
    pub(crate) rss: Vec<(f64, f64)>,
}

/// Shorter runs have not come to rest, so their slope is told and not judged.
const RSS_JUDGED_SECONDS: f64 = 300.0;
/// Share of the run that counts as warming up for memory.
const WARM_UP: f64 = 0.3;
/// Of all processes together. A gateway begins anew with each kill, so this is the workers' above all. Guessed.
const RSS_SLOPE_MAX: f64 = 4_096.0;

// === impl Account ===

impl Account {
    pub(crate) fn add(&mut self, name: &str, ended: &Ended) {
        self.counts = self.counts + ended.counts;
        self.early_gaps += ended.early_gaps;
        if let Some(what) = &ended.broken {
            self.open.push(format!("{name}: {what}"));
        }
        if !ended.counts.closes() {
            self.open.push(format!("{name}: {}", ended.counts));
        }
    }

    /// Of a session that lived to its end at `head`.
    pub(crate) fn came_to(&mut self, name: &str, ended: &Ended, head: u64) {
        if let Some(over) = &ended.over {
            self.open.push(format!("{name}: its session was over ({over}) although its worker lived"));
        }
        let short = head.saturating_sub(ended.after);
        if short > 0 {
            self.short += short;
            self.open.push(format!("{name}: ended {short} before the end of its session"));
        }
    }

    /// Holds a writer against a reader that missed nothing.
    pub(crate) fn writes(&mut self, name: &str, writes: Writes, complete: u64) {
        let Writes { acknowledged, unknown, refused } = writes;
        self.writers_judged += 1;
        self.written.acknowledged += acknowledged;
        self.written.unknown += unknown;
        self.written.refused += refused;
        let (lost, repeated) = (acknowledged.saturating_sub(complete), complete.saturating_sub(acknowledged + unknown));
        self.lost_writes += lost;
        self.repeated_writes += repeated;
        if lost + repeated > 0 {
            self.open.push(format!(
                "{name}: {complete} writes complete of {acknowledged} acknowledged and {unknown} unknown"
            ));
        }
    }
}

// === impl Report ===

impl Report {
    pub(crate) fn json(&self) -> String {
        let Account { counts, written, .. } = &self.account;
        json!({
            "seed": self.seed,
            "seconds": self.seconds.round(),
            "kills": self.kills,
            "restarts": self.restarts,
            "takeovers": self.takeovers,
            "sessions": self.sessions,
            "readers": self.readers,
            "adopted": self.adopted,
            "lost": self.lost.len(),
            "adoption_ms_p50": percentile(&self.adoption_ms, 50),
            "adoption_ms_p99": percentile(&self.adoption_ms, 99),
            "adoption_ms_max": percentile(&self.adoption_ms, 100),
            "serving_ms_p99": percentile(&self.serving_ms, 99),
            "storm_ms_max": percentile(&self.storm_ms, 100),
            "live_ms_p50": percentile(&self.live_ms, 50),
            "live_ms_p99": percentile(&self.live_ms, 99),
            "reconnects": self.reconnects,
            "produced": counts.produced,
            "delivered": counts.delivered,
            "filtered": counts.filtered,
            "conflated": counts.conflated,
            "gapped": counts.gapped,
            "early_gaps": self.account.early_gaps,
            "unaccounted": self.unaccounted(),
            "duplicated": counts.duplicated,
            "reordered": counts.reordered,
            "open_accounts": self.account.open.len(),
            "writes_acknowledged": written.acknowledged,
            "writes_unknown": written.unknown,
            "writes_lost": self.account.lost_writes,
            "writes_repeated": self.account.repeated_writes,
            "writers_judged": self.account.writers_judged,
            "wrong_adoptions": self.wrong_adoptions.len(),
            "leaked_processes": self.leaked_processes,
            "leaked_sockets": self.leaked_sockets,
            "leaked_fds": self.leaked_fds,
            "rss_slope_kib_per_min": self.rss_slope().round(),
        })
        .to_string()
    }

    /// The exit code; whatever broke is told first.
    pub(crate) fn judge(&self, adoption_ms_max: Option<u64>, tell: impl FnMut(&str)) -> ExitCode {
        let mut broken = self.broken();
        let adoption = percentile(&self.adoption_ms, 99);
        if let Some(max) = adoption_ms_max.filter(|max| adoption > *max) {
            broken.push(format!("of a hundred adoptions one took {adoption} ms, more than {max}"));
        }
        broken.iter().map(String::as_str).for_each(tell);
        if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn broken(&self) -> Vec<String> {
        let Account { counts, open, early_gaps, lost_writes, repeated_writes, .. } = &self.account;
        let mut broken = open.clone();
        broken.extend(self.lost.iter().map(|lost| format!("a worker that lived was not adopted: {lost}")));
        broken.extend(self.wrong_adoptions.iter().map(|wrong| format!("a wrong adoption: {wrong}")));
        let mut no = |what: &str, count: u64| {
            if count > 0 {
                broken.push(format!("{what}: {count}"));
            }
        };
        no("sequences unaccounted for", self.unaccounted());
        no("sequences delivered twice", counts.duplicated);
        no("sequences out of order", counts.reordered);
        no("gaps over what a worker's tail must have had", *early_gaps);
        no("acknowledged writes that were never complete", *lost_writes);
        no("writes that took effect more than once", *repeated_writes);
        no("processes left", self.leaked_processes as u64);
        no("sockets left", self.leaked_sockets as u64);
        no("descriptors left", self.leaked_fds.unsigned_abs());
        if self.seconds >= RSS_JUDGED_SECONDS && self.rss_slope() > RSS_SLOPE_MAX {
            broken.push(format!("memory grows by {:.0} KiB a minute", self.rss_slope()));
        }
        broken
    }

    fn unaccounted(&self) -> u64 {
        self.account.counts.unaccounted + self.account.short
    }

    /// KiB a minute, without the time of warming up.
    fn rss_slope(&self) -> f64 {
        let end = self.rss.last().map_or(0.0, |(at, _)| *at);
        let warm: Vec<_> = self.rss.iter().filter(|(at, _)| *at >= end * WARM_UP).copied().collect();
        slope(&warm) * 60.0
    }
}

fn percentile(values: &[u64], percent: usize) -> u64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}

/// Least squares, per second.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if points.len() < 2 || spread == 0.0 {
        return 0.0;
    }
    points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a report that differs in one thing from a good one is told as broken, by its exit code.
    fn breaks(change: impl FnOnce(&mut Report)) -> bool {
        let counts = Counts { produced: 10, delivered: 7, gapped: 3, ..Counts::default() };
        let mut report = Report { seconds: 600.0, ..Report::default() };
        let ended = Ended { counts, after: 10, ..Ended::default() };
        report.account.add("good", &ended);
        report.account.came_to("good", &ended, 10);
        report.account.writes("good", Writes { acknowledged: 5, unknown: 2, refused: 1 }, 6);
        change(&mut report);
        let mut told = 0;
        let code = report.judge(Some(2_000), |_| told += 1);
        assert_eq!(told == 0, code == ExitCode::SUCCESS);
        code != ExitCode::SUCCESS
    }

    #[test]
    fn whatever_breaks_a_promise_makes_the_exit_code_one() {
        assert!(!breaks(|_| {}));
        let open = |counts| Ended { counts, after: 10, ..Ended::default() };
        let short = Counts { produced: 10, delivered: 9, ..Counts::default() };
        assert!(breaks(|report| report.account.add("an account that does not close", &open(short))));
        let twice = Counts { produced: 10, delivered: 10, duplicated: 1, ..Counts::default() };
        assert!(breaks(|report| report.account.add("delivered twice", &open(twice))));
        let turned = Counts { produced: 10, delivered: 10, reordered: 1, ..Counts::default() };
        assert!(breaks(|report| report.account.add("out of order", &open(turned))));
        assert!(breaks(|report| report.account.came_to("too early", &Ended::default(), 1)));
        let over = Ended { over: Some("session.unknown".into()), after: 1, ..Ended::default() };
        assert!(breaks(|report| report.account.came_to("given up", &over, 1)));
        let violation = Ended { broken: Some("a hole".into()), ..Ended::default() };
        assert!(breaks(|report| report.account.add("lied to", &violation)));
        let one = Writes { acknowledged: 1, ..Writes::default() };
        assert!(breaks(|report| report.account.writes("lost", one, 0)));
        assert!(breaks(|report| report.account.writes("repeated", one, 2)));
        assert!(breaks(|report| report.account.early_gaps = 1));
        assert!(breaks(|report| report.lost.push("line-1".into())));
        assert!(breaks(|report| report.wrong_adoptions.push("line-1".into())));
        assert!(breaks(|report| report.leaked_processes = 1));
        assert!(breaks(|report| report.leaked_sockets = 1));
        assert!(breaks(|report| report.leaked_fds = 1));
        assert!(breaks(|report| report.adoption_ms = vec![10, 2_001]));
        assert!(breaks(|report| report.rss = vec![(0.0, 1e6), (300.0, 1e6), (600.0, 2e6)]));
    }

    #[test]
    fn the_line_has_what_it_should_and_figures_are_what_they_say() {
        let line: serde_json::Value = serde_json::from_str(&Report::default().json()).expect("JSON");
        for name in [
            "kills",
            "takeovers",
            "sessions",
            "adopted",
            "adoption_ms_p99",
            "produced",
            "delivered",
            "gapped",
            "unaccounted",
            "duplicated",
            "wrong_adoptions",
            "leaked_processes",
            "leaked_sockets",
            "leaked_fds",
            "rss_slope_kib_per_min",
        ] {
            assert_eq!(line[name].as_f64(), Some(0.0), "{name}");
        }
        assert_eq!((percentile(&[3, 1, 2], 50), percentile(&[], 99), percentile(&[1, 2], 100)), (2, 0, 2));
        assert!((slope(&[(0.0, 1.0), (2.0, 5.0)]) - 2.0).abs() < 1e-9);
    }
}
