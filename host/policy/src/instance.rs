//! A component on its way to answering: `PolicySource` (bytes that were read) → `PolicyPre` (compiled,
//! linked, described) → `PolicyInstance` (configured, answers). Knows the contract, not generations.
//! Invariant: an answer that leaves here was checked as hostile input; after a failure the instance is
//! not used again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::{Instance, InstancePre};
use wasmtime::{Store, Trap};

use crate::bindings::{access, access_packed, backpressure, dashboard_tags, plugin, rate_limit, types, version_floor};
use crate::engine::{self, Engines, GuestState, Waited};
use crate::model::*;
use crate::packed;
use crate::quick::BRIEF;
use crate::sign::Seal;

/// Calls into guests since the process began; a test shows that none happens per event.
pub(crate) static GUEST_CALLS: AtomicU64 = AtomicU64::new(0);

/// A component's bytes and the settings that stand beside it, as they were read.
#[derive(Clone, Debug)]
pub(crate) struct PolicySource {
    /// Name without ending; component and settings of the same stem belong together.
    pub(crate) stem: Arc<str>,
    /// The file to name in messages: the component's, or the settings' of an embedded default.
    pub(crate) file: Arc<str>,
    pub(crate) embedded: bool,
    /// There is a settings file, be it empty.
    pub(crate) has_settings: bool,
    pub(crate) bytes: Arc<[u8]>,
    pub(crate) digest: Digest,
    /// JSON; `{}` when nothing is set.
    pub(crate) settings: Arc<str>,
    pub(crate) settings_digest: Digest,
    /// The signature beside it, whether it holds or not.
    pub(crate) seal: Option<Seal>,
    /// Who signed it; set once the signature has been found to hold.
    pub(crate) signer: Option<Arc<str>>,
}

/// Compiled, linked and described: makes instances in microseconds.
pub(crate) struct PolicyPre {
    pub(crate) engines: Arc<Engines>,
    pub(crate) pre: InstancePre<GuestState>,
    pub(crate) indices: Indices,
    pub(crate) limits: AnswerLimits,
    /// One instantiation or `configure`.
    pub(crate) configure_deadline: Duration,
    pub(crate) decide_deadline: Duration,
}

/// Where the exports are.
pub(crate) struct Indices {
    pub(crate) plugin: plugin::GuestIndices,
    pub(crate) access: Option<access::GuestIndices>,
    /// Only beside `access`.
    pub(crate) access_packed: Option<access_packed::GuestIndices>,
    pub(crate) backpressure: Option<backpressure::GuestIndices>,
    pub(crate) version_floor: Option<version_floor::GuestIndices>,
    pub(crate) dashboard_tags: Option<dashboard_tags::GuestIndices>,
    pub(crate) rate_limit: Option<rate_limit::GuestIndices>,
}

/// What answers are checked against.
#[derive(Clone, Debug)]
pub(crate) struct AnswerLimits {
    pub(crate) rules: u16,
    pub(crate) reason_bytes_max: usize,
    pub(crate) tags_max: usize,
    pub(crate) tag_bytes_max: usize,
}

/// One configured guest in its store.
pub(crate) struct PolicyInstance {
    store: Store<GuestState>,
    instance: Instance,
    plugin: plugin::Guest,
    access: Option<access::Guest>,
    access_packed: Option<access_packed::Guest>,
    /// The packed question, in the same memory each time.
    question: Vec<u8>,
    backpressure: Option<backpressure::Guest>,
    version_floor: Option<version_floor::Guest>,
    dashboard_tags: Option<dashboard_tags::Guest>,
    rate_limit: Option<rate_limit::Guest>,
    limits: AnswerLimits,
    deadline: Duration,
    /// It answers on the thread that asks, which has no such time.
    brief: bool,
}

/// A guest that gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct CallFailure {
    pub(crate) cause: FailureCause,
    pub(crate) message: String,
}

// === impl CallFailure ===

impl CallFailure {
    pub(crate) fn late() -> Self {
        Self { cause: FailureCause::Late, message: "another generation decides by now".to_owned() }
    }
}

// === impl PolicyPre ===

impl PolicyPre {
    /// Instantiates without configuring; `describe` and vectors start here.
    pub(crate) fn instantiate(&self) -> Result<PolicyInstance, CallFailure> {
        let mut store = self.engines.store(self.pre.engine());
        engine::set_deadline(&mut store, self.configure_deadline);
        let made = self.pre.instantiate(&mut store);
        let instance = made.map_err(|error| classify(&error, &store))?;
        self.bind(&mut store, &instance)
            .map(|bound| bound(store, instance))
            .map_err(|error| CallFailure { cause: FailureCause::BadAnswer, message: format!("{error:#}") })
    }

    /// Instantiates and configures.
    pub(crate) fn instance(&self, settings: &str) -> Result<PolicyInstance, CallFailure> {
        let mut instance = self.instantiate()?;
        match instance.configure(settings, self.configure_deadline)? {
            Ok(()) => Ok(instance),
            Err(message) => Err(CallFailure { cause: FailureCause::BadAnswer, message }),
        }
    }

    /// Looks the exports up and checks their types.
    fn bind(
        &self,
        store: &mut Store<GuestState>,
        instance: &Instance,
    ) -> wasmtime::Result<impl FnOnce(Store<GuestState>, Instance) -> PolicyInstance + use<>> {
        macro_rules! load {
            ($name:ident) => {
                self.indices.$name.as_ref().map(|at| at.load(&mut *store, instance)).transpose()?
            };
        }
        let plugin = self.indices.plugin.load(&mut *store, instance)?;
        let access = load!(access);
        let access_packed = load!(access_packed);
        let backpressure = load!(backpressure);
        let version_floor = load!(version_floor);
        let dashboard_tags = load!(dashboard_tags);
        let rate_limit = load!(rate_limit);
        let (limits, deadline) = (self.limits.clone(), self.decide_deadline);
        Ok(move |store, instance| PolicyInstance {
            store,
            instance,
            plugin,
            access,
            access_packed,
            question: Vec::new(),
            backpressure,
            version_floor,
            dashboard_tags,
            rate_limit,
            limits,
            deadline,
            brief: false,
        })
    }
}

impl std::fmt::Debug for PolicyPre {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyPre").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for PolicyInstance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PolicyInstance").finish_non_exhaustive()
    }
}

// === impl PolicyInstance ===

/// Sets the deadline, counts the call, classifies what went wrong.
macro_rules! call {
    ($self:ident, $guest:ident . $method:ident ( $($argument:expr),* )) => {{
        $self.set_deadline();
        GUEST_CALLS.fetch_add(1, Ordering::Relaxed);
        let Some(guest) = &$self.$guest else { return Err(unanswered(stringify!($guest))) };
        match guest.$method(&mut $self.store, $($argument),*) {
            Ok(answer) => answer,
            Err(error) => return Err(classify(&error, &$self.store)),
        }
    }};
}

impl PolicyInstance {
    pub(crate) fn set_brief(&mut self, brief: bool) {
        self.brief = brief;
    }

    /// Instructions used so far, in wasmtime's fuel; 0 without meters.
    pub(crate) fn fuel_used(&self) -> u64 {
        self.store.get_fuel().map_or(0, |left| u64::MAX - left)
    }

    fn set_deadline(&mut self) {
        match self.brief {
            true => engine::set_brief(&mut self.store, BRIEF),
            false => engine::set_deadline(&mut self.store, self.deadline),
        }
    }

    pub(crate) fn describe(&mut self, deadline: Duration) -> Result<plugin::Description, CallFailure> {
        engine::set_deadline(&mut self.store, deadline);
        GUEST_CALLS.fetch_add(1, Ordering::Relaxed);
        self.plugin.call_describe(&mut self.store).map_err(|error| classify(&error, &self.store))
    }

    /// The inner error is the guest's word to the operator.
    pub(crate) fn configure(&mut self, settings: &str, deadline: Duration) -> Result<Result<(), String>, CallFailure> {
        engine::set_deadline(&mut self.store, deadline);
        GUEST_CALLS.fetch_add(1, Ordering::Relaxed);
        let said = self.plugin.call_configure(&mut self.store, settings);
        let said = said.map_err(|error| classify(&error, &self.store))?;
        Ok(said.map_err(|message| clip(&message, 1024)))
    }

    pub(crate) fn access(
        &mut self,
        who: &Principal,
        place: &SessionFacts,
        what: &access::Action,
    ) -> Result<Verdict, CallFailure> {
        if self.access_packed.is_some() {
            packed::decide(&mut self.question, &who.0, &place.0, what);
            let answer = call!(self, access_packed.call_decide(&self.question));
            let (rule, allow) = packed::answer(answer).ok_or_else(|| bad("no packed answer"))?;
            if allow {
                return self.rule(rule).map(|rule| Verdict::Allow { rule });
            }
            // Its reason is a string, which `access` has to say; what it says there counts if it denies, too.
            return match self.access_plain(who, place, what)? {
                Verdict::Deny { rule: plain, reason } if plain == rule => Ok(Verdict::Deny { rule, reason }),
                _ => Err(bad("`access-packed` denies and `access` answers otherwise")),
            };
        }
        self.access_plain(who, place, what)
    }

    fn access_plain(
        &mut self,
        who: &Principal,
        place: &SessionFacts,
        what: &access::Action,
    ) -> Result<Verdict, CallFailure> {
        let verdict = call!(self, access.call_decide(&who.0, &place.0, what));
        self.verdict(verdict)
    }

    /// One call; the caller cuts long lists.
    pub(crate) fn judge_items(
        &mut self,
        who: &Principal,
        place: &SessionFacts,
        tags: &[Arc<str>],
    ) -> Result<Vec<ItemVerdict>, CallFailure> {
        if self.access_packed.is_some() {
            packed::judge_items(&mut self.question, &who.0, &place.0, tags);
            let answers = call!(self, access_packed.call_judge_items(&self.question));
            if answers.len() != tags.len() {
                return Err(bad(format!("{} verdicts for {} tags", answers.len(), tags.len())));
            }
            let verdict = |answer: &u32| {
                let (rule, allow) = packed::answer(*answer).ok_or_else(|| bad("no packed answer"))?;
                Ok(ItemVerdict { allow, rule: self.rule(rule)? })
            };
            return answers.iter().map(verdict).collect();
        }
        type Arguments<'a> = (&'a types::Principal, &'a types::Session, &'a [Arc<str>]);
        self.set_deadline();
        GUEST_CALLS.fetch_add(1, Ordering::Relaxed);
        let Some(guest) = &self.access else { return Err(unanswered("access")) };
        // Typed by hand, so that tags are lowered from where they are instead of being copied before.
        let verdicts = guest
            .func_judge_items()
            .func()
            .typed::<Arguments<'_>, (Vec<access::ItemVerdict>,)>(&self.store)
            .and_then(|judge| judge.call(&mut self.store, (&who.0.plain, &place.0.plain, tags)));
        let (verdicts,) = verdicts.map_err(|error| classify(&error, &self.store))?;
        if verdicts.len() != tags.len() {
            return Err(bad(format!("{} verdicts for {} tags", verdicts.len(), tags.len())));
        }
        for verdict in &verdicts {
            self.rule(verdict.rule)?;
        }
        Ok(verdicts.into_iter().map(|v| ItemVerdict { allow: v.allow, rule: v.rule }).collect())
    }

    pub(crate) fn backpressure(&mut self, what: &backpressure::Pressure) -> Result<PressureAnswer, CallFailure> {
        Ok(match call!(self, backpressure.call_decide(what)) {
            backpressure::Answer::Wait => PressureAnswer::Wait,
            backpressure::Answer::Skip(keep_newest) => PressureAnswer::Skip { keep_newest },
            backpressure::Answer::Conflate => PressureAnswer::Conflate,
            backpressure::Answer::Disconnect(reason) => PressureAnswer::Disconnect { reason: self.text(reason)? },
            backpressure::Answer::FaultSession(reason) => PressureAnswer::FaultSession { reason: self.text(reason)? },
        })
    }

    pub(crate) fn version_floor(
        &mut self,
        who: &version_floor::Node,
        floor: Option<&str>,
    ) -> Result<Admission, CallFailure> {
        Ok(match call!(self, version_floor.call_admit(who, floor)) {
            Ok(version_floor::Admission::ReadWrite) => Admission::ReadWrite,
            Ok(version_floor::Admission::ReadOnly) => Admission::ReadOnly,
            Err(reason) => Admission::Refused { reason: self.text(reason)? },
        })
    }

    pub(crate) fn dashboard_tags(
        &mut self,
        who: &dashboard_tags::Person,
        grants: &[(String, String)],
    ) -> Result<Sight, CallFailure> {
        Ok(match call!(self, dashboard_tags.call_sees(who, grants)) {
            dashboard_tags::Sight::Everything => Sight::Everything,
            dashboard_tags::Sight::Tags(tags) => {
                if tags.len() > self.limits.tags_max || tags.iter().any(|tag| tag.len() > self.limits.tag_bytes_max) {
                    return Err(bad(format!("{} tags, or one too long", tags.len())));
                }
                Sight::Tags(tags)
            }
        })
    }

    pub(crate) fn rate_limit(
        &mut self,
        who: &Principal,
        what: &rate_limit::Request,
    ) -> Result<RateAnswer, CallFailure> {
        Ok(match call!(self, rate_limit.call_decide(&who.0, what)) {
            rate_limit::Answer::Pass(rate_limit::Bucket { per_second, burst }) => {
                let sane = |number: f64| number.is_finite() && number >= 0.0;
                if !sane(per_second) || !sane(burst) {
                    return Err(bad("a bucket's size is not a number"));
                }
                RateAnswer::Pass { per_second, burst }
            }
            rate_limit::Answer::Limit(retry_ms) => RateAnswer::Limit { retry_ms },
            rate_limit::Answer::Unlimited => RateAnswer::Unlimited,
        })
    }

    /// What the guest wrote to its standard output and error since this was last asked.
    pub(crate) fn words(&self) -> Vec<String> {
        engine::words(&self.store)
    }

    pub(crate) fn answers_packed(&self) -> bool {
        self.access_packed.is_some()
    }

    /// For vectors: what `access-packed` says to a question, as numbers of the contract.
    pub(crate) fn packed(&mut self, call: &str, question: &[u8]) -> Result<Vec<u32>, CallFailure> {
        Ok(match call {
            "access.decide" => vec![call!(self, access_packed.call_decide(question))],
            _ => call!(self, access_packed.call_judge_items(question)),
        })
    }

    /// For vectors: the store and instance behind the typed calls.
    pub(crate) fn raw(&mut self) -> (&mut Store<GuestState>, &Instance) {
        (&mut self.store, &self.instance)
    }

    fn verdict(&self, verdict: types::Verdict) -> Result<Verdict, CallFailure> {
        match verdict {
            types::Verdict::Allow(rule) => self.rule(rule).map(|rule| Verdict::Allow { rule }),
            types::Verdict::Deny(types::Denial { rule, reason }) => {
                Ok(Verdict::Deny { rule: self.rule(rule)?, reason: self.text(reason)? })
            }
        }
    }

    fn rule(&self, rule: u16) -> Result<u16, CallFailure> {
        if rule < self.limits.rules { Ok(rule) } else { Err(bad(format!("rule {rule} of {}", self.limits.rules))) }
    }

    fn text(&self, text: String) -> Result<String, CallFailure> {
        if text.len() > self.limits.reason_bytes_max {
            return Err(bad(format!("a reason of {} bytes", text.len())));
        }
        // Reasons end up in logs and terminals.
        Ok(if text.contains(char::is_control) { text.replace(char::is_control, " ") } else { text })
    }
}

/// What kind of end was that? Errors that are not traps come from lifting an answer.
pub(crate) fn classify(error: &wasmtime::Error, store: &Store<GuestState>) -> CallFailure {
    let trap = error.downcast_ref::<Trap>();
    let cause = if trap == Some(&Trap::Interrupt) {
        FailureCause::Timeout
    } else if engine::memory_refused(store) {
        FailureCause::Memory
    } else if trap.is_some() || error.is::<Waited>() || error.is::<wasmtime_wasi::I32Exit>() {
        FailureCause::Trap
    } else {
        FailureCause::BadAnswer
    };
    CallFailure { cause, message: clip(&format!("{error:#}"), 512) }
}

fn bad(message: impl Into<String>) -> CallFailure {
    CallFailure { cause: FailureCause::BadAnswer, message: message.into() }
}

fn unanswered(what: &str) -> CallFailure {
    bad(format!("the component does not answer {what}"))
}

/// A guest's text for an operator: bounded and printable.
pub(crate) fn clip(text: &str, bytes_max: usize) -> String {
    let end = (0..=text.len().min(bytes_max)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    text[..end].replace(|c: char| c.is_control() && c != '\n', " ")
}
