//! What a start is at, and the word to give it up; later the word that the gateway stops. Knows neither the gate nor whoever
//! waits. Invariant: once given up, always given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Held by whoever waits for a start; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Starting(Arc<State>);

#[derive(Debug, Default)]
struct State {
    given_up: AtomicBool,
    compiling: Mutex<Vec<(Arc<str>, Instant)>>,
}

/// That a file is being compiled, until it is dropped.
#[derive(Debug)]
pub(crate) struct Compiling {
    starting: Starting,
    file: Arc<str>,
}

// === impl Starting ===

impl Starting {
    /// Nothing passes the gate and nothing is flipped to any more. What is under way ends soon, and is written nowhere.
    pub fn give_up(&self) {
        self.0.given_up.store(true, Ordering::SeqCst);
    }

    pub fn is_given_up(&self) -> bool {
        self.0.given_up.load(Ordering::SeqCst)
    }

    /// Files that are being compiled now.
    pub fn compiling(&self) -> Vec<String> {
        self.compiling_for(Duration::ZERO)
    }

    /// Of these, what has been for so long.
    pub(crate) fn compiling_for(&self, long: Duration) -> Vec<String> {
        let compiling = self.0.compiling.lock();
        compiling.iter().filter(|(_, since)| since.elapsed() >= long).map(|(file, _)| file.to_string()).collect()
    }

    pub(crate) fn compile(&self, file: &Arc<str>) -> Compiling {
        self.0.compiling.lock().push((Arc::clone(file), Instant::now()));
        Compiling { starting: self.clone(), file: Arc::clone(file) }
    }
}

impl Drop for Compiling {
    fn drop(&mut self) {
        let mut compiling = self.starting.0.compiling.lock();
        if let Some(at) = compiling.iter().position(|(file, _)| *file == self.file) {
            compiling.remove(at);
        }
    }
}
