//! Files and names: headers of source files, their length, what may stand at the top, how big a file may be.
//! Knows no content beyond the first line.

use super::Finding;
use crate::tree::Tree;

/// Where every source file opens with its `//!` lines.
const WITH_HEADER: &[&str] = &["host/", "plugin-sdk/", "plugins/", "proto/", "tests/"];

/// Fixed by the owner of the project. Dot files are free.
const TOP: &[&str] = &[
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "docs",
    "host",
    "plugin-sdk",
    "plugins",
    "proto",
    "rust-toolchain.toml",
    "rustfmt.toml",
    "tests",
    "wit",
];

/// Near 500 lines, look for two ideas; above 600 it needs a reason.
const LINES_WARN: usize = 500;
const LINES_MAX: usize = 600;
/// Longer files, and why they are one idea all the same.
const LONG: &[(&str, &str)] = &[];

/// Bytes. Clones stay small; what is bigger can be made from something smaller.
const SIZE_MAX: u64 = 2 << 20;

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, file) in tree.files() {
        let top = path.split('/').next().unwrap_or(path);
        if !top.starts_with('.') && !TOP.contains(&top) {
            findings.push(Finding::error(path, format!("`{top}` is no name for the top level")));
        }
        if file.size > SIZE_MAX {
            findings.push(Finding::error(path, format!("has {} bytes; {SIZE_MAX} are the most", file.size)));
        }
    }
    for (path, text) in tree.texts(".rs") {
        if path.ends_with("/mod.rs") {
            findings.push(Finding::error(path, "name the file after its module, beside the folder"));
        }
        if WITH_HEADER.iter().any(|folder| path.starts_with(folder)) && !text.starts_with("//! ") {
            findings
                .push(Finding::error(path, "opens without `//!`: what it owns, what it does not know, its invariant"));
        }
        let lines = text.lines().count();
        let allowed = LONG.iter().any(|(long, _)| *long == path);
        if lines > LINES_MAX && !allowed {
            findings
                .push(Finding::error(path, format!("has {lines} lines; {LINES_MAX} are the most without a reason")));
        } else if lines > LINES_WARN && !allowed {
            findings.push(Finding::warning(path, format!("has {lines} lines: are there two ideas in it?")));
        } else if allowed && lines <= LINES_WARN {
            findings.push(Finding::error(path, "needs no exception from the length any more"));
        }
    }
    for (path, _) in LONG.iter().filter(|(path, _)| !tree.has(path)) {
        findings.push(Finding::error(*path, "has an exception from the length and does not exist"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{errors_of, one_error};
    use super::*;
    use crate::tree::File;

    #[test]
    fn good_files_pass() {
        let files = [("host/a/src/lib.rs", "//! A.\n"), ("README.md", ""), (".ci/run", ""), ("docs/a.svg", "")];
        assert_eq!(errors_of(check, files), [""; 0]);
    }

    #[test]
    fn planted_violations_are_found() {
        one_error(check, [("host/a/src/lib.rs", "use b;\n")], "opens without");
        one_error(check, [("plugins/a/src/lib.rs", "// A.\n")], "opens without");
        one_error(check, [("host/a/src/b/mod.rs", "//! A.\n")], "after its module");
        one_error(check, [("scripts/a.sh", "")], "`scripts` is no name");
        let long = format!("//! A.\n{}", "\n".repeat(LINES_MAX));
        one_error(check, [("host/a/src/lib.rs", &long)], "601 lines");
    }

    #[test]
    fn a_file_near_the_length_is_warned_of() {
        let long = format!("//! A.\n{}", "\n".repeat(LINES_WARN));
        let findings = check(&Tree::from([("host/a/src/lib.rs", long.as_str())]));
        assert!(findings.len() == 1 && !findings[0].is_error());
    }

    #[test]
    fn a_large_file_is_found() {
        let mut tree = Tree::default();
        tree.insert("docs/film.bin", File { size: SIZE_MAX + 1, text: None });
        assert_eq!(check(&tree).len(), 1);
    }
}
