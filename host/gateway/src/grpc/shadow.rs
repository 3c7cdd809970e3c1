//! A shadow in the form of the admin API: started, looked at, promoted, stopped. Compares nothing itself. Invariant: what
//! the caller sends is bounded before anything is done with it.

use super::decisions::{apart, candidate, difference};
use super::status::status;
use crate::error::{Code, Error};
use tidegate_policy::{PolicyHost, PromoteError, ShadowStatus, SwapRecord};
use tidegate_proto::v1::{self, PolicyCandidate};
use tonic::Status;

pub(super) async fn start(host: &PolicyHost, of: Option<PolicyCandidate>) -> Result<v1::ShadowStatus, Status> {
    let candidate = candidate(of)?;
    let started = apart(host, move |host| host.shadow_start(candidate)).await?;
    Ok(told(started))
}

pub(super) async fn ask(
    host: &PolicyHost,
    what: impl FnOnce(&PolicyHost) -> Option<ShadowStatus> + Send + 'static,
) -> Result<v1::ShadowStatus, Status> {
    let status = apart(host, move |host| Ok(what(host))).await?;
    status.map(told).ok_or_else(|| unproven(&PromoteError::None))
}

pub(super) async fn promote(host: &PolicyHost, request: v1::PromoteShadowRequest) -> Result<SwapRecord, Status> {
    let v1::PromoteShadowRequest { max_difference, min_asked } = request;
    if !(0.0..=1.0).contains(&max_difference) {
        let error = Error::new(Code::RequestInvalid, "a part is between 0 and 1").with("field", "max_difference");
        return Err(status(&error));
    }
    host.shadow_promote(max_difference, min_asked).await.map_err(|error| unproven(&error))
}

fn unproven(error: &PromoteError) -> Status {
    let code = match error {
        PromoteError::None => Code::PolicyNoShadow,
        PromoteError::Ended(_) | PromoteError::TooFew { .. } | PromoteError::Differs { .. } => Code::PolicyUnproven,
    };
    status(&Error::new(code, error.to_string()))
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
