//! What all open pages show of the sessions, looked at once however many pages are open, and only while there are any.
//! Knows sessions, no person. Invariant: numbers are exact as of the look; only the looks are sampled.

use super::views;
use crate::sessions::{Session, Sessions, State, alarms::Counts};
use parking_lot::Mutex;
use std::{
    collections::{HashMap, VecDeque},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::{Duration, Instant},
};

/// A look is this fresh; pages ask once a second.
const FRESH: Duration = Duration::from_millis(500);
/// Points of the curve of events per second.
const POINTS: usize = 60;

#[derive(Debug)]
pub(super) struct Board {
    sessions: Sessions,
    last: Mutex<Last>,
}

/// All sessions at one moment.
#[derive(Debug)]
pub(super) struct Look {
    at: Instant,
    pub(super) rows: Vec<Row>,
}

/// One session as a row of the overview.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) tag: String,
    /// The element's id.
    pub(super) id: String,
    pub(super) html: Arc<str>,
    /// Of the html, to see whether a page has it already.
    pub(super) hash: u64,
    pub(super) head: u64,
    pub(super) per_second: f64,
    pub(super) readers: usize,
    pub(super) worst_lag: u64,
    pub(super) is_ready: bool,
    /// `None`: its worker tells of none.
    pub(super) alarms: Option<Counts>,
    /// Events per second of each look, oldest first.
    pub(super) curve: Vec<f64>,
}

#[derive(Debug, Default)]
struct Last {
    look: Option<Arc<Look>>,
    curves: HashMap<String, VecDeque<f64>>,
}

// === impl Board ===

impl Board {
    pub(super) fn new(sessions: Sessions) -> Self {
        Self { sessions, last: Mutex::default() }
    }

    pub(super) fn look(&self) -> Arc<Look> {
        let mut last = self.last.lock();
        if let Some(look) = &last.look
            && look.at.elapsed() < FRESH
        {
            return look.clone();
        }
        let at = Instant::now();
        let before = last.look.take();
        let sessions = self.sessions.all();
        let mut curves = HashMap::with_capacity(sessions.len());
        let mut rows = Vec::with_capacity(sessions.len());
        for session in &sessions {
            let id = session.identity.id.to_string();
            let old = before.as_ref().and_then(|look| look.rows.iter().find(|row| row.id == id));
            let since = before.as_ref().map_or(0.0, |look| (at - look.at).as_secs_f64());
            let head = session.log.head();
            let per_second = match old {
                Some(old) if since > 0.0 => head.saturating_sub(old.head) as f64 / since,
                _ => 0.0,
            };
            let mut curve = last.curves.remove(&id).unwrap_or_default();
            curve.push_back(per_second);
            if curve.len() > POINTS {
                curve.pop_front();
            }
            rows.push(row(session, id.clone(), head, per_second, curve.iter().copied().collect()));
            curves.insert(id, curve);
        }
        // Those of sessions that are gone go with them.
        last.curves = curves;
        let look = Arc::new(Look { at, rows });
        last.look = Some(look.clone());
        look
    }
}

fn row(session: &Session, id: String, head: u64, per_second: f64, curve: Vec<f64>) -> Row {
    let readers = session.log.readers();
    let worst_lag = readers.iter().map(|reader| head.saturating_sub(reader.position())).max().unwrap_or(0);
    let mut row = Row {
        tag: session.identity.tag.clone(),
        id,
        html: "".into(),
        hash: 0,
        head,
        per_second,
        readers: readers.len(),
        worst_lag,
        is_ready: session.state() == State::Ready,
        alarms: session.alarms.counts(),
        curve,
    };
    row.html = views::session_row(session, &row).0.into();
    row.hash = hash(&row.html);
    row
}

/// Same text, same number, within this process.
pub(super) fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
