//! A folder in which somebody writes a policy: made from a template, found again by its `policy.toml`. Knows templates
//! and files, no engine. Invariant: a project holds all that building it needs, except the language's own tools.

use crate::cli::{Usage, files};
use anyhow::Context as _;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Which question the policy answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    Access,
    Backpressure,
    RateLimit,
    VersionFloor,
    DashboardTags,
}

/// What the policy is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Language {
    Rust,
    Python,
    Javascript,
    C,
}

/// `policy.toml`
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Project {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) language: Language,
    #[serde(skip)]
    pub(super) folder: PathBuf,
}

/// A template's files, embedded.
#[derive(Clone, Copy, Debug)]
struct Template {
    vectors: &'static str,
    schema: &'static str,
    rust: &'static str,
    python: &'static str,
    javascript: &'static str,
    c: &'static str,
}

const MARK: &str = "policy.toml";
/// The newest contract. A project keeps the one that it was made with.
const WIT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../wit/since_v0.2.0/policy.wit"));
const WIT_FOLDER: &str = "wit/since_v0.2.0";
/// What a C project needs of JSON and text.
const C_HELP: &str = include_str!("templates/help.h");

macro_rules! sdk {
    ($file:literal) => {
        ($file, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugin-sdk/", $file)))
    };
}

/// What a Rust project carries of the SDK: it is of this gateway's version, and on no registry.
const SDK: &[(&str, &str)] = &[
    sdk!("src/answers.rs"),
    sdk!("src/bound.rs"),
    sdk!("src/glob.rs"),
    sdk!("src/lib.rs"),
    sdk!("src/packed.rs"),
    sdk!("src/schema.rs"),
    sdk!("src/version.rs"),
    sdk!("src/worlds.rs"),
    sdk!("macros/src/field.rs"),
    sdk!("macros/src/lib.rs"),
];

macro_rules! template {
    ($kind:literal) => {
        Template {
            vectors: include_str!(concat!("templates/", $kind, "/vectors.toml")),
            schema: include_str!(concat!("templates/", $kind, "/settings.schema.json")),
            rust: include_str!(concat!("templates/", $kind, "/lib.rs.in")),
            python: include_str!(concat!("templates/", $kind, "/app.py")),
            javascript: include_str!(concat!("templates/", $kind, "/policy.js")),
            c: include_str!(concat!("templates/", $kind, "/policy.c")),
        }
    };
}

// === impl Kind ===

impl Kind {
    fn template(self) -> Template {
        match self {
            Self::Access => template!("access"),
            Self::Backpressure => template!("backpressure"),
            Self::RateLimit => template!("rate-limit"),
            Self::VersionFloor => template!("version-floor"),
            Self::DashboardTags => template!("dashboard-tags"),
        }
    }

    /// The contract's world for it.
    pub(super) fn world(self) -> &'static str {
        match self {
            Self::Access => "access-policy",
            Self::Backpressure => "backpressure-policy",
            Self::RateLimit => "rate-limit-policy",
            Self::VersionFloor => "version-floor-policy",
            Self::DashboardTags => "dashboard-tags-policy",
        }
    }
}

// === impl Project ===

impl Project {
    /// Writes a new one. `folder` must not exist, or be empty.
    pub(super) fn create(name: &str, kind: Kind, language: Language, folder: &Path) -> anyhow::Result<Self> {
        check_name(name)?;
        let taken = fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
        if taken || folder.is_file() {
            return Err(
                Usage(format!("{} is there already and not empty; name another --dir", folder.display())).into()
            );
        }
        let project = Self { name: name.to_owned(), kind, language, folder: folder.to_owned() };
        let template = kind.template();
        project.write(MARK, &toml::to_string(&project)?)?;
        project.write("vectors.toml", template.vectors)?;
        // The Rust SDK makes it of the settings' types.
        if language != Language::Rust {
            project.write("settings.schema.json", template.schema)?;
        }
        project.write(&format!("{WIT_FOLDER}/policy.wit"), WIT)?;
        match language {
            Language::Rust => {
                project.write("Cargo.toml", &project.manifest())?;
                project.write("src/lib.rs", &project.named(template.rust))?;
                project.write("sdk/Cargo.toml", &sdk_manifest())?;
                project.write("sdk/macros/Cargo.toml", &macros_manifest())?;
                for (file, text) in SDK {
                    project.write(&format!("sdk/{file}"), text)?;
                }
                project.write(".gitignore", "build/\ntarget/\n")?;
            }
            Language::Python => {
                project.write("app.py", &project.named(template.python))?;
                project.write(".gitignore", "build/\n__pycache__/\n")?;
            }
            Language::Javascript => {
                project.write("policy.js", &project.named(template.javascript))?;
                project.write(".gitignore", "build/\nnode_modules/\n")?;
            }
            Language::C => {
                project.write("policy.c", &project.named(template.c))?;
                project.write("help.h", C_HELP)?;
                project.write(".gitignore", "build/\n")?;
            }
        }
        Ok(project)
    }

    /// The project in this folder.
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(MARK);
        let text = files::source(&path)
            .map_err(|error| Usage(format!("{error:#}; `tidegate policy new NAME` makes a project")))?;
        let project: Self = toml::from_str(&text).map_err(|error| Usage(format!("{}: {error}", path.display())))?;
        check_name(&project.name)?;
        Ok(Self { folder: folder.to_owned(), ..project })
    }

    /// The contract it was made with, `wit/since_v…`: projects of an older gateway have an older one.
    pub(super) fn wit(&self) -> anyhow::Result<String> {
        let wit = self.folder.join("wit");
        let entries = fs::read_dir(&wit).with_context(|| wit.display().to_string())?;
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.retain(|name| name.starts_with("since_v"));
        names.sort();
        let newest = names.pop().with_context(|| format!("{} holds no contract since_v…", wit.display()))?;
        Ok(format!("wit/{newest}"))
    }

    /// What `build` makes.
    pub(super) fn component(&self) -> PathBuf {
        self.folder.join("build").join(format!("{}.wasm", self.name))
    }

    pub(super) fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.folder.join(file);
        files::source(&path)
    }

    pub(super) fn write(&self, file: &str, text: &str) -> anyhow::Result<()> {
        let path = self.folder.join(file);
        let folder = path.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn named(&self, template: &str) -> String {
        template.replace("@NAME@", &self.name)
    }

    /// A workspace of its own, so that no other one around takes it in.
    fn manifest(&self) -> String {
        format!(
            "[package]\nname = \"{}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n[lib]\ncrate-type = \
             [\"cdylib\", \"rlib\"]\n\n[dependencies]\ntidegate-plugin-sdk = {{ path = \"sdk\" }}\n\n[profile.release]\nlto = true\n\
             codegen-units = 1\nstrip = true\npanic = \"abort\"\n\n[workspace]\nmembers = [\"sdk\", \"sdk/macros\"]\n",
            self.name
        )
    }
}

fn sdk_manifest() -> String {
    format!(
        "[package]\nname = \"tidegate-plugin-sdk\"\nversion = \"{}\"\nedition = \"2024\"\npublish = false\n\n\
         [dependencies]\nserde = {{ version = \"1\", features = [\"derive\"] }}\nserde_json = \"1\"\n\
         tidegate-plugin-macros = {{ path = \"macros\" }}\nwit-bindgen = {{ version = \"0.61\", default-features = false, \
         features = [\"macros\", \"realloc\"] }}\n",
        env!("CARGO_PKG_VERSION")
    )
}

fn macros_manifest() -> String {
    format!(
        "[package]\nname = \"tidegate-plugin-macros\"\nversion = \"{}\"\nedition = \"2024\"\npublish = false\n\n\
         [lib]\nproc-macro = true\n\n[dependencies]\nproc-macro2 = \"1\"\nquote = \"1\"\n\
         syn = {{ version = \"2\", features = [\"full\"] }}\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// It becomes a file's name, a crate's name and the policy's own.
fn check_name(name: &str) -> Result<(), Usage> {
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-');
    if plain && starts && name.len() <= 40 {
        return Ok(());
    }
    Err(Usage(format!("{name:?} is no name for a policy: a to z, digits and inner dashes, a letter first, 40 at most")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_for_files_and_crates() {
        for good in ["a", "night-shift", "v2"] {
            check_name(good).expect(good);
        }
        for bad in ["", "-a", "a-", "2a", "A", "a_b", "a/b", "../a", "ä", &"a".repeat(41)] {
            check_name(bad).expect_err(bad);
        }
    }

    // shows
    #[test]
    fn every_template_names_itself_and_is_found_again() {
        let dir = tempfile::tempdir().expect("tempdir");
        for kind in Kind::value_variants() {
            for language in Language::value_variants() {
                let folder = dir.path().join(format!("{kind:?}-{language:?}"));
                let made = Project::create("mine", *kind, *language, &folder).expect("made");
                let found = Project::open(&folder).expect("found");
                assert_eq!((found.kind, found.language), (*kind, *language));
                assert_eq!(found.component(), made.component());
                let source = match language {
                    Language::Rust => "src/lib.rs",
                    Language::Python => "app.py",
                    Language::Javascript => "policy.js",
                    Language::C => "policy.c",
                };
                let source = found.read(source).expect("source");
                assert!(source.contains("\"mine\"") && !source.contains("@NAME@"), "{source}");
                assert!(source.lines().count() < 60, "an example is read in one look");
                Project::create("mine", *kind, *language, &folder).expect_err("it is there");
            }
        }
    }
}
