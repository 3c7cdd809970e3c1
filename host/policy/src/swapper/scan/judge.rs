//! From a plan to components that may serve: the gate, an operator's word, and who answers a question that several claim.
//! Knows no folder. Invariant: everything that is wrong with a set is found before it is refused.

use std::sync::Arc;
use std::time::Duration;

use super::{Change, MOVED_ON_MAX, Refused, Scanner};
use crate::control::{Basis, left_behind, taken_back};
use crate::evidence::{Budget, Comparison};
use crate::folder::MANIFEST;
use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::instance::PolicySource;
use crate::model::Policy;
use crate::record::{Granted, Held};

/// What a candidate is compared over before it serves: so many of the latest decisions, and no longer than this.
const COMPARED_MAX: usize = 1000;
const COMPARE: Duration = Duration::from_millis(50);
// === impl Scanner ===

impl Scanner {
    /// Takes what serves already as it is, and brings the rest through the gate: all of it, so that everything that is
    /// wrong is told at once. What may come and comes is added to the files.
    pub(super) fn load(
        &mut self,
        basis: &Basis,
        change: &mut Change,
        difference: &mut Option<Comparison>,
    ) -> Result<Vec<Arc<Loaded>>, Refused> {
        let (mut chosen, mut refusals) = (std::mem::take(&mut change.keep), Vec::new());
        let by_name = change.files == [MANIFEST];
        let (folder, looked_at) = (self.folder.as_ref(), change.looked_at.clone());
        let is_heeded = self.moved_on < MOVED_ON_MAX;
        let is_moot = || is_heeded && folder.is_some_and(|folder| !folder.moved_on(&looked_at).is_empty());
        for (stem, version) in std::mem::take(&mut change.stems) {
            // The same bytes under another name are another file: one that rivals, or takes over when that one goes.
            let serves =
                |loaded: &&Arc<Loaded>| loaded.source.identity() == version.identity && *loaded.source.stem == *stem;
            if let Some(serving) = basis.chosen.iter().find(serves) {
                chosen.push(Arc::clone(serving));
                continue;
            }
            let optional = change.optional.contains(&stem);
            self.aside.remove(&version.identity);
            let loaded = version.source.and_then(|source| {
                if basis.poisoned.contains(&version.identity) {
                    return Err(taken_back(&source.file, &version.identity));
                }
                // A manifest that is new may name what an older one did.
                if basis.shunned.contains(&version.identity) && !by_name {
                    return Err(left_behind(&source.file, &version.identity));
                }
                let loaded = match self.at_hand(&source) {
                    Some(loaded) => loaded,
                    None => Arc::new(self.gate.load_unless(source, &is_moot)?),
                };
                let judged = self.hold(basis, &loaded).and_then(|()| self.compare(basis, &loaded, difference));
                judged.inspect_err(|refusal| {
                    let Refusal { code, file, message } = refusal.clone();
                    self.control.held(Held { file, identity: version.identity, code, message });
                })?;
                Ok(loaded)
            });
            match loaded {
                Ok(loaded) => chosen.push(loaded),
                // It did not have to come; what served in its place stays.
                Err(_) if optional => chosen.extend(basis.chosen.iter().find(|old| *old.source.stem == *stem).cloned()),
                Err(refusal) => {
                    match refusal.code {
                        RefusalCode::Compiling => self.aside.insert(version.identity),
                        _ => self.refused.insert(version.identity),
                    };
                    self.control.note_refused(version.identity, refusal.clone());
                    refusals.push(refusal);
                }
            }
        }
        refusals.extend(self.without_rivals(basis, change, &mut chosen));
        if !refusals.is_empty() {
            let first = refusals.remove(0);
            return Err((first, refusals));
        }
        chosen.sort_by(|a, b| a.source.stem.cmp(&b.source.stem));
        Ok(chosen)
    }

    /// What went through the gate before, from the same file under the same signature.
    fn at_hand(&self, source: &PolicySource) -> Option<Arc<Loaded>> {
        let same = |loaded: &&Arc<Loaded>| {
            let of = &loaded.source;
            of.identity() == source.identity()
                && (&of.file, &of.stem, &of.seal, &of.signer)
                    == (&source.file, &source.stem, &source.seal, &source.signer)
        };
        self.rivals.iter().chain(&self.ready).find(same).cloned()
    }

    /// Of several that answer one question the one stays whose file answered it until now; the others are refused, or
    /// stay away again.
    fn without_rivals(&mut self, basis: &Basis, change: &mut Change, chosen: &mut Vec<Arc<Loaded>>) -> Vec<Refusal> {
        let mut refusals = Vec::new();
        let mut losers: Vec<Arc<Loaded>> = Vec::new();
        self.give_way(basis, change, chosen);
        for policy in Policy::ALL {
            let claims: Vec<_> = chosen.iter().filter(|loaded| loaded.answers.contains(&policy)).collect();
            if claims.len() < 2 {
                continue;
            }
            let until_now = basis.chosen.iter().find(|loaded| loaded.answers.contains(&policy));
            let holder = until_now.and_then(|old| claims.iter().find(|new| new.source.stem == old.source.stem));
            for loser in &claims {
                let is = |other: &Arc<Loaded>| Arc::ptr_eq(other, loser);
                let other = holder.or_else(|| claims.iter().find(|other| !is(other))).filter(|other| !is(other));
                let Some(other) = other.filter(|_| !losers.iter().any(is)) else { continue };
                losers.push(Arc::clone(loser));
                let identity = loser.source.identity();
                if change.optional.contains(&*loser.source.stem) {
                    continue;
                }
                let message = rivalry(basis, policy, other);
                let refusal = Refusal::new(RefusalCode::DuplicatePolicy, &loser.source.file, message);
                self.refused.insert(identity);
                self.control.note_refused(identity, refusal.clone());
                self.rivals.retain(|rival| rival.source.stem != loser.source.stem);
                self.rivals.push(Arc::clone(loser));
                refusals.push(refusal);
            }
        }
        // In place of one that did not have to come stays what served there.
        for loser in &losers {
            chosen.retain(|loaded| !Arc::ptr_eq(loaded, loser));
            let stays = |old: &&Arc<Loaded>| old.source.stem == loser.source.stem;
            chosen.extend(basis.chosen.iter().find(stays).cloned());
        }
        for loaded in chosen.iter() {
            let serves = basis.chosen.iter().any(|old| Arc::ptr_eq(old, loaded));
            if change.optional.contains(&*loaded.source.stem) && !serves {
                change.files.push(loaded.source.file.to_string());
            }
        }
        refusals
    }

    /// What a way back put in force goes when files that have to come answer all that it does; but nothing of its own name
    /// may stand there.
    fn give_way(&self, basis: &Basis, change: &Change, chosen: &mut Vec<Arc<Loaded>>) {
        let folder = self.folder.as_ref();
        let has_file = |old: &Loaded| folder.is_some_and(|folder| folder.has(&old.source.stem));
        let gone = |old: &Arc<Loaded>| is_returned(basis, old) && !has_file(old);
        let comes = |new: &Arc<Loaded>| !gone(new) && !change.optional.contains(&*new.source.stem);
        let come: Vec<_> = chosen.iter().filter(|new| comes(new)).cloned().collect();
        let answered = |policy: &Policy| come.iter().any(|new| new.answers.contains(policy));
        chosen.retain(|old| !gone(old) || !old.answers.iter().all(answered));
    }
}

/// It serves because a way back led to it, without a file.
fn is_returned(basis: &Basis, loaded: &Arc<Loaded>) -> bool {
    basis.returned.contains(&loaded.source.identity()) && basis.chosen.iter().any(|old| Arc::ptr_eq(old, loaded))
}

/// Who answers the question, too: what stands in the folder under that name, or what served under it before and stays.
fn rivalry(basis: &Basis, policy: Policy, other: &Arc<Loaded>) -> String {
    let file = &other.source.file;
    let serves = basis.chosen.iter().any(|old| Arc::ptr_eq(old, other));
    let stands = basis.judged.get(&*other.source.stem).is_none_or(|of| *of == other.source.identity());
    if is_returned(basis, other) && !basis.judged.contains_key(&*other.source.stem) {
        return format!(
            "a roll-back put {file} in force, which answers {policy} and more, and is not in the folder; `tidegate policy \
             reload` takes what stands there instead"
        );
    }
    match serves && !stands {
        true => format!(
            "what served as {file} before answers {policy} on, though the file of that name holds something else by now; \
             take this one away, or put that one right"
        ),
        false => format!("{file} answers {policy}, too; take one of them away"),
    }
}

// === what an operator can approve ===

impl Scanner {
    /// A component that wants what nothing before it was given: neither what answers its questions now, nor the embedded
    /// defaults, nor anything that ever served here for these questions. So it makes no difference whether what it
    /// replaces is still there.
    fn hold(&self, basis: &Basis, new: &Loaded) -> Result<(), Refusal> {
        let has = |of: &[Arc<Loaded>], policy: &Policy, import: &String| {
            of.iter().any(|old| old.answers.contains(policy) && old.imports.contains(import))
        };
        let is_new = |import: &&String| {
            new.answers
                .iter()
                .any(|policy| !has(&basis.chosen, policy, import) && !has(&basis.embedded, policy, import))
        };
        let wanted: Vec<&str> = new.imports.iter().filter(is_new).map(String::as_str).collect();
        if wanted.is_empty() || basis.granted.iter().any(|known| known.covers(new)) || is_approved(basis, new) {
            return Ok(());
        }
        let identity = &new.source.identity().to_hex()[..12];
        let message = format!(
            "it wants {}, which nothing that answered this here was given; `tidegate policy approve {identity} --reason \
             TEXT` lets it in",
            wanted.join(", ")
        );
        Err(Refusal::new(RefusalCode::Held, &new.source.file, message))
    }

    /// Asks the candidate what was asked last.
    fn compare(&self, basis: &Basis, new: &Arc<Loaded>, difference: &mut Option<Comparison>) -> Result<(), Refusal> {
        let compared = Comparison::of(new, &self.recorder.recent(COMPARED_MAX), Budget::of(COMPARE));
        let rate = compared.rate();
        let told = difference.get_or_insert_default();
        told.add(compared);
        match self.config.difference_max.filter(|max| rate > *max) {
            Some(max) if !is_approved(basis, new) => {
                let digest = &new.source.identity().to_hex()[..12];
                let message = format!(
                    "it would have answered {:.2} % of the latest questions otherwise, more than the {:.2} % that are \
                     allowed; `tidegate policy diff` shows which, `tidegate policy approve {digest} --reason TEXT` lets \
                     it in",
                    rate * 100.0,
                    max * 100.0
                );
                Err(Refusal::new(RefusalCode::Differs, &new.source.file, message))
            }
            _ => Ok(()),
        }
    }
}

// === impl Granted ===

impl Granted {
    /// The same component, or one for the same questions, that wants no more.
    fn covers(&self, new: &Loaded) -> bool {
        let same = self.component == new.source.digest.to_hex();
        let answers = new.answers.iter().all(|policy| self.answers.contains(policy));
        same || answers && new.imports.iter().all(|import| self.imports.contains(import))
    }
}

fn is_approved(basis: &Basis, new: &Loaded) -> bool {
    basis.approved.contains(&new.source.identity().to_hex())
}
