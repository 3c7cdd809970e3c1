//! The default version floor: at or above it a node reads and writes, below it a node only reads.
//! Knows no membership. Invariant: what is malformed is an error, never an admission.

use tidegate_plugin_sdk::version::Version;
use tidegate_plugin_sdk::version_floor::{Answer, Node, VersionFloorPolicy};
use tidegate_plugin_sdk::{NoSettings, Policy};

/// The policy; it has nothing to set, as the floor is stored by the gateway.
#[derive(Debug)]
pub struct VersionFloor;

tidegate_plugin_sdk::export_version_floor!(VersionFloor);

/// Indexes into [`Policy::RULES`], in its order.
const NO_FLOOR: u16 = 0;
const NEW_ENOUGH: u16 = 1;
const TOO_OLD: u16 = 2;

impl Policy for VersionFloor {
    type Settings = NoSettings;
    const NAME: &'static str = "version-floor";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const RULES: &'static [(&'static str, &'static str)] = &[
        ("no-floor", "there is no floor, and so every version writes"),
        ("new-enough", "the version is at or above the floor"),
        ("too-old", "the version is below the floor, and so only reads"),
    ];
    const VECTORS: &'static str = include_str!("../vectors.toml");

    fn configure(_: NoSettings) -> Result<Self, String> {
        Ok(Self)
    }
}

impl VersionFloorPolicy for VersionFloor {
    fn admit(&self, who: &Node, floor: Option<&str>) -> Result<Answer, String> {
        let Some(floor) = floor else { return Ok(Answer::read_write(NO_FLOOR)) };
        let floor = Version::parse(floor).map_err(|e| format!("the stored floor: {e}"))?;
        let version = Version::parse(&who.version).map_err(|e| format!("the node's version: {e}"))?;
        Ok(if version >= floor { Answer::read_write(NEW_ENOUGH) } else { Answer::read_only(TOO_OLD) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(version: &str, floor: Option<&str>) -> Result<Answer, String> {
        VersionFloor.admit(&Node { kind: "web".into(), version: version.into() }, floor)
    }

    // shows: N-01, N-02, N-03
    #[test]
    fn numbers_decide_and_malformed_is_loud() {
        assert_eq!(admit("0.1", None), Ok(Answer::read_write(NO_FLOOR)));
        assert_eq!(admit("1.10", Some("1.9")), Ok(Answer::read_write(NEW_ENOUGH)));
        assert_eq!(admit("1.9", Some("1.9")), Ok(Answer::read_write(NEW_ENOUGH)));
        assert_eq!(admit("1.8", Some("1.9")), Ok(Answer::read_only(TOO_OLD)));
        assert!(admit("1.10", Some("1.9.0")).unwrap_err().starts_with("the stored floor"));
        assert!(admit("one", Some("1.9")).unwrap_err().starts_with("the node's version"));
    }
}
