//! What a client's certificate says of its bearer, as texts that policies can match. Knows X.509, no policy.
//! Invariant: the texts are bounded in number and length and hold no control characters.

use rustls_pki_types::CertificateDer;
use std::{fmt, net::IpAddr, sync::Arc};
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// Names of one certificate; what is more is left out. Guessed: real ones have a handful.
const NAMES_MAX: usize = 32;
/// Bytes of a name; longer ones are left out, because a cut one could be somebody else's.
const NAME_BYTES_MAX: usize = 256;

/// The names in a client's certificate that an authority of ours signed: `CN=…`, `O=…`, `OU=…`, `dns=…`, `uri=…`,
/// `email=…`, `ip=…`; sorted. Empty: it showed none.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Certificate(Arc<[String]>);

// === impl Certificate ===

impl Certificate {
    /// Of a certificate that the handshake has verified.
    pub(super) fn read(der: &CertificateDer<'_>) -> Self {
        let Ok((_, certificate)) = parse_x509_certificate(der) else { return Self::default() };
        let mut names: Vec<String> = Vec::new();
        let mut put = |kind: &str, text: &str| {
            let usable = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control);
            if usable && names.len() < NAMES_MAX {
                names.push(format!("{kind}={text}"));
            }
        };
        let subject = certificate.subject();
        for (kind, attributes) in [
            ("CN", subject.iter_common_name().collect::<Vec<_>>()),
            ("O", subject.iter_organization().collect()),
            ("OU", subject.iter_organizational_unit().collect()),
        ] {
            attributes.iter().filter_map(|attribute| attribute.as_str().ok()).for_each(|text| put(kind, text));
        }
        let others = certificate.subject_alternative_name().ok().flatten();
        for name in others.iter().flat_map(|extension| &extension.value.general_names) {
            match name {
                GeneralName::DNSName(text) => put("dns", text),
                GeneralName::URI(text) => put("uri", text),
                GeneralName::RFC822Name(text) => put("email", text),
                GeneralName::IPAddress(bytes) => {
                    if let Some(ip) = address(bytes) {
                        put("ip", &ip.to_string());
                    }
                }
                _ => {}
            }
        }
        names.sort();
        names.dedup();
        Self(names.into())
    }

    pub fn names(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter()).finish()
    }
}

/// From when until when, in Unix seconds.
pub(super) fn validity(der: &CertificateDer<'_>) -> Option<(i64, i64)> {
    let (_, certificate) = parse_x509_certificate(der).ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}
