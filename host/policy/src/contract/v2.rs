//! Contract 0.2.0 (wit/since_v0.2.0). The types are the contract's, lowered from where the values are. Counts stand at
//! the greatest number of 32 bits when they are higher. Invariant: every answer names a rule.

use std::sync::Arc;

use wasmtime::component::{ComponentType, Lift, Lower, TypedFunc};
use wasmtime::{Result, Store};

use super::{Description, Look, PackedAccess, Places, Said, Texts, unanswered};
use crate::engine::GuestState;
use crate::model;

// Arguments and results, as far as they are long. They live shorter than `'static` says; calls take them so.
type Items = (Principal<'static>, Session<'static>, &'static [Arc<str>]);
type Joining = (Node<'static>, Option<&'static str>);
type Letting = std::result::Result<Admitted, String>;
type Looking = (Person<'static>, &'static [Grant<'static>]);

pub(crate) struct Guest {
    describe: TypedFunc<(), (Described,)>,
    configure: TypedFunc<(&'static str,), (std::result::Result<(), String>,)>,
    decide: Option<TypedFunc<(Principal<'static>, Session<'static>, Action<'static>), (Verdict,)>>,
    judge_items: Option<TypedFunc<Items, (Vec<ItemVerdict>,)>>,
    pub(super) packed: Option<PackedAccess>,
    pressure: Option<TypedFunc<(Pressure<'static>,), (PressureAnswer,)>>,
    admit: Option<TypedFunc<Joining, (Letting,)>>,
    sees: Option<TypedFunc<Looking, (Seen,)>>,
    rate: Option<TypedFunc<(Principal<'static>, Request<'static>), (RateAnswer,)>>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Rule {
    name: String,
    text: String,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Described {
    name: String,
    version: String,
    #[component(name = "settings-schema")]
    settings_schema: String,
    rules: Vec<Rule>,
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
    certificate: Texts<'a>,
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
    Resume(Resumption),
    #[component(name = "command")]
    Command(Command<'a>),
    #[component(name = "close")]
    Close,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Resumption {
    behind: u32,
}

#[derive(Clone, Copy, ComponentType, Lower)]
#[component(record)]
struct Command<'a> {
    method: &'a str,
    tag: &'a str,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Verdict {
    allow: bool,
    rule: u16,
    reason: Option<String>,
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
    #[component(name = "now-ms")]
    now_ms: f64,
    who: Principal<'a>,
    place: Session<'a>,
    reader: &'a str,
    #[component(name = "lag-events")]
    lag_events: u32,
    #[component(name = "lag-events-max")]
    lag_events_max: u32,
    #[component(name = "log-bytes")]
    log_bytes: u32,
    #[component(name = "log-bytes-max")]
    log_bytes_max: u32,
    asked: u32,
    #[component(name = "since-ms")]
    since_ms: u32,
    readers: u32,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum PressureOutcome {
    #[component(name = "wait")]
    Wait,
    #[component(name = "skip")]
    Skip(u32),
    #[component(name = "conflate")]
    Conflate,
    #[component(name = "disconnect")]
    Disconnect,
    #[component(name = "fault-session")]
    FaultSession,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct PressureAnswer {
    outcome: PressureOutcome,
    rule: u16,
    reason: Option<String>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Node<'a> {
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

#[derive(ComponentType, Lift)]
#[component(record)]
struct Admitted {
    admission: Admission,
    rule: u16,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Person<'a> {
    name: &'a str,
    roles: Texts<'a>,
    groups: Texts<'a>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Grant<'a> {
    group: &'a str,
    tag: &'a str,
}

#[derive(ComponentType, Lift)]
#[component(variant)]
enum Sight {
    #[component(name = "everything")]
    Everything,
    #[component(name = "tags")]
    Tags(Vec<String>),
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Seen {
    sight: Sight,
    rule: u16,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Request<'a> {
    kind: &'a str,
    cost: u32,
    tokens: Option<f64>,
    #[component(name = "now-ms")]
    now_ms: f64,
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
enum RateOutcome {
    #[component(name = "pass")]
    Pass(Bucket),
    #[component(name = "limit")]
    Limit(u32),
    #[component(name = "unlimited")]
    Unlimited,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct RateAnswer {
    outcome: RateOutcome,
    rule: u16,
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
        let rules = of.rules.into_iter().map(|Rule { name, text }| super::Rule { name, text }).collect();
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
        let (Verdict { allow, rule, reason },) = decide.call(store, (who.into(), place.into(), what.into()))?;
        Ok(Said { what: allow, rule: Some(rule), reason })
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
        let (PressureAnswer { outcome, rule, reason },) = decide.call(store, (what.into(),))?;
        let what = match outcome {
            PressureOutcome::Wait => model::PressureAnswer::Wait,
            PressureOutcome::Skip(keep_newest) => model::PressureAnswer::Skip { keep_newest: keep_newest.into() },
            PressureOutcome::Conflate => model::PressureAnswer::Conflate,
            PressureOutcome::Disconnect => model::PressureAnswer::Disconnect { reason: String::new() },
            PressureOutcome::FaultSession => model::PressureAnswer::FaultSession { reason: String::new() },
        };
        Ok(Said { what, rule: Some(rule), reason })
    }

    pub(super) fn version_floor(
        &self,
        store: &mut Store<GuestState>,
        who: &model::ClientNode,
        floor: Option<&str>,
    ) -> Result<std::result::Result<Said<model::Admission>, String>> {
        let admit = self.admit.as_ref().ok_or_else(|| unanswered("version-floor"))?;
        let (answer,) = admit.call(store, (Node { kind: &who.kind, version: &who.version }, floor))?;
        Ok(answer.map(|Admitted { admission, rule }| {
            let what = match admission {
                Admission::ReadWrite => model::Admission::ReadWrite,
                Admission::ReadOnly => model::Admission::ReadOnly,
            };
            Said { what, rule: Some(rule), reason: None }
        }))
    }

    pub(super) fn dashboard_tags(
        &self,
        store: &mut Store<GuestState>,
        who: &model::Person,
        grants: &[(String, String)],
    ) -> Result<Said<model::Sight>> {
        let sees = self.sees.as_ref().ok_or_else(|| unanswered("dashboard-tags"))?;
        let grants: Vec<Grant<'_>> = grants.iter().map(|(group, tag)| Grant { group, tag }).collect();
        let (Seen { sight, rule },) = sees.call(store, (who.into(), &grants))?;
        let what = match sight {
            Sight::Everything => model::Sight::Everything,
            Sight::Tags(tags) => model::Sight::Tags(tags),
        };
        Ok(Said { what, rule: Some(rule), reason: None })
    }

    pub(super) fn rate_limit(
        &self,
        store: &mut Store<GuestState>,
        who: &model::Principal,
        what: &model::RateRequest,
    ) -> Result<Said<model::RateAnswer>> {
        let decide = self.rate.as_ref().ok_or_else(|| unanswered("rate-limit"))?;
        let request = Request { kind: &what.kind, cost: what.cost, tokens: what.tokens, now_ms: what.now as f64 };
        let (RateAnswer { outcome, rule },) = decide.call(store, (who.into(), request))?;
        let what = match outcome {
            RateOutcome::Pass(Bucket { per_second, burst }) => model::RateAnswer::Pass { per_second, burst },
            RateOutcome::Limit(retry_ms) => model::RateAnswer::Limit { retry_ms: retry_ms.into() },
            RateOutcome::Unlimited => model::RateAnswer::Unlimited,
        };
        Ok(Said { what, rule: Some(rule), reason: None })
    }
}

// === conversions ===

/// The greatest number stands for whatever is higher.
pub(crate) fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl<'a> From<&'a model::Principal> for Principal<'a> {
    fn from(who: &'a model::Principal) -> Self {
        let of = who.facts();
        Self {
            id: &of.id,
            scopes: &of.scopes,
            read: &of.read,
            write: &of.write,
            peer: &of.peer,
            certificate: &of.certificate,
        }
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
            model::Action::Resume { behind } => Self::Resume(Resumption { behind: count(*behind) }),
            model::Action::Command { method, tag } => Self::Command(Command { method, tag }),
            model::Action::Close => Self::Close,
        }
    }
}

impl<'a> From<&'a model::Pressure> for Pressure<'a> {
    fn from(what: &'a model::Pressure) -> Self {
        Self {
            now_ms: what.now as f64,
            who: (&what.who).into(),
            place: (&what.session).into(),
            reader: &what.reader,
            lag_events: count(what.lag_events),
            lag_events_max: count(what.lag_events_max),
            log_bytes: count(what.log_bytes),
            log_bytes_max: count(what.log_bytes_max),
            asked: what.asked,
            since_ms: count(what.since_ms),
            readers: what.readers,
        }
    }
}

impl<'a> From<&'a model::Person> for Person<'a> {
    fn from(who: &'a model::Person) -> Self {
        Self { name: &who.name, roles: &who.roles, groups: &who.groups }
    }
}
