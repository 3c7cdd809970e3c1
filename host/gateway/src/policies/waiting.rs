//! How a start waits for its policies: a component that was never compiled here can take minutes. Knows that something is
//! compiled, not what decides. Invariant: a word to stop is heard at once, whatever is being compiled.

use super::not_started;
use crate::error::{Code, Error, Result};
use std::{thread, time::Duration};
use tidegate_policy::{StartError, Starting};
use tokio::{
    sync::oneshot,
    time::{Instant, interval_at},
};
use tokio_util::sync::CancellationToken;

/// From when on it is worth a word, and how often it is said to whoever counts the seconds. A service manager waits for
/// 90 s by default. Guessed.
const FIRST: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(5);

/// Who may end a wait, and who hears what is waited for.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub stop: CancellationToken,
    /// Called every now and then with a sentence, for as long as it lasts.
    pub tell: fn(&str),
}

/// Gives the start up when nobody waits for it any more.
struct Patience(Option<Starting>);

// === impl Waiting ===

impl Waiting {
    /// To the end, silently.
    pub fn patiently() -> Self {
        Self { stop: CancellationToken::new(), tell: |_| {} }
    }

    /// On a thread of its own, for whose end the process does not wait: it is given up when this ends early.
    pub(super) async fn until<T: Send + 'static>(
        &self,
        starting: Starting,
        work: impl FnOnce() -> Result<T, StartError> + Send + 'static,
    ) -> Result<T> {
        let failed = |why: &dyn std::fmt::Display| Error::new(Code::Internal, format!("the policy host failed: {why}"));
        let mut patience = Patience(Some(starting.clone()));
        let (done, mut answer) = oneshot::channel();
        let thread = thread::Builder::new().name("policy-start".to_owned());
        // Nobody waits any more: it was given up.
        thread.spawn(move || drop(done.send(work()))).map_err(|error| failed(&error))?;
        let (began, mut told) = (Instant::now(), Vec::new());
        let mut tick = interval_at(began + FIRST, EVERY);
        let started = loop {
            tokio::select! {
                answered = &mut answer => break answered.map_err(|_gone| failed(&"it panicked"))?,
                () = self.stop.cancelled() => break Err(StartError::GivenUp),
                _ = tick.tick() => {
                    let compiling = starting.compiling();
                    if compiling.is_empty() {
                        continue;
                    }
                    let files = compiling.join(", ");
                    (self.tell)(&format!("compiling {files}, for {} s", began.elapsed().as_secs()));
                    if compiling != told {
                        tracing::info!(%files, "nothing is served until these policies are compiled");
                        told = compiling;
                    }
                }
            }
        };
        if started.is_ok() {
            patience.0 = None;
        }
        started.map_err(|error| not_started(&error))
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some(starting) = &self.0 {
            starting.give_up();
        }
    }
}
