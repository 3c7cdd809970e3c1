//! The latest attempts to change what decides. Knows no generation, only their numbers. Invariant: at most
//! `RECORDS_MAX` are kept; numbers rise without holes, and who follows them finds the record.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::evidence::Comparison;
use crate::gate::Refusal;
use crate::model::GenerationId;
use crate::record::{Fence, Outcome, REFUSALS_MAX, SwapRecord, Trigger};

/// Guessed: a screen or two of history; the log has the rest.
const RECORDS_MAX: usize = 64;

/// Behind a lock of its own: who reads them waits for no flip.
pub(super) struct Records {
    kept: Mutex<Kept>,
    /// Number of the newest record.
    newest: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    last: VecDeque<SwapRecord>,
    number: u64,
    swaps: u64,
    refused: u64,
}

/// A finished attempt on its way into the records.
#[derive(Clone)]
pub(crate) struct Attempt {
    pub(crate) trigger: Trigger,
    pub(crate) files: Vec<String>,
    pub(crate) gate: Duration,
    pub(crate) difference: Option<Box<Comparison>>,
}

// === impl Records ===

impl Records {
    pub(super) fn swapped(
        &self,
        attempt: Attempt,
        from: GenerationId,
        to: GenerationId,
        fences: Vec<Fence>,
        flip_us: u64,
    ) -> SwapRecord {
        self.keep(SwapRecord { fences, flip_us, ..blank(attempt, Outcome::Swapped, from, to) })
    }

    /// `first` is what the attempt is named by; `others` were refused with it.
    pub(super) fn refused(
        &self,
        attempt: Attempt,
        at: GenerationId,
        first: Refusal,
        others: Vec<Refusal>,
    ) -> SwapRecord {
        let refusals_more = (1 + others.len()).saturating_sub(REFUSALS_MAX);
        self.keep(SwapRecord {
            code: Some(first.code),
            file: Some(first.file.clone()),
            message: first.message.clone(),
            refusals: std::iter::once(first).chain(others).take(REFUSALS_MAX).collect(),
            refusals_more,
            ..blank(attempt, Outcome::Refused, at, at)
        })
    }

    pub(super) fn unchanged(&self, attempt: Attempt, at: GenerationId) -> SwapRecord {
        let message = "nothing has changed".to_owned();
        self.keep(SwapRecord { message, ..blank(attempt, Outcome::Unchanged, at, at) })
    }

    /// The folder says otherwise than what was judged.
    pub(super) fn moved_on(&self, attempt: Attempt, at: GenerationId) -> SwapRecord {
        let message = "the folder changed while this was judged; what stands there now is judged instead".to_owned();
        self.keep(SwapRecord { message, ..blank(attempt, Outcome::Unchanged, at, at) })
    }

    pub(super) fn amend(&self, number: u64, change: impl FnOnce(&mut SwapRecord)) {
        if let Some(record) = self.kept.lock().last.iter_mut().rev().find(|record| record.number == number) {
            change(record);
        }
    }

    /// Of several reports the slowest is the one that counts.
    pub(super) fn enforced(&self, generation: GenerationId, micros: u64) {
        let mut kept = self.kept.lock();
        let of = |record: &&mut SwapRecord| record.to == generation && record.outcome == Outcome::Swapped;
        if let Some(record) = kept.last.iter_mut().rev().find(of) {
            record.enforced_us = Some(record.enforced_us.unwrap_or(0).max(micros));
            self.newest.send_modify(|_| {});
        }
    }

    /// As it is now, or as it was given if it is too old to be known.
    pub(super) fn latest(&self, record: SwapRecord) -> SwapRecord {
        let kept = self.kept.lock();
        kept.last.iter().rev().find(|kept| kept.number == record.number).cloned().unwrap_or(record)
    }

    /// Swapped and refused.
    pub(super) fn counts(&self) -> (u64, u64) {
        let kept = self.kept.lock();
        (kept.swaps, kept.refused)
    }

    /// Oldest first.
    pub(super) fn last(&self) -> Vec<SwapRecord> {
        self.kept.lock().last.iter().cloned().collect()
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Numbers a record, keeps it and tells who follows.
    fn keep(&self, mut record: SwapRecord) -> SwapRecord {
        let mut kept = self.kept.lock();
        kept.number += 1;
        record.number = kept.number;
        match record.outcome {
            Outcome::Swapped => kept.swaps += 1,
            Outcome::Refused => kept.refused += 1,
            Outcome::Unchanged => {}
        }
        if kept.last.len() == RECORDS_MAX {
            kept.last.pop_front();
        }
        kept.last.push_back(record.clone());
        self.newest.send_replace(record.number);
        record
    }
}

impl Default for Records {
    fn default() -> Self {
        Self { kept: Mutex::default(), newest: watch::Sender::new(0) }
    }
}

fn blank(attempt: Attempt, outcome: Outcome, from: GenerationId, to: GenerationId) -> SwapRecord {
    SwapRecord {
        number: 0,
        at_ms: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64),
        trigger: attempt.trigger,
        outcome,
        from,
        to,
        files: attempt.files,
        code: None,
        file: None,
        message: String::new(),
        refusals: Vec::new(),
        refusals_more: 0,
        gate_us: attempt.gate.as_micros() as u64,
        flip_us: 0,
        fences: Vec::new(),
        enforced_us: None,
        difference: attempt.difference.map(|boxed| *boxed),
    }
}
