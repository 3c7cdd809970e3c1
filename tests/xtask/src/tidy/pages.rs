//! The pages for people: links lead somewhere, the glossary has every word of the house. Knows Markdown and
//! SVG only as far as links and headings go; never asks the network.

use super::Finding;
use crate::tree::Tree;

const ARCHITECTURE: &str = "docs/architecture.md";

/// One word per concept; each has its line in the glossary.
const GLOSSARY: &[&str] = &[
    "session",
    "worker",
    "pipe",
    "pump",
    "ring",
    "segment",
    "subscriber",
    "cursor",
    "lag",
    "gap",
    "policy",
    "plugin",
    "generation",
    "verdict",
    "lease",
    "node",
    "floor",
    "journal",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts(".md") {
        for (target, line) in links(text) {
            if let Some(what) = broken(tree, path, text, &target) {
                findings.push(Finding::error(format!("{path}:{line}"), what));
            }
        }
        for line in unfilled(text) {
            findings.push(Finding::warning(format!("{path}:{line}"), "no real output follows this mark yet"));
        }
    }
    match tree.text(ARCHITECTURE).and_then(|text| Some((text, text.split_once("## Glossary")?.1))) {
        None => findings.push(Finding::error(ARCHITECTURE, "has no part `## Glossary`")),
        Some((_, after)) => {
            let glossary = after.split("\n## ").next().unwrap_or(after);
            for word in GLOSSARY.iter().filter(|word| !glossary.contains(&format!("**{word}**"))) {
                findings.push(Finding::error(ARCHITECTURE, format!("the glossary does not explain **{word}**")));
            }
        }
    }
    findings
}

/// Targets of `[text](target)`, `src="…"`, `srcset="…"` and `href="…"` outside of code, with their lines.
fn links(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (n, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // What stands between single back quotes is code.
        let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("``");
        for (opens, closes) in [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"'), ("href=\"", '"')] {
            for after in prose.split(opens).skip(1) {
                let target = after.split(closes).next().unwrap_or("").trim();
                found.push((target.to_owned(), n + 1));
            }
        }
    }
    found
}

/// Lines of `<!-- output: … -->` that no block of `text` follows. A page shows what a command really printed.
fn unfilled(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let is_mark = |n: &usize| lines[*n].trim_start().starts_with("<!-- output:");
    let is_filled =
        |n: &usize| lines[n + 1..].iter().find(|l| !l.trim().is_empty()).is_some_and(|l| l.starts_with("```text"));
    (0..lines.len()).filter(is_mark).filter(|n| !is_filled(n)).map(|n| n + 1).collect()
}

fn broken(tree: &Tree, page: &str, text: &str, target: &str) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    let (path, text) = match file {
        "" => (page.to_owned(), Some(text)),
        _ => {
            let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
            let Some(path) = resolve(folder, file) else { return Some(format!("`{target}` leads out of the tree")) };
            let text = tree.text(&path);
            (path, text)
        }
    };
    if !tree.has(&path) {
        return Some(format!("`{target}` leads nowhere"));
    }
    let known = anchor.is_empty() || text.is_none_or(|text| headings(text).any(|heading| heading == anchor));
    (!known).then(|| format!("`{path}` has no heading `{anchor}`"))
}

fn resolve(folder: &str, file: &str) -> Option<String> {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Headings as their anchors are written: lower case, marks dropped, blanks as hyphens.
fn headings(text: &str) -> impl Iterator<Item = String> {
    text.lines().filter(|line| line.starts_with('#')).map(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::super::{errors_of, one_error};
    use super::*;

    fn glossary(without: &str) -> String {
        let lines: Vec<String> =
            GLOSSARY.iter().filter(|word| **word != without).map(|word| format!("- **{word}**: x")).collect();
        format!("# Map\n## Glossary\n{}\n## After\n- **journal**\n", lines.join("\n"))
    }

    #[test]
    fn good_pages_pass() {
        let page =
            "# A page\n[a](../README.md#the-tour) [b](#a-page) [c](https://x.example/y) [d](img/)\n`[e](no.md)`\n";
        let fenced = "```\n[f](no.md)\n```\n<img src=\"docs/img/a.svg\">\n## The tour\n";
        let map = glossary("");
        let files = [("docs/a.md", page), ("README.md", fenced), ("docs/img/a.svg", ""), (ARCHITECTURE, &map)];
        assert_eq!(errors_of(check, files), [""; 0]);
    }

    #[test]
    fn planted_links_are_found() {
        let map = glossary("");
        let find = |text: &str, what: &str| one_error(check, [("docs/a.md", text), (ARCHITECTURE, &map)], what);
        find("x\n[a](b.md)", "docs/a.md:2: `b.md` leads nowhere");
        find("<img src=\"a.svg\">", "leads nowhere");
        find("[a](../../b.md)", "out of the tree");
        find("[a](architecture.md#no)", "has no heading `no`");
    }

    #[test]
    fn a_mark_without_output_is_warned_of() {
        assert_eq!(unfilled("a\n<!-- output: demo -->\n\nnext"), [2]);
        assert_eq!(unfilled("<!-- output: demo -->\n\n```text\nreal\n```\n"), [0; 0]);
    }

    #[test]
    fn a_word_without_explanation_is_found() {
        one_error(check, [(ARCHITECTURE, &glossary("journal"))], "**journal**");
        one_error(check, [(ARCHITECTURE, "# Map")], "no part");
        one_error(check, [], "no part");
    }
}
