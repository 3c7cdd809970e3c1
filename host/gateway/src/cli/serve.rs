//! `tidegate serve`: from flags to a running gateway and back, with the exit code. Knows signals: SIGTERM and
//! SIGINT end in order, SIGHUP reads configuration and plugins folder again, SIGUSR1 opens the log anew. The parts are
//! `app`'s.

mod notify;

use crate::{
    app::App,
    config::{ServeArgs, ServeConfig},
    telemetry::{self, LogFile, LogLevel},
};
use clap::Args;
use notify::ServiceManager;
use std::path::PathBuf;
use tokio::signal::unix::{SignalKind, signal};

/// The gateway's flags, and where its log goes.
#[derive(Args, Clone, Debug)]
pub struct ServiceArgs {
    #[command(flatten)]
    gateway: ServeArgs,

    /// Write the log to this file instead of standard error; SIGUSR1 opens it anew
    #[arg(long, env = "TIDEGATE_LOG_FILE", value_name = "FILE")]
    log_file: Option<PathBuf>,

    /// Size at which the log file is rotated, MiB, 1 to 1048576 [default: 64]
    #[arg(long, env = "TIDEGATE_LOG_FILE_MIB", value_name = "MIB", default_value = "64", hide_default_value = true,
          value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    log_file_mib: u64,

    /// Full log files kept beside it, as FILE.1 (the youngest), FILE.2 and so on, 0 to 1000 [default: 4]
    #[arg(long, env = "TIDEGATE_LOG_FILES_KEPT", value_name = "COUNT", default_value = "4", hide_default_value = true,
          value_parser = clap::value_parser!(u64).range(0..=1_000))]
    log_files_kept: u64,
}

/// Runs the gateway until SIGTERM or SIGINT.
pub fn run(args: ServiceArgs) -> anyhow::Result<()> {
    let file = args.log_file.as_deref();
    let config = ServeConfig::load(&args.gateway)?;
    let file =
        file.map(|path| LogFile::open(path, args.log_file_mib << 20, args.log_files_kept as usize)).transpose()?;
    let log = telemetry::init(config.log_format, &config.log_level, file)?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut reopen = signal(SignalKind::user_defined1())?;
        let manager = ServiceManager::from_environment();
        let mut app = App::start(config).await?;
        tracing::info!(grpc = %app.addresses.grpc, http = %app.addresses.http, "serving");
        manager.ready(&format!("serving gRPC on {}, HTTP on {}", app.addresses.grpc, app.addresses.http));
        let dog = manager.watchdog(app.progress());
        let reason = loop {
            tokio::select! {
                _ = terminate.recv() => break "the gateway was asked to stop",
                _ = interrupt.recv() => break "the gateway was interrupted",
                // A folder that is refused keeps what serves; the host logs either.
                Some(()) = hangup.recv() => {
                    manager.reloading();
                    reload(&args.gateway, &mut app, &log);
                    app.reload_policies().await;
                    manager.ready("reloaded");
                }
                Some(()) = reopen.recv() => match telemetry::reopen_log() {
                    Ok(()) => tracing::info!("the log was opened anew"),
                    Err(error) => tracing::error!(%error, "the log was not opened anew; the old one is written on"),
                },
            }
        };
        manager.stopping(reason);
        drop(dog);
        app.stop(reason).await;
        Ok(())
    })
}

/// Reads everything again; what is wrong with it is logged and changes nothing.
fn reload(args: &ServeArgs, app: &mut App, log: &LogLevel) {
    let config = match ServeConfig::load(args) {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "the configuration was not read again; what was in force serves on");
            return;
        }
    };
    if let Err(error) = log.set(&config.log_level) {
        tracing::error!(%error, "the log level stays as it was");
    }
    let changes = app.reconfigure(config);
    tracing::info!(applied = changes.applied.join(" "), "the configuration was read again");
    if !changes.waiting.is_empty() {
        tracing::warn!(settings = changes.waiting.join(" "), "these settings take effect at the next start");
    }
}
