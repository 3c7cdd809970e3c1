//! The gateway as a library, so that its parts can be tested; the binary is `main.rs`.

pub mod clock;
pub mod error;
pub mod events;
pub mod ids;
