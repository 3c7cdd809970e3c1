//! Asks a component again what was asked before, and tells what differs: the same component for a replay, a candidate
//! for a difference. Knows loaded components and records, no generation. Invariant: it stays within its
//! budget and says what it left out; nothing it does changes what decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::question::{Answered, Asked, effect};
use super::{DecisionId, Record};
use crate::gate::Loaded;
use crate::instance::{PolicyInstance, PolicyPre};
use crate::model::*;

/// So much time, and no more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    until: Instant,
}

/// One component that is asked again and again; made anew when it failed.
#[derive(Debug)]
pub(crate) struct Asking {
    loaded: Arc<Loaded>,
    instance: Option<PolicyInstance>,
}

/// What a candidate would have answered otherwise.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// Answers that were compared: an item of a bulk question counts as one.
    pub asked: u64,
    /// Of them, with another effect. Another rule or reason for the same effect is no difference.
    pub changed: u64,
    /// Questions the candidate gave no answer to; each counts as changed.
    pub failed: u64,
    /// Decisions that were not compared: the budget was spent.
    pub skipped: u64,
    /// By whom it is about and by rule, most frequent first.
    pub changes: Vec<Change>,
    /// Changed answers beyond the rows of `changes`.
    pub more: u64,
    rows: BTreeMap<Row, Change>,
}

/// One row of a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub policy: Policy,
    /// Key, kind of node, or person.
    pub who: String,
    pub was: String,
    pub was_rule: String,
    pub is: String,
    pub is_rule: String,
    pub count: u64,
    /// One of them.
    pub example: DecisionId,
    /// The tag of that one; empty: it was about none.
    pub tag: String,
}

type Row = (Policy, String, String, String, String, String);

/// What came of asking again.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Asked again, of the same component with the same settings.
    pub replayed: u64,
    pub mismatches: Vec<Mismatch>,
    /// Beyond those listed.
    pub more: u64,
    /// Components whose contents are not kept any more.
    pub gone: u64,
    /// Answered by the failure matrix, or while access was closed: nobody to ask.
    pub unanswered: u64,
    /// The budget was spent.
    pub skipped: u64,
}

/// The same component, another answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    pub id: DecisionId,
    pub was: String,
    pub is: String,
}

/// Rows of a difference; more are counted. Guessed: what fits a report.
const ROWS_MAX: usize = 256;
/// A candidate that fails this often needs no further questions.
const FAILURES_MAX: u64 = 20;
/// Mismatches listed.
const LISTED_MAX: usize = 100;

// === impl Budget ===

impl Budget {
    pub(crate) fn of(time: Duration) -> Self {
        Self { until: Instant::now() + time }
    }

    fn is_spent(&self) -> bool {
        Instant::now() >= self.until
    }
}

// === impl Asking ===

impl Asking {
    pub(crate) fn new(loaded: Arc<Loaded>) -> Self {
        Self { loaded, instance: None }
    }

    /// The error says why there is no answer.
    pub(crate) fn ask(&mut self, asked: &Asked) -> Result<Ruled<Answered>, FailureCause> {
        let answered = self.instance().and_then(|guest| {
            let answered = asked.put(guest);
            // What it says while it is only tried reaches no log.
            drop(guest.words());
            answered
        });
        answered.map_err(|failure| {
            self.instance = None;
            failure.cause
        })
    }

    fn instance(&mut self) -> Result<&mut PolicyInstance, crate::instance::CallFailure> {
        let pre: &PolicyPre = &self.loaded.pre;
        if self.instance.is_none() {
            self.instance = Some(pre.instance(&self.loaded.source.settings)?);
        }
        let late = crate::instance::CallFailure::late;
        self.instance.as_mut().ok_or_else(late)
    }

    fn rule(&self, rule: u16) -> String {
        self.loaded.rules.get(usize::from(rule)).map_or_else(|| rule.to_string(), |name| name.to_string())
    }
}

// === impl Comparison ===

impl Comparison {
    /// Asks the candidate what was asked in `records`, as far as it answers such questions.
    pub(crate) fn of(candidate: &Arc<Loaded>, records: &[Arc<Record>], budget: Budget) -> Self {
        let mut asking = Asking::new(Arc::clone(candidate));
        let mut comparison = Self::default();
        for record in records.iter().filter(|record| candidate.answers.contains(&record.policy())) {
            if budget.is_spent() || comparison.failed >= FAILURES_MAX {
                comparison.skipped += 1;
                continue;
            }
            comparison.compare(&mut asking, record);
        }
        comparison.finish();
        comparison
    }

    /// Another candidate's of the same change.
    pub(crate) fn add(&mut self, other: Self) {
        self.asked += other.asked;
        self.changed += other.changed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.more += other.more;
        self.changes.extend(other.changes);
    }

    /// Of all compared, 0 to 1.
    pub fn rate(&self) -> f64 {
        if self.asked == 0 { 0.0 } else { self.changed as f64 / self.asked as f64 }
    }

    /// Asks about one and counts what differs.
    pub(crate) fn compare(&mut self, asking: &mut Asking, record: &Record) {
        let rules = |rule: Option<u16>| -> String {
            match (rule, record.member()) {
                (Some(rule), Some(member)) if record.cause.is_none() => {
                    member.rules.get(usize::from(rule)).cloned().unwrap_or_else(|| rule.to_string())
                }
                _ => String::new(),
            }
        };
        match (asking.ask(&record.asked), &record.answered) {
            (Ok(Ruled { value: Answered::Items(is), .. }), Answered::Items(was)) => {
                let Asked::Items { tags, .. } = &record.asked else { return };
                self.asked += was.len() as u64;
                for ((was, is), tag) in was.iter().zip(&is).zip(tags.iter()).filter(|((a, b), _)| a.allow != b.allow) {
                    let was = (effect(was.allow).to_owned(), rules(Some(was.rule)));
                    self.change(record, was, (effect(is.allow).to_owned(), asking.rule(is.rule)), tag);
                }
            }
            (Ok(Ruled { value: is, rule: ruled }), was) => {
                self.asked += 1;
                if is.effect() != was.effect() {
                    let is_rule = ruled.or(is.rule()).map(|rule| asking.rule(rule)).unwrap_or_default();
                    let tag = match &record.asked {
                        Asked::Access { what: Action::Command { tag, .. }, .. } => tag.as_str(),
                        _ => "",
                    };
                    self.change(record, (was.effect(), rules(record.rule_index())), (is.effect(), is_rule), tag);
                }
            }
            (Err(cause), was) => {
                self.asked += record.asked.weight() as u64;
                self.failed += 1;
                self.change(
                    record,
                    (was.effect(), rules(record.rule_index())),
                    (format!("no answer: {}", cause.as_str()), String::new()),
                    "",
                );
            }
        }
    }

    fn change(&mut self, record: &Record, was: (String, String), is: (String, String), tag: &str) {
        self.changed += 1;
        let who = record.who().to_owned();
        let row = (record.policy(), who.clone(), was.0.clone(), was.1.clone(), is.0.clone(), is.1.clone());
        if let Some(row) = self.rows.get_mut(&row) {
            row.count += 1;
        } else if self.rows.len() < ROWS_MAX {
            let change = Change {
                policy: record.policy(),
                who,
                was: was.0,
                was_rule: was.1,
                is: is.0,
                is_rule: is.1,
                count: 1,
                example: record.id,
                tag: tag.to_owned(),
            };
            self.rows.insert(row, change);
        } else {
            self.more += 1;
        }
    }

    /// Puts the rows in order for a report.
    pub(crate) fn finish(&mut self) {
        self.changes = self.rows.values().cloned().collect();
        self.changes.sort_by_key(|change| std::cmp::Reverse(change.count));
    }
}

// === impl Replay ===

impl Replay {
    /// `find` gives the component of these digests, as long as its contents are kept.
    pub(crate) fn of(
        records: &[Arc<Record>],
        budget: Budget,
        find: impl Fn(&Digest, &Digest) -> Option<Arc<Loaded>>,
    ) -> Self {
        let mut replay = Self::default();
        let mut found: BTreeMap<(Digest, Digest), Option<Asking>> = BTreeMap::new();
        for record in records {
            let digests = record.member().and_then(|member| {
                Some((Digest::from_hex(&member.digest)?, Digest::from_hex(&member.settings_digest)?))
            });
            let (Some(digests), None) = (digests, record.cause) else {
                replay.unanswered += 1;
                continue;
            };
            if budget.is_spent() {
                replay.skipped += 1;
                continue;
            }
            let asking = found.entry(digests).or_insert_with(|| find(&digests.0, &digests.1).map(Asking::new));
            let Some(asking) = asking else {
                replay.gone += 1;
                continue;
            };
            replay.replayed += 1;
            let is = asking.ask(&record.asked);
            if is.as_ref().is_ok_and(|is| is.value == record.answered && is.rule == record.ruled) {
                continue;
            }
            if replay.mismatches.len() == LISTED_MAX {
                replay.more += 1;
                continue;
            }
            let is = is.map_or_else(|cause| format!("no answer: {}", cause.as_str()), |is| is.value.to_json());
            replay.mismatches.push(Mismatch { id: record.id, was: record.answer(), is });
        }
        replay
    }
}
