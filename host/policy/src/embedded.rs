//! The default components, built from plugins/ and part of the binary: what decides where an operator
//! set nothing. Invariant: one for each of the five questions; a test loads them all.

use std::sync::{Arc, OnceLock};

use crate::instance::PolicySource;
use crate::model::Digest;

const DEFAULTS: [(&str, &[u8]); 5] = [
    ("access", include_bytes!("../../../plugins/dist/access.wasm")),
    ("backpressure", include_bytes!("../../../plugins/dist/backpressure.wasm")),
    ("version-floor", include_bytes!("../../../plugins/dist/version-floor.wasm")),
    ("dashboard-tags", include_bytes!("../../../plugins/dist/dashboard-tags.wasm")),
    ("rate-limit", include_bytes!("../../../plugins/dist/rate-limit.wasm")),
];

/// The defaults without settings.
pub(crate) fn sources() -> impl Iterator<Item = PolicySource> {
    DEFAULTS.into_iter().map(|(name, bytes)| PolicySource::new(name, name, true, Arc::from(bytes), "{}"))
}

/// Is it one of them?
pub(crate) fn is(digest: &Digest) -> bool {
    static DIGESTS: OnceLock<Vec<Digest>> = OnceLock::new();
    DIGESTS.get_or_init(|| DEFAULTS.iter().map(|(_, bytes)| Digest::of(bytes)).collect()).contains(digest)
}

/// A default with the settings that lie in the folder without a component.
pub(crate) fn configured(stem: &str, file: &str, settings: &str) -> Option<PolicySource> {
    let (name, bytes) = DEFAULTS.into_iter().find(|(name, _)| *name == stem)?;
    Some(PolicySource::new(name, file, false, Arc::from(bytes), settings))
}
