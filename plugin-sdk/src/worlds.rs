//! The contract in wit/since_v0.2.0 as Rust. One small world per exported interface, so that a component
//! is put together from those it answers; the linker unites them. Generated at compile time; nothing is
//! written by hand here. Invariant: `types` is the same in every world.

#![allow(missing_debug_implementations, unreachable_pub, clippy::all)]

pub use access::tidegate::policy::types;

pub mod plugin {
    wit_bindgen::generate!({
        path: "../wit/since_v0.2.0",
        inline: "package tidegate:sdk; world plugin { export tidegate:policy/plugin@0.2.0; }",
        world: "tidegate:sdk/plugin",
        pub_export_macro: true,
        export_macro_name: "export_world",
        additional_derives: [PartialEq],
    });
}

pub mod access {
    wit_bindgen::generate!({
        path: "../wit/since_v0.2.0",
        inline: "package tidegate:sdk; world access { export tidegate:policy/access@0.2.0; }",
        world: "tidegate:sdk/access",
        pub_export_macro: true,
        export_macro_name: "export_world",
        additional_derives: [PartialEq],
        with: { "tidegate:policy/types@0.2.0": generate },
    });
}

pub mod access_packed {
    wit_bindgen::generate!({
        path: "../wit/since_v0.2.0",
        inline: "package tidegate:sdk; world access-packed { export tidegate:policy/access-packed@0.2.0; }",
        world: "tidegate:sdk/access-packed",
        pub_export_macro: true,
        export_macro_name: "export_world",
    });
}

pub mod backpressure {
    wit_bindgen::generate!({
        path: "../wit/since_v0.2.0",
        inline: "package tidegate:sdk; world backpressure { export tidegate:policy/backpressure@0.2.0; }",
        world: "tidegate:sdk/backpressure",
        pub_export_macro: true,
        export_macro_name: "export_world",
        additional_derives: [PartialEq],
        with: { "tidegate:policy/types@0.2.0": crate::worlds::types },
    });
}

pub mod version_floor {
    wit_bindgen::generate!({
        path: "../wit/since_v0.2.0",
        inline: "package tidegate:sdk; world version-floor { export tidegate:policy/version-floor@0.2.0; }",
        world: "tidegate:sdk/version-floor",
        pub_export_macro: true,
        export_macro_name: "export_world",
        additional_derives: [PartialEq],
    });
}

pub mod dashboard_tags {
    wit_bindgen::generate!({
        path: "../wit/since_v0.2.0",
        inline: "package tidegate:sdk; world dashboard-tags { export tidegate:policy/dashboard-tags@0.2.0; }",
        world: "tidegate:sdk/dashboard-tags",
        pub_export_macro: true,
        export_macro_name: "export_world",
        additional_derives: [PartialEq],
    });
}

pub mod rate_limit {
    wit_bindgen::generate!({
        path: "../wit/since_v0.2.0",
        inline: "package tidegate:sdk; world rate-limit { export tidegate:policy/rate-limit@0.2.0; }",
        world: "tidegate:sdk/rate-limit",
        pub_export_macro: true,
        export_macro_name: "export_world",
        additional_derives: [PartialEq],
        with: { "tidegate:policy/types@0.2.0": crate::worlds::types },
    });
}
