//! Puts the layers together (default, file, variable, flag), turns texts into values and collects what is wrong with
//! them. Knows what settings mean for each other; bounds and defaults are the table's. Invariant: goes on after an
//! error, so that all are found in one run.

use super::{
    Backend, BackendKind, ClientAuth, InternalSession, LogFileSettings, LogLimits, PolicyLimits, ServeConfig,
    SessionLimits, Shown, TlsSettings, TlsVersion, WorkerTimes,
    args::{Given, Origin, ServeArgs},
    file,
    table::{Kind, Setting},
};
use crate::{
    error::{Code, Error, Result},
    telemetry::{LogFormat, check_level},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Longest settings of a backend, bytes; they go to the worker in its first frame (64 KiB).
const SETTINGS_MAX: usize = 32 << 10;
const NAME_MAX: usize = 64;
/// Sessions of the gateway's own. Guessed: each is a process.
const INTERNAL_MAX: usize = 16;
/// Most of a wrong value that is quoted.
const QUOTED_MAX: usize = 60;
/// Where a file is looked for that was not named, in the data folder.
const FILE: &str = "tidegate.toml";

#[derive(Default)]
pub(super) struct Reader {
    given: HashMap<&'static str, Given>,
    /// Key for programs, and a line: where and what.
    problems: Vec<(&'static str, String)>,
    shown: BTreeMap<&'static str, Shown>,
}

// === impl Reader ===

impl Reader {
    /// The layers above the defaults, the weakest first.
    pub(super) fn new(args: &ServeArgs) -> Self {
        let mut read = Self::default();
        let data = args.given.iter().find(|given| given.setting.key == "data");
        let data = data.and_then(|given| given.texts.first()).map_or("data", String::as_str);
        let beside_data = Path::new(data).join(FILE);
        let file = args.file.clone().or_else(|| beside_data.exists().then_some(beside_data));
        if let Some(path) = file {
            let found = file::read(&path);
            read.problems.extend(found.problems.into_iter().map(|(place, why)| ("config", format!("{place}: {why}"))));
            for given in found.given {
                if given.setting.key == "data" && args.file.is_none() && given.texts != [data] {
                    let place = given.origin.name("data");
                    read.problems.push((
                        "data",
                        format!(
                            "{place}: the file lies in another data folder, {data:?}; name it with --config instead"
                        ),
                    ));
                }
                read.given.insert(given.setting.key, given);
            }
        }
        for given in &args.given {
            read.given.insert(given.setting.key, given.clone());
        }
        read
    }

    /// `Ok`, or everything that is wrong.
    pub(super) fn finish(self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = self.problems.iter().map(|(_, line)| format!("  {line}")).collect();
        let many = match lines.len() {
            1 => "the configuration has an error".to_owned(),
            count => format!("the configuration has {count} errors"),
        };
        let error = Error::new(Code::ConfigInvalid, format!("{many}:\n{}", lines.join("\n")));
        Err(self.problems.into_iter().fold(error, |error, (key, line)| error.with(key, line)))
    }

    /// What it returns is valid only if `finish` agrees.
    pub(super) fn serve(&mut self) -> ServeConfig {
        let data = self.path("data").unwrap_or_else(|| "data".into());
        let insecure_listen = self.truth("insecure_listen");
        let tls = self.tls();
        let admin_over_network = self.truth("admin_over_network");
        let may_be_reached = insecure_listen || tls.is_some();
        let listen = self.address("listen", may_be_reached);
        let http = self.address("http", may_be_reached);
        if listen == http && listen.port() != 0 {
            self.wrong("http", format!("{http} is taken by listen; use another port"));
        }
        let plugins = self.path("plugins");
        let backends = self.backends();
        let default_backend = self.default_backend(&backends);
        let internal_sessions = self.internal_sessions(&backends);
        let drain = self.seconds("drain_seconds");
        let take_over = self.seconds("take_over_seconds");
        let (bytes_max, kept) = (self.number("log_file_mib") << 20, self.size("log_files_kept"));
        let log_file = self.path("log_file").map(|path| LogFileSettings { path, bytes_max, kept });
        let log_format = if self.word("log_format") == "json" { LogFormat::Json } else { LogFormat::Human };
        let log_level = self.text("log_level").unwrap_or_default();
        if check_level(&log_level).is_err() {
            self.wrong("log_level", format!("{} is not a level; write e.g. info or debug", quoted(&log_level)));
        }
        let policies = self.policies();
        let mut config = ServeConfig {
            data,
            listen,
            http,
            insecure_listen,
            tls,
            admin_over_network,
            plugins,
            backends,
            default_backend,
            internal_sessions,
            drain,
            take_over,
            log_file,
            log_format,
            log_level,
            sessions: self.sessions(),
            log: self.log_limits(),
            workers: self.worker_times(),
            policies,
            directory: self.directory(),
            collector: self.collector(),
            shown: BTreeMap::new(),
        };
        config.shown = std::mem::take(&mut self.shown);
        config
    }

    fn policies(&mut self) -> PolicyLimits {
        let limits = PolicyLimits {
            deadline: self.millis("policy_deadline_ms"),
            memory_bytes: self.number("policy_memory_mib") << 20,
            threads: self.size("policy_threads"),
            queue: self.size("policy_queue"),
            keys: self.path("policy_keys"),
            signed_only: self.word("policy_unsigned") == "refuse",
            cache_bytes: self.bytes("policy_cache_bytes"),
            decision_file_bytes: self.bytes("decision_log_file_bytes"),
            decision_files: self.size("decision_log_files"),
            difference_max: self.part("policy_diff_max"),
        };
        if limits.signed_only && limits.keys.is_none() {
            let why = "nobody could sign anything: name their public keys with policy_keys";
            self.wrong("policy_unsigned", why.into());
        }
        limits
    }

    fn sessions(&mut self) -> SessionLimits {
        SessionLimits {
            max_sessions: self.size("max_sessions"),
            max_pending_commands_per_session: self.size("max_pending_commands_per_session"),
            max_event_subscribers_per_session: self.size("max_event_subscribers_per_session"),
            max_sessions_per_key: self.small("max_sessions_per_key"),
            max_event_subscribers_per_key: self.small("max_event_subscribers_per_key"),
            max_event_streams_per_connection: self.small("max_event_streams_per_connection"),
            allow_multiple_event_subscribers: self.truth("allow_multiple_event_subscribers"),
            max_items_per_session: self.size("max_items_per_session"),
            max_alarms_per_session: self.size("max_alarms_per_session"),
            max_bulk_items: self.size("max_bulk_items"),
            command_timeout: self.millis("command_timeout_ms"),
            default_lease: self.seconds("default_lease_seconds"),
            default_linger: self.millis("default_linger_ms"),
            detach_grace: self.seconds("detach_grace_seconds"),
        }
    }

    fn log_limits(&mut self) -> LogLimits {
        let capacity = self.size("replay_buffer_capacity");
        let retention = self.seconds("replay_retention_seconds");
        let limits = LogLimits {
            replay_buffer_capacity: capacity,
            replay_retention: (!retention.is_zero()).then_some(retention),
            lag_events_max: self.number("lag_events_max"),
            log_bytes_max: self.bytes("log_bytes_max"),
            log_bytes_total_max: self.bytes("log_bytes_total_max"),
        };
        if limits.log_bytes_total_max < limits.log_bytes_max {
            self.wrong("log_bytes_total_max", "it is less than log_bytes_max; raise it or lower the other".into());
        }
        limits
    }

    fn worker_times(&mut self) -> WorkerTimes {
        let reattach = self.truth("enable_orphan_reattach");
        let lifetime = self.seconds("max_orphan_lifetime_seconds");
        let times = WorkerTimes {
            start_timeout: self.seconds("worker_start_timeout_seconds"),
            heartbeat: self.seconds("heartbeat_seconds"),
            heartbeat_grace: self.seconds("heartbeat_grace_seconds"),
            stuck_ceiling: self.seconds("stuck_ceiling_seconds"),
            orphan_lifetime: if reattach { lifetime } else { Duration::ZERO },
            leave: self.truth("leave_workers"),
        };
        let said = self.take("max_orphan_lifetime_seconds").0 != setting("max_orphan_lifetime_seconds").default;
        if !reattach && said {
            let why = "workers have no time without enable_orphan_reattach";
            self.wrong("max_orphan_lifetime_seconds", why.into());
        }
        if !reattach && times.leave {
            self.wrong("leave_workers", "nobody would take them without enable_orphan_reattach".into());
        }
        if times.heartbeat_grace <= times.heartbeat {
            let why = "it must be more than heartbeat_seconds; three times is usual";
            self.wrong("heartbeat_grace_seconds", why.into());
        }
        if times.stuck_ceiling <= times.heartbeat_grace {
            self.wrong("stuck_ceiling_seconds", "it must be more than heartbeat_grace_seconds".into());
        }
        times
    }

    fn tls(&mut self) -> Option<TlsSettings> {
        let (certificate, key) = (self.path("tls_cert"), self.path("tls_key"));
        let client_ca = self.path("tls_client_ca");
        let client_auth = match self.word("tls_client_auth") {
            "optional" => ClientAuth::Optional,
            "required" => ClientAuth::Required,
            _ => ClientAuth::Off,
        };
        let version_min = if self.word("tls_version_min") == "1.3" { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
        if (client_auth == ClientAuth::Off) != client_ca.is_none() {
            let (key, why) = match client_ca {
                None => ("tls_client_auth", "no certificate could be checked; name the authorities with tls_client_ca"),
                Some(_) => ("tls_client_ca", "nobody is asked for a certificate; set tls_client_auth"),
            };
            self.wrong(key, why.into());
        }
        match (certificate, key) {
            (Some(certificate), Some(key)) => {
                Some(TlsSettings { certificate, key, client_ca, client_auth, version_min })
            }
            (Some(_), None) => {
                self.wrong("tls_key", "the certificate needs its private key; name the file".into());
                None
            }
            (None, Some(_)) => {
                self.wrong("tls_cert", "the private key needs its certificate; name the file".into());
                None
            }
            (None, None) => {
                if client_auth != ClientAuth::Off {
                    self.wrong("tls_client_auth", "there is no TLS; name tls_cert and tls_key".into());
                }
                None
            }
        }
    }

    fn address(&mut self, key: &'static str, may_be_reached: bool) -> SocketAddr {
        let (text, _) = self.take(key);
        let default: SocketAddr = setting(key).default.parse().expect("a test reads the table");
        // Names are not looked up: what one resolves to may change after the check.
        let Ok(address) = text.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>() else {
            let port = default.port();
            self.wrong(key, format!("{} is not an address; write e.g. {default} or [::1]:{port}", quoted(&text)));
            return default;
        };
        if !address.ip().to_canonical().is_loopback() && !may_be_reached {
            self.wrong(
                key,
                format!(
                    "{address} can be reached by others and there is no TLS; name --tls-cert and --tls-key, listen on \
                     {default}, or add --insecure-listen if keys and data may be read on the way"
                ),
            );
        }
        self.show(key, json!(address.to_string()));
        address
    }

    fn backends(&mut self) -> Vec<Backend> {
        const KEY: &str = "backend";
        const FORM: &str = "write NAME=sim:SETTINGS, e.g. line-1=sim:rate=100";
        let given = self.given.get(KEY).map(|given| given.texts.clone()).filter(|texts| !texts.is_empty());
        let texts = given.unwrap_or_else(|| vec![setting(KEY).default.to_owned()]);
        let mut backends: Vec<Backend> = Vec::new();
        let mut names = HashSet::new();
        for text in &texts {
            // The settings may hold secrets: only the name is ever quoted.
            let Some((name, rest)) = text.split_once('=') else {
                self.wrong(KEY, format!("a backend has no `=`; {FORM}"));
                continue;
            };
            let (kind, settings) = rest.split_once(':').unwrap_or((rest, ""));
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) {
                let why =
                    format!("{} is not a name; use up to {NAME_MAX} letters, digits, `-`, `_`, `.`", quoted(name));
                self.wrong(KEY, why);
            } else if !names.insert(name) {
                self.wrong(KEY, format!("there are two of the name {name}; rename one"));
            }
            if kind != "sim" {
                self.wrong(KEY, format!("{} is of no known kind; {FORM}", quoted(name)));
            }
            if settings.len() > SETTINGS_MAX {
                self.wrong(KEY, format!("the settings of {} have more than 32 KiB", quoted(name)));
            }
            backends.push(Backend { name: name.into(), kind: BackendKind::Sim, settings: settings.into() });
        }
        self.show(KEY, backends.iter().map(Backend::shown).collect());
        backends
    }

    fn default_backend(&mut self, backends: &[Backend]) -> String {
        const KEY: &str = "default_backend";
        let first = backends.first().map(|backend| backend.name.clone()).unwrap_or_default();
        let name = self.text(KEY).unwrap_or(first);
        if !backends.is_empty() && !backends.iter().any(|backend| backend.name == name) {
            let known: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
            self.wrong(KEY, format!("there is no backend {}; use one of: {}", quoted(&name), known.join(", ")));
        }
        self.show(KEY, json!(name));
        name
    }

    fn internal_sessions(&mut self, backends: &[Backend]) -> Vec<InternalSession> {
        const KEY: &str = "internal_session";
        const FORM: &str = "write NAME=BACKEND, e.g. alarms=sim";
        let texts = self.given.get(KEY).map(|given| given.texts.clone()).unwrap_or_default();
        let mut sessions: Vec<InternalSession> = Vec::new();
        if texts.len() > INTERNAL_MAX {
            self.wrong(KEY, format!("there are more than {INTERNAL_MAX}"));
        }
        for text in texts.iter().take(INTERNAL_MAX) {
            let (name, backend) = text.split_once('=').unwrap_or((text, ""));
            if name.is_empty() || name.chars().count() > NAME_MAX || name.chars().any(char::is_control) {
                self.wrong(KEY, format!("{} has no name of up to {NAME_MAX} characters; {FORM}", quoted(text)));
            } else if sessions.iter().any(|one| one.name == name) {
                self.wrong(KEY, format!("there are two of the name {}; rename one", quoted(name)));
            }
            if !backends.iter().any(|one| one.name == backend) {
                let known: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
                self.wrong(KEY, format!("{} names no backend; {FORM}; there are: {}", quoted(text), known.join(", ")));
            }
            sessions.push(InternalSession { name: name.into(), backend: backend.into() });
        }
        self.show(KEY, sessions.iter().map(|one| json!(format!("{}={}", one.name, one.backend))).collect());
        sessions
    }

    // --- one value ---

    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let (text, origin) = self.take(key);
        if text.is_empty() && origin == Origin::Default {
            self.show(key, Value::Null);
            return None;
        }
        if text.is_empty() || text.contains('\0') {
            self.wrong(key, "it is empty; name a folder or a file".into());
        }
        self.show(key, json!(text));
        Some(text.into())
    }

    /// `None`: neither given nor with a default.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        let (text, origin) = self.take(key);
        self.show(key, json!(text));
        (!text.is_empty() || origin != Origin::Default).then_some(text)
    }

    fn word(&mut self, key: &'static str) -> &'static str {
        let Kind::Choice(words) = setting(key).kind else { unreachable!("{key} is no choice in the table") };
        let (text, _) = self.take(key);
        let known = words.iter().find(|word| **word == text);
        if known.is_none() {
            self.wrong(key, format!("{} is none of them; write {}", quoted(&text), words.join(" or ")));
        }
        let word = known.copied().unwrap_or(setting(key).default);
        self.show(key, json!(word));
        word
    }

    fn number(&mut self, key: &'static str) -> u64 {
        let Kind::Number(_, least, most) = setting(key).kind else { unreachable!("{key} is no number in the table") };
        let (text, _) = self.take(key);
        let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
        if number.is_none() {
            self.wrong(key, format!("{} is not a whole number from {least} to {most}", quoted(&text)));
        }
        let number = number.or_else(|| setting(key).default.parse().ok()).unwrap_or(least);
        self.show(key, json!(number));
        number
    }

    fn size(&mut self, key: &'static str) -> usize {
        usize::try_from(self.number(key)).unwrap_or(usize::MAX)
    }

    /// The table bounds it far below.
    fn small(&mut self, key: &'static str) -> u32 {
        u32::try_from(self.number(key)).unwrap_or(u32::MAX)
    }

    /// A part of a whole, 0 to 1, written in percent.
    fn part(&mut self, key: &'static str) -> Option<f64> {
        let text = self.text(key)?;
        let percent = text.trim().trim_end_matches('%').parse::<f64>().ok();
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        if percent.is_none() {
            self.wrong(key, format!("{} is no part; write e.g. 0.5% or 10%", quoted(&text)));
        }
        percent.map(|percent| percent / 100.0)
    }

    fn millis(&mut self, key: &'static str) -> Duration {
        Duration::from_millis(self.number(key))
    }

    pub(super) fn seconds(&mut self, key: &'static str) -> Duration {
        Duration::from_secs(self.number(key))
    }

    fn bytes(&mut self, key: &'static str) -> u64 {
        const LEAST: u64 = 1 << 20;
        let (text, _) = self.take(key);
        let bytes = parse_bytes(&text).filter(|bytes| *bytes >= LEAST);
        if bytes.is_none() {
            self.wrong(key, format!("{} is not a size of at least 1MiB; write e.g. 16MiB", quoted(&text)));
        }
        let bytes = bytes.or_else(|| parse_bytes(setting(key).default)).unwrap_or(LEAST);
        self.show(key, json!(bytes));
        bytes
    }

    pub(super) fn truth(&mut self, key: &'static str) -> bool {
        let (text, _) = self.take(key);
        let truth = match text.trim() {
            "true" | "yes" | "1" => true,
            "false" | "no" | "0" => false,
            other => {
                self.wrong(key, format!("{} is neither true nor false", quoted(other)));
                setting(key).default == "true"
            }
        };
        self.show(key, json!(truth));
        truth
    }

    /// The text in force and where it came from. Of a setting that is not to be repeated the last text counts.
    pub(super) fn take(&self, key: &'static str) -> (String, Origin) {
        match self.given.get(key) {
            Some(given) => (given.texts.last().cloned().unwrap_or_default(), given.origin.clone()),
            None => (setting(key).default.to_owned(), Origin::Default),
        }
    }

    fn origin(&self, key: &str) -> Origin {
        self.given.get(key).map_or(Origin::Default, |given| given.origin.clone())
    }

    fn show(&mut self, key: &'static str, value: Value) {
        let origin = self.origin(key);
        self.shown.insert(key, Shown { value, origin });
    }

    pub(super) fn wrong(&mut self, key: &'static str, why: String) {
        let place = self.origin(key).name(key);
        self.problems.push((key, format!("{place}: {why}")));
    }
}

/// The row of a key that the code names.
fn setting(key: &str) -> &'static Setting {
    Setting::find(key).unwrap_or_else(|| unreachable!("{key} is not in the table; the defaults are read in a test"))
}

/// `16MiB`, `16 MiB`, `16777216`.
fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let factor = match text[digits..].trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

pub(super) fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(QUOTED_MAX).collect::<String>())
}
