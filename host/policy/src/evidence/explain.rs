//! A decision in words. Knows records only. Invariant: says what the record holds and nothing that would have to be
//! guessed.

use super::Record;
use super::question::{Answered, Asked};
use crate::model::*;

// === impl Record ===

impl Record {
    /// What was asked, what came back, which rule of which component said so; a sentence each.
    pub fn words(&self) -> Vec<String> {
        vec![self.question_in_words(), self.answer_in_words(), self.origin_in_words()]
    }

    fn question_in_words(&self) -> String {
        let key = |who: &Principal| match (who.id(), who.peer()) {
            ("", _) => "the gateway itself".to_owned(),
            (id, peer) => {
                let of = |what: &str, text: &str| if text.is_empty() { String::new() } else { format!("{what}{text}") };
                let (from, with) = (of(" from ", peer), of(" with the certificate ", &who.certificate().join(" ")));
                format!("key {id} ({}){from}{with}", who.scopes().join(" "))
            }
        };
        match &self.asked {
            Asked::Access { who, place, what } => {
                let session = match place.id() {
                    "" => String::new(),
                    id => format!(" in session {id} of {}", place.owner()),
                };
                let what = match what {
                    Action::Open => "to open a session".to_owned(),
                    Action::Read => "to read".to_owned(),
                    Action::Resume { behind } => format!("to resume a stream {behind} events back"),
                    Action::Close => "to close it".to_owned(),
                    Action::Command { method, tag } if tag.is_empty() => method.clone(),
                    Action::Command { method, tag } => format!("{method} on {tag}"),
                };
                format!("{} wanted {what}{session}", key(who))
            }
            Asked::Items { who, place, tags } => {
                format!("{} wanted events of {} items in session {}", key(who), tags.len(), place.id())
            }
            Asked::Backpressure(what) => format!(
                "reader {} of {} was {} of at most {} events behind in session {}",
                what.reader,
                key(&what.who),
                what.lag_events,
                what.lag_events_max,
                what.session.id()
            ),
            Asked::VersionFloor { node, floor } => {
                let floor = floor.as_ref().map_or("no floor".to_owned(), |floor| format!("the floor {floor}"));
                format!("a node of kind {} in version {} wanted in, with {floor}", node.kind, node.version)
            }
            Asked::DashboardTags { who, grants } => {
                format!("{} looked at the dashboard, with {} grants", who.name, grants.len())
            }
            Asked::RateLimit { who, what } => {
                let tokens = what.tokens.map_or("a new bucket".to_owned(), |tokens| format!("{tokens:.1} tokens left"));
                format!("{} made a request of kind {} that costs {}, with {tokens}", key(who), what.kind, what.cost)
            }
        }
    }

    fn answer_in_words(&self) -> String {
        let by = match self.rule() {
            Some(rule) => format!(", by the rule `{rule}`"),
            None => String::new(),
        };
        // The rule's own words, where the answer brought none.
        let why = match Some(self.reason()).filter(|reason| !reason.is_empty()).or(self.rule_text()).unwrap_or_default()
        {
            "" => String::new(),
            reason => format!(": {reason}"),
        };
        match (&self.answered, self.cause) {
            (_, Some(cause)) => {
                format!("the component gave no answer ({}), so what holds then was answered{why}", cause.as_str())
            }
            (Answered::Access(verdict), None) => {
                format!("{}{by}{why}", if verdict.is_allow() { "allowed" } else { "denied" })
            }
            (Answered::Items(verdicts), None) => {
                let rules = self.member().map_or(&[][..], |member| &member.rules);
                let mut by_rule = std::collections::BTreeMap::new();
                for verdict in verdicts {
                    *by_rule.entry((verdict.allow, verdict.rule)).or_insert(0) += 1;
                }
                let part = |((allow, rule), count): (&(bool, u16), &u64)| {
                    let name = rules.get(usize::from(*rule)).map_or("-", String::as_str);
                    format!("{count} {} by `{name}`", if *allow { "allowed" } else { "denied" })
                };
                by_rule.iter().map(part).collect::<Vec<_>>().join(", ")
            }
            (answered, None) if self.bucket_is_short() => {
                format!("{}{by}{why}, and the bucket held too little, so the request was limited", answered.effect())
            }
            (answered, None) => format!("{}{by}{why}", answered.effect()),
        }
    }

    fn origin_in_words(&self) -> String {
        let generation = self.facts.generation;
        match self.member() {
            None => {
                format!("in generation {generation} nothing answered access, and all is denied")
            }
            Some(of) => format!(
                "{} {} decided, from {} (component {}, settings {}), in generation {generation}, in {:.1} µs",
                of.name,
                of.version,
                of.file,
                of.digest.chars().take(12).collect::<String>(),
                of.settings_digest.chars().take(12).collect::<String>(),
                self.took_ns as f64 / 1e3
            ),
        }
    }

    /// What was answered about one tag of a bulk question.
    pub fn item(&self, tag: &str) -> Option<(bool, String)> {
        let (Asked::Items { tags, .. }, Answered::Items(verdicts)) = (&self.asked, &self.answered) else { return None };
        let verdict = verdicts.get(tags.iter().position(|of| &**of == tag)?)?;
        let rule = self.member().and_then(|member| member.rules.get(usize::from(verdict.rule)).cloned());
        Some((verdict.allow, rule.unwrap_or_default()))
    }
}
