//! Stories of what passes the gate only with an operator's word.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use support::*;
use tidegate_policy::*;

// shows
#[tokio::test]
async fn what_would_change_too_much_is_refused_until_it_is_approved() {
    let mut bench = Bench::new();
    bench.config.difference_max = Some(0.1);
    let host = bench.start();
    let who = key("k", "sessions:all");
    for n in 0..20 {
        host.access(&who, &place("boom"), Action::Command { method: "write".into(), tag: format!("A.T{n}") }).await;
    }
    host.decisions(&Window { last: Last::Count(1), ..Window::default() }).expect("they are known by now");
    bench.put("access.toml", b"deny = [\"A.T7\"]");
    until_generation(&host, 2).await;
    let told = host.list().swaps.pop().and_then(|swap| swap.difference).expect("compared");
    assert_eq!((told.asked, told.changed), (20, 1), "what is allowed to differ is told: {told:?}");
    bench.put("access.toml", b"deny = [\"A.*\"]");
    let refused = until_refused(&host, 1).await;
    assert_eq!(refused.code, Some(RefusalCode::Differs), "{refused:?}");
    assert_eq!(refused.difference.map(|of| of.changed), Some(20));
    // A start is no way around it: the decisions of before are in the log.
    drop(host);
    let host = bench.start();
    let held = host.list().held;
    assert_eq!((held.len(), held[0].file.as_str()), (1, "access.toml"));
    let asked = Action::Command { method: "write".into(), tag: "A.T1".into() };
    assert!(host.access(&who, &place("boom"), asked).await.value.is_allow());
    assert_eq!(host.approve("00000000", "no").await.err(), Some(UnknownDigest));
    let done = host.approve(&held[0].identity.to_hex()[..12], "it is meant so").await.expect("approved");
    assert_eq!((done.outcome, done.trigger, done.to), (Outcome::Swapped, Trigger::Approval, GenerationId(2)));
    let listing = host.list();
    assert_eq!((listing.held.len(), listing.approved[0].reason.as_str()), (0, "it is meant so"));
    assert!(
        !host
            .access(&who, &place("boom"), Action::Command { method: "write".into(), tag: "A.T1".into() })
            .await
            .value
            .is_allow()
    );
    // The word outlives the process.
    drop(host);
    assert_eq!(bench.start().list().approved, listing.approved);
}

// shows: X-10
#[tokio::test]
async fn a_version_that_wants_more_imports_is_held() {
    let bench = Bench::new();
    let host = bench.start();
    let who = key("k", "sessions:own");
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 2).await;
    bench.put("access.wasm", &guest("looks_around"));
    let held = until_refused(&host, 1).await;
    assert_eq!(held.code, Some(RefusalCode::Held), "{held:?}");
    assert!(held.message.contains("wasi:filesystem/preopens"), "{}", held.message);
    drop(host);
    let host = bench.start();
    assert_eq!(host.list().held.len(), 1, "a start lets nothing in either");
    let decision = host.access(&who, &place("boom"), Action::Read).await;
    assert!(decision.value.is_allow() && decision.generation == GenerationId(1), "the version before answers");
    // A word about one version is none about another.
    bench.put("access.wasm", &guest("deny"));
    until_generation(&host, 2).await;
    assert!(host.list().held.is_empty(), "what is not in the folder any more waits for nothing");
    bench.put("access.wasm", &guest("looks_around"));
    until_refused(&host, 2).await;
    let identity = host.list().held[0].identity.to_hex();
    let done = host.approve(&identity, "read it line by line").await.expect("approved");
    assert_eq!((done.outcome, done.to), (Outcome::Swapped, GenerationId(3)));
    assert!(host.access(&who, &place("fine!"), Action::Read).await.value.is_allow());
}

/// The same guest in other bytes: a custom section more (Core specification, 5.5.3).
fn marked(name: &str, mark: u8) -> Vec<u8> {
    let mut bytes = guest(name);
    bytes.extend([0, 3, 2, b'm', mark]);
    bytes
}

// shows: X-10
#[tokio::test]
async fn what_wants_more_is_held_whether_or_not_something_is_left_to_replace() {
    let bench = Bench::new();
    let gone = |name: &str| std::fs::remove_file(bench.plugins().join(name)).expect("remove");
    let host = bench.start();
    // The first one of all: the embedded default wants nothing.
    bench.put("access.wasm", &guest("looks_around"));
    let held = until_refused(&host, 1).await;
    assert_eq!((held.code, held.file.as_deref()), (Some(RefusalCode::Held), Some("access.wasm")), "{held:?}");
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 2).await;
    bench.put("access.wasm", &guest("looks_around"));
    until_refused(&host, 2).await;
    // What it would replace is taken away: access is closed, and that opens it to nobody.
    gone("access.wasm");
    until_generation(&host, 3).await;
    bench.put("mine.wasm", &guest("looks_around"));
    assert_eq!(until_refused(&host, 3).await.code, Some(RefusalCode::Held));
    drop(host);
    let host = bench.start();
    let held = host.list().held;
    assert_eq!((held.len(), held[0].file.as_str()), (1, "mine.wasm"), "over a start neither: {held:?}");
    let identity = held[0].identity.to_hex();
    let done = host.approve(&identity[..12], "read it line by line").await.expect("approved");
    assert_eq!(done.outcome, Outcome::Swapped);
    // It was let in with these imports: it may come back under another name, and so may
    // another version that wants no more, after a start too.
    let before = host.generation().0;
    gone("mine.wasm");
    until_generation(&host, before + 1).await;
    drop(host);
    let host = bench.start();
    bench.put("access.wasm", &guest("looks_around"));
    until("it is let in again", || host.list().policies[0].origin == Origin::File("access.wasm".into())).await;
    let before = host.generation().0;
    bench.put("access.wasm", &marked("looks_around", b'1'));
    until_generation(&host, before + 1).await;
    assert_eq!(host.list().held, []);
}

// shows
#[tokio::test]
async fn an_approval_is_a_word_about_nothing_else() {
    use std::io::Write;
    let mut bench = Bench::new();
    bench.config.watch.unclosed = std::time::Duration::from_secs(600);
    bench.config.watch.removal_quiet = std::time::Duration::from_secs(600);
    bench.put("mine.wasm", &guest("deny"));
    bench.put("rate-limit.toml", b"[kinds.invoke]\nper_second = 1");
    let host = bench.start();
    let settings = || served(&host, Policy::RateLimit).settings_digest;
    let before = settings();
    bench.put("wants.wasm", &guest("looks_around"));
    until_refused(&host, 1).await;
    let held = host.list().held;
    // Half of a file, and a component that is being replaced by moving it away first.
    let mut file = std::fs::File::create(bench.plugins().join("rate-limit.toml")).expect("create");
    file.write_all(b"# as it is\n").expect("write");
    until("it is told as being written", || host.list().pending.contains(&"rate-limit.toml".to_owned())).await;
    std::fs::rename(bench.plugins().join("mine.wasm"), bench.dir.path().join("away")).expect("rename");
    let done = host.approve(&held[0].identity.to_hex(), "read it line by line").await.expect("approved");
    assert_eq!(done.outcome, Outcome::Refused, "the other answers access until it has been gone for a while: {done:?}");
    assert_eq!(settings(), before, "half a file was taken");
    assert!(denied(&host).await, "a removal was taken at once");
    file.write_all(b"[kinds.invoke]\nper_second = 2").expect("write");
    drop(file);
    until("what was finished is taken", || settings() != before).await;
    assert!(denied(&host).await);
}
