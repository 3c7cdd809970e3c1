//! TLS towards a server that the gateway asks: which authorities it believes. Knows a file, not who is asked. Invariant:
//! a certificate is always checked, with its name.

use super::files;
use crate::error::{Code, Error, Result};
use rustls::{ClientConfig, RootCertStore};
use std::{fmt, path::Path, sync::Arc};

/// How servers are believed; clones share it.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

// === impl ClientTls ===

impl ClientTls {
    /// Believes what the authorities in this file signed, and nothing else.
    pub fn trusting(path: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for one in files::certificates(path, &files::one(path, false)?)? {
            roots.add(one).map_err(|_| files::wrong(path, "holds a certificate that is no authority"))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let unusable = |error: rustls::Error| Error::new(Code::TlsUnusable, format!("TLS cannot be set up: {error}"));
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = builder.map_err(unusable)?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self(Arc::new(config)))
    }

    pub fn config(&self) -> Arc<ClientConfig> {
        self.0.clone()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls(…)")
    }
}
