//! `tidegate serve`: from flags to a running gateway and back, with the exit code. Knows signals; the
//! parts are `app`'s.

pub use crate::config::ServeArgs;

use crate::{app::App, config::ServeConfig, telemetry};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the gateway until SIGTERM or SIGINT.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = ServeConfig::from_args(args)?;
    telemetry::init(config.log_format, &config.log_level)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let app = App::start(config).await?;
        tracing::info!(grpc = %app.addresses.grpc, http = %app.addresses.http, "serving");
        let reason = tokio::select! {
            _ = terminate.recv() => "the gateway was asked to stop",
            _ = interrupt.recv() => "the gateway was interrupted",
        };
        app.stop(reason).await;
        Ok(())
    })
}
