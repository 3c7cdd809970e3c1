//! What guests write to their standard output and error, a few short lines of each call: panics of Rust
//! and tracebacks of Python end up there, and without them an author is blind. Knows neither policies nor
//! wasmtime's stores. Invariant: however much a guest says, memory and log stay bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::instance::clip;

/// Of one call. Guessed: a panic's message and place, or the end of a traceback.
const BYTES_MAX: usize = 2048;
const LINES_MAX: usize = 8;
const LINE_BYTES_MAX: usize = 256;
/// Lines of one component that reach the log in one second.
const LINES_PER_SECOND: u32 = 10;

/// Where a guest's words gather until its call is over; the newest that fit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words(Arc<Mutex<Vec<u8>>>);

/// Lets so many lines of a component through.
#[derive(Debug)]
pub(crate) struct Patience {
    spent: Mutex<(Instant, u32)>,
}

// === impl Words ===

impl Words {
    /// What was said since the last time, in lines fit for a log; empty nearly always.
    pub(crate) fn take(&self) -> Vec<String> {
        let mut said = self.0.lock();
        if said.is_empty() {
            return Vec::new();
        }
        let text = String::from_utf8_lossy(&said).into_owned();
        said.clear();
        drop(said);
        let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
        let newest = lines.len().saturating_sub(LINES_MAX);
        lines[newest..].iter().map(|line| clip(line, LINE_BYTES_MAX)).collect()
    }

    fn add(&self, bytes: &[u8]) {
        let mut said = self.0.lock();
        said.extend_from_slice(&bytes[bytes.len().saturating_sub(BYTES_MAX)..]);
        let surplus = said.len().saturating_sub(BYTES_MAX);
        said.drain(..surplus);
    }
}

impl IsTerminal for Words {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Words {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        // Asked for by later versions of WASI, which are not offered.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Words {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.add(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 << 10)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Words {
    /// There is always room, so nobody ever waits.
    async fn ready(&mut self) {}
}

// === impl Patience ===

impl Patience {
    /// How many of these lines may be told.
    pub(crate) fn grant(&self, lines: usize) -> usize {
        let mut spent = self.spent.lock();
        if spent.0.elapsed() >= Duration::from_secs(1) {
            *spent = (Instant::now(), 0);
        }
        let granted = lines.min((LINES_PER_SECOND - spent.1) as usize);
        spent.1 += granted as u32;
        granted
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self { spent: Mutex::new((Instant::now(), 0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: X-08
    #[test]
    fn much_is_said_and_little_is_kept() {
        let mut words = Words::default();
        for n in 0..1_000 {
            words.write(Bytes::from(format!("line {n} \x1b[31m{}\n", "x".repeat(500)))).expect("room");
        }
        let lines = words.take();
        assert!(lines.len() <= LINES_MAX && lines.iter().all(|line| line.len() <= LINE_BYTES_MAX), "{lines:?}");
        assert!(lines.iter().any(|line| line.starts_with("line 999")) && !lines.concat().contains('\x1b'), "{lines:?}");
        assert_eq!(words.take(), Vec::<String>::new());
        let patience = Patience::default();
        assert_eq!((patience.grant(8), patience.grant(8), patience.grant(8)), (8, 2, 0));
    }
}
