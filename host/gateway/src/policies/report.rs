//! What the policy host knows, in the forms in which others want it: the operator's listing, samples for the
//! metrics, rows for storage. Decides nothing.

use crate::{
    storage::{FenceRow, Storage, SwapRow},
    telemetry::{self, Metrics, PolicySample},
};
use std::collections::BTreeMap;
use tidegate_policy::{Listing, Outcome, PolicyHost, SwapRecord, Trigger};
use tidegate_proto::v1::{self, ListPoliciesResponse, PolicySummary, swap_record::Fence};

/// The whole state, newest swap first.
pub fn listing(host: &PolicyHost) -> ListPoliciesResponse {
    let listing = host.list();
    let counters = host.counters();
    let policies = listing
        .policies
        .iter()
        .map(|row| {
            let counted = counters.policies.iter().find(|counted| counted.policy == row.policy);
            PolicySummary {
                policy: row.policy.name().to_owned(),
                name: row.name.clone(),
                version: row.version.clone(),
                digest: row.digest.to_hex(),
                settings_digest: row.settings_digest.to_hex(),
                contract: row.contract.to_owned(),
                source: row.file.clone().unwrap_or_else(|| "embedded".to_owned()),
                calls: counted.map_or(0, |counted| counted.calls),
                failures: counted.map_or(0, |counted| counted.failures.iter().map(|(_, count)| count).sum()),
            }
        })
        .collect();
    ListPoliciesResponse {
        generation: listing.generation.0,
        pinned: listing.pinned.is_some(),
        plugins_dir: String::new(),
        policies,
        swaps: listing.swaps.iter().rev().map(swap_record).collect(),
    }
}

/// One attempt, as the admin API shows it.
pub fn swap_record(swap: &SwapRecord) -> v1::SwapRecord {
    v1::SwapRecord {
        at_unix_ms: swap.at_ms as i64,
        generation: swap.to.0,
        outcome: outcome(swap).as_str().to_owned(),
        trigger: swap.trigger.as_str().to_owned(),
        code: swap.code.map(|code| code.as_str().to_owned()).unwrap_or_default(),
        message: swap.message.clone(),
        gate_us: swap.gate_us,
        enforced_us: swap.enforced_us.unwrap_or_default(),
        fences: swap.fences.iter().map(|fence| {
            let (session, reader) = stream(&fence.stream);
            Fence { session_id: session, reader, sequence: fence.sequence }
        }).collect(),
    }
}

/// What has been counted, per policy and component, for each scrape.
pub fn samples(host: &PolicyHost) -> impl Fn() -> Vec<PolicySample> + Send + Sync + 'static {
    let host = host.clone();
    move || {
        host.counters()
            .policies
            .iter()
            .map(|counted| PolicySample {
                policy: counted.policy.name(),
                digest: counted.digest.to_hex(),
                calls: counted.calls,
                failures: counted.failures.iter().map(|(_, count)| count).sum(),
                queue_us: counted.queue_us,
                instantiate_us: counted.instantiate_us,
                guest_us: counted.guest_us,
                host_us: counted.host_us,
            })
            .collect()
    }
}

/// Writes every attempt into storage and the metrics, once. Runs until cancelled.
pub async fn record_swaps(host: PolicyHost, storage: Storage, metrics: Metrics) {
    let mut attempts = host.watch_attempts();
    let mut seen = 0;
    loop {
        let listing = host.list();
        metrics.swaps.generation.set(listing.generation.0 as i64);
        for swap in listing.swaps.iter().filter(|swap| swap.number > seen) {
            metrics.swaps.attempts.of(outcome(swap)).inc();
            metrics.swaps.gate_seconds.observe(swap.gate_us as f64 / 1e6);
            match swap.code {
                Some(code) => tracing::warn!(code = code.as_str(), file = swap.file, reason = swap.message, "policies refused"),
                None => tracing::info!(generation = swap.to.0, trigger = swap.trigger.as_str(), outcome = swap.outcome.as_str(), "policies"),
            }
            if let Err(error) = storage.swap_recorded(row(swap, &listing)).await {
                tracing::warn!(%error, "the swap was not recorded");
            }
        }
        seen = listing.swaps.last().map_or(seen, |swap| swap.number);
        if attempts.changed().await.is_err() {
            return;
        }
    }
}

fn row(swap: &SwapRecord, listing: &Listing) -> SwapRow {
    let digests: BTreeMap<String, String> =
        listing.policies.iter().map(|row| (row.policy.name().to_owned(), row.digest.to_hex())).collect();
    SwapRow {
        at_unix_ms: swap.at_ms as i64,
        generation: swap.to.0,
        outcome: outcome(swap).as_str().to_owned(),
        cause: swap.trigger.as_str().to_owned(),
        code: swap.code.map(|code| code.as_str().to_owned()).unwrap_or_default(),
        message: swap.message.clone(),
        gate_us: swap.gate_us,
        enforced_us: swap.enforced_us,
        // What serves after it; a refused set has no digests of its own in the record.
        digests,
        fences: swap
            .fences
            .iter()
            .map(|fence| {
                let (session, reader) = stream(&fence.stream);
                FenceRow { session, reader, sequence: fence.sequence }
            })
            .collect(),
    }
}

/// A swap back is called so, whoever asked for it.
fn outcome(swap: &SwapRecord) -> telemetry::SwapOutcome {
    match (swap.outcome, swap.trigger) {
        (Outcome::Refused, _) => telemetry::SwapOutcome::Refused,
        (Outcome::Unchanged, _) => telemetry::SwapOutcome::Unchanged,
        (Outcome::Swapped, Trigger::Rollback | Trigger::Breaker) => telemetry::SwapOutcome::RolledBack,
        (Outcome::Swapped, _) => telemetry::SwapOutcome::Swapped,
    }
}

/// A fence names its stream as `session/reader` (`sessions::rejudge`).
fn stream(name: &str) -> (String, String) {
    name.split_once('/').map_or_else(|| (name.to_owned(), String::new()), |(s, r)| (s.to_owned(), r.to_owned()))
}
