//! One reader of the demo: a stream over its own connection, at its own pace, with its account. It
//! knows nothing of swaps; it notes what it saw under which generation. Invariant: it resumes where
//! its account stands, so whatever ends a stream, the account goes on.

use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tidegate_client::{
    Account, ClientError, Connect, Counts, Fault, Message, Start, StreamOptions, Violation, wire::Event,
};
use tokio::{sync::Notify, task::JoinHandle, time::sleep};

/// Streams a reader opens before it gives up; only pressure ends one, so more is a defect.
const RESUMES_MAX: u32 = 1_000;
/// Little room ahead of a slow reader, so that the gateway feels it at once.
const SLOW_WINDOW: u32 = 64 << 10;
/// Sequences kept of each generation: more than can be in a transport at a flip.
const SIGHTINGS_KEPT: usize = 100_000;

/// How fast a reader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As fast as it can.
    Full,
    /// So many events, then a rest.
    Bursts { events: u64, rest: Duration },
}

/// Who reads what.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) key: String,
    pub(super) session: String,
    pub(super) pace: Pace,
    pub(super) watch: Arc<Watch>,
    /// Whether it keeps the events that `watch` names.
    pub(super) keeps: bool,
}

/// Items that are looked at closely, by key.
#[derive(Debug, Default)]
pub(super) struct Watch(Mutex<Watched>);

#[derive(Debug, Default)]
struct Watched {
    /// Events are noted with the generation that let them pass.
    seen: HashSet<u64>,
    /// Events are kept whole, to be compared with a history.
    kept: HashSet<u64>,
}

/// A reader at work.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) name: &'static str,
    pub(super) pace: Pace,
    shared: Arc<Shared>,
    task: JoinHandle<Outcome>,
}

#[derive(Debug, Default)]
struct Shared {
    counts: Mutex<Counts>,
    position: AtomicU64,
    kept: AtomicUsize,
    /// Slow readers stop resting.
    hurry: AtomicBool,
    stop: Notify,
}

/// What was seen of watched items, by the generation that let it pass: how many, and the last ones.
#[derive(Debug, Default)]
pub(super) struct Sightings(BTreeMap<u64, (u64, VecDeque<u64>)>);

/// What a reader has to tell.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) counts: Counts,
    /// The first violation of its account.
    pub(super) violation: Option<Violation>,
    /// What ended its stream, if nobody told it to stop.
    pub(super) ended: Option<String>,
    pub(super) sightings: Sightings,
    pub(super) events: Vec<Event>,
    /// Streams it opened after the first.
    pub(super) resumed: u32,
}

// === impl Watch ===

impl Watch {
    pub(super) fn see(&self, key: u64) {
        self.0.lock().seen.insert(key);
    }

    pub(super) fn keep(&self, key: u64) {
        self.0.lock().kept.insert(key);
    }
}

// === impl Sightings ===

impl Sightings {
    fn note(&mut self, generation: u64, sequence: u64) {
        let (count, last) = self.0.entry(generation).or_default();
        *count += 1;
        if last.len() == SIGHTINGS_KEPT {
            last.pop_front();
        }
        last.push_back(sequence);
    }

    pub(super) fn total(&self) -> u64 {
        self.since(0)
    }

    pub(super) fn since(&self, first: u64) -> u64 {
        self.0.range(first..).map(|(_, (count, _))| count).sum()
    }

    /// Under generations from `first` to before `end`.
    pub(super) fn between_generations(&self, first: u64, end: u64) -> u64 {
        self.since(first) - self.since(end)
    }

    /// Under generations before `generation`, beyond a sequence.
    pub(super) fn older_beyond(&self, generation: u64, sequence: u64) -> u64 {
        let older = self.0.range(..generation).flat_map(|(_, (_, last))| last);
        older.filter(|seen| **seen > sequence).count() as u64
    }
}

// === impl Reader ===

impl Reader {
    /// Opens the first stream, so that nothing sent after this call is missed.
    pub(super) async fn start(connect: Connect, spec: Spec) -> anyhow::Result<Self> {
        let connect = match spec.pace {
            Pace::Full => connect,
            Pace::Bursts { .. } => connect.stream_window(SLOW_WINDOW),
        };
        let gateway = connect.key(&spec.key).gateway().await?;
        let options = StreamOptions { reader_name: spec.name.into(), ..Default::default() };
        let stream = gateway.stream(&spec.session, Start::Live, options).await?;
        let shared = Arc::new(Shared::default());
        shared.position.store(stream.position().after, Ordering::Relaxed);
        let (name, pace) = (spec.name, spec.pace);
        let task = tokio::spawn(read(gateway, stream, spec, shared.clone()));
        Ok(Self { name, pace, shared, task })
    }

    pub(super) fn counts(&self) -> Counts {
        *self.shared.counts.lock()
    }

    /// Everything up to here is accounted for.
    pub(super) fn position(&self) -> u64 {
        self.shared.position.load(Ordering::Relaxed)
    }

    /// Events kept so far.
    pub(super) fn kept(&self) -> usize {
        self.shared.kept.load(Ordering::Relaxed)
    }

    pub(super) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    pub(super) fn hurry(&self) {
        self.shared.hurry.store(true, Ordering::Relaxed);
    }

    /// Ends the stream, if it has not ended, and waits for the account.
    pub(super) async fn finish(self) -> anyhow::Result<Outcome> {
        self.shared.stop.notify_one();
        Ok(self.task.await?)
    }
}

async fn read(
    gateway: tidegate_client::Gateway,
    mut stream: tidegate_client::EventStream,
    spec: Spec,
    shared: Arc<Shared>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let account = loop {
        let ended = tokio::select! {
            ended = follow(&mut stream, &spec, &shared, &mut outcome) => ended,
            () = shared.stop.notified() => break stream.into_account(),
        };
        let pressed = matches!(&ended, Some(fault) if fault.reason == "stream.pressure");
        if !pressed || outcome.resumed >= RESUMES_MAX {
            outcome.ended = Some(ended.map_or_else(|| "the stream ended".to_owned(), |fault| fault.to_string()));
            break stream.into_account();
        }
        outcome.resumed += 1;
        let start = Start::Resume(stream.position());
        let account = stream.into_account();
        let options = StreamOptions { reader_name: spec.name.into(), account: account.clone(), ..Default::default() };
        stream = match gateway.stream(&spec.session, start, options).await {
            Ok(stream) => stream,
            Err(error) => {
                note(&mut outcome, &error);
                outcome.ended = Some(error.to_string());
                break account;
            }
        };
    };
    finished(account, outcome, &shared)
}

fn finished(account: Account, mut outcome: Outcome, shared: &Shared) -> Outcome {
    outcome.counts = account.counts();
    *shared.counts.lock() = outcome.counts;
    outcome
}

/// Reads until the stream ends; what ended it, if the gateway said so.
async fn follow(
    stream: &mut tidegate_client::EventStream,
    spec: &Spec,
    shared: &Shared,
    outcome: &mut Outcome,
) -> Option<Fault> {
    let mut burst = 0;
    loop {
        let message = match stream.next().await {
            Ok(Some(message)) => message,
            Ok(None) => return None,
            Err(error) => match error {
                ClientError::Fault(fault) => return Some(*fault),
                // The counts go on, to tell how much is wrong.
                error => {
                    note(outcome, &error);
                    continue;
                }
            },
        };
        if let Message::Batch(batch) = message {
            burst += batch.to - batch.from + 1;
            let watched = spec.watch.0.lock();
            for event in batch.events {
                if watched.seen.contains(&event.item_key) {
                    outcome.sightings.note(batch.generation, event.sequence);
                } else if spec.keeps && watched.kept.contains(&event.item_key) {
                    outcome.events.push(event);
                }
            }
            drop(watched);
            shared.kept.store(outcome.events.len(), Ordering::Relaxed);
        }
        *shared.counts.lock() = stream.account().counts();
        shared.position.store(stream.position().after, Ordering::Relaxed);
        if let Pace::Bursts { events, rest } = spec.pace
            && burst >= events
            && !shared.hurry.load(Ordering::Relaxed)
        {
            burst = 0;
            sleep(rest).await;
        }
    }
}

fn note(outcome: &mut Outcome, error: &ClientError) {
    if let ClientError::Violation(violation) = error {
        outcome.violation.get_or_insert(*violation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sightings_are_told_by_generation_and_by_fence() {
        let mut seen = Sightings::default();
        for (generation, sequence) in [(1, 10), (1, 11), (2, 20), (2, 21), (2, 22), (3, 30)] {
            seen.note(generation, sequence);
        }
        assert_eq!((seen.total(), seen.since(2), seen.between_generations(2, 3)), (6, 4, 3));
        assert_eq!((seen.older_beyond(2, 10), seen.older_beyond(2, 11), seen.older_beyond(1, 0)), (1, 0, 0));
    }
}
