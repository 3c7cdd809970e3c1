//! What an operator asks about decisions that were made, and about rules that are not in force yet. Blocks while it
//! reads and asks; call it where that does no harm. Invariant: nothing here changes what decides, and one such
//! question is worked on at a time, on a thread that gives way to those that decide.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::PolicyHost;
use crate::config::Limits;
use crate::evidence::{Budget, Comparison, Reading, Replay, Window};
use crate::folder::Papers;
use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::instance::PolicySource;
use crate::model::Digest;
use crate::sign::{SEAL_BYTES_MAX, Seal, settings_json};
use crate::{embedded, engine};

/// A component that is only tried, or settings for an embedded one.
#[derive(Clone, Debug, Default)]
pub struct Candidate {
    /// `NAME.wasm`, or `NAME.toml` and `NAME.json` for settings of the embedded default of that name.
    pub file: String,
    pub bytes: Vec<u8>,
    /// Name and text of the settings beside a component.
    pub settings: Option<(String, String)>,
    /// Text of the signature's file.
    pub signature: Option<String>,
}

/// Why the past cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum PastError {
    #[error("no decisions are kept here")]
    Off,
    #[error("the decision log cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("another such question is being worked on; ask again")]
    Busy,
}

// === impl Candidate ===

impl Candidate {
    /// Settings alone, for an embedded policy.
    pub(crate) fn is_settings(&self) -> bool {
        self.file.ends_with(".toml") || self.file.ends_with(".json")
    }

    /// The files that it is made of, as they would stand in the folder.
    pub(super) fn papers(&self) -> Papers {
        let ending = |file: &str| if file.ends_with(".json") { "json".to_owned() } else { "toml".to_owned() };
        let text = || String::from_utf8_lossy(&self.bytes).into_owned();
        let alone = self.is_settings().then(|| (ending(&self.file), text()));
        let beside = self.settings.as_ref().map(|(file, text)| (ending(file), text.clone()));
        let component = (!self.is_settings()).then(|| Arc::from(&*self.bytes));
        Papers { component, settings: alone.or(beside), signature: self.signature.clone() }
    }

    /// No larger than what the folder would give.
    fn check_sizes(&self, limits: &Limits) -> Result<(), Refusal> {
        let content_max = if self.is_settings() { limits.settings_bytes_max } else { limits.component_bytes_max };
        let settings = self.settings.as_ref().map(|(file, text)| (file.clone(), text.len(), limits.settings_bytes_max));
        let seal = self.signature.as_ref().map(|text| (format!("{}.minisig", self.file), text.len(), SEAL_BYTES_MAX));
        let content = (self.file.clone(), self.bytes.len(), content_max);
        for (file, len, max) in std::iter::once(content).chain(settings).chain(seal) {
            if len as u64 > max {
                let message = format!("it has {len} bytes, at most {max} are read");
                return Err(Refusal::new(RefusalCode::TooLarge, &file, message));
            }
        }
        Ok(())
    }

    pub(crate) fn source(self, limits: &Limits) -> Result<PolicySource, Refusal> {
        self.check_sizes(limits)?;
        let wrong = |file: &str, message: String| Refusal::new(RefusalCode::SettingsInvalid, file, message);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| "the settings are not UTF-8".to_owned());
        let stem = self.file.rsplit_once('.').map_or(&*self.file, |(stem, _)| stem).to_owned();
        let seal = |text: String, settings_file| Seal { text, settings_file };
        if !self.is_settings() {
            let settings = match &self.settings {
                Some((file, text)) => settings_json(file, text).map_err(|message| wrong(file, message))?,
                None => "{}".to_owned(),
            };
            let seal = self.signature.map(|text| seal(text, None));
            let source = PolicySource::new(&stem, &self.file, false, Arc::from(self.bytes), &settings);
            return Ok(PolicySource { seal, has_settings: self.settings.is_some(), ..source });
        }
        let text = text(self.bytes).map_err(|message| wrong(&self.file, message))?;
        let settings = settings_json(&self.file, &text).map_err(|message| wrong(&self.file, message))?;
        let unknown = || wrong(&self.file, format!("no embedded policy is called {stem}"));
        let source = embedded::configured(&stem, &self.file, &settings).ok_or_else(unknown)?;
        Ok(PolicySource { seal: self.signature.map(|seal_text| seal(seal_text, Some(text))), ..source })
    }
}

// === impl PolicyHost ===

impl PolicyHost {
    /// Decisions of the log, and what is missing in it.
    pub fn decisions(&self, window: &Window) -> Result<Reading, PastError> {
        let folder = self.inner.recorder.folder().ok_or(PastError::Off)?;
        self.inner.recorder.flush();
        let mut reading = Reading::of(folder, window)?;
        // As long as nothing can be written, no file tells of them, and none of them lies between two that are there.
        let untold = self.inner.recorder.untold();
        reading.lost += untold;
        reading.dropped += untold;
        Ok(reading)
    }

    /// Asks the same components what they were asked before.
    pub fn replay(&self, window: &Window, budget: Duration) -> Result<(Reading, Replay), PastError> {
        let reading = self.decisions(window)?;
        let find = |digest: &Digest, settings: &Digest| self.find(digest, settings);
        let replay = self.apart(|| Replay::of(&reading.records, Budget::of(budget), find))?;
        Ok((reading, replay))
    }

    /// What a candidate would have answered otherwise. It passes the gate first, and has to be signed where policies
    /// have to be, unless `unsigned` says that it may run for this once.
    pub fn difference(
        &self,
        candidate: Candidate,
        window: &Window,
        budget: Duration,
        unsigned: bool,
    ) -> Result<(Reading, Comparison), PastError> {
        let mut source = candidate.source(&self.inner.limits)?;
        if !unsigned {
            self.inner.vouching.vouch(&mut source)?;
        }
        let reading = self.decisions(window)?;
        let compared = self.apart(|| {
            let loaded = Arc::new(self.inner.gate.load(source)?);
            Ok::<_, Refusal>(Comparison::of(&loaded, &reading.records, Budget::of(budget)))
        })??;
        Ok((reading, compared))
    }

    /// A component of this or an earlier generation, as long as its contents are kept.
    pub(super) fn find(&self, digest: &Digest, settings: &Digest) -> Option<Arc<Loaded>> {
        let control = &self.inner.control;
        control.loaded(digest, settings).or_else(|| {
            let source = control.content(digest, settings)?;
            self.inner.gate.load(source).map(Arc::new).ok()
        })
    }

    /// On a thread of low priority, one at a time.
    pub(super) fn apart<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, PastError> {
        let Some(_one_at_a_time) = self.inner.past.try_lock() else { return Err(PastError::Busy) };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("policy-past".into()).stack_size(8 << 20);
            let worked = thread.spawn_scoped(scope, || {
                engine::give_way();
                work()
            })?;
            worked.join().map_err(|_| PastError::Unreadable(io::Error::other("the question could not be worked on")))
        })
    }
}
