//! The table of a session's alarms: what the worker told, whole or change by change, and the newest changes for readers.
//! Knows no rights and no streams. Invariants: a table that is complete is the worker's own as of the same revision; a reader
//! either gets every change since where it was, in order, or is told to begin anew; memory is bounded by `max` alarms and
//! `CHANGES_MAX` changes, however many read.

use crate::{
    error::{Code, Error, Result},
    telemetry::{AlarmKind, AlarmMetrics, ProviderChange},
};
use parking_lot::Mutex;
use prost::Message as _;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use tidegate_proto::{
    v1::{Alarm, AlarmProvider, AlarmState, AlarmTransition, alarm_provider::State, alarm_transition::Kind},
    worker::v1::{self as pipe, alarm_change::What},
};
use tokio::sync::watch;

/// Changes kept for readers that are behind; one that is further behind begins anew. Guessed: an avalanche of alarms that is
/// over before a reader's next look.
const CHANGES_MAX: usize = 1_024;
/// Of one alarm, encoded; as in worker.proto.
const ALARM_BYTES_MAX: usize = 16 << 10;

/// Shared by the pump, which alone changes it, and its readers.
#[derive(Debug)]
pub struct AlarmTable {
    inner: Mutex<Inner>,
    /// Rung at each change; says how many there were.
    bell: watch::Sender<u64>,
    supported: bool,
    max: usize,
    metrics: AlarmMetrics,
}

/// Why a reader begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Opened,
    TooSlow,
    Provider,
    Rights,
    Resynced,
}

/// The whole table at one moment.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Where a reader that has taken this goes on; rises with each change that it would hear.
    pub at: u64,
    pub revision: u64,
    pub provider: AlarmProvider,
    /// By id.
    pub alarms: Vec<Arc<Alarm>>,
    pub not_kept: u64,
}

/// How many stand, for those who only count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub standing: usize,
    /// Of these, nobody has acknowledged so many.
    pub waiting: usize,
    pub not_kept: u64,
}

/// One change, as readers get it.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Transition(Kind, Arc<Alarm>),
    Provider(AlarmProvider),
}

/// What there is for a reader.
#[derive(Debug)]
pub(super) enum Look {
    /// Nothing yet.
    Wait,
    Anew(Why, Standing),
    Next(Change),
    Ended(Error),
}

/// Whether the worker is to be asked for its whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    No,
    Yes,
}

/// How a worker broke the contract.
pub(super) type Broken = &'static str;

#[derive(Debug)]
struct Inner {
    /// A whole table has come.
    synced: bool,
    revision: u64,
    provider: AlarmProvider,
    alarms: BTreeMap<u64, Arc<Alarm>>,
    /// Of these, those that nobody has acknowledged.
    waiting: usize,
    /// Alarms that stand and found no room.
    not_kept: u64,
    /// The greatest id that was ever told.
    newest: u64,
    /// The worker was asked for the whole table, and it has not come.
    asked: bool,
    building: Option<Building>,
    /// The newest; the last one is number `head`.
    changes: VecDeque<Change>,
    head: u64,
    /// Readers before this change begin anew, and why.
    replaced: (u64, Why),
    over: Option<Error>,
}

/// A table that comes in parts.
#[derive(Debug)]
struct Building {
    revision: u64,
    provider: AlarmProvider,
    alarms: BTreeMap<u64, Arc<Alarm>>,
    not_kept: u64,
    newest: u64,
}

// === impl AlarmTable ===

impl AlarmTable {
    /// `supported`: the worker said that it has alarms.
    pub fn new(supported: bool, max: usize, metrics: AlarmMetrics) -> Self {
        let inner = Inner {
            synced: false,
            revision: 0,
            provider: AlarmProvider::default(),
            alarms: BTreeMap::new(),
            waiting: 0,
            not_kept: 0,
            newest: 0,
            asked: false,
            building: None,
            changes: VecDeque::new(),
            head: 0,
            replaced: (0, Why::Opened),
            over: None,
        };
        Self { inner: Mutex::new(inner), bell: watch::Sender::new(0), supported, max, metrics }
    }

    /// Refuses where the worker has no alarms.
    pub fn supported(&self) -> Result<()> {
        if self.supported {
            return Ok(());
        }
        Err(Error::new(Code::AlarmUnsupported, "the session's worker tells of no alarms"))
    }

    // --- the pump's side ---

    /// A part of the worker's whole table. What is not the continuation of a first part is of a table that an earlier
    /// gateway asked for, and passed over while this one has none yet.
    pub fn part(&self, part: pipe::AlarmTable) -> Result<(), Broken> {
        let mut inner = self.inner.lock();
        let provider = part.provider.unwrap_or_default();
        if part.first {
            let alarms = BTreeMap::new();
            inner.building = Some(Building { revision: part.revision, provider, alarms, not_kept: 0, newest: 0 });
        }
        let synced = inner.synced;
        let Some(building) = &mut inner.building else {
            return if synced { Err("a part of a table of alarms without its beginning") } else { Ok(()) };
        };
        if building.revision != part.revision {
            return Err("the parts of a table of alarms are of different revisions");
        }
        for alarm in part.alarms {
            check(&alarm)?;
            if alarm.alarm_id <= building.newest {
                return Err("a table of alarms is not in the order of their ids");
            }
            building.newest = alarm.alarm_id;
            if building.alarms.len() < self.max {
                building.alarms.insert(alarm.alarm_id, Arc::new(alarm));
            } else {
                building.not_kept += 1;
            }
        }
        if part.last
            && let Some(building) = inner.building.take()
        {
            self.install(&mut inner, building);
        }
        Ok(())
    }

    fn install(&self, inner: &mut Inner, new: Building) {
        let was_lost = inner.provider.state() == State::Lost;
        let why = if inner.synced && (was_lost || inner.provider.name != new.provider.name) {
            Why::Provider
        } else {
            Why::Resynced
        };
        if was_lost && new.provider.state() == State::Open {
            self.metrics.provider_changes.of(ProviderChange::Open).inc();
        }
        self.metrics.standing.inc_by(signed(new.alarms.len()) - signed(inner.alarms.len()));
        self.metrics.not_kept.inc_by(new.not_kept.saturating_sub(inner.not_kept));
        (inner.revision, inner.provider, inner.alarms) = (new.revision, new.provider, new.alarms);
        inner.waiting = inner.alarms.values().filter(|alarm| waits(alarm)).count();
        (inner.not_kept, inner.asked, inner.synced) = (new.not_kept, false, true);
        inner.newest = inner.newest.max(new.newest);
        inner.changes.clear();
        inner.head += 1;
        inner.replaced = (inner.head, why);
        self.bell.send_replace(inner.head);
    }

    /// One change. Before the first whole table it is of a time that the table will tell.
    pub fn change(&self, change: pipe::AlarmChange) -> Result<Ask, Broken> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if !inner.synced {
            return Ok(Ask::No);
        }
        if inner.building.is_some() {
            return Err("a change of alarms within a table");
        }
        if change.revision != inner.revision + 1 {
            return Err("a change of alarms has another revision than the next one");
        }
        inner.revision = change.revision;
        match change.what {
            Some(What::Transition(AlarmTransition { kind, alarm: Some(alarm) })) => {
                check(&alarm)?;
                let kind = Kind::try_from(kind).unwrap_or(Kind::Unspecified);
                self.metrics.transitions.of(counted(kind).ok_or("a transition of an alarm is of no kind")?).inc();
                Ok(self.transition(inner, kind, alarm))
            }
            Some(What::Provider(provider)) if provider.state() == State::Lost => {
                self.metrics.provider_changes.of(ProviderChange::Lost).inc();
                inner.provider = provider.clone();
                self.note(inner, Change::Provider(provider));
                Ok(Ask::No)
            }
            Some(What::Provider(_)) => Err("a provider of alarms that opens comes with a table"),
            Some(What::Transition(_)) | None => Err("a change of alarms says nothing"),
        }
    }

    fn transition(&self, inner: &mut Inner, kind: Kind, alarm: Alarm) -> Ask {
        let id = alarm.alarm_id;
        let known = inner.alarms.contains_key(&id);
        let waited = inner.alarms.get(&id).is_some_and(|alarm| waits(alarm));
        let gone = alarm.state() == AlarmState::Gone;
        // Ids rise, so one that was seen is not new.
        let new = id > inner.newest;
        inner.newest = inner.newest.max(id);
        if !known {
            let room = inner.alarms.len() < self.max;
            match (gone, new) {
                (true, _) => inner.not_kept = inner.not_kept.saturating_sub(1),
                (false, true) if !room => {
                    inner.not_kept += 1;
                    self.metrics.not_kept.inc();
                }
                // One that was left out is raised again, and now there is room.
                (false, false) if room && kind == Kind::Raised => inner.not_kept = inner.not_kept.saturating_sub(1),
                (false, _) => {}
            }
            if gone || !room || kind != Kind::Raised {
                return Ask::No;
            }
        }
        let alarm = Arc::new(alarm);
        if gone {
            inner.alarms.remove(&id);
            self.metrics.standing.dec();
        } else {
            self.metrics.standing.inc_by(i64::from(!known));
            inner.alarms.insert(id, alarm.clone());
        }
        inner.waiting = inner.waiting + usize::from(waits(&alarm)) - usize::from(waited);
        self.note(inner, Change::Transition(kind, alarm));
        // There is room again for those that were left out, and only the worker knows which still stand.
        if gone && inner.not_kept > 0 && !inner.asked {
            inner.asked = true;
            return Ask::Yes;
        }
        Ask::No
    }

    fn note(&self, inner: &mut Inner, change: Change) {
        if inner.changes.len() == CHANGES_MAX {
            inner.changes.pop_front();
        }
        inner.changes.push_back(change);
        inner.head += 1;
        self.bell.send_replace(inner.head);
    }

    /// The worker could not be asked just now: the next alarm that goes tries again.
    pub fn not_asked(&self) {
        self.inner.lock().asked = false;
    }

    /// Nothing more comes; readers end with this once they have read what came.
    pub fn close(&self, error: Error) {
        self.inner.lock().over.get_or_insert(error);
        self.bell.send_modify(|_| {});
    }

    // --- the readers' side ---

    /// What comes behind `position`; `None`: a reader that has nothing yet.
    pub(super) fn look(&self, position: Option<u64>) -> Look {
        let inner = self.inner.lock();
        let behind = |at: u64| usize::try_from(inner.head - at).unwrap_or(usize::MAX);
        let anew = match position {
            _ if !inner.synced => None,
            None => Some(Why::Opened),
            Some(at) if at < inner.replaced.0 => Some(inner.replaced.1),
            Some(at) if behind(at) > inner.changes.len() => Some(Why::TooSlow),
            Some(_) => None,
        };
        if let Some(why) = anew {
            // A reader that begins when all is over begins with nothing.
            return match &inner.over {
                Some(error) if position.is_none() => Look::Ended(error.clone()),
                _ => Look::Anew(why, inner.standing()),
            };
        }
        match position.filter(|at| behind(*at) > 0 && inner.synced) {
            Some(at) => Look::Next(inner.changes[inner.changes.len() - behind(at)].clone()),
            None => inner.over.clone().map_or(Look::Wait, Look::Ended),
        }
    }

    pub(super) fn bell(&self) -> watch::Receiver<u64> {
        self.bell.subscribe()
    }

    pub fn standing(&self) -> Standing {
        self.inner.lock().standing()
    }

    /// What stands, unless that is as it was at `seen`: for those who look again and again.
    pub fn standing_since(&self, seen: Option<u64>) -> Option<Standing> {
        let inner = self.inner.lock();
        (seen != Some(inner.head)).then(|| inner.standing())
    }

    /// `None`: the worker tells of no alarms.
    pub fn counts(&self) -> Option<Counts> {
        let inner = self.inner.lock();
        let Inner { waiting, not_kept, .. } = *inner;
        self.supported.then(|| Counts { standing: inner.alarms.len(), waiting, not_kept })
    }

    /// An alarm that stands.
    pub fn one(&self, id: u64) -> Option<Arc<Alarm>> {
        self.inner.lock().alarms.get(&id).cloned()
    }

    /// Returns once there is a whole table, or none will come.
    pub async fn synchronised(&self) -> Result<()> {
        let mut bell = self.bell();
        loop {
            bell.borrow_and_update();
            {
                let inner = self.inner.lock();
                if let Some(error) = &inner.over {
                    return Err(error.clone());
                }
                if inner.synced {
                    return Ok(());
                }
            }
            // The sender is this table.
            let _rung = bell.changed().await;
        }
    }

    /// The tags of alarms, in the order asked for; `None` of one that does not stand.
    pub(super) fn tags(&self, ids: &[u64]) -> Vec<Option<Arc<str>>> {
        let inner = self.inner.lock();
        ids.iter().map(|id| inner.alarms.get(id).map(|alarm| alarm.tag.as_str().into())).collect()
    }
}

impl Drop for AlarmTable {
    fn drop(&mut self) {
        self.metrics.standing.dec_by(signed(self.inner.get_mut().alarms.len()));
    }
}

// === impl Inner ===

impl Inner {
    fn standing(&self) -> Standing {
        Standing {
            at: self.head,
            revision: self.revision,
            provider: self.provider.clone(),
            alarms: self.alarms.values().cloned().collect(),
            not_kept: self.not_kept,
        }
    }
}

// === impl Standing ===

impl Standing {
    pub(super) fn tags(&self) -> Vec<Arc<str>> {
        self.alarms.iter().map(|alarm| alarm.tag.as_str().into()).collect()
    }
}

/// Nobody has acknowledged it.
pub fn waits(alarm: &Alarm) -> bool {
    matches!(alarm.state(), AlarmState::Active | AlarmState::Returned)
}

/// What a worker says is bounded like what anybody says.
fn check(alarm: &Alarm) -> Result<(), Broken> {
    if alarm.encoded_len() > ALARM_BYTES_MAX {
        return Err("an alarm has more than 16 KiB");
    }
    if alarm.alarm_id == 0 || alarm.state() == AlarmState::Unspecified {
        return Err("an alarm has no id or no state");
    }
    Ok(())
}

fn counted(kind: Kind) -> Option<AlarmKind> {
    match kind {
        Kind::Unspecified => None,
        Kind::Raised => Some(AlarmKind::Raised),
        Kind::Acknowledged => Some(AlarmKind::Acknowledged),
        Kind::Returned => Some(AlarmKind::Returned),
        Kind::Changed => Some(AlarmKind::Changed),
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
