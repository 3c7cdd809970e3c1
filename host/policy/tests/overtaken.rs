//! Stories of what crosses: roll-backs and pins while something is judged, and what refusals and roll-backs leave in
//! the folder.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use std::fs;
use std::time::Duration;

use support::*;
use tidegate_policy::*;

/// Whose guests may take their time in the gate.
fn patient() -> Bench {
    let mut bench = Bench::new();
    bench.config.threads = 1;
    bench.config.deadlines.configure = Duration::from_secs(60);
    bench.config.deadlines.vectors = Duration::from_secs(60);
    bench
}

/// Puts a guest that is judged for seconds, and waits until it is.
async fn judging(bench: &Bench, bytes: &[u8]) {
    let compiled = || fs::read_dir(bench.config.store_dir.join("cache")).expect("cache").count();
    let before = compiled();
    bench.put("access.wasm", bytes);
    until("it is compiled and asked", || compiled() > before).await;
}

/// Returns when the look that is under way has ended, and one after it.
async fn looked(host: &PolicyHost) {
    host.approve(&"0".repeat(64), "a word about nothing").await.expect("a digest");
}

fn serving(host: &PolicyHost, policy: Policy) -> PolicyRow {
    host.list().policies.into_iter().find(|row| row.policy == policy).expect("a row")
}

fn named(host: &PolicyHost) -> Vec<(String, RefusalCode)> {
    host.list().refused.iter().map(|of| (of.file.clone(), of.code)).collect()
}

async fn sees(host: &PolicyHost) -> bool {
    host.judge_items(&key("k", "sessions:own"), &place("fine!"), &tags(1)).await.value[0].allow
}

// shows: X-06
#[tokio::test]
async fn a_pin_during_the_gate_holds_and_loses_nothing() {
    let bench = patient();
    let host = bench.start();
    judging(&bench, &slow("deny", 0)).await;
    host.pin(true);
    looked(&host).await;
    let listing = host.list();
    assert_eq!((listing.generation, listing.pinned), (GenerationId(1), Some(PinReason::Operator)));
    host.pin(false);
    until_generation(&host, 2).await;
    assert!(denied(&host).await, "what was judged meanwhile comes afterwards");
}

// shows: X-06
#[tokio::test]
async fn a_rollback_during_the_gate_stays_over_a_restart_too() {
    let bench = patient();
    let host = bench.start();
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 2).await;
    bench.put("access.wasm", &guest("deny"));
    until_generation(&host, 3).await;
    judging(&bench, &slow("deny", 0)).await;
    host.rollback("3 a.m.").await.expect("rolled back");
    looked(&host).await;
    assert_eq!((host.generation(), host.list().pinned), (GenerationId(4), Some(PinReason::Rollback)));
    let last = host.list().swaps.into_iter().rev().find(|swap| swap.outcome != Outcome::Unchanged).expect("a record");
    assert_eq!((last.outcome, last.code), (Outcome::Refused, Some(RefusalCode::RolledBack)), "{last:?}");
    // What lets go of the pin does not bring it.
    bench.put("rate-limit.toml", b"[kinds.invoke]\nper_second = 1");
    until_generation(&host, 5).await;
    assert_eq!(host.list().pinned, None);
    drop(host);
    let host = bench.start();
    assert_eq!(serving(&host, Policy::Access).digest, Digest::of(&guest("well")), "nor does a restart");
    assert_eq!(named(&host), [("access.wasm".to_owned(), RefusalCode::RolledBack)], "and it is told");
    // Put there once more, as before a slip of the hand: said aloud, with what else there is.
    bench.put("access.wasm", &guest("deny"));
    assert_eq!(until_refused(&host, 1).await.code, Some(RefusalCode::RolledBack), "left in the run before");
    bench.put("access.wasm", &guest("deny"));
    assert_eq!(until_refused(&host, 2).await.code, Some(RefusalCode::RolledBack), "the same once more");
    assert!(!denied(&host).await);
    assert_eq!(host.reload().await.outcome, Outcome::Swapped);
    assert!(denied(&host).await && named(&host).is_empty());
}

// shows: X-07
#[tokio::test]
async fn a_rollback_goes_past_what_was_taken_back() {
    let bench = Bench::new();
    let host = bench.start();
    let fails = async |host: &PolicyHost, next: u64| {
        for _ in 0..bench.config.breaker.failures {
            host.access(&key("k", ""), &place("boom"), Action::Read).await;
        }
        until_generation(host, next).await;
    };
    for (n, name) in ["deny", "trap", "well", "trap"].into_iter().enumerate() {
        bench.put("access.wasm", &guest(name));
        until_generation(&host, n as u64 + 2).await;
    }
    fails(&host, 6).await;
    assert_eq!(serving(&host, Policy::Access).digest, Digest::of(&guest("well")));
    let back = host.rollback("not this either").await.expect("rolled back");
    assert!(back.message.contains("not this either") && back.message.contains("access.wasm"), "{}", back.message);
    assert_eq!(serving(&host, Policy::Access).digest, Digest::of(&guest("deny")));
    drop(host);
    let host = bench.start();
    assert_eq!(serving(&host, Policy::Access).digest, Digest::of(&guest("deny")));
    drop(host);
    // Nothing earlier but what was taken back.
    let bench = Bench::new();
    bench.put("access.wasm", &guest("trap"));
    drop(bench.start());
    let host = bench.start();
    for (n, name) in ["well", "trap"].into_iter().enumerate() {
        bench.put("access.wasm", &guest(name));
        until_generation(&host, n as u64 + 2).await;
    }
    fails(&host, 4).await;
    let Err(RollbackError::Refused(refusal)) = host.rollback("further").await else { panic!("it serves again") };
    assert_eq!((refusal.code, refusal.file.as_str()), (RefusalCode::Poisoned, "access.wasm"), "{refusal}");
    assert_eq!((host.generation(), host.list().earlier), (GenerationId(4), 0));
    assert_eq!(serving(&host, Policy::Access).digest, Digest::of(&guest("well")));
}

// shows: X-05
#[tokio::test]
async fn a_refused_set_comes_when_what_was_wrong_with_it_goes() {
    let bench = Bench::new();
    let host = bench.start();
    let remove = |name: &str| fs::remove_file(bench.plugins().join(name)).expect("remove");
    let together = |good: &[u8]| {
        // One look finds both: what was looked at has changed at once.
        let beside = bench.dir.path().join("beside");
        fs::create_dir(&beside).expect("folder");
        fs::write(beside.join("access.toml"), good).expect("write");
        fs::write(beside.join("bad.wasm"), b"rubbish").expect("write");
        for name in ["bad.wasm", "access.toml"] {
            fs::rename(beside.join(name), bench.plugins().join(name)).expect("rename");
        }
        fs::remove_dir(&beside).expect("folder");
    };
    assert!(sees(&host).await);
    together(b"deny = [\"Area1.*\"]");
    assert_eq!(until_refused(&host, 1).await.code, Some(RefusalCode::NotAComponent));
    let waits = ("access.toml".to_owned(), RefusalCode::Waits);
    until("what waits for it is named, too", || named(&host).contains(&waits)).await;
    let told = host.list().refused.into_iter().find(|of| of.code == RefusalCode::Waits).expect("a row");
    assert!(told.message.contains("bad.wasm"), "and for what: {told}");
    remove("bad.wasm");
    until_generation(&host, 2).await;
    assert!(named(&host).is_empty());
    assert!(!sees(&host).await, "the new denial is in force");
    // Bad, good, bad: told each time.
    for (n, good) in [(2, true), (3, false)] {
        bench.put("access.toml", b"dney = []");
        assert_eq!(until_refused(&host, n).await.code, Some(RefusalCode::SettingsInvalid));
        if good {
            bench.put("access.toml", b"deny = [\"Area1.*\"]");
            until("nothing is refused", || named(&host).is_empty()).await;
        }
    }
    // And the same bytes once more.
    bench.put("access.toml", b"dney = []");
    assert_eq!(until_refused(&host, 4).await.code, Some(RefusalCode::SettingsInvalid));
    assert!(host.generation() == GenerationId(2) && !sees(&host).await);
}

// shows: X-04
#[tokio::test]
async fn two_answerers_hold_up_nothing_else_and_one_that_is_left_answers() {
    let bench = Bench::new();
    let host = bench.start();
    let remove = |name: &str| fs::remove_file(bench.plugins().join(name)).expect("remove");
    let twice = |file: &str| vec![(file.to_owned(), RefusalCode::DuplicatePolicy)];
    bench.put("mine.wasm", &guest("well"));
    until_generation(&host, 2).await;
    // Before the one that serves in the order of names, too.
    bench.put("a.wasm", &guest("deny"));
    until_refused(&host, 1).await;
    assert_eq!(named(&host), twice("a.wasm"));
    bench.put("rate-limit.toml", b"[kinds.invoke]\nper_second = 1");
    until_generation(&host, 3).await;
    assert_eq!(
        (serving(&host, Policy::RateLimit).origin, named(&host)),
        (Origin::File("rate-limit.toml".into()), twice("a.wasm"))
    );
    let why = |host: &PolicyHost| host.list().refused.into_iter().find(|of| of.file == "a.wasm").map(|of| of.message);
    assert!(why(&host).is_some_and(|why| why.starts_with("mine.wasm answers access, too")), "{:?}", why(&host));
    // The file that it is named after holds something else by now.
    bench.put("mine.wasm", b"rubbish");
    until("it is refused", || named(&host).contains(&("mine.wasm".to_owned(), RefusalCode::NotAComponent))).await;
    bench.put("a.wasm", &marked("deny", 8));
    let said = || why(&host).is_some_and(|why| why.contains("served as mine.wasm before"));
    until("it is told of what serves on", said).await;
    bench.put("mine.wasm", &marked("well", 7));
    until_generation(&host, 4).await;
    assert!(!denied(&host).await);
    remove("mine.wasm");
    until_generation(&host, 5).await;
    assert_eq!((serving(&host, Policy::Access).origin, named(&host)), (Origin::File("a.wasm".into()), vec![]));
    assert!(denied(&host).await);
}

// shows
#[tokio::test]
async fn what_is_removed_or_overwritten_while_it_is_judged_never_decides() {
    let bench = patient();
    let host = bench.start();
    let flips = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&flips);
    host.on_flip(Box::new(move |_| {
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Vec::new()
    }));
    judging(&bench, &slow("deny", 1)).await;
    fs::remove_file(bench.plugins().join("access.wasm")).expect("remove");
    looked(&host).await;
    assert_eq!(host.generation(), GenerationId(1), "it is gone");
    judging(&bench, &slow("deny", 2)).await;
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 2).await;
    assert_eq!(serving(&host, Policy::Access).digest, Digest::of(&guest("well")));
    assert_eq!(flips.load(std::sync::atomic::Ordering::SeqCst), 1, "nothing decided in between");
    let told: Vec<_> = host.list().swaps.into_iter().map(|swap| (swap.outcome, swap.files, swap.message)).collect();
    let left = told.iter().filter(|(outcome, files, message)| {
        *outcome == Outcome::Unchanged && *files == ["access.wasm"] && message.contains("changed while")
    });
    assert_eq!(left.count(), 2, "each is told as what it is: {told:?}");
    assert_eq!((host.counters().refused_swaps, named(&host)), (0, vec![]));
}

// shows: X-02
#[tokio::test]
async fn what_is_written_more_often_than_it_can_be_judged_comes_nevertheless() {
    let bench = patient();
    let host = bench.start();
    let mut written = 0;
    while host.generation() == GenerationId(1) {
        written += 1;
        assert!(written < 7, "it is kept out for as long as somebody writes it");
        judging(&bench, &slow("deny", written)).await;
    }
    assert!(denied(&host).await);
    let last = Digest::of(&slow("deny", written));
    until("the last that was written serves", || serving(&host, Policy::Access).digest == last).await;
}

// shows: X-06
#[tokio::test]
async fn a_way_back_leaves_the_pin_of_an_operator() {
    let bench = Bench::new();
    let host = bench.start();
    for (n, name) in ["well", "deny"].into_iter().enumerate() {
        bench.put("access.wasm", &guest(name));
        until_generation(&host, 2 + n as u64).await;
    }
    host.pin(true);
    bench.put("access.wasm", &marked("deny", 3));
    host.rollback("it denied the wrong people").await.expect("rolled back");
    assert_eq!(host.list().pinned, Some(PinReason::Operator));
    let looked = host.look().await;
    assert_eq!((looked.outcome, host.generation()), (Outcome::Unchanged, GenerationId(4)));
    assert!(looked.message.contains("pin --off"), "{}", looked.message);
    let approved = host.approve(&"0".repeat(64), "a word about nothing").await.expect("a digest");
    assert!(approved.message.contains("pin --off"), "{}", approved.message);
    assert!(!denied(&host).await);
    drop(host);
    let host = bench.start();
    assert_eq!((host.list().pinned, denied(&host).await), (Some(PinReason::Operator), false), "over a start, too");
    host.pin(false);
    until("what waited comes", || served(&host, Policy::Access).digest == Digest::of(&marked("deny", 3))).await;
    // The breaker takes back what fails, and takes off nobody's pin either.
    bench.put("access.wasm", &guest("trap"));
    until("it serves", || served(&host, Policy::Access).digest == Digest::of(&guest("trap"))).await;
    host.pin(true);
    let before = host.generation().0;
    for _ in 0..bench.config.breaker.failures {
        host.access(&key("k", ""), &place("boom"), Action::Read).await;
    }
    until_generation(&host, before + 1).await;
    until("it is remembered", || host.counters().reverts == 1).await;
    assert_eq!(host.list().pinned, Some(PinReason::Operator));
}

// shows: E-15, X-06
#[tokio::test]
async fn a_look_takes_back_no_word_of_an_operator() {
    let bench = Bench::new();
    let host = bench.start();
    for (n, name) in ["well", "deny"].into_iter().enumerate() {
        bench.put("access.wasm", &guest(name));
        until_generation(&host, 2 + n as u64).await;
    }
    host.rollback("it denied the wrong people").await.expect("rolled back");
    let looked = host.look().await;
    assert_eq!((looked.outcome, looked.trigger), (Outcome::Unchanged, Trigger::Folder));
    assert_eq!((host.list().pinned, denied(&host).await), (Some(PinReason::Rollback), false));
    // Without their component the settings would bring the default: a look is no word for that.
    bench.put("access.toml", b"");
    bench.put("access.wasm", &marked("well", 1));
    until("a new one serves", || served(&host, Policy::Access).digest == Digest::of(&marked("well", 1))).await;
    fs::remove_file(bench.plugins().join("access.wasm")).expect("remove");
    until_refused(&host, 1).await;
    host.look().await;
    assert_eq!(served(&host, Policy::Access).origin, Origin::File("access.wasm".into()));
    // What is whole by then is taken without waiting for a poll or a notice to settle.
    bench.put("access.wasm", &guest("deny"));
    until("what was rolled back stays away", || {
        host.list().refused.iter().any(|of| of.code == RefusalCode::RolledBack)
    })
    .await;
    assert!(!denied(&host).await);
}

// shows
#[tokio::test]
async fn what_a_rollback_brought_back_under_a_name_that_is_gone_is_not_missed() {
    let mut bench = Bench::new();
    // What counts as removed does so with the first look.
    bench.config.watch.removal_quiet = Duration::ZERO;
    let host = bench.start();
    let gone = |name: &str| fs::remove_file(bench.plugins().join(name)).expect("remove");
    let origin = |host: &PolicyHost| served(host, Policy::Access).origin;
    bench.put("access-1.0.wasm", &guest("well"));
    until_generation(&host, 2).await;
    gone("access-1.0.wasm");
    bench.put("access-1.1.wasm", &guest("deny"));
    until("the new one serves", || origin(&host) == Origin::File("access-1.1.wasm".into())).await;
    while origin(&host) != Origin::File("access-1.0.wasm".into()) {
        host.rollback("it denied the wrong people").await.expect("rolled back");
    }
    let of_new: Vec<_> = host.list().refused.iter().map(|of| (of.file.clone(), of.code)).collect();
    assert_eq!(of_new, [("access-1.1.wasm".to_owned(), RefusalCode::RolledBack)], "and why the new one does not serve");
    // Something else changes, by several looks and over a start.
    let rate = async |host: &PolicyHost, n: u32| {
        let before = served(host, Policy::RateLimit).settings_digest;
        bench.put("rate-limit.toml", format!("[kinds.invoke]\nper_second = {n}").as_bytes());
        until("it is taken", || served(host, Policy::RateLimit).settings_digest != before).await;
        host.look().await;
        assert_eq!(origin(host), Origin::File("access-1.0.wasm".into()), "by change {n}");
        assert!(!denied(host).await);
    };
    rate(&host, 1).await;
    rate(&host, 2).await;
    drop(host);
    let host = bench.start();
    rate(&host, 3).await;
    // A newer one takes its place, although nobody takes the old one away.
    bench.put("access-1.2.wasm", &marked("deny", 2));
    until("the newest serves", || origin(&host) == Origin::File("access-1.2.wasm".into())).await;
    assert!(denied(&host).await);
    // From then on its going counts as ever.
    gone("access-1.2.wasm");
    gone("access-1.1.wasm");
    until("access is closed", || origin(&host) == Origin::Closed).await;
}

// shows: X-04
#[tokio::test]
async fn a_copy_under_another_name_holds_up_nothing_and_a_rename_is_a_swap() {
    let bench = Bench::new();
    let host = bench.start();
    let named = |host: &PolicyHost| host.list().refused.iter().map(|of| (of.file.clone(), of.code)).collect::<Vec<_>>();
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 2).await;
    bench.put("access-old.wasm", &guest("well"));
    let refused = until_refused(&host, 1).await;
    let copy = ("access-old.wasm".to_owned(), RefusalCode::DuplicatePolicy);
    assert_eq!((refused.file.as_deref(), refused.code), (Some("access-old.wasm"), Some(RefusalCode::DuplicatePolicy)));
    assert_eq!(named(&host), std::slice::from_ref(&copy), "it is told as long as it stands there");
    bench.put("access.wasm", &guest("deny"));
    until_generation(&host, 3).await;
    assert!(denied(&host).await, "the urgent change is in force");
    assert_eq!(named(&host), [copy]);
    fs::remove_file(bench.plugins().join("access-old.wasm")).expect("remove");
    until("nothing is refused", || named(&host).is_empty()).await;
    fs::rename(bench.plugins().join("access.wasm"), bench.plugins().join("night.wasm")).expect("rename");
    until_generation(&host, 4).await;
    assert_eq!(served(&host, Policy::Access).origin, Origin::File("night.wasm".into()));
    assert_eq!((denied(&host).await, named(&host)), (true, vec![]));
    let told = host.list().swaps.len();
    for _ in 0..3 {
        bench.put("rate-limit.toml", b"");
        host.look().await;
    }
    let later = host.list().swaps.split_off(told);
    assert!(later.iter().all(|swap| !swap.files.iter().any(|file| file.contains("night"))), "{later:#?}");
}

// shows: X-06
#[tokio::test]
async fn what_a_pin_holds_back_is_told_after_a_restart_too() {
    let bench = Bench::new();
    let host = bench.start();
    for (n, name) in ["well", "deny"].into_iter().enumerate() {
        bench.put("access.wasm", &guest(name));
        until_generation(&host, 2 + n as u64).await;
    }
    bench.put("version-floor.toml", b"rubbish");
    bench.put("wants.wasm", &guest("looks_around"));
    let listed = |host: &PolicyHost| {
        let mut told: Vec<_> = host.list().refused.iter().map(|of| (of.file.clone(), of.code)).collect();
        told.sort_by(|a, b| a.0.cmp(&b.0));
        (told, host.list().held)
    };
    until("both are told", || listed(&host).0.len() == 2 && listed(&host).1.len() == 1).await;
    host.rollback("it denied the wrong people").await.expect("rolled back");
    let before = listed(&host);
    assert_eq!(before.0.len(), 3, "{before:?}");
    drop(host);
    let host = bench.start();
    assert_eq!((host.list().pinned, listed(&host)), (Some(PinReason::Rollback), before));
    // The word about it is heard in this run, too.
    let identity = host.list().held[0].identity.to_hex();
    let done = host.approve(&identity[..12], "read it line by line").await.expect("approved");
    assert_eq!(done.code, Some(RefusalCode::DuplicatePolicy), "it is judged anew: {done:?}");
    // And what is mended is told no more.
    bench.put("version-floor.toml", b"");
    until("it is taken", || served(&host, Policy::VersionFloor).origin != Origin::Embedded).await;
    assert!(!listed(&host).0.iter().any(|(file, _)| file == "version-floor.toml"));
}

// shows
#[tokio::test]
async fn what_is_compiled_for_long_is_listed_and_waited_for_only_as_long_as_it_stands_there() {
    let bench = patient();
    let host = bench.start();
    bench.put("mine.wasm", &busy(4_000));
    until("it is listed", || named(&host) == [("mine.wasm".to_owned(), RefusalCode::Compiling)]).await;
    fs::remove_file(bench.plugins().join("mine.wasm")).expect("remove");
    bench.put("access.toml", b"deny = [\"Area1.*\"]");
    until_generation(&host, 2).await;
    assert!(!sees(&host).await, "the denial is in force");
    assert_eq!((host.counters().refused_swaps, named(&host)), (0, vec![]), "and nothing was judged to its end");
}
