//! docs/errors.md, made from the `codes!` table of the gateway's error.rs. Reads the table as text: linking the
//! gateway would make every check wait for it to build, and to be unbroken. Whether the table itself makes
//! sense is tested beside it. Invariant: page and table are the same rows in the same order.

use crate::tidy::Finding;
use crate::tree::Tree;
use anyhow::{Context, bail, ensure};

pub(crate) const PAGE: &str = "docs/errors.md";
const TABLE: &str = "host/gateway/src/error.rs";

const INTRODUCTION: &str = "# Errors

Every error that leaves Tidegate has a code that stays, a message for people that may change, and details. Over gRPC
the code is the `reason` of `google.rpc.ErrorInfo` with domain `tidegate`, beside the status named here; over HTTP it is
the `code` of a problem+json answer.

Made by `cargo xtask docs errors` from the table in `host/gateway/src/error.rs`; `cargo xtask tidy` compares the two.

| code | status | cause | remedy |
|---|---|---|---|
";

#[derive(Debug, PartialEq, Eq)]
struct Code {
    text: String,
    class: String,
    cause: String,
    remedy: String,
}

/// The page as it should be.
pub(crate) fn page(tree: &Tree) -> anyhow::Result<String> {
    let text = tree.text(TABLE).with_context(|| format!("{TABLE} is missing"))?;
    let mut page = INTRODUCTION.to_owned();
    for code in codes(text).with_context(|| format!("cannot read `codes!` of {TABLE}"))? {
        let row = [&format!("`{}`", code.text), &screaming(&code.class), &code.cause, &code.remedy];
        page.push_str(&format!("| {} |\n", row.map(|cell| cell.replace('|', "\\|")).join(" | ")));
    }
    Ok(page)
}

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    match page(tree) {
        Err(error) => vec![Finding::error(TABLE, format!("{error:#}"))],
        Ok(page) if tree.text(PAGE) != Some(&page) => {
            vec![Finding::error(PAGE, "is not what the table says: run `cargo xtask docs errors`")]
        }
        Ok(_) => Vec::new(),
    }
}

/// Rows of the form `Variant = "code", Class, "cause", "remedy";`.
fn codes(text: &str) -> anyhow::Result<Vec<Code>> {
    let start = text.find("\ncodes! {").context("there is no line `codes! {`")?;
    let mut rest = &text[start + "\ncodes! {".len()..];
    let mut codes = Vec::new();
    loop {
        rest = rest.trim_start();
        if rest.starts_with('}') {
            ensure!(!codes.is_empty(), "the table is empty");
            return Ok(codes);
        }
        if rest.starts_with("//") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
            continue;
        }
        let variant = word(&mut rest)?;
        let row = (|| {
            mark(&mut rest, '=')?;
            let text = literal(&mut rest)?;
            mark(&mut rest, ',')?;
            let class = word(&mut rest)?;
            mark(&mut rest, ',')?;
            let cause = literal(&mut rest)?;
            mark(&mut rest, ',')?;
            let remedy = literal(&mut rest)?;
            mark(&mut rest, ';')?;
            Ok::<_, anyhow::Error>(Code { text, class, cause, remedy })
        })();
        codes.push(row.with_context(|| format!("after `{variant}`"))?);
    }
}

fn mark(rest: &mut &str, want: char) -> anyhow::Result<()> {
    *rest = rest.trim_start().strip_prefix(want).with_context(|| format!("expected `{want}`"))?;
    Ok(())
}

fn word(rest: &mut &str) -> anyhow::Result<String> {
    let text = rest.trim_start();
    let end = text.find(|c| !crate::source::is_word(c)).unwrap_or(text.len());
    ensure!(end > 0, "expected a name");
    *rest = &text[end..];
    Ok(text[..end].to_owned())
}

fn literal(rest: &mut &str) -> anyhow::Result<String> {
    mark(rest, '"')?;
    let mut value = String::new();
    let mut chars = rest.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => {
                *rest = &rest[at + 1..];
                return Ok(value);
            }
            '\\' => match chars.next() {
                Some((_, c @ ('"' | '\\'))) => value.push(c),
                other => bail!("the escape {other:?} is not understood here"),
            },
            c => value.push(c),
        }
    }
    bail!("a literal does not end")
}

/// `PermissionDenied` as gRPC writes it.
fn screaming(class: &str) -> String {
    let mut out = String::new();
    for c in class.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODES: &str = "x\ncodes! {\n    // why\n    A = \"a.b\", PermissionDenied,\n        \"Said \\\"no\\\".\",\n        \"Ask | wait.\";\n}\n";

    #[test]
    fn the_table_is_read_and_rendered() {
        let tree = Tree::from([(TABLE, CODES)]);
        let page = page(&tree).unwrap();
        assert!(page.ends_with("| `a.b` | PERMISSION_DENIED | Said \"no\". | Ask \\| wait. |\n"), "{page}");
        assert!(check(&Tree::from([(TABLE, CODES), (PAGE, page.as_str())])).is_empty());
    }

    #[test]
    fn a_page_that_differs_is_found() {
        assert!(check(&Tree::from([(TABLE, CODES), (PAGE, "old")]))[0].to_string().contains("xtask docs errors"));
        assert_eq!(check(&Tree::from([(TABLE, CODES)])).len(), 1);
    }

    #[test]
    fn a_table_that_cannot_be_read_says_where() {
        let broken = CODES.replace("PermissionDenied,", "PermissionDenied");
        assert!(check(&Tree::from([(TABLE, broken.as_str())]))[0].to_string().contains("after `A`: expected `,`"));
        assert_eq!(check(&Tree::default()).len(), 1);
    }
}
