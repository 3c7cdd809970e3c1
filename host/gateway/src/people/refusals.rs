//! How often somebody's refused tries are written down: the first ones each, more of them now and then with how many there
//! were. Knows names and counts. Invariant: bounded, and what is left out is counted.

use super::forget_oldest;
use std::collections::HashMap;

/// So many at once are each a row.
const FREE: f64 = 30.0;
/// Beyond that one row each so often. Guessed: eight thousand a day at most of one person.
const EVERY_MS: f64 = 10_000.0;
/// People remembered; those who tried longest ago leave first.
const TRACKED_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Refusals {
    by_person: HashMap<String, Refused>,
}

#[derive(Debug)]
struct Refused {
    free: f64,
    at_ms: u64,
    left_out: u64,
}

// === impl Refusals ===

impl Refusals {
    /// How many were left out before this one, which is written down; `None`: it is left out.
    pub(super) fn again(&mut self, person: &str, now_ms: u64) -> Option<u64> {
        if self.by_person.len() >= TRACKED_MAX && !self.by_person.contains_key(person) {
            forget_oldest(&mut self.by_person, |of| of.at_ms);
        }
        let new = || Refused { free: FREE, at_ms: now_ms, left_out: 0 };
        let of = self.by_person.entry(person.to_owned()).or_insert_with(new);
        let since_ms = now_ms.saturating_sub(of.at_ms) as f64;
        (of.free, of.at_ms) = ((of.free + since_ms / EVERY_MS).min(FREE), now_ms);
        if of.free < 1.0 {
            of.left_out += 1;
            return None;
        }
        of.free -= 1.0;
        Some(std::mem::take(&mut of.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_refused_tries_become_a_few_rows_that_say_how_many() {
        let mut refusals = Refusals::default();
        let written = (0..1_000).filter(|_| refusals.again("ben", 5).is_some()).count();
        assert_eq!(written, 30);
        assert_eq!(refusals.again("ada", 5), Some(0), "others have their own");
        assert_eq!(refusals.again("ben", 9_000), None);
        assert_eq!(refusals.again("ben", 10_006), Some(971));
        for n in 0..5_000 {
            refusals.again(&format!("person-{n}"), 20_000);
        }
        assert_eq!(refusals.by_person.len(), TRACKED_MAX);
    }
}
