//! What has to hold after each act and at the end: every worker that lives is taken back as itself, everyone comes to the
//! end, nothing is left. Knows no faults. Invariant: what is missing is waited for, with a bound, before it counts.

use crate::{
    faults::{Chaos, millis},
    held::Held,
    process,
    report::Report,
    world::{LOOK_EVERY, PATIENCE},
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// For connections and processes that are ending to have ended.
const SETTLE: Duration = Duration::from_secs(10);

impl Chaos {
    /// Starts the next gateway and waits for every session.
    pub(crate) async fn back(&mut self) -> anyhow::Result<()> {
        let started = Instant::now();
        self.world.spawn()?;
        self.taken_back(started).await
    }

    /// Waits until the gateway that was started then has every session that nobody ended on purpose.
    pub(crate) async fn taken_back(&mut self, started: Instant) -> anyhow::Result<()> {
        // Whose worker an act ended is not among them any more.
        let held = self.world.sessions.iter();
        let mut missing: HashMap<String, (u32, u64)> =
            held.map(|held| (held.id.clone(), (held.pid, held.epoch))).collect();
        self.world.serves().await?;
        self.awaited = Some(started);
        let serving = Instant::now();
        let admin = self.world.admin().await?;
        let lives = |(pid, _): &(u32, u64)| process::is_alive(*pid);
        while missing.values().any(lives) && serving.elapsed() < PATIENCE {
            for session in admin.sessions().await? {
                if session.state != "ready" {
                    continue;
                }
                let Some((pid, epoch)) = missing.remove(&session.session_id) else { continue };
                self.report.adopted += 1;
                self.report.serving_ms.push(millis(serving.elapsed()));
                self.report.adoption_ms.push(millis(started.elapsed()));
                if (pid, epoch) != (session.worker_pid, session.epoch) || !process::is_alive(pid) {
                    let id = session.session_id;
                    self.report.wrong_adoptions.push(format!("{id} has another worker than it had"));
                }
            }
            sleep(LOOK_EVERY).await;
        }
        for id in missing.into_keys() {
            let alive = |held: &&Held| process::is_alive(held.pid);
            let state = self.world.sessions.iter().find(|held| held.id == id);
            let worker = if state.as_ref().is_some_and(alive) { "lives" } else { "was ended" };
            self.report.lost.push(format!("{id}, whose worker {worker}"));
            if let Some(at) = self.world.sessions.iter().position(|held| held.id == id) {
                let lost = self.world.sessions.swap_remove(at);
                self.count(&lost);
                lost.bury(&mut self.report.account).await;
                self.world.open().await?;
            }
        }
        Ok(())
    }

    /// The session of a dead worker: its readers hear of it and their accounts close; another takes its place.
    pub(crate) async fn replace(&mut self, dead: Held) -> anyhow::Result<()> {
        let client = self.world.client().await?;
        let deadline = Instant::now() + PATIENCE;
        // Faulted, or lost with the gateway that died at the same time; never ready for long.
        while client.register(&dead.id, "late").await.is_ok() {
            if Instant::now() > deadline {
                self.report.account.open.push(format!("{} goes on without its worker", dead.id));
                break;
            }
            sleep(LOOK_EVERY).await;
        }
        let id = dead.id.clone();
        self.count(&dead);
        dead.bury(&mut self.report.account).await;
        // A lost one is not there to be closed.
        let _lost = client.close(&id).await;
        self.world.open().await
    }

    fn count(&mut self, held: &Held) {
        self.report.reconnects +=
            held.readers.iter().map(|reading| reading.shown.borrow().opened.saturating_sub(1)).sum::<u64>();
    }

    /// No more chaos: everything is read to its end, closed, and counted.
    pub(crate) async fn settle(mut self) -> anyhow::Result<Report> {
        self.report.seconds = self.began.elapsed().as_secs_f64();
        self.close_all().await?;
        let after = self.fewest_descriptors().await;
        let deadline = Instant::now() + SETTLE;
        while process::children(self.world.pid()) > 0 && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        self.report.leaked_processes = process::children(self.world.pid());
        self.world.stop(false).await?;
        let deadline = Instant::now() + SETTLE;
        while !self.world.workers().is_empty() && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        self.report.leaked_processes += self.world.workers().len();
        self.report.leaked_sockets = self.world.sockets();

        // The same with a gateway that went through nothing.
        let mut none = Report { seed: self.report.seed, ..Report::default() };
        std::mem::swap(&mut self.report, &mut none);
        let mut report = none;
        self.world.start().await?;
        self.world.open().await?;
        self.close_all().await?;
        self.records().await;
        let fresh = self.fewest_descriptors().await;
        if after.len() > fresh.len() {
            eprintln!("the gateway had {} descriptors at the end, a fresh one has {}:", after.len(), fresh.len());
            after.iter().for_each(|name| eprintln!("  had    {name}"));
            fresh.iter().for_each(|name| eprintln!("  fresh  {name}"));
        }
        report.leaked_fds += after.len().saturating_sub(fresh.len()) as i64;
        self.world.stop(false).await?;
        Ok(report)
    }

    async fn close_all(&mut self) -> anyhow::Result<()> {
        let client = self.world.client().await?;
        for held in std::mem::take(&mut self.world.sessions) {
            self.count(&held);
            self.report.leaked_fds += held.leaked_descriptors().await;
            held.finish(&client, &mut self.report.account).await?;
        }
        Ok(())
    }

    /// Waits until what was decided is being written: the file stays open from then on, and one that went through a lot
    /// has it open.
    async fn records(&self) {
        let deadline = Instant::now() + SETTLE;
        while !process::open(self.world.pid()).iter().any(|name| name.contains("/policies/decisions/"))
            && Instant::now() < deadline
        {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Of the gateway, once connections that are ending have ended.
    async fn fewest_descriptors(&self) -> Vec<String> {
        let mut fewest = process::open(self.world.pid());
        let deadline = Instant::now() + SETTLE / 4;
        while Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
            let open = process::open(self.world.pid());
            if open.len() < fewest.len() {
                fewest = open;
            }
        }
        fewest.sort();
        fewest
    }
}
