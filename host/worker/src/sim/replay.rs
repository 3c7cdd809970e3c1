//! Plays a history: which row is due, and which items it concerns. Knows no handles. Invariants: rows go out in file
//! order, each at most once; a row whose tag nobody has advised passes unseen, as it would with MXAccess.

use super::{
    COMM_FAILURE, OK, PipeEnded, ROUND, Sim, UNREACHABLE,
    history::{History, Row},
    items::Sample,
    pace::Pace,
    settings::Settings,
};
use std::time::Duration;
use tidegate_proto::v1::{SourceTime, Value, source_time::Form};
use tokio::time::Instant;

/// A history and how far it has been played.
#[derive(Debug)]
pub(super) struct Replay {
    pub(super) history: History,
    state: State,
    next: usize,
    /// When the next row is due, by its timestamp; only with a speed.
    next_at: Option<Instant>,
    speed: f64,
    /// Without a speed: rows per second; `None` goes as fast as the pipe takes them.
    pace: Option<Pace>,
    /// The row that each tag stands at.
    last: Vec<Option<usize>>,
    /// The slots of the live items of each tag.
    items: Vec<Vec<usize>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Done,
}

// === impl Replay ===

impl Replay {
    pub(super) fn new(history: History, settings: &Settings) -> Self {
        let tags = history.tags.len();
        let pace = settings.rate.filter(|&rate| rate > 0 && settings.speed == 0.0).map(|rate| Pace::new(rate, 0));
        Self {
            history,
            state: State::Waiting,
            next: 0,
            next_at: None,
            speed: settings.speed,
            pace,
            last: vec![None; tags],
            items: vec![Vec::new(); tags],
        }
    }

    /// What `$Sim.Replay` shows.
    pub(super) fn state(&self) -> &'static str {
        match self.state {
            State::Waiting => "waiting",
            State::Running => "running",
            State::Done => "done",
        }
    }

    /// Begins with the first row; later calls change nothing and return false.
    pub(super) fn start(&mut self, now: Instant) -> bool {
        if self.state != State::Waiting {
            return false;
        }
        self.state = if self.history.rows.is_empty() { State::Done } else { State::Running };
        self.next_at = Some(now);
        if let Some(pace) = &mut self.pace {
            pace.due(now);
        }
        true
    }

    pub(super) fn set_rate(&mut self, rate: u32, now: Instant) {
        if self.speed == 0.0 {
            self.pace = (rate > 0).then(|| Pace::new(rate, 0));
            if let Some(pace) = self.pace.as_mut().filter(|_| self.state == State::Running) {
                pace.due(now);
            }
        }
    }

    pub(super) fn clear_items(&mut self) {
        self.items.iter_mut().for_each(Vec::clear);
    }

    pub(super) fn add_item(&mut self, tag: u32, slot: usize) {
        self.items[tag as usize].push(slot);
    }

    /// The row that a tag stands at.
    pub(super) fn last(&self, tag: u32) -> Option<&Row> {
        self.last[tag as usize].map(|row| &self.history.rows[row])
    }

    /// When to go on; `None` when not running.
    pub(super) fn next_at(&self) -> Option<Instant> {
        if self.state != State::Running {
            return None;
        }
        match &self.pace {
            Some(pace) => pace.next_at(),
            None => self.next_at,
        }
    }

    /// Moves on by one row and says which.
    fn pass(&mut self) -> usize {
        let row = self.next;
        self.next += 1;
        let rows = &self.history.rows;
        self.last[rows[row].tag as usize] = Some(row);
        match rows.get(self.next) {
            None => self.state = State::Done,
            Some(following) if self.speed > 0.0 => {
                // Equal times and steps back wait for nothing.
                let wait_ms = following.at_ms.saturating_sub(rows[row].at_ms).max(0) as f64 / self.speed;
                // A wait beyond what a clock can hold is a wait for ever.
                let wait = Duration::try_from_secs_f64(wait_ms / 1_000.0).unwrap_or(Duration::MAX);
                self.next_at = self.next_at.and_then(|at| at.checked_add(wait));
                if self.next_at.is_none() {
                    self.state = State::Done;
                }
            }
            Some(_) => {}
        }
        row
    }
}

/// A row as a data change.
pub(super) fn sample(row: &Row, bad: bool) -> Sample {
    Sample {
        value: Value { kind: Some(row.value.clone()), data_type: 0 },
        quality: if bad { COMM_FAILURE } else { row.quality },
        time: SourceTime { form: Some(Form::Text(row.time.to_string())) },
        status: if bad { UNREACHABLE } else { OK },
    }
}

// === impl Sim ===

impl Sim {
    /// The rows that are due.
    pub(super) async fn run_replay(&mut self, now: Instant) -> Result<(), PipeEnded> {
        if self.replay.state != State::Running {
            return Ok(());
        }
        let mut due = self.replay.pace.as_mut().map_or(u64::MAX, |pace| pace.due(now));
        for _ in 0..ROUND {
            if due == 0 || self.replay.state != State::Running || self.replay.next_at.is_none_or(|at| at > now) {
                break;
            }
            let row = self.replay.pass();
            let Row { tag, .. } = self.replay.history.rows[row];
            let items = self.replay.items[tag as usize].len();
            for item in 0..items {
                let slot = self.replay.items[tag as usize][item];
                let sample = sample(&self.replay.history.rows[row], self.bad_until.is_some());
                self.emit(slot, sample).await?;
            }
            // What nobody sees costs no time of the rate's.
            if items > 0 {
                due -= 1;
                if let Some(pace) = &mut self.replay.pace {
                    pace.made(1);
                }
            }
        }
        if self.replay.state == State::Done {
            self.tell_replay_state().await?;
        }
        Ok(())
    }

    /// A data change of `$Sim.Replay`, for those who advised it.
    pub(super) async fn tell_replay_state(&mut self) -> Result<(), PipeEnded> {
        let controls: Vec<_> = self
            .tables
            .all()
            .filter(|(_, item)| matches!(item.kind, super::Kind::Control(super::items::Control::Replay)))
            .filter(|(_, item)| item.known)
            .map(|(at, _)| at)
            .collect();
        for at in controls {
            self.current(at).await?;
        }
        Ok(())
    }
}
