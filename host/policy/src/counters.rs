//! Plain numbers about decisions, for whoever exports them. Knows no metrics library. Invariant: adding
//! takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::model::*;
use crate::shadow::ShadowCounts;

/// Where the time of one component's decisions goes.
#[derive(Debug, Default)]
pub(crate) struct PhaseCounters {
    per_policy: [PolicyPhases; 5],
}

#[derive(Debug, Default)]
struct PolicyPhases {
    calls: AtomicU64,
    queue_ns: AtomicU64,
    instantiate_ns: AtomicU64,
    guest_ns: AtomicU64,
    host_ns: AtomicU64,
    failures: [AtomicU64; FailureCause::ALL.len()],
}

/// Time of one decision by phase.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    pub(crate) queue: Duration,
    pub(crate) instantiate: Duration,
    pub(crate) guest: Duration,
    pub(crate) host: Duration,
}

/// Everything that is counted, since the process began.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Calls into guests, of whatever kind.
    pub guest_calls: u64,
    /// Decisions asked for and not made, because the queue was full.
    pub queue_full: u64,
    /// Decisions that wait now.
    pub queue_depth: u64,
    pub swaps: u64,
    pub refused_swaps: u64,
    /// Decisions that denied or limited something, by policy: what the log calls denied.
    pub denied: Vec<(Policy, u64)>,
    /// Decisions that the log did not take.
    pub decisions_dropped: u64,
    /// Of the shadow that runs; zero without one.
    pub shadow: ShadowCounts,
    /// Swaps back that nobody asked for.
    pub reverts: u64,
    /// The serving one, and those before it with calls under way.
    pub live_generations: u64,
    /// One for each question that a component of the serving generation answers.
    pub policies: Vec<PolicyCounters>,
}

/// One component and question.
#[derive(Clone, Debug)]
pub struct PolicyCounters {
    pub policy: Policy,
    pub digest: Digest,
    pub calls: u64,
    /// Microseconds, all calls together.
    pub queue_us: u64,
    pub instantiate_us: u64,
    pub guest_us: u64,
    pub host_us: u64,
    pub failures: Vec<(FailureCause, u64)>,
}

// === impl PhaseCounters ===

impl PhaseCounters {
    pub(crate) fn count(&self, policy: Policy, phases: Phases, cause: Option<FailureCause>) {
        let of = &self.per_policy[policy.at()];
        of.calls.fetch_add(1, Ordering::Relaxed);
        for (counter, time) in [
            (&of.queue_ns, phases.queue),
            (&of.instantiate_ns, phases.instantiate),
            (&of.guest_ns, phases.guest),
            (&of.host_ns, phases.host),
        ] {
            counter.fetch_add(time.as_nanos() as u64, Ordering::Relaxed);
        }
        if let Some(cause) = cause {
            of.failures[cause as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self, policy: Policy, digest: Digest) -> PolicyCounters {
        let of = &self.per_policy[policy.at()];
        let us = |counter: &AtomicU64| counter.load(Ordering::Relaxed) / 1000;
        PolicyCounters {
            policy,
            digest,
            calls: of.calls.load(Ordering::Relaxed),
            queue_us: us(&of.queue_ns),
            instantiate_us: us(&of.instantiate_ns),
            guest_us: us(&of.guest_ns),
            host_us: us(&of.host_ns),
            failures: FailureCause::ALL
                .into_iter()
                .map(|cause| (cause, of.failures[cause as usize].load(Ordering::Relaxed)))
                .collect(),
        }
    }
}
