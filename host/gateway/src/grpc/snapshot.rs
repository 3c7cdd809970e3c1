//! Snapshots: the last value of each item that a caller may see, whole or in parts. Knows the log's values and verdicts.
//! Invariants: all values are as of one sequence and of one generation; no part is handed over once that generation, the keys
//! or the items have changed.

use super::status::status;
use crate::{
    error::{Code, Error, Result},
    policies::{Policies, Rate},
    sessions::{
        Caller, Session, Sessions,
        verdicts::{self, Stamp},
    },
};
use prost::Message as _;
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tidegate_proto::v1::{Event, SnapshotItem, SnapshotPart, SnapshotResponse};
use tokio_stream::Stream;
use tonic::Status;

/// A part ends with the item that takes it to either. Far below the 4 MiB that clients take by default.
const PART_ITEMS: usize = 4_096;
const PART_BYTES: usize = 512 << 10;

/// A snapshot that was taken, and what it holds by.
pub(super) struct Taken {
    session: Arc<Session>,
    policies: Policies,
    stamp: Stamp,
    as_of: u64,
    /// By item key.
    items: Vec<SnapshotItem>,
}

/// A snapshot on its way, part by part as the connection takes them.
pub(super) struct Parts {
    taken: Taken,
    /// Items handed over.
    sent: usize,
    over: bool,
}

/// Takes the values between two equal looks at the stamp, so that they are of one generation.
pub(super) async fn take(sessions: &Sessions, caller: &Caller, session: &str) -> Result<Taken> {
    let session = sessions.get(caller, session)?;
    session.check_ready()?;
    session.touch();
    let policies = sessions.policies();
    policies.admit(&caller.principal(), &caller.key.id, Rate::Snapshot).await?;
    let class = session.class(caller);
    loop {
        let seen = verdicts::fresh(&class, &session, policies).await?;
        let snapshot = session.log.snapshot();
        let mut items: Vec<SnapshotItem> = session.with_items(|items| {
            items
                .iter_live()
                .filter(|item| seen.sees(item.key))
                .map(|item| SnapshotItem {
                    item_key: item.key,
                    server_handle: item.server_handle,
                    item_handle: item.item_handle,
                    tag: item.tag.to_string(),
                    last: None,
                })
                .collect()
        });
        for item in &mut items {
            item.last = snapshot.values.get(&item.item_key).and_then(|value| decode(&value.event));
        }
        if session.stamp(policies) == seen.stamp {
            items.sort_by_key(|item| item.item_key);
            let (policies, stamp, as_of) = (policies.clone(), seen.stamp, snapshot.as_of);
            return Ok(Taken { session, policies, stamp, as_of, items });
        }
    }
}

// === impl Taken ===

impl Taken {
    pub(super) fn whole(self) -> SnapshotResponse {
        let epoch = self.session.identity.epoch;
        SnapshotResponse { epoch, as_of: self.as_of, generation: self.stamp.generation, items: self.items }
    }

    pub(super) fn parts(self) -> Parts {
        Parts { taken: self, sent: 0, over: false }
    }
}

// === impl Parts ===

impl Stream for Parts {
    type Item = Result<SnapshotPart, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let parts = self.get_mut();
        if parts.over {
            return Poll::Ready(None);
        }
        let taken = &mut parts.taken;
        if taken.session.stamp(&taken.policies) != taken.stamp {
            parts.over = true;
            let error = Error::new(Code::SnapshotSuperseded, "rights or items changed while the snapshot was sent");
            return Poll::Ready(Some(Err(status(&error))));
        }
        let mut bytes = 0;
        let rest = &mut taken.items[parts.sent..];
        let mut fits = |item: &SnapshotItem| {
            let before = bytes;
            bytes += item.encoded_len();
            before < PART_BYTES
        };
        let count = rest.iter().take(PART_ITEMS).take_while(|item| fits(item)).count();
        let items = rest[..count].iter_mut().map(std::mem::take).collect();
        parts.sent += count;
        parts.over = parts.sent == taken.items.len();
        Poll::Ready(Some(Ok(SnapshotPart {
            epoch: taken.session.identity.epoch,
            as_of: taken.as_of,
            generation: taken.stamp.generation,
            items,
            last: parts.over,
        })))
    }
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("sent", &self.sent).field("of", &self.taken.items.len()).finish_non_exhaustive()
    }
}

/// The log indexed these bytes, so they are an event; were they not, the item would show no value.
fn decode(bytes: &[u8]) -> Option<Event> {
    Event::decode(bytes).ok()
}
