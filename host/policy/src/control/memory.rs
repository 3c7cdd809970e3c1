//! What of the history outlives the process. Knows what is remembered, not when it changes. Invariant: put together with
//! `history` locked, written without it; an older one never takes the place of a newer one.

use super::Control;
use super::history::History;
use crate::generation::Unclaimed;
use crate::instance::PolicySource;
use crate::model::{Digest, Policy};
use crate::record::PinReason;
use crate::store::{Remembered, RememberedPin};

/// What is to be written.
#[must_use]
pub(super) struct Memo {
    number: u64,
    sources: Vec<PolicySource>,
    /// But for `last_good`, which is known once the contents are kept.
    remembered: Remembered,
}

// === impl Control ===

impl Control {
    pub(super) fn memo(&self, history: &mut History) -> Memo {
        let current = self.current.load();
        current.set.chosen().for_each(|loaded| history.grant(loaded));
        history.returned.retain(|of| current.set.chosen().any(|loaded| loaded.source.identity() == *of));
        history.memos += 1;
        let pin = history.pin.map(|pin| RememberedPin {
            by_operator: pin == PinReason::Operator,
            // What is being judged is nothing that the next run knows.
            known: history.judged.values().filter(|id| !history.trying.contains(id)).map(Digest::to_hex).collect(),
            told: history.tell(),
        });
        let closed = current.set.answerer(Policy::Access).is_none().then(|| current.set.closed_by.as_str().to_owned());
        Memo {
            number: history.memos,
            sources: current.set.chosen().map(|loaded| loaded.source.clone()).collect(),
            remembered: Remembered {
                last_good: Vec::new(),
                access_chosen: current.set.unclaimed() == Unclaimed::Closed,
                closed,
                before: true,
                pin,
                poisoned: history.poisoned.iter().map(Digest::to_hex).collect(),
                shunned: history.shunned.iter().map(Digest::to_hex).collect(),
                returned: history.returned.iter().map(Digest::to_hex).collect(),
                approved: history.approved.clone(),
                granted: history.granted.clone(),
            },
        }
    }

    /// Failing to write costs memory over a restart, not this swap.
    pub(super) fn write(&self, memo: Memo) {
        let mut written = self.written.lock();
        if *written > memo.number {
            return;
        }
        *written = memo.number;
        let sources: Vec<&PolicySource> = memo.sources.iter().collect();
        let remembered = self
            .store
            .keep(&sources)
            .and_then(|last_good| self.store.remember(&Remembered { last_good, ..memo.remembered }));
        match &remembered {
            Ok(()) => {
                let keep: Vec<_> = sources.iter().flat_map(|source| [source.digest, source.settings_digest]).collect();
                self.store.trim(&keep);
            }
            Err(error) => tracing::error!(%error, "the serving set of policies cannot be remembered for a restart"),
        }
        self.store_trouble.note(remembered);
    }

    /// Why the serving set would not survive a restart, if it would not.
    pub(crate) fn store_trouble(&self) -> Option<String> {
        self.store_trouble.get()
    }

    /// Tries again what could not be written.
    pub(crate) fn heal(&self) {
        if self.store_trouble.get().is_some() {
            let memo = self.memo(&mut self.history.lock());
            self.write(memo);
        }
    }
}
