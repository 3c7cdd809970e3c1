//! How the gateway is: ready or not, and which parts do not do their work. Knows no part, only their names
//! and what they say. Invariants: asking costs no wait and no input or output; who may not see everything hears which part
//! and which code, not its words.

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
    /// For operators: it can name sessions, files and what is in them. No secrets.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Dotted error code, where the part has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
}

/// Whoever knows how the parts are. Asked per request; must answer at once.
pub trait HealthSource: Send + Sync + 'static {
    fn health(&self) -> Health;
}

// === impl Health ===

impl Health {
    /// For everybody.
    pub fn without_words(mut self) -> Self {
        self.degraded.iter_mut().for_each(|part| part.message.clear());
        self
    }
}

// === impl Degraded ===

impl Degraded {
    pub fn new(part: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(PARTS.contains(&part), "{part} has no runbook");
        Self { part, message: message.into(), code: None }
    }

    /// In one line.
    pub fn told(&self) -> String {
        match (self.message.as_str(), self.code) {
            ("", Some(code)) => format!("{}: {code}", self.part),
            ("", None) => self.part.to_owned(),
            (message, _) => format!("{}: {message}", self.part),
        }
    }

    /// A part that says itself what is wrong.
    pub fn by(part: &'static str, error: &Error) -> Self {
        Self { code: Some(error.code().as_str()), ..Self::new(part, error.message()) }
    }
}
