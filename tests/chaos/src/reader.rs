//! One reader over all incarnations of a gateway: it resumes where its account ended, again and again, until it is told how
//! far to read, or its session is over. Knows the client library only. Invariant: its account is never begun anew.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tidegate_client::{Account, ClientError, Connect, Counts, EventStream, Start, StreamOptions};
use tokio::{sync::watch, time::sleep};

/// What all readers are told.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Orders {
    /// Another number: leave the stream and come back at once.
    pub(crate) storm: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Reader {
    pub(crate) address: String,
    pub(crate) key: String,
    pub(crate) session: String,
    pub(crate) name: String,
    pub(crate) slow: bool,
    pub(crate) orders: watch::Receiver<Orders>,
    /// Read to here and end; 0: not said yet.
    pub(crate) last: watch::Receiver<u64>,
    pub(crate) reconnects: Arc<AtomicU64>,
}

/// How a reader ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) counts: Counts,
    /// It came to the end it was told, or to its session's.
    pub(crate) complete: bool,
    pub(crate) words: String,
}

enum Why {
    Done,
    Over(String),
    Again,
    Broken(String),
}

// === impl Reader ===

impl Reader {
    pub(crate) async fn run(mut self) -> Ended {
        let mut account = Account::default();
        let mut first = true;
        loop {
            let (next, why) = self.once(account, first).await;
            account = next;
            first = first && account.position().is_none();
            let ended = |complete, words| Ended { counts: account.counts(), complete, words };
            match why {
                Why::Done => return ended(true, String::new()),
                Why::Over(reason) => return ended(true, reason),
                Why::Broken(what) => return ended(false, what),
                Why::Again => {
                    if !first {
                        self.reconnects.fetch_add(1, Ordering::Relaxed);
                    }
                    sleep(Duration::from_millis(20)).await;
                }
            }
        }
    }

    /// One connection.
    async fn once(&mut self, account: Account, first: bool) -> (Account, Why) {
        let last = *self.last.borrow();
        let had = account.position();
        if last > 0 && had.is_some_and(|position| position.after >= last) {
            return (account, Why::Done);
        }
        let client = match Connect::to(&self.address).key(&self.key).gateway().await {
            Ok(client) => client,
            Err(_nobody_there) => return (account, Why::Again),
        };
        let start = match had {
            Some(position) if !first => Start::Resume(position),
            _ => Start::Oldest,
        };
        let options = StreamOptions { reader_name: self.name.clone(), account: account.clone(), ..Default::default() };
        let opened = tokio::time::timeout(Duration::from_secs(20), client.stream(&self.session, start, options)).await;
        let stream = match opened {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return (account, verdict(&error)),
            Err(_elapsed) => return (account, Why::Again),
        };
        self.orders.mark_unchanged();
        self.read(stream).await
    }

    async fn read(&mut self, mut stream: EventStream) -> (Account, Why) {
        loop {
            let last = *self.last.borrow();
            if last > 0 && stream.position().after >= last {
                return (stream.into_account(), Why::Done);
            }
            let next = tokio::select! {
                next = stream.next() => next,
                _ = self.orders.changed() => return (stream.into_account(), Why::Again),
                _ = self.last.changed() => continue,
            };
            match next {
                Ok(Some(_)) if self.slow => sleep(Duration::from_millis(150)).await,
                Ok(Some(_)) => {}
                Ok(None) => return (stream.into_account(), Why::Again),
                Err(error) => {
                    let why = verdict(&error);
                    return (stream.into_account(), why);
                }
            }
        }
    }
}

/// Whether a reader comes back after this.
fn verdict(error: &ClientError) -> Why {
    match error {
        ClientError::Violation(violation) => Why::Broken(violation.to_string()),
        ClientError::Fault(fault) => match fault.reason.as_str() {
            reason @ ("session.faulted"
            | "session.unknown"
            | "session.not_permitted"
            | "session.closed"
            | "stream.session_ended") => Why::Over(reason.to_owned()),
            reason @ "stream.position_beyond_head" => Why::Broken(reason.to_owned()),
            _ => Why::Again,
        },
        _ => Why::Again,
    }
}
