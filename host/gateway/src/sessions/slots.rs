//! How many sessions there may be at a time, when that changes or was another one before. Knows the places, not who has
//! them. Invariant: no session ends for want of a place; none opens until there is one.

use super::Sessions;
use tokio::sync::OwnedSemaphorePermit;

impl Sessions {
    /// Other than before: more at once, fewer as they come free.
    pub(super) fn change_places(&self, old: usize, new: usize) {
        self.shared.slots.add_permits(new.saturating_sub(old));
        self.take_places_away(old.saturating_sub(new));
    }

    /// A place for a session that was there before: one more than there are, if it must be, which `surplus` counts.
    pub(super) fn place_whatever_the_bound(&self, surplus: &mut usize) -> Option<OwnedSemaphorePermit> {
        let slots = &self.shared.slots;
        if slots.available_permits() == 0 {
            slots.add_permits(1);
            *surplus += 1;
        }
        slots.clone().try_acquire_owned().ok()
    }

    /// Those that are free at once, the others when they are given back.
    pub(super) fn take_places_away(&self, fewer: usize) {
        let left = fewer - self.shared.slots.forget_permits(fewer);
        let Some(left) = u32::try_from(left).ok().filter(|left| *left > 0) else { return };
        let (slots, stopping) = (self.shared.slots.clone(), self.shared.tasks.stopping());
        self.shared.tasks.spawn("fewer places", async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                given_back = slots.acquire_many(left) => if let Ok(given_back) = given_back { given_back.forget() },
            }
        });
    }
}
