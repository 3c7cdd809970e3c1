//! What each class of readers may see: one verdict per item key, made by one generation, shared by all
//! readers of the same key. Knows when a verdict is stale, not what a stream does about it.
//! Invariant: the `Stamp` of a set of verdicts says exactly which questions it answers; a stream that
//! finds another stamp current must not hand over what it composed.

use super::{Caller, items::Items, session::Session};
use crate::{
    error::{Code, Error, Result},
    policies::Policies,
};
use arc_swap::ArcSwap;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tidegate_policy::{Action, Principal, SessionFacts};
use tokio::time::Instant;

/// What verdicts depend on. Streams compare it before each batch (semantics.md, Decisions and swaps).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub generation: u64,
    pub key_revision: u64,
    /// Items of the session that have a verdict.
    pub items: u64,
}

/// Immutable; replaced as a whole.
#[derive(Debug)]
pub struct Verdicts {
    pub stamp: Stamp,
    /// The class may not stream at all: what its streams end with.
    pub refused: Option<Error>,
    /// Every item known is visible: the batch needs no look at single events.
    pub all: bool,
    by_key: HashMap<u64, bool>,
}

/// The readers of one session that have the same rights: one API key from one address with one certificate.
#[derive(Debug)]
pub struct Class {
    caller: Caller,
    principal: Principal,
    facts: SessionFacts,
    verdicts: ArcSwap<Verdicts>,
    /// One judgement at a time; those who wait share its result.
    judging: tokio::sync::Mutex<()>,
}

/// Pauses before a question that got no answer is asked again: from the first, doubling, to the second.
const RETRY_FIRST: Duration = Duration::from_millis(5);
const RETRY_LAST: Duration = Duration::from_millis(200);
/// How long streams pause for a policy that gives no answers before they end: time for the breaker to put the
/// generation before back. A paused stream loses nothing that the log's bounds keep. Guessed.
const PATIENCE: Duration = Duration::from_secs(10);

// === impl Verdicts ===

impl Verdicts {
    /// May the class see events of this item? Key 0 is about no item; unknown keys are not seen.
    pub fn sees(&self, item_key: u64) -> bool {
        item_key == 0 || self.by_key.get(&item_key).copied().unwrap_or(false)
    }

    fn refused(stamp: Stamp, error: Error) -> Self {
        Self { stamp, refused: Some(error), all: false, by_key: HashMap::new() }
    }
}

// === impl Class ===

impl Class {
    pub fn new(caller: Caller, facts: SessionFacts) -> Self {
        let principal = caller.principal();
        let nothing = Verdicts {
            // No generation has this number, so the first look finds it stale.
            stamp: Stamp { generation: 0, key_revision: 0, items: 0 },
            refused: None,
            all: false,
            by_key: HashMap::new(),
        };
        Self {
            caller,
            principal,
            facts,
            verdicts: ArcSwap::from_pointee(nothing),
            judging: tokio::sync::Mutex::new(()),
        }
    }

    pub fn current(&self) -> Arc<Verdicts> {
        self.verdicts.load_full()
    }

    /// Brings the verdicts up to the session's current stamp and returns them. Judges only what is new
    /// when just items came; everything when the generation or the keys changed.
    pub async fn refresh(&self, session: &Session, policies: &Policies) -> Arc<Verdicts> {
        let _one_at_a_time = self.judging.lock().await;
        let patience = Instant::now() + PATIENCE;
        let mut pause = RETRY_FIRST;
        loop {
            let before = self.current();
            let wanted = session.stamp(policies);
            if before.stamp == wanted {
                return before;
            }
            let made = match self.judge(session, policies, &before, wanted).await {
                Some(made) => made,
                None if Instant::now() < patience && !session.log.is_closed() => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_LAST);
                    continue;
                }
                None => Verdicts::refused(
                    wanted,
                    Error::new(Code::PolicyFailed, "the access policy gave no answer, and no answer means no"),
                ),
            };
            let made = Arc::new(made);
            self.verdicts.store(made.clone());
            if made.stamp == session.stamp(policies) || made.refused.is_some() {
                return made;
            }
        }
    }

    /// `None`: no room at the policy threads, a guest that failed, or a flip in the middle; ask again.
    async fn judge(
        &self,
        session: &Session,
        policies: &Policies,
        before: &Verdicts,
        wanted: Stamp,
    ) -> Option<Verdicts> {
        if !session.key_is_live(&self.caller.key) {
            let error = Error::new(Code::AuthInvalid, "the key of this stream was revoked");
            return Some(Verdicts::refused(wanted, error));
        }
        let same_rules =
            before.stamp.generation == wanted.generation && before.stamp.key_revision == wanted.key_revision;
        let since = if same_rules { before.stamp.items } else { 0 };
        if !same_rules || before.refused.is_some() {
            let decision = policies.host().access(&self.principal, &self.facts, Action::Read).await;
            if decision.cause.is_some() || decision.generation.0 != wanted.generation {
                return None;
            }
            if let Err(error) = policies.verdict(decision) {
                return Some(Verdicts::refused(wanted, error));
            }
        }
        let new = session.with_items(|items: &mut Items| items.added_since(since));
        let mut by_key = if same_rules { before.by_key.clone() } else { HashMap::with_capacity(new.len()) };
        if !new.is_empty() {
            let tags: Vec<Arc<str>> = new.iter().map(|item| item.tag.clone()).collect();
            let decision = policies.judge(&self.principal, &self.facts, &tags).await;
            if decision.cause.is_some() || decision.generation.0 != wanted.generation {
                return None;
            }
            for (item, verdict) in new.iter().zip(&decision.value) {
                by_key.insert(item.key, verdict.allow);
            }
        }
        if same_rules {
            // Items whose events have left the log need no verdict any more.
            session.with_items(|items: &mut Items| by_key.retain(|key, _| items.knows(*key)));
        }
        let all = by_key.values().all(|seen| *seen);
        Some(Verdicts { stamp: wanted, refused: None, all, by_key })
    }
}

/// The class's verdicts after a refresh, or why it may not read at all.
pub async fn fresh(class: &Class, session: &Session, policies: &Policies) -> Result<Arc<Verdicts>> {
    let verdicts = class.refresh(session, policies).await;
    match &verdicts.refused {
        Some(error) => Err(error.clone()),
        None => Ok(verdicts),
    }
}
