//! `cargo xtask browser`: brings a Chromium, axe-core and a gateway of this tree together and has tests/browser look at
//! the dashboard. Knows where programs come from, not what is looked at. Invariant: nothing that is fetched is put
//! anywhere but under target/, but for Chromium itself, which the system's packages bring.

use anyhow::{Context, bail, ensure};
use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

/// The checker of accessibility; its licence (MPL-2.0) is why it is fetched and not kept here.
const AXE: &str = "axe-core@4.11.0";
const SCRIPT: &str = "tests/browser/dashboard.py";
const SCREENSHOTS: &str = "docs/screenshots";
const CHROMIUMS: &[&str] = &["chromium", "chromium-browser", "google-chrome"];

#[derive(clap::Args, Debug)]
pub(crate) struct Browser {
    /// Only bring what is needed: Chromium by apt-get where there is none, axe-core by npm
    #[arg(long)]
    install: bool,
    /// Sessions on the page that must not stutter
    #[arg(long, default_value_t = 200)]
    sessions: u32,
    /// Also make the pictures in docs/screenshots
    #[arg(long)]
    screenshots: bool,
}

pub(crate) fn run(root: &Path, job: &Browser) -> anyhow::Result<ExitCode> {
    let out = root.join("target/browser");
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let chromium = chromium()?;
    let axe = axe(&out)?;
    if job.install {
        println!("{} and {} are there", chromium.display(), axe.display());
        return Ok(ExitCode::SUCCESS);
    }
    super::python::done(Command::new("cargo").args(["build", "--quiet", "--workspace", "--locked"]).current_dir(root))?;
    let tidegate = std::env::current_exe().context("this program has no path")?.with_file_name("tidegate");
    let mut look = Command::new("python3");
    look.arg(root.join(SCRIPT)).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(root);
    look.arg("--tidegate").arg(tidegate).arg("--chromium").arg(chromium).arg("--axe").arg(axe);
    look.args(["--sessions", &job.sessions.to_string()]);
    if job.screenshots {
        look.arg("--screenshots").arg(root.join(SCREENSHOTS));
    }
    let status = look.status().context("cannot start python3")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Debian's, where nobody has installed another one.
fn chromium() -> anyhow::Result<PathBuf> {
    if let Some(found) = CHROMIUMS.iter().find_map(|name| on_path(name)) {
        return Ok(found);
    }
    super::python::apt(&["chromium"]).context("there is no Chromium and apt-get brings none")?;
    match on_path(CHROMIUMS[0]) {
        Some(found) => Ok(found),
        None => bail!("apt-get brought no {}", CHROMIUMS[0]),
    }
}

fn axe(out: &Path) -> anyhow::Result<PathBuf> {
    let file = out.join("node_modules/axe-core/axe.min.js");
    let stamp = out.join("axe");
    if file.exists() && std::fs::read_to_string(&stamp).is_ok_and(|have| have == AXE) {
        return Ok(file);
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--no-save", "--prefix"]);
    super::python::done(npm.arg(out).arg(AXE)).context("npm brings no axe-core")?;
    ensure!(file.exists(), "npm brought no {}", file.display());
    std::fs::write(&stamp, AXE).context("cannot note what was brought")?;
    Ok(file)
}

/// A program on PATH, or where a system keeps its servers.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}
