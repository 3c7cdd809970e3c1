//! From files to what a handshake needs. Knows modes, PEM and what belongs together; not when to read. Invariant: a
//! private key that others can read is never used, and no file's content is in an error.

use super::certificate;
use crate::{
    config::{ClientAuth, TlsSettings, TlsVersion},
    error::{Code, Error, Result},
};
use rustls::{
    RootCertStore, ServerConfig,
    server::WebPkiClientVerifier,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use std::{
    fs::OpenOptions,
    io::Read as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    sync::Arc,
};

/// Of a file; a chain has a few KiB, a bundle of authorities a few hundred.
const BYTES_MAX: u64 = 1 << 20;

/// Of the files' contents, to see a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest([u8; 32]);

/// The files as they were at one moment.
pub(super) struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
    pub(super) digest: Digest,
}

/// A pair that is whole, for both listeners.
pub(super) struct Loaded {
    pub(super) grpc: Arc<ServerConfig>,
    pub(super) http: Arc<ServerConfig>,
    /// Unix seconds from which and until which every certificate of the chain is valid.
    pub(super) not_before: i64,
    pub(super) not_after: i64,
    pub(super) digest: Digest,
}

// === impl Digest ===

impl Digest {
    pub(super) fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

// === impl Loaded ===

impl Loaded {
    /// Why clients would turn away from it at this moment, in Unix seconds; none: they would not for its dates.
    pub(super) fn out_of_time(&self, now: i64) -> Option<&'static str> {
        if now < self.not_before {
            Some("the certificate is not valid yet; clients turn away from it. Is the clock right?")
        } else if now > self.not_after {
            Some("the certificate has expired; clients turn away from it")
        } else {
            None
        }
    }
}

/// Reads all files.
pub(super) fn read(settings: &TlsSettings) -> Result<Contents> {
    let certificate = one(&settings.certificate, false)?;
    let key = one(&settings.key, true)?;
    let client_ca = settings.client_ca.as_deref().map(|path| one(path, false)).transpose()?.unwrap_or_default();
    let digest = Digest::of(&[&certificate, &key, &client_ca]);
    Ok(Contents { certificate, key, client_ca, digest })
}

/// Checks that they belong together.
pub(super) fn load(settings: &TlsSettings, read: &Contents) -> Result<Loaded> {
    let at = &settings.certificate;
    let chain: Vec<CertificateDer<'static>> = certificates(at, &read.certificate)?;
    let (mut not_before, mut not_after) = (i64::MIN, i64::MAX);
    for one in &chain {
        let (from, until) =
            certificate::validity(one).ok_or_else(|| wrong(at, "holds a certificate that cannot be read"))?;
        (not_before, not_after) = (not_before.max(from), not_after.min(until));
    }
    let key = PrivateKeyDer::from_pem_slice(&read.key)
        .map_err(|_| wrong(&settings.key, "holds no private key in PEM (PKCS#8, PKCS#1 or SEC1, unencrypted)"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions: &[_] = match settings.version_min {
        TlsVersion::Tls12 => &[&TLS13, &TLS12],
        TlsVersion::Tls13 => &[&TLS13],
    };
    let unusable = |error: rustls::Error| Error::new(Code::TlsUnusable, format!("TLS cannot be set up: {error}"));
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions).map_err(unusable)?;
    let builder = match (&settings.client_ca, settings.client_auth) {
        (Some(path), auth @ (ClientAuth::Optional | ClientAuth::Required)) => {
            let mut roots = RootCertStore::empty();
            for one in certificates(path, &read.client_ca)? {
                roots.add(one).map_err(|_| wrong(path, "holds a certificate that is no authority"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if auth == ClientAuth::Optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|error| wrong(path, &format!("cannot be used: {error}")))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut grpc = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => wrong(at, "and the key do not belong together"),
        other => wrong(at, &format!("cannot be used: {other}")),
    })?;
    let mut http = grpc.clone();
    grpc.alpn_protocols = vec![b"h2".to_vec()];
    http.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Loaded { grpc: Arc::new(grpc), http: Arc::new(http), not_before, not_after, digest: read.digest })
}

pub(super) fn one(path: &Path, private: bool) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| wrong(path, &format!("cannot be read: {error}"));
    // A pipe opens at once, and is seen to be one.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(wrong(path, "is no file"));
    }
    let mode = about.permissions().mode() & 0o777;
    if private && mode & 0o077 != 0 {
        return Err(wrong(path, &format!("can be used by group or others (mode {mode:04o}); chmod 600 it")));
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(wrong(path, "is larger than 1 MiB"));
    }
    Ok(bytes)
}

pub(super) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| wrong(path, "is damaged: not PEM throughout"))?;
    if all.is_empty() { Err(wrong(path, "holds no certificate in PEM")) } else { Ok(all) }
}

pub(super) fn wrong(path: &Path, why: &str) -> Error {
    Error::new(Code::TlsUnusable, format!("{} {why}", path.display())).with("path", path.display())
}
