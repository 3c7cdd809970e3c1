//! What `tidegate serve` is told: flags over variables over a file over defaults, checked as a whole. It
//! knows values and their bounds, not what they do. Invariant: a `ServeConfig` that exists is valid,
//! and whoever was refused one was told everything that is wrong at once.

pub mod pages;
pub mod table;

mod args;
mod directory;
mod file;
mod otlp;
mod read;
#[cfg(test)]
mod tests;

pub use args::{Origin, ServeArgs, unknown_variables};
pub use directory::{DirectorySettings, FindPerson, GroupSearch, ServiceAccount};

use crate::{
    error::{Code, Error, Result},
    telemetry::{Collector, LogFormat},
};
use read::Reader;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};
use table::{SETTINGS, Setting, Takes};

/// The whole configuration of a gateway. Fields are public for whoever starts the parts; who sets them
/// and in which unit stands at the flag of the same name (`tidegate serve --help`).
#[derive(Clone, Debug, PartialEq)]
pub struct ServeConfig {
    pub data: PathBuf,
    pub listen: SocketAddr,
    pub http: SocketAddr,
    /// Listeners may be reachable by others, without TLS.
    pub insecure_listen: bool,
    /// `None`: the listeners speak plain text.
    pub tls: Option<TlsSettings>,
    /// Operators' calls are answered on the gRPC listener.
    pub admin_over_network: bool,
    /// `None`: the embedded policies alone.
    pub plugins: Option<PathBuf>,
    pub backends: Vec<Backend>,
    /// Name of one of `backends`.
    pub default_backend: String,
    /// Opened by the gateway itself.
    pub internal_sessions: Vec<InternalSession>,
    pub sessions: SessionLimits,
    pub log: LogLimits,
    pub workers: WorkerTimes,
    pub policies: PolicyLimits,
    /// `None`: people of the gateway alone sign in.
    pub directory: Option<DirectorySettings>,
    /// How long streams and connections may take to end at a stop.
    pub drain: Duration,
    /// How long a gateway that takes over may take, before this one goes on.
    pub take_over: Duration,
    /// `None`: standard error.
    pub log_file: Option<LogFileSettings>,
    pub log_format: LogFormat,
    pub log_level: String,
    /// Where metrics are sent; `None`: they are only asked for.
    pub collector: Option<Collector>,
    /// Every setting as operators see it, by key, without secrets.
    shown: BTreeMap<&'static str, Shown>,
}

/// The value of one setting and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub value: Value,
    pub origin: Origin,
}

/// What a configuration read again changes: keys in the order of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// In force from now on, some for new sessions only.
    pub applied: Vec<&'static str>,
    /// Left as they were until the next start.
    pub waiting: Vec<&'static str>,
}

/// Where the log goes, if not to standard error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFileSettings {
    pub path: PathBuf,
    /// At which it is rotated.
    pub bytes_max: u64,
    /// Full files beside it.
    pub kept: usize,
}

/// Where the certificate of the listeners is, and what is asked of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM: the server's certificate first, then what leads to its authority.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// PEM: authorities whose certificates clients may show; there unless `client_auth` is off.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
    pub version_min: TlsVersion,
}

/// Whether clients show a certificate of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    Off,
    /// Who shows one shows a good one.
    Optional,
    Required,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// A named way to start workers.
#[derive(Clone, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    pub kind: BackendKind,
    /// Goes to the worker as it stands, in `Accept.settings`.
    pub settings: String,
}

/// A session of the gateway's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InternalSession {
    pub name: String,
    /// Name of one of the backends.
    pub backend: String,
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
    /// 0: no bound of its own.
    pub max_sessions_per_key: u32,
    /// 0: no bound of its own.
    pub max_event_subscribers_per_key: u32,
    pub max_event_streams_per_connection: u32,
    pub max_items_per_session: usize,
    pub max_alarms_per_session: usize,
    pub max_bulk_items: usize,
    pub command_timeout: Duration,
    pub default_lease: Duration,
    pub default_linger: Duration,
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
    /// How long a worker may live without a gateway; zero: it ends with its gateway.
    pub orphan_lifetime: Duration,
    /// A stop in order leaves workers to the next gateway.
    pub leave: bool,
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
    /// Nothing unsigned is taken from the folder.
    pub signed_only: bool,
    /// Compiled policies on the disk, all together.
    pub cache_bytes: u64,
    /// Of one file of the decision log.
    pub decision_file_bytes: u64,
    /// Files of it; 0: none is kept.
    pub decision_files: usize,
    /// Part of the latest decisions that a candidate may answer otherwise, 0 to 1; `None`: it is only told.
    pub difference_max: Option<f64>,
}

// === impl ServeConfig ===

impl ServeConfig {
    /// Reads and checks everything. `config.invalid` has one detail per wrong value: where it stands, what is wrong
    /// and what to write.
    pub fn load(args: &ServeArgs) -> Result<Self> {
        let mut read = Reader::new(args);
        let config = read.serve();
        read.finish()?;
        Ok(config)
    }

    /// Takes over from `new` what a running gateway can change, and says what that was.
    pub fn adopt(&mut self, new: Self) -> Changes {
        let mut changes = Changes::default();
        for setting in SETTINGS.iter().filter(|setting| self.differs(&new, setting.key)) {
            let list = if setting.takes == Takes::Restart { &mut changes.waiting } else { &mut changes.applied };
            list.push(setting.key);
        }
        let kept = std::mem::replace(self, new);
        for key in &changes.waiting {
            if let Some(shown) = kept.shown.get(key) {
                self.shown.insert(key, shown.clone());
            }
        }
        self.data = kept.data;
        self.listen = kept.listen;
        self.http = kept.http;
        self.insecure_listen = kept.insecure_listen;
        self.tls = kept.tls;
        self.admin_over_network = kept.admin_over_network;
        self.sessions.max_event_streams_per_connection = kept.sessions.max_event_streams_per_connection;
        self.plugins = kept.plugins;
        self.internal_sessions = kept.internal_sessions;
        self.drain = kept.drain;
        self.take_over = kept.take_over;
        self.log_file = kept.log_file;
        self.log_format = kept.log_format;
        self.policies = kept.policies;
        self.directory = kept.directory;
        self.collector = kept.collector;
        self.workers.orphan_lifetime = kept.workers.orphan_lifetime;
        self.workers.leave = kept.workers.leave;
        self.log.log_bytes_total_max = kept.log.log_bytes_total_max;
        changes
    }

    fn differs(&self, other: &Self, key: &str) -> bool {
        // The shown form of backends hides secrets, which may be what changed.
        let hidden = key == "backend" && self.backends != other.backends;
        hidden || self.shown.get(key).map(|shown| &shown.value) != other.shown.get(key).map(|shown| &shown.value)
    }

    /// Every setting with its value and origin, in the order of the table.
    pub fn settings(&self) -> impl Iterator<Item = (&'static Setting, &Shown)> {
        SETTINGS.iter().filter_map(|setting| Some((setting, self.shown.get(setting.key)?)))
    }

    /// The backend of this name; empty: the default one.
    pub fn backend(&self, name: &str) -> Result<&Backend> {
        let name = if name.is_empty() { &self.default_backend } else { name };
        self.backends.iter().find(|backend| backend.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.backends.iter().map(|backend| backend.name.as_str()).collect();
            Error::new(Code::BackendUnknown, "no backend of this name is configured").with("known", known.join(", "))
        })
    }

    /// What is in force, as JSON, without secrets, by key.
    pub fn effective(&self) -> Value {
        Value::Object(self.settings().map(|(setting, shown)| (setting.key.to_owned(), shown.value.clone())).collect())
    }
}

/// The defaults, as if nothing had been said.
impl Default for ServeConfig {
    fn default() -> Self {
        let mut read = Reader::default();
        let config = read.serve();
        read.finish().expect("the defaults are valid: a test reads them");
        config
    }
}

// === impl Backend ===

impl Backend {
    /// As operators see it.
    fn shown(&self) -> Value {
        json!({ "name": self.name, "kind": self.kind.as_str(), "settings": self.settings_shown() })
    }

    /// The settings with the values of keys that sound secret taken out.
    fn settings_shown(&self) -> String {
        let lower = self.settings.to_ascii_lowercase();
        let secret = ["pass", "pwd", "secret", "token", "credential", "key"];
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
