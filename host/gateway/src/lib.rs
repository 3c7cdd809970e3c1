//! The gateway as a library, so that its parts can be tested; the binary is `main.rs`.

pub mod cli;
pub mod error;
pub mod ids;
