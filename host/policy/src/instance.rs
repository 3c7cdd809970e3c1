//! A component on its way to answering: `PolicySource` (bytes that were read) → `PolicyPre` (compiled,
//! linked, described) → `PolicyInstance` (configured, answers). Knows questions, neither how a version of the contract
//! puts them nor generations.
//! Invariant: an answer that leaves here was checked as hostile input; after a failure the instance is
//! not used again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmtime::component::{Instance, InstancePre};
use wasmtime::{Store, Trap};

use crate::contract::{Contract, Description, Exports, Guest, Said};
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
    pub(crate) exports: Exports,
    pub(crate) limits: AnswerLimits,
    /// What its rules say, by index; empty texts where its contract has none.
    pub(crate) rule_texts: Arc<[Arc<str>]>,
    /// One instantiation or `configure`.
    pub(crate) configure_deadline: Duration,
    pub(crate) decide_deadline: Duration,
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
    guest: Guest,
    /// The packed question, in the same memory each time.
    question: Vec<u8>,
    rule_texts: Arc<[Arc<str>]>,
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
        engine::set_whole_deadline(&mut store, self.configure_deadline);
        let made = self.pre.instantiate(&mut store);
        let instance = made.map_err(|error| classify(&error, &store))?;
        let guest = self.exports.bind(&mut store, &instance).map_err(|error| bad(format!("{error:#}")))?;
        Ok(PolicyInstance {
            store,
            instance,
            guest,
            question: Vec::new(),
            rule_texts: Arc::clone(&self.rule_texts),
            limits: self.limits.clone(),
            deadline: self.decide_deadline,
            brief: false,
        })
    }

    /// Instantiates and configures.
    pub(crate) fn instance(&self, settings: &str) -> Result<PolicyInstance, CallFailure> {
        let mut instance = self.instantiate()?;
        match instance.configure(settings, self.configure_deadline)? {
            Ok(()) => Ok(instance),
            Err(message) => Err(CallFailure { cause: FailureCause::BadAnswer, message }),
        }
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

    /// Sets the deadline, counts the call, classifies what went wrong.
    fn call<T>(
        &mut self,
        ask: impl FnOnce(&Guest, &mut Store<GuestState>) -> wasmtime::Result<T>,
    ) -> Result<T, CallFailure> {
        self.set_deadline();
        GUEST_CALLS.fetch_add(1, Ordering::Relaxed);
        ask(&self.guest, &mut self.store).map_err(|error| classify(&error, &self.store))
    }

    pub(crate) fn describe(&mut self, deadline: Duration) -> Result<Description, CallFailure> {
        engine::set_whole_deadline(&mut self.store, deadline);
        GUEST_CALLS.fetch_add(1, Ordering::Relaxed);
        self.guest.describe(&mut self.store).map_err(|error| classify(&error, &self.store))
    }

    /// The inner error is the guest's word to the operator.
    pub(crate) fn configure(&mut self, settings: &str, deadline: Duration) -> Result<Result<(), String>, CallFailure> {
        engine::set_whole_deadline(&mut self.store, deadline);
        GUEST_CALLS.fetch_add(1, Ordering::Relaxed);
        let said = self.guest.configure(&mut self.store, settings);
        let said = said.map_err(|error| classify(&error, &self.store))?;
        Ok(said.map_err(|message| clip(&message, 1024)))
    }

    pub(crate) fn access(
        &mut self,
        who: &Principal,
        place: &SessionFacts,
        what: &Action,
    ) -> Result<Verdict, CallFailure> {
        if !self.guest.answers_packed() {
            return self.access_plain(who, place, what);
        }
        let contract = self.guest.contract();
        let mut question = std::mem::take(&mut self.question);
        packed::decide(contract, &mut question, &who.0, &place.0, what);
        let answer = self.call(|guest, store| guest.packed_decide(store, &question));
        self.question = question;
        let answer = contract.unpack(answer?).ok_or_else(|| bad("no packed answer"))?;
        let rule = self.rule(answer.rule)?;
        if answer.allow {
            return Ok(Verdict::Allow { rule });
        }
        if !answer.ask_why {
            return Ok(Verdict::Deny { rule, reason: self.rule_text(rule) });
        }
        // Its reason is a string, which `access` has to say; what it says there counts if it denies, too.
        match self.access_plain(who, place, what)? {
            Verdict::Deny { rule: plain, reason } if plain == rule => Ok(Verdict::Deny { rule, reason }),
            _ => Err(bad("`access-packed` denies and `access` answers otherwise")),
        }
    }

    fn access_plain(&mut self, who: &Principal, place: &SessionFacts, what: &Action) -> Result<Verdict, CallFailure> {
        let said = self.call(|guest, store| guest.access(store, who, place, what))?;
        let rule = self.rule(said.rule.unwrap_or_default())?;
        if said.what {
            return Ok(Verdict::Allow { rule });
        }
        Ok(Verdict::Deny { rule, reason: self.reason(Some(rule), said.reason)? })
    }

    /// One call; the caller cuts long lists.
    pub(crate) fn judge_items(
        &mut self,
        who: &Principal,
        place: &SessionFacts,
        tags: &[Arc<str>],
    ) -> Result<Vec<ItemVerdict>, CallFailure> {
        let wrong = |count| bad(format!("{count} verdicts for {} tags", tags.len()));
        if self.guest.answers_packed() {
            let contract = self.guest.contract();
            let mut question = std::mem::take(&mut self.question);
            packed::judge_items(contract, &mut question, &who.0, &place.0, tags);
            let answers = self.call(|guest, store| guest.packed_judge_items(store, &question));
            self.question = question;
            let answers = answers?;
            if answers.len() != tags.len() {
                return Err(wrong(answers.len()));
            }
            let verdict = |answer: &u32| {
                let answer = contract.unpack(*answer).ok_or_else(|| bad("no packed answer"))?;
                Ok(ItemVerdict { allow: answer.allow, rule: self.rule(answer.rule)? })
            };
            return answers.iter().map(verdict).collect();
        }
        let verdicts = self.call(|guest, store| guest.judge_items(store, who, place, tags))?;
        if verdicts.len() != tags.len() {
            return Err(wrong(verdicts.len()));
        }
        for verdict in &verdicts {
            self.rule(verdict.rule)?;
        }
        Ok(verdicts)
    }

    pub(crate) fn backpressure(&mut self, what: &Pressure) -> Result<Ruled<PressureAnswer>, CallFailure> {
        let Said { what, rule, reason } = self.call(|guest, store| guest.backpressure(store, what))?;
        let rule = rule.map(|rule| self.rule(rule)).transpose()?;
        let value = match what {
            PressureAnswer::Disconnect { .. } => PressureAnswer::Disconnect { reason: self.reason(rule, reason)? },
            PressureAnswer::FaultSession { .. } => PressureAnswer::FaultSession { reason: self.reason(rule, reason)? },
            goes_on => goes_on,
        };
        Ok(Ruled { value, rule })
    }

    pub(crate) fn version_floor(
        &mut self,
        who: &ClientNode,
        floor: Option<&str>,
    ) -> Result<Ruled<Admission>, CallFailure> {
        match self.call(|guest, store| guest.version_floor(store, who, floor))? {
            Ok(said) => self.ruled(said),
            Err(reason) => Ok(Admission::Refused { reason: self.text(reason)? }.into()),
        }
    }

    pub(crate) fn dashboard_tags(
        &mut self,
        who: &Person,
        grants: &[(String, String)],
    ) -> Result<Ruled<Sight>, CallFailure> {
        let said = self.call(|guest, store| guest.dashboard_tags(store, who, grants))?;
        if let Sight::Tags(tags) = &said.what
            && (tags.len() > self.limits.tags_max || tags.iter().any(|tag| tag.len() > self.limits.tag_bytes_max))
        {
            return Err(bad(format!("{} tags, or one too long", tags.len())));
        }
        self.ruled(said)
    }

    pub(crate) fn rate_limit(&mut self, who: &Principal, what: &RateRequest) -> Result<Ruled<RateAnswer>, CallFailure> {
        let said = self.call(|guest, store| guest.rate_limit(store, who, what))?;
        let sane = |number: f64| number.is_finite() && number >= 0.0;
        if let RateAnswer::Pass { per_second, burst } = said.what
            && (!sane(per_second) || !sane(burst))
        {
            return Err(bad("a bucket's size is not a number"));
        }
        self.ruled(said)
    }

    /// What the guest wrote to its standard output and error since this was last asked.
    pub(crate) fn words(&self) -> Vec<String> {
        engine::words(&self.store)
    }

    pub(crate) fn contract(&self) -> Contract {
        self.guest.contract()
    }

    pub(crate) fn answers_packed(&self) -> bool {
        self.guest.answers_packed()
    }

    /// For vectors: what `access-packed` says to a question, as numbers of the contract.
    pub(crate) fn packed(&mut self, call: &str, question: &[u8]) -> Result<Vec<u32>, CallFailure> {
        match call {
            "access.decide" => Ok(vec![self.call(|guest, store| guest.packed_decide(store, question))?]),
            _ => self.call(|guest, store| guest.packed_judge_items(store, question)),
        }
    }

    /// For vectors: the store and instance behind the typed calls.
    pub(crate) fn raw(&mut self) -> (&mut Store<GuestState>, &Instance) {
        (&mut self.store, &self.instance)
    }

    fn ruled<T>(&self, said: Said<T>) -> Result<Ruled<T>, CallFailure> {
        Ok(Ruled { value: said.what, rule: said.rule.map(|rule| self.rule(rule)).transpose()? })
    }

    /// Its own, or the words of its rule.
    fn reason(&self, rule: Option<u16>, own: Option<String>) -> Result<String, CallFailure> {
        match own {
            Some(own) => self.text(own),
            None => Ok(rule.map(|rule| self.rule_text(rule)).unwrap_or_default()),
        }
    }

    fn rule_text(&self, rule: u16) -> String {
        self.rule_texts.get(usize::from(rule)).map_or_else(String::new, |text| text.to_string())
    }

    fn rule(&self, rule: u16) -> Result<u16, CallFailure> {
        if rule < self.limits.rules { Ok(rule) } else { Err(bad(format!("rule {rule} of {}", self.limits.rules))) }
    }

    fn text(&self, text: String) -> Result<String, CallFailure> {
        if text.len() > self.limits.reason_bytes_max {
            return Err(bad(format!("a reason of {} bytes", text.len())));
        }
        // Reasons end up in logs and terminals.
        Ok(if text.contains(is_unprintable) { printable(&text) } else { text })
    }
}

/// What kind of end was that? Errors that are not traps come from lifting an answer.
pub(crate) fn classify(error: &wasmtime::Error, store: &Store<GuestState>) -> CallFailure {
    let trap = error.downcast_ref::<Trap>();
    let cause = if trap == Some(&Trap::Interrupt) {
        FailureCause::Timeout
    } else if engine::memory_refused(store) {
        FailureCause::Memory
    } else if is_hosts(error) {
        FailureCause::Host
    } else if trap.is_some() || error.is::<Waited>() || error.is::<wasmtime_wasi::I32Exit>() {
        FailureCause::Trap
    } else {
        FailureCause::BadAnswer
    };
    CallFailure { cause, message: clip(&format!("{error:#}"), 512) }
}

/// A panic of the host on the way to the guest and back ends no thread and no request: it is a failure like a trap, after
/// which the instance is not used again.
pub(crate) fn caught<T>(ask: impl FnOnce() -> Result<T, CallFailure>) -> Result<T, CallFailure> {
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or_else(|_told| {
        let message = "the gateway itself failed while it asked; its log says where".to_owned();
        Err(CallFailure { cause: FailureCause::Trap, message })
    })
}

/// There was no memory to make it in, or no place: nothing that a guest could help.
fn is_hosts(error: &wasmtime::Error) -> bool {
    let no_memory = |of: &(dyn std::error::Error + 'static)| {
        of.downcast_ref::<rustix::io::Errno>() == Some(&rustix::io::Errno::NOMEM)
            || of.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::OutOfMemory)
    };
    error.is::<wasmtime::PoolConcurrencyLimitError>() || error.chain().any(no_memory)
}

fn bad(message: impl Into<String>) -> CallFailure {
    CallFailure { cause: FailureCause::BadAnswer, message: message.into() }
}

/// A guest's text for an operator: bounded and printable.
pub(crate) fn clip(text: &str, bytes_max: usize) -> String {
    let end = (0..=text.len().min(bytes_max)).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    printable(&text[..end])
}

/// On one line, in the order it is written: nothing in it moves a terminal's cursor or begins a line of its own.
pub(crate) fn printable(text: &str) -> String {
    text.replace(is_unprintable, " ")
}

/// Control characters, what ends lines elsewhere, and what turns the direction of writing.
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Allocation;
    use crate::gate::{Refusal, RefusalCode};

    // shows: X-05
    #[test]
    fn a_guests_text_forges_no_line() {
        let text = "no\n2026-01-01 INFO all is well\r\x1b[2J\u{85}\u{2028}\u{202e}x";
        for said in [clip(text, 1024), Refusal::new(RefusalCode::SettingsInvalid, "a\nb.toml", text).to_string()] {
            assert!(!said.contains(is_unprintable), "{said:?}");
        }
        assert_eq!(clip("ünder", 2), "ü");
    }

    // shows: X-07
    #[test]
    fn what_the_host_lacks_is_not_the_guests_fault() {
        let limits = crate::config::PolicyConfig::new("").limits;
        let engines = Engines::new(&limits, 2).expect("engines");
        let store = engines.store(engines.linker(Allocation::OnDemand).engine());
        let cause = |error: wasmtime::Error| classify(&error, &store).cause;
        let no_memory = wasmtime::Error::from(rustix::io::Errno::NOMEM).context("making a table");
        assert_eq!(cause(no_memory), FailureCause::Host);
        assert_eq!(cause(wasmtime::Error::msg("an answer that cannot be lifted")), FailureCause::BadAnswer);
        assert!(!FailureCause::Host.is_guests(), "and does not count against it");
    }
}
