//! Readers with an account: fast ones, and one that is ended by pressure again and again and resumes where it was.
//! Notes of each generation what it let through. Invariant: an account goes on over every resume.

use super::Area;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tidegate_client::{
    Account, ClientError, Connect, Counts, EventStream, Gateway, Message, Start, StreamOptions, wire::EventBatch,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Fast,
    /// Pauses after each message, and takes little ahead.
    Slow,
}

/// What one generation let through to one reader.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Through {
    /// By area.
    pub(super) events: [u64; 2],
    /// Batches with both areas in them.
    pub(super) mixed: u64,
    /// The last sequence that was covered.
    pub(super) last: u64,
}

/// A reader under way.
#[derive(Debug)]
pub(super) struct Reader {
    gateway: Gateway,
    session: String,
    how: How,
    stream: EventStream,
    areas: Arc<HashMap<u64, Area>>,
    seen: Seen,
}

/// What a reader saw.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) name: &'static str,
    pub(super) generations: BTreeMap<u64, Through>,
    pub(super) counts: Counts,
    pub(super) resumed: u64,
    violations: u64,
}

const SLOW_WINDOW: u32 = 64 << 10;
const SLOW_PAUSE: Duration = Duration::from_millis(20);

// === impl Reader ===

impl Reader {
    pub(super) async fn open(
        address: &str,
        key: &str,
        session: &str,
        name: &'static str,
        how: How,
    ) -> anyhow::Result<Self> {
        let connect = Connect::to(address).key(key);
        let connect = if how == How::Slow { connect.stream_window(SLOW_WINDOW) } else { connect };
        let gateway = connect.gateway().await?;
        let options = StreamOptions { reader_name: name.into(), ..Default::default() };
        let stream = gateway.stream(session, Start::Live, options).await?;
        let (generations, counts) = Default::default();
        let seen = Seen { name, generations, counts, resumed: 0, violations: 0 };
        Ok(Self { gateway, session: session.into(), how, stream, areas: Arc::default(), seen })
    }

    /// Reads until told to stop.
    pub(super) async fn run(mut self, areas: Arc<HashMap<u64, Area>>, stop: Arc<AtomicBool>) -> anyhow::Result<Self> {
        self.areas = areas;
        while !stop.load(Ordering::Relaxed) {
            self.step().await?;
            if self.how == How::Slow {
                tokio::time::sleep(SLOW_PAUSE).await;
            }
        }
        Ok(self)
    }

    /// Reads to the end of the events.
    pub(super) async fn finish(mut self, head: u64) -> anyhow::Result<Seen> {
        while self.stream.position().after < head {
            self.step().await?;
        }
        self.seen.counts = self.stream.account().counts();
        Ok(self.seen)
    }

    async fn step(&mut self) -> anyhow::Result<()> {
        match self.stream.next().await {
            Ok(Some(Message::Batch(batch))) => self.seen.take(&batch, &self.areas),
            Ok(Some(Message::Gap(_))) => {}
            Ok(None) => anyhow::bail!("{}: the gateway ended the stream without a word", self.seen.name),
            Err(ClientError::Violation(violation)) => {
                eprintln!("{}: {violation}", self.seen.name);
                self.seen.violations += 1;
            }
            Err(error) if error.reason() == Some("stream.pressure") => self.resume().await?,
            Err(error) => anyhow::bail!("{}: {error}", self.seen.name),
        }
        Ok(())
    }

    async fn resume(&mut self) -> anyhow::Result<()> {
        let position = self.stream.position();
        let account: Account = self.stream.account().clone();
        let options = StreamOptions { reader_name: self.seen.name.into(), account, ..Default::default() };
        self.stream = self.gateway.stream(&self.session, Start::Resume(position), options).await?;
        self.seen.resumed += 1;
        Ok(())
    }
}

// === impl Seen ===

impl Seen {
    /// Sequences that the account cannot explain, and what else it refused.
    pub(super) fn unaccounted(&self) -> u64 {
        let Counts { unaccounted, duplicated, reordered, .. } = self.counts;
        let open = u64::from(!self.counts.closes());
        (unaccounted + duplicated + reordered).max(open).max(self.violations)
    }

    fn take(&mut self, batch: &EventBatch, areas: &HashMap<u64, Area>) {
        let through = self.generations.entry(batch.generation).or_default();
        let mut events = [0; 2];
        for event in &batch.events {
            if let Some(area) = areas.get(&event.item_key) {
                events[*area as usize] += 1;
            }
        }
        through.mixed += u64::from(events.iter().all(|count| *count > 0));
        through.events[0] += events[0];
        through.events[1] += events[1];
        if !batch.events.is_empty() {
            through.last = through.last.max(batch.events.last().map_or(0, |event| event.sequence));
        }
    }
}
