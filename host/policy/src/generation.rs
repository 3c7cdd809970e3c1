//! A generation: which component answers which question, with instances for every thread, made before
//! anyone can see it. Knows neither folder nor history. Invariant: nothing of it changes after it is made,
//! except instances that failed and are made anew.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::counters::Phases;
use crate::failure::Silence;
use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::instance::{CallFailure, PolicyInstance};
use crate::model::*;

/// Five answerers; what folder, settings and embedded defaults come to.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    /// Each component once.
    pub(crate) members: Vec<Arc<Loaded>>,
    /// Policy to place in `members`. None, for access alone: what answered it was removed, and everything
    /// is denied.
    answerer: [Option<usize>; 5],
}

/// Who answers access when nothing chosen does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unclaimed {
    /// Nobody ever chose one: the embedded default.
    Default,
    /// What was chosen is missing. The default might allow what it denied; so nothing is allowed.
    Closed,
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

/// Stands for a component where there is none.
pub(crate) const NOBODY: Digest = Digest([0; 32]);

// === impl Set ===

impl Set {
    /// `chosen` answer what they answer; the embedded defaults answer the rest, access if `unclaimed` says so.
    pub(crate) fn compose(
        chosen: &[Arc<Loaded>],
        embedded: &[Arc<Loaded>],
        unclaimed: Unclaimed,
    ) -> Result<Self, Refusal> {
        let mut members: Vec<Arc<Loaded>> = Vec::new();
        let mut answerer = [None; 5];
        for loaded in chosen {
            for policy in &loaded.answers {
                if let Some(other) = answerer[policy.at()].map(|at: usize| &members[at]) {
                    let message = format!("{} answers {policy}, too; take one of them away", other.source.file);
                    return Err(Refusal::new(RefusalCode::DuplicatePolicy, &loaded.source.file, message));
                }
                answerer[policy.at()] = Some(members.len());
            }
            members.push(Arc::clone(loaded));
        }
        for policy in Policy::ALL {
            let closed = policy == Policy::Access && unclaimed == Unclaimed::Closed;
            if answerer[policy.at()].is_some() || closed {
                continue;
            }
            let default = embedded.iter().find(|loaded| loaded.answers.contains(&policy)).ok_or_else(|| {
                Refusal::new(RefusalCode::StartFailed, policy.name(), "this build embeds no default for it")
            })?;
            answerer[policy.at()] = Some(members.len());
            members.push(Arc::clone(default));
        }
        Ok(Self { members, answerer })
    }

    /// None: closed.
    pub(crate) fn answerer(&self, policy: Policy) -> Option<&Arc<Loaded>> {
        self.answerer[policy.at()].map(|at| &self.members[at])
    }

    /// What becomes of access if what answers it now goes missing.
    pub(crate) fn unclaimed(&self) -> Unclaimed {
        match self.answerer(Policy::Access) {
            Some(loaded) if loaded.source.embedded => Unclaimed::Default,
            _ => Unclaimed::Closed,
        }
    }

    /// What came from the folder or the store, as opposed to this build.
    pub(crate) fn chosen(&self) -> impl Iterator<Item = &Arc<Loaded>> {
        self.members.iter().filter(|loaded| !loaded.source.embedded)
    }

    pub(crate) fn is_same_as(&self, other: &Set) -> bool {
        self.answerer == other.answerer
            && self.members.len() == other.members.len()
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

    /// Asks this generation's answerer on the instance of `thread`; a failure, and a question that nobody
    /// answers any more, is answered by `otherwise`.
    pub(crate) fn call<T>(
        &self,
        thread: usize,
        policy: Policy,
        queued: Duration,
        call: impl FnOnce(&mut PolicyInstance, GenerationId) -> Result<T, CallFailure>,
        otherwise: impl FnOnce(Silence) -> T,
    ) -> Called<T> {
        let Some(at) = self.set.answerer[policy.at()] else {
            let value = otherwise(Silence::Removed);
            let decision = Decision { generation: self.id, digest: NOBODY, value, cause: None };
            return Called { decision, tripped: false };
        };
        let loaded = &self.set.members[at];
        let mut phases = Phases { queue: queued, ..Phases::default() };
        let mut slot = self.slots[thread][at].lock();
        let asked = instance(&mut slot, loaded, &mut phases).and_then(|instance| {
            let start = Instant::now();
            let answer = call(instance, self.id);
            phases.guest = start.elapsed();
            loaded.tell(&instance.words());
            answer
        });
        let (value, cause) = match asked {
            Ok(value) => (value, None),
            Err(failure) => {
                // Whatever went wrong, memory and locks inside the guest may be half-way: never again.
                *slot = None;
                if failure.cause.is_guests() {
                    tracing::warn!(%policy, file = %loaded.source.file, generation = self.id.0, cause = failure.cause.as_str(),
                    message = %failure.message, "a policy gave no answer");
                }
                (otherwise(Silence::Failed(failure.cause)), Some(failure.cause))
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
        let digest = self.set.answerer(policy).map_or(NOBODY, |loaded| loaded.source.digest);
        Decision { generation: self.id, digest, value, cause: Some(cause) }
    }
}

impl Loaded {
    /// Passes on what the guest said. Its text is as untrusted as its answers; it was never told a value.
    fn tell(&self, words: &[String]) {
        if words.is_empty() {
            return;
        }
        let digest = self.source.digest.to_hex();
        for line in words.iter().take(self.patience.grant(words.len())) {
            tracing::info!(file = %self.source.file, digest = &digest[..12], line, "a policy said");
        }
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
