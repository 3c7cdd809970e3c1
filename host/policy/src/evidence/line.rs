//! One line of a decision file: eight digits of a CRC-32, a space, JSON. Tags of bulk questions stand in lines of
//! their own, once per file and list, because streams ask about the same items again after each swap. Knows no
//! file. Invariant: a line that was cut or damaged is recognised, never half understood.

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::question::{Answered, Asked};
use super::{DecisionId, Record, SetFacts};
use crate::model::{Digest, FailureCause};

/// What a line says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Line<'a> {
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
    Decision(Kept<'a>),
    /// So many decisions were not written, because too many were waiting or the disk refused.
    Dropped {
        count: u64,
    },
    /// The process ended well.
    End,
}

/// A decision in a file; borrows what the record has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept<'a> {
    id: u64,
    at_ms: u64,
    generation: u64,
    asked: Cow<'a, Asked>,
    /// Lists of tags, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tags: Vec<String>,
    answered: Cow<'a, Answered>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ruled: Option<u16>,
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

impl Line<'_> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[b' '; SUM_DIGITS + 1]);
        let json = out.len();
        if serde_json::to_writer(&mut *out, self).is_err() {
            out.truncate(start);
            return;
        }
        let sum = crc32fast::hash(&out[json..]);
        // Into its place, which is exactly as long.
        let _ = write!(&mut out[start..start + SUM_DIGITS], "{sum:08x}");
        out.push(b'\n');
    }

    /// None: damaged.
    pub(super) fn read(line: &[u8]) -> Option<Self> {
        let (said, json) = line.split_at_checked(SUM_DIGITS + 1)?;
        let said = std::str::from_utf8(&said[..SUM_DIGITS]).ok()?;
        if u32::from_str_radix(said, 16).ok()? != crc32fast::hash(json) {
            return None;
        }
        serde_json::from_slice(json).ok()
    }
}

// === impl Kept ===

impl<'a> Kept<'a> {
    /// With the lists that its line refers to.
    pub(super) fn of(record: &'a Record) -> (Self, Lists<'a>) {
        let mut lists = Vec::new();
        if let Asked::Items { tags, .. } = &record.asked {
            lists.extend(tags.chunks(TAGS_PER_LIST).map(|some| (list(some), some)));
        }
        let kept = Self {
            id: record.id.0,
            at_ms: record.at_ms,
            generation: record.facts.generation,
            asked: Cow::Borrowed(&record.asked),
            tags: lists.iter().map(|(name, _)| name.clone()).collect(),
            answered: Cow::Borrowed(&record.answered),
            ruled: record.ruled,
            cause: record.cause,
            took_ns: record.took_ns,
        };
        (kept, lists)
    }

    /// None: its generation or a list of its tags is lost.
    pub(super) fn record(
        self,
        set: impl Fn(u64) -> Option<Arc<SetFacts>>,
        list: impl Fn(&str) -> Option<Arc<[Arc<str>]>>,
    ) -> Option<Record> {
        let mut asked = self.asked.into_owned();
        if let Asked::Items { tags, .. } = &mut asked {
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
            asked,
            answered: self.answered.into_owned(),
            ruled: self.ruled,
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
