//! The ledger: what docs/requirements.md claims and what `// shows:` comments in the tests prove. Knows no
//! requirement's content, only ids. Invariant: nothing is `verified` without a test that says so itself.

use crate::source;
use crate::tidy::Finding;
use crate::tree::Tree;
use std::collections::BTreeMap;
use std::fmt::Write as _;

pub(crate) const PAGE: &str = "docs/requirements.md";

/// Areas and how many items each has.
const AREAS: &[(char, u32)] = &[('S', 20), ('W', 8), ('N', 11), ('D', 15), ('E', 19), ('H', 6), ('X', 18)];

/// A row of the table. `tests` are bare function names.
#[derive(Debug)]
struct Row<'t> {
    line: usize,
    id: &'t str,
    title: &'t str,
    state: &'t str,
    tests: Vec<&'t str>,
    missing: &'t str,
}

/// One test that shows items.
#[derive(Debug)]
struct Shown {
    path: String,
    line: usize,
    ids: Vec<String>,
    /// None when no test function follows the comment.
    test: Option<String>,
}

fn ids() -> impl Iterator<Item = String> {
    AREAS.iter().flat_map(|&(area, count)| (1..=count).map(move |n| format!("{area}-{n:02}")))
}

/// All rows of the page's tables: lines that begin with `| S-01 |` and the like.
fn rows(page: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for (n, line) in page.lines().enumerate() {
        let Some(inside) = line.trim().strip_prefix('|').and_then(|l| l.strip_suffix('|')) else { continue };
        let cells: Vec<&str> = inside.split('|').map(str::trim).collect();
        let id = cells[0];
        let looks_like_an_id = id.len() >= 3 && id.as_bytes()[0].is_ascii_uppercase() && id.as_bytes()[1] == b'-';
        if !looks_like_an_id {
            continue;
        }
        let cell = |n: usize| cells.get(n).copied().unwrap_or("");
        let tests =
            cell(3).split('`').skip(1).step_by(2).map(|name| name.rsplit("::").next().unwrap_or(name)).collect();
        rows.push(Row { line: n + 1, id, title: cell(1), state: cell(2), tests, missing: cell(4) });
    }
    rows
}

/// Every `// shows:` comment of the tree, with the test below it. Between the two only attributes and other
/// comments may stand.
fn shown(tree: &Tree) -> Vec<Shown> {
    let mut found = Vec::new();
    for (path, text) in tree.texts(".rs") {
        if !text.contains("shows:") {
            continue;
        }
        let lines = source::lines(text);
        for (n, line) in lines.iter().enumerate() {
            let Some(list) = line.comment.strip_prefix("// shows:") else { continue };
            let ids = list.split(',').map(|id| id.trim().to_owned()).collect();
            let test = test_below(&lines[n + 1..]);
            found.push(Shown { path: path.to_owned(), line: n + 1, ids, test });
        }
    }
    found
}

fn test_below(lines: &[source::Line]) -> Option<String> {
    let mut is_test = false;
    for line in lines {
        let code = line.code.trim();
        let (attribute, rest) = match code.strip_prefix("#[") {
            Some(inside) => inside.split_once(']').unwrap_or((inside, "")),
            None => ("", code),
        };
        // `test`, `tokio::test(…)`, and what other runtimes call theirs.
        is_test |= attribute.split('(').next().is_some_and(|path| path.trim().rsplit("::").next() == Some("test"));
        if let Some((_, after)) = rest.split_once("fn ") {
            let name: String = after.chars().take_while(|c| source::is_word(*c)).collect();
            return is_test.then_some(name);
        }
        if !rest.trim().is_empty() || (code.is_empty() && line.comment.is_empty()) {
            return None;
        }
    }
    None
}

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(page) = tree.text(PAGE) else { return vec![Finding::error(PAGE, "is missing")] };
    let (rows, shown) = (rows(page), shown(tree));
    let known: Vec<String> = ids().collect();

    for id in &known {
        match rows.iter().filter(|row| row.id == id).count() {
            1 => {}
            0 => findings.push(Finding::error(PAGE, format!("{id} has no row"))),
            n => findings.push(Finding::error(PAGE, format!("{id} has {n} rows"))),
        }
    }
    for one in &shown {
        let place = format!("{}:{}", one.path, one.line);
        for id in one.ids.iter().filter(|id| !known.contains(id)) {
            findings.push(Finding::error(&place, format!("`{id}` is no item of the ledger")));
        }
        if one.test.is_none() {
            findings.push(Finding::error(&place, "`shows:` must stand directly above a test function's attributes"));
        }
    }
    for row in &rows {
        check_row(row, &known, &shown, &mut findings);
    }
    findings
}

fn check_row(row: &Row<'_>, known: &[String], shown: &[Shown], findings: &mut Vec<Finding>) {
    let place = format!("{PAGE}:{}", row.line);
    let mut error = |what: String| findings.push(Finding::error(&place, what));
    if !known.iter().any(|id| id == row.id) {
        error(format!("`{}` is no item of the ledger", row.id));
    }
    if row.title.is_empty() {
        error(format!("{} has no title", row.id));
    }
    let shows =
        |name: &str| shown.iter().any(|s| s.test.as_deref() == Some(name) && s.ids.iter().any(|id| id == row.id));
    for name in row.tests.iter().filter(|name| !shows(name)) {
        error(format!("{}: there is no test `{name}` that carries `shows: {}`", row.id, row.id));
    }
    let words = row.missing.split_whitespace().count();
    match row.state {
        "verified" if row.tests.is_empty() => error(format!("{} is verified by no named test", row.id)),
        "verified" if words > 0 => {
            error(format!("{} is verified, yet something is missing: then it is partial", row.id))
        }
        "partial" if words < 3 => error(format!("{} is partial: say in words what is missing", row.id)),
        "verified" | "partial" => {}
        "planned" if !row.tests.is_empty() => error(format!("{} names tests, so it is not just planned", row.id)),
        "planned" => {
            if shown.iter().any(|s| s.ids.iter().any(|id| id == row.id)) {
                findings
                    .push(Finding::warning(&place, format!("{} is planned, yet tests show it: fill the row", row.id)));
            }
        }
        other => error(format!("{}: `{other}` is no state: verified, partial, planned", row.id)),
    }
}

/// Item, state, and the tests that show it, ready to be copied into the page.
pub(crate) fn overview(tree: &Tree, only_missing: bool) -> String {
    let page = tree.text(PAGE).unwrap_or("");
    let rows = rows(page);
    let mut tests: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for one in shown(tree) {
        for (id, test) in one.ids.iter().filter_map(|id| Some((id, one.test.as_ref()?))) {
            tests.entry(id.clone()).or_default().push(format!("`{test}` ({}:{})", one.path, one.line));
        }
    }
    let mut out = String::new();
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for id in ids() {
        let row = rows.iter().find(|row| row.id == id);
        let state = row.map_or("no row", |row| row.state);
        *count.entry(state).or_default() += 1;
        let shown = tests.get(&id).map_or(&[][..], Vec::as_slice);
        if only_missing && !shown.is_empty() {
            continue;
        }
        let _ = writeln!(out, "{id}  {state:<8}  {}", row.map_or("", |row| row.title));
        for test in shown {
            let _ = writeln!(out, "      {test}");
        }
    }
    let sums: Vec<String> = count.iter().map(|(state, n)| format!("{n} {state}")).collect();
    let _ = writeln!(out, "{} items: {}", ids().count(), sums.join(", "));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page on which every item is planned, except for what `change` puts in the place of S-01.
    fn page(change: &str) -> String {
        let mut page = String::from("| item | what | state | tests | missing |\n|---|---|---|---|---|\n");
        for id in ids() {
            let row = if id == "S-01" { change.to_owned() } else { format!("| {id} | words | planned | | |\n") };
            page.push_str(&row);
        }
        page
    }

    fn errors(change: &str, test: &str) -> Vec<String> {
        let tree = Tree::from([(PAGE, page(change).as_str()), ("host/x/src/a.rs", test)]);
        check(&tree).into_iter().filter(Finding::is_error).map(|f| f.to_string()).collect()
    }

    fn one_error(change: &str, test: &str, says: &str) {
        let errors = errors(change, test);
        assert!(errors.len() == 1 && errors[0].contains(says), "{errors:?} should be one, about: {says}");
    }

    const PLANNED: &str = "| S-01 | words | planned | | |\n";
    const VERIFIED: &str = "| S-01 | words | verified | `opens` | |\n";
    const OPENS: &str = "// shows: S-01\n#[tokio::test(flavor = \"current_thread\")]\nasync fn opens() {}\n";

    #[test]
    fn a_row_that_tells_the_truth_passes() {
        assert_eq!(errors(PLANNED, ""), [""; 0]);
        assert_eq!(errors(VERIFIED, OPENS), [""; 0]);
        assert_eq!(errors("| S-01 | words | verified | `gateway::tests::opens` | |\n", OPENS), [""; 0]);
        assert_eq!(errors("| S-01 | words | partial | | only the happy path |\n", ""), [""; 0]);
        let in_proptest =
            "proptest! {\n    // shows: S-01, X-03\n    // and why\n    #[test]\n    fn opens(a in 0..9) {}\n}";
        assert_eq!(errors(VERIFIED, in_proptest), [""; 0]);
    }

    #[test]
    fn rows_are_there_once() {
        one_error("", "", "S-01 has no row");
        one_error(&PLANNED.repeat(2), "", "S-01 has 2 rows");
        one_error(&format!("{PLANNED}| S-99 | words | planned | | |\n"), "", "`S-99` is no item");
        one_error("| S-01 | | planned | | |\n", "", "no title");
        one_error("| S-01 | words | done | | |\n", "", "`done` is no state");
    }

    #[test]
    fn verified_wants_a_test_that_says_so() {
        one_error("| S-01 | words | verified | | |\n", "", "no named test");
        one_error(VERIFIED, "", "there is no test `opens`");
        one_error(VERIFIED, "#[test]\nfn opens() {}\n", "there is no test `opens`");
        one_error(VERIFIED, "// shows: S-02\n#[test]\nfn opens() {}\n", "there is no test `opens`");
        one_error(
            VERIFIED,
            "const T: &str = \"\n// shows: S-01\n#[test]\nfn opens() {}\n\";",
            "there is no test `opens`",
        );
        one_error("| S-01 | words | verified | `opens` | all but the end |\n", OPENS, "then it is partial");
    }

    #[test]
    fn partial_and_planned_are_kept_apart() {
        one_error("| S-01 | words | partial | | |\n", "", "say in words");
        one_error("| S-01 | words | planned | `opens` | |\n", OPENS, "not just planned");
        let tree = Tree::from([(PAGE, page(PLANNED).as_str()), ("host/x/src/a.rs", OPENS)]);
        assert!(check(&tree)[0].to_string().contains("fill the row"));
    }

    #[test]
    fn shows_names_known_items_above_a_test() {
        one_error(PLANNED, "// shows: Q-01\n#[test]\nfn opens() {}\n", "`Q-01` is no item");
        one_error(PLANNED, "// shows: S-02\nfn helper() {}\n", "directly above a test");
        one_error(PLANNED, "// shows: S-02\n\n#[test]\nfn opens() {}\n", "directly above a test");
        one_error(PLANNED, "// shows: S-02\nconst A: u32 = 1;\n#[test]\nfn opens() {}\n", "directly above a test");
    }

    #[test]
    fn the_overview_names_tests_and_counts() {
        let tree = Tree::from([(PAGE, page(VERIFIED).as_str()), ("host/x/src/a.rs", OPENS)]);
        let all = overview(&tree, false);
        assert!(all.contains("S-01  verified  words\n      `opens` (host/x/src/a.rs:1)\n"), "{all}");
        assert!(all.ends_with("97 items: 96 planned, 1 verified\n"), "{all}");
        assert!(!overview(&tree, true).contains("S-01"));
    }
}
