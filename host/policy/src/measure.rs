//! Times of the crate's own parts, printed by `cargo test --release -p tidegate-policy --lib measure --
//! --nocapture`. In a debug build it only shows that the measured paths work. Judges nothing but order of
//! magnitude: floors are the business of `cargo xtask bench`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::CompileCache;
use crate::config::PolicyConfig;
use crate::embedded;
use crate::engine::{Engines, thread_cpu_time};
use crate::gate::Gate;
use crate::model::*;

/// What the access component does for this question, natively.
fn native(who: &Principal, place: &SessionFacts, what: &Action) -> Verdict {
    let has = |scope: &str| who.0.scopes.iter().any(|have| have == scope);
    match what {
        Action::Read if who.0.id == place.0.owner && has("sessions:own") => Verdict::Allow { rule: 1 },
        _ => Verdict::Deny { rule: 4, reason: "the session belongs to another key".to_owned() },
    }
}

/// Time on the processor: a busy machine changes it little.
fn per_call(calls: u32, mut call: impl FnMut()) -> Duration {
    let start = thread_cpu_time();
    for _ in 0..calls {
        call();
    }
    (thread_cpu_time() - start) / calls
}

#[test]
fn decisions_and_gates() {
    let calls = if cfg!(debug_assertions) { 200 } else { 200_000 };
    let dir = tempfile::tempdir().expect("tempdir");
    let config = PolicyConfig::new(dir.path());
    let engines = Arc::new(Engines::new(&config.limits, config.threads).expect("engines"));
    let gate = || {
        Gate::new(
            Arc::clone(&engines),
            CompileCache::open(dir.path(), config.cache_bytes_max).expect("cache"),
            config.clone(),
        )
    };
    let source = || embedded::sources().next().expect("access");

    let start = Instant::now();
    gate().load(source()).expect("passes");
    let cold = start.elapsed();
    let mut warm: Vec<Duration> = (0..50)
        .map(|_| {
            let start = Instant::now();
            gate().load(source()).expect("passes");
            start.elapsed()
        })
        .collect();
    warm.sort();

    let loaded = gate().load(source()).expect("passes");
    let made = per_call(calls / 100, || drop(black_box(loaded.pre.instance("{}").expect("instance"))));
    let mut guest = loaded.pre.instance("{}").expect("instance");
    let who = Principal::new(
        "key-0123456789abcdef",
        vec!["sessions:own".into()],
        vec!["Area1.*".into()],
        vec![],
        "192.0.2.1",
    );
    let place = SessionFacts::new("session-0123456789abcdef0123456789abcdef", "key-0123456789abcdef", "line-1", "sim");
    let closure =
        per_call(calls, || drop(black_box(native(black_box(&who), black_box(&place), black_box(&Action::Read)))));
    let decide = per_call(calls, || drop(black_box(guest.access(&who, &place, &Action::Read).expect("decides"))));
    let tags: Vec<Arc<str>> = (0..256).map(|n| Arc::from(format!("Area1.Pump{n}.Flow"))).collect();
    let judge =
        per_call(calls / 100, || drop(black_box(guest.judge_items(&who, &place, &tags).expect("judges")))) / 256;
    println!(
        "gate cold {cold:?}, cached median {:?} max {:?}; instance {made:?}; decide {decide:?} (closure {closure:?}); item {judge:?}",
        warm[warm.len() / 2],
        warm[warm.len() - 1],
    );
    assert!(warm[warm.len() / 2] < cold);
}
