//! The version floor in force and what the policy says of a version under it. Compares no versions: it
//! checks the floor's form and keeps the policy's verdicts by (generation, floor revision, version, kind).
//! Invariants: no verdict outlives its generation or its floor; a damaged floor admits nobody.

use super::Version;
use crate::{
    error::{Code, Error, Result},
    storage::FloorRow,
};
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, pin::Pin, sync::Arc};
use tidegate_policy::{Admission, Decision, FailureCause, GenerationId};

/// Verdicts kept; full: all are forgotten and asked again. A fleet has a few versions, not thousands.
const VERDICTS_MAX: usize = 4096;
/// How often one question is asked again because the generation changed meanwhile. Guessed: swaps are far
/// rarer than answers, so more means that something is broken.
const ASK_MAX: usize = 16;

/// Whoever decides about versions.
pub trait FloorPolicy: Send + Sync + fmt::Debug {
    fn generation(&self) -> GenerationId;
    fn admit<'a>(
        &'a self,
        kind: &'a str,
        version: &'a str,
        floor: Option<&'a str>,
    ) -> Pin<Box<dyn Future<Output = Decision<Admission>> + Send + 'a>>;
}

/// A verdict and what it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub may_write: bool,
    pub floor: Option<String>,
    pub generation: u64,
}

#[derive(Debug)]
pub(super) struct Floors {
    policy: Arc<dyn FloorPolicy>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    row: FloorRow,
    /// Rises with every change seen, also with one that somebody made in the file.
    turn: u64,
    /// What the verdicts are of.
    stamp: (GenerationId, u64),
    verdicts: HashMap<(Arc<str>, Arc<str>), Admission>,
}

// === impl Floors ===

impl Floors {
    pub(super) fn new(row: FloorRow, policy: Arc<dyn FloorPolicy>) -> Self {
        let stamp = (policy.generation(), 0);
        let floors = Self { policy, state: Mutex::new(State { row, turn: 0, stamp, verdicts: HashMap::new() }) };
        floors.complain();
        floors
    }

    pub(super) fn present(&self) -> FloorRow {
        self.state.lock().row.clone()
    }

    /// A floor that was committed, or that was found in storage. An older one than the present is late and
    /// thrown away.
    pub(super) fn replace(&self, row: FloorRow) {
        let mut state = self.state.lock();
        if row.revision < state.row.revision || row == state.row {
            return;
        }
        state.row = row;
        state.turn += 1;
        drop(state);
        self.complain();
    }

    fn complain(&self) {
        if let Some(words) = self.trouble() {
            tracing::error!(code = Code::VersionFloorMalformed.as_str(), "{words}");
        }
    }

    pub(super) fn trouble(&self) -> Option<String> {
        damaged(&self.state.lock().row).then(|| "the stored version floor is malformed; nodes cannot write".to_owned())
    }

    /// What the policy says now of this version.
    pub(super) async fn judge(&self, kind: &Arc<str>, version: &Arc<str>) -> Result<Judged> {
        for _ in 0..ASK_MAX {
            let generation = self.policy.generation();
            let (floor, turn) = {
                let mut state = self.state.lock();
                if damaged(&state.row) {
                    return Err(Error::new(
                        Code::VersionFloorMalformed,
                        "the stored version floor is malformed, so no node is admitted and none may write",
                    )
                    .with("revision", state.row.revision));
                }
                let stamp = (generation, state.turn);
                if state.stamp == stamp {
                    if let Some(known) = state.verdicts.get(&(version.clone(), kind.clone())) {
                        return judged(known.clone(), state.row.floor.clone(), generation);
                    }
                } else if stamp > state.stamp {
                    state.stamp = stamp;
                    state.verdicts.clear();
                }
                (state.row.floor.clone(), state.turn)
            };
            let decision = self.policy.admit(kind, version, floor.as_deref()).await;
            if let Some(cause) = decision.cause {
                return Err(failed(cause));
            }
            let mut state = self.state.lock();
            if decision.generation != self.policy.generation() || state.turn != turn {
                continue;
            }
            if state.stamp == (decision.generation, turn) {
                if state.verdicts.len() >= VERDICTS_MAX {
                    state.verdicts.clear();
                }
                state.verdicts.insert((version.clone(), kind.clone()), decision.value.clone());
            }
            drop(state);
            return judged(decision.value, floor, decision.generation);
        }
        Err(Error::new(Code::PolicyBusy, "policies change faster than they can be asked; try again"))
    }
}

/// Form only: which version is newer is the policy's to say.
fn damaged(row: &FloorRow) -> bool {
    row.floor.as_deref().is_some_and(|floor| Version::read(floor).is_none())
}

fn judged(admission: Admission, floor: Option<String>, generation: GenerationId) -> Result<Judged> {
    let generation = generation.0;
    match admission {
        Admission::ReadWrite => Ok(Judged { may_write: true, floor, generation }),
        Admission::ReadOnly => Ok(Judged { may_write: false, floor, generation }),
        Admission::Refused { reason } => {
            Err(Error::new(Code::VersionRefused, format!("the version-floor policy does not admit the node: {reason}"))
                .with("reason", reason)
                .with("generation", generation))
        }
    }
}

fn failed(cause: FailureCause) -> Error {
    let error = match cause {
        FailureCause::QueueFull => Error::new(Code::PolicyBusy, "too many decisions are waiting; try again"),
        _ => Error::new(Code::PolicyFailed, "the version-floor policy failed, and failing means no"),
    };
    error.with("policy", "version-floor").with("cause", cause.as_str())
}
