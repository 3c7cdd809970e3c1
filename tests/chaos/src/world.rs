//! The world that is put out of order: one gateway at a time on one folder and one address, and sessions with readers.
//! Knows processes and /proc. Invariant: a world that is dropped leaves no process behind.

use crate::{
    Args,
    reader::{Ended, Orders, Reader},
};
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use std::{
    fs::{self, DirBuilder, File, Permissions},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tidegate_client::{Admin, Connect, Gateway as Client, wire::OpenSessionRequest};
use tokio::{sync::watch, task::JoinHandle, time::sleep};

/// For a gateway to start on a machine that does other things, too. Guessed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);
const TAGS: &[&str] = &["Area1.Pump1.Sine", "Area1.Pump1.Counter", "Area2.Pump2.Sine", "Area2.Pump2.Counter"];

pub(crate) struct World {
    args: Args,
    program: PathBuf,
    // Dropped last.
    folder: TempDir,
    grpc: String,
    http: String,
    gateway: Option<Child>,
    pub(crate) sessions: Vec<Held>,
    pub(crate) orders: watch::Sender<Orders>,
    pub(crate) reconnects: Arc<AtomicU64>,
    opened: usize,
}

/// A session that lives, as far as we know.
pub(crate) struct Held {
    pub(crate) id: String,
    pub(crate) pid: u32,
    server: i32,
    last: watch::Sender<u64>,
    readers: Vec<(String, JoinHandle<Ended>)>,
}

// === impl World ===

impl World {
    pub(crate) fn new(args: Args) -> anyhow::Result<Self> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("tidegate"));
        let program = args.program.clone().map_or_else(beside, Ok)?;
        if !program.is_file() {
            bail!("{} is not there: build the gateway, or say --program", program.display());
        }
        let folder = tempfile::Builder::new().prefix("tidechaos").tempdir()?;
        DirBuilder::new().mode(0o700).create(folder.path().join("plugins"))?;
        // Free now; a gateway that comes back takes the same again.
        let free = || Ok::<_, std::io::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string());
        let (grpc, http) = (free()?, free()?);
        Ok(Self {
            args,
            program,
            folder,
            grpc,
            http,
            gateway: None,
            sessions: Vec::new(),
            orders: watch::Sender::default(),
            reconnects: Arc::default(),
            opened: 0,
        })
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts a gateway and waits until it serves.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while !self.data().join("addresses.json").exists() {
            let status = self.gateway.as_mut().context("no gateway")?.try_wait()?;
            if status.is_some() || Instant::now() > deadline {
                bail!("the gateway does not start ({status:?}):\n{}", self.log());
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Starts a gateway and does not wait.
    pub(crate) fn spawn(&mut self) -> anyhow::Result<()> {
        let _absent = fs::remove_file(self.data().join("addresses.json"));
        let log = File::options().create(true).append(true).open(self.folder.path().join("gateway.log"))?;
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        command.arg("serve").arg("--data").arg(self.data()).arg("--plugins").arg(self.folder.path().join("plugins"));
        command.args(["--listen", &self.grpc, "--http", &self.http, "--log-level", "warn"]);
        command.args(["--enable-orphan-reattach", "--leave-workers", "--max-orphan-lifetime-seconds", "120"]);
        command.args(["--max-sessions", "4096", "--max-event-subscribers-per-session", "2000"]);
        command.args(["--detach-grace-seconds", "3600", "--heartbeat-grace-seconds", "60"]);
        command.args(["--backend", &format!("sim=sim:rate={},faults=true", self.args.rate)]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.gateway = Some(command.spawn().context("cannot start the gateway")?);
        Ok(())
    }

    pub(crate) fn pid(&self) -> u32 {
        self.gateway.as_ref().map_or(0, Child::id)
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.gateway.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end in order.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.gateway.take() else { return Ok(()) };
        signal(child.id(), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the gateway did not stop in order: {status}\n{}", self.log()),
                None if Instant::now() > deadline => bail!("the gateway does not stop"),
                None => sleep(LOOK_EVERY).await,
            }
        }
    }

    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        Ok(Connect::to(&self.grpc).key(self.key()?).gateway().await?)
    }

    pub(crate) async fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Connect::socket(self.data().join("admin.sock")).admin().await?)
    }

    fn key(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.data().join("first-key"))?.trim().to_owned())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("gateway.log")).unwrap_or_default()
    }

    /// Opens a session with items and lets its readers go.
    pub(crate) async fn open(&mut self) -> anyhow::Result<()> {
        let client = self.client().await?;
        let name = format!("line-{}", self.opened);
        self.opened += 1;
        let request = OpenSessionRequest {
            client_session_name: name.clone(),
            tag: name.clone(),
            client_kind: "chaos".into(),
            client_version: "1".into(),
            ..Default::default()
        };
        let opened = client.open(request).await?;
        let server = client.register(&opened.session_id, "chaos").await?;
        for one in client.subscribe(&opened.session_id, server, TAGS).await? {
            // Denied by the set of policies that serves just now: the others have events.
            let _denied = one.item;
        }
        let (last, watched) = watch::channel(0);
        let mut readers = Vec::new();
        for n in 0..self.args.readers {
            let reader = Reader {
                address: self.grpc.clone(),
                key: self.key()?,
                session: opened.session_id.clone(),
                name: format!("{name}-{n}"),
                slow: n > 0 && n + 1 == self.args.readers,
                orders: self.orders.subscribe(),
                last: watched.clone(),
                reconnects: self.reconnects.clone(),
            };
            readers.push((reader.name.clone(), tokio::spawn(reader.run())));
        }
        self.sessions.push(Held { id: opened.session_id, pid: opened.worker_pid, server, last, readers });
        Ok(())
    }

    /// Settings of the access policy, whole or not at all.
    pub(crate) fn swap(&self, settings: &str) -> anyhow::Result<()> {
        let draft = self.folder.path().join("access.draft");
        fs::write(&draft, settings)?;
        fs::set_permissions(&draft, Permissions::from_mode(0o644))?;
        Ok(fs::rename(&draft, self.folder.path().join("plugins/access.toml"))?)
    }

    /// Living workers of this folder's socket, whoever started them.
    pub(crate) fn workers(&self) -> Vec<u32> {
        let socket = self.data().join("workers.sock");
        let socket = socket.as_os_str().as_encoded_bytes();
        let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
        let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == socket) && is_alive(*pid)
        })
        .collect()
    }

    pub(crate) fn sockets(&self) -> usize {
        let Ok(files) = fs::read_dir(self.data()) else { return 0 };
        files
            .filter_map(Result::ok)
            .filter(|file| Path::new(&file.file_name()).extension() == Some("sock".as_ref()))
            .count()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ended = self.kill();
        for pid in self.workers() {
            signal(pid, Signal::KILL);
        }
    }
}

// === impl Held ===

impl Held {
    /// Removes its items; its readers are told where the events end.
    pub(crate) async fn finish(&self, client: &Client) -> anyhow::Result<()> {
        client.unregister(&self.id, self.server).await?;
        let head = client.state(&self.id).await?.head;
        self.last.send_replace(head.max(1));
        Ok(())
    }

    /// Waits for its readers.
    pub(crate) async fn accounts(self) -> Vec<(String, Option<Ended>)> {
        let mut ended = Vec::new();
        for (name, reader) in self.readers {
            let abort = reader.abort_handle();
            let one = tokio::time::timeout(PATIENCE, reader).await;
            abort.abort();
            ended.push((name, one.ok().and_then(Result::ok)));
        }
        ended
    }
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // Gone already is well.
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// There, and not only waiting to be reaped.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(crate) fn descriptors(pid: u32) -> i64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |open| open.count() as i64)
}

pub(crate) fn rss_kib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches("kB").trim().parse().ok()
}
