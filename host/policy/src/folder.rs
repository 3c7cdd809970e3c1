//! Looks at the plugins folder and says which files stand there, complete. Knows no component. Invariant:
//! a file is read only when its writer has told that it is finished (closed, renamed) or when two looks
//! apart saw the same, far apart if it was begun and not closed; what is judged later are the very bytes read here.

mod manifest;
mod place;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use crate::config::{PolicyConfig, StartError};
use crate::embedded;
use crate::gate::{Refusal, RefusalCode};
use crate::instance::{PolicySource, is_unprintable};
use crate::model::{Digest, Policy};
use crate::sign::{SEAL_BYTES_MAX, Seal, settings_json};

pub(crate) use manifest::Manifest;
pub(crate) use place::Papers;
pub(crate) use read::writable_by_others;
use read::{Content, Stamp};

/// Its presence makes it the only trigger.
pub(crate) const MANIFEST: &str = "generation.toml";
/// Ending of a signature's file, behind that of what it is over.
const SEAL: &str = ".minisig";

/// The folder and what was seen of it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    config: PolicyConfig,
    seen: BTreeMap<String, Seen>,
    /// Names that were read again since the last look and hold what they held.
    rewritten: BTreeSet<String>,
}

/// What the watcher heard since the last look.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// Names closed after writing or moved here, when that was heard; not those that were written again since.
    pub(crate) closed: BTreeMap<String, SystemTime>,
    /// A link that others lead through was put in place: what is a link and leads to another file is complete.
    pub(crate) flipped: bool,
    /// Names that somebody began to write and has not closed; also those of which that was heard before the last look.
    pub(crate) unclosed: BTreeSet<String>,
}

/// One look.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// By stem.
    pub(crate) versions: BTreeMap<String, Version>,
    /// Files that differ from what was read but may still be being written.
    pub(crate) pending: Vec<String>,
    pub(crate) manifest: Option<(Digest, Result<Manifest, Refusal>)>,
    /// Stems, and `generation.toml`, that were written again with what they held: somebody wants them.
    pub(crate) rewritten: BTreeSet<String>,
}

/// A component with its settings as they stand now, or why they cannot be taken.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) identity: Digest,
    pub(crate) source: Result<PolicySource, Refusal>,
}

#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    since: Instant,
    /// The last complete content.
    read: Option<Content>,
}

// === impl Heard ===

impl Heard {
    /// These, by one who knows.
    pub(crate) fn of(names: &[String]) -> Self {
        let now = SystemTime::now();
        Self { closed: names.iter().map(|name| (name.clone(), now)).collect(), ..Self::default() }
    }
}

// === impl Look ===

impl Look {
    /// A file of this stem may still be being written.
    pub(crate) fn is_unfinished(&self, stem: &str) -> bool {
        self.pending.iter().any(|name| stem_of(name) == Some(stem))
    }
}

// === impl Version ===

impl Version {
    /// To name in messages.
    pub(crate) fn file(&self) -> &str {
        match &self.source {
            Ok(source) => &source.file,
            Err(refusal) => &refusal.file,
        }
    }
}

// === impl Folder ===

impl Folder {
    /// A folder that cannot be trusted stops the start; later it only stops changes.
    pub(crate) fn open(path: &Path, config: &PolicyConfig) -> Result<Self, StartError> {
        check_folder(path)
            .map_err(|refusal| StartError::PluginsFolder { path: path.to_owned(), why: refusal.message })?;
        Ok(Self { path: path.to_owned(), config: config.clone(), seen: BTreeMap::new(), rewritten: BTreeSet::new() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// `force`: take what stands there, finished or not (at the start, and when an operator says so).
    pub(crate) fn look(&mut self, heard: &Heard, force: bool) -> Result<Look, Refusal> {
        check_folder(&self.path)?;
        let names = self.names()?;
        self.seen.retain(|name, _| names.contains(name));
        let mut pending = Vec::new();
        for name in &names {
            if !self.look_at(name, heard, force) {
                pending.push(name.clone());
            }
        }
        let rewritten = std::mem::take(&mut self.rewritten);
        let stem = |name: &String| stem_of(name).map(str::to_owned);
        Ok(Look { rewritten: rewritten.iter().filter_map(stem).collect(), ..self.pair(pending) })
    }

    /// Which files of these stems are not what was read of them by now: written again, gone, or there for the first time.
    /// Looks at names and stamps, and reads only what has another stamp.
    pub(crate) fn moved_on(&self, stems: &BTreeSet<String>) -> Vec<String> {
        let names = stems.iter().flat_map(|stem| match stem.as_str() {
            MANIFEST => vec![MANIFEST.to_owned()],
            stem => place::ENDINGS.iter().map(|ending| format!("{stem}.{ending}")).collect(),
        });
        names.filter(|name| !self.stands_as_read(name)).collect()
    }

    fn stands_as_read(&self, name: &str) -> bool {
        let is_there = counts(name) && self.path.join(name).symlink_metadata().is_ok();
        let known = self.seen.get(name).and_then(|seen| seen.read.as_ref());
        match known {
            Some(known) if is_there => {
                let opened = read::open(&self.path, name);
                let same = |now: Content| now.digest == known.digest;
                Stamp::of(&opened) == known.stamp || read::read(opened, name, self.bytes_max(name)).is_some_and(same)
            }
            known => known.is_some() == is_there,
        }
    }

    fn bytes_max(&self, name: &str) -> u64 {
        let limits = &self.config.limits;
        match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("wasm") => limits.component_bytes_max,
            Some("minisig") => SEAL_BYTES_MAX,
            _ => limits.settings_bytes_max,
        }
    }

    /// Any file of this stem, as of the last look.
    pub(crate) fn has(&self, stem: &str) -> bool {
        self.seen.keys().any(|name| stem_of(name) == Some(stem))
    }

    /// Digest of a file as it was last read.
    pub(crate) fn digest_of(&self, name: &str) -> Option<Digest> {
        self.seen.get(name)?.read.as_ref().map(|content| content.digest)
    }

    /// A file as it was last read.
    pub(crate) fn content_of(&self, name: &str) -> Option<Arc<[u8]>> {
        self.seen.get(name)?.read.as_ref()?.bytes.as_ref().ok().cloned()
    }

    /// Is there anything that could be meant to answer access? A component of any name could.
    pub(crate) fn may_answer_access(&self) -> bool {
        let of_another = |name: &str| {
            let name = name.strip_suffix(SEAL).unwrap_or(name);
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            Policy::ALL.iter().any(|policy| *policy != Policy::Access && policy.name() == stem)
        };
        // A folder that cannot be read could hold anything.
        self.names().map_or(true, |names| names.iter().any(|name| !of_another(name)))
    }

    fn names(&self) -> Result<BTreeSet<String>, Refusal> {
        let whole = |code, message: String| Refusal::new(code, &self.path.display().to_string(), message);
        let entries = fs::read_dir(&self.path).map_err(|e| whole(RefusalCode::Unreadable, e.to_string()))?;
        let mut names = BTreeSet::new();
        for entry in entries {
            let entry = entry.map_err(|e| whole(RefusalCode::Unreadable, e.to_string()))?;
            // A name that is not UTF-8, or cannot be told without harm, is none of ours.
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !counts(&name) {
                continue;
            }
            names.insert(name);
            if names.len() > self.config.limits.files_max {
                let max = self.config.limits.files_max;
                return Err(whole(RefusalCode::TooMany, format!("there are more than {max} plugin files")));
            }
        }
        Ok(names)
    }

    /// False: the file changed and may not be finished.
    fn look_at(&mut self, name: &str, heard: &Heard, force: bool) -> bool {
        let max = self.bytes_max(name);
        let opened = read::open(&self.path, name);
        let stamp = Stamp::of(&opened);
        let now = Instant::now();
        let seen = self.seen.entry(name.to_owned()).or_insert_with(|| Seen { stamp, since: now, read: None });
        if seen.stamp == stamp {
            if seen.read.as_ref().is_some_and(|content| content.stamp == stamp) {
                return true;
            }
        } else {
            seen.stamp = stamp;
            seen.since = now;
        }
        // Two equal looks: the time between them is the pause of the poll, less what clocks differ. Whoever writes in parts
        // pauses for longer than that, and says when he is done.
        let watch = &self.config.watch;
        let still = if heard.unclosed.contains(name) { watch.unclosed.max(watch.poll) } else { watch.poll };
        let settled = now.duration_since(seen.since) >= still.mul_f64(0.9);
        // Changed after that was heard: somebody writes it again. The word of this may be on its way.
        let closed = heard.closed.get(name).is_some_and(|at| stamp.changed().is_none_or(|changed| changed <= *at));
        let led_on = || {
            let is_link = self.path.join(name).symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
            is_link && seen.read.as_ref().is_none_or(|content| !content.stamp.is_of_same_file(&stamp))
        };
        let finished = force || closed || heard.flipped && led_on();
        if !finished && !settled {
            return false;
        }
        match read::read(opened, name, max) {
            Some(content) if content.stamp == stamp => {
                if seen.read.as_ref().is_some_and(|before| before.digest == content.digest) {
                    self.rewritten.insert(name.to_owned());
                }
                seen.read = Some(content);
                true
            }
            // It changed while it was read.
            _ => {
                seen.since = now;
                false
            }
        }
    }

    /// The signature beside a component, or beside the settings where there is no component.
    fn seal(&self, stem: &str, component: &Found<'_>, toml: &Found<'_>) -> Option<Seal> {
        let over = match (component, toml) {
            (Some(_), _) => "wasm",
            (None, Some(_)) => "toml",
            (None, None) => "json",
        };
        let text = |name: &str| {
            let bytes = self.seen.get(name)?.read.as_ref()?.bytes.as_ref().ok()?;
            // What is not text holds no signature, and is told as one that does not hold.
            Some(String::from_utf8_lossy(bytes).into_owned())
        };
        let settings_file = (over != "wasm").then(|| text(&format!("{stem}.{over}"))).flatten();
        Some(Seal { text: text(&format!("{stem}.{over}{SEAL}"))?, settings_file })
    }

    /// Brings components and settings of one stem together.
    fn pair(&self, pending: Vec<String>) -> Look {
        let mut look = Look { pending, ..Look::default() };
        if let Some(content) = self.seen.get(MANIFEST).and_then(|seen| seen.read.as_ref()) {
            let manifest = content.bytes.clone().and_then(|bytes| Manifest::parse(&bytes));
            look.manifest = Some((content.digest, manifest));
        }
        let stems: BTreeSet<&str> = self
            .seen
            .keys()
            .filter(|name| *name != MANIFEST && !name.ends_with(SEAL))
            .filter_map(|name| name.rsplit_once('.'))
            .map(|(s, _)| s)
            .collect();
        for stem in stems {
            let of = |ending: &str| {
                let name = format!("{stem}.{ending}");
                self.seen.get(&name).map(|seen| (name, seen.read.as_ref()))
            };
            let (component, toml, json) = (of("wasm"), of("toml"), of("json"));
            let files = [&component, &toml, &json];
            // Not read yet at all: the whole stem waits.
            if files.iter().any(|file| matches!(file, Some((_, None)))) {
                continue;
            }
            let digests: Vec<u8> = files
                .iter()
                .flat_map(|file| {
                    file.as_ref().and_then(|(_, content)| *content).map_or([0; 32], |content| content.digest.0)
                })
                .collect();
            let known = |file: Option<(String, Option<&Content>)>| {
                file.and_then(|(name, content)| Some((name, content?.clone())))
            };
            let seal = self.seal(stem, &component, &toml);
            let source =
                source(stem, known(component), known(toml), known(json)).map(|source| PolicySource { seal, ..source });
            // Files that are broken in the same way are not the same.
            let broken = || Digest::of(&[&digests[..], stem.as_bytes()].concat());
            let identity = source.as_ref().map_or_else(|_| broken(), PolicySource::identity);
            look.versions.insert(stem.to_owned(), Version { identity, source });
        }
        look
    }
}

/// What a file belongs to: component, settings and signature of one stem go together; `generation.toml` to itself.
fn stem_of(name: &str) -> Option<&str> {
    match name.strip_suffix(SEAL).unwrap_or(name) {
        MANIFEST => Some(MANIFEST),
        name => name.rsplit_once('.').map(|(stem, _)| stem),
    }
}

/// Hidden files (`..data` of a ConfigMap, editors' swap files), back-ups and anything else is not ours.
pub(crate) fn counts(name: &str) -> bool {
    let ours =
        [".wasm", ".toml", ".json", SEAL].iter().any(|ending| name.len() > ending.len() && name.ends_with(ending));
    ours && !name.starts_with(['.', '#', '~']) && name.len() <= 128 && !name.contains(is_unprintable)
}

type Named = Option<(String, Content)>;
type Found<'a> = Option<(String, Option<&'a Content>)>;

fn source(stem: &str, component: Named, toml: Named, json: Named) -> Result<PolicySource, Refusal> {
    let wrong = |file: &str, message: String| Refusal::new(RefusalCode::SettingsInvalid, file, message);
    // What is no file cannot be told to be one too many.
    if let Some(Err(refusal)) =
        [&toml, &json].into_iter().flatten().map(|(_, content)| &content.bytes).find(|of| of.is_err())
    {
        return Err(refusal.clone());
    }
    let settings = match (toml, json) {
        (Some((name, _)), Some((other, _))) => {
            return Err(wrong(&name, format!("{other} stands beside it; keep one of them")));
        }
        (Some((name, content)), None) => {
            let text = text(&name, content)?;
            let json = settings_json(&name, &text).map_err(|message| wrong(&name, message))?;
            Some((name, json))
        }
        (None, Some((name, content))) => {
            let text = text(&name, content)?;
            let json = settings_json(&name, &text).map_err(|message| wrong(&name, message))?;
            Some((name, json))
        }
        (None, None) => None,
    };
    match (component, settings) {
        (Some((name, content)), settings) => {
            let component = (content.bytes?, content.digest);
            let has_settings = settings.is_some();
            let settings = settings.map_or_else(|| "{}".to_owned(), |(_, settings)| settings);
            Ok(PolicySource { has_settings, ..PolicySource::of_digest(stem, &name, false, component, &settings) })
        }
        (None, Some((name, settings))) => embedded::configured(stem, &name, &settings).ok_or_else(|| {
            wrong(&name, format!("there is no {stem}.wasm beside it and no embedded policy of that name"))
        }),
        (None, None) => Err(wrong(stem, "nothing is left of it".into())),
    }
}

fn text(name: &str, content: Content) -> Result<String, Refusal> {
    let bytes: Arc<[u8]> = content.bytes?;
    String::from_utf8(bytes.to_vec())
        .map_err(|_| Refusal::new(RefusalCode::SettingsInvalid, name, "the settings are not UTF-8"))
}

fn check_folder(path: &Path) -> Result<(), Refusal> {
    let whole = |code, message: String| Refusal::new(code, &path.display().to_string(), message);
    let metadata = fs::metadata(path).map_err(|e| whole(RefusalCode::Unreadable, e.to_string()))?;
    if !metadata.is_dir() {
        return Err(whole(RefusalCode::Unreadable, "it is not a folder".into()));
    }
    if writable_by_others(&metadata) {
        let message = "group or others may write it; take that right away (chmod go-w)".into();
        return Err(whole(RefusalCode::WritableByOthers, message));
    }
    Ok(())
}
