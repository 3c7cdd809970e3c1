//! Frames and the two ends of the pipe between a gateway and its workers: `frame` cuts the byte stream
//! up, `proof` shows that both ends hold the session's secret, `handshake` orders the start. Knows
//! neither sessions nor MXAccess. Invariant: no frame is decoded, and nothing larger than 64 KiB is read, from
//! a peer that has not proved itself. Absent: the Windows named pipe; without `unix` there is no transport, and
//! `handshake` runs over whatever stream the caller brings.

pub mod error;
pub mod frame;
pub mod handshake;
pub mod message;
pub mod proof;
#[cfg(unix)]
pub mod unix;

pub use error::PipeError;
pub use frame::{FrameReader, FrameWriter};
pub use handshake::HelloFields;
pub use message::{MessageReader, MessageWriter};
pub use proof::Secret;
#[cfg(unix)]
pub use unix::{
    GatewayEnd, GatewayReader, GatewayWriter, Incoming, PendingHello, Proven, WorkerEnd, WorkerListener, WorkerReader,
    WorkerWriter, connect,
};

/// Largest frame after Accept, in bytes (semantics.md, Workers).
pub const MAX_FRAME: usize = 16 << 20;

/// Largest frame before Accept, in bytes: what a stranger can make us allocate.
pub const MAX_FRAME_BEFORE_ACCEPT: usize = 64 << 10;

/// The version in Hello. Both ends are the same binary, so another one is refused, not adapted to.
pub const PROTOCOL_VERSION: u32 = 1;

/// Shorthand of this crate.
pub type Result<T, E = PipeError> = std::result::Result<T, E>;
