//! One command from a client: checked, authorized tag by tag, sent without the elements that were denied,
//! its answer put together again. Knows policies and sessions, no transport.
//! Invariant: an element the policy denied never reaches the worker, and never fails its neighbours.

use super::{
    Caller, Session, Sessions,
    commands::{self, Targets},
    items::Reserved,
    verdicts,
};
use crate::{
    error::{Class, Code, Error, Result},
    keys::Scope,
    policies::Rate,
    telemetry::Outcome,
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tidegate_policy::{Action, Principal};
use tidegate_proto::v1::{BulkResult, BulkResults, Command, CommandResult, command::Method, command_result};

/// E_ACCESSDENIED: what a denied element of a bulk command gets.
const ACCESS_DENIED: i32 = 0x8007_0005_u32 as i32;
/// E_OUTOFMEMORY: what an element for which the session has no room gets.
const OUT_OF_MEMORY: i32 = 0x8007_000E_u32 as i32;
/// E_INVALIDARG: what an element that cannot be gets.
const INVALID_ARGUMENT: i32 = 0x8007_0057_u32 as i32;
/// An upper bound of what a client may ask for. S-01 has 30 s as the default; an hour is guessed.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

impl Sessions {
    /// Runs a command of `caller`, who may act for a runtime node (empty: for none); only writes look at that.
    /// `timeout`: as asked for, else the session's.
    pub async fn invoke(
        &self,
        caller: &Caller,
        session: &Arc<Session>,
        node: &str,
        command: Command,
        timeout: Option<Duration>,
    ) -> Result<CommandResult> {
        session.touch();
        let method = command.method.ok_or_else(|| Error::new(Code::CommandMissing, "the command names no method"))?;
        let label = commands::label(&method);
        let started = tokio::time::Instant::now();
        let result = self.checked(caller, session, node, method, timeout).await;
        session.metrics.commands.answered(&label, outcome(&result), started.elapsed());
        result
    }

    async fn checked(
        &self,
        caller: &Caller,
        session: &Arc<Session>,
        node: &str,
        mut method: Method,
        timeout: Option<Duration>,
    ) -> Result<CommandResult> {
        session.check_ready()?;
        let bounds = session.bounds;
        let wanted = commands::items_added(&method);
        let (targets, room) = session.with_items(|items| {
            let targets = commands::inspect(&method, items, bounds.bulk_max)?;
            let room = (wanted > 0).then(|| items.reserve(wanted, bounds.items_max));
            // A bulk command is refused element by element.
            if room.as_ref().is_some_and(|room| room.items < wanted) && !matches!(targets, Targets::Bulk(_)) {
                return Err(no_room(bounds.items_max));
            }
            Ok((targets, room))
        })?;
        let elements = match &targets {
            Targets::Bulk(tags) => u32::try_from(tags.len()).unwrap_or(u32::MAX),
            Targets::Alarms(count) => u32::try_from(*count).unwrap_or(u32::MAX),
            Targets::None | Targets::One(_) => 1,
        };
        let who = caller.principal();
        self.policies().admit(&who, &caller.key.id, Rate::Invoke(elements)).await?;
        if commands::is_write(&method) {
            self.check_node(caller, session, node).await?;
        }
        let timeout = timeout.unwrap_or(session.identity.command_timeout).min(TIMEOUT_MAX);
        match targets {
            Targets::None => {
                self.authorize(&who, session, &method, "").await?;
                let lists_items = matches!(method, Method::GetSessionState(_));
                let result = session.call(Command { method: Some(method) }, timeout).await?;
                if lists_items { self.visible(caller, session, result).await } else { Ok(result) }
            }
            Targets::One(tag) => {
                self.authorize(&who, session, &method, &tag).await?;
                session.call_in(room, Command { method: Some(method) }, timeout).await
            }
            Targets::Alarms(_) => {
                let Method::AcknowledgeAlarms(call) = &mut method else {
                    return Err(Error::new(Code::Internal, "a command about alarms that names none"));
                };
                call.key_id = caller.key.id.to_string();
                let tags = self.alarm_tags(caller, session, &call.alarm_ids).await?;
                self.bulk(&who, session, method, &tags, room, timeout).await
            }
            Targets::Bulk(tags) => self.bulk(&who, session, method, &tags, room, timeout).await,
        }
    }

    /// What the version floor says to a write: asked for the node that is named; who has to name one and does not is
    /// refused.
    async fn check_node(&self, caller: &Caller, session: &Session, node: &str) -> Result<()> {
        if !node.is_empty() {
            return self.write_gate()?.check(caller, &session.identity.id, node).await;
        }
        if caller.key.has(Scope::Node) {
            return Err(Error::new(
                Code::VersionNodeRequired,
                "this key writes for runtime nodes only, and the command names none",
            )
            .with("field", "node_id"));
        }
        Ok(())
    }

    async fn authorize(&self, who: &Principal, session: &Session, method: &Method, tag: &str) -> Result<()> {
        let action = Action::Command { method: commands::name(method).into(), tag: tag.into() };
        self.policies().authorize(who, &session.facts, action).await
    }

    /// A session's state without the items whose events the caller may not see.
    async fn visible(
        &self,
        caller: &Caller,
        session: &Arc<Session>,
        mut result: CommandResult,
    ) -> Result<CommandResult> {
        if let Some(command_result::Result::SessionState(state)) = &mut result.result {
            let seen = verdicts::fresh(&session.class(caller), session, self.policies()).await?;
            for server in &mut state.servers {
                server.items.retain(|item| seen.sees(item.item_key));
            }
        }
        Ok(result)
    }

    /// `room`: for the items that it may add.
    pub(super) async fn bulk(
        &self,
        who: &Principal,
        session: &Session,
        method: Method,
        tags: &[Result<Arc<str>>],
        room: Option<Reserved>,
        timeout: Duration,
    ) -> Result<CommandResult> {
        let mut left = room.as_ref().map_or(usize::MAX, |room| room.items);
        // One question per distinct tag.
        let mut asked: HashMap<&Arc<str>, Option<BulkResult>> = HashMap::new();
        let mut refusals: Vec<(usize, BulkResult)> = Vec::new();
        for (at, tag) in tags.iter().enumerate() {
            let tag = match tag {
                Ok(tag) => tag,
                Err(wrong) => {
                    refusals.push((at, refused(INVALID_ARGUMENT, wrong)));
                    continue;
                }
            };
            let refusal = match asked.get(tag) {
                Some(known) => known.clone(),
                None => {
                    let refusal = match self.authorize(who, session, &method, tag).await {
                        Ok(()) => None,
                        Err(error) if error.code() == Code::PolicyDenied => Some(refused(ACCESS_DENIED, &error)),
                        Err(error) => return Err(error),
                    };
                    asked.insert(tag, refusal.clone());
                    refusal
                }
            };
            let refusal = match refusal {
                None if left == 0 => Some(refused(OUT_OF_MEMORY, &no_room(session.bounds.items_max))),
                None => {
                    left -= 1;
                    None
                }
                refused => refused,
            };
            refusals.extend(refusal.map(|refusal| (at, refusal)));
        }
        let denied: Vec<usize> = refusals.iter().map(|(at, _)| *at).collect();
        let sent = tags.len() - denied.len();
        if sent == 0 && !denied.is_empty() {
            return Ok(bulk_result(refusals.into_iter().map(|(_, refusal)| refusal).collect()));
        }
        let command = Command { method: Some(commands::without(method, &denied)) };
        let mut result = session.call_in(room, command, timeout).await?;
        if result.hresult != 0 || denied.is_empty() {
            return Ok(result);
        }
        let answered = match result.result.take() {
            Some(command_result::Result::Bulk(bulk)) if bulk.results.len() == sent => bulk.results,
            _ => return Err(Error::new(Code::Internal, "the worker's answer has another number of elements")),
        };
        let mut answered = answered.into_iter();
        let mut refusals = refusals.into_iter().peekable();
        let merged = (0..tags.len())
            .filter_map(|at| match refusals.next_if(|(refused_at, _)| *refused_at == at) {
                Some((_, refusal)) => Some(refusal),
                None => answered.next(),
            })
            .collect();
        Ok(bulk_result(merged))
    }
}

pub(super) fn outcome(result: &Result<CommandResult>) -> Outcome {
    match result {
        Ok(result) if result.hresult != 0 => Outcome::Failed,
        Ok(result) => refused_elements(result),
        Err(error) => match error.code() {
            Code::PolicyDenied | Code::PolicyFailed | Code::VersionFloorExceeded | Code::VersionNodeRequired => {
                Outcome::Denied
            }
            Code::CommandTimeout => Outcome::Timeout,
            Code::CommandOutcomeUnknown => Outcome::Unknown,
            other if other.class() == Class::ResourceExhausted => Outcome::Limited,
            _ => Outcome::Rejected,
        },
    }
}

/// A bulk command of which the access policy refused elements.
fn refused_elements(result: &CommandResult) -> Outcome {
    let Some(command_result::Result::Bulk(bulk)) = &result.result else { return Outcome::Ok };
    match bulk.results.iter().filter(|result| !result.decision_id.is_empty()).count() {
        0 => Outcome::Ok,
        all if all == bulk.results.len() => Outcome::Denied,
        _ => Outcome::Partial,
    }
}

fn no_room(max: usize) -> Error {
    Error::new(Code::LimitItems, format!("the session has no room for another item; at most {max} are allowed"))
        .with("max", max)
}

fn refused(hresult: i32, why: &Error) -> BulkResult {
    let decision = why.details().iter().find(|(key, _)| *key == "decision");
    let decision_id = decision.map(|(_, id)| id.clone()).unwrap_or_default();
    BulkResult { hresult, message: why.message().to_owned(), decision_id, ..BulkResult::default() }
}

fn bulk_result(results: Vec<BulkResult>) -> CommandResult {
    CommandResult { result: Some(command_result::Result::Bulk(BulkResults { results })), ..CommandResult::default() }
}
