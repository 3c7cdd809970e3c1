//! TLS of the listeners: a certificate and its key, read from files that are watched, and the handshake with its
//! bounds. The only place that knows rustls. Knows neither gRPC nor pages. Invariant: a pair that is not whole never
//! replaces one that serves, and connections live on with the pair that they began with.

mod certificate;
mod client;
mod dev;
mod files;
mod handshake;
#[cfg(test)]
mod tests;

pub use certificate::Certificate;
pub use client::ClientTls;
pub use dev::{DevFiles, DevRequest};
pub use handshake::{Protocol, Stream};

use crate::{
    config::TlsSettings,
    error::Result,
    telemetry::{self, TlsMetrics},
};
use arc_swap::ArcSwap;
use files::{Digest, Loaded};
use parking_lot::Mutex;
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{Notify, Semaphore};

/// Handshakes at a time on all listeners: each costs the processor a signature. Those above wait for their turn,
/// within their time. Guessed.
const HANDSHAKES_MAX: usize = 128;
/// How often the files are looked at; a change counts when two looks see the same.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The TLS of a gateway; clones share it.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    settings: TlsSettings,
    serving: ArcSwap<Loaded>,
    /// Why what is on the disk does not serve.
    refused: Mutex<Option<String>>,
    /// What is on the disk, where only its dates are wrong.
    too_early: Mutex<Option<Loaded>>,
    look_now: Notify,
    handshakes: Semaphore,
    metrics: TlsMetrics,
}

// === impl Tls ===

impl Tls {
    /// Reads the files; what is wrong with them is an error.
    pub fn load(settings: TlsSettings, metrics: TlsMetrics) -> Result<Self> {
        let loaded = files::load(&settings, &files::read(&settings)?)?;
        metrics.not_after.set(loaded.not_after);
        let shared = Shared {
            settings,
            serving: ArcSwap::from_pointee(loaded),
            refused: Mutex::default(),
            too_early: Mutex::default(),
            look_now: Notify::new(),
            handshakes: Semaphore::new(HANDSHAKES_MAX),
            metrics,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Looks at the files for as long as it is polled, and takes what has changed and is whole.
    pub async fn watch(self) {
        let mut settled = self.shared.serving.load().digest;
        let mut seen = settled;
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            let asked = tokio::select! {
                _ = tick.tick() => false,
                () = self.shared.look_now.notified() => true,
            };
            let settings = self.shared.settings.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || files::read(&settings)).await else { continue };
            let digest = match &found {
                Ok(read) => read.digest,
                Err(error) => Digest::of(&[error.message().as_bytes()]),
            };
            // Certificate and key are two files: between the two writes they do not belong together.
            let stable = std::mem::replace(&mut seen, digest) == digest;
            if digest == settled || !(stable || asked) {
                self.take_in_time();
                continue;
            }
            settled = digest;
            self.take(found.and_then(|read| files::load(&self.shared.settings, &read)));
        }
    }

    /// Has `watch` look at once, without waiting for a second look.
    pub fn look(&self) {
        self.shared.look_now.notify_one();
    }

    fn take(&self, loaded: Result<Loaded>) {
        let shared = &self.shared;
        *shared.too_early.lock() = None;
        let (now, serving) = (unix_now(), shared.serving.load());
        match loaded {
            // What was refused has been put back.
            Ok(loaded) if loaded.digest == serving.digest => *shared.refused.lock() = None,
            Ok(loaded) => match loaded.out_of_time(now) {
                Some(why) if serving.out_of_time(now).is_none() => {
                    self.refuse(why);
                    *shared.too_early.lock() = Some(loaded);
                }
                _ => {
                    tracing::info!(not_after_unix = loaded.not_after, "new connections get another certificate");
                    shared.metrics.not_after.set(loaded.not_after);
                    shared.metrics.reloads.of(telemetry::TlsReload::Taken).inc();
                    shared.serving.store(Arc::new(loaded));
                    *shared.refused.lock() = None;
                }
            },
            Err(error) => self.refuse(error.message()),
        }
    }

    fn refuse(&self, why: &str) {
        tracing::error!(why, "the certificate on the disk is refused; the one before serves on");
        self.shared.metrics.reloads.of(telemetry::TlsReload::Refused).inc();
        *self.shared.refused.lock() = Some(why.to_owned());
    }

    /// Takes a pair that came before its time.
    fn take_in_time(&self) {
        let now = unix_now();
        let due = self.shared.too_early.lock().take_if(|loaded| loaded.out_of_time(now).is_none());
        if let Some(loaded) = due {
            self.take(Ok(loaded));
        }
    }

    /// What the health page says; none: all is well.
    pub fn trouble(&self) -> Option<String> {
        if let Some(why) = &*self.shared.refused.lock() {
            return Some(format!("the files changed and are refused, the certificate before serves on: {why}"));
        }
        self.shared.serving.load().out_of_time(unix_now()).map(str::to_owned)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("settings", &self.shared.settings).finish_non_exhaustive()
    }
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}
