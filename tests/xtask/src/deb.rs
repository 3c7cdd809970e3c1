//! A Debian package out of host/package and a built gateway: binary, unit, man pages, completions, an example of
//! its settings. Knows paths and dpkg-deb, nothing of what the binary does. Invariant: what it wrote it has looked
//! into: every file that an operator needs is there, owned by root.

use anyhow::{Context, bail, ensure};
use clap::Args;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// Where its parts lie in the tree.
const PARTS: &str = "host/package";
/// Release builds are made on Debian 12; an older C library will not load them.
const GLIBC: &str = "2.36";
/// What an operator must find after the installation.
const NEEDED: &[&str] = &[
    "./usr/bin/tidegate",
    "./usr/lib/systemd/system/tidegate.service",
    "./usr/lib/systemd/system/tidegate.socket",
    "./usr/lib/sysusers.d/tidegate.conf",
    "./usr/lib/tmpfiles.d/tidegate.conf",
    "./etc/tidegate/tidegate.env",
    "./usr/share/bash-completion/completions/tidegate",
    "./usr/share/zsh/vendor-completions/_tidegate",
    "./usr/share/fish/vendor_completions.d/tidegate.fish",
    "./usr/share/man/man1/tidegate.1.gz",
    "./usr/share/man/man1/tidegate-serve.1.gz",
    "./usr/share/doc/tidegate/copyright",
];

#[derive(Args, Debug)]
pub(crate) struct Deb {
    /// The gateway to put in; without it a release build is made
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Install the package into an empty root as well, and ask the gateway in it for its version
    #[arg(long)]
    install: bool,
}

pub(crate) fn run(root: &Path, job: &Deb) -> anyhow::Result<()> {
    let binary = match &job.binary {
        Some(binary) => binary.clone(),
        None => {
            done(
                Command::new("cargo")
                    .args(["build", "--release", "--locked", "--package", "tidegate"])
                    .current_dir(root),
            )?;
            root.join("target/release/tidegate")
        }
    };
    let out = root.join("target/deb");
    let staging = out.join("root");
    if staging.exists() {
        fs::remove_dir_all(&staging).context("cannot clear the staging folder")?;
    }
    stage(root, &binary, &staging)?;
    let version = env!("CARGO_PKG_VERSION");
    let architecture = text(Command::new("dpkg").arg("--print-architecture"))?;
    let control = fs::read_to_string(root.join(PARTS).join("debian/control"))?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", architecture.trim())
        .replace("@GLIBC@", GLIBC)
        .replace("@KIB@", &(bytes(&staging)? / 1024).to_string());
    put(&staging.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    for script in ["postinst", "prerm", "postrm"] {
        copy(&root.join(PARTS).join("debian").join(script), &staging.join("DEBIAN").join(script), 0o755)?;
    }
    copy(&root.join(PARTS).join("debian/conffiles"), &staging.join("DEBIAN/conffiles"), 0o644)?;
    let package = out.join(format!("tidegate_{version}_{}.deb", architecture.trim()));
    done(Command::new("dpkg-deb").args(["--root-owner-group", "--build"]).arg(&staging).arg(&package))?;
    check(&package)?;
    if job.install {
        install(&package, &out.join("installed"))?;
    }
    println!("{}", package.strip_prefix(root).unwrap_or(&package).display());
    Ok(())
}

fn stage(root: &Path, binary: &Path, staging: &Path) -> anyhow::Result<()> {
    let program = staging.join("usr/bin/tidegate");
    copy(binary, &program, 0o755)?;
    done(Command::new("strip").arg(&program))?;
    for (part, place) in [
        ("tidegate.service", "usr/lib/systemd/system/tidegate.service"),
        ("tidegate.socket", "usr/lib/systemd/system/tidegate.socket"),
        ("tidegate.sysusers", "usr/lib/sysusers.d/tidegate.conf"),
        ("tidegate.tmpfiles", "usr/lib/tmpfiles.d/tidegate.conf"),
        ("tidegate.env", "etc/tidegate/tidegate.env"),
    ] {
        copy(&root.join(PARTS).join(part), &staging.join(place), 0o644)?;
    }
    let plugins = staging.join("etc/tidegate/plugins");
    fs::create_dir_all(&plugins)?;
    for (shell, place) in [
        ("bash", "usr/share/bash-completion/completions/tidegate"),
        ("zsh", "usr/share/zsh/vendor-completions/_tidegate"),
        ("fish", "usr/share/fish/vendor_completions.d/tidegate.fish"),
    ] {
        let script = text(Command::new(&program).args(["completions", shell]))?;
        put(&staging.join(place), script.as_bytes(), 0o644)?;
    }
    let pages = staging.join("usr/share/man/man1");
    done(Command::new(&program).arg("man").arg(&pages))?;
    for page in fs::read_dir(&pages)? {
        done(Command::new("gzip").args(["--best", "--no-name"]).arg(page?.path()))?;
    }
    let (mit, apache) = (fs::read_to_string(root.join("LICENSE-MIT"))?, "/usr/share/common-licenses/Apache-2.0");
    let copyright = format!("Tidegate is licensed as MIT or Apache 2.0 ({apache}), at your choice.\n\n{mit}");
    put(&staging.join("usr/share/doc/tidegate/copyright"), copyright.as_bytes(), 0o644)
}

/// Looks into what was written.
fn check(package: &Path) -> anyhow::Result<()> {
    let listing = text(Command::new("dpkg-deb").arg("--contents").arg(package))?;
    let owned = |line: &&str| !line.contains("root/root");
    if let Some(line) = listing.lines().find(owned) {
        bail!("not owned by root: {line}");
    }
    for path in NEEDED {
        ensure!(listing.lines().any(|line| line.ends_with(path)), "the package lacks {path}");
    }
    Ok(())
}

/// Into a root of its own, without touching the machine's packages.
fn install(package: &Path, into: &Path) -> anyhow::Result<()> {
    if into.exists() {
        fs::remove_dir_all(into)?;
    }
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
        fs::create_dir_all(into.join(folder))?;
    }
    put(&into.join("var/lib/dpkg/status"), b"", 0o644)?;
    let mut root = std::ffi::OsString::from("--root=");
    root.push(into);
    // An empty root has no C library to depend on.
    done(
        Command::new("dpkg").arg(root).args(["--force-depends", "--force-script-chrootless", "--install"]).arg(package),
    )?;
    let version = text(Command::new(into.join("usr/bin/tidegate")).arg("--version"))?;
    ensure!(version.trim() == format!("tidegate {}", env!("CARGO_PKG_VERSION")), "what was installed says {version:?}");
    let unit = into.join("usr/lib/systemd/system/tidegate.service");
    ensure!(fs::read_to_string(unit)?.contains("Type=notify"), "the unit is not the one of host/package");
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> anyhow::Result<()> {
    let content = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    put(to, &content, mode)
}

fn put(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

fn bytes(folder: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { bytes(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

fn text(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}
