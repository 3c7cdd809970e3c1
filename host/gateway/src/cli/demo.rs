//! The demo: a real gateway, real workers, readers over real gRPC, policies swapped under them, and
//! an account that has to close. What it reports is measured by its clients or read from the
//! operators' API. Invariant: whatever happens, the processes it started end with it.

mod gateway;
mod history;
mod reader;
mod screen;
mod story;
mod summary;

use super::Usage;
use clap::Args;
use std::{io::Write as _, path::PathBuf, process::ExitCode, time::Duration};

const ACCESS: &[u8] = include_bytes!("../../../../plugins/dist/access.wasm");
const BACKPRESSURE: &[u8] = include_bytes!("../../../../plugins/dist/backpressure.wasm");

/// How the demo runs.
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  tidegate demo\n  tidegate demo --seconds 30 --rate 50000\n  \
    tidegate demo --json | tail -n 1\n  tidegate demo --csv machine-temperature.csv\n\n\
    Ends with exit code 1, and says why, if a single event is not accounted for.")]
pub struct DemoArgs {
    /// How long the streams run.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u64).range(3..=3600))]
    seconds: u64,
    /// Events each second.
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=500_000))]
    rate: u32,
    /// Also replay a history (`timestamp,tag,value[,quality]`) and compare what arrives with the file, bit for bit.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Keep the folder with the gateway's data and log.
    #[arg(long)]
    keep: bool,
    /// Make the last line of output one JSON object.
    #[arg(long)]
    pub json: bool,
}

pub(super) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    let history = match &args.csv {
        Some(file) => Some(history::History::read(file).map_err(Usage)?),
        None => None,
    };
    let settings = story::Settings {
        duration: Duration::from_secs(args.seconds),
        rate: args.rate,
        history,
        csv: args.csv.clone(),
        keep: args.keep,
        quiet: args.json,
    };
    // Dropping the story ends its gateway, so an interrupt leaves nothing behind.
    let summary = tokio::select! {
        told = story::tell(settings) => told?,
        () = interrupted() => anyhow::bail!("interrupted"),
    };
    let failures = summary.failures();
    let mut out = std::io::stdout().lock();
    if args.json {
        if let Some(history) = &summary.history {
            writeln!(out, "{history}")?;
        }
        writeln!(out, "{}", serde_json::to_string(&summary)?)?;
    } else {
        writeln!(out, "{}", summary.text())?;
    }
    for failure in &failures {
        eprintln!("error: {failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Ctrl-C, or a polite request to end.
async fn interrupted() {
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}
