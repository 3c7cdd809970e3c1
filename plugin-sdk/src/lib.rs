//! What a Rust author of a Tidegate policy imports: the contract as Rust types, a trait per policy,
//! macros that export it, tag globs, versions and settings. A policy is its rule and little else:
//! a struct made from its settings, and pure methods that `cargo test` runs natively. Knows nothing
//! of the gateway. Invariant: without `export_*!` this crate adds nothing to a component.
//!
//! A whole access policy:
//!
//! ```
//! use tidegate_plugin_sdk::access::{AccessPolicy, Action, ItemVerdict, Principal, Session, Verdict};
//! use tidegate_plugin_sdk::{Policy, glob, settings};
//!
//! /// What an operator can set; the schema that the component brings is made of this.
//! #[settings]
//! pub struct Settings {
//!     /// The only tags that are ever written.
//!     #[setting(max_items = 100, default = ["*.Setpoint"])]
//!     writable: Vec<String>,
//! }
//!
//! pub struct Setpoints(Settings);
//!
//! tidegate_plugin_sdk::export_access!(Setpoints);
//!
//! const ANYBODY: u16 = 0;
//! const NOT_WRITABLE: u16 = 1;
//!
//! impl Policy for Setpoints {
//!     type Settings = Settings;
//!     const NAME: &'static str = "setpoints";
//!     const VERSION: &'static str = "1.0.0";
//!     const RULES: &'static [(&'static str, &'static str)] =
//!         &[("anybody", "anybody does this"), ("not-writable", "only setpoints are written")];
//!     const VECTORS: &'static str = "[[vector]] # its own tests, docs/policies/vectors.md";
//!
//!     fn configure(settings: Settings) -> Result<Self, String> {
//!         glob::check_all(&settings.writable)?;
//!         Ok(Self(settings))
//!     }
//! }
//!
//! impl AccessPolicy for Setpoints {
//!     fn decide(&self, _: &Principal, _: &Session, what: &Action) -> Verdict {
//!         match what {
//!             Action::Command(c) if c.method.starts_with("write") && !glob::any(&self.0.writable, &c.tag) => {
//!                 Verdict::deny(NOT_WRITABLE)
//!             }
//!             _ => Verdict::allow(ANYBODY),
//!         }
//!     }
//!
//!     fn may_read(&self, _: &Principal, _: &Session, _tag: &str) -> ItemVerdict {
//!         ItemVerdict::allow(ANYBODY)
//!     }
//! }
//!
//! // Rules are plain functions, so they are tested where they stand.
//! let policy = Setpoints::configure(Settings::default()).unwrap();
//! let write = |tag: &str| Action::command("write", tag);
//! assert!(policy.decide(&Principal::default(), &Session::default(), &write("Area1.Setpoint")).allow);
//! assert_eq!(policy.decide(&Principal::default(), &Session::default(), &write("Area1.Flow")), Verdict::deny(NOT_WRITABLE));
//! ```

// What `#[settings]` makes names this crate, here too.
extern crate self as tidegate_plugin_sdk;

mod answers;
mod bound;
pub mod glob;
mod packed;
pub mod schema;
pub mod version;
#[doc(hidden)]
pub mod worlds;

use schema::Schema;
use serde::de::DeserializeOwned;

#[doc(hidden)]
pub use bound::{Bound, Installed};
#[doc(hidden)]
pub use serde;

/// Makes a struct or an enum of plain names into settings: readable from what an operator sets, with defaults, and with a
/// JSON Schema that is made of its types, comments and bounds.
///
/// A field without anything is its type's default when nothing is set. `#[setting(…)]` takes, in any order:
///
/// | word | for | means |
/// |---|---|---|
/// | `default = JSON` | any | what it is when nothing is set, such as `5`, `"text"`, `["a"]`, `[{"at": 0.9}]` |
/// | `required` | any | there is no default; the struct has no `Default` then |
/// | `min = 1`, `max = 100` | numbers, and lists of them | both are within |
/// | `min_length`, `max_length` | texts, and lists of them | characters |
/// | `min_items`, `max_items` | lists | how many |
///
/// The gateway checks all of it before `configure` is called; a name that no field has is an error. An enum's names are
/// written in kebab-case.
///
/// ```
/// use tidegate_plugin_sdk::settings;
///
/// #[settings]
/// struct Settings {
///     /// From this part of the bound on.
///     #[setting(default = 50, min = 1, max = 100)]
///     at_percent: u32,
///     /// What is done then.
///     #[setting(default = "conflate")]
///     answer: Choice,
/// }
///
/// #[settings]
/// #[derive(Debug, PartialEq)]
/// enum Choice {
///     Conflate,
///     Disconnect,
/// }
///
/// let set: Settings = serde_json::from_str(r#"{"answer": "disconnect"}"#).unwrap();
/// assert_eq!((set.at_percent, set.answer), (50, Choice::Disconnect));
/// assert!(serde_json::from_str::<Settings>(r#"{"at_percentt": 1}"#).is_err());
/// ```
///
/// A type that is no setting, and a word that is not known, do not compile:
///
/// ```compile_fail
/// #[tidegate_plugin_sdk::settings]
/// struct Settings {
///     when: std::time::Duration,
/// }
/// ```
///
/// ```compile_fail
/// #[tidegate_plugin_sdk::settings]
/// struct Settings {
///     #[setting(maximum = 5)]
///     number: u32,
/// }
/// ```
pub use tidegate_plugin_macros::settings;

/// What every policy is, whichever of the five questions it answers. See the [example](crate) at the top.
pub trait Policy: Sized + 'static {
    /// Made by [`settings`](macro@settings), or [`NoSettings`]; `{}` when nothing is set.
    type Settings: DeserializeOwned + Schema;
    /// Short, kebab-case, at most 64 bytes; shown to operators.
    const NAME: &'static str;
    /// MAJOR.MINOR.PATCH
    const VERSION: &'static str;
    /// Names of the rules and what they say to whom they stop; answers carry an index into this list. 1 to 256.
    const RULES: &'static [(&'static str, &'static str)];
    /// The policy's own tests, TOML (docs/policies/vectors.md).
    const VECTORS: &'static str;

    /// Turns settings into the policy; the error is a sentence for the operator. Everything that can
    /// be wrong about the settings is found here, not in a decision.
    fn configure(settings: Self::Settings) -> Result<Self, String>;
}

/// Settings of a policy that has none: any field is an error.
///
/// ```
/// use tidegate_plugin_sdk::NoSettings;
///
/// assert!(serde_json::from_str::<NoSettings>("{}").is_ok());
/// assert!(serde_json::from_str::<NoSettings>(r#"{"deny": []}"#).is_err());
/// ```
#[settings]
#[derive(Clone, Copy, Debug)]
pub struct NoSettings {}

/// What a principal may do, and which items' events it may see.
pub mod access {
    pub use crate::worlds::access::exports::tidegate::policy::access::{
        Action, Command, ItemVerdict, Resumption, Verdict,
    };
    pub use crate::worlds::types::{Principal, Session};

    /// The rule of an access policy. See the [example](crate) of the crate.
    pub trait AccessPolicy: crate::Policy {
        /// May `who` do `what` in `place`?
        fn decide(&self, who: &Principal, place: &Session, what: &Action) -> Verdict;
        /// May `who` see the events of the item `tag`?
        fn may_read(&self, who: &Principal, place: &Session, tag: &str) -> ItemVerdict;
    }
}

/// What happens to a reader that falls behind.
pub mod backpressure {
    pub use crate::worlds::backpressure::exports::tidegate::policy::backpressure::{Answer, Outcome, Pressure};
    pub use crate::worlds::types::{Principal, Session};

    /// The rule of a back-pressure policy.
    ///
    /// ```
    /// use tidegate_plugin_sdk::backpressure::{Answer, BackpressurePolicy, Outcome, Pressure};
    /// # use tidegate_plugin_sdk::{NoSettings, Policy};
    /// # struct Newest;
    /// # impl Policy for Newest {
    /// #     type Settings = NoSettings;
    /// #     const NAME: &'static str = "newest";
    /// #     const VERSION: &'static str = "1.0.0";
    /// #     const RULES: &'static [(&'static str, &'static str)] = &[("keeps-up", ""), ("behind", "")];
    /// #     const VECTORS: &'static str = "";
    /// #     fn configure(_: NoSettings) -> Result<Self, String> {
    /// #         Ok(Self)
    /// #     }
    /// # }
    ///
    /// impl BackpressurePolicy for Newest {
    ///     fn decide(&self, what: &Pressure) -> Answer {
    ///         if what.lag_events > what.lag_events_max / 2 {
    ///             Answer::new(Outcome::Conflate, 1)
    ///         } else {
    ///             Answer::new(Outcome::Wait, 0)
    ///         }
    ///     }
    /// }
    ///
    /// let behind = Pressure { lag_events: 600, lag_events_max: 1000, ..Pressure::default() };
    /// assert_eq!(Newest.decide(&behind).outcome, Outcome::Conflate);
    /// ```
    pub trait BackpressurePolicy: crate::Policy {
        /// What happens to this reader now?
        fn decide(&self, what: &Pressure) -> Answer;
    }
}

/// Which client versions may write.
pub mod version_floor {
    pub use crate::worlds::version_floor::exports::tidegate::policy::version_floor::{Admission, Answer, Node};

    /// The rule of a version floor.
    ///
    /// ```
    /// use tidegate_plugin_sdk::version::Version;
    /// use tidegate_plugin_sdk::version_floor::{Admission, Answer, Node, VersionFloorPolicy};
    /// # use tidegate_plugin_sdk::{NoSettings, Policy};
    /// # struct Strict;
    /// # impl Policy for Strict {
    /// #     type Settings = NoSettings;
    /// #     const NAME: &'static str = "strict";
    /// #     const VERSION: &'static str = "1.0.0";
    /// #     const RULES: &'static [(&'static str, &'static str)] = &[("new-enough", ""), ("too-old", "")];
    /// #     const VECTORS: &'static str = "";
    /// #     fn configure(_: NoSettings) -> Result<Self, String> {
    /// #         Ok(Self)
    /// #     }
    /// # }
    ///
    /// impl VersionFloorPolicy for Strict {
    ///     fn admit(&self, who: &Node, floor: Option<&str>) -> Result<Answer, String> {
    ///         let new_enough = Version::parse(&who.version)? >= Version::parse(floor.unwrap_or("1.0"))?;
    ///         Ok(if new_enough { Answer::read_write(0) } else { Answer::read_only(1) })
    ///     }
    /// }
    ///
    /// let node = Node { kind: "panel".into(), version: "1.9".into() };
    /// assert_eq!(Strict.admit(&node, Some("1.10")), Ok(Answer { admission: Admission::ReadOnly, rule: 1 }));
    /// ```
    pub trait VersionFloorPolicy: crate::Policy {
        /// How are nodes of this kind and version let in? The error says that what is stored or sent is malformed; it
        /// never admits.
        fn admit(&self, who: &Node, floor: Option<&str>) -> Result<Answer, String>;
    }
}

/// Which sessions a person sees on the dashboard.
pub mod dashboard_tags {
    pub use crate::worlds::dashboard_tags::exports::tidegate::policy::dashboard_tags::{Answer, Grant, Person, Sight};

    /// The rule of a dashboard's sight.
    ///
    /// ```
    /// use tidegate_plugin_sdk::dashboard_tags::{Answer, DashboardTagsPolicy, Grant, Person, Sight};
    /// # use tidegate_plugin_sdk::{NoSettings, Policy};
    /// # struct Granted;
    /// # impl Policy for Granted {
    /// #     type Settings = NoSettings;
    /// #     const NAME: &'static str = "granted";
    /// #     const VERSION: &'static str = "1.0.0";
    /// #     const RULES: &'static [(&'static str, &'static str)] = &[("granted", "")];
    /// #     const VECTORS: &'static str = "";
    /// #     fn configure(_: NoSettings) -> Result<Self, String> {
    /// #         Ok(Self)
    /// #     }
    /// # }
    ///
    /// impl DashboardTagsPolicy for Granted {
    ///     fn sees(&self, who: &Person, grants: &[Grant]) -> Answer {
    ///         let granted = grants.iter().filter(|grant| who.groups.contains(&grant.group));
    ///         Answer::tags(granted.map(|grant| grant.tag.clone()), 0)
    ///     }
    /// }
    ///
    /// let grants = [Grant { group: "ops".into(), tag: "line-1".into() }];
    /// let bob = Person { groups: vec!["ops".into()], ..Person::default() };
    /// assert_eq!(Granted.sees(&bob, &grants).sight, Sight::Tags(vec!["line-1".into()]));
    /// ```
    pub trait DashboardTagsPolicy: crate::Policy {
        /// What does `who` see? Each grant lets a group see sessions with a tag.
        fn sees(&self, who: &Person, grants: &[Grant]) -> Answer;
    }
}

/// How fast anyone may go.
pub mod rate_limit {
    pub use crate::worlds::rate_limit::exports::tidegate::policy::rate_limit::{Answer, Bucket, Outcome, Request};
    pub use crate::worlds::types::Principal;

    /// The rule of a rate limit.
    ///
    /// ```
    /// use tidegate_plugin_sdk::rate_limit::{Answer, Bucket, Outcome, Principal, RateLimitPolicy, Request};
    /// # use tidegate_plugin_sdk::{NoSettings, Policy};
    /// # struct Ten;
    /// # impl Policy for Ten {
    /// #     type Settings = NoSettings;
    /// #     const NAME: &'static str = "ten";
    /// #     const VERSION: &'static str = "1.0.0";
    /// #     const RULES: &'static [(&'static str, &'static str)] = &[("ten", "")];
    /// #     const VECTORS: &'static str = "";
    /// #     fn configure(_: NoSettings) -> Result<Self, String> {
    /// #         Ok(Self)
    /// #     }
    /// # }
    ///
    /// impl RateLimitPolicy for Ten {
    ///     fn decide(&self, _: &Principal, what: &Request) -> Answer {
    ///         Answer::pass_or_limit(Bucket { per_second: 10.0, burst: 20.0 }, what, 0)
    ///     }
    /// }
    ///
    /// let empty = Request { cost: 1, tokens: Some(0.0), ..Request::default() };
    /// assert_eq!(Ten.decide(&Principal::default(), &empty).outcome, Outcome::Limit(100));
    /// ```
    pub trait RateLimitPolicy: crate::Policy {
        /// May this request go on?
        fn decide(&self, who: &Principal, what: &Request) -> Answer;
    }
}
