//! What must not be left out by leaving a file out: settings of access that are in force, and the component that they are
//! beside. Knows no gate. Invariant: what is missing narrows or stays; what it would widen is refused until somebody says so.

use crate::control::Basis;
use crate::embedded;
use crate::folder::Look;
use crate::gate::{Refusal, RefusalCode};
use crate::instance::PolicySource;
use crate::model::{Digest, Policy};
use crate::record::Trigger;

/// Access settings that are in force and go missing: without them the component may allow what they
/// denied. Such a version is refused under an identity of its own, so that an empty file is news. It stays refused when
/// a roll-back has put other settings in force, or none: nothing new came.
pub(super) fn insist_on_settings(basis: &Basis, trigger: Trigger, look: &mut Look) {
    if look.manifest.is_some() {
        // It names everything, and what it leaves out is meant to be absent.
        return;
    }
    if trigger != Trigger::Reload {
        insist_on_component(basis, look);
    }
    for (stem, version) in &mut look.versions {
        let Ok(source) = &version.source else { continue };
        if source.has_settings {
            continue;
        }
        let refused = Digest::of(&[&version.identity.0[..], b"bare"].concat());
        let serves = basis.chosen.iter().find(|loaded| {
            loaded.answers.contains(&Policy::Access)
                && *loaded.source.stem == **stem
                && &*loaded.source.settings != "{}"
        });
        let was = trigger != Trigger::Reload && basis.judged.get(stem) == Some(&refused);
        if serves.is_none() && !was {
            continue;
        }
        let message =
            format!("the settings of {stem} were in force and are gone; put them back, or an empty file for none");
        let file = serves.map_or_else(|| format!("{stem}.wasm"), |loaded| loaded.source.file.to_string());
        version.identity = refused;
        version.source = Err(Refusal::new(RefusalCode::SettingsMissing, &file, message));
    }
}

/// A component that answers access and goes missing while its settings stay: the embedded default with those settings
/// may allow what the component denied. It stays out, under an identity of its own, until somebody says so.
fn insist_on_component(basis: &Basis, look: &mut Look) {
    for (stem, version) in &mut look.versions {
        let Some(alone) = version.source.as_ref().ok().filter(|source| is_settings(source)) else { continue };
        let file = alone.file.to_string();
        let refused = Digest::of(&[&version.identity.0[..], b"alone"].concat());
        let serves = basis.chosen.iter().any(|loaded| {
            let of_its_own = !is_settings(&loaded.source) && !embedded::is(&loaded.source.digest);
            of_its_own && loaded.answers.contains(&Policy::Access) && *loaded.source.stem == **stem
        });
        if !serves && basis.judged.get(stem) != Some(&refused) {
            continue;
        }
        let message = format!(
            "{stem}.wasm answered access and is gone, and {file} alone would bring the embedded default: put it back, \
             remove {file} too (access is then denied), or say that it is meant so with `tidegate policy reload`"
        );
        version.identity = refused;
        version.source = Err(Refusal::new(RefusalCode::ComponentMissing, &file, message));
    }
}

/// Settings alone, which are for the embedded default of their name.
fn is_settings(source: &PolicySource) -> bool {
    [".toml", ".json"].iter().any(|ending| source.file.ends_with(ending))
}
