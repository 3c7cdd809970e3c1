//! What `generation.toml` comes to: a set that it names exactly, or a refusal that waits for the files it names. Knows no
//! gate. Invariant: one that does not serve is tried again when these files are others, however they came.

use std::collections::{BTreeMap, BTreeSet};

use super::missing::insist_on_settings;
use super::{Change, Plan, Scanner};
use crate::control::{Basis, left_behind};
use crate::folder::{Heard, Look, MANIFEST};
use crate::gate::Refusal;
use crate::model::Digest;
use crate::record::Trigger;

/// A `generation.toml` that was tried and does not serve.
pub(super) struct Unserved {
    manifest: Digest,
    /// What stood under the names that it could mean; None: nothing.
    files: BTreeMap<String, Option<Digest>>,
    /// What it was refused for, before the gate.
    why: Option<Refusal>,
}

// === impl Scanner ===

impl Scanner {
    /// With it: only its own change counts, and it names everything. One that was refused counts as changed when it is
    /// written again, or when the files that it names are.
    pub(super) fn plan_by_manifest(
        &mut self,
        trigger: Trigger,
        all: bool,
        basis: &Basis,
        look: Look,
        judged: &BTreeMap<String, Digest>,
    ) -> Result<(Plan, Vec<String>), (Refusal, Vec<String>)> {
        let identity = judged.get(MANIFEST);
        let is_new = basis.judged.get(MANIFEST) != identity && identity.is_some_and(|id| !self.known.contains(id));
        // What was set aside for the compiler is as good as new once that is free.
        let is_new = is_new || identity.is_some_and(|identity| self.due().contains(identity));
        let unserved = self.unserved.as_ref().filter(|of| Some(&of.manifest) == identity);
        let wanted = unserved.is_some() && look.rewritten.contains(MANIFEST);
        let arrived = unserved.is_some_and(|of| of.files != self.files_named(&look));
        let left = identity.filter(|identity| basis.shunned.contains(identity));
        if !all && (!is_new && !wanted && !arrived || trigger == Trigger::Start && left.is_some()) {
            return Ok((Plan::Nothing, look.pending));
        }
        if let Some(left) = left.filter(|_| !all) {
            return Err((left_behind(MANIFEST, left), look.pending));
        }
        // The files it names are checked against it, so whether they seem finished does not matter.
        let look = match self.folder.as_mut().map(|folder| folder.look(&Heard::default(), true)) {
            Some(Ok(mut look)) => {
                insist_on_settings(basis, trigger, &mut look);
                self.vouching.insist(&mut look);
                look
            }
            Some(Err(refusal)) => return Err((refusal, look.pending)),
            None => return Ok((Plan::Nothing, look.pending)),
        };
        let pending = look.pending.clone();
        let Some((identity, manifest)) = &look.manifest else { return Ok((Plan::Nothing, pending)) };
        let folder = self.folder.as_ref();
        let raw = |name: &str| folder.and_then(|folder| folder.digest_of(name));
        let selected = manifest.clone().and_then(|manifest| manifest.select(&look, &raw));
        let why = selected.as_ref().err().cloned();
        let files = self.files_named(&look);
        let before = self.unserved.replace(Unserved { manifest: *identity, files, why });
        let stems = match selected {
            Ok(stems) => stems,
            // One of several files has come, and it waits on for the same one: that is told already.
            Err(refusal)
                if !all && !is_new && !wanted && before.is_some_and(|of| of.why.as_ref() == Some(&refusal)) =>
            {
                return Ok((Plan::Nothing, pending));
            }
            Err(refusal) => return Err((refusal, pending)),
        };
        let files = vec![MANIFEST.to_owned()];
        let looked_at = BTreeSet::from([MANIFEST.to_owned()]);
        let change = Change { stems, optional: BTreeSet::new(), keep: Vec::new(), files, looked_at };
        Ok((Plan::Change(change), pending))
    }

    /// What was read of the files that it names.
    fn files_named(&self, look: &Look) -> BTreeMap<String, Option<Digest>> {
        let manifest = look.manifest.as_ref().and_then(|(_, manifest)| manifest.as_ref().ok());
        let read = |name: String| {
            let digest = self.folder.as_ref().and_then(|folder| folder.digest_of(&name));
            (name, digest)
        };
        manifest.into_iter().flat_map(|manifest| manifest.files()).map(read).collect()
    }
}
