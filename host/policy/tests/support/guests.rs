//! Puts guests together from their reviewable text in `tests/guests`. Knows neither hosts nor gateways, whose
//! tests both use it.

#![allow(dead_code)]

use std::path::{Path, PathBuf};

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

/// Of contract 0.1.0.
const FIVE_VECTORS: &str = r#"
[[vector]]
name = "access"
call = "access.decide"
args = ['{id: "k", scopes: [], read: [], write: [], peer: ""}', '{id: "s", owner: "k", tag: "", backend: "sim"}', 'read']
expect = 'allow(0)'

[[vector]]
name = "pressure"
call = "backpressure.decide"
args = ['{now: 0, who: {id: "k", scopes: [], read: [], write: [], peer: ""}, where: {id: "s", owner: "k", tag: "", backend: "sim"}, reader: "r", lag-events: 0, lag-events-max: 1, log-bytes: 0, log-bytes-max: 1, asked: 1, since-ms: 0, readers: 1}']
expect = 'wait'

[[vector]]
name = "floor"
call = "version-floor.admit"
args = ['{id: "n", kind: "web", version: "1.0"}', 'none']
expect = 'ok(read-write)'

[[vector]]
name = "tags"
call = "dashboard-tags.sees"
args = ['{name: "p", roles: [], groups: []}', '[]']
expect = 'everything'

[[vector]]
name = "rate"
call = "rate-limit.decide"
args = ['{id: "k", scopes: [], read: [], write: [], peer: ""}', '{kind: "x", cost: 1, tokens: none, now: 0}']
expect = 'pass({per-second: 0, burst: 0})'
"#;

const FIVE_VECTORS_V2: &str = r#"
[[vector]]
name = "access"
call = "access.decide"
args = ['{id: "k", scopes: [], read: [], write: [], peer: "", certificate: []}', '{id: "s", owner: "k", tag: "", backend: "sim"}', 'resume({behind: 5})']
expect = '{allow: true, rule: 0}'

[[vector]]
name = "pressure"
call = "backpressure.decide"
args = ['{now-ms: 0, who: {id: "k", scopes: [], read: [], write: [], peer: "", certificate: []}, place: {id: "s", owner: "k", tag: "", backend: "sim"}, reader: "r", lag-events: 0, lag-events-max: 1, log-bytes: 0, log-bytes-max: 1, asked: 1, since-ms: 0, readers: 1}']
expect = '{outcome: wait, rule: 0}'

[[vector]]
name = "floor"
call = "version-floor.admit"
args = ['{kind: "web", version: "1.0"}', 'none']
expect = 'ok({admission: read-write, rule: 0})'

[[vector]]
name = "tags"
call = "dashboard-tags.sees"
args = ['{name: "p", roles: [], groups: []}', '[{group: "g", tag: "t"}]']
expect = '{sight: everything, rule: 0}'

[[vector]]
name = "rate"
call = "rate-limit.decide"
args = ['{id: "k", scopes: [], read: [], write: [], peer: "", certificate: []}', '{kind: "x", cost: 1, tokens: none, now-ms: 0}']
expect = '{outcome: pass({per-second: 0, burst: 0}), rule: 0}'
"#;

/// Versions of the contract that a gateway knows.
pub(crate) const CONTRACTS: [&str; 2] = ["0.1.0", "0.2.0"];

const CONFIGURE_EXPORT: &str = r#"
(func (export "configure") (param "settings" string) (result (result (error string)))
  (canon lift (core func $i "configure") (memory $memory) (realloc $realloc)))"#;

const WELL: &str = "(func $boom (param $args i32) (result i32) (unreachable))";

/// Guests misbehave when the session's id has four bytes.
const WHEN: &str = "(i32.eq (i32.load offset=44 (local.get $args)) (i32.const 4))";

fn folder() -> PathBuf {
    // From the package of this crate or of the gateway, which lie side by side.
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policy/tests/guests")
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
    assemble(name, WHEN)
}

fn assemble(name: &str, when: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.wat"))).expect("guest");
    let text = if text.contains(";; whole\n") { text } else { framed(&text, when) };
    wat::parse_str(&text).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// A guest that misbehaves for sessions whose tag is `boom`, whatever their ids.
pub(crate) fn tagged(name: &str) -> Vec<u8> {
    assemble(name, "(i32.eq (i32.load offset=60 (local.get $args)) (i32.const 4))")
}

/// A guest that takes its time for `configure`, and so for each instance; its bytes differ by `mark`.
pub(crate) fn slow(name: &str, mark: u32) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.wat"))).expect("guest");
    let spin = "(local $n i32) (local.set $n (i32.const 400000000))
        (loop $more (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $more (local.get $n)))";
    let text = framed(&format!("{text}\n;; part CONFIGURE\n{spin}\n"), WHEN);
    wat::parse_str(text.replace("\"guest\"", &format!("\"g{mark:04}\""))).expect("slow guest")
}

/// Keeps the compiler busy for much longer than a word to stop takes; a policy by the names of its exports alone.
pub(crate) fn busy(functions: usize) -> Vec<u8> {
    let leb = |mut n: usize| {
        let mut bytes = Vec::new();
        while n > 0x7f {
            bytes.push(n as u8 | 0x80);
            n >>= 7;
        }
        bytes.push(n as u8);
        bytes
    };
    let section = |id: u8, body: Vec<u8>| [vec![id], leb(body.len()), body].concat();
    // local 0 = local 0 * (local 0 + 7), again and again.
    let steps = [0x20, 0, 0x20, 0, 0x41, 7, 0x6a, 0x6c, 0x21, 0].repeat(500);
    let body = [vec![0], steps, vec![0x20, 0, 0x0b]].concat();
    let body = [leb(body.len()), body].concat();
    let count = leb(functions);
    let module = [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, vec![1, 0x60, 1, 0x7f, 1, 0x7f]),
        section(3, [count.clone(), vec![0; functions]].concat()),
        section(10, [count, body.repeat(functions)].concat()),
    ];
    // An instance of nothing, under the names of two interfaces.
    let export = |name: &str| {
        let name = format!("tidegate:policy/{name}@{}", CONTRACTS[1]);
        [vec![0], leb(name.len()), name.into_bytes(), vec![0x05, 0, 0]].concat()
    };
    let exports = [vec![2], export("plugin"), export("access")].concat();
    let sections = [section(1, module.concat()), section(5, vec![1, 0x01, 0]), section(11, exports)];
    [b"\0asm\x0d\0\x01\0".to_vec(), sections.concat()].concat()
}

/// A well-behaved guest whose bytes differ by `mark`.
pub(crate) fn marked(name: &str, mark: u32) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join(format!("{name}.wat"))).expect("guest");
    let marked = framed(&text, WHEN).replace("\"guest\"", &format!("\"g{mark:04}\""));
    wat::parse_str(&marked).expect("marked guest")
}

/// One component for all five questions by a version of the contract, with a fault for `boom`.
pub(crate) fn five(contract: &str, fault: &str) -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join(format!("five-{contract}.txt"))).expect("five");
    let text = text.replace("@FAULT@", fault);
    let vectors = if contract == CONTRACTS[0] { FIVE_VECTORS } else { FIVE_VECTORS_V2 };
    let text = text.replace("@VECTORS_LEN@", &vectors.len().to_string()).replace("@VECTORS@", &quoted(vectors));
    wat::parse_str(&text).unwrap_or_else(|e| panic!("five: {e}"))
}

/// Of contract 0.2.0, where every answer names a rule, and without one.
pub(crate) fn five_without_rules() -> Vec<u8> {
    let text = std::fs::read_to_string(folder().join("five-0.2.0.txt")).expect("five");
    let count = "(i32.store (i32.const 28) (i32.const 1))";
    assert!(text.contains(count));
    let text = text.replace(count, "(i32.store (i32.const 28) (i32.const 0))").replace("@FAULT@", "(unreachable)");
    wat::parse_str(text.replace("@VECTORS_LEN@", "0").replace("@VECTORS@", "")).expect("five")
}

fn quoted(text: &str) -> String {
    text.replace('\\', "\\5c").replace('"', "\\22").replace('\n', "\\0a")
}

fn framed(text: &str, when: &str) -> String {
    let mut parts: Vec<(&str, String)> = vec![
        ("BOOM", WELL.into()),
        ("ALWAYS", String::new()),
        ("CONFIGURE", String::new()),
        ("CONFIGURE_EXPORT", CONFIGURE_EXPORT.into()),
        ("DESCRIBE", String::new()),
        ("JUDGE", String::new()),
        ("START", String::new()),
        ("MEMORY_MAX", String::new()),
        ("OUTSIDE", String::new()),
        ("INSIDE", String::new()),
        ("CORE_IMPORTS", String::new()),
        ("CORE_WITH", String::new()),
        ("WITH", String::new()),
        // Behind OUTSIDE, which may hold it twice.
        ("IMPORTS", String::new()),
        ("SCHEMA", String::new()),
        ("VECTORS", VECTORS.into()),
        ("VERSION", "0.1.0".into()),
        // Of `access` alone.
        ("ACCESS_VERSION", String::new()),
        ("WHEN", when.into()),
    ];
    for section in text.split(";; part ").skip(1) {
        let (name, body) = section.split_once('\n').expect("a part has a body");
        parts.iter_mut().find(|(known, _)| *known == name).expect("a known part").1 = body.trim_end().to_owned();
    }
    let part = |parts: &[(&str, String)], name: &str| {
        parts.iter().find(|(known, _)| *known == name).map(|(_, body)| body.clone())
    };
    if part(&parts, "ACCESS_VERSION").is_some_and(|version| version.is_empty()) {
        let version = part(&parts, "VERSION").expect("a version");
        parts.retain(|(name, _)| *name != "ACCESS_VERSION");
        parts.push(("ACCESS_VERSION", version));
    }
    let mut frame = std::fs::read_to_string(folder().join("frame.txt")).expect("frame");
    for (name, body) in parts {
        frame = frame.replace(&format!("@{name}_LEN@"), &body.len().to_string());
        let is_quoted = matches!(name, "SCHEMA" | "VECTORS");
        let body = if is_quoted { quoted(&body) } else { body };
        frame = frame.replace(&format!("@{name}@"), &body);
    }
    frame
}
