//! The gateway as a library, so that its parts can be tested; the binary is `main.rs`.

pub mod cli;
pub mod config;
pub mod data_dir;
pub mod error;
pub mod http;
pub mod ids;
pub mod keys;
pub mod storage;
pub mod tasks;
pub mod telemetry;
