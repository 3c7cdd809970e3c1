//! Which sessions a person sees: the dashboard-tags policy's answer to who they are and what their groups are granted.
//! Invariant: an answer is used only in the generation and the state of people that it was made from.

use super::Dashboard;
use crate::{error::Result, people::Person, sessions::Session};
use tidegate_policy::{GenerationId, Sight};

/// What one person sees now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Seen {
    sight: Sight,
    generation: GenerationId,
    /// Revision of people and grants.
    people: u64,
}

// === impl Seen ===

impl Seen {
    pub(super) async fn of(dashboard: &Dashboard, person: &Person) -> Result<Self> {
        // Read first: a change meanwhile makes the answer stale, never a stale answer current.
        let people = dashboard.shown.people.revision();
        let grants = dashboard.shown.people.grants().await?;
        // A guest that fails shows nothing: that is the failure matrix's answer.
        let decision = dashboard.policies().host().dashboard_tags(&person.asked(), &grants).await;
        Ok(Self { sight: decision.value, generation: decision.generation, people })
    }

    pub(super) fn sees(&self, session: &Session) -> bool {
        self.sees_tag(&session.identity.tag)
    }

    pub(super) fn sees_tag(&self, tag: &str) -> bool {
        match &self.sight {
            Sight::Everything => true,
            Sight::Tags(tags) => tags.iter().any(|seen| seen == tag),
        }
    }

    /// For a stream token; `None`: all.
    pub(super) fn tags(&self) -> Option<&[String]> {
        match &self.sight {
            Sight::Everything => None,
            Sight::Tags(tags) => Some(tags),
        }
    }

    /// Whether nothing changed since that could change the answer.
    pub(super) fn is_current(&self, dashboard: &Dashboard) -> bool {
        let generation = dashboard.policies().host().generation();
        self.generation == generation && self.people == dashboard.shown.people.revision()
    }
}
