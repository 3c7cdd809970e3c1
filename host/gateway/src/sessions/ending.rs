//! How sessions end that nobody closes: by the sweep, or with the gateway. Knows the registry and its settings, no process.
//! Invariant: once the end of the gateway has begun, no session is there that does not end with it, wherever it was: open,
//! being opened, or on its way back.

use super::{SWEEP_EVERY, Session, Sessions, State, Stop};
use crate::{
    error::{Code, Error, Result},
    telemetry::CloseReason,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

impl Sessions {
    /// Ends sessions whose lease or detach grace ran out. Runs until cancelled.
    pub async fn sweep(self) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tick.tick().await;
            if self.shared.resume_tokens.is_due(self.shared.clock.unix_ms())
                && let Err(error) = self.rotate_tokens(false).await
            {
                tracing::warn!(%error, "resume tokens go on with their old signing key");
            }
            if self.shared.provisional.load(Ordering::SeqCst) {
                // Their readers are not let in yet, and perhaps they go back to the gateway before.
                continue;
            }
            let settings = self.shared.settings.load_full();
            for session in self.all() {
                if let Some(stop) = session.expired(settings.lease, settings.detach_grace) {
                    // Full: it is ending already.
                    let _ending = session.stop.try_send(stop);
                }
            }
        }
    }

    /// From here on nothing new is opened and nobody is taken back.
    pub fn refuse_new(&self) {
        // First: a worker that was let go calls home at once, and is for the next gateway.
        self.shared.hub.close();
        self.shared.draining.cancel();
    }

    /// From here on the end of this gateway leaves every worker to another one.
    pub fn leave_workers(&self) {
        self.shared.leave.store(true, Ordering::SeqCst);
    }

    /// As `leave_workers`; the other one is there already, and waits.
    pub fn give_way(&self) {
        self.shared.successor.store(true, Ordering::SeqCst);
        self.leave_workers();
    }

    /// What whoever asks for something hears from here on.
    pub(super) fn draining(&self) -> Error {
        draining(self.shared.successor.load(Ordering::SeqCst), self.leaves())
    }

    /// Whether workers outlive this gateway.
    pub(super) fn leaves(&self) -> bool {
        self.shared.leave.load(Ordering::SeqCst) || self.shared.settings.load().leave_workers
    }

    /// Tells every stream its position; ends every worker, or leaves it to the next gateway. Bounded by the workers'
    /// patience.
    pub async fn drain(&self, reason: &str) {
        self.refuse_new();
        let ends: Vec<_> = self
            .all()
            .into_iter()
            .map(|session| {
                let stop = self.last_stop(reason);
                tokio::spawn(async move { session.close(stop).await })
            })
            .collect();
        for end in ends {
            // A panic there was logged with its task; the process ends anyway.
            let _ended = end.await;
        }
        // Those that are on their way back heard of it as well and end by themselves, with the same patience.
        let patience = self.shared.settings.load().patience.shutdown + SWEEP_EVERY;
        let mut look = tokio::time::interval(Duration::from_millis(10));
        let none_left = async {
            while !self.shared.adopting.read().is_empty() {
                look.tick().await;
            }
        };
        let _late = tokio::time::timeout(patience, none_left).await;
    }

    /// From here on it can be found. An error: the sessions are being ended just now and were listed before it was there,
    /// so it is the caller's to end.
    pub(super) fn register(&self, session: &Arc<Session>) -> Result<()> {
        let mut open = self.shared.open.write();
        // Under the lock that the listing takes after this was cancelled: either that finds it, or it is not there.
        if self.shared.draining.is_cancelled() {
            return Err(self.draining());
        }
        // What ended it meanwhile took it out of a registry in which it was not yet.
        if !matches!(session.state(), State::Closed(..)) {
            open.insert(session.identity.id.clone(), session.clone());
        }
        Ok(())
    }

    /// Ends one as `drain` does.
    pub(super) async fn end_with_gateway(&self, session: &Session) -> Error {
        let stop = self.last_stop("the gateway is shutting down");
        session.close(stop).await;
        self.draining()
    }

    fn last_stop(&self, reason: &str) -> Stop {
        let why = if self.leaves() { CloseReason::Left } else { CloseReason::Shutdown };
        Stop { kill: false, why, reason: reason.to_owned() }
    }
}

/// When to ask the one that follows: it accepts after some 100 ms (docs/reliability.md).
const SUCCESSOR_MS: u32 = 200;
/// When to ask the gateway that is started next, by whomever. Guessed.
const NEXT_MS: u32 = 1_000;

/// What streams and calls of a session hear that is left to another gateway.
pub(super) fn elsewhere(code: Code, reason: &str) -> Error {
    Error::new(code, format!("the session goes on with another gateway: {reason}"))
        .with("session_goes_on", true)
        .with("retry_ms", SUCCESSOR_MS)
}

/// `successor`: the gateway that takes the sessions is there; `leaves`: one will come.
fn draining(successor: bool, leaves: bool) -> Error {
    let (message, retry_ms) = match (successor, leaves) {
        (true, _) => ("another gateway is just taking over and answers in a moment", Some(SUCCESSOR_MS)),
        (false, true) => ("the gateway is shutting down; its sessions go on with the next one", Some(NEXT_MS)),
        (false, false) => ("the gateway is shutting down", None),
    };
    let error = Error::new(Code::Draining, message);
    match retry_ms {
        Some(retry_ms) => error.with("retry_ms", retry_ms),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: W-08
    #[test]
    fn who_comes_while_another_gateway_takes_over_is_told_so_and_when_to_come_again() {
        let told = |successor, leaves| {
            let error = draining(successor, leaves);
            let retry = error.details().iter().find(|(key, _)| *key == "retry_ms").map(|(_, ms)| ms.clone());
            (error.message().contains("another gateway"), retry)
        };
        assert_eq!(told(true, true), (true, Some(SUCCESSOR_MS.to_string())));
        assert_eq!(told(false, true), (false, Some(NEXT_MS.to_string())));
        assert_eq!(told(false, false), (false, None));
    }
}
