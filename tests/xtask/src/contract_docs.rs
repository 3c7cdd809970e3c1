//! docs/policies/contract.md and its like for older versions, made from the doc comments of wit/. Reads WIT as its
//! compilers do, knows no gateway. Invariants: page and contract say the same; everything in a contract has a comment.

use crate::tidy::Finding;
use crate::tree::Tree;
use anyhow::{Context, ensure};
use std::fmt::Write as _;
use wit_parser::{Docs, Function, Interface, Resolve, Type, TypeDefKind, WorldItem};

const FOLDER: &str = "wit/";
const FILE: &str = "policy.wit";
const PAGES: &str = "docs/policies/";

/// The pages as they should be, newest contract first: path and text.
pub(crate) fn pages(tree: &Tree) -> anyhow::Result<Vec<(String, String)>> {
    let contracts = contracts(tree);
    ensure!(!contracts.is_empty(), "{FOLDER} holds no contract");
    let versions: Vec<&str> = contracts.iter().map(|(version, ..)| *version).collect();
    let mut pages = Vec::new();
    for (n, (version, path, text)) in contracts.iter().enumerate() {
        let others: Vec<String> = (0..versions.len())
            .filter(|other| *other != n)
            .map(|other| format!("[{}]({})", versions[other], page_name(&versions, other)))
            .collect();
        let page = Page::new(path, text)?.write(version, &others.join(", "));
        pages.push((format!("{PAGES}{}", page_name(&versions, n)), page));
    }
    Ok(pages)
}

pub(crate) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (_, path, text) in contracts(tree) {
        match Page::new(path, text) {
            Ok(page) => findings.extend(
                page.undocumented().into_iter().map(|what| Finding::error(path, format!("{what} has no doc comment"))),
            ),
            Err(error) => findings.push(Finding::error(path, format!("{error:#}"))),
        }
    }
    match pages(tree) {
        Err(error) => findings.push(Finding::error(FOLDER, format!("{error:#}"))),
        Ok(pages) => {
            for (path, page) in pages {
                if tree.text(&path) != Some(&page) {
                    findings.push(Finding::error(path, "is not what wit/ says: run `cargo xtask docs contract`"));
                }
            }
        }
    }
    findings
}

/// Version, path and text, newest first.
fn contracts(tree: &Tree) -> Vec<(&str, &str, &str)> {
    let mut found: Vec<_> = tree
        .texts(FILE)
        .filter_map(|(path, text)| {
            let version = path.strip_prefix(FOLDER)?.strip_prefix("since_v")?.strip_suffix(FILE)?.strip_suffix('/')?;
            Some((version, path, text))
        })
        .collect();
    let number = |version: &str| version.split('.').map(|part| part.parse::<u32>().unwrap_or(0)).collect::<Vec<_>>();
    found.sort_by_key(|(version, ..)| std::cmp::Reverse(number(version)));
    found
}

/// The newest has the plain name.
fn page_name(versions: &[&str], n: usize) -> String {
    if n == 0 { "contract.md".to_owned() } else { format!("contract-{}.md", versions[n]) }
}

struct Page<'a> {
    path: &'a str,
    resolve: Resolve,
    package: wit_parser::PackageId,
    /// In the order of the file.
    interfaces: Vec<(String, Interface)>,
}

// === impl Page ===

impl<'a> Page<'a> {
    fn new(path: &'a str, text: &str) -> anyhow::Result<Self> {
        let mut resolve = Resolve::default();
        let package = resolve.push_str(path, text).with_context(|| format!("cannot read {path}"))?;
        let at = |name: &str| text.find(&format!("interface {name} {{")).unwrap_or(usize::MAX);
        let mut interfaces: Vec<(String, Interface)> = resolve.packages[package]
            .interfaces
            .iter()
            .map(|(name, id)| (name.clone(), resolve.interfaces[*id].clone()))
            .collect();
        interfaces.sort_by_key(|(name, _)| at(name));
        Ok(Self { path, resolve, package, interfaces })
    }

    fn write(&self, version: &str, others: &str) -> String {
        let mut page = format!(
            "# The contract {version}\n\nMade by `cargo xtask docs contract` from [{path}](../../{path}); `cargo xtask tidy` \
             compares the two. Other versions that gateways work with: {others}.\n\n{docs}\n\n",
            path = self.path,
            docs = self.said(&self.resolve.packages[self.package].docs),
        );
        page += "| interface | |\n|---|---|\n";
        for (name, of) in &self.interfaces {
            let _ = writeln!(page, "| [`{name}`](#{name}) | {} |", first(&self.said(&of.docs)));
        }
        for (name, of) in &self.interfaces {
            let _ = write!(page, "\n## {name}\n\n{}\n", self.said(&of.docs));
            for function in of.functions.values() {
                let _ = write!(page, "\n### {name}.{}\n\n", function.name);
                let _ = writeln!(page, "```wit\n{}\n```\n\n{}", self.function(function), self.said(&function.docs));
            }
            for (name, id) in &of.types {
                self.write_type(&mut page, name, *id);
            }
        }
        page += "\n## Worlds\n\n| world | exports | |\n|---|---|---|\n";
        for id in self.resolve.packages[self.package].worlds.values() {
            let world = &self.resolve.worlds[*id];
            let exports = world.exports.iter().filter_map(|(_, item)| match item {
                WorldItem::Interface { id, .. } => Some(format!("`{}`", self.resolve.interfaces[*id].name.as_deref()?)),
                _ => None,
            });
            let exports: Vec<String> = exports.collect();
            let _ = writeln!(page, "| `{}` | {} | {} |", world.name, exports.join(", "), self.said(&world.docs));
        }
        page
    }

    fn write_type(&self, page: &mut String, name: &str, id: wit_parser::TypeId) {
        let of = &self.resolve.types[id];
        // What comes from another interface stands there.
        if let TypeDefKind::Type(Type::Id(_)) = of.kind {
            return;
        }
        let _ = write!(page, "\n### {} `{name}`\n\n{}\n", of.kind.as_str(), self.said(&of.docs));
        let rows: Vec<[String; 3]> = match &of.kind {
            TypeDefKind::Record(record) => record
                .fields
                .iter()
                .map(|field| [field.name.clone(), self.ty(&field.ty), self.said(&field.docs)])
                .collect(),
            TypeDefKind::Variant(variant) => variant
                .cases
                .iter()
                .map(|case| {
                    let ty = case.ty.as_ref().map(|ty| self.ty(ty)).unwrap_or_default();
                    [case.name.clone(), ty, self.said(&case.docs)]
                })
                .collect(),
            TypeDefKind::Enum(of) => {
                of.cases.iter().map(|case| [case.name.clone(), String::new(), self.said(&case.docs)]).collect()
            }
            _ => Vec::new(),
        };
        if rows.is_empty() {
            return;
        }
        let _ = write!(page, "\n| name | type | |\n|---|---|---|\n");
        for [name, ty, docs] in rows {
            let ty = if ty.is_empty() { ty } else { format!("`{ty}`") };
            let _ = writeln!(page, "| `{name}` | {ty} | {} |", docs.replace('\n', " ").replace('|', "\\|"));
        }
    }

    fn function(&self, of: &Function) -> String {
        let params: Vec<String> = of.params.iter().map(|p| format!("{}: {}", p.name, self.ty(&p.ty))).collect();
        let result = of.result.as_ref().map(|ty| format!(" -> {}", self.ty(ty))).unwrap_or_default();
        format!("{}: func({}){result}", of.name, params.join(", "))
    }

    /// As WIT writes it.
    fn ty(&self, ty: &Type) -> String {
        let Type::Id(id) = ty else {
            return match ty {
                Type::String => "string".to_owned(),
                Type::Bool => "bool".to_owned(),
                other => format!("{other:?}").to_lowercase(),
            };
        };
        let of = &self.resolve.types[*id];
        if let Some(name) = &of.name {
            return name.clone();
        }
        match &of.kind {
            TypeDefKind::List(of) => format!("list<{}>", self.ty(of)),
            TypeDefKind::Option(of) => format!("option<{}>", self.ty(of)),
            TypeDefKind::Tuple(of) => {
                format!("tuple<{}>", of.types.iter().map(|ty| self.ty(ty)).collect::<Vec<_>>().join(", "))
            }
            TypeDefKind::Result(of) => {
                let side = |ty: &Option<Type>| ty.as_ref().map_or("_".to_owned(), |ty| self.ty(ty));
                format!("result<{}, {}>", side(&of.ok), side(&of.err))
            }
            other => other.as_str().to_owned(),
        }
    }

    fn said(&self, docs: &Docs) -> String {
        docs.contents.as_deref().unwrap_or_default().trim().to_owned()
    }

    /// What nobody wrote a comment for.
    fn undocumented(&self) -> Vec<String> {
        let mut without = Vec::new();
        let mut look = |what: String, docs: &Docs| {
            if self.said(docs).is_empty() {
                without.push(what);
            }
        };
        let package = &self.resolve.packages[self.package];
        look(format!("package {}", package.name), &package.docs);
        for (interface, of) in &self.interfaces {
            look(format!("interface {interface}"), &of.docs);
            for function in of.functions.values() {
                look(format!("{interface}.{}", function.name), &function.docs);
            }
            for (name, id) in &of.types {
                let of = &self.resolve.types[*id];
                let place = format!("{interface}.{name}");
                match &of.kind {
                    TypeDefKind::Type(Type::Id(_)) => continue,
                    TypeDefKind::Record(record) => {
                        record.fields.iter().for_each(|f| look(format!("{place}.{}", f.name), &f.docs));
                    }
                    TypeDefKind::Variant(variant) => {
                        variant.cases.iter().for_each(|c| look(format!("{place}.{}", c.name), &c.docs));
                    }
                    TypeDefKind::Enum(of) => of.cases.iter().for_each(|c| look(format!("{place}.{}", c.name), &c.docs)),
                    _ => {}
                }
                look(place, &of.docs);
            }
        }
        for id in package.worlds.values() {
            let world = &self.resolve.worlds[*id];
            look(format!("world {}", world.name), &world.docs);
        }
        without
    }
}

/// The first sentence.
fn first(text: &str) -> String {
    let flat = text.replace('\n', " ");
    flat.split_inclusive(". ").next().unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIT: &str = "/// The contract.\npackage a:b@0.2.0;\n/// Asks. More.\ninterface ask {\n    /// One.\n    record one {\n        \
                       /// Text | more.\n        text: option<string>,\n    }\n    /// May it?\n    may: func(of: list<one>) -> \
                       result<bool, string>;\n}\n/// Together.\nworld all {\n    export ask;\n}\n";
    const PATH: &str = "wit/since_v0.2.0/policy.wit";

    #[test]
    fn a_contract_is_read_and_rendered() {
        let pages = pages(&Tree::from([(PATH, WIT)])).unwrap();
        let [(path, page)] = &pages[..] else { panic!("{pages:?}") };
        assert_eq!(path, "docs/policies/contract.md");
        for part in [
            "| [`ask`](#ask) | Asks. |",
            "### ask.may\n\n```wit\nmay: func(of: list<one>) -> result<bool, string>\n```\n\nMay it?",
            "### record `one`\n\nOne.\n\n| name | type | |\n|---|---|---|\n| `text` | `option<string>` | Text \\| more. |",
            "| `all` | `ask` | Together. |",
        ] {
            assert!(page.contains(part), "{part} in {page}");
        }
        assert!(check(&Tree::from([(PATH, WIT), (path, page)])).is_empty());
    }

    #[test]
    fn what_differs_or_has_no_comment_is_found() {
        let said = |files: &[(&str, &str)]| {
            let mut tree = Tree::default();
            for (path, text) in files {
                let size = text.len() as u64;
                tree.insert(path, crate::tree::File { size, text: Some((*text).to_owned()) });
            }
            check(&tree).iter().map(|finding| finding.to_string()).collect::<Vec<_>>().join("\n")
        };
        assert!(said(&[(PATH, WIT)]).contains("xtask docs contract"));
        let bare = WIT.replace("    /// May it?\n", "").replace("        /// Text | more.\n", "");
        let found = said(&[(PATH, &bare)]);
        assert!(found.contains("ask.may has no doc comment") && found.contains("ask.one.text has no"), "{found}");
        assert!(said(&[(PATH, "package")]).contains("cannot read"));
        assert!(said(&[]).contains("holds no contract"));
    }
}
