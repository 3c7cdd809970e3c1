//! `tidegate serve`: from flags to a running gateway and back, with the exit code. Knows signals: SIGTERM and
//! SIGINT end in order, SIGHUP reads configuration and plugins folder again, SIGUSR1 opens the log anew, SIGUSR2 starts the
//! program that is to follow. The parts are `app`'s, one gateway after the other `takeover`'s.

mod notify;

use crate::{
    app::{App, Beginning},
    config::{ServeArgs, ServeConfig, unknown_variables},
    error::Code,
    policies::Waiting,
    takeover::{self, Desk, Followed, Given, Outcome, Successor},
    telemetry::{self, LogFile, LogLevel},
};
use clap::Args;
use notify::ServiceManager;
use std::{
    io,
    sync::{Arc, OnceLock},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

const EXAMPLES: &str = "\
Examples:
  tidegate serve                        on this machine only, with a simulator
  tidegate serve --data /var/lib/tidegate --enable-orphan-reattach
  tidegate serve --take-over …          with the same flags: follow the gateway that runs, without refusing a connection

Signals: TERM and INT end in order, HUP reads the configuration and the plugins again, USR1 opens the log anew, USR2 starts
the program that lies at this one's path, with the same flags and --take-over.";

/// The gateway's flags, and how it comes by its folder.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub struct ServiceArgs {
    #[command(flatten)]
    gateway: ServeArgs,

    /// Take over from the gateway that works on the data folder: prepare beside it, then take its sockets, its folder and its
    /// workers. Without one start as usual; when it comes to nothing the other one goes on. Both need
    /// --enable-orphan-reattach
    #[arg(long)]
    take_over: bool,
}

/// SIGTERM and SIGINT, heard from the first moment on, also in the middle of a start or of a hand-over.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// To end.
    stop: CancellationToken,
    why: Arc<OnceLock<&'static str>>,
}

/// Runs the gateway until SIGTERM or SIGINT, or until another one has taken over.
pub fn run(args: ServiceArgs) -> anyhow::Result<()> {
    let config = ServeConfig::load(&args.gateway)?;
    let file = config.log_file.as_ref().map(|file| LogFile::open(&file.path, file.bytes_max, file.kept)).transpose()?;
    let log = telemetry::init(config.log_format, &config.log_level, file)?;
    for unknown in unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
        tracing::warn!("{unknown}");
    }
    let successor = Successor::of_this_process()?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let asked = Asked::listen()?;
        let mut hangup = signal(SignalKind::hangup())?;
        let mut reopen = signal(SignalKind::user_defined1())?;
        let mut succeed = signal(SignalKind::user_defined2())?;
        let manager = ServiceManager::from_environment();
        let Some(mut app) = Box::pin(start(config, args.take_over, &asked.stop)).await? else { return Ok(()) };
        let (_desk, mut standbys) = Desk::open(&app)?;
        manager.ready(&app.serves());
        let mut dog = manager.watchdog(app.progress());
        let reason = loop {
            tokio::select! {
                why = asked.to_stop() => break why,
                // A folder that is refused keeps what serves; the host logs either.
                Some(()) = hangup.recv() => {
                    manager.reloading();
                    reload(&args.gateway, &mut app, &log);
                    app.look_at_policies().await;
                    manager.ready("reloaded");
                }
                Some(()) = reopen.recv() => match telemetry::reopen_log() {
                    Ok(()) => tracing::info!("the log was opened anew"),
                    Err(error) => tracing::error!(%error, "the log was not opened anew; the old one is written on"),
                },
                Some(()) = succeed.recv() => successor.start(),
                Some(standby) = standbys.recv() => {
                    // While nobody serves there is no progress to tell of; it takes less time than that.
                    drop(dog);
                    let given = takeover::give(app, standby, &asked.stop, |pid| manager.succeeded_by(pid));
                    match Box::pin(given).await? {
                        Outcome::Gone => return Ok(()),
                        Outcome::Back(back) => app = *back,
                    }
                    dog = manager.watchdog(app.progress());
                }
            }
        };
        manager.stopping(reason);
        drop(dog);
        app.stop(reason).await;
        Ok(())
    })
}

// === impl Asked ===

impl Asked {
    fn listen() -> io::Result<Self> {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let asked = Self::default();
        let hears = asked.clone();
        tokio::spawn(async move {
            let why = tokio::select! {
                _ = terminate.recv() => "the gateway was asked to stop",
                _ = interrupt.recv() => "the gateway was interrupted",
            };
            let _first = hears.why.set(why);
            hears.stop.cancel();
        });
        Ok(asked)
    }

    async fn to_stop(&self) -> &'static str {
        self.stop.cancelled().await;
        self.why.get().copied().unwrap_or_default()
    }
}

/// `None`: it was asked to stop before it served; another gateway from which it was to take over goes on.
async fn start(config: ServeConfig, take_over: bool, stop: &CancellationToken) -> anyhow::Result<Option<App>> {
    let waiting = Waiting { stop: stop.clone(), tell: notify::still_starting };
    let followed = if take_over {
        Box::pin(takeover::follow(config, &waiting)).await?
    } else {
        let given = Given::by_service_manager(&config)?;
        match App::begin(config, Beginning::Afresh(given), &waiting).await {
            Ok(mut app) => {
                app.open();
                Followed::Nobody(Box::new(app))
            }
            Err(error) if error.code() == Code::Draining => Followed::Stopped,
            Err(error) => return Err(error.into()),
        }
    };
    Ok(Some(match followed {
        Followed::Stopped => {
            tracing::info!("asked to stop before it served");
            return Ok(None);
        }
        Followed::Nobody(app) => {
            tracing::info!(grpc = %app.addresses.grpc, http = %app.addresses.http, "serving");
            *app
        }
        Followed::Gateway(app, paused) => {
            let paused_ms = paused.as_millis() as u64;
            tracing::info!(grpc = %app.addresses.grpc, http = %app.addresses.http, paused_ms, "took over, serving");
            *app
        }
    }))
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
