//! The alarms of a worker: which stand, in which state, and what the gateway is told of them. Knows no limits, no clock and
//! no pipe: a backend says what happened and when. Invariants: an id is never used twice; revisions rise by one with each
//! change; the last table told and the changes told since are the alarms that stand, unless the provider is lost, and then
//! nothing is told until a table.

use std::collections::{BTreeMap, HashMap, VecDeque};
use tidegate_proto::{
    v1::{Alarm, AlarmProvider, AlarmState, AlarmTransition, Value, alarm_provider::State, alarm_transition::Kind},
    worker::v1::{AlarmChange, AlarmTable, alarm_change::What, from_worker::Frame},
};

/// Alarms in one part of a table: far below a frame. Guessed.
pub const PART_ALARMS: usize = 256;

/// What a condition is like when it is raised.
#[derive(Clone, Debug)]
pub struct Raise {
    pub tag: String,
    pub condition: String,
    /// 1 (most urgent) to 999.
    pub priority: u32,
    pub value: Option<Value>,
    pub limit: Option<Value>,
}

/// Why an alarm was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAcknowledged {
    #[error("no alarm of this id stands")]
    Unknown,
    #[error("no provider of alarms is open")]
    ProviderLost,
}

/// The table. Owned by the backend's task.
#[derive(Debug)]
pub struct AlarmBook {
    provider: AlarmProvider,
    /// By id.
    alarms: BTreeMap<u64, Alarm>,
    by_tag: HashMap<String, u64>,
    minted: u64,
    revision: u64,
    /// A gateway has asked.
    told: bool,
    /// What is to be sent; emptied after each thing that happens, and only filled while a gateway listens.
    frames: VecDeque<Frame>,
}

// === impl AlarmBook ===

impl AlarmBook {
    /// With this provider, which is open; empty: there are no alarms.
    pub fn new(provider: &str) -> Self {
        Self {
            provider: AlarmProvider { name: provider.to_owned(), state: State::Open.into() },
            alarms: BTreeMap::new(),
            by_tag: HashMap::new(),
            minted: 0,
            revision: 0,
            told: false,
            frames: VecDeque::new(),
        }
    }

    /// What stands, by id.
    pub fn standing(&self) -> impl Iterator<Item = &Alarm> {
        self.alarms.values()
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn provider(&self) -> &AlarmProvider {
        &self.provider
    }

    /// What is to be sent next.
    pub fn next_frame(&mut self) -> Option<Frame> {
        self.frames.pop_front()
    }

    /// A gateway asks: it gets the table, and is told of changes from now on.
    pub fn sync(&mut self) {
        self.told = true;
        self.tell_table();
    }

    /// The condition of a tag holds, in this form. The same as before is nothing new.
    pub fn raise(&mut self, raise: Raise, now_ms: i64) {
        let Raise { tag, condition, priority, value, limit } = raise;
        let known = self.by_tag.get(&tag).and_then(|id| self.alarms.get_mut(id));
        let Some(alarm) = known else {
            self.minted += 1;
            let alarm = Alarm {
                alarm_id: self.minted,
                tag: tag.clone(),
                condition,
                state: AlarmState::Active.into(),
                priority,
                value,
                limit,
                raised_at_unix_ms: now_ms,
                ..Alarm::default()
            };
            self.by_tag.insert(tag, self.minted);
            self.alarms.insert(self.minted, alarm);
            return self.changed(self.minted, Kind::Raised, now_ms);
        };
        let came_back = alarm.state() == AlarmState::Returned;
        if !came_back && alarm.condition == condition {
            return;
        }
        // What got worse is news, whoever knew of it before; what got better stays as acknowledged as it was.
        let worse = priority < alarm.priority;
        alarm.condition = condition;
        (alarm.priority, alarm.value, alarm.limit, alarm.returned_at_unix_ms) = (priority, value, limit, 0);
        if came_back {
            alarm.raised_at_unix_ms = now_ms;
        }
        if came_back || worse {
            alarm.set_state(AlarmState::Active);
        }
        let id = alarm.alarm_id;
        self.changed(id, if came_back { Kind::Raised } else { Kind::Changed }, now_ms);
    }

    /// The condition of a tag does not hold any more.
    pub fn returned(&mut self, tag: &str, value: Option<Value>, now_ms: i64) {
        let Some(alarm) = self.by_tag.get(tag).and_then(|id| self.alarms.get_mut(id)) else { return };
        let state = match alarm.state() {
            AlarmState::Active => AlarmState::Returned,
            AlarmState::Acknowledged => AlarmState::Gone,
            _ => return,
        };
        alarm.set_state(state);
        alarm.value = value;
        alarm.returned_at_unix_ms = now_ms;
        let id = alarm.alarm_id;
        self.changed(id, Kind::Returned, now_ms);
    }

    /// Twice is no error: the first one stays on record.
    pub fn acknowledge(&mut self, id: u64, by: &str, comment: &str, now_ms: i64) -> Result<(), NotAcknowledged> {
        if self.provider.state() == State::Lost {
            return Err(NotAcknowledged::ProviderLost);
        }
        let alarm = self.alarms.get_mut(&id).ok_or(NotAcknowledged::Unknown)?;
        let state = match alarm.state() {
            AlarmState::Active => AlarmState::Acknowledged,
            AlarmState::Returned => AlarmState::Gone,
            _ => return Ok(()),
        };
        alarm.set_state(state);
        alarm.acknowledged_at_unix_ms = now_ms;
        by.clone_into(&mut alarm.acknowledged_by);
        comment.clone_into(&mut alarm.comment);
        self.changed(id, Kind::Acknowledged, now_ms);
        Ok(())
    }

    /// Nobody tells of alarms any more, until `open`.
    pub fn lost(&mut self) {
        if self.provider.state() == State::Lost {
            return;
        }
        self.revision += 1;
        self.provider.set_state(State::Lost);
        if self.told {
            let what = Some(What::Provider(self.provider.clone()));
            self.frames.push_back(Frame::AlarmChange(AlarmChange { revision: self.revision, what }));
        }
    }

    /// This provider tells of alarms now, and begins with all that stand.
    pub fn open(&mut self, provider: &str) {
        self.revision += 1;
        self.provider = AlarmProvider { name: provider.to_owned(), state: State::Open.into() };
        if self.told {
            self.tell_table();
        }
    }

    fn changed(&mut self, id: u64, kind: Kind, now_ms: i64) {
        self.revision += 1;
        let Some(alarm) = self.alarms.get_mut(&id) else { return };
        alarm.changed_at_unix_ms = now_ms;
        alarm.revision = self.revision;
        let alarm = alarm.clone();
        if alarm.state() == AlarmState::Gone {
            self.alarms.remove(&id);
            self.by_tag.remove(&alarm.tag);
        }
        if self.told && self.provider.state() == State::Open {
            let what = Some(What::Transition(AlarmTransition { kind: kind.into(), alarm: Some(alarm) }));
            self.frames.push_back(Frame::AlarmChange(AlarmChange { revision: self.revision, what }));
        }
    }

    fn tell_table(&mut self) {
        let all: Vec<Alarm> = self.alarms.values().cloned().collect();
        let mut parts: Vec<Vec<Alarm>> = all.chunks(PART_ALARMS).map(<[Alarm]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        let count = parts.len();
        for (nth, alarms) in parts.into_iter().enumerate() {
            self.frames.push_back(Frame::AlarmTable(AlarmTable {
                revision: self.revision,
                provider: Some(self.provider.clone()),
                alarms,
                first: nth == 0,
                last: nth + 1 == count,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raise(tag: &str, condition: &str, priority: u32) -> Raise {
        Raise { tag: tag.to_owned(), condition: condition.to_owned(), priority, value: None, limit: None }
    }

    fn told(book: &mut AlarmBook) -> Vec<(u64, String)> {
        std::iter::from_fn(|| book.next_frame())
            .map(|frame| match frame {
                Frame::AlarmChange(change) => match change.what {
                    Some(What::Transition(of)) => {
                        let (kind, alarm) = (of.kind().as_str_name(), of.alarm.unwrap());
                        (change.revision, format!("{kind} {} {}", alarm.tag, alarm.state().as_str_name()))
                    }
                    what => (change.revision, format!("{what:?}")),
                },
                Frame::AlarmTable(table) => (table.revision, format!("table of {}", table.alarms.len())),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    // shows: S-18
    #[test]
    fn an_alarm_leaves_the_table_when_it_is_over_and_acknowledged_in_either_order() {
        let mut book = AlarmBook::new("A");
        book.raise(raise("Unheard", "high", 500), 1);
        assert_eq!(told(&mut book), [], "nobody has asked");
        book.sync();
        book.raise(raise("T", "high", 500), 2);
        book.raise(raise("T", "high", 500), 3);
        assert_eq!(book.acknowledge(2, "k1", "seen", 4), Ok(()));
        assert_eq!(book.acknowledge(2, "k2", "again", 5), Ok(()));
        book.raise(raise("T", "high-high", 100), 6);
        book.returned("T", None, 7);
        book.returned("T", None, 8);
        assert_eq!(book.acknowledge(2, "k2", "over", 9), Ok(()));
        assert_eq!(book.acknowledge(2, "k2", "over", 9), Err(NotAcknowledged::Unknown));
        book.raise(raise("T", "low", 500), 10);
        let expected = [
            (1, "table of 1"),
            (2, "KIND_RAISED T ALARM_STATE_ACTIVE"),
            (3, "KIND_ACKNOWLEDGED T ALARM_STATE_ACKNOWLEDGED"),
            (4, "KIND_CHANGED T ALARM_STATE_ACTIVE"),
            (5, "KIND_RETURNED T ALARM_STATE_RETURNED"),
            (6, "KIND_ACKNOWLEDGED T ALARM_STATE_GONE"),
            (7, "KIND_RAISED T ALARM_STATE_ACTIVE"),
        ];
        assert_eq!(told(&mut book), expected.map(|(revision, text)| (revision, text.to_owned())));
        assert_eq!(book.standing().map(|alarm| alarm.alarm_id).collect::<Vec<_>>(), [1, 3], "ids are not used twice");
    }

    // shows: S-18
    #[test]
    fn without_a_provider_nothing_is_told_and_the_next_one_begins_with_all() {
        let mut book = AlarmBook::new("A");
        book.sync();
        book.lost();
        book.lost();
        book.raise(raise("T", "high", 500), 1);
        assert_eq!(book.acknowledge(1, "k1", "", 2), Err(NotAcknowledged::ProviderLost));
        assert_eq!(told(&mut book).len(), 2, "the table, and that the provider is lost");
        book.open("B");
        book.returned("T", None, 3);
        let said = told(&mut book);
        assert_eq!(said[0], (3, "table of 1".to_owned()));
        assert_eq!(said[1], (4, "KIND_RETURNED T ALARM_STATE_RETURNED".to_owned()));
    }

    #[test]
    fn a_table_is_told_in_parts() {
        let mut book = AlarmBook::new("A");
        for nth in 0..=PART_ALARMS {
            book.raise(raise(&format!("T{nth}"), "high", 500), 1);
        }
        book.sync();
        let parts: Vec<_> = std::iter::from_fn(|| book.next_frame())
            .map(|frame| match frame {
                Frame::AlarmTable(part) => (part.alarms.len(), part.first, part.last),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(parts, [(PART_ALARMS, true, false), (1, false, true)]);
    }
}
