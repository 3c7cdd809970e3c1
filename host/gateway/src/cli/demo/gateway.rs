//! The gateway as a child process, in a folder of its own. It knows command lines and files, not
//! sessions. Invariant: when it is dropped, the gateway and all that it started are gone.

use crate::cli::remote::Addresses;
use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use std::{
    fs::{self, File},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tidegate_client::{Admin, Connect};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// Guessed: a cold start compiles the policies, on a loaded machine in a debug build.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How many lines of a gateway that did not start are shown.
const LAST_LINES: usize = 12;

/// A running gateway.
#[derive(Debug)]
pub(super) struct GatewayProcess {
    child: Child,
    group: Pid,
    /// It ended by itself, so its number may belong to others by now.
    ended: bool,
    folder: Option<TempDir>,
    data: PathBuf,
    plugins: PathBuf,
    addresses: Addresses,
    key: String,
}

// === impl GatewayProcess ===

impl GatewayProcess {
    /// Starts a gateway with these backends (`NAME=sim:SETTINGS`) and waits until it listens.
    pub(super) async fn start(
        backends: &[String],
        prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidegate-demo-").tempdir()?;
        let (data, plugins) = (folder.path().join("data"), folder.path().join("plugins"));
        fs::DirBuilder::new().mode(0o700).create(&plugins)?;
        prepare(&plugins)?;
        let log = File::create(folder.path().join("gateway.log"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg("--data").arg(&data).arg("--plugins").arg(&plugins);
        command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        for backend in backends {
            command.arg("--backend").arg(backend);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A group of its own: Ctrl-C reaches only the demo, which ends the whole group in order.
        let child = command.process_group(0).kill_on_drop(true).spawn().context("cannot start the gateway")?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let group = pid.context("the gateway ended at once")?;
        let addresses = Addresses { grpc: String::new(), http: String::new(), tls: false };
        let mut this =
            Self { child, group, ended: false, folder: Some(folder), data, plugins, addresses, key: String::new() };
        this.wait_until_ready().await?;
        Ok(this)
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(addresses) = Addresses::read(&self.data)? {
                self.addresses = addresses;
                self.key = fs::read_to_string(self.data.join("first-key")).context("no first key")?.trim().to_owned();
                return Ok(());
            }
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("the gateway did not start ({status}); its last words:\n{}", self.last_words());
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the gateway did not start within {} s; its last words:\n{}",
                START_TIMEOUT.as_secs(),
                self.last_words()
            );
            sleep(LOOK_EVERY).await;
        }
    }

    pub(super) fn plugins(&self) -> &Path {
        &self.plugins
    }

    /// The key that the gateway made when it started.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// A new connection; each reader has its own, so that a slow one shares no window with others.
    pub(super) fn connect(&self) -> Connect {
        Connect::to(&self.addresses.grpc)
    }

    pub(super) async fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Connect::socket(self.data.join("admin.sock")).admin().await?)
    }

    /// Asks the gateway to end and waits for it.
    pub(super) async fn stop(&mut self) -> anyhow::Result<ExitStatus> {
        rustix::process::kill_process(self.group, Signal::TERM)?;
        let status = timeout(STOP_TIMEOUT, self.child.wait())
            .await
            .with_context(|| format!("the gateway did not end within {} s", STOP_TIMEOUT.as_secs()))?
            .context("cannot wait for the gateway")?;
        self.ended = status.success();
        Ok(status)
    }

    /// Leaves the folder where it is, and says where.
    pub(super) fn keep(&mut self) -> Option<PathBuf> {
        self.folder.take().map(TempDir::keep)
    }

    fn last_words(&self) -> String {
        let Some(folder) = &self.folder else { return String::new() };
        let text = fs::read_to_string(folder.path().join("gateway.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        // The group exists as long as one process of it does: after a crash that may be a worker.
        let _ = rustix::process::kill_process_group(self.group, Signal::KILL);
    }
}
