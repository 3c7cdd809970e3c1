//! One look at the folder, from names to a flip. Knows what was refused before, so that one bad file does
//! not hold up changes to others. Invariants: files that changed together are taken together or not at all; what was
//! planned on a basis that was overtaken is planned anew.

mod judge;
mod missing;
mod named;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::config::PolicyConfig;
use crate::control::{Attempt, Basis, Control, Overtaken};
use crate::evidence::{Comparison, Recorder};
use crate::folder::{Folder, Heard, Look, MANIFEST, Papers, Version};
use crate::gate::{Gate, Loaded, Refusal, RefusalCode};
use crate::model::Digest;
use crate::record::{Outcome, PinReason, SwapRecord, Trigger};
use crate::trust::Vouching;
use missing::insist_on_settings;
use named::Unserved;

/// Plans of one look, if roll-backs, pins or the breaker overtake it; then the next look goes on. Guessed: operators
/// are slower.
const PLANS_MAX: usize = 8;
/// Attempts in a row that come to nothing because the folder says otherwise by the time they are judged. What is written
/// more often than it can be judged comes after that as it was judged, so that nobody keeps it and its neighbours out for
/// ever; what stands there then is judged next. Guessed.
const MOVED_ON_MAX: u32 = 3;

pub(super) struct Scanner {
    config: PolicyConfig,
    gate: Arc<Gate>,
    folder: Option<Folder>,
    control: Arc<Control>,
    /// Identities that were refused by themselves; not tried again unless an operator says so.
    refused: BTreeSet<Digest>,
    /// The compiler was busy with something else; tried again when it is not.
    aside: BTreeSet<Digest>,
    /// Refused because something else answers the same: they are taken when that is gone.
    rivals: Vec<Arc<Loaded>>,
    /// Went through the gate for a plan that was overtaken.
    ready: Vec<Arc<Loaded>>,
    /// Identities that a pin of an earlier run holds back, as long as they stand there.
    known: Vec<Digest>,
    /// Served from the folder, and gone since.
    missing: BTreeMap<String, Instant>,
    /// The `generation.toml` that was refused.
    unserved: Option<Unserved>,
    /// Attempts in a row that the folder overtook.
    moved_on: u32,
    /// It overtook the latest: the next look is due at once.
    again: bool,
    /// The folder's own trouble, told once.
    trouble: Option<Refusal>,
    vouching: Arc<Vouching>,
    recorder: Arc<Recorder>,
}

/// What one look comes to.
enum Plan {
    Nothing,
    Change(Change),
}

struct Change {
    stems: Vec<(String, Version)>,
    /// Of `stems` those that may come and do not have to.
    optional: BTreeSet<String>,
    keep: Vec<Arc<Loaded>>,
    files: Vec<String>,
    /// Stems that have to stand there as they were read when it comes into force; of `generation.toml` that alone.
    looked_at: BTreeSet<String>,
}

/// What a set was refused for, first what the attempt is named by.
type Refused = (Refusal, Vec<Refusal>);

// === impl Scanner ===

impl Scanner {
    pub(super) fn new(
        config: PolicyConfig,
        gate: Arc<Gate>,
        folder: Option<Folder>,
        control: Arc<Control>,
        known: Vec<Digest>,
        vouching: Arc<Vouching>,
        recorder: Arc<Recorder>,
    ) -> Self {
        Self {
            config,
            gate,
            folder,
            control,
            refused: BTreeSet::new(),
            aside: BTreeSet::new(),
            rivals: Vec::new(),
            ready: Vec::new(),
            known,
            missing: BTreeMap::new(),
            unserved: None,
            moved_on: 0,
            again: false,
            trouble: None,
            vouching,
            recorder,
        }
    }

    pub(super) fn unchanged(&self, trigger: Trigger) -> SwapRecord {
        self.control.left_as_it_is(attempt(trigger))
    }

    /// When the next look is due because the folder moved on, or because a removal has to be quiet for a while.
    pub(super) fn wants_look_at(&self) -> Option<Instant> {
        if self.again {
            return Some(Instant::now());
        }
        self.missing.values().min().map(|since| *since + self.config.watch.removal_quiet)
    }

    /// What an operator approved is tried again. It is a word about nothing else: what is being written waits.
    pub(super) fn approve(&mut self, approved: &Digest, reason: &str, heard: &Heard) -> Option<SwapRecord> {
        self.control.approve(approved, reason);
        self.refused.remove(approved);
        self.known.retain(|known| known != approved);
        self.scan(Trigger::Approval, heard)
    }

    /// With the signers' keys as they are by now.
    pub(super) fn look_now(&mut self, heard: &Heard) -> Option<SwapRecord> {
        self.reread_keys();
        self.scan(Trigger::Folder, heard)
    }

    fn reread_keys(&self) {
        if let Err(error) = self.vouching.reread() {
            tracing::error!(%error, "the keys of trusted signers cannot be read again; the ones before count");
        }
    }

    /// A candidate that was compared is put into the folder, under the name of what it replaces, and taken up from
    /// there; refused, the folder is as it was.
    pub(super) fn promote(
        &mut self,
        new: &Arc<Loaded>,
        papers: &Papers,
        unclosed: impl Fn() -> BTreeSet<String>,
    ) -> Option<SwapRecord> {
        let basis = self.control.basis();
        let file = new.source.file.to_string();
        let refused = |refusal: Refusal| {
            let attempt = Attempt { files: vec![file.clone()], ..attempt(Trigger::Promotion) };
            Some(self.control.refused(refusal, Vec::new(), attempt))
        };
        let unplaced = |message: &str| refused(Refusal::new(RefusalCode::NotPlaced, &file, message));
        let Some(folder) = &self.folder else {
            return unplaced("there is no plugins folder; start the gateway with --plugins-dir");
        };
        if basis.pin == Some(PinReason::Operator) {
            return unplaced("the set is pinned; `tidegate policy pin --off` follows the folder again");
        }
        let replaced = |old: &&Arc<Loaded>| old.answers.iter().any(|policy| new.answers.contains(policy));
        let stems: Vec<&Arc<str>> = basis.chosen.iter().filter(replaced).map(|old| &old.source.stem).collect();
        let stem = match stems[..] {
            [] => &new.source.stem,
            [stem] => stem,
            [..] => return unplaced("it answers what several files of the folder answer; take these away first"),
        };
        if papers.component.is_none() && *stem != new.source.stem {
            return unplaced("another file of the folder answers this; take it away first, these are settings alone");
        }
        let mut papers = papers.clone();
        let with_settings = |old: &Arc<Loaded>| old.source.stem == *stem && &*old.source.settings != "{}";
        if papers.settings.is_none() && basis.chosen.iter().any(with_settings) {
            // Settings that were in force do not go by leaving them out: an empty file says so.
            papers.settings = Some(("toml".to_owned(), String::new()));
        }
        let serves = basis.chosen.iter().filter(|old| old.source.stem == *stem).map(|old| old.source.identity());
        let known: Vec<Digest> = serves.chain([new.source.identity()]).collect();
        let placed = match folder.holds_only(stem, &known).and_then(|()| folder.place(stem, &papers)) {
            Ok(placed) => placed,
            Err(refusal) => return refused(refusal),
        };
        let identity = new.source.identity();
        self.refused.remove(&identity);
        self.known.retain(|known| *known != identity);
        self.control.wanted(&identity);
        let heard = |names: &[String]| Heard { unclosed: unclosed(), ..Heard::of(names) };
        let record = self.scan(Trigger::Promotion, &heard(&placed.names));
        let serves = self.control.basis().chosen.iter().any(|loaded| loaded.source.identity() == identity);
        if serves {
            placed.keep();
            return record;
        }
        let back = placed.put_back();
        // What stands there now was judged before, and serves: a look that finds nothing to do.
        self.scan(Trigger::Folder, &heard(&back));
        record.or_else(|| {
            let message = match self.control.basis().pin {
                Some(PinReason::Operator) => "the set was pinned meanwhile",
                _ => "the folder did not give what was put into it; something else writes there",
            };
            Some(self.control.refused(
                Refusal::new(RefusalCode::NotPlaced, &file, message),
                Vec::new(),
                Attempt { files: vec![file.clone()], ..attempt(Trigger::Promotion) },
            ))
        })
    }

    /// None: nothing to change.
    pub(super) fn scan(&mut self, trigger: Trigger, heard: &Heard) -> Option<SwapRecord> {
        let record = self.look(trigger, heard);
        if trigger == Trigger::Start {
            let unsure = self.folder.as_ref().is_some_and(Folder::may_answer_access);
            let refused = record.as_ref().filter(|record| unsure && record.outcome == Outcome::Refused);
            self.control.begun(refused.and_then(|record| Some((record.access_code()?, attempt(trigger)))));
        }
        record
    }

    fn look(&mut self, trigger: Trigger, heard: &Heard) -> Option<SwapRecord> {
        let operator = trigger == Trigger::Reload;
        if operator {
            self.refused.clear();
            self.rivals.clear();
            self.known.clear();
            self.control.unpin();
            self.reread_keys();
        }
        self.again = false;
        // What overtakes a plan came after the operator's word, and counts.
        let mut planned = (0..PLANS_MAX).map(|n| self.attempt(trigger, heard, operator && n == 0));
        let record = planned.find_map(Result::ok).flatten();
        drop(planned);
        if !self.again {
            self.ready.clear();
        }
        record
    }

    /// One plan, from the names to the flip. `all`: what was refused, left or known too.
    fn attempt(&mut self, trigger: Trigger, heard: &Heard, all: bool) -> Result<Option<SwapRecord>, Overtaken> {
        let start = Instant::now();
        let basis = self.control.basis();
        if basis.pin == Some(PinReason::Operator) {
            return Ok(None);
        }
        let Some(folder) = self.folder.as_mut() else { return Ok(None) };
        let force = takes_it_as_it_stands(trigger);
        let look = match folder.look(heard, force) {
            Ok(mut look) => {
                insist_on_settings(&basis, trigger, &mut look);
                self.vouching.insist(&mut look);
                look
            }
            Err(refusal) => {
                if self.trouble.as_ref() == Some(&refusal) && trigger != Trigger::Reload {
                    return Ok(None);
                }
                self.trouble = Some(refusal.clone());
                self.control.folder_trouble(self.trouble.clone());
                let attempt = Attempt { gate: start.elapsed(), ..attempt(trigger) };
                return Ok(Some(self.control.refused(refusal, Vec::new(), attempt)));
            }
        };
        if self.trouble.take().is_some() {
            self.control.folder_trouble(None);
        }
        let mut judged: BTreeMap<String, Digest> =
            look.versions.iter().map(|(stem, version)| (stem.clone(), version.identity)).collect();
        if let Some((identity, _)) = &look.manifest {
            judged.insert(MANIFEST.to_owned(), *identity);
        }
        let files = look.versions.iter().map(|(stem, version)| (stem.clone(), version.file().to_owned())).collect();
        let quiet = look.pending.is_empty();
        let planned = match look.manifest.is_some() {
            true => self.plan_by_manifest(trigger, all, &basis, look, &judged),
            false => Ok(self.plan(trigger, all, &basis, look, &judged)),
        };
        let (plan, pending) = match planned {
            Ok(planned) => planned,
            Err((refusal, pending)) => {
                let named = judged.get(MANIFEST).copied();
                self.judged(judged, files, pending);
                if let Some(named) = named {
                    self.control.note_refused(named, refusal.clone());
                }
                let attempt = Attempt { gate: start.elapsed(), ..attempt(trigger) };
                return Ok(Some(self.control.refused(refusal, Vec::new(), attempt)));
            }
        };
        let named = judged.get(MANIFEST).copied();
        self.judged(judged, files, pending);
        let Plan::Change(mut change) = plan else {
            if quiet {
                self.moved_on = 0;
            }
            return Ok(None);
        };
        let of_identity: BTreeMap<Digest, String> =
            change.stems.iter().map(|(_, version)| (version.identity, version.file().to_owned())).collect();
        let required = change.stems.iter().filter(|(stem, _)| !change.optional.contains(stem));
        let tried: Vec<Digest> = required.map(|(_, version)| version.identity).chain(named).collect();
        self.control.trying(&tried);
        let mut difference: Option<Comparison> = None;
        let loaded = self.load(&basis, &mut change, &mut difference);
        let attempt = |files: Vec<String>| {
            let difference = difference.map(Box::new);
            Attempt { trigger, files, gate: start.elapsed(), difference }
        };
        if is_left(&loaded) && self.is_overtaken(&change) {
            let record = self.control.moved_on(&basis, &tried, attempt(change.files));
            return self.overtaken(trigger, record);
        }
        if is_left(&loaded) {
            self.aside.extend(named);
        }
        let record = match loaded {
            // Only what may come was there, and it may not.
            Ok(_) if change.files.is_empty() && !all => {
                self.control.owed(&[]);
                return Ok(None);
            }
            Ok(chosen) if self.is_overtaken(&change) => {
                self.ready = chosen;
                let record = self.control.moved_on(&basis, &tried, attempt(change.files));
                return self.overtaken(trigger, record);
            }
            Ok(chosen) => match self.control.swap(&basis, &chosen, &tried, attempt(change.files)) {
                Ok(record) => {
                    for refusal in &record.refusals {
                        let at_fault = chosen.iter().find(|loaded| *loaded.source.file == *refusal.file);
                        if let Some(loaded) = at_fault {
                            self.control.note_refused(loaded.source.identity(), refusal.clone());
                        }
                    }
                    record
                }
                Err(overtaken) => {
                    self.ready = chosen;
                    return Err(overtaken);
                }
            },
            Err((first, others)) => self.control.refused(first, others, attempt(change.files)),
        };
        self.moved_on = 0;
        if record.outcome == Outcome::Refused {
            let sound: Vec<_> =
                tried.into_iter().filter(|of| !self.refused.contains(of) && !self.aside.contains(of)).collect();
            for identity in self.control.owed(&sound) {
                let Some(file) = of_identity.get(&identity) else { continue };
                self.control.note_refused(identity, waits(file, &record));
            }
        } else {
            self.unserved = None;
        }
        Ok(Some(record))
    }

    fn overtaken(&mut self, trigger: Trigger, record: SwapRecord) -> Result<Option<SwapRecord>, Overtaken> {
        match trigger {
            Trigger::Folder | Trigger::Approval => {
                self.again = true;
                Ok(Some(record))
            }
            // Whoever promotes says that something else writes there.
            Trigger::Promotion => Ok(None),
            // Takes what stands there, finished or not.
            _ => Err(Overtaken),
        }
    }

    /// What was set aside for the compiler, if it is free now.
    fn due(&self) -> BTreeSet<Digest> {
        if self.gate.is_compiling() { BTreeSet::new() } else { self.aside.clone() }
    }

    /// Does the folder say otherwise by now? True a few times in a row at most.
    fn is_overtaken(&mut self, change: &Change) -> bool {
        let Some(folder) = &self.folder else { return false };
        let moved = folder.moved_on(&change.looked_at);
        if moved.is_empty() {
            return false;
        }
        let files = moved.join(", ");
        if self.moved_on >= MOVED_ON_MAX {
            tracing::warn!(%files, "changed again while it was judged, and is taken as it was: it changes too often");
            return false;
        }
        self.moved_on += 1;
        tracing::info!(%files, "changed while it was judged; what stands there now is judged instead");
        true
    }

    /// What is not in the folder any more is judged anew should it come back.
    fn judged(&mut self, judged: BTreeMap<String, Digest>, files: BTreeMap<String, String>, pending: Vec<String>) {
        let stands: BTreeSet<Digest> = judged.values().copied().collect();
        self.known.retain(|identity| stands.contains(identity));
        self.refused.retain(|identity| stands.contains(identity));
        self.aside.retain(|identity| stands.contains(identity));
        self.rivals.retain(|rival| stands.contains(&rival.source.identity()));
        for gone in self.control.judged(judged, files, pending) {
            self.refused.remove(&gone);
        }
    }

    /// Without `generation.toml`: what changed, went or came.
    fn plan(
        &mut self,
        trigger: Trigger,
        all: bool,
        basis: &Basis,
        look: Look,
        judged: &BTreeMap<String, Digest>,
    ) -> (Plan, Vec<String>) {
        let serving = |stem: &str| basis.chosen.iter().find(|loaded| &*loaded.source.stem == stem);
        let serves =
            |stem: &str, identity: &Digest| serving(stem).is_some_and(|loaded| loaded.source.identity() == *identity);
        let due = self.due();
        let left = |identity: &Digest| trigger == Trigger::Start && basis.shunned.contains(identity);
        let fresh = |stem: &str, identity: &Digest| {
            let differs = basis.judged.get(stem) != Some(identity) && !self.known.contains(identity);
            // What serves is not wanted more by being written again.
            differs && !left(identity)
                || due.contains(identity)
                || look.rewritten.contains(stem) && !serves(stem, identity)
        };
        // What was read of a file that is being written again is not what its writer means.
        let news = judged.iter().any(|(stem, identity)| fresh(stem, identity) && !look.is_unfinished(stem));
        // Something that did not serve went: what was refused with it, or because of it, may come.
        // So may what `generation.toml` did not name, when it goes.
        let went = |stem: &String| !judged.contains_key(stem) && serving(stem).is_none();
        let withdrawn = basis.judged.keys().any(went);
        let owed = withdrawn && judged.values().any(|identity| basis.owed.contains(identity));
        // While a roll-back holds the set, only something new lets go of it.
        if basis.pin == Some(PinReason::Rollback) && !news && !owed && !all {
            return (Plan::Nothing, look.pending);
        }
        let mut gone = Vec::new();
        let now = Instant::now();
        self.missing.retain(|stem, _| !look.versions.contains_key(stem));
        for loaded in &basis.chosen {
            let stem = loaded.source.stem.to_string();
            if look.versions.contains_key(&stem) || look.is_unfinished(&stem) {
                continue;
            }
            // Nobody removed it: a way back put it in force when its file had gone.
            if !all && basis.returned.contains(&loaded.source.identity()) {
                continue;
            }
            let since = *self.missing.entry(stem.clone()).or_insert(now);
            if takes_it_as_it_stands(trigger) || now.duration_since(since) >= self.config.watch.removal_quiet {
                self.missing.remove(&stem);
                gone.push(stem);
            }
        }
        if !news && !withdrawn && gone.is_empty() && !all {
            return (Plan::Nothing, look.pending);
        }
        let held = |identity: &Digest| {
            let not_now = self.refused.contains(identity) || self.aside.contains(identity);
            not_now || self.known.contains(identity) || basis.shunned.contains(identity)
        };
        let rivals: BTreeSet<Digest> = self.rivals.iter().map(|rival| rival.source.identity()).collect();
        let may = |stem: &str, identity: &Digest| {
            !fresh(stem, identity) && rivals.contains(identity) && !basis.shunned.contains(identity)
        };
        let mut optional = BTreeSet::new();
        let mut stems: Vec<(String, Version)> = Vec::new();
        for (stem, version) in &look.versions {
            let identity = &version.identity;
            if serves(stem, identity) || look.is_unfinished(stem) {
                continue;
            }
            let must = all || fresh(stem, identity) || !held(identity);
            if !must && may(stem, identity) {
                optional.insert(stem.clone());
            }
            if must || optional.contains(stem) {
                stems.push((stem.clone(), version.clone()));
            }
        }
        if stems.is_empty() && gone.is_empty() {
            return (Plan::Nothing, look.pending);
        }
        let replaced = |stem: &str| gone.iter().any(|g| g == stem) || stems.iter().any(|(s, _)| s == stem);
        let keep = basis.chosen.iter().filter(|loaded| !replaced(&loaded.source.stem)).cloned().collect();
        let files = stems
            .iter()
            .filter(|(stem, _)| !optional.contains(stem))
            .map(|(stem, version)| version.source.as_ref().map_or(stem.clone(), |source| source.file.to_string()))
            .chain(gone.iter().map(|stem| format!("{stem} (removed)")))
            .collect();
        let looked_at = stems.iter().map(|(stem, _)| stem).chain(&gone).cloned().collect();
        (Plan::Change(Change { stems, optional, keep, files, looked_at }), look.pending)
    }
}

/// Is it for the compiler that this was not judged to the end?
fn is_left(loaded: &Result<Vec<Arc<Loaded>>, Refused>) -> bool {
    let busy = |refusal: &Refusal| refusal.code == RefusalCode::Compiling;
    loaded.as_ref().is_err_and(|(first, others)| busy(first) || others.iter().any(busy))
}

/// Why a sound file does not serve: what came with it was refused.
fn waits(file: &str, refused: &SwapRecord) -> Refusal {
    let mut others: Vec<&str> = refused.refusals.iter().map(|of| &*of.file).collect();
    others.dedup();
    let message = format!("it waits for {}, which came with it and was refused", others.join(", "));
    Refusal::new(RefusalCode::Waits, file, message)
}

/// At the start, and by an operator's word about the whole folder: files that may not be finished, and removals at once.
/// Beside a promotion and an approval others may be writing.
fn takes_it_as_it_stands(trigger: Trigger) -> bool {
    !matches!(trigger, Trigger::Folder | Trigger::Promotion | Trigger::Approval)
}

pub(super) fn attempt(trigger: Trigger) -> Attempt {
    Attempt { trigger, files: Vec::new(), gate: Duration::ZERO, difference: None }
}
