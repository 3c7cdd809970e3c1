//! Alarms with types: the table page by page, a stream that keeps a copy of it, acknowledgements. The copy is what the
//! gateway told, change by change. Invariant: between the beginning and the end of a snapshot the copy is not whole, and
//! `AlarmStream::is_whole` says so.

use crate::{ClientError, gateway::authorized};
use std::collections::BTreeMap;
use tidegate_proto::v1::{
    AcknowledgeAlarmsRequest, Alarm, AlarmAcknowledged, AlarmProvider, AlarmSnapshotComplete, AlarmState,
    ListAlarmsRequest, ListAlarmsResponse, StreamAlarmsRequest, StreamAlarmsResponse, alarms_client::AlarmsClient,
    stream_alarms_response::Message,
};
use tonic::{
    Request, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

/// A connection for alarms.
#[derive(Clone, Debug)]
pub struct Alarms {
    client: AlarmsClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
}

/// A stream and the copy of the table that it keeps.
#[derive(Debug)]
pub struct AlarmStream {
    messages: Streaming<StreamAlarmsResponse>,
    /// By id.
    pub standing: BTreeMap<u64, Alarm>,
    pub provider: Option<AlarmProvider>,
    /// Of the last snapshot.
    pub complete: Option<AlarmSnapshotComplete>,
    whole: bool,
}

// === impl Alarms ===

impl Alarms {
    pub(crate) fn new(channel: Channel, key: Option<MetadataValue<Ascii>>) -> Self {
        Self { client: AlarmsClient::new(channel), key }
    }

    pub async fn stream(&self, session_id: &str) -> Result<AlarmStream, ClientError> {
        let request = self.request(StreamAlarmsRequest { session_id: session_id.into() });
        let messages = self.client.clone().stream_alarms(request).await?.into_inner();
        Ok(AlarmStream { messages, standing: BTreeMap::new(), provider: None, complete: None, whole: false })
    }

    /// One page.
    pub async fn page(&self, request: ListAlarmsRequest) -> Result<ListAlarmsResponse, ClientError> {
        Ok(self.client.clone().list_alarms(self.request(request)).await?.into_inner())
    }

    /// All that stand, page by page; the answer's other fields are those of the last page.
    pub async fn list(&self, session_id: &str) -> Result<ListAlarmsResponse, ClientError> {
        let mut request = ListAlarmsRequest { session_id: session_id.into(), after: 0, limit: 1_000 };
        let mut all = Vec::new();
        loop {
            let mut page = self.page(request.clone()).await?;
            all.append(&mut page.alarms);
            if page.next_after == 0 {
                return Ok(ListAlarmsResponse { alarms: all, ..page });
            }
            request.after = page.next_after;
        }
    }

    /// A result for each, in order.
    pub async fn acknowledge(
        &self,
        session_id: &str,
        alarm_ids: &[u64],
        comment: &str,
    ) -> Result<Vec<AlarmAcknowledged>, ClientError> {
        let request = AcknowledgeAlarmsRequest {
            session_id: session_id.into(),
            alarm_ids: alarm_ids.to_vec(),
            comment: comment.into(),
            node_id: String::new(),
        };
        Ok(self.client.clone().acknowledge_alarms(self.request(request)).await?.into_inner().results)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        authorized(self.key.as_ref(), message)
    }
}

// === impl AlarmStream ===

impl AlarmStream {
    /// The next message, which the copy has taken already; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Message>, ClientError> {
        let Some(message) = self.messages.message().await?.and_then(|message| message.message) else {
            return Ok(None);
        };
        match &message {
            Message::SnapshotBegins(begins) => {
                self.standing.clear();
                self.whole = false;
                self.provider.clone_from(&begins.provider);
            }
            Message::Standing(part) => self.standing.extend(part.alarms.iter().map(|one| (one.alarm_id, one.clone()))),
            Message::SnapshotComplete(complete) => {
                self.whole = true;
                self.complete = Some(*complete);
            }
            Message::Transition(transition) => {
                if let Some(alarm) = &transition.alarm {
                    if alarm.state() == AlarmState::Gone {
                        self.standing.remove(&alarm.alarm_id);
                    } else {
                        self.standing.insert(alarm.alarm_id, alarm.clone());
                    }
                }
            }
            Message::Provider(provider) => self.provider = Some(provider.clone()),
        }
        Ok(Some(message))
    }

    /// A snapshot was told to its end, and every change since.
    pub fn is_whole(&self) -> bool {
        self.whole
    }
}
