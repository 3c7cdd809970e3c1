//! The contract as the host calls it: one imaginary world that exports every interface, so that each
//! can be looked up by itself. Generated from wit/; nothing by hand. Invariant: nothing outside this
//! crate sees these types.

#![allow(unreachable_pub, missing_debug_implementations, clippy::all)]

wasmtime::component::bindgen!({
    path: "../../wit/since_v0.1.0",
    inline: "
        package tidegate:host;
        world every-policy {
            export tidegate:policy/plugin@0.1.0;
            export tidegate:policy/access@0.1.0;
            export tidegate:policy/access-packed@0.1.0;
            export tidegate:policy/backpressure@0.1.0;
            export tidegate:policy/version-floor@0.1.0;
            export tidegate:policy/dashboard-tags@0.1.0;
            export tidegate:policy/rate-limit@0.1.0;
        }
    ",
    world: "tidegate:host/every-policy",
    additional_derives: [PartialEq],
});

pub use exports::tidegate::policy::{
    access, access_packed, backpressure, dashboard_tags, plugin, rate_limit, version_floor,
};
pub use tidegate::policy::types;
