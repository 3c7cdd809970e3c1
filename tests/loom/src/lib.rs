//! The files of the gateway in which threads agree without a lock, compiled with loom's atomics, so that a model checker tries
//! every interleaving. `cargo xtask loom` runs it. Knows those files and nothing around them. Invariant: what is tried here is
//! the gateway's own source, not a copy.

#[cfg(test)]
#[path = "../../../host/gateway/src/events/reader/bell.rs"]
mod bell;
#[cfg(test)]
#[path = "../../../host/gateway/src/sessions/places.rs"]
mod places;
#[cfg(test)]
mod sync;

#[cfg(test)]
mod tests {
    use crate::{
        bell::{Bell, Fence},
        places::Places,
        sync::{AtomicU64, Ordering},
    };
    use loom::{sync::Arc, thread};

    /// The stream publishes, then compares; the flip changes, then reads. If the stream sent, the fence covers it.
    // shows: X-03
    #[test]
    fn what_was_sent_under_the_old_generation_is_within_the_fence() {
        loom::model(|| {
            let fence = Arc::new(Fence::new(0));
            let generation = Arc::new(AtomicU64::new(1));
            let stream = {
                let (fence, generation) = (fence.clone(), generation.clone());
                thread::spawn(move || {
                    let mut sent = 0;
                    for to in [5, 9] {
                        fence.intend(to);
                        if generation.load(Ordering::SeqCst) != 1 {
                            fence.intend(sent);
                            break;
                        }
                        sent = to;
                    }
                    sent
                })
            };
            generation.store(2, Ordering::SeqCst);
            let fenced = fence.read();
            let sent = stream.join().expect("joined");
            assert!(sent <= fenced, "{sent} was sent and the fence says {fenced}");
        });
    }

    /// The pump moves the head, then rings; a reader waits, then looks again. It never sleeps over an event it waits for.
    // shows: S-03
    #[test]
    fn a_reader_that_sleeps_is_woken_by_the_event_it_waits_for() {
        loom::model(|| {
            let bell = Arc::new(Bell::<u32>::new());
            let head = Arc::new(AtomicU64::new(0));
            let pump = {
                let (bell, head) = (bell.clone(), head.clone());
                thread::spawn(move || {
                    let mut rung = Vec::new();
                    for to in [1, 2] {
                        head.store(to, Ordering::SeqCst);
                        rung.extend(bell.ring_at(to));
                    }
                    rung
                })
            };
            // It waits for any event, then only for the second: what it waited for before does not count any more.
            let mut sleeps = None;
            for (waiter, wake_from) in [(1_u32, 1), (2, 2)] {
                bell.wait(wake_from, |held| *held == waiter, || waiter);
                if head.load(Ordering::SeqCst) < wake_from {
                    sleeps = Some(waiter);
                }
            }
            let rung = pump.join().expect("joined");
            if sleeps == Some(2) {
                assert!(rung.contains(&2), "it sleeps and nobody rang: {rung:?}");
            }
        });
    }

    /// Two readers, of which one leaves and one comes, and the sweep that looks: a session with a reader, or left just now, is
    /// never seen as one that nobody ever used.
    // shows: S-10, S-11, S-12
    #[test]
    fn a_session_that_is_left_is_seen_with_its_time() {
        loom::model(|| {
            let places = Arc::new(Places::new());
            // As under another gateway, where it had been left.
            places.leave_empty(3);
            assert_eq!(places.empty_since_ms(), Some(3));
            assert!(places.take(1), "the first");
            let leaving = {
                let places = places.clone();
                thread::spawn(move || places.give_back(7))
            };
            let coming = {
                let places = places.clone();
                thread::spawn(move || places.take(1))
            };
            if let Some(since) = places.empty_since_ms() {
                assert_eq!(since, 7, "empty, and nobody knows since when");
            }
            leaving.join().expect("joined");
            let came = coming.join().expect("joined");
            assert_eq!(places.taken(), u32::from(came));
            assert_eq!(places.empty_since_ms().is_none(), came);
        });
    }

    // shows: S-10
    #[test]
    fn no_more_places_are_taken_than_there_are() {
        loom::model(|| {
            let places = Arc::new(Places::new());
            assert!(places.take(2), "the first");
            let other = {
                let places = places.clone();
                thread::spawn(move || places.take(2))
            };
            let took = [places.take(2), other.join().expect("joined")];
            assert_eq!((took.iter().filter(|took| **took).count(), places.taken()), (1, 2));
        });
    }
}
