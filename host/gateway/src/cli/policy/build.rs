//! Makes a component of a project with the tools of its language. Knows how each is called and what to do when it is not
//! there. Invariant: a component is in `build/` only as a whole; a failed build leaves the one before.

mod c;

use super::project::{Language, Project};
use anyhow::{Context as _, ensure};
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const TARGET: &str = "wasm32-wasip2";

/// A tool that a language needs is not there.
#[derive(Debug, thiserror::Error)]
#[error("{tool} cannot be started; {remedy}")]
struct Missing {
    tool: String,
    remedy: &'static str,
}

/// Where the component is.
pub(super) fn build(project: &Project) -> anyhow::Result<PathBuf> {
    let made = match project.language {
        Language::Rust => rust(project),
        Language::Python => python(project),
        Language::Javascript => javascript(project),
        Language::C => c::build(project),
    }?;
    let to = project.component();
    fs::rename(&made, &to).with_context(|| format!("moving {} to {}", made.display(), to.display()))?;
    Ok(to)
}

fn rust(project: &Project) -> anyhow::Result<PathBuf> {
    let installed = Command::new("rustc").args(["--print", "target-libdir", "--target", TARGET]).output();
    let installed = installed.map_err(|error| missing("rustc", "https://rustup.rs has Rust", &error))?;
    let libraries = String::from_utf8_lossy(&installed.stdout).trim().to_owned();
    ensure!(
        Path::new(&libraries).is_dir(),
        "Rust's target {TARGET} is not installed; run `rustup target add {TARGET}`"
    );
    let target = fs::canonicalize(&project.folder)?.join("target");
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--release", "--target", TARGET, "--target-dir"]).arg(&target);
    run(&project.folder, &mut cargo, "https://rustup.rs has Rust")?;
    let built = target.join(TARGET).join("release").join(format!("{}.wasm", project.name.replace('-', "_")));
    let made = fresh(project)?;
    fs::copy(&built, &made).with_context(|| format!("copying {}", built.display()))?;
    Ok(made)
}

/// Vectors and schema come as a module: a guest has no files to read.
fn python(project: &Project) -> anyhow::Result<PathBuf> {
    let made = fresh(project)?;
    let literal = |text: String| serde_json::to_string(&text);
    let files = format!(
        "VECTORS = {}\nSETTINGS_SCHEMA = {}\n",
        literal(project.read("vectors.toml")?)?,
        literal(project.read("settings.schema.json")?)?
    );
    project.write("build/python/policy_files.py", &files)?;
    let mut tool = Command::new(tool("TIDEGATE_COMPONENTIZE_PY", "componentize-py"));
    tool.args(["--quiet", "--wit-path", &project.wit()?, "--world", project.kind.world(), "componentize"]);
    // Python's own library wants a network and more; a policy that reached for it would trap.
    tool.args(["--stub-wasi", "--python-path", ".", "--python-path", "build/python", "app", "--output"]);
    tool.arg(Path::new("build").join(made.file_name().unwrap_or_default()));
    run(&project.folder, &mut tool, "run `pip install componentize-py`")?;
    Ok(made)
}

/// One file, because the tool takes one.
fn javascript(project: &Project) -> anyhow::Result<PathBuf> {
    let made = fresh(project)?;
    let literal = |text: String| serde_json::to_string(&text);
    let source = format!(
        "const VECTORS = {};\nconst SETTINGS_SCHEMA = {};\n{}",
        literal(project.read("vectors.toml")?)?,
        literal(project.read("settings.schema.json")?)?,
        project.read("policy.js")?
    );
    project.write("build/policy.js", &source)?;
    let mut tool = Command::new(tool("TIDEGATE_JCO", "jco"));
    tool.args(["componentize", "policy.js", "--backend", "quickjs", "--backend-qjs-disable-async"]);
    let wit = format!("../{}", project.wit()?);
    tool.args(["--backend-qjs-stub-wasi", "--wit", &wit, "--world-name", project.kind.world(), "--out"]);
    tool.arg(made.file_name().unwrap_or_default());
    // It looks for the source beside the source when that is in another folder.
    run(&project.folder.join("build"), &mut tool, "run `npm install --global @bytecodealliance/jco`")?;
    Ok(made)
}

/// A name beside the component's, for what is not whole yet.
fn fresh(project: &Project) -> anyhow::Result<PathBuf> {
    let made = project.component().with_extension("wasm.part");
    fs::create_dir_all(project.folder.join("build"))?;
    Ok(made)
}

fn tool(variable: &str, name: &str) -> std::ffi::OsString {
    std::env::var_os(variable).unwrap_or_else(|| name.into())
}

/// What the tool says goes to the standard error: the standard output is the command's own.
fn run(folder: &Path, command: &mut Command, remedy: &'static str) -> anyhow::Result<()> {
    let tool = command.get_program().to_string_lossy().into_owned();
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::from(io::stderr()));
    let status = command.status().map_err(|error| missing(&tool, remedy, &error))?;
    ensure!(status.success(), "{tool} ended with {status}; what it said stands above");
    Ok(())
}

fn missing(tool: &str, remedy: &'static str, error: &io::Error) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::NotFound => Missing { tool: tool.to_owned(), remedy }.into(),
        _ => anyhow::anyhow!("{tool}: {error}"),
    }
}
