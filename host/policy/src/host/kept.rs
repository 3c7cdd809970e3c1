//! The shadow's candidate on the disk, so that it goes on after a restart. Knows files, not what came of it: counts begin
//! anew. Invariant: what is taken up is what an operator started, whole and judged anew; trouble with it costs the
//! shadow and nothing else.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::past::Candidate;
use crate::config::Limits;
use crate::folder::Papers;
use crate::gate::{Gate, Loaded, Refusal};
use crate::model::Digest;
use crate::store::{Durable, write_private};
use crate::trust::Vouching;

/// Two files of the store: what it is, and its component.
#[derive(Clone, Debug)]
pub(super) struct KeptShadow {
    paper: PathBuf,
    component: PathBuf,
}

/// The paper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    file: String,
    /// Of the component's bytes, hexadecimal; None: settings alone, for an embedded policy.
    component: Option<String>,
    /// Ending of the file, and its text.
    settings: Option<(String, String)>,
    signature: Option<String>,
}

/// A candidate that passed the gate, with what it was made of.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) kept: Kept,
    pub(super) loaded: Arc<Loaded>,
    pub(super) papers: Papers,
}

// === impl KeptShadow ===

impl KeptShadow {
    pub(super) fn new(store_dir: &Path) -> Self {
        Self { paper: store_dir.join("shadow.json"), component: store_dir.join("shadow.wasm") }
    }

    /// The component first: a paper always speaks of one that is there.
    pub(super) fn keep(&self, file: &str, papers: &Papers) {
        let Papers { component, settings, signature } = papers.clone();
        let written = (|| {
            if let Some(bytes) = &component {
                write_private(&self.component, bytes, Durable::Yes)?;
            }
            let component = component.map(|bytes| Digest::of(&bytes).to_hex());
            let kept = Kept { file: file.to_owned(), component, settings, signature };
            let text = serde_json::to_vec_pretty(&kept).map_err(io::Error::other)?;
            write_private(&self.paper, &text, Durable::Yes)
        })();
        if let Err(error) = written {
            tracing::warn!(%error, "the shadow cannot be kept for a restart");
        }
    }

    pub(super) fn forget(&self) {
        let _none_was_kept = fs::remove_file(&self.paper);
        let _none_was_kept = fs::remove_file(&self.component);
    }

    /// None: there is none, or it cannot be read.
    pub(super) fn read(&self) -> Option<Kept> {
        serde_json::from_slice(&fs::read(&self.paper).ok()?).ok()
    }

    /// Brings what was kept through the gate.
    pub(super) fn take(&self, gate: &Gate, vouching: &Vouching, limits: &Limits) -> Option<Taken> {
        let kept = self.read()?;
        let bytes = match &kept.component {
            None => None,
            Some(named) => {
                let bytes = fs::read(&self.component).ok()?;
                (Digest::of(&bytes).to_hex() == *named).then_some(Some(bytes))?
            }
        };
        let told = |refusal: &Refusal| tracing::warn!(%refusal, "the shadow of the last run is not taken up");
        let candidate = kept.candidate(bytes)?;
        let papers = candidate.papers();
        let source = candidate.source(limits).and_then(|mut source| vouching.vouch(&mut source).map(|()| source));
        let loaded = Arc::new(source.and_then(|source| gate.load(source)).inspect_err(told).ok()?);
        Some(Taken { kept, loaded, papers })
    }
}

// === impl Kept ===

impl Kept {
    fn candidate(&self, component: Option<Vec<u8>>) -> Option<Candidate> {
        let Self { file, settings, signature, .. } = self.clone();
        Some(match component {
            Some(bytes) => {
                let settings = settings.map(|(ending, text)| (format!("settings.{ending}"), text));
                Candidate { file, bytes, settings, signature }
            }
            None => Candidate { file, bytes: settings?.1.into_bytes(), settings: None, signature },
        })
    }
}
