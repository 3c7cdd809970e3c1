//! Carries a plan out, one act after the other, and sees to it that the world comes back after each. Knows what each act
//! does; what has to hold afterwards knows `back`. Invariant: nothing is judged while something is being broken.

use crate::{
    Args,
    held::Held,
    plan::{Act, Step, plan},
    process,
    report::Report,
    world::{LOOK_EVERY, PATIENCE, World},
};
use anyhow::{Context as _, ensure};
use rustix::process::Signal;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tidegate_client::wire::{Value, value::Kind};
use tidegate_pipe::{HelloFields, PipeError, Secret, connect};
use tidegate_proto::worker::v1::Adopt;
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    time::{sleep, timeout},
};

pub(crate) struct Chaos {
    pub(crate) world: World,
    pub(crate) report: Report,
    pub(crate) began: Instant,
    /// When the gateway was started whose readers have not all been seen again.
    pub(crate) awaited: Option<Instant>,
}

pub(crate) async fn run(args: &Args, seed: u64) -> anyhow::Result<Report> {
    let steps = plan(seed, args.kills);
    let pause = Duration::from_secs(args.seconds) / u32::try_from(steps.len().max(1))?;
    let mut world = World::new(args.clone(), seed)?;
    world.start().await?;
    for _ in 0..args.sessions {
        world.open().await?;
    }
    let readers = args.sessions * args.readers;
    let report = Report { seed, sessions: args.sessions, readers, ..Report::default() };
    let mut chaos = Chaos { world, report, began: Instant::now(), awaited: None };
    for (n, step) in steps.iter().enumerate() {
        sleep(pause.mul_f64(step.pause as f64 / 1_000.0)).await;
        chaos.look();
        if let Some(reader) = chaos.ended_early() {
            // It is judged with all the others; what comes now would only hide how it came about.
            eprintln!("{reader} has ended before its session, after act {}", n.saturating_sub(1));
            break;
        }
        if !args.json {
            eprintln!("{:>7.1} s  {n:>4}  {:?}", chaos.began.elapsed().as_secs_f64(), step.act);
        }
        chaos.act(*step).await.with_context(|| format!("act {n}, {:?}", step.act))?;
        chaos.report.kills += step.act.kills();
    }
    chaos.settle().await
}

// === impl Chaos ===

impl Chaos {
    /// What can be seen between two acts.
    fn look(&mut self) {
        self.report.rss.push((self.began.elapsed().as_secs_f64(), self.world.rss_kib()));
        if let Some(started) = self.awaited
            && let Some(live) = self.all_live_since(started)
        {
            self.report.live_ms.push(millis(live - started));
            self.awaited = None;
        }
    }

    /// A reader that has given up although nobody ended its session's worker.
    fn ended_early(&self) -> Option<String> {
        let readers = self.world.sessions.iter().flat_map(|held| &held.readers);
        readers.filter(|reading| reading.ended.is_finished()).map(|reading| reading.name.clone()).next()
    }

    async fn act(&mut self, step: Step) -> anyhow::Result<()> {
        match step.act {
            Act::KillGateway => {
                self.world.kill()?;
                self.back().await
            }
            Act::KillTwice => {
                self.next_for(step).await?;
                self.world.kill()?;
                self.back().await
            }
            Act::StopEarly => {
                self.next_for(step).await?;
                self.world.stop(true).await?;
                self.report.restarts += 1;
                self.back().await
            }
            Act::KillBoth => {
                self.world.kill()?;
                let started = Instant::now();
                self.world.spawn()?;
                sleep(step.second_half()).await;
                let dead = self.take(step);
                process::signal(dead.pid, Signal::KILL);
                self.taken_back(started).await?;
                self.replace(dead).await
            }
            Act::Impostor => {
                self.world.kill()?;
                let session = self.world.sessions[self.whom(step)].id.clone();
                let impostor = tokio::spawn(impostor(self.world.workers_socket(), session));
                self.back().await?;
                if let Some(wrong) = impostor.await? {
                    self.report.wrong_adoptions.push(wrong);
                }
                Ok(())
            }
            Act::Restart => {
                self.world.stop(false).await?;
                self.report.restarts += 1;
                self.back().await
            }
            Act::TakeOver => {
                let (started, before) = (Instant::now(), self.world.pid());
                let follower = self.world.follow()?;
                let serves = self.world.outcome(follower, None).await?;
                ensure!(serves && self.world.pid() != before, "nobody took over:\n{}", self.world.log());
                self.report.takeovers += 1;
                self.taken_back(started).await
            }
            Act::KillTakeOver => self.spoil_take_over(step, Signal::KILL).await,
            Act::StopTakeOver => self.spoil_take_over(step, Signal::TERM).await,
            Act::Second => {
                let refused = self.world.second().await?.is_some_and(|status| !status.success());
                if !refused {
                    self.report.wrong_adoptions.push("a second gateway served on the same folder".into());
                }
                Ok(())
            }
            Act::KillWorker => {
                let dead = self.take(step);
                process::signal(dead.pid, Signal::KILL);
                self.replace(dead).await
            }
            Act::BrokenWorker => {
                let broken = self.take(step);
                self.break_worker(&broken).await?;
                self.replace(broken).await
            }
            Act::StallWorker => {
                let pid = self.world.sessions[self.whom(step)].pid;
                stall(pid, step.ms).await;
                Ok(())
            }
            Act::StallGateway => {
                stall(self.world.pid(), step.ms).await;
                Ok(())
            }
            Act::Storm => {
                let ordered = Instant::now();
                self.world.storm.send_modify(|storm| *storm += 1);
                while ordered.elapsed() < PATIENCE && self.ended_early().is_none() {
                    if let Some(live) = self.all_live_since(ordered) {
                        self.report.storm_ms.push(millis(live - ordered));
                        break;
                    }
                    sleep(LOOK_EVERY).await;
                }
                Ok(())
            }
            Act::Swap => self.world.swap(match step.whom % 3 {
                0 => "deny = [\"Area2.*\"]\n",
                1 => "deny = []\n",
                // Refused; what was in force stays.
                _ => "deny = 7\n",
            }),
            Act::TornFrames => {
                torn(self.world.workers_socket()).await;
                Ok(())
            }
        }
    }

    /// One of the two hears a signal in the middle of a hand-over. Whoever serves then has every session; when nobody does,
    /// the next gateway has.
    async fn spoil_take_over(&mut self, step: Step, signal: Signal) -> anyhow::Result<()> {
        let (started, before) = (Instant::now(), self.world.pid());
        let follower = self.world.follow()?;
        sleep(step.second_half()).await;
        let told = if step.second_of_two() { follower.id() } else { before };
        process::signal(told, signal);
        if !self.world.outcome(follower, Some(told)).await? {
            self.report.restarts += u32::from(signal == Signal::TERM);
            return self.back().await;
        }
        self.report.takeovers += u32::from(self.world.pid() != before);
        self.taken_back(started).await?;
        // Perhaps nobody lost his stream: there is nothing to time.
        self.awaited = None;
        Ok(())
    }

    /// Has a simulator send what is no frame. A gateway that is busy may need more than one try.
    async fn break_worker(&self, broken: &Held) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let asked = async {
                let client = self.world.client().await?;
                let (control, _) = client.add_item(&broken.id, broken.server, "$Sim.Fault").await?;
                let fault = Value { kind: Some(Kind::Text("wrong-frame".into())), data_type: 0 };
                // Its answer may be lost with its session.
                let _answered = client.write(&broken.id, broken.server, control, fault, 0).await;
                anyhow::Ok(())
            };
            match asked.await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_busy) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// The next gateway, a while into its start.
    async fn next_for(&mut self, step: Step) -> anyhow::Result<()> {
        self.world.kill()?;
        self.world.spawn()?;
        sleep(step.second_half()).await;
        Ok(())
    }

    fn whom(&self, step: Step) -> usize {
        (step.whom % self.world.sessions.len() as u64) as usize
    }

    /// A session that will not live on.
    fn take(&mut self, step: Step) -> Held {
        let at = self.whom(step);
        self.world.sessions.swap_remove(at)
    }

    fn all_live_since(&self, since: Instant) -> Option<Instant> {
        let then = self.world.sessions.iter().filter(|held| held.opened_at < since);
        let live = then.map(|held| held.all_live_since(since));
        live.collect::<Option<Vec<_>>>()?.into_iter().max()
    }
}

async fn stall(pid: u32, ms: u64) {
    process::signal(pid, Signal::STOP);
    sleep(Duration::from_millis(ms)).await;
    process::signal(pid, Signal::CONT);
}

/// Bytes that are no frames, and halves of some.
async fn torn(socket: PathBuf) {
    for bytes in [&[1, 2, 3][..], &[0xFF; 4], &[100, 0, 0, 0, 1, 2, 3], &[4, 0, 0, 0, 9, 9, 9, 9, 9, 9]] {
        let torn = async {
            let mut socket = UnixStream::connect(&socket).await?;
            socket.write_all(bytes).await
        };
        // It may be cut off while we write.
        let _cut = timeout(Duration::from_secs(5), torn).await;
    }
}

/// Somebody who knows a session's name and not its secret, until he is answered. What went wrong, if anything did.
async fn impostor(socket: PathBuf, session: String) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let adopt = Some(Adopt { head: 0, tail: 1, command: 0 });
        let fields = HelloFields { backend: "simulator".into(), version: "0".into(), epoch: 1, adopt, alarms: false };
        let secret = Secret::mint().ok()?;
        match connect(&socket, &session, &secret, fields, Duration::from_secs(10)).await {
            Ok(_) => return Some(format!("an impostor was let in for {session}")),
            Err(PipeError::Rejected { .. } | PipeError::WrongProof) => return None,
            Err(_not_there_yet) => sleep(LOOK_EVERY).await,
        }
    }
    Some(format!("an impostor for {session} was never answered"))
}

pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
