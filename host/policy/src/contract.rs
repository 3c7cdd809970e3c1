//! The versions of the contract that components may keep, and how each is asked: the rest of this crate knows one set of
//! questions and answers (`model`), an adapter for each version knows how they cross. What an old contract cannot say
//! its adapter leaves out; what it never said comes as none. Knows no limits: what a guest said leaves here unchecked.
//! Invariant: all exports of a component are of one version, and a `Guest` asks only what `Exports` found there.

mod v1;
mod v2;

use std::sync::Arc;

use wasmtime::component::{Component, ComponentExportIndex, ComponentNamedList, Instance, Lift, Lower, TypedFunc};
use wasmtime::{Error, Result, Store};

use crate::engine::GuestState;
use crate::instance::clip;
use crate::model::*;

pub(crate) use v2::count;

/// Texts in a file.
type Texts<'a> = &'a [String];

/// A version of the contract. A new one is a folder of wit/, an adapter here, and old components in tests/corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contract {
    V1,
    V2,
}

/// Where a component's exports are.
#[derive(Clone, Debug)]
pub(crate) struct Exports {
    pub(crate) contract: Contract,
    pub(crate) answers: Vec<Policy>,
    at: Places,
}

/// By function; absent: it does not answer that.
#[derive(Clone, Debug)]
struct Places {
    describe: ComponentExportIndex,
    configure: ComponentExportIndex,
    decide: Option<ComponentExportIndex>,
    judge_items: Option<ComponentExportIndex>,
    packed_decide: Option<ComponentExportIndex>,
    packed_judge_items: Option<ComponentExportIndex>,
    pressure: Option<ComponentExportIndex>,
    admit: Option<ComponentExportIndex>,
    sees: Option<ComponentExportIndex>,
    rate: Option<ComponentExportIndex>,
}

/// The functions of one instance, of either version.
pub(crate) enum Guest {
    V1(v1::Guest),
    V2(v2::Guest),
}

/// What a component says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) settings_schema: String,
    pub(crate) rules: Vec<Rule>,
    pub(crate) vectors: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) name: String,
    /// Empty: its contract has none.
    pub(crate) text: String,
}

/// What was said to a question, before anybody checked it.
#[derive(Debug)]
pub(crate) struct Said<T> {
    pub(crate) what: T,
    /// None: the contract has no rule for this question.
    pub(crate) rule: Option<u16>,
    /// None: the text of the rule.
    pub(crate) reason: Option<String>,
}

/// An answer of `access-packed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedAnswer {
    pub(crate) allow: bool,
    pub(crate) rule: u16,
    /// Only `access` can say why.
    pub(crate) ask_why: bool,
}

/// Why a component is asked by no adapter; sentences for the operator.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// It keeps no version that works here.
    Unknown(String),
    /// It does not keep the one that it names.
    Mismatch(String),
}

/// Added to the rule of a packed answer that denies.
pub(crate) const DENIES: u32 = 1 << 16;
/// Added to that, if the reason is the denial's own.
pub(crate) const HAS_REASON: u32 = 1 << 17;

// === impl Contract ===

impl Contract {
    pub(crate) const ALL: [Self; 2] = [Self::V1, Self::V2];
    /// What the embedded defaults and the templates keep.
    pub(crate) const NEWEST: Self = Self::V2;

    /// As in the names of the exports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::V1 => "0.1.0",
            Self::V2 => "0.2.0",
        }
    }

    /// For people: those that work here.
    fn all_names() -> String {
        Self::ALL.map(Self::name).join(" and ")
    }

    /// Every answer names a rule, so there has to be one.
    pub(crate) fn needs_rules(self) -> bool {
        self >= Self::V2
    }

    fn interface(self, name: &str) -> String {
        format!("tidegate:policy/{name}@{}", self.name())
    }

    /// The name of an interface's export, for vectors, which ask by text.
    pub(crate) fn export(self, interface: &str) -> String {
        self.interface(interface)
    }

    /// What a packed answer means; None: nothing.
    pub(crate) fn unpack(self, answer: u32) -> Option<PackedAnswer> {
        let (allow, ask_why) = match (self, answer & !0xffff) {
            (_, 0) => (true, false),
            // 0.1.0 has no text of a rule: each denial's reason is its own.
            (Self::V1, DENIES) => (false, true),
            (Self::V2, DENIES) => (false, false),
            (Self::V2, flags) if flags == DENIES + HAS_REASON => (false, true),
            _ => return None,
        };
        Some(PackedAnswer { allow, rule: answer as u16, ask_why })
    }
}

// === impl Exports ===

impl Exports {
    /// Reads from the names of the exports which contract it keeps, which questions it answers, and whether it takes
    /// them packed.
    pub(crate) fn of(component: &Component) -> std::result::Result<Self, Unusable> {
        let ty = component.component_type();
        let (contract, answers, packed) = Self::check_names(ty.exports(component.engine()).map(|(name, _)| name))?;
        let at = Places::of(component, contract, &answers, packed).map_err(Unusable::Mismatch)?;
        Ok(Self { contract, answers, at })
    }

    /// The same by names alone, of what is not compiled yet.
    pub(crate) fn check_names<'a>(
        names: impl Iterator<Item = &'a str>,
    ) -> std::result::Result<(Contract, Vec<Policy>, bool), Unusable> {
        let (mut contract, mut described, mut packed, mut answers) = (None, false, false, Vec::new());
        for name in names {
            let Some((interface, version)) =
                name.strip_prefix("tidegate:policy/").and_then(|rest| rest.split_once('@'))
            else {
                continue;
            };
            let Some(found) = Contract::ALL.into_iter().find(|known| known.name() == version) else {
                let (version, known) = (clip(version, 32), Contract::all_names());
                return Err(Unusable::Unknown(format!(
                    "it keeps contract {version}; this gateway works with {known}: build it against one of those"
                )));
            };
            if let Some(other) = contract.replace(found).filter(|other| *other != found) {
                let mixed = format!("it mixes contract {} and {}", other.name(), found.name());
                return Err(Unusable::Mismatch(mixed));
            }
            match Policy::ALL.into_iter().find(|policy| policy.name() == interface) {
                Some(policy) => answers.push(policy),
                None if interface == "plugin" => described = true,
                None if interface == "types" => {}
                None if interface == "access-packed" => packed = true,
                None => {
                    let interface = clip(interface, 64);
                    return Err(Unusable::Unknown(format!("it exports an unknown interface `{interface}`")));
                }
            }
        }
        let Some(contract) = contract else {
            let known = Contract::all_names();
            return Err(Unusable::Unknown(format!("it exports nothing of tidegate:policy; {known} work here")));
        };
        if !described {
            return Err(Unusable::Unknown(format!("it does not export {}", contract.interface("plugin"))));
        }
        if answers.is_empty() {
            return Err(Unusable::Unknown("it answers none of the five questions".to_owned()));
        }
        if packed && !answers.contains(&Policy::Access) {
            return Err(Unusable::Unknown("it exports access-packed without access".to_owned()));
        }
        Ok((contract, answers, packed))
    }

    /// Looks the functions up in an instance and checks their types.
    pub(crate) fn bind(&self, store: &mut Store<GuestState>, instance: &Instance) -> Result<Guest> {
        let look = Look { store, instance };
        Ok(match self.contract {
            Contract::V1 => Guest::V1(v1::Guest::bind(&self.at, look)?),
            Contract::V2 => Guest::V2(v2::Guest::bind(&self.at, look)?),
        })
    }
}

// === impl Places ===

impl Places {
    fn of(
        component: &Component,
        contract: Contract,
        answers: &[Policy],
        packed: bool,
    ) -> std::result::Result<Self, String> {
        let find = |interface: &str, function: &str| {
            let name = contract.interface(interface);
            let missing = || format!("{name} has no function `{function}`");
            let interface = component.get_export_index(None, &name).ok_or_else(missing)?;
            component.get_export_index(Some(&interface), function).ok_or_else(missing)
        };
        let of = |policy: Policy, function: &str| {
            answers.contains(&policy).then(|| find(policy.name(), function)).transpose()
        };
        let packed = |function: &str| packed.then(|| find("access-packed", function)).transpose();
        Ok(Self {
            describe: find("plugin", "describe")?,
            configure: find("plugin", "configure")?,
            decide: of(Policy::Access, "decide")?,
            judge_items: of(Policy::Access, "judge-items")?,
            packed_decide: packed("decide")?,
            packed_judge_items: packed("judge-items")?,
            pressure: of(Policy::Backpressure, "decide")?,
            admit: of(Policy::VersionFloor, "admit")?,
            sees: of(Policy::DashboardTags, "sees")?,
            rate: of(Policy::RateLimit, "decide")?,
        })
    }
}

/// An instance whose functions are looked up.
struct Look<'a> {
    store: &'a mut Store<GuestState>,
    instance: &'a Instance,
}

// === impl Look ===

impl Look<'_> {
    fn typed<P, R>(&mut self, at: &ComponentExportIndex) -> Result<TypedFunc<P, R>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        let found =
            self.instance.get_func(&mut *self.store, at).ok_or_else(|| Error::msg("an export is no function"))?;
        found.typed(&*self.store)
    }

    fn maybe<P, R>(&mut self, at: &Option<ComponentExportIndex>) -> Result<Option<TypedFunc<P, R>>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        at.as_ref().map(|at| self.typed(at)).transpose()
    }
}

// === impl Guest ===

/// The same question to either version.
macro_rules! ask {
    ($self:ident . $method:ident ( $($argument:expr),* )) => {
        match $self {
            Self::V1(guest) => guest.$method($($argument),*),
            Self::V2(guest) => guest.$method($($argument),*),
        }
    };
}

impl Guest {
    pub(crate) fn describe(&self, store: &mut Store<GuestState>) -> Result<Description> {
        ask!(self.describe(store))
    }

    pub(crate) fn configure(
        &self,
        store: &mut Store<GuestState>,
        settings: &str,
    ) -> Result<std::result::Result<(), String>> {
        ask!(self.configure(store, settings))
    }

    pub(crate) fn answers_packed(&self) -> bool {
        match self {
            Self::V1(guest) => guest.packed.is_some(),
            Self::V2(guest) => guest.packed.is_some(),
        }
    }

    pub(crate) fn contract(&self) -> Contract {
        match self {
            Self::V1(_) => Contract::V1,
            Self::V2(_) => Contract::V2,
        }
    }

    pub(crate) fn access(
        &self,
        store: &mut Store<GuestState>,
        who: &Principal,
        place: &SessionFacts,
        what: &Action,
    ) -> Result<Said<bool>> {
        ask!(self.access(store, who, place, what))
    }

    pub(crate) fn judge_items(
        &self,
        store: &mut Store<GuestState>,
        who: &Principal,
        place: &SessionFacts,
        tags: &[Arc<str>],
    ) -> Result<Vec<ItemVerdict>> {
        ask!(self.judge_items(store, who, place, tags))
    }

    /// `question` is packed for this version.
    pub(crate) fn packed_decide(&self, store: &mut Store<GuestState>, question: &[u8]) -> Result<u32> {
        let (Self::V1(v1::Guest { packed, .. }) | Self::V2(v2::Guest { packed, .. })) = self;
        packed.as_ref().ok_or_else(|| unanswered("access-packed"))?.decide(store, question)
    }

    pub(crate) fn packed_judge_items(&self, store: &mut Store<GuestState>, question: &[u8]) -> Result<Vec<u32>> {
        let (Self::V1(v1::Guest { packed, .. }) | Self::V2(v2::Guest { packed, .. })) = self;
        packed.as_ref().ok_or_else(|| unanswered("access-packed"))?.judge_items(store, question)
    }

    pub(crate) fn backpressure(&self, store: &mut Store<GuestState>, what: &Pressure) -> Result<Said<PressureAnswer>> {
        ask!(self.backpressure(store, what))
    }

    /// The inner error is the guest's.
    pub(crate) fn version_floor(
        &self,
        store: &mut Store<GuestState>,
        who: &ClientNode,
        floor: Option<&str>,
    ) -> Result<std::result::Result<Said<Admission>, String>> {
        ask!(self.version_floor(store, who, floor))
    }

    pub(crate) fn dashboard_tags(
        &self,
        store: &mut Store<GuestState>,
        who: &Person,
        grants: &[(String, String)],
    ) -> Result<Said<Sight>> {
        ask!(self.dashboard_tags(store, who, grants))
    }

    pub(crate) fn rate_limit(
        &self,
        store: &mut Store<GuestState>,
        who: &Principal,
        what: &RateRequest,
    ) -> Result<Said<RateAnswer>> {
        ask!(self.rate_limit(store, who, what))
    }
}

/// `access-packed`, which has the same types in both versions.
pub(crate) struct PackedAccess {
    decide: TypedFunc<(&'static [u8],), (u32,)>,
    judge_items: TypedFunc<(&'static [u8],), (Vec<u32>,)>,
}

impl PackedAccess {
    fn bind(at: &Places, look: &mut Look<'_>) -> Result<Option<Self>> {
        let (Some(decide), Some(judge_items)) = (&at.packed_decide, &at.packed_judge_items) else { return Ok(None) };
        Ok(Some(Self { decide: look.typed(decide)?, judge_items: look.typed(judge_items)? }))
    }

    fn decide(&self, store: &mut Store<GuestState>, question: &[u8]) -> Result<u32> {
        Ok(self.decide.call(store, (question,))?.0)
    }

    fn judge_items(&self, store: &mut Store<GuestState>, question: &[u8]) -> Result<Vec<u32>> {
        Ok(self.judge_items.call(store, (question,))?.0)
    }
}

fn unanswered(what: &str) -> Error {
    Error::msg(format!("the component does not answer {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: X-13
    #[test]
    fn a_packed_answer_means_what_its_version_says() {
        let said = |allow, rule, ask_why| Some(PackedAnswer { allow, rule, ask_why });
        assert_eq!(Contract::V1.unpack(7), said(true, 7, false));
        assert_eq!(Contract::V1.unpack(DENIES + 7), said(false, 7, true), "its reason is asked for");
        assert_eq!(Contract::V2.unpack(DENIES + 7), said(false, 7, false), "the rule has a text");
        assert_eq!(Contract::V2.unpack(DENIES + HAS_REASON + 7), said(false, 7, true));
        for (contract, nothing) in [
            (Contract::V1, 2 * DENIES),
            (Contract::V1, DENIES + HAS_REASON),
            (Contract::V2, HAS_REASON),
            (Contract::V2, 4 * DENIES),
        ] {
            assert_eq!(contract.unpack(nothing), None, "{contract:?} {nothing}");
        }
    }
}
