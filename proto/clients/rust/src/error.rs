//! What can go wrong for a caller: no gateway, an answer that is an error, a stream that broke its
//! account. Reasons are read from google.rpc details, never guessed from texts.

use crate::{Position, Violation};
use prost::Message as _;
use std::{collections::BTreeMap, fmt};
use tidegate_proto::rpc;
/// The number of a gRPC status.
pub use tonic::Code as GrpcCode;

/// Why a call or a stream failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing answers there.
    #[error("cannot connect to {address}: {cause}")]
    Connect { address: String, cause: String },
    /// The address or the key cannot be used as they are.
    #[error("{0}")]
    Usage(String),
    /// The gateway answered with an error, or the connection broke.
    #[error(transparent)]
    Fault(#[from] Box<Fault>),
    /// The stream broke its account.
    #[error("the stream broke its account: {0}")]
    Violation(#[from] Violation),
    /// An answer lacks what it must have.
    #[error("the gateway's answer lacks {0}")]
    Incomplete(&'static str),
}

/// An error that the gateway answered.
#[derive(Clone, Debug)]
pub struct Fault {
    pub code: GrpcCode,
    /// The dotted code of docs/errors.md; empty when the answer did not come from a gateway.
    pub reason: String,
    pub message: String,
    /// For programs, e.g. `rule`, `generation`, `hresult`.
    pub details: BTreeMap<String, String>,
}

// === impl ClientError ===

impl ClientError {
    /// The dotted code, if a gateway gave one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Fault(fault) if !fault.reason.is_empty() => Some(&fault.reason),
            _ => None,
        }
    }

    /// The gateway's answer, if that is what failed.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

impl From<tonic::Status> for ClientError {
    fn from(status: tonic::Status) -> Self {
        Self::Fault(Box::new(Fault::from(status)))
    }
}

// === impl Fault ===

impl Fault {
    /// Where an ended stream can be resumed, if the answer says so.
    pub fn resume_position(&self) -> Option<Position> {
        let number = |key: &str| self.details.get(key)?.parse().ok();
        Some(Position { epoch: number("resume_epoch")?, after: number("resume_after")? })
    }

    /// A stream that ended with its gateway says that its session ends, too: there is nothing to come back to.
    pub fn session_ends(&self) -> bool {
        self.details.get("session_goes_on").is_some_and(|goes_on| goes_on == "false")
    }

    /// What resumes the ended stream as the same reader, if the answer says so.
    pub fn resume_token(&self) -> Option<&str> {
        self.details.get("resume_token").map(String::as_str)
    }
}

impl From<tonic::Status> for Fault {
    fn from(status: tonic::Status) -> Self {
        let info = rpc::Status::decode(status.details())
            .unwrap_or_default()
            .details
            .iter()
            .filter(|any| any.type_url == rpc::ErrorInfo::TYPE_URL)
            .filter_map(|any| rpc::ErrorInfo::decode(any.value.as_slice()).ok())
            .find(|info| info.domain == rpc::ErrorInfo::DOMAIN)
            .unwrap_or_default();
        Self { code: status.code(), reason: info.reason, message: status.message().to_owned(), details: info.metadata }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.message.is_empty(), self.reason.is_empty()) {
            (false, false) => write!(f, "{} [{}]", self.message, self.reason),
            (true, false) => f.write_str(&self.reason),
            (false, true) => write!(f, "{} ({:?})", self.message, self.code),
            (true, true) => write!(f, "{}", self.code),
        }
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::{Code, Status};

    fn rich(domain: &str) -> Status {
        let info = rpc::ErrorInfo {
            reason: "stream.pressure".into(),
            domain: domain.into(),
            metadata: [("resume_epoch".to_owned(), "9".to_owned()), ("resume_after".to_owned(), "41".to_owned())]
                .into(),
        };
        let any = rpc::Any { type_url: rpc::ErrorInfo::TYPE_URL.into(), value: info.encode_to_vec() };
        let status = rpc::Status { code: 8, message: "too slow".into(), details: vec![any] };
        Status::with_details(Code::ResourceExhausted, "too slow", status.encode_to_vec().into())
    }

    #[test]
    fn details_are_decoded() {
        let error = ClientError::from(rich("tidegate"));
        assert_eq!(error.reason(), Some("stream.pressure"));
        assert_eq!(error.to_string(), "too slow [stream.pressure]");
        let fault = error.fault().expect("a fault");
        assert_eq!(fault.resume_position(), Some(Position { epoch: 9, after: 41 }));
    }

    #[test]
    fn foreign_and_broken_details_give_no_reason() {
        assert_eq!(ClientError::from(rich("elsewhere")).reason(), None);
        let broken = Status::with_details(Code::Internal, "x", vec![0xff, 0xff, 0xff].into());
        assert_eq!(ClientError::from(broken).reason(), None);
        assert_eq!(Fault::from(Status::unavailable("gone")).to_string(), "gone (Unavailable)");
    }
}
