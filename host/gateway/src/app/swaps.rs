//! Follows the policy host's attempts and writes each into storage and metrics, once. The host has
//! logged it already. Decides nothing.

use crate::{
    policies::{fence_parts, outcome},
    storage::{FenceRow, Storage, SwapRow},
    telemetry::Metrics,
};
use std::collections::BTreeMap;
use tidegate_policy::{Listing, PolicyHost, RefusalCode, SwapRecord};

/// Writes every attempt into storage and the metrics, once. Runs until cancelled.
pub(super) async fn record(host: PolicyHost, storage: Storage, metrics: Metrics) {
    let mut attempts = host.watch_attempts();
    let mut seen = 0;
    metrics.swaps.refusals(RefusalCode::ALL.iter().map(|code| code.as_str()));
    loop {
        let listing = host.list();
        metrics.swaps.generation.set(listing.generation.0 as i64);
        for swap in listing.swaps.iter().filter(|swap| swap.number > seen) {
            metrics.swaps.attempted(outcome(swap), swap.code.map_or("", RefusalCode::as_str));
            metrics.swaps.gate_seconds.observe(swap.gate_us as f64 / 1e6);
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
        message: match &swap.file {
            Some(file) => format!("{file}: {}", swap.message),
            None => swap.message.clone(),
        },
        gate_us: swap.gate_us,
        enforced_us: swap.enforced_us,
        // What serves after it; a refused set has no digests of its own in the record.
        digests,
        fences: swap
            .fences
            .iter()
            .map(|fence| {
                let (session, reader) = fence_parts(&fence.stream);
                FenceRow { session, reader, sequence: fence.sequence }
            })
            .collect(),
    }
}
