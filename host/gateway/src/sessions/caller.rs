//! Who calls: a key that was checked and the address it came from, and how policies see the two.

use crate::keys::Key;
use std::{net::IpAddr, sync::Arc};
use tidegate_policy::Principal;

/// A key that was checked, and where from.
#[derive(Clone, Debug)]
pub struct Caller {
    pub key: Arc<Key>,
    pub peer: Option<IpAddr>,
}

// === impl Caller ===

impl Caller {
    pub fn principal(&self) -> Principal {
        let key = &self.key;
        let peer = self.peer.map(|ip| ip.to_string()).unwrap_or_default();
        Principal::new(key.id.as_str(), key.scope_texts(), key.read.to_vec(), key.write.to_vec(), peer)
    }
}
