//! The gateway as a library, so that its parts can be tested; the binary is `main.rs`.

pub mod app;
pub mod backup;
pub mod cli;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod descriptors;
pub mod error;
pub mod events;
pub mod grpc;
pub mod health;
pub mod http;
pub mod ids;
pub mod keys;
mod neighbours;
pub mod nodes;
pub mod people;
pub mod policies;
pub mod sessions;
pub mod storage;
pub mod sync;
pub mod takeover;
pub mod tasks;
pub mod telemetry;
pub mod tls;
pub mod workers;
