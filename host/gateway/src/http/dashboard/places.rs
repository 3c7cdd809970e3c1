//! Places of open pages that are kept up to date: each is a connection for as long as somebody looks. Knows names and
//! counts. Invariant: one person does not take the places of others, and all together leave connections for requests.

use crate::error::{Code, Error, Result};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// Guessed: a wall of screens. A browser's hidden pages have none open.
const OF_ONE_PERSON_MAX: usize = 16;
/// Half of what the listener takes.
const IN_ALL_MAX: usize = 128;

#[derive(Debug, Default)]
pub(super) struct Places {
    /// Only those who have one.
    by_person: Mutex<HashMap<Arc<str>, usize>>,
}

/// Held by an open page.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    person: Arc<str>,
}

// === impl Places ===

impl Places {
    pub(super) fn take(self: &Arc<Self>, person: &Arc<str>) -> Result<Place> {
        let mut by_person = self.by_person.lock();
        let all: usize = by_person.values().sum();
        let theirs = by_person.entry(Arc::clone(person)).or_default();
        let full = if *theirs >= OF_ONE_PERSON_MAX {
            Some((OF_ONE_PERSON_MAX, "you have"))
        } else {
            (all >= IN_ALL_MAX).then_some((IN_ALL_MAX, "there are"))
        };
        if let Some((max, whose)) = full {
            if *theirs == 0 {
                by_person.remove(person);
            }
            let message = format!("{whose} {max} live pages open, and no more may be; close some");
            return Err(Error::new(Code::HttpPages, message).with("limit", max));
        }
        *theirs += 1;
        Ok(Place { places: Arc::clone(self), person: Arc::clone(person) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_person = self.places.by_person.lock();
        let Some(theirs) = by_person.get_mut(&self.person) else { return };
        *theirs -= 1;
        if *theirs == 0 {
            by_person.remove(&self.person);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_person_leaves_room_for_others_and_who_closes_a_page_gives_its_place_back() {
        let places = Arc::new(Places::default());
        let take = |name: &str| places.take(&Arc::from(name));
        let mut held: Vec<_> = (0..OF_ONE_PERSON_MAX).map(|_| take("ben").expect("a place")).collect();
        assert_eq!(take("ben").expect_err("no more").code(), Code::HttpPages);
        held.push(take("ada").expect("others have theirs"));
        drop(held.remove(0));
        held.push(take("ben").expect("given back"));
        for n in 0..IN_ALL_MAX - OF_ONE_PERSON_MAX - 1 {
            held.push(take(&format!("crew-{n}")).expect("a place"));
        }
        assert_eq!(take("eve").expect_err("all are taken").code(), Code::HttpPages);
        held.clear();
        assert!(places.by_person.lock().is_empty(), "nothing is kept of who has none");
    }
}
