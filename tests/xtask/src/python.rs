//! Plain grpcio against a gateway of this tree: an environment under target/, stubs made of the .proto files, a gateway
//! without and one with TLS, and tests/python/plain.py for each; then one that sends its metrics to tests/python/otlp.py.
//! Knows commands, not what the scripts check. Invariant: the gateways it starts have ended when it returns.

use anyhow::{Context, bail, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What the client installs, and the client.
const REQUIREMENTS: &str = "tests/python/requirements.txt";
const SCRIPT: &str = "tests/python/plain.py";
/// Reads what a gateway sends with OpenTelemetry's own messages.
const COLLECTOR: &str = "tests/python/otlp.py";
/// Until a gateway listens: a debug build compiles its policies first.
const START: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// A gateway in a folder of its own; killed on drop.
struct Gateway {
    child: Child,
    folder: PathBuf,
}

pub(crate) fn run(root: &Path, install: bool) -> anyhow::Result<()> {
    let out = root.join("target/python");
    let python = environment(root, &out)?;
    if install {
        return Ok(());
    }
    let stubs = stubs(root, &out, &python)?;
    done(Command::new("cargo").args(["build", "--quiet", "--workspace", "--bin", "tidegate"]).current_dir(root))?;
    let tidegate = std::env::current_exe().context("this program has no path")?.with_file_name("tidegate");
    let tls = out.join("tls");
    if tls.exists() {
        fs::remove_dir_all(&tls).context("cannot clear the certificates")?;
    }
    done(Command::new(&tidegate).args(["tls", "dev", "--json", "--dir"]).arg(&tls).stdout(Stdio::null()))?;
    for secure in [false, true] {
        let flags: Vec<PathBuf> = if secure {
            vec!["--tls-cert".into(), tls.join("server.pem"), "--tls-key".into(), tls.join("server.key")]
        } else {
            Vec::new()
        };
        let gateway = Gateway::start(&tidegate, out.join(if secure { "data-tls" } else { "data" }), &flags)?;
        let mut client = Command::new(&python);
        client.arg(root.join(SCRIPT)).env("PYTHONPATH", &stubs).env("PYTHONDONTWRITEBYTECODE", "1");
        client.arg("--endpoint").arg(gateway.address()?);
        client.arg("--key-file").arg(gateway.folder.join("first-key"));
        if secure {
            client.arg("--ca").arg(tls.join("ca.pem"));
        }
        done(&mut client)?;
    }
    let folder = out.join("data-otlp");
    if folder.exists() {
        fs::remove_dir_all(&folder).context("cannot clear the data folder")?;
    }
    let mut collector = Command::new(&python);
    collector.arg(root.join(COLLECTOR)).env("PYTHONDONTWRITEBYTECODE", "1").arg("--tidegate").arg(&tidegate);
    done(collector.arg("--folder").arg(&folder))
}

/// Made once, and again when what it shall hold has changed.
fn environment(root: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    let (venv, stamp) = (out.join("venv"), out.join("requirements.txt"));
    let python = venv.join("bin/python");
    let wanted = fs::read_to_string(root.join(REQUIREMENTS)).context("no requirements")?;
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    done(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))?;
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:", "-r"];
    done(Command::new(&python).args(pip).arg(root.join(REQUIREMENTS)))?;
    fs::write(&stamp, wanted).context("cannot note what was installed")?;
    Ok(python)
}

fn stubs(root: &Path, out: &Path, python: &Path) -> anyhow::Result<PathBuf> {
    let (proto, stubs) = (root.join("proto"), out.join("stubs"));
    if stubs.exists() {
        fs::remove_dir_all(&stubs).context("cannot clear the stubs")?;
    }
    fs::create_dir_all(&stubs).context("cannot make a folder for the stubs")?;
    let mut protoc = Command::new(python);
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(&proto);
    for kind in ["--python_out", "--grpc_python_out"] {
        protoc.arg(format!("{kind}={}", stubs.display()));
    }
    let files = fs::read_dir(proto.join("tidegate/v1")).context("no .proto files")?;
    for file in files {
        protoc.arg(file.context("a .proto file")?.path());
    }
    done(&mut protoc)?;
    Ok(stubs)
}

// === impl Gateway ===

impl Gateway {
    fn start(tidegate: &Path, folder: PathBuf, flags: &[PathBuf]) -> anyhow::Result<Self> {
        if folder.exists() {
            fs::remove_dir_all(&folder).context("cannot clear the data folder")?;
        }
        let mut command = Command::new(tidegate);
        command.args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warn"]);
        // The second one takes its time for a first value.
        let backends = ["--backend", "sim=sim:rate=400", "--backend", "slow=sim:rate=1,first_change_ms=5000"];
        command.args(backends).arg("--data").arg(&folder).args(flags);
        let child = command.stdin(Stdio::null()).spawn().context("cannot start the gateway")?;
        let mut gateway = Self { child, folder };
        let deadline = Instant::now() + START;
        while !gateway.folder.join("addresses.json").exists() {
            if let Some(status) = gateway.child.try_wait()? {
                bail!("the gateway ended: {status}");
            }
            ensure!(Instant::now() < deadline, "the gateway does not get ready");
            std::thread::sleep(LOOK);
        }
        Ok(gateway)
    }

    fn address(&self) -> anyhow::Result<String> {
        let text = fs::read(self.folder.join("addresses.json")).context("no addresses")?;
        let addresses: serde_json::Value = serde_json::from_slice(&text).context("addresses.json")?;
        let grpc = addresses["grpc"].as_str().context("no gRPC address")?;
        // A name that the certificate has, too.
        Ok(grpc.replace("127.0.0.1", "localhost"))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Its workers see their pipe end and follow.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Debian's packages, without starting what they bring.
pub(crate) fn apt(packages: &[&str]) -> anyhow::Result<()> {
    for words in [&["update", "--quiet"][..], &["install", "--yes", "--quiet", "--no-install-recommends"]] {
        let names: &[&str] = if words[0] == "install" { packages } else { &[] };
        let mut apt = Command::new("apt-get");
        apt.args(words).args(names).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        done(apt.stdout(Stdio::null()))?;
    }
    Ok(())
}

pub(crate) fn done(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", command.get_program().display()))?;
    ensure!(status.success(), "{} failed: {status}", command.get_program().display());
    Ok(())
}
