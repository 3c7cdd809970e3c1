//! The operators' API with types: sessions, keys, policies. It knows nothing of streams. The one
//! secret that passes here is the one of a new key.

use crate::{ClientError, gateway::authorized};
use tidegate_proto::v1::{
    ApprovePolicyRequest, BackupPart, BackupRequest, CreateKeyRequest, CreateKeyResponse, DecisionWindow,
    DiffPolicyRequest, DiffPolicyResponse, EndSessionRequest, GetShadowRequest, GetStatusRequest, GetStatusResponse,
    KeySummary, ListDecisionsRequest, ListDecisionsResponse, ListKeysRequest, ListPoliciesRequest,
    ListPoliciesResponse, ListSessionsRequest, PinPoliciesRequest, PolicyCandidate, PromoteShadowRequest,
    ReloadPoliciesRequest, ReplayDecisionsRequest, ReplayDecisionsResponse, RevokeKeyRequest, RollbackPoliciesRequest,
    RotateTokensRequest, SessionSummary, ShadowStatus, StartShadowRequest, StopShadowRequest, SwapRecord,
    admin_client::AdminClient,
};
use tonic::{
    Request, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

/// A connection to the operators' API.
#[derive(Clone, Debug)]
pub struct Admin {
    client: AdminClient<Channel>,
    key: Option<MetadataValue<Ascii>>,
}

/// A backup on its way.
#[derive(Debug)]
pub struct BackupStream {
    stream: Streaming<BackupPart>,
}

// === impl BackupStream ===

impl BackupStream {
    /// The next part; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<BackupPart>, ClientError> {
        Ok(self.stream.message().await?)
    }
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(client: AdminClient<Channel>, key: Option<MetadataValue<Ascii>>) -> Self {
        Self { client, key }
    }

    pub async fn status(&self) -> Result<GetStatusResponse, ClientError> {
        Ok(self.client().get_status(self.request(GetStatusRequest {})).await?.into_inner())
    }

    /// Begins a backup: its files in pieces, the manifest last.
    pub async fn backup(&self) -> Result<BackupStream, ClientError> {
        let stream = self.client().backup(self.request(BackupRequest {})).await?.into_inner();
        Ok(BackupStream { stream })
    }

    pub async fn sessions(&self) -> Result<Vec<SessionSummary>, ClientError> {
        Ok(self.client().list_sessions(self.request(ListSessionsRequest {})).await?.into_inner().sessions)
    }

    /// Asks the worker to end, and kills it if it does not in time.
    pub async fn close_session(&self, session_id: &str, reason: &str) -> Result<(), ClientError> {
        self.end_session(session_id, false, reason).await
    }

    /// Kills the worker at once. The reason must not be blank.
    pub async fn kill_session(&self, session_id: &str, reason: &str) -> Result<(), ClientError> {
        self.end_session(session_id, true, reason).await
    }

    pub async fn create_key(&self, request: CreateKeyRequest) -> Result<CreateKeyResponse, ClientError> {
        Ok(self.client().create_key(self.request(request)).await?.into_inner())
    }

    /// A new signing key for resume tokens; `revoke`: those handed out before are refused from now on.
    pub async fn rotate_tokens(&self, revoke: bool) -> Result<(), ClientError> {
        self.client().rotate_tokens(self.request(RotateTokensRequest { revoke })).await?;
        Ok(())
    }

    pub async fn keys(&self) -> Result<Vec<KeySummary>, ClientError> {
        Ok(self.client().list_keys(self.request(ListKeysRequest {})).await?.into_inner().keys)
    }

    pub async fn revoke_key(&self, key_id: &str) -> Result<(), ClientError> {
        let request = RevokeKeyRequest { key_id: key_id.into() };
        self.client().revoke_key(self.request(request)).await?;
        Ok(())
    }

    pub async fn policies(&self) -> Result<ListPoliciesResponse, ClientError> {
        Ok(self.client().list_policies(self.request(ListPoliciesRequest {})).await?.into_inner())
    }

    pub async fn reload_policies(&self) -> Result<SwapRecord, ClientError> {
        let response = self.client().reload_policies(self.request(ReloadPoliciesRequest {})).await?.into_inner();
        response.swap.ok_or(ClientError::Incomplete("the swap's record"))
    }

    pub async fn rollback_policies(&self, reason: &str) -> Result<SwapRecord, ClientError> {
        let request = RollbackPoliciesRequest { reason: reason.into() };
        let response = self.client().rollback_policies(self.request(request)).await?.into_inner();
        response.swap.ok_or(ClientError::Incomplete("the swap's record"))
    }

    /// A candidate beside what serves.
    pub async fn start_shadow(&self, candidate: PolicyCandidate) -> Result<ShadowStatus, ClientError> {
        let request = StartShadowRequest { candidate: Some(candidate) };
        let status = self.client().start_shadow(self.request(request)).await?.into_inner().status;
        status.ok_or(ClientError::Incomplete("the shadow's status"))
    }

    pub async fn shadow(&self) -> Result<ShadowStatus, ClientError> {
        let status = self.client().get_shadow(self.request(GetShadowRequest {})).await?.into_inner().status;
        status.ok_or(ClientError::Incomplete("the shadow's status"))
    }

    pub async fn promote_shadow(&self, request: PromoteShadowRequest) -> Result<SwapRecord, ClientError> {
        let response = self.client().promote_shadow(self.request(request)).await?.into_inner();
        response.swap.ok_or(ClientError::Incomplete("the swap's record"))
    }

    pub async fn stop_shadow(&self) -> Result<ShadowStatus, ClientError> {
        let status = self.client().stop_shadow(self.request(StopShadowRequest {})).await?.into_inner().status;
        status.ok_or(ClientError::Incomplete("the shadow's status"))
    }

    /// Lets in what the gate holds back.
    pub async fn approve_policy(&self, identity: &str, reason: &str) -> Result<SwapRecord, ClientError> {
        let request = ApprovePolicyRequest { identity: identity.into(), reason: reason.into() };
        let response = self.client().approve_policy(self.request(request)).await?.into_inner();
        response.swap.ok_or(ClientError::Incomplete("the swap's record"))
    }

    pub async fn decisions(&self, window: DecisionWindow) -> Result<ListDecisionsResponse, ClientError> {
        let request = ListDecisionsRequest { window: Some(window) };
        Ok(self.client().list_decisions(self.request(request)).await?.into_inner())
    }

    pub async fn replay_decisions(
        &self,
        window: DecisionWindow,
        budget_ms: u64,
    ) -> Result<ReplayDecisionsResponse, ClientError> {
        let request = ReplayDecisionsRequest { window: Some(window), budget_ms };
        Ok(self.client().replay_decisions(self.request(request)).await?.into_inner())
    }

    pub async fn diff_policy(&self, request: DiffPolicyRequest) -> Result<DiffPolicyResponse, ClientError> {
        Ok(self.client().diff_policy(self.request(request)).await?.into_inner())
    }

    pub async fn pin_policies(&self, pinned: bool) -> Result<(), ClientError> {
        self.client().pin_policies(self.request(PinPoliciesRequest { pinned })).await?;
        Ok(())
    }

    async fn end_session(&self, session_id: &str, kill: bool, reason: &str) -> Result<(), ClientError> {
        let request = EndSessionRequest { session_id: session_id.into(), kill, reason: reason.into() };
        self.client().end_session(self.request(request)).await?;
        Ok(())
    }

    fn client(&self) -> AdminClient<Channel> {
        self.client.clone()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        authorized(self.key.as_ref(), message)
    }
}
