//! The account of one reader: which sequences it was owed, and what became of each. It knows
//! messages, not connections; a caller feeds it everything a stream sends. Invariant: while no
//! violation was found, delivered + filtered + conflated + gapped = produced.

use std::fmt;
use tidegate_proto::v1::{
    EventBatch, Gap, StreamEventsResponse, StreamOpened, gap::Reason, stream_events_response::Message,
};

/// Keeps the account of one stream, or of several that continue each other.
#[derive(Clone, Debug, Default)]
pub struct Account {
    state: State,
    counts: Counts,
    last_event: u64,
}

#[derive(Clone, Copy, Debug, Default)]
enum State {
    /// Nothing was seen yet.
    #[default]
    Fresh,
    /// The next message belongs to `epoch` and begins at `after` + 1.
    Open(Position),
    /// A stream ended here; the next one opens at this position.
    Between(Position),
}

/// Where a reader stands: everything up to `after` is accounted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub epoch: u64,
    pub after: u64,
}

/// Sequences by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// What the reader was owed: everything from its start to the last range that it was told of.
    pub produced: u64,
    pub delivered: u64,
    /// Withheld by the access policy.
    pub filtered: u64,
    /// Data changes that a newer value of their item stands for.
    pub conflated: u64,
    /// Told as gaps.
    pub gapped: u64,
    /// Neither delivered nor explained. Zero, or the gateway is wrong.
    pub unaccounted: u64,
    /// Delivered or told again. Zero, or the gateway is wrong.
    pub duplicated: u64,
    /// Delivered after a later one. Zero, or the gateway is wrong.
    pub reordered: u64,
}

/// What the stream did wrong, and at which sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("the stream began without `opened`")]
    NotOpened,
    #[error("`opened` came a second time in one stream")]
    OpenedTwice,
    #[error("a message holds nothing this client knows")]
    Empty,
    #[error("asked to continue after {asked}, the stream opened after {opened}")]
    NotResumed { asked: u64, opened: u64 },
    #[error("the epoch changed from {expected:016x} to {found:016x} at sequence {at}")]
    Epoch { expected: u64, found: u64, at: u64 },
    #[error("the range {from}..={to} is not a range")]
    BadRange { from: u64, to: u64 },
    #[error("sequence {expected} is missing: the next range begins at {found}")]
    Hole { expected: u64, found: u64 },
    #[error("sequence {found} was covered already, {expected} was next")]
    Overlap { expected: u64, found: u64 },
    #[error("sequence {sequence} lies outside of its batch {from}..={to}")]
    Outside { sequence: u64, from: u64, to: u64 },
    #[error("sequence {sequence} was delivered twice")]
    Duplicate { sequence: u64 },
    #[error("sequence {sequence} came after {previous}")]
    Reordered { sequence: u64, previous: u64 },
    #[error("the batch {from}..={to} explains {explained} sequences")]
    Sum { from: u64, to: u64, explained: u64 },
}

// === impl Account ===

impl Account {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next message of the stream. After a violation the account goes on as well as it
    /// can, so that the counts tell how much was wrong.
    pub fn take(&mut self, response: &StreamEventsResponse) -> Result<(), Violation> {
        match response.message.as_ref().ok_or(Violation::Empty)? {
            Message::Opened(opened) => self.open(opened),
            Message::Batch(batch) => self.batch(batch),
            Message::Gap(gap) => self.gap(gap),
            // It covers nothing.
            Message::Status(_) => Ok(()),
        }
    }

    /// The stream ended; the next `opened` must continue here, if it is of the same epoch.
    pub fn ended(&mut self) {
        if let State::Open(position) = self.state {
            self.state = State::Between(position);
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Where a stream that continues this one has to resume; `None` before the first `opened`.
    pub fn position(&self) -> Option<Position> {
        match self.state {
            State::Fresh => None,
            State::Open(position) | State::Between(position) => Some(position),
        }
    }

    fn open(&mut self, opened: &StreamOpened) -> Result<(), Violation> {
        let position = Position { epoch: opened.epoch, after: opened.after.min(u64::MAX - 2) };
        match self.state {
            State::Open(_) => return Err(Violation::OpenedTwice),
            State::Between(asked) if asked.epoch == opened.epoch && asked.after != opened.after => {
                self.state = State::Open(asked);
                return Err(Violation::NotResumed { asked: asked.after, opened: opened.after });
            }
            // Another epoch is another series of sequences: its account starts afresh.
            State::Between(asked) if asked.epoch != opened.epoch => self.last_event = 0,
            State::Between(_) | State::Fresh => {}
        }
        self.state = State::Open(position);
        Ok(())
    }

    /// Checks that a range joins, moves the position behind it, and says how much of it is new.
    fn range(&mut self, epoch: u64, from: u64, to: u64) -> (u64, Result<(), Violation>) {
        let State::Open(position) = self.state else { return (0, Err(Violation::NotOpened)) };
        if epoch != position.epoch {
            return (0, Err(Violation::Epoch { expected: position.epoch, found: epoch, at: from }));
        }
        // u64::MAX cannot be followed by anything; no worker counts that far.
        if from == 0 || to < from || to == u64::MAX {
            return (0, Err(Violation::BadRange { from, to }));
        }
        let expected = position.after + 1;
        let verdict = match from.cmp(&expected) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => {
                add(&mut self.counts.produced, from - expected);
                add(&mut self.counts.unaccounted, from - expected);
                Err(Violation::Hole { expected, found: from })
            }
            std::cmp::Ordering::Less => {
                add(&mut self.counts.duplicated, to.min(position.after) - from + 1);
                Err(Violation::Overlap { expected, found: from })
            }
        };
        let fresh = to.saturating_sub(position.after.max(from - 1));
        add(&mut self.counts.produced, fresh);
        let after = to.max(position.after);
        self.state = State::Open(Position { epoch, after });
        (fresh, verdict)
    }

    fn batch(&mut self, batch: &EventBatch) -> Result<(), Violation> {
        let (from, to) = (batch.from, batch.to);
        let (fresh, verdict) = self.range(batch.epoch, from, to);
        if !matches!(verdict, Ok(()) | Err(Violation::Hole { .. })) {
            return verdict;
        }
        let mut first = verdict.err();
        let mut delivered = 0;
        for event in &batch.events {
            let sequence = event.sequence;
            let wrong = if sequence < from || sequence > to {
                Some(Violation::Outside { sequence, from, to })
            } else if sequence == self.last_event {
                self.counts.duplicated += 1;
                Some(Violation::Duplicate { sequence })
            } else if sequence < self.last_event {
                delivered += 1;
                self.counts.reordered += 1;
                Some(Violation::Reordered { sequence, previous: self.last_event })
            } else {
                delivered += 1;
                self.last_event = sequence;
                None
            };
            first = first.or(wrong);
        }
        add(&mut self.counts.delivered, delivered);
        add(&mut self.counts.filtered, batch.filtered);
        add(&mut self.counts.conflated, batch.conflated);
        let explained = delivered.saturating_add(batch.filtered).saturating_add(batch.conflated);
        if explained != fresh {
            add(&mut self.counts.unaccounted, fresh.saturating_sub(explained));
            first = first.or(Some(Violation::Sum { from, to, explained }));
        }
        first.map_or(Ok(()), Err)
    }

    fn gap(&mut self, gap: &Gap) -> Result<(), Violation> {
        let (fresh, verdict) = self.range(gap.epoch, gap.from, gap.to);
        add(&mut self.counts.gapped, fresh);
        verdict
    }
}

// === impl Counts ===

impl Counts {
    /// Every sequence has exactly one fate.
    pub fn closes(&self) -> bool {
        self.unaccounted == 0
            && self.duplicated == 0
            && self.reordered == 0
            && [self.filtered, self.conflated, self.gapped].iter().fold(self.delivered, |sum, n| sum.saturating_add(*n))
                == self.produced
    }
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            produced: self.produced + other.produced,
            delivered: self.delivered + other.delivered,
            filtered: self.filtered + other.filtered,
            conflated: self.conflated + other.conflated,
            gapped: self.gapped + other.gapped,
            unaccounted: self.unaccounted + other.unaccounted,
            duplicated: self.duplicated + other.duplicated,
            reordered: self.reordered + other.reordered,
        }
    }
}

impl std::iter::Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |total, one| total + one)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { produced, delivered, filtered, conflated, gapped, unaccounted, duplicated, reordered } = self;
        write!(
            f,
            "{produced} produced = {delivered} delivered + {filtered} filtered + {conflated} conflated + {gapped} gapped; \
             {unaccounted} unaccounted, {duplicated} duplicated, {reordered} reordered"
        )
    }
}

/// The numbers are the gateway's word, so they may be anything.
fn add(count: &mut u64, more: u64) {
    *count = count.saturating_add(more);
}

/// A gap's reason as a word for people and for JSON.
pub fn reason_name(gap: &Gap) -> &'static str {
    match gap.reason() {
        Reason::Unspecified => "unspecified",
        Reason::Evicted => "evicted",
        Reason::Skipped => "skipped",
        Reason::Restarted => "restarted",
    }
}

#[cfg(test)]
mod tests;
