//! A reader of a story. Invariant: a violation of its account ends the story where it happens, and an
//! account that does not close ends it when the reader is dropped.

use super::PATIENCE;
use std::collections::BTreeSet;
use tidegate_client::{
    Account, ClientError, Counts, EventStream, Fault, Message, Position,
    wire::{Event, EventBatch, Gap, StreamStatus},
};
use tokio::time::timeout;

/// A stream and what was seen of it.
pub(crate) struct Reader {
    name: String,
    stream: EventStream,
    /// Everything that was delivered.
    pub(crate) events: Vec<Event>,
    pub(crate) gaps: Vec<Gap>,
    /// Generations of the batches that carried events.
    pub(crate) generations: BTreeSet<u64>,
    /// How many of `events` have been looked at by `until`.
    looked: usize,
}

// === impl Reader ===

impl Reader {
    pub(crate) fn new(name: &str, stream: EventStream) -> Self {
        Self {
            name: name.into(),
            stream,
            events: Vec::new(),
            gaps: Vec::new(),
            generations: BTreeSet::new(),
            looked: 0,
        }
    }

    /// The next message, which must come, and must not be the end.
    pub(crate) async fn next(&mut self) -> Message {
        match self.take().await {
            Ok(message) => message,
            Err(fault) => panic!("the stream of {} was ended: {fault}", self.name),
        }
    }

    /// The next batch; gaps before it are noted.
    pub(crate) async fn batch(&mut self) -> EventBatch {
        loop {
            if let Message::Batch(batch) = self.next().await {
                return batch;
            }
        }
    }

    /// The next event that fits, beginning behind the last one that this found; reads on if need be.
    pub(crate) async fn until(&mut self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        let found = timeout(PATIENCE, async {
            loop {
                if let Some(at) = self.events[self.looked..].iter().position(&fits) {
                    self.looked += at + 1;
                    return self.events[self.looked - 1].clone();
                }
                self.looked = self.events.len();
                self.next().await;
            }
        });
        found.await.unwrap_or_else(|_| panic!("waited {} s for {what}", PATIENCE.as_secs()))
    }

    /// Reads until everything up to `sequence` is accounted for.
    pub(crate) async fn to(&mut self, sequence: u64) {
        let reached = timeout(PATIENCE, async {
            while self.position().after < sequence {
                self.next().await;
            }
        });
        reached.await.unwrap_or_else(|_| panic!("{sequence} was not reached within {} s", PATIENCE.as_secs()))
    }

    /// Reads until this many events were delivered.
    pub(crate) async fn count(&mut self, events: usize) {
        let had = timeout(PATIENCE, async {
            while self.events.len() < events {
                self.next().await;
            }
        });
        had.await.unwrap_or_else(|_| panic!("there were no {events} events within {} s", PATIENCE.as_secs()))
    }

    /// Reads until the gateway ends the stream, and says why.
    pub(crate) async fn ended(&mut self) -> Fault {
        let ended = timeout(PATIENCE, async {
            loop {
                if let Err(fault) = self.take().await {
                    return fault;
                }
            }
        });
        ended.await.unwrap_or_else(|_| panic!("the stream did not end within {} s", PATIENCE.as_secs()))
    }

    pub(crate) fn position(&self) -> Position {
        self.stream.position()
    }

    pub(crate) fn opened(&self) -> &tidegate_client::wire::StreamOpened {
        self.stream.opened()
    }

    /// How it stood when the gateway last said so.
    pub(crate) fn status(&self) -> Option<StreamStatus> {
        self.stream.status().cloned()
    }

    pub(crate) fn resume_token(&self) -> String {
        self.stream.resume_token().to_owned()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.stream.account().counts()
    }

    /// To be continued by another stream.
    pub(crate) fn account(&self) -> Account {
        self.stream.account().clone()
    }

    pub(crate) fn sequences(&self) -> Vec<u64> {
        self.events.iter().map(|event| event.sequence).collect()
    }

    async fn take(&mut self) -> Result<Message, Fault> {
        let next = timeout(PATIENCE, self.stream.next()).await;
        match next.unwrap_or_else(|_| panic!("{} got nothing for {} s", self.name, PATIENCE.as_secs())) {
            Ok(Some(message)) => {
                match &message {
                    Message::Batch(batch) => {
                        if !batch.events.is_empty() {
                            self.generations.insert(batch.generation);
                        }
                        self.events.extend(batch.events.iter().cloned());
                    }
                    Message::Gap(gap) => self.gaps.push(*gap),
                }
                Ok(message)
            }
            Ok(None) => panic!("the stream of {} ended without a word", self.name),
            Err(ClientError::Fault(fault)) => Err(*fault),
            Err(error) => panic!("{}: {error}", self.name),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.counts().closes(), "the account of {} does not close: {}", self.name, self.counts());
        }
    }
}
