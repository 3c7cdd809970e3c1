//! What a Rust author of a Tidegate policy imports: the contract as Rust types, a trait per policy,
//! macros that export it, tag globs, versions and settings. A policy is its rule and little else:
//! a struct made from its settings, and pure methods that `cargo test` runs natively. Knows nothing
//! of the gateway. Invariant: without `export_*!` this crate adds nothing to a component.
//!
//! ```
//! use tidegate_plugin_sdk::{access::*, Policy};
//!
//! struct ReadOnly;
//!
//! impl Policy for ReadOnly {
//!     type Settings = tidegate_plugin_sdk::NoSettings;
//!     const NAME: &'static str = "read-only";
//!     const VERSION: &'static str = "1.0.0";
//!     const RULES: &'static [&'static str] = &["reading", "no-writes"];
//!     const VECTORS: &'static str = "[[vector]]\nname = \"close\"\n# ...";
//!     fn configure(_: Self::Settings) -> Result<Self, String> {
//!         Ok(Self)
//!     }
//! }
//!
//! impl AccessPolicy for ReadOnly {
//!     fn decide(&self, _: &Principal, _: &Session, what: &Action) -> Verdict {
//!         match what {
//!             Action::Command(c) if c.method.starts_with("write") => {
//!                 Verdict::Deny(Denial { rule: 1, reason: "this gateway only reads".into() })
//!             }
//!             _ => Verdict::Allow(0),
//!         }
//!     }
//!     fn may_read(&self, _: &Principal, _: &Session, _tag: &str) -> ItemVerdict {
//!         ItemVerdict { allow: true, rule: 0 }
//!     }
//! }
//!
//! tidegate_plugin_sdk::export_access!(ReadOnly);
//! ```

mod bound;
pub mod glob;
mod packed;
pub mod version;
#[doc(hidden)]
pub mod worlds;

use serde::de::DeserializeOwned;

#[doc(hidden)]
pub use bound::{Bound, Installed};

/// What every policy is, whichever of the five questions it answers.
pub trait Policy: Sized + 'static {
    /// Read from the JSON that the operator's file gives; `{}` when there is none. Deny unknown
    /// fields, so that a misspelt setting is refused and not ignored.
    type Settings: DeserializeOwned;
    /// Short, kebab-case; shown to operators.
    const NAME: &'static str;
    /// MAJOR.MINOR.PATCH
    const VERSION: &'static str;
    /// Names of the rules; verdicts carry an index into this list.
    const RULES: &'static [&'static str];
    /// The policy's own tests, TOML (docs/policies/vectors.md).
    const VECTORS: &'static str;
    /// JSON Schema of `Settings`; empty: the policy takes none.
    const SETTINGS_SCHEMA: &'static str = "";

    /// Turns settings into the policy; the error is a sentence for the operator. Everything that can
    /// be wrong about the settings is found here, not in a decision.
    fn configure(settings: Self::Settings) -> Result<Self, String>;
}

/// Settings of a policy that has none: any field is an error.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoSettings {}

/// What a principal may do, and which items' events it may see.
pub mod access {
    pub use crate::worlds::access::exports::tidegate::policy::access::{Action, Command, ItemVerdict};
    pub use crate::worlds::types::{Denial, Principal, Session, Verdict};

    /// The rule of an access policy.
    pub trait AccessPolicy: crate::Policy {
        fn decide(&self, who: &Principal, place: &Session, what: &Action) -> Verdict;
        /// May `who` see the events of the item `tag`?
        fn may_read(&self, who: &Principal, place: &Session, tag: &str) -> ItemVerdict;
    }
}

/// What happens to a reader that falls behind.
pub mod backpressure {
    pub use crate::worlds::backpressure::exports::tidegate::policy::backpressure::{Answer, Pressure};
    pub use crate::worlds::types::{Principal, Session};

    /// The rule of a back-pressure policy.
    pub trait BackpressurePolicy: crate::Policy {
        fn decide(&self, what: &Pressure) -> Answer;
    }
}

/// Which client versions may write.
pub mod version_floor {
    pub use crate::worlds::version_floor::exports::tidegate::policy::version_floor::{Admission, Node};

    /// The rule of a version floor.
    pub trait VersionFloorPolicy: crate::Policy {
        /// The error says that what is stored or sent is malformed; it never admits.
        fn admit(&self, who: &Node, floor: Option<&str>) -> Result<Admission, String>;
    }
}

/// Which sessions a person sees on the dashboard.
pub mod dashboard_tags {
    pub use crate::worlds::dashboard_tags::exports::tidegate::policy::dashboard_tags::{Person, Sight};

    /// The rule of a dashboard's sight.
    pub trait DashboardTagsPolicy: crate::Policy {
        /// `grants` maps a group to a session tag.
        fn sees(&self, who: &Person, grants: &[(String, String)]) -> Sight;
    }
}

/// How fast anyone may go.
pub mod rate_limit {
    pub use crate::worlds::rate_limit::exports::tidegate::policy::rate_limit::{Answer, Bucket, Request};
    pub use crate::worlds::types::Principal;

    /// The rule of a rate limit.
    pub trait RateLimitPolicy: crate::Policy {
        fn decide(&self, who: &Principal, what: &Request) -> Answer;
    }
}
