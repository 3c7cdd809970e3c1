//! The committed components and rebuilt ones say and answer the same. `cargo xtask plugins check` names a
//! folder of fresh builds in TIDEGATE_REBUILT_PLUGINS; without it the committed ones are compared with
//! themselves. Vectors run in the gate, on both.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tidegate_policy::*;

fn inspected(path: &Path) -> Inspection {
    let store = tempfile::tempdir().expect("tempdir");
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let workbench = Workbench::new(store.path()).unwrap_or_else(|e| panic!("{e}"));
    workbench.inspect("candidate.wasm", &bytes, "{}").unwrap_or_else(|e| panic!("{e}"))
}

/// One component, two questions; and a guest that would wait is stopped there, by no deadline.
// shows
#[tokio::test]
async fn one_component_answers_several_and_may_not_wait() {
    let Some(folder) = std::env::var_os("TIDEGATE_REBUILT_PLUGINS").map(PathBuf::from) else { return };
    let dir = tempfile::tempdir().expect("tempdir");
    let plugins = dir.path().join("plugins");
    std::fs::create_dir(&plugins).expect("plugins");
    std::fs::copy(folder.join("examples/several.wasm"), plugins.join("several.wasm")).expect("copied");
    let mut config = PolicyConfig::new(dir.path().join("store"));
    config.plugins_dir = Some(plugins);
    config.deadlines.decide = Duration::from_secs(3);
    let host = PolicyHost::start(config).expect("starts");
    // It wants a clock to wait by, which nothing here had before.
    let held = host.list().held;
    let [held] = &held[..] else { panic!("{held:?}") };
    assert_eq!(held.code, RefusalCode::Held);
    host.approve(&held.identity.to_hex(), "a test").await.expect("approved");
    let rows = host.list().policies;
    let answered: Vec<_> = rows.iter().filter(|row| row.name == "several").map(|row| row.policy).collect();
    assert_eq!(answered, [Policy::Access, Policy::RateLimit]);
    let who = Principal::new("k", vec![], vec![], vec![], "");
    let place = SessionFacts::new("s", "k", "", "sim");
    let command = |method: &str| Action::Command { method: method.into(), tag: "A".into() };
    assert!(!host.access(&who, &place, command("write")).await.value.is_allow());
    let request = RateRequest { kind: "invoke".into(), cost: 1, tokens: None, now: 0 };
    assert_eq!(host.rate_limit(&who, request).await.value, RateAnswer::Pass { per_second: 5.0, burst: 10.0 });
    let start = Instant::now();
    let waited = host.access(&who, &place, command("wait")).await;
    assert_eq!((waited.cause, waited.value.is_allow()), (Some(FailureCause::Trap), false));
    assert!(start.elapsed() < Duration::from_secs(3), "it waited {:?}", start.elapsed());
    assert!(host.access(&who, &place, Action::Read).await.value.is_allow());
}

// shows: X-05
#[test]
fn rebuilt_policies_behave_as_the_committed_ones() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist");
    let rebuilt = std::env::var_os("TIDEGATE_REBUILT_PLUGINS").map(PathBuf::from);
    for name in ["access", "backpressure", "dashboard-tags", "rate-limit", "version-floor"] {
        let committed = inspected(&dist.join(format!("{name}.wasm")));
        assert_eq!(committed.name, name);
        assert_eq!(committed.answers.iter().map(|policy| policy.name()).collect::<Vec<_>>(), [name]);
        if let Some(folder) = &rebuilt {
            let file = format!("tidegate_plugin_{}.wasm", name.replace('-', "_"));
            let rebuilt = inspected(&folder.join(file));
            // Bytes differ with the compiler's version; what it says and answers does not.
            let Inspection { digest, bytes, gate_us, .. } = committed;
            assert_eq!(Inspection { digest, bytes, gate_us, ..rebuilt }, committed, "{name}");
        }
    }
}
