//! Bulk commands, which MXAccess itself does not have: loops over its methods with a result for each element.
//! Invariants: one bad element never fails the rest; results keep the order of the elements; items that a read made are gone
//! when it is answered, and no event told of them.

use super::{
    PipeEnded, Sim,
    commands::{Raised, failed},
    items::{self, ItemRef, Sample},
};
use std::{collections::HashMap, time::Duration};
use tidegate_proto::v1::{
    AddItemBulk, BulkResult, BulkResults, CommandResult, MxStatus, ReadBulk, SourceTime, SubscribeBulk, Value,
    WriteBulk, command_result::Result as Returned,
};
use tokio::time::Instant;

/// HRESULT_FROM_WIN32(ERROR_TIMEOUT).
const TIMED_OUT: i32 = 0x8007_05B4_u32 as i32;
/// A read without a timeout; a fresh client's first data change takes 3 to 8 s (mxaccess.md, surprise 5).
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest timeout; the gateway gives up on the command long before.
const READ_TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// A ReadBulk that waits for first values.
#[derive(Debug)]
pub(super) struct Reading {
    id: u64,
    server: i32,
    parts: Vec<Part>,
    timeout: Duration,
    deadline: Instant,
}

#[derive(Debug)]
enum Part {
    Done(BulkResult),
    Waiting { item: ItemRef, handle: i32 },
}

// === impl Reading ===

impl Reading {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }
}

// === impl Sim ===

impl Sim {
    pub(super) fn subscribe_bulk(&mut self, call: SubscribeBulk) -> Result<Returned, Raised> {
        let server = call.server_handle;
        self.server(server)?;
        let results = call.definitions.into_iter().map(|definition| {
            let added = self.add_item(server, definition, String::new(), false);
            let advised = added.and_then(|(handle, key)| self.advise(server, handle).map(|_| (handle, key)));
            match advised {
                Ok((item_handle, item_key)) => BulkResult { item_handle, item_key, ..BulkResult::default() },
                Err(raised) => failed(raised),
            }
        });
        Ok(Returned::Bulk(BulkResults { results: results.collect() }))
    }

    pub(super) fn write_bulk(&mut self, call: WriteBulk) -> Result<Returned, Raised> {
        let writes = call.writes.into_iter().map(|one| (one.item_handle, one.value, None, None));
        self.each_write(call.server_handle, writes)
    }

    pub(super) fn add_item_bulk(&mut self, call: AddItemBulk) -> Result<Returned, Raised> {
        let server = call.server_handle;
        self.server(server)?;
        let results =
            call.items.into_iter().map(|one| match self.add_item(server, one.definition, one.context, one.buffered) {
                Ok((item_handle, item_key)) => BulkResult { item_handle, item_key, ..BulkResult::default() },
                Err(raised) => failed(raised),
            });
        Ok(Returned::Bulk(BulkResults { results: results.collect() }))
    }

    /// One method for each handle; what it answers, if anything, is the element's status.
    pub(super) fn each_item(
        &mut self,
        server: i32,
        handles: &[i32],
        mut call: impl FnMut(&mut Self, i32) -> Result<Option<MxStatus>, Raised>,
    ) -> Result<Returned, Raised> {
        self.server(server)?;
        let results = handles.iter().map(|&item_handle| {
            // Asked before, since the item may be gone after.
            let named = BulkResult { item_handle, ..self.named(server, item_handle) };
            match call(self, item_handle) {
                Ok(status) => BulkResult { statuses: status.into_iter().collect(), ..named },
                Err(raised) => failed(raised),
            }
        });
        Ok(Returned::Bulk(BulkResults { results: results.collect() }))
    }

    /// Handle, value, time, and who writes and verifies.
    pub(super) fn each_write(
        &mut self,
        server: i32,
        writes: impl Iterator<Item = (i32, Option<Value>, Option<SourceTime>, Option<(i32, i32)>)>,
    ) -> Result<Returned, Raised> {
        self.server(server)?;
        let results =
            writes.map(|(item_handle, value, time, users)| match self.write(server, item_handle, value, time, users) {
                Ok(()) => BulkResult { item_handle, ..self.named(server, item_handle) },
                Err(raised) => failed(raised),
            });
        Ok(Returned::Bulk(BulkResults { results: results.collect() }))
    }

    /// Answers what is known already and asks for the rest; `finish_reading` answers.
    pub(super) fn begin_read(&mut self, id: u64, call: ReadBulk) -> Result<(), Raised> {
        let server = call.server_handle;
        self.server(server)?;
        let advised =
            self.tables.all().filter(|(_, item)| item.server == server && item.advised && item.last.is_some());
        let advised: HashMap<String, ItemRef> =
            advised.map(|(at, item)| (items::tag(&item.definition, &item.context), at)).collect();
        let parts = call.definitions.into_iter().map(|definition| {
            if let Some(item) = advised.get(&definition).and_then(|at| self.tables.get(*at)) {
                let named = BulkResult { item_handle: item.handle, item_key: item.key, ..BulkResult::default() };
                return Part::Done(valued(named, item.last.clone()));
            }
            let begun = self.add_item(server, definition, String::new(), false).and_then(|(handle, _)| {
                let at = self.find(server, handle)?;
                if let Some(item) = self.tables.get(at) {
                    item.hidden = true;
                }
                self.advise(server, handle)?;
                Ok(Part::Waiting { item: at, handle })
            });
            begun.unwrap_or_else(|raised| Part::Done(failed(raised)))
        });
        let parts = parts.collect();
        let timeout = match call.timeout_ms {
            0 => READ_TIMEOUT,
            ms => Duration::from_millis(ms.into()).min(READ_TIMEOUT_MAX),
        };
        self.reading = Some(Reading { id, server, parts, timeout, deadline: Instant::now() + timeout });
        Ok(())
    }

    /// Answers the read in hand when all values are there or its time is up.
    pub(super) async fn finish_reading(&mut self, now: Instant) -> Result<(), PipeEnded> {
        let Some(reading) = &self.reading else { return Ok(()) };
        let tables = &mut self.tables;
        let mut waits = |part: &Part| match part {
            Part::Done(_) => false,
            Part::Waiting { item, .. } => tables.get(*item).is_some_and(|item| item.last.is_none()),
        };
        if now < reading.deadline && reading.parts.iter().any(&mut waits) {
            return Ok(());
        }
        let Some(Reading { id, server, parts, timeout, .. }) = self.reading.take() else { return Ok(()) };
        let results = parts.into_iter().map(|part| match part {
            Part::Done(result) => result,
            Part::Waiting { item, handle } => {
                let last = self.tables.get(item).and_then(|item| item.last.take());
                self.tables.remove(server, handle);
                let late = || Raised { hresult: TIMED_OUT, message: format!("no value came within {timeout:?}") };
                last.map_or_else(|| failed(late()), |last| valued(BulkResult::default(), Some(last)))
            }
        });
        let bulk = Returned::Bulk(BulkResults { results: results.collect() });
        let result = CommandResult { hresult: 0, message: String::new(), result: Some(bulk) };
        self.answer(id, result).await
    }

    fn named(&mut self, server: i32, handle: i32) -> BulkResult {
        let item = self.tables.find(server, handle).and_then(|at| self.tables.get(at));
        BulkResult { item_key: item.map_or(0, |item| item.key), ..BulkResult::default() }
    }
}

fn valued(result: BulkResult, last: Option<Sample>) -> BulkResult {
    let Some(Sample { value, quality, time, status }) = last else { return result };
    BulkResult { value: Some(value), quality, time: Some(time), statuses: vec![status], ..result }
}
