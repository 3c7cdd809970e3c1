//! The clock of guests: a thread that turns the epochs of engines, as long as a deadline waits for one. With nobody to wait
//! for it sleeps, so that a gateway that decides nothing wakes no processor.
//! Invariant: after `want(ticks)` at least so many epochs pass, whatever the ticker was about to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wasmtime::EngineWeak;

/// One epoch. 5 ms: deadlines of tens of milliseconds stay meant as said.
pub(crate) const TICK: Duration = Duration::from_millis(5);
/// Ticks that are made once one is wanted: waking the ticker costs microseconds, which whoever asks every now and then
/// should not pay each time. One second. Guessed.
const TICKS_MIN: u64 = 200;

/// What the threads of guests share with the ticker.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Ticks still to be made.
    wanted: AtomicU64,
    /// The ticker has found nothing wanted; whoever wants something from now on wakes it.
    asleep: AtomicBool,
    stop: AtomicBool,
    ticker: Mutex<Option<Thread>>,
}

#[derive(Debug)]
pub(crate) struct Ticker {
    pulse: Arc<Pulse>,
    thread: Option<JoinHandle<()>>,
}

// === impl Pulse ===

impl Pulse {
    /// So many epochs pass from now on, at least.
    pub(crate) fn want(&self, ticks: u64) {
        // One may be counted down at once, for an epoch that has passed already.
        let ticks = ticks + 1;
        if self.wanted.load(Ordering::SeqCst) >= ticks {
            return;
        }
        // This, then `asleep`; the ticker writes `asleep` and then reads this: one of the two sees the other.
        self.wanted.fetch_max(ticks.max(TICKS_MIN), Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(ticker) = &*self.ticker.lock() {
            ticker.unpark();
        }
    }

    /// Returns when something is wanted, or at the end.
    fn sleep(&self) {
        self.asleep.store(true, Ordering::SeqCst);
        while self.wanted.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::SeqCst) {
            std::thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// A late tick is skipped, not caught up: on a loaded machine several at once would end guests that
    /// have not had their time.
    fn tick(&self, engines: &[EngineWeak]) {
        *self.ticker.lock() = Some(std::thread::current());
        while !self.stop.load(Ordering::SeqCst) {
            if self.wanted.load(Ordering::SeqCst) == 0 {
                self.sleep();
            }
            let next = Instant::now() + TICK;
            while let Some(left) = next.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                if self.stop.load(Ordering::SeqCst) {
                    return;
                }
                std::thread::park_timeout(left);
            }
            for engine in engines.iter().filter_map(EngineWeak::upgrade) {
                engine.increment_epoch();
            }
            // Nobody else takes from it.
            self.wanted.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

// === impl Ticker ===

impl Ticker {
    pub(crate) fn start(engines: Vec<EngineWeak>) -> Self {
        let pulse = Arc::new(Pulse::default());
        let thread = std::thread::Builder::new().name("policy-ticker".into()).spawn({
            let pulse = Arc::clone(&pulse);
            move || pulse.tick(&engines)
        });
        // Without the ticker no deadline would pass; a process that cannot start a thread cannot serve.
        Self { pulse, thread: Some(thread.expect("starting the ticker's thread")) }
    }

    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.pulse.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eventually(what: &str, is: impl Fn() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !is() {
            assert!(Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    // shows: X-08
    #[test]
    fn the_ticker_sleeps_when_nothing_runs_and_is_there_when_something_does() {
        let ticker = Ticker::start(Vec::new());
        let pulse = ticker.pulse();
        let asleep = || pulse.asleep.load(Ordering::SeqCst) && pulse.wanted.load(Ordering::SeqCst) == 0;
        eventually("it does not go to sleep at the start", asleep);
        for _ in 0..2 {
            pulse.want(1);
            eventually("it is not woken", || !pulse.asleep.load(Ordering::SeqCst));
            // The last of it only: a second each time would be waited for nothing.
            pulse.wanted.store(3, Ordering::SeqCst);
            eventually("it does not go to sleep again", asleep);
        }
    }
}
