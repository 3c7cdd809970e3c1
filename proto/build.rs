//! Compiles the .proto files without protoc, and keeps the descriptors for reflection.

use prost::Message as _;
use std::{env, fs, path::PathBuf};

const FILES: [&str; 9] = [
    "tidegate/v1/value.proto",
    "tidegate/v1/events.proto",
    "tidegate/v1/alarms.proto",
    "tidegate/v1/commands.proto",
    "tidegate/v1/gateway.proto",
    "tidegate/v1/admin.proto",
    "tidegate/v1/nodes.proto",
    "tidegate/v1/people.proto",
    "tidegate/worker/v1/worker.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Slices of the frame they came in, not copies.
        .bytes(".")
        .compile_fds(descriptors)?;
    Ok(())
}
