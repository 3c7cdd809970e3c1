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
    defaults().iter().map(|(name, of)| PolicySource::of_digest(name, name, true, of.clone(), "{}"))
}

/// Is it one of them?
pub(crate) fn is(digest: &Digest) -> bool {
    defaults().iter().any(|(_, (_, of))| of == digest)
}

/// Each with its digest.
fn defaults() -> &'static [(&'static str, (Arc<[u8]>, Digest))] {
    static LOADED: OnceLock<Vec<(&str, (Arc<[u8]>, Digest))>> = OnceLock::new();
    let load = |(name, bytes): (&'static str, &[u8])| (name, (Arc::from(bytes), Digest::of(bytes)));
    LOADED.get_or_init(|| DEFAULTS.into_iter().map(load).collect())
}

/// A default with the settings that lie in the folder without a component.
pub(crate) fn configured(stem: &str, file: &str, settings: &str) -> Option<PolicySource> {
    let (name, component) = defaults().iter().find(|(name, _)| *name == stem)?;
    Some(PolicySource::of_digest(name, file, false, component.clone(), settings))
}
