//! What the gateway must know of a command before and after the worker has it: its name, the tags it
//! is about, its size, and what its result means for the item table. Executes nothing.

use super::{
    alarms,
    items::{Item, Items},
};
use crate::error::{Code, Error, Result};
use std::sync::Arc;
use tidegate_proto::v1::{
    BulkResult, Command, CommandResult, SessionState, add_item_bulk::One as AddOne, command::Method, command_result,
};

/// Longest tag or definition, characters. MXAccess references are at most 329 characters; guessed up.
pub const TAG_CHARS_MAX: usize = 512;

/// The name metrics use for a method: its field's in the contract.
pub fn label(method: &Method) -> String {
    match method {
        Method::AcknowledgeAlarms(_) => "acknowledge_alarms".to_owned(),
        other => name(other).replace('-', "_"),
    }
}

/// The name policies and logs use for a method.
pub fn name(method: &Method) -> &'static str {
    match method {
        Method::Register(_) => "register",
        Method::Unregister(_) => "unregister",
        Method::AddItem(_) => "add-item",
        Method::AddItem2(_) => "add-item2",
        Method::RemoveItem(_) => "remove-item",
        Method::Advise(_) => "advise",
        Method::AdviseSupervisory(_) => "advise-supervisory",
        Method::UnAdvise(_) => "un-advise",
        Method::Write(_) => "write",
        Method::Write2(_) => "write2",
        Method::WriteSecured(_) => "write-secured",
        Method::WriteSecured2(_) => "write-secured2",
        Method::AuthenticateUser(_) => "authenticate-user",
        Method::ArchestraUserToId(_) => "archestra-user-to-id",
        Method::Suspend(_) => "suspend",
        Method::Activate(_) => "activate",
        Method::AddBufferedItem(_) => "add-buffered-item",
        Method::SetBufferedUpdateInterval(_) => "set-buffered-update-interval",
        Method::GetSessionState(_) => "get-session-state",
        Method::GetWorkerInfo(_) => "get-worker-info",
        Method::SubscribeBulk(_) => "subscribe-bulk",
        Method::ReadBulk(_) => "read-bulk",
        Method::WriteBulk(_) => "write-bulk",
        Method::AddItemBulk(_) => "add-item-bulk",
        Method::AdviseBulk(_) => "advise-bulk",
        Method::UnAdviseBulk(_) => "un-advise-bulk",
        Method::RemoveItemBulk(_) => "remove-item-bulk",
        Method::SuspendBulk(_) => "suspend-bulk",
        Method::ActivateBulk(_) => "activate-bulk",
        Method::UnsubscribeBulk(_) => "unsubscribe-bulk",
        Method::Write2Bulk(_) => "write2-bulk",
        Method::WriteSecuredBulk(_) => "write-secured-bulk",
        Method::WriteSecured2Bulk(_) => "write-secured2-bulk",
        // It begins like the writes because it changes the plant's state: a policy that goes by the beginning of the name
        // and has never heard of alarms lets nobody acknowledge who may only read.
        Method::AcknowledgeAlarms(_) => "write-acknowledge",
    }
}

/// Changes values in the plant; what a node below the version floor may not do.
pub fn is_write(method: &Method) -> bool {
    matches!(
        method,
        Method::Write(_)
            | Method::Write2(_)
            | Method::WriteSecured(_)
            | Method::WriteSecured2(_)
            | Method::WriteBulk(_)
            | Method::Write2Bulk(_)
            | Method::WriteSecuredBulk(_)
            | Method::WriteSecured2Bulk(_)
            | Method::AcknowledgeAlarms(_)
    )
}

/// The tags a command is about. A handle nobody has is no tag: the worker answers it as the server would.
#[derive(Debug)]
pub enum Targets {
    None,
    One(Arc<str>),
    /// Those of so many alarms, which the session's table knows.
    Alarms(usize),
    /// In the order of the command's elements; empty text for an unknown handle. An element that cannot be
    /// is an error of its own: it never fails its neighbours (S-16).
    Bulk(Vec<Result<Arc<str>>>),
}

/// A reference with its context, as policies see it.
fn tag(definition: &str, context: &str) -> Arc<str> {
    if context.is_empty() { definition.into() } else { format!("{context}.{definition}").into() }
}

fn check_text(field: &'static str, text: &str, max: usize) -> Result<()> {
    let chars = text.chars().count();
    if chars > max {
        return Err(Error::new(Code::LimitText, format!("{field} has {chars} characters; at most {max} are allowed"))
            .with("field", field)
            .with("max", max));
    }
    if text.chars().any(char::is_control) {
        let message = format!("{field} has a control character; use printable ones");
        return Err(Error::new(Code::RequestInvalid, message).with("field", field));
    }
    Ok(())
}

/// The tag of one element of a bulk command, if it can be one.
fn element(definition: &str) -> Result<Arc<str>> {
    check_definition(definition, "").map(|()| tag(definition, ""))
}

fn check_definition(definition: &str, context: &str) -> Result<()> {
    if definition.is_empty() {
        return Err(
            Error::new(Code::RequestInvalid, "the item definition is empty; name a tag").with("field", "definition")
        );
    }
    check_text("definition", definition, TAG_CHARS_MAX)?;
    check_text("context", context, TAG_CHARS_MAX)
}

fn check_bulk(elements: usize, max: usize) -> Result<()> {
    if elements > max {
        return Err(Error::new(Code::LimitBulk, format!("the bulk command has {elements} elements; at most {max}"))
            .with("max", max));
    }
    Ok(())
}

/// Refuses what no worker needs to see, and names the tags concerned.
pub fn inspect(method: &Method, items: &Items, bulk_max: usize) -> Result<Targets> {
    let by_handle = |server: i32, item: i32| match items.by_handle(server, item) {
        Some(item) => Targets::One(item.tag.clone()),
        None => Targets::None,
    };
    let by_handles = |server: i32, handles: &mut dyn ExactSizeIterator<Item = i32>| {
        check_bulk(handles.len(), bulk_max)?;
        let tag_of = |item: i32| items.by_handle(server, item).map_or_else(|| "".into(), |i| i.tag.clone());
        Ok::<_, Error>(Targets::Bulk(handles.map(|item| Ok(tag_of(item))).collect()))
    };
    Ok(match method {
        Method::AddItem(c) => {
            check_definition(&c.definition, "")?;
            Targets::One(tag(&c.definition, ""))
        }
        Method::AddItem2(c) => {
            check_definition(&c.definition, &c.context)?;
            Targets::One(tag(&c.definition, &c.context))
        }
        Method::AddBufferedItem(c) => {
            check_definition(&c.definition, &c.context)?;
            Targets::One(tag(&c.definition, &c.context))
        }
        Method::RemoveItem(c) => by_handle(c.server_handle, c.item_handle),
        Method::Advise(c) => by_handle(c.server_handle, c.item_handle),
        Method::AdviseSupervisory(c) => by_handle(c.server_handle, c.item_handle),
        Method::UnAdvise(c) => by_handle(c.server_handle, c.item_handle),
        Method::Write(c) => by_handle(c.server_handle, c.item_handle),
        Method::Write2(c) => by_handle(c.server_handle, c.item_handle),
        Method::WriteSecured(c) => by_handle(c.server_handle, c.item_handle),
        Method::WriteSecured2(c) => by_handle(c.server_handle, c.item_handle),
        Method::Suspend(c) => by_handle(c.server_handle, c.item_handle),
        Method::Activate(c) => by_handle(c.server_handle, c.item_handle),
        Method::SubscribeBulk(c) => {
            check_bulk(c.definitions.len(), bulk_max)?;
            Targets::Bulk(c.definitions.iter().map(|d| element(d)).collect())
        }
        Method::ReadBulk(c) => {
            check_bulk(c.definitions.len(), bulk_max)?;
            Targets::Bulk(c.definitions.iter().map(|d| element(d)).collect())
        }
        Method::AddItemBulk(c) => {
            check_bulk(c.items.len(), bulk_max)?;
            let tag_of = |one: &AddOne| {
                check_definition(&one.definition, &one.context).map(|()| tag(&one.definition, &one.context))
            };
            Targets::Bulk(c.items.iter().map(tag_of).collect())
        }
        Method::WriteBulk(c) => by_handles(c.server_handle, &mut c.writes.iter().map(|w| w.item_handle))?,
        Method::Write2Bulk(c) => by_handles(c.server_handle, &mut c.writes.iter().map(|w| w.item_handle))?,
        Method::WriteSecuredBulk(c) => by_handles(c.server_handle, &mut c.writes.iter().map(|w| w.item_handle))?,
        Method::WriteSecured2Bulk(c) => by_handles(c.server_handle, &mut c.writes.iter().map(|w| w.item_handle))?,
        Method::AdviseBulk(c) => by_handles(c.server_handle, &mut c.item_handles.iter().copied())?,
        Method::UnAdviseBulk(c) => by_handles(c.server_handle, &mut c.item_handles.iter().copied())?,
        Method::RemoveItemBulk(c) => by_handles(c.server_handle, &mut c.item_handles.iter().copied())?,
        Method::SuspendBulk(c) => by_handles(c.server_handle, &mut c.item_handles.iter().copied())?,
        Method::ActivateBulk(c) => by_handles(c.server_handle, &mut c.item_handles.iter().copied())?,
        Method::UnsubscribeBulk(c) => by_handles(c.server_handle, &mut c.item_handles.iter().copied())?,
        Method::Register(c) => {
            check_text("client_name", &c.client_name, 256)?;
            Targets::None
        }
        Method::AuthenticateUser(c) => {
            check_text("user", &c.user, 256)?;
            check_text("password", &c.password, 1024)?;
            Targets::None
        }
        Method::ArchestraUserToId(c) => {
            check_text("user_guid", &c.user_guid, 64)?;
            Targets::None
        }
        Method::AcknowledgeAlarms(c) => {
            check_bulk(c.alarm_ids.len(), bulk_max.min(alarms::ACKNOWLEDGED_MAX))?;
            check_text("comment", &c.comment, alarms::COMMENT_CHARS_MAX)?;
            Targets::Alarms(c.alarm_ids.len())
        }
        Method::Unregister(_)
        | Method::SetBufferedUpdateInterval(_)
        | Method::GetSessionState(_)
        | Method::GetWorkerInfo(_) => Targets::None,
    })
}

/// How many items the command may add.
pub fn items_added(method: &Method) -> usize {
    match method {
        Method::AddItem(_) | Method::AddItem2(_) | Method::AddBufferedItem(_) => 1,
        Method::SubscribeBulk(c) => c.definitions.len(),
        Method::AddItemBulk(c) => c.items.len(),
        _ => 0,
    }
}

/// The command without the elements at `denied` (ascending), which the worker must not see.
pub fn without(method: Method, denied: &[usize]) -> Method {
    fn keep<T>(elements: Vec<T>, denied: &[usize]) -> Vec<T> {
        let mut denied = denied.iter().copied().peekable();
        elements
            .into_iter()
            .enumerate()
            .filter_map(|(at, element)| denied.next_if_eq(&at).is_none().then_some(element))
            .collect()
    }
    match method {
        Method::SubscribeBulk(mut c) => {
            c.definitions = keep(c.definitions, denied);
            Method::SubscribeBulk(c)
        }
        Method::ReadBulk(mut c) => {
            c.definitions = keep(c.definitions, denied);
            Method::ReadBulk(c)
        }
        Method::WriteBulk(mut c) => {
            c.writes = keep(c.writes, denied);
            Method::WriteBulk(c)
        }
        Method::AddItemBulk(mut c) => {
            c.items = keep(c.items, denied);
            Method::AddItemBulk(c)
        }
        Method::Write2Bulk(mut c) => {
            c.writes = keep(c.writes, denied);
            Method::Write2Bulk(c)
        }
        Method::WriteSecuredBulk(mut c) => {
            c.writes = keep(c.writes, denied);
            Method::WriteSecuredBulk(c)
        }
        Method::WriteSecured2Bulk(mut c) => {
            c.writes = keep(c.writes, denied);
            Method::WriteSecured2Bulk(c)
        }
        Method::AdviseBulk(mut c) => {
            c.item_handles = keep(c.item_handles, denied);
            Method::AdviseBulk(c)
        }
        Method::UnAdviseBulk(mut c) => {
            c.item_handles = keep(c.item_handles, denied);
            Method::UnAdviseBulk(c)
        }
        Method::RemoveItemBulk(mut c) => {
            c.item_handles = keep(c.item_handles, denied);
            Method::RemoveItemBulk(c)
        }
        Method::SuspendBulk(mut c) => {
            c.item_handles = keep(c.item_handles, denied);
            Method::SuspendBulk(c)
        }
        Method::ActivateBulk(mut c) => {
            c.item_handles = keep(c.item_handles, denied);
            Method::ActivateBulk(c)
        }
        Method::UnsubscribeBulk(mut c) => {
            c.item_handles = keep(c.item_handles, denied);
            Method::UnsubscribeBulk(c)
        }
        Method::AcknowledgeAlarms(mut c) => {
            c.alarm_ids = keep(c.alarm_ids, denied);
            Method::AcknowledgeAlarms(c)
        }
        other => other,
    }
}

/// What a result changes: items that came and items that went. The caller has checked the pairing of
/// command and reply; a result of the wrong shape changes nothing.
pub fn apply(command: &Command, result: &CommandResult, items: &mut Items, head: u64) -> Vec<u64> {
    let Some(method) = &command.method else { return Vec::new() };
    if result.hresult != 0 {
        return Vec::new();
    }
    let mut gone = Vec::new();
    match (method, &result.result) {
        (Method::AddItem(c), Some(command_result::Result::Item(added))) => {
            items.add(item(c.server_handle, added.item_handle, added.item_key, tag(&c.definition, "")));
        }
        (Method::AddItem2(c), Some(command_result::Result::Item(added))) => {
            items.add(item(c.server_handle, added.item_handle, added.item_key, tag(&c.definition, &c.context)));
        }
        (Method::AddBufferedItem(c), Some(command_result::Result::Item(added))) => {
            items.add(item(c.server_handle, added.item_handle, added.item_key, tag(&c.definition, &c.context)));
        }
        (Method::SubscribeBulk(c), Some(command_result::Result::Bulk(bulk))) => {
            for (definition, one) in c.definitions.iter().zip(&bulk.results) {
                if one.hresult == 0 && one.item_key != 0 {
                    items.add(item(c.server_handle, one.item_handle, one.item_key, tag(definition, "")));
                }
            }
        }
        (Method::AddItemBulk(c), Some(command_result::Result::Bulk(bulk))) => {
            for (asked, one) in c.items.iter().zip(&bulk.results) {
                if one.hresult == 0 && one.item_key != 0 {
                    let tag = tag(&asked.definition, &asked.context);
                    items.add(item(c.server_handle, one.item_handle, one.item_key, tag));
                }
            }
        }
        (Method::RemoveItemBulk(c), Some(command_result::Result::Bulk(bulk))) => {
            gone.extend(retire_each(c.server_handle, &c.item_handles, &bulk.results, items, head));
        }
        (Method::UnsubscribeBulk(c), Some(command_result::Result::Bulk(bulk))) => {
            gone.extend(retire_each(c.server_handle, &c.item_handles, &bulk.results, items, head));
        }
        (Method::RemoveItem(c), _) => {
            gone.extend(items.retire(c.server_handle, c.item_handle, head).map(|i| i.key));
        }
        (Method::Unregister(c), _) => {
            gone.extend(items.retire_server(c.server_handle, head).iter().map(|i| i.key));
        }
        _ => {}
    }
    gone
}

/// The keys of those that went.
fn retire_each(server: i32, handles: &[i32], results: &[BulkResult], items: &mut Items, head: u64) -> Vec<u64> {
    let went = handles.iter().zip(results).filter(|(_, one)| one.hresult == 0);
    went.filter_map(|(&handle, _)| items.retire(server, handle, head).map(|item| item.key)).collect()
}

/// Adds the items of a worker that was adopted, in the order in which it minted them.
pub fn restore(state: SessionState, items: &mut Items) {
    let servers = state.servers.into_iter();
    let mut known: Vec<Item> = servers
        .flat_map(|server| {
            let handle = server.server_handle;
            server
                .items
                .into_iter()
                .map(move |one| item(handle, one.item_handle, one.item_key, tag(&one.definition, &one.context)))
        })
        .collect();
    known.sort_unstable_by_key(|item| item.key);
    known.into_iter().for_each(|item| items.add(item));
}

fn item(server_handle: i32, item_handle: i32, key: u64, tag: Arc<str>) -> Item {
    Item { key, server_handle, item_handle, tag }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_proto::v1::{self, BulkResults};

    fn subscribe(definitions: &[&str]) -> Method {
        Method::SubscribeBulk(v1::SubscribeBulk {
            server_handle: 1,
            definitions: definitions.iter().map(|d| (*d).to_owned()).collect(),
            supervisory: false,
        })
    }

    #[test]
    fn a_bad_element_of_a_bulk_adds_nothing_and_the_others_are_added() {
        let command = Command { method: Some(subscribe(&["A", "Bad", "C"])) };
        let one = |key, hresult| BulkResult { item_handle: key as i32, item_key: key, hresult, ..Default::default() };
        let result = CommandResult {
            result: Some(command_result::Result::Bulk(BulkResults { results: vec![one(1, 0), one(0, -1), one(2, 0)] })),
            ..Default::default()
        };
        let mut items = Items::default();
        apply(&command, &result, &mut items, 0);
        let tags: Vec<&str> = items.iter_live().map(|i| &*i.tag).collect();
        assert_eq!(tags, ["A", "C"]);
    }

    #[test]
    fn what_changes_the_plant_is_a_write() {
        let writes = [
            Method::Write(v1::Write::default()),
            Method::Write2(v1::Write2::default()),
            Method::WriteSecured(v1::WriteSecured::default()),
            Method::WriteSecured2(v1::WriteSecured2::default()),
            Method::WriteBulk(v1::WriteBulk::default()),
            Method::AcknowledgeAlarms(v1::AcknowledgeAlarms::default()),
        ];
        assert!(writes.iter().all(|method| is_write(method) && name(method).starts_with("write")));
        assert!(!is_write(&subscribe(&["A"])) && !is_write(&Method::ReadBulk(v1::ReadBulk::default())));
    }

    #[test]
    fn denied_elements_do_not_reach_the_worker() {
        let Method::SubscribeBulk(left) = without(subscribe(&["A", "B", "C", "D"]), &[0, 2]) else { panic!() };
        assert_eq!(left.definitions, ["B", "D"]);
    }

    #[test]
    fn texts_and_bulks_have_bounds() {
        let items = Items::default();
        let long = "x".repeat(TAG_CHARS_MAX + 1);
        let add = |definition: &str| Method::AddItem(v1::AddItem { server_handle: 1, definition: definition.into() });
        assert_eq!(inspect(&add(&long), &items, 10).unwrap_err().code(), Code::LimitText);
        assert_eq!(inspect(&add(""), &items, 10).unwrap_err().code(), Code::RequestInvalid);
        assert_eq!(inspect(&subscribe(&["A"; 11]), &items, 10).unwrap_err().code(), Code::LimitBulk);
        assert_eq!(inspect(&add("A\u{1b}[31m"), &items, 10).unwrap_err().code(), Code::RequestInvalid);
        assert!(matches!(inspect(&add("A.B"), &items, 10), Ok(Targets::One(tag)) if &*tag == "A.B"));
        let Ok(Targets::Bulk(tags)) = inspect(&subscribe(&["A", "", &long, "B"]), &items, 10) else { panic!() };
        let told: Vec<Option<Code>> = tags.iter().map(|tag| tag.as_ref().err().map(Error::code)).collect();
        assert_eq!(told, [None, Some(Code::RequestInvalid), Some(Code::LimitText), None]);
    }
}
