//! The last line of defence of the log: a text that looks like a key loses its secret half, whoever
//! put it there. It knows the shape of a key and nothing else. Invariant: costs one search per line.

use crate::ids::KEY_PREFIX;
use std::{
    borrow::Cow,
    io::{self, Write},
};

/// `_` and 64 digits behind the id, less than which is still redacted when it follows the prefix.
const SHOWN: usize = "k0123456789abcdef".len();

/// A writer that redacts what passes. One `write` is one line of the log: the formatter writes them whole.
#[derive(Debug)]
pub(super) struct Redacted<W>(pub(super) W);

impl<W: Write> Write for Redacted<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.write_all(&redact(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Puts `…` in the place of each key's secret half; the id stays, it is no secret.
pub(super) fn redact(line: &[u8]) -> Cow<'_, [u8]> {
    let prefix = KEY_PREFIX.as_bytes();
    let Some(first) = find(line, prefix) else { return Cow::Borrowed(line) };
    let mut out = Vec::with_capacity(line.len());
    let (mut rest, mut at) = (line, first);
    loop {
        let key = &rest[at + prefix.len()..];
        let length = key.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
        let shown = length.min(SHOWN);
        out.extend_from_slice(&rest[..at + prefix.len() + shown]);
        if length > shown {
            out.extend_from_slice("…".as_bytes());
        }
        rest = &key[length..];
        match find(rest, prefix) {
            Some(next) => at = next,
            None => break,
        }
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
