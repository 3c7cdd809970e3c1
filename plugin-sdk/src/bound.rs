//! Binds an author's policy to the functions that the contract exports, and has the macros that do it.
//! Invariant: a component holds one configured policy and nothing else between calls.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::thread::LocalKey;

use crate::access::{AccessPolicy, Verdict};
use crate::backpressure::BackpressurePolicy;
use crate::dashboard_tags::DashboardTagsPolicy;
use crate::packed::Question;
use crate::rate_limit::RateLimitPolicy;
use crate::version_floor::VersionFloorPolicy;
use crate::{Policy, schema, worlds};

/// Where the macro keeps the configured policy; a component has one thread.
pub trait Installed: Policy {
    fn slot() -> &'static LocalKey<RefCell<Option<Rc<Self>>>>;
}

/// The author's policy as the contract's exports.
#[derive(Debug)]
pub struct Bound<P>(PhantomData<P>);

/// Added to the rule of a packed answer that denies.
const DENIES: u32 = 1 << 16;
/// Added to that, where the reason is the denial's own.
const HAS_REASON: u32 = 1 << 17;

fn configure<P: Installed>(settings: &str) -> Result<(), String> {
    let settings = serde_json::from_str(settings).map_err(|e| format!("settings: {e}"))?;
    let policy = P::configure(settings)?;
    P::slot().with(|slot| *slot.borrow_mut() = Some(Rc::new(policy)));
    Ok(())
}

fn rule(name: &str, text: &str) -> worlds::plugin::exports::tidegate::policy::plugin::Rule {
    worlds::plugin::exports::tidegate::policy::plugin::Rule { name: name.to_owned(), text: text.to_owned() }
}

/// The host configures before it asks; a host that does not is broken, and a trap says so.
fn configured<P: Installed>() -> Rc<P> {
    P::slot().with(|slot| slot.borrow().clone()).expect("asked before configure")
}

impl<P: Installed> worlds::plugin::exports::tidegate::policy::plugin::Guest for Bound<P> {
    fn describe() -> worlds::plugin::exports::tidegate::policy::plugin::Description {
        worlds::plugin::exports::tidegate::policy::plugin::Description {
            name: P::NAME.to_owned(),
            version: P::VERSION.to_owned(),
            settings_schema: schema::of::<P::Settings>(),
            rules: P::RULES.iter().map(|(name, text)| rule(name, text)).collect(),
            vectors: P::VECTORS.to_owned(),
        }
    }

    fn configure(settings: String) -> Result<(), String> {
        configure::<P>(&settings)
    }
}

impl<P: Installed + AccessPolicy> worlds::access::exports::tidegate::policy::access::Guest for Bound<P> {
    fn decide(who: crate::access::Principal, place: crate::access::Session, what: crate::access::Action) -> Verdict {
        configured::<P>().decide(&who, &place, &what)
    }

    fn judge_items(
        who: crate::access::Principal,
        place: crate::access::Session,
        tags: Vec<String>,
    ) -> Vec<crate::access::ItemVerdict> {
        let policy = configured::<P>();
        tags.iter().map(|tag| policy.may_read(&who, &place, tag)).collect()
    }
}

impl<P: Installed + AccessPolicy> worlds::access_packed::exports::tidegate::policy::access_packed::Guest for Bound<P> {
    fn decide(question: Vec<u8>) -> u32 {
        let mut question = Question::new(&question);
        let asker = question.asker();
        match configured::<P>().decide(&asker.who, &asker.place, &question.action()) {
            Verdict { allow: true, rule, .. } => rule.into(),
            Verdict { rule, reason: None, .. } => u32::from(rule) + DENIES,
            Verdict { rule, reason: Some(_), .. } => u32::from(rule) + DENIES + HAS_REASON,
        }
    }

    fn judge_items(question: Vec<u8>) -> Vec<u32> {
        let mut question = Question::new(&question);
        let (policy, asker) = (configured::<P>(), question.asker());
        let judge = |tag| {
            let verdict = policy.may_read(&asker.who, &asker.place, tag);
            u32::from(verdict.rule) + if verdict.allow { 0 } else { DENIES }
        };
        question.tags().map(judge).collect()
    }
}

impl<P: Installed + BackpressurePolicy> worlds::backpressure::exports::tidegate::policy::backpressure::Guest
    for Bound<P>
{
    fn decide(what: crate::backpressure::Pressure) -> crate::backpressure::Answer {
        configured::<P>().decide(&what)
    }
}

impl<P: Installed + VersionFloorPolicy> worlds::version_floor::exports::tidegate::policy::version_floor::Guest
    for Bound<P>
{
    fn admit(who: crate::version_floor::Node, floor: Option<String>) -> Result<crate::version_floor::Answer, String> {
        configured::<P>().admit(&who, floor.as_deref())
    }
}

impl<P: Installed + DashboardTagsPolicy> worlds::dashboard_tags::exports::tidegate::policy::dashboard_tags::Guest
    for Bound<P>
{
    fn sees(
        who: crate::dashboard_tags::Person,
        grants: Vec<crate::dashboard_tags::Grant>,
    ) -> crate::dashboard_tags::Answer {
        configured::<P>().sees(&who, &grants)
    }
}

impl<P: Installed + RateLimitPolicy> worlds::rate_limit::exports::tidegate::policy::rate_limit::Guest for Bound<P> {
    fn decide(who: crate::rate_limit::Principal, what: crate::rate_limit::Request) -> crate::rate_limit::Answer {
        configured::<P>().decide(&who, &what)
    }
}

/// Exports `plugin` and the interfaces named by their worlds. The exports exist only in wasm: natively
/// their names would be symbols of a shared library that no linker takes.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_policy {
    ($policy:ty, $($world:ident),+) => {
        impl $crate::Installed for $policy {
            fn slot() -> &'static ::std::thread::LocalKey<::std::cell::RefCell<Option<::std::rc::Rc<Self>>>> {
                ::std::thread_local! {
                    static SLOT: ::std::cell::RefCell<Option<::std::rc::Rc<$policy>>> =
                        const { ::std::cell::RefCell::new(None) };
                }
                &SLOT
            }
        }

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Export = $crate::Bound<$policy>;
            $crate::worlds::plugin::export_world!(Export with_types_in $crate::worlds::plugin);
        };
        $($crate::__export_world!($policy, $world);)+
    };
}

/// One interface, and what belongs to it.
#[doc(hidden)]
#[macro_export]
macro_rules! __export_world {
    ($policy:ty, access) => {
        $crate::__export_world!($policy, @ access);
        $crate::__export_world!($policy, @ access_packed);
    };
    ($policy:ty, $world:ident) => {
        $crate::__export_world!($policy, @ $world);
    };
    ($policy:ty, @ $world:ident) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Export = $crate::Bound<$policy>;
            $crate::worlds::$world::export_world!(Export with_types_in $crate::worlds::$world);
        };
    };
}

/// Exports a policy that answers `access` alone: [`AccessPolicy`](crate::access::AccessPolicy).
#[macro_export]
macro_rules! export_access {
    ($policy:ty) => {
        $crate::__export_policy!($policy, access);
    };
}

/// Exports a policy that answers `backpressure` alone: [`BackpressurePolicy`](crate::backpressure::BackpressurePolicy).
#[macro_export]
macro_rules! export_backpressure {
    ($policy:ty) => {
        $crate::__export_policy!($policy, backpressure);
    };
}

/// Exports a policy that answers `version_floor` alone: [`VersionFloorPolicy`](crate::version_floor::VersionFloorPolicy).
#[macro_export]
macro_rules! export_version_floor {
    ($policy:ty) => {
        $crate::__export_policy!($policy, version_floor);
    };
}

/// Exports a policy that answers `dashboard_tags` alone: [`DashboardTagsPolicy`](crate::dashboard_tags::DashboardTagsPolicy).
#[macro_export]
macro_rules! export_dashboard_tags {
    ($policy:ty) => {
        $crate::__export_policy!($policy, dashboard_tags);
    };
}

/// Exports a policy that answers `rate_limit` alone: [`RateLimitPolicy`](crate::rate_limit::RateLimitPolicy).
#[macro_export]
macro_rules! export_rate_limit {
    ($policy:ty) => {
        $crate::__export_policy!($policy, rate_limit);
    };
}

/// Exports one type that answers several: `export_policies!(Mine: access, rate_limit)`.
#[macro_export]
macro_rules! export_policies {
    ($policy:ty: $($world:ident),+) => {
        $crate::__export_policy!($policy, $($world),+);
    };
}
