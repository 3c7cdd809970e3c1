//! The operator's handles on a shadow: start, look, promote, stop. Invariants: a candidate serves only by a promotion,
//! which refuses where it was compared too little or differs too much; what is promoted stands in the folder. It goes on after
//! a restart.

use std::io;
use std::sync::Arc;

use super::past::{Candidate, PastError};
use super::{PolicyHost, refusal_of_start};
use crate::gate::Refusal;
use crate::record::{Outcome, SwapRecord};
use crate::shadow::{Shadow, ShadowStatus};
use crate::swapper::Command;

/// Why a shadow was not promoted.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    #[error("there is no shadow; `tidegate policy shadow start` begins one")]
    None,
    #[error("the shadow has ended: {0}")]
    Ended(String),
    #[error("only {asked} answers were compared, at least {min} are wanted")]
    TooFew { asked: u64, min: u64 },
    #[error("{:.3} % of its answers differ, more than the {:.3} % that are allowed", .rate * 100.0, .max * 100.0)]
    Differs { rate: f64, max: f64 },
}

// === impl PolicyHost ===

impl PolicyHost {
    /// Brings a candidate through the gate and asks it, from now on, what is decided. Takes the place of the one before,
    /// once it has passed.
    pub fn shadow_start(&self, candidate: Candidate) -> Result<ShadowStatus, PastError> {
        let mut papers = candidate.papers();
        let mut source = candidate.source(&self.inner.limits)?;
        self.inner.vouching.vouch(&mut source)?;
        // The same bytes once.
        papers.component = papers.component.map(|_| Arc::clone(&source.bytes));
        let loaded = self.apart(|| self.inner.gate.load(source).map(Arc::new))??;
        let file = Arc::clone(&loaded.source.file);
        let failed = |e: io::Error| -> Refusal { refusal_of_start(&file, &e.to_string()) };
        let mut shadow = self.inner.shadow.lock();
        *shadow = None;
        let breaker = self.inner.breaker.clone();
        self.inner.kept_shadow.keep(&file, &papers);
        let started = Shadow::start(loaded, papers, breaker, Arc::clone(&self.inner.recorder)).map_err(failed)?;
        let status = started.status();
        *shadow = Some(started);
        tracing::info!(file = %status.file, identity = %status.identity, "a shadow began");
        Ok(status)
    }

    /// What came of it so far; None: there is none. After a restart it is asked on, and counts begin anew.
    pub fn shadow(&self) -> Option<ShadowStatus> {
        self.inner.shadow.lock().as_ref().map(Shadow::status)
    }

    pub fn shadow_stop(&self) -> Option<ShadowStatus> {
        let stopped = self.inner.shadow.lock().take();
        if stopped.is_some() {
            self.inner.kept_shadow.forget();
        }
        let status = stopped.as_ref().map(Shadow::status);
        if let Some(status) = &status {
            tracing::info!(file = %status.file, identity = %status.identity, compared = status.compared.asked,
                changed = status.compared.changed, skipped = status.skipped, "a shadow was stopped");
        }
        status
    }

    /// Puts the candidate's files into the plugins folder and takes them up, the way a change of the folder is: same
    /// gate, same record. Refused by the gate, the folder is as it was.
    pub async fn shadow_promote(&self, difference_max: f64, asked_min: u64) -> Result<SwapRecord, PromoteError> {
        let host = self.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let shadow = host.inner.shadow.lock();
            let shadow = shadow.as_ref()?;
            Some((shadow.status(), Arc::clone(shadow.candidate()), shadow.papers().clone()))
        });
        let (status, candidate, papers) = looked.await.ok().flatten().ok_or(PromoteError::None)?;
        if let Some(why) = status.ended {
            return Err(PromoteError::Ended(why));
        }
        let (asked, rate) = (status.compared.asked, status.compared.rate());
        if asked < asked_min {
            return Err(PromoteError::TooFew { asked, min: asked_min });
        }
        if rate > difference_max {
            return Err(PromoteError::Differs { rate, max: difference_max });
        }
        tracing::info!(file = %status.file, identity = %status.identity, asked, changed = status.compared.changed,
            "a shadow is being promoted");
        let record = self.inner.swapper.command(Command::Promote(candidate, papers)).await;
        if record.outcome != Outcome::Refused {
            let promoted =
                self.inner.shadow.lock().take_if(|shadow| shadow.candidate().source.identity() == status.identity);
            if promoted.is_some() {
                self.inner.kept_shadow.forget();
            }
            drop(tokio::task::spawn_blocking(move || drop(promoted)));
        }
        Ok(record)
    }
}
