//! The policy host's state in the form of the admin API. Decides nothing.

use crate::policies::{fence_parts, outcome};
use std::time::Duration;
use tidegate_policy::{Held, PolicyHost, Refusal, SwapRecord};
use tidegate_proto::v1::{
    self, ListPoliciesResponse, PolicyRefusal, PolicySummary,
    list_policies_response::{Approval, HeldPolicy},
    swap_record::Fence,
};

/// How long an operator's call waits for it: many streams take some hundred milliseconds. Guessed.
const ENFORCED_WITHIN: Duration = Duration::from_secs(2);

/// The whole state, newest swap first.
pub(super) fn listing(host: &PolicyHost) -> ListPoliciesResponse {
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
                source: row.origin.to_string(),
                calls: counted.map_or(0, |counted| counted.calls),
                failures: counted.map_or(0, |counted| counted.failures.iter().map(|(_, count)| count).sum()),
                time_us: counted.map_or(0, |c| c.queue_us + c.instantiate_us + c.guest_us + c.host_us),
                signer: row.signer.clone().unwrap_or_default(),
                rules: row.rules.clone(),
            }
        })
        .collect();
    ListPoliciesResponse {
        generation: listing.generation.0,
        pinned: listing.pinned.is_some(),
        pinned_by: listing.pinned.map_or_else(String::new, |by| by.as_str().to_owned()),
        plugins_dir: String::new(),
        policies,
        swaps: listing.swaps.iter().rev().map(swap_record).collect(),
        live_generations: counters.live_generations as u32,
        held: listing.held.iter().map(held).collect(),
        approved: listing.approved.iter().map(approval).collect(),
        decisions_dropped: counters.decisions_dropped,
        refused: listing.refused.iter().map(refusal).collect(),
        pending: listing.pending.clone(),
    }
}

fn refusal(of: &Refusal) -> PolicyRefusal {
    PolicyRefusal {
        file: of.file.clone(),
        code: of.code.as_str().to_owned(),
        message: of.message.clone(),
        remedy: of.code.remedy().to_owned(),
    }
}

fn held(held: &Held) -> HeldPolicy {
    HeldPolicy {
        file: held.file.clone(),
        identity: held.identity.to_hex(),
        code: held.code.as_str().to_owned(),
        message: held.message.clone(),
    }
}

fn approval(of: &tidegate_policy::Approval) -> Approval {
    Approval { identity: of.identity.clone(), at_unix_ms: of.at_ms as i64, reason: of.reason.clone() }
}

/// One attempt of an operator's, once it is known how long it took until it held everywhere, or after a while.
pub(super) async fn made(host: &PolicyHost, swap: SwapRecord) -> v1::SwapRecord {
    swap_record(&host.until_enforced(swap, ENFORCED_WITHIN).await)
}

/// One attempt, as the admin API shows it.
pub(super) fn swap_record(swap: &SwapRecord) -> v1::SwapRecord {
    v1::SwapRecord {
        at_unix_ms: swap.at_ms as i64,
        generation: swap.to.0,
        outcome: outcome(swap).as_str().to_owned(),
        trigger: swap.trigger.as_str().to_owned(),
        code: swap.code.map(|code| code.as_str().to_owned()).unwrap_or_default(),
        message: swap.message.clone(),
        gate_us: swap.gate_us,
        enforced_us: swap.enforced_us.map_or(0, |micros| micros.max(1)),
        refusals: swap.refusals.iter().map(refusal).collect(),
        refusals_more: u32::try_from(swap.refusals_more).unwrap_or(u32::MAX),
        difference: swap.difference.clone().map(super::decisions::difference),
        fences: swap
            .fences
            .iter()
            .map(|fence| {
                let (session, reader) = fence_parts(&fence.stream);
                Fence { session_id: session, reader, sequence: fence.sequence }
            })
            .collect(),
    }
}
