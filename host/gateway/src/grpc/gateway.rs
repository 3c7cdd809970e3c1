//! The unary calls of `tidegate.v1.Gateway`. Knows sessions; every rule is theirs.

use super::{snapshot, status::status};
use crate::{
    error::{Code, Error},
    sessions::{Caller, OpenRequest, Sessions, Stop},
    telemetry::CloseReason,
};
use std::time::Duration;
use tidegate_policy::Action;
use tidegate_proto::v1::{
    CloseSessionRequest, CloseSessionResponse, InvokeRequest, InvokeResponse, OpenSessionRequest, OpenSessionResponse,
    SnapshotRequest, SnapshotResponse, StreamEventsRequest, StreamEventsResponse, gateway_server::Gateway,
};
use tonic::{Request, Response, Status};

/// What a gateway of this build can do; clients look before they rely on it.
const CAPABILITIES: &[&str] = &[
    "bulk",
    "snapshot",
    "resume",
    "linger",
    "gap-exact",
    "csv-replay",
    "resume-token",
    "status",
    "snapshot-stream",
    "alarms",
];
/// The version of `tidegate.v1`.
const PROTOCOL_VERSION: u32 = 1;

/// The service. Clones share the registry.
#[derive(Clone, Debug)]
pub(super) struct GatewayService {
    pub(super) sessions: Sessions,
}

/// The edge put it there when it checked the key.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| {
        status(&Error::new(Code::AuthMissing, "send `authorization: Bearer` with a key of this gateway"))
    })
}

fn millis(ms: u32) -> Option<Duration> {
    (ms != 0).then(|| Duration::from_millis(u64::from(ms)))
}

// === impl GatewayService ===

#[tonic::async_trait]
impl Gateway for GatewayService {
    async fn open_session(
        &self,
        request: Request<OpenSessionRequest>,
    ) -> Result<Response<OpenSessionResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let open = OpenRequest {
            name: asked.client_session_name,
            backend: asked.requested_backend,
            tag: asked.tag,
            command_timeout: millis(asked.command_timeout_ms),
            client_kind: asked.client_kind,
            client_version: asked.client_version,
        };
        let session = self.sessions.open(&caller, open).await.map_err(|error| status(&error))?;
        let identity = &session.identity;
        let prefix = if identity.name.is_empty() { "client" } else { &identity.name };
        Ok(Response::new(OpenSessionResponse {
            session_id: identity.id.to_string(),
            capabilities: CAPABILITIES.iter().map(|one| (*one).to_owned()).collect(),
            worker_pid: identity.worker_pid,
            protocol_version: PROTOCOL_VERSION,
            epoch: identity.epoch,
            client_correlation_id: format!("{prefix}-{}", identity.id),
        }))
    }

    async fn close_session(
        &self,
        request: Request<CloseSessionRequest>,
    ) -> Result<Response<CloseSessionResponse>, Status> {
        let caller = caller(&request)?;
        let id = &request.get_ref().session_id;
        let session = match self.sessions.get(&caller, id) {
            Ok(session) => session,
            Err(error) => {
                let head = self.sessions.closed_head(&caller, id).ok_or_else(|| status(&error))?;
                return Ok(Response::new(CloseSessionResponse { head }));
            }
        };
        self.sessions
            .policies()
            .authorize(&caller.principal(), &session.facts, Action::Close)
            .await
            .map_err(|error| status(&error))?;
        let stop = Stop { kill: false, why: CloseReason::Client, reason: "closed by its client".into() };
        session.end(stop).await.map_err(|error| status(&error))?;
        Ok(Response::new(CloseSessionResponse { head: session.log.head() }))
    }

    async fn invoke(&self, request: Request<InvokeRequest>) -> Result<Response<InvokeResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let session = self.sessions.get(&caller, &asked.session_id).map_err(|error| status(&error))?;
        let command = asked.command.unwrap_or_default();
        let result = self
            .sessions
            .invoke(&caller, &session, &asked.node_id, command, millis(asked.timeout_ms))
            .await
            .map_err(|error| status(&error))?;
        if result.hresult != 0 {
            let said = if result.message.is_empty() { "the method raised" } else { &result.message };
            let hresult = format!("0x{:08X}", result.hresult as u32);
            let error = Error::new(Code::MxCallFailed, format!("{said} ({hresult})")).with("hresult", hresult);
            return Err(status(&error));
        }
        Ok(Response::new(InvokeResponse { result: Some(result) }))
    }

    type StreamEventsStream = tokio_stream::Empty<Result<StreamEventsResponse, Status>>;

    /// Not reached: the edge takes this path before tonic sees it, because tonic's codec would copy every
    /// event once per reader (`stream`). The trait wants the method.
    async fn stream_events(
        &self,
        _request: Request<StreamEventsRequest>,
    ) -> Result<Response<Self::StreamEventsStream>, Status> {
        Err(status(&Error::new(Code::Internal, "StreamEvents is served at the edge")))
    }

    async fn snapshot(&self, request: Request<SnapshotRequest>) -> Result<Response<SnapshotResponse>, Status> {
        let caller = caller(&request)?;
        let taken = snapshot::take(&self.sessions, &caller, &request.get_ref().session_id).await;
        Ok(Response::new(taken.map_err(|error| status(&error))?.whole()))
    }

    type SnapshotStreamStream = snapshot::Parts;

    async fn snapshot_stream(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStreamStream>, Status> {
        let caller = caller(&request)?;
        let taken = snapshot::take(&self.sessions, &caller, &request.get_ref().session_id).await;
        Ok(Response::new(taken.map_err(|error| status(&error))?.parts()))
    }
}
