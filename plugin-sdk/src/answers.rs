//! Shorter ways to say the contract's answers, and empty questions for tests to fill in. Invariant: nothing here decides.

use crate::access::{Action, Command, ItemVerdict, Principal, Session, Verdict};
use crate::backpressure::{self, Pressure};
use crate::dashboard_tags::{self, Person, Sight};
use crate::rate_limit::{self, Bucket, Request};
use crate::version_floor::{self, Admission};

impl Verdict {
    /// Yes, by this rule.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::access::Verdict;
    /// assert!(Verdict::allow(0).allow);
    /// ```
    pub fn allow(rule: u16) -> Self {
        Self { allow: true, rule, reason: None }
    }

    /// No, in the words of this rule.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::access::Verdict;
    /// assert_eq!(Verdict::deny(1), Verdict { allow: false, rule: 1, reason: None });
    /// ```
    pub fn deny(rule: u16) -> Self {
        Self { allow: false, rule, reason: None }
    }

    /// With words of its own instead of the rule's; a gateway asks a second time for them.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::access::Verdict;
    /// let verdict = Verdict::deny(1).because("only between 6 and 22 o'clock");
    /// assert_eq!(verdict.reason.as_deref(), Some("only between 6 and 22 o'clock"));
    /// ```
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..self }
    }
}

impl ItemVerdict {
    /// Its events are seen, by this rule.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::access::ItemVerdict;
    /// assert_eq!(ItemVerdict::allow(2), ItemVerdict { allow: true, rule: 2 });
    /// ```
    pub fn allow(rule: u16) -> Self {
        Self { allow: true, rule }
    }

    /// Its events are not seen, by this rule.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::access::ItemVerdict;
    /// assert!(!ItemVerdict::deny(2).allow);
    /// ```
    pub fn deny(rule: u16) -> Self {
        Self { allow: false, rule }
    }
}

impl Action {
    /// A method and its tag, for tests.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::access::Action;
    /// let Action::Command(write) = Action::command("write", "Area1.Setpoint") else { unreachable!() };
    /// assert_eq!(write.tag, "Area1.Setpoint");
    /// ```
    pub fn command(method: &str, tag: &str) -> Self {
        Self::Command(Command { method: method.to_owned(), tag: tag.to_owned() })
    }
}

impl backpressure::Answer {
    /// This, by that rule.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::backpressure::{Answer, Outcome};
    /// assert_eq!(Answer::new(Outcome::Skip(64), 1).rule, 1);
    /// ```
    pub fn new(outcome: backpressure::Outcome, rule: u16) -> Self {
        Self { outcome, rule, reason: None }
    }
}

impl version_floor::Answer {
    /// They read and write.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::version_floor::{Admission, Answer};
    /// assert_eq!(Answer::read_write(0).admission, Admission::ReadWrite);
    /// ```
    pub fn read_write(rule: u16) -> Self {
        Self { admission: Admission::ReadWrite, rule }
    }

    /// They join and read.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::version_floor::{Admission, Answer};
    /// assert_eq!(Answer::read_only(1).admission, Admission::ReadOnly);
    /// ```
    pub fn read_only(rule: u16) -> Self {
        Self { admission: Admission::ReadOnly, rule }
    }
}

impl dashboard_tags::Answer {
    /// Every session.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::dashboard_tags::{Answer, Sight};
    /// assert_eq!(Answer::everything(0).sight, Sight::Everything);
    /// ```
    pub fn everything(rule: u16) -> Self {
        Self { sight: Sight::Everything, rule }
    }

    /// Sessions with one of these tags.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::dashboard_tags::{Answer, Sight};
    /// assert_eq!(Answer::tags(["line-1".to_owned()], 0).sight, Sight::Tags(vec!["line-1".to_owned()]));
    /// ```
    pub fn tags(tags: impl IntoIterator<Item = String>, rule: u16) -> Self {
        Self { sight: Sight::Tags(tags.into_iter().collect()), rule }
    }
}

impl rate_limit::Answer {
    /// Not limited.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::rate_limit::{Answer, Outcome};
    /// assert_eq!(Answer::unlimited(0).outcome, Outcome::Unlimited);
    /// ```
    pub fn unlimited(rule: u16) -> Self {
        Self { outcome: rate_limit::Outcome::Unlimited, rule }
    }

    /// Goes on if the bucket has what it costs; else says when it may have. A request beyond the burst never fits; it
    /// waits as if it did, and the next answer says the same.
    ///
    /// ```
    /// # use tidegate_plugin_sdk::rate_limit::{Answer, Bucket, Outcome, Request};
    /// let bucket = Bucket { per_second: 2.0, burst: 4.0 };
    /// let ask = |tokens| Request { cost: 1, tokens, ..Request::default() };
    /// assert_eq!(Answer::pass_or_limit(bucket, &ask(None), 0).outcome, Outcome::Pass(bucket));
    /// assert_eq!(Answer::pass_or_limit(bucket, &ask(Some(0.5)), 0).outcome, Outcome::Limit(250));
    /// ```
    pub fn pass_or_limit(bucket: Bucket, what: &Request, rule: u16) -> Self {
        let missing = f64::from(what.cost) - what.tokens.unwrap_or(bucket.burst);
        let outcome = if missing > 0.0 {
            rate_limit::Outcome::Limit((missing / bucket.per_second * 1000.0).ceil() as u32)
        } else {
            rate_limit::Outcome::Pass(bucket)
        };
        Self { outcome, rule }
    }
}

/// For tests: nobody, from nowhere.
impl Default for Principal {
    fn default() -> Self {
        let none = Vec::new;
        Self {
            id: String::new(),
            scopes: none(),
            read: none(),
            write: none(),
            peer: String::new(),
            certificate: none(),
        }
    }
}

/// For tests.
impl Default for Session {
    fn default() -> Self {
        Self { id: String::new(), owner: String::new(), tag: String::new(), backend: String::new() }
    }
}

/// For tests: nothing is behind.
impl Default for Pressure {
    fn default() -> Self {
        Self {
            now_ms: 0.0,
            who: Principal::default(),
            place: Session::default(),
            reader: String::new(),
            lag_events: 0,
            lag_events_max: 10_000,
            log_bytes: 0,
            log_bytes_max: 16 << 20,
            asked: 1,
            since_ms: 0,
            readers: 1,
        }
    }
}

/// For tests.
impl Default for Person {
    fn default() -> Self {
        Self { name: String::new(), roles: Vec::new(), groups: Vec::new() }
    }
}

/// For tests: a plain request to a new bucket.
impl Default for Request {
    fn default() -> Self {
        Self { kind: String::new(), cost: 1, tokens: None, now_ms: 0.0 }
    }
}
