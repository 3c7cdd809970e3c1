//! Chaos with a seed: real gateways and workers are killed, stalled and lied to at random moments while readers keep their
//! accounts over all of it. Ends with one line of JSON. Invariant: the exit code is 1 when a promise broke, whatever the
//! figures are; the same seed makes the same plan.

mod faults;
mod plan;
mod reader;
mod report;
mod world;

use clap::Parser;
use std::{path::PathBuf, process::ExitCode};

#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask chaos", about = "Kill gateways and workers and see that every account closes")]
pub(crate) struct Args {
    /// SIGKILLs of gateways and workers together
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// How long the kills take; what a restart takes comes on top
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// What happens in which order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Sessions at a time, each with a worker
    #[arg(long, default_value_t = 8)]
    sessions: usize,
    /// Readers of each session; the last one is slow
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// Events a second of each worker
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// The gateway [default: `tidegate` beside this program]
    #[arg(long)]
    program: Option<PathBuf>,
    /// Only the line of JSON on the standard output
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match faults::run(Args::parse()).await {
        Ok(report) => {
            println!("{}", report.json());
            let broken = report.broken();
            broken.iter().for_each(|promise| eprintln!("broken: {promise}"));
            if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
