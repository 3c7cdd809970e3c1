//! `generation.toml`: the way to say exactly which contents make a generation. Invariant: a set that it
//! names is taken whole and exact, or not at all.

use serde::Deserialize;

use crate::gate::{Refusal, RefusalCode};
use crate::model::Digest;

use super::{Look, MANIFEST, Version};

/// `[[policy]] file = "access.wasm", sha256 = "…", settings = "access.toml", settings_sha256 = "…"`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    #[serde(default)]
    policy: Vec<Named>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    /// The component; a policy without one configures the embedded default of its name.
    name: String,
    /// SHA-256 of `NAME.wasm`, hex; absent: the embedded default.
    sha256: Option<String>,
    /// SHA-256 of `NAME.toml` or `NAME.json`, hex; absent: there are no settings.
    settings_sha256: Option<String>,
}

impl Manifest {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let wrong = |message: String| Refusal::new(RefusalCode::GenerationInvalid, MANIFEST, message);
        let text = std::str::from_utf8(bytes).map_err(|_| wrong("it is not UTF-8".into()))?;
        let read: Self = toml::from_str(text).map_err(|e| wrong(e.message().to_owned()))?;
        if read.policy.is_empty() {
            // Taken at its word it would deny everything to everybody; it is one that is still being written.
            let message = "it names nothing; name at least one [[policy]], or take it away to follow the folder";
            return Err(wrong(message.to_owned()));
        }
        Ok(read)
    }

    /// Every file that it could mean, there or not.
    pub(crate) fn files(&self) -> impl Iterator<Item = String> {
        self.policy.iter().flat_map(|named| ["wasm", "toml", "json"].map(|ending| format!("{}.{ending}", named.name)))
    }

    /// The versions it names, checked; whatever else lies in the folder does not take part.
    pub(crate) fn select(
        &self,
        look: &Look,
        raw: &dyn Fn(&str) -> Option<Digest>,
    ) -> Result<Vec<(String, Version)>, Refusal> {
        let mut selected = Vec::new();
        for named in &self.policy {
            for (endings, wanted) in [(&["wasm"][..], &named.sha256), (&["toml", "json"][..], &named.settings_sha256)] {
                let found = endings.iter().find_map(|ending| {
                    let file = format!("{}.{ending}", named.name);
                    raw(&file).map(|digest| (file, digest))
                });
                let mismatch =
                    |file: &str, message: &str| Refusal::new(RefusalCode::DigestMismatch, file, message.to_owned());
                match (found, wanted) {
                    (Some((_, digest)), Some(hex)) if digest.to_hex() == hex.to_ascii_lowercase() => {}
                    (Some((file, _)), Some(_)) => {
                        return Err(mismatch(&file, "it is not the one that generation.toml names"));
                    }
                    (Some((file, _)), None) => {
                        return Err(mismatch(&file, "it is there, but generation.toml does not name it"));
                    }
                    (None, Some(_)) => {
                        return Err(mismatch(&named.name, "generation.toml names a file that is not there"));
                    }
                    (None, None) => {}
                }
            }
            let version = look.versions.get(&named.name).ok_or_else(|| {
                Refusal::new(RefusalCode::GenerationInvalid, MANIFEST, format!("there is no {}", named.name))
            })?;
            selected.push((named.name.clone(), version.clone()));
        }
        Ok(selected)
    }
}
