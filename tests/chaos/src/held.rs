//! A session that is held open over all incarnations of a gateway, with its readers and its writer, and the account that is
//! taken of them at its end. Knows the client library. Invariant: only a session whose worker lives has to come to its end.

use crate::{
    process,
    reader::{Ended, Shown},
    report::Account,
    world::{LOOK_EVERY, PATIENCE},
    writer::Writes,
};
use anyhow::Context as _;
use std::time::{Duration, Instant};
use tidegate_client::Gateway as Client;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// For descriptors that are being closed.
const DESCRIPTORS: Duration = Duration::from_secs(3);

pub(crate) struct Held {
    pub(crate) id: String,
    pub(crate) pid: u32,
    pub(crate) epoch: u64,
    pub(crate) server: i32,
    pub(crate) opened_at: Instant,
    /// Of the worker, once it was set up.
    pub(crate) descriptors: i64,
    /// Where its events end; 0: not yet.
    pub(crate) last: watch::Sender<u64>,
    pub(crate) readers: Vec<Reading>,
    pub(crate) stop_writing: watch::Sender<bool>,
    pub(crate) writing: JoinHandle<Writes>,
}

pub(crate) struct Reading {
    pub(crate) name: String,
    pub(crate) slow: bool,
    pub(crate) shown: watch::Receiver<Shown>,
    pub(crate) ended: JoinHandle<Ended>,
}

// === impl Held ===

impl Held {
    /// When the last of the quick readers opened its stream; `None` while one has not since then.
    pub(crate) fn all_live_since(&self, since: Instant) -> Option<Instant> {
        let quick = self.readers.iter().filter(|reading| !reading.slow);
        let opened = quick.map(|reading| reading.shown.borrow().opened_at.filter(|at| *at >= since));
        opened.collect::<Option<Vec<_>>>()?.into_iter().max()
    }

    /// Its worker is dead: whatever its readers and its writer still hear is their end.
    pub(crate) async fn bury(self, account: &mut Account) {
        self.stop_writing.send_replace(true);
        // No end to come to, and no more naps.
        self.last.send_replace(u64::MAX);
        for reading in self.readers {
            match wait(reading.ended).await {
                Some(ended) => account.add(&reading.name, &ended),
                None => account.open.push(format!("{} did not hear of its session's end", reading.name)),
            }
        }
        self.writing.abort();
    }

    /// Its worker lives: the writes are complete, the events come to an end, and everyone has to get there.
    pub(crate) async fn finish(self, client: &Client, account: &mut Account) -> anyhow::Result<()> {
        self.stop_writing.send_replace(true);
        let writes = wait(self.writing).await.context("a writer does not end")?;
        // An item that is removed hears of no completion.
        if let Some(first) = self.readers.first() {
            let deadline = Instant::now() + PATIENCE;
            while first.shown.borrow().writes < writes.acknowledged && Instant::now() < deadline {
                if first.ended.is_finished() {
                    break;
                }
                sleep(LOOK_EVERY).await;
            }
        }
        client.unregister(&self.id, self.server).await.context("removing the items")?;
        let head = client.state(&self.id).await.context("asking where the events end")?.head;
        self.last.send_replace(head.max(1));
        for (n, reading) in self.readers.into_iter().enumerate() {
            let Some(ended) = wait(reading.ended).await else {
                account.open.push(format!("{} did not come to the end", reading.name));
                continue;
            };
            account.add(&reading.name, &ended);
            account.came_to(&reading.name, &ended, head);
            // One that missed nothing has seen every completion: what policies withhold is another area's.
            if n == 0 && ended.counts.gapped + ended.counts.conflated == 0 {
                account.writes(&reading.name, writes, ended.writes);
            }
        }
        client.close(&self.id).await.context("closing")?;
        Ok(())
    }

    /// Descriptors of the worker beyond those it began with; one that is about to be closed gets the time for it.
    pub(crate) async fn leaked_descriptors(&self) -> i64 {
        let deadline = Instant::now() + DESCRIPTORS;
        loop {
            let more = (process::descriptors(self.pid) - self.descriptors).max(0);
            if more == 0 {
                return 0;
            }
            if Instant::now() > deadline {
                eprintln!("worker {} has {more} more than at its start: {:?}", self.pid, process::open(self.pid));
                return more;
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// The end of a task, or nothing within the patience of this job.
async fn wait<T>(task: JoinHandle<T>) -> Option<T> {
    let abort = task.abort_handle();
    let ended = timeout(PATIENCE, task).await;
    abort.abort();
    ended.ok()?.ok()
}
