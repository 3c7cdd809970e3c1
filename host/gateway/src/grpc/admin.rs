//! `tidegate.v1.Admin`, for the operator on the machine: sessions, keys, policies. Whoever reaches it is
//! the operator; the socket's mode said so. Decides nothing.

use super::{overview::Overview, status::status};
use crate::{
    backup::Backups,
    error::{Code, Error},
    events::ReaderMode,
    ids::KeyId,
    keys::{Keys, NewKey},
    nodes::Nodes,
    people::People,
    policies::Policies,
    sessions::{Session, Sessions, State, Stop},
    telemetry::CloseReason,
};
use std::path::PathBuf;
use tidegate_proto::v1::{
    ApprovePolicyRequest, ApprovePolicyResponse, BackupPart, BackupRequest, CreateKeyRequest, CreateKeyResponse,
    DiffPolicyRequest, DiffPolicyResponse, EndSessionRequest, EndSessionResponse, GetShadowRequest, GetShadowResponse,
    GetStatusRequest, GetStatusResponse, KeySummary, ListDecisionsRequest, ListDecisionsResponse, ListKeysRequest,
    ListKeysResponse, ListPoliciesRequest, ListPoliciesResponse, ListSessionsRequest, ListSessionsResponse,
    PinPoliciesRequest, PinPoliciesResponse, PromoteShadowRequest, PromoteShadowResponse, ReaderSummary,
    ReloadPoliciesRequest, ReloadPoliciesResponse, ReplayDecisionsRequest, ReplayDecisionsResponse, RevokeKeyRequest,
    RevokeKeyResponse, RollbackPoliciesRequest, RollbackPoliciesResponse, RotateTokensRequest, RotateTokensResponse,
    SessionSummary, StartShadowRequest, StartShadowResponse, StopShadowRequest, StopShadowResponse,
    admin_server::Admin,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// What the operator's calls need beyond sessions.
#[derive(Clone, Debug)]
pub struct AdminContext {
    pub keys: Keys,
    pub plugins_dir: Option<PathBuf>,
    pub nodes: Nodes,
    pub overview: Overview,
    pub people: People,
    pub backups: Backups,
}

/// The service.
#[derive(Clone, Debug)]
pub(super) struct AdminService {
    sessions: Sessions,
    policies: Policies,
    context: AdminContext,
}

// === impl AdminService ===

impl AdminService {
    pub(super) fn new(sessions: Sessions, context: AdminContext) -> Self {
        Self { policies: sessions.policies().clone(), sessions, context }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(self.context.overview.status(&self.sessions)))
    }

    type BackupStream = ReceiverStream<Result<BackupPart, Status>>;

    async fn backup(&self, _: Request<BackupRequest>) -> Result<Response<Self::BackupStream>, Status> {
        let copy = self.context.backups.copy().await.map_err(|error| status(&error))?;
        tracing::info!(bytes = copy.manifest.bytes(), files = copy.manifest.files.len(), "a backup is being taken");
        Ok(Response::new(super::backup::stream(copy)))
    }

    async fn list_sessions(&self, _: Request<ListSessionsRequest>) -> Result<Response<ListSessionsResponse>, Status> {
        let sessions = self.sessions.all().iter().map(|session| summary(session)).collect();
        Ok(Response::new(ListSessionsResponse { sessions }))
    }

    async fn end_session(&self, request: Request<EndSessionRequest>) -> Result<Response<EndSessionResponse>, Status> {
        let EndSessionRequest { session_id, kill, reason } = request.into_inner();
        if kill && reason.trim().is_empty() {
            let error = Error::new(Code::RequestInvalid, "a kill needs a reason").with("field", "reason");
            return Err(status(&error));
        }
        let session = self.sessions.find(&session_id).map_err(|error| status(&error))?;
        let (why, reason) = match reason.trim() {
            "" => (CloseReason::Kill, "closed by an operator".to_owned()),
            reason => (CloseReason::Kill, reason.to_owned()),
        };
        session.end(Stop { kill, why, reason }).await.map_err(|error| status(&error))?;
        Ok(Response::new(EndSessionResponse {}))
    }

    async fn rotate_tokens(
        &self,
        request: Request<RotateTokensRequest>,
    ) -> Result<Response<RotateTokensResponse>, Status> {
        let revoke = request.get_ref().revoke;
        self.sessions.rotate_tokens(revoke).await.map_err(|error| status(&error))?;
        tracing::info!(revoke, "resume tokens have a new signing key");
        Ok(Response::new(RotateTokensResponse {}))
    }

    async fn create_key(&self, request: Request<CreateKeyRequest>) -> Result<Response<CreateKeyResponse>, Status> {
        let CreateKeyRequest { name, scopes, read, write } = request.into_inner();
        let new = NewKey { name, scopes, read, write };
        let (info, secret) = self.context.keys.create(new).await.map_err(|error| status(&error))?;
        Ok(Response::new(CreateKeyResponse { key_id: info.id.to_string(), secret: secret.expose().to_string() }))
    }

    async fn list_keys(&self, _: Request<ListKeysRequest>) -> Result<Response<ListKeysResponse>, Status> {
        let keys = self.context.keys.list().await.map_err(|error| status(&error))?;
        let keys = keys
            .into_iter()
            .map(|key| KeySummary {
                key_id: key.id.to_string(),
                name: key.name,
                scopes: key.scopes,
                read: key.read,
                write: key.write,
                created_at_unix_ms: key.created_unix_ms,
                revoked_at_unix_ms: key.revoked_unix_ms,
            })
            .collect();
        Ok(Response::new(ListKeysResponse { keys }))
    }

    async fn revoke_key(&self, request: Request<RevokeKeyRequest>) -> Result<Response<RevokeKeyResponse>, Status> {
        let unknown = || status(&Error::new(Code::KeyUnknown, "there is no key of this id"));
        let id = KeyId::parse(&request.get_ref().key_id).ok_or_else(unknown)?;
        self.context.keys.revoke(&id).await.map_err(|error| status(&error))?;
        Ok(Response::new(RevokeKeyResponse {}))
    }

    async fn list_policies(&self, _: Request<ListPoliciesRequest>) -> Result<Response<ListPoliciesResponse>, Status> {
        let mut listing = super::policies::listing(self.policies.host());
        listing.plugins_dir =
            self.context.plugins_dir.as_ref().map(|dir| dir.display().to_string()).unwrap_or_default();
        Ok(Response::new(listing))
    }

    async fn reload_policies(
        &self,
        _: Request<ReloadPoliciesRequest>,
    ) -> Result<Response<ReloadPoliciesResponse>, Status> {
        let host = self.policies.host();
        let swap = super::policies::made(host, host.reload().await).await;
        Ok(Response::new(ReloadPoliciesResponse { swap: Some(swap) }))
    }

    async fn rollback_policies(
        &self,
        request: Request<RollbackPoliciesRequest>,
    ) -> Result<Response<RollbackPoliciesResponse>, Status> {
        let swap = self.policies.rollback(&request.get_ref().reason).await.map_err(|error| status(&error))?;
        let swap = super::policies::made(self.policies.host(), swap).await;
        Ok(Response::new(RollbackPoliciesResponse { swap: Some(swap) }))
    }

    async fn start_shadow(
        &self,
        request: Request<StartShadowRequest>,
    ) -> Result<Response<StartShadowResponse>, Status> {
        let status = super::shadow::start(self.policies.host(), request.into_inner().candidate).await?;
        Ok(Response::new(StartShadowResponse { status: Some(status) }))
    }

    async fn get_shadow(&self, _: Request<GetShadowRequest>) -> Result<Response<GetShadowResponse>, Status> {
        let status = super::shadow::status_of(&self.policies).await?;
        Ok(Response::new(GetShadowResponse { status: Some(status) }))
    }

    async fn promote_shadow(
        &self,
        request: Request<PromoteShadowRequest>,
    ) -> Result<Response<PromoteShadowResponse>, Status> {
        let swap = super::shadow::promote(&self.policies, request.into_inner()).await?;
        let swap = super::policies::made(self.policies.host(), swap).await;
        Ok(Response::new(PromoteShadowResponse { swap: Some(swap) }))
    }

    async fn stop_shadow(&self, _: Request<StopShadowRequest>) -> Result<Response<StopShadowResponse>, Status> {
        let status = super::shadow::stop(&self.policies).await?;
        Ok(Response::new(StopShadowResponse { status: Some(status) }))
    }

    async fn approve_policy(
        &self,
        request: Request<ApprovePolicyRequest>,
    ) -> Result<Response<ApprovePolicyResponse>, Status> {
        let ApprovePolicyRequest { identity, reason } = request.into_inner();
        if reason.trim().is_empty() {
            let error = Error::new(Code::RequestInvalid, "an approval needs a reason").with("field", "reason");
            return Err(status(&error));
        }
        let swap = self.policies.approve(&identity, &reason).await.map_err(|error| status(&error))?;
        let swap = super::policies::made(self.policies.host(), swap).await;
        Ok(Response::new(ApprovePolicyResponse { swap: Some(swap) }))
    }

    async fn list_decisions(
        &self,
        request: Request<ListDecisionsRequest>,
    ) -> Result<Response<ListDecisionsResponse>, Status> {
        let window = request.into_inner().window;
        Ok(Response::new(super::decisions::list(self.policies.host(), window).await?))
    }

    async fn replay_decisions(
        &self,
        request: Request<ReplayDecisionsRequest>,
    ) -> Result<Response<ReplayDecisionsResponse>, Status> {
        let ReplayDecisionsRequest { window, budget_ms } = request.into_inner();
        Ok(Response::new(super::decisions::replay(self.policies.host(), window, budget_ms).await?))
    }

    async fn diff_policy(&self, request: Request<DiffPolicyRequest>) -> Result<Response<DiffPolicyResponse>, Status> {
        Ok(Response::new(super::decisions::diff(self.policies.host(), request.into_inner()).await?))
    }

    async fn pin_policies(
        &self,
        request: Request<PinPoliciesRequest>,
    ) -> Result<Response<PinPoliciesResponse>, Status> {
        self.policies.host().pin(request.get_ref().pinned);
        Ok(Response::new(PinPoliciesResponse {}))
    }
}

fn summary(session: &Session) -> SessionSummary {
    let identity = &session.identity;
    let stats = session.log.stats();
    let (state, fault) = match session.state() {
        State::Ready => ("ready", String::new()),
        State::Closing(_) => ("closing", String::new()),
        State::Leaving(_) => ("leaving", String::new()),
        State::Faulted(cause) => ("faulted", cause),
        State::Closed(..) => ("closed", String::new()),
    };
    let readers = session
        .log
        .readers()
        .iter()
        .map(|reader| {
            let pace = session.log.pace(reader);
            ReaderSummary {
                name: reader.name().to_owned(),
                key_id: reader.key_id().to_owned(),
                position: reader.position(),
                lag: pace.lag,
                lag_high_water: pace.lag_high_water,
                mode: match reader.mode() {
                    _ if reader.is_told_to_end() => "ending".to_owned(),
                    ReaderMode::Normal => "normal".to_owned(),
                    ReaderMode::Conflating => "conflating".to_owned(),
                },
                seconds_until_gap: pace.seconds_until_gap,
                lag_bound: pace.lag_bound,
                per_second: pace.per_second,
            }
        })
        .collect();
    SessionSummary {
        session_id: identity.id.to_string(),
        name: identity.name.clone(),
        tag: identity.tag.clone(),
        backend: identity.backend.clone(),
        owner_key_id: identity.owner.as_ref().map(ToString::to_string).unwrap_or_default(),
        state: state.to_owned(),
        worker_pid: identity.worker_pid,
        epoch: identity.epoch,
        head: stats.head,
        log_bytes: stats.bytes,
        items: session.with_items(|items| items.live()) as u32,
        fault,
        opened_at_unix_ms: identity.opened_unix_ms,
        readers,
        events_per_second: session.log.produced_per_second(),
        log_bytes_max: stats.bytes_max,
    }
}
