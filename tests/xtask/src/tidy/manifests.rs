//! The direction of dependencies between crates, as their manifests declare it. Dev-dependencies are free.
//! Invariant: a library that one crate owns is in no other crate's `[dependencies]`.

use super::Finding;
use crate::tree::Tree;

/// What of this workspace a crate may depend on. A name that ends in `-` stands for all that begin so.
const MAY_USE: &[(&str, &[&str])] = &[
    ("tidegate", &["tidegate-client", "tidegate-pipe", "tidegate-policy", "tidegate-proto", "tidegate-worker"]),
    // It compares with the access policy's rule as native code, and its publishers are paced by the simulator's timer.
    (
        "tidegate-bench",
        &[
            "tidegate-client",
            "tidegate-plugin-access",
            "tidegate-plugin-sdk",
            "tidegate-policy",
            "tidegate-proto",
            "tidegate-worker",
        ],
    ),
    ("tidegate-chaos", &["tidegate-client", "tidegate-pipe", "tidegate-proto"]),
    ("tidegate-client", &["tidegate-proto"]),
    ("tidegate-loom", &[]),
    ("tidegate-pipe", &["tidegate-proto"]),
    ("tidegate-plugin-", &["tidegate-plugin-sdk"]),
    ("tidegate-plugin-sdk", &["tidegate-plugin-macros"]),
    ("tidegate-policy", &[]),
    ("tidegate-proto", &[]),
    ("tidegate-worker", &["tidegate-pipe", "tidegate-proto"]),
    // It reads the gateway as text; the policy crate runs the components it has built.
    ("xtask", &["tidegate-policy"]),
];

/// Libraries (and those whose names begin like them) and the crates that may depend on them.
const OWNED: &[(&str, &[&str])] = &[
    ("axum", &["tidegate"]),
    ("rusqlite", &["tidegate", "tidegate-bench"]),
    ("tonic", &["tidegate", "tidegate-bench", "tidegate-client", "tidegate-proto"]),
    ("wasmtime", &["tidegate-policy"]),
    // The gateway's for `policy build` of C; nothing that serves.
    ("wit-bindgen", &["tidegate", "tidegate-plugin-sdk", "tidegate-plugin-"]),
    ("wit-component", &["tidegate"]),
    ("wit-parser", &["xtask"]),
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts("Cargo.toml").filter(|(path, _)| *path != "Cargo.toml") {
        let manifest: toml::Table = match text.parse() {
            Ok(manifest) => manifest,
            Err(error) => {
                findings.push(Finding::error(path, format!("is not TOML: {error}")));
                continue;
            }
        };
        let Some(name) = manifest.get("package").and_then(|p| p.get("name")).and_then(toml::Value::as_str) else {
            continue;
        };
        let exact = MAY_USE.iter().find(|(of, _)| *of == name);
        let Some((_, may)) = exact.or_else(|| MAY_USE.iter().find(|(of, _)| is(of, name))) else {
            findings.push(Finding::error(path, format!("`{name}` has no row in tests/xtask/src/tidy/manifests.rs")));
            continue;
        };
        for used in dependencies(&manifest) {
            if used.starts_with("tidegate") && !may.contains(&used) {
                findings.push(Finding::error(path, format!("`{name}` must not depend on `{used}`")));
            }
            for (library, owners) in OWNED {
                let named = used == *library || used.strip_prefix(library).is_some_and(|rest| rest.starts_with('-'));
                if named && !owners.iter().any(|owner| is(owner, name)) {
                    let what = format!("`{name}` must not depend on `{used}`: it belongs to {}", owners.join(", "));
                    findings.push(Finding::error(path, what));
                }
            }
        }
    }
    findings
}

fn is(pattern: &str, name: &str) -> bool {
    pattern == name || (pattern.ends_with('-') && name.starts_with(pattern))
}

/// Keys of `[dependencies]`, also those for one target only.
fn dependencies(manifest: &toml::Table) -> Vec<&str> {
    let targets = manifest.get("target").and_then(toml::Value::as_table);
    let tables = targets.into_iter().flat_map(|targets| targets.values()).filter_map(toml::Value::as_table);
    let lists = tables.chain([manifest]).filter_map(|table| table.get("dependencies")?.as_table());
    lists.flat_map(|list| list.keys().map(String::as_str)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{errors_of, one_error};
    use super::*;

    fn manifest(name: &str, dependencies: &str) -> String {
        format!("[package]\nname = \"{name}\"\n{dependencies}")
    }

    #[test]
    fn what_the_table_says_passes() {
        let gateway =
            manifest("tidegate", "[dependencies]\ntonic-health.workspace = true\ntidegate-pipe.workspace = true\n");
        let worker = manifest("tidegate-worker", "[dev-dependencies]\ntidegate-policy.workspace = true\n");
        let sdk = manifest("tidegate-plugin-sdk", "[dependencies]\nwit-bindgen = \"1\"\n");
        let files = [("a/Cargo.toml", gateway.as_str()), ("b/Cargo.toml", &worker), ("c/Cargo.toml", &sdk)];
        assert_eq!(errors_of(check, files), [""; 0]);
    }

    #[test]
    fn planted_dependencies_are_found() {
        let find = |name: &str, dependencies: &str, what: &str| {
            one_error(check, [("a/Cargo.toml", &manifest(name, dependencies))], what);
        };
        find("tidegate-pipe", "[dependencies]\ntidegate-policy.workspace = true\n", "not depend on `tidegate-policy`");
        find("tidegate", "[dependencies]\nwasmtime-wasi.workspace = true\n", "belongs to tidegate-policy");
        find("tidegate-worker", "[target.'cfg(unix)'.dependencies]\naxum = \"0.8\"\n", "`axum`");
        find("tidegate-plugin-access", "[dependencies]\ntidegate-proto.workspace = true\n", "`tidegate-proto`");
        find("tidegate-surprise", "", "has no row");
        one_error(check, [("a/Cargo.toml", "[package")], "is not TOML");
    }
}
