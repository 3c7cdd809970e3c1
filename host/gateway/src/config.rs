//! What `tidegate serve` is told: flags and `TIDEGATE_*` variables over defaults, checked as a whole. It
//! knows values and their bounds, not what they do. Invariant: a `ServeConfig` that exists is valid,
//! and whoever was refused one was told everything that is wrong at once.

mod args;
mod read;
#[cfg(test)]
mod tests;

pub use args::ServeArgs;

use crate::{
    error::{Code, Error, Result},
    telemetry::LogFormat,
};
use read::Reader;
use serde_json::{Value, json};
use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

/// The whole configuration of a gateway. Fields are public for whoever starts the parts; who sets them
/// and in which unit stands at the flag of the same name (`tidegate serve --help`).
#[derive(Clone, Debug, PartialEq)]
pub struct ServeConfig {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub http: SocketAddr,
    /// Listeners may be reachable by others, without TLS.
    pub insecure_listen: bool,
    /// `None`: the embedded policies alone.
    pub plugins: Option<PathBuf>,
    pub backends: Vec<Backend>,
    /// Name of one of `backends`.
    pub default_backend: String,
    pub sessions: SessionLimits,
    pub log: LogLimits,
    pub workers: WorkerTimes,
    pub policies: PolicyLimits,
    /// How long streams and connections may take to end at a stop.
    pub drain: Duration,
    pub log_format: LogFormat,
    pub log_level: String,
}

/// A named way to start workers.
#[derive(Clone, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    pub kind: BackendKind,
    /// Goes to the worker as it stands, in `Accept.settings`.
    pub settings: String,
}

/// What a backend's worker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// `tidegate worker sim`.
    Sim,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    pub max_sessions: usize,
    pub max_pending_commands_per_session: usize,
    pub max_event_subscribers_per_session: usize,
    pub allow_multiple_event_subscribers: bool,
    pub max_items_per_session: usize,
    pub max_bulk_items: usize,
    pub command_timeout: Duration,
    pub default_lease: Duration,
    pub detach_grace: Duration,
}

/// The bounds of an event log (semantics.md, The log).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLimits {
    /// Events; 0 keeps none.
    pub replay_buffer_capacity: usize,
    /// `None`: age evicts nothing.
    pub replay_retention: Option<Duration>,
    /// Events that attached readers may lag.
    pub lag_events_max: u64,
    pub log_bytes_max: u64,
    pub log_bytes_total_max: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerTimes {
    pub start_timeout: Duration,
    pub heartbeat: Duration,
    /// Silence after which a worker counts as dead.
    pub heartbeat_grace: Duration,
    /// A worker that beats but has been in one call this long is hung.
    pub stuck_ceiling: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PolicyLimits {
    pub deadline: Duration,
    pub memory_bytes: u64,
    pub threads: usize,
    /// Decisions that may wait.
    pub queue: usize,
    /// Public keys of those whose policies are taken.
    pub keys: Option<PathBuf>,
    /// Of one file of the decision log.
    pub decision_file_bytes: u64,
    /// Files of it; 0: none is kept.
    pub decision_files: usize,
    /// Part of the latest decisions that a candidate may answer otherwise, 0 to 1; `None`: it is only told.
    pub difference_max: Option<f64>,
    /// Nothing unsigned is taken from the folder.
    pub signed_only: bool,
}

// === impl ServeConfig ===

impl ServeConfig {
    /// Checks everything. `config.invalid` has one detail per wrong key: what is wrong and what to write.
    pub fn from_args(args: ServeArgs) -> Result<Self> {
        let mut read = Reader::default();
        let config = read.serve(args);
        read.finish()?;
        Ok(config)
    }

    /// The backend of this name; empty: the default one.
    pub fn backend(&self, name: &str) -> Result<&Backend> {
        let name = if name.is_empty() { &self.default_backend } else { name };
        self.backends.iter().find(|backend| backend.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.backends.iter().map(|backend| backend.name.as_str()).collect();
            Error::new(Code::BackendUnknown, "no backend of this name is configured").with("known", known.join(", "))
        })
    }

    /// What is in force, as JSON, without secrets; keys are the flags' names with underscores.
    pub fn effective(&self) -> Value {
        let seconds = |duration: Duration| duration.as_secs();
        json!({
            "data": self.data,
            "listen": self.listen.to_string(),
            "http": self.http.to_string(),
            "insecure_listen": self.insecure_listen,
            "plugins": self.plugins,
            "backends": self.backends.iter().map(|backend| json!({
                "name": backend.name,
                "kind": backend.kind.as_str(),
                "settings": backend.settings_shown(),
            })).collect::<Vec<_>>(),
            "default_backend": self.default_backend,
            "max_sessions": self.sessions.max_sessions,
            "max_pending_commands_per_session": self.sessions.max_pending_commands_per_session,
            "max_event_subscribers_per_session": self.sessions.max_event_subscribers_per_session,
            "allow_multiple_event_subscribers": self.sessions.allow_multiple_event_subscribers,
            "max_items_per_session": self.sessions.max_items_per_session,
            "max_bulk_items": self.sessions.max_bulk_items,
            "command_timeout_ms": u64::try_from(self.sessions.command_timeout.as_millis()).unwrap_or(u64::MAX),
            "default_lease_seconds": seconds(self.sessions.default_lease),
            "detach_grace_seconds": seconds(self.sessions.detach_grace),
            "replay_buffer_capacity": self.log.replay_buffer_capacity,
            "replay_retention_seconds": self.log.replay_retention.map_or(0, seconds),
            "lag_events_max": self.log.lag_events_max,
            "log_bytes_max": self.log.log_bytes_max,
            "log_bytes_total_max": self.log.log_bytes_total_max,
            "worker_start_timeout_seconds": seconds(self.workers.start_timeout),
            "heartbeat_seconds": seconds(self.workers.heartbeat),
            "heartbeat_grace_seconds": seconds(self.workers.heartbeat_grace),
            "stuck_ceiling_seconds": seconds(self.workers.stuck_ceiling),
            "policy_deadline_ms": u64::try_from(self.policies.deadline.as_millis()).unwrap_or(u64::MAX),
            "policy_memory_mib": self.policies.memory_bytes >> 20,
            "policy_threads": self.policies.threads,
            "policy_queue": self.policies.queue,
            "decision_log_file_bytes": self.policies.decision_file_bytes,
            "decision_log_files": self.policies.decision_files,
            "policy_diff_max_percent": self.policies.difference_max.map(|part| part * 100.0),
            "policy_keys": self.policies.keys,
            "policy_unsigned": if self.policies.signed_only { "refuse" } else { "allow" },
            "drain_seconds": seconds(self.drain),
            "log_format": match self.log_format { LogFormat::Human => "human", LogFormat::Json => "json" },
            "log_level": self.log_level,
        })
    }
}

/// The defaults, as if nothing had been said.
impl Default for ServeConfig {
    fn default() -> Self {
        Self::from_args(ServeArgs::default()).expect("the defaults are valid: a test reads them")
    }
}

// === impl Backend ===

impl Backend {
    /// The settings with the values of keys that sound secret taken out.
    fn settings_shown(&self) -> String {
        let lower = self.settings.to_ascii_lowercase();
        let secret = ["password", "passwd", "secret", "token", "credential", "key"];
        if secret.iter().any(|word| lower.contains(word)) { "…".into() } else { self.settings.clone() }
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("settings", &self.settings_shown())
            .finish()
    }
}

// === impl BackendKind ===

impl BackendKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sim => "sim",
        }
    }
}
