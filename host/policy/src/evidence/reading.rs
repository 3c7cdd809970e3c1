//! Reads the decision log back, from the newest file on. Knows that a kill, a full disk and rotation leave holes.
//! Invariant: what cannot be read is counted and said, and spoils nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use super::files::{numbers, path};
use super::line::{Kept, Line};
use super::{DecisionId, Record, SetFacts};
use crate::model::Policy;

/// Which decisions.
#[derive(Clone, Debug, Default)]
pub struct Window {
    pub last: Last,
    pub denied: bool,
    pub policy: Option<Policy>,
    /// Key, kind of node, or person.
    pub who: Option<String>,
    pub tag: Option<String>,
    pub id: Option<DecisionId>,
}

/// How far back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// So many that fit the rest of the window.
    Count(usize),
    /// Since this time, milliseconds since the Unix epoch.
    Since(u64),
}

/// What was found, oldest first, and what was not.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    pub records: Vec<Arc<Record>>,
    /// Decisions that were made between those that were read, and are not there. Rotation does not count.
    pub lost: u64,
    /// Of them, not written because too many were waiting or the disk refused.
    pub dropped: u64,
    /// Lines that were cut or damaged.
    pub damaged: u64,
    /// Runs that ended without a word: of what they decided last, up to a twentieth of a second is missing.
    pub cut_runs: u64,
    /// Time of the oldest decision that was looked at; the log may reach further back.
    pub since_ms: Option<u64>,
}

/// Most decisions that one reading returns.
const RECORDS_MAX: usize = 200_000;
/// A file that is not of ours may be endless.
const FILE_BYTES_MAX: u64 = 1 << 30;

#[derive(Default)]
struct Count {
    /// By run: lowest and highest id, and how many.
    runs: BTreeMap<u64, (u64, u64, u64)>,
}

// === impl Window ===

impl Window {
    fn takes(&self, record: &Record) -> bool {
        self.policy.is_none_or(|policy| record.policy() == policy)
            && (!self.denied || record.denied())
            && self.who.as_ref().is_none_or(|who| record.who() == who)
            && self.tag.as_ref().is_none_or(|tag| record.mentions(tag))
            && self.id.is_none_or(|id| record.id == id)
    }
}

impl Last {
    /// The last so many milliseconds.
    pub fn within(ms: u64) -> Self {
        Last::Since(super::recorder::now_ms().saturating_sub(ms))
    }
}

impl Default for Last {
    fn default() -> Self {
        Last::Count(RECORDS_MAX)
    }
}

// === impl Reading ===

impl Reading {
    pub(crate) fn of(folder: &Path, window: &Window) -> io::Result<Self> {
        let mut reading = Self::default();
        let mut count = Count::default();
        let mut found: VecDeque<Arc<Record>> = VecDeque::new();
        let wanted = match window.last {
            Last::Count(count) => count.min(RECORDS_MAX),
            Last::Since(_) => RECORDS_MAX,
        };
        let newest_first: Vec<u64> = numbers(folder)?.logs.into_iter().rev().collect();
        for number in newest_first {
            let mut bytes = Vec::new();
            match File::open(path(folder, number)) {
                Ok(file) => file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?,
                // Rotated away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let records = reading.file(&bytes, &mut count);
            let oldest = records.first().map(|record| record.at_ms);
            reading.since_ms = oldest.or(reading.since_ms);
            for record in records.into_iter().rev().filter(|record| window.takes(record)) {
                let late = matches!(window.last, Last::Since(since) if record.at_ms < since);
                if !late && found.len() < wanted {
                    found.push_front(Arc::new(record));
                }
            }
            let far = matches!(window.last, Last::Since(since) if oldest.is_some_and(|at| at < since));
            if found.len() >= wanted || far {
                break;
            }
        }
        reading.lost = count.runs.values().map(|(low, high, count)| (high - low + 1).saturating_sub(*count)).sum();
        reading.dropped = reading.dropped.min(reading.lost);
        reading.records = found.into();
        Ok(reading)
    }

    fn file(&mut self, bytes: &[u8], count: &mut Count) -> Vec<Record> {
        let mut records = Vec::new();
        let mut run = None;
        let (mut sets, mut lists) = (BTreeMap::new(), BTreeMap::new());
        let mut ended = true;
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Some(line) = Line::read(line) else {
                self.damaged += 1;
                continue;
            };
            match line {
                Line::Run { first, .. } => {
                    // A run goes on in the next file; another one here began after its end.
                    if run.is_some_and(|run| run != first) {
                        self.cut_runs += u64::from(!ended);
                        sets.clear();
                        lists.clear();
                    }
                    run = Some(first);
                    ended = false;
                }
                Line::Set(facts) => {
                    sets.insert(facts.generation, Arc::<SetFacts>::new(facts));
                }
                Line::Tags { list, tags } => {
                    lists.insert(list, Arc::<[Arc<str>]>::from(tags));
                }
                Line::Decision(kept) => {
                    let Some(run) = run else { continue };
                    let id = kept.id();
                    let made = Kept::record(kept, |n| sets.get(&n).cloned(), |name| lists.get(name).cloned());
                    let Some(record) = made else { continue };
                    let (low, high, number) = count.runs.entry(run).or_insert((id, id, 0));
                    (*low, *high, *number) = ((*low).min(id), (*high).max(id), *number + 1);
                    records.push(record);
                }
                Line::Dropped { count } => self.dropped += count,
                Line::End => ended = true,
            }
        }
        records
    }
}
