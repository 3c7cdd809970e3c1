//! A candidate beside the serving set: asked what was just decided, on a thread of its own, within its share of the
//! processor. Knows finished decisions, not who waits for them. Invariants: it answers nobody and slows nobody;
//! what it was not asked is counted; one that keeps failing ends, and says so.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::config::Breaker;
use crate::engine;
use crate::evidence::{Asking, Comparison, Listener, Record, Recorder, now_ms};
use crate::folder::Papers;
use crate::gate::Loaded;
use crate::model::{Digest, Policy};

/// The candidate and its thread; ends with it.
#[derive(Debug)]
pub(crate) struct Shadow {
    desk: Arc<Desk>,
    /// The files it came as: what a promotion puts into the folder.
    papers: Papers,
    recorder: Arc<Recorder>,
    thread: Option<JoinHandle<()>>,
}

/// What came of it so far.
#[derive(Clone, Debug)]
pub struct ShadowStatus {
    pub file: String,
    pub name: String,
    pub version: String,
    /// Of component and settings together.
    pub identity: Digest,
    /// The questions it answers.
    pub policies: Vec<Policy>,
    /// Milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The generation that it was last compared with; 0: none yet. Counts begin anew when another component, or
    /// other settings, answer what it answers.
    pub generation: u64,
    pub compared: Comparison,
    /// Decisions it was not asked about: they came faster than its share of the processor lets it answer, or no
    /// component had answered them.
    pub skipped: u64,
    /// Why it is not asked any more; None: it is.
    pub ended: Option<String>,
}

/// Plain numbers for whoever exports them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShadowCounts {
    pub compared: u64,
    pub changed: u64,
    pub failed: u64,
    pub skipped: u64,
}

#[derive(Debug)]
struct Desk {
    candidate: Arc<Loaded>,
    breaker: Breaker,
    since_ms: u64,
    inbox: Mutex<Inbox>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Inbox {
    waiting: VecDeque<Arc<Record>>,
    /// Tags of all that wait.
    weight: usize,
    /// One is being compared.
    busy: bool,
    generation: u64,
    /// Who answers what it answers: component and settings.
    beside: BTreeMap<Policy, (String, String)>,
    compared: Comparison,
    skipped: u64,
    ended: Option<String>,
    stopped: bool,
}

/// Hears of decisions.
#[derive(Debug)]
struct Ear(Arc<Desk>);

/// Its share of one processor, with some of it in advance.
#[derive(Debug)]
struct Share {
    left: Duration,
    at: Instant,
}

/// Decisions that wait for it; beyond it they are skipped. Guessed: what gathers between two looks of the recorder.
const WAITING_MAX: usize = 4096;
/// Tags in them.
const WEIGHT_MAX: usize = 1 << 20;
/// Guessed: enough for some 100,000 small questions a second, and what one core of four can do without.
const SHARE: f64 = 0.25;
const ADVANCE: Duration = Duration::from_millis(250);
/// How long an up-to-date status is waited for.
const SETTLE: Duration = Duration::from_secs(5);

// === impl Shadow ===

impl Shadow {
    pub(crate) fn start(
        candidate: Arc<Loaded>,
        papers: Papers,
        breaker: Breaker,
        recorder: Arc<Recorder>,
    ) -> io::Result<Self> {
        let inbox = Mutex::default();
        let desk = Arc::new(Desk { candidate, breaker, since_ms: now_ms(), inbox, arrived: Condvar::new() });
        let thread = std::thread::Builder::new().name("policy-shadow".into()).stack_size(8 << 20).spawn({
            let desk = Arc::clone(&desk);
            move || desk.work()
        })?;
        // What was decided before its time is not its matter.
        recorder.flush();
        recorder.listen(Some(Box::new(Ear(Arc::clone(&desk)))));
        Ok(Self { desk, papers, recorder, thread: Some(thread) })
    }

    pub(crate) fn candidate(&self) -> &Arc<Loaded> {
        &self.desk.candidate
    }

    pub(crate) fn papers(&self) -> &Papers {
        &self.papers
    }

    pub(crate) fn counts(&self) -> ShadowCounts {
        let inbox = self.desk.inbox.lock();
        let Comparison { asked, changed, failed, .. } = inbox.compared;
        ShadowCounts { compared: asked, changed, failed, skipped: inbox.skipped }
    }

    /// Up to now: what was decided before the call has been compared, or is counted as skipped.
    pub(crate) fn status(&self) -> ShadowStatus {
        self.recorder.flush();
        let until = Instant::now() + SETTLE;
        let mut inbox = self.desk.inbox.lock();
        while inbox.ended.is_none()
            && (inbox.busy || !inbox.waiting.is_empty())
            && !self.desk.arrived.wait_until(&mut inbox, until).timed_out()
        {}
        let mut compared = inbox.compared.clone();
        compared.finish();
        let of = &self.desk.candidate;
        ShadowStatus {
            file: of.source.file.to_string(),
            name: of.name.clone(),
            version: of.version.clone(),
            identity: of.source.identity(),
            policies: of.answers.to_vec(),
            since_ms: self.desk.since_ms,
            generation: inbox.generation,
            compared,
            skipped: inbox.skipped,
            ended: inbox.ended.clone(),
        }
    }
}

impl Drop for Shadow {
    fn drop(&mut self) {
        self.recorder.listen(None);
        self.desk.inbox.lock().stopped = true;
        self.desk.arrived.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Listener for Ear {
    fn heard(&self, record: &Arc<Record>) {
        if !self.0.candidate.answers.contains(&record.policy()) {
            return;
        }
        let weight = record.weight();
        let mut inbox = self.0.inbox.lock();
        if inbox.ended.is_some() {
            return;
        }
        // The failure matrix answered: there is nothing to be compared with.
        let unanswered = record.cause.is_some();
        if unanswered || inbox.waiting.len() >= WAITING_MAX || inbox.weight + weight > WEIGHT_MAX {
            inbox.skipped += 1;
            return;
        }
        inbox.weight += weight;
        inbox.waiting.push_back(Arc::clone(record));
        drop(inbox);
        self.0.arrived.notify_all();
    }
}

// === impl Desk ===

impl Desk {
    fn work(&self) {
        engine::give_way();
        let mut share = Share { left: ADVANCE, at: Instant::now() };
        let mut failures: VecDeque<Instant> = VecDeque::new();
        let mut asking = Asking::new(Arc::clone(&self.candidate));
        while let Some((record, mut compared)) = self.next(&mut share) {
            let failed = compared.failed;
            let begun = Instant::now();
            compared.compare(&mut asking, &record);
            share.spend(begun.elapsed());
            if compared.failed > failed {
                failures.push_back(begun);
                failures.retain(|at| begun.duration_since(*at) < self.breaker.window);
            }
            let mut inbox = self.inbox.lock();
            inbox.busy = false;
            inbox.compared = compared;
            if failures.len() >= self.breaker.failures.max(1) {
                let why = format!(
                    "it gave no answer {} times within {} s and is not asked any more",
                    failures.len(),
                    self.breaker.window.as_secs()
                );
                tracing::warn!(file = %self.candidate.source.file, "a shadow ended: {why}");
                inbox.ended = Some(why);
                inbox.waiting.clear();
                drop(inbox);
                self.arrived.notify_all();
                return;
            }
        }
    }

    /// The next one to compare, with the counts to add it to; None: it is over.
    fn next(&self, share: &mut Share) -> Option<(Arc<Record>, Comparison)> {
        let mut inbox = self.inbox.lock();
        loop {
            if inbox.stopped {
                return None;
            }
            let Some(record) = inbox.waiting.pop_front() else {
                inbox.weight = 0;
                self.arrived.notify_all();
                self.arrived.wait(&mut inbox);
                continue;
            };
            inbox.weight = inbox.weight.saturating_sub(record.weight());
            if !share.allows() {
                inbox.skipped += 1;
                continue;
            }
            inbox.meets(&record);
            inbox.busy = true;
            return Some((record, std::mem::take(&mut inbox.compared)));
        }
    }
}

// === impl Inbox ===

impl Inbox {
    /// Who answered this one: another than before makes what differed from that one of no use.
    fn meets(&mut self, record: &Record) {
        self.generation = record.facts.generation;
        let Some(member) = record.member() else { return };
        let answerer = (member.digest.clone(), member.settings_digest.clone());
        let before = self.beside.insert(record.policy(), answerer.clone());
        if before.is_some_and(|before| before != answerer) {
            self.compared = Comparison::default();
            self.skipped = 0;
        }
    }
}

// === impl Share ===

impl Share {
    fn allows(&mut self) -> bool {
        let now = Instant::now();
        let gained = now.duration_since(self.at).mul_f64(SHARE);
        self.left = (self.left + gained).min(ADVANCE);
        self.at = now;
        !self.left.is_zero()
    }

    /// What one question took beyond it is not owed: the next is asked when there is something again.
    fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}
