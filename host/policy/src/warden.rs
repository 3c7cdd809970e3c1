//! Takes back components that keep failing and lets go of replaced generations. A thread of its own,
//! because the swapper may be compiling for seconds while a bad component serves. Invariant: from the
//! K-th failure to the flip nothing here waits for anything slow.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::control::Control;
use crate::gate::Loaded;

/// How often replaced generations are looked at.
const REAP: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct Warden {
    handle: WardenHandle,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Clone, Debug)]
pub(crate) struct WardenHandle(Arc<Desk>);

#[derive(Debug, Default)]
struct Desk {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Inbox {
    /// Bounded by the number of components: each trips once.
    tripped: Vec<Arc<Loaded>>,
    stopped: bool,
}

// === impl Warden ===

impl Warden {
    pub(crate) fn start(control: Arc<Control>) -> std::io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let thread = std::thread::Builder::new().name("policy-warden".into()).spawn({
            let desk = Arc::clone(&desk);
            move || desk.work(&control)
        })?;
        Ok(Self { handle: WardenHandle(desk), thread: Mutex::new(Some(thread)) })
    }

    pub(crate) fn handle(&self) -> WardenHandle {
        self.handle.clone()
    }

    pub(crate) fn stop(&self) {
        self.handle.0.inbox.lock().stopped = true;
        self.handle.0.arrived.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

impl WardenHandle {
    pub(crate) fn tripped(&self, loaded: Arc<Loaded>) {
        self.0.inbox.lock().tripped.push(loaded);
        self.0.arrived.notify_all();
    }
}

impl Desk {
    fn work(&self, control: &Control) {
        loop {
            let tripped = {
                let mut inbox = self.inbox.lock();
                if inbox.tripped.is_empty() && !inbox.stopped {
                    self.arrived.wait_for(&mut inbox, REAP);
                }
                if inbox.stopped {
                    return;
                }
                std::mem::take(&mut inbox.tripped)
            };
            for loaded in tripped {
                control.take_back(&loaded);
            }
            control.reap();
        }
    }
}
