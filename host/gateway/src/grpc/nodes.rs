//! `tidegate.v1.RuntimeNodes` for clients and `tidegate.v1.NodeAdmin` for the operator on the machine.
//! Translates; every rule is of `nodes`. Invariant: a watch ends when its key is revoked, and before the
//! gateway stops.

use super::{gateway::caller, status::status};
use crate::{
    error::{Code, Error},
    ids::KeyId,
    keys::Keys,
    nodes::{Attach, Attachment, HEARTBEAT_EVERY, Holder, NodeState, Nodes, Report, Watched, Watcher},
    sessions::Caller,
    storage::FloorRow,
};
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tidegate_proto::v1::{
    AttachNodeRequest, AttachNodeResponse, DetachNodeRequest, DetachNodeResponse, GetVersionFloorRequest,
    GetVersionFloorResponse, ListNodesRequest, ListNodesResponse, NodeAccess, NodeAttachment,
    NodeCapabilityUpdateRequest, NodeCapabilityUpdateResponse, NodeHeartbeatRequest, NodeHeartbeatResponse, NodeReport,
    NodeTransition, RevokeNodeRequest, RevokeNodeResponse, SetVersionFloorRequest, SetVersionFloorResponse,
    VersionFloor, WatchNodesRequest, WatchNodesResponse, node_admin_server::NodeAdmin,
    runtime_nodes_server::RuntimeNodes, watch_nodes_response::Message,
};
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

/// Both services. Clones share the nodes.
#[derive(Clone, Debug)]
pub(super) struct NodeService {
    pub(super) nodes: Nodes,
    pub(super) keys: Keys,
}

/// The stream of a watch.
pub(super) struct WatchStream {
    /// Waits for the next message; `None` behind the last one.
    next: Option<Step>,
}

type Step = Pin<Box<dyn Future<Output = Option<(Result<Watched, Status>, Watch)>> + Send>>;

/// A watcher and the key it watches with; the operator has none.
struct Watch {
    watcher: Watcher,
    keys: Keys,
    key: Option<KeyId>,
}

// === impl NodeService ===

impl NodeService {
    /// Who calls, once the rate-limit policy has let the call through.
    async fn admitted<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let caller = caller(request)?;
        self.nodes.admit(&caller).await.map_err(|error| status(&error))?;
        Ok(caller)
    }

    async fn page(&self, holder: &Holder, asked: ListNodesRequest) -> Result<Response<ListNodesResponse>, Status> {
        let (page, next) = self
            .nodes
            .list(holder, filled(&asked.session_id), asked.ended, asked.after, asked.limit)
            .await
            .map_err(|error| status(&error))?;
        let attachments = page.into_iter().map(attachment).collect();
        Ok(Response::new(ListNodesResponse { attachments, next_after: next.unwrap_or(0) }))
    }

    fn open(&self, holder: Holder, session: &str) -> Result<Response<WatchStream>, Status> {
        let key = match &holder {
            Holder::Key { id, .. } => Some(id.clone()),
            Holder::Operator => None,
        };
        let watcher = self.nodes.watch(holder, filled(session)).map_err(|error| status(&error))?;
        let watch = Watch { watcher, keys: self.keys.clone(), key };
        Ok(Response::new(WatchStream { next: Some(Box::pin(watch.step())) }))
    }
}

#[tonic::async_trait]
impl RuntimeNodes for NodeService {
    async fn attach(&self, request: Request<AttachNodeRequest>) -> Result<Response<AttachNodeResponse>, Status> {
        let caller = self.admitted(&request).await?;
        let AttachNodeRequest { node_id, session_id, kind, version, capabilities } = request.into_inner();
        let asked = Attach { node: node_id, session: session_id, kind, version, capabilities };
        let (attached, judged) = self.nodes.attach(&caller, asked).await.map_err(|error| status(&error))?;
        let access = if judged.may_write { NodeAccess::ReadWrite } else { NodeAccess::ReadOnly };
        Ok(Response::new(AttachNodeResponse {
            attachment: Some(attachment(attached)),
            access: access.into(),
            heartbeat_every_ms: HEARTBEAT_EVERY.as_millis() as u32,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<NodeHeartbeatRequest>,
    ) -> Result<Response<NodeHeartbeatResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let report = report(asked.report)?.unwrap_or(Report::Online);
        let (state, received_at_unix_ms) = self
            .nodes
            .heartbeat(&caller, &asked.node_id, &asked.session_id, report)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(NodeHeartbeatResponse { state: state.as_str().to_owned(), received_at_unix_ms }))
    }

    async fn capability_update(
        &self,
        request: Request<NodeCapabilityUpdateRequest>,
    ) -> Result<Response<NodeCapabilityUpdateResponse>, Status> {
        let caller = self.admitted(&request).await?;
        let asked = request.into_inner();
        let report = report(asked.report)?;
        let updated = self
            .nodes
            .capability_update(&caller, &asked.node_id, &asked.session_id, asked.capabilities, report)
            .await
            .map_err(|error| status(&error))?;
        Ok(Response::new(NodeCapabilityUpdateResponse { attachment: Some(attachment(updated)) }))
    }

    async fn detach(&self, request: Request<DetachNodeRequest>) -> Result<Response<DetachNodeResponse>, Status> {
        let caller = self.admitted(&request).await?;
        let DetachNodeRequest { node_id, session_id } = request.into_inner();
        let left = self.nodes.detach(&caller, &node_id, &session_id).await.map_err(|error| status(&error))?;
        Ok(Response::new(DetachNodeResponse { attachment: Some(attachment(left)) }))
    }

    async fn list(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        let holder = Holder::from(&self.admitted(&request).await?);
        self.page(&holder, request.into_inner()).await
    }

    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<WatchNodesRequest>) -> Result<Response<WatchStream>, Status> {
        let holder = Holder::from(&self.admitted(&request).await?);
        self.open(holder, &request.get_ref().session_id)
    }
}

#[tonic::async_trait]
impl NodeAdmin for NodeService {
    async fn list(&self, request: Request<ListNodesRequest>) -> Result<Response<ListNodesResponse>, Status> {
        self.page(&Holder::Operator, request.into_inner()).await
    }

    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<WatchNodesRequest>) -> Result<Response<WatchStream>, Status> {
        self.open(Holder::Operator, &request.get_ref().session_id)
    }

    async fn revoke(&self, request: Request<RevokeNodeRequest>) -> Result<Response<RevokeNodeResponse>, Status> {
        let RevokeNodeRequest { node_id, session_id } = request.into_inner();
        let revoked = self.nodes.revoke(&node_id, filled(&session_id)).await.map_err(|error| status(&error))?;
        Ok(Response::new(RevokeNodeResponse { revoked: revoked as u32 }))
    }

    async fn get_floor(&self, _: Request<GetVersionFloorRequest>) -> Result<Response<GetVersionFloorResponse>, Status> {
        let stored = self.nodes.floor().await.map_err(|error| status(&error))?;
        Ok(Response::new(GetVersionFloorResponse { floor: Some(floor(stored)) }))
    }

    async fn set_floor(
        &self,
        request: Request<SetVersionFloorRequest>,
    ) -> Result<Response<SetVersionFloorResponse>, Status> {
        let set = self.nodes.set_floor(request.get_ref().floor.as_deref()).await.map_err(|error| status(&error))?;
        Ok(Response::new(SetVersionFloorResponse { floor: Some(floor(set)) }))
    }
}

// === impl WatchStream ===

impl Stream for WatchStream {
    type Item = Result<WatchNodesResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(step) = &mut self.next else { return Poll::Ready(None) };
        let ended = ready!(step.as_mut().poll(context));
        let (item, next) = match ended {
            Some((Ok(watched), watch)) => (Some(Ok(message(watched))), Some(Box::pin(watch.step()) as Step)),
            Some((Err(status), _)) => (Some(Err(status)), None),
            None => (None, None),
        };
        self.next = next;
        Poll::Ready(item)
    }
}

// === impl Watch ===

impl Watch {
    async fn step(mut self) -> Option<(Result<Watched, Status>, Self)> {
        let mut changes = self.keys.watch();
        loop {
            if self.key.as_ref().is_some_and(|key| self.keys.get(key).is_none()) {
                let revoked = status(&Error::new(Code::AuthInvalid, "the key of this watch was revoked"));
                return Some((Err(revoked), self));
            }
            tokio::select! {
                biased;
                Ok(()) = changes.changed() => {}
                watched = self.watcher.next() => return watched.map(|watched| (Ok(watched), self)),
            }
        }
    }
}

fn message(watched: Watched) -> WatchNodesResponse {
    let message = match watched {
        Watched::Missed(missed) => Message::Missed(missed),
        Watched::Transition(transition) => Message::Transition(NodeTransition {
            node_id: transition.node.to_string(),
            session_id: transition.session.to_string(),
            from: transition.from.map_or("", NodeState::as_str).to_owned(),
            to: transition.to.as_str().to_owned(),
            cause: transition.cause.to_owned(),
            at_unix_ms: transition.at_unix_ms,
        }),
    };
    WatchNodesResponse { message: Some(message) }
}

/// The schema knows two reports; a number beyond them is refused (N-10).
fn report(number: i32) -> Result<Option<Report>, Status> {
    match NodeReport::try_from(number) {
        Ok(NodeReport::Unspecified) => Ok(None),
        Ok(NodeReport::Online) => Ok(Some(Report::Online)),
        Ok(NodeReport::Degraded) => Ok(Some(Report::Degraded)),
        Err(_) => {
            let error = Error::new(Code::RequestInvalid, "a node may report online or degraded, nothing else");
            Err(status(&error.with("field", "report")))
        }
    }
}

fn filled(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn attachment(Attachment { row, last_heartbeat_unix_ms }: Attachment) -> NodeAttachment {
    NodeAttachment {
        node_id: row.node.to_string(),
        session_id: row.session.to_string(),
        kind: row.kind.to_string(),
        version: row.version.to_string(),
        capabilities: row.capabilities.to_vec(),
        state: row.state.as_str().to_owned(),
        attached_at_unix_ms: row.attached_unix_ms,
        updated_at_unix_ms: row.updated_unix_ms,
        last_heartbeat_unix_ms,
        key_id: row.key.to_string(),
    }
}

fn floor(row: FloorRow) -> VersionFloor {
    VersionFloor { floor: row.floor, revision: row.revision, set_at_unix_ms: row.set_unix_ms }
}
