//! What every worker shares (secret, start, heartbeat, event batches and their tail, the table of alarms, remembered
//! answers, the end) and
//! the simulator. Knows the pipe, not the gateway behind it. Invariant: a worker does not outlive its pipe, or the time it
//! was given to find another; and whatever a backend hangs in, heartbeats and the order to stop do not wait for it.

pub mod alarms;
pub mod answers;
mod line;
pub mod link;
pub mod outbox;
mod secret;
pub mod sim;
pub mod timer;

pub use link::{Ended, Outcome};
pub use secret::read_secret;

use std::{path::PathBuf, time::Duration};
use tidegate_pipe::Secret;

/// How long the secret and each step of the start may take. (Guessed; a gateway that starts 64 sessions at once on
/// a loaded machine stays far below.)
pub const START_TIMEOUT: Duration = Duration::from_secs(15);

/// What `tidegate worker` is told on its command line; nothing of it is secret.
#[derive(Clone, Debug)]
pub struct WorkerArgs {
    /// The gateway's socket.
    pub connect: PathBuf,
    /// The session this worker serves.
    pub session: String,
}

/// Runs a simulator until its pipe ends or the gateway asks for it. Reads the session's secret from standard input
/// (64 hexadecimal digits and a newline); what follows there, its end included, means nothing.
pub async fn run_sim(args: WorkerArgs) -> anyhow::Result<()> {
    let secret = read_secret(std::io::stdin, START_TIMEOUT).await?;
    match run_sim_with(args, secret).await {
        Err(Ended::Crashed) => std::process::abort(),
        ended => Ok(ended.map(drop)?),
    }
}

/// As `run_sim`, with the secret in hand. A crash on demand is an error here (the pipe ends without a word either
/// way), so that tests can run simulators within their own process.
pub async fn run_sim_with(args: WorkerArgs, secret: Secret) -> Result<Outcome, Ended> {
    link::serve_with_alarms(&args, &secret, sim::BACKEND, sim::run).await
}
