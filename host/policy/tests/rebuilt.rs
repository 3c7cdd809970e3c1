//! The committed components and rebuilt ones say and answer the same. `cargo xtask plugins check` names a
//! folder of fresh builds in TIDEGATE_REBUILT_PLUGINS; without it the committed ones are compared with
//! themselves. Vectors run in the gate, on both.

use std::path::{Path, PathBuf};

use tidegate_policy::{Inspection, PolicyConfig, inspect};

fn inspected(path: &Path) -> Inspection {
    let store = tempfile::tempdir().expect("tempdir");
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    inspect(&PolicyConfig::new(store.path()), "candidate.wasm", &bytes, "{}").unwrap_or_else(|e| panic!("{e}"))
}

// shows: X-05
#[test]
fn rebuilt_policies_behave_as_the_committed_ones() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist");
    let rebuilt = std::env::var_os("TIDEGATE_REBUILT_PLUGINS").map(PathBuf::from);
    for name in ["access", "backpressure", "dashboard-tags", "rate-limit", "version-floor"] {
        let committed = inspected(&dist.join(format!("{name}.wasm")));
        assert_eq!(committed.name, name);
        assert_eq!(committed.answers.iter().map(|policy| policy.name()).collect::<Vec<_>>(), [name]);
        if let Some(folder) = &rebuilt {
            let file = format!("tidegate_plugin_{}.wasm", name.replace('-', "_"));
            assert_eq!(inspected(&folder.join(file)), committed, "{name}");
        }
    }
}
