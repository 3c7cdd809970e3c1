//! A reader of a story. Invariant: a violation of its account ends the story where it happens, and an
//! account that does not close ends it when the reader is dropped.

use super::PATIENCE;
use std::collections::BTreeSet;
use tidegate_client::{
    Account, ClientError, Counts, EventStream, Fault, Message, Position,
    wire::{Event, EventBatch, Gap},
};
use tokio::time::timeout;

/// A stream and what was seen of it.
pub struct Reader {
    name: String,
    stream: EventStream,
    /// Everything that was delivered.
    pub events: Vec<Event>,
    pub gaps: Vec<Gap>,
    /// Generations of the batches that carried events.
    pub generations: BTreeSet<u64>,
}

// === impl Reader ===

impl Reader {
    pub fn new(name: &str, stream: EventStream) -> Self {
        Self { name: name.into(), stream, events: Vec::new(), gaps: Vec::new(), generations: BTreeSet::new() }
    }

    /// The next message, which must come, and must not be the end.
    pub async fn next(&mut self) -> Message {
        match self.take().await {
            Ok(message) => message,
            Err(fault) => panic!("the stream of {} was ended: {fault}", self.name),
        }
    }

    /// The next batch; gaps before it are noted.
    pub async fn batch(&mut self) -> EventBatch {
        loop {
            if let Message::Batch(batch) = self.next().await {
                return batch;
            }
        }
    }

    /// Reads until an event fits, and returns it.
    pub async fn until(&mut self, what: &str, mut fits: impl FnMut(&Event) -> bool) -> Event {
        let found = timeout(PATIENCE, async {
            loop {
                let batch = self.batch().await;
                if let Some(found) = batch.events.into_iter().find(&mut fits) {
                    return found;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("{} waited {} s for {what}", self.name, PATIENCE.as_secs()))
    }

    /// Reads until everything up to `sequence` is accounted for.
    pub async fn to(&mut self, sequence: u64) {
        while self.position().after < sequence {
            self.next().await;
        }
    }

    /// Reads until this many events were delivered.
    pub async fn count(&mut self, events: usize) {
        while self.events.len() < events {
            self.next().await;
        }
    }

    /// Reads until the gateway ends the stream, and says why.
    pub async fn ended(&mut self) -> Fault {
        loop {
            if let Err(fault) = self.take().await {
                return fault;
            }
        }
    }

    pub fn position(&self) -> Position {
        self.stream.position()
    }

    pub fn opened(&self) -> &tidegate_client::wire::StreamOpened {
        self.stream.opened()
    }

    pub fn counts(&self) -> Counts {
        self.stream.account().counts()
    }

    /// To be continued by another stream.
    pub fn account(&self) -> Account {
        self.stream.account().clone()
    }

    pub fn sequences(&self) -> Vec<u64> {
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
