//! Placeholder of the hook that `serve` fills.

/// Options of `serve`.
#[derive(Debug, clap::Args)]
pub struct ServeArgs {}

/// Runs the gateway until it is told to stop.
pub fn run(_: ServeArgs) -> anyhow::Result<()> {
    anyhow::bail!("serve is not part of this build")
}
