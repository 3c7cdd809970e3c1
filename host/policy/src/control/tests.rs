//! What moves the pointer while a set is judged.

use super::*;
use crate::cache::CompileCache;
use crate::embedded;
use crate::engine::Engines;
use crate::gate::Gate;

struct Bed {
    control: Control,
    gate: Gate,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = PolicyConfig { threads: 1, ..PolicyConfig::new(dir.path()) };
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

    fn swap(&self, basis: &Basis, chosen: &[&Arc<Loaded>]) -> Result<SwapRecord, Overtaken> {
        let chosen: Vec<_> = chosen.iter().map(|loaded| Arc::clone(loaded)).collect();
        let tried: Vec<_> = chosen.iter().map(|loaded| loaded.source.identity()).collect();
        let attempt = Attempt { trigger: Trigger::Folder, files: Vec::new(), gate: Duration::ZERO, difference: None };
        self.control.swap(basis, &chosen, &tried, attempt)
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
