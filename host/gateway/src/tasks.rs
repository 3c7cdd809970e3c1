//! Spawns every long-lived task under a name and joins them at the end. Knows nothing of what the
//! tasks do. Invariant: after `shutdown` no task spawned here runs on; those that did not end by
//! themselves in time are aborted and named.

use parking_lot::Mutex;
use std::{
    borrow::Cow,
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// A task's name as it stands in logs, e.g. `pump session-…`.
pub type TaskName = Cow<'static, str>;

/// How long an aborted task may take to be gone; abortion takes effect at its next await.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// The set of tasks of one gateway; a clone is the same set.
#[derive(Clone, Default)]
pub struct Tasks {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    running: Mutex<BTreeMap<u64, Running>>,
    /// Told whenever a task has gone.
    gone: Notify,
    stopping: CancellationToken,
}

struct Running {
    name: TaskName,
    /// Absent for the moment between the entry and the spawn.
    abort: Option<AbortHandle>,
}

/// Lives inside the task; its drop takes the task off the list, however it ended.
struct Entry {
    id: u64,
    shared: Arc<Shared>,
}

// === impl Tasks ===

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` as a task of this name. A panic in it is logged with the name and ends only it.
    pub fn spawn<F>(&self, name: impl Into<TaskName>, future: F) -> AbortHandle
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.shared.running.lock().insert(id, Running { name: name.into(), abort: None });
        let entry = Entry { id, shared: Arc::clone(&self.shared) };
        let abort = tokio::spawn(async move {
            let _entry = entry;
            future.await;
        })
        .abort_handle();
        // The task may have ended already, and its entry with it.
        if let Some(running) = self.shared.running.lock().get_mut(&id) {
            running.abort = Some(abort.clone());
        }
        abort
    }

    /// Cancelled when `shutdown` begins; tasks select on it.
    pub fn stopping(&self) -> CancellationToken {
        self.shared.stopping.clone()
    }

    /// How many run.
    pub fn len(&self) -> usize {
        self.shared.running.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The names of those that run, oldest first.
    pub fn names(&self) -> Vec<TaskName> {
        self.shared.running.lock().values().map(|running| running.name.clone()).collect()
    }

    /// Tells all to stop, waits until `deadline`, aborts the rest and names them.
    pub async fn shutdown(&self, deadline: Instant) -> Vec<TaskName> {
        self.shared.stopping.cancel();
        if tokio::time::timeout_at(deadline, self.all_gone()).await.is_ok() {
            return Vec::new();
        }
        let late: Vec<TaskName> = {
            let running = self.shared.running.lock();
            running.values().filter_map(|task| task.abort.as_ref()).for_each(AbortHandle::abort);
            running.values().map(|task| task.name.clone()).collect()
        };
        for name in &late {
            tracing::warn!(task = %name, "a task did not end in time and was aborted");
        }
        // A task that never awaits cannot be aborted; the process ends without it.
        let _ = tokio::time::timeout(ABORT_GRACE, self.all_gone()).await;
        late
    }

    async fn all_gone(&self) {
        loop {
            let gone = self.shared.gone.notified();
            tokio::pin!(gone);
            // Registered before the look, so that no end falls in between.
            gone.as_mut().enable();
            if self.is_empty() {
                return;
            }
            gone.await;
        }
    }
}

impl std::fmt::Debug for Tasks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tasks").field("running", &self.names()).finish()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let running = self.shared.running.lock().remove(&self.id);
        if std::thread::panicking()
            && let Some(running) = running
        {
            tracing::error!(task = %running.name, "a task panicked; this is a defect");
        }
        self.shared.gone.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[tokio::test]
    async fn tasks_that_heed_the_signal_are_joined() {
        let tasks = Tasks::new();
        let ended = Arc::new(AtomicBool::new(false));
        let (stopping, flag) = (tasks.stopping(), Arc::clone(&ended));
        tasks.spawn("obedient", async move {
            stopping.cancelled().await;
            flag.store(true, Ordering::SeqCst);
        });
        assert_eq!(tasks.names(), ["obedient"]);
        assert_eq!(tasks.shutdown(soon()).await, Vec::<TaskName>::new());
        assert!(ended.load(Ordering::SeqCst) && tasks.is_empty());
    }

    #[tokio::test]
    async fn a_deaf_task_is_named_and_aborted() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        assert_eq!(tasks.shutdown(Instant::now()).await, ["deaf"]);
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn a_panic_ends_only_its_task() {
        let tasks = Tasks::new();
        let stopping = tasks.stopping();
        tasks.spawn("sound", async move { stopping.cancelled().await });
        tasks.spawn("faulty", async { panic!("on purpose, for a test") });
        tokio::time::timeout(Duration::from_secs(10), async {
            while tasks.len() > 1 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("the faulty one is gone");
        assert_eq!(tasks.names(), ["sound"]);
        assert!(tasks.shutdown(soon()).await.is_empty());
    }
}
