//! The default sight of the dashboard: administrators see every session, others those whose tag one of
//! their groups grants. Knows no session. Invariant: without a role and a grant nothing is seen.

use tidegate_plugin_sdk::dashboard_tags::{Answer, DashboardTagsPolicy, Grant, Person};
use tidegate_plugin_sdk::{Policy, settings};

/// What an operator can set in `dashboard-tags.toml` or `dashboard-tags.json`.
#[settings]
#[derive(Debug)]
pub struct Settings {
    /// Roles that see everything.
    #[setting(max_items = 64, min_length = 1, max_length = 128, default = ["Admin"])]
    everything: Vec<String>,
    /// Tags that every person with a role sees.
    #[setting(max_items = 64, min_length = 1, max_length = 128)]
    common: Vec<String>,
}

/// The configured policy.
#[derive(Debug)]
pub struct DashboardTags {
    settings: Settings,
}

tidegate_plugin_sdk::export_dashboard_tags!(DashboardTags);

/// Indexes into [`Policy::RULES`], in its order.
const EVERYTHING: u16 = 0;
const GRANTED: u16 = 1;
const NO_ROLE: u16 = 2;

impl Policy for DashboardTags {
    type Settings = Settings;
    const NAME: &'static str = "dashboard-tags";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const RULES: &'static [(&'static str, &'static str)] = &[
        ("everything", "a role of this person sees everything"),
        ("granted", "what the groups of this person grant, and what everybody with a role sees"),
        ("no-role", "whoever has no role sees nothing"),
    ];
    const VECTORS: &'static str = include_str!("../vectors.toml");

    fn configure(settings: Settings) -> Result<Self, String> {
        if settings.everything.iter().chain(&settings.common).any(String::is_empty) {
            return Err("a role or tag is empty".to_owned());
        }
        Ok(Self { settings })
    }
}

impl DashboardTagsPolicy for DashboardTags {
    fn sees(&self, who: &Person, grants: &[Grant]) -> Answer {
        if who.roles.iter().any(|role| self.settings.everything.contains(role)) {
            return Answer::everything(EVERYTHING);
        }
        if who.roles.is_empty() {
            return Answer::tags([], NO_ROLE);
        }
        let granted = grants.iter().filter(|grant| who.groups.contains(&grant.group)).map(|grant| &grant.tag);
        let mut tags: Vec<String> = self.settings.common.iter().chain(granted).cloned().collect();
        tags.sort();
        tags.dedup();
        Answer::tags(tags, GRANTED)
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
        let grant = |group: &str, tag: &str| Grant { group: group.to_owned(), tag: tag.to_owned() };
        let grants = [grant("ops", "line-1"), grant("lab", "line-2")];
        let sees = |roles, groups| policy.sees(&person(roles, groups), &grants);
        assert_eq!(sees(&["Admin"], &[]), Answer::everything(EVERYTHING));
        assert_eq!(sees(&["Viewer"], &["ops"]), Answer::tags(["line-1".into()], GRANTED));
        assert_eq!(sees(&["Viewer"], &["else"]), Answer::tags([], GRANTED));
        assert_eq!(sees(&[], &["ops"]), Answer::tags([], NO_ROLE));
    }
}
