//! The control points: where the gateway asks its policies, and what an answer means for a caller. The
//! only module beside `sessions` and `nodes` that knows the policy crate's types; it decides nothing itself.
//! Invariant: a policy that fails never widens what is allowed.

mod buckets;
mod waiting;

use crate::{
    clock::Clock,
    config::ServeConfig,
    error::{Code, Error, Result},
    ids::KeyId,
    telemetry::{self, PolicyNumbers, PolicySample, ShadowSample},
};
use buckets::Buckets;
use std::{path::PathBuf, sync::Arc};
use tidegate_policy::{
    Action, Admission, ClientNode, Decision, DecisionLog, FailureCause, ItemVerdict, Origin, Outcome, PastError,
    Policy, PolicyConfig, PolicyHost, Principal, PromoteError, RateAnswer, RateRequest, RefusalCode, RollbackError,
    SessionFacts, ShadowStatus, StartError, Starting, SwapRecord, Trigger, Trust, Verdict, Warm,
};
pub use waiting::Waiting;

/// Asks the policies and turns their answers into errors. Clones share the buckets.
#[derive(Clone, Debug)]
pub struct Policies {
    host: PolicyHost,
    clock: Arc<dyn Clock>,
    buckets: Arc<Buckets>,
}

/// What a request is for its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    Open,
    Stream,
    /// With the number of elements.
    Invoke(u32),
    Snapshot,
    /// A call of a runtime node that may touch storage; its heartbeats are not limited.
    Node,
}

/// What a shadow is started of without a file from outside.
#[derive(Clone, Debug)]
pub enum Trial {
    /// What the gate holds back, by its identity.
    Held(String),
    /// What answers this now, with other settings (TOML).
    Settings(Policy, String),
}

// === impl Policies ===

impl Policies {
    pub fn new(host: PolicyHost, clock: Arc<dyn Clock>) -> Self {
        Self { host, clock, buckets: Arc::default() }
    }

    /// Takes a request's cost out of its bucket as the rate-limit policy sizes it, or refuses with the time to wait.
    pub async fn admit(&self, who: &Principal, key: &KeyId, rate: Rate) -> Result<()> {
        let (kind, cost) = match rate {
            Rate::Open => ("open", 1),
            Rate::Stream => ("stream", 1),
            Rate::Invoke(elements) => ("invoke", elements.max(1)),
            Rate::Snapshot => ("snapshot", 1),
            Rate::Node => ("node", 1),
        };
        let now_ms = self.clock.monotonic_ms();
        let tokens = self.buckets.tokens(key, kind, now_ms);
        let request = RateRequest { kind: kind.to_owned(), cost, tokens, now: self.clock.unix_ms() };
        let decision = self.host.rate_limit(who, request).await;
        let id = decision.id;
        let name = |rule| self.host.rule_name(decision.generation, Policy::RateLimit, rule);
        let rule = decision.rule.and_then(name);
        let wait_ms = match decision.value {
            RateAnswer::Unlimited => return Ok(()),
            RateAnswer::Limit { retry_ms } => retry_ms,
            RateAnswer::Pass { burst, .. } if f64::from(cost) > burst => {
                return Err(Error::new(
                    Code::LimitBulk,
                    format!("the command counts {cost} and the rate-limit policy never lets more than {burst} through"),
                )
                .with("max", burst)
                .with("decision", id));
            }
            RateAnswer::Pass { per_second, burst } => {
                let taken = self.buckets.take(key, kind, now_ms, f64::from(cost), (per_second, burst));
                match taken {
                    Ok(()) => return Ok(()),
                    Err(wait_ms) => wait_ms,
                }
            }
        };
        let error = Error::new(Code::RateLimited, format!("too many {kind} requests; try again in {wait_ms} ms"))
            .with("kind", kind)
            .with("retry_ms", wait_ms)
            .with("decision", id);
        Err(match rule {
            Some(rule) => error.with("rule", rule),
            None => error,
        })
    }

    /// What the health page says of the policies; none: all is well.
    pub fn trouble(&self) -> Option<String> {
        let listing = self.host.list();
        let standing = listing.refused.iter().filter(|refusal| refusal.code == RefusalCode::Poisoned).count();
        // Nothing has come since: the set before it serves on.
        let newest = listing.swaps.iter().rev().find(|swap| swap.outcome == Outcome::Swapped);
        let reverted = newest.is_some_and(|swap| swap.trigger == Trigger::Breaker);
        let taken_back = match standing {
            0 => {
                reverted.then(|| "a component failed too often and was taken back; the set before it serves".to_owned())
            }
            _ => Some(format!("{standing} component(s) in the plugins folder failed too often and were taken back")),
        };
        let closed = listing.policies.iter().any(|row| row.policy == Policy::Access && row.origin == Origin::Closed);
        let closed = closed.then(|| "no component answers access, so everything is denied to everybody".to_owned());
        let both: Vec<String> = closed.into_iter().chain(taken_back).collect();
        (!both.is_empty()).then(|| both.join("; "))
    }

    pub async fn rollback(&self, reason: &str) -> Result<SwapRecord> {
        self.host.rollback(reason).await.map_err(|error| match error {
            RollbackError::Nothing => Error::new(Code::PolicyNothingToRollBack, "there is no earlier set of policies"),
            RollbackError::Refused(refusal) => Error::new(Code::PolicyRefused, refusal.to_string()),
        })
    }

    /// Lets in what is held: a component with its settings.
    pub async fn approve(&self, identity: &str, reason: &str) -> Result<SwapRecord> {
        let approved = self.host.approve(identity, reason).await;
        approved.map_err(|unknown| Error::new(Code::RequestInvalid, unknown.to_string()).with("field", "identity"))
    }

    /// Has something that is here already asked beside what decides; takes the place of the shadow before.
    pub async fn start_shadow(&self, of: Trial) -> Result<ShadowStatus> {
        let candidate = self.apart(move |host| {
            Ok(match of {
                Trial::Held(identity) => host.held_candidate(&identity).ok(),
                Trial::Settings(policy, settings) => Some(host.with_settings(policy, &settings)),
            })
        });
        let unknown = || Error::new(Code::RequestInvalid, "nothing that the gate holds back has this identity");
        let candidate = candidate.await?.ok_or_else(|| unknown().with("field", "identity"))?;
        self.apart(move |host| host.shadow_start(candidate)).await
    }

    /// How the candidate beside the serving set does, up to now.
    pub async fn shadow(&self) -> Result<ShadowStatus> {
        self.of_shadow(PolicyHost::shadow).await
    }

    pub async fn stop_shadow(&self) -> Result<ShadowStatus> {
        self.of_shadow(PolicyHost::shadow_stop).await
    }

    /// Lets the shadow serve if at most this part of what was compared differs, 0 to 1, and at least so much was compared.
    /// `seen`: the beginning of the identity of the one that is meant; empty: whichever there is.
    pub async fn promote_shadow(&self, seen: &str, difference_max: f64, asked_min: u64) -> Result<SwapRecord> {
        if !(0.0..=1.0).contains(&difference_max) {
            let error = Error::new(Code::RequestInvalid, "a part is between 0 and 1, or 0 % and 100 %");
            return Err(error.with("field", "max_difference"));
        }
        if !seen.is_empty() {
            self.shadow_is(seen).await?;
        }
        self.host.shadow_promote(difference_max, asked_min).await.map_err(|error| unproven(&error))
    }

    /// The shadow, if its identity begins so: `policy.changed` where it is another one than somebody has seen.
    pub async fn shadow_is(&self, seen: &str) -> Result<ShadowStatus> {
        let status = self.shadow().await?;
        let identity = status.identity.to_hex();
        if !seen.is_empty() && identity.starts_with(&seen.to_ascii_lowercase()) {
            return Ok(status);
        }
        let (now, file) = (identity.get(..12).unwrap_or(&identity), &status.file);
        let message = format!("the shadow is {now} {file} now, not the one that was seen; look at it first");
        Err(Error::new(Code::PolicyChanged, message).with("identity", &identity))
    }

    async fn of_shadow(
        &self,
        what: impl FnOnce(&PolicyHost) -> Option<ShadowStatus> + Send + 'static,
    ) -> Result<ShadowStatus> {
        let status = self.apart(|host| Ok(what(host))).await?;
        status.ok_or_else(|| unproven(&PromoteError::None))
    }

    /// Off the runtime's threads: it reads files and runs components.
    pub async fn apart<T: Send + 'static>(
        &self,
        work: impl FnOnce(&PolicyHost) -> Result<T, PastError> + Send + 'static,
    ) -> Result<T> {
        apart(&self.host, work).await
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
        if let Some(cause) = decision.cause {
            return Err(failed(cause).with("decision", decision.id));
        }
        let name = self.host.rule_name(decision.generation, Policy::Access, rule);
        Err(Error::new(Code::PolicyDenied, format!("the access policy refused: {reason}"))
            .with("rule", name.unwrap_or_else(|| rule.to_string().into()))
            .with("generation", decision.generation.0)
            .with("decision", decision.id))
    }

    /// May nodes of this kind and version write? The node's own id is left out: the verdict is kept for all of
    /// its kind and version.
    pub async fn version_floor(&self, kind: &str, version: &str, floor: Option<&str>) -> Decision<Admission> {
        let node = ClientNode { id: String::new(), kind: kind.to_owned(), version: version.to_owned() };
        self.host.version_floor(&node, floor).await
    }

    /// A verdict for each tag, all of one generation.
    pub async fn judge(&self, who: &Principal, place: &SessionFacts, tags: &[Arc<str>]) -> Decision<Vec<ItemVerdict>> {
        self.host.judge_items(who, place, tags).await
    }
}

/// Makes what a start of the host needs, off the runtime's threads: it compiles.
pub async fn warm(config: &ServeConfig, store_dir: PathBuf, waiting: &Waiting) -> Result<Warm> {
    let limits = &config.policies;
    let mut policy = PolicyConfig::new(store_dir);
    policy.plugins_dir = config.plugins.clone();
    policy.threads = limits.threads;
    policy.queue = limits.queue;
    policy.deadlines.decide = limits.deadline;
    policy.decisions = DecisionLog { file_bytes_max: limits.decision_file_bytes, files_max: limits.decision_files };
    policy.difference_max = limits.difference_max;
    policy.cache_bytes_max = limits.cache_bytes;
    policy.trust = Trust { keys: limits.keys.clone(), signed_only: limits.signed_only };
    policy.limits.memory_bytes_max = usize::try_from(limits.memory_bytes).unwrap_or(usize::MAX);
    let starting = Starting::default();
    let given_up = starting.clone();
    waiting.until(starting, move || Warm::new(policy, &given_up)).await
}

/// Starts the host. Looks at the folder once, so off the runtime's threads as well.
pub async fn start(warm: Warm, waiting: &Waiting) -> Result<PolicyHost> {
    waiting.until(warm.starting().clone(), move || warm.start()).await
}

/// Why there are no policies, for whoever started the gateway.
fn not_started(error: &StartError) -> Error {
    let of = |code| Error::new(code, error.to_string());
    match error {
        StartError::PluginsFolder { path, .. } => of(Code::PluginsFolderUnusable).with("path", path.display()),
        StartError::Store { path, .. } => of(Code::DataFolderUnusable).with("path", path.display()),
        StartError::Keys(wrong) => of(Code::ConfigInvalid).with("policy-keys", wrong.path.display()),
        StartError::GivenUp => of(Code::Draining),
        StartError::Engine(_) | StartError::Embedded(_) => of(Code::Internal),
    }
}

/// What has been counted, per policy and component, for each scrape.
pub fn samples(host: &PolicyHost) -> impl Fn() -> PolicyNumbers + Send + Sync + 'static {
    let host = host.clone();
    move || {
        let counters = host.counters();
        let shadow = ShadowSample {
            same: counters.shadow.compared.saturating_sub(counters.shadow.changed),
            changed: counters.shadow.changed,
            failed: counters.shadow.failed,
            skipped: counters.shadow.skipped,
        };
        let samples = counters
            .policies
            .iter()
            .map(|counted| PolicySample {
                policy: counted.policy.name(),
                digest: counted.digest.to_hex(),
                calls: counted.calls,
                failures: counted.failures.iter().map(|(_, count)| count).sum(),
                queue_us: counted.queue_us,
                instantiate_us: counted.instantiate_us,
                guest_us: counted.guest_us,
                host_us: counted.host_us,
            })
            .collect();
        let denied = counters.denied.iter().map(|(policy, count)| (policy.name(), *count)).collect();
        PolicyNumbers { samples, denied, dropped: counters.decisions_dropped, shadow }
    }
}

/// Off the runtime's threads: it reads files and runs components.
pub async fn apart<T: Send + 'static>(
    host: &PolicyHost,
    work: impl FnOnce(&PolicyHost) -> Result<T, PastError> + Send + 'static,
) -> Result<T> {
    let host = host.clone();
    let worked = tokio::task::spawn_blocking(move || work(&host)).await;
    let failed = |panic| Error::new(Code::Internal, format!("the question failed: {panic}"));
    worked.map_err(failed)?.map_err(|error| unanswered(&error))
}

/// What a candidate's or the log's trouble is to whoever asked.
fn unanswered(error: &PastError) -> Error {
    let code = match error {
        PastError::Refused(refusal) => {
            return Error::new(Code::PolicyRefused, refusal.to_string())
                .with("refusal", refusal.code.as_str())
                .with("remedy", refusal.code.remedy());
        }
        PastError::Off => Code::DecisionsOff,
        PastError::Busy => Code::PolicyBusy,
        PastError::Unreadable(_) => Code::Internal,
    };
    Error::new(code, error.to_string())
}

/// Why a shadow is not looked at or does not serve.
pub fn unproven(error: &PromoteError) -> Error {
    let code = match error {
        PromoteError::None => Code::PolicyNoShadow,
        PromoteError::Ended(_) | PromoteError::TooFew { .. } | PromoteError::Differs { .. } => Code::PolicyUnproven,
    };
    Error::new(code, error.to_string())
}

/// A swap back is called so, whoever asked for it.
pub fn outcome(swap: &SwapRecord) -> telemetry::SwapOutcome {
    match (swap.outcome, swap.trigger) {
        (Outcome::Refused, _) => telemetry::SwapOutcome::Refused,
        (Outcome::Unchanged, _) => telemetry::SwapOutcome::Unchanged,
        (Outcome::Swapped, Trigger::Rollback | Trigger::Breaker) => telemetry::SwapOutcome::RolledBack,
        (Outcome::Swapped, _) => telemetry::SwapOutcome::Swapped,
    }
}

/// A fence names its stream as `session/reader`.
pub fn fence_name(session: &str, reader: &str) -> String {
    format!("{session}/{reader}")
}

/// The session and reader of a fence.
pub fn fence_parts(name: &str) -> (String, String) {
    name.split_once('/').map_or_else(|| (name.to_owned(), String::new()), |(s, r)| (s.to_owned(), r.to_owned()))
}

/// What a caller hears when the policy itself failed.
fn failed(cause: FailureCause) -> Error {
    match cause {
        FailureCause::QueueFull => Error::new(Code::PolicyBusy, "too many decisions are waiting; try again"),
        other => Error::new(Code::PolicyFailed, "the access policy failed, and failing means no")
            .with("cause", other.as_str()),
    }
}
