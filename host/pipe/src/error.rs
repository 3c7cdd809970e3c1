//! What can go wrong at a pipe, one variant for each thing a caller may treat differently. Knows no
//! codes of the gateway. Invariant: no variant carries a secret, a proof or the bytes of a frame.

use std::{io, path::PathBuf};

/// An error of either end of the pipe. All of them end the connection they happened on.
#[derive(Debug, thiserror::Error)]
pub enum PipeError {
    #[error("a frame of {len} bytes is larger than the {max} allowed here")]
    TooLarge { len: usize, max: usize },
    #[error("the pipe ended within a frame")]
    Truncated,
    #[error("a frame is not what the contract says: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// The peer ended the pipe in order, but too early.
    #[error("the peer closed the pipe when {awaited} was due")]
    Closed { awaited: &'static str },
    #[error("a frame came out of order: {awaited} was due, not {got}")]
    WrongOrder { awaited: &'static str, got: &'static str },
    #[error("no {awaited} came in time")]
    Timeout { awaited: &'static str },
    #[error("the peer speaks version {theirs} of the pipe, not {ours}")]
    Version { theirs: u32, ours: u32 },
    /// A field of the handshake that cannot be; the text says which and why.
    #[error("the handshake is not acceptable: {0}")]
    Handshake(&'static str),
    /// Also what a replayed proof gives: the challenges are fresh.
    #[error("the peer's proof is wrong: it does not know the session's secret")]
    WrongProof,
    /// What the gateway answered instead of Accept.
    #[error("the gateway rejected this worker: {message} [{code}]")]
    Rejected { code: String, message: String },
    #[error("the peer runs as user {theirs}, not as our own user {ours}")]
    PeerUid { theirs: u32, ours: u32 },
    /// `sockaddr_un` has room for 107 bytes on Linux, 103 on macOS.
    #[error("the socket path {path} has {len} bytes, more than the {max} the system allows: use a shorter folder")]
    PathTooLong { path: PathBuf, len: usize, max: usize },
    #[error("{path} is in the way: it is not a socket, so it is not removed")]
    NotASocket { path: PathBuf },
    #[error("something listens on {path} already")]
    InUse { path: PathBuf },
    #[error("the secret is not 64 hexadecimal digits")]
    BadSecret,
    #[error("{context}: {source}")]
    Io { context: &'static str, source: io::Error },
}

// === impl PipeError ===

impl PipeError {
    /// For `map_err`: says what was being done.
    pub fn io(context: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { context, source }
    }

    /// The peer broke the contract, as opposed to having died or the machine having failed.
    pub fn is_protocol(&self) -> bool {
        !matches!(
            self,
            Self::Truncated
                | Self::Closed { .. }
                | Self::Timeout { .. }
                | Self::Rejected { .. }
                | Self::PathTooLong { .. }
                | Self::NotASocket { .. }
                | Self::InUse { .. }
                | Self::BadSecret
                | Self::Io { .. }
        )
    }
}
