//! The methods of MXAccess, as far as they only look at or change the tables. Knows no pipe. Invariant: nothing here
//! waits; what a method causes later is a timer.

use super::{
    BACKEND, Due, LATER_CHANGE_MS, OK, OPERATION, PENDING, Sim,
    items::{self, ItemRef, Kind},
};
use std::time::Duration;
use tidegate_proto::v1::{
    self, Command, CommandResult, ItemAdded, MxStatus, SessionState, WorkerInfo, command::Method,
    command_result::Result as Returned, session_state,
};

const INVALID_ARGUMENT: i32 = 0x8007_0057_u32 as i32;
const ACCESS_DENIED: i32 = 0x8007_0005_u32 as i32;
/// Longest definition with its context, in bytes. (Guessed; AVEVA's names end far below.)
const TAG_MAX: usize = 1_024;

/// A method that raised.
#[derive(Debug)]
pub(super) struct Raised {
    pub(super) hresult: i32,
    pub(super) message: String,
}

// === impl Raised ===

impl Raised {
    pub(super) fn argument(message: impl Into<String>) -> Self {
        Self { hresult: INVALID_ARGUMENT, message: message.into() }
    }

    fn denied(message: &str) -> Self {
        Self { hresult: ACCESS_DENIED, message: message.to_owned() }
    }

    fn no_server(handle: i32) -> Self {
        Self::argument(format!("there is no server handle {handle}"))
    }
}

// === impl Sim ===

impl Sim {
    /// Runs one method; `None` when its answer comes later (ReadBulk).
    pub(super) fn execute(&mut self, id: u64, command: Command) -> Option<CommandResult> {
        let done = match command.method {
            None => Err(Raised::argument("the command names no method")),
            Some(Method::ReadBulk(read)) => match self.begin_read(id, read) {
                Ok(()) => return None,
                Err(raised) => Err(raised),
            },
            Some(method) => self.call(method),
        };
        Some(match done {
            Ok(result) => CommandResult { hresult: 0, message: String::new(), result },
            Err(Raised { hresult, message }) => CommandResult { hresult, message, result: None },
        })
    }

    fn call(&mut self, method: Method) -> Result<Option<Returned>, Raised> {
        Ok(match method {
            Method::Register(call) => Some(Returned::ServerHandle(self.tables.register(call.client_name))),
            Method::Unregister(call) => {
                if !self.tables.unregister(call.server_handle) {
                    return Err(Raised::no_server(call.server_handle));
                }
                self.buffered_at.remove(&call.server_handle);
                None
            }
            Method::AddItem(call) => {
                Some(added(self.add_item(call.server_handle, call.definition, String::new(), false)?))
            }
            Method::AddItem2(call) => {
                Some(added(self.add_item(call.server_handle, call.definition, call.context, false)?))
            }
            Method::AddBufferedItem(call) => {
                Some(added(self.add_item(call.server_handle, call.definition, call.context, true)?))
            }
            Method::RemoveItem(call) => {
                self.remove_item(call.server_handle, call.item_handle)?;
                None
            }
            Method::Advise(call) => self.advise(call.server_handle, call.item_handle)?,
            Method::AdviseSupervisory(call) => self.advise(call.server_handle, call.item_handle)?,
            Method::UnAdvise(call) => {
                self.un_advise(call.server_handle, call.item_handle)?;
                None
            }
            Method::Write(call) => {
                self.write(call.server_handle, call.item_handle, call.value, None, None)?;
                None
            }
            Method::Write2(call) => {
                self.write(call.server_handle, call.item_handle, call.value, call.time, None)?;
                None
            }
            Method::WriteSecured(call) => {
                let users = (call.current_user_id, call.verifier_user_id);
                self.write(call.server_handle, call.item_handle, call.value, None, Some(users))?;
                None
            }
            Method::WriteSecured2(call) => {
                let users = (call.current_user_id, call.verifier_user_id);
                self.write(call.server_handle, call.item_handle, call.value, call.time, Some(users))?;
                None
            }
            Method::AuthenticateUser(call) => {
                self.server(call.server_handle)?;
                let known = self
                    .settings
                    .users
                    .iter()
                    .position(|user| user.name == call.user && user.password == call.password);
                Some(user_id(known.ok_or_else(|| Raised::denied("the user or the password is wrong"))?))
            }
            Method::ArchestraUserToId(call) => {
                self.server(call.server_handle)?;
                let known = self
                    .settings
                    .users
                    .iter()
                    .position(|user| !user.guid.is_empty() && user.guid.eq_ignore_ascii_case(&call.user_guid));
                Some(user_id(known.ok_or_else(|| Raised::argument("there is no user of this GUID"))?))
            }
            Method::Suspend(call) => {
                Some(Returned::Status(self.suspend(call.server_handle, call.item_handle, true)?))
            }
            Method::Activate(call) => {
                Some(Returned::Status(self.suspend(call.server_handle, call.item_handle, false)?))
            }
            Method::SetBufferedUpdateInterval(call) => {
                let interval = u32::try_from(call.interval_ms).ok().filter(|&ms| ms > 0);
                let interval = interval.ok_or_else(|| Raised::argument("the interval must be above 0"))?;
                let server = self.tables.servers.get_mut(&call.server_handle);
                server.ok_or_else(|| Raised::no_server(call.server_handle))?.buffered_interval_ms = interval;
                None
            }
            Method::GetSessionState(_) => Some(Returned::SessionState(self.session_state())),
            Method::GetWorkerInfo(_) => Some(Returned::WorkerInfo(WorkerInfo {
                pid: std::process::id(),
                backend: BACKEND.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                events: self.outbox.head(),
                uptime_ms: self.vitals.uptime_ms(),
            })),
            Method::SubscribeBulk(call) => Some(self.subscribe_bulk(call)?),
            Method::WriteBulk(call) => Some(self.write_bulk(call)?),
            Method::AddItemBulk(call) => Some(self.add_item_bulk(call)?),
            Method::AdviseBulk(call) => {
                let advise = |sim: &mut Self, item| sim.advise(call.server_handle, item).map(|_| None);
                Some(self.each_item(call.server_handle, &call.item_handles, advise)?)
            }
            Method::UnAdviseBulk(call) => {
                let un_advise = |sim: &mut Self, item| sim.un_advise(call.server_handle, item).map(|()| None);
                Some(self.each_item(call.server_handle, &call.item_handles, un_advise)?)
            }
            Method::RemoveItemBulk(call) => {
                let remove = |sim: &mut Self, item| sim.remove_item(call.server_handle, item).map(|()| None);
                Some(self.each_item(call.server_handle, &call.item_handles, remove)?)
            }
            Method::UnsubscribeBulk(call) => {
                let unsubscribe = |sim: &mut Self, item| {
                    sim.un_advise(call.server_handle, item)?;
                    sim.remove_item(call.server_handle, item).map(|()| None)
                };
                Some(self.each_item(call.server_handle, &call.item_handles, unsubscribe)?)
            }
            Method::SuspendBulk(call) => {
                let suspend = |sim: &mut Self, item| sim.suspend(call.server_handle, item, true).map(Some);
                Some(self.each_item(call.server_handle, &call.item_handles, suspend)?)
            }
            Method::ActivateBulk(call) => {
                let activate = |sim: &mut Self, item| sim.suspend(call.server_handle, item, false).map(Some);
                Some(self.each_item(call.server_handle, &call.item_handles, activate)?)
            }
            Method::Write2Bulk(call) => {
                let writes = call.writes.into_iter().map(|one| (one.item_handle, one.value, one.time, None));
                Some(self.each_write(call.server_handle, writes)?)
            }
            Method::WriteSecuredBulk(call) => {
                let users = |one: &v1::write_secured_bulk::One| Some((one.current_user_id, one.verifier_user_id));
                let writes = call.writes.into_iter().map(|one| (one.item_handle, users(&one), one.value));
                Some(
                    self.each_write(call.server_handle, writes.map(|(item, users, value)| (item, value, None, users)))?,
                )
            }
            Method::WriteSecured2Bulk(call) => {
                let writes = call.writes.into_iter().map(|one| {
                    (one.item_handle, one.value, one.time, Some((one.current_user_id, one.verifier_user_id)))
                });
                Some(self.each_write(call.server_handle, writes)?)
            }
            Method::AcknowledgeAlarms(call) => Some(Returned::Bulk(self.alarms.acknowledge(&call))),
            // `execute` has taken it out.
            Method::ReadBulk(_) => None,
        })
    }

    pub(super) fn find(&self, server: i32, item: i32) -> Result<ItemRef, Raised> {
        self.server(server)?;
        let found = self.tables.find(server, item);
        found.ok_or_else(|| Raised::argument(format!("server {server} has no item handle {item}")))
    }

    pub(super) fn server(&self, handle: i32) -> Result<&items::Server, Raised> {
        self.tables.servers.get(&handle).ok_or_else(|| Raised::no_server(handle))
    }

    /// Handle and key of the new item.
    pub(super) fn add_item(
        &mut self,
        server: i32,
        definition: String,
        context: String,
        buffered: bool,
    ) -> Result<(i32, u64), Raised> {
        self.server(server)?;
        let tag = items::tag(&definition, &context);
        if definition.is_empty() || tag.len() > TAG_MAX {
            return Err(Raised::argument(format!("a definition has 1 to {TAG_MAX} bytes")));
        }
        if items::under(&tag, "Denied") {
            return Err(Raised::denied("access is denied: there is no licence for this item"));
        }
        let mut kind = items::kind(&tag, &self.settings, &self.replay.history);
        if let (Kind::Setpoint { value, .. }, Some(written)) = (&mut kind, self.setpoints.get(&tag)) {
            value.clone_from(written);
        }
        let item = self.tables.add(server, definition, context, kind).ok_or_else(|| Raised::no_server(server))?;
        item.buffered = buffered;
        Ok((item.handle, item.key))
    }

    /// Advise and AdviseSupervisory differ in which writes they allow in a real galaxy, and in nothing here.
    pub(super) fn advise(&mut self, server: i32, item: i32) -> Result<Option<Returned>, Raised> {
        let at = self.find(server, item)?;
        let first_change_ms = self.settings.first_change_ms;
        let Some(item) = self.tables.get(at).filter(|item| !item.advised) else { return Ok(None) };
        item.advised = true;
        item.advises += 1;
        let advises = item.advises;
        let delay = if item.known { first_change_ms.min(LATER_CHANGE_MS) } else { first_change_ms };
        let begins = matches!(item.kind, Kind::Replay(_)) && !item.hidden && !self.settings.hold;
        self.tables.changed = true;
        let delay = Duration::from_millis(delay.into());
        self.after(delay, Due::First { item: at, advises });
        if begins {
            self.after(delay, Due::ReplayStart);
        }
        Ok(None)
    }

    fn un_advise(&mut self, server: i32, item: i32) -> Result<(), Raised> {
        let at = self.find(server, item)?;
        if let Some(item) = self.tables.get(at) {
            item.advised = false;
            item.suspended = false;
            item.buffer.clear();
        }
        self.tables.changed = true;
        Ok(())
    }

    fn remove_item(&mut self, server: i32, item: i32) -> Result<(), Raised> {
        self.find(server, item)?;
        self.tables.remove(server, item);
        Ok(())
    }

    fn suspend(&mut self, server: i32, item: i32, suspended: bool) -> Result<MxStatus, Raised> {
        let at = self.find(server, item)?;
        if let Some(item) = self.tables.get(at) {
            if !suspended && !item.suspended {
                return Ok(OK);
            }
            item.suspended = suspended;
        }
        self.tables.changed = true;
        self.after(OPERATION, Due::Operation { item: at });
        Ok(PENDING)
    }

    fn session_state(&self) -> SessionState {
        let item = |slot: &usize| {
            self.tables.items[*slot].as_ref().map(|item| session_state::ItemState {
                item_handle: item.handle,
                item_key: item.key,
                definition: item.definition.clone(),
                context: item.context.clone(),
                advised: item.advised,
                suspended: item.suspended,
                buffered: item.buffered,
            })
        };
        let servers = self.tables.servers.iter().map(|(&server_handle, server)| session_state::ServerState {
            server_handle,
            client_name: server.client_name.clone(),
            items: server.items.values().filter_map(item).collect(),
        });
        SessionState { epoch: self.epoch, head: self.outbox.head(), servers: servers.collect() }
    }
}

fn added((item_handle, item_key): (i32, u64)) -> Returned {
    Returned::Item(ItemAdded { item_handle, item_key })
}

fn user_id(position: usize) -> Returned {
    Returned::UserId(position as i32 + 1)
}

/// A result of one element of a bulk command.
pub(super) fn failed(raised: Raised) -> v1::BulkResult {
    v1::BulkResult { hresult: raised.hresult, message: raised.message, ..v1::BulkResult::default() }
}
