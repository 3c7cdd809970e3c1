//! Puts guests together from their reviewable text, and hosts to run them in.

#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidegate_policy::*;

const VECTORS: &str = r#"
[[vector]]
name = "allows"
call = "access.decide"
args = ['{id: "k", scopes: [], read: [], write: [], peer: ""}', '{id: "s", owner: "k", tag: "", backend: "sim"}', 'read']
expect = 'allow(0)'

[[vector]]
name = "allows again"
call = "access.decide"
args = ['{id: "k", scopes: [], read: [], write: [], peer: ""}', '{id: "s", owner: "k", tag: "", backend: "sim"}', 'open']
expect = 'allow(0)'
"#;

const CONFIGURE_EXPORT: &str = r#"
(func (export "configure") (param "settings" string) (result (result (error string)))
  (canon lift (core func $i "configure") (memory $memory) (realloc $realloc)))"#;

const WELL: &str = "(func $boom (param $args i32) (result i32) (unreachable))";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests")
}

/// Names of all guests.
pub(crate) fn guests() -> Vec<String> {
    let entries = std::fs::read_dir(folder()).expect("guests");
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.expect("entry").file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".wat").map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// A guest as a component in binary form.
pub(crate) fn guest(name: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.wat"))).expect("guest");
    let text = if text.contains(";; whole\n") { text } else { framed(&text) };
    wat::parse_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A well-behaved guest whose bytes differ by `mark`.
pub(crate) fn marked(name: &str, mark: u32) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.wat"))).expect("guest");
    let marked = framed(&text).replace("\"guest\"", &format!("\"g{mark:04}\""));
    wat::parse_str(&marked).expect("marked guest")
}

fn framed(text: &str) -> String {
    let mut parts: Vec<(&str, String)> = vec![
        ("BOOM", WELL.into()),
        ("ALWAYS", String::new()),
        ("CONFIGURE", String::new()),
        ("CONFIGURE_EXPORT", CONFIGURE_EXPORT.into()),
        ("DESCRIBE", String::new()),
        ("START", String::new()),
        ("MEMORY_MAX", String::new()),
        ("SCHEMA", String::new()),
        ("VECTORS", VECTORS.into()),
        ("VERSION", "0.1.0".into()),
    ];
    for section in text.split(";; part ").skip(1) {
        let (name, body) = section.split_once('\n').expect("a part has a body");
        parts.iter_mut().find(|(known, _)| *known == name).expect("a known part").1 = body.trim_end().to_owned();
    }
    let mut frame = std::fs::read_to_string(folder().join("frame.txt")).expect("frame");
    for (name, body) in parts {
        frame = frame.replace(&format!("@{name}_LEN@"), &body.len().to_string());
        let quoted = matches!(name, "SCHEMA" | "VECTORS");
        let body = if quoted { body.replace('\\', "\\5c").replace('"', "\\22").replace('\n', "\\0a") } else { body };
        frame = frame.replace(&format!("@{name}@"), &body);
    }
    frame
}

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

/// Waits for a condition, at most ten seconds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn until_generation(host: &PolicyHost, id: u64) {
    until(&format!("generation {id} serves, {:#?}", host.list().swaps.last()), || host.generation().0 >= id).await;
}

/// The latest refusal once there are `count` attempts that were refused.
pub(crate) async fn until_refused(host: &PolicyHost, count: u64) -> SwapRecord {
    until("a set is refused", || host.counters().refused_swaps >= count).await;
    let swaps = host.list().swaps;
    swaps.into_iter().rev().find(|swap| swap.outcome == Outcome::Refused).expect("a refusal")
}

pub(crate) fn key(id: &str, scope: &str) -> Principal {
    Principal::new(id, vec![scope.to_owned()], vec![], vec![], "")
}

/// Guests of the frame misbehave when the session's id is `boom`.
pub(crate) fn place(id: &str) -> SessionFacts {
    SessionFacts::new(id, "k", "", "sim")
}

pub(crate) fn tags(count: usize) -> Vec<Arc<str>> {
    (0..count).map(|n| Arc::from(format!("Area1.Tag{n}"))).collect()
}
