//! The ways back: an operator's roll-back, and the breaker's. Knows no folder. Invariant: nothing that was taken back
//! serves again, and what is left is remembered as left.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::history::History;
use super::{Attempt, Control, files_of, taken_back};
use crate::failure::Closure;
use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::generation::{Set, Unclaimed};
use crate::model::Policy;
use crate::record::{PinReason, RollbackError, SwapRecord, Trigger};
use crate::store::POISONED_MAX;

// === impl Control ===

impl Control {
    /// Back to the newest set before this one that holds nothing which was taken back; the folder is not followed until
    /// it changes, and what is being judged is left, too; that alone, if there is no such set.
    pub(crate) fn rollback(&self, reason: &str) -> Result<SwapRecord, RollbackError> {
        let mut history = self.history.lock();
        if history.earlier.is_empty() && !history.trying.is_empty() {
            return self.leave_what_is_tried(&mut history, reason);
        }
        let newest = history.earlier.last().ok_or(RollbackError::Nothing)?;
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
            return Err(refusal.into());
        }
        let passed_over = history.earlier.split_off(sound.map_or(0, |at| at + 1));
        let Some(set) = history.earlier.pop() else { return Err(RollbackError::Nothing) };
        let left = self.current.load().set.clone();
        let attempt =
            Attempt { trigger: Trigger::Rollback, files: files_of(&set), gate: Duration::ZERO, difference: None };
        match self.flip(&mut history, set.clone(), attempt) {
            Ok(mut record) => {
                history.moved();
                history.shun(&left, &set);
                let trying = std::mem::take(&mut history.trying);
                history.shun_all(trying, &set);
                history.owed.clear();
                history.hold(&set);
                self.remember(&mut history);
                record.message = match bad {
                    Some((file, _)) => {
                        crate::instance::clip(&format!("{reason} (past {file}, which was taken back)"), 256)
                    }
                    None => crate::instance::clip(reason, 256),
                };
                self.records.amend(record.number, |kept| kept.message.clone_from(&record.message));
                Ok(record)
            }
            Err((refusal, attempt)) => {
                history.earlier.push(set);
                history.earlier.extend(passed_over);
                drop(history);
                self.refused(refusal.clone(), Vec::new(), attempt);
                Err(refusal.into())
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
    fn leave_what_is_tried(&self, history: &mut History, reason: &str) -> Result<SwapRecord, RollbackError> {
        if self.is_halted() {
            return Err(RollbackError::Nothing);
        }
        let serving = self.current.load().set.clone();
        let trying = std::mem::take(&mut history.trying);
        let files: Vec<String> = trying.iter().filter_map(|identity| history.file_of(identity)).collect();
        history.moved();
        history.shun_all(trying, &serving);
        history.owed.clear();
        history.hold(&serving);
        self.remember(history);
        let message =
            format!("{} was being judged and is left; there is no earlier set to go back to", files.join(", "));
        tracing::warn!(reason, "{message}");
        let attempt = Attempt { trigger: Trigger::Rollback, files, gate: Duration::ZERO, difference: None };
        let mut record = self.records.unchanged(attempt, self.generation());
        record.message = crate::instance::clip(&format!("{message} ({reason})"), 256);
        self.records.amend(record.number, |kept| kept.message.clone_from(&record.message));
        Ok(record)
    }

    /// Takes back what the breaker tripped on: to the newest earlier set without it, or else to nothing in
    /// its place (the embedded default, or closed). Nothing to do if it does not serve any more.
    pub(crate) fn take_back(&self, bad: &Arc<Loaded>) {
        let mut history = self.history.lock();
        let serving = self.current.load().set.clone();
        let serves = |set: &Set| set.members.iter().any(|loaded| loaded.source.identity() == bad.source.identity());
        if !serves(&serving) {
            return;
        }
        if bad.source.embedded {
            // There is nothing behind the defaults; the failure matrix goes on answering.
            tracing::error!(policy = %bad.name, "an embedded policy keeps failing");
            return;
        }
        history.moved();
        history.poisoned.push(bad.source.identity());
        if history.poisoned.len() > POISONED_MAX {
            history.poisoned.remove(0);
        }
        let mut set = None;
        while let Some(earlier) = history.earlier.pop() {
            if history.poisoned_in(&earlier).is_none() {
                set = Some(earlier);
                break;
            }
        }
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
                history.shun(&serving, &set);
                let set = set.closed_since(&serving, Closure::Refused(RefusalCode::Poisoned));
                self.flip(&mut history, set.clone(), attempt).map(|record| (set, record))
            }
            Err(refusal) => Err((refusal, attempt)),
        };
        match flipped {
            Ok((set, record)) => {
                history.hold(&set);
                self.remember(&mut history);
                self.reverts.fetch_add(1, Ordering::Relaxed);
                let refusal = taken_back(&bad.source.file, &bad.source.identity());
                tracing::error!(file = %refusal.file, generation = record.to.0, "{}", refusal.message);
                self.records.amend(record.number, |kept| kept.message.clone_from(&refusal.message));
                let stands = history.judged.values().any(|identity| *identity == bad.source.identity());
                history.refused.extend(stands.then(|| (bad.source.identity(), refusal)));
            }
            Err((refusal, attempt)) => {
                drop(history);
                self.refused(refusal, Vec::new(), attempt);
            }
        }
    }
}
