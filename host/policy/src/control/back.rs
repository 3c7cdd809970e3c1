//! The ways back: an operator's roll-back, and the breaker's. Knows no folder. Invariant: nothing that was taken back
//! serves again, and what is left is remembered as left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::flip::{NotYet, Unmoved, Way};
use super::history::History;
use super::{Attempt, Control, files_of, taken_back};
use crate::failure::Closure;
use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::generation::{Set, Unclaimed};
use crate::model::{Digest, GenerationId, Policy};
use crate::record::{PinReason, RollbackError, SwapRecord, Trigger};
use crate::store::POISONED_MAX;

// === impl Control ===

impl Control {
    /// Back to the newest set before this one that holds nothing which was taken back; the folder is not followed until
    /// it changes, and what is being judged is left, too; that alone, if there is no such set.
    pub(crate) fn rollback(&self, reason: &str) -> Result<SwapRecord, RollbackError> {
        let mut asked = None;
        self.settle(|| false, |way| self.go_back(reason, &mut asked, way))
    }

    /// `asked`: what served when this was asked, and what was being judged.
    fn go_back(
        &self,
        reason: &str,
        asked: &mut Option<(GenerationId, Vec<Digest>)>,
        way: &mut Way,
    ) -> Result<Result<SwapRecord, RollbackError>, NotYet> {
        let mut history = self.history.lock();
        let serving = self.generation();
        let (meant, tried) = asked.get_or_insert_with(|| (serving, history.trying.clone()));
        if *meant != serving {
            // Its instances had to be made, and somebody else's way back was shorter.
            let message = format!("what served when this was asked was left meanwhile; generation {serving} serves");
            return Ok(Ok(self.leave(history, std::mem::take(tried), message, reason)));
        }
        if history.earlier.is_empty() && !history.trying.is_empty() {
            return Ok(self.leave_what_is_tried(history, reason));
        }
        let Some(newest) = history.earlier.last() else { return Ok(Err(RollbackError::Nothing)) };
        let bad = history.poisoned_in(newest).map(|bad| (bad.source.file.to_string(), bad.source.identity()));
        let sound = history.earlier.iter().rposition(|set| history.poisoned_in(set).is_none());
        if let (None, Some((file, identity))) = (sound, &bad) {
            drop(history);
            let message = format!(
                "it kept failing and was taken back, and every earlier set holds it or another such one; {} serves again \
                 in no way, put another version there",
                &identity.to_hex()[..12]
            );
            let refusal = Refusal::new(RefusalCode::Poisoned, file, message);
            let files = vec![file.clone()];
            let attempt = Attempt { trigger: Trigger::Rollback, files, gate: Duration::ZERO, difference: None };
            self.refused(refusal.clone(), Vec::new(), attempt);
            return Ok(Err(refusal.into()));
        }
        let Some((at, set)) = sound.map(|at| (at, history.earlier[at].clone())) else {
            return Ok(Err(RollbackError::Nothing));
        };
        let left = self.current.load().set.clone();
        let attempt =
            Attempt { trigger: Trigger::Rollback, files: files_of(&set), gate: Duration::ZERO, difference: None };
        match self.flip(&mut history, &set, way, &attempt) {
            Ok(mut record) => {
                history.earlier.truncate(at);
                history.moved();
                history.shun(&left, &set);
                let trying = std::mem::take(&mut history.trying);
                history.shun_all([std::mem::take(tried), trying].concat(), &set);
                history.owed.clear();
                history.hold(&set);
                let memo = self.memo(&mut history);
                record.message = match bad {
                    Some((file, _)) => {
                        crate::instance::clip(&format!("{reason} (past {file}, which was taken back)"), 256)
                    }
                    None => crate::instance::clip(reason, 256),
                };
                self.records.amend(record.number, |kept| kept.message.clone_from(&record.message));
                drop(history);
                self.write(memo);
                Ok(Ok(record))
            }
            Err(Unmoved::NotYet(why)) => Err(why),
            Err(Unmoved::Never(refusal)) => {
                drop(history);
                self.refused(refusal.clone(), Vec::new(), attempt);
                Ok(Err(refusal.into()))
            }
        }
    }

    /// Somebody asked for something, and nothing has changed; because of an operator's pin, if there is one.
    pub(crate) fn left_as_it_is(&self, attempt: Attempt) -> SwapRecord {
        let pinned = self.history.lock().pin == Some(PinReason::Operator);
        let mut record = self.unchanged(attempt);
        if pinned {
            record.message =
                "the set is pinned, so nothing of the folder is taken: `tidegate policy pin --off` follows it \
                              again"
                    .to_owned();
            self.records.amend(record.number, |kept| kept.message.clone_from(&record.message));
        }
        record
    }

    /// There is nothing to go back to, and something is on its way in: it is left, as it would be by going back.
    fn leave_what_is_tried(&self, history: MutexGuard<'_, History>, reason: &str) -> Result<SwapRecord, RollbackError> {
        if self.is_halted() {
            return Err(RollbackError::Nothing);
        }
        let files: Vec<String> = history.trying.iter().filter_map(|identity| history.file_of(identity)).collect();
        let message =
            format!("{} was being judged and is left; there is no earlier set to go back to", files.join(", "));
        Ok(self.leave(history, Vec::new(), message, reason))
    }

    /// What serves serves on; `tried`, and what is tried now, is left.
    fn leave(
        &self,
        mut history: MutexGuard<'_, History>,
        tried: Vec<Digest>,
        message: String,
        reason: &str,
    ) -> SwapRecord {
        let serving = self.current.load().set.clone();
        let trying = [tried, std::mem::take(&mut history.trying)].concat();
        let files: Vec<String> = trying.iter().filter_map(|identity| history.file_of(identity)).collect();
        history.moved();
        history.shun_all(trying, &serving);
        history.owed.clear();
        history.hold(&serving);
        let memo = self.memo(&mut history);
        tracing::warn!(reason, "{message}");
        let attempt = Attempt { trigger: Trigger::Rollback, files, gate: Duration::ZERO, difference: None };
        let mut record = self.records.unchanged(attempt, self.generation());
        record.message = crate::instance::clip(&format!("{message} ({reason})"), 256);
        self.records.amend(record.number, |kept| kept.message.clone_from(&record.message));
        drop(history);
        self.write(memo);
        record
    }

    /// Takes back what the breaker tripped on: to the newest earlier set without it, or else to nothing in
    /// its place (the embedded default, or closed). Nothing to do if it does not serve any more.
    pub(crate) fn take_back(&self, bad: &Arc<Loaded>) {
        self.settle(|| false, |way| self.go_back_without(bad, way));
    }

    fn go_back_without(&self, bad: &Arc<Loaded>, way: &mut Way) -> Result<(), NotYet> {
        let mut history = self.history.lock();
        let serving = self.current.load().set.clone();
        let serves = |set: &Set| set.members.iter().any(|loaded| loaded.source.identity() == bad.source.identity());
        if !serves(&serving) {
            return Ok(());
        }
        if bad.source.embedded {
            // There is nothing behind the defaults; the failure matrix goes on answering.
            tracing::error!(policy = %bad.name, "an embedded policy keeps failing");
            return Ok(());
        }
        if !history.poisoned.contains(&bad.source.identity()) {
            // At once: nobody flips to it any more, however long the way back takes.
            history.moved();
            history.poisoned.push(bad.source.identity());
            if history.poisoned.len() > POISONED_MAX {
                history.poisoned.remove(0);
            }
        }
        let sound = history.earlier.iter().rposition(|set| history.poisoned_in(set).is_none());
        let set = sound.map(|at| history.earlier[at].clone());
        let proven = history.access_since.is_none_or(|since| since.elapsed() >= self.config.breaker.probation);
        let relied_on = proven && bad.answers.contains(&Policy::Access);
        let set = match set {
            Some(set) if relied_on && set.unclaimed() == Unclaimed::Default => {
                let chosen: Vec<_> = set.chosen().cloned().collect();
                Set::compose(&chosen, &self.embedded, Unclaimed::Closed)
            }
            Some(set) => Ok(set),
            None => {
                let rest: Vec<_> = serving.chosen().filter(|loaded| !Arc::ptr_eq(loaded, bad)).cloned().collect();
                Set::compose(&rest, &self.embedded, serving.unclaimed())
            }
        };
        let attempt = Attempt {
            trigger: Trigger::Breaker,
            files: vec![bad.source.file.to_string()],
            gate: Duration::ZERO,
            difference: None,
        };
        let flipped = match set {
            Ok(set) => {
                let set = set.closed_since(&serving, Closure::Refused(RefusalCode::Poisoned));
                self.flip(&mut history, &set, way, &attempt).map(|record| (record, set))
            }
            Err(refusal) => Err(Unmoved::Never(refusal)),
        };
        match flipped {
            Ok((record, set)) => {
                history.earlier.truncate(sound.unwrap_or(0));
                history.moved();
                history.shun(&serving, &set);
                history.hold(&set);
                let memo = self.memo(&mut history);
                self.reverts.fetch_add(1, Ordering::Relaxed);
                let refusal = taken_back(&bad.source.file, &bad.source.identity());
                tracing::error!(file = %refusal.file, generation = record.to.0, "{}", refusal.message);
                self.records.amend(record.number, |kept| kept.message.clone_from(&refusal.message));
                let stands = history.judged.values().any(|identity| *identity == bad.source.identity());
                history.refused.extend(stands.then(|| (bad.source.identity(), refusal)));
                drop(history);
                self.write(memo);
                Ok(())
            }
            Err(Unmoved::NotYet(why)) => Err(why),
            Err(Unmoved::Never(refusal)) => {
                drop(history);
                self.refused(refusal, Vec::new(), attempt);
                Ok(())
            }
        }
    }
}
