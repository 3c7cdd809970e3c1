//! Who calls: a key that was checked, the address it came from and the certificate it showed, and how policies see
//! them. Invariant: what a certificate says can be told from the scopes of the key, and grants none of them.

use crate::{keys::Key, tls::Certificate};
use std::{net::IpAddr, sync::Arc};
use tidegate_policy::Principal;

/// A key that was checked, and where from.
#[derive(Clone, Debug)]
pub struct Caller {
    pub key: Arc<Key>,
    pub peer: Option<IpAddr>,
    /// The client's own, where TLS asks for one; empty otherwise.
    pub certificate: Certificate,
}

// === impl Caller ===

impl Caller {
    pub fn principal(&self) -> Principal {
        let key = &self.key;
        let peer = self.peer.map(|ip| ip.to_string()).unwrap_or_default();
        let mut scopes = key.scope_texts();
        // All begin with `cert:`, and no scope does.
        scopes.extend_from_slice(self.certificate.names());
        Principal::new(key.id.as_str(), scopes, key.read.to_vec(), key.write.to_vec(), peer)
    }
}
