//! Which alarms a key may see: the access policy's verdict about reading the tag, kept for one generation and one state of
//! the keys. Knows tags, not alarms. Invariant: a verdict is used only while the stamp that it was made under is the
//! current one; without an answer of the policy there is none, and nothing is seen.

use super::super::{Caller, Session};
use crate::{
    error::{Code, Error, Result},
    policies::Policies,
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tidegate_policy::{Action, Principal, SessionFacts};
use tokio::time::{Instant, sleep};

/// Pauses before a question without an answer is asked again, and how long that goes on; as for event streams.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LAST: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(10);
/// Verdicts kept. More: those of tags that do not alarm now are forgotten. Guessed.
const VERDICTS_MAX: usize = 20_000;

#[derive(Debug)]
pub(super) struct Rights {
    caller: Caller,
    principal: Principal,
    facts: SessionFacts,
    /// Generation and key revision; none is 0.
    stamp: (u64, u64),
    by_tag: HashMap<Arc<str>, bool>,
}

// === impl Rights ===

impl Rights {
    pub(super) fn new(caller: Caller, session: &Session) -> Self {
        let principal = caller.principal();
        Self { caller, principal, facts: session.facts.clone(), stamp: (0, 0), by_tag: HashMap::new() }
    }

    pub(super) fn generation(&self) -> u64 {
        self.stamp.0
    }

    pub(super) fn is_current(&self, session: &Session, policies: &Policies) -> bool {
        self.stamp == stamp(session, policies)
    }

    /// False also for a tag that has no verdict.
    pub(super) fn sees(&self, tag: &str) -> bool {
        self.by_tag.get(tag).copied().unwrap_or(false)
    }

    pub(super) fn knows(&self, tag: &str) -> bool {
        self.by_tag.contains_key(tag)
    }

    /// Judges anew what is known, if the generation or the keys have changed. True: something is seen now that was not, or
    /// the other way round.
    pub(super) async fn renew(&mut self, session: &Session, policies: &Policies) -> Result<bool> {
        let patience = Instant::now() + PATIENCE;
        let mut pause = RETRY_FIRST;
        while !self.is_current(session, policies) {
            if !session.key_is_live(&self.caller.key) {
                return Err(Error::new(Code::AuthInvalid, "the key of this stream was revoked"));
            }
            let wanted = stamp(session, policies);
            let decision = policies.host().access(&self.principal, &self.facts, Action::Read).await;
            if decision.cause.is_none() && decision.generation.0 == wanted.0 {
                policies.verdict(decision)?;
                let tags: Vec<Arc<str>> = self.by_tag.keys().cloned().collect();
                if let Some(judged) = self.ask(policies, &tags, wanted.0).await {
                    let before = std::mem::replace(&mut self.by_tag, judged);
                    self.stamp = wanted;
                    return Ok(before != self.by_tag);
                }
            }
            if Instant::now() > patience {
                return Err(no_answer());
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
        Ok(false)
    }

    /// Sees to it that there is a verdict for each of these tags. False: the stamp is not the current one any more.
    pub(super) async fn judge(&mut self, session: &Session, policies: &Policies, tags: &[Arc<str>]) -> Result<bool> {
        if self.by_tag.len() > VERDICTS_MAX {
            let now: std::collections::HashSet<&Arc<str>> = tags.iter().collect();
            self.by_tag.retain(|tag, _| now.contains(tag));
        }
        let mut unknown: Vec<Arc<str>> = tags.iter().filter(|tag| !self.knows(tag)).cloned().collect();
        unknown.sort_unstable();
        unknown.dedup();
        let patience = Instant::now() + PATIENCE;
        let mut pause = RETRY_FIRST;
        while self.is_current(session, policies) {
            if let Some(judged) = self.ask(policies, &unknown, self.stamp.0).await {
                self.by_tag.extend(judged);
                return Ok(self.is_current(session, policies));
            }
            if Instant::now() > patience {
                return Err(no_answer());
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_LAST);
        }
        Ok(false)
    }

    /// `None`: no answer of that generation.
    async fn ask(&self, policies: &Policies, tags: &[Arc<str>], generation: u64) -> Option<HashMap<Arc<str>, bool>> {
        if tags.is_empty() {
            return Some(HashMap::new());
        }
        let decision = policies.judge(&self.principal, &self.facts, tags).await;
        if decision.cause.is_some() || decision.generation.0 != generation {
            return None;
        }
        Some(tags.iter().cloned().zip(decision.value.iter().map(|verdict| verdict.allow)).collect())
    }
}

fn stamp(session: &Session, policies: &Policies) -> (u64, u64) {
    let stamp = session.stamp(policies);
    (stamp.generation, stamp.key_revision)
}

fn no_answer() -> Error {
    Error::new(Code::PolicyFailed, "the access policy gave no answer, and no answer means no")
}
