//! The direction of dependencies inside the gateway, as docs/architecture.md draws it: which module may use
//! which, and which single place knows a library. Reads words, not types: what is re-exported under another
//! name escapes it. Invariant: each module of the gateway has a layer.

use super::Finding;
use crate::source::{Token, tokens};
use crate::tree::Tree;

const GATEWAY: &str = "host/gateway/src/";

/// The modules of the gateway from the outside in. A module may use those of lower layers; of its own layer
/// only where `Peers::May`.
const LAYERS: &[(Peers, &[&str])] = &[
    (Peers::May, &["main", "lib", "app", "demo", "takeover"]),
    (Peers::MayNot, &["grpc", "http", "cli"]),
    (Peers::MayNot, &["nodes"]),
    (Peers::MayNot, &["sessions"]),
    (Peers::MayNot, &["backup", "keys", "people"]),
    (Peers::MayNot, &["workers", "events", "policies", "storage"]),
    (Peers::May, &["clock", "config", "data_dir", "descriptors", "health", "metrics", "tasks", "telemetry", "tls"]),
    (Peers::May, &["error", "ids", "neighbours", "sync"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peers {
    May,
    MayNot,
}

/// Uses against the direction, each with its reason: (module, uses, why).
const ALSO: &[(&str, &str, &str)] = &[
    ("cli", "app", "`serve` and `demo` start a gateway"),
    ("cli", "takeover", "`serve` follows a gateway and hands over to one"),
];

/// Who may name a library (and those whose names begin like it): (library, paths).
const KNOWS: &[(&str, &[&str])] = &[
    ("tonic", &["host/gateway/src/grpc", "host/gateway/src/cli", "proto/"]),
    ("ldap3", &["host/gateway/src/people/directory"]),
    ("rusqlite", &["host/gateway/src/storage"]),
    ("rustls", &["host/gateway/src/tls"]),
    ("axum", &["host/gateway/src/http"]),
    ("wasmtime", &["host/policy/"]),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(".rs").filter(|(path, _)| path.starts_with("host/") && path.contains("/src/")) {
        let tokens = tokens(text);
        libraries(path, &tokens, &mut findings);
        if let Some(inside) = path.strip_prefix(GATEWAY) {
            modules(path, inside, &tokens, &mut findings);
        }
    }
    findings
}

fn libraries(path: &str, tokens: &[Token], findings: &mut Vec<Finding>) {
    let text = |n: Option<usize>| n.and_then(|n| tokens.get(n)).map_or("", |token| token.text.as_str());
    for (n, token) in tokens.iter().enumerate() {
        let (before, after) = (text(n.checked_sub(1)), text(Some(n + 1)));
        // `::axum` begins a path unless a name stands before its `::`; `use` is no name.
        let owner = text(n.checked_sub(2));
        let inside_path = before == "::" && owner != "use" && owner.ends_with(crate::source::is_word);
        let begins_path = after == "::" && text(Some(n + 2)) != "<" && before != "." && !inside_path;
        if !begins_path && before != "use" {
            continue;
        }
        for (library, places) in KNOWS {
            let named =
                token.text == *library || token.text.strip_prefix(library).is_some_and(|rest| rest.starts_with('_'));
            if named && !places.iter().any(|place| path.starts_with(place)) {
                let what = format!("names `{}`, which only {} may", token.text, places.join(", "));
                findings.push(Finding::error(format!("{path}:{}", token.line), what));
            }
        }
    }
}

fn modules(path: &str, inside: &str, tokens: &[Token], findings: &mut Vec<Finding>) {
    let segments: Vec<&str> = inside.trim_end_matches(".rs").split('/').collect();
    let module = segments[0];
    let Some(own) = layer(module) else {
        findings.push(Finding::error(path, format!("`{module}` has no layer in tests/xtask/src/tidy/layers.rs")));
        return;
    };
    for (used, line) in uses(tokens, segments.len()) {
        // A name that is no module is an item of the crate's root.
        let Some(other) = layer(&used) else { continue };
        let allowed = used == module
            || other > own
            || (other == own && LAYERS[own].0 == Peers::May)
            || ALSO.iter().any(|(from, to, _)| *from == module && *to == used);
        if !allowed {
            let what = format!("`{module}` uses `{used}`, against the direction of dependencies");
            findings.push(Finding::error(format!("{path}:{line}"), what));
        }
    }
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, modules)| modules.contains(&module))
}

/// The first names after `crate::`, and after as many `super::` as lead to the crate's root, with their lines.
/// `depth` is how many modules deep the file is.
fn uses(tokens: &[Token], depth: usize) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let text = |n: usize| tokens.get(n).map_or("", |token| token.text.as_str());
    // Braces open now, and at which of them an inline module began.
    let (mut braces, mut inline) = (0usize, Vec::new());
    let mut n = 0;
    while n < tokens.len() {
        match text(n) {
            "{" => {
                braces += 1;
                if n >= 2 && text(n - 2) == "mod" {
                    inline.push(braces);
                }
            }
            "}" => {
                if inline.last() == Some(&braces) {
                    inline.pop();
                }
                braces = braces.saturating_sub(1);
            }
            "crate" if text(n + 1) == "::" => names(tokens, n + 2, &mut found),
            "super" if text(n + 1) == "::" => {
                let mut up = 0;
                while text(n) == "super" && text(n + 1) == "::" {
                    up += 1;
                    n += 2;
                }
                if up == depth + inline.len() {
                    names(tokens, n, &mut found);
                }
                continue;
            }
            _ => {}
        }
        n += 1;
    }
    found
}

/// The name at `n`, or the first names of each branch of the group that opens there.
fn names(tokens: &[Token], n: usize, found: &mut Vec<(String, usize)>) {
    let Some(first) = tokens.get(n) else { return };
    if first.text != "{" {
        found.push((first.text.clone(), first.line));
        return;
    }
    let (mut depth, mut expects) = (0, true);
    for token in &tokens[n..] {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" if depth == 1 => return,
            "}" => depth -= 1,
            "," if depth == 1 => expects = true,
            _ if depth == 1 && expects => {
                found.push((token.text.clone(), token.line));
                expects = false;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{errors_of, one_error};
    use super::*;

    #[test]
    fn the_direction_downwards_passes() {
        let files = [
            (
                "host/gateway/src/sessions.rs",
                "use crate::{error::Error, events, storage::{a, b}};\nuse crate::sessions::x;",
            ),
            ("host/gateway/src/events/ring.rs", "use super::super::ids::Sequence;\nuse super::segment;"),
            ("host/gateway/src/grpc/status.rs", "use tonic::Status;\n#[tonic::async_trait]"),
            ("host/policy/src/lib.rs", "use wasmtime_wasi::p2;"),
            ("host/gateway/src/storage.rs", "// axum::x\nlet a = \"tonic::x\"; a.tonic::<u8>(); b::tonic::c();"),
            ("host/gateway/src/events.rs", "mod tests { use super::sessions; }"),
        ];
        assert_eq!(errors_of(check, files), [""; 0]);
    }

    #[test]
    fn planted_uses_are_found() {
        let events = "host/gateway/src/events/ring.rs";
        one_error(check, [(events, "\nuse crate::sessions::Session;")], "ring.rs:2: `events` uses `sessions`");
        one_error(check, [(events, "use crate::{ids::{A, B}, policies::C};")], "uses `policies`");
        one_error(check, [(events, "use super::super::storage;")], "uses `storage`");
        one_error(check, [(events, "fn a() { crate::app::b() }")], "uses `app`");
        one_error(check, [(events, "mod tests { use super::super::super::grpc; }")], "uses `grpc`");
        one_error(check, [("host/gateway/src/cli.rs", "use crate::http::A;")], "uses `http`");
        one_error(check, [("host/gateway/src/surprise.rs", "")], "`surprise` has no layer");
    }

    #[test]
    fn planted_libraries_are_found() {
        one_error(check, [("host/gateway/src/sessions.rs", "use tonic::Status;")], "names `tonic`");
        one_error(check, [("host/gateway/src/events.rs", "fn a() -> rusqlite::Result<()> {}")], "names `rusqlite`");
        one_error(check, [("host/gateway/src/app.rs", "use ::axum::Router;")], "names `axum`");
        one_error(check, [("host/gateway/src/policies.rs", "use wasmtime_wasi::p2;")], "names `wasmtime_wasi`");
        one_error(check, [("host/pipe/src/lib.rs", "use tonic;")], "names `tonic`");
    }
}
