//! Who vouches for a policy: signatures in minisign's format beside component or settings, and the keys an
//! operator trusts. Knows bytes and texts, neither folder nor gate. Invariant: a signature that holds is about one
//! component with one set of settings; it moves neither to other settings nor to another component.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ct_codecs::{Base64, Decoder as _};
use minisign_verify::{PublicKey, Signature};
use serde::{Deserialize, Serialize};

use crate::folder::writable_by_others;
use crate::model::Digest;

/// A signature file, and what it was made over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seal {
    /// The file's text, four lines.
    pub(crate) text: String,
    /// `None`: the component's file. Otherwise the settings' file, as it was written, of an embedded component.
    pub(crate) settings_file: Option<String>,
}

/// The keys whose signatures count, by the names of their files.
#[derive(Clone, Debug, Default)]
pub struct TrustedKeys(Vec<(Arc<str>, PublicKey)>);

/// Why a signature does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    #[error("the signature is of no key that is trusted here")]
    UnknownSigner,
    #[error("the signature cannot be read: it is not minisign's format")]
    Malformed,
    #[error("the signature is of minisign's older kind, over the file itself (`-l`); sign with `-H`, over its hash")]
    Legacy,
    #[error("the signature is not of these bytes")]
    OtherBytes,
    #[error("the signature says nothing about settings: its trusted comment must be `tidegate settings=sha256:…`")]
    NoStatement,
    #[error("the signature is for other settings: it names {signed}, these are {found}")]
    OtherSettings { signed: String, found: String },
    #[error("the signature is for another component: it names {signed}, this is {found}")]
    OtherComponent { signed: String, found: String },
    #[error("no embedded policy has this name, and settings alone are signed for one")]
    NoSuchPolicy,
}

/// Why keys cannot be used, or nothing was signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct KeyError {
    pub path: PathBuf,
    pub why: String,
}

/// First word of a trusted comment that is meant for Tidegate.
const WORD: &str = "tidegate";
/// A signature file has four short lines.
pub(crate) const SEAL_BYTES_MAX: u64 = 4096;
/// A secret key, and in it what says how it is locked, and its checksum (minisign, "Secret key format").
const SECRET_BYTES: usize = 158;
const KDF: std::ops::Range<usize> = 2..4;
const CHECKSUM_BYTES: usize = 32;
/// Guessed: more is not a set of people.
const KEYS_MAX: usize = 64;

// === impl TrustedKeys ===

impl TrustedKeys {
    /// A public key file, or a folder of `*.pub`. None of it may be writable by others.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let wrong = |path: &Path, why: String| KeyError { path: path.to_owned(), why };
        let metadata = fs::metadata(path).map_err(|e| wrong(path, e.to_string()))?;
        let mut files = Vec::new();
        if metadata.is_dir() {
            if writable_by_others(&metadata) {
                return Err(wrong(path, "group or others may write the folder".into()));
            }
            for entry in fs::read_dir(path).map_err(|e| wrong(path, e.to_string()))? {
                let found = entry.map_err(|e| wrong(path, e.to_string()))?.path();
                if found.extension().is_some_and(|ending| ending == "pub") {
                    files.push(found);
                }
                if files.len() > KEYS_MAX {
                    return Err(wrong(path, format!("there are more than {KEYS_MAX} keys")));
                }
            }
            files.sort();
        } else {
            files.push(path.to_owned());
        }
        let mut keys = Vec::new();
        for file in files {
            let metadata = fs::metadata(&file).map_err(|e| wrong(&file, e.to_string()))?;
            if !metadata.is_file() || metadata.len() > SEAL_BYTES_MAX {
                return Err(wrong(&file, "it is not a public key".into()));
            }
            if writable_by_others(&metadata) {
                return Err(wrong(&file, "group or others may write it".into()));
            }
            let text = fs::read_to_string(&file).map_err(|e| wrong(&file, e.to_string()))?;
            let name = file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            keys.push((
                Arc::from(name),
                public_key(&text).ok_or_else(|| wrong(&file, "it is not a public key".into()))?,
            ));
        }
        Ok(Self(keys))
    }

    /// One key by its text, for tools.
    pub fn one(name: &str, text: &str) -> Option<Self> {
        Some(Self(vec![(name.into(), public_key(text)?)]))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who signed this component with these settings (`{}`: none; JSON as [`settings_json`] makes it).
    pub fn verify(&self, component: &[u8], settings: &str, signature: &str) -> Result<Arc<str>, SignatureFault> {
        let seal = Seal { text: signature.to_owned(), settings_file: None };
        self.check(&seal, component, settings)
    }

    /// Who signed this settings file (as it was written) for the embedded policy of that name.
    pub fn verify_settings(&self, name: &str, file: &str, signature: &str) -> Result<Arc<str>, SignatureFault> {
        let embedded = crate::embedded::configured(name, name, "{}").ok_or(SignatureFault::NoSuchPolicy)?;
        let seal = Seal { text: signature.to_owned(), settings_file: Some(file.to_owned()) };
        self.check(&seal, &embedded.bytes, "{}")
    }

    pub(crate) fn check(&self, seal: &Seal, component: &[u8], settings: &str) -> Result<Arc<str>, SignatureFault> {
        let signature = Signature::decode(&seal.text).map_err(|_| SignatureFault::Malformed)?;
        let over = seal.settings_file.as_ref().map_or(component, |text| text.as_bytes());
        let mut known = None;
        for (name, key) in &self.0 {
            match key.verify(over, &signature, false) {
                Ok(()) => {
                    known = Some(name);
                    break;
                }
                Err(minisign_verify::Error::UnexpectedKeyId) => {}
                Err(minisign_verify::Error::UnexpectedAlgorithm) => return Err(SignatureFault::Legacy),
                Err(minisign_verify::Error::InvalidSignature) => return Err(SignatureFault::OtherBytes),
                Err(_) => return Err(SignatureFault::Malformed),
            }
        }
        let name = known.ok_or(SignatureFault::UnknownSigner)?;
        let mut words = signature.trusted_comment().split_whitespace();
        if words.next() != Some(WORD) {
            return Err(SignatureFault::NoStatement);
        }
        let named = |what: &str| words.clone().find_map(|word| word.strip_prefix(what)).map(str::to_owned);
        match &seal.settings_file {
            None => {
                let signed = named("settings=sha256:").ok_or(SignatureFault::NoStatement)?;
                let found = Digest::of(settings.as_bytes()).to_hex();
                if signed != found {
                    Err(SignatureFault::OtherSettings { signed, found })
                } else {
                    Ok(Arc::clone(name))
                }
            }
            Some(_) => {
                let signed = named("component=sha256:").ok_or(SignatureFault::NoStatement)?;
                let found = Digest::of(component).to_hex();
                if signed != found {
                    Err(SignatureFault::OtherComponent { signed, found })
                } else {
                    Ok(Arc::clone(name))
                }
            }
        }
    }
}

/// The trusted comment of a component's signature: which settings (JSON as [`settings_json`] makes it, `{}` for
/// none) it may decide with.
pub fn statement(settings: &str) -> String {
    format!("{WORD} settings=sha256:{}", Digest::of(settings.as_bytes()))
}

/// The trusted comment of the signature of a settings file for an embedded component of this digest.
pub fn settings_statement(component: &Digest) -> String {
    format!("{WORD} component=sha256:{component}")
}

/// Signs a component with its settings; the text of `NAME.wasm.minisig`. `secret` is the text of minisign's secret
/// key file; without a password it must be one made without.
pub fn sign(secret: &str, password: Option<String>, component: &[u8], settings: &str) -> Result<String, KeyError> {
    signed(secret, password, component, &statement(settings))
}

/// Signs a settings file for the embedded component of that name; the text of `NAME.toml.minisig`. None of the
/// embedded ones is called so: an error.
pub fn sign_settings(secret: &str, password: Option<String>, name: &str, file: &str) -> Result<String, KeyError> {
    let unknown = || KeyError { path: name.into(), why: "no embedded policy has this name".to_owned() };
    let embedded = crate::embedded::configured(name, name, "{}").ok_or_else(unknown)?;
    signed(secret, password, file.as_bytes(), &settings_statement(&embedded.digest))
}

/// A new pair of keys, public and secret, as the texts of minisign's key files. Without a password the secret key
/// lies open in its file.
pub fn new_keys(password: Option<String>) -> Result<(String, String), KeyError> {
    let failed = |error: minisign::PError| KeyError { path: "key".into(), why: error.to_string() };
    let pair = match password {
        Some(password) => minisign::KeyPair::generate_encrypted_keypair(Some(password)),
        None => minisign::KeyPair::generate_unencrypted_keypair(),
    };
    let pair = pair.map_err(failed)?;
    let secret = pair.sk.to_box(None).map_err(failed)?.into_string();
    Ok((pair.pk.to_box().map_err(failed)?.into_string(), secret))
}

/// Settings as a component is given them, and as their digest is taken: JSON without spaces. `file` says by its
/// ending whether they are TOML or JSON.
pub fn settings_json(file: &str, text: &str) -> Result<String, String> {
    // An empty file says that nothing is set, in either notation.
    let value: serde_json::Value = if text.trim().is_empty() {
        serde_json::json!({})
    } else if file.ends_with(".json") {
        serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?
    } else {
        toml::from_str(text).map_err(|error| format!("not TOML: {}", error.message()))?
    };
    Ok(value.to_string())
}

fn signed(secret: &str, password: Option<String>, bytes: &[u8], statement: &str) -> Result<String, KeyError> {
    let failed = |error: minisign::PError| KeyError { path: "key".into(), why: error.to_string() };
    let boxed = minisign::SecretKeyBox::from_string(secret).map_err(failed)?;
    let given = password.is_some();
    let key = match password {
        Some(password) => boxed.into_secret_key(Some(password)),
        None => match unchecked(secret) {
            Some(key) => Ok(key),
            None => boxed.into_unencrypted_secret_key(),
        },
    };
    let key = key.map_err(|error| {
        let hint = if given { "is it the right password?" } else { "if it has a password, give --password-file" };
        KeyError { path: "key".into(), why: format!("the secret key cannot be opened ({error}); {hint}") }
    });
    let made = minisign::sign(None, &key?, bytes, Some(statement), Some("signature of a Tidegate policy"));
    Ok(made.map_err(failed)?.into_string())
}

/// A key as `minisign -G -W` makes it: without a password, and where others have a checksum it has zeros.
fn unchecked(secret: &str) -> Option<minisign::SecretKey> {
    let bytes = Base64::decode_to_vec(secret.lines().nth(1)?.trim(), None).ok()?;
    let plain =
        bytes.len() == SECRET_BYTES && bytes[KDF] == [0; 2] && bytes[SECRET_BYTES - CHECKSUM_BYTES..] == [0; 32];
    plain.then(|| minisign::SecretKey::from_bytes(&bytes).ok())?
}

/// Two lines as in minisign's file, or the second alone.
fn public_key(text: &str) -> Option<PublicKey> {
    PublicKey::decode(text).or_else(|_| PublicKey::from_base64(text.trim())).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ct_codecs::Encoder as _;

    // shows: X-05
    #[test]
    fn a_signature_covers_component_and_settings() {
        let (public, secret) = new_keys(None).expect("keys");
        let (other, _) = new_keys(None).expect("keys");
        let keys = TrustedKeys::one("anna", &public).expect("a key");
        let settings = settings_json("a.toml", "deny = [\"A.*\"]").expect("settings");
        assert_eq!(settings, settings_json("a.json", "{ \"deny\": [\"A.*\"] }").expect("settings"));
        let text = sign(&secret, None, b"component", &settings).expect("signed");
        assert_eq!(keys.verify(b"component", &settings, &text).as_deref(), Ok("anna"));
        assert_eq!(keys.verify(b"Component", &settings, &text), Err(SignatureFault::OtherBytes));
        assert!(matches!(keys.verify(b"component", "{}", &text), Err(SignatureFault::OtherSettings { .. })));
        let stranger = TrustedKeys::one("else", &other).expect("a key");
        assert_eq!(stranger.verify(b"component", &settings, &text), Err(SignatureFault::UnknownSigner));
        assert_eq!(keys.verify(b"component", &settings, "no signature"), Err(SignatureFault::Malformed));
        // `Ed` in place of `ED` says that the file itself was signed.
        let (first, rest) = text.split_once("\nRU").expect("a signature over a hash");
        let legacy =
            keys.verify(b"component", &settings, &format!("{first}\nRW{rest}")).expect_err("of the older kind");
        assert!(legacy == SignatureFault::Legacy && legacy.to_string().contains("-H"), "{legacy}");
        // The comment is signed, too.
        let forged = text.replace(&Digest::of(settings.as_bytes()).to_hex(), &Digest::of(b"{}").to_hex());
        assert_eq!(keys.verify(b"component", "{}", &forged), Err(SignatureFault::OtherBytes));
        let plain = signed(&secret, None, b"component", "timestamp:1").expect("signed");
        assert_eq!(keys.verify(b"component", "{}", &plain), Err(SignatureFault::NoStatement));
    }

    // shows
    #[test]
    fn settings_are_verified_as_they_are_signed() {
        let (public, secret) = new_keys(None).expect("keys");
        let keys = TrustedKeys::one("anna", &public).expect("a key");
        let text = "deny = [\"A.*\"]\n";
        let signature = sign_settings(&secret, None, "access", text).expect("signed");
        assert_eq!(keys.verify_settings("access", text, &signature).as_deref(), Ok("anna"));
        assert_eq!(keys.verify_settings("access", "deny = []", &signature), Err(SignatureFault::OtherBytes));
        let other = keys.verify_settings("rate-limit", text, &signature);
        assert!(matches!(other, Err(SignatureFault::OtherComponent { .. })), "{other:?}");
        assert_eq!(keys.verify_settings("mine", text, &signature), Err(SignatureFault::NoSuchPolicy));
        let (_, locked) = new_keys(Some("secret".into())).expect("keys");
        let error = sign(&locked, None, b"bytes", "{}").expect_err("it has a password").to_string();
        assert!(error.contains("--password-file"), "{error}");
    }

    // shows: X-05
    #[test]
    fn a_password_opens_the_secret_key_and_minisign_itself_reads_what_is_made() {
        let (public, secret) = new_keys(None).expect("keys");
        let text = sign(&secret, None, b"bytes", "{}").expect("signed");
        let key = minisign::PublicKeyBox::from_string(&public).and_then(|key| key.into_public_key()).expect("a key");
        let signature = minisign::SignatureBox::from_string(&text).expect("a signature");
        let read = std::io::Cursor::new(b"bytes");
        minisign::verify(&key, &signature, read, true, false, false).expect("minisign agrees");
        assert_eq!(signature.trusted_comment().expect("a comment"), statement("{}"));
        assert!(sign("nonsense", None, b"bytes", "{}").is_err());
    }

    // shows: X-05
    #[test]
    fn a_key_without_a_password_as_minisign_makes_it_signs() {
        let (public, secret) = new_keys(None).expect("keys");
        let (comment, key) = secret.trim_end().split_once('\n').expect("two lines");
        let mut bytes = Base64::decode_to_vec(key, None).expect("base64");
        let of = |bytes: &[u8]| format!("{comment}\n{}\n", Base64::encode_to_string(bytes).expect("base64"));
        bytes[SECRET_BYTES - CHECKSUM_BYTES..].fill(0);
        let text = sign(&of(&bytes), None, b"bytes", "{}").expect("signed");
        let keys = TrustedKeys::one("anna", &public).expect("a key");
        assert_eq!(keys.verify(b"bytes", "{}", &text).as_deref(), Ok("anna"));
        bytes[SECRET_BYTES - 1] = 1;
        let wrong = sign(&of(&bytes), None, b"bytes", "{}").expect_err("a checksum that is there has to be right");
        assert!(wrong.to_string().contains("Corrupted key"), "{wrong}");
    }
}
