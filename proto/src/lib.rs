//! The wire contracts as Rust types: `v1` is what clients and operators speak, `worker` what
//! passes through the pipe. No logic lives here; who encodes what, and why the bytes of an event
//! are never made twice, is in docs/architecture.md.

/// Details of errors, `google.rpc`.
pub mod rpc;

/// The client and operator API, `tidegate.v1`.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::large_enum_variant)]
    tonic::include_proto!("tidegate.v1");
}

/// The worker pipe, `tidegate.worker.v1`.
pub mod worker {
    /// Version 1 of the pipe.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::large_enum_variant)]
        tonic::include_proto!("tidegate.worker.v1");
    }
}

/// The encoded `FileDescriptorSet` of all contracts, for server reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
