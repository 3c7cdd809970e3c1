//! The items a session has, by key and by handle, as the worker's replies announce them. Knows no
//! policy. Invariant: an item is here before the first event of it can be in the log, because the
//! pump reads both from one pipe in order; a removed item stays until its events have left the log.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// One item of a session.
#[derive(Debug)]
pub struct Item {
    /// Minted by the worker, never reused within the epoch.
    pub key: u64,
    pub server_handle: i32,
    pub item_handle: i32,
    /// The reference as the client gave it, its context in front.
    pub tag: Arc<str>,
}

/// Live and retired items of one session.
#[derive(Debug, Default)]
pub struct Items {
    /// By the revision at which each was added, so that 'what is new since' is a range.
    by_revision: BTreeMap<u64, Arc<Item>>,
    live_by_handle: HashMap<(i32, i32), u64>,
    revision_by_key: HashMap<u64, u64>,
    /// Removed items with the head at their removal, oldest first.
    retired: Vec<(u64, u64)>,
    revision: u64,
    /// Room of commands that have no answer yet.
    reserved: Arc<AtomicUsize>,
}

/// Room for items that a command may add; given back on drop, when they are counted themselves, or did not come.
#[derive(Debug)]
pub struct Reserved {
    of: Arc<AtomicUsize>,
    pub items: usize,
}

// === impl Items ===

impl Items {
    /// Rises with every item added; verdicts say up to which revision they hold.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Items that clients hold.
    pub fn live(&self) -> usize {
        self.live_by_handle.len()
    }

    /// Live and retired ones: what memory is held for.
    pub fn kept(&self) -> usize {
        self.by_revision.len()
    }

    /// Room for so many more, or for as many as there is room for. Retired ones hold memory until their events have left
    /// the log, so they count, with room to spare.
    pub fn reserve(&mut self, wanted: usize, max: usize) -> Reserved {
        let reserved = self.reserved.load(Ordering::SeqCst);
        let room = max.saturating_sub(self.live() + reserved);
        let room = room.min((2 * max).saturating_sub(self.kept() + reserved));
        let items = wanted.min(room);
        self.reserved.fetch_add(items, Ordering::SeqCst);
        Reserved { of: self.reserved.clone(), items }
    }

    pub fn add(&mut self, item: Item) {
        // A worker that mints a key twice, or reuses a live handle, is wrong; the newest wins, and the
        // older one keeps its own verdict for the events it has in the log.
        self.revision += 1;
        self.live_by_handle.insert((item.server_handle, item.item_handle), self.revision);
        self.revision_by_key.insert(item.key, self.revision);
        self.by_revision.insert(self.revision, Arc::new(item));
    }

    /// Takes an item off its handle. `head`: events of it may be in the log up to there.
    pub fn retire(&mut self, server_handle: i32, item_handle: i32, head: u64) -> Option<Arc<Item>> {
        let revision = self.live_by_handle.remove(&(server_handle, item_handle))?;
        self.retired.push((head, revision));
        self.by_revision.get(&revision).cloned()
    }

    /// Takes every item of a server off; their keys come back.
    pub fn retire_server(&mut self, server_handle: i32, head: u64) -> Vec<Arc<Item>> {
        let handles: Vec<i32> =
            self.live_by_handle.keys().filter(|(server, _)| *server == server_handle).map(|(_, item)| *item).collect();
        handles.into_iter().filter_map(|item| self.retire(server_handle, item, head)).collect()
    }

    /// Forgets retired items whose last possible event has left the log.
    pub fn sweep(&mut self, evicted_through: u64) {
        let by_revision = &mut self.by_revision;
        let revision_by_key = &mut self.revision_by_key;
        self.retired.retain(|&(head, revision)| {
            if head > evicted_through {
                return true;
            }
            if let Some(item) = by_revision.remove(&revision) {
                revision_by_key.remove(&item.key);
            }
            false
        });
    }

    /// Live, or retired with events that may be in the log.
    pub fn knows(&self, key: u64) -> bool {
        self.revision_by_key.contains_key(&key)
    }

    pub fn by_handle(&self, server_handle: i32, item_handle: i32) -> Option<&Arc<Item>> {
        self.by_revision.get(self.live_by_handle.get(&(server_handle, item_handle))?)
    }

    /// Live items, in the order in which they were added.
    pub fn iter_live(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.by_revision.iter().filter_map(|(revision, item)| {
            (self.live_by_handle.get(&(item.server_handle, item.item_handle)) == Some(revision)).then_some(item)
        })
    }

    /// Live and retired items added after a revision.
    pub fn added_since(&self, revision: u64) -> Vec<Arc<Item>> {
        self.by_revision.range(revision + 1..).map(|(_, item)| item.clone()).collect()
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.of.fetch_sub(self.items, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(key: u64, handle: i32) -> Item {
        Item { key, server_handle: 1, item_handle: handle, tag: format!("Tag{key}").into() }
    }

    #[test]
    fn a_reused_handle_names_the_new_item_and_the_old_one_keeps_its_key() {
        let mut items = Items::default();
        items.add(item(1, 1));
        assert_eq!(items.retire(1, 1, 10).unwrap().key, 1);
        items.add(item(2, 1));
        assert_eq!(items.by_handle(1, 1).unwrap().key, 2);
        assert_eq!(items.live(), 1);
        let keys: Vec<u64> = items.added_since(0).iter().map(|i| i.key).collect();
        assert_eq!(keys, [1, 2], "both are judged while events of both may be in the log");
        items.sweep(9);
        assert_eq!(items.added_since(0).len(), 2);
        items.sweep(10);
        assert_eq!(items.added_since(0).iter().map(|i| i.key).collect::<Vec<_>>(), [2]);
    }

    // shows: S-01
    #[test]
    fn what_commands_on_their_way_may_add_takes_room_until_they_are_answered() {
        let mut items = Items::default();
        items.add(item(1, 1));
        let first = items.reserve(2, 4);
        let second = items.reserve(2, 4);
        assert_eq!((first.items, second.items, items.reserve(1, 4).items), (2, 1, 0));
        items.add(item(2, 2));
        drop(first);
        assert_eq!(items.reserve(9, 4).items, 1, "one of two came, and the place of the other is free");
        drop(second);
        (1..=2).for_each(|handle| drop(items.retire(1, handle, 5)));
        (3..=6).for_each(|key| items.add(item(key, key as i32)));
        (3..=6).for_each(|handle| drop(items.retire(1, handle, 5)));
        assert_eq!(items.reserve(9, 4).items, 2, "those that went hold memory");
    }

    #[test]
    fn unregister_retires_all_of_its_server_only() {
        let mut items = Items::default();
        items.add(item(1, 1));
        items.add(item(2, 2));
        items.add(Item { key: 3, server_handle: 2, item_handle: 1, tag: "Other".into() });
        assert_eq!(items.retire_server(1, 0).len(), 2);
        assert_eq!(items.iter_live().map(|i| i.key).collect::<Vec<_>>(), [3]);
        assert_eq!(items.added_since(2).len(), 1);
    }
}
