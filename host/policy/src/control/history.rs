//! What lies behind the serving set: sets to go back to, what the folder holds and was tried, operators' words, imports that
//! were let in. Knows no flip. Invariant: every list is bounded; what is remembered over a restart is written by
//! `Control`.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::generation::{Generation, Set};
use crate::model::Digest;
use crate::record::{Approval, Granted, Held, PinReason};
use crate::store::{POISONED_MAX, Remembered, Told};

/// Behind one lock, held through a flip, and never for longer than that takes.
pub(super) struct History {
    pub(super) earlier: Vec<Set>,
    /// Since when the component that answers access does; None: since before this process.
    pub(super) access_since: Option<Instant>,
    /// Replaced generations, until their last call has ended; the one that a roll-back leads to until its place is needed.
    pub(super) retiring: Vec<Arc<Generation>>,
    /// Ways back that make instances now; the swapper lets them go first.
    pub(super) returning: Vec<Weak<()>>,
    /// Number of what is to be remembered; the newest counts.
    pub(super) memos: u64,
    pub(super) pin: Option<PinReason>,
    /// Stem to identity: what the folder holds and was tried, accepted or not.
    pub(super) judged: BTreeMap<String, Digest>,
    /// Stem to the file that is named for it.
    pub(super) files: BTreeMap<String, String>,
    pub(super) poisoned: Vec<Digest>,
    /// Identities that a roll-back left.
    pub(super) shunned: Vec<Digest>,
    /// Identities that a way back put in force and that do not stand in the folder: nobody removed them there.
    pub(super) returned: Vec<Digest>,
    /// Rises when something other than the swapper moves the set, pins it or takes a component back.
    pub(super) revision: u64,
    /// Identities that are on their way through the gate.
    pub(super) trying: Vec<Digest>,
    /// Identities that are sound and were refused together with others; they come when these are mended or gone.
    pub(super) owed: Vec<Digest>,
    pub(super) pending: Vec<String>,
    /// What the folder holds and was not taken, by identity.
    pub(super) refused: Vec<(Digest, Refusal)>,
    /// Trouble with the folder itself.
    pub(super) folder_trouble: Option<Refusal>,
    pub(super) held: Vec<Held>,
    pub(super) approved: Vec<Approval>,
    pub(super) granted: Vec<Granted>,
}

/// Components whose imports are remembered; the oldest are asked about anew. Guessed: years of changes.
const GRANTED_MAX: usize = 256;

// === impl History ===

impl History {
    /// Takes out what nobody calls any more, except the newest with the set that a roll-back leads to.
    pub(super) fn reap(&mut self) -> Vec<Arc<Generation>> {
        let back = self.earlier.last();
        let leads_back = |old: &Arc<Generation>| back.is_some_and(|back| old.set.is_same_as(back));
        let kept = self.retiring.iter().rposition(leads_back);
        let numbered = std::mem::take(&mut self.retiring).into_iter().enumerate();
        let (done, rest): (Vec<_>, Vec<_>) =
            numbered.partition(|(at, old)| Arc::strong_count(old) == 1 && Some(*at) != kept);
        self.retiring = rest.into_iter().map(|(_, old)| old).collect();
        done.into_iter().map(|(_, old)| old).collect()
    }

    /// The serving generation and those before it that still have calls under way.
    pub(super) fn live(&self) -> usize {
        1 + self.retiring.iter().filter(|old| Arc::strong_count(old) > 1).count()
    }

    /// Somebody is about to leave what serves.
    pub(super) fn is_left(&self) -> bool {
        self.returning.iter().any(|way| way.strong_count() > 0)
    }

    /// What serves was let in with its imports: they need no further word.
    pub(super) fn grant(&mut self, loaded: &Loaded) {
        let component = loaded.source.digest.to_hex();
        if loaded.imports.is_empty() || self.granted.iter().any(|known| known.component == component) {
            return;
        }
        let imports = loaded.imports.iter().cloned().collect();
        self.granted.push(Granted { component, answers: loaded.answers.clone(), imports });
        let surplus = self.granted.len().saturating_sub(GRANTED_MAX);
        self.granted.drain(..surplus);
    }

    /// What stands in the folder and is not in `serving`.
    pub(super) fn standing(&self, serving: &Set) -> Vec<Refusal> {
        let serves = |identity: &Digest| serving.chosen().any(|loaded| loaded.source.identity() == *identity);
        // A copy of it under another name does not.
        let file_serves = |identity: &Digest, file: &str| {
            serving.chosen().any(|loaded| loaded.source.identity() == *identity && &*loaded.source.file == file)
        };
        let refused = self.refused.iter().filter(|(identity, of)| !file_serves(identity, &of.file));
        let refused = refused.map(|(_, refusal)| refusal);
        // Held back by a pin of an earlier run, so not judged in this one.
        let told = |of: &Digest| self.refused.iter().any(|(identity, _)| identity == of);
        let poisoned = self.judged.iter().filter(|(_, of)| self.poisoned.contains(of) && !told(of) && !serves(of));
        let file = |stem: &str| self.files.get(stem).cloned().unwrap_or_else(|| stem.to_owned());
        let poisoned = poisoned.map(|(stem, identity)| taken_back(&file(stem), identity));
        let left = |of: &Digest| self.shunned.contains(of) && !self.poisoned.contains(of);
        let left = self.judged.iter().filter(|(_, of)| left(of) && !told(of) && !serves(of));
        let left = left.map(|(stem, identity)| left_behind(&file(stem), identity));
        self.folder_trouble.iter().chain(refused).cloned().chain(poisoned).chain(left).collect()
    }

    /// What is to be told after a restart of what stands in the folder and is known by then.
    pub(super) fn tell(&self) -> Vec<Told> {
        let known = self.refused.iter().filter(|(identity, _)| !self.trying.contains(identity));
        let told = known.map(|(identity, of)| Told {
            identity: identity.to_hex(),
            file: of.file.clone(),
            code: of.code.as_str().to_owned(),
            message: of.message.clone(),
            held: self.held.iter().any(|held| held.identity == *identity),
        });
        told.collect()
    }

    /// The file that stands in the folder for it.
    pub(super) fn file_of(&self, identity: &Digest) -> Option<String> {
        let stem = self.judged.iter().find(|(_, of)| *of == identity).map(|(stem, _)| stem)?;
        Some(self.files.get(stem).unwrap_or(stem).clone())
    }

    /// A member of this set that was taken back.
    pub(super) fn poisoned_in<'a>(&self, set: &'a Set) -> Option<&'a Arc<Loaded>> {
        set.chosen().find(|loaded| self.poisoned.contains(&loaded.source.identity()))
    }

    /// Something moved that the swapper's basis does not know of.
    pub(super) fn moved(&mut self) {
        self.revision += 1;
    }

    /// What was tried on a basis that holds no more is as if it had not been seen.
    pub(super) fn give_back(&mut self, judged: &BTreeMap<String, Digest>, tried: &[Digest]) {
        self.trying.clear();
        self.judged = judged.clone();
        self.judged.retain(|_, identity| !tried.contains(identity));
    }

    /// A way back led to this set: changes of the folder wait, unless an operator has pinned it for longer.
    pub(super) fn hold(&mut self, set: &Set) {
        self.pin.get_or_insert(PinReason::Rollback);
        let stands = |loaded: &Loaded| self.judged.get(&*loaded.source.stem) == Some(&loaded.source.identity());
        let returned = set.chosen().filter(|loaded| !stands(loaded)).map(|loaded| loaded.source.identity()).collect();
        self.returned = returned;
    }

    /// What a way back put in force and stands in the folder by now can be removed there again.
    pub(super) fn stands_again(&mut self, serving: &Set, judged: &BTreeMap<String, Digest>) {
        for Loaded { source, .. } in serving.chosen().map(Arc::as_ref) {
            let identity = source.identity();
            self.returned.retain(|of| *of != identity || judged.get(&*source.stem) != Some(of));
        }
    }

    /// What was in `left` and is not in `now` was left on purpose.
    pub(super) fn shun(&mut self, left: &Set, now: &Set) {
        let left = left.chosen().map(|loaded| loaded.source.identity()).collect();
        self.shun_all(left, now);
    }

    /// These were left on purpose, unless they are in `now`.
    pub(super) fn shun_all(&mut self, left: Vec<Digest>, now: &Set) {
        let stays = |identity: &Digest| now.chosen().any(|loaded| loaded.source.identity() == *identity);
        self.shunned.retain(|identity| !stays(identity) && !left.contains(identity));
        // From now on that is why they do not serve.
        self.refused.retain(|(identity, _)| stays(identity) || !left.contains(identity));
        for identity in left.into_iter().filter(|identity| !stays(identity)) {
            if !self.shunned.contains(&identity) {
                self.shunned.push(identity);
            }
        }
        let surplus = self.shunned.len().saturating_sub(POISONED_MAX);
        self.shunned.drain(..surplus);
    }
}

/// What the run before told of files that its pin holds back.
pub(super) fn told(remembered: &Remembered) -> Vec<(Digest, Refusal)> {
    let told = remembered.pin.iter().flat_map(|pin| &pin.told);
    told.filter_map(|of| Some((Digest::from_hex(&of.identity)?, of.refusal()?))).collect()
}

/// Those of them that wait for an operator's word.
pub(super) fn held(remembered: &Remembered) -> Vec<Held> {
    let told = remembered.pin.iter().flat_map(|pin| &pin.told).filter(|of| of.held);
    let held = |of: &Told| {
        let Refusal { code, file, message } = of.refusal()?;
        Some(Held { file, identity: Digest::from_hex(&of.identity)?, code, message })
    };
    told.filter_map(held).collect()
}

// === impl Told ===

impl Told {
    /// None: it is of a later version.
    fn refusal(&self) -> Option<Refusal> {
        Some(Refusal::new(RefusalCode::parse(&self.code)?, &self.file, self.message.clone()))
    }
}

/// Why a version that a roll-back left does not serve.
pub(crate) fn left_behind(file: &str, identity: &Digest) -> Refusal {
    let message = format!(
        "a roll-back left this very version, or came while it was judged; {} does not come back by itself: \
         `tidegate policy reload` if it is meant after all, or put another version there",
        &identity.to_hex()[..12]
    );
    Refusal::new(RefusalCode::RolledBack, file, message)
}

/// Why a component that was taken back does not serve, and what is left to do about its file.
pub(crate) fn taken_back(file: &str, identity: &Digest) -> Refusal {
    let message = format!(
        "it kept failing with these settings and was taken back, but it stands in the folder: put another version there, \
         or the one before with its settings, or take it away; {} is not tried again",
        &identity.to_hex()[..12]
    );
    Refusal::new(RefusalCode::Poisoned, file, message)
}
