//! `cargo xtask plugins build|check`: the components in plugins/dist and the digests of the sources that
//! made them. Runs cargo, reads files; knows no WebAssembly. Invariant: after `build` `check` passes, and a
//! change of anything a component is made of makes it fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail, ensure};
use clap::Subcommand;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const TARGET: &str = "wasm32-wasip2";
const POLICIES: [&str; 5] = ["access", "backpressure", "dashboard-tags", "rate-limit", "version-floor"];

#[derive(Debug, Subcommand)]
pub(crate) enum Plugins {
    /// Build the default policies into plugins/dist and note what they were made of
    Build,
    /// Fail if plugins/dist was made of other sources; where the target is installed, also build and
    /// compare behaviour
    Check,
}

/// plugins/dist/digests.toml: component to what it is and was made of.
#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
struct Digests {
    #[serde(flatten)]
    of: BTreeMap<String, Made>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
struct Made {
    /// SHA-256 over the policy's own files, the SDK, the contract, the lock entries and the profile.
    sources: String,
    /// SHA-256 of the component.
    component: String,
}

#[derive(Debug, Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Debug, Deserialize)]
struct Package {
    name: String,
    version: String,
    checksum: Option<String>,
    #[serde(default)]
    dependencies: Vec<String>,
}

pub(crate) fn run(job: Plugins) -> anyhow::Result<()> {
    let root = root();
    match job {
        Plugins::Build => build(&root),
        Plugins::Check => check(&root),
    }
}

fn build(root: &Path) -> anyhow::Result<()> {
    ensure!(
        target_installed()?,
        "building policies needs the target {TARGET}: run `rustup target add {TARGET}` (nothing else in this \
         repository needs it; plugins/dist is committed)"
    );
    let built = compile(root)?;
    let dist = root.join("plugins/dist");
    fs::create_dir_all(&dist)?;
    let mut digests = Digests::default();
    for name in POLICIES {
        let bytes = fs::read(built.join(file(name)))?;
        fs::write(dist.join(format!("{name}.wasm")), &bytes)?;
        let made = Made { sources: sources(root, name)?, component: hex(&Sha256::digest(&bytes)) };
        println!("{name}.wasm {} bytes", bytes.len());
        digests.of.insert(name.to_owned(), made);
    }
    let text = format!(
        "# Written by `cargo xtask plugins build`; checked by `cargo xtask plugins check`.\n{}",
        toml::to_string(&digests)?
    );
    fs::write(dist.join("digests.toml"), text)?;
    Ok(())
}

fn check(root: &Path) -> anyhow::Result<()> {
    let dist = root.join("plugins/dist");
    let text = fs::read_to_string(dist.join("digests.toml")).context("plugins/dist/digests.toml")?;
    let noted: Digests = toml::from_str(&text).context("plugins/dist/digests.toml")?;
    let mut stale = Vec::new();
    for name in POLICIES {
        let made = noted.of.get(name).with_context(|| format!("digests.toml says nothing of {name}"))?;
        let bytes = fs::read(dist.join(format!("{name}.wasm"))).with_context(|| format!("{name}.wasm"))?;
        if hex(&Sha256::digest(&bytes)) != made.component {
            stale.push(format!("{name}.wasm is not the one that digests.toml names"));
        }
        if sources(root, name)? != made.sources {
            stale.push(format!("{name}.wasm was made of other sources"));
        }
    }
    ensure!(stale.is_empty(), "{}; run `cargo xtask plugins build` and commit plugins/dist", stale.join("; "));
    if !target_installed()? {
        println!("sources match; {TARGET} is not installed, so behaviour was not compared");
        return Ok(());
    }
    // Compilers differ in bytes between machines; what counts is that both answer alike.
    let built = compile(root)?;
    compile_example(root)?;
    let compared = Command::new(env!("CARGO"))
        .current_dir(root)
        // All of the workspace, as everywhere: one package alone has other features, and a wasmtime of its own to build.
        .args(["test", "--quiet", "--locked", "--workspace", "--test", "rebuilt"])
        .env("TIDEGATE_REBUILT_PLUGINS", &built)
        .status()?;
    ensure!(compared.success(), "a rebuilt policy behaves otherwise than the one in plugins/dist");
    println!("sources match, and rebuilt policies behave alike");
    Ok(())
}

fn compile(root: &Path) -> anyhow::Result<PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["build", "--locked", "--profile", "plugin", "--target", TARGET]);
    for name in POLICIES {
        cargo.args(["--package", &format!("tidegate-plugin-{name}")]);
    }
    ensure!(cargo.status()?.success(), "the policies do not build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join(TARGET).join("plugin"))
}

/// The SDK's example of a component that answers several questions; only a test wants it.
fn compile_example(root: &Path) -> anyhow::Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["build", "--locked", "--profile", "plugin", "--target", TARGET]);
    cargo.args(["--package", "tidegate-plugin-sdk", "--example", "several"]);
    ensure!(cargo.status()?.success(), "the example of the SDK does not build");
    Ok(())
}

fn target_installed() -> anyhow::Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output()?;
    Ok(out.status.success() && Path::new(String::from_utf8_lossy(&out.stdout).trim()).is_dir())
}

/// Everything that the component is made of, in a fixed order.
fn sources(root: &Path, name: &str) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut files = Vec::new();
    for folder in [&format!("plugins/{name}"), "plugin-sdk", "wit"] {
        collect(&root.join(folder), &mut files)?;
    }
    files.sort();
    for path in files {
        let bytes = fs::read(&path)?;
        let shown = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
        hash.update(format!("{shown}\0{}\0", bytes.len()));
        hash.update(&bytes);
    }
    for line in locked(root, &format!("tidegate-plugin-{name}"))? {
        hash.update(line);
    }
    let manifest: toml::Table = toml::from_str(&fs::read_to_string(root.join("Cargo.toml"))?)?;
    for profile in ["release", "plugin"] {
        hash.update(manifest["profile"].get(profile).map(toml::Value::to_string).unwrap_or_default());
    }
    hash.update(fs::read(root.join("rust-toolchain.toml"))?);
    Ok(hex(&hash.finalize()))
}

/// Prose and examples change no component.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.ends_with("examples") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_none_or(|ending| ending != "md") {
            files.push(path);
        }
    }
    Ok(())
}

/// The lock entries that a package reaches, those of this workspace left out (their files are hashed).
fn locked(root: &Path, package: &str) -> anyhow::Result<BTreeSet<String>> {
    let lock: Lock = toml::from_str(&fs::read_to_string(root.join("Cargo.lock"))?)?;
    let mut todo = vec![package.to_owned()];
    let mut reached = BTreeSet::new();
    let mut lines = BTreeSet::new();
    while let Some(wanted) = todo.pop() {
        // `name`, or `name version` where several versions are locked.
        let mut words = wanted.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        let found = lock.package.iter().find(|p| p.name == name && version.is_none_or(|version| p.version == version));
        let Some(found) = found else { bail!("Cargo.lock does not hold {wanted}") };
        if reached.insert((found.name.clone(), found.version.clone())) {
            if let Some(checksum) = &found.checksum {
                lines.insert(format!("{} {} {checksum}\n", found.name, found.version));
            }
            todo.extend(found.dependencies.iter().cloned());
        }
    }
    Ok(lines)
}

fn file(name: &str) -> String {
    format!("tidegate_plugin_{}.wasm", name.replace('-', "_"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}
