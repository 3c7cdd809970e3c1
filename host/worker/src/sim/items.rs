//! The tables behind the handles: servers, items, and what a tag is. Knows neither events nor time. Invariants: handles
//! are the smallest that are free, as MXAccess hands them out; item keys are never used twice.

use super::{
    history::History,
    settings::Settings,
    waves::{ARRAY, Wave},
};
use std::collections::{BTreeMap, BTreeSet};
use tidegate_proto::v1::{DoubleArray, MxStatus, SourceTime, Value, value::Kind as ValueKind};

/// One client of the server object (Register).
#[derive(Debug)]
pub(super) struct Server {
    pub(super) client_name: String,
    pub(super) items: BTreeMap<i32, usize>,
    pub(super) buffered_interval_ms: u32,
    handles: Handles,
}

/// One item (AddItem).
#[derive(Debug)]
pub(super) struct Item {
    pub(super) server: i32,
    pub(super) handle: i32,
    pub(super) key: u64,
    pub(super) definition: String,
    pub(super) context: String,
    pub(super) kind: Kind,
    pub(super) advised: bool,
    /// How often it was advised; tells a timer of an earlier time apart.
    pub(super) advises: u32,
    pub(super) suspended: bool,
    pub(super) buffered: bool,
    /// Made by ReadBulk: its value is looked at, but no event tells of it.
    pub(super) hidden: bool,
    /// The first data change has come, so the type is known and writes are taken.
    pub(super) known: bool,
    pub(super) last: Option<Sample>,
    /// The event that told it; 0: none did.
    pub(super) told_by: u64,
    /// What a buffered item has gathered, and its size.
    pub(super) buffer: Vec<Sample>,
}

/// What a tag stands for.
#[derive(Debug)]
pub(super) enum Kind {
    Wave(Wave),
    /// Keeps what is written to it.
    Setpoint {
        value: Value,
        guard: Guard,
    },
    /// A tag of the history, by its index.
    Replay(u32),
    /// Resolves to a configuration error.
    Invalid,
    /// `$Sim.Fault`, `$Sim.Rate`, `$Sim.Replay`.
    Control(Control),
}

/// Who may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    Open,
    /// WriteSecured only.
    Secured,
    /// WriteSecured by two persons.
    Verified,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Fault,
    Rate,
    Replay,
}

/// A value as a data change tells it.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) value: Value,
    pub(super) quality: i32,
    pub(super) time: SourceTime,
    pub(super) status: MxStatus,
}

/// An item that may be gone, or replaced by another in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ItemRef {
    pub(super) slot: usize,
    key: u64,
}

/// Small integers from 1, the smallest free one first.
#[derive(Debug, Default)]
struct Handles {
    used: i32,
    free: BTreeSet<i32>,
}

/// All servers and items of the session.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) servers: BTreeMap<i32, Server>,
    pub(super) items: Vec<Option<Item>>,
    handles: Handles,
    free: Vec<usize>,
    keys: u64,
    /// Something was added, removed, advised or suspended: whoever keeps a list of slots makes it again.
    pub(super) changed: bool,
}

// === impl Handles ===

impl Handles {
    fn take(&mut self) -> i32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.used += 1;
            self.used
        })
    }

    fn give(&mut self, handle: i32) {
        self.free.insert(handle);
    }
}

// === impl Tables ===

impl Tables {
    pub(super) fn register(&mut self, client_name: String) -> i32 {
        let handle = self.handles.take();
        let server = Server {
            client_name,
            items: BTreeMap::new(),
            buffered_interval_ms: super::BUFFERED_INTERVAL_MS,
            handles: Handles::default(),
        };
        self.servers.insert(handle, server);
        handle
    }

    /// False when there is no such server.
    pub(super) fn unregister(&mut self, handle: i32) -> bool {
        let Some(server) = self.servers.remove(&handle) else { return false };
        for slot in server.items.into_values() {
            self.items[slot] = None;
            self.free.push(slot);
        }
        self.handles.give(handle);
        self.changed = true;
        true
    }

    /// Adds an item; `None` when there is no such server.
    pub(super) fn add(&mut self, server: i32, definition: String, context: String, kind: Kind) -> Option<&mut Item> {
        let owner = self.servers.get_mut(&server)?;
        let handle = owner.handles.take();
        self.keys += 1;
        let item = Item {
            server,
            handle,
            key: self.keys,
            definition,
            context,
            kind,
            advised: false,
            advises: 0,
            suspended: false,
            buffered: false,
            hidden: false,
            known: false,
            last: None,
            told_by: 0,
            buffer: Vec::new(),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.items.push(None);
            self.items.len() - 1
        });
        owner.items.insert(handle, slot);
        self.changed = true;
        Some(self.items[slot].insert(item))
    }

    /// False when there is no such item.
    pub(super) fn remove(&mut self, server: i32, handle: i32) -> bool {
        let Some(owner) = self.servers.get_mut(&server) else { return false };
        let Some(slot) = owner.items.remove(&handle) else { return false };
        owner.handles.give(handle);
        self.items[slot] = None;
        self.free.push(slot);
        self.changed = true;
        true
    }

    pub(super) fn find(&self, server: i32, handle: i32) -> Option<ItemRef> {
        let slot = *self.servers.get(&server)?.items.get(&handle)?;
        self.items[slot].as_ref().map(|item| ItemRef { slot, key: item.key })
    }

    /// The item, unless it is gone.
    pub(super) fn get(&mut self, at: ItemRef) -> Option<&mut Item> {
        self.items[at.slot].as_mut().filter(|item| item.key == at.key)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (ItemRef, &Item)> {
        self.items
            .iter()
            .enumerate()
            .filter_map(|(slot, item)| item.as_ref().map(|item| (ItemRef { slot, key: item.key }, item)))
    }

    /// The places of all items of a tag.
    pub(super) fn of_tag(&self, wanted: &str) -> Vec<usize> {
        let same = self.all().filter(|(_, item)| tag(&item.definition, &item.context) == wanted);
        same.map(|(at, _)| at.slot).collect()
    }
}

// === impl Item ===

impl Item {
    /// Whether its source may make data changes now.
    pub(super) fn live(&self) -> bool {
        self.advised && !self.suspended
    }
}

/// The tag that a definition means in its context.
pub(super) fn tag(definition: &str, context: &str) -> String {
    if context.is_empty() { definition.to_owned() } else { format!("{context}.{definition}") }
}

/// Decides what a tag stands for. `Denied.` is not a kind: such an item is never made.
pub(super) fn kind(tag: &str, settings: &Settings, history: &History) -> Kind {
    match tag {
        "$Sim.Fault" if settings.faults => return Kind::Control(Control::Fault),
        "$Sim.Rate" if settings.faults => return Kind::Control(Control::Rate),
        "$Sim.Replay" if settings.csv.is_some() => return Kind::Control(Control::Replay),
        _ if tag.starts_with("$Sim.") || under(tag, "Invalid") => return Kind::Invalid,
        _ => {}
    }
    if let Some(&index) = history.tags.get(tag) {
        return Kind::Replay(index);
    }
    let (name, array) = match tag.split_once('[') {
        None => (tag, false),
        Some((name, "]")) => (name, true),
        Some((name, element)) => match element.strip_suffix(']').and_then(|number| number.parse::<usize>().ok()) {
            Some(1..=ARRAY) => (name, false),
            _ => return Kind::Invalid,
        },
    };
    let guard = if under(tag, "Verified") {
        Guard::Verified
    } else if under(tag, "Secured") {
        Guard::Secured
    } else if under(tag, "Setpoint") {
        Guard::Open
    } else {
        return Kind::Wave(Wave::new(name, array, settings.seed, settings.wave));
    };
    let kind =
        if array { ValueKind::Doubles(DoubleArray { values: vec![0.0; ARRAY] }) } else { ValueKind::Double(0.0) };
    Kind::Setpoint { value: Value { kind: Some(kind), data_type: 0 }, guard }
}

/// Whether a part of the tag before the last is `area`: `Setpoint.Speed`, `Line1.Setpoint.Speed`.
pub(super) fn under(tag: &str, area: &str) -> bool {
    tag.rsplit('.').skip(1).any(|part| part == area)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_reused_and_keys_are_not() {
        let mut tables = Tables::default();
        let add = |tables: &mut Tables| {
            let item = tables.add(1, "A".to_owned(), String::new(), Kind::Invalid).unwrap();
            (item.handle, item.key)
        };
        assert_eq!(tables.register("a".to_owned()), 1);
        assert_eq!(tables.register("b".to_owned()), 2);
        assert_eq!([add(&mut tables), add(&mut tables), add(&mut tables)], [(1, 1), (2, 2), (3, 3)]);
        let second = tables.find(1, 2).unwrap();
        assert!(tables.remove(1, 2) && !tables.remove(1, 2));
        assert_eq!(add(&mut tables), (2, 4));
        assert!(tables.get(second).is_none(), "another item has its place now");
        assert!(tables.unregister(1) && !tables.unregister(1));
        assert_eq!(tables.register("c".to_owned()), 1);
        assert_eq!(add(&mut tables), (1, 5));
        assert!(tables.add(9, "A".to_owned(), String::new(), Kind::Invalid).is_none());
    }

    #[test]
    fn tags_stand_for_what_they_say() {
        let settings = Settings { faults: true, ..Settings::default() };
        let history = History::parse("timestamp,tag,value\nx,A.Recorded,1", false).unwrap();
        let kind = |tag: &str| kind(tag, &settings, &history);
        assert!(matches!(kind("A.Recorded"), Kind::Replay(0)));
        assert!(matches!(kind("$Sim.Fault"), Kind::Control(Control::Fault)));
        assert!(matches!(kind("$Sim.Replay"), Kind::Invalid), "there is no file");
        assert!(matches!(kind("Invalid.X"), Kind::Invalid));
        assert!(matches!(kind("A.X[0]"), Kind::Invalid), "elements are 1-based");
        assert!(matches!(kind("A.X[11]"), Kind::Invalid));
        assert!(matches!(kind("A.X[1]"), Kind::Wave(_)));
        assert!(matches!(kind("A.X[]"), Kind::Wave(_)));
        assert!(matches!(kind("Line1.Setpoint.Speed"), Kind::Setpoint { guard: Guard::Open, .. }));
        assert!(matches!(kind("Secured.Door"), Kind::Setpoint { guard: Guard::Secured, .. }));
        assert!(matches!(kind("Verified.Door"), Kind::Setpoint { guard: Guard::Verified, .. }));
        assert!(matches!(kind("A.Setpoint"), Kind::Wave(_)));
    }
}
