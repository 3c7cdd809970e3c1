//! The decision log: what was asked and answered, by which component with which settings, kept for explaining,
//! replaying and comparing. Knows questions and answers, not threads that decide. Invariants: whoever decides never
//! waits for it; what does not fit is dropped and counted; nothing in it is a tag's value or a secret.

mod compare;
mod explain;
mod files;
mod line;
mod question;
mod reading;
mod recorder;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::gate::Loaded;
use crate::model::*;

pub(crate) use compare::{Asking, Budget};
pub use compare::{Change, Comparison, Mismatch, Replay};
pub(crate) use question::{Answered, Asked, IntoAnswered, KeptAction, Place, Who, exact};
pub use reading::{Last, Reading, Window};
pub(crate) use recorder::{Listener, Recorder, now_ms};

/// Names a decision, over restarts too: rises by one with each decision of a run, from the run's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DecisionId(pub u64);

/// Where decisions are kept.
#[derive(Clone, Debug)]
pub struct DecisionLog {
    /// Of one file; a full one is followed by a new one.
    pub file_bytes_max: u64,
    /// The oldest is removed when there are more; 0: nothing is kept.
    pub files_max: usize,
}

/// Who answered what in one generation: enough to explain a decision when the generation is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetFacts {
    pub generation: u64,
    /// By policy; absent: access was closed.
    pub members: Vec<MemberFacts>,
}

/// One component of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberFacts {
    pub policy: Policy,
    pub name: String,
    pub version: String,
    /// The file, or `embedded`.
    pub file: String,
    pub digest: String,
    pub settings_digest: String,
    pub rules: Vec<String>,
    /// What the rules say, where the component's contract has words for them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub texts: Vec<String>,
}

/// One decision as it is kept.
#[derive(Clone, Debug)]
pub struct Record {
    pub id: DecisionId,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub facts: Arc<SetFacts>,
    pub(crate) asked: Asked,
    pub(crate) answered: Answered,
    /// Which rule said so, where the answer does not carry it itself.
    pub(crate) ruled: Option<u16>,
    /// The guest gave no answer, and the failure matrix did.
    pub cause: Option<FailureCause>,
    /// In the guest.
    pub took_ns: u64,
}

// === impl DecisionId ===

impl DecisionId {
    pub fn parse(text: &str) -> Option<Self> {
        let well = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        well.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl std::fmt::Display for DecisionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

// === impl Record ===

impl Record {
    pub fn policy(&self) -> Policy {
        self.asked.policy()
    }

    /// None: access was closed.
    pub fn member(&self) -> Option<&MemberFacts> {
        self.facts.members.iter().find(|member| member.policy == self.policy())
    }

    /// Tags in the question, at least 1.
    pub(crate) fn weight(&self) -> usize {
        self.asked.weight()
    }

    /// Key, person or node that it was about.
    pub fn who(&self) -> &str {
        self.asked.who()
    }

    pub fn session(&self) -> &str {
        self.asked.session()
    }

    /// The question and the answer as JSON.
    pub fn question(&self) -> String {
        self.asked.to_json()
    }

    pub fn answer(&self) -> String {
        self.answered.to_json()
    }

    /// Did somebody get less than was asked for? The same for the log, its readers and the metrics.
    pub fn denied(&self) -> bool {
        self.answered.denies() || self.bucket_is_short()
    }

    /// The policy let it pass as far as its bucket holds, and the bucket held too little.
    pub(crate) fn bucket_is_short(&self) -> bool {
        match (&self.asked, &self.answered) {
            (Asked::RateLimit { what, .. }, Answered::RateLimit(RateAnswer::Pass { burst, .. })) => {
                what.tokens.map_or(*burst, |tokens| tokens.min(*burst)) < f64::from(what.cost)
            }
            _ => false,
        }
    }

    /// Is it about this tag?
    pub fn mentions(&self, tag: &str) -> bool {
        self.asked.mentions(tag)
    }

    pub fn reason(&self) -> &str {
        self.answered.reason()
    }

    /// The name of the rule that answered, where one did.
    pub fn rule(&self) -> Option<&str> {
        let rule = self.rule_index()?;
        match self.member() {
            None => Some(crate::failure::CLOSED_RULE),
            Some(_) if self.cause.is_some() => None,
            Some(member) => member.rules.get(usize::from(rule)).map(String::as_str),
        }
    }

    /// What that rule says, where its component has words for it.
    pub fn rule_text(&self) -> Option<&str> {
        let (rule, member) = (self.rule_index()?, self.member().filter(|_| self.cause.is_none())?);
        member.texts.get(usize::from(rule)).map(String::as_str).filter(|text| !text.is_empty())
    }

    pub(crate) fn rule_index(&self) -> Option<u16> {
        self.ruled.or_else(|| self.answered.rule())
    }
}

// === impl SetFacts ===

impl SetFacts {
    pub(crate) fn of<'a>(generation: GenerationId, answerer: impl Fn(Policy) -> Option<&'a Arc<Loaded>>) -> Self {
        let member = |policy| {
            let loaded = answerer(policy)?;
            Some(MemberFacts {
                policy,
                name: loaded.name.clone(),
                version: loaded.version.clone(),
                file: if loaded.source.embedded { "embedded".to_owned() } else { loaded.source.file.to_string() },
                digest: loaded.source.digest.to_hex(),
                settings_digest: loaded.source.settings_digest.to_hex(),
                rules: loaded.rules.iter().map(|rule| rule.to_string()).collect(),
                texts: loaded.pre.rule_texts.iter().map(|text| text.to_string()).collect(),
            })
        };
        Self { generation: generation.0, members: Policy::ALL.into_iter().filter_map(member).collect() }
    }
}

impl Default for DecisionLog {
    /// 64 MiB: some 200,000 decisions.
    fn default() -> Self {
        Self { file_bytes_max: 8 << 20, files_max: 8 }
    }
}

/// How long a reader of the log waits for what is still on its way into the files.
const FLUSH: Duration = Duration::from_secs(5);
