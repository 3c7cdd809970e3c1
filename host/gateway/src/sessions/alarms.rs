//! Alarms of a session, as far as the gateway has to do with them: the table that the worker tells (`table`), who may see
//! which (`rights`), readers (`reader`), and what pages and calls ask for. What alarms is the worker's business alone.
//! Invariant: nobody hears of an alarm whose tag the access policy does not let them read, and who reads another's
//! acknowledgement has the right to read the alarm.

mod reader;
mod rights;
mod table;
#[cfg(test)]
mod tests;

pub use reader::{AlarmReader, Told};
pub use table::{AlarmTable, Ask, Counts, Standing, Why, waits};

use super::{Caller, Session, Sessions, commands, invoke};
use crate::{
    error::{Code, Error, Result},
    keys::Scope,
    policies::Rate,
};
use rights::Rights;
use std::{net::IpAddr, sync::Arc, time::Duration};
use tidegate_policy::Principal;
use tidegate_proto::v1::{
    AcknowledgeAlarms, Alarm, AlarmAcknowledged, AlarmProvider, BulkResult, Command, CommandResult, command::Method,
    command_result,
};

/// Alarms of one acknowledgement, as in alarms.proto. Guessed: more than a page on a screen.
pub const ACKNOWLEDGED_MAX: usize = 1_000;
/// As in alarms.proto; AVEVA keeps about as much.
pub const COMMENT_CHARS_MAX: usize = 256;
/// What the name of a person of the dashboard stands behind, where otherwise a key's id does: no key's id begins so.
pub const PERSON: &str = "dashboard:";
/// How long a question waits for the worker's first table. It comes with the session, so only a worker that hangs is late.
const FIRST_TABLE: Duration = Duration::from_secs(5);

/// Whose eyes a list of alarms is for.
#[derive(Clone, Copy, Debug)]
pub enum Viewer<'a> {
    /// A key: it sees the alarms of tags that it may read. That it may see the session was decided by `Sessions::get`.
    Key(&'a Caller),
    /// Somebody who sees whole sessions: the operator on the machine, a person whom the dashboard-tags policy shows this one.
    WholeSession,
}

/// The alarms that stand, for somebody.
#[derive(Clone, Debug)]
pub struct AlarmList {
    /// By id.
    pub alarms: Vec<Arc<Alarm>>,
    /// Alarms that the viewer may not see.
    pub withheld: usize,
    /// Alarms for which the table had no room.
    pub not_kept: u64,
    pub provider: AlarmProvider,
    pub revision: u64,
    /// Of policies; 0 where none was asked.
    pub generation: u64,
}

// === impl Sessions ===

impl Sessions {
    /// The alarms of `session` that are visible to `viewer`, as they stand now. `alarm.unsupported` where the worker has none.
    pub async fn alarms_visible_to(&self, session: &Arc<Session>, viewer: Viewer<'_>) -> Result<AlarmList> {
        session.alarms.supported()?;
        first_table(session).await?;
        let Viewer::Key(caller) = viewer else {
            return Ok(list(session.alarms.standing(), 0, |_| true));
        };
        let mut rights = Rights::new(caller.clone(), session);
        loop {
            rights.renew(session, self.policies()).await?;
            let standing = session.alarms.standing();
            if rights.judge(session, self.policies(), &standing.tags()).await? {
                return Ok(list(standing, rights.generation(), |tag| rights.sees(tag)));
            }
        }
    }

    /// The tags of alarms, in the order asked for. One that does not stand, or that `caller` may not see, is an error of its
    /// own, the same for both.
    pub(super) async fn alarm_tags(
        &self,
        caller: &Caller,
        session: &Session,
        ids: &[u64],
    ) -> Result<Vec<Result<Arc<str>>>> {
        session.alarms.supported()?;
        first_table(session).await?;
        let mut rights = Rights::new(caller.clone(), session);
        loop {
            rights.renew(session, self.policies()).await?;
            let tags = session.alarms.tags(ids);
            let known: Vec<Arc<str>> = tags.iter().flatten().cloned().collect();
            if rights.judge(session, self.policies(), &known).await? {
                let visible = tags.into_iter().map(|tag| tag.filter(|tag| rights.sees(tag)));
                return Ok(ids.iter().zip(visible).map(|(id, tag)| tag.ok_or_else(|| unknown(*id))).collect());
            }
        }
    }

    /// A reader of a session's alarms for a client: it counts as one of its readers.
    pub async fn read_alarms(&self, caller: &Caller, session: &str) -> Result<AlarmReader> {
        let session = self.get(caller, session)?;
        session.check_ready()?;
        session.alarms.supported()?;
        self.policies().admit(&caller.principal(), &caller.key.id, Rate::Stream).await?;
        let mut rights = Rights::new(caller.clone(), &session);
        rights.renew(&session, self.policies()).await?;
        let share = self.stream_share(&caller.key.id)?;
        let place = session.take_alarm_place()?;
        session.touch();
        Ok(AlarmReader::new(session, self.policies().clone(), rights, place, share))
    }

    /// Acknowledges what `caller` may acknowledge; a result for each, in order.
    pub async fn acknowledge_alarms(
        &self,
        caller: &Caller,
        session: &Arc<Session>,
        node: &str,
        alarm_ids: Vec<u64>,
        comment: String,
    ) -> Result<Vec<AlarmAcknowledged>> {
        session.alarms.supported()?;
        if alarm_ids.is_empty() {
            return Err(Error::new(Code::RequestInvalid, "no alarm is named").with("field", "alarm_ids"));
        }
        let call = AcknowledgeAlarms { alarm_ids: alarm_ids.clone(), comment, key_id: String::new() };
        let command = Command { method: Some(Method::AcknowledgeAlarms(call)) };
        let result = self.invoke(caller, session, node, command, None).await?;
        let done = each_answered(alarm_ids, result)?;
        // The record of who did it: the alarm has the key and the comment, the decision log the policy's answer.
        let acknowledged = done.iter().filter(|one| one.hresult == 0).count();
        tracing::info!(session = %session.identity.id, key = %caller.key.id, acknowledged, asked = done.len(),
            "alarms acknowledged");
        Ok(done)
    }

    /// The same for a person of the dashboard who sees this session as a whole and may change things. The access policy is
    /// asked about each tag as for a key: of a principal `dashboard:NAME` that reaches every session. No lease is renewed.
    pub async fn acknowledge_alarms_as(
        &self,
        person: &str,
        peer: Option<IpAddr>,
        session: &Arc<Session>,
        alarm_ids: Vec<u64>,
        comment: String,
    ) -> Result<Vec<AlarmAcknowledged>> {
        session.check_ready()?;
        session.alarms.supported()?;
        if alarm_ids.is_empty() {
            return Err(Error::new(Code::RequestInvalid, "no alarm is named").with("field", "alarm_ids"));
        }
        first_table(session).await?;
        let id = format!("{PERSON}{person}");
        let peer = peer.map(|ip| ip.to_string()).unwrap_or_default();
        let scopes = vec![Scope::SessionsAll.as_str().to_owned()];
        let who = Principal::new(id.as_str(), scopes, Vec::new(), Vec::new(), peer);
        let method = Method::AcknowledgeAlarms(AcknowledgeAlarms { alarm_ids: alarm_ids.clone(), comment, key_id: id });
        // Number and comment are bounded as a client's.
        session.with_items(|items| commands::inspect(&method, items, session.bounds.bulk_max)).map(drop)?;
        let tags = session.alarms.tags(&alarm_ids);
        let gone = |id: u64| Error::new(Code::AlarmUnknown, "it does not stand any more").with("alarm_id", id);
        let tags: Vec<_> = alarm_ids.iter().zip(tags).map(|(id, tag)| tag.ok_or_else(|| gone(*id))).collect();
        let (label, started) = (commands::label(&method), tokio::time::Instant::now());
        let result = self.bulk(&who, session, method, &tags, None, session.identity.command_timeout).await;
        session.metrics.commands.answered(&label, invoke::outcome(&result), started.elapsed());
        each_answered(alarm_ids, result?)
    }
}

fn each_answered(alarm_ids: Vec<u64>, result: CommandResult) -> Result<Vec<AlarmAcknowledged>> {
    let results = match result.result {
        Some(command_result::Result::Bulk(bulk)) if bulk.results.len() == alarm_ids.len() => bulk.results,
        _ => return Err(Error::new(Code::Internal, "the worker did not answer for each alarm")),
    };
    let one =
        |(alarm_id, one): (u64, BulkResult)| AlarmAcknowledged { alarm_id, hresult: one.hresult, message: one.message };
    Ok(alarm_ids.into_iter().zip(results).map(one).collect())
}

async fn first_table(session: &Session) -> Result<()> {
    let first = tokio::time::timeout(FIRST_TABLE, session.alarms.synchronised()).await;
    first.map_err(|_late| Error::new(Code::AlarmNotReady, "the worker has not told its alarms yet"))?
}

fn unknown(id: u64) -> Error {
    Error::new(Code::AlarmUnknown, "no alarm of this id stands that this key may see").with("alarm_id", id)
}

fn list(standing: Standing, generation: u64, sees: impl Fn(&str) -> bool) -> AlarmList {
    let all = standing.alarms.len();
    let alarms: Vec<Arc<Alarm>> = standing.alarms.into_iter().filter(|alarm| sees(&alarm.tag)).collect();
    let Standing { revision, provider, not_kept, .. } = standing;
    AlarmList { withheld: all - alarms.len(), alarms, not_kept, provider, revision, generation }
}
