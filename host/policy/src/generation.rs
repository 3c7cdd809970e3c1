//! A generation: which component answers which question, with instances for every thread, made before
//! anyone can see it. Knows neither folder nor history. Invariant: nothing of it changes after it is made,
//! except instances that failed and are made anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::counters::Phases;
use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::instance::{CallFailure, PolicyInstance};
use crate::model::*;

/// Five answerers; what folder, settings and embedded defaults come to.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    /// Each component once.
    pub(crate) members: Vec<Arc<Loaded>>,
    /// Policy to place in `members`.
    answerer: [usize; 5],
}

/// A set with a number and instances.
#[derive(Debug)]
pub(crate) struct Generation {
    pub(crate) id: GenerationId,
    pub(crate) set: Set,
    /// Thread, then member. A thread locks only its own, so no lock is ever contended.
    slots: Vec<Vec<Mutex<Option<PolicyInstance>>>>,
}

/// A decision, and whether the component that failed has just failed too often.
#[derive(Debug)]
pub(crate) struct Called<T> {
    pub(crate) decision: Decision<T>,
    pub(crate) tripped: bool,
}

// === impl Set ===

impl Set {
    /// `chosen` answer what they answer; the embedded defaults answer the rest.
    pub(crate) fn compose(chosen: &[Arc<Loaded>], embedded: &[Arc<Loaded>]) -> Result<Self, Refusal> {
        let mut members: Vec<Arc<Loaded>> = Vec::new();
        let mut answerer = [usize::MAX; 5];
        for loaded in chosen {
            for policy in &loaded.answers {
                if let Some(other) = members.get(answerer[policy.at()]) {
                    let message = format!("{} answers {policy}, too; take one of them away", other.source.file);
                    return Err(Refusal::new(RefusalCode::DuplicatePolicy, &loaded.source.file, message));
                }
                answerer[policy.at()] = members.len();
            }
            members.push(Arc::clone(loaded));
        }
        for policy in Policy::ALL.into_iter().filter(|policy| answerer[policy.at()] == usize::MAX).collect::<Vec<_>>() {
            let default = embedded.iter().find(|loaded| loaded.answers.contains(&policy)).ok_or_else(|| {
                Refusal::new(RefusalCode::StartFailed, policy.name(), "this build embeds no default for it")
            })?;
            answerer[policy.at()] = members.len();
            members.push(Arc::clone(default));
        }
        Ok(Self { members, answerer })
    }

    pub(crate) fn answerer(&self, policy: Policy) -> &Arc<Loaded> {
        &self.members[self.answerer[policy.at()]]
    }

    /// What came from the folder or the store, as opposed to this build.
    pub(crate) fn chosen(&self) -> impl Iterator<Item = &Arc<Loaded>> {
        self.members.iter().filter(|loaded| !loaded.source.embedded)
    }

    pub(crate) fn is_same_as(&self, other: &Set) -> bool {
        self.members.len() == other.members.len()
            && self.members.iter().zip(&other.members).all(|(a, b)| Arc::ptr_eq(a, b))
    }
}

// === impl Generation ===

impl Generation {
    /// Makes all instances; whoever flips to it does so afterwards.
    pub(crate) fn new(id: GenerationId, set: Set, threads: usize) -> Result<Self, Refusal> {
        let mut slots = Vec::with_capacity(threads);
        for _ in 0..threads {
            let mut of_thread = Vec::with_capacity(set.members.len());
            for loaded in &set.members {
                let instance = loaded
                    .pre
                    .instance(&loaded.source.settings)
                    .map_err(|failure| Refusal::new(RefusalCode::StartFailed, &loaded.source.file, failure.message))?;
                of_thread.push(Mutex::new(Some(instance)));
            }
            slots.push(of_thread);
        }
        Ok(Self { id, set, slots })
    }

    /// Asks this generation's answerer on the instance of `thread`; a failure is answered by `otherwise`.
    pub(crate) fn call<T>(
        &self,
        thread: usize,
        policy: Policy,
        queued: Duration,
        call: impl FnOnce(&mut PolicyInstance) -> Result<T, CallFailure>,
        otherwise: impl FnOnce(FailureCause) -> T,
    ) -> Called<T> {
        let at = self.set.answerer[policy.at()];
        let loaded = &self.set.members[at];
        let mut phases = Phases { queue: queued, ..Phases::default() };
        let mut slot = self.slots[thread][at].lock();
        let asked = instance(&mut slot, loaded, &mut phases).and_then(|instance| {
            let start = Instant::now();
            let answer = call(instance);
            phases.guest = start.elapsed();
            answer
        });
        let (value, cause) = match asked {
            Ok(value) => (value, None),
            Err(failure) => {
                // Whatever went wrong, memory and locks inside the guest may be half-way: never again.
                *slot = None;
                tracing::warn!(%policy, file = %loaded.source.file, generation = self.id.0, cause = failure.cause.as_str(),
                    message = %failure.message, "a policy gave no answer");
                (otherwise(failure.cause), Some(failure.cause))
            }
        };
        drop(slot);
        loaded.counters.count(policy, phases, cause);
        let tripped = cause.is_some_and(FailureCause::is_guests) && loaded.breaker.failed(Instant::now());
        let decision = Decision { generation: self.id, digest: loaded.source.digest, value, cause };
        Called { decision, tripped }
    }

    /// The answer when no thread could ask.
    pub(crate) fn unasked<T>(&self, policy: Policy, cause: FailureCause, value: T) -> Decision<T> {
        Decision { generation: self.id, digest: self.set.answerer(policy).source.digest, value, cause: Some(cause) }
    }
}

fn instance<'a>(
    slot: &'a mut Option<PolicyInstance>,
    loaded: &Loaded,
    phases: &mut Phases,
) -> Result<&'a mut PolicyInstance, CallFailure> {
    if slot.is_none() {
        let start = Instant::now();
        let made = loaded.pre.instance(&loaded.source.settings);
        phases.instantiate = start.elapsed();
        *slot = Some(made?);
    }
    slot.as_mut().ok_or_else(|| CallFailure { cause: FailureCause::Trap, message: "no instance".into() })
}
