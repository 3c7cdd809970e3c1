//! Words that must not be in the tree: unfinished work, and paths of the machine it was made on. The patterns
//! are put together from halves, so that this file does not hold what it looks for.

use super::Finding;
use crate::tree::Tree;

/// Anywhere in a .rs file, strings and comments included: what is unfinished is written down in the ledger.
const UNFINISHED: &[&str] = &[
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
    concat!("#[", "ignore"),
];

/// In any text: a path that exists on one machine only. (`Cargo.lock` speaks of registries.)
const MACHINE: &[&str] =
    &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("C:\\Us", "ers\\")];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts("") {
        let unfinished = if path.ends_with(".rs") { UNFINISHED } else { &[] };
        for (n, line) in text.lines().enumerate() {
            let place = || format!("{path}:{}", n + 1);
            for word in unfinished.iter().filter(|word| line.contains(**word)) {
                findings.push(Finding::error(
                    place(),
                    format!("`{word}`: finish it, or say in the ledger what is missing"),
                ));
            }
            for word in MACHINE.iter().filter(|word| path != "Cargo.lock" && line.contains(**word)) {
                findings.push(Finding::error(place(), format!("`{word}` is a path of one machine")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{errors_of, one_error};
    use super::*;

    #[test]
    fn every_word_is_found_where_it_counts() {
        for word in UNFINISHED {
            let line = format!("//! A.\n{word}\n");
            one_error(check, [("host/a/src/lib.rs", &line)], "a/src/lib.rs:2");
            assert_eq!(errors_of(check, [("docs/a.md", line.as_str())]), [""; 0]);
        }
        for word in MACHINE {
            one_error(check, [("docs/a.md", &format!("see {word}a"))], "one machine");
        }
    }

    #[test]
    fn like_words_pass() {
        let text = "//! host/worker/src, /roots/, no todo.\nlet ignore = 1; // ignored\n";
        assert_eq!(errors_of(check, [("host/a/src/lib.rs", text)]), [""; 0]);
    }
}
