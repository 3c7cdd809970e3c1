//! What is asked and answered, as plain values. Knows neither wasmtime nor threads; `Principal` and
//! `SessionFacts` are cheap to clone, because every question carries them to another thread. Invariant:
//! an answer says which generation and which component gave it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::evidence::DecisionId;
use crate::packed::{Labels, PackedPlace, PackedWho, WhoFacts};

/// Number of a generation: rises from 1 with every swap of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GenerationId(pub u64);

/// SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The five questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    Access,
    Backpressure,
    VersionFloor,
    DashboardTags,
    RateLimit,
}

/// Who asks: a key with its scopes and constraints, the client's address and the names in its certificate.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "crate::evidence::Who<'_>")]
pub struct Principal(pub(crate) Arc<PackedWho>);

/// The session that is asked about.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "crate::evidence::Place<'_>")]
pub struct SessionFacts(pub(crate) Arc<PackedPlace>);

/// What someone wants to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", from = "crate::evidence::KeptAction")]
pub enum Action {
    Open,
    /// Read events or a snapshot at all.
    Read,
    /// Continue a stream from a position, so many events before the newest one.
    #[serde(rename = "resume-from")]
    Resume {
        behind: u64,
    },
    /// A method in kebab-case (`write`, `add-item`, …) and its tag, empty without one.
    Command {
        method: String,
        tag: String,
    },
    Close,
}

/// Yes or no, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Allow { rule: u16 },
    Deny { rule: u16, reason: String },
}

/// May the events of one item be seen?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemVerdict {
    pub allow: bool,
    pub rule: u16,
}

/// A reader under pressure; times in milliseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pressure {
    pub now: u64,
    pub who: Principal,
    pub session: SessionFacts,
    pub reader: String,
    pub lag_events: u64,
    pub lag_events_max: u64,
    pub log_bytes: u64,
    pub log_bytes_max: u64,
    pub asked: u32,
    pub since_ms: u64,
    pub readers: u32,
}

/// What happens to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PressureAnswer {
    Wait,
    Skip { keep_newest: u64 },
    Conflate,
    Disconnect { reason: String },
    FaultSession { reason: String },
}

/// A node that joins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientNode {
    pub id: String,
    pub kind: String,
    pub version: String,
}

/// How it is let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    ReadWrite,
    ReadOnly,
    /// The floor or the version is malformed, or the policy failed: not admitted at all.
    Refused {
        reason: String,
    },
}

/// A person at the dashboard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    pub name: String,
    pub roles: Vec<String>,
    pub groups: Vec<String>,
}

/// Which sessions a person sees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sight {
    Everything,
    Tags(Vec<String>),
}

/// A request that a bucket may bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RateRequest {
    pub kind: String,
    pub cost: u32,
    /// None: the bucket is new.
    #[serde(with = "crate::evidence::exact")]
    pub tokens: Option<f64>,
    /// Milliseconds.
    pub now: u64,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateAnswer {
    /// Take the cost out of a bucket of this size.
    Pass {
        #[serde(with = "crate::evidence::exact")]
        per_second: f64,
        #[serde(with = "crate::evidence::exact")]
        burst: f64,
    },
    Limit {
        retry_ms: u64,
    },
    Unlimited,
}

/// An answer and where it comes from.
#[derive(Clone, Debug)]
pub struct Decision<T> {
    /// Under which it is in the decision log.
    pub id: DecisionId,
    pub generation: GenerationId,
    /// Of the component that answers this question in that generation.
    pub digest: Digest,
    pub value: T,
    /// Which rule said so, where the value does not carry it itself and the component's contract has one for it.
    pub rule: Option<u16>,
    /// Some: the guest did not answer, and the failure matrix did.
    pub cause: Option<FailureCause>,
}

/// An answer, and by which rule where the value does not carry it itself.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ruled<T> {
    pub(crate) value: T,
    pub(crate) rule: Option<u16>,
}

/// Why a guest gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    Trap,
    /// The guest ran, or the question waited, for too long.
    Timeout,
    Memory,
    /// It answered something that the contract does not allow.
    BadAnswer,
    QueueFull,
    /// The host is shutting down.
    Stopped,
    /// The policies were swapped in the middle of a long judgement: ask again.
    Late,
    /// The host had no memory, or no place, for an instance.
    Host,
}

// === impls ===

impl<T> Ruled<T> {
    pub(crate) fn map<U>(self, value: impl FnOnce(T) -> U) -> Ruled<U> {
        Ruled { value: value(self.value), rule: self.rule }
    }
}

impl<T> From<T> for Ruled<T> {
    fn from(value: T) -> Self {
        Self { value, rule: None }
    }
}

impl Policy {
    pub const ALL: [Policy; 5] =
        [Policy::Access, Policy::Backpressure, Policy::VersionFloor, Policy::DashboardTags, Policy::RateLimit];

    /// Name of the interface and of the embedded component.
    pub const fn name(self) -> &'static str {
        match self {
            Policy::Access => "access",
            Policy::Backpressure => "backpressure",
            Policy::VersionFloor => "version-floor",
            Policy::DashboardTags => "dashboard-tags",
            Policy::RateLimit => "rate-limit",
        }
    }

    pub(crate) const fn at(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Principal {
    /// `read` and `write` are globs, none meaning no constraint; `peer` is the address without port.
    pub fn new(
        id: impl Into<String>,
        scopes: Vec<String>,
        read: Vec<String>,
        write: Vec<String>,
        peer: impl Into<String>,
    ) -> Self {
        Self::certified(id, scopes, read, write, peer, Vec::new())
    }

    /// With the names in the client's certificate: `CN=historian`, `dns=h.plant.example`, …
    pub fn certified(
        id: impl Into<String>,
        scopes: Vec<String>,
        read: Vec<String>,
        write: Vec<String>,
        peer: impl Into<String>,
        certificate: Vec<String>,
    ) -> Self {
        let (id, peer) = (id.into(), peer.into());
        Self(Arc::new(PackedWho::new(WhoFacts { id, scopes, read, write, peer, certificate })))
    }

    /// The gateway itself.
    pub fn gateway() -> Self {
        Self::new("", Vec::new(), Vec::new(), Vec::new(), "")
    }

    pub(crate) fn facts(&self) -> &PackedWho {
        &self.0
    }

    pub fn id(&self) -> &str {
        &self.0.id
    }

    pub fn scopes(&self) -> &[String] {
        &self.0.scopes
    }

    pub fn peer(&self) -> &str {
        &self.0.peer
    }

    /// Names; none: the client showed none.
    pub fn certificate(&self) -> &[String] {
        &self.0.certificate
    }
}

impl SessionFacts {
    pub fn new(
        id: impl Into<String>,
        owner: impl Into<String>,
        tag: impl Into<String>,
        backend: impl Into<String>,
    ) -> Self {
        let (id, owner, tag, backend) = (id.into(), owner.into(), tag.into(), backend.into());
        Self(Arc::new(PackedPlace::new(Labels { id, owner, tag, backend })))
    }

    pub(crate) fn labels(&self) -> &Labels {
        &self.0
    }

    pub fn id(&self) -> &str {
        &self.0.id
    }

    pub fn owner(&self) -> &str {
        &self.0.owner
    }
}

impl Verdict {
    pub fn is_allow(&self) -> bool {
        matches!(self, Verdict::Allow { .. })
    }

    pub fn rule(&self) -> u16 {
        match self {
            Verdict::Allow { rule } | Verdict::Deny { rule, .. } => *rule,
        }
    }
}

impl FailureCause {
    pub const ALL: [FailureCause; 8] = [
        FailureCause::Trap,
        FailureCause::Timeout,
        FailureCause::Memory,
        FailureCause::BadAnswer,
        FailureCause::QueueFull,
        FailureCause::Stopped,
        FailureCause::Late,
        FailureCause::Host,
    ];

    /// Label for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            FailureCause::Trap => "trap",
            FailureCause::Timeout => "timeout",
            FailureCause::Memory => "memory",
            FailureCause::BadAnswer => "bad_answer",
            FailureCause::QueueFull => "queue_full",
            FailureCause::Stopped => "stopped",
            FailureCause::Late => "late",
            FailureCause::Host => "host",
        }
    }

    /// Only what the guest did counts against it.
    pub(crate) const fn is_guests(self) -> bool {
        matches!(self, FailureCause::Trap | FailureCause::Timeout | FailureCause::Memory | FailureCause::BadAnswer)
    }
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    pub fn to_hex(&self) -> String {
        let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('?');
        self.0.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
