//! What was seen, and which promises that breaks. Knows numbers only.

use serde_json::json;
use tidegate_client::Counts;

#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) seconds: f64,
    pub(crate) kills: u32,
    pub(crate) restarts: u32,
    pub(crate) sessions: usize,
    pub(crate) adopted: u64,
    /// From the start of a gateway's process to the session under it.
    pub(crate) adoption_ms: Vec<u64>,
    /// From the first moment at which the gateway answered.
    pub(crate) serving_ms: Vec<u64>,
    /// Workers that lived when their gateway died, and whose session did not go on.
    pub(crate) lost: u64,
    pub(crate) reconnects: u64,
    pub(crate) counts: Counts,
    /// Readers that did not come to the end, or whose account does not close.
    pub(crate) open_accounts: Vec<String>,
    pub(crate) wrong_adoptions: u64,
    pub(crate) leaked_processes: usize,
    pub(crate) leaked_sockets: usize,
    pub(crate) leaked_fds: i64,
    pub(crate) rss: Vec<(f64, f64)>,
}

/// What semantics.md and issue 5 promise for a worker that survived.
const ADOPTION_MS_MAX: u64 = 2_000;
/// Sockets and files of connections that are closing when one looks.
const FDS_SLACK: i64 = 16;

// === impl Report ===

impl Report {
    pub(crate) fn json(&self) -> String {
        let counts = self.counts;
        json!({
            "seed": self.seed,
            "seconds": self.seconds.round(),
            "kills": self.kills,
            "restarts": self.restarts,
            "sessions": self.sessions,
            "adopted": self.adopted,
            "adoption_ms_p50": percentile(&self.serving_ms, 50),
            "adoption_ms_p99": percentile(&self.serving_ms, 99),
            "adoption_ms_max": percentile(&self.serving_ms, 100),
            "adoption_from_start_ms_p99": percentile(&self.adoption_ms, 99),
            "lost": self.lost,
            "reconnects": self.reconnects,
            "produced": counts.produced,
            "delivered": counts.delivered,
            "filtered": counts.filtered,
            "conflated": counts.conflated,
            "gapped": counts.gapped,
            "unaccounted": counts.unaccounted,
            "duplicated": counts.duplicated,
            "reordered": counts.reordered,
            "open_accounts": self.open_accounts.len(),
            "wrong_adoptions": self.wrong_adoptions,
            "leaked_processes": self.leaked_processes,
            "leaked_sockets": self.leaked_sockets,
            "leaked_fds": self.leaked_fds,
            "rss_slope_kib_per_min": (slope(&self.rss) * 60.0).round(),
        })
        .to_string()
    }

    pub(crate) fn broken(&self) -> Vec<String> {
        let mut broken = self.open_accounts.clone();
        let mut no = |what: &str, count: u64| {
            if count > 0 {
                broken.push(format!("{what}: {count}"));
            }
        };
        no("sequences unaccounted for", self.counts.unaccounted);
        no("sequences delivered twice", self.counts.duplicated);
        no("sequences out of order", self.counts.reordered);
        no("workers that lived and were not adopted", self.lost);
        no("wrong adoptions", self.wrong_adoptions);
        no("processes left", self.leaked_processes as u64);
        no("sockets left", self.leaked_sockets as u64);
        no("descriptors left", u64::try_from(self.leaked_fds - FDS_SLACK).unwrap_or(0));
        let late = percentile(&self.serving_ms, 100);
        if late > ADOPTION_MS_MAX {
            broken.push(format!("an adoption took {late} ms, more than {ADOPTION_MS_MAX}"));
        }
        broken
    }

    pub(crate) fn add(&mut self, counts: Counts) {
        let sum = &mut self.counts;
        sum.produced += counts.produced;
        sum.delivered += counts.delivered;
        sum.filtered += counts.filtered;
        sum.conflated += counts.conflated;
        sum.gapped += counts.gapped;
        sum.unaccounted += counts.unaccounted;
        sum.duplicated += counts.duplicated;
        sum.reordered += counts.reordered;
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
    if spread == 0.0 || points.len() < 2 {
        return 0.0;
    }
    points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum::<f64>() / spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_breaks_a_promise_is_named() {
        assert!(Report::default().broken().is_empty());
        let report = Report { lost: 1, serving_ms: vec![10, 2_500], leaked_fds: 17, ..Report::default() };
        assert_eq!(report.broken().len(), 3, "{:?}", report.broken());
        assert_eq!((percentile(&[3, 1, 2], 50), percentile(&[], 99)), (2, 0));
        assert!((slope(&[(0.0, 1.0), (2.0, 5.0)]) - 2.0).abs() < 1e-9);
    }
}
