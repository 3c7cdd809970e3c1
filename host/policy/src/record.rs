//! What operators are shown: swaps and refusals, the serving set. Plain values. Invariant: nothing here
//! carries settings, tags or keys.

use serde::{Deserialize, Serialize};

use crate::evidence::Comparison;
use crate::gate::{Refusal, RefusalCode};
use crate::model::*;

/// One attempt to change what decides.
#[derive(Clone, Debug)]
pub struct SwapRecord {
    /// Rises with every attempt.
    pub number: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub trigger: Trigger,
    pub outcome: Outcome,
    /// The generation that served before, and the one that serves after (the same if refused).
    pub from: GenerationId,
    pub to: GenerationId,
    /// Files that changed.
    pub files: Vec<String>,
    /// Set when refused.
    pub code: Option<RefusalCode>,
    /// The file at fault, when refused; the first of `refusals`.
    pub file: Option<String>,
    pub message: String,
    /// Every file that was refused, each with its own reason; at most `REFUSALS_MAX`.
    pub refusals: Vec<Refusal>,
    /// Refused beyond those.
    pub refusals_more: usize,
    /// Reading, compiling and proving.
    pub gate_us: u64,
    /// From the moved pointer until the hooks had returned.
    pub flip_us: u64,
    /// What was in the transport when the pointer had moved.
    pub fences: Vec<Fence>,
    /// From the flip until the gateway reported the last stream judged again.
    pub enforced_us: Option<u64>,
    /// What the candidates would have answered otherwise to the latest questions; None: nothing was compared.
    pub difference: Option<Comparison>,
}

/// The last event of a stream that the old generation let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// Session and stream, as the gateway names them.
    pub stream: String,
    pub epoch: u64,
    pub sequence: u64,
}

/// Why it was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    Start,
    Folder,
    Reload,
    Rollback,
    /// A component failed too often.
    Breaker,
    /// An operator let in what was held.
    Approval,
    /// A shadow was promoted.
    Promotion,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Swapped,
    Refused,
    /// There was nothing to change.
    Unchanged,
}

/// The serving set and the latest attempts.
#[derive(Clone, Debug)]
pub struct Listing {
    pub generation: GenerationId,
    /// None, or why changes in the folder are not taken.
    pub pinned: Option<PinReason>,
    /// One per question.
    pub policies: Vec<PolicyRow>,
    /// Identities (component and settings) that were taken back and are refused.
    pub poisoned: Vec<Digest>,
    /// Files that are there but seem to be being written.
    pub pending: Vec<String>,
    /// Earlier sets that a roll-back can reach.
    pub earlier: usize,
    /// The serving one, and those before it with calls under way.
    pub live_generations: usize,
    /// What stands in the folder and is not taken, each with its reason; as many as files are looked at.
    pub refused: Vec<Refusal>,
    /// What waits for an operator's approval.
    pub held: Vec<Held>,
    /// Components that an operator approved, newest last.
    pub approved: Vec<Approval>,
    /// Newest last; at most 64.
    pub swaps: Vec<SwapRecord>,
}

/// A component that could serve if an operator said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub file: String,
    /// Of component and settings together: what is approved.
    pub identity: Digest,
    pub code: RefusalCode,
    pub message: String,
}

/// An operator's word about a component with its settings; kept over restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Of component and settings together, hexadecimal.
    pub identity: String,
    /// Milliseconds since the Unix epoch.
    pub at_ms: u64,
    pub reason: String,
}

/// Imports that a component which served here was given; kept over restarts. Another component for the same questions
/// that wants no more needs no word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Granted {
    /// SHA-256 of the component, hexadecimal; whatever its settings.
    pub(crate) component: String,
    pub(crate) answers: Vec<Policy>,
    /// Without versions.
    pub(crate) imports: Vec<String>,
}

/// Refusals that one record holds; an attempt can be about `Limits::files_max` files. Guessed: a screen of them.
pub(crate) const REFUSALS_MAX: usize = 16;

/// Who pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinReason {
    /// `policy pin`: until `policy pin --off` or `policy reload`.
    Operator,
    /// A roll-back: until a file changes or `policy reload`.
    Rollback,
}

/// Who answers one question.
#[derive(Clone, Debug)]
pub struct PolicyRow {
    pub policy: Policy,
    pub name: String,
    pub version: String,
    pub digest: Digest,
    pub settings_digest: Digest,
    pub origin: Origin,
    pub rules: Vec<String>,
    /// Version of the contract it keeps.
    pub contract: &'static str,
    /// Name of the trusted key that signed component and settings.
    pub signer: Option<String>,
}

/// Where an answerer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Part of this build.
    Embedded,
    /// That file of the folder.
    File(String),
    /// From nowhere: what answered access was removed or is refused, and everything is denied.
    Closed,
}

/// Neither a digest, nor the beginning of one that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nothing that is held has this digest; give all 64 digits to approve ahead of time")]
pub struct UnknownDigest;

/// Why there was no roll-back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RollbackError {
    #[error("there is no earlier set to go back to")]
    Nothing,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

// === impls ===

impl SwapRecord {
    /// What was refused, of what seems to answer access, or else of anything.
    pub(crate) fn access_code(&self) -> Option<RefusalCode> {
        let access = |refusal: &&Refusal| refusal.file.split('.').next() == Some(Policy::Access.name());
        self.refusals.iter().find(access).map(|refusal| refusal.code).or(self.code)
    }
}

impl Trigger {
    pub const fn as_str(self) -> &'static str {
        match self {
            Trigger::Start => "start",
            Trigger::Folder => "folder",
            Trigger::Reload => "reload",
            Trigger::Rollback => "rollback",
            Trigger::Breaker => "breaker",
            Trigger::Approval => "approval",
            Trigger::Promotion => "promotion",
        }
    }
}

impl PinReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            PinReason::Operator => "operator",
            PinReason::Rollback => "rollback",
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Origin::Embedded => "embedded",
            Origin::File(name) => name,
            Origin::Closed => "closed",
        })
    }
}

impl Outcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Swapped => "swapped",
            Outcome::Refused => "refused",
            Outcome::Unchanged => "unchanged",
        }
    }
}
