//! The worker processes that the gateway starts from its own binary. It knows how they are called,
//! not what they do.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Kinds of worker that are in this binary.
#[derive(Debug, Subcommand)]
pub enum WorkerCommand {
    /// The simulator. Its secret comes on standard input.
    Sim(SimArgs),
}

/// How a simulator finds its gateway.
#[derive(Debug, Args)]
pub struct SimArgs {
    /// The gateway's socket for workers.
    #[arg(long, value_name = "PATH")]
    connect: PathBuf,
    /// The session that this worker serves.
    #[arg(long, value_name = "ID")]
    session: String,
}

pub(super) async fn run(command: WorkerCommand) -> anyhow::Result<()> {
    // A stopped worker whose gateway dies is sent this by the kernel (its process group has lost its parent); the pipe
    // tells all that matters. Taking the signal keeps it from ending the process.
    let _taken = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
    let WorkerCommand::Sim(SimArgs { connect, session }) = command;
    tidegate_worker::run_sim(tidegate_worker::WorkerArgs { connect, session }).await
}
