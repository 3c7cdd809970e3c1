//! A simulated MXAccess: its methods, its events, and what surprises people about both. One task owns all of it, as
//! the real thing has one apartment; commands run one after the other. Knows the link, not the pipe behind it.
//! Invariants: events never wait in a queue of the simulator's own, so a full pipe stops its clock and nothing is lost;
//! an answer leaves before the events that its command causes.

pub mod settings;
pub mod waves;

mod alarms;
mod bulk;
mod commands;
mod emit;
mod faults;
mod history;
mod items;
mod pace;
mod replay;
mod writes;

use crate::{
    answers::Answers,
    link::{BackendEnd, Link, Vitals},
    outbox::{Outbox, PipeEnded},
    timer::Timer,
};
use alarms::Alarms;
use faults::Fault;
use history::History;
use items::{ItemRef, Kind, Sample, Tables};
use pace::Pace;
use replay::Replay;
use settings::Settings;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tidegate_proto::v1::{Command, CommandResult, MxStatus, SourceTime, Value};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

/// What Hello and GetWorkerInfo say.
pub const BACKEND: &str = "simulator";

/// SetBufferedUpdateInterval has not been called. (Guessed.)
const BUFFERED_INTERVAL_MS: u32 = 1_000;
/// A buffered item that has gathered this many values tells them early.
const BUFFERED_MAX: usize = 1_000;
/// From Suspend or Activate to OperationComplete (mxaccess.md, surprise 7).
const OPERATION: Duration = Duration::from_millis(200);
/// A data change of an item whose source is known already (mxaccess.md, surprise 5).
const LATER_CHANGE_MS: u32 = 100;
/// Waveform events without `rate`, per second.
const RATE: u32 = 10;
/// Events made before commands are looked at again.
const ROUND: u64 = 2_048;

const GOOD: i32 = 192;
const CONFIGURATION_ERROR: i32 = 4;
const COMM_FAILURE: i32 = 24;
const OK: MxStatus = MxStatus { success: -1, category: 0, detected_by: 0, detail: 0 };
const PENDING: MxStatus = MxStatus { success: -1, category: 1, detected_by: 0, detail: 0 };
const MISCONFIGURED: MxStatus = MxStatus { success: 0, category: 4, detected_by: 5, detail: 0 };
const UNREACHABLE: MxStatus = MxStatus { success: 0, category: 3, detected_by: 1, detail: 0 };

/// The simulator's whole state.
struct Sim {
    settings: Settings,
    epoch: u64,
    vitals: Arc<Vitals>,
    outbox: Outbox,
    answers: Answers,
    tables: Tables,
    /// What was written, by tag.
    setpoints: HashMap<String, Value>,
    replay: Replay,
    /// What is to happen at a time; the number keeps those of the same time in order.
    timers: BTreeMap<(Instant, u64), Due>,
    timers_made: u64,
    pace: Pace,
    /// Items whose waveform runs, and whose turn it is.
    waves: Vec<usize>,
    turn: usize,
    /// More events were due than one round makes.
    behind: bool,
    reading: Option<bulk::Reading>,
    alarms: Alarms,
    fault: Option<Fault>,
    bad_until: Option<Instant>,
    /// When the servers' buffered items are told of next.
    buffered_at: BTreeMap<i32, Instant>,
}

/// What a timer is for.
enum Due {
    /// The first data change after an Advise; `advises` tells which.
    First {
        item: ItemRef,
        advises: u32,
    },
    Written {
        item: ItemRef,
        status: MxStatus,
        value: Value,
        time: Option<SourceTime>,
    },
    Operation {
        item: ItemRef,
    },
    ReplayStart,
}

/// Why the simulator's task ends by itself.
enum Halt {
    PipeEnded,
    Crashed,
}

impl From<PipeEnded> for Halt {
    fn from(_: PipeEnded) -> Self {
        Self::PipeEnded
    }
}

/// Runs until told to stop, or the pipe ends.
pub async fn run(link: Link) -> BackendEnd {
    let Link { accept, epoch, commands, outbox, vitals, alarm_syncs, values_before, stop } = link;
    let settings = match Settings::parse(&accept.settings) {
        Ok(settings) => settings,
        Err(error) => return BackendEnd::Failed(error.to_string()),
    };
    let history = match settings.csv.clone() {
        None => History::default(),
        Some(path) => {
            let timed = settings.speed > 0.0;
            match tokio::task::spawn_blocking(move || History::read(&path, timed)).await {
                Ok(Ok(history)) => history,
                Ok(Err(error)) => return BackendEnd::Failed(error.to_string()),
                Err(_panic) => return BackendEnd::Failed("csv: reading the file panicked".to_owned()),
            }
        }
    };
    vitals.ready();
    let mut sim = Sim::new(settings, history, epoch, vitals, outbox);
    match sim.run(commands, alarm_syncs, values_before, stop).await {
        Ok(()) | Err(Halt::PipeEnded) => BackendEnd::Stopped,
        Err(Halt::Crashed) => BackendEnd::Crashed,
    }
}

// === impl Sim ===

impl Sim {
    fn new(settings: Settings, history: History, epoch: u64, vitals: Arc<Vitals>, outbox: Outbox) -> Self {
        Self {
            pace: Pace::new(settings.rate.unwrap_or(RATE), settings.grain_us),
            replay: Replay::new(history, &settings),
            alarms: Alarms::new(&settings),
            settings,
            epoch,
            vitals,
            outbox,
            answers: Answers::default(),
            tables: Tables::default(),
            setpoints: HashMap::new(),
            timers: BTreeMap::new(),
            timers_made: 0,
            waves: Vec::new(),
            turn: 0,
            behind: false,
            reading: None,
            fault: None,
            bad_until: None,
            buffered_at: BTreeMap::new(),
        }
    }

    async fn run(
        &mut self,
        mut commands: mpsc::Receiver<(u64, Command)>,
        mut alarm_syncs: watch::Receiver<u64>,
        mut values_before: watch::Receiver<u64>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Halt> {
        let timer = Timer::new();
        loop {
            self.advance(Instant::now()).await?;
            let held = self.outbox.settle().await?;
            let wake = [self.wake(), held].into_iter().flatten().min();
            tokio::select! {
                biased;
                () = stopped(&mut stop) => return Ok(self.outbox.flush().await?),
                // Its sender goes with the pipe, and then the commands end as well.
                Ok(()) = alarm_syncs.changed() => {
                    self.alarms.book.sync();
                    self.tell_alarms().await?;
                }
                Ok(()) = values_before.changed() => {
                    let before = *values_before.borrow_and_update();
                    self.tell_last_values(before).await?;
                }
                // A read pumps events but takes no other command, as in an apartment.
                command = commands.recv(), if self.reading.is_none() => match command {
                    Some((id, command)) => self.serve(id, command, &mut stop).await?,
                    None => return Ok(()),
                },
                () = timer.until(wake) => {}
            }
        }
    }

    /// One command, its answer, and the fault it may have asked for.
    async fn serve(&mut self, id: u64, command: Command, stop: &mut watch::Receiver<bool>) -> Result<(), Halt> {
        if let Some(result) = self.answers.recall(id) {
            return Ok(self.outbox.reply(id, result).await?);
        }
        self.vitals.busy();
        let Some(result) = self.execute(id, command) else { return Ok(()) };
        // Before the answer, which an acknowledgement's caller may take as a sign to look at the table.
        self.tell_alarms().await?;
        let fault = self.fault.take();
        match fault {
            Some(Fault::Crash) => return Err(Halt::Crashed),
            Some(Fault::Hang) => std::future::pending().await,
            _ => {}
        }
        self.answer(id, result).await?;
        if let Some(Fault::Stall(length)) = fault {
            tokio::select! {
                () = tokio::time::sleep(length) => {}
                () = stopped(stop) => {}
            }
        } else if let Some(fault) = fault {
            self.misbehave(fault).await?;
        }
        Ok(())
    }

    async fn answer(&mut self, id: u64, result: CommandResult) -> Result<(), PipeEnded> {
        self.answers.remember(id, &result);
        self.outbox.reply(id, result).await?;
        self.vitals.idle();
        Ok(())
    }

    /// Does everything that is due.
    async fn advance(&mut self, now: Instant) -> Result<(), PipeEnded> {
        while let Some(entry) = self.timers.first_entry().filter(|entry| entry.key().0 <= now) {
            match entry.remove() {
                Due::First { item, advises } => {
                    if self.tables.get(item).is_some_and(|item| item.advises == advises) {
                        self.current(item).await?;
                    }
                }
                Due::Written { item, status, value, time } => self.written(item, status, value, time).await?,
                Due::Operation { item } => self.operation_complete(item).await?,
                Due::ReplayStart if self.replay.start(now) => self.tell_replay_state().await?,
                Due::ReplayStart => {}
            }
        }
        if self.bad_until.is_some_and(|end| end <= now) {
            self.bad_until = None;
            self.requalify().await?;
        }
        if std::mem::take(&mut self.tables.changed) {
            self.list();
        }
        self.run_waves(now).await?;
        self.run_replay(now).await?;
        while let Some(entry) = self.buffered_at.first_entry_due(now) {
            self.tell_buffered(entry).await?;
        }
        self.alarms.advance(now);
        self.tell_alarms().await?;
        self.finish_reading(now).await
    }

    async fn tell_alarms(&mut self) -> Result<(), PipeEnded> {
        while let Some(frame) = self.alarms.book.next_frame() {
            self.outbox.tell(frame).await?;
        }
        Ok(())
    }

    /// When there is something to do next; `None` when only a command can bring something.
    fn wake(&self) -> Option<Instant> {
        let timer = self.timers.first_key_value().map(|((at, _), _)| *at);
        let wave = if self.waves.is_empty() { None } else { self.wave_at() };
        let buffered = self.buffered_at.values().min().copied();
        let reading = self.reading.as_ref().map(bulk::Reading::deadline);
        let alarms = self.alarms.wake();
        [timer, wave, self.replay.next_at(), buffered, self.bad_until, reading, alarms].into_iter().flatten().min()
    }

    /// When waveform events are made next: when one is due, or while nothing has to leave yet, when the batch is full
    /// or has waited long enough. Their times are those at which they were due.
    fn wave_at(&self) -> Option<Instant> {
        let next = self.pace.next_at()?;
        match self.outbox.gathers().filter(|_| !self.behind) {
            Some((due, room)) => {
                let full = self.pace.nth_at(room.into()).unwrap_or(due);
                Some(next.max(due.min(full)))
            }
            None => Some(next),
        }
    }

    fn after(&mut self, delay: Duration, due: Due) {
        self.timers_made += 1;
        self.timers.insert((Instant::now() + delay, self.timers_made), due);
    }

    /// Makes the lists of slots anew.
    fn list(&mut self) {
        self.waves.clear();
        self.replay.clear_items();
        for (at, item) in self.tables.all().filter(|(_, item)| item.live()) {
            match item.kind {
                Kind::Wave(_) if item.known && !item.hidden => self.waves.push(at.slot),
                Kind::Replay(tag) => self.replay.add_item(tag, at.slot),
                _ => {}
            }
        }
    }

    /// As many waveform samples as are due, one item after the other.
    async fn run_waves(&mut self, now: Instant) -> Result<(), PipeEnded> {
        if self.waves.is_empty() {
            self.pace.rest();
            return Ok(());
        }
        let due = self.pace.due(now);
        self.behind = due > ROUND;
        let due = due.min(ROUND);
        let (quality, status) = self.health();
        let days = emit::days_now();
        for late in self.pace.lates(now).take(due as usize) {
            self.turn = if self.turn + 1 < self.waves.len() { self.turn + 1 } else { 0 };
            let slot = self.waves[self.turn];
            let Some(item) = &mut self.tables.items[slot] else { continue };
            let Kind::Wave(wave) = &mut item.kind else { continue };
            // When it became due, not when it was made: gathering and a late timer are no business of the source's.
            let time = emit::date(days - late as f64 / emit::NANOS_PER_DAY);
            if item.buffered {
                let value = wave.sample();
                self.emit(slot, Sample { value, quality, time, status }).await?;
                continue;
            }
            // Known and not hidden, or it would not be in this list; so no more than this is to be done.
            let last = item.last.get_or_insert_default();
            wave.sample_into(&mut last.value);
            (last.quality, last.time, last.status) = (quality, time, status);
            emit::tell_last(&mut self.outbox, item).await?;
        }
        self.pace.made(due);
        Ok(())
    }
}

/// Servers whose buffered items are due, taken out one by one.
trait FirstDue {
    fn first_entry_due(&mut self, now: Instant) -> Option<i32>;
}

impl FirstDue for BTreeMap<i32, Instant> {
    fn first_entry_due(&mut self, now: Instant) -> Option<i32> {
        let server = self.iter().find(|(_, at)| **at <= now).map(|(server, _)| *server)?;
        self.remove(&server);
        Some(server)
    }
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Without a sender the link is gone, which is a reason to stop as well.
    let _seen = stop.wait_for(|stop| *stop).await;
}
