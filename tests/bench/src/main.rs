//! The measuring jobs, started by `cargo xtask bench` and `cargo xtask soak`. Each starts real processes, prints a
//! table, and writes rows as JSON. Also holds the processes that jobs start (`role`). Knows the gateway from outside
//! only: its command line, its APIs, /proc. Invariant: ours and its baselines are measured in the same run.

mod dashboards;
mod event;
mod fanout;
mod gateway;
mod instructions;
mod memory;
mod nats;
mod nodes;
mod plain;
mod plot;
mod policy;
mod process;
mod readers;
mod redis;
mod rows;
mod soak;
mod stalled;
mod stats;
mod swap;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", about = "Measures the gateway", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Processor time per delivered event beside a plain tonic stream and nats-server
    Fanout(fanout::Args),
    /// From event to reader at 20,000 events per second, with and without linger, beside the same peers
    Latency(fanout::Args),
    /// What open pages of the dashboard cost the gateway at 100,000 events a second
    Dashboards(dashboards::Args),
    /// What idle sessions and readers cost the gateway
    Memory(memory::Args),
    /// Instructions per delivered event, by callgrind, beside the committed figure
    Instructions(instructions::Args),
    /// Latency of readers while others never read, in pairs with and without those
    Readers(stalled::Args),
    /// An SVG of the rows that a job wrote
    Plot(plot::Args),
    /// Durable attaches and heartbeats of runtime nodes beside plain SQLite
    Nodes(nodes::Args),
    /// What a decision and the gate cost, and that events ask no policy
    Policy(policy::Args),
    /// What a swap costs calls and open streams
    Swap(swap::Args),
    /// Everything at once, good and bad swaps mixed; fails when a promise is broken
    Soak(soak::Args),
    /// A process that a job starts
    #[command(subcommand, hide = true)]
    Role(Role),
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The plain tonic server and its publisher
    Plain {
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        grain_us: u32,
    },
    NatsPublisher {
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        grain_us: u32,
        #[arg(long)]
        address: String,
    },
    RedisPublisher {
        #[arg(long)]
        rate: u32,
        #[arg(long)]
        grain_us: u32,
        #[arg(long)]
        address: String,
    },
    /// The clients of the fan-out
    Read(readers::Args),
}

fn main() -> ExitCode {
    match run(Args::parse().job) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(job: Job) -> anyhow::Result<ExitCode> {
    // Servers as anyone would run them; clients and jobs on one thread, they must not be in the way.
    let mut runtime = match job {
        Job::Role(Role::Plain { .. }) | Job::Soak(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    let done = |result: anyhow::Result<()>| result.map(|()| ExitCode::SUCCESS);
    runtime.enable_all().build()?.block_on(async {
        match job {
            Job::Fanout(args) => done(fanout::run(args).await),
            Job::Latency(args) => done(fanout::latency(args).await),
            Job::Dashboards(args) => done(dashboards::run(args).await),
            Job::Memory(args) => done(memory::run(args).await),
            Job::Instructions(args) => done(instructions::run(args).await),
            Job::Readers(args) => done(stalled::run(args).await),
            Job::Plot(args) => done(plot::run(&args)),
            Job::Nodes(args) => done(nodes::run(args).await),
            Job::Policy(args) => done(policy::run(args).await),
            Job::Swap(args) => done(swap::run(args).await),
            Job::Soak(args) => soak::run(args).await,
            Job::Role(Role::Plain { rate, grain_us }) => done(plain::serve(rate, grain_us).await),
            Job::Role(Role::NatsPublisher { rate, grain_us, address }) => {
                done(nats::publish(&address, readers::SUBJECT, rate, grain_us).await)
            }
            Job::Role(Role::RedisPublisher { rate, grain_us, address }) => {
                done(redis::publish(&address, readers::SUBJECT, rate, grain_us).await)
            }
            Job::Role(Role::Read(args)) => done(readers::run(args).await),
        }
    })
}
