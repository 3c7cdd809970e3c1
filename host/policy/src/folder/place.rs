//! Puts a promoted candidate's files into the folder, and the ones before back when the gate refuses. Knows names, not
//! components. Invariants: each file is there as a whole or not at all; the ones before are kept until it is known
//! how it went; nobody but the swapping thread calls this, so no look of ours sees the half of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Folder, Heard, MANIFEST};
use crate::gate::{Refusal, RefusalCode};
use crate::model::Digest;

/// A candidate as files, by the ending behind its stem.
#[derive(Clone, Debug, Default)]
pub(crate) struct Papers {
    pub(crate) component: Option<Arc<[u8]>>,
    /// `toml` or `json`, and the text as it was written.
    pub(crate) settings: Option<(String, String)>,
    pub(crate) signature: Option<String>,
}

/// What was in the folder before; undone by `put_back`, settled by `keep`.
#[derive(Debug)]
pub(crate) struct Placed {
    /// Name, and where the file before is kept, if there was one.
    moved: Vec<(PathBuf, Option<PathBuf>)>,
    pub(crate) names: Vec<String>,
}

pub(super) const ENDINGS: [&str; 6] = ["wasm", "toml", "json", "wasm.minisig", "toml.minisig", "json.minisig"];

// === impl Papers ===

impl Papers {
    /// What stands behind each ending; None: nothing may.
    fn content(&self, ending: &str) -> Option<&[u8]> {
        let settings = self.settings.as_ref().filter(|(of, _)| of == ending).map(|(_, text)| text.as_bytes());
        let signed = match (&self.component, &self.settings) {
            (Some(_), _) => "wasm",
            (None, Some((of, _))) => of,
            (None, None) => "",
        };
        match ending {
            "wasm" => self.component.as_deref(),
            "toml" | "json" => settings,
            seal => {
                self.signature.as_ref().filter(|_| seal.strip_suffix(super::SEAL) == Some(signed)).map(String::as_bytes)
            }
        }
    }
}

// === impl Folder ===

impl Folder {
    /// Writes the candidate as `stem`, and takes away what stood beside it under that name.
    pub(crate) fn place(&self, stem: &str, papers: &Papers) -> Result<Placed, Refusal> {
        let file = format!("{stem}.{}", if papers.component.is_some() { "wasm" } else { "toml" });
        let refuse = |message: String| Refusal::new(RefusalCode::NotPlaced, &file, message);
        if self.path.join(MANIFEST).exists() {
            let message = format!("{MANIFEST} names the set; put the files beside it and their digests into it");
            return Err(refuse(message));
        }
        for ending in ENDINGS {
            let path = self.path.join(format!("{stem}.{ending}"));
            if path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file()) {
                return Err(refuse(format!("{} is a link; change what it leads to", path.display())));
            }
        }
        let own = self.path.join(format!("{stem}.wasm"));
        if papers.component.is_none() && own.exists() {
            let message = "settings alone are for the built-in policy, and a component of that name stands in the folder; \
                           start the shadow with the component and its settings";
            return Err(refuse(message.to_owned()));
        }
        let mut placed = Placed { moved: Vec::new(), names: Vec::new() };
        let written = self.write_all(stem, papers, &mut placed);
        match written {
            Ok(()) => Ok(placed),
            Err(error) => {
                placed.put_back();
                Err(refuse(format!("the plugins folder cannot be written: {error}")))
            }
        }
    }

    /// Of this name nothing stands there but what is `known`. Read anew: what an operator has put there meanwhile is not
    /// lost because nobody has looked yet, or because it was refused.
    pub(crate) fn holds_only(&self, stem: &str, known: &[Digest]) -> Result<(), Refusal> {
        let mut anew = Self {
            path: self.path.clone(),
            config: self.config.clone(),
            seen: BTreeMap::new(),
            rewritten: BTreeSet::new(),
        };
        let look = anew.look(&Heard::default(), true)?;
        let of_stem = |name: &String| ENDINGS.iter().any(|ending| *name == format!("{stem}.{ending}"));
        let there: Vec<String> = anew.seen.keys().filter(|name| of_stem(name)).cloned().collect();
        let is_known = look.versions.get(stem).is_none_or(|version| known.contains(&version.identity));
        if is_known && !look.pending.iter().any(of_stem) {
            return Ok(());
        }
        let message = format!(
            "{} in the plugins folder is not what serves, and would be lost; take it away, or put back what serves, and \
             promote again",
            there.join(" with ")
        );
        Err(Refusal::new(RefusalCode::NotPlaced, there.first().map_or(stem, String::as_str), message))
    }

    fn write_all(&self, stem: &str, papers: &Papers, placed: &mut Placed) -> io::Result<()> {
        // Everything is on the disk before the first name changes.
        let mut ready = Vec::new();
        for ending in ENDINGS {
            let name = format!("{stem}.{ending}");
            let beside = self.path.join(format!(".{name}.new"));
            match papers.content(ending) {
                Some(bytes) => {
                    let _ = fs::remove_file(&beside);
                    let mut options = fs::OpenOptions::new();
                    options.write(true).create_new(true);
                    #[cfg(unix)]
                    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
                    let mut file = options.open(&beside)?;
                    let done = file.write_all(bytes).and_then(|()| file.sync_all());
                    ready.push((name, Some(beside)));
                    if let Err(error) = done {
                        drop_all(&ready);
                        return Err(error);
                    }
                }
                None => ready.push((name, None)),
            }
        }
        for (name, beside) in &ready {
            let target = self.path.join(name);
            let before = self.path.join(format!(".{name}.before"));
            let done = (|| {
                let had = target.exists();
                if had {
                    fs::rename(&target, &before)?;
                }
                if had || beside.is_some() {
                    placed.moved.push((target.clone(), had.then_some(before)));
                }
                if let Some(beside) = beside {
                    fs::rename(beside, &target)?;
                    placed.names.push(name.clone());
                }
                Ok(())
            })();
            if let Err(error) = done {
                drop_all(&ready);
                return Err(error);
            }
        }
        fs::File::open(&self.path).and_then(|folder| folder.sync_all())
    }
}

fn drop_all(ready: &[(String, Option<PathBuf>)]) {
    for beside in ready.iter().filter_map(|(_, beside)| beside.as_ref()) {
        let _ = fs::remove_file(beside);
    }
}

// === impl Placed ===

impl Placed {
    /// The folder as it was. Gives the names that were put back.
    pub(crate) fn put_back(self) -> Vec<String> {
        for (target, before) in self.moved.iter().rev() {
            let done = match before {
                Some(before) => fs::rename(before, target),
                None => fs::remove_file(target),
            };
            if let Err(error) = done.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }) {
                tracing::error!(file = %target.display(), %error, "a file of the plugins folder could not be put back");
            }
        }
        let name = |target: &PathBuf| target.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        self.moved.iter().filter_map(|(target, _)| name(target)).collect()
    }

    /// What was before is not needed any more.
    pub(crate) fn keep(self) {
        for before in self.moved.iter().filter_map(|(_, before)| before.as_ref()) {
            let _ = fs::remove_file(before);
        }
    }
}
