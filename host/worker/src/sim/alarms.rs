//! What alarms in the simulator, and who tells of it: limits on tags, watched whether a client advises them or not, and
//! providers that fail over. Knows no pipe. Invariants: which alarms stand follows from settings, seed, writes and time
//! only; a provider that fails loses no alarm, because the plant has them, not the provider.

use super::{
    items::{self, Kind},
    settings::{AlarmTag, Settings},
    waves::Wave,
};
use crate::alarms::{AlarmBook, NotAcknowledged, Raise};
use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};
use tidegate_proto::v1::{AcknowledgeAlarms, BulkResult, BulkResults, Value, value::Kind as ValueKind};
use tokio::time::Instant;

/// E_INVALIDARG: no such alarm stands.
const INVALID_ARGUMENT: i32 = 0x8007_0057_u32 as i32;
/// OLE_E_NOCONNECTION: no provider is open.
const NO_CONNECTION: i32 = 0x8004_0004_u32 as i32;
/// Of the inner and of the outer limits. (Guessed; AVEVA's own default is 500.)
const PRIORITY: u32 = 500;
const PRIORITY_OUTER: u32 = 100;

/// All alarms of the session.
pub(super) struct Alarms {
    pub(super) book: AlarmBook,
    watched: Vec<Watched>,
    by_tag: HashMap<String, usize>,
    every: Duration,
    /// When waveforms are looked at next; none without any.
    look_at: Option<Instant>,
    providers: Vec<String>,
    /// Which of them is open, or was.
    provider: usize,
    reopen: Duration,
    reopen_at: Option<Instant>,
}

/// A tag with limits.
struct Watched {
    of: AlarmTag,
    /// Its own: a client's items of the tag have theirs. None: what is written counts.
    wave: Option<Wave>,
}

// === impl Alarms ===

impl Alarms {
    pub(super) fn new(settings: &Settings) -> Self {
        let watched: Vec<Watched> =
            settings.alarms.iter().map(|of| Watched { of: of.clone(), wave: source(&of.tag, settings) }).collect();
        let provider = if watched.is_empty() { "" } else { settings.alarm_providers.first().map_or("", |name| name) };
        Self {
            book: AlarmBook::new(provider),
            by_tag: watched.iter().enumerate().map(|(at, watched)| (watched.of.tag.clone(), at)).collect(),
            every: Duration::from_millis(settings.alarm_every_ms.max(1).into()),
            look_at: watched.iter().any(|watched| watched.wave.is_some()).then(Instant::now),
            watched,
            providers: settings.alarm_providers.clone(),
            provider: 0,
            reopen: Duration::from_millis(settings.alarm_reopen_ms.into()),
            reopen_at: None,
        }
    }

    /// When there is something to do next.
    pub(super) fn wake(&self) -> Option<Instant> {
        [self.look_at, self.reopen_at].into_iter().flatten().min()
    }

    /// Everything that is due.
    pub(super) fn advance(&mut self, now: Instant) {
        if self.look_at.is_some_and(|at| at <= now) {
            let now_ms = unix_ms();
            for watched in &mut self.watched {
                if let Some(wave) = &mut watched.wave {
                    look(&mut self.book, &watched.of, wave.sample(), now_ms);
                }
            }
            // Looks that were missed while the pipe was full are not made up for.
            self.look_at = Some(now + self.every);
        }
        if self.reopen_at.is_some_and(|at| at <= now) {
            self.reopen_at = None;
            self.provider = (self.provider + 1) % self.providers.len().max(1);
            let name = self.providers.get(self.provider).map_or("", |name| name);
            self.book.open(name);
        }
    }

    /// A value was written to this tag.
    pub(super) fn written(&mut self, tag: &str, value: &Value) {
        if let Some(watched) = self.by_tag.get(tag).map(|at| &self.watched[*at])
            && watched.wave.is_none()
        {
            look(&mut self.book, &watched.of, value.clone(), unix_ms());
        }
    }

    /// A fault on demand: whoever tells of alarms fails; another one, if there is one, takes over.
    pub(super) fn fail(&mut self) {
        self.book.lost();
        self.reopen_at.get_or_insert_with(|| Instant::now() + self.reopen);
    }

    pub(super) fn acknowledge(&mut self, call: &AcknowledgeAlarms) -> BulkResults {
        let now_ms = unix_ms();
        let one = |id: &u64| match self.book.acknowledge(*id, &call.key_id, &call.comment, now_ms) {
            Ok(()) => BulkResult::default(),
            Err(error) => {
                let hresult = match error {
                    NotAcknowledged::Unknown => INVALID_ARGUMENT,
                    NotAcknowledged::ProviderLost => NO_CONNECTION,
                };
                BulkResult { hresult, message: error.to_string(), ..BulkResult::default() }
            }
        };
        BulkResults { results: call.alarm_ids.iter().map(one).collect() }
    }
}

/// Where the values of a tag come from; none: from those who write it.
fn source(tag: &str, settings: &Settings) -> Option<Wave> {
    match items::kind(tag, settings, &super::History::default()) {
        Kind::Wave(wave) => Some(wave),
        Kind::Setpoint { .. } => None,
        // Nothing that could alarm; the settings refuse it.
        Kind::Replay(_) | Kind::Invalid | Kind::Control(_) => None,
    }
}

/// Compares a value with the limits and says what that means.
fn look(book: &mut AlarmBook, of: &AlarmTag, value: Value, now_ms: i64) {
    let number = match value.kind {
        Some(ValueKind::Double(number)) => number,
        Some(ValueKind::Single(number)) => number.into(),
        Some(ValueKind::Integer(number)) => number.into(),
        // What is no number crosses no limit.
        _ => return,
    };
    match of.crossed(number) {
        Some((condition, limit, outer)) => book.raise(
            Raise {
                tag: of.tag.clone(),
                condition: condition.to_owned(),
                priority: if outer { PRIORITY_OUTER } else { PRIORITY },
                value: Some(value),
                limit: Some(Value { kind: Some(ValueKind::Double(limit)), data_type: 0 }),
            },
            now_ms,
        ),
        None => book.returned(&of.tag, Some(value), now_ms),
    }
}

fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
