//! The version floor in force and what the policy says of a version under it. Compares no versions: it
//! checks the floor's form and keeps the policy's verdicts by (generation, floor revision, version, kind).
//! Invariants: no verdict outlives its generation or its floor; a floor that is damaged, lost or older than one
//! seen before admits nobody until it is set again; one that was set is in force at once.

use super::Version;
use crate::{
    error::{Code, Error, Result},
    storage::FloorRow,
};
use parking_lot::Mutex;
use std::{collections::HashMap, fmt, pin::Pin, sync::Arc};
use tidegate_policy::{Admission, Decision, DecisionId, FailureCause, GenerationId};

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
    /// Of the verdict, kept with it.
    pub decision: DecisionId,
}

#[derive(Debug)]
pub(super) struct Floors {
    policy: Arc<dyn FloorPolicy>,
    state: Mutex<State>,
}

/// What is wrong with the stored floor. Each stops the writes of nodes until the floor is set again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Malformed,
    /// Its row is gone.
    Lost,
    /// Its row is older than one that this gateway has seen.
    Rewound {
        to: u64,
    },
}

#[derive(Debug)]
struct State {
    /// The newest one seen; not in force while there is a fault.
    row: FloorRow,
    fault: Option<Fault>,
    /// Rises with every change seen, also with one that somebody made in the file.
    turn: u64,
    /// What the verdicts are of.
    stamp: (GenerationId, u64),
    verdicts: HashMap<(Arc<str>, Arc<str>), (Admission, DecisionId)>,
}

// === impl Floors ===

impl Floors {
    /// `None`: the database has no row of it.
    pub(super) fn new(row: Option<FloorRow>, policy: Arc<dyn FloorPolicy>) -> Self {
        let fault = fault(row.as_ref(), 0);
        let row = row.unwrap_or(FloorRow { floor: None, revision: 0, set_unix_ms: 0 });
        let stamp = (policy.generation(), 0);
        let floors = Self { policy, state: Mutex::new(State { row, fault, turn: 0, stamp, verdicts: HashMap::new() }) };
        floors.complain();
        floors
    }

    /// The floor in force, or what is wrong with it.
    pub(super) fn present(&self) -> Result<FloorRow> {
        let state = self.state.lock();
        state.sound()?;
        Ok(state.row.clone())
    }

    /// The newest revision seen; what is set from now on has to be above it.
    pub(super) fn revision(&self) -> u64 {
        self.state.lock().row.revision
    }

    /// To be asked before storage is looked at, and told to `found`.
    pub(super) fn turn(&self) -> u64 {
        self.state.lock().turn
    }

    /// A floor that was committed just now: in force at once, whatever was there.
    pub(super) fn committed(&self, row: FloorRow) {
        let mut state = self.state.lock();
        state.fault = None;
        state.row = row;
        state.turn += 1;
    }

    /// What a look at storage that began at `turn` found. If anything changed meanwhile, the look is late and thrown
    /// away: the next one tells.
    pub(super) fn found(&self, turn: u64, row: Option<FloorRow>) {
        let mut state = self.state.lock();
        if state.turn != turn {
            return;
        }
        let fault = fault(row.as_ref(), state.row.revision);
        let row = row.filter(|row| row.revision >= state.row.revision).unwrap_or_else(|| state.row.clone());
        if (fault, &row) == (state.fault, &state.row) {
            return;
        }
        state.fault = fault;
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
        let fault = self.state.lock().fault?;
        Some(format!("{fault}; nodes cannot write"))
    }

    /// What the policy says now of this version.
    pub(super) async fn judge(&self, kind: &Arc<str>, version: &Arc<str>) -> Result<Judged> {
        for _ in 0..ASK_MAX {
            let generation = self.policy.generation();
            let (floor, turn) = {
                let mut state = self.state.lock();
                state.sound()?;
                let stamp = (generation, state.turn);
                if state.stamp == stamp {
                    if let Some((known, decision)) = state.verdicts.get(&(version.clone(), kind.clone())) {
                        return judged(known.clone(), state.row.floor.clone(), generation, *decision);
                    }
                } else if stamp > state.stamp {
                    state.stamp = stamp;
                    state.verdicts.clear();
                }
                (state.row.floor.clone(), state.turn)
            };
            let decision = self.policy.admit(kind, version, floor.as_deref()).await;
            if let Some(cause) = decision.cause {
                return Err(failed(cause).with("decision", decision.id));
            }
            let mut state = self.state.lock();
            if decision.generation != self.policy.generation() || state.turn != turn {
                continue;
            }
            if state.stamp == (decision.generation, turn) {
                if state.verdicts.len() >= VERDICTS_MAX {
                    state.verdicts.clear();
                }
                state.verdicts.insert((version.clone(), kind.clone()), (decision.value.clone(), decision.id));
            }
            drop(state);
            return judged(decision.value, floor, decision.generation, decision.id);
        }
        Err(Error::new(Code::PolicyBusy, "policies change faster than they can be asked; try again"))
    }
}

// === impl State ===

impl State {
    fn sound(&self) -> Result<()> {
        let Some(fault) = self.fault else { return Ok(()) };
        let words = format!("{fault}, so no node is admitted and none may write");
        Err(Error::new(Code::VersionFloorMalformed, words)
            .with("damage", fault.name())
            .with("revision", self.row.revision))
    }
}

// === impl Fault ===

impl Fault {
    fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Lost => "lost",
            Self::Rewound { .. } => "rewound",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("the stored version floor is malformed"),
            Self::Lost => f.write_str("the database has lost its row of the version floor"),
            Self::Rewound { to } => write!(f, "the stored version floor went back to revision {to}"),
        }
    }
}

/// Form and revision only: which version is newer is the policy's to say.
fn fault(row: Option<&FloorRow>, seen: u64) -> Option<Fault> {
    let Some(row) = row else { return Some(Fault::Lost) };
    if row.floor.as_deref().is_some_and(|floor| Version::read(floor).is_none()) {
        return Some(Fault::Malformed);
    }
    (row.revision < seen).then_some(Fault::Rewound { to: row.revision })
}

fn judged(
    admission: Admission,
    floor: Option<String>,
    generation: GenerationId,
    decision: DecisionId,
) -> Result<Judged> {
    let generation = generation.0;
    match admission {
        Admission::ReadWrite => Ok(Judged { may_write: true, floor, generation, decision }),
        Admission::ReadOnly => Ok(Judged { may_write: false, floor, generation, decision }),
        Admission::Refused { reason } => {
            Err(Error::new(Code::VersionRefused, format!("the version-floor policy does not admit the node: {reason}"))
                .with("reason", reason)
                .with("generation", generation)
                .with("decision", decision))
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
