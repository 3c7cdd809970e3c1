//! Stories of a candidate beside what serves: it decides nothing until it is promoted, and then for good.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use std::fs;

use support::*;
use tidegate_policy::*;

fn settings(text: &str) -> Candidate {
    Candidate { file: "access.toml".into(), bytes: text.as_bytes().to_vec(), ..Candidate::default() }
}

async fn allows(host: &PolicyHost, tag: &str) -> bool {
    let what = Action::Command { method: "write".into(), tag: tag.into() };
    host.access(&key("k", "sessions:all"), &place("s"), what).await.value.is_allow()
}

fn access(host: &PolicyHost) -> Origin {
    host.list().policies.into_iter().find(|row| row.policy == Policy::Access).expect("a row").origin
}

// shows: X-12
#[tokio::test]
async fn a_shadow_decides_nothing_and_is_promoted_only_when_it_differs_little() {
    let bench = Bench::new();
    let host = bench.start();
    assert!(host.shadow().is_none());
    assert!(matches!(host.shadow_promote(1.0, 0).await, Err(PromoteError::None)));
    let refused = host.shadow_start(settings("denny = []")).expect_err("refused");
    let PastError::Refused(refused) = refused else { panic!("{refused}") };
    assert_eq!(refused.code, RefusalCode::SettingsInvalid, "the gate judges it first");
    host.shadow_start(settings("deny = [\"A.T0\"]")).expect("starts");
    assert!(matches!(host.shadow_promote(1.0, 1).await, Err(PromoteError::TooFew { asked: 0, min: 1 })));
    for n in 0..20 {
        assert!(allows(&host, &format!("A.T{n}")).await, "what serves decides");
    }
    let status = host.shadow().expect("a shadow");
    assert_eq!((status.compared.asked + status.skipped, status.generation), (20, 1), "{status:?}");
    assert_eq!((status.compared.changed, status.compared.changes[0].tag.as_str()), (1, "A.T0"));
    let PromoteError::Differs { rate, .. } = host.shadow_promote(0.001, 1).await.expect_err("too much") else {
        panic!("it differs")
    };
    assert!(rate >= 0.05 && allows(&host, "A.T0").await);
    let done = host.shadow_promote(0.1, 10).await.expect("promoted");
    assert_eq!((done.outcome, done.trigger, done.to), (Outcome::Swapped, Trigger::Promotion, GenerationId(2)));
    assert!(host.shadow().is_none() && !allows(&host, "A.T0").await && allows(&host, "A.T1").await);
    host.rollback("it was a mistake").await.expect("a way back");
    assert!(allows(&host, "A.T0").await);
}

// shows: X-12
#[tokio::test]
async fn what_is_promoted_stands_in_the_folder_under_the_name_of_what_it_replaces() {
    let mut bench = Bench::new();
    // Nobody looks by himself: a generation.toml that names nothing stands there for a moment.
    bench.config.watch.notify = false;
    bench.config.watch.poll = std::time::Duration::from_secs(3600);
    let host = bench.start();
    let text = |name: &str| fs::read_to_string(bench.plugins().join(name)).ok();
    bench.put("access.toml", b"deny = [\"A.Old\"]");
    assert_eq!(host.reload().await.to, GenerationId(2));
    host.shadow_start(settings("# why\ndeny = [\"A.New\"]")).expect("starts");
    allows(&host, "A.T").await;
    let swap = host.shadow_promote(1.0, 1).await.expect("promoted");
    assert_eq!((swap.outcome, swap.to), (Outcome::Swapped, GenerationId(3)), "{swap:?}");
    assert_eq!(text("access.toml").as_deref(), Some("# why\ndeny = [\"A.New\"]"), "as it was written");
    let promoted = async |host: &PolicyHost| !allows(host, "A.New").await && allows(host, "A.Old").await;
    assert!(promoted(&host).await);
    assert_eq!(host.reload().await.outcome, Outcome::Unchanged, "the folder says the same");
    drop(host);
    let host = bench.start();
    assert!(
        promoted(&host).await && host.shadow().is_none(),
        "over a restart; what was promoted is no shadow any more"
    );

    // A component of another name takes the place of what answers, with its settings; refused, all is as before.
    let component = Candidate { file: "stricter.wasm".into(), bytes: guest("deny"), ..Candidate::default() };
    host.shadow_start(component.clone()).expect("starts");
    allows(&host, "A.T").await;
    bench.put("generation.toml", b"");
    let refused = host.shadow_promote(1.0, 1).await.expect("tried");
    assert_eq!((refused.outcome, refused.code), (Outcome::Refused, Some(RefusalCode::NotPlaced)), "{refused:?}");
    fs::remove_file(bench.plugins().join("generation.toml")).expect("remove");
    host.pin(true);
    let refused = host.shadow_promote(1.0, 1).await.expect("tried");
    assert_eq!(refused.code, Some(RefusalCode::NotPlaced), "{refused:?}");
    host.pin(false);
    assert!(promoted(&host).await && text("access.toml").is_some());
    assert!(host.shadow().is_some(), "it goes on");
    let swap = host.shadow_promote(1.0, 1).await.expect("promoted");
    assert_eq!((swap.outcome, swap.trigger), (Outcome::Swapped, Trigger::Promotion), "{swap:?}");
    assert_eq!(fs::read(bench.plugins().join("access.wasm")).expect("a file"), component.bytes);
    assert_eq!(text("access.toml").as_deref(), Some(""), "settings that were in force are gone in so many words");
    assert_eq!(access(&host), Origin::File("access.wasm".into()));
    let names = fs::read_dir(bench.plugins()).expect("a folder").count();
    assert_eq!((names, host.reload().await.outcome), (2, Outcome::Unchanged), "nothing is left beside");
    assert!(host.shadow_stop().is_none());
}

// shows: X-12
#[tokio::test]
async fn a_promotion_overwrites_nothing_that_an_operator_has_put_there_meanwhile() {
    let mut bench = Bench::new();
    bench.config.watch.notify = false;
    bench.config.watch.poll = std::time::Duration::from_secs(3600);
    let host = bench.start();
    host.shadow_start(settings("deny = [\"A.New\"]")).expect("starts");
    allows(&host, "A.T").await;
    let text = |name: &str| fs::read_to_string(bench.plugins().join(name)).ok();
    let refused = async |files: [&str; 2]| {
        let swap = host.shadow_promote(1.0, 1).await.expect("tried");
        assert_eq!((swap.outcome, swap.code), (Outcome::Refused, Some(RefusalCode::NotPlaced)), "{swap:?}");
        assert!(files.iter().all(|file| swap.message.contains(file)), "it says which: {}", swap.message);
        assert!(host.shadow().is_some(), "it goes on");
    };
    // Refused, two of them, and one that nobody has looked at yet.
    bench.put("access.toml", b"denny = []");
    host.reload().await;
    refused(["access.toml", "not what serves"]).await;
    bench.put("access.json", b"{}");
    host.reload().await;
    refused(["access.toml", "access.json"]).await;
    fs::remove_file(bench.plugins().join("access.toml")).expect("remove");
    refused(["access.json", "take it away"]).await;
    assert_eq!((text("access.json").as_deref(), text("access.toml")), (Some("{}"), None), "nothing is lost");
    // What serves may go, and the candidate may stand there already.
    host.reload().await;
    assert_eq!(access(&host), Origin::File("access.json".into()));
    let swap = host.shadow_promote(1.0, 1).await.expect("promoted");
    assert_eq!((swap.outcome, text("access.json")), (Outcome::Swapped, None), "{swap:?}");
    assert_eq!(text("access.toml").as_deref(), Some("deny = [\"A.New\"]"));
}

// shows: X-12
#[tokio::test]
async fn a_shadow_that_loops_or_traps_slows_and_spoils_nothing() {
    let bench = Bench::new();
    let host = bench.start();
    let loops = Candidate { file: "access.wasm".into(), bytes: guest("loop_in_decide"), ..Candidate::default() };
    host.shadow_start(loops).expect("starts");
    for _ in 0..40 {
        let decision = host.access(&key("k", "sessions:all"), &place("boom"), Action::Read).await;
        assert!(decision.value.is_allow() && decision.cause.is_none());
    }
    let status = host.shadow().expect("a shadow");
    let compared = &status.compared;
    assert!(compared.failed > 0 && compared.failed == compared.changed, "{status:?}");
    if compared.failed >= 5 {
        assert!(status.ended.as_deref().is_some_and(|why| why.contains("no answer")), "{status:?}");
        let error = host.shadow_promote(1.0, 1).await.expect_err("ended");
        assert!(matches!(error, PromoteError::Ended(_)), "{error}");
    }
    let traps = Candidate { file: "access.wasm".into(), bytes: guest("trap"), ..Candidate::default() };
    host.shadow_start(traps).expect("starts");
    for _ in 0..40 {
        let decision = host.access(&key("k", "sessions:all"), &place("boom"), Action::Read).await;
        assert!(decision.value.is_allow() && decision.cause.is_none());
    }
    let status = host.shadow_stop().expect("a shadow");
    assert!(status.ended.is_some() && status.compared.failed == 5, "the breaker's five: {status:?}");
    let counted = host.counters();
    assert_eq!((counted.reverts, counted.decisions_dropped, host.generation()), (0, 0, GenerationId(1)));
    assert_eq!(counted.shadow, ShadowCounts::default());
}

// shows: X-12
#[tokio::test]
async fn a_shadow_goes_on_after_a_restart_until_it_is_stopped() {
    let bench = Bench::new();
    let host = bench.start();
    let text = "# why\ndeny = [\"A.*\"]";
    let begun = host.shadow_start(settings(text)).expect("starts");
    assert!(allows(&host, "A.T0").await);
    drop(host);
    let host = bench.start();
    let status = host.shadow().expect("it goes on");
    assert_eq!((status.identity, status.compared.asked), (begun.identity, 0), "the same, counted anew");
    assert!(allows(&host, "A.T0").await);
    assert_eq!(host.shadow().expect("a shadow").compared.changed, 1);
    let swap = host.shadow_promote(1.0, 1).await.expect("promoted");
    assert_eq!(swap.outcome, Outcome::Swapped, "{swap:?}");
    assert_eq!(fs::read_to_string(bench.plugins().join("access.toml")).expect("a file"), text);
    drop(host);
    let host = bench.start();
    assert!(host.shadow().is_none());
    // With a component; then damaged, and then forgotten.
    let component = Candidate {
        file: "mine.wasm".into(),
        bytes: guest("deny"),
        settings: Some(("mine.json".into(), "{}".into())),
        ..Candidate::default()
    };
    host.shadow_start(component).expect("starts");
    drop(host);
    let host = bench.start();
    assert_eq!(host.shadow().expect("it goes on").file, "mine.wasm");
    drop(host);
    let kept = bench.config.store_dir.join("shadow.wasm");
    fs::write(&kept, guest("well")).expect("written");
    assert!(bench.start().shadow().is_none(), "other bytes than an operator started");
    fs::write(&kept, guest("deny")).expect("written");
    let host = bench.start();
    assert!(host.shadow_stop().is_some());
    drop(host);
    assert!(bench.start().shadow().is_none());
}
