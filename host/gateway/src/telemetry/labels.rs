//! The values that labels can have, as types; a label from the outside world has no way in. Knows
//! texts only. Invariant: every series of a fixed label exists from the start, at zero.

use prometheus_client::metrics::family::Family;
use std::{fmt, marker::PhantomData, sync::Arc};

/// Name and value, as the exposition shows them.
pub(super) type Pair = (&'static str, &'static str);

/// A fixed set of values of one label.
pub trait Label: Copy + Sized + 'static {
    /// The label's name.
    const NAME: &'static str;
    const ALL: &'static [Self];
    fn as_str(self) -> &'static str;
    /// Its place in `ALL`.
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $label:ident $name:literal { $($(#[$why:meta])* $value:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $label { $($(#[$why])* $value,)* }

        impl $label {
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$value => $text,)* }
            }
        }

        impl Label for $label {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$(Self::$value,)*];
            fn as_str(self) -> &'static str { $label::as_str(self) }
            fn index(self) -> usize { self as usize }
        }

        impl fmt::Display for $label {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }
    };
}

label! {
    /// Why a session ended.
    CloseReason "reason" {
        /// The client asked.
        Client = "client",
        /// Nobody renewed the lease.
        Lease = "lease",
        /// The last reader went and none came back in time.
        Detach = "detach",
        /// An operator.
        Kill = "kill",
        /// It had faulted before and was cleared away.
        Fault = "fault",
        /// The gateway stops.
        Shutdown = "shutdown",
        /// The gateway stops and leaves the worker to the next one; the session is not over.
        Left = "left",
    }
}

label! {
    /// Why a reader did not get a range of events.
    GapReason "reason" {
        /// Older than what the log keeps.
        Evicted = "evicted",
        /// The back-pressure policy skipped it.
        Skipped = "skipped",
        /// Another epoch.
        Restarted = "restarted",
    }
}

label! {
    /// Why a stream ended.
    StreamEnd "reason" {
        /// The client went.
        Client = "client",
        /// The back-pressure policy ended it.
        Pressure = "pressure",
        /// The session closed or was killed.
        SessionEnded = "session-ended",
        /// The session faulted.
        SessionFaulted = "session-faulted",
        /// The policy no longer lets it read, or its key was revoked.
        Denied = "denied",
        /// The same reader resumed elsewhere.
        TakenOver = "taken-over",
        /// The gateway stops.
        Draining = "draining",
        /// Anything that is our fault.
        Error = "error",
    }
}

label! {
    /// How a command ended.
    Outcome "outcome" {
        Ok = "ok",
        /// The method of MXAccess raised.
        Failed = "failed",
        /// The access policy said no; of a bulk command, to every element.
        Denied = "denied",
        /// The access policy said no to some elements of a bulk command.
        Partial = "partial",
        /// A cap or a rate.
        Limited = "limited",
        Timeout = "timeout",
        /// The pipe broke while it was in flight.
        Unknown = "unknown",
        /// The request was wrong, or the session was not there for it.
        Rejected = "rejected",
    }
}

label! {
    /// A bound on what one key or one connection may have.
    Limit "limit" {
        SessionsPerKey = "sessions-per-key",
        StreamsPerKey = "streams-per-key",
        StreamsPerConnection = "streams-per-connection",
    }
}

label! {
    /// What became of an alarm.
    AlarmKind "kind" {
        Raised = "raised",
        Acknowledged = "acknowledged",
        Returned = "returned",
        Changed = "changed",
    }
}

label! {
    /// What became of whoever tells of alarms.
    ProviderChange "change" {
        Lost = "lost",
        /// After it was lost, the same or another.
        Open = "open",
    }
}

label! {
    /// Why a stream of alarms began a snapshot.
    AlarmSnapshot "reason" {
        Opened = "opened",
        /// The reader was too slow for the changes.
        TooSlow = "too-slow",
        Provider = "provider",
        /// What the reader may see has changed.
        Rights = "rights",
        /// The worker has told its whole table anew.
        Resynced = "resynced",
    }
}

label! {
    /// Why a TLS handshake came to nothing.
    TlsFailure "reason" {
        /// The peer spoke no TLS.
        Plaintext = "plaintext",
        /// It took too long.
        Timeout = "timeout",
        /// The client's certificate was missing, or is of no authority of ours.
        Certificate = "certificate",
        /// The client turned away: it does not trust this gateway's certificate.
        Refused = "refused",
        /// No version, cipher or protocol in common, or nonsense.
        Protocol = "protocol",
        /// The peer went.
        Gone = "gone",
    }
}

label! {
    /// What became of certificate files that had changed.
    TlsReload "outcome" {
        Taken = "taken",
        Refused = "refused",
    }
}

label! {
    /// What became of the metrics for a collector.
    OtlpExport "outcome" {
        Sent = "sent",
        Failed = "failed",
    }
}

label! {
    /// What an attempt to change the policies came to.
    SwapOutcome "outcome" {
        Swapped = "swapped",
        Refused = "refused",
        RolledBack = "rolled-back",
        Unchanged = "unchanged",
    }
}

/// One metric for each value of a label; taking one is an index into an array.
pub struct Of<L, M> {
    handles: Arc<[M]>,
    label: PhantomData<fn(L)>,
}

// === impl Of ===

impl<L: Label, M: Clone> Of<L, M> {
    pub(super) fn new<C>(family: &Family<[Pair; 1], M, C>) -> Self
    where
        C: prometheus_client::metrics::family::MetricConstructor<M>,
    {
        let handles =
            L::ALL.iter().map(|value| family.get_or_create_owned(&[(L::NAME, value.as_str())])).collect::<Vec<_>>();
        Self { handles: handles.into(), label: PhantomData }
    }

    /// The same beside a label that is fixed already.
    pub(super) fn with<C>(family: &Family<[Pair; 2], M, C>, fixed: Pair) -> Self
    where
        C: prometheus_client::metrics::family::MetricConstructor<M>,
    {
        let handles = L::ALL
            .iter()
            .map(|value| family.get_or_create_owned(&[fixed, (L::NAME, value.as_str())]))
            .collect::<Vec<_>>();
        Self { handles: handles.into(), label: PhantomData }
    }

    /// The handle of this value. Hot paths may keep it.
    pub fn of(&self, value: L) -> &M {
        &self.handles[value.index()]
    }
}

impl<L, M> Clone for Of<L, M> {
    fn clone(&self) -> Self {
        Self { handles: Arc::clone(&self.handles), label: PhantomData }
    }
}

impl<L: Label, M: fmt::Debug> fmt::Debug for Of<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(L::ALL.iter().map(|value| value.as_str()).zip(self.handles.iter())).finish()
    }
}
