//! Certificates to try TLS with: an authority, a server and a client, made in memory. Knows no folder. Invariant: the
//! authority can sign for nothing beneath it, and each leaf is for one side only.

use crate::error::{Code, Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use std::time::{Duration, SystemTime};

/// Of the authority and its leaves: long enough for a project, short enough not to be forgotten in a plant. Guessed.
const DAYS: u64 = 365;
/// A clock may be behind.
const BEFORE: Duration = Duration::from_secs(3600);

/// Whom they are for.
#[derive(Clone, Debug)]
pub struct DevRequest {
    /// Names and addresses of the server.
    pub names: Vec<String>,
    /// The common name of the client.
    pub client: String,
}

/// Certificates and keys, PEM.
pub struct DevFiles {
    pub ca: String,
    pub ca_key: String,
    pub server: String,
    pub server_key: String,
    pub client: String,
    pub client_key: String,
}

// === impl DevFiles ===

impl DevFiles {
    pub fn make(request: &DevRequest) -> Result<Self> {
        made(request).map_err(|error| Error::new(Code::RequestInvalid, format!("no certificate can be made: {error}")))
    }
}

impl std::fmt::Debug for DevFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DevFiles").finish_non_exhaustive()
    }
}

fn made(request: &DevRequest) -> std::result::Result<DevFiles, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut params = params(Vec::new(), "Tidegate development CA")?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = params.self_signed(&ca_key)?;
    let issuer = Issuer::from_params(&params, &ca_key);
    let leaf = |names: Vec<String>, name: &str, usage: ExtendedKeyUsagePurpose| {
        let key = KeyPair::generate()?;
        let mut params = self::params(names, name)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        Ok::<_, rcgen::Error>((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let (server, server_key) =
        leaf(request.names.clone(), "Tidegate development server", ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client, client_key) = leaf(Vec::new(), &request.client, ExtendedKeyUsagePurpose::ClientAuth)?;
    Ok(DevFiles { ca: ca.pem(), ca_key: ca_key.serialize_pem(), server, server_key, client, client_key })
}

fn params(names: Vec<String>, name: &str) -> std::result::Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + Duration::from_secs(DAYS * 86_400)).into();
    Ok(params)
}
