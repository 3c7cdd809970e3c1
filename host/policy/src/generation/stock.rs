//! Instances that were made before anyone holds a lock. Knows components, not what they will be part of. Invariant: making one
//! runs a guest, which may take its whole deadline; so nothing here is called with a lock held but `take` and `holds`.

use std::sync::Arc;

use crate::gate::{Loaded, Refusal, RefusalCode};
use crate::instance::{CallFailure, PolicyInstance, caught};

/// What nobody takes goes with it.
#[derive(Debug, Default)]
pub(crate) struct Stock {
    made: Vec<(Arc<Loaded>, PolicyInstance)>,
    /// Of this one no instance can be made; whoever still wants it is refused.
    failed: Option<(Arc<Loaded>, CallFailure)>,
}

// === impl Stock ===

impl Stock {
    /// Makes what lacks, one after the other, until that fails or nobody needs it any more.
    pub(crate) fn fill(&mut self, lacking: Vec<Arc<Loaded>>, is_needless: impl Fn() -> bool) {
        for loaded in lacking {
            if is_needless() {
                return;
            }
            match caught(|| loaded.pre.instance(&loaded.source.settings)) {
                Ok(instance) => self.made.push((loaded, instance)),
                Err(failure) => {
                    self.failed = Some((loaded, failure));
                    return;
                }
            }
        }
    }

    /// Why a set of these members cannot have its instances, if so.
    pub(crate) fn refusal_of(&self, members: &[Arc<Loaded>]) -> Option<Refusal> {
        let (loaded, failure) = self.failed.as_ref()?;
        let wanted = members.iter().any(|member| Arc::ptr_eq(member, loaded));
        wanted.then(|| Refusal::new(RefusalCode::StartFailed, &loaded.source.file, failure.message.clone()))
    }

    /// So many of this one.
    pub(super) fn holds(&self, of: &Arc<Loaded>) -> usize {
        self.made.iter().filter(|(loaded, _)| Arc::ptr_eq(loaded, of)).count()
    }

    pub(super) fn take(&mut self, of: &Arc<Loaded>) -> Option<PolicyInstance> {
        let at = self.made.iter().position(|(loaded, _)| Arc::ptr_eq(loaded, of))?;
        Some(self.made.swap_remove(at).1)
    }
}
