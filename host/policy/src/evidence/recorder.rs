//! Takes finished decisions from those who decide and has a thread write them. Knows no answer's meaning. What waits is
//! bounded: beyond it decisions are dropped and counted, because deciding must not wait for a disk. Invariant:
//! ids rise by one with each decision, written or not, so that a reader of the files can tell how many are missing.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::{Condvar, Mutex};

use super::files::Files;
use super::question::{Asked, IntoAnswered};
use super::{DecisionId, DecisionLog, FLUSH, Last, Reading, Record, SetFacts, Window};
use crate::model::*;
use crate::store::Trouble;

/// Hands decisions over; cheap to share.
#[derive(Debug)]
pub(crate) struct Recorder {
    desk: Arc<Desk>,
    folder: Option<PathBuf>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Desk {
    inbox: Mutex<Inbox>,
    /// Decisions up to this number of ids have been dealt with.
    done: Mutex<u64>,
    dealt: Condvar,
    dropped: AtomicU64,
    /// Of writing; told by health.
    trouble: Trouble,
    /// Decisions that denied something, by policy, whether they were kept or not.
    denied: [AtomicU64; 5],
    /// The newest, for the gate's comparison; filled by the writing thread.
    recent: Mutex<VecDeque<Arc<Record>>>,
    listener: Mutex<Option<Box<dyn Listener>>>,
}

/// Sees each decision after it was made, on the writing thread; must not wait.
pub(crate) trait Listener: Send + std::fmt::Debug {
    fn heard(&self, record: &Arc<Record>);
}

#[derive(Debug)]
struct Inbox {
    next: u64,
    waiting: Vec<Record>,
    /// Tags of all that wait.
    weight: usize,
    /// Not taken since the writer last looked.
    dropped: u64,
    stopped: bool,
}

/// Decisions that wait to be written: a burst of a tenth of a second at 100,000 a second.
const WAITING_MAX: usize = 16_384;
/// Tags in them: the names are shared with the sessions, so this is 32 MiB of pointers.
const WEIGHT_MAX: usize = 2 << 20;
/// How long a decision waits before it is in a file, and what a kill can lose. Nobody is woken per decision.
const PAUSE: Duration = Duration::from_millis(50);
const RECENT_MAX: usize = 2048;
const RECENT_WEIGHT_MAX: usize = 4096;
/// Trouble with the disk is told this often.
const TELL: Duration = Duration::from_secs(60);

// === impl Recorder ===

impl Recorder {
    pub(crate) fn start(folder: &Path, config: &DecisionLog) -> io::Result<Self> {
        let now = now_ms();
        // Rises over restarts as long as fewer than a million decisions a millisecond are made.
        let first = now << 20;
        let kept = config.files_max > 0;
        let mut files = kept.then(|| Files::new(folder, config.clone(), first, now)).transpose()?;
        let desk = Arc::new(Desk {
            inbox: Mutex::new(Inbox { next: first, waiting: Vec::new(), weight: 0, dropped: 0, stopped: false }),
            done: Mutex::new(first),
            dealt: Condvar::new(),
            dropped: AtomicU64::new(0),
            trouble: Trouble::default(),
            denied: Default::default(),
            recent: Mutex::default(),
            listener: Mutex::default(),
        });
        let thread = std::thread::Builder::new().name("policy-recorder".into()).spawn({
            let desk = Arc::clone(&desk);
            move || desk.work(files.as_mut())
        })?;
        Ok(Self { desk, folder: kept.then(|| folder.to_owned()), thread: Mutex::new(Some(thread)) })
    }

    /// The one place where a finished decision is handed over; gives it its id. Takes an uncontended lock and copies
    /// the answer, nothing else.
    pub(crate) fn decided<T: IntoAnswered>(
        &self,
        asked: Asked,
        facts: &Arc<SetFacts>,
        decision: &mut Decision<T>,
        took: Duration,
    ) {
        let weight = asked.weight();
        let record = Record {
            id: DecisionId(0),
            at_ms: now_ms(),
            facts: Arc::clone(facts),
            asked,
            answered: decision.value.answered(),
            ruled: decision.rule,
            cause: decision.cause,
            took_ns: took.as_nanos() as u64,
        };
        if record.denied() {
            self.desk.denied[record.policy().at()].fetch_add(1, Ordering::Relaxed);
        }
        let mut inbox = self.desk.inbox.lock();
        decision.id = DecisionId(inbox.next);
        inbox.next += 1;
        if inbox.waiting.len() >= WAITING_MAX || inbox.weight + weight > WEIGHT_MAX {
            inbox.dropped += 1;
            drop(inbox);
            self.desk.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        inbox.weight += weight;
        inbox.waiting.push(Record { id: decision.id, ..record });
    }

    /// Where the files are; None: nothing is kept.
    pub(crate) fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Waits until what was decided before has been dealt with, so long at most.
    pub(crate) fn flush(&self) {
        let next = self.desk.inbox.lock().next;
        if let Some(thread) = &*self.thread.lock() {
            thread.thread().unpark();
        }
        let until = Instant::now() + FLUSH;
        let mut done = self.desk.done.lock();
        while *done < next && !self.desk.dealt.wait_until(&mut done, until).timed_out() {}
    }

    /// The newest decisions, oldest first; while this run has none, those of the files.
    pub(crate) fn recent(&self, count: usize) -> Vec<Arc<Record>> {
        {
            let recent = self.desk.recent.lock();
            if !recent.is_empty() {
                return recent.iter().skip(recent.len().saturating_sub(count)).cloned().collect();
            }
        }
        let Some(folder) = &self.folder else { return Vec::new() };
        let window = Window { last: Last::Count(count), ..Window::default() };
        let read = Reading::of(folder, &window).inspect_err(|error| {
            tracing::warn!(%error, "decisions of before cannot be read; there is nothing to compare with");
        });
        read.map_or_else(|_| Vec::new(), |reading| reading.records)
    }

    /// Replaces who listens.
    pub(crate) fn listen(&self, listener: Option<Box<dyn Listener>>) {
        *self.desk.listener.lock() = listener;
    }

    /// Decisions that denied something, by policy.
    pub(crate) fn denied(&self) -> [(Policy, u64); 5] {
        Policy::ALL.map(|policy| (policy, self.desk.denied[policy.at()].load(Ordering::Relaxed)))
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.desk.dropped.load(Ordering::Relaxed)
    }

    /// Dropped, and no file says so yet.
    pub(crate) fn untold(&self) -> u64 {
        self.desk.inbox.lock().dropped
    }

    /// Why decisions are not kept just now, if so. It is tried again at once and all the time.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.desk.trouble.get()
    }

    pub(crate) fn stop(&self) {
        self.desk.inbox.lock().stopped = true;
        if let Some(thread) = self.thread.lock().take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

// === impl Desk ===

impl Desk {
    fn work(&self, mut files: Option<&mut Files>) {
        let mut told: Option<Instant> = None;
        // Changes places with the inbox, so that those who decide never wait for it to grow twice.
        let mut waiting = Vec::new();
        loop {
            let (next, dropped, stopped) = {
                let mut inbox = self.inbox.lock();
                inbox.weight = 0;
                std::mem::swap(&mut inbox.waiting, &mut waiting);
                (inbox.next, std::mem::take(&mut inbox.dropped), inbox.stopped)
            };
            let records: Vec<_> = waiting.drain(..).map(Arc::new).collect();
            if let Some(files) = files.as_deref_mut().filter(|_| !records.is_empty() || dropped > 0) {
                let written = files.append(&records, dropped);
                if let Err(error) = &written {
                    self.dropped.fetch_add(records.len() as u64, Ordering::Relaxed);
                    self.inbox.lock().dropped += dropped + records.len() as u64;
                    if told.is_none_or(|at| at.elapsed() > TELL) {
                        tracing::error!(%error, "decisions cannot be kept; they are counted as dropped");
                        told = Some(Instant::now());
                    }
                } else if told.take().is_some() {
                    tracing::info!("decisions are kept again");
                }
                self.trouble.note(written);
            }
            if let Some(listener) = &*self.listener.lock() {
                records.iter().for_each(|record| listener.heard(record));
            }
            self.remember(records);
            *self.done.lock() = next;
            self.dealt.notify_all();
            if stopped {
                if let Some(files) = files {
                    files.end();
                }
                return;
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    fn remember(&self, records: Vec<Arc<Record>>) {
        let mut recent = self.recent.lock();
        // Very long lists of tags would hold names of items that are long gone.
        for record in records.into_iter().filter(|record| record.asked.weight() <= RECENT_WEIGHT_MAX) {
            if recent.len() == RECENT_MAX {
                recent.pop_front();
            }
            recent.push_back(record);
        }
    }
}

pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}
