//! Questions and answers as values that can be kept, written, read and asked again. Knows the contract's types by
//! their plain forms only. Invariant: a question that is read back asks exactly what was asked.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize, Serializer};

use crate::host::TAGS_PER_CALL;
use crate::instance::{CallFailure, PolicyInstance, caught};
use crate::model::*;
use crate::packed::{CERTIFICATE, Labels, WhoFacts};

/// A question on its way to a component.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Asked {
    Access {
        who: Principal,
        place: SessionFacts,
        what: Action,
    },
    /// In a file the tags stand apart (`line`).
    Items {
        who: Principal,
        place: SessionFacts,
        #[serde(skip)]
        tags: Arc<[Arc<str>]>,
    },
    Backpressure(Arc<Pressure>),
    VersionFloor {
        node: ClientNode,
        floor: Option<String>,
    },
    DashboardTags {
        who: Person,
        grants: Vec<(String, String)>,
    },
    RateLimit {
        who: Principal,
        what: RateRequest,
    },
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answered {
    Access(Verdict),
    Items(#[serde(with = "packed")] Vec<ItemVerdict>),
    Backpressure(PressureAnswer),
    VersionFloor(Admission),
    DashboardTags(Sight),
    RateLimit(RateAnswer),
}

/// An answer that can be kept.
pub(crate) trait IntoAnswered {
    fn answered(&self) -> Answered;
}

/// A principal in a file; borrowed while it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Who<'a> {
    id: Cow<'a, str>,
    scopes: Cow<'a, [String]>,
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    read: Cow<'a, [String]>,
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    write: Cow<'a, [String]>,
    peer: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "<[String]>::is_empty")]
    certificate: Cow<'a, [String]>,
}

/// An action in a file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeptAction {
    Open,
    Read,
    /// Of before positions were part of the question.
    Resume,
    ResumeFrom {
        behind: u64,
    },
    Command {
        method: String,
        tag: String,
    },
    Close,
}

/// A session in a file; borrowed while it is written.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Place<'a> {
    id: Cow<'a, str>,
    owner: Cow<'a, str>,
    tag: Cow<'a, str>,
    backend: Cow<'a, str>,
}

// === impl Asked ===

impl Asked {
    pub(crate) fn policy(&self) -> Policy {
        match self {
            Asked::Access { .. } | Asked::Items { .. } => Policy::Access,
            Asked::Backpressure(_) => Policy::Backpressure,
            Asked::VersionFloor { .. } => Policy::VersionFloor,
            Asked::DashboardTags { .. } => Policy::DashboardTags,
            Asked::RateLimit { .. } => Policy::RateLimit,
        }
    }

    pub(super) fn who(&self) -> &str {
        match self {
            Asked::Access { who, .. } | Asked::Items { who, .. } | Asked::RateLimit { who, .. } => who.id(),
            Asked::Backpressure(what) => what.who.id(),
            Asked::VersionFloor { node, .. } => &node.kind,
            Asked::DashboardTags { who, .. } => &who.name,
        }
    }

    pub(super) fn session(&self) -> &str {
        match self {
            Asked::Access { place, .. } | Asked::Items { place, .. } => place.id(),
            Asked::Backpressure(what) => what.session.id(),
            _ => "",
        }
    }

    /// Is it about this tag?
    pub(super) fn mentions(&self, tag: &str) -> bool {
        match self {
            Asked::Access { what: Action::Command { tag: of, .. }, .. } => of == tag,
            Asked::Items { tags, .. } => tags.iter().any(|of| &**of == tag),
            _ => false,
        }
    }

    /// What it takes up while it waits to be written, in tags.
    pub(super) fn weight(&self) -> usize {
        if let Asked::Items { tags, .. } = self { tags.len() } else { 1 }
    }

    /// For people: with its tags.
    pub(super) fn to_json(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        if let (Asked::Items { tags, .. }, Some(items)) = (self, value.pointer_mut("/items")) {
            items["tags"] = tags.iter().map(|tag| tag.to_string()).collect::<Vec<_>>().into();
        }
        value.to_string()
    }

    /// Asks a component, outside of any generation.
    pub(crate) fn put(&self, guest: &mut PolicyInstance) -> Result<Ruled<Answered>, CallFailure> {
        caught(|| self.put_to(guest))
    }

    fn put_to(&self, guest: &mut PolicyInstance) -> Result<Ruled<Answered>, CallFailure> {
        Ok(match self {
            Asked::Access { who, place, what } => Answered::Access(guest.access(who, place, what)?).into(),
            Asked::Items { who, place, tags } => {
                let mut verdicts = Vec::with_capacity(tags.len());
                for some in tags.chunks(TAGS_PER_CALL) {
                    verdicts.extend(guest.judge_items(who, place, some)?);
                }
                Answered::Items(verdicts).into()
            }
            Asked::Backpressure(what) => guest.backpressure(what)?.map(Answered::Backpressure),
            Asked::VersionFloor { node, floor } => {
                guest.version_floor(node, floor.as_deref())?.map(Answered::VersionFloor)
            }
            Asked::DashboardTags { who, grants } => guest.dashboard_tags(who, grants)?.map(Answered::DashboardTags),
            Asked::RateLimit { who, what } => guest.rate_limit(who, what)?.map(Answered::RateLimit),
        })
    }
}

// === impl Answered ===

impl Answered {
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Did somebody get less than was asked for?
    pub(super) fn denies(&self) -> bool {
        match self {
            Answered::Access(verdict) => !verdict.is_allow(),
            Answered::Items(verdicts) => verdicts.iter().any(|verdict| !verdict.allow),
            Answered::Backpressure(answer) => !matches!(answer, PressureAnswer::Wait),
            Answered::VersionFloor(admission) => *admission != Admission::ReadWrite,
            Answered::DashboardTags(sight) => *sight == Sight::Tags(Vec::new()),
            Answered::RateLimit(answer) => matches!(answer, RateAnswer::Limit { .. }),
        }
    }

    pub(super) fn reason(&self) -> &str {
        match self {
            Answered::Access(Verdict::Deny { reason, .. })
            | Answered::Backpressure(PressureAnswer::Disconnect { reason } | PressureAnswer::FaultSession { reason })
            | Answered::VersionFloor(Admission::Refused { reason }) => reason,
            _ => "",
        }
    }

    pub(super) fn rule(&self) -> Option<u16> {
        match self {
            Answered::Access(verdict) => Some(verdict.rule()),
            Answered::Items(verdicts) => {
                let first = verdicts.first()?;
                verdicts.iter().all(|verdict| verdict.rule == first.rule).then_some(first.rule)
            }
            _ => None,
        }
    }

    /// What it comes to for whom it is about, in a word; the rule and the reason aside.
    pub(super) fn effect(&self) -> String {
        match self {
            Answered::Access(verdict) => effect(verdict.is_allow()).to_owned(),
            Answered::Items(_) => String::new(),
            Answered::Backpressure(answer) => match answer {
                PressureAnswer::Wait => "wait".to_owned(),
                PressureAnswer::Skip { keep_newest } => format!("skip {keep_newest}"),
                PressureAnswer::Conflate => "conflate".to_owned(),
                PressureAnswer::Disconnect { .. } => "disconnect".to_owned(),
                PressureAnswer::FaultSession { .. } => "fault-session".to_owned(),
            },
            Answered::VersionFloor(Admission::ReadWrite) => "read-write".to_owned(),
            Answered::VersionFloor(Admission::ReadOnly) => "read-only".to_owned(),
            Answered::VersionFloor(Admission::Refused { .. }) => "refused".to_owned(),
            Answered::DashboardTags(Sight::Everything) => "everything".to_owned(),
            Answered::DashboardTags(Sight::Tags(tags)) => format!("tags {}", tags.join(" ")),
            Answered::RateLimit(RateAnswer::Pass { per_second, burst }) => format!("pass {per_second}/s up to {burst}"),
            Answered::RateLimit(RateAnswer::Limit { .. }) => "limit".to_owned(),
            Answered::RateLimit(RateAnswer::Unlimited) => "unlimited".to_owned(),
        }
    }
}

pub(super) fn effect(allow: bool) -> &'static str {
    if allow { "allow" } else { "deny" }
}

macro_rules! into_answered {
    ($($plain:ty => $variant:ident),*) => {$(
        impl IntoAnswered for $plain {
            fn answered(&self) -> Answered {
                Answered::$variant(self.clone())
            }
        }
    )*};
}

into_answered! {
    Verdict => Access, Vec<ItemVerdict> => Items, PressureAnswer => Backpressure,
    Admission => VersionFloor, Sight => DashboardTags, RateAnswer => RateLimit
}

// === conversions ===

impl Serialize for Principal {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let WhoFacts { id, scopes, read, write, peer, certificate } = &**self.facts();
        let who = Who {
            id: id.into(),
            scopes: scopes.into(),
            read: read.into(),
            write: write.into(),
            peer: peer.into(),
            certificate: certificate.into(),
        };
        who.serialize(to)
    }
}

impl From<Who<'_>> for Principal {
    fn from(who: Who<'_>) -> Self {
        // Lines of before have the certificate's names among the scopes.
        let (mut certificate, mut scopes) = (who.certificate.into_owned(), Vec::with_capacity(who.scopes.len()));
        for text in who.scopes.into_owned() {
            match text.strip_prefix(CERTIFICATE) {
                Some(name) => certificate.push(name.to_owned()),
                None => scopes.push(text),
            }
        }
        let (read, write) = (who.read.into_owned(), who.write.into_owned());
        Principal::certified(who.id.into_owned(), scopes, read, write, who.peer.into_owned(), certificate)
    }
}

impl Serialize for SessionFacts {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let Labels { id, owner, tag, backend } = self.labels();
        Place { id: id.into(), owner: owner.into(), tag: tag.into(), backend: backend.into() }.serialize(to)
    }
}

impl From<Place<'_>> for SessionFacts {
    fn from(place: Place<'_>) -> Self {
        let [id, owner, tag, backend] = [place.id, place.owner, place.tag, place.backend].map(Cow::into_owned);
        SessionFacts::new(id, owner, tag, backend)
    }
}

impl From<KeptAction> for Action {
    fn from(kept: KeptAction) -> Self {
        match kept {
            KeptAction::Open => Self::Open,
            KeptAction::Read => Self::Read,
            KeptAction::Resume => Self::Resume { behind: 0 },
            KeptAction::ResumeFrom { behind } => Self::Resume { behind },
            KeptAction::Command { method, tag } => Self::Command { method, tag },
            KeptAction::Close => Self::Close,
        }
    }
}

/// Numbers as text: JSON's own way loses their last bit, and a replay would answer otherwise.
pub(crate) mod exact {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub(crate) trait Number: Sized {
        fn text(&self) -> Option<String>;
        fn of(text: Option<String>) -> Option<Self>;
    }

    impl Number for f64 {
        fn text(&self) -> Option<String> {
            Some(self.to_string())
        }
        fn of(text: Option<String>) -> Option<Self> {
            text?.parse().ok()
        }
    }

    impl Number for Option<f64> {
        fn text(&self) -> Option<String> {
            self.map(|number| number.to_string())
        }
        fn of(text: Option<String>) -> Option<Self> {
            text.map_or(Some(None), |text| text.parse().ok().map(Some))
        }
    }

    pub(crate) fn serialize<N: Number, S: Serializer>(number: &N, to: S) -> Result<S::Ok, S::Error> {
        number.text().serialize(to)
    }

    pub(crate) fn deserialize<'de, N: Number, D: Deserializer<'de>>(from: D) -> Result<N, D::Error> {
        N::of(Option::<String>::deserialize(from)?).ok_or_else(|| D::Error::custom("not a number"))
    }
}

/// Verdicts of many items as runs: `a0x250 d3x6`.
mod packed {
    use super::ItemVerdict;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    /// A line could claim any number of verdicts; no call has more.
    const VERDICTS_MAX: usize = 16 << 20;

    pub(super) fn serialize<S: Serializer>(verdicts: &[ItemVerdict], to: S) -> Result<S::Ok, S::Error> {
        let mut text = String::new();
        for run in verdicts.chunk_by(|a, b| a == b) {
            use std::fmt::Write as _;
            let space = if text.is_empty() { "" } else { " " };
            let letter = if run[0].allow { 'a' } else { 'd' };
            let _ = write!(text, "{space}{letter}{}x{}", run[0].rule, run.len());
        }
        to.serialize_str(&text)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<ItemVerdict>, D::Error> {
        let text = String::deserialize(from)?;
        let mut verdicts = Vec::new();
        for run in text.split(' ').filter(|run| !run.is_empty()) {
            let parsed = run.split_at_checked(1).and_then(|(letter, rest)| {
                let (rule, count) = rest.split_once('x')?;
                let allow = match letter {
                    "a" => true,
                    "d" => false,
                    _ => return None,
                };
                Some((ItemVerdict { allow, rule: rule.parse().ok()? }, count.parse::<usize>().ok()?))
            });
            let (verdict, count) = parsed.ok_or_else(|| D::Error::custom("not a run of verdicts"))?;
            if verdicts.len() + count > VERDICTS_MAX {
                return Err(D::Error::custom("too many verdicts"));
            }
            verdicts.resize(verdicts.len() + count, verdict);
        }
        Ok(verdicts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: X-11
    #[test]
    fn what_is_read_back_is_what_was_asked() {
        let who = Principal::new("k", vec!["s".into()], vec![], vec!["A.*".into()], "::1");
        let tokens = Some(0.1 + 0.2);
        let what = RateRequest { kind: "invoke".into(), cost: 3, tokens, now: u64::MAX };
        let text = serde_json::to_string(&Asked::RateLimit { who, what: what.clone() }).expect("writes");
        let Ok(Asked::RateLimit { who, what: read }) = serde_json::from_str(&text) else { panic!("{text}") };
        assert_eq!((read.tokens.map(f64::to_bits), read), (tokens.map(f64::to_bits), what));
        assert_eq!(who.facts().write, ["A.*"]);
        // Lines of before: a certificate among the scopes, a resumption without its position.
        let old = r#"{"access":{"who":{"id":"k","scopes":["sessions:own","cert:CN=h"],"peer":""},
            "place":{"id":"s","owner":"k","tag":"","backend":"sim"},"what":"resume"}}"#;
        let Ok(Asked::Access { who, what, .. }) = serde_json::from_str(old) else { panic!("{old}") };
        assert_eq!((who.scopes(), who.certificate()), (&["sessions:own".to_owned()][..], &["CN=h".to_owned()][..]));
        assert_eq!(what, Action::Resume { behind: 0 });
        let text = serde_json::to_string(&Action::Resume { behind: 5 }).expect("writes");
        assert_eq!(serde_json::from_str::<Action>(&text).ok(), Some(Action::Resume { behind: 5 }), "{text}");
        let item = |allow, rule| ItemVerdict { allow, rule };
        let verdicts = Answered::Items(vec![item(true, 1), item(true, 1), item(false, 0), item(true, 1)]);
        let text = verdicts.to_json();
        assert_eq!(text, r#"{"items":"a1x2 d0x1 a1x1"}"#);
        assert_eq!(serde_json::from_str::<Answered>(&text).ok(), Some(verdicts));
        assert!(serde_json::from_str::<Answered>(r#"{"items":"a0x99999999999"}"#).is_err());
    }
}
