//! Identifiers as types of their own, so that a key is never taken for a session. They know how to
//! be made, read and shown; nothing else.

use std::{fmt, sync::Arc};

/// How the text of an API key begins; also what the log's redaction looks for.
pub const KEY_PREFIX: &str = "tg_";

/// `session-` and 32 lower-case hexadecimal digits (S-01).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

/// The public half of an API key: `k` and 16 hexadecimal digits. Not a secret; logs may name it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(Arc<str>);

/// What a runtime node calls itself: 1 to 128 of `A-Z a-z 0-9 . _ : -`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

// === impl SessionId ===

impl SessionId {
    /// A new random id.
    pub fn mint() -> Self {
        Self(format!("session-{}", hex(&random::<16>())).into())
    }

    /// Reads an id from a request; `None` when it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("session-")?;
        (digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl KeyId ===

impl KeyId {
    /// A new random id.
    pub fn mint() -> Self {
        Self(format!("k{}", hex(&random::<8>())).into())
    }

    /// Reads an id; `None` when it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix('k')?;
        (digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
            .then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// === impl NodeId ===

impl NodeId {
    /// Reads an id from a request; `None` when it cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b);
        ((1..=128).contains(&text.len()) && text.bytes().all(plain)).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! shown {
    ($($id:ty),*) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    )*};
}
shown!(SessionId, KeyId, NodeId);

/// Bytes from the operating system's generator. Without one nothing here is safe, so its failure ends the process.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_parse_and_others_do_not() {
        let id = SessionId::mint();
        assert_eq!(SessionId::parse(id.as_str()), Some(id));
        for wrong in ["", "session-", "session-XYZ", "session-0123456789abcdef0123456789ABCDEF"] {
            assert_eq!(SessionId::parse(wrong), None, "{wrong}");
        }
        assert_eq!(KeyId::parse("k0123456789abcdef").map(|k| k.to_string()), Some("k0123456789abcdef".into()));
        assert_eq!(KeyId::parse("0123456789abcdef"), None);
    }
}
