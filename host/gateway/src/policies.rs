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
    Action, Decision, FailureCause, ItemVerdict, PolicyHost, PolicyKind, Principal, SessionFacts, Verdict,
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
        Principal {
            id: self.key.id.to_string(),
            scopes: self.key.scope_texts(),
            read: self.key.read.to_vec(),
            write: self.key.write.to_vec(),
            peer: self.peer.map(|ip| ip.to_string()).unwrap_or_default(),
        }
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
        let denial = match &decision.value {
            Verdict::Allow(_) => return Ok(()),
            Verdict::Deny(denial) => denial,
        };
        self.metrics.decisions.denied.of(telemetry::Policy::Access).inc();
        if let Some(cause) = decision.cause {
            return Err(failed(cause));
        }
        let rule = self.host.rule_name(PolicyKind::Access, decision.generation, denial.rule);
        Err(Error::new(Code::PolicyDenied, format!("the access policy refused: {}", denial.reason))
            .with("rule", rule.unwrap_or_else(|| denial.rule.to_string()))
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
        FailureCause::Busy => Error::new(Code::PolicyBusy, "too many decisions are waiting; try again"),
        other => Error::new(Code::PolicyFailed, "the access policy failed, and failing means no")
            .with("cause", other.as_str()),
    }
}
