//! Contract 0.1.0 (wit/since_v0.1.0). The types are the contract's, lowered from where the values are. Names of a
//! certificate stand among the scopes there, `cert:` before each. Invariant: only what 0.1.0 has crosses.

use std::sync::Arc;

use wasmtime::component::{ComponentType, Lift, Lower, TypedFunc};
use wasmtime::{Result, Store};

use super::{Description, Look, PackedAccess, Places, Said, Texts, unanswered};
use crate::engine::GuestState;
use crate::model;

// Arguments and results, as far as they are long. They live shorter than `'static` says; calls take them so.
type Items = (Principal<'static>, Session<'static>, &'static [Arc<str>]);
type Joining = (Node<'static>, Option<&'static str>);
type Letting = std::result::Result<Admission, String>;
type Looking = (Person<'static>, &'static [(String, String)]);

pub(crate) struct Guest {
    describe: TypedFunc<(), (Described,)>,
    configure: TypedFunc<(&'static str,), (std::result::Result<(), String>,)>,
    decide: Option<TypedFunc<(Principal<'static>, Session<'static>, Action<'static>), (Verdict,)>>,
    judge_items: Option<TypedFunc<Items, (Vec<ItemVerdict>,)>>,
    pub(super) packed: Option<PackedAccess>,
    pressure: Option<TypedFunc<(Pressure<'static>,), (PressureAnswer,)>>,
    admit: Option<TypedFunc<Joining, (Letting,)>>,
    sees: Option<TypedFunc<Looking, (Sight,)>>,
    rate: Option<TypedFunc<(Principal<'static>, Request<'static>), (RateAnswer,)>>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Described {
    name: String,
    version: String,
    #[component(name = "settings-schema")]
    settings_schema: String,
    rules: Vec<String>,
    vectors: String,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Principal<'a> {
    id: &'a str,
    scopes: Texts<'a>,
    read: Texts<'a>,
    write: Texts<'a>,
    peer: &'a str,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Session<'a> {
    id: &'a str,
    owner: &'a str,
    tag: &'a str,
    backend: &'a str,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(variant)]
enum Action<'a> {
    #[component(name = "open")]
    Open,
    #[component(name = "read")]
    Read,
    #[component(name = "resume")]
    Resume,
    #[component(name = "command")]
    Command(Command<'a>),
    #[component(name = "close")]
    Close,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Command<'a> {
    method: &'a str,
    tag: &'a str,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Denial {
    rule: u16,
    reason: String,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum Verdict {
    #[component(name = "allow")]
    Allow(u16),
    #[component(name = "deny")]
    Deny(Denial),
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct ItemVerdict {
    allow: bool,
    rule: u16,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Pressure<'a> {
    now: u64,
    who: Principal<'a>,
    #[component(name = "where")]
    place: Session<'a>,
    reader: &'a str,
    #[component(name = "lag-events")]
    lag_events: u64,
    #[component(name = "lag-events-max")]
    lag_events_max: u64,
    #[component(name = "log-bytes")]
    log_bytes: u64,
    #[component(name = "log-bytes-max")]
    log_bytes_max: u64,
    asked: u32,
    #[component(name = "since-ms")]
    since_ms: u64,
    readers: u32,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum PressureAnswer {
    #[component(name = "wait")]
    Wait,
    #[component(name = "skip")]
    Skip(u64),
    #[component(name = "conflate")]
    Conflate,
    #[component(name = "disconnect")]
    Disconnect(String),
    #[component(name = "fault-session")]
    FaultSession(String),
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Node<'a> {
    id: &'a str,
    kind: &'a str,
    version: &'a str,
}

#[derive(Clone, Copy, ComponentType, Lift)]
#[component(enum)]
#[repr(u8)]
#[expect(dead_code, reason = "made from its number")]
enum Admission {
    #[component(name = "read-write")]
    ReadWrite,
    #[component(name = "read-only")]
    ReadOnly,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Person<'a> {
    name: &'a str,
    roles: Texts<'a>,
    groups: Texts<'a>,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum Sight {
    #[component(name = "everything")]
    Everything,
    #[component(name = "tags")]
    Tags(Vec<String>),
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Request<'a> {
    kind: &'a str,
    cost: u32,
    tokens: Option<f64>,
    now: u64,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Bucket {
    #[component(name = "per-second")]
    per_second: f64,
    burst: f64,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum RateAnswer {
    #[component(name = "pass")]
    Pass(Bucket),
    #[component(name = "limit")]
    Limit(u64),
    #[component(name = "unlimited")]
    Unlimited,
}

// === impl Guest ===

impl Guest {
    pub(super) fn bind(at: &Places, mut look: Look<'_>) -> Result<Self> {
        Ok(Self {
            describe: look.typed(&at.describe)?,
            configure: look.typed(&at.configure)?,
            decide: look.maybe(&at.decide)?,
            judge_items: look.maybe(&at.judge_items)?,
            packed: PackedAccess::bind(at, &mut look)?,
            pressure: look.maybe(&at.pressure)?,
            admit: look.maybe(&at.admit)?,
            sees: look.maybe(&at.sees)?,
            rate: look.maybe(&at.rate)?,
        })
    }

    pub(super) fn describe(&self, store: &mut Store<GuestState>) -> Result<Description> {
        let (of,) = self.describe.call(store, ())?;
        let rules = of.rules.into_iter().map(|name| super::Rule { name, text: String::new() }).collect();
        let Described { name, version, settings_schema, vectors, .. } = of;
        Ok(Description { name, version, settings_schema, rules, vectors })
    }

    pub(super) fn configure(
        &self,
        store: &mut Store<GuestState>,
        settings: &str,
    ) -> Result<std::result::Result<(), String>> {
        Ok(self.configure.call(store, (settings,))?.0)
    }

    pub(super) fn access(
        &self,
        store: &mut Store<GuestState>,
        who: &model::Principal,
        place: &model::SessionFacts,
        what: &model::Action,
    ) -> Result<Said<bool>> {
        let decide = self.decide.as_ref().ok_or_else(|| unanswered("access"))?;
        let (verdict,) = decide.call(store, (who.into(), place.into(), what.into()))?;
        Ok(match verdict {
            Verdict::Allow(rule) => Said { what: true, rule: Some(rule), reason: None },
            Verdict::Deny(Denial { rule, reason }) => Said { what: false, rule: Some(rule), reason: Some(reason) },
        })
    }

    pub(super) fn judge_items(
        &self,
        store: &mut Store<GuestState>,
        who: &model::Principal,
        place: &model::SessionFacts,
        tags: &[Arc<str>],
    ) -> Result<Vec<model::ItemVerdict>> {
        let judge = self.judge_items.as_ref().ok_or_else(|| unanswered("access"))?;
        let (verdicts,) = judge.call(store, (who.into(), place.into(), tags))?;
        Ok(verdicts.into_iter().map(|of| model::ItemVerdict { allow: of.allow, rule: of.rule }).collect())
    }

    pub(super) fn backpressure(
        &self,
        store: &mut Store<GuestState>,
        what: &model::Pressure,
    ) -> Result<Said<model::PressureAnswer>> {
        let decide = self.pressure.as_ref().ok_or_else(|| unanswered("backpressure"))?;
        let (answer,) = decide.call(store, (what.into(),))?;
        let reason = String::new();
        let (what, said) = match answer {
            PressureAnswer::Wait => (model::PressureAnswer::Wait, None),
            PressureAnswer::Skip(keep_newest) => (model::PressureAnswer::Skip { keep_newest }, None),
            PressureAnswer::Conflate => (model::PressureAnswer::Conflate, None),
            PressureAnswer::Disconnect(said) => (model::PressureAnswer::Disconnect { reason }, Some(said)),
            PressureAnswer::FaultSession(said) => (model::PressureAnswer::FaultSession { reason }, Some(said)),
        };
        Ok(Said { what, rule: None, reason: said })
    }

    pub(super) fn version_floor(
        &self,
        store: &mut Store<GuestState>,
        who: &model::ClientNode,
        floor: Option<&str>,
    ) -> Result<std::result::Result<Said<model::Admission>, String>> {
        let admit = self.admit.as_ref().ok_or_else(|| unanswered("version-floor"))?;
        let node = Node { id: &who.id, kind: &who.kind, version: &who.version };
        let (answer,) = admit.call(store, (node, floor))?;
        Ok(answer.map(|admission| match admission {
            Admission::ReadWrite => model::Admission::ReadWrite.into(),
            Admission::ReadOnly => model::Admission::ReadOnly.into(),
        }))
    }

    pub(super) fn dashboard_tags(
        &self,
        store: &mut Store<GuestState>,
        who: &model::Person,
        grants: &[(String, String)],
    ) -> Result<Said<model::Sight>> {
        let sees = self.sees.as_ref().ok_or_else(|| unanswered("dashboard-tags"))?;
        let (sight,) = sees.call(store, (who.into(), grants))?;
        Ok(match sight {
            Sight::Everything => model::Sight::Everything.into(),
            Sight::Tags(tags) => model::Sight::Tags(tags).into(),
        })
    }

    pub(super) fn rate_limit(
        &self,
        store: &mut Store<GuestState>,
        who: &model::Principal,
        what: &model::RateRequest,
    ) -> Result<Said<model::RateAnswer>> {
        let decide = self.rate.as_ref().ok_or_else(|| unanswered("rate-limit"))?;
        let request = Request { kind: &what.kind, cost: what.cost, tokens: what.tokens, now: what.now };
        let (answer,) = decide.call(store, (who.into(), request))?;
        Ok(match answer {
            RateAnswer::Pass(Bucket { per_second, burst }) => model::RateAnswer::Pass { per_second, burst }.into(),
            RateAnswer::Limit(retry_ms) => model::RateAnswer::Limit { retry_ms }.into(),
            RateAnswer::Unlimited => model::RateAnswer::Unlimited.into(),
        })
    }
}

// === conversions ===

impl<T> From<T> for Said<T> {
    fn from(what: T) -> Self {
        Self { what, rule: None, reason: None }
    }
}

impl<'a> From<&'a model::Principal> for Principal<'a> {
    fn from(who: &'a model::Principal) -> Self {
        let of = who.facts();
        Self { id: &of.id, scopes: of.scopes_with_certificate(), read: &of.read, write: &of.write, peer: &of.peer }
    }
}

impl<'a> From<&'a model::SessionFacts> for Session<'a> {
    fn from(place: &'a model::SessionFacts) -> Self {
        let of = place.labels();
        Self { id: &of.id, owner: &of.owner, tag: &of.tag, backend: &of.backend }
    }
}

impl<'a> From<&'a model::Action> for Action<'a> {
    fn from(what: &'a model::Action) -> Self {
        match what {
            model::Action::Open => Self::Open,
            model::Action::Read => Self::Read,
            model::Action::Resume { .. } => Self::Resume,
            model::Action::Command { method, tag } => Self::Command(Command { method, tag }),
            model::Action::Close => Self::Close,
        }
    }
}

impl<'a> From<&'a model::Pressure> for Pressure<'a> {
    fn from(what: &'a model::Pressure) -> Self {
        Self {
            now: what.now,
            who: (&what.who).into(),
            place: (&what.session).into(),
            reader: &what.reader,
            lag_events: what.lag_events,
            lag_events_max: what.lag_events_max,
            log_bytes: what.log_bytes,
            log_bytes_max: what.log_bytes_max,
            asked: what.asked,
            since_ms: what.since_ms,
            readers: what.readers,
        }
    }
}

impl<'a> From<&'a model::Person> for Person<'a> {
    fn from(who: &'a model::Person) -> Self {
        Self { name: &who.name, roles: &who.roles, groups: &who.groups }
    }
}
