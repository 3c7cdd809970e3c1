//! Logs: for people on a terminal, JSON for machines; to standard error or a file. Knows formats and filters.
//! Invariant: every line passes the redaction.

use super::{LogFile, redact::Redacted};
use crate::error::{Code, Error, Result};
use std::{io::IsTerminal as _, panic, sync::OnceLock};
use tracing::{Dispatch, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    fmt::{self, MakeWriter},
    layer::{Filter, SubscriberExt as _},
    reload,
};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Human,
    /// One object per line, fields flat.
    Json,
}

/// Changes the level of the log that is on.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<EnvFilter, Registry>);

/// Longest text of a panic that is logged.
const PANIC_TEXT_MAX: usize = 256;

/// The file that the process logs to, if it is one.
static FILE: OnceLock<LogFile> = OnceLock::new();

/// Opens the log's file anew (SIGUSR1); nothing without one.
pub fn reopen_log() -> Result<()> {
    FILE.get().map_or(Ok(()), LogFile::reopen)
}

/// Tries to write while the log's file cannot be written.
pub fn heal_log() {
    if let Some(file) = FILE.get() {
        file.heal();
    }
}

/// Why lines are being lost, if they are.
pub fn log_trouble() -> Option<String> {
    FILE.get().and_then(LogFile::trouble)
}

/// Switches logging on for the whole process; once. Panics are logged too. Without a file: to standard error.
pub fn init(format: LogFormat, level: &str, file: Option<LogFile>) -> Result<LogLevel> {
    let (filter, handle) = reload::Layer::new(filter(level)?);
    let dispatch: Dispatch = match file {
        Some(file) => {
            let dispatch = with_filter(format, filter, file.clone(), false);
            let _first_stays = FILE.set(file);
            dispatch
        }
        None => {
            let colours = format == LogFormat::Human && std::io::stderr().is_terminal();
            with_filter(format, filter, std::io::stderr, colours)
        }
    };
    tracing::dispatcher::set_global_default(dispatch)
        .map_err(|_| Error::new(Code::Internal, "logging is switched on already"))?;
    panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(|s| &**s));
        let text: String = text.unwrap_or("no text").chars().take(PANIC_TEXT_MAX).collect();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, thread = std::thread::current().name(), "panic: {text}");
    }));
    Ok(LogLevel(handle))
}

/// What `init` installs, over any writer: tests look into one of their own.
pub fn subscriber<W>(format: LogFormat, level: &str, writer: W, colours: bool) -> Result<Dispatch>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    Ok(with_filter(format, filter(level)?, writer, colours))
}

fn with_filter<F, W>(format: LogFormat, filter: F, writer: W, colours: bool) -> Dispatch
where
    F: Filter<Registry> + Send + Sync + 'static,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let writer = RedactedWriter(writer);
    match format {
        LogFormat::Human => dispatch(fmt::layer().with_ansi(colours).with_writer(writer).with_filter(filter)),
        LogFormat::Json => dispatch(
            fmt::layer().json().flatten_event(true).with_current_span(true).with_writer(writer).with_filter(filter),
        ),
    }
}

// === impl LogLevel ===

impl LogLevel {
    /// From the next line on.
    pub fn set(&self, level: &str) -> Result<()> {
        let gone = |_| Error::new(Code::Internal, "logging is switched off");
        self.0.reload(filter(level)?).map_err(gone)
    }
}

/// Checks a level or a list of directives, e.g. `info` or `info,tidegate::events=debug`.
pub fn check_level(level: &str) -> Result<()> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter> {
    EnvFilter::builder().parse(level).map_err(|_| {
        Error::new(
            Code::ConfigInvalid,
            "the log level is none of error, warn, info, debug, trace or a list like info,tidegate::events=debug",
        )
    })
}

fn dispatch<L>(layer: L) -> Dispatch
where
    L: tracing_subscriber::Layer<Registry> + Send + Sync,
    tracing_subscriber::layer::Layered<L, Registry>: Subscriber,
{
    Dispatch::new(Registry::default().with(layer))
}

struct RedactedWriter<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for RedactedWriter<W> {
    type Writer = Redacted<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        Redacted(self.0.make_writer())
    }
}
