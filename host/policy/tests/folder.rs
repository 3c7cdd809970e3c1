//! Stories of the plugins folder: what counts as a change, what is refused, what is remembered.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use support::*;
use tidegate_policy::*;

// shows: X-02, S-07
#[tokio::test]
async fn put_change_remove_each_take_effect() {
    let bench = Bench::new();
    let host = bench.start();
    assert!(!denied(&host).await);
    bench.put("access.wasm", &guest("deny"));
    until_generation(&host, 2).await;
    assert!(denied(&host).await);
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 3).await;
    assert!(!denied(&host).await);
    bench.put("rate-limit.toml", b"[kinds.invoke]\nper_second = 1");
    until_generation(&host, 4).await;
    fs::remove_file(bench.plugins().join("rate-limit.toml")).expect("remove");
    until_generation(&host, 5).await;
    assert_eq!(served(&host, Policy::RateLimit).origin, Origin::Embedded, "the embedded default took over");
    let swaps = host.list().swaps;
    assert!(swaps.iter().all(|swap| swap.trigger == Trigger::Folder && swap.outcome == Outcome::Swapped), "{swaps:#?}");
}

// shows: X-02
#[tokio::test]
async fn a_file_written_in_place_counts_when_it_is_closed() {
    use std::io::Write;
    let mut bench = Bench::new();
    // Only a notice can be this quick.
    bench.config.watch.poll = Duration::from_secs(60);
    let host = bench.start();
    let bytes = guest("deny");
    let mut file = fs::File::create(bench.plugins().join("access.wasm")).expect("create");
    for part in bytes.chunks(bytes.len() / 5) {
        file.write_all(part).expect("write");
        file.sync_all().expect("sync");
        let record = host.list().swaps.last().cloned();
        assert!(record.is_none(), "half a file was judged: {record:?}");
    }
    drop(file);
    until_generation(&host, 2).await;
    assert!(denied(&host).await);
}

// shows: X-02
#[tokio::test]
async fn without_notices_two_equal_looks_do() {
    let mut bench = Bench::new();
    bench.config.watch.notify = false;
    let host = bench.start();
    bench.put("access.wasm", &guest("deny"));
    until_generation(&host, 2).await;
    assert!(denied(&host).await);
}

// shows
#[tokio::test]
async fn settings_beside_a_component_and_for_an_embedded_default() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access.toml", b"deny = [\"Area1.*\"]");
    until_generation(&host, 2).await;
    let judge = host.judge_items(&key("k", "sessions:own"), &place("s"), &tags(1)).await;
    assert!(!judge.value[0].allow, "{judge:?}");
    bench.put("access.toml", b"deny = [\"Area2.*\"]");
    until_generation(&host, 3).await;
    assert!(host.judge_items(&key("k", "sessions:own"), &place("s"), &tags(1)).await.value[0].allow);
    // Wrong in each way there is.
    for (n, (text, code)) in [
        (&b"dney = []"[..], RefusalCode::SettingsInvalid),
        (b"deny = [1]", RefusalCode::SettingsInvalid),
        (b"deny = [\"**\"]", RefusalCode::SettingsInvalid),
        (b"deny = ", RefusalCode::SettingsInvalid),
        (b"\xff\xfe", RefusalCode::SettingsInvalid),
    ]
    .into_iter()
    .enumerate()
    {
        bench.put("access.toml", text);
        let refused = until_refused(&host, n as u64 + 1).await;
        assert_eq!((refused.code, refused.file.as_deref()), (Some(code), Some("access.toml")), "{refused:?}");
    }
    bench.put("acess.toml", b"deny = []");
    assert_eq!(until_refused(&host, 6).await.file.as_deref(), Some("acess.toml"));
    assert_eq!(host.generation(), GenerationId(3));
}

// shows: X-02
#[tokio::test]
async fn a_configmap_flips_its_link() {
    let bench = Bench::new();
    let at = |name: &str| bench.plugins().join(name);
    for (folder, name) in [("..one", "well"), ("..two", "deny")] {
        fs::create_dir(at(folder)).expect("folder");
        fs::write(at(folder).join("access.wasm"), guest(name)).expect("write");
    }
    symlink("..one", at("..data")).expect("link");
    symlink("..data/access.wasm", at("access.wasm")).expect("link");
    let host = bench.start();
    until_generation(&host, 2).await;
    assert!(!denied(&host).await);
    symlink("..two", at("..tmp")).expect("link");
    fs::rename(at("..tmp"), at("..data")).expect("flip");
    until_generation(&host, 3).await;
    assert!(denied(&host).await);
}

// shows: X-05
#[tokio::test]
async fn what_no_one_should_load_is_refused_with_a_name() {
    let mut bench = Bench::new();
    bench.config.limits.component_bytes_max = 1 << 20;
    let host = bench.start();
    let outside = bench.dir.path().join("outside.wasm");
    fs::write(&outside, guest("deny")).expect("write");
    let at = bench.plugins().join("access.wasm");
    let mut count = 0;
    let clear = || drop(fs::remove_file(&at).or_else(|_| fs::remove_dir(&at)));
    type Make<'a> = Box<dyn Fn() + 'a>;
    let cases: Vec<(&str, RefusalCode, Make<'_>)> = vec![
        ("empty", RefusalCode::NotAComponent, Box::new(|| bench.put("access.wasm", b""))),
        ("text", RefusalCode::NotAComponent, Box::new(|| bench.put("access.wasm", b"(component)"))),
        ("cut off", RefusalCode::CompileFailed, Box::new(|| bench.put("access.wasm", &guest("deny")[..500]))),
        ("huge", RefusalCode::TooLarge, Box::new(|| bench.put("access.wasm", &vec![0; (1 << 20) + 1]))),
        ("link outside", RefusalCode::OutsideFolder, Box::new(|| symlink(&outside, &at).expect("link"))),
        ("a folder", RefusalCode::NotRegular, Box::new(|| fs::create_dir(&at).expect("folder"))),
        (
            "writable by others",
            RefusalCode::WritableByOthers,
            Box::new(|| {
                let beside = bench.dir.path().join("beside");
                fs::write(&beside, guest("deny")).expect("write");
                fs::set_permissions(&beside, fs::Permissions::from_mode(0o666)).expect("chmod");
                fs::rename(&beside, &at).expect("rename");
            }),
        ),
        (
            "a pipe",
            RefusalCode::NotRegular,
            Box::new(|| {
                rustix::fs::mknodat(rustix::fs::CWD, &at, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
                    .expect("pipe")
            }),
        ),
    ];
    for (what, code, make) in &cases {
        clear();
        make();
        count += 1;
        let refused = until_refused(&host, count).await;
        assert_eq!((refused.code, refused.to), (Some(*code), GenerationId(1)), "{what}: {refused:?}");
        assert!(!denied(&host).await);
    }
}

// shows: X-05
#[tokio::test]
async fn a_thousand_files_and_editors_leavings_hang_nothing() {
    let bench = Bench::new();
    let host = bench.start();
    for name in [".access.wasm.swp", "access.wasm~", "4913", "#access.wasm#", "README.md"] {
        fs::write(bench.plugins().join(name), b"x").expect("write");
    }
    assert_eq!(host.reload().await.outcome, Outcome::Unchanged);
    for n in 0..1_000 {
        fs::write(bench.plugins().join(format!("p{n}.wasm")), b"x").expect("write");
    }
    let start = Instant::now();
    assert_eq!(host.reload().await.code, Some(RefusalCode::TooMany));
    assert!(start.elapsed() < Duration::from_secs(2));
    assert!(!denied(&host).await);
}

#[tokio::test]
async fn a_folder_that_others_may_write_stops_the_start() {
    let bench = Bench::new();
    fs::set_permissions(bench.plugins(), fs::Permissions::from_mode(0o777)).expect("chmod");
    assert!(matches!(PolicyHost::start(bench.config.clone()), Err(StartError::PluginsFolder { .. })));
    fs::remove_dir(bench.plugins()).expect("remove");
    assert!(matches!(PolicyHost::start(bench.config.clone()), Err(StartError::PluginsFolder { .. })));
}

// shows: X-04
#[tokio::test]
async fn files_put_together_are_one_generation_and_two_answerers_none() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access.wasm", &guest("well"));
    bench.put("rate-limit.toml", b"[kinds.invoke]\nper_second = 1");
    until_generation(&host, 2).await;
    let swap = host.list().swaps.last().cloned().expect("a swap");
    assert_eq!(swap.files, ["access.wasm", "rate-limit.toml"], "{swap:?}");
    bench.put("second.wasm", &guest("deny"));
    let refused = until_refused(&host, 1).await;
    assert_eq!(refused.code, Some(RefusalCode::DuplicatePolicy));
    assert_eq!(host.generation(), GenerationId(2));
}

// shows: X-04
#[tokio::test]
async fn generation_toml_is_all_or_nothing() {
    let bench = Bench::new();
    let hex = |bytes: &[u8]| Digest::of(bytes).to_hex();
    let manifest = |sha: &str| format!("[[policy]]\nname = \"access\"\nsha256 = \"{sha}\"\n");
    let floor = b"";
    bench.put("version-floor.toml", floor);
    let of_floor = format!("[[policy]]\nname = \"version-floor\"\nsettings_sha256 = \"{}\"\n", hex(floor));
    bench.put("generation.toml", of_floor.as_bytes());
    let host = bench.start();
    let first = host.generation().0;
    bench.put("access.wasm", &guest("deny"));
    assert!(!denied(&host).await, "only generation.toml counts");
    bench.put("generation.toml", manifest(&hex(b"else")).as_bytes());
    assert_eq!(until_refused(&host, 1).await.code, Some(RefusalCode::DigestMismatch));
    assert_eq!(host.generation().0, first);
    bench.put("generation.toml", manifest(&hex(&guest("deny"))).as_bytes());
    until_generation(&host, first + 1).await;
    assert!(denied(&host).await);
    // Settings that were in force and are not named any more: it says so itself.
    let settings = b"deny = [\"Area1.*\"]";
    let component = include_bytes!("../../../plugins/dist/access.wasm");
    let allowed = async || host.judge_items(&key("k", "sessions:own"), &place("s"), &tags(1)).await.value[0].allow;
    bench.put("access.wasm", component);
    bench.put("access.toml", settings);
    let named = manifest(&hex(component));
    bench.put("generation.toml", format!("{named}settings_sha256 = \"{}\"\n", hex(settings)).as_bytes());
    until_generation(&host, first + 2).await;
    assert!(!allowed().await);
    fs::remove_file(bench.plugins().join("access.toml")).expect("remove");
    bench.put("generation.toml", named.as_bytes());
    until_generation(&host, first + 3).await;
    assert!(allowed().await);
    bench.put("generation.toml", b"[[polici]]");
    assert_eq!(until_refused(&host, 2).await.code, Some(RefusalCode::GenerationInvalid));
}

// shows: X-04
#[tokio::test]
async fn a_generation_toml_waits_for_the_files_it_names() {
    let bench = Bench::new();
    let host = bench.start();
    let hex = |bytes: &[u8]| Digest::of(bytes).to_hex();
    let release = |guest_bytes: &[u8], rate: &[u8]| {
        format!(
            "[[policy]]\nname = \"access\"\nsha256 = \"{}\"\n[[policy]]\nname = \"rate-limit\"\nsettings_sha256 = \"{}\"\n",
            hex(guest_bytes),
            hex(rate)
        )
    };
    // As a release is copied, file by file in the order of their names.
    let (new, rate) = (guest("deny"), &b"[kinds.invoke]\nper_second = 1"[..]);
    bench.put("generation.toml", release(&new, rate).as_bytes());
    let refused = until_refused(&host, 1).await;
    assert_eq!((refused.code, refused.file.as_deref()), (Some(RefusalCode::DigestMismatch), Some("access")));
    bench.put("access.wasm", &new);
    let refused = until_refused(&host, 2).await;
    assert_eq!(refused.file.as_deref(), Some("rate-limit"), "what it waits for next is told: {refused:?}");
    bench.put("rate-limit.toml", rate);
    until_generation(&host, 2).await;
    assert!(denied(&host).await && host.list().refused.is_empty(), "the last one makes it whole");
    // One that waits is told once, whatever else comes, and again when it is written again.
    let waits = release(&guest("well"), rate);
    bench.put("generation.toml", waits.as_bytes());
    until_refused(&host, 3).await;
    bench.put("access.wasm", &marked("well", 1));
    bench.put("rate-limit.toml", rate);
    host.look().await;
    assert_eq!(host.counters().refused_swaps, 3);
    bench.put("generation.toml", waits.as_bytes());
    until_refused(&host, 4).await;
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 3).await;
    assert!(!denied(&host).await);
}

// shows
#[tokio::test]
async fn an_empty_generation_toml_is_none_and_without_one_the_folder_counts_again() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 2).await;
    for (n, text) in [(1, &b""[..]), (2, b"# soon\n")] {
        bench.put("generation.toml", text);
        let refused = until_refused(&host, n).await;
        assert_eq!(refused.code, Some(RefusalCode::GenerationInvalid), "{refused:?}");
        assert_eq!(served(&host, Policy::Access).origin, Origin::File("access.wasm".into()));
    }
    bench.put("version-floor.toml", b"");
    let floor = format!("[[policy]]\nname = \"version-floor\"\nsettings_sha256 = \"{}\"\n", Digest::of(b"").to_hex());
    bench.put("generation.toml", floor.as_bytes());
    until_generation(&host, 3).await;
    assert_eq!(served(&host, Policy::Access).origin, Origin::Closed, "it says so itself");
    fs::remove_file(bench.plugins().join("generation.toml")).expect("remove");
    until_generation(&host, 4).await;
    assert_eq!(served(&host, Policy::Access).origin, Origin::File("access.wasm".into()));
    assert!(!denied(&host).await);
}

// shows: X-06
#[tokio::test]
async fn the_last_good_set_outlives_the_file_and_the_process() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access.wasm", &guest("deny"));
    until_generation(&host, 2).await;
    drop(host);
    bench.put("access.wasm", b"overwritten with rubbish");
    let host = bench.start();
    assert!(denied(&host).await, "served from the store");
    let refused = until_refused(&host, 1).await;
    assert_eq!((refused.trigger, refused.code), (Trigger::Start, Some(RefusalCode::NotAComponent)));
}

// shows: X-06
#[tokio::test]
async fn a_rollback_pins_until_something_new_comes() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access.wasm", &guest("well"));
    until_generation(&host, 2).await;
    bench.put("access.wasm", &guest("deny"));
    until_generation(&host, 3).await;
    let back = host.rollback("it denied the wrong people").await.expect("rolled back");
    assert_eq!((back.from, back.to, back.trigger), (GenerationId(3), GenerationId(4), Trigger::Rollback));
    assert!(!denied(&host).await);
    assert_eq!(host.list().pinned, Some(PinReason::Rollback));
    // Something else changes: that is taken, what was rolled back is not.
    bench.put("rate-limit.toml", b"[kinds.invoke]\nper_second = 1");
    until_generation(&host, 5).await;
    assert!(!denied(&host).await);
    assert_eq!(host.list().pinned, None);
    // By hand it comes back.
    assert_eq!(host.reload().await.outcome, Outcome::Swapped);
    assert!(denied(&host).await);
    host.pin(true);
    bench.put("access.wasm", &guest("well"));
    assert_eq!(host.list().pinned, Some(PinReason::Operator));
    let held = host.generation();
    host.pin(false);
    until_generation(&host, held.0 + 1).await;
    assert!(!denied(&host).await);
}

// shows: X-06
#[tokio::test]
async fn what_was_refused_is_not_new_after_a_rollback() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access.toml", b"deny = [\"Area1.*\"]");
    until_generation(&host, 2).await;
    fs::remove_file(bench.plugins().join("access.toml")).expect("remove");
    bench.put("access.wasm", &guest("deny"));
    assert_eq!(until_refused(&host, 1).await.code, Some(RefusalCode::SettingsMissing));
    host.rollback("3 a.m.").await.expect("rolled back");
    // By then the folder has been looked at, and the next look would have taken it too.
    bench.put("rate-limit.toml", b"[kinds.invoke]\nper_second = 1");
    until_generation(&host, 4).await;
    assert!(!denied(&host).await);
    assert_ne!(served(&host, Policy::Access).origin, Origin::File("access.wasm".into()));
    // By hand it comes.
    assert_eq!(host.reload().await.outcome, Outcome::Swapped);
    assert!(denied(&host).await);
}

#[tokio::test]
async fn nothing_earlier_nothing_to_roll_back_to() {
    let bench = Bench::new();
    let host = bench.start();
    assert_eq!(host.rollback("why").await.expect_err("nothing"), RollbackError::Nothing);
}

#[tokio::test]
async fn a_tampered_cache_is_compiled_again() {
    let bench = Bench::new();
    bench.put("access.wasm", &guest("deny"));
    drop(bench.start());
    let cache = bench.config.store_dir.join("cache");
    for entry in fs::read_dir(&cache).expect("cache") {
        let path = entry.expect("entry").path();
        let mut bytes = fs::read(&path).expect("read");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).expect("write");
    }
    let host = bench.start();
    assert!(denied(&host).await);
    let mode = fs::metadata(&cache).expect("cache").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

// shows
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn swapping_under_calls_fails_no_decision_and_mixes_no_generation() {
    let bench = Bench::new();
    bench.put("access.wasm", &guest("well"));
    let host = bench.start();
    let first = host.generation().0;
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (host, stop) = (host.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut calls, mut last) = (0u64, GenerationId(0));
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    let decision = host.access(&key("k", ""), &place("boom"), Action::Read).await;
                    assert_eq!(decision.cause, None);
                    // Even generations allow, odd ones deny: an answer of another generation would show.
                    assert_eq!(decision.value.is_allow(), decision.generation.0 % 2 == 0, "{decision:?}");
                    assert!(decision.generation >= last, "generations only rise");
                    last = decision.generation;
                    calls += 1;
                }
                calls
            })
        })
        .collect();
    assert_eq!(first, 2);
    for n in 1..=30u32 {
        bench.put("access.wasm", &if n % 2 == 1 { marked("deny", n) } else { marked("well", n) });
        until_generation(&host, first + u64::from(n)).await;
        assert!(host.list().live_generations <= 3);
    }
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    for caller in callers {
        assert!(caller.await.expect("caller") > 100);
    }
    until("replaced generations are gone", || host.list().live_generations == 1).await;
}

#[tokio::test]
async fn a_flip_runs_its_hooks_and_keeps_their_fences() {
    let bench = Bench::new();
    let host = bench.start();
    let watch = host.watch();
    host.on_flip(Box::new(|id| vec![Fence { stream: "s/1".into(), epoch: 7, sequence: id.0 * 10 }]));
    bench.put("access.wasm", &guest("deny"));
    until_generation(&host, 2).await;
    let swap = host.list().swaps.last().cloned().expect("a swap");
    let early = host.until_enforced(swap.clone(), Duration::ZERO).await;
    assert_eq!(early.enforced_us, None, "nobody has reported it");
    let patience = Duration::from_secs(30);
    let (done, ()) = tokio::join!(host.until_enforced(swap, patience), async { host.enforced(GenerationId(2), 1_234) });
    assert_eq!(done.enforced_us, Some(1_234));
    until("the record is complete", || host.list().swaps.last().is_some_and(|swap| !swap.fences.is_empty())).await;
    let swap = host.list().swaps.last().cloned().expect("a swap");
    assert_eq!(swap.fences, [Fence { stream: "s/1".into(), epoch: 7, sequence: 20 }]);
    assert_eq!(swap.enforced_us, Some(1_234));
    assert!(swap.gate_us > 0);
    assert!(watch.has_changed().expect("host lives"));
}

// shows: X-05
#[tokio::test]
async fn every_broken_file_is_named_with_its_reason_for_as_long_as_it_stands_there() {
    let bench = Bench::new();
    let host = bench.start();
    let named = |of: &[Refusal]| of.iter().map(|of| (of.file.clone(), of.code)).collect::<Vec<_>>();
    let both = [
        ("access.toml".to_owned(), RefusalCode::SettingsInvalid),
        ("rate-limit.wasm".to_owned(), RefusalCode::NotAComponent),
    ];
    // In one look, by an operator's word.
    for (name, bytes) in [("access.toml", &b"dney = []"[..]), ("rate-limit.wasm", b"rubbish")] {
        bench.put(name, bytes);
    }
    let record = host.reload().await;
    assert_eq!((record.outcome, named(&record.refusals), record.refusals_more), (Outcome::Refused, both.to_vec(), 0));
    assert_eq!(record.file.as_deref(), Some("access.toml"), "and the first names the attempt");
    assert_eq!(named(&host.list().refused), both);
    assert!(RefusalCode::ALL.iter().all(|code| code.remedy().ends_with(['.', '`'])), "each says what to do");
    // It stays told until it is mended or gone, whatever else happens.
    bench.put("backpressure.toml", b"");
    until_generation(&host, 2).await;
    assert_eq!(named(&host.list().refused), both);
    bench.put("access.toml", b"deny = []");
    until_generation(&host, 3).await;
    assert_eq!(named(&host.list().refused), both[1..]);
    drop(host);
    let host = bench.start();
    assert_eq!(named(&host.list().refused), both[1..], "a start tells it anew");
    fs::remove_file(bench.plugins().join("rate-limit.wasm")).expect("remove");
    until("nothing is refused", || host.list().refused.is_empty()).await;
    // Two that answer the same; the folder itself; more than a record holds.
    bench.put("mine.wasm", &guest("well"));
    let twice = || host.list().refused.first().is_some_and(|of| of.code == RefusalCode::DuplicatePolicy);
    until("the second answerer is named", twice).await;
    fs::remove_file(bench.plugins().join("mine.wasm")).expect("remove");
    fs::set_permissions(bench.plugins(), fs::Permissions::from_mode(0o777)).expect("mode");
    until("the folder is named", || {
        host.list().refused.first().is_some_and(|of| of.code == RefusalCode::WritableByOthers)
    })
    .await;
    fs::set_permissions(bench.plugins(), fs::Permissions::from_mode(0o755)).expect("mode");
    until("nothing is refused", || host.list().refused.is_empty()).await;
    for n in 0..20 {
        bench.put(&format!("wrong-{n:02}.wasm"), b"rubbish");
    }
    let record = host.reload().await;
    assert_eq!((record.refusals.len(), record.refusals_more, host.list().refused.len()), (16, 4, 20));
}
