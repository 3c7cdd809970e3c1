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
pub use table::{AlarmTable, Ask, Standing, Why};

use super::{Caller, Session, Sessions};
use crate::{
    error::{Code, Error, Result},
    policies::Rate,
};
use rights::Rights;
use std::{sync::Arc, time::Duration};
use tidegate_proto::v1::{
    AcknowledgeAlarms, Alarm, AlarmAcknowledged, AlarmProvider, Command, command::Method, command_result,
};

/// Alarms of one acknowledgement, as in alarms.proto. Guessed: more than a page on a screen.
pub const ACKNOWLEDGED_MAX: usize = 1_000;
/// As in alarms.proto; AVEVA keeps about as much.
pub const COMMENT_CHARS_MAX: usize = 256;
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
        let results = match result.result {
            Some(command_result::Result::Bulk(bulk)) if bulk.results.len() == alarm_ids.len() => bulk.results,
            _ => return Err(Error::new(Code::Internal, "the worker did not answer for each alarm")),
        };
        let acknowledged = results.iter().filter(|one| one.hresult == 0).count();
        // The record of who did it: the alarm has the key and the comment, the decision log the policy's answer.
        tracing::info!(session = %session.identity.id, key = %caller.key.id, acknowledged, asked = alarm_ids.len(),
            "alarms acknowledged");
        let one = |(alarm_id, one): (u64, tidegate_proto::v1::BulkResult)| AlarmAcknowledged {
            alarm_id,
            hresult: one.hresult,
            message: one.message,
        };
        Ok(alarm_ids.into_iter().zip(results).map(one).collect())
    }
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
