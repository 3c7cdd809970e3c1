//! `tidegate.v1.Alarms`: translates; every rule is of `sessions::alarms`. Invariant: a stream whose peer takes nothing gives
//! its place and its memory back once its session has ended.

use super::{
    edge::{Connection, OnConnection},
    gateway::caller,
    status::status,
};
use crate::{
    error::{Code, Error},
    sessions::{
        Sessions,
        alarms::{AlarmReader, Told, Viewer, Why},
    },
};
use parking_lot::Mutex;
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tidegate_proto::v1::{
    AcknowledgeAlarmsRequest, AcknowledgeAlarmsResponse, Alarm, AlarmSnapshotBegins, AlarmSnapshotComplete,
    AlarmTransition, AlarmsStanding, ListAlarmsRequest, ListAlarmsResponse, StreamAlarmsRequest, StreamAlarmsResponse,
    alarm_snapshot_begins::Reason, alarms_server::Alarms, stream_alarms_response::Message,
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Request, Response, Status};

/// As in alarms.proto.
const PAGE_DEFAULT: usize = 100;
const PAGE_MAX: u32 = 1_000;
/// How long a peer that takes no bytes may keep the stream of a session that is over; as for event streams.
const STALL: Duration = Duration::from_secs(10);

/// The service. Clones share the registry.
#[derive(Clone, Debug)]
pub(super) struct AlarmService {
    pub(super) sessions: Sessions,
}

/// A stream under way; tonic polls it when the connection has room.
pub(super) struct AlarmStream {
    state: Arc<Mutex<State>>,
    _watched: DropGuard,
    _on_connection: OnConnection,
}

enum State {
    /// Waits for the next message.
    Live(Step),
    Released(Error),
    Over,
}

type Step = Pin<Box<dyn Future<Output = (Result<Told, Error>, AlarmReader)> + Send>>;

#[tonic::async_trait]
impl Alarms for AlarmService {
    type StreamAlarmsStream = AlarmStream;

    async fn stream_alarms(&self, request: Request<StreamAlarmsRequest>) -> Result<Response<AlarmStream>, Status> {
        let caller = caller(&request)?;
        let unknown = || status(&Error::new(Code::Internal, "the connection of the request is unknown"));
        let connection = request.extensions().get::<Arc<Connection>>().cloned().ok_or_else(unknown)?;
        let opened = self.sessions.read_alarms(&caller, &request.get_ref().session_id).await;
        let reader = opened.map_err(|error| status(&error))?;
        let on_connection = connection.stream(&reader.session().metrics).map_err(|error| status(&error))?;
        let (over, gone) = (CancellationToken::new(), reader.session().ended());
        let state = Arc::new(Mutex::new(State::Live(Box::pin(step(reader)))));
        tokio::spawn(release_stalled(over.clone(), gone, state.clone()));
        Ok(Response::new(AlarmStream { state, _watched: over.drop_guard(), _on_connection: on_connection }))
    }

    async fn list_alarms(&self, request: Request<ListAlarmsRequest>) -> Result<Response<ListAlarmsResponse>, Status> {
        let caller = caller(&request)?;
        let ListAlarmsRequest { session_id, after, limit } = request.into_inner();
        if limit > PAGE_MAX {
            let error = Error::new(Code::RequestInvalid, format!("limit may be {PAGE_MAX} at most"));
            return Err(status(&error.with("field", "limit")));
        }
        let listed = async {
            let session = self.sessions.get(&caller, &session_id)?;
            session.check_ready()?;
            session.touch();
            self.sessions.admit_snapshot(&caller).await?;
            self.sessions.alarms_visible_to(&session, Viewer::Key(&caller)).await
        };
        let list = listed.await.map_err(|error| status(&error))?;
        let limit = if limit == 0 { PAGE_DEFAULT } else { limit as usize };
        let mut rest = list.alarms.iter().filter(|alarm| alarm.alarm_id > after);
        let alarms: Vec<Alarm> = rest.by_ref().take(limit).map(|alarm| Alarm::clone(alarm)).collect();
        let more = rest.next().is_some();
        Ok(Response::new(ListAlarmsResponse {
            next_after: alarms.last().filter(|_| more).map_or(0, |last| last.alarm_id),
            alarms,
            provider: Some(list.provider),
            revision: list.revision,
            generation: list.generation,
            not_kept: saturated(list.not_kept),
        }))
    }

    async fn acknowledge_alarms(
        &self,
        request: Request<AcknowledgeAlarmsRequest>,
    ) -> Result<Response<AcknowledgeAlarmsResponse>, Status> {
        let caller = caller(&request)?;
        let AcknowledgeAlarmsRequest { session_id, alarm_ids, comment, node_id } = request.into_inner();
        let done = async {
            let session = self.sessions.get(&caller, &session_id)?;
            self.sessions.acknowledge_alarms(&caller, &session, &node_id, alarm_ids, comment).await
        };
        let results = done.await.map_err(|error| status(&error))?;
        Ok(Response::new(AcknowledgeAlarmsResponse { results }))
    }
}

async fn step(mut reader: AlarmReader) -> (Result<Told, Error>, AlarmReader) {
    let told = reader.next().await;
    (told, reader)
}

/// A stream is polled only while its peer takes bytes: one that takes nothing would keep a session that is over.
async fn release_stalled(over: CancellationToken, gone: CancellationToken, state: Arc<Mutex<State>>) {
    let late = async {
        gone.cancelled().await;
        tokio::time::sleep(STALL).await;
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = late => {
            let error = Error::new(Code::StreamSessionEnded, "the session ended while this reader took nothing");
            let mut state = state.lock();
            if matches!(*state, State::Live(_)) {
                *state = State::Released(error);
            }
        }
    }
}

// === impl AlarmStream ===

impl Stream for AlarmStream {
    type Item = Result<StreamAlarmsResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = self.state.lock();
        let (told, reader) = match &mut *state {
            State::Live(step) => ready!(step.as_mut().poll(context)),
            State::Released(error) => {
                let error = status(error);
                *state = State::Over;
                return Poll::Ready(Some(Err(error)));
            }
            State::Over => return Poll::Ready(None),
        };
        Poll::Ready(Some(match told {
            Ok(told) => {
                *state = State::Live(Box::pin(step(reader)));
                Ok(message(told))
            }
            Err(error) => {
                *state = State::Over;
                Err(status(&error))
            }
        }))
    }
}

impl fmt::Debug for AlarmStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlarmStream").finish_non_exhaustive()
    }
}

fn message(told: Told) -> StreamAlarmsResponse {
    let message = match told {
        Told::Begins { why, provider } => {
            let reason = match why {
                Why::Opened => Reason::Opened,
                Why::TooSlow => Reason::TooSlow,
                Why::Provider => Reason::Provider,
                Why::Rights => Reason::Rights,
                Why::Resynced => Reason::Resynced,
            };
            Message::SnapshotBegins(AlarmSnapshotBegins { reason: reason.into(), provider: Some(provider) })
        }
        Told::Standing(alarms) => {
            Message::Standing(AlarmsStanding { alarms: alarms.iter().map(|alarm| Alarm::clone(alarm)).collect() })
        }
        Told::Complete { revision, epoch, generation, standing, withheld, not_kept } => {
            Message::SnapshotComplete(AlarmSnapshotComplete {
                revision,
                epoch,
                generation,
                standing,
                withheld,
                not_kept,
            })
        }
        Told::Transition(kind, alarm) => {
            Message::Transition(AlarmTransition { kind: kind.into(), alarm: Some(Alarm::clone(&alarm)) })
        }
        Told::Provider(provider) => Message::Provider(provider),
    };
    StreamAlarmsResponse { message: Some(message) }
}

fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
