//! One writer of a session: one write after the other, over all incarnations of a gateway, each with what its caller knows
//! of it afterwards. Knows the client library only. Invariant: a write whose caller cannot know is never sent again.

use std::time::Duration;
use tidegate_client::{
    ClientError, Connect, Gateway as Client,
    wire::{Value, value::Kind},
};
use tokio::{sync::watch, time::sleep};

/// Between two writes, and between two tries while nobody answers. So few that their completions fit into the account.
const PAUSE: Duration = Duration::from_millis(100);
/// For an answer of a gateway that may be stalled.
const TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Clone, Debug)]
pub(crate) struct Writer {
    pub(crate) address: watch::Receiver<String>,
    pub(crate) key: String,
    pub(crate) session: String,
    pub(crate) server: i32,
    pub(crate) item: i32,
    /// True: no more writes.
    pub(crate) stop: watch::Receiver<bool>,
}

/// What became of its writes, as far as their caller knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Writes {
    pub(crate) acknowledged: u64,
    /// The connection broke, or the gateway said that it cannot know.
    pub(crate) unknown: u64,
    pub(crate) refused: u64,
}

// === impl Writer ===

impl Writer {
    pub(crate) async fn run(mut self) -> Writes {
        let mut writes = Writes::default();
        let mut client: Option<Client> = None;
        while !*self.stop.borrow() {
            // Told to stop while it waits: at once.
            drop(tokio::time::timeout(PAUSE, self.stop.wait_for(|stop| *stop)).await);
            if *self.stop.borrow() {
                break;
            }
            let Some(connected) = client.take() else {
                let address = self.address.borrow_and_update().clone();
                client = Connect::to(&address).key(&self.key).gateway().await.ok();
                continue;
            };
            let value = Value { kind: Some(Kind::Double(writes.acknowledged as f64)), data_type: 0 };
            let write = connected.write(&self.session, self.server, self.item, value, 0);
            let written = tokio::time::timeout(TIMEOUT, write).await;
            match written {
                Ok(Ok(())) => writes.acknowledged += 1,
                Ok(Err(error)) if was_refused(&error) => {
                    writes.refused += 1;
                    sleep(PAUSE).await;
                }
                Ok(Err(_)) | Err(_) => {
                    writes.unknown += 1;
                    continue;
                }
            }
            client = Some(connected);
        }
        writes
    }
}

/// The worker never had it, or said that it did nothing.
fn was_refused(error: &ClientError) -> bool {
    let unknown = ["", "command.outcome_unknown", "command.timeout", "internal"];
    match error {
        ClientError::Connect { .. } | ClientError::Usage(_) => true,
        ClientError::Fault(fault) => !unknown.contains(&fault.reason.as_str()),
        _ => false,
    }
}
