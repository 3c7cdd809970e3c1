//! The flags of `tidegate serve`. All are text and optional, so that every error can be named at once
//! and a file can come between flags and defaults. Invariant: a flag's help says unit and default.

use clap::Args;

/// Every flag has a variable: `--max-sessions` is `TIDEGATE_MAX_SESSIONS`. A flag wins over its variable.
#[derive(Args, Clone, Debug, Default)]
pub struct ServeArgs {
    /// Folder of the database, sockets and keys; made private (0700) [default: ./data]
    #[arg(long, env = "TIDEGATE_DATA", value_name = "DIR")]
    pub data: Option<String>,

    /// Address of the gRPC listener; port 0 takes a free one [default: 127.0.0.1:7410]
    #[arg(long, env = "TIDEGATE_LISTEN", value_name = "ADDRESS:PORT")]
    pub listen: Option<String>,

    /// Address of the HTTP listener (metrics, health) [default: 127.0.0.1:7411]
    #[arg(long, env = "TIDEGATE_HTTP", value_name = "ADDRESS:PORT")]
    pub http: Option<String>,

    /// Listen on addresses that others can reach although there is no TLS: keys and data cross the network
    /// readable for everybody on it
    #[arg(long, env = "TIDEGATE_INSECURE_LISTEN")]
    pub insecure_listen: bool,

    /// Folder of policy components, watched; without it the embedded policies decide
    #[arg(long, env = "TIDEGATE_PLUGINS", value_name = "DIR")]
    pub plugins: Option<String>,

    /// A backend that sessions can ask for; may be repeated. KIND is `sim`; SETTINGS is its text, e.g.
    /// line-1=sim:rate=100 [default: sim=sim:rate=100]
    #[arg(long, env = "TIDEGATE_BACKEND", value_name = "NAME=KIND:SETTINGS")]
    pub backend: Vec<String>,

    /// Backend of sessions that ask for none [default: the first]
    #[arg(long, env = "TIDEGATE_DEFAULT_BACKEND", value_name = "NAME")]
    pub default_backend: Option<String>,

    /// Sessions at a time, 1 to 4096 [default: 64]
    #[arg(long, env = "TIDEGATE_MAX_SESSIONS", value_name = "COUNT", help_heading = "Sessions")]
    pub max_sessions: Option<String>,

    /// Commands that may wait for a worker, per session, 1 to 65536 [default: 128]
    #[arg(long, env = "TIDEGATE_MAX_PENDING_COMMANDS_PER_SESSION", value_name = "COUNT", help_heading = "Sessions")]
    pub max_pending_commands_per_session: Option<String>,

    /// Event streams of clients per session, 1 to 100000 [default: 8]
    #[arg(long, env = "TIDEGATE_MAX_EVENT_SUBSCRIBERS_PER_SESSION", value_name = "COUNT", help_heading = "Sessions")]
    pub max_event_subscribers_per_session: Option<String>,

    /// Whether a session may have more than one event stream, true or false [default: true]
    #[arg(long, env = "TIDEGATE_ALLOW_MULTIPLE_EVENT_SUBSCRIBERS", value_name = "BOOL", help_heading = "Sessions")]
    pub allow_multiple_event_subscribers: Option<String>,

    /// Items per session, 1 to 10000000 [default: 100000]
    #[arg(long, env = "TIDEGATE_MAX_ITEMS_PER_SESSION", value_name = "COUNT", help_heading = "Sessions")]
    pub max_items_per_session: Option<String>,

    /// Elements of a bulk command, 1 to 1000000 [default: 10000]
    #[arg(long, env = "TIDEGATE_MAX_BULK_ITEMS", value_name = "COUNT", help_heading = "Sessions")]
    pub max_bulk_items: Option<String>,

    /// How long a worker may take for a command, milliseconds, 1 to 3600000 [default: 30000]
    #[arg(long, env = "TIDEGATE_COMMAND_TIMEOUT_MS", value_name = "MS", help_heading = "Sessions")]
    pub command_timeout_ms: Option<String>,

    /// A session that nobody uses or renews ends after this, seconds, 1 to 31536000 [default: 1800]
    #[arg(long, env = "TIDEGATE_DEFAULT_LEASE_SECONDS", value_name = "SECONDS", help_heading = "Sessions")]
    pub default_lease_seconds: Option<String>,

    /// How long a session waits for a reader after the last one left, seconds, 0 to 86400 [default: 60]
    #[arg(long, env = "TIDEGATE_DETACH_GRACE_SECONDS", value_name = "SECONDS", help_heading = "Sessions")]
    pub detach_grace_seconds: Option<String>,

    /// Newest events that can be replayed, per session, 0 to 10000000; 0: none [default: 1024]
    #[arg(long, env = "TIDEGATE_REPLAY_BUFFER_CAPACITY", value_name = "EVENTS", help_heading = "Event log")]
    pub replay_buffer_capacity: Option<String>,

    /// Age up to which events can be replayed, seconds, 0 to 31536000; 0: any age [default: 300]
    #[arg(long, env = "TIDEGATE_REPLAY_RETENTION_SECONDS", value_name = "SECONDS", help_heading = "Event log")]
    pub replay_retention_seconds: Option<String>,

    /// How far an attached reader may fall behind, events, 256 to 100000000 [default: 10000]
    #[arg(long, env = "TIDEGATE_LAG_EVENTS_MAX", value_name = "EVENTS", help_heading = "Event log")]
    pub lag_events_max: Option<String>,

    /// Memory of one session's log, bytes or with KiB, MiB, GiB, at least 1MiB [default: 16MiB]
    #[arg(long, env = "TIDEGATE_LOG_BYTES_MAX", value_name = "BYTES", help_heading = "Event log")]
    pub log_bytes_max: Option<String>,

    /// Memory of all logs, bytes or with KiB, MiB, GiB, at least 1MiB [default: 1GiB]
    #[arg(long, env = "TIDEGATE_LOG_BYTES_TOTAL_MAX", value_name = "BYTES", help_heading = "Event log")]
    pub log_bytes_total_max: Option<String>,

    /// How long a worker may take to start and prove itself, seconds, 1 to 600 [default: 10]
    #[arg(long, env = "TIDEGATE_WORKER_START_TIMEOUT_SECONDS", value_name = "SECONDS", help_heading = "Workers")]
    pub worker_start_timeout_seconds: Option<String>,

    /// How often a worker gives a sign of life, seconds, 1 to 300 [default: 5]
    #[arg(long, env = "TIDEGATE_HEARTBEAT_SECONDS", value_name = "SECONDS", help_heading = "Workers")]
    pub heartbeat_seconds: Option<String>,

    /// Silence after which a worker counts as dead, seconds, more than the heartbeat [default: 15]
    #[arg(long, env = "TIDEGATE_HEARTBEAT_GRACE_SECONDS", value_name = "SECONDS", help_heading = "Workers")]
    pub heartbeat_grace_seconds: Option<String>,

    /// A worker this long in one call counts as hung, seconds, more than the grace [default: 75]
    #[arg(long, env = "TIDEGATE_STUCK_CEILING_SECONDS", value_name = "SECONDS", help_heading = "Workers")]
    pub stuck_ceiling_seconds: Option<String>,

    /// How long a policy may take for an answer, milliseconds, 1 to 60000 [default: 50]
    #[arg(long, env = "TIDEGATE_POLICY_DEADLINE_MS", value_name = "MS", help_heading = "Policies")]
    pub policy_deadline_ms: Option<String>,

    /// Memory of one policy instance, MiB, 1 to 4096 [default: 64]
    #[arg(long, env = "TIDEGATE_POLICY_MEMORY_MIB", value_name = "MIB", help_heading = "Policies")]
    pub policy_memory_mib: Option<String>,

    /// Threads that decide, 1 to 64 [default: 2]
    #[arg(long, env = "TIDEGATE_POLICY_THREADS", value_name = "COUNT", help_heading = "Policies")]
    pub policy_threads: Option<String>,

    /// Decisions that may wait for a thread, 1 to 1000000 [default: 1024]
    #[arg(long, env = "TIDEGATE_POLICY_QUEUE", value_name = "COUNT", help_heading = "Policies")]
    pub policy_queue: Option<String>,

    /// Size of a file of the decision log, bytes or with KiB, MiB, GiB, at least 1MiB [default: 8MiB]
    #[arg(long, env = "TIDEGATE_DECISION_LOG_FILE_BYTES", value_name = "BYTES", help_heading = "Policies")]
    pub decision_log_file_bytes: Option<String>,

    /// Files of the decision log, 0 to 10000; the oldest is removed; 0: no decision is kept [default: 8]
    #[arg(long, env = "TIDEGATE_DECISION_LOG_FILES", value_name = "COUNT", help_heading = "Policies")]
    pub decision_log_files: Option<String>,

    /// A candidate that would have answered more of the latest 1000 decisions otherwise is refused until it is approved,
    /// percent, 0% to 100% [default: it is told only]
    #[arg(long, env = "TIDEGATE_POLICY_DIFF_MAX", value_name = "PERCENT", help_heading = "Policies")]
    pub policy_diff_max: Option<String>,

    /// Public keys (minisign) of those who may sign policies: a file, or a folder of *.pub; read again at a reload
    /// [default: none]
    #[arg(long, env = "TIDEGATE_POLICY_KEYS", value_name = "PATH", help_heading = "Policies")]
    pub policy_keys: Option<String>,

    /// What becomes of policies and settings that none of these keys signed, allow or refuse [default: allow]
    #[arg(long, env = "TIDEGATE_POLICY_UNSIGNED", value_name = "WORD", help_heading = "Policies")]
    pub policy_unsigned: Option<String>,

    /// How long a stop waits for streams and connections to end, seconds, 0 to 600 [default: 10]
    #[arg(long, env = "TIDEGATE_DRAIN_SECONDS", value_name = "SECONDS")]
    pub drain_seconds: Option<String>,

    /// Log lines for people (human) or machines (json) [default: human]
    #[arg(long, env = "TIDEGATE_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,

    /// error, warn, info, debug, trace, or a list such as info,tidegate::events=debug [default: info]
    #[arg(long, env = "TIDEGATE_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
}
