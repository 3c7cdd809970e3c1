//! What `top` knows: the newest look, the rates between the last two, and where the person is in it. Knows no
//! terminal and no socket, so that everything a key does can be tested.

use std::{cmp::Ordering, collections::HashMap, time::Instant};
use tidegate_client::wire::{GetStatusResponse, ListPoliciesResponse, PolicySummary, ReaderSummary, SessionSummary};

/// Everything the gateway said at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) status: GetStatusResponse,
    pub(super) sessions: Vec<SessionSummary>,
    pub(super) policies: ListPoliciesResponse,
}

/// Per second, between two looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) delivered: f64,
    pub(super) filtered: f64,
    pub(super) conflated: f64,
    pub(super) gapped: f64,
    policies: HashMap<String, PolicyRate>,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PolicyRate {
    pub(super) per_second: f64,
    /// Of the calls between the looks; of all calls when there were none.
    pub(super) us_per_call: f64,
}

/// What a person did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Quit,
    Up,
    Down,
    Next,
    Before,
    Sort,
    Enter,
    Back,
    Redraw,
}

/// The three tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panel {
    Sessions,
    Readers,
    Policies,
}

pub(super) const PANELS: [Panel; 3] = [Panel::Sessions, Panel::Readers, Panel::Policies];

/// What the tables can be sorted by, each panel its own.
const SORTS: [&[&str]; 3] = [&["rate", "lag", "name"], &["gap", "lag", "rate", "name"], &["kind", "calls", "latency"]];

/// Everything that is drawn.
#[derive(Debug)]
pub(super) struct Screen {
    pub(super) colours: bool,
    look: Option<(Look, Instant)>,
    rates: Rates,
    /// Why there is nothing newer.
    pub(super) lost: Option<String>,
    pub(super) focus: Panel,
    sorts: [usize; 3],
    selected: [usize; 3],
    /// Only the readers of this session are shown.
    pub(super) inside: Option<String>,
}

// === impl Rates ===

impl Rates {
    fn between(before: &Look, now: &Look, seconds: f64) -> Self {
        let per = |before: u64, now: u64| now.saturating_sub(before) as f64 / seconds;
        let (b, n) = (&before.status, &now.status);
        let policies = now.policies.policies.iter().map(|policy| {
            let then = before.policies.policies.iter().find(|then| then.policy == policy.policy);
            // Another component counts from zero.
            let then = then.filter(|then| then.calls <= policy.calls && then.digest == policy.digest);
            let (calls, time) = then.map_or((0, 0), |then| (then.calls, then.time_us));
            let (new, spent) = (policy.calls - calls, policy.time_us.saturating_sub(time));
            let us_per_call = if new > 0 { spent as f64 / new as f64 } else { mean(policy) };
            (policy.policy.clone(), PolicyRate { per_second: new as f64 / seconds, us_per_call })
        });
        Self {
            delivered: per(b.events_delivered, n.events_delivered),
            filtered: per(b.events_filtered, n.events_filtered),
            conflated: per(b.events_conflated, n.events_conflated),
            gapped: per(b.events_gapped, n.events_gapped),
            policies: policies.collect(),
        }
    }

    pub(super) fn policy(&self, policy: &str) -> PolicyRate {
        self.policies.get(policy).copied().unwrap_or_default()
    }
}

// === impl Panel ===

impl Panel {
    pub(super) fn name(self) -> &'static str {
        ["sessions", "readers", "policies"][self.index()]
    }

    pub(super) fn index(self) -> usize {
        self as usize
    }
}

// === impl Screen ===

impl Screen {
    pub(super) fn new(colours: bool) -> Self {
        Self {
            colours,
            look: None,
            rates: Rates::default(),
            lost: None,
            focus: Panel::Sessions,
            sorts: [0; 3],
            selected: [0; 3],
            inside: None,
        }
    }

    /// Takes a new look.
    pub(super) fn see(&mut self, look: Look, at: Instant) {
        self.rates = match &self.look {
            // A gateway that was started anew counts from zero.
            Some((before, then)) if before.status.started_at_unix_ms == look.status.started_at_unix_ms => {
                Rates::between(before, &look, at.saturating_duration_since(*then).as_secs_f64().max(1e-3))
            }
            _ => Rates::default(),
        };
        if self.inside.as_ref().is_some_and(|id| !look.sessions.iter().any(|session| session.session_id == *id)) {
            self.inside = None;
        }
        self.look = Some((look, at));
        self.lost = None;
        for panel in PANELS {
            let last = self.len(panel).saturating_sub(1);
            let selected = &mut self.selected[panel.index()];
            *selected = (*selected).min(last);
        }
    }

    /// There is nothing new to see; the last look stays.
    pub(super) fn lost(&mut self, why: String) {
        self.lost = Some(why);
        self.rates = Rates::default();
    }

    pub(super) fn look(&self) -> Option<&Look> {
        self.look.as_ref().map(|(look, _)| look)
    }

    pub(super) fn rates(&self) -> &Rates {
        &self.rates
    }

    pub(super) fn selected(&self, panel: Panel) -> usize {
        self.selected[panel.index()]
    }

    pub(super) fn sort(&self, panel: Panel) -> &'static str {
        SORTS[panel.index()][self.sorts[panel.index()]]
    }

    /// Whether to end.
    pub(super) fn pressed(&mut self, key: Key) -> bool {
        let panel = self.focus.index();
        match key {
            Key::Quit => return true,
            Key::Up => self.selected[panel] = self.selected[panel].saturating_sub(1),
            Key::Down => {
                let last = self.len(self.focus).saturating_sub(1);
                self.selected[panel] = (self.selected[panel] + 1).min(last);
            }
            Key::Next => self.focus = PANELS[(panel + 1) % PANELS.len()],
            Key::Before => self.focus = PANELS[(panel + PANELS.len() - 1) % PANELS.len()],
            Key::Sort => self.sorts[panel] = (self.sorts[panel] + 1) % SORTS[panel].len(),
            Key::Enter if self.focus == Panel::Sessions => {
                let id = self.sessions().get(self.selected[panel]).map(|session| session.session_id.clone());
                if id.is_some() {
                    self.inside = id;
                    self.focus = Panel::Readers;
                    self.selected[Panel::Readers.index()] = 0;
                }
            }
            Key::Back if self.inside.is_some() => {
                self.inside = None;
                self.focus = Panel::Sessions;
            }
            Key::Back => return true,
            Key::Enter | Key::Redraw => {}
        }
        false
    }

    /// As sorted.
    pub(super) fn sessions(&self) -> Vec<&SessionSummary> {
        let mut sessions: Vec<_> = self.look().into_iter().flat_map(|look| &look.sessions).collect();
        sessions.sort_by(|a, b| match self.sort(Panel::Sessions) {
            "lag" => worst_lag(b).cmp(&worst_lag(a)),
            "name" => a.name.cmp(&b.name),
            _ => down(a.events_per_second, b.events_per_second),
        });
        sessions
    }

    /// As sorted, each with its session; of one session only when the person is inside it.
    pub(super) fn readers(&self) -> Vec<(&SessionSummary, &ReaderSummary)> {
        let mut readers: Vec<_> = self
            .look()
            .into_iter()
            .flat_map(|look| &look.sessions)
            .filter(|session| self.inside.as_ref().is_none_or(|id| session.session_id == *id))
            .flat_map(|session| session.readers.iter().map(move |reader| (session, reader)))
            .collect();
        readers.sort_by(|(_, a), (_, b)| match self.sort(Panel::Readers) {
            "lag" => b.lag.cmp(&a.lag),
            "rate" => down(a.per_second, b.per_second),
            "name" => a.name.cmp(&b.name),
            _ => up(until_gap(a), until_gap(b)).then(b.lag.cmp(&a.lag)),
        });
        readers
    }

    pub(super) fn policies(&self) -> Vec<&PolicySummary> {
        let mut policies: Vec<_> = self.look().into_iter().flat_map(|look| &look.policies.policies).collect();
        match self.sort(Panel::Policies) {
            "calls" => policies.sort_by_key(|policy| std::cmp::Reverse(policy.calls)),
            "latency" => policies.sort_by(|a, b| {
                down(self.rates.policy(&a.policy).us_per_call, self.rates.policy(&b.policy).us_per_call)
            }),
            _ => {}
        }
        policies
    }

    pub(super) fn len(&self, panel: Panel) -> usize {
        match panel {
            Panel::Sessions => self.look().map_or(0, |look| look.sessions.len()),
            Panel::Readers => self.readers().len(),
            Panel::Policies => self.look().map_or(0, |look| look.policies.policies.len()),
        }
    }
}

pub(super) fn worst_lag(session: &SessionSummary) -> u64 {
    session.readers.iter().map(|reader| reader.lag).max().unwrap_or(0)
}

fn until_gap(reader: &ReaderSummary) -> f64 {
    reader.seconds_until_gap.unwrap_or(f64::INFINITY)
}

fn mean(policy: &PolicySummary) -> f64 {
    if policy.calls == 0 { 0.0 } else { policy.time_us as f64 / policy.calls as f64 }
}

fn up(a: f64, b: f64) -> Ordering {
    a.total_cmp(&b)
}

fn down(a: f64, b: f64) -> Ordering {
    b.total_cmp(&a)
}
