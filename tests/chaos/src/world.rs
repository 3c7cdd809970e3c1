//! The world that is put out of order: one gateway at a time on one folder, and sessions with readers and a writer. Knows
//! how processes are started and ended. Invariant: a world that is dropped leaves no process behind.

use crate::{
    Args,
    held::{Held, Reading},
    process,
    reader::{Reader, Shown},
    writer::Writer,
};
use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;
use std::{
    fs::{self, DirBuilder, File, Permissions},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tidegate_client::{Admin, Connect, Gateway as Client, wire::OpenSessionRequest};
use tokio::{sync::watch, time::sleep};

/// For a gateway to start on a machine that does other things, too. Guessed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);
/// For an answer, while perhaps nobody is there to give one.
const ANSWER: Duration = Duration::from_millis(500);
/// What is written, and what only comes. One half can be denied.
const SETPOINT: &str = "Area1.Setpoint.Speed";
const TAGS: &[&str] = &[SETPOINT, "Area1.Pump1.Sine", "Area1.Pump1.Counter", "Area2.Pump2.Sine", "Area2.Pump2.Counter"];

pub(crate) struct World {
    args: Args,
    seed: u64,
    program: PathBuf,
    folder: TempDir,
    gateway: Option<Child>,
    pub(crate) sessions: Vec<Held>,
    /// Where the gateway is; readers and writers go there. A free one each time: an address that is kept could be taken
    /// by a connection of anybody's while no gateway listens there.
    address: watch::Sender<String>,
    pub(crate) storm: watch::Sender<u64>,
    opened: u64,
}

/// A process that is ended when nobody takes it.
struct Ended(Option<Child>);

// === impl World ===

impl World {
    pub(crate) fn new(args: Args, seed: u64) -> anyhow::Result<Self> {
        let beside = || Ok::<_, std::io::Error>(std::env::current_exe()?.with_file_name("tidegate"));
        let program = args.program.clone().map_or_else(beside, Ok)?;
        ensure!(program.is_file(), "{} is not there: build the gateway, or say --program", program.display());
        let folder = tempfile::Builder::new().prefix("tidechaos").tempdir()?;
        DirBuilder::new().mode(0o700).create(folder.path().join("plugins"))?;
        let world = Self {
            args,
            seed,
            program,
            folder,
            gateway: None,
            sessions: Vec::new(),
            address: watch::Sender::default(),
            storm: watch::Sender::default(),
            opened: 0,
        };
        // Something good to fall back on: what is refused at a start with nothing good before it allows nothing.
        world.swap("deny = []\n")?;
        Ok(world)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn workers_socket(&self) -> PathBuf {
        self.data().join("workers.sock")
    }

    /// Starts a gateway and waits until it serves.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        self.spawn()?;
        self.serves().await
    }

    /// Starts a gateway and does not wait.
    pub(crate) fn spawn(&mut self) -> anyhow::Result<()> {
        let _absent = fs::remove_file(self.data().join("addresses.json"));
        self.gateway = Some(self.command("gateway.log")?.spawn().context("cannot start the gateway")?);
        Ok(())
    }

    /// Waits until the gateway that was started serves.
    pub(crate) async fn serves(&mut self) -> anyhow::Result<()> {
        let announced = self.data().join("addresses.json");
        let deadline = Instant::now() + PATIENCE;
        while !announced.exists() {
            let status = self.gateway.as_mut().context("no gateway")?.try_wait()?;
            if status.is_some() || Instant::now() > deadline {
                bail!("the gateway does not start ({status:?}):\n{}", self.log());
            }
            sleep(LOOK_EVERY).await;
        }
        let addresses: serde_json::Value = serde_json::from_slice(&fs::read(announced)?)?;
        let grpc = addresses["grpc"].as_str().context("no address is announced")?;
        self.address.send_replace(grpc.to_owned());
        Ok(())
    }

    /// Starts a gateway that is to take over from the one that serves.
    pub(crate) fn follow(&self) -> anyhow::Result<Child> {
        // What the gate refuses just now it would refuse to the one that follows.
        self.swap("deny = []\n")?;
        self.command("gateway.log")?.arg("--take-over").spawn().context("cannot start a gateway to take over")
    }

    /// What comes of a hand-over: true when one of the two serves, which is the gateway from then on; false when both have
    /// ended. `told`: the one that was signalled, and ends for that.
    pub(crate) async fn outcome(&mut self, follower: Child, told: Option<u32>) -> anyhow::Result<bool> {
        let of_follower = told == Some(follower.id());
        let mut follower = Ended(Some(follower));
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let before = self.gateway.as_mut().context("no gateway")?.try_wait()?;
            let after = follower.0.as_mut().context("no follower")?.try_wait()?;
            let told_has_ended = if of_follower { after.is_some() } else { told.is_none() || before.is_some() };
            match (before, after) {
                _ if !told_has_ended => sleep(LOOK_EVERY).await,
                (Some(_), Some(_)) => {
                    self.gateway = None;
                    return Ok(false);
                }
                (None, Some(_)) if self.answers().await => return Ok(true),
                (Some(_), None) if self.answers().await => {
                    self.gateway = follower.0.take();
                    return Ok(true);
                }
                _ => sleep(LOOK_EVERY).await,
            }
        }
        bail!("a hand-over comes to no end:\n{}", self.log());
    }

    /// Whether anybody answers operators just now.
    async fn answers(&self) -> bool {
        let asked = async { anyhow::Ok(self.admin().await?.status().await?) };
        tokio::time::timeout(ANSWER, asked).await.is_ok_and(|answer| answer.is_ok())
    }

    /// A second gateway on the same folder: how it ends, `None` if it does not.
    pub(crate) async fn second(&self) -> anyhow::Result<Option<ExitStatus>> {
        let mut second = self.command("second.log")?.spawn().context("cannot start a second gateway")?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = second.try_wait()? {
                return Ok(Some(status));
            }
            if Instant::now() > deadline {
                second.kill()?;
                second.wait()?;
                return Ok(None);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn command(&self, log: &str) -> anyhow::Result<Command> {
        let log = File::options().create(true).append(true).open(self.folder.path().join(log))?;
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIDEGATE_") {
                command.env_remove(name);
            }
        }
        command.arg("serve").arg("--data").arg(self.data()).arg("--plugins").arg(self.folder.path().join("plugins"));
        command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warn"]);
        command.args(["--enable-orphan-reattach", "--leave-workers", "--max-orphan-lifetime-seconds", "120"]);
        command.args(["--max-sessions", "4096", "--max-event-subscribers-per-session", "2000"]);
        // Long enough for a machine that does other things: here nobody is to end for want of time.
        command.args(["--detach-grace-seconds", "3600", "--heartbeat-grace-seconds", "60"]);
        command.args(["--worker-start-timeout-seconds", "60"]);
        command.args(["--backend", &format!("sim=sim:rate={},faults=true", self.args.rate)]);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
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

    /// SIGTERM, and waits for the end in order. `early`: it may not have come so far that it hears of it.
    pub(crate) async fn stop(&mut self, early: bool) -> anyhow::Result<()> {
        use std::os::unix::process::ExitStatusExt as _;
        let Some(mut child) = self.gateway.take() else { return Ok(()) };
        process::signal(child.id(), Signal::TERM);
        let deadline = Instant::now() + PATIENCE;
        loop {
            match child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) if early && status.signal() == Some(Signal::TERM.as_raw()) => return Ok(()),
                Some(status) => bail!("the gateway did not stop in order: {status}\n{}", self.log()),
                None if Instant::now() > deadline => bail!("the gateway does not stop\n{}", self.log()),
                None => sleep(LOOK_EVERY).await,
            }
        }
    }

    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let address = self.address.borrow().clone();
        Ok(Connect::to(&address).key(self.key()?).gateway().await?)
    }

    pub(crate) async fn admin(&self) -> anyhow::Result<Admin> {
        Ok(Connect::socket(self.data().join("admin.sock")).admin().await?)
    }

    fn key(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.data().join("first-key"))?.trim().to_owned())
    }

    /// What the gateways said last.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.folder.path().join("gateway.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Opens a session with items and lets its readers and its writer go.
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
        let opened = client.open(request).await.context("opening a session")?;
        let session = opened.session_id;
        let server = client.register(&session, "chaos").await?;
        let advised = client.subscribe(&session, server, TAGS).await?;
        // The others may be denied by the set of policies that serves just now.
        let Some(Ok((item, _))) = advised.into_iter().next().map(|one| one.item) else {
            bail!("{SETPOINT} was not advised");
        };
        let (last, watched) = watch::channel(0);
        let mut readers = Vec::new();
        for n in 0..self.args.readers {
            let slow = n > 0 && n + 1 == self.args.readers;
            let (shows, shown) = watch::channel(Shown::default());
            let reader = Reader {
                address: self.address.subscribe(),
                key: self.key()?,
                session: session.clone(),
                name: format!("{name}-{n}"),
                naps: slow.then_some(self.seed ^ self.opened),
                storm: self.storm.subscribe(),
                last: watched.clone(),
            };
            let name = reader.name.clone();
            readers.push(Reading { name, slow, shown, ended: tokio::spawn(reader.run(shows)) });
        }
        let (stop_writing, stop) = watch::channel(false);
        let (address, key) = (self.address.subscribe(), self.key()?);
        let writer = Writer { address, key, session: session.clone(), server, item, stop };
        self.sessions.push(Held {
            id: session,
            pid: opened.worker_pid,
            epoch: opened.epoch,
            server,
            opened_at: Instant::now(),
            descriptors: process::descriptors(opened.worker_pid),
            last,
            readers,
            stop_writing,
            writing: tokio::spawn(writer.run()),
        });
        Ok(())
    }

    /// Settings of the access policy, whole or not at all.
    pub(crate) fn swap(&self, settings: &str) -> anyhow::Result<()> {
        let draft = self.folder.path().join("access.draft");
        fs::write(&draft, settings)?;
        fs::set_permissions(&draft, Permissions::from_mode(0o644))?;
        Ok(fs::rename(&draft, self.folder.path().join("plugins/access.toml"))?)
    }

    /// Living workers of this folder, whoever started them.
    pub(crate) fn workers(&self) -> Vec<u32> {
        process::of_socket(&self.workers_socket())
    }

    /// Files of sockets in the folder.
    pub(crate) fn sockets(&self) -> usize {
        let files = fs::read_dir(self.data()).into_iter().flatten().filter_map(Result::ok);
        files.filter(|file| Path::new(&file.file_name()).extension() == Some("sock".as_ref())).count()
    }

    /// Of the gateway and all workers that belong to a session.
    pub(crate) fn rss_kib(&self) -> f64 {
        let pids = self.sessions.iter().map(|held| held.pid).chain([self.pid()]);
        pids.filter_map(process::rss_kib).sum()
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ended = self.kill();
        for pid in self.workers() {
            process::signal(pid, Signal::KILL);
        }
    }
}
