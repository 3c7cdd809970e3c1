//! Runtime nodes with types: what a node calls, and what an operator does about nodes. Sends no heartbeat by
//! itself: when one is due is the node's business.

use crate::{ClientError, gateway::authorized};
use tidegate_proto::v1::{
    AttachNodeRequest, AttachNodeResponse, DetachNodeRequest, GetVersionFloorRequest, ListNodesRequest, NodeAttachment,
    NodeCapabilityUpdateRequest, NodeHeartbeatRequest, NodeHeartbeatResponse, NodeReport, RevokeNodeRequest,
    SetVersionFloorRequest, VersionFloor, WatchNodesRequest, WatchNodesResponse, node_admin_client::NodeAdminClient,
    runtime_nodes_client::RuntimeNodesClient,
};
use tonic::{
    Request, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

/// A connection for nodes.
#[derive(Clone, Debug)]
pub struct Nodes {
    client: RuntimeNodesClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
}

/// An operator's connection, about nodes.
#[derive(Clone, Debug)]
pub struct NodeAdmin {
    client: NodeAdminClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
}

/// Transitions as they come.
#[derive(Debug)]
pub struct NodeWatch {
    messages: Streaming<WatchNodesResponse>,
}

// === impl Nodes ===

impl Nodes {
    pub(crate) fn new(channel: Channel, key: Option<MetadataValue<Ascii>>) -> Self {
        Self { client: RuntimeNodesClient::new(channel), key }
    }

    pub async fn attach(&self, request: AttachNodeRequest) -> Result<AttachNodeResponse, ClientError> {
        Ok(self.client.clone().attach(self.request(request)).await?.into_inner())
    }

    /// `None` reports online.
    pub async fn heartbeat(
        &self,
        node_id: &str,
        session_id: &str,
        report: Option<NodeReport>,
    ) -> Result<NodeHeartbeatResponse, ClientError> {
        let report = report.unwrap_or(NodeReport::Unspecified).into();
        let request = NodeHeartbeatRequest { node_id: node_id.into(), session_id: session_id.into(), report };
        Ok(self.client.clone().heartbeat(self.request(request)).await?.into_inner())
    }

    pub async fn capability_update(&self, request: NodeCapabilityUpdateRequest) -> Result<NodeAttachment, ClientError> {
        let response = self.client.clone().capability_update(self.request(request)).await?.into_inner();
        response.attachment.ok_or(ClientError::Incomplete("the attachment"))
    }

    pub async fn detach(&self, node_id: &str, session_id: &str) -> Result<NodeAttachment, ClientError> {
        let request = DetachNodeRequest { node_id: node_id.into(), session_id: session_id.into() };
        let response = self.client.clone().detach(self.request(request)).await?.into_inner();
        response.attachment.ok_or(ClientError::Incomplete("the attachment"))
    }

    /// Every attachment that `request` asks for, page by page; its `after` is where to begin.
    pub async fn list(&self, mut request: ListNodesRequest) -> Result<Vec<NodeAttachment>, ClientError> {
        let mut all = Vec::new();
        loop {
            let page = self.client.clone().list(self.request(request.clone())).await?.into_inner();
            all.extend(page.attachments);
            if page.next_after == 0 {
                return Ok(all);
            }
            request.after = page.next_after;
        }
    }

    /// An empty session watches all.
    pub async fn watch(&self, session_id: &str) -> Result<NodeWatch, ClientError> {
        let request = self.request(WatchNodesRequest { session_id: session_id.into() });
        Ok(NodeWatch { messages: self.client.clone().watch(request).await?.into_inner() })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        authorized(self.key.as_ref(), message)
    }
}

// === impl NodeAdmin ===

impl NodeAdmin {
    pub(crate) fn new(channel: Channel, key: Option<MetadataValue<Ascii>>) -> Self {
        Self { client: NodeAdminClient::new(channel), key }
    }

    /// Every attachment that `request` asks for, page by page.
    pub async fn list(&self, mut request: ListNodesRequest) -> Result<Vec<NodeAttachment>, ClientError> {
        let mut all = Vec::new();
        loop {
            let page = self.client.clone().list(authorized(self.key.as_ref(), request.clone())).await?.into_inner();
            all.extend(page.attachments);
            if page.next_after == 0 {
                return Ok(all);
            }
            request.after = page.next_after;
        }
    }

    pub async fn watch(&self, session_id: &str) -> Result<NodeWatch, ClientError> {
        let request = WatchNodesRequest { session_id: session_id.into() };
        Ok(NodeWatch {
            messages: self.client.clone().watch(authorized(self.key.as_ref(), request)).await?.into_inner(),
        })
    }

    /// An empty session revokes every record of the node. Returns how many were not revoked before.
    pub async fn revoke(&self, node_id: &str, session_id: &str) -> Result<u32, ClientError> {
        let request = RevokeNodeRequest { node_id: node_id.into(), session_id: session_id.into() };
        Ok(self.client.clone().revoke(authorized(self.key.as_ref(), request)).await?.into_inner().revoked)
    }

    pub async fn floor(&self) -> Result<VersionFloor, ClientError> {
        let response =
            self.client.clone().get_floor(authorized(self.key.as_ref(), GetVersionFloorRequest {})).await?.into_inner();
        response.floor.ok_or(ClientError::Incomplete("the floor"))
    }

    /// `None` clears it.
    pub async fn set_floor(&self, floor: Option<&str>) -> Result<VersionFloor, ClientError> {
        let request = SetVersionFloorRequest { floor: floor.map(str::to_owned) };
        let response = self.client.clone().set_floor(authorized(self.key.as_ref(), request)).await?.into_inner();
        response.floor.ok_or(ClientError::Incomplete("the floor"))
    }
}

// === impl NodeWatch ===

impl NodeWatch {
    /// The next message; `None` when the gateway stops.
    pub async fn next(&mut self) -> Result<Option<WatchNodesResponse>, ClientError> {
        Ok(self.messages.message().await?)
    }
}
