//! Components of earlier contracts, which are never built anew (tests/corpus): they pass the gate, answer as they did, and
//! stand beside today's in every way an operator has. Invariant: the folder holds exactly what digests.toml names.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use support::*;
use tidegate_policy::*;

/// Answers all five questions at once, so it is tried by itself.
const ALONE: &str = "v0.1.0/five.wasm";
const TODAY: &[u8] = include_bytes!("../../../plugins/dist/access.wasm");

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

/// By name, `v0.1.0/access.wasm`.
fn corpus() -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for version in fs::read_dir(folder()).expect("a corpus").map(|entry| entry.expect("an entry").path()) {
        for file in version.is_dir().then(|| fs::read_dir(&version).expect("a version")).into_iter().flatten() {
            let file = file.expect("an entry").path();
            let name = file.strip_prefix(folder()).expect("inside").to_str().expect("UTF-8").to_owned();
            found.insert(name, fs::read(&file).expect("a component"));
        }
    }
    found
}

/// The defaults of before, in the folder of a gateway.
fn put_old(bench: &Bench) -> usize {
    let old: Vec<_> = corpus().into_iter().filter(|(name, _)| name != ALONE).collect();
    for (name, bytes) in &old {
        bench.put(name.rsplit('/').next().expect("a name"), bytes);
    }
    old.len()
}

fn contracts(host: &PolicyHost) -> Vec<&'static str> {
    host.list().policies.iter().map(|row| row.contract).collect()
}

fn pressure(lag_events: u64) -> Pressure {
    Pressure {
        now: 1_000,
        who: key("k", "sessions:own"),
        session: place("s"),
        reader: "r".into(),
        lag_events,
        lag_events_max: 10_000,
        log_bytes: 1,
        log_bytes_max: 1 << 33,
        asked: 1,
        since_ms: 1 << 33,
        readers: 1,
    }
}

/// Every question, in many forms; the answers as text, which say more than whether they are equal.
async fn interview(host: &PolicyHost) -> Vec<String> {
    let mut answers = Vec::new();
    let certified = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Principal::certified("k", vec!["sessions:own".into()], vec!["Area1.*".into()], vec![], "192.0.2.7", names)
    };
    let who = [
        key("k", "sessions:own"),
        key("x", "sessions:own"),
        key("z", "sessions:all"),
        key("n", "admin"),
        certified(&["CN=historian", "dns=h.plant.example"]),
        certified(&["CN=other"]),
        Principal::gateway(),
    ];
    let command = |method: &str, tag: &str| Action::Command { method: method.into(), tag: tag.into() };
    for who in &who {
        let actions = [Action::Open, Action::Read, Action::Resume { behind: 1 << 40 }, Action::Close];
        let commands = [command("write", "Area1.Tag3"), command("read-bulk", "Area2.X"), command("register", "")];
        for what in actions.into_iter().chain(commands) {
            let decision = host.access(who, &place("s"), what).await;
            answers.push(format!("{:?} {:?}", decision.value, decision.cause));
        }
        let judged = host.judge_items(who, &place("s"), &tags(300)).await;
        answers.push(format!("{:?} {:?}", judged.value, judged.cause));
    }
    for lag in [10, 5_000, 9_500] {
        let decision = host.backpressure(pressure(lag)).await;
        answers.push(format!("{:?} {:?}", decision.value, decision.cause));
    }
    for (version, floor) in [("1.10", None), ("1.10", Some("1.9")), ("1.8", Some("1.9")), ("1.8", Some("one"))] {
        let node = ClientNode { id: String::new(), kind: "web".into(), version: version.into() };
        let decision = host.version_floor(&node, floor).await;
        answers.push(format!("{:?} {:?}", decision.value, decision.cause));
    }
    for (role, group) in [("Admin", "x"), ("Viewer", "ops"), ("Viewer", "x")] {
        let person = Person { name: "p".into(), roles: vec![role.into()], groups: vec![group.into()] };
        let grants = [("ops".to_owned(), "line-1".to_owned()), ("lab".to_owned(), "line-2".to_owned())];
        let decision = host.dashboard_tags(&person, &grants).await;
        answers.push(format!("{:?} {:?}", decision.value, decision.cause));
    }
    for (kind, tokens) in [("chat", None), ("chat", Some(0.5)), ("invoke", Some(0.0)), ("move", Some(19.5))] {
        let what = RateRequest { kind: kind.into(), cost: 1, tokens, now: 1 << 41 };
        let decision = host.rate_limit(&key("k", "sessions:own"), what).await;
        answers.push(format!("{:?} {:?}", decision.value, decision.cause));
    }
    answers
}

// shows: X-13
#[test]
fn components_of_before_are_untouched_and_pass_the_gate() {
    let named: BTreeMap<String, String> =
        toml::from_str(&fs::read_to_string(folder().join("digests.toml")).expect("digests")).expect("TOML");
    let found = corpus();
    let digests: BTreeMap<String, String> =
        found.iter().map(|(name, bytes)| (name.clone(), Digest::of(bytes).to_hex())).collect();
    assert_eq!(digests, named, "old components stay as they are");
    let store = tempfile::tempdir().expect("tempdir");
    let bench = Workbench::new(store.path()).expect("a workbench");
    let mut answered: Vec<Policy> = Vec::new();
    for (name, bytes) in &found {
        let of = bench.inspect(name, bytes, "{}").unwrap_or_else(|refusal| panic!("{refusal}"));
        assert_eq!(name.split('/').next(), Some(format!("v{}", of.contract).as_str()));
        let (tried, _) = bench.test(name, bytes, None).expect("vectors");
        let wrong: Vec<_> = tried.iter().filter(|one| one.wrong.is_some()).collect();
        assert!(wrong.is_empty() && !tried.is_empty(), "{name}: {wrong:?}");
        answered.extend(of.answers.iter().filter(|_| name != ALONE));
    }
    answered.sort();
    assert_eq!(answered, Policy::ALL, "each question, by the defaults of before");
    assert_eq!(found[ALONE], five(CONTRACTS[0], "(unreachable)"), "its text is the one beside");
}

// shows: X-13
#[tokio::test]
async fn components_of_before_answer_beside_todays_and_as_they_do() {
    let (today, before) = (Bench::new(), Bench::new());
    let count = put_old(&before);
    let (new, old) = (today.start(), before.start());
    until("the old ones serve", || contracts(&old) == vec![CONTRACTS[0]; count]).await;
    assert_eq!(contracts(&new), vec![CONTRACTS[1]; 5]);
    for settings in ["", "deny = [\"*.Tag3\"]\ncertificates = [\"CN=hist*\"]\n"] {
        for (bench, host) in [(&today, &new), (&before, &old)] {
            bench.put("access.toml", settings.as_bytes());
            let record = host.reload().await;
            assert_ne!(record.outcome, Outcome::Refused, "{record:?}");
        }
        let (was, is) = (interview(&old).await, interview(&new).await);
        assert!(was.iter().any(|answer| answer.contains("Deny")) && was.iter().all(|answer| answer.ends_with("None")));
        assert_eq!(was, is);
    }
}

// shows: X-11, X-12, X-13
#[tokio::test]
async fn what_one_version_decided_is_replayed_compared_and_promoted_across_the_versions() {
    let bench = Bench::new();
    let count = put_old(&bench);
    let host = bench.start();
    until("the old ones serve", || contracts(&host) == vec![CONTRACTS[0]; count]).await;
    interview(&host).await;
    let all = || Window { last: Last::Count(10_000), ..Window::default() };
    let budget = Duration::from_secs(60);
    let newer = || Candidate { file: "access.wasm".into(), bytes: TODAY.to_vec(), ..Candidate::default() };
    let (_, of) = host.difference(newer(), &all(), budget, false).expect("compares");
    assert!(of.asked > 100 && (of.changed, of.failed, of.skipped) == (0, 0, 0), "{of:?}");

    host.shadow_start(newer()).expect("starts");
    interview(&host).await;
    let swap = host.shadow_promote(0.0, 10).await.expect("promoted");
    assert_eq!(swap.outcome, Outcome::Swapped, "{swap:?}");
    let versions = contracts(&host);
    assert_eq!(versions.iter().filter(|contract| **contract == CONTRACTS[1]).count(), 1, "{versions:?}");
    interview(&host).await;
    host.rollback("the old one again").await.expect("a way back");
    assert_eq!(contracts(&host), vec![CONTRACTS[0]; count]);

    // Decisions of both, each asked of who made it, over a restart.
    drop(host);
    let host = bench.start();
    let (reading, replay) = host.replay(&all(), budget).expect("replays");
    assert_eq!(replay.mismatches, []);
    assert_eq!((reading.lost, replay.gone, replay.skipped, replay.unanswered), (0, 0, 0, 0), "{replay:?}");
}

// shows: X-05, X-13
#[test]
fn a_contract_that_is_not_known_is_named_with_those_that_work() {
    let store = tempfile::tempdir().expect("tempdir");
    let bench = Workbench::new(store.path()).expect("a workbench");
    let refused = |bytes: &[u8]| bench.inspect("access.wasm", bytes, "{}").expect_err("refused");
    let unknown = refused(&guest("other_version"));
    assert_eq!(unknown.code, RefusalCode::ContractUnknown);
    for part in [&["9.9.9"][..], &CONTRACTS[..]].concat() {
        assert!(unknown.message.contains(part), "{part} in {unknown}");
    }
    let mixed = refused(&guest("mixed"));
    assert_eq!(mixed.code, RefusalCode::ContractMismatch);
    assert!(CONTRACTS.iter().all(|contract| mixed.message.contains(contract)), "{mixed}");
    let without_rules = refused(&five_without_rules());
    assert_eq!(without_rules.code, RefusalCode::DescribeFailed);
    assert!(without_rules.message.contains("no rule"), "{without_rules}");
}
