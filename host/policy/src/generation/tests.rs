//! What becomes of the instances of a generation.

use super::*;
use crate::cache::CompileCache;
use crate::config::PolicyConfig;
use crate::embedded;
use crate::engine::Engines;
use crate::gate::Gate;
use crate::guests;
use crate::instance::PolicySource;

// shows: X-07
#[test]
fn a_way_back_takes_over_the_instances_of_before() {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = PolicyConfig::new(dir.path());
    let engines = Arc::new(Engines::new(&config.limits, config.threads).expect("engines"));
    let gate = Gate::new(engines, CompileCache::open(dir.path(), 1 << 30).expect("cache"), config);
    let source = embedded::sources().find(|source| &*source.stem == "access").expect("access");
    let members = vec![Arc::new(gate.load(source).expect("passes"))];
    let answerer = [Some(0), None, None, None, None];
    let set = || Set { members: members.clone(), answerer, closed_by: Closure::Removed };
    let made = |id, kept: &[Arc<Generation>]| {
        let mut stock = Stock::default();
        let lacking = Generation::new(GenerationId(id), &set(), 2, kept, &mut stock).map(Arc::new);
        lacking
            .or_else(|lacking| {
                stock.fill(lacking, || false);
                Generation::new(GenerationId(id), &set(), 2, kept, &mut stock).map(Arc::new)
            })
            .expect("a generation")
    };
    let lacks = |of: &Generation| (0..2).filter(|thread| of.lacks(*thread, Policy::Access).is_some()).count();
    let kept = [made(1, &[])];
    let called = Arc::clone(&kept[0]);
    assert_eq!((lacks(&made(2, &kept)), lacks(&called)), (0, 0), "a call may be under way");
    drop(called);
    assert_eq!((lacks(&made(3, &kept)), lacks(&kept[0])), (0, 2), "taken over, not made");
}

/// A generation of one component that answers access, which has proved to be quick.
fn quick(guest: Vec<u8>) -> (Generation, tempfile::TempDir) {
    let dir = tempfile::tempdir().expect("tempdir");
    let config = PolicyConfig::new(dir.path());
    let engines = Arc::new(Engines::new(&config.limits, config.threads).expect("engines"));
    let gate = Gate::new(engines, CompileCache::open(dir.path(), 1 << 30).expect("cache"), config);
    let source = PolicySource::new("access", "access.wasm", false, guest.into(), "{}");
    let loaded = Arc::new(gate.load(source).expect("passes"));
    (0..1_000).for_each(|_| loaded.quickness.answered(Duration::ZERO));
    let answerer = [Some(0), None, None, None, None];
    let set = Set { members: vec![loaded], answerer, closed_by: Closure::Removed };
    (Generation::first(GenerationId(1), &set, 1).expect("a generation"), dir)
}

/// As a request's thread asks it: one that drives a runtime.
fn asked(of: &Generation, id: &str) -> Option<Called<Verdict>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let who = Principal::new("k", vec![], vec![], vec![], "");
    let place = SessionFacts::new(id, "k", "", "sim");
    runtime.block_on(async {
        let access = |guest: &mut PolicyInstance, _| guest.access(&who, &place, &Action::Read).map(Ruled::from);
        of.call_here(Policy::Access, access, crate::failure::access)
    })
}

// shows
#[test]
fn a_guest_that_writes_and_traps_on_the_asking_thread_has_trapped() {
    let (generation, _dir) = quick(guests::guest("talks"));
    let loaded = Arc::clone(&generation.set.members[0]);
    for _ in 0..2 {
        let said = asked(&generation, "fine!").expect("it is asked here");
        assert!(said.decision.value.is_allow() && said.decision.cause.is_none(), "{said:?}");
    }
    let failed = asked(&generation, "boom").expect("it is asked here");
    assert_eq!((failed.decision.cause, failed.decision.value.is_allow()), (Some(FailureCause::Trap), false));
    assert!(generation.lacks(0, Policy::Access).is_some(), "the instance goes with the failure");
    assert!(!loaded.quickness.is_proven(), "and so does its place on the asking thread");
    let counted = loaded.counters.read(Policy::Access, loaded.source.digest);
    assert_eq!(counted.failures.iter().map(|(_, count)| count).sum::<u64>(), 1);
}

// shows
#[test]
fn a_panic_of_the_gateway_on_the_way_to_a_guest_is_a_failure_of_the_answer_only() {
    let (generation, _dir) = quick(guests::guest("well"));
    let loaded = Arc::clone(&generation.set.members[0]);
    let broken = |_: &mut PolicyInstance, _| -> Result<Ruled<Verdict>, CallFailure> { panic!("a host function fails") };
    let here = generation.call_here(Policy::Access, broken, crate::failure::access).expect("it is asked here");
    assert_eq!((here.decision.cause, here.decision.value.is_allow()), (Some(FailureCause::Trap), false));
    assert!(generation.lacks(0, Policy::Access).is_some() && !loaded.quickness.is_proven());
    let there = generation.call(0, Policy::Access, Duration::ZERO, None, broken, crate::failure::access);
    assert_eq!((there.decision.cause, there.decision.value.is_allow()), (Some(FailureCause::Trap), false));
    assert!(generation.lacks(0, Policy::Access).is_some());
    let again = |guest: &mut PolicyInstance, _: GenerationId| {
        let (who, place) = (Principal::new("k", vec![], vec![], vec![], ""), SessionFacts::new("s", "k", "", "sim"));
        guest.access(&who, &place, &Action::Read).map(Ruled::from)
    };
    let fine = generation.call(0, Policy::Access, Duration::ZERO, None, again, crate::failure::access);
    assert!(fine.decision.value.is_allow() && fine.decision.cause.is_none(), "an instance is made anew: {fine:?}");
}
