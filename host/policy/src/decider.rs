//! The threads that run guests, and the queue before them. A guest that loops holds one of these threads
//! until its deadline and nothing else. Invariant: the queue is bounded, and every question that entered
//! it is answered exactly once, by the guest or by the failure matrix.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// A question on its way: runs on the thread of that number, told how long it waited.
pub(crate) type Job = Box<dyn FnOnce(usize, Duration) + Send>;

/// Threads and queue.
#[derive(Debug)]
pub(crate) struct Decider {
    queue: Arc<Queue>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    max: usize,
    refused: AtomicU64,
}

struct Waiting {
    jobs: VecDeque<(Instant, Job)>,
    stopped: bool,
}

/// Guests need little of it (their own stack has its own limit); the rest is for lowering and lifting.
const STACK_BYTES: usize = 4 << 20;

// === impl Decider ===

impl Decider {
    pub(crate) fn start(threads: usize, max: usize) -> std::io::Result<Self> {
        let queue = Arc::new(Queue {
            waiting: Mutex::new(Waiting { jobs: VecDeque::with_capacity(max), stopped: false }),
            arrived: Condvar::new(),
            max,
            refused: AtomicU64::new(0),
        });
        let threads = (0..threads)
            .map(|number| {
                let queue = Arc::clone(&queue);
                std::thread::Builder::new()
                    .name(format!("policy-{number}"))
                    .stack_size(STACK_BYTES)
                    .spawn(move || queue.work(number))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { queue, threads: Mutex::new(threads) })
    }

    /// False: the queue is full or closed, and the question was not taken.
    pub(crate) fn submit(&self, job: Job) -> bool {
        let mut waiting = self.queue.waiting.lock();
        if waiting.stopped || waiting.jobs.len() >= self.queue.max {
            drop(waiting);
            self.queue.refused.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        waiting.jobs.push_back((Instant::now(), job));
        drop(waiting);
        self.queue.arrived.notify_one();
        true
    }

    pub(crate) fn depth(&self) -> u64 {
        self.queue.waiting.lock().jobs.len() as u64
    }

    pub(crate) fn refused(&self) -> u64 {
        self.queue.refused.load(Ordering::Relaxed)
    }

    /// Answers what waits and ends the threads.
    pub(crate) fn stop(&self) {
        self.queue.waiting.lock().stopped = true;
        self.queue.arrived.notify_all();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

impl Queue {
    fn work(&self, number: usize) {
        loop {
            let (since, job) = {
                let mut waiting = self.waiting.lock();
                loop {
                    if let Some(next) = waiting.jobs.pop_front() {
                        break next;
                    }
                    if waiting.stopped {
                        return;
                    }
                    self.arrived.wait(&mut waiting);
                }
            };
            job(number, since.elapsed());
        }
    }
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("max", &self.max).finish_non_exhaustive()
    }
}
