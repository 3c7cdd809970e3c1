//! What Tidegate says about itself: logs and metrics. Knows no part of the gateway but their names.
//! Invariant: no key, no secret and no tag's value leaves through here; labels are from fixed sets.

#[cfg(test)]
mod alert_tests;
mod file;
mod labels;
mod log;
mod metrics;
mod otlp;
mod policies;
mod redact;
mod repeated;
#[cfg(test)]
mod tests;

pub use file::LogFile;
pub use labels::{
    AlarmKind, AlarmSnapshot, CloseReason, GapReason, Limit, Of, OtlpExport, Outcome, ProviderChange, StreamEnd,
    SwapOutcome, TlsFailure, TlsReload,
};
pub use log::{LogFormat, LogLevel, check_level, heal_log, init, log_trouble, reopen_log, subscriber};
pub use metrics::{
    AlarmMetrics, CommandMetrics, Counter, EventMetrics, Gauge, HealthMetrics, Histogram, KeyMetrics, LimitMetrics,
    LogMetrics, METRICS, MetricRow, Metrics, NodeMetrics, SessionMetrics, StorageMetrics, StreamMetrics, SwapMetrics,
    TlsMetrics, WorkerMetrics,
};
pub use otlp::{About, Collector, export};
pub use policies::{PolicyNumbers, PolicySample, PolicySource, ShadowSample};
pub use repeated::Repeated;
