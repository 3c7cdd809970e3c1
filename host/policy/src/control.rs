//! The one pointer, and everything that may move it: swaps, roll-backs, the breaker. Knows generations and
//! what is remembered, not how a folder is read. Invariants: flips happen one at a time (`flip` says which lock orders
//! what); at most three generations have instances; the pointer has moved before the number that streams compare.

mod back;
mod flip;
mod history;
mod memory;
mod records;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::config::PolicyConfig;
use crate::evidence::now_ms;
use crate::failure::{CLOSED_RULE, Closure};
use crate::folder::MANIFEST;
use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::generation::{Generation, Set, Unclaimed};
use crate::instance::PolicySource;
use crate::model::*;
use crate::record::*;
use crate::starting::Starting;
use crate::store::{ContentStore, Member, POISONED_MAX, Remembered, Trouble};

use flip::{NotYet, Unmoved, Way};
use history::History;
pub(crate) use history::{left_behind, taken_back};
pub(crate) use records::Attempt;
use records::Records;
use rows::{closed, row};

/// Runs right after the pointer moved.
pub type FlipHook = Box<dyn Fn(GenerationId) -> Vec<Fence> + Send + Sync>;

/// What is compiled for longer is listed as what stands in the folder and is not taken. Guessed: longer than a person waits.
const COMPILES_LONG: Duration = Duration::from_secs(1);
/// Sets that a roll-back can reach, beside the serving one.
const EARLIER_MAX: usize = 4;

pub(crate) struct Control {
    current: ArcSwap<Generation>,
    /// What streams compare: stored after `current`.
    generation: AtomicU64,
    announced: watch::Sender<GenerationId>,
    hooks: Mutex<Vec<FlipHook>>,
    history: Mutex<History>,
    records: Records,
    embedded: Vec<Arc<Loaded>>,
    config: PolicyConfig,
    store: ContentStore,
    /// A run before this one served: what it went on with is no news, whatever the folder holds now.
    served_before: bool,
    /// Number of what was written last; held while it is written.
    written: Mutex<u64>,
    /// Of writing what is remembered.
    store_trouble: Trouble,
    /// Given up when the gateway stops: what serves serves to the end.
    starting: Starting,
    pub(crate) reverts: AtomicU64,
}

/// The basis of an attempt holds no more: somebody pinned, rolled back or took back meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overtaken;

/// What the swapper works from.
pub(crate) struct Basis {
    revision: u64,
    pub(crate) pin: Option<PinReason>,
    pub(crate) judged: BTreeMap<String, Digest>,
    pub(crate) poisoned: Vec<Digest>,
    /// Identities that a roll-back left; they come back only when an operator says so.
    pub(crate) shunned: Vec<Digest>,
    /// Identities that a way back put in force without a file in the folder.
    pub(crate) returned: Vec<Digest>,
    /// Identities that were sound and refused together with others.
    pub(crate) owed: Vec<Digest>,
    pub(crate) approved: Vec<String>,
    pub(crate) granted: Vec<Granted>,
    pub(crate) chosen: Vec<Arc<Loaded>>,
    pub(crate) embedded: Vec<Arc<Loaded>>,
}

// === impl Control ===

impl Control {
    /// Serves the embedded defaults as generation 1 until something else is flipped to.
    pub(crate) fn new(
        embedded: Vec<Arc<Loaded>>,
        first: Set,
        config: PolicyConfig,
        store: ContentStore,
        remembered: &Remembered,
        starting: Starting,
    ) -> Result<Self, Refusal> {
        let generation = Generation::first(GenerationId(1), &first, config.threads)?;
        let (announced, _) = watch::channel(GenerationId(1));
        let pin = remembered.pin.as_ref().map(|pin| match pin.by_operator {
            true => PinReason::Operator,
            false => PinReason::Rollback,
        });
        let history = History {
            earlier: Vec::new(),
            access_since: None,
            retiring: Vec::new(),
            returning: Vec::new(),
            memos: 0,
            pin,
            judged: BTreeMap::new(),
            files: BTreeMap::new(),
            poisoned: remembered.poisoned.iter().filter_map(|hex| Digest::from_hex(hex)).collect(),
            shunned: remembered.shunned.iter().filter_map(|hex| Digest::from_hex(hex)).collect(),
            returned: remembered.returned.iter().filter_map(|hex| Digest::from_hex(hex)).collect(),
            revision: 0,
            trying: Vec::new(),
            owed: Vec::new(),
            pending: Vec::new(),
            refused: history::told(remembered),
            folder_trouble: None,
            held: history::held(remembered),
            approved: remembered.approved.clone(),
            granted: remembered.granted.clone(),
        };
        Ok(Self {
            current: ArcSwap::from_pointee(generation),
            generation: AtomicU64::new(1),
            announced,
            hooks: Mutex::default(),
            history: Mutex::new(history),
            records: Records::default(),
            embedded,
            config,
            store,
            served_before: remembered.before,
            written: Mutex::default(),
            store_trouble: Trouble::default(),
            starting,
            reverts: AtomicU64::new(0),
        })
    }

    pub(crate) fn current(&self) -> Arc<Generation> {
        self.current.load_full()
    }

    pub(crate) fn generation(&self) -> GenerationId {
        GenerationId(self.generation.load(Ordering::SeqCst))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<GenerationId> {
        self.announced.subscribe()
    }

    pub(crate) fn watch_attempts(&self) -> watch::Receiver<u64> {
        self.records.watch()
    }

    pub(crate) fn on_flip(&self, hook: FlipHook) {
        self.hooks.lock().push(hook);
    }

    pub(crate) fn basis(&self) -> Basis {
        let history = self.history.lock();
        Basis {
            revision: history.revision,
            pin: history.pin,
            judged: history.judged.clone(),
            poisoned: history.poisoned.clone(),
            shunned: history.shunned.clone(),
            returned: history.returned.clone(),
            owed: history.owed.clone(),
            approved: history.approved.iter().map(|approval| approval.identity.clone()).collect(),
            granted: history.granted.clone(),
            chosen: self.current.load().set.chosen().cloned().collect(),
            embedded: self.embedded.clone(),
        }
    }

    /// The swapper's: what was tried is not tried again by itself. Gives what was held and is not in the folder any
    /// more: should it come back, it is held anew.
    pub(crate) fn judged(
        &self,
        judged: BTreeMap<String, Digest>,
        files: BTreeMap<String, String>,
        pending: Vec<String>,
    ) -> Vec<Digest> {
        let mut history = self.history.lock();
        let (held, gone) = std::mem::take(&mut history.held)
            .into_iter()
            .partition(|held| judged.values().any(|identity| *identity == held.identity));
        history.held = held;
        history.refused.retain(|(identity, _)| judged.values().any(|stands| stands == identity));
        history.owed.retain(|owed| judged.values().any(|stands| stands == owed));
        history.stands_again(&self.current.load().set, &judged);
        history.judged = judged;
        history.files = files;
        history.pending = pending;
        gone.into_iter().map(|held: Held| held.identity).collect()
    }

    /// The swapper's: so an operator can be asked.
    pub(crate) fn held(&self, held: Held) {
        let mut history = self.history.lock();
        history.held.retain(|other| other.identity != held.identity);
        history.held.push(held);
    }

    /// The swapper's: what stands in the folder and is not taken, for the listing.
    pub(crate) fn note_refused(&self, identity: Digest, refusal: Refusal) {
        let mut history = self.history.lock();
        // Several files can hold the same bytes.
        history.refused.retain(|(other, of)| *other != identity || of.file != refusal.file);
        history.refused.push((identity, refusal));
    }

    /// The swapper's: these go through the gate now.
    pub(crate) fn trying(&self, identities: &[Digest]) {
        let mut history = self.history.lock();
        history.refused.retain(|(identity, _)| !identities.contains(identity));
        history.trying = identities.to_vec();
    }

    /// The swapper's: the set that was tried is refused, and these of it are sound. Gives those that wait now.
    pub(crate) fn owed(&self, sound: &[Digest]) -> Vec<Digest> {
        let mut history = self.history.lock();
        // Without what a roll-back took meanwhile.
        let trying = std::mem::take(&mut history.trying);
        let sound: Vec<_> = trying.into_iter().filter(|identity| sound.contains(identity)).collect();
        history.owed.retain(|owed| !sound.contains(owed));
        history.owed.extend(&sound);
        sound
    }

    /// The swapper's: by now the folder says otherwise than it was judged, so nothing of `tried` comes of this attempt.
    pub(crate) fn moved_on(&self, basis: &Basis, tried: &[Digest], attempt: Attempt) -> SwapRecord {
        self.history.lock().give_back(&basis.judged, tried);
        self.records.moved_on(attempt, self.generation())
    }

    /// The swapper's: why the folder as a whole cannot be looked at.
    pub(crate) fn folder_trouble(&self, trouble: Option<Refusal>) {
        self.history.lock().folder_trouble = trouble;
    }

    /// An operator wants this one although it was tried or left before.
    pub(crate) fn wanted(&self, identity: &Digest) {
        let mut history = self.history.lock();
        history.shunned.retain(|shunned| shunned != identity);
        history.judged.retain(|_, tried| tried != identity);
    }

    /// Remembers an operator's word, and forgets that this was tried.
    pub(crate) fn approve(&self, identity: &Digest, reason: &str) {
        let mut history = self.history.lock();
        let approval =
            Approval { identity: identity.to_hex(), at_ms: now_ms(), reason: crate::instance::clip(reason, 256) };
        tracing::warn!(identity = %approval.identity, reason = %approval.reason, "an operator approved a policy");
        history.approved.retain(|other| other.identity != approval.identity);
        history.approved.push(approval);
        let surplus = history.approved.len().saturating_sub(POISONED_MAX);
        history.approved.drain(..surplus);
        history.held.retain(|held| held.identity != *identity);
        history.shunned.retain(|shunned| shunned != identity);
        history.judged.retain(|stem, tried| stem != MANIFEST && tried != identity);
        let memo = self.memo(&mut history);
        drop(history);
        self.write(memo);
    }

    /// Goes over to `chosen` (and embedded defaults for the rest; access is closed if it was answered by
    /// something chosen until now), unless `basis` holds no more: then what was `tried` can be planned anew.
    pub(crate) fn swap(
        &self,
        basis: &Basis,
        chosen: &[Arc<Loaded>],
        tried: &[Digest],
        attempt: Attempt,
    ) -> Result<SwapRecord, Overtaken> {
        let is_overtaken = || self.history.lock().revision != basis.revision;
        self.settle(is_overtaken, |way| {
            let mut history = self.history.lock();
            if history.revision != basis.revision {
                history.give_back(&basis.judged, tried);
                return Ok(Err(Overtaken));
            }
            let unclaimed = self.current.load().set.unclaimed();
            self.swap_or(history, chosen, (unclaimed, Closure::Removed), way, &attempt).map(Ok)
        })
    }

    /// The swapper's, after its first look. `refused`: what the folder holds was, and could be meant to answer access.
    /// Where nothing served before, an operator meant to say something that is not understood, so nothing is allowed.
    /// Otherwise what serves now is what the next start goes on with, be it the embedded defaults alone.
    pub(crate) fn begun(&self, refused: Option<(RefusalCode, Attempt)>) {
        self.settle(
            || false,
            |way| {
                let mut history = self.history.lock();
                // A look that was broken off says nothing.
                if self.served_before || self.is_halted() {
                    return Ok(());
                }
                let refused = refused.as_ref();
                match refused.filter(|_| self.current.load().set.unclaimed() == Unclaimed::Default) {
                    Some((code, attempt)) => {
                        let chosen: Vec<_> = self.current.load().set.chosen().cloned().collect();
                        let closed = (Unclaimed::Closed, Closure::Refused(*code));
                        self.swap_or(history, &chosen, closed, way, attempt).map(drop)
                    }
                    None => {
                        let memo = self.memo(&mut history);
                        drop(history);
                        self.write(memo);
                        Ok(())
                    }
                }
            },
        );
    }

    /// The swapper's alone. What is tried stays on its way, for a roll-back to leave, until this comes to something.
    fn swap_or(
        &self,
        mut history: MutexGuard<'_, History>,
        chosen: &[Arc<Loaded>],
        (unclaimed, why): (Unclaimed, Closure),
        way: &mut Way,
        attempt: &Attempt,
    ) -> Result<SwapRecord, NotYet> {
        if self.is_halted() {
            history.trying.clear();
            drop(history);
            return Ok(self.unchanged(attempt.clone()));
        }
        if history.is_left() {
            return Err(NotYet::Waits);
        }
        let before = self.current.load().set.clone();
        let set = match Set::compose(chosen, &self.embedded, unclaimed) {
            Ok(set) => set.closed_since(&before, why),
            Err(refusal) => {
                history.trying.clear();
                drop(history);
                return Ok(self.refused(refusal, Vec::new(), attempt.clone()));
            }
        };
        // A set that cannot be made costs no pin.
        let pin = if attempt.trigger == Trigger::Start { history.pin } else { None };
        if set.is_same_as(&before) {
            history.trying.clear();
            history.pin = pin;
            let memo = self.memo(&mut history);
            drop(history);
            self.write(memo);
            return Ok(self.unchanged(attempt.clone()));
        }
        let closes = set.answerer(Policy::Access).is_none() && before.answerer(Policy::Access).is_some();
        match self.flip(&mut history, &set, way, attempt) {
            Ok(mut record) => {
                if closes {
                    tracing::error!(
                        generation = record.to.0,
                        "no component answers access any more: everything is denied"
                    );
                    record.message = "no component answers access any more: everything is denied".to_owned();
                    self.records.amend(record.number, |kept| kept.message.clone_from(&record.message));
                }
                history.trying.clear();
                history.pin = pin;
                history.owed.clear();
                history.earlier.push(before);
                if history.earlier.len() > EARLIER_MAX {
                    history.earlier.remove(0);
                }
                let memo = self.memo(&mut history);
                drop(history);
                self.write(memo);
                Ok(record)
            }
            Err(Unmoved::NotYet(why)) => Err(why),
            Err(Unmoved::Never(refusal)) => {
                history.trying.clear();
                drop(history);
                Ok(self.refused(refusal, Vec::new(), attempt.clone()))
            }
        }
    }

    /// From here on nothing is flipped to.
    pub(crate) fn halt(&self) {
        self.starting.give_up();
    }

    fn is_halted(&self) -> bool {
        self.starting.is_given_up()
    }

    pub(crate) fn pin(&self, on: bool) {
        let mut history = self.history.lock();
        history.moved();
        history.pin = on.then_some(PinReason::Operator);
        let memo = self.memo(&mut history);
        drop(history);
        self.write(memo);
    }

    /// An operator wants the folder as it stands.
    pub(crate) fn unpin(&self) {
        let mut history = self.history.lock();
        history.pin = None;
        history.shunned.clear();
    }

    /// `refusal` is what the attempt is named by; `others` were refused with it.
    pub(crate) fn refused(&self, refusal: Refusal, others: Vec<Refusal>, attempt: Attempt) -> SwapRecord {
        if self.is_halted() {
            // Not for its own sake.
            return self.unchanged(attempt);
        }
        for Refusal { code, file, message } in std::iter::once(&refusal).chain(&others) {
            tracing::warn!(%file, code = code.as_str(), trigger = attempt.trigger.as_str(), %message,
                "a set of policies was refused; the one before serves on");
        }
        self.records.refused(attempt, self.generation(), refusal, others)
    }

    pub(crate) fn unchanged(&self, attempt: Attempt) -> SwapRecord {
        self.records.unchanged(attempt, self.generation())
    }

    pub(crate) fn enforced(&self, generation: GenerationId, micros: u64) {
        self.records.enforced(generation, micros);
    }

    /// The record of a swap once it says when it was enforced, or another one has taken its place.
    pub(crate) async fn until_enforced(&self, record: SwapRecord) -> SwapRecord {
        let mut attempts = self.records.watch();
        loop {
            let latest = self.records.latest(record.clone());
            let over = latest.enforced_us.is_some() || self.generation() != latest.to;
            if latest.outcome != Outcome::Swapped || over || attempts.changed().await.is_err() {
                return latest;
            }
        }
    }

    /// Lets go of replaced generations whose last call has ended; here, so that no deciding thread does. The one that a
    /// roll-back leads to keeps its instances, so that the way back does not take as long as making them.
    pub(crate) fn reap(&self) {
        let done = {
            let mut history = self.history.lock();
            history.reap()
        };
        drop(done);
    }

    pub(crate) fn live(&self) -> usize {
        self.history.lock().live()
    }

    pub(crate) fn counts(&self) -> (u64, u64) {
        self.records.counts()
    }

    pub(crate) fn listing(&self) -> Listing {
        let current = self.current();
        let row = |policy| current.set.answerer(policy).map_or_else(|| closed(policy), |loaded| row(policy, loaded));
        let policies = Policy::ALL.into_iter().map(row).collect();
        let history = self.history.lock();
        let stands = |file: &String| history.files.values().any(|other| other == file);
        let compiling = self.starting.compiling_for(COMPILES_LONG).into_iter().filter(stands).map(|file| {
            Refusal::new(RefusalCode::Compiling, &file, "it is being compiled; until then what serves now serves on")
        });
        Listing {
            generation: current.id,
            pinned: history.pin,
            policies,
            poisoned: history.poisoned.clone(),
            pending: history.pending.clone(),
            earlier: history.earlier.iter().filter(|set| history.poisoned_in(set).is_none()).count(),
            refused: compiling.chain(history.standing(&current.set)).collect(),
            held: history.held.clone(),
            approved: history.approved.clone(),
            live_generations: history.live(),
            swaps: self.records.last(),
        }
    }

    /// What is in memory of these digests.
    pub(crate) fn loaded(&self, digest: &Digest, settings: &Digest) -> Option<Arc<Loaded>> {
        let is = |loaded: &&Arc<Loaded>| loaded.source.digest == *digest && loaded.source.settings_digest == *settings;
        let current = self.current.load();
        let serving = current.set.members.iter().find(is);
        serving.or_else(|| self.embedded.iter().find(is)).cloned().or_else(|| {
            let history = self.history.lock();
            history.earlier.iter().flat_map(|set| &set.members).find(is).cloned()
        })
    }

    /// What is kept of these digests.
    pub(crate) fn content(&self, digest: &Digest, settings: &Digest) -> Option<PolicySource> {
        let name = digest.to_hex();
        let member = Member {
            stem: name[..12].to_owned(),
            file: name[..12].to_owned(),
            component: name,
            settings: settings.to_hex(),
            seal: None,
        };
        self.store.source(&member).ok()
    }

    /// The name of a rule in a generation that is still known.
    pub(crate) fn rule_name(&self, generation: GenerationId, policy: Policy, rule: u16) -> Option<Arc<str>> {
        let name = |set: &Set| match set.answerer(policy) {
            Some(loaded) => loaded.rules.get(usize::from(rule)).cloned(),
            None => Some(Arc::from(CLOSED_RULE)),
        };
        let current = self.current.load();
        if current.id == generation {
            return name(&current.set);
        }
        let history = self.history.lock();
        history.retiring.iter().find(|old| old.id == generation).and_then(|old| name(&old.set))
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("generation", &self.generation()).finish_non_exhaustive()
    }
}

fn files_of(set: &Set) -> Vec<String> {
    set.chosen().map(|loaded| loaded.source.file.to_string()).collect()
}
