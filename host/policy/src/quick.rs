//! Which components may answer on the thread that asks. Waking another thread costs ten times what a decision does;
//! but a guest that loops must stall no pump. So it has to have been quick on the threads for guests before, it gets
//! `BRIEF` on the asking one and not its deadline, and once it needed longer it never gets that again. Knows no
//! wasmtime. Invariant: what a component costs an asking thread beyond `QUICK` it costs a few times in its life.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Processor time from the first tick on that a guest may take on the asking thread. With the ticks before
/// and after it 5 to 10 ms, once.
pub(crate) const BRIEF: Duration = Duration::from_millis(2);

/// A decision that took no longer is quick. Guessed: fifty times what the default components take.
const QUICK: Duration = Duration::from_micros(100);
/// So many quick ones in a row on the threads for guests let it answer on asking ones.
const PROVEN: u32 = 32;
/// Overran `BRIEF`.
const NEVER: u32 = u32::MAX;
/// What one slow decision on an asking thread weighs, in quick ones; and what is too much.
const STRIKE: u32 = 256;
const STRIKES_MAX: u32 = 4 * STRIKE;

#[derive(Debug, Default)]
pub(crate) struct Quickness {
    in_a_row: AtomicU32,
    strikes: AtomicU32,
}

impl Quickness {
    pub(crate) fn is_proven(&self) -> bool {
        (PROVEN..NEVER).contains(&self.in_a_row.load(Ordering::Relaxed))
    }

    /// On a thread for guests.
    pub(crate) fn answered(&self, took: Duration) {
        // Several threads count; one of them may lose a step, which costs one more proof.
        match self.in_a_row.load(Ordering::Relaxed) {
            NEVER => {}
            _ if took > QUICK => self.in_a_row.store(0, Ordering::Relaxed),
            count => self.in_a_row.store(count.saturating_add(1).min(PROVEN), Ordering::Relaxed),
        }
    }

    /// On an asking thread. A busy machine takes the processor away from quick ones, too, now and then.
    pub(crate) fn answered_here(&self, took: Duration) {
        if took <= QUICK {
            if self.strikes.load(Ordering::Relaxed) > 0 {
                let _ = self.strikes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
            }
        } else if self.strikes.fetch_add(STRIKE, Ordering::Relaxed) + STRIKE >= STRIKES_MAX {
            self.strikes.store(0, Ordering::Relaxed);
            let _ = self.in_a_row.compare_exchange(PROVEN, 0, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// It was stopped on an asking thread, or failed there.
    pub(crate) fn failed_here(&self) {
        self.in_a_row.store(NEVER, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: X-18
    #[test]
    fn only_what_was_quick_for_long_answers_where_it_is_asked() {
        let (quick, slow) = (Duration::from_micros(3), Duration::from_millis(1));
        let one = Quickness::default();
        let prove = || (0..PROVEN).for_each(|_| one.answered(quick));
        one.answered(slow);
        assert!(!one.is_proven());
        prove();
        assert!(one.is_proven());
        for _ in 0..3 {
            one.answered_here(slow);
            (0..STRIKE).for_each(|_| one.answered_here(quick));
        }
        assert!(one.is_proven(), "now and then is the machine's doing");
        (0..4).for_each(|_| one.answered_here(slow));
        assert!(!one.is_proven(), "often is its own");
        prove();
        assert!(one.is_proven());
        one.failed_here();
        prove();
        assert!(!one.is_proven(), "never again");
    }
}
