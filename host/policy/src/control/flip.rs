//! How the pointer moves: instances are made first, by whoever wants to flip; then, with `history` locked, everything that made
//! him want to is looked at again, and the pointer moves. Knows what lacks, not why somebody flips.
//! Invariant: with `history` locked no guest runs, no call is waited for and nothing is written to the disk.
//!
//! `history` orders all flips; there is no other lock that one is held for. So whoever had to let go of it (`NotYet`) begins
//! anew: the swapper finds by `revision` that a roll-back, the breaker or a pin overtook it; a way back looks again at where
//! it leads. Ways back wait for nobody. The swapper waits for a way back that makes instances (`History::returning`): it
//! would put in place what that is about to leave. What is remembered is numbered with `history` locked and written under
//! `Control::written`, in which the newest number wins.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::history::History;
use super::{Attempt, Control};
use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::generation::{Generation, Set, Stock};
use crate::model::{GenerationId, Policy};
use crate::record::{Fence, SwapRecord, Trigger};

/// The serving one and two whose last calls are under way.
const LIVE_MAX: usize = 3;
/// How soon whoever waits for somebody's last call, or for a way back, looks again.
const AGAIN: Duration = Duration::from_millis(1);

/// What one who wants to flip has gathered. Goes after the lock: it may hold what takes long to drop.
#[derive(Default)]
pub(super) struct Way {
    stock: Stock,
    /// There since this way back began to make instances.
    returning: Option<Arc<()>>,
    /// Generations that were let go of.
    done: Vec<Arc<Generation>>,
}

/// The lock has to be let go of first.
pub(super) enum NotYet {
    /// These instances have to be made.
    Lacks(Vec<Arc<Loaded>>),
    /// Calls have to end, or somebody's way back.
    Waits,
}

/// Why the pointer has not moved.
pub(super) enum Unmoved {
    NotYet(NotYet),
    Never(Refusal),
}

// === impl Control ===

impl Control {
    /// Tries `step`, which takes the lock and lets go of it, until it comes to something. `is_needless`: what lacks need not
    /// be made any more.
    pub(super) fn settle<T>(
        &self,
        is_needless: impl Fn() -> bool,
        mut step: impl FnMut(&mut Way) -> Result<T, NotYet>,
    ) -> T {
        let mut way = Way::default();
        loop {
            match step(&mut way) {
                Ok(done) => return done,
                Err(NotYet::Lacks(lacking)) => way.stock.fill(lacking, || self.is_halted() || is_needless()),
                Err(NotYet::Waits) => std::thread::sleep(AGAIN),
            }
        }
    }

    /// Moves the pointer, if all instances are there.
    pub(super) fn flip(
        &self,
        history: &mut History,
        set: &Set,
        way: &mut Way,
        attempt: &Attempt,
    ) -> Result<SwapRecord, Unmoved> {
        if self.is_halted() {
            return Err(Unmoved::Never(Refusal::new(RefusalCode::StartFailed, "policies", "the gateway is stopping")));
        }
        if let Some(refusal) = way.stock.refusal_of(&set.members) {
            return Err(Unmoved::Never(refusal));
        }
        // A third generation that still has calls under way: they end at their deadline at the latest.
        let called = history.retiring.iter().filter(|old| Arc::strong_count(old) > 1).count();
        if called + 2 > LIVE_MAX {
            return Err(way.not_yet(history, attempt, NotYet::Waits));
        }
        let from = self.generation();
        let to = GenerationId(from.0 + 1);
        let next = match Generation::new(to, set, self.config.threads, &history.retiring, &mut way.stock) {
            Ok(next) => Arc::new(next),
            Err(lacking) => return Err(way.not_yet(history, attempt, NotYet::Lacks(lacking))),
        };
        if history.retiring.len() + 2 > LIVE_MAX {
            let retiring = std::mem::take(&mut history.retiring);
            (history.retiring, way.done) = retiring.into_iter().partition(|old| Arc::strong_count(old) > 1);
        }
        let start = Instant::now();
        let old = self.current.swap(Arc::clone(&next));
        let access = |generation: &Generation| generation.set.answerer(Policy::Access).map(Arc::as_ptr);
        if access(&old) != access(&next) {
            history.access_since = Some(start);
        }
        self.generation.store(to.0, Ordering::SeqCst);
        let fences: Vec<Fence> = self.hooks.lock().iter().flat_map(|hook| hook(to)).collect();
        let flip_us = start.elapsed().as_micros() as u64;
        let record = self.records.swapped(attempt.clone(), from, to, fences, flip_us);
        // Last: the record is there before anyone can report on it.
        self.announced.send_replace(to);
        history.retiring.push(old);
        tracing::info!(generation = to.0, trigger = record.trigger.as_str(), files = ?record.files,
            gate_us = record.gate_us, "policies swapped");
        Ok(record)
    }
}

// === impl Way ===

impl Way {
    /// From here on, until this is dropped, the swapper does not flip if this is a way back.
    fn not_yet(&mut self, history: &mut History, attempt: &Attempt, why: NotYet) -> Unmoved {
        if matches!(attempt.trigger, Trigger::Rollback | Trigger::Breaker) && self.returning.is_none() {
            history.returning.retain(|way| way.strong_count() > 0);
            history.returning.push(Arc::downgrade(self.returning.insert(Arc::default())));
        }
        Unmoved::NotYet(why)
    }
}
