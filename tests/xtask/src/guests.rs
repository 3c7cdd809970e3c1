//! `cargo xtask guests`: every template of `tidegate policy new`, built with its language's tools, put to the same vectors
//! and through the gate. Installs the tools under target/guests. Knows commands, no engine. Invariant: it succeeds only
//! if every project of every language that was asked for did.

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde_json::Value as Json;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// As the templates were tried with; newer ones may do.
const COMPONENTIZE_PY: &str = "componentize-py==0.25.1";
const JCO: &[&str] = &["@bytecodealliance/jco@1.35.0", "@bytecodealliance/componentize-js@0.23.0"];
const KINDS: &[&str] = &["access", "backpressure", "rate-limit", "version-floor", "dashboard-tags"];

#[derive(Args, Debug)]
pub(crate) struct Guests {
    /// Only this language
    #[arg(long, value_enum)]
    lang: Option<Language>,
    /// Only install the tools that are missing
    #[arg(long)]
    install: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
    Python,
    Javascript,
    C,
}

pub(crate) fn run(root: &Path, job: &Guests) -> anyhow::Result<()> {
    let folder = root.join("target/guests");
    fs::create_dir_all(&folder)?;
    let languages = || Language::value_variants().iter().filter(|one| job.lang.is_none_or(|lang| lang == **one));
    if job.install {
        return languages().try_for_each(|language| language.tools(&folder).map(drop));
    }
    done(Command::new("cargo").args(["build", "--quiet", "--workspace", "--bin", "tidegate"]).current_dir(root))?;
    let program = std::env::current_exe().context("this program has no path")?.with_file_name("tidegate");
    println!("{:<12} {:<16} {:>10} {:>10}  vectors", "language", "kind", "bytes", "gate ms");
    for language in languages() {
        let tools = language.tools(&folder)?;
        for kind in KINDS {
            let name = format!("{}-{kind}", language.name());
            let project = folder.join(&name);
            if project.exists() {
                fs::remove_dir_all(&project).with_context(|| project.display().to_string())?;
            }
            let tidegate = |words: &[&str]| -> anyhow::Result<Json> {
                let mut command = Command::new(&program);
                command.arg("policy").args(words).arg("--json").envs(tools.iter().map(|(k, v)| (k, v)));
                let output = command.current_dir(&folder).output().context("cannot start tidegate")?;
                let err = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{name}: {words:?}: {err}{}", String::from_utf8_lossy(&output.stdout));
                serde_json::from_slice(&output.stdout).with_context(|| format!("{name}: {words:?} gives no JSON"))
            };
            tidegate(&["new", &name, "--kind", kind, "--lang", language.name()])?;
            if *language == Language::Rust {
                // What all of them build alike is built once.
                let shared = folder.join("rust-target");
                fs::create_dir_all(&shared)?;
                std::os::unix::fs::symlink(&shared, project.join("target"))?;
            }
            tidegate(&["build", &name])?;
            let tested = tidegate(&["test", &name])?;
            let checked = tidegate(&["check", &name])?;
            println!(
                "{:<12} {kind:<16} {:>10} {:>10.1}  {}",
                language.name(),
                checked["bytes"],
                checked["gate_us"].as_f64().unwrap_or_default() / 1e3,
                tested["tested"]
            );
        }
    }
    Ok(())
}

// === impl Language ===

impl Language {
    fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python => "python",
            Self::Javascript => "javascript",
            Self::C => "c",
        }
    }

    /// Installs what is missing; gives the variables that say where it is.
    fn tools(self, folder: &Path) -> anyhow::Result<Vec<(&'static str, PathBuf)>> {
        match self {
            Self::Rust => {
                let target = Command::new("rustup").args(["target", "add", "wasm32-wasip2"]).status();
                // Without rustup the build says what is missing.
                drop(target);
                Ok(Vec::new())
            }
            Self::Python => {
                let venv = folder.join("venv");
                let tool = venv.join("bin/componentize-py");
                if !tool.exists() {
                    done(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
                    done(Command::new(venv.join("bin/pip")).args(["install", "--quiet", COMPONENTIZE_PY]))?;
                }
                Ok(vec![("TIDEGATE_COMPONENTIZE_PY", tool)])
            }
            Self::Javascript => {
                let node = folder.join("node");
                let tool = node.join("node_modules/.bin/jco");
                if !tool.exists() {
                    fs::create_dir_all(&node)?;
                    let mut npm = Command::new("npm");
                    done(npm.args(["install", "--silent", "--no-save", "--prefix"]).arg(&node).args(JCO))?;
                }
                Ok(vec![("TIDEGATE_JCO", tool)])
            }
            // A package of the system; the build says which, if it is not there.
            Self::C => Ok(Vec::new()),
        }
    }
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {:?}", command.get_program()))?;
    ensure!(status.success(), "{:?} ended with {status}", command.get_program());
    Ok(())
}
