//! Chaos with a seed: real gateways and workers are killed, stalled and lied to at random moments while readers and
//! writers keep their accounts over all of it. Ends with one line of JSON. Invariant: the exit code is 1 when a promise
//! broke, whatever the figures are; the same seed makes the same plan.

mod back;
mod faults;
mod held;
mod plan;
mod process;
mod reader;
mod report;
mod world;
mod writer;

use clap::Parser;
use std::{path::PathBuf, process::ExitCode};

#[derive(Clone, Debug, Parser)]
#[command(name = "cargo xtask chaos", about = "Kill gateways and workers and see that every account closes")]
pub(crate) struct Args {
    /// SIGKILLs of gateways and workers together
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// How long the plan takes; what restarts take comes on top
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// What happens in which order; a random one when it is not given, told at the end
    #[arg(long)]
    seed: Option<u64>,
    /// Sessions at a time, each with a worker
    #[arg(long, default_value_t = 8)]
    sessions: usize,
    /// Readers of each session; the last one is slow
    #[arg(long, default_value_t = 2)]
    readers: usize,
    /// Events a second of each worker
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Fail, too, when the 99th percentile of adoptions takes longer
    #[arg(long, value_name = "MS")]
    adoption_ms_max: Option<u64>,
    /// The gateway [default: `tidegate` beside this program]
    #[arg(long)]
    program: Option<PathBuf>,
    /// Only the line of JSON on the standard output
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(plan::random_seed);
    let ran = tokio::select! {
        ran = faults::run(&args, seed) => ran,
        // The world is dropped, and with it every process of it.
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let Args { kills, seconds, sessions, readers, rate, .. } = args;
    let code = match ran {
        Ok(report) => {
            println!("{}", report.json());
            report.judge(args.adoption_ms_max, |promise| eprintln!("broken: {promise}"))
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    };
    eprintln!(
        "the same again: cargo xtask chaos --kills {kills} --seconds {seconds} --sessions {sessions} \
         --readers {readers} --rate {rate} --seed {seed}"
    );
    code
}
