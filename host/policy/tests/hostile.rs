//! Guests that misbehave, each with what the host must make of it. A guest in tests/guests that stands in
//! no table fails the test.

#[path = "support/bench.rs"]
mod support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use support::*;
use tidegate_policy::*;

/// Refused at the gate, and as what.
const REFUSED: &[(&str, RefusalCode)] = &[
    ("bad_schema", RefusalCode::SchemaInvalid),
    ("claims_newer", RefusalCode::ContractMismatch),
    ("core_module", RefusalCode::NotAComponent),
    ("lies_in_vectors", RefusalCode::VectorFailed),
    ("loop_in_configure", RefusalCode::ConfigureFailed),
    ("loop_in_describe", RefusalCode::DescribeFailed),
    ("missing_export", RefusalCode::ContractMismatch),
    ("mixed", RefusalCode::ContractMismatch),
    ("no_contract", RefusalCode::ContractUnknown),
    ("no_vectors", RefusalCode::VectorsMissing),
    ("other_version", RefusalCode::ContractUnknown),
    ("remembers", RefusalCode::NotStateless),
    ("slow_start", RefusalCode::DescribeFailed),
    ("trap_in_describe", RefusalCode::DescribeFailed),
    ("wants_network", RefusalCode::ImportForbidden),
    ("wants_unknown", RefusalCode::ImportForbidden),
];

/// Pass the gate and fail in a decision.
const FAILING: &[(&str, FailureCause)] = &[
    ("answer_out_of_memory", FailureCause::BadAnswer),
    // What the host refuses is no trap of the guest.
    ("greedy_dice", FailureCause::BadAnswer),
    ("huge_answer", FailureCause::BadAnswer),
    ("invalid_utf8", FailureCause::BadAnswer),
    ("long_reason", FailureCause::BadAnswer),
    // It would wait for an hour, and is stopped there.
    ("looks_around", FailureCause::Trap),
    ("loop_in_decide", FailureCause::Timeout),
    ("memory_bomb", FailureCause::Memory),
    ("recursion", FailureCause::Trap),
    ("table_bomb", FailureCause::Memory),
    ("talks", FailureCause::Trap),
    ("trap", FailureCause::Trap),
    ("unknown_case", FailureCause::BadAnswer),
    ("unknown_rule", FailureCause::BadAnswer),
];

/// What happens in five.txt, and what the host makes of it.
const FAULTS: &[(&str, FailureCause)] = &[
    ("(unreachable)", FailureCause::Trap),
    ("(loop $again (br $again)) (unreachable)", FailureCause::Timeout),
    (
        "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 64)) (i32.const -1)))) (unreachable)",
        FailureCause::Memory,
    ),
    ("(i32.const 0x7ffffff0)", FailureCause::BadAnswer),
];

const SOUND: &[&str] = &["deny", "slow_judge", "well"];

#[test]
fn every_guest_has_an_expectation() {
    let expected: BTreeSet<String> = REFUSED
        .iter()
        .map(|(name, _)| *name)
        .chain(FAILING.iter().map(|(name, _)| *name))
        .chain(SOUND.iter().copied())
        .map(str::to_owned)
        .collect();
    assert_eq!(guests().into_iter().collect::<BTreeSet<_>>(), expected);
}

// shows: X-05, X-08, X-09
#[tokio::test]
async fn what_the_gate_refuses_leaves_the_old_generation_serving() {
    let bench = Bench::new();
    let host = bench.start();
    for (n, (name, code)) in REFUSED.iter().enumerate() {
        bench.put("access.wasm", &guest(name));
        let refused = until_refused(&host, n as u64 + 1).await;
        assert_eq!(refused.code, Some(*code), "{name}: {refused:?}");
        assert_eq!(refused.file.as_deref(), Some("access.wasm"), "{name}");
        let decision = host.access(&key("k", "sessions:own"), &place("boom"), Action::Read).await;
        assert!(decision.value.is_allow() && decision.cause.is_none(), "{name}: {decision:?}");
    }
    assert_eq!(host.generation(), GenerationId(1));
}

/// Nothing is compiled to find out that it is no policy, or too much.
// shows: X-05, X-08
#[tokio::test]
async fn what_is_no_policy_or_too_much_is_refused_before_it_is_compiled() {
    let mut bench = Bench::new();
    bench.config.deadlines.compile = Duration::from_secs(600);
    let host = bench.start();
    let cached = || std::fs::read_dir(bench.config.store_dir.join("cache")).expect("cache").count();
    let before = cached();
    let nots = "i32.eqz ".repeat(1_100_000);
    let bomb = format!("(component (core module (func (param i32) (result i32) local.get 0 {nots})))");
    let bomb = wat::parse_str(bomb).expect("a bomb");
    for (n, (bytes, code)) in [
        (bomb, RefusalCode::CompileFailed),
        (busy(7_000), RefusalCode::CompileFailed),
        (guest("no_contract"), RefusalCode::ContractUnknown),
    ]
    .iter()
    .enumerate()
    {
        bench.put("access.wasm", bytes);
        assert_eq!(until_refused(&host, n as u64 + 1).await.code, Some(*code));
    }
    assert_eq!(cached(), before, "nothing was compiled");
}

// shows: X-07, X-08, X-09, X-17
#[tokio::test]
async fn what_fails_in_a_decision_is_denied_and_spoils_no_other() {
    let mut bench = Bench::new();
    // The table is about single failures; taking back has its own story.
    bench.config.breaker.failures = 100;
    let host = bench.start();
    let mut holds = 0;
    for (n, (name, cause)) in FAILING.iter().enumerate() {
        bench.put("access.wasm", &guest(name));
        // They want dice, clocks and files, and the guest before each did not.
        if ["greedy_dice", "looks_around"].contains(name) {
            holds += 1;
            let held = until_refused(&host, holds).await;
            assert_eq!(held.code, Some(RefusalCode::Held), "{held:?}");
            host.approve(&host.list().held[0].identity.to_hex(), "a test").await.expect("approved");
        }
        until_generation(&host, n as u64 + 2).await;
        let who = key("k", "sessions:own");
        let start = Instant::now();
        let failed = host.access(&who, &place("boom"), Action::Read).await;
        assert_eq!(failed.cause, Some(*cause), "{name}");
        assert!(!failed.value.is_allow(), "{name}");
        assert!(start.elapsed() < Duration::from_secs(2), "{name} took {:?}", start.elapsed());
        let judged = host.judge_items(&who, &place("boom"), &tags(3)).await;
        assert_eq!(
            (judged.cause, judged.value.iter().any(|v| v.allow)),
            (Some(FailureCause::BadAnswer), false),
            "{name}"
        );
        // The store went with the failure; the next question has a fresh one.
        for _ in 0..4 {
            let next = host.access(&who, &place("fine!"), Action::Read).await;
            assert!(next.value.is_allow() && next.cause.is_none(), "{name}: {next:?}");
        }
    }
}

// shows: X-04, X-08
#[tokio::test]
async fn as_many_threads_as_can_be_set_start_and_swap() {
    let mut bench = Bench::new();
    bench.config.threads = 64;
    let host = bench.start();
    // Every generation has instances for each thread; three of them live at a time.
    for n in 1..=4 {
        bench.put("access.wasm", &marked("well", n));
        until_generation(&host, u64::from(n) + 1).await;
        let decision = host.access(&key("k", "sessions:own"), &place("s"), Action::Read).await;
        assert!(decision.value.is_allow() && decision.cause.is_none(), "{decision:?}");
    }
}

/// The failure matrix: five questions, four ways to fail. One component answers all, so that each failure has to leave
/// the other answers alone.
// shows: X-01, X-07, X-13, X-16, X-17
#[tokio::test]
async fn each_policy_and_cause_has_its_answer() {
    let mut bench = Bench::new();
    bench.config.breaker.failures = 100;
    let host = bench.start();
    let faults = CONTRACTS.iter().flat_map(|contract| FAULTS.iter().map(move |fault| (contract, fault)));
    for (n, (contract, (fault, cause))) in faults.enumerate() {
        bench.put("all.wasm", &five(contract, fault));
        until_generation(&host, n as u64 + 2).await;
        for id in ["k", "boom"] {
            let failed = (id == "boom").then_some(*cause);
            let who = key(id, "sessions:own");
            let access = host.access(&who, &place("s"), Action::Read).await;
            assert_eq!((access.cause, access.value.is_allow()), (failed, failed.is_none()), "{contract} {fault}");
            let pressure = Pressure {
                now: 0,
                who: who.clone(),
                session: place("s"),
                reader: "r".into(),
                lag_events: 9_500,
                lag_events_max: 10_000,
                log_bytes: 0,
                log_bytes_max: 1,
                asked: 1,
                since_ms: 0,
                readers: 1,
            };
            let pressed = host.backpressure(pressure).await;
            let waits = pressed.value == PressureAnswer::Wait;
            // Every answer of 0.2.0 names its rule, those that 0.1.0 has none for too.
            let ruled = (failed.is_none() && *contract != CONTRACTS[0]).then_some(0);
            assert_eq!(pressed.rule, ruled, "{contract} {fault}");
            assert_eq!((pressed.cause, waits), (failed, failed.is_none()), "{contract} {fault}: {:?}", pressed.value);
            let node = ClientNode { id: id.into(), kind: id.into(), version: "1.0".into() };
            let admitted = host.version_floor(&node, Some("9.9")).await;
            let enters = admitted.value == Admission::ReadWrite;
            assert_eq!(admitted.rule, ruled, "{contract} {fault}");
            assert_eq!(
                (admitted.cause, enters),
                (failed, failed.is_none()),
                "{contract} {fault}: {:?}",
                admitted.value
            );
            let person = Person { name: id.into(), roles: vec![], groups: vec!["g".into()] };
            let seen = host.dashboard_tags(&person, &[("g".into(), "t".into())]).await;
            let sight = if failed.is_some() { Sight::Tags(vec![]) } else { Sight::Everything };
            assert_eq!(seen.rule, ruled, "{contract} {fault}");
            assert_eq!((seen.cause, seen.value), (failed, sight), "{contract} {fault}");
            let request = RateRequest { kind: "chat".into(), cost: 1, tokens: Some(0.0), now: 0 };
            let limited = host.rate_limit(&who, request).await;
            let answer = match failed {
                Some(_) => RateAnswer::Limit { retry_ms: 200 },
                None => RateAnswer::Pass { per_second: 0.0, burst: 0.0 },
            };
            assert_eq!(limited.rule, ruled, "{contract} {fault}");
            assert_eq!((limited.cause, limited.value), (failed, answer), "{contract} {fault}");
        }
        // Each question was asked twice, failed once for this cause, and its phases have moved.
        let fresh = host.access(&key("k", ""), &place("s"), Action::Read).await;
        assert_eq!(fresh.cause, None, "an instance is made anew");
        for counted in host.counters().policies {
            let failures: Vec<_> = counted.failures.iter().filter(|(_, count)| *count > 0).collect();
            assert_eq!(failures, [&(*cause, 1)], "{fault}: {}", counted.policy);
            assert!(counted.calls >= 2 && counted.queue_us > 0, "{counted:?}");
            assert!(*cause != FailureCause::Timeout || counted.guest_us >= 50_000, "{counted:?}");
            assert!(counted.host_us > 0 && counted.guest_us > 0, "{counted:?}");
        }
        let instantiate = |counted: &PolicyCounters| counted.instantiate_us;
        assert!(host.counters().policies.iter().map(instantiate).sum::<u64>() > 0, "{fault}");
    }
}

// shows: X-18
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_looping_guest_holds_up_only_its_thread() {
    let mut bench = Bench::new();
    bench.config.breaker.failures = 100;
    bench.config.deadlines.decide = Duration::from_millis(300);
    let host = bench.start();
    bench.put("access.wasm", &guest("loop_in_decide"));
    until_generation(&host, 2).await;
    let looping = {
        let host = host.clone();
        tokio::spawn(async move { host.access(&key("k", ""), &place("boom"), Action::Read).await })
    };
    let start = Instant::now();
    let mut answered = 0;
    while !looping.is_finished() && start.elapsed() < Duration::from_secs(5) {
        let request = RateRequest { kind: "x".into(), cost: 1, tokens: None, now: 0 };
        assert_eq!(host.rate_limit(&key("k", ""), request).await.cause, None);
        answered += 1;
    }
    assert_eq!(looping.await.expect("joined").cause, Some(FailureCause::Timeout));
    assert!(answered > 10, "{answered} answers beside the loop");
}

/// One thread for everything, as a pump would share it; the guest has proved to be quick and then loops.
// shows: X-18
#[tokio::test]
async fn a_loop_after_a_quick_start_leaves_the_asking_thread() {
    let mut bench = Bench::new();
    bench.config.breaker.failures = 100;
    bench.config.deadlines.decide = Duration::from_secs(2);
    let host = bench.start();
    bench.put("access.wasm", &guest("loop_in_decide"));
    until_generation(&host, 2).await;
    let (who, boom) = (key("k", ""), place("boom"));
    for _ in 0..1_000 {
        assert_eq!(host.access(&who, &place("fine!"), Action::Read).await.cause, None);
    }
    let mut looping = Box::pin(host.access(&who, &boom, Action::Read));
    let mut turns = 0;
    let looped = loop {
        tokio::select! {
            biased;
            looped = &mut looping => break looped,
            () = tokio::time::sleep(Duration::from_millis(1)) => turns += 1,
        }
    };
    assert_eq!((looped.cause, looped.value.is_allow()), (Some(FailureCause::Timeout), false));
    assert!(turns > 100, "the thread had {turns} turns while the guest looped");
    assert_eq!(host.access(&who, &place("fine!"), Action::Read).await.cause, None);
}

/// Asked often enough to be asked on this very thread, which drives a runtime.
// shows: X-07, X-18
#[tokio::test]
async fn a_panic_after_a_quick_start_is_a_trap_that_the_breaker_counts() {
    let mut bench = Bench::new();
    bench.config.breaker.window = Duration::from_secs(600);
    let host = bench.start();
    bench.put("access.wasm", &guest("talks"));
    until_generation(&host, 2).await;
    let who = key("k", "");
    for n in 1..=bench.config.breaker.failures {
        for _ in 0..200 {
            let fine = host.access(&who, &place("fine!"), Action::Read).await;
            assert!(fine.value.is_allow() && fine.cause.is_none(), "{fine:?}");
        }
        let failed = host.access(&who, &place("boom"), Action::Read).await;
        assert_eq!((failed.cause, failed.value.is_allow()), (Some(FailureCause::Trap), false), "panic {n}");
    }
    until_generation(&host, 3).await;
    assert_eq!(host.list().swaps.last().map(|swap| swap.trigger), Some(Trigger::Breaker));
}

// shows: X-03
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_judgement_ends_with_its_generation() {
    let mut bench = Bench::new();
    bench.config.deadlines.decide = Duration::from_secs(2);
    let host = bench.start();
    bench.put("access.wasm", &guest("slow_judge"));
    until_generation(&host, 2).await;
    let (who, place, many) = (key("k", ""), place("s"), tags(100_000));
    let mut judging = Box::pin(host.judge_items(&who, &place, &many));
    // Polled once, it waits in the queue; then a thread has it.
    tokio::select! {
        biased;
        early = &mut judging => panic!("{:?}", early.cause),
        () = std::future::ready(()) => {}
    }
    until("it is being judged", || host.counters().queue_depth == 0).await;
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 3).await;
    let late = judging.await;
    assert_eq!((late.generation, late.cause), (GenerationId(2), Some(FailureCause::Late)));
    assert!(late.value.len() == 100_000 && late.value.iter().all(|verdict| !verdict.allow));
    let again = host.judge_items(&who, &place, &many[..1_000]).await;
    assert_eq!((again.cause, again.value.iter().all(|verdict| verdict.allow)), (None, true));
}

// shows: X-07
#[tokio::test]
async fn a_component_that_keeps_failing_is_taken_back_and_remembered() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 2).await;
    bench.put("access.wasm", &guest("trap"));
    until_generation(&host, 3).await;
    let who = key("k", "");
    for _ in 0..bench.config.breaker.failures {
        let failed = host.access(&who, &place("boom"), Action::Read).await;
        assert_eq!((failed.generation, failed.value.is_allow()), (GenerationId(3), false));
    }
    let start = Instant::now();
    until_generation(&host, 4).await;
    assert!(start.elapsed() < Duration::from_millis(100), "{:?}", start.elapsed());
    let listing = host.list();
    assert_eq!(listing.pinned, Some(PinReason::Rollback));
    assert_eq!(listing.poisoned.len(), 1);
    let swap = listing.swaps.last().expect("a swap");
    assert_eq!((swap.trigger, swap.outcome), (Trigger::Breaker, Outcome::Swapped));
    let told = |listing: &Listing| listing.refused.iter().map(|of| (of.code, of.message.clone())).collect::<Vec<_>>();
    let [(RefusalCode::Poisoned, words)] = &told(&listing)[..] else { panic!("{:?}", listing.refused) };
    assert!(words.contains("put another version there") && swap.message == *words, "what is left to do: {words}");
    assert!(host.access(&who, &place("fine!"), Action::Read).await.value.is_allow());
    // Neither by itself nor by hand does it come back.
    let reloaded = host.reload().await;
    assert_eq!(reloaded.code, Some(RefusalCode::Poisoned));
    drop(host);
    let host = bench.start();
    assert_eq!(host.list().pinned, Some(PinReason::Rollback), "the pin outlives the process");
    assert_eq!(told(&host.list()).len(), 1, "and the file is told as long as it stands there");
    let served = host.list().policies.into_iter().find(|row| row.policy == Policy::Access).expect("access");
    assert_eq!(served.digest, Digest::of(&guest("well")), "the last good one serves after a restart");
    assert_eq!(host.reload().await.code, Some(RefusalCode::Poisoned), "and so does the memory of the bad one");
}

// shows: X-07, X-17
#[tokio::test]
async fn what_was_relied_on_is_not_replaced_by_the_default_when_it_fails() {
    for proven in [false, true] {
        let mut bench = Bench::new();
        bench.config.breaker.probation = Duration::from_secs(if proven { 0 } else { 3600 });
        let host = bench.start();
        bench.put("access.wasm", &guest("trap"));
        until_generation(&host, 2).await;
        let who = key("k", "sessions:own");
        for _ in 0..bench.config.breaker.failures {
            host.access(&who, &place("boom"), Action::Read).await;
        }
        until_generation(&host, 3).await;
        let row = host.list().policies.into_iter().find(|row| row.policy == Policy::Access).expect("access");
        assert_eq!(row.origin, if proven { Origin::Closed } else { Origin::Embedded });
        let decision = host.access(&who, &place("fine!"), Action::Read).await;
        assert_eq!((decision.value.is_allow(), decision.cause), (!proven, None));
    }
}

// shows: X-17
#[tokio::test]
async fn a_full_queue_says_so() {
    let mut bench = Bench::new();
    bench.config.queue = 1;
    bench.config.threads = 1;
    bench.config.breaker.failures = 100;
    let host = bench.start();
    bench.put("access.wasm", &guest("loop_in_decide"));
    until_generation(&host, 2).await;
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let host = host.clone();
            tokio::spawn(async move { host.access(&key("k", ""), &place("boom"), Action::Read).await })
        })
        .collect();
    let mut full = 0;
    for asked in asked {
        let decision = asked.await.expect("joined");
        assert!(!decision.value.is_allow());
        full += usize::from(decision.cause == Some(FailureCause::QueueFull));
    }
    assert!(full >= 5, "{full} were turned away");
    assert_eq!(host.counters().queue_full, full as u64);
}
