//! Stories of the decision log: what is kept, what a damaged file costs, and what can be asked of the past.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use std::fs;
use std::time::Duration;

use support::*;
use tidegate_policy::*;

const BUDGET: Duration = Duration::from_secs(60);

fn newest(count: usize) -> Window {
    Window { last: Last::Count(count), ..Window::default() }
}

fn write(tag: &str) -> Action {
    Action::Command { method: "write".into(), tag: tag.into() }
}

fn settings(bench: &Bench) -> std::path::PathBuf {
    bench.config.store_dir.join("decisions")
}

fn candidate(text: &str) -> Candidate {
    Candidate { file: "access.toml".into(), bytes: text.as_bytes().to_vec(), ..Candidate::default() }
}

// shows: X-11
#[tokio::test]
async fn a_decision_is_explained_by_its_id_over_swaps_and_restarts() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access.toml", b"deny = [\"Area1.*\"]");
    until_generation(&host, 2).await;
    let who = Principal::new("k", vec!["sessions:own".into()], vec![], vec![], "192.0.2.7");
    let decided = host.access(&who, &place("s"), write("Area1.Tag7")).await;
    assert!(!decided.value.is_allow());
    let judged = host.judge_items(&who, &place("s"), &tags(600)).await;
    bench.put("access.toml", b"");
    until_generation(&host, 3).await;
    drop(host);
    let host = bench.start();
    let explain = |host: &PolicyHost, id| {
        let found = host.decisions(&Window { id: Some(id), ..Window::default() }).expect("reads").records;
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].words().join("\n")
    };
    let words = explain(&host, decided.id);
    for part in ["key k (sessions:own) from 192.0.2.7", "write on Area1.Tag7", "denied", "access.toml", "generation 2"]
    {
        assert!(words.contains(part), "{part} in {words}");
    }
    assert!(explain(&host, judged.id).contains("600 denied"), "{}", explain(&host, judged.id));
    let by_tag = Window { tag: Some("Area1.Tag599".into()), policy: Some(Policy::Access), ..newest(10) };
    let found = host.decisions(&by_tag).expect("reads");
    assert_eq!(found.records.len(), 1);
    assert_eq!(found.records[0].item("Area1.Tag599").map(|(allow, _)| allow), Some(false));
    assert_eq!((found.lost, found.damaged, found.cut_runs), (0, 0, 0), "{found:?}");
    // A failure of the guest is told as one.
    bench.put("access.wasm", &guest("trap"));
    until_generation(&host, 2).await;
    let failed = host.access(&who, &place("boom"), Action::Read).await;
    assert!(explain(&host, failed.id).contains("no answer (trap)"), "{}", explain(&host, failed.id));
}

// shows: X-11
#[tokio::test]
async fn replayed_over_a_folder_of_swaps_nothing_answers_otherwise() {
    let bench = Bench::new();
    let host = bench.start();
    let (own, all) = (key("k", "sessions:own"), key("z", "sessions:all"));
    for n in 0..6_u32 {
        match n % 3 {
            0 => bench.put("access.toml", format!("deny = [\"Area1.Tag{n}\"]").as_bytes()),
            1 if n == 1 => bench.put("backpressure.toml", b""),
            1 => fs::remove_file(bench.plugins().join("backpressure.toml")).expect("remove"),
            _ => bench.put("rate-limit.toml", format!("[kinds.invoke]\nper_second = {n}.3").as_bytes()),
        }
        let wanted = 2 + u64::from(n);
        until_generation(&host, wanted).await;
        for who in [&own, &all] {
            for what in [Action::Open, Action::Read, write("Area1.Tag3"), Action::Close] {
                host.access(who, &place("s"), what).await;
            }
            host.judge_items(who, &place("s"), &tags(300)).await;
            let what = RateRequest { kind: "invoke".into(), cost: 1, tokens: Some(0.1 + f64::from(n)), now: 7 };
            host.rate_limit(who, what).await;
        }
        host.version_floor(&ClientNode { id: "n".into(), kind: "hmi".into(), version: "1.2".into() }, Some("1.3"))
            .await;
        let p = Pressure {
            now: 1,
            who: own.clone(),
            session: place("s"),
            reader: "r".into(),
            lag_events: 9_500,
            lag_events_max: 10_000,
            log_bytes: 1,
            log_bytes_max: 2,
            asked: u32::MAX,
            since_ms: u64::MAX,
            readers: 1,
        };
        host.backpressure(p).await;
        host.dashboard_tags(&Person { name: "p".into(), roles: vec![], groups: vec!["g".into()] }, &[]).await;
    }
    let (reading, replay) = host.replay(&newest(10_000), BUDGET).expect("replays");
    assert_eq!((reading.lost, reading.records.len()), (0, 6 * 15));
    assert_eq!(replay.mismatches, [], "the same component, another answer");
    assert_eq!((replay.replayed, replay.gone, replay.skipped), (6 * 15, 0, 0), "{replay:?}");
    // Over a restart, from what is kept.
    drop(host);
    let host = bench.start();
    let (_, replay) = host.replay(&newest(10_000), BUDGET).expect("replays");
    assert_eq!((replay.replayed, replay.gone, replay.mismatches.len()), (6 * 15, 0, 0), "{replay:?}");
    let (_, replay) = host.replay(&newest(10_000), Duration::ZERO).expect("replays");
    assert_eq!((replay.replayed, replay.skipped), (0, 6 * 15), "the budget is kept");
}

// shows: X-11, X-14
#[tokio::test]
async fn a_difference_names_whom_and_which_rule_it_would_hit() {
    let bench = Bench::new();
    let host = bench.start();
    for (id, count) in [("anna", 3), ("bert", 1)] {
        for n in 0..count {
            let who = key(id, "sessions:all");
            host.access(&who, &place("s"), write(&format!("Area2.Tag{n}"))).await;
            host.judge_items(&who, &place("s"), &tags(10)).await;
        }
    }
    let narrow = || candidate("deny = [\"Area1.Tag3\", \"Area2.*\"]");
    let (_, of) = host.difference(narrow(), &newest(1000), BUDGET, false).expect("compares");
    assert_eq!((of.asked, of.changed, of.failed, of.skipped), (44, 8, 0, 0), "{of:?}");
    let rows: Vec<_> = of.changes.iter().map(|c| (c.who.as_str(), c.was.as_str(), c.is.as_str(), c.count)).collect();
    assert_eq!(rows, [("anna", "allow", "deny", 6), ("bert", "allow", "deny", 2)]);
    assert!(of.changes.iter().all(|c| !c.was_rule.is_empty() && !c.is_rule.is_empty() && c.was_rule != c.is_rule));
    let (_, again) = host.difference(narrow(), &newest(1000), BUDGET, false).expect("compares");
    assert_eq!(again.changes, of.changes, "always the same");
    let (_, same) = host.difference(candidate(""), &newest(1000), BUDGET, false).expect("compares");
    assert_eq!((same.asked, same.changed), (44, 0));
    // What does not pass the gate is not compared, and nothing of all this changed what decides.
    let refused = host.difference(candidate("denny = []"), &newest(10), BUDGET, false).expect_err("refused");
    let PastError::Refused(refusal) = refused else { panic!("{refused}") };
    assert_eq!(refusal.code, RefusalCode::SettingsInvalid);
    assert_eq!((host.generation(), host.list().swaps.len()), (GenerationId(1), 0));
    let fails = Candidate { file: "access.wasm".into(), bytes: guest("trap"), ..Candidate::default() };
    host.access(&key("k", "sessions:all"), &place("boom"), Action::Read).await;
    let (_, of) = host.difference(fails, &newest(1), BUDGET, false).expect("compares");
    assert_eq!((of.asked, of.changed, of.failed), (1, 1, 1), "no answer is another one");
}

// shows: X-11
#[tokio::test]
async fn a_torn_and_damaged_log_is_read_and_says_what_is_missing() {
    let bench = Bench::new();
    let host = bench.start();
    let who = key("k", "sessions:all");
    for _ in 0..20 {
        host.access(&who, &place("s"), Action::Read).await;
    }
    assert_eq!(host.decisions(&newest(100)).expect("reads").records.len(), 20);
    drop(host);
    let file = settings(&bench).join("00000001.log");
    let whole = fs::read(&file).expect("a log");
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    // Killed in the middle of a line: without its end, and without the last word. One line in between is damaged.
    let mut torn = lines[..lines.len() - 1].concat();
    torn.truncate(torn.len() - 30);
    let at = lines[..10].concat().len() + 40;
    torn[at] ^= 1;
    fs::write(&file, &torn).expect("write");
    let host = bench.start();
    host.access(&who, &place("s"), Action::Read).await;
    let reading = host.decisions(&newest(100)).expect("reads");
    assert_eq!((reading.records.len(), reading.damaged, reading.cut_runs), (19, 2, 1), "{reading:?}");
    assert_eq!(reading.lost, 1, "the one in between is missed; of the end only its being cut is known");
    assert!(reading.records.windows(2).all(|pair| pair[0].id < pair[1].id), "ids rise over restarts");
}

// shows: X-11
#[tokio::test]
async fn the_log_is_bounded_and_can_be_off() {
    let mut bench = Bench::new();
    bench.config.decisions = DecisionLog { file_bytes_max: 8 << 10, files_max: 3 };
    let host = bench.start();
    let who = key("k", "sessions:all");
    let mut last = DecisionId::default();
    for _ in 0..10 {
        for _ in 0..20 {
            last = host.access(&who, &place("s"), write("Area1.Tag1")).await.id;
        }
        // In files, so that each of them is filled.
        host.decisions(&newest(1)).expect("reads");
    }
    let sizes: Vec<u64> = fs::read_dir(settings(&bench))
        .expect("files")
        .map(|f| f.and_then(|f| f.metadata()).expect("a file").len())
        .collect();
    assert!(sizes.len() == 3 && sizes.iter().all(|size| *size <= 8 << 10), "{sizes:?}");
    let reading = host.decisions(&newest(1000)).expect("reads");
    assert!((10..200).contains(&reading.records.len()) && reading.lost == 0, "{}", reading.records.len());
    assert_eq!(reading.records.last().map(|record| record.id), Some(last));
    drop(host);
    bench.config.decisions.files_max = 0;
    let host = bench.start();
    assert!(host.access(&who, &place("s"), Action::Read).await.id > last);
    assert!(matches!(host.decisions(&newest(1)), Err(PastError::Off)));
}

// shows: X-11
#[tokio::test]
async fn what_cannot_be_written_is_told_and_what_is_no_file_is_passed_over() {
    let mut bench = Bench::new();
    bench.config.decisions = DecisionLog { file_bytes_max: 8 << 10, files_max: 40 };
    let folder = settings(&bench);
    // Under the first names stand a folder, a pipe and a link to nothing.
    fs::create_dir_all(folder.join("00000001.log")).expect("a folder");
    let pipe = std::process::Command::new("mkfifo").arg(folder.join("00000002.log")).status().expect("mkfifo");
    assert!(pipe.success());
    std::os::unix::fs::symlink("nothing", folder.join("00000099.log")).expect("a link");
    let host = bench.start();
    let who = key("k", "sessions:all");
    let mut made = 0;
    let mut ask = async |count: u64| {
        for _ in 0..count {
            host.access(&who, &place("s"), write("Area1.Tag1")).await;
        }
        made += count;
        made
    };
    ask(50).await;
    let reading = host.decisions(&newest(1000)).expect("reads");
    assert!(reading.records.len() >= 10 && reading.lost == 0, "{} of 50", reading.records.len());
    assert_eq!((host.decisions_trouble(), host.counters().decisions_dropped), (None, 0));
    // The folder is away: the next file cannot be begun.
    let (away, whole) = (folder.with_extension("away"), host.decisions(&newest(1000)).expect("reads"));
    fs::rename(&folder, &away).expect("rename");
    fs::write(&folder, b"").expect("write");
    while host.decisions_trouble().is_none() {
        assert!(ask(20).await < 100_000, "it never notices");
        tokio::task::yield_now().await;
    }
    ask(20).await;
    until("they are dropped", || host.counters().decisions_dropped >= 20).await;
    fs::remove_file(&folder).expect("remove");
    fs::rename(&away, &folder).expect("rename");
    until("it is well by itself", || host.decisions_trouble().is_none()).await;
    ask(1).await;
    let reading = host.decisions(&newest(1000)).expect("reads");
    assert!(reading.dropped >= 20, "{} of {}", reading.dropped, reading.lost);
    assert!(reading.records.last().map(|record| record.id) > whole.records.last().map(|record| record.id));
}

// shows: X-11
#[tokio::test]
async fn what_is_counted_as_denied_is_what_the_log_calls_denied() {
    let bench = Bench::new();
    bench.put("access.toml", b"deny = [\"Area1.*\"]");
    bench.put("rate-limit.toml", b"[kinds.invoke]\nper_second = 1");
    let host = bench.start();
    let who = key("k", "sessions:own");
    let of = |policy| {
        let denied = Window { denied: true, policy: Some(policy), ..newest(1000) };
        let listed = host.decisions(&denied).expect("reads").records.len() as u64;
        let counted = host.counters().denied.into_iter().find(|(of, _)| *of == policy).expect("a count").1;
        assert_eq!(listed, counted, "{policy}");
        counted
    };
    assert!(Policy::ALL.map(of).iter().all(|count| *count == 0));
    for n in 0..3 {
        host.access(&who, &place("s"), write(&format!("Area{n}.Tag"))).await;
    }
    host.judge_items(&who, &place("s"), &tags(10)).await;
    let cost = |cost, tokens| RateRequest { kind: "invoke".into(), cost, tokens, now: 1 };
    for (asked, tokens) in [(1, None), (1, Some(0.2)), (3, Some(1.0)), (1, Some(1.0))] {
        host.rate_limit(&who, cost(asked, tokens)).await;
    }
    host.version_floor(&ClientNode { id: String::new(), kind: "k".into(), version: "1.0".into() }, Some("2.0")).await;
    host.dashboard_tags(&Person { name: "ben".into(), roles: vec![], groups: vec![] }, &[]).await;
    assert_eq!(Policy::ALL.map(of), [2, 0, 1, 1, 2], "two of access, the floor, the dashboard, two buckets");
}

// shows: X-05, X-11
#[tokio::test]
async fn a_candidate_is_compared_unsigned_only_when_it_is_said_so_and_never_when_it_is_too_large() {
    let mut bench = Bench::new();
    let (public, secret) = new_keys(None).expect("keys");
    let keys = bench.dir.path().join("anna.pub");
    fs::write(&keys, public).expect("a key");
    bench.config.trust = Trust { keys: Some(keys), signed_only: true };
    let host = bench.start();
    host.access(&key("k", "sessions:all"), &place("s"), write("Area1.Tag1")).await;
    let code = |refused: PastError| match refused {
        PastError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    };
    let text = "deny = [\"Area1.*\"]";
    let refused = host.difference(candidate(text), &newest(10), BUDGET, false).expect_err("nobody signed it");
    assert_eq!(code(refused), RefusalCode::Unsigned);
    let (_, of) = host.difference(candidate(text), &newest(10), BUDGET, true).expect("compares");
    assert_eq!((of.asked, of.changed), (1, 1));
    let signature = Some(sign_settings(&secret, None, "access", text).expect("signed"));
    let signed = Candidate { signature, ..candidate(text) };
    assert_eq!(host.difference(signed, &newest(10), BUDGET, false).expect("compares").1.changed, 1);
    for large in [
        candidate(&"#".repeat(256 * 1024 + 1)),
        Candidate { file: "access.wasm".into(), bytes: vec![0; (64 << 20) + 1], ..Candidate::default() },
        Candidate { signature: Some("x".repeat(5000)), ..candidate(text) },
    ] {
        let refused = host.difference(large.clone(), &newest(10), BUDGET, true).expect_err("too large");
        assert_eq!(code(refused), RefusalCode::TooLarge);
        assert_eq!(code(host.shadow_start(large).expect_err("too large")), RefusalCode::TooLarge);
    }
}
