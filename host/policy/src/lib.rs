//! Loads, proves, swaps and runs Tidegate's policy components. The only crate that knows wasmtime; knows
//! nothing of gRPC, streams or storage. Map: `host` (what the gateway holds) asks `decider` (threads),
//! which call the `generation` that `control` points to; `swapper` watches `folder`, brings what changed
//! through `gate` and has `control` flip; `warden` takes back what keeps failing. Invariants: a decision
//! is made by exactly one generation, and a guest that fails changes no answer but its own.

mod cache;
mod config;
mod contract;
mod control;
mod counters;
mod decider;
mod embedded;
mod engine;
mod evidence;
mod failure;
mod folder;
mod gate;
mod generation;
#[cfg(test)]
#[path = "../tests/support/guests.rs"]
mod guests;
mod host;
mod instance;
#[cfg(test)]
mod measure;
mod model;
mod packed;
mod quick;
mod record;
mod shadow;
mod sign;
mod starting;
mod store;
mod swapper;
mod ticker;
mod trust;
mod warden;
mod words;

pub use config::{Breaker, Deadlines, Limits, PolicyConfig, StartError, Trust, Watch};
pub use control::FlipHook;
pub use counters::{Counters, PolicyCounters};
pub use evidence::{
    Change, Comparison, DecisionId, DecisionLog, Last, MemberFacts, Mismatch, Reading, Record, Replay, SetFacts, Window,
};
pub use gate::{Cost, Inspection, Refusal, RefusalCode, Tried, Wanted, Workbench};
pub use host::{Candidate, PastError, PolicyHost, PromoteError, Warm};
pub use model::*;
pub use record::{
    Approval, Fence, Held, Listing, Origin, Outcome, PinReason, PolicyRow, RollbackError, SwapRecord, Trigger,
    UnknownDigest,
};
pub use shadow::{ShadowCounts, ShadowStatus};
pub use sign::{
    KeyError, SignatureFault, TrustedKeys, new_keys, settings_json, settings_statement, sign, sign_settings, statement,
};
pub use starting::Starting;
