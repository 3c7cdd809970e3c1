//! Faulty guests: each `.wat` text is there for a test that names it. Does not run them.

use super::Finding;
use crate::source::is_word;
use crate::tree::Tree;

const GUESTS: &str = "host/policy/tests/guests/";
const TESTS: &str = "host/policy/";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, _) in tree.texts(".wat").filter(|(path, _)| path.starts_with(GUESTS)) {
        let name = path.rsplit('/').next().unwrap_or(path);
        let named = |text: &str| {
            text.match_indices(name).any(|(at, _)| {
                let before = text[..at].chars().next_back().unwrap_or(' ');
                !is_word(before) && before != '-'
            }) || text.contains(&format!("\"{}\"", name.trim_end_matches(".wat")))
        };
        if !tree.texts(".rs").any(|(test, text)| test.starts_with(TESTS) && named(text)) {
            findings.push(Finding::error(path, format!("no test under {TESTS} names `{name}`")));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::{errors_of, one_error};
    use super::*;

    #[test]
    fn a_guest_that_a_test_names_passes() {
        let guest = ("host/policy/tests/guests/loop.wat", "(module)");
        assert_eq!(errors_of(check, [guest, ("host/policy/tests/a.rs", "guest(\"guests/loop.wat\")")]), [""; 0]);
        assert_eq!(errors_of(check, [guest, ("host/policy/tests/a.rs", "guest(\"loop\")")]), [""; 0]);
    }

    #[test]
    fn a_guest_without_a_test_is_found() {
        let guest = ("host/policy/tests/guests/loop.wat", "(module)");
        one_error(check, [guest], "no test");
        one_error(check, [guest, ("host/policy/tests/a.rs", "\"deep-loop.wat\"; loop {}")], "no test");
    }
}
