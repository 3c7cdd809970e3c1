//! The messages of google.rpc that carry an error's details, written by hand because nothing
//! else of that package is needed. Field numbers: google/rpc/status.proto, error_details.proto.
//! The gateway encodes and clients decode with these; neither side knows the other's code.

use std::collections::BTreeMap;

/// What `grpc-status-details-bin` holds.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Status {
    /// The gRPC status number, as in `grpc-status`.
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// Why, for programs: `domain` is `tidegate`, `reason` the dotted code of docs/errors.md.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ErrorInfo {
    #[prost(string, tag = "1")]
    pub reason: String,
    #[prost(string, tag = "2")]
    pub domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    pub metadata: BTreeMap<String, String>,
}

/// When to try again.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<Duration>,
}

/// `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Duration {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

/// Which fields of the request are wrong.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    pub field_violations: Vec<FieldViolation>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct FieldViolation {
    #[prost(string, tag = "1")]
    pub field: String,
    #[prost(string, tag = "2")]
    pub description: String,
}

/// Which bound was reached, and whose.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct QuotaFailure {
    #[prost(message, repeated, tag = "1")]
    pub violations: Vec<QuotaViolation>,
}

/// One of them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct QuotaViolation {
    /// Such as `key:k0123456789abcdef` or `connection`.
    #[prost(string, tag = "1")]
    pub subject: String,
    #[prost(string, tag = "2")]
    pub description: String,
}

// === impl QuotaFailure ===

impl QuotaFailure {
    /// How `Any` names this message.
    pub const TYPE_URL: &str = "type.googleapis.com/google.rpc.QuotaFailure";
}

// === impl RetryInfo ===

impl RetryInfo {
    /// How `Any` names this message.
    pub const TYPE_URL: &str = "type.googleapis.com/google.rpc.RetryInfo";
}

// === impl BadRequest ===

impl BadRequest {
    /// How `Any` names this message.
    pub const TYPE_URL: &str = "type.googleapis.com/google.rpc.BadRequest";
}

// === impl ErrorInfo ===

impl ErrorInfo {
    /// How `Any` names this message.
    pub const TYPE_URL: &str = "type.googleapis.com/google.rpc.ErrorInfo";
    /// The domain of every reason of this project.
    pub const DOMAIN: &str = "tidegate";
}
