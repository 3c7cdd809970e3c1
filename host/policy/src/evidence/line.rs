//! One line of a decision file: eight digits of a checksum, a space, JSON. Tags of bulk questions stand in lines of
//! their own, once per file and list, because streams ask about the same items again after each swap. Knows no
//! file. Invariant: a line that was cut or damaged is recognised, never half understood.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::question::{Answered, Asked};
use super::{DecisionId, Record, SetFacts};
use crate::model::{Digest, FailureCause};

/// What a line says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Line {
    /// A process began to write here; ids from here on rise from this one.
    Run {
        first: u64,
        at_ms: u64,
    },
    /// A generation of this run.
    Set(SetFacts),
    /// A list of tags, by the beginning of its digest.
    Tags {
        list: String,
        tags: Vec<Arc<str>>,
    },
    Decision(Kept),
    /// So many decisions were not written, because too many were waiting or the disk refused.
    Dropped {
        count: u64,
    },
    /// The process ended well.
    End,
}

/// A decision in a file.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    id: u64,
    at_ms: u64,
    generation: u64,
    asked: Asked,
    /// Lists of tags, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    answered: Answered,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cause: Option<FailureCause>,
    took_ns: u64,
}

/// Lists of tags and their names.
type Lists<'a> = Vec<(String, &'a [Arc<str>])>;

/// Tags in a list. As many as in a call into a guest; guessed to be what changes together.
const TAGS_PER_LIST: usize = 256;
const SUM_DIGITS: usize = 8;

// === impl Line ===

impl Line {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let Ok(json) = serde_json::to_vec(self) else { return };
        out.extend_from_slice(sum(&json).as_bytes());
        out.push(b' ');
        out.extend_from_slice(&json);
        out.push(b'\n');
    }

    /// None: damaged.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let (said, json) = line.split_at_checked(SUM_DIGITS + 1)?;
        if said[..SUM_DIGITS] != *sum(json).as_bytes() {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

// === impl Kept ===

impl Kept {
    /// With the lists that its line refers to.
    pub(super) fn of(record: &Record) -> (Self, Lists<'_>) {
        let mut lists = Vec::new();
        if let Asked::Items { tags, .. } = &record.asked {
            lists.extend(tags.chunks(TAGS_PER_LIST).map(|some| (list(some), some)));
        }
        let kept = Self {
            id: record.id.0,
            at_ms: record.at_ms,
            generation: record.facts.generation,
            asked: record.asked.clone(),
            tags: lists.iter().map(|(name, _)| name.clone()).collect(),
            answered: record.answered.clone(),
            cause: record.cause,
            took_ns: record.took_ns,
        };
        (kept, lists)
    }

    /// None: its generation or a list of its tags is lost.
    pub(super) fn record(
        mut self,
        set: impl Fn(u64) -> Option<Arc<SetFacts>>,
        list: impl Fn(&str) -> Option<Arc<[Arc<str>]>>,
    ) -> Option<Record> {
        if let Asked::Items { tags, .. } = &mut self.asked {
            let mut all = Vec::new();
            for name in &self.tags {
                all.extend(list(name)?.iter().cloned());
            }
            *tags = all.into();
        }
        Some(Record {
            id: DecisionId(self.id),
            at_ms: self.at_ms,
            facts: set(self.generation)?,
            asked: self.asked,
            answered: self.answered,
            cause: self.cause,
            took_ns: self.took_ns,
        })
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

fn list(tags: &[Arc<str>]) -> String {
    let mut text = String::new();
    for tag in tags {
        text.push_str(tag);
        text.push('\n');
    }
    Digest::of(text.as_bytes()).to_hex()[..16].to_owned()
}

fn sum(json: &[u8]) -> String {
    Digest::of(json).to_hex()[..SUM_DIGITS].to_owned()
}
