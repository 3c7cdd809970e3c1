//! What nodes may be called: ids, kinds, versions, capabilities, checked before anything is asked or stored.
//! Knows forms only; which version is newer is not its business.

use crate::{
    error::{Code, Error, Result},
    ids::{NodeId, SessionId},
};
use std::{fmt, sync::Arc};

const KIND_MAX: usize = 64;
const CAPABILITIES_MAX: usize = 64;
const CAPABILITY_MAX: usize = 64;

/// MAJOR.MINOR, well formed. It has no order here: the version-floor policy compares, nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    major: u32,
    minor: u32,
}

// === impl Version ===

impl Version {
    /// Two plain decimal numbers without sign, space or leading zero (N-03).
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).ok_or_else(|| {
            Error::new(Code::VersionMalformed, "a version is MAJOR.MINOR, two plain numbers such as 1.10")
                .with("field", "version")
        })
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
            if plain { text.parse().ok() } else { None }
        };
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn invalid(field: &'static str, words: String) -> Error {
    Error::new(Code::RequestInvalid, words).with("field", field)
}

pub(super) fn node(text: &str) -> Result<NodeId> {
    NodeId::parse(text).ok_or_else(|| invalid("node_id", "a node's id is 1 to 128 of A-Z a-z 0-9 . _ : -".to_owned()))
}

pub(super) fn session(text: &str) -> Result<SessionId> {
    SessionId::parse(text)
        .ok_or_else(|| invalid("session_id", "a session's id is `session-` and 32 hexadecimal digits".to_owned()))
}

pub(super) fn both(node_id: &str, session_id: &str) -> Result<(NodeId, SessionId)> {
    Ok((node(node_id)?, session(session_id)?))
}

pub(super) fn kind(text: &str) -> Result<&str> {
    let good = (1..=KIND_MAX).contains(&text.len()) && NodeId::parse(text).is_some();
    if good { Ok(text) } else { Err(invalid("kind", format!("a kind is 1 to {KIND_MAX} of A-Z a-z 0-9 . _ : -"))) }
}

/// Sorted, without repetition.
pub(super) fn capabilities(mut list: Vec<String>) -> Result<Arc<[String]>> {
    let plain = |text: &String| {
        !text.is_empty() && text.chars().count() <= CAPABILITY_MAX && !text.chars().any(char::is_control)
    };
    if list.len() > CAPABILITIES_MAX || !list.iter().all(plain) {
        let words =
            format!("at most {CAPABILITIES_MAX} capabilities, each 1 to {CAPABILITY_MAX} characters without controls");
        return Err(invalid("capabilities", words));
    }
    list.sort();
    list.dedup();
    Ok(list.into())
}
