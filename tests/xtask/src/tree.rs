//! The tree as the checks see it: paths, sizes and texts, read once. Knows nothing about what is wrong with
//! them, and can be made from literals, so that each check is tested with a planted violation.
//! Invariant: build output and what a running gateway leaves behind are never part of it.

use anyhow::Context;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Folders that are nobody's source, wherever they are.
const OUTPUT_ANYWHERE: &[&str] = &["target", ".git", "node_modules", "__pycache__"];
/// Paths that .gitignore names because jobs and `tidegate serve` write there.
const OUTPUT_AT: &[&str] = &["data", "tests/fuzz/target"];

#[derive(Debug)]
pub(crate) struct File {
    pub(crate) size: u64,
    /// None when it is not UTF-8.
    pub(crate) text: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// By path from the root, with `/` on every system.
    files: BTreeMap<String, File>,
}

/// The workspace's folder. Cargo says at run time where this crate is; the built-in path is for a program
/// that was started by hand.
pub(crate) fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.ancestors().nth(2).unwrap_or(&here).to_path_buf()
}

// === impl Tree ===

impl Tree {
    pub(crate) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        tree.read_folder(root, "")?;
        Ok(tree)
    }

    fn read_folder(&mut self, folder: &Path, prefix: &str) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = format!("{prefix}{name}");
            // In a linked work tree `.git` is a file.
            if OUTPUT_ANYWHERE.contains(&name.as_str()) || OUTPUT_AT.contains(&path.as_str()) {
                continue;
            }
            // Links are neither followed nor judged.
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.read_folder(&entry.path(), &format!("{path}/"))?;
            } else if kind.is_file() {
                let bytes = std::fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
                self.files.insert(path, File { size: bytes.len() as u64, text: String::from_utf8(bytes).ok() });
            }
        }
        Ok(())
    }

    /// Path and file, in order of path.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &File)> {
        self.files.iter().map(|(path, file)| (path.as_str(), file))
    }

    /// Path and text of each text file whose name ends in `ending`.
    pub(crate) fn texts<'t>(&'t self, ending: &'t str) -> impl Iterator<Item = (&'t str, &'t str)> {
        self.files()
            .filter(move |(path, _)| path.ends_with(ending))
            .filter_map(|(path, f)| Some((path, f.text.as_deref()?)))
    }

    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path)?.text.as_deref()
    }

    /// A file, or a folder with something in it.
    pub(crate) fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let inside = format!("{path}/");
        path.is_empty() || self.files.contains_key(path) || self.files.keys().any(|p| p.starts_with(&inside))
    }
}

#[cfg(test)]
impl Tree {
    pub(crate) fn insert(&mut self, path: &str, file: File) {
        self.files.insert(path.to_owned(), file);
    }
}

#[cfg(test)]
impl<const N: usize> From<[(&str, &str); N]> for Tree {
    fn from(files: [(&str, &str); N]) -> Self {
        let file = |text: &str| File { size: text.len() as u64, text: Some(text.to_owned()) };
        Self { files: files.into_iter().map(|(path, text)| (path.to_owned(), file(text))).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_the_workspace_and_output_stays_out() {
        let tree = Tree::read(&root()).unwrap();
        assert!(tree.text("Cargo.toml").unwrap().contains("[workspace]"));
        assert!(tree.files().all(|(path, _)| !path.starts_with("target/") && !path.starts_with(".git/")));
    }

    #[test]
    fn a_folder_is_there_when_something_is_in_it() {
        let tree = Tree::from([("docs/a/b.md", "")]);
        assert!(tree.has("docs/a") && tree.has("docs/a/") && tree.has("docs/a/b.md"));
        assert!(!tree.has("docs/a/b") && !tree.has("doc"));
    }
}
