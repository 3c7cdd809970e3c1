//! x
/// Options of the demo.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example")]
pub struct DemoArgs {
    /// j
    #[arg(long)]
    pub json: bool,
}
pub(super) async fn run(_: DemoArgs) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("not yet")
}
