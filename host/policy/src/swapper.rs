//! The thread that turns a changed folder into a generation: waits for a notice or the next look, judges
//! what changed, asks `Control` to flip. Knows no guest. Invariant: a change is judged once; a refused
//! one leaves what served.

mod notices;
mod scan;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
use notices::Notices;
use scan::Scanner;

/// However many changes follow each other closely, a look waits for no more than so many times the pause between them.
const SETTLES_MAX: u32 = 5;
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
    /// Since the last look, except `unclosed`, which stays.
    heard: Heard,
    /// When the first and the latest of `heard` were.
    since: Option<(Instant, Instant)>,
    commands: VecDeque<(Command, oneshot::Sender<SwapRecord>)>,
    look: bool,
    stopped: bool,
}

/// An operator's.
#[derive(Debug)]
pub(crate) enum Command {
    Reload,
    /// What a change of the folder would set off, now, with the signers' keys read again: no other word is taken back.
    Look,
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
                let mut notices = Notices::of(folder.as_ref().map(Folder::path), &config, &desk);
                notices.renew();
                let mut scanner = Scanner::new(config.clone(), gate, folder, control, known, vouching, recorder);
                scanner.scan(Trigger::Start, &Heard::default());
                let _ = ready.send(());
                desk.work(&mut scanner, &mut notices, &config);
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

    /// Looks no more; what it is at comes to nothing.
    pub(crate) fn halt(&self) {
        self.desk.inbox.lock().stopped = true;
        self.desk.arrived.notify_all();
    }

    pub(crate) fn stop(&self) {
        self.halt();
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
            Command::Look => Trigger::Folder,
            Command::Approve(..) => Trigger::Approval,
            Command::Promote(..) => Trigger::Promotion,
        }
    }
}

// === impl Inbox ===

impl Inbox {
    /// What was heard since the last look; what is being written stays heard of.
    fn take_heard(&mut self) -> Heard {
        self.since = None;
        let unclosed = self.heard.unclosed.clone();
        std::mem::replace(&mut self.heard, Heard { unclosed, ..Heard::default() })
    }
}

// === impl Desk ===

impl Desk {
    fn work(&self, scanner: &mut Scanner, notices: &mut Notices, config: &PolicyConfig) {
        let mut next_look = Instant::now() + config.watch.poll;
        loop {
            match self.wait(next_look, config.watch.settle) {
                Wake::Stop => return,
                Wake::Command(command, reply) => {
                    let trigger = command.trigger();
                    let record = match command {
                        Command::Reload => scanner.scan(trigger, &Heard::default()),
                        Command::Look => {
                            notices.renew();
                            let heard = self.inbox.lock().take_heard();
                            scanner.look_now(&heard)
                        }
                        Command::Promote(candidate, papers) => scanner.promote(&candidate, &papers, || self.unclosed()),
                        Command::Approve(identity, reason) => {
                            let heard = Heard { unclosed: self.unclosed(), ..Heard::default() };
                            scanner.approve(&identity, &reason, &heard)
                        }
                    };
                    let record = record.unwrap_or_else(|| scanner.unchanged(trigger));
                    // Whoever asked has gone; it is in the records.
                    let _ = reply.send(record);
                }
                Wake::Look(heard) => {
                    // Before the look, so that nothing falls between.
                    notices.renew();
                    scanner.scan(Trigger::Folder, &heard);
                }
            }
            let poll = Instant::now() + config.watch.poll;
            next_look = scanner.wants_look_at().map_or(poll, |at| at.min(poll));
        }
    }

    fn unclosed(&self) -> BTreeSet<String> {
        self.inbox.lock().heard.unclosed.clone()
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
            // What was heard is left to settle first, whatever else calls for a look.
            let settled = inbox.since.map(|(first, latest)| (latest + settle).min(first + settle * SETTLES_MAX));
            if inbox.look {
                inbox.look = false;
                return Wake::Look(Heard { unclosed: inbox.heard.unclosed.clone(), ..Heard::default() });
            }
            let until = settled.unwrap_or(next_look);
            if now >= until {
                return Wake::Look(inbox.take_heard());
            }
            self.arrived.wait_until(&mut inbox, until);
        }
    }
}
