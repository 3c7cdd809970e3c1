//! What the gateway holds: questions in, decisions out, and the operator's handles. Knows how a question
//! reaches a thread, nothing of what a guest is. Invariant: every question is answered, and every answer
//! says which generation gave it.

mod kept;
mod past;
mod shadow;
mod trial;
mod warm;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::cache::CacheTrouble;
use crate::config::{Breaker, Limits, PolicyConfig, StartError};
use crate::control::{Control, FlipHook};
use crate::counters::Counters;
use crate::decider::Decider;
use crate::evidence::{Asked, IntoAnswered, Recorder};
use crate::failure::{self, Silence};
use crate::gate::{Gate, Refusal, RefusalCode};
use crate::generation::{Called, Remade};
use crate::instance::{CallFailure, GUEST_CALLS, PolicyInstance};
use crate::model::*;
use crate::record::*;
use crate::shadow::{Shadow, ShadowCounts};
use crate::starting::Starting;
use crate::swapper::{Command, Swapper};
use crate::trust::Vouching;
use crate::warden::Warden;

use kept::KeptShadow;
pub use past::{Candidate, PastError};
pub use shadow::PromoteError;
pub use warm::Warm;

/// Tags in one call into the guest: large enough to hide the call's cost, small enough for its deadline.
pub(crate) const TAGS_PER_CALL: usize = 256;

/// All policies of a gateway. Cheap to clone; the last one dropped ends the threads.
#[derive(Clone, Debug)]
pub struct PolicyHost {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    control: Arc<Control>,
    decider: Decider,
    swapper: Swapper,
    warden: Warden,
    cache_trouble: CacheTrouble,
    recorder: Arc<Recorder>,
    gate: Arc<Gate>,
    /// Held by whoever works on a question about the past.
    past: parking_lot::Mutex<()>,
    /// The candidate that is asked beside the serving set, if there is one.
    shadow: parking_lot::Mutex<Option<Shadow>>,
    kept_shadow: KeptShadow,
    vouching: Arc<Vouching>,
    breaker: Breaker,
    limits: Limits,
    /// The folder that is watched, for those who read it beside the swapper.
    plugins: Option<(PathBuf, PolicyConfig)>,
}

// === impl PolicyHost ===

impl PolicyHost {
    /// Loads the embedded defaults, then what the folder or the last run gives, and starts watching. Takes
    /// as long as compiling does; call it where that does no harm.
    pub fn start(config: PolicyConfig) -> Result<Self, StartError> {
        Warm::new(config, &Starting::default())?.start()
    }

    /// The gateway is told to stop: what decides now decides to the end, and whatever was on its way in (a change of the
    /// folder, a component being compiled) is dropped. The next start takes it up. Returns at once.
    pub fn halt(&self) {
        self.inner.halt();
    }

    /// Ends the threads and has everything written: from here on nothing is written by this host. Questions that
    /// still come are answered as if nobody was there. Blocks.
    pub fn close(&self) {
        self.inner.close();
    }

    /// Why what should outlive a restart could not be written, if so: the set that serves, and compiled code.
    pub fn store_troubles(&self) -> (Option<String>, Option<String>) {
        (self.inner.control.store_trouble(), self.inner.cache_trouble.get())
    }

    /// Why decisions are not kept just now, if so.
    pub fn decisions_trouble(&self) -> Option<String> {
        self.inner.recorder.trouble()
    }

    /// Tries again what could not be written; nothing to do when all could. Blocks on the disk.
    pub fn heal(&self) {
        self.inner.control.heal();
        self.inner.cache_trouble.heal();
    }

    /// The generation that decides now; one atomic load, sequentially consistent with the flip.
    pub fn generation(&self) -> GenerationId {
        self.inner.control.generation()
    }

    /// Follows the generations.
    pub fn watch(&self) -> watch::Receiver<GenerationId> {
        self.inner.control.watch()
    }

    /// Follows the attempts: the number of the newest `SwapRecord`.
    pub fn watch_attempts(&self) -> watch::Receiver<u64> {
        self.inner.control.watch_attempts()
    }

    /// Runs on the swapping thread right after the pointer moved; what it returns goes into the swap's
    /// record. It must be quick and must not call back into swapping (`reload`, `rollback`, `pin`).
    pub fn on_flip(&self, hook: FlipHook) {
        self.inner.control.on_flip(hook);
    }

    /// May `who` do `what`?
    pub async fn access(&self, who: &Principal, place: &SessionFacts, what: Action) -> Decision<Verdict> {
        let (who, place) = (who.clone(), place.clone());
        let asked = Asked::Access { who: who.clone(), place: place.clone(), what: what.clone() };
        let access = move |guest: &mut PolicyInstance, _| guest.access(&who, &place, &what).map(Ruled::from);
        self.ask(asked, access, failure::access).await
    }

    /// May `who` see the events of these items? One generation judges all of them.
    pub async fn judge_items(
        &self,
        who: &Principal,
        place: &SessionFacts,
        tags: &[Arc<str>],
    ) -> Decision<Vec<ItemVerdict>> {
        let (who, place, tags) = (who.clone(), place.clone(), Arc::<[Arc<str>]>::from(tags));
        let asked = Asked::Items { who: who.clone(), place: place.clone(), tags: Arc::clone(&tags) };
        let count = tags.len();
        let control = Arc::clone(&self.inner.control);
        let judge = move |guest: &mut PolicyInstance, generation: GenerationId| {
            let mut verdicts = Vec::with_capacity(tags.len());
            for some in tags.chunks(TAGS_PER_CALL) {
                // A flip may be waiting for this generation's last call, and nobody will take these verdicts.
                if control.generation() > generation {
                    return Err(CallFailure::late());
                }
                verdicts.extend(guest.judge_items(&who, &place, some)?);
            }
            Ok(verdicts.into())
        };
        // Long lists take longer than an asking thread has.
        self.queue(asked, judge, move |_| failure::judge_items(count)).await
    }

    /// What happens to a reader under pressure?
    pub async fn backpressure(&self, p: Pressure) -> Decision<PressureAnswer> {
        let (lag, max) = (p.lag_events, p.lag_events_max);
        let what = Arc::new(p);
        let asked = Asked::Backpressure(Arc::clone(&what));
        let otherwise = move |_| failure::backpressure(lag, max);
        self.ask(asked, move |guest, _| guest.backpressure(&what), otherwise).await
    }

    /// How is this node let in, given the stored floor?
    pub async fn version_floor(&self, who: &ClientNode, floor: Option<&str>) -> Decision<Admission> {
        let floor = floor.map(str::to_owned);
        let asked = Asked::VersionFloor { node: who.clone(), floor: floor.clone() };
        let who = who.clone();
        let admit = move |guest: &mut PolicyInstance, _| guest.version_floor(&who, floor.as_deref());
        self.ask(asked, admit, failure::version_floor).await
    }

    /// Which sessions does this person see? `grants` maps groups to tags.
    pub async fn dashboard_tags(&self, who: &Person, grants: &[(String, String)]) -> Decision<Sight> {
        let grants = grants.to_vec();
        let asked = Asked::DashboardTags { who: who.clone(), grants: grants.clone() };
        let who = who.clone();
        let sees = move |guest: &mut PolicyInstance, _| guest.dashboard_tags(&who, &grants);
        self.ask(asked, sees, |_| failure::dashboard_tags()).await
    }

    /// Does this request fit its bucket?
    pub async fn rate_limit(&self, who: &Principal, what: RateRequest) -> Decision<RateAnswer> {
        let who = who.clone();
        let asked = Asked::RateLimit { who: who.clone(), what: what.clone() };
        let request = what.clone();
        let otherwise = move |_| failure::rate_limit(&what);
        self.ask(asked, move |guest, _| guest.rate_limit(&who, &request), otherwise).await
    }

    /// The name of a rule, for messages; None once the generation is forgotten.
    pub fn rule_name(&self, generation: GenerationId, policy: Policy, rule: u16) -> Option<Arc<str>> {
        self.inner.control.rule_name(generation, policy, rule)
    }

    /// The gateway reports that every stream has been judged by `generation`, so long after the flip.
    pub fn enforced(&self, generation: GenerationId, micros: u64) {
        self.inner.control.enforced(generation, micros);
    }

    /// The record of a swap as it is when every stream has been judged by what it brought, or after so long.
    pub async fn until_enforced(&self, record: SwapRecord, within: Duration) -> SwapRecord {
        let enforced = self.inner.control.until_enforced(record.clone());
        tokio::time::timeout(within, enforced).await.unwrap_or(record)
    }

    pub fn list(&self) -> Listing {
        self.inner.control.listing()
    }

    /// Reads the folder again, whatever was seen before, and unpins.
    pub async fn reload(&self) -> SwapRecord {
        self.inner.swapper.command(Command::Reload).await
    }

    /// Looks at the folder now, as a change of it would have it looked at, and reads the signers' keys again; a pin, a
    /// roll-back and what was refused stay.
    pub async fn look(&self) -> SwapRecord {
        self.inner.swapper.command(Command::Look).await
    }

    /// Lets in what is held, a component with its settings, now and later; remembered over restarts. `identity`: the
    /// whole of it, or a beginning of eight digits and more of one that is held.
    pub async fn approve(&self, identity: &str, reason: &str) -> Result<SwapRecord, UnknownDigest> {
        let held = self.inner.control.listing().held;
        let starts =
            |held: &&Held| identity.len() >= 8 && held.identity.to_hex().starts_with(&identity.to_ascii_lowercase());
        let mut found: Vec<_> = held.iter().filter(starts).map(|held| held.identity).collect();
        // A shadow whose promotion is held stands in no folder.
        let shadow = self.inner.shadow.lock().as_ref().map(|shadow| shadow.candidate().source.identity());
        let begins = |id: &Digest| identity.len() >= 8 && id.to_hex().starts_with(&identity.to_ascii_lowercase());
        found.extend(shadow.filter(begins));
        found.sort();
        found.dedup();
        let whole = Digest::from_hex(identity);
        let identity = whole.or((found.len() == 1).then(|| found[0])).ok_or(UnknownDigest)?;
        Ok(self.inner.swapper.command(Command::Approve(identity, reason.to_owned())).await)
    }

    /// Back to the set before; pins. Makes instances, so milliseconds for large guests.
    pub async fn rollback(&self, reason: &str) -> Result<SwapRecord, RollbackError> {
        let (control, reason) = (Arc::clone(&self.inner.control), reason.to_owned());
        match tokio::task::spawn_blocking(move || control.rollback(&reason)).await {
            Ok(done) => done,
            Err(_) => Err(RollbackError::Nothing),
        }
    }

    /// While pinned by the operator, changes in the folder are not looked at.
    pub fn pin(&self, on: bool) {
        self.inner.control.pin(on);
        self.inner.swapper.look();
    }

    pub fn counters(&self) -> Counters {
        let control = &self.inner.control;
        let current = control.current();
        let (swaps, refused_swaps) = control.counts();
        Counters {
            guest_calls: GUEST_CALLS.load(Ordering::Relaxed),
            queue_full: self.inner.decider.refused(),
            queue_depth: self.inner.decider.depth(),
            denied: self.inner.recorder.denied().to_vec(),
            decisions_dropped: self.inner.recorder.dropped(),
            shadow: self.shadow_counts(),
            swaps,
            refused_swaps,
            reverts: control.reverts.load(Ordering::Relaxed),
            live_generations: control.live() as u64,
            policies: Policy::ALL
                .into_iter()
                .filter_map(|policy| Some((policy, current.set.answerer(policy)?)))
                .map(|(policy, loaded)| loaded.counters.read(policy, loaded.source.digest))
                .collect(),
        }
    }

    fn shadow_counts(&self) -> ShadowCounts {
        // Whoever starts or stops one holds the lock for a while; a scrape does not wait for that.
        self.inner.shadow.try_lock().and_then(|shadow| shadow.as_ref().map(Shadow::counts)).unwrap_or_default()
    }

    /// On the spot if the component has proved to be quick and an instance is free; else through the queue.
    async fn ask<T: IntoAnswered + Send + 'static>(
        &self,
        asked: Asked,
        call: impl Fn(&mut PolicyInstance, GenerationId) -> Result<Ruled<T>, CallFailure> + Send + 'static,
        otherwise: impl Fn(Silence) -> T + Clone + Send + 'static,
    ) -> Decision<T> {
        let policy = asked.policy();
        let generation = self.inner.control.current();
        if let Some(mut called) = generation.call_here(policy, &call, &otherwise) {
            if let Some(failing) = generation.set.answerer(policy).filter(|_| called.tripped) {
                self.inner.warden.handle().tripped(Arc::clone(failing));
            }
            self.inner.recorder.decided(asked, &generation.facts, &mut called.decision, called.took);
            return called.decision;
        }
        drop(generation);
        self.queue(asked, call, otherwise).await
    }

    async fn queue<T: IntoAnswered + Send + 'static>(
        &self,
        asked: Asked,
        call: impl FnOnce(&mut PolicyInstance, GenerationId) -> Result<Ruled<T>, CallFailure> + Send + 'static,
        otherwise: impl Fn(Silence) -> T + Clone + Send + 'static,
    ) -> Decision<T> {
        let (answer, answered) = oneshot::channel();
        let policy = asked.policy();
        let unasked = |asked, cause| {
            let generation = self.inner.control.current();
            let mut decision = generation.unasked(policy, cause, otherwise(Silence::Failed(cause)));
            self.inner.recorder.decided(asked, &generation.facts, &mut decision, Duration::ZERO);
            decision
        };
        let job = {
            let (recorder, asked) = (Arc::clone(&self.inner.recorder), asked.clone());
            let (control, warden) = (Arc::clone(&self.inner.control), self.inner.warden.handle());
            let (otherwise, queue_deadline) = (otherwise.clone(), self.inner.swapper.queue_deadline());
            Box::new(move |thread: usize, queued: Duration| {
                let mut generation = control.current();
                let mut remade = None;
                if let Some(failed) = generation.lacks(thread, policy) {
                    // Making an instance may take seconds; a flip does not wait for what holds no generation.
                    drop(generation);
                    remade = Some(Remade::new(failed));
                    generation = control.current();
                }
                let mut called = if queued > queue_deadline {
                    let cause = FailureCause::Timeout;
                    Called {
                        decision: generation.unasked(policy, cause, otherwise(Silence::Failed(cause))),
                        tripped: false,
                        took: Duration::ZERO,
                    }
                } else {
                    generation.call(thread, policy, queued, remade, call, otherwise)
                };
                if let Some(failing) = generation.set.answerer(policy).filter(|_| called.tripped) {
                    warden.tripped(Arc::clone(failing));
                }
                recorder.decided(asked, &generation.facts, &mut called.decision, called.took);
                // Before the answer: when it arrives, this thread holds no generation any more.
                drop(generation);
                // Nobody waits any more: the asker was cancelled.
                let _ = answer.send(called.decision);
            })
        };
        if !self.inner.decider.submit(job) {
            return unasked(asked, FailureCause::QueueFull);
        }
        match answered.await {
            Ok(decision) => decision,
            Err(_) => unasked(asked, FailureCause::Stopped),
        }
    }
}

// === impl Inner ===

impl Inner {
    fn halt(&self) {
        self.control.halt();
        self.gate.halt();
        self.swapper.halt();
    }

    fn close(&self) {
        self.halt();
        self.swapper.stop();
        self.decider.stop();
        self.warden.stop();
        drop(self.shadow.lock().take());
        // Last: what the others still decided is written.
        self.recorder.stop();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

fn refusal_of_start(file: &str, why: &str) -> Refusal {
    Refusal::new(RefusalCode::StartFailed, file, why)
}
