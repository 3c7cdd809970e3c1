//! Carries a plan out: does what it says, sees to it that the world comes back, and takes the account at the end. Knows what
//! is promised after each act; how it is done knows the world. Invariant: nothing is judged while something is being broken.

use crate::{
    Args,
    plan::{Act, Dice, plan},
    report::Report,
    world::{Held, LOOK_EVERY, PATIENCE, World, descriptors, is_alive, rss_kib, signal},
};
use rustix::process::Signal;
use std::{
    collections::HashMap,
    io::Write as _,
    os::unix::net::UnixStream,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tidegate_pipe::{HelloFields, Secret, connect};
use tidegate_proto::worker::v1::Adopt;
use tokio::time::sleep;

struct Chaos {
    world: World,
    dice: Dice,
    report: Report,
    began: Instant,
    denied: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let mut dice = Dice::new(args.seed);
    let acts = plan(&mut dice, args.kills);
    let pause = Duration::from_secs(args.seconds) / u32::try_from(acts.len().max(1))?;
    let mut world = World::new(args.clone())?;
    world.start().await?;
    let idle = descriptors(world.pid());
    for _ in 0..args.sessions {
        world.open().await?;
    }
    let report = Report { seed: args.seed, sessions: args.sessions, ..Report::default() };
    let mut chaos = Chaos { world, dice, report, began: Instant::now(), denied: false };
    for (n, act) in acts.iter().enumerate() {
        // Twice the mean at most, so that the whole takes about as long as asked.
        sleep(pause.mul_f64(chaos.dice.below(2_000) as f64 / 1_000.0)).await;
        if let Some(rss) = rss_kib(chaos.world.pid()) {
            chaos.report.rss.push((chaos.began.elapsed().as_secs_f64(), rss));
        }
        if !args.json {
            eprintln!("{:>7.1} s  {n:>4}  {act:?}", chaos.began.elapsed().as_secs_f64());
        }
        chaos.act(*act).await?;
        chaos.report.kills += act.kills();
    }
    chaos.settle(idle).await
}

// === impl Chaos ===

impl Chaos {
    async fn act(&mut self, act: Act) -> anyhow::Result<()> {
        match act {
            Act::KillGateway => {
                self.world.kill()?;
                self.back().await
            }
            Act::KillTwice => {
                self.world.kill()?;
                self.world.spawn()?;
                self.wait_up_to(800).await;
                self.world.kill()?;
                self.back().await
            }
            Act::KillBoth => {
                self.world.kill()?;
                self.world.spawn()?;
                self.wait_up_to(800).await;
                let dead = self.kill_worker();
                self.world.kill()?;
                let replaced = self.back().await;
                self.bury(dead).await?;
                replaced
            }
            Act::KillWorker => {
                let dead = self.kill_worker();
                self.bury(dead).await
            }
            Act::Restart => {
                self.world.stop().await?;
                self.report.restarts += 1;
                self.back().await
            }
            Act::StopWorker => {
                let pid = self.any().pid;
                self.stall(pid).await;
                Ok(())
            }
            Act::StopGateway => {
                let pid = self.world.pid();
                self.stall(pid).await;
                Ok(())
            }
            Act::Storm => {
                self.world.orders.send_modify(|orders| orders.storm += 1);
                Ok(())
            }
            Act::Swap => {
                self.denied = !self.denied;
                self.world.swap(if self.denied { "deny = [\"Area2.*\"]\n" } else { "deny = []\n" })
            }
            Act::TornFrames => {
                self.torn();
                Ok(())
            }
            Act::Impostor => {
                self.impostor().await;
                Ok(())
            }
        }
    }

    fn any(&mut self) -> &Held {
        let at = self.dice.below(self.world.sessions.len() as u64) as usize;
        &self.world.sessions[at]
    }

    async fn wait_up_to(&mut self, ms: u64) {
        sleep(Duration::from_millis(self.dice.below(ms))).await;
    }

    async fn stall(&mut self, pid: u32) {
        signal(pid, Signal::STOP);
        self.wait_up_to(700).await;
        signal(pid, Signal::CONT);
    }

    /// Ends one; its session is no longer among the living.
    fn kill_worker(&mut self) -> Held {
        let at = self.dice.below(self.world.sessions.len() as u64) as usize;
        let dead = self.world.sessions.swap_remove(at);
        signal(dead.pid, Signal::KILL);
        dead
    }

    /// The session of a dead worker: its readers hear of it and their accounts close; another takes its place.
    async fn bury(&mut self, dead: Held) -> anyhow::Result<()> {
        let client = self.world.client().await?;
        let deadline = Instant::now() + PATIENCE;
        // Faulted, or lost with the gateway that died at the same time; never ready for long.
        while client.register(&dead.id, "late").await.is_ok() && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        self.judge(dead, Some(&client)).await;
        self.world.open().await
    }

    /// Starts the next gateway and waits for every session whose worker lives.
    async fn back(&mut self) -> anyhow::Result<()> {
        let expected: HashMap<String, u32> = self
            .world
            .sessions
            .iter()
            .filter(|held| is_alive(held.pid))
            .map(|held| (held.id.clone(), held.pid))
            .collect();
        let started = Instant::now();
        self.world.start().await?;
        let serving = Instant::now();
        let admin = self.world.admin().await?;
        let mut missing = expected;
        while !missing.is_empty() && serving.elapsed() < PATIENCE {
            for session in admin.sessions().await? {
                if session.state != "ready" {
                    continue;
                }
                if let Some(pid) = missing.remove(&session.session_id) {
                    self.report.adopted += 1;
                    self.report.serving_ms.push(serving.elapsed().as_millis() as u64);
                    self.report.adoption_ms.push(started.elapsed().as_millis() as u64);
                    self.report.wrong_adoptions += u64::from(pid != session.worker_pid);
                }
            }
            sleep(LOOK_EVERY).await;
        }
        self.report.lost += missing.len() as u64;
        for id in missing.keys() {
            if let Some(at) = self.world.sessions.iter().position(|held| held.id == *id) {
                let lost = self.world.sessions.swap_remove(at);
                self.judge(lost, None).await;
                self.world.open().await?;
            }
        }
        Ok(())
    }

    /// Bytes that are no frames, and halves of some, at the workers' socket.
    fn torn(&mut self) {
        for bytes in [&[1, 2, 3][..], &[0xFF; 4], &[100, 0, 0, 0, 1, 2, 3], &[4, 0, 0, 0, 9, 9, 9, 9, 9, 9]] {
            if let Ok(mut socket) = UnixStream::connect(self.world.data().join("workers.sock")) {
                // It may be cut off while we write.
                let _cut = socket.write_all(bytes);
            }
        }
    }

    /// Somebody who knows a session's name and not its secret.
    async fn impostor(&mut self) {
        let session = self.any().id.clone();
        let Ok(secret) = Secret::mint() else { return };
        let adopt = Some(Adopt { head: 0, tail: 1, command: 0 });
        let fields = HelloFields { backend: "simulator".into(), version: "0".into(), epoch: 1, adopt };
        let socket = self.world.data().join("workers.sock");
        let let_in = connect(&socket, &session, &secret, fields, Duration::from_secs(10)).await.is_ok();
        self.report.wrong_adoptions += u64::from(let_in);
    }

    /// Takes the accounts of a session's readers, and closes it if a gateway still has it.
    async fn judge(&mut self, held: Held, client: Option<&tidegate_client::Gateway>) {
        let id = held.id.clone();
        for (name, ended) in held.accounts().await {
            match ended {
                None => self.report.open_accounts.push(format!("{name} did not come to its end")),
                Some(ended) => {
                    self.report.add(ended.counts);
                    if !ended.complete || !ended.counts.closes() {
                        self.report.open_accounts.push(format!("{name}: {} {}", ended.counts, ended.words));
                    }
                }
            }
        }
        if let Some(client) = client {
            // A lost one is not there to be closed.
            let _lost = client.close(&id).await;
        }
    }

    /// No more chaos: everything is read to its end, closed, and counted.
    async fn settle(mut self, idle: i64) -> anyhow::Result<Report> {
        let client = self.world.client().await?;
        let sessions = std::mem::take(&mut self.world.sessions);
        for held in &sessions {
            held.finish(&client).await?;
        }
        for held in sessions {
            self.judge(held, Some(&client)).await;
        }
        drop(client);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.report.leaked_fds = descriptors(self.world.pid()) - idle;
            if self.report.leaked_fds <= 0 || Instant::now() > deadline {
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        self.world.stop().await?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.world.workers().is_empty() && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        self.report.leaked_processes = self.world.workers().len();
        self.report.leaked_sockets = self.world.sockets();
        self.report.reconnects = self.world.reconnects.load(Ordering::Relaxed);
        self.report.seconds = self.began.elapsed().as_secs_f64();
        Ok(self.report)
    }
}
