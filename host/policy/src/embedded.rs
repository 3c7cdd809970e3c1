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

/// A default, and its digest.
struct Embedded {
    name: &'static str,
    bytes: Arc<[u8]>,
    digest: Digest,
}

// === impl Embedded ===

impl Embedded {
    fn source(&self, file: &str, embedded: bool, settings: &str) -> PolicySource {
        PolicySource::of_digest(self.name, file, embedded, (self.bytes.clone(), self.digest), settings)
    }
}

/// The defaults without settings.
pub(crate) fn sources() -> impl Iterator<Item = PolicySource> {
    defaults().iter().map(|of| of.source(of.name, true, "{}"))
}

/// Is it one of them?
pub(crate) fn is(digest: &Digest) -> bool {
    defaults().iter().any(|of| of.digest == *digest)
}

fn defaults() -> &'static [Embedded] {
    static LOADED: OnceLock<Vec<Embedded>> = OnceLock::new();
    let load = |(name, bytes): (_, &[u8])| Embedded { name, bytes: Arc::from(bytes), digest: Digest::of(bytes) };
    LOADED.get_or_init(|| DEFAULTS.into_iter().map(load).collect())
}

/// A default with the settings that lie in the folder without a component.
pub(crate) fn configured(stem: &str, file: &str, settings: &str) -> Option<PolicySource> {
    let of = defaults().iter().find(|of| of.name == stem)?;
    Some(of.source(file, false, settings))
}
