//! The alarms that stand in all sessions, looked at once however many pages are open, and only while there are any. Knows
//! sessions, no person. Invariants: a session whose table has not changed costs a comparison; of each only the most urgent
//! are made into rows, and how many there are beside them is counted.

use super::{
    board::hash,
    sight::Seen,
    views::{self, alarms as pieces},
};
use crate::sessions::{
    Session, Sessions, State,
    alarms::{Counts, Standing, waits},
};
use parking_lot::Mutex;
use std::{
    cmp::Reverse,
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tidegate_proto::v1::{Alarm, AlarmProvider};

/// A look is this fresh; pages ask once a second.
const FRESH: Duration = Duration::from_millis(500);
/// Alarms on one page. Guessed: more than anybody reads before the first ones are acknowledged.
pub(super) const SHOWN: usize = 200;
/// Sessions on one page of alarms: those in trouble come first.
pub(super) const SOURCES_SHOWN: usize = 100;

#[derive(Debug)]
pub(super) struct Alarms {
    sessions: Sessions,
    last: Mutex<Option<Arc<AlarmLook>>>,
}

/// All alarms at one moment.
#[derive(Debug)]
pub(super) struct AlarmLook {
    at: Instant,
    sources: Vec<Arc<Source>>,
}

/// One session whose worker tells of alarms.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) id: String,
    pub(super) name: String,
    tag: String,
    pub(super) provider: AlarmProvider,
    /// Why it tells of none any more: the session ends or has failed.
    pub(super) over: Option<String>,
    pub(super) counts: Counts,
    /// Up to where its table was looked at.
    at: u64,
    rows: Vec<AlarmRow>,
}

/// One alarm as a row.
#[derive(Debug)]
pub(super) struct AlarmRow {
    urgency: Urgency,
    /// The element's id.
    pub(super) id: String,
    pub(super) html: Arc<str>,
    /// Of the html, to see whether a page has it already.
    pub(super) hash: u64,
}

/// The least comes first: what nobody has acknowledged, by priority, the newest before older ones.
type Urgency = (bool, u32, Reverse<i64>);

/// What one person sees of it on one page.
pub(super) struct Visible<'l> {
    /// The most urgent first, at most `SHOWN`.
    pub(super) rows: Vec<&'l AlarmRow>,
    /// Those in trouble first, at most `SOURCES_SHOWN`.
    pub(super) sources: Vec<&'l Source>,
    pub(super) sources_in_all: usize,
    /// Over all of them.
    pub(super) counts: Counts,
    /// So many are not told of just now.
    pub(super) troubled: usize,
}

// === impl Alarms ===

impl Alarms {
    pub(super) fn new(sessions: Sessions) -> Self {
        Self { sessions, last: Mutex::default() }
    }

    pub(super) fn look(&self) -> Arc<AlarmLook> {
        let mut last = self.last.lock();
        if let Some(look) = &*last
            && look.at.elapsed() < FRESH
        {
            return look.clone();
        }
        let at = Instant::now();
        let before = last.take();
        let before: HashMap<&str, &Arc<Source>> =
            before.iter().flat_map(|look| look.sources.iter().map(|source| (source.id.as_str(), source))).collect();
        let sources = self.sessions.all();
        let sources = sources.iter().filter_map(|session| {
            let id = session.identity.id.to_string();
            source(session, before.get(id.as_str()).copied(), id)
        });
        let look = Arc::new(AlarmLook { at, sources: sources.collect() });
        *last = Some(look.clone());
        look
    }
}

/// `None`: its worker tells of none.
fn source(session: &Session, before: Option<&Arc<Source>>, id: String) -> Option<Arc<Source>> {
    let counts = session.alarms.counts()?;
    let over = match session.state() {
        State::Ready => None,
        State::Faulted(why) => Some(format!("the session is faulted: {why}")),
        State::Closing(_) | State::Leaving(_) | State::Closed(..) => Some("the session is ending".to_owned()),
    };
    let seen = before.filter(|before| before.over == over).map(|before| before.at);
    let Some(standing) = session.alarms.standing_since(seen) else {
        // Counts change without a change for readers when there is no room.
        return before.map(|before| {
            if before.counts == counts { before.clone() } else { Arc::new(Source { counts, ..Source::clone(before) }) }
        });
    };
    let Standing { at, provider, mut alarms, .. } = standing;
    if over.is_some() {
        alarms.clear();
    }
    if alarms.len() > SHOWN {
        alarms.select_nth_unstable_by_key(SHOWN, |alarm| urgency(alarm));
        alarms.truncate(SHOWN);
    }
    let rows = alarms.iter().map(|alarm| row(session, &id, alarm)).collect();
    let name = views::name_of(&session.identity.name, &id).to_owned();
    Some(Arc::new(Source { name, tag: session.identity.tag.clone(), provider, over, counts, at, rows, id }))
}

fn row(session: &Session, session_id: &str, alarm: &Alarm) -> AlarmRow {
    let id = format!("alarm-{session_id}-{}", alarm.alarm_id);
    let html: Arc<str> = pieces::row(&id, session_id, &session.identity.name, alarm).0.into();
    AlarmRow { urgency: urgency(alarm), id, hash: hash(&html), html }
}

fn urgency(alarm: &Alarm) -> Urgency {
    (!waits(alarm), alarm.priority, Reverse(alarm.raised_at_unix_ms))
}

// === impl AlarmLook ===

impl AlarmLook {
    /// `session`: of this one alone; empty: of all.
    pub(super) fn visible(&self, seen: &Seen, session: &str) -> Visible<'_> {
        let mine = |source: &&Arc<Source>| (session.is_empty() || source.id == session) && seen.sees_tag(&source.tag);
        let mut sources: Vec<&Source> = self.sources.iter().filter(mine).map(|source| &**source).collect();
        let mut rows: Vec<&AlarmRow> = sources.iter().flat_map(|source| &source.rows).collect();
        if rows.len() > SHOWN {
            rows.select_nth_unstable_by_key(SHOWN, |row| row.urgency);
            rows.truncate(SHOWN);
        }
        // By the id, too: alarms of one moment do not change places.
        rows.sort_by(|one, other| (one.urgency, &one.id).cmp(&(other.urgency, &other.id)));
        let mut counts = Counts::default();
        for source in sources.iter().filter(|source| source.over.is_none()) {
            counts.standing += source.counts.standing;
            counts.waiting += source.counts.waiting;
            counts.not_kept += source.counts.not_kept;
        }
        let troubled = sources.iter().filter(|source| source.is_troubled()).count();
        let sources_in_all = sources.len();
        sources.sort_by_key(|source| (!source.is_troubled(), Reverse(source.counts.waiting)));
        sources.truncate(SOURCES_SHOWN);
        Visible { rows, sources, sources_in_all, counts, troubled }
    }
}

// === impl Source ===

impl Source {
    pub(super) fn is_troubled(&self) -> bool {
        self.over.is_some() || pieces::is_lost(&self.provider) || self.counts.not_kept > 0
    }
}

impl Clone for Source {
    fn clone(&self) -> Self {
        let rows = self.rows.iter().map(|row| AlarmRow { id: row.id.clone(), html: row.html.clone(), ..*row });
        Self {
            id: self.id.clone(),
            name: self.name.clone(),
            tag: self.tag.clone(),
            provider: self.provider.clone(),
            over: self.over.clone(),
            rows: rows.collect(),
            ..*self
        }
    }
}
