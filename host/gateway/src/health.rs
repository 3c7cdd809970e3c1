//! How the gateway is: ready or not, and which parts do not do their work. Knows no part, only their names
//! and what they say. Invariant: asking costs no wait and no input or output.

use crate::error::Error;
use serde::Serialize;

/// Everything that can be degraded, as health, `tidegate status` and the runbooks call it.
pub const PARTS: [&str; 8] =
    ["storage", "policy-store", "compile-cache", "policies", "decisions", "log", "certificate", "internal-sessions"];

/// How the gateway is. `ready` without `degraded`: all is well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// Takes new sessions.
    pub ready: bool,
    /// Parts that are away or failing; the rest goes on.
    pub degraded: Vec<Degraded>,
}

/// A part that does not do its work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Degraded {
    /// One of `PARTS`.
    pub part: &'static str,
    /// For people; no secrets, no values.
    pub message: String,
    /// Dotted error code, where the part has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
}

/// Whoever knows how the parts are. Asked per request; must answer at once.
pub trait HealthSource: Send + Sync + 'static {
    fn health(&self) -> Health;
}

// === impl Degraded ===

impl Degraded {
    pub fn new(part: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(PARTS.contains(&part), "{part} has no runbook");
        Self { part, message: message.into(), code: None }
    }

    /// A part that says itself what is wrong.
    pub fn by(part: &'static str, error: &Error) -> Self {
        Self { code: Some(error.code().as_str()), ..Self::new(part, error.message()) }
    }
}
