//! The one thread that writes. It takes what has gathered, runs it in one transaction, each piece in a
//! savepoint of its own, and answers after the commit. Knows jobs, not tables. Invariant: a caller
//! that got `Ok` has its write on the disk.

use super::failure;
use crate::error::{Code, Error, Result};
use crate::telemetry::StorageMetrics;
use parking_lot::Mutex;
use rusqlite::Connection;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};
use tokio::sync::{mpsc, oneshot};

/// How much one commit takes at most; measured: 457,000 rows/s with 256, 6,600 one by one.
pub(super) const GROUP_MAX: usize = 256;
/// How many writes may wait. Full means that further callers wait for room (they are async, nothing blocks).
pub(super) const QUEUE: usize = 1024;

/// What the writer's failures look like to the health page; `None` when the last commit went well.
pub(super) type Trouble = Arc<Mutex<Option<Error>>>;

/// One write with its caller.
pub(super) trait Job: Send {
    /// Runs in a savepoint; an error rolls back to it.
    fn run(&mut self, db: &Connection) -> Result<()>;
    /// Called once, after the commit (`Ok`) or when it failed.
    fn answer(self: Box<Self>, committed: Result<()>);
}

pub(super) enum Order {
    Write(Box<dyn Job>),
    /// Answered when all before it is committed and the file is closed.
    Close(oneshot::Sender<()>),
}

pub(super) struct Writer {
    pub(super) db: Connection,
    pub(super) path: PathBuf,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) metrics: StorageMetrics,
    pub(super) trouble: Trouble,
}

/// A closure and the place its outcome waits in until the commit.
struct Piece<F, C, T> {
    work: Option<F>,
    then: C,
    outcome: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

/// Makes a job of two closures: `then` runs on this thread once the work of the first is committed.
pub(super) fn piece_then<F, C, T>(work: F, then: C, reply: oneshot::Sender<Result<T>>) -> Box<dyn Job>
where
    F: FnOnce(&Connection) -> Result<T> + Send + 'static,
    C: FnOnce(&T) + Send + 'static,
    T: Send + 'static,
{
    Box::new(Piece { work: Some(work), then, outcome: None, reply })
}

// === impl Piece ===

impl<F, C, T> Job for Piece<F, C, T>
where
    F: FnOnce(&Connection) -> Result<T> + Send,
    C: FnOnce(&T) + Send,
    T: Send,
{
    fn run(&mut self, db: &Connection) -> Result<()> {
        let work = self.work.take().expect("a job runs once");
        let outcome = catch_unwind(AssertUnwindSafe(|| work(db)))
            .unwrap_or_else(|_| Err(Error::new(Code::Internal, "a database statement panicked")));
        let status = outcome.as_ref().map(drop).map_err(Clone::clone);
        self.outcome = Some(outcome);
        status
    }

    fn answer(self: Box<Self>, committed: Result<()>) {
        let outcome = match committed {
            Ok(()) => self.outcome.unwrap_or_else(|| Err(failure::closed())),
            Err(error) => Err(error),
        };
        if let Ok(outcome) = &outcome {
            let then = self.then;
            if catch_unwind(AssertUnwindSafe(|| then(outcome))).is_err() {
                tracing::error!("what follows a commit panicked; this is a defect");
            }
        }
        // The caller may have gone; its write stands all the same.
        let _ = self.reply.send(outcome);
    }
}

// === impl Writer ===

impl Writer {
    /// Until the last handle is dropped or `Close` comes.
    pub(super) fn run(mut self) {
        let mut group = Vec::with_capacity(GROUP_MAX);
        let mut closing = None;
        while closing.is_none() {
            let Some(first) = self.orders.blocking_recv() else { break };
            let mut next = Some(first);
            while let Some(order) = next.take() {
                match order {
                    Order::Write(job) => group.push(job),
                    Order::Close(done) => {
                        closing = Some(done);
                        break;
                    }
                }
                if group.len() < GROUP_MAX {
                    next = self.orders.try_recv().ok();
                }
            }
            if !group.is_empty() {
                self.commit(&mut group);
            }
        }
        // Those that came behind `Close` learn it by their dropped sender.
        drop(self.orders);
        let _ = self.db.close();
        if let Some(done) = closing {
            let _ = done.send(());
        }
    }

    /// Empties `group`: one transaction, one commit, one answer each.
    fn commit(&self, group: &mut Vec<Box<dyn Job>>) {
        let started = Instant::now();
        let mut done: Vec<Box<dyn Job>> = Vec::with_capacity(group.len());
        let mut begun = self.statement("BEGIN IMMEDIATE");
        for mut job in group.drain(..) {
            // A full disk can make SQLite roll the whole transaction back by itself; then what ran before
            // this job is gone, its callers must know, and this job needs a transaction of its own.
            if begun.is_ok() && self.db.is_autocommit() {
                answer_all(&mut done, &Err(self.note(self.rolled_back())));
                begun = self.statement("BEGIN IMMEDIATE");
            }
            if let Err(error) = &begun {
                job.answer(Err(error.clone()));
                continue;
            }
            match self.one(job.as_mut()) {
                Ok(()) => done.push(job),
                Err(error) => {
                    if matches!(error.code(), Code::StorageFull | Code::StorageUnavailable | Code::StorageCorrupt) {
                        self.note(error.clone());
                    }
                    job.answer(Err(error));
                }
            }
        }
        if begun.is_err() {
            return;
        }
        let rows = done.len();
        let committed =
            if self.db.is_autocommit() { Err(self.note(self.rolled_back())) } else { self.statement("COMMIT") };
        match &committed {
            Ok(()) => {
                if rows > 0 {
                    self.metrics.commits.inc();
                    self.metrics.rows.inc_by(rows as u64);
                    self.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
                    *self.trouble.lock() = None;
                }
            }
            Err(_) => {
                if !self.db.is_autocommit() {
                    let _ = self.statement("ROLLBACK");
                }
            }
        }
        answer_all(&mut done, &committed);
    }

    fn one(&self, job: &mut dyn Job) -> Result<()> {
        self.statement("SAVEPOINT piece")?;
        let outcome = job.run(&self.db);
        if outcome.is_err() && !self.db.is_autocommit() {
            self.statement("ROLLBACK TO piece")?;
        }
        if !self.db.is_autocommit() {
            self.statement("RELEASE piece")?;
        }
        outcome
    }

    fn statement(&self, sql: &'static str) -> Result<()> {
        self.db
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute([]))
            .map(drop)
            .map_err(|e| self.note(failure::of("write to", &self.path, &e)))
    }

    /// What those hear whose work was undone with another's: a full disk is why, if it was that a moment ago.
    fn rolled_back(&self) -> Error {
        let full = self.trouble.lock().as_ref().is_some_and(|error| error.code() == Code::StorageFull);
        let code = if full { Code::StorageFull } else { Code::StorageUnavailable };
        Error::new(code, "the database rolled the transaction back")
    }

    /// Counts a failure and keeps it for the health page.
    fn note(&self, error: Error) -> Error {
        self.metrics.failures.inc();
        let before = self.trouble.lock().replace(error.clone());
        if before.is_none() {
            tracing::error!(code = error.code().as_str(), "storage: {}", error.message());
        }
        error
    }
}

fn answer_all(jobs: &mut Vec<Box<dyn Job>>, committed: &Result<()>) {
    for job in jobs.drain(..) {
        job.answer(committed.clone());
    }
}
