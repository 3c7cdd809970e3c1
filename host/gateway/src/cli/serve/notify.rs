//! What systemd is told: ready, reloading, stopping, and signs of life while the pumps get on. Knows the
//! protocol's words, not the gateway. Invariant: without a service manager everything here does nothing.

use sd_notify::NotifyState;
use std::time::Duration;
use tokio::task::AbortHandle;

/// How much longer a start that is still under way may take, from each such word on; they come every few seconds. Guessed.
const MORE_TIME_US: u32 = 30_000_000;

/// Whoever started this process and wants to hear, if anybody.
#[derive(Debug)]
pub(super) struct ServiceManager {
    watchdog: Option<Duration>,
}

/// Gives signs of life until it is dropped.
#[derive(Debug)]
pub(super) struct Watchdog(Option<AbortHandle>);

// === impl ServiceManager ===

impl ServiceManager {
    pub(super) fn from_environment() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled() }
    }

    pub(super) fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    pub(super) fn reloading(&self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the service manager is not told of the reload"),
        }
    }

    pub(super) fn stopping(&self, reason: &str) {
        tell(&[NotifyState::Stopping, NotifyState::Status(reason)]);
    }

    /// Another process is the service's main one from here on; it tells the rest itself.
    pub(super) fn succeeded_by(&self, pid: u32) {
        tell(&[NotifyState::MainPid(pid), NotifyState::Status("another process took over")]);
    }

    /// Asks for progress three times within the time that the service manager allows, and tells it only of
    /// progress. A check that does not return, or a runtime that stands still, is no progress.
    pub(super) fn watchdog(&self, progress: impl Fn() -> Result<(), String> + Clone + Send + 'static) -> Watchdog {
        let Some(within) = self.watchdog else { return Watchdog(None) };
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval((within / 3).max(Duration::from_millis(1)));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                let progress = progress.clone();
                match tokio::task::spawn_blocking(progress).await {
                    Ok(Ok(())) => tell(&[NotifyState::Watchdog]),
                    Ok(Err(why)) => tracing::error!("no sign of life to the service manager: {why}"),
                    // The panic was logged where it happened.
                    Err(_panicked) => {}
                }
            }
        });
        Watchdog(Some(task.abort_handle()))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// It takes longer, and for what: more time, please.
pub(super) fn still_starting(status: &str) {
    tell(&[NotifyState::ExtendTimeoutUsec(MORE_TIME_US), NotifyState::Status(status)]);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}
