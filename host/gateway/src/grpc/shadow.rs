//! A shadow in the form of the admin API: started, looked at, promoted, stopped. Compares nothing itself. Invariant: what
//! the caller sends is bounded before anything is done with it.

use super::decisions::{apart, candidate, difference};
use super::status::status;
use crate::policies::Policies;
use tidegate_policy::{PolicyHost, ShadowStatus, SwapRecord};
use tidegate_proto::v1::{self, PolicyCandidate};
use tonic::Status;

pub(super) async fn start(host: &PolicyHost, of: Option<PolicyCandidate>) -> Result<v1::ShadowStatus, Status> {
    let candidate = candidate(of)?;
    let started = apart(host, move |host| host.shadow_start(candidate)).await?;
    Ok(told(started))
}

pub(super) async fn status_of(policies: &Policies) -> Result<v1::ShadowStatus, Status> {
    policies.shadow().await.map(told).map_err(|error| status(&error))
}

pub(super) async fn stop(policies: &Policies) -> Result<v1::ShadowStatus, Status> {
    policies.stop_shadow().await.map(told).map_err(|error| status(&error))
}

pub(super) async fn promote(policies: &Policies, request: v1::PromoteShadowRequest) -> Result<SwapRecord, Status> {
    let v1::PromoteShadowRequest { max_difference, min_asked, identity } = request;
    policies.promote_shadow(&identity, max_difference, min_asked).await.map_err(|error| status(&error))
}

fn told(of: ShadowStatus) -> v1::ShadowStatus {
    v1::ShadowStatus {
        file: of.file,
        name: of.name,
        version: of.version,
        identity: of.identity.to_hex(),
        policies: of.policies.iter().map(|policy| policy.name().to_owned()).collect(),
        since_unix_ms: of.since_ms as i64,
        generation: of.generation,
        difference: Some(difference(of.compared)),
        skipped: of.skipped,
        ended: of.ended.unwrap_or_default(),
    }
}
