//! What a flip of the policies, or a change of the keys, means for streams that are open: their items are
//! judged again in shared batches, and the streams woken. Knows classes, not streams; the stop at the flip
//! itself is each stream's own (verdicts, `Stamp`). Invariant: the fences of a flip are read after it.

use super::Sessions;
use crate::policies::fence_name;
use parking_lot::Mutex;
use std::{sync::Arc, time::Instant};
use tidegate_policy::{Fence, GenerationId};
use tokio::task::JoinSet;

/// Classes judged at the same time: enough to keep the policy threads busy. Guessed.
const AT_ONCE: usize = 8;

/// When the newest flip was, for the time until it is enforced.
#[derive(Clone, Debug, Default)]
pub struct Flips(Arc<Mutex<Option<(GenerationId, Instant)>>>);

// === impl Sessions ===

impl Sessions {
    /// To be hung into the policy host: runs right after its pointer moved.
    pub fn flip_hook(&self, flips: &Flips) -> Box<dyn Fn(GenerationId) -> Vec<Fence> + Send + Sync> {
        let (sessions, flips) = (self.clone(), flips.clone());
        Box::new(move |generation| {
            *flips.0.lock() = Some((generation, Instant::now()));
            sessions.fences()
        })
    }

    /// For each open stream the newest sequence that may be in the transport.
    fn fences(&self) -> Vec<Fence> {
        let mut fences = Vec::new();
        for session in self.all() {
            for reader in session.log.readers() {
                fences.push(Fence {
                    stream: fence_name(session.identity.id.as_str(), reader.name()),
                    epoch: session.identity.epoch,
                    sequence: reader.intended(),
                });
            }
        }
        fences
    }

    /// Judges again after each flip and each change of keys. Runs until cancelled.
    pub async fn rejudge(self, flips: Flips) {
        let host = self.policies().host().clone();
        let mut generations = host.watch();
        let mut revisions = self.shared.keys.watch();
        loop {
            let gone = tokio::select! {
                changed = generations.changed() => changed.is_err(),
                changed = revisions.changed() => changed.is_err(),
            };
            if gone {
                return;
            }
            let generation = *generations.borrow_and_update();
            revisions.borrow_and_update();
            self.judge_all().await;
            let flip = *flips.0.lock();
            if let Some((flipped, at)) = flip
                && flipped == generation
            {
                let took = at.elapsed();
                let micros = took.as_micros() as u64;
                host.enforced(generation, micros);
                if let Err(error) = self.shared.storage.swap_enforced(generation.0, micros).await {
                    tracing::warn!(%error, "the time until the swap was enforced is not on record");
                }
                self.shared.metrics.swaps.enforced_seconds.observe(took.as_secs_f64());
                *flips.0.lock() = None;
            }
        }
    }

    async fn judge_all(&self) {
        let mut judging = JoinSet::new();
        for session in self.all() {
            for class in session.classes() {
                if judging.len() >= AT_ONCE {
                    // A class whose judgement panicked stays stale: its streams pause rather than pass.
                    let _done = judging.join_next().await;
                }
                let (session, policies) = (session.clone(), self.policies().clone());
                judging.spawn(async move {
                    class.refresh(&session, &policies).await;
                    for reader in session.log.readers() {
                        reader.wake();
                    }
                });
            }
            session.policy_changed.notify_one();
        }
        while judging.join_next().await.is_some() {}
    }
}
