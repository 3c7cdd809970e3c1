//! Stories of a plugins folder in the hands of editors and strangers, and of a gateway that stops meanwhile.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use std::fs;
use std::time::Duration;

use support::*;
use tidegate_policy::*;

// shows: X-02
#[tokio::test]
async fn what_an_editor_has_only_begun_to_write_is_not_taken() {
    use std::io::Write;
    let mut bench = Bench::new();
    // Only a notice can be this quick.
    bench.config.watch.poll = Duration::from_secs(60);
    let at = |name: &str| bench.plugins().join(name);
    bench.put("access.toml", b"deny = [\"Area1.*\"]");
    let host = bench.start();
    let allowed = async || host.judge_items(&key("k", "sessions:own"), &place("s"), &tags(1)).await.value[0].allow;
    assert!(!allowed().await);
    let taken = |name: &str| {
        let swaps = host.list().swaps;
        swaps.iter().filter(|swap| swap.outcome == Outcome::Swapped && swap.files.iter().any(|of| of == name)).count()
    };
    // Another file is taken up: by then this look has been at everything.
    let looked = async |per_second: u32| {
        let before = taken("rate-limit.toml");
        bench.put("rate-limit.toml", format!("[kinds.invoke]\nper_second = {per_second}").as_bytes());
        until("another file is taken up", || taken("rate-limit.toml") > before).await;
    };
    // As vim saves: the file before is moved away, the new one is empty for a while.
    fs::rename(at("access.toml"), at("access.toml~")).expect("rename");
    let mut file = fs::File::create(at("access.toml")).expect("create");
    fs::write(at("NOTES"), b"x").expect("write");
    fs::rename(at("NOTES"), at("README.txt")).expect("rename");
    looked(1).await;
    assert!(!allowed().await, "an empty file was taken");
    let before = taken("access.toml");
    file.write_all(b"deny = [\"Area1.*\", \"Area2.*\"]").expect("write");
    drop(file);
    until("what was saved is taken", || taken("access.toml") > before).await;
    assert!(!allowed().await);
    // Closed, and opened again at once: what was heard is about what is no more.
    fs::write(at("access.toml"), b"deny = [\"Area1.*\", \"Area3.*\"]").expect("write");
    let file = fs::File::create(at("access.toml")).expect("create");
    for n in 2..5 {
        looked(n).await;
        assert!(!allowed().await, "an empty file was taken");
    }
    assert!(host.list().pending.contains(&"access.toml".to_owned()));
    drop(file);
    until("an empty file is taken when its writer says so", || taken("access.toml") > before + 1).await;
    assert!(allowed().await);
}

// shows: X-05
#[tokio::test]
async fn a_name_that_would_forge_a_line_is_none() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access\n\x1b[2J.wasm", &guest("deny"));
    bench.put("a\u{202e}.toml", b"rubbish");
    assert_eq!(host.reload().await.outcome, Outcome::Unchanged);
    assert!(!denied(&host).await);
}

// shows: X-02
#[tokio::test]
async fn what_is_written_in_parts_is_taken_when_it_is_closed_or_left_for_long() {
    use std::io::Write;
    let mut bench = Bench::new();
    bench.config.watch.poll = Duration::from_millis(50);
    bench.config.watch.unclosed = Duration::from_secs(600);
    bench.put("access.toml", b"deny = [\"Area1.*\"]");
    let host = bench.start();
    let allowed = async |host: &PolicyHost| {
        host.judge_items(&key("k", "sessions:own"), &place("s"), &tags(1)).await.value[0].allow
    };
    assert!(!allowed(&host).await);
    let serves = host.generation();
    // A whole file, up to here, that allows everything.
    let mut file = fs::File::create(bench.plugins().join("access.toml")).expect("create");
    file.write_all(b"# what is denied:\n").expect("write");
    until("it is told as being written", || host.list().pending.contains(&"access.toml".to_owned())).await;
    // Others of which no close is told, either, but that nobody writes: two equal looks take them.
    for (n, name) in ["rate-limit.toml", "backpressure.toml", "version-floor.toml"].into_iter().enumerate() {
        let beside = bench.dir.path().join(name);
        fs::write(&beside, b"# as it is").expect("write");
        fs::hard_link(&beside, bench.plugins().join(name)).expect("link");
        until_generation(&host, serves.0 + 1 + n as u64).await;
        assert!(!allowed(&host).await, "half a file was taken");
    }
    assert!(host.list().pending.contains(&"access.toml".to_owned()));
    file.write_all(b"deny = [\"Area1.*\", \"Area2.*\"]").expect("write");
    drop(file);
    until_generation(&host, serves.0 + 4).await;
    assert!(!allowed(&host).await && host.list().pending.is_empty());
    drop(host);
    // Whoever never closes it is not waited for without end.
    bench.config.watch.unclosed = Duration::from_millis(200);
    let host = bench.start();
    let serves = host.generation();
    let mut file = fs::File::create(bench.plugins().join("access.toml")).expect("create");
    file.write_all(b"# nothing is denied").expect("write");
    until_generation(&host, serves.0 + 1).await;
    assert!(allowed(&host).await);
}

// shows: X-05
#[tokio::test]
async fn a_folder_that_is_named_like_settings_is_told_as_what_it_is() {
    let bench = Bench::new();
    let host = bench.start();
    bench.put("access.toml", b"");
    until_generation(&host, 2).await;
    fs::create_dir(bench.plugins().join("access.json")).expect("folder");
    let refused = until_refused(&host, 1).await;
    assert_eq!(
        (refused.code, refused.file.as_deref()),
        (Some(RefusalCode::NotRegular), Some("access.json")),
        "{refused:?}"
    );
}

// shows: X-06, E-16
#[tokio::test]
async fn a_start_that_is_given_up_leaves_everything_as_it_was() {
    let bench = Bench::new();
    bench.put("access.wasm", &guest("deny"));
    drop(bench.start());
    let remembered = || fs::read(bench.config.store_dir.join("remembered.json")).expect("remembered");
    let cached = || fs::read_dir(bench.config.store_dir.join("cache")).expect("cache").count();
    let before = (remembered(), cached());
    bench.put("access.wasm", &busy(1_000));
    let starting = Starting::default();
    let (config, given_up) = (bench.config.clone(), starting.clone());
    let start = std::thread::spawn(move || Warm::new(config, &given_up).and_then(Warm::start).map(drop));
    until("it is being compiled", || starting.compiling() == ["access.wasm"]).await;
    starting.give_up();
    let ended = start.join().expect("no panic");
    assert!(matches!(ended, Err(StartError::GivenUp)), "{ended:?}");
    assert_eq!((remembered(), cached()), before);
    bench.put("access.wasm", &guest("deny"));
    let host = bench.start();
    assert!(denied(&host).await, "the next start is as any other");
}

// shows: X-02
#[tokio::test]
async fn after_the_word_to_stop_nothing_is_swapped() {
    let bench = Bench::new();
    bench.put("access.wasm", &guest("well"));
    let host = bench.start();
    let serves = host.generation();
    host.halt();
    bench.put("access.wasm", &guest("deny"));
    assert_eq!(host.reload().await.outcome, Outcome::Unchanged);
    assert!(matches!(host.rollback("too late").await, Err(RollbackError::Refused(_))));
    assert!(!denied(&host).await, "until the end it is answered");
    host.close();
    assert_eq!((host.generation(), host.counters().refused_swaps), (serves, 0));
    drop(host);
    assert!(denied(&bench.start()).await, "the next start takes it up");
}
