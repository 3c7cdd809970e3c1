//! Every metric, once: a table for the docs and typed handles for the code. Knows no part that counts.
//! Invariants: the exposition has exactly the names of `METRICS`; counting is an atomic addition, and a
//! labelled handle is looked up by array index, so a batch costs no hashing and no lock.

use super::{
    labels::{
        AlarmKind, AlarmSnapshot, CloseReason, GapReason, Label, Limit, Of, OtlpExport, Outcome, Pair, ProviderChange,
        StreamEnd, SwapOutcome, TlsFailure, TlsReload,
    },
    policies::PolicySource,
};
use prometheus_client::{
    encoding::{EncodeMetric, text::encode},
    metrics::{family::Family, histogram::exponential_buckets},
    registry::{Registry, Unit},
};
use std::{fmt, sync::Arc, time::Duration};

pub use prometheus_client::metrics::histogram::Histogram;

pub type Counter = prometheus_client::metrics::counter::Counter;
pub type Gauge = prometheus_client::metrics::gauge::Gauge;

/// One row of the table in docs/operating.md.
#[derive(Clone, Copy, Debug)]
pub struct MetricRow {
    /// As in the exposition's TYPE line; a counter's sample has `_total` behind it.
    pub name: &'static str,
    /// `counter`, `gauge`, `histogram`.
    pub kind: &'static str,
    /// Empty for a plain count.
    pub unit: &'static str,
    /// Names of its labels, separated by commas.
    pub labels: &'static str,
    pub help: &'static str,
}

macro_rules! metrics {
    ($($name:literal $kind:ident $unit:literal [$labels:literal] $help:literal;)*) => {
        /// Every metric, in the order of the docs.
        pub const METRICS: &[MetricRow] = &[$(MetricRow {
            name: $name, kind: stringify!($kind), unit: $unit, labels: $labels, help: $help,
        },)*];
    };
}

metrics! {
    "tidegate_degraded_parts" gauge "" [""] "Parts that do not do their work; the rest goes on";
    "tidegate_sessions_open" gauge "" [""] "Sessions that hold a slot";
    "tidegate_sessions_opened" counter "" [""] "Sessions that became ready";
    "tidegate_sessions_open_failed" counter "" [""] "Sessions that could not be opened";
    "tidegate_sessions_faulted" counter "" [""] "Sessions whose worker died or broke the protocol";
    "tidegate_sessions_closed" counter "" ["reason"] "Sessions that ended, by reason";
    "tidegate_workers_started" counter "" [""] "Worker processes started";
    "tidegate_workers_killed" counter "" [""] "Worker processes that had to be killed";
    "tidegate_workers_exited" counter "" [""] "Worker processes that ended, killed or not";
    "tidegate_workers_adopted" counter "" [""] "Workers taken over from a gateway that died or gave way";
    "tidegate_workers_orphans_ended" counter "" [""] "Workers of a gateway that died, ended instead";
    "tidegate_pipe_protocol_errors" counter "" [""] "Frames of workers that broke the protocol";
    "tidegate_events_appended" counter "" [""] "Events taken from workers into logs";
    "tidegate_events_appended_bytes" counter "bytes" [""] "Encoded bytes of those events";
    "tidegate_events_delivered" counter "" [""] "Events handed to readers' transports";
    "tidegate_events_delivered_bytes" counter "bytes" [""] "Bytes handed to readers' transports";
    "tidegate_events_filtered" counter "" [""] "Events withheld because a reader may not see them";
    "tidegate_events_conflated" counter "" [""] "Events replaced by a newer value for a reader under pressure";
    "tidegate_events_gapped" counter "" ["reason"] "Events told to readers as a gap, by reason";
    "tidegate_streams_open" gauge "" [""] "Event streams that are open";
    "tidegate_streams_opened" counter "" [""] "Event streams that were opened";
    "tidegate_streams_ended" counter "" ["reason"] "Event streams that ended, by reason";
    "tidegate_commands" counter "" ["method,outcome"] "Commands that were answered, by method and outcome";
    "tidegate_command_duration_seconds" histogram "seconds" ["method"] "From a command's arrival to its answer";
    "tidegate_decisions_denied" counter "" ["policy"] "Decisions that denied or limited something, by policy, as the decision log has them";
    "tidegate_decisions_dropped" counter "" [""] "Decisions that are not in the decision log: the disk refused, or too many waited";
    "tidegate_policy_calls" counter "" ["policy,digest"] "Calls of a policy's component";
    "tidegate_policy_failures" counter "" ["policy,digest"] "Calls that failed: trap, timeout, memory, bad answer";
    "tidegate_policy_phase_microseconds" counter "microseconds" ["policy,digest,phase"] "Time of decisions by phase: queue, instantiate, guest, host";
    "tidegate_policy_shadow_answers" gauge "" ["outcome"] "Answers of the shadow that runs: same, changed, failed (changed too); skipped questions";
    "tidegate_policy_generation" gauge "" [""] "The generation that decides";
    "tidegate_swaps" counter "" ["outcome,code"] "Attempts to change the policies, by outcome; refused ones by code";
    "tidegate_swap_gate_seconds" histogram "seconds" [""] "From seeing a change to the verdict of the gate";
    "tidegate_swap_enforced_seconds" histogram "seconds" [""] "From the flip until every open stream was judged again";
    "tidegate_log_bytes" gauge "bytes" [""] "Memory that the event logs hold, indexes included";
    "tidegate_readers_lag_max" gauge "" [""] "Events by which the reader furthest behind lags now";
    "tidegate_readers_lag_high_water" gauge "" [""] "The largest lag that any of the present readers ever had";
    "tidegate_readers_near_gap" gauge "" [""] "Readers that lose events within ten seconds if nothing changes";
    "tidegate_keys_live" gauge "" [""] "API keys that are not revoked";
    "tidegate_auth_failures" counter "" [""] "Requests without a usable key";
    "tidegate_accept_failures" counter "" [""] "Times that a connection could not be accepted, most often for want of descriptors";
    "tidegate_otlp_exports" counter "" ["outcome"] "Requests with metrics to the collector that `otlp_url` names, by outcome";
    "tidegate_limits_reached" counter "" ["limit"] "Requests refused because one key or one connection has enough, by limit";
    "tidegate_tls_handshakes" counter "" [""] "TLS handshakes that came about";
    "tidegate_tls_handshakes_failed" counter "" ["reason"] "TLS handshakes that came to nothing, by reason";
    "tidegate_tls_reloads" counter "" ["outcome"] "Changes of the certificate files: taken, refused";
    "tidegate_tls_certificate_not_after_seconds" gauge "seconds" [""] "Unix time at which the certificate that serves expires; 0: there is no TLS";
    "tidegate_storage_commits" counter "" [""] "Transactions committed";
    "tidegate_storage_writes" counter "" [""] "Writes in those transactions; divided by them, the size of a group";
    "tidegate_storage_failures" counter "" [""] "Statements and commits that failed for a reason of the disk";
    "tidegate_storage_commit_seconds" histogram "seconds" [""] "From taking a group of writes to its commit";
    "tidegate_alarms_standing" gauge "" [""] "Alarms that stand in the tables of all sessions";
    "tidegate_alarm_transitions" counter "" ["kind"] "Changes of alarms, by kind";
    "tidegate_alarms_not_kept" counter "" [""] "Alarms that came when their session's table was full";
    "tidegate_alarm_provider_changes" counter "" ["change"] "Providers of alarms that failed, or were open after that";
    "tidegate_alarm_snapshots" counter "" ["reason"] "Snapshots of alarms that streams began, by reason";
    "tidegate_alarm_streams_open" gauge "" [""] "Alarm streams that are open";
    "tidegate_internal_sessions_open" gauge "" [""] "Sessions of the gateway's own that work";
    "tidegate_nodes_attached" gauge "" [""] "Runtime nodes that are attached, silent ones included";
    "tidegate_node_heartbeats" counter "" [""] "Heartbeats of runtime nodes";
    "tidegate_node_transitions" counter "" [""] "Changes of state of runtime nodes";
    "tidegate_node_writes_refused" counter "" [""] "Writes on behalf of nodes that the version floor refused";
}

/// The labels `method` can have: the fields of `Command.method`; anything else counts as `other`.
const METHODS: &[&str] = &[
    "register",
    "unregister",
    "add_item",
    "add_item2",
    "remove_item",
    "advise",
    "advise_supervisory",
    "un_advise",
    "write",
    "write2",
    "write_secured",
    "write_secured2",
    "authenticate_user",
    "archestra_user_to_id",
    "suspend",
    "activate",
    "add_buffered_item",
    "set_buffered_update_interval",
    "get_session_state",
    "get_worker_info",
    "subscribe_bulk",
    "read_bulk",
    "write_bulk",
    "add_item_bulk",
    "advise_bulk",
    "un_advise_bulk",
    "remove_item_bulk",
    "suspend_bulk",
    "activate_bulk",
    "unsubscribe_bulk",
    "write2_bulk",
    "write_secured_bulk",
    "write_secured2_bulk",
    "acknowledge_alarms",
    "other",
];

/// All handles; a clone counts into the same numbers.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pub health: HealthMetrics,
    pub sessions: SessionMetrics,
    pub workers: WorkerMetrics,
    pub events: EventMetrics,
    pub streams: StreamMetrics,
    pub commands: CommandMetrics,
    pub policies: PolicySource,
    pub swaps: SwapMetrics,
    pub log: LogMetrics,
    pub keys: KeyMetrics,
    /// Of every listener.
    pub accept_failures: Counter,
    pub otlp: Of<OtlpExport, Counter>,
    pub limits: LimitMetrics,
    pub tls: TlsMetrics,
    pub storage: StorageMetrics,
    pub alarms: AlarmMetrics,
    pub nodes: NodeMetrics,
}

#[derive(Clone, Debug)]
pub struct HealthMetrics {
    /// Set when somebody scrapes.
    pub degraded: Gauge,
}

#[derive(Clone, Debug)]
pub struct SessionMetrics {
    pub open: Gauge,
    pub opened: Counter,
    pub open_failed: Counter,
    pub faulted: Counter,
    pub closed: Of<CloseReason, Counter>,
    pub internal_open: Gauge,
}

#[derive(Clone, Debug)]
pub struct WorkerMetrics {
    pub started: Counter,
    pub killed: Counter,
    pub exited: Counter,
    pub adopted: Counter,
    pub orphans_ended: Counter,
    pub protocol_errors: Counter,
}

/// The account of all readers: delivered + filtered + conflated + gapped.
#[derive(Clone, Debug)]
pub struct EventMetrics {
    pub appended: Counter,
    pub appended_bytes: Counter,
    pub delivered: Counter,
    pub delivered_bytes: Counter,
    pub filtered: Counter,
    pub conflated: Counter,
    pub gapped: Of<GapReason, Counter>,
}

#[derive(Clone, Debug)]
pub struct StreamMetrics {
    pub open: Gauge,
    pub opened: Counter,
    pub ended: Of<StreamEnd, Counter>,
}

#[derive(Clone, Debug)]
pub struct CommandMetrics {
    /// Per method, in the order of `METHODS`.
    methods: Arc<[(Of<Outcome, Counter>, Histogram)]>,
}

#[derive(Clone, Debug)]
pub struct SwapMetrics {
    /// By outcome and, where refused, the code.
    attempts: Family<[Pair; 2], Counter>,
    pub generation: Gauge,
    pub gate_seconds: Histogram,
    pub enforced_seconds: Histogram,
}

#[derive(Clone, Debug)]
pub struct LogMetrics {
    pub bytes: Gauge,
    /// Over all readers; each of them has its own numbers in its stream, `session list` and `top`.
    pub lag_max: Gauge,
    pub lag_high_water: Gauge,
    pub near_gap: Gauge,
}

#[derive(Clone, Debug)]
pub struct KeyMetrics {
    pub live: Gauge,
    pub auth_failures: Counter,
}

#[derive(Clone, Debug)]
pub struct LimitMetrics {
    pub reached: Of<Limit, Counter>,
}

#[derive(Clone, Debug)]
pub struct TlsMetrics {
    pub handshakes: Counter,
    pub failed: Of<TlsFailure, Counter>,
    pub reloads: Of<TlsReload, Counter>,
    /// Unix seconds.
    pub not_after: Gauge,
}

#[derive(Clone, Debug)]
pub struct StorageMetrics {
    pub commits: Counter,
    pub rows: Counter,
    pub failures: Counter,
    pub commit_seconds: Histogram,
}

#[derive(Clone, Debug)]
pub struct AlarmMetrics {
    pub standing: Gauge,
    pub transitions: Of<AlarmKind, Counter>,
    pub not_kept: Counter,
    pub provider_changes: Of<ProviderChange, Counter>,
    pub snapshots: Of<AlarmSnapshot, Counter>,
    pub streams_open: Gauge,
}

#[derive(Clone, Debug)]
pub struct NodeMetrics {
    pub attached: Gauge,
    pub heartbeats: Counter,
    pub transitions: Counter,
    pub writes_refused: Counter,
}

// === impl Metrics ===

impl Metrics {
    pub fn new() -> Self {
        let policies = PolicySource::default();
        let mut to = Registration(Registry::default());
        let metrics = Self {
            health: HealthMetrics { degraded: to.add("tidegate_degraded_parts") },
            sessions: SessionMetrics {
                open: to.add("tidegate_sessions_open"),
                opened: to.add("tidegate_sessions_opened"),
                open_failed: to.add("tidegate_sessions_open_failed"),
                faulted: to.add("tidegate_sessions_faulted"),
                closed: to.add_of("tidegate_sessions_closed"),
                internal_open: to.add("tidegate_internal_sessions_open"),
            },
            workers: WorkerMetrics {
                started: to.add("tidegate_workers_started"),
                killed: to.add("tidegate_workers_killed"),
                exited: to.add("tidegate_workers_exited"),
                adopted: to.add("tidegate_workers_adopted"),
                orphans_ended: to.add("tidegate_workers_orphans_ended"),
                protocol_errors: to.add("tidegate_pipe_protocol_errors"),
            },
            events: EventMetrics {
                appended: to.add("tidegate_events_appended"),
                appended_bytes: to.add("tidegate_events_appended_bytes"),
                delivered: to.add("tidegate_events_delivered"),
                delivered_bytes: to.add("tidegate_events_delivered_bytes"),
                filtered: to.add("tidegate_events_filtered"),
                conflated: to.add("tidegate_events_conflated"),
                gapped: to.add_of("tidegate_events_gapped"),
            },
            streams: StreamMetrics {
                open: to.add("tidegate_streams_open"),
                opened: to.add("tidegate_streams_opened"),
                ended: to.add_of("tidegate_streams_ended"),
            },
            commands: to.add_commands(),
            swaps: SwapMetrics {
                attempts: to.add_swaps(),
                generation: to.add("tidegate_policy_generation"),
                gate_seconds: to.add_seconds("tidegate_swap_gate_seconds"),
                enforced_seconds: to.add_seconds("tidegate_swap_enforced_seconds"),
            },
            log: LogMetrics {
                bytes: to.add("tidegate_log_bytes"),
                lag_max: to.add("tidegate_readers_lag_max"),
                lag_high_water: to.add("tidegate_readers_lag_high_water"),
                near_gap: to.add("tidegate_readers_near_gap"),
            },
            keys: KeyMetrics { live: to.add("tidegate_keys_live"), auth_failures: to.add("tidegate_auth_failures") },
            accept_failures: to.add("tidegate_accept_failures"),
            otlp: to.add_of("tidegate_otlp_exports"),
            limits: LimitMetrics { reached: to.add_of("tidegate_limits_reached") },
            tls: TlsMetrics {
                handshakes: to.add("tidegate_tls_handshakes"),
                failed: to.add_of("tidegate_tls_handshakes_failed"),
                reloads: to.add_of("tidegate_tls_reloads"),
                not_after: to.add("tidegate_tls_certificate_not_after_seconds"),
            },
            storage: StorageMetrics {
                commits: to.add("tidegate_storage_commits"),
                rows: to.add("tidegate_storage_writes"),
                failures: to.add("tidegate_storage_failures"),
                commit_seconds: to.add_seconds("tidegate_storage_commit_seconds"),
            },
            alarms: AlarmMetrics {
                standing: to.add("tidegate_alarms_standing"),
                transitions: to.add_of("tidegate_alarm_transitions"),
                not_kept: to.add("tidegate_alarms_not_kept"),
                provider_changes: to.add_of("tidegate_alarm_provider_changes"),
                snapshots: to.add_of("tidegate_alarm_snapshots"),
                streams_open: to.add("tidegate_alarm_streams_open"),
            },
            nodes: NodeMetrics {
                attached: to.add("tidegate_nodes_attached"),
                heartbeats: to.add("tidegate_node_heartbeats"),
                transitions: to.add("tidegate_node_transitions"),
                writes_refused: to.add("tidegate_node_writes_refused"),
            },
            registry: Arc::default(),
            policies: policies.clone(),
        };
        to.0.register_collector(Box::new(policies));
        Self { registry: Arc::new(to.0), ..metrics }
    }

    /// The exposition (OpenMetrics text).
    pub fn expose(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        // Writing to a String does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

// === impl SwapMetrics ===

impl SwapMetrics {
    /// Counts one attempt; `code` is that of a refusal, else empty.
    pub fn attempted(&self, outcome: SwapOutcome, code: &'static str) {
        self.attempts.get_or_create(&[(SwapOutcome::NAME, outcome.as_str()), ("code", code)]).inc();
    }

    /// The codes that refusals can have: their series are there from the start, so that a first one is a rise.
    pub fn refusals(&self, codes: impl IntoIterator<Item = &'static str>) {
        for code in codes {
            let labels = [(SwapOutcome::NAME, SwapOutcome::Refused.as_str()), ("code", code)];
            let _there_from_now_on = self.attempts.get_or_create(&labels);
        }
    }
}

// === impl CommandMetrics ===

impl CommandMetrics {
    /// Counts one answered command. `method` is its field's name in the contract, e.g. `add_item`.
    pub fn answered(&self, method: &str, outcome: Outcome, took: Duration) {
        let index = METHODS.iter().position(|known| *known == method).unwrap_or(METHODS.len() - 1);
        let (outcomes, seconds) = &self.methods[index];
        outcomes.of(outcome).inc();
        seconds.observe(took.as_secs_f64());
    }
}

/// Looks a name up in the table; a name that is not there is a defect that the first test finds.
pub(super) fn row(name: &str) -> &'static MetricRow {
    METRICS.iter().find(|row| row.name == name).expect("every metric has a row in METRICS")
}

/// The name without what the exposition adds by itself.
pub(super) fn bare_name(row: &MetricRow) -> &'static str {
    row.name.strip_suffix(row.unit).and_then(|name| name.strip_suffix('_')).unwrap_or(row.name)
}

pub(super) fn unit(row: &MetricRow) -> Option<Unit> {
    match row.unit {
        "" => None,
        "bytes" => Some(Unit::Bytes),
        "seconds" => Some(Unit::Seconds),
        other => Some(Unit::Other(other.to_owned())),
    }
}

/// 16 µs to 67 s, doubling: what waits for a disk, a guest or a COM call.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(16e-6, 2.0, 23))
}

struct Registration(Registry);

// === impl Registration ===

impl Registration {
    fn put(&mut self, name: &'static str, metric: impl EncodeMetric + fmt::Debug + Send + Sync + 'static) {
        let row = row(name);
        match unit(row) {
            Some(unit) => self.0.register_with_unit(bare_name(row), row.help, unit, metric),
            None => self.0.register(row.name, row.help, metric),
        }
    }

    fn add<M>(&mut self, name: &'static str) -> M
    where
        M: EncodeMetric + Default + Clone + fmt::Debug + Send + Sync + 'static,
    {
        let metric = M::default();
        self.put(name, metric.clone());
        metric
    }

    fn add_seconds(&mut self, name: &'static str) -> Histogram {
        let metric = seconds();
        self.put(name, metric.clone());
        metric
    }

    fn add_of<L: Label>(&mut self, name: &'static str) -> Of<L, Counter> {
        let family = Family::<[Pair; 1], Counter>::default();
        self.put(name, family.clone());
        Of::new(&family)
    }

    /// All but refusals, whose codes the policies know.
    fn add_swaps(&mut self) -> Family<[Pair; 2], Counter> {
        let attempts = Family::<[Pair; 2], Counter>::default();
        self.put("tidegate_swaps", attempts.clone());
        for outcome in SwapOutcome::ALL.iter().filter(|outcome| **outcome != SwapOutcome::Refused) {
            let _there_from_now_on = attempts.get_or_create(&[(SwapOutcome::NAME, outcome.as_str()), ("code", "")]);
        }
        attempts
    }

    fn add_commands(&mut self) -> CommandMetrics {
        let counts = Family::<[Pair; 2], Counter>::default();
        let times = Family::<[Pair; 1], Histogram, fn() -> Histogram>::new_with_constructor(seconds);
        self.put("tidegate_commands", counts.clone());
        self.put("tidegate_command_duration_seconds", times.clone());
        let methods = METHODS
            .iter()
            .map(|method| {
                let method = ("method", *method);
                (Of::with(&counts, method), times.get_or_create_owned(&[method]))
            })
            .collect::<Vec<_>>();
        CommandMetrics { methods: methods.into() }
    }
}
