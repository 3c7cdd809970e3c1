//! The control points: where the gateway asks its policies, and what an answer means for a caller. The
//! only module beside `sessions` that knows the policy crate's types; it decides nothing itself.
//! Invariant: a policy that fails never widens what is allowed.

use crate::{
    error::{Code, Error, Result},
    keys::Key,
    telemetry::{self, Metrics},
};
use std::{net::IpAddr, sync::Arc};
use tidegate_policy::{
    Action, Decision, FailureCause, ItemVerdict, Policy, PolicyHost, Principal, SessionFacts, Verdict,
};

/// Who calls: a key that was checked, and where from.
#[derive(Clone, Debug)]
pub struct Caller {
    pub key: Arc<Key>,
    pub peer: Option<IpAddr>,
}

/// Asks the access policy and turns its answers into errors.
#[derive(Clone, Debug)]
pub struct Policies {
    host: PolicyHost,
    metrics: Metrics,
}

// === impl Caller ===

impl Caller {
    pub fn principal(&self) -> Principal {
        let key = &self.key;
        let peer = self.peer.map(|ip| ip.to_string()).unwrap_or_default();
        Principal::new(key.id.as_str(), key.scope_texts(), key.read.to_vec(), key.write.to_vec(), peer)
    }
}

// === impl Policies ===

impl Policies {
    pub fn new(host: PolicyHost, metrics: Metrics) -> Self {
        Self { host, metrics }
    }

    pub fn host(&self) -> &PolicyHost {
        &self.host
    }

    /// One access decision; a denial becomes `policy.denied` with rule, generation and reason.
    pub async fn authorize(&self, who: &Principal, place: &SessionFacts, action: Action) -> Result<()> {
        let decision = self.host.access(who, place, action).await;
        self.verdict(decision)
    }

    /// Turns a decided verdict into what the caller gets.
    pub fn verdict(&self, decision: Decision<Verdict>) -> Result<()> {
        let (rule, reason) = match &decision.value {
            Verdict::Allow { .. } => return Ok(()),
            Verdict::Deny { rule, reason } => (*rule, reason),
        };
        self.metrics.decisions.denied.of(telemetry::Policy::Access).inc();
        if let Some(cause) = decision.cause {
            return Err(failed(cause));
        }
        let name = self.host.rule_name(Policy::Access, decision.generation, rule);
        Err(Error::new(Code::PolicyDenied, format!("the access policy refused: {reason}"))
            .with("rule", name.unwrap_or_else(|| rule.to_string()))
            .with("generation", decision.generation.0))
    }

    /// A verdict for each tag, all of one generation.
    pub async fn judge(
        &self,
        who: &Principal,
        place: &SessionFacts,
        tags: &[Arc<str>],
    ) -> Decision<Vec<ItemVerdict>> {
        self.host.judge_items(who, place, tags).await
    }
}

/// What a caller hears when the policy itself failed.
fn failed(cause: FailureCause) -> Error {
    match cause {
        FailureCause::QueueFull => Error::new(Code::PolicyBusy, "too many decisions are waiting; try again"),
        other => Error::new(Code::PolicyFailed, "the access policy failed, and failing means no")
            .with("cause", other.as_str()),
    }
}

/// THROWAWAY until the host lands.
pub async fn start(config: &crate::config::ServeConfig, store: std::path::PathBuf) -> Result<PolicyHost> {
    let mut policy = tidegate_policy::PolicyConfig::new(store);
    policy.plugins_dir = config.plugins.clone();
    PolicyHost::start(policy).map_err(|error| Error::new(Code::Internal, error.to_string()))
}
pub fn samples(_: &PolicyHost) -> impl Fn() -> Vec<telemetry::PolicySample> + Send + Sync + 'static { || Vec::new() }
pub async fn record_swaps(_: PolicyHost, _: crate::storage::Storage, _: Metrics) { std::future::pending().await }
impl Policies {
    pub fn trouble(&self) -> Option<String> { None }
    pub fn listing(&self) -> tidegate_proto::v1::ListPoliciesResponse { Default::default() }
    pub async fn reload(&self) -> tidegate_proto::v1::SwapRecord { Default::default() }
    pub async fn rollback(&self, _: &str) -> Result<tidegate_proto::v1::SwapRecord> { Ok(Default::default()) }
}
