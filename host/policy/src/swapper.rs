//! The thread that turns a changed folder into a generation: waits for a notice or the next look, judges
//! what changed, asks `Control` to flip. Knows no guest. Invariant: a change is judged once; a refused
//! one leaves what served.

mod scan;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecursiveMode, Watcher};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::config::PolicyConfig;
use crate::control::Control;
use crate::evidence::Recorder;
use crate::folder::{Folder, Heard, Papers};
use crate::gate::{Gate, Loaded};
use crate::model::Digest;
use crate::record::{SwapRecord, Trigger};
use crate::trust::Vouching;
use scan::Scanner;

/// Names heard of between two looks; more count as 'look at everything'.
const HEARD_MAX: usize = 1024;
/// Operators' commands that wait; more are answered as unchanged by the one before.
const COMMANDS_MAX: usize = 64;

/// The thread and its inbox.
#[derive(Debug)]
pub(crate) struct Swapper {
    desk: Arc<Desk>,
    thread: Mutex<Option<JoinHandle<()>>>,
    control: Arc<Control>,
    queue_deadline: Duration,
}

#[derive(Debug, Default)]
struct Desk {
    inbox: Mutex<Inbox>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Inbox {
    heard: Heard,
    /// When the first of `heard` was.
    since: Option<Instant>,
    commands: VecDeque<(Command, oneshot::Sender<SwapRecord>)>,
    look: bool,
    stopped: bool,
}

/// An operator's.
#[derive(Debug)]
pub(crate) enum Command {
    Reload,
    /// This component with its settings may serve, for this reason.
    Approve(Digest, String),
    /// This candidate, in these files, is to stand in the folder and to serve.
    Promote(Arc<Loaded>, Papers),
}

/// What woke the thread.
enum Wake {
    Command(Command, oneshot::Sender<SwapRecord>),
    Look(Heard),
    Stop,
}

// === impl Swapper ===

impl Swapper {
    /// Looks once, and returns when what it found serves; then goes on in a thread.
    pub(crate) fn start(
        config: &PolicyConfig,
        gate: Arc<Gate>,
        folder: Option<Folder>,
        control: Arc<Control>,
        known: Vec<Digest>,
        vouching: Arc<Vouching>,
        recorder: Arc<Recorder>,
    ) -> std::io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let (ready, looked) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("policy-swapper".into()).stack_size(8 << 20).spawn({
            let (desk, control, config) = (Arc::clone(&desk), Arc::clone(&control), config.clone());
            move || {
                // Before the first look, so that nothing falls between.
                let watcher = folder.as_ref().and_then(|folder| watch(folder.path(), &config, &desk));
                let mut scanner = Scanner::new(config.clone(), gate, folder, control, known, vouching, recorder);
                scanner.scan(Trigger::Start, &Heard::default());
                let _ = ready.send(());
                desk.work(&mut scanner, &config);
                drop(watcher);
            }
        })?;
        let _ = looked.recv();
        let queue_deadline = config.deadlines.queue;
        Ok(Self { desk, thread: Mutex::new(Some(thread)), control, queue_deadline })
    }

    pub(crate) async fn command(&self, command: Command) -> SwapRecord {
        let trigger = command.trigger();
        let (reply, replied) = oneshot::channel();
        let taken = {
            let mut inbox = self.desk.inbox.lock();
            let room = inbox.commands.len() < COMMANDS_MAX && !inbox.stopped;
            if room {
                inbox.commands.push_back((command, reply));
            }
            room
        };
        self.desk.arrived.notify_all();
        let unchanged = || self.control.unchanged(scan::attempt(trigger));
        if taken { replied.await.unwrap_or_else(|_| unchanged()) } else { unchanged() }
    }

    /// Looks soon.
    pub(crate) fn look(&self) {
        self.desk.inbox.lock().look = true;
        self.desk.arrived.notify_all();
    }

    pub(crate) fn queue_deadline(&self) -> Duration {
        self.queue_deadline
    }

    pub(crate) fn stop(&self) {
        self.desk.inbox.lock().stopped = true;
        self.desk.arrived.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }
}

// === impl Command ===

impl Command {
    fn trigger(&self) -> Trigger {
        match self {
            Command::Reload => Trigger::Reload,
            Command::Approve(..) => Trigger::Approval,
            Command::Promote(..) => Trigger::Promotion,
        }
    }
}

// === impl Desk ===

impl Desk {
    fn work(&self, scanner: &mut Scanner, config: &PolicyConfig) {
        let mut next_look = Instant::now() + config.watch.poll;
        loop {
            match self.wait(next_look, config.watch.settle) {
                Wake::Stop => return,
                Wake::Command(command, reply) => {
                    let trigger = command.trigger();
                    let record = match command {
                        Command::Reload => scanner.scan(trigger, &Heard::default()),
                        Command::Promote(candidate, papers) => scanner.promote(&candidate, &papers),
                        Command::Approve(identity, reason) => scanner.approve(&identity, &reason),
                    };
                    let record = record.unwrap_or_else(|| scanner.unchanged(trigger));
                    // Whoever asked has gone; it is in the records.
                    let _ = reply.send(record);
                }
                Wake::Look(heard) => {
                    scanner.scan(Trigger::Folder, &heard);
                }
            }
            let poll = Instant::now() + config.watch.poll;
            next_look = scanner.wants_look_at().map_or(poll, |at| at.min(poll));
        }
    }

    fn wait(&self, next_look: Instant, settle: Duration) -> Wake {
        let mut inbox = self.inbox.lock();
        loop {
            if inbox.stopped {
                return Wake::Stop;
            }
            if let Some((command, reply)) = inbox.commands.pop_front() {
                return Wake::Command(command, reply);
            }
            let now = Instant::now();
            let settled = inbox.since.map(|since| since + settle);
            let until = settled.map_or(next_look, |settled| settled.min(next_look));
            if inbox.look || now >= until {
                inbox.look = false;
                inbox.since = None;
                return Wake::Look(std::mem::take(&mut inbox.heard));
            }
            self.arrived.wait_until(&mut inbox, until);
        }
    }

    fn heard(&self, event: &notify::Event) {
        let finished = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both | RenameMode::Any)) => true,
            // Something went, or links were made: worth a look, but it finishes no file.
            EventKind::Remove(_) | EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                false
            }
            _ => return,
        };
        let mut inbox = self.inbox.lock();
        inbox.since.get_or_insert_with(Instant::now);
        for path in event.paths.iter().filter(|_| finished) {
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            // A link that others lead through was put in place: everything behind it is complete.
            inbox.heard.flipped |= !matches!(
                Path::new(name).extension().and_then(|e| e.to_str()),
                Some("wasm" | "toml" | "json" | "minisig")
            ) && !matches!(event.kind, EventKind::Access(_));
            if inbox.heard.closed.len() < HEARD_MAX {
                inbox.heard.closed.insert(name.to_owned());
            }
        }
        drop(inbox);
        self.arrived.notify_all();
    }
}

/// None: no notices here; the looks find everything, later.
fn watch(folder: &Path, config: &PolicyConfig, desk: &Arc<Desk>) -> Option<notify::RecommendedWatcher> {
    if !config.watch.notify {
        return None;
    }
    let desk = Arc::clone(desk);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) => desk.heard(&event),
        Err(error) => tracing::warn!(%error, "notices about the plugins folder fail; looking at it instead"),
    });
    let watched = watcher.and_then(|mut watcher| {
        watcher.watch(folder, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watched.map_err(|error| tracing::warn!(%error, "no notices about the plugins folder; looking at it instead")).ok()
}
