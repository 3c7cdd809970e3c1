//! Who calls: a key that was checked, the address it came from and the certificate it showed, and how policies see
//! them. Invariant: what a certificate says stands apart from the scopes of the key, and grants none of them.

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
        let certificate = self.certificate.names().to_vec();
        Principal::certified(
            key.id.as_str(),
            key.scope_texts(),
            key.read.to_vec(),
            key.write.to_vec(),
            peer,
            certificate,
        )
    }
}
