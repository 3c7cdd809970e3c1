//! The default sight of the dashboard: administrators see every session, others those whose tag one of
//! their groups grants. Knows no session. Invariant: without a role and a grant nothing is seen.

use serde::Deserialize;
use tidegate_plugin_sdk::Policy;
use tidegate_plugin_sdk::dashboard_tags::{DashboardTagsPolicy, Person, Sight};

/// What an operator can set in `dashboard-tags.toml` or `dashboard-tags.json`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Roles that see everything.
    everything: Vec<String>,
    /// Tags that every person with a role sees.
    common: Vec<String>,
}

/// The configured policy.
#[derive(Debug)]
pub struct DashboardTags {
    settings: Settings,
}

tidegate_plugin_sdk::export_dashboard_tags!(DashboardTags);

impl Default for Settings {
    fn default() -> Self {
        Self { everything: vec!["Admin".to_owned()], common: Vec::new() }
    }
}

impl Policy for DashboardTags {
    type Settings = Settings;
    const NAME: &'static str = "dashboard-tags";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const RULES: &'static [&'static str] = &[];
    const VECTORS: &'static str = include_str!("../vectors.toml");
    const SETTINGS_SCHEMA: &'static str = include_str!("../settings.schema.json");

    fn configure(settings: Settings) -> Result<Self, String> {
        if settings.everything.iter().chain(&settings.common).any(String::is_empty) {
            return Err("a role or tag is empty".to_owned());
        }
        Ok(Self { settings })
    }
}

impl DashboardTagsPolicy for DashboardTags {
    fn sees(&self, who: &Person, grants: &[(String, String)]) -> Sight {
        if who.roles.iter().any(|role| self.settings.everything.contains(role)) {
            return Sight::Everything;
        }
        let mut tags = Vec::new();
        if !who.roles.is_empty() {
            tags.extend(self.settings.common.iter().cloned());
            tags.extend(grants.iter().filter(|(group, _)| who.groups.contains(group)).map(|(_, tag)| tag.clone()));
        }
        tags.sort();
        tags.dedup();
        Sight::Tags(tags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(roles: &[&str], groups: &[&str]) -> Person {
        let all = |of: &[&str]| of.iter().map(|s| (*s).to_owned()).collect();
        Person { name: "p".into(), roles: all(roles), groups: all(groups) }
    }

    // shows: H-03
    #[test]
    fn nothing_unless_granted() {
        let policy = DashboardTags::configure(Settings::default()).unwrap();
        let grants = [("ops".to_owned(), "line-1".to_owned()), ("lab".to_owned(), "line-2".to_owned())];
        assert_eq!(policy.sees(&person(&["Admin"], &[]), &grants), Sight::Everything);
        assert_eq!(policy.sees(&person(&["Viewer"], &["ops"]), &grants), Sight::Tags(vec!["line-1".into()]));
        assert_eq!(policy.sees(&person(&["Viewer"], &["else"]), &grants), Sight::Tags(vec![]));
        assert_eq!(policy.sees(&person(&[], &["ops"]), &grants), Sight::Tags(vec![]));
    }
}
