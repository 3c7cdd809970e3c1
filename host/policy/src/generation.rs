//! A generation: which component answers which question, with instances for every thread, made before
//! anyone can see it. Knows neither folder nor history. Invariant: nothing of it changes after it is made,
//! except instances that failed and are made anew.

mod stock;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::counters::Phases;
use crate::evidence::{DecisionId, SetFacts};
use crate::failure::{Closure, Silence};
use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::instance::{CallFailure, PolicyInstance, caught};
use crate::model::*;

pub(crate) use stock::Stock;

/// Five answerers; what folder, settings and embedded defaults come to.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    /// Each component once.
    pub(crate) members: Vec<Arc<Loaded>>,
    /// Policy to place in `members`. None, for access alone: what answered it was removed, and everything
    /// is denied.
    answerer: [Option<usize>; 5],
    /// Why nothing answers access, where nothing does.
    pub(crate) closed_by: Closure,
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
    /// For the decision log.
    pub(crate) facts: Arc<SetFacts>,
    /// Thread, then member. A thread locks its own; a caller that asks by itself takes one that is free, for as long
    /// as a quick guest takes.
    slots: Vec<Vec<Mutex<Option<PolicyInstance>>>>,
}

/// An instance made for a slot that a failure left empty, by a thread that held no generation meanwhile.
#[derive(Debug)]
pub(crate) struct Remade {
    of: Arc<Loaded>,
    made: Result<PolicyInstance, CallFailure>,
    took: Duration,
}

/// A decision, and whether the component that failed has just failed too often.
#[derive(Debug)]
pub(crate) struct Called<T> {
    pub(crate) decision: Decision<T>,
    pub(crate) tripped: bool,
    /// Time in the guest.
    pub(crate) took: Duration,
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
        Ok(Self { members, answerer, closed_by: Closure::Removed })
    }

    /// None: closed.
    pub(crate) fn answerer(&self, policy: Policy) -> Option<&Arc<Loaded>> {
        self.answerer[policy.at()].map(|at| &self.members[at])
    }

    /// With the reason why access is closed: that of `before` where it was closed already.
    pub(crate) fn closed_since(self, before: &Set, why: Closure) -> Self {
        let closed_by = if before.answerer(Policy::Access).is_none() { before.closed_by } else { why };
        Self { closed_by, ..self }
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
    /// Out of instances that are there: `kept` generations that nobody calls any more give theirs of the same components
    /// with the same settings (a policy remembers nothing), `stock` the rest. Runs no guest. Err: these are in neither, and
    /// nothing was taken. Nobody else may take from `kept` meanwhile.
    pub(crate) fn new(
        id: GenerationId,
        set: &Set,
        threads: usize,
        kept: &[Arc<Generation>],
        stock: &mut Stock,
    ) -> Result<Self, Vec<Arc<Loaded>>> {
        let idle: Vec<_> = kept.iter().filter(|old| Arc::strong_count(old) == 1).collect();
        let mut lacking = Vec::new();
        for loaded in &set.members {
            let wanted = (0..threads).filter(|thread| !idle.iter().any(|old| old.has(*thread, loaded))).count();
            let more = wanted.saturating_sub(stock.holds(loaded));
            lacking.extend(std::iter::repeat_n(loaded, more).cloned());
        }
        if !lacking.is_empty() {
            return Err(lacking);
        }
        let mut slots = Vec::with_capacity(threads);
        for thread in 0..threads {
            let instance = |loaded: &Arc<Loaded>| {
                let given = idle.iter().find_map(|old| old.give(thread, loaded));
                Mutex::new(given.or_else(|| stock.take(loaded)))
            };
            slots.push(set.members.iter().map(instance).collect());
        }
        let facts = Arc::new(SetFacts::of(id, |policy| set.answerer(policy)));
        Ok(Self { id, set: set.clone(), facts, slots })
    }

    /// Of instances that are made here: before anybody asks anything.
    pub(crate) fn first(id: GenerationId, set: &Set, threads: usize) -> Result<Self, Refusal> {
        let mut stock = Stock::default();
        loop {
            match Self::new(id, set, threads, &[], &mut stock) {
                Ok(generation) => return Ok(generation),
                Err(lacking) => stock.fill(lacking, || false),
            }
            if let Some(refusal) = stock.refusal_of(&set.members) {
                return Err(refusal);
            }
        }
    }

    fn slot(&self, thread: usize, of: &Arc<Loaded>) -> Option<&Mutex<Option<PolicyInstance>>> {
        let at = self.set.members.iter().position(|loaded| Arc::ptr_eq(loaded, of))?;
        Some(&self.slots.get(thread)?[at])
    }

    fn has(&self, thread: usize, of: &Arc<Loaded>) -> bool {
        self.slot(thread, of).and_then(Mutex::try_lock).is_some_and(|slot| slot.is_some())
    }

    fn give(&self, thread: usize, of: &Arc<Loaded>) -> Option<PolicyInstance> {
        self.slot(thread, of)?.try_lock()?.take()
    }

    /// Whose instance `thread` lacks for this question.
    pub(crate) fn lacks(&self, thread: usize, policy: Policy) -> Option<Arc<Loaded>> {
        let at = self.set.answerer[policy.at()]?;
        self.slots[thread][at].lock().is_none().then(|| Arc::clone(&self.set.members[at]))
    }

    /// Asks on the calling thread, which gives a guest little time. None: this component does not answer so, no
    /// instance is free, or it took too long; a policy remembers nothing, so it can be asked again.
    pub(crate) fn call_here<T>(
        &self,
        policy: Policy,
        call: impl FnOnce(&mut PolicyInstance, GenerationId) -> Result<Ruled<T>, CallFailure>,
        otherwise: impl FnOnce(Silence) -> T,
    ) -> Option<Called<T>> {
        let at = self.set.answerer[policy.at()]?;
        let loaded = &self.set.members[at];
        if !loaded.quickness.is_proven() {
            return None;
        }
        let mut slot =
            self.slots.iter().filter_map(|of_thread| of_thread[at].try_lock()).find(|slot| slot.is_some())?;
        let instance = slot.as_mut()?;
        instance.set_brief(true);
        let start = Instant::now();
        let answer = caught(|| call(instance, self.id));
        let guest = start.elapsed();
        instance.set_brief(false);
        loaded.tell(&instance.words());
        let phases = Phases { guest, ..Phases::default() };
        match answer {
            Ok(Ruled { value, rule }) => {
                drop(slot);
                loaded.quickness.answered_here(guest);
                loaded.counters.count(policy, phases, None);
                let digest = loaded.source.digest;
                let decision = Decision { id: DecisionId(0), generation: self.id, digest, value, rule, cause: None };
                Some(Called { decision, tripped: false, took: guest })
            }
            Err(failure) => {
                loaded.quickness.failed_here();
                *slot = None;
                drop(slot);
                // It may well keep its own deadline, and is asked again where that counts.
                (failure.cause != FailureCause::Timeout)
                    .then(|| self.failed(policy, loaded, phases, &failure, otherwise))
            }
        }
    }

    /// Asks this generation's answerer on the instance of `thread`; a failure, and a question that nobody
    /// answers any more, is answered by `otherwise`.
    pub(crate) fn call<T>(
        &self,
        thread: usize,
        policy: Policy,
        queued: Duration,
        remade: Option<Remade>,
        call: impl FnOnce(&mut PolicyInstance, GenerationId) -> Result<Ruled<T>, CallFailure>,
        otherwise: impl FnOnce(Silence) -> T,
    ) -> Called<T> {
        let Some(at) = self.set.answerer[policy.at()] else {
            let value = otherwise(Silence::Closed(self.set.closed_by));
            let decision =
                Decision { id: DecisionId(0), generation: self.id, digest: NOBODY, value, rule: None, cause: None };
            return Called { decision, tripped: false, took: Duration::ZERO };
        };
        let loaded = &self.set.members[at];
        let mut phases = Phases { queue: queued, ..Phases::default() };
        let begun = Instant::now();
        let mut slot = self.slots[thread][at].lock();
        let was_there = slot.is_some() || remade.is_some();
        let asked = instance(&mut slot, loaded, remade, &mut phases).and_then(|instance| {
            let start = Instant::now();
            let answer = caught(|| call(instance, self.id));
            phases.guest = start.elapsed();
            loaded.tell(&instance.words());
            answer
        });
        // An instance that was made beforehand took its time before this began.
        let rest = begun.elapsed().saturating_sub(phases.guest);
        phases.host = if was_there { rest } else { rest.saturating_sub(phases.instantiate) };
        match asked {
            Ok(Ruled { value, rule }) => {
                drop(slot);
                loaded.quickness.answered(phases.guest);
                loaded.counters.count(policy, phases, None);
                let digest = loaded.source.digest;
                let decision = Decision { id: DecisionId(0), generation: self.id, digest, value, rule, cause: None };
                Called { decision, tripped: false, took: phases.guest }
            }
            Err(failure) => {
                // Whatever went wrong, memory and locks inside the guest may be half-way: never again.
                *slot = None;
                drop(slot);
                self.failed(policy, loaded, phases, &failure, otherwise)
            }
        }
    }

    fn failed<T>(
        &self,
        policy: Policy,
        loaded: &Loaded,
        phases: Phases,
        failure: &CallFailure,
        otherwise: impl FnOnce(Silence) -> T,
    ) -> Called<T> {
        let cause = failure.cause;
        if cause.is_guests() {
            tracing::warn!(%policy, file = %loaded.source.file, generation = self.id.0, cause = cause.as_str(),
                message = %failure.message, "a policy gave no answer");
        }
        loaded.counters.count(policy, phases, Some(cause));
        let tripped = cause.is_guests() && loaded.breaker.failed(Instant::now());
        let value = otherwise(Silence::Failed(cause));
        let decision = Decision {
            id: DecisionId(0),
            generation: self.id,
            digest: loaded.source.digest,
            value,
            rule: None,
            cause: Some(cause),
        };
        Called { decision, tripped, took: phases.guest }
    }

    /// The answer when no thread could ask.
    pub(crate) fn unasked<T>(&self, policy: Policy, cause: FailureCause, value: T) -> Decision<T> {
        let digest = self.set.answerer(policy).map_or(NOBODY, |loaded| loaded.source.digest);
        Decision { id: DecisionId(0), generation: self.id, digest, value, rule: None, cause: Some(cause) }
    }
}

impl Remade {
    pub(crate) fn new(of: Arc<Loaded>) -> Self {
        let start = Instant::now();
        let made = of.pre.instance(&of.source.settings);
        Self { of, made, took: start.elapsed() }
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
    loaded: &Arc<Loaded>,
    remade: Option<Remade>,
    phases: &mut Phases,
) -> Result<&'a mut PolicyInstance, CallFailure> {
    if slot.is_none() {
        let remade = remade.filter(|remade| Arc::ptr_eq(&remade.of, loaded));
        let Remade { made, took, .. } = remade.unwrap_or_else(|| Remade::new(Arc::clone(loaded)));
        phases.instantiate = took;
        *slot = Some(made?);
    }
    slot.as_mut().ok_or_else(|| CallFailure { cause: FailureCause::Trap, message: "no instance".into() })
}
