//! C: the contract's bindings are made here, clang and its linker make a core module, which becomes a component here. So a
//! project takes nothing but clang with WebAssembly's C library. Knows no engine. Invariant: what is made imports nothing:
//! a policy that reaches for files, time or a terminal does not build.

use super::{Project, fresh, run, tool};
use crate::cli::files;
use anyhow::{Context as _, anyhow};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use wit_bindgen_core::{Files, wit_parser::Resolve};
use wit_component::ComponentEncoder;

/// Where Debian's wasi-libc is; a WASI SDK's clang knows its own.
const DEBIAN_HEADERS: &str = "/usr/include/wasm32-wasi";
const DEBIAN_SYSROOT: &str = "/usr";
const REMEDY: &str =
    "run `apt install clang lld wasi-libc libclang-rt-dev-wasm32`, or set TIDEGATE_CLANG to a WASI SDK's";

pub(super) fn build(project: &Project) -> anyhow::Result<PathBuf> {
    let made = fresh(project)?;
    let sources = bindings(project)?;
    let literal = |file: &str| Ok::<_, anyhow::Error>(serde_json::to_string(&project.read(file)?)?);
    let (vectors, schema) = (literal("vectors.toml")?, literal("settings.schema.json")?);
    let files = format!("#define VECTORS {vectors}\n#define SETTINGS_SCHEMA {schema}\n");
    project.write("build/c/policy_files.h", &files)?;
    let mut clang = Command::new(tool("TIDEGATE_CLANG", "clang"));
    clang.args([
        "--target=wasm32-wasi",
        "-mexec-model=reactor",
        "-std=c11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Wl,--strip-all",
    ]);
    if std::env::var_os("TIDEGATE_CLANG").is_none() && Path::new(DEBIAN_HEADERS).is_dir() {
        clang.arg(format!("--sysroot={DEBIAN_SYSROOT}"));
    }
    clang.args(["-I", "build/c", "policy.c"]).args(&sources).args(["-o", "build/c/core.wasm"]);
    run(&project.folder, &mut clang, REMEDY)?;
    let core = files::component(&project.folder.join("build/c/core.wasm"))?;
    let encoded = ComponentEncoder::default().validate(true).module(&core).and_then(|encoder| encoder.encode());
    let component = encoded.map_err(|error| {
        anyhow!("making a component: {error:#} (a policy has no files, no clock and no terminal to reach for)")
    })?;
    fs::write(&made, component).with_context(|| made.display().to_string())?;
    Ok(made)
}

/// Writes header, source and an object with the types of the contract; gives what is to be linked.
fn bindings(project: &Project) -> anyhow::Result<Vec<String>> {
    let mut resolve = Resolve::default();
    let path = project.folder.join(project.wit()?).join("policy.wit");
    let package = resolve.push_file(&path).with_context(|| format!("reading {}", path.display()))?;
    let world = resolve.select_world(&[package], Some(project.kind.world()))?;
    let options = wit_bindgen_c::Opts { rename_world: Some("contract".into()), ..Default::default() };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).map_err(|error| anyhow!("making bindings: {error:#}"))?;
    let folder = project.folder.join("build/c");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let mut linked = Vec::new();
    for (name, bytes) in files.iter() {
        let path = folder.join(name);
        fs::write(&path, bytes).with_context(|| path.display().to_string())?;
        if name.ends_with(".c") || name.ends_with(".o") {
            linked.push(format!("build/c/{name}"));
        }
    }
    Ok(linked)
}
