//! Reads values out of texts and collects what is wrong with them. Knows bounds and defaults.
//! Invariant: goes on after an error, so that all are found in one run.

use super::{Backend, BackendKind, LogLimits, PolicyLimits, ServeArgs, ServeConfig, SessionLimits, WorkerTimes};
use crate::{
    error::{Code, Error, Result},
    telemetry::{LogFormat, check_level},
};
use std::{collections::HashSet, net::SocketAddr, ops::RangeInclusive, time::Duration};

/// Longest settings of a backend, bytes; they go to the worker in its first frame (64 KiB).
const SETTINGS_MAX: usize = 32 << 10;
const NAME_MAX: usize = 64;
/// Most of a wrong value that is quoted.
const QUOTED_MAX: usize = 60;
/// A minute to a second: what heartbeats may be.
const MINUTES_10: u64 = 600;

#[derive(Default)]
pub(super) struct Reader {
    /// Flag and sentence.
    problems: Vec<(&'static str, String)>,
}

// === impl Reader ===

impl Reader {
    /// `Ok`, or everything that is wrong.
    pub(super) fn finish(self) -> Result<()> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = self.problems.iter().map(|(flag, why)| format!("  --{flag}: {why}")).collect();
        let many = match lines.len() {
            1 => "the configuration has an error".to_owned(),
            count => format!("the configuration has {count} errors"),
        };
        let error = Error::new(Code::ConfigInvalid, format!("{many}:\n{}", lines.join("\n")));
        Err(self.problems.into_iter().fold(error, |error, (flag, why)| error.with(flag, why)))
    }

    /// What it returns is valid only if `finish` agrees.
    pub(super) fn serve(&mut self, args: ServeArgs) -> ServeConfig {
        let listen = self.address("listen", args.listen, 7410, args.insecure_listen);
        let http = self.address("http", args.http, 7411, args.insecure_listen);
        if listen == http && listen.port() != 0 {
            self.wrong("http", format!("{http} is taken by --listen; use another port"));
        }
        let backends = self.backends(&args.backend);
        let default_backend = self.default_backend(args.default_backend, &backends);
        let log_format = match args.log_format.as_deref().unwrap_or("human") {
            "human" => LogFormat::Human,
            "json" => LogFormat::Json,
            other => {
                self.wrong("log-format", format!("{} is not a format; write human or json", quoted(other)));
                LogFormat::Human
            }
        };
        let log_level = args.log_level.unwrap_or_else(|| "info".into());
        if check_level(&log_level).is_err() {
            self.wrong("log-level", format!("{} is not a level; write e.g. info or debug", quoted(&log_level)));
        }
        let policy_keys = self.path("policy-keys", args.policy_keys);
        let signed_only = match args.policy_unsigned.as_deref().unwrap_or("allow") {
            "allow" => false,
            "refuse" => true,
            other => {
                self.wrong("policy-unsigned", format!("{} is neither allow nor refuse; write one", quoted(other)));
                false
            }
        };
        if signed_only && policy_keys.is_none() {
            self.wrong(
                "policy-unsigned",
                "nobody could sign anything: name their public keys with --policy-keys".into(),
            );
        }
        let difference_max = args.policy_diff_max.and_then(|text| {
            let percent =
                text.trim_end_matches('%').parse::<f64>().ok().filter(|percent| (0.0..=100.0).contains(percent));
            if percent.is_none() {
                self.wrong("policy-diff-max", format!("{} is no part; write e.g. 0.5% or 10%", quoted(&text)));
            }
            percent.map(|percent| percent / 100.0)
        });
        ServeConfig {
            data: self.path("data", args.data).unwrap_or_else(|| "data".into()),
            listen,
            http,
            insecure_listen: args.insecure_listen,
            plugins: self.path("plugins", args.plugins),
            backends,
            default_backend,
            sessions: SessionLimits {
                max_sessions: self.size("max-sessions", args.max_sessions, 64, 1..=4096),
                max_pending_commands_per_session: self.size(
                    "max-pending-commands-per-session",
                    args.max_pending_commands_per_session,
                    128,
                    1..=65_536,
                ),
                max_event_subscribers_per_session: self.size(
                    "max-event-subscribers-per-session",
                    args.max_event_subscribers_per_session,
                    8,
                    1..=100_000,
                ),
                allow_multiple_event_subscribers: self.truth(
                    "allow-multiple-event-subscribers",
                    args.allow_multiple_event_subscribers,
                    true,
                ),
                max_items_per_session: self.size(
                    "max-items-per-session",
                    args.max_items_per_session,
                    100_000,
                    1..=10_000_000,
                ),
                max_bulk_items: self.size("max-bulk-items", args.max_bulk_items, 10_000, 1..=1_000_000),
                command_timeout: self.millis("command-timeout-ms", args.command_timeout_ms, 30_000, 1..=3_600_000),
                default_lease: self.seconds("default-lease-seconds", args.default_lease_seconds, 1800, 1..=31_536_000),
                detach_grace: self.seconds("detach-grace-seconds", args.detach_grace_seconds, 60, 0..=86_400),
            },
            log: self.log_limits(
                args.replay_buffer_capacity,
                args.replay_retention_seconds,
                args.lag_events_max,
                args.log_bytes_max,
                args.log_bytes_total_max,
            ),
            workers: self.worker_times(
                args.worker_start_timeout_seconds,
                args.heartbeat_seconds,
                args.heartbeat_grace_seconds,
                args.stuck_ceiling_seconds,
            ),
            policies: PolicyLimits {
                deadline: self.millis("policy-deadline-ms", args.policy_deadline_ms, 50, 1..=60_000),
                memory_bytes: self.number("policy-memory-mib", args.policy_memory_mib, 64, 1..=4096) << 20,
                threads: self.size("policy-threads", args.policy_threads, 2, 1..=64),
                queue: self.size("policy-queue", args.policy_queue, 1024, 1..=1_000_000),
                decision_file_bytes: self.bytes("decision-log-file-bytes", args.decision_log_file_bytes, 8 << 20),
                decision_files: self.size("decision-log-files", args.decision_log_files, 8, 0..=10_000),
                difference_max,
                keys: policy_keys,
                signed_only,
            },
            drain: self.seconds("drain-seconds", args.drain_seconds, 10, 0..=MINUTES_10),
            log_format,
            log_level,
        }
    }

    fn log_limits(
        &mut self,
        capacity: Option<String>,
        retention: Option<String>,
        lag: Option<String>,
        bytes: Option<String>,
        total: Option<String>,
    ) -> LogLimits {
        let retention = self.seconds("replay-retention-seconds", retention, 300, 0..=31_536_000);
        let limits = LogLimits {
            replay_buffer_capacity: self.size("replay-buffer-capacity", capacity, 1024, 0..=10_000_000),
            replay_retention: (!retention.is_zero()).then_some(retention),
            // A batch has up to 256 events; a smaller lag would gap every reader.
            lag_events_max: self.number("lag-events-max", lag, 10_000, 256..=100_000_000),
            log_bytes_max: self.bytes("log-bytes-max", bytes, 16 << 20),
            log_bytes_total_max: self.bytes("log-bytes-total-max", total, 1 << 30),
        };
        if limits.log_bytes_total_max < limits.log_bytes_max {
            self.wrong("log-bytes-total-max", "it is less than --log-bytes-max; raise it or lower the other".into());
        }
        limits
    }

    fn worker_times(
        &mut self,
        start: Option<String>,
        heartbeat: Option<String>,
        grace: Option<String>,
        ceiling: Option<String>,
    ) -> WorkerTimes {
        let times = WorkerTimes {
            start_timeout: self.seconds("worker-start-timeout-seconds", start, 10, 1..=MINUTES_10),
            heartbeat: self.seconds("heartbeat-seconds", heartbeat, 5, 1..=300),
            heartbeat_grace: self.seconds("heartbeat-grace-seconds", grace, 15, 1..=3600),
            stuck_ceiling: self.seconds("stuck-ceiling-seconds", ceiling, 75, 1..=86_400),
        };
        if times.heartbeat_grace <= times.heartbeat {
            self.wrong(
                "heartbeat-grace-seconds",
                "it must be more than --heartbeat-seconds; three times is usual".into(),
            );
        }
        if times.stuck_ceiling <= times.heartbeat_grace {
            self.wrong("stuck-ceiling-seconds", "it must be more than --heartbeat-grace-seconds".into());
        }
        times
    }

    fn address(&mut self, flag: &'static str, text: Option<String>, port: u16, insecure: bool) -> SocketAddr {
        let default = SocketAddr::from(([127, 0, 0, 1], port));
        let Some(text) = text else { return default };
        // Names are not looked up: what one resolves to may change after the check.
        let Ok(address) = text.replace("localhost:", "127.0.0.1:").parse::<SocketAddr>() else {
            self.wrong(flag, format!("{} is not an address; write e.g. {default} or [::1]:{port}", quoted(&text)));
            return default;
        };
        if !address.ip().to_canonical().is_loopback() && !insecure {
            self.wrong(
                flag,
                format!(
                    "{address} can be reached by others and there is no TLS; listen on {default}, \
                     or add --insecure-listen if keys and data may be read on the way"
                ),
            );
        }
        address
    }

    fn backends(&mut self, texts: &[String]) -> Vec<Backend> {
        const FORM: &str = "write NAME=sim:SETTINGS, e.g. line-1=sim:rate=100";
        if texts.is_empty() {
            return vec![Backend { name: "sim".into(), kind: BackendKind::Sim, settings: "rate=100".into() }];
        }
        let mut backends: Vec<Backend> = Vec::new();
        let mut names = HashSet::new();
        for text in texts {
            // The settings may hold secrets: only the name is ever quoted.
            let Some((name, rest)) = text.split_once('=') else {
                self.wrong("backend", format!("a backend has no `=`; {FORM}"));
                continue;
            };
            let (kind, settings) = rest.split_once(':').unwrap_or((rest, ""));
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(allowed) {
                self.wrong(
                    "backend",
                    format!("{} is not a name; use up to {NAME_MAX} letters, digits, `-`, `_`, `.`", quoted(name)),
                );
            } else if !names.insert(name) {
                self.wrong("backend", format!("there are two of the name {name}; rename one"));
            }
            if kind != "sim" {
                self.wrong("backend", format!("{} is of no known kind; {FORM}", quoted(name)));
            }
            if settings.len() > SETTINGS_MAX {
                self.wrong("backend", format!("the settings of {} have more than 32 KiB", quoted(name)));
            }
            backends.push(Backend { name: name.into(), kind: BackendKind::Sim, settings: settings.into() });
        }
        backends
    }

    fn default_backend(&mut self, text: Option<String>, backends: &[Backend]) -> String {
        let first = backends.first().map(|backend| backend.name.clone()).unwrap_or_default();
        let Some(name) = text else { return first };
        if !backends.iter().any(|backend| backend.name == name) {
            let known: Vec<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
            self.wrong(
                "default-backend",
                format!("there is no backend {}; use one of: {}", quoted(&name), known.join(", ")),
            );
        }
        name
    }

    fn path(&mut self, flag: &'static str, text: Option<String>) -> Option<std::path::PathBuf> {
        let text = text?;
        if text.is_empty() || text.contains('\0') {
            self.wrong(flag, "it is empty; name a folder".into());
        }
        Some(text.into())
    }

    fn number(&mut self, flag: &'static str, text: Option<String>, default: u64, bounds: RangeInclusive<u64>) -> u64 {
        let Some(text) = text else { return default };
        match text.trim().parse() {
            Ok(number) if bounds.contains(&number) => number,
            _ => {
                let (low, high) = bounds.into_inner();
                self.wrong(flag, format!("{} is not a whole number from {low} to {high}", quoted(&text)));
                default
            }
        }
    }

    fn size(&mut self, flag: &'static str, text: Option<String>, default: u64, bounds: RangeInclusive<u64>) -> usize {
        usize::try_from(self.number(flag, text, default, bounds)).unwrap_or(usize::MAX)
    }

    fn millis(
        &mut self,
        flag: &'static str,
        text: Option<String>,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_millis(self.number(flag, text, default, bounds))
    }

    fn seconds(
        &mut self,
        flag: &'static str,
        text: Option<String>,
        default: u64,
        bounds: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_secs(self.number(flag, text, default, bounds))
    }

    fn bytes(&mut self, flag: &'static str, text: Option<String>, default: u64) -> u64 {
        const LEAST: u64 = 1 << 20;
        let Some(text) = text else { return default };
        match parse_bytes(&text) {
            Some(bytes) if bytes >= LEAST => bytes,
            _ => {
                self.wrong(flag, format!("{} is not a size of at least 1MiB; write e.g. 16MiB", quoted(&text)));
                default
            }
        }
    }

    fn truth(&mut self, flag: &'static str, text: Option<String>, default: bool) -> bool {
        match text.as_deref().map(str::trim) {
            None => default,
            Some("true" | "yes" | "1") => true,
            Some("false" | "no" | "0") => false,
            Some(other) => {
                self.wrong(flag, format!("{} is neither true nor false", quoted(other)));
                default
            }
        }
    }

    fn wrong(&mut self, flag: &'static str, why: String) {
        self.problems.push((flag, why));
    }
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

fn quoted(text: &str) -> String {
    format!("{:?}", text.chars().take(QUOTED_MAX).collect::<String>())
}
