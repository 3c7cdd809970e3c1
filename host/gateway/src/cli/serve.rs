//! `tidegate serve`: from flags to a running gateway and back, with the exit code. Knows signals: SIGTERM and
//! SIGINT end in order, SIGHUP reads the plugins folder again. The parts are `app`'s.

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
        let mut hangup = signal(SignalKind::hangup())?;
        let app = App::start(config).await?;
        tracing::info!(grpc = %app.addresses.grpc, http = %app.addresses.http, "serving");
        let reason = loop {
            tokio::select! {
                _ = terminate.recv() => break "the gateway was asked to stop",
                _ = interrupt.recv() => break "the gateway was interrupted",
                // A folder that is refused keeps what serves; the host logs either.
                Some(()) = hangup.recv() => app.reload_policies().await,
            }
        };
        app.stop(reason).await;
        Ok(())
    })
}
