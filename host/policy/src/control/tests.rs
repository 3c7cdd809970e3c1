//! What moves the pointer while a set is judged, and while its instances are made.

use std::time::Instant;

use super::*;
use crate::cache::CompileCache;
use crate::embedded;
use crate::engine::Engines;
use crate::gate::Gate;
use crate::guests;
use crate::instance::GUEST_CALLS;

struct Bed {
    control: Control,
    gate: Gate,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        Self::of(1)
    }

    fn of(threads: usize) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut config = PolicyConfig { threads, ..PolicyConfig::new(dir.path()) };
        config.deadlines.configure = Duration::from_secs(60);
        config.deadlines.vectors = Duration::from_secs(60);
        let engines = Arc::new(Engines::new(&config.limits, config.threads).expect("engines"));
        let cache = CompileCache::open(dir.path(), 1 << 30).expect("cache");
        let gate = Gate::new(engines, cache, config.clone());
        let load = |source| Arc::new(gate.load(source).expect("loads"));
        let embedded: Vec<_> = embedded::sources().map(load).collect();
        let first = Set::compose(&[], &embedded, Unclaimed::Default).expect("a set");
        let store = ContentStore::open(dir.path()).expect("store");
        let control = Control::new(embedded, first, config, store, &Remembered::default(), Starting::default());
        let control = control.expect("control");
        Self { control, gate, _dir: dir }
    }

    /// As if this build's component for `stem` came from the folder, with settings.
    fn component(&self, stem: &str, settings: &str) -> Arc<Loaded> {
        let of = embedded::sources().find(|source| &*source.stem == stem).expect("embedded");
        let source = PolicySource::new(stem, &format!("{stem}.wasm"), false, of.bytes, settings);
        Arc::new(self.gate.load(source).expect("loads"))
    }

    /// Takes its time for each instance.
    fn slow(&self) -> Arc<Loaded> {
        let bytes = guests::slow("well", 0).into();
        Arc::new(self.gate.load(PolicySource::new("access", "access.wasm", false, bytes, "{}")).expect("loads"))
    }

    /// Runs `move_it` on a thread of its own, and `meanwhile` here once `is_made` says that instances are being made there.
    fn while_made<T: Send, U>(
        move_it: impl FnOnce() -> T + Send,
        is_made: impl Fn() -> bool,
        meanwhile: impl FnOnce() -> U,
    ) -> (T, U) {
        std::thread::scope(|scope| {
            let moving = scope.spawn(move_it);
            let end = Instant::now() + Duration::from_secs(30);
            while !is_made() {
                assert!(Instant::now() < end, "nothing is being made");
                std::thread::yield_now();
            }
            let done = meanwhile();
            (moving.join().expect("no panic"), done)
        })
    }

    fn swap(&self, basis: &Basis, chosen: &[&Arc<Loaded>]) -> Result<SwapRecord, Overtaken> {
        let chosen: Vec<_> = chosen.iter().map(|loaded| Arc::clone(loaded)).collect();
        let tried: Vec<_> = chosen.iter().map(|loaded| loaded.source.identity()).collect();
        let attempt = Attempt { trigger: Trigger::Folder, files: Vec::new(), gate: Duration::ZERO, difference: None };
        self.control.swap(basis, &chosen, &tried, attempt)
    }

    /// What has passed the gate by now; gives the way in.
    fn judge<'a>(&'a self, loaded: &'a Arc<Loaded>) -> impl FnOnce() -> Result<SwapRecord, Overtaken> + Send + 'a {
        let basis = self.control.basis();
        self.control.trying(&[loaded.source.identity()]);
        move || self.swap(&basis, &[loaded])
    }

    fn serves(&self, loaded: &Loaded) -> bool {
        self.control.basis().chosen.iter().any(|other| other.source.identity() == loaded.source.identity())
    }
}

// shows: X-07
#[test]
fn what_was_taken_back_while_another_file_was_judged_stays_away() {
    let bed = Bed::new();
    let (bad, other) = (bed.component("access", "{}"), bed.component("rate-limit", "{}"));
    bed.swap(&bed.control.basis(), &[&bad]).expect("swapped");
    assert!(bed.serves(&bad));
    let basis = bed.control.basis();
    let judged = BTreeMap::from([("rate-limit".to_owned(), other.source.identity())]);
    bed.control.judged(judged, BTreeMap::new(), Vec::new());
    bed.control.trying(&[other.source.identity()]);
    bed.control.take_back(&bad);
    assert_eq!(bed.swap(&basis, &[&bad, &other]).expect_err("overtaken"), Overtaken);
    assert!(!bed.serves(&bad) && !bed.serves(&other));
    let anew = bed.control.basis();
    assert!(anew.judged.is_empty(), "what was tried is new again: {:?}", anew.judged);
    assert_eq!((anew.poisoned, anew.pin), (vec![bad.source.identity()], Some(PinReason::Rollback)));
    bed.swap(&bed.control.basis(), &[&other]).expect("planned anew");
    assert!(!bed.serves(&bad) && bed.serves(&other));
}

// shows: X-06
#[test]
fn with_nothing_to_go_back_to_a_rollback_leaves_what_is_being_judged() {
    let bed = Bed::new();
    assert_eq!(bed.control.rollback("why").expect_err("nothing at all"), RollbackError::Nothing);
    let first = bed.component("access", "{}");
    let basis = bed.control.basis();
    let judged = BTreeMap::from([("access".to_owned(), first.source.identity())]);
    bed.control.judged(judged, BTreeMap::from([("access".to_owned(), "access.wasm".to_owned())]), Vec::new());
    bed.control.trying(&[first.source.identity()]);
    let left = bed.control.rollback("3 a.m.").expect("an answer");
    assert_eq!(
        (left.outcome, left.to, left.files.as_slice()),
        (Outcome::Unchanged, GenerationId(1), &["access.wasm".to_owned()][..])
    );
    assert!(left.message.contains("access.wasm") && left.message.contains("3 a.m."), "{}", left.message);
    assert_eq!(bed.swap(&basis, &[&first]).expect_err("left"), Overtaken);
    let anew = bed.control.basis();
    assert_eq!((anew.pin, anew.shunned), (Some(PinReason::Rollback), vec![first.source.identity()]));
}

// shows: X-06
#[test]
fn what_somebody_said_while_a_set_was_judged_counts() {
    let bed = Bed::new();
    let (one, two) = (bed.component("access", "{}"), bed.component("access", r#"{"deny":["A.*"]}"#));
    bed.swap(&bed.control.basis(), &[&one]).expect("swapped");
    let basis = bed.control.basis();
    bed.control.pin(true);
    assert_eq!(bed.swap(&basis, &[&two]).expect_err("pinned"), Overtaken);
    assert_eq!((bed.control.basis().pin, bed.serves(&one)), (Some(PinReason::Operator), true));
    bed.control.pin(false);
    let basis = bed.control.basis();
    bed.control.trying(&[two.source.identity()]);
    bed.control.rollback("3 a.m.").expect("rolled back");
    assert_eq!(bed.swap(&basis, &[&two]).expect_err("rolled back"), Overtaken);
    let anew = bed.control.basis();
    assert_eq!((anew.pin, anew.chosen.len()), (Some(PinReason::Rollback), 0));
    assert_eq!(anew.shunned, [one.source.identity(), two.source.identity()], "what was being judged is left, too");
}

// shows: X-04, X-06, X-07
#[test]
fn what_takes_long_to_make_holds_up_neither_a_listing_nor_a_way_back() {
    let bed = Bed::of(8);
    let (one, two) = (bed.component("access", "{}"), bed.component("access", r#"{"deny":["A.*"]}"#));
    let slow = bed.slow();
    for loaded in [&one, &two] {
        bed.judge(loaded)().expect("swapped");
    }
    let guest_runs = || {
        let before = GUEST_CALLS.load(Ordering::SeqCst);
        move || GUEST_CALLS.load(Ordering::SeqCst) > before
    };
    let (swapped, listing) = Bed::while_made(bed.judge(&slow), guest_runs(), || {
        let listing = (bed.control.listing(), bed.control.live());
        bed.control.rollback("3 a.m.").expect("rolled back");
        listing
    });
    assert_eq!((listing.0.generation, listing.1), (GenerationId(3), 1), "seen before it is made");
    assert_eq!(swapped.expect_err("rolled back meanwhile"), Overtaken);
    let now = bed.control.basis();
    assert!(bed.serves(&one) && now.shunned.contains(&slow.source.identity()), "left with what it came beside");
    bed.judge(&two)().expect("swapped");
    let (swapped, ()) = Bed::while_made(bed.judge(&slow), guest_runs(), || bed.control.take_back(&two));
    assert_eq!(swapped.expect_err("taken back meanwhile"), Overtaken);
    assert!(bed.serves(&one) && bed.control.basis().poisoned == [two.source.identity()]);
}

// shows: X-06, X-07
#[test]
fn a_way_back_that_is_being_made_is_overtaken_by_another_and_not_by_a_swap() {
    let bed = Bed::of(8);
    let (one, two) = (bed.component("access", "{}"), bed.component("access", r#"{"deny":["A.*"]}"#));
    let slow = bed.slow();
    let far_from_slow = || {
        for loaded in [&slow, &one, &two] {
            bed.swap(&bed.control.basis(), &[loaded]).expect("swapped");
        }
        bed.control.rollback("one step").expect("its instances are kept");
        assert!(bed.serves(&one));
    };
    far_from_slow();
    let basis = bed.control.basis();
    let on_the_way = || bed.control.history.lock().is_left();
    let another = || bed.control.rollback("another");
    let (back, swapped) = Bed::while_made(another, on_the_way, || bed.swap(&basis, &[&two]));
    assert_eq!((back.expect("rolled back").outcome, swapped.expect_err("rolled back")), (Outcome::Swapped, Overtaken));
    assert!(bed.serves(&slow) && !bed.serves(&two));
    // One word takes one step, though the breaker took it first.
    far_from_slow();
    let serving = bed.control.generation();
    let (back, ()) = Bed::while_made(another, on_the_way, || {
        // As if the instances of the one before were still kept.
        let at_hand = Set::compose(&[], &bed.control.embedded, Unclaimed::Default).expect("a set");
        let kept = Generation::first(GenerationId(0), &at_hand, 8).expect("instances");
        let mut history = bed.control.history.lock();
        history.retiring.push(Arc::new(kept));
        history.earlier = vec![at_hand];
        drop(history);
        bed.control.take_back(&one);
    });
    let back = back.expect("an answer");
    assert_eq!((back.outcome, back.to.0), (Outcome::Unchanged, serving.0 + 1), "{}", back.message);
    assert!(back.message.contains("left meanwhile"), "{}", back.message);
    assert!(!bed.serves(&one) && !bed.serves(&slow), "and no further");
}
