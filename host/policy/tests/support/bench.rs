//! Hosts to run guests in, a folder for them, and waits with a bound.

#![allow(dead_code, unused_imports)]

#[path = "guests.rs"]
mod guests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_policy::*;

pub(crate) use guests::*;

/// A plugins folder and a store in a temporary folder.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: PolicyConfig,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let plugins = dir.path().join("plugins");
        std::fs::create_dir(&plugins).expect("plugins");
        let mut config = PolicyConfig::new(dir.path().join("store"));
        config.plugins_dir = Some(plugins);
        config.watch.poll = Duration::from_millis(200);
        config.watch.removal_quiet = Duration::from_millis(100);
        config.deadlines.configure = Duration::from_millis(500);
        Self { dir, config }
    }

    pub(crate) fn start(&self) -> PolicyHost {
        PolicyHost::start(self.config.clone()).expect("starts")
    }

    pub(crate) fn plugins(&self) -> &Path {
        self.config.plugins_dir.as_deref().expect("a folder")
    }

    /// Puts a file in place the careful way: beside, then renamed.
    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        let beside = self.dir.path().join("beside");
        std::fs::write(&beside, bytes).expect("write");
        std::fs::rename(&beside, self.plugins().join(name)).expect("rename");
    }
}

/// Waits for a condition, at most thirty seconds.
pub(crate) async fn until(what: &str, condition: impl FnMut() -> bool) {
    until_or(|| what.to_owned(), condition).await;
}

async fn until_or(what: impl Fn() -> String, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {}", what());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn until_generation(host: &PolicyHost, id: u64) {
    until_or(|| format!("generation {id} serves, {:#?}", host.list().swaps.last()), || host.generation().0 >= id).await;
}

/// The latest refusal once there are `count` attempts that were refused.
pub(crate) async fn until_refused(host: &PolicyHost, count: u64) -> SwapRecord {
    until(&format!("set {count} is refused"), || host.counters().refused_swaps >= count).await;
    let swaps = host.list().swaps;
    swaps.into_iter().rev().find(|swap| swap.outcome == Outcome::Refused).expect("a refusal")
}

pub(crate) fn key(id: &str, scope: &str) -> Principal {
    Principal::new(id, vec![scope.to_owned()], vec![], vec![], "")
}

/// Whether access that works denies what guests of the frame deny.
pub(crate) async fn denied(host: &PolicyHost) -> bool {
    let decision = host.access(&key("k", "sessions:own"), &place("boom"), Action::Read).await;
    assert_eq!(decision.cause, None);
    !decision.value.is_allow()
}

pub(crate) fn served(host: &PolicyHost, policy: Policy) -> PolicyRow {
    host.list().policies.into_iter().find(|row| row.policy == policy).expect("a row")
}

/// Guests of the frame misbehave when the session's id is `boom`.
pub(crate) fn place(id: &str) -> SessionFacts {
    SessionFacts::new(id, "k", "", "sim")
}

pub(crate) fn tags(count: usize) -> Vec<Arc<str>> {
    (0..count).map(|n| Arc::from(format!("Area1.Tag{n}"))).collect()
}
