//! Candidates for a shadow of what is here already: what the gate holds back, and what decides with other settings. Reads
//! the folder for itself, by the same rules; the swapper's looks know nothing of it. Invariant: what is made here is only a
//! candidate, and what is held is the very content that was held.

use super::PolicyHost;
use super::past::Candidate;
use crate::folder::{Folder, Heard};
use crate::model::Policy;
use crate::record::UnknownDigest;

// === impl PolicyHost ===

impl PolicyHost {
    /// What the gate holds back under this identity, all 64 digits of it, as it stands in the folder. Blocks on the disk.
    pub fn held_candidate(&self, identity: &str) -> Result<Candidate, UnknownDigest> {
        let held = self.inner.control.listing().held;
        let wanted = held.iter().find(|held| held.identity.to_hex() == identity).ok_or(UnknownDigest)?.identity;
        let (path, config) = self.inner.plugins.as_ref().ok_or(UnknownDigest)?;
        let mut folder = Folder::open(path, config).map_err(|_| UnknownDigest)?;
        let look = folder.look(&Heard::default(), true).map_err(|_| UnknownDigest)?;
        let found = look.versions.iter().find(|(_, version)| version.identity == wanted);
        let (stem, _) = found.ok_or(UnknownDigest)?;
        candidate(&folder, stem).ok_or(UnknownDigest)
    }

    /// What answers `policy` now with these settings (TOML) instead of its own; where nothing does, the embedded default.
    pub fn with_settings(&self, policy: Policy, settings: &str) -> Candidate {
        let current = self.inner.control.current();
        let chosen = current.set.answerer(policy).map(|loaded| &loaded.source);
        let chosen = chosen.filter(|source| !source.embedded && source.file.ends_with(".wasm"));
        match chosen {
            Some(source) => Candidate {
                file: source.file.to_string(),
                bytes: source.bytes.to_vec(),
                settings: Some((format!("{}.toml", source.stem), settings.to_owned())),
                signature: None,
            },
            None => Candidate {
                file: format!("{}.toml", policy.name()),
                bytes: settings.as_bytes().to_vec(),
                ..Candidate::default()
            },
        }
    }
}

fn candidate(folder: &Folder, stem: &str) -> Option<Candidate> {
    let text = |ending: &str| {
        let name = format!("{stem}.{ending}");
        let bytes = folder.content_of(&name)?;
        Some((name, String::from_utf8(bytes.to_vec()).ok()?))
    };
    let settings = text("toml").or_else(|| text("json"));
    let component = folder.content_of(&format!("{stem}.wasm"));
    let (file, bytes, settings) = match (component, settings) {
        (Some(component), settings) => (format!("{stem}.wasm"), component.to_vec(), settings),
        (None, Some((name, text))) => (name, text.into_bytes(), None),
        (None, None) => return None,
    };
    let signature = file.strip_prefix(stem).and_then(|ending| text(&format!("{}.minisig", &ending[1..])));
    Some(Candidate { signature: signature.map(|(_, text)| text), file, bytes, settings })
}
