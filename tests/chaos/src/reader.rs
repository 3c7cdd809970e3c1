//! One reader over all incarnations of a gateway: it resumes where its account ended, again and again, until it is told how
//! far to read, or its session is over. Knows the client library only. Invariant: its account is never begun anew.

use crate::plan::Dice;
use std::time::{Duration, Instant};
use tidegate_client::{
    Account, ClientError, Connect, Counts, EventStream, Message, Start, StreamOptions,
    wire::{event::Body, gap::Reason},
};
use tokio::{sync::watch, time::sleep};

/// Events that a worker keeps at least for a gateway that comes back (semantics.md, Workers).
const TAIL_EVENTS: u64 = 1_024;
/// Between two tries while nobody answers.
const PAUSE: Duration = Duration::from_millis(20);
/// For an answer of a gateway that may be stalled.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// What a reader is and is told.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    /// Where the gateway is, as far as known.
    pub(crate) address: watch::Receiver<String>,
    pub(crate) key: String,
    pub(crate) session: String,
    pub(crate) name: String,
    /// Takes naps, of which this is the seed; `None`: reads as fast as it can.
    pub(crate) naps: Option<u64>,
    /// Another number: leave the stream and come back at once.
    pub(crate) storm: watch::Receiver<u64>,
    /// Read to here and end; 0: not said yet.
    pub(crate) last: watch::Receiver<u64>,
}

/// What it shows while it reads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shown {
    pub(crate) opened_at: Option<Instant>,
    pub(crate) opened: u64,
    /// OnWriteComplete events.
    pub(crate) writes: u64,
}

/// How a reader ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    pub(crate) counts: Counts,
    /// Everything up to here is accounted for.
    pub(crate) after: u64,
    /// Why the session is over for it; `None`: it came to the end it was told.
    pub(crate) over: Option<String>,
    /// What the gateway did wrong.
    pub(crate) broken: Option<String>,
    /// Gaps after a restart over what the worker's tail must have had.
    pub(crate) early_gaps: u64,
    /// OnWriteComplete events.
    pub(crate) writes: u64,
}

enum Why {
    Done,
    Over(String),
    Again,
    Broken(String),
}

// === impl Reader ===

impl Reader {
    pub(crate) async fn run(mut self, shown: watch::Sender<Shown>) -> Ended {
        let mut account = Account::default();
        let mut ended = Ended::default();
        let mut dice = Dice::new(self.naps.unwrap_or_default());
        loop {
            let (next, why) = self.once(account, &shown, &mut ended, &mut dice).await;
            account = next;
            match why {
                Why::Again => {
                    sleep(PAUSE).await;
                    continue;
                }
                Why::Done => {}
                Why::Over(reason) => ended.over = Some(reason),
                Why::Broken(what) => ended.broken = Some(what),
            }
            ended.counts = account.counts();
            ended.after = account.position().map_or(0, |position| position.after);
            ended.writes = shown.borrow().writes;
            return ended;
        }
    }

    /// One connection.
    async fn once(
        &mut self,
        account: Account,
        shown: &watch::Sender<Shown>,
        ended: &mut Ended,
        dice: &mut Dice,
    ) -> (Account, Why) {
        let last = *self.last.borrow();
        let had = account.position();
        if last > 0 && had.is_some_and(|position| position.after >= last) {
            return (account, Why::Done);
        }
        let address = self.address.borrow_and_update().clone();
        self.storm.mark_unchanged();
        let start = had.map_or(Start::Oldest, Start::Resume);
        let options = StreamOptions { reader_name: self.name.clone(), account: account.clone(), ..Default::default() };
        let opening = async {
            let client = Connect::to(&address).key(&self.key).gateway().await?;
            client.stream(&self.session, start, options).await
        };
        let stream = match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return (account, verdict(&error)),
            Err(_elapsed) => return (account, Why::Again),
        };
        shown.send_modify(|shown| {
            shown.opened_at = Some(Instant::now());
            shown.opened += 1;
        });
        self.read(stream, shown, ended, dice).await
    }

    async fn read(
        &mut self,
        mut stream: EventStream,
        shown: &watch::Sender<Shown>,
        ended: &mut Ended,
        dice: &mut Dice,
    ) -> (Account, Why) {
        let mut first = true;
        loop {
            let last = *self.last.borrow();
            if last > 0 && stream.position().after >= last {
                return (stream.into_account(), Why::Done);
            }
            let next = tokio::select! {
                next = stream.next() => next,
                // A stalled gateway that was followed by another one says nothing for long.
                _ = self.address.changed() => return (stream.into_account(), Why::Again),
                _ = self.storm.changed() => return (stream.into_account(), Why::Again),
                _ = self.last.changed() => continue,
            };
            match next {
                Ok(Some(Message::Gap(gap))) if first => {
                    let kept = stream.opened().head < gap.to + TAIL_EVENTS;
                    ended.early_gaps += u64::from(gap.reason() == Reason::Restarted && kept);
                }
                Ok(Some(Message::Gap(_))) => {}
                Ok(Some(Message::Batch(batch))) => {
                    let written = |body: &Option<Body>| matches!(body, Some(Body::WriteComplete(_)));
                    let writes = batch.events.iter().filter(|event| written(&event.body)).count() as u64;
                    if writes > 0 {
                        shown.send_modify(|shown| shown.writes += writes);
                    }
                }
                Ok(None) => return (stream.into_account(), Why::Again),
                Err(error) => {
                    let why = verdict(&error);
                    return (stream.into_account(), why);
                }
            }
            first = false;
            if self.naps.is_some() && *self.last.borrow() == 0 {
                // Mostly a little slow; now and then long enough for a gap.
                let ms = if dice.below(50) == 0 { dice.below(15_000) } else { dice.below(200) };
                let told = self.last.wait_for(|last| *last > 0);
                drop(tokio::time::timeout(Duration::from_millis(ms), told).await);
            }
        }
    }
}

/// Whether a reader comes back after this.
fn verdict(error: &ClientError) -> Why {
    match error {
        ClientError::Violation(violation) => Why::Broken(violation.to_string()),
        ClientError::Fault(fault) => match fault.reason.as_str() {
            reason @ ("session.faulted" | "session.unknown" | "session.closed" | "stream.session_ended") => {
                Why::Over(reason.to_owned())
            }
            // The first key sees every session, so this is nobody's answer to it.
            reason @ ("stream.position_beyond_head" | "session.not_permitted" | "internal") => {
                Why::Broken(format!("{reason}: {}", fault.message))
            }
            _ => Why::Again,
        },
        _ => Why::Again,
    }
}
