//! What a compiler does not check and the house style asks for. Each check is a function from the tree to
//! findings and owns its table; this file owns the list of checks. Invariant: every check has a test with a
//! planted violation, and `cargo test --workspace` runs all of them over the real tree.

mod files;
mod guests;
mod layers;
mod manifests;
mod pages;
mod words;

use crate::tree::Tree;
use crate::{contract_docs, error_docs, ledger};
use std::fmt;
use std::process::ExitCode;

/// Something to mend (error) or to think about (warning).
#[derive(Debug)]
pub(crate) struct Finding {
    place: String,
    what: String,
    warning: bool,
}

// === impl Finding ===

impl Finding {
    pub(crate) fn error(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into(), warning: false }
    }

    pub(crate) fn warning(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { warning: true, ..Self::error(place, what) }
    }

    pub(crate) fn is_error(&self) -> bool {
        !self.warning
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.warning { "warning" } else { "error" };
        write!(f, "{kind}: {}: {}", self.place, self.what)
    }
}

type Check = fn(&Tree) -> Vec<Finding>;

const CHECKS: &[(&str, Check)] = &[
    ("files", files::check),
    ("words", words::check),
    ("layers", layers::check),
    ("manifests", manifests::check),
    ("pages", pages::check),
    ("guests", guests::check),
    ("errors", error_docs::check),
    ("contract", contract_docs::check),
    ("ledger", ledger::check),
];

fn findings(tree: &Tree) -> Vec<Finding> {
    CHECKS.iter().flat_map(|(_, check)| check(tree)).collect()
}

/// Prints what is wrong; success when no error is among it.
pub(crate) fn run(tree: &Tree) -> ExitCode {
    let findings = findings(tree);
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|f| f.is_error()).count();
    let names: Vec<&str> = CHECKS.iter().map(|(name, _)| *name).collect();
    println!("tidy ({}): {errors} errors, {} warnings", names.join(", "), findings.len() - errors);
    if errors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What the checks' own tests ask: which errors a tree of these files has.
#[cfg(test)]
fn errors_of<const N: usize>(check: Check, files: [(&str, &str); N]) -> Vec<String> {
    check(&Tree::from(files)).into_iter().filter(Finding::is_error).map(|f| f.to_string()).collect()
}

/// Asserts that the files have exactly one error, which says `what`.
#[cfg(test)]
#[track_caller]
fn one_error<const N: usize>(check: Check, files: [(&str, &str); N], what: &str) {
    let errors = errors_of(check, files);
    assert!(errors.len() == 1 && errors[0].contains(what), "{errors:#?} should be one, saying: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree;

    #[test]
    fn the_tree_is_tidy() {
        let tree = Tree::read(&tree::root()).unwrap();
        let errors: Vec<String> =
            findings(&tree).into_iter().filter(Finding::is_error).map(|f| f.to_string()).collect();
        assert!(errors.is_empty(), "{} errors:\n{}", errors.len(), errors.join("\n"));
    }
}
