//! The gateway that is measured: `tidegate serve` as a process in a folder of its own, with a simulator. Knows its
//! command line and its client library. Invariant: nothing of it is left when it is dropped.

use crate::{
    event,
    process::{self, Process},
    rows::tidegate,
};
use anyhow::{Context as _, bail};
use std::{
    fs::{self, DirBuilder, File, Permissions},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tidegate_client::{Admin, Connect, Gateway as Client, PeopleAdmin, wire::OpenSessionRequest};

/// For a gateway to start on a machine that does other things, too. Guessed.
const PATIENCE: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running gateway.
#[derive(Debug)]
pub(crate) struct Gateway {
    process: Process,
    pub(crate) address: String,
    http: String,
    // Dropped after the process.
    folder: TempDir,
}

/// A session with events under way.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) worker: u32,
    pub(crate) server: i32,
}

// === impl Gateway ===

impl Gateway {
    /// `backend` is the simulator's settings; `flags` go to `serve` as they are.
    pub(crate) async fn start(cpu: Option<usize>, backend: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let folder = Self::folder()?;
        Self::start_with(process::on_cpu(&tidegate()?, cpu), folder, backend, flags).await
    }

    /// `around` is the command that runs it, such as valgrind with its flags. Started once under `first` before, so that
    /// what is compiled at the first start is not compiled under the other.
    pub(crate) async fn start_under(
        first: &[String],
        around: &[String],
        backend: &str,
        flags: &[&str],
    ) -> anyhow::Result<Self> {
        let command = |words: &[String]| {
            let (program, words) = words.split_first().context("no command")?;
            let mut command = Command::new(program);
            command.args(words).arg(tidegate()?);
            anyhow::Ok(command)
        };
        let Self { process, folder, .. } = Self::start_with(command(first)?, Self::folder()?, backend, flags).await?;
        drop(process);
        fs::remove_file(folder.path().join("data/addresses.json"))?;
        Self::start_with(command(around)?, folder, backend, flags).await
    }

    fn folder() -> anyhow::Result<TempDir> {
        let folder = tempfile::Builder::new().prefix("tidegate-bench").tempdir()?;
        DirBuilder::new().mode(0o700).create(folder.path().join("plugins"))?;
        Ok(folder)
    }

    async fn start_with(mut command: Command, folder: TempDir, backend: &str, flags: &[&str]) -> anyhow::Result<Self> {
        let (data, plugins) = (folder.path().join("data"), folder.path().join("plugins"));
        let log = File::create(folder.path().join("gateway.log"))?;
        command.arg("serve").arg("--data").arg(&data).arg("--plugins").arg(&plugins);
        command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warn"]);
        command.args(["--backend", &format!("sim=sim:{backend}")]).args(flags);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Process::start(command)?;
        let deadline = Instant::now() + PATIENCE;
        let addresses: serde_json::Value = loop {
            if let Ok(bytes) = fs::read(data.join("addresses.json")) {
                break serde_json::from_slice(&bytes)?;
            }
            if process.check().is_err() || Instant::now() > deadline {
                let said = fs::read_to_string(folder.path().join("gateway.log")).unwrap_or_default();
                bail!("the gateway does not start:\n{said}");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let address = |name: &str| addresses[name].as_str().map(str::to_owned).context("no address");
        Ok(Self { process, address: address("grpc")?, http: address("http")?, folder })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.process.check()
    }

    pub(crate) fn key_file(&self) -> PathBuf {
        self.folder.path().join("data/first-key")
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("gateway.log")).unwrap_or_default()
    }

    /// A client of the first key, which may use every session.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let key = fs::read_to_string(self.key_file())?;
        Ok(Connect::to(&self.address).key(key.trim()).gateway().await?)
    }

    pub(crate) async fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Connect::socket(self.folder.path().join("data/admin.sock")).admin().await?)
    }

    pub(crate) async fn people(&self) -> anyhow::Result<PeopleAdmin> {
        Ok(Connect::socket(self.folder.path().join("data/admin.sock")).people_admin().await?)
    }

    /// Address of the pages.
    pub(crate) fn http(&self) -> &str {
        &self.http
    }

    pub(crate) async fn open(&self, client: &Client) -> anyhow::Result<Session> {
        let request = OpenSessionRequest {
            client_session_name: "bench".into(),
            tag: "bench".into(),
            client_kind: "bench".into(),
            client_version: "1.0".into(),
            ..Default::default()
        };
        let opened = client.open(request).await?;
        let server = client.register(&opened.session_id, "bench").await?;
        Ok(Session { id: opened.session_id, worker: opened.worker_pid, server })
    }

    /// Calls of components so far, by what the operators' API counts.
    pub(crate) async fn guest_calls(&self) -> anyhow::Result<u64> {
        Ok(self.admin().await?.policies().await?.policies.iter().map(|policy| policy.calls).sum())
    }

    /// One sample of the exposition, e.g. `tidegate_events_appended_total`; all label sets together.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.metrics().await?;
        Ok(samples(&text, name).map(|(_, value)| value).sum())
    }

    pub(crate) async fn metrics(&self) -> anyhow::Result<String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(&self.http).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

impl Session {
    /// Starts the events of the usual items.
    pub(crate) async fn advise(&self, client: &Client) -> anyhow::Result<()> {
        let advised = client.subscribe(&self.id, self.server, &event::tags()).await?;
        anyhow::ensure!(advised.iter().all(|one| one.item.is_ok()), "an item was not advised: {advised:?}");
        Ok(())
    }
}

/// Samples of a metric: labels and value.
pub(crate) fn samples<'t>(text: &'t str, name: &'t str) -> impl Iterator<Item = (&'t str, f64)> {
    text.lines().filter_map(move |line| {
        let (left, value) = line.rsplit_once(' ')?;
        let (metric, labels) = left.split_once('{').unwrap_or((left, ""));
        (metric == name).then_some(())?;
        Some((labels, value.parse().ok()?))
    })
}

/// Writes a file beside the folder and renames it into it, as semantics.md wants it of operators.
pub(crate) fn place(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let draft = folder.with_extension("draft");
    fs::write(&draft, bytes)?;
    fs::set_permissions(&draft, Permissions::from_mode(0o644))?;
    Ok(fs::rename(&draft, folder.join(name))?)
}
