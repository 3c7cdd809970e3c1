//! Stories of access that nothing answers any more, and of what must not come of a start: nobody is let in by a removal, and
//! nobody is shut out by a change that was not taken.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use std::fs;
use std::time::{Duration, Instant};

use support::*;
use tidegate_policy::*;

// shows
#[tokio::test]
async fn removing_what_answered_access_allows_nothing() {
    let bench = Bench::new();
    let at = |name: &str| bench.plugins().join(name);
    let host = bench.start();
    assert_eq!(served(&host, Policy::Access).origin, Origin::Embedded, "a folder that never had one");
    for (n, (name, bytes)) in
        [("access.toml", &b"deny = [\"Area1.*\"]"[..]), ("mine.wasm", &guest("well"))].into_iter().enumerate()
    {
        let generation = 2 + 2 * n as u64;
        bench.put(name, bytes);
        until_generation(&host, generation).await;
        assert_eq!(served(&host, Policy::Access).origin, Origin::File(name.into()));
        assert!(!denied(&host).await, "{name} allows");
        fs::remove_file(at(name)).expect("remove");
        until_generation(&host, generation + 1).await;
        closed(&host, REMOVED).await;
    }
    // Something else changes, the process starts anew, even without a folder: still closed.
    bench.put("rate-limit.toml", b"[kinds.invoke]\nper_second = 1");
    until_generation(&host, 6).await;
    closed(&host, REMOVED).await;
    drop(host);
    let host = bench.start();
    closed(&host, REMOVED).await;
    drop(host);
    let mut folderless = bench.config.clone();
    folderless.plugins_dir = None;
    closed(&PolicyHost::start(folderless.clone()).expect("starts"), REMOVED).await;
    // Gone while no one looked.
    bench.put("access.wasm", &guest("well"));
    let host = bench.start();
    assert!(!denied(&host).await);
    drop(host);
    closed(&PolicyHost::start(folderless).expect("starts"), &["--plugins"]).await;
    fs::remove_file(at("access.wasm")).expect("remove");
    let host = bench.start();
    closed(&host, REMOVED).await;
    // Two ways back.
    let before = host.generation().0;
    host.rollback("it was a mistake").await.expect("rolled back");
    assert!(!denied(&host).await);
    assert_eq!(host.reload().await.to, GenerationId(before + 2));
    closed(&host, REMOVED).await;
    bench.put("access.toml", b"");
    until_generation(&host, before + 3).await;
    assert!(!denied(&host).await);
    assert_eq!(served(&host, Policy::Access).origin, Origin::File("access.toml".into()));
}

const REMOVED: &[&str] = &["was removed", "access.toml", "rollback"];

/// Nothing is allowed, and whoever is denied reads why.
async fn closed(host: &PolicyHost, words: &[&str]) {
    let who = key("k", "sessions:all");
    for what in [Action::Open, Action::Read, Action::Command { method: "write".into(), tag: "A.B".into() }] {
        let decision = host.access(&who, &place("s"), what).await;
        let Verdict::Deny { rule, reason } = decision.value else { panic!("closed and yet {decision:?}") };
        let name = host.rule_name(decision.generation, Policy::Access, rule);
        assert_eq!((name.as_deref(), decision.cause), (Some("closed"), None));
        assert!(words.iter().all(|word| reason.contains(word)) && reason.len() <= 256, "{reason}");
    }
    let judged = host.judge_items(&who, &place("s"), &tags(300)).await;
    assert_eq!((judged.value.len(), judged.value.iter().any(|verdict| verdict.allow)), (300, false));
    assert_eq!(served(host, Policy::Access).origin, Origin::Closed);
}

// shows: X-17
#[tokio::test]
async fn settings_that_go_missing_widen_nothing() {
    let bench = Bench::new();
    let host = bench.start();
    let component = include_bytes!("../../../plugins/dist/access.wasm");
    bench.put("access.toml", b"deny = [\"Area1.*\"]");
    until_generation(&host, 2).await;
    bench.put("access.wasm", component);
    let allowed = async |host: &PolicyHost| {
        host.judge_items(&key("k", "sessions:own"), &place("s"), &tags(1)).await.value[0].allow
    };
    fs::remove_file(bench.plugins().join("access.toml")).expect("remove");
    let refused = until_refused(&host, 1).await;
    assert_eq!(refused.code, Some(RefusalCode::SettingsMissing), "{refused:?}");
    assert!(!allowed(&host).await);
    drop(host);
    let host = bench.start();
    assert!(!allowed(&host).await, "a restart changes nothing about that");
    let before = host.generation().0;
    bench.put("access.toml", b"");
    until_generation(&host, before + 1).await;
    assert!(allowed(&host).await, "an empty file says that there are none");
}

// shows: X-17
#[tokio::test]
async fn a_first_start_with_an_access_policy_that_is_refused_allows_nothing() {
    for (name, shut) in [("access.toml", true), ("mine.wasm", true), ("rate-limit.toml", false)] {
        let bench = Bench::new();
        bench.put(name, b"rubbish");
        let host = bench.start();
        let code = until_refused(&host, 1).await.code.expect("a code");
        if shut {
            closed(&host, &["is refused", code.as_str(), "policy list", "policy reload"]).await;
            bench.put(name, if name == "mine.wasm" { &[] } else { b"" });
            bench.put("access.toml", b"");
            fs::remove_file(bench.plugins().join("mine.wasm")).ok();
            until("access is answered", || served(&host, Policy::Access).origin != Origin::Closed).await;
        }
        assert!(!denied(&host).await, "{name}");
    }
    let bench = Bench::new();
    drop(bench.start());
    fs::write(bench.config.store_dir.join("remembered.json"), b"{").expect("write");
    closed(&bench.start(), &["cannot be read", "access.toml"]).await;
}

// shows
#[tokio::test]
async fn a_restart_goes_on_with_the_embedded_default_where_a_change_was_not_taken() {
    let ask = async |host: &PolicyHost| {
        let what = Action::Command { method: "write".into(), tag: "Area1.T".into() };
        host.access(&key("k", "sessions:all"), &place("s"), what).await.value.is_allow()
    };
    for (text, code) in
        [(&b"denny = []"[..], RefusalCode::SettingsInvalid), (&b"deny = [\"Area1.*\"]"[..], RefusalCode::Differs)]
    {
        let mut bench = Bench::new();
        bench.config.difference_max = Some(0.05);
        let host = bench.start();
        for _ in 0..20 {
            assert!(ask(&host).await);
        }
        host.decisions(&Window::default()).expect("they are known by now");
        bench.put("access.toml", text);
        assert_eq!(until_refused(&host, 1).await.code, Some(code));
        // A start beside it, as for a take-over, and one after it.
        let warm = Warm::new(bench.config.clone(), &Starting::default()).expect("compiles");
        assert_eq!(warm.refused(), [""; 0]);
        drop(host);
        let host = warm.start().expect("starts");
        assert!(ask(&host).await, "{code}: what served serves on");
        assert_eq!(served(&host, Policy::Access).origin, Origin::Embedded);
        assert_eq!(host.list().refused.first().map(|refusal| refusal.code), Some(code), "and the change is still told");
        drop(host);
        let host = bench.start();
        assert!(ask(&host).await, "{code}: over any number of starts");
        // Taken, and then taken away: nobody ever wants the default back by that.
        bench.config.difference_max = None;
        drop(host);
        bench.put("access.toml", b"");
        let host = bench.start();
        assert_eq!(served(&host, Policy::Access).origin, Origin::File("access.toml".into()));
        fs::remove_file(bench.plugins().join("access.toml")).expect("remove");
        until("access is closed", || served(&host, Policy::Access).origin == Origin::Closed).await;
        drop(host);
        closed(&bench.start(), REMOVED).await;
    }
}

// shows
#[tokio::test]
async fn whoever_would_close_access_by_starting_is_told_so_before() {
    let bench = Bench::new();
    let host = bench.start();
    let would =
        |config: &PolicyConfig| Warm::new(config.clone(), &Starting::default()).expect("compiles").refused().join("; ");
    let mut folderless = bench.config.clone();
    folderless.plugins_dir = None;
    assert_eq!((would(&bench.config), would(&folderless)), (String::new(), String::new()), "the default serves");
    bench.put("access.toml", b"");
    until_generation(&host, 2).await;
    assert_eq!(would(&bench.config), "");
    assert!(would(&folderless).contains("nothing would answer access"), "{}", would(&folderless));
    let remembered = bench.config.store_dir.join("remembered.json");
    let good = fs::read(&remembered).expect("a file");
    fs::write(&remembered, b"{").expect("write");
    assert!(would(&bench.config).contains("nothing would answer access"), "{}", would(&bench.config));
    fs::write(&remembered, good).expect("write");
    // Where nobody answers access now, nothing gets worse.
    fs::remove_file(bench.plugins().join("access.toml")).expect("remove");
    until_generation(&host, 3).await;
    assert_eq!((would(&bench.config), would(&folderless)), (String::new(), String::new()));
}

// shows: X-17
#[tokio::test]
async fn settings_without_their_component_widen_nothing() {
    for settings in ["access.toml", "access.json"] {
        without_their_component(settings).await;
    }
}

/// Of settings in either notation, empty.
async fn without_their_component(settings: &str) {
    let bench = Bench::new();
    let host = bench.start();
    bench.put(settings, b"");
    bench.put("access.wasm", &guest("deny"));
    eventually_denied(&host).await;
    let before = host.list().swaps.iter().filter(|swap| swap.outcome == Outcome::Refused).count() as u64;
    fs::remove_file(bench.plugins().join("access.wasm")).expect("remove");
    let refused = until_refused(&host, before + 1).await;
    assert_eq!(
        (refused.code, refused.file.as_deref()),
        (Some(RefusalCode::ComponentMissing), Some(settings)),
        "{refused:?}"
    );
    assert!(refused.message.contains(&format!("{settings} alone")), "{}", refused.message);
    assert!(denied(&host).await, "the component answers on");
    drop(host);
    let host = bench.start();
    assert!(denied(&host).await, "a restart changes nothing about that");
    assert_eq!(host.reload().await.outcome, Outcome::Swapped, "an operator's word does");
    assert_eq!(served(&host, Policy::Access).origin, Origin::File(settings.into()));
}

async fn eventually_denied(host: &PolicyHost) {
    let until = Instant::now() + Duration::from_secs(30);
    while !denied(host).await {
        assert!(Instant::now() < until, "the component does not serve: {:?}", host.list().swaps.last());
        tokio::task::yield_now().await;
    }
}
