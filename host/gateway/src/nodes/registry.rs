//! The joined attachments in memory, and when each was last heard. Follows storage, decides nothing. Sharded,
//! so that a sweep over all of them holds up one in sixty-four. Invariant: a row is changed only from the
//! writer's thread (and by `load`), so it is always a committed one.

use super::Report;
use crate::{
    ids::{KeyId, NodeId, SessionId},
    storage::{NodeRow, NodeState, PresenceRow},
    telemetry::Gauge,
};
use parking_lot::{Mutex, RwLock};
use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::BuildHasher as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
};

pub(super) const SHARDS: usize = 64;

#[derive(Debug)]
pub(super) struct Registry {
    /// By node; of one node only the active attachment and silent ones elsewhere, so a list is short.
    shards: Vec<RwLock<HashMap<NodeId, Vec<Arc<Entry>>>>>,
    hasher: RandomState,
    count: AtomicUsize,
    /// Attachments of each key that has any.
    by_key: Mutex<HashMap<KeyId, usize>>,
    attached: Gauge,
}

/// One joined attachment.
#[derive(Debug)]
pub(super) struct Entry {
    row: Mutex<Arc<NodeRow>>,
    /// The clock's monotonic milliseconds, also of the attach.
    heard_ms: AtomicU64,
    /// 0: no heartbeat yet.
    last_heartbeat_unix_ms: AtomicI64,
    reported_degraded: AtomicBool,
    /// A heartbeat came that presence does not show yet.
    unsaved: AtomicBool,
}

// === impl Registry ===

impl Registry {
    pub(super) fn new(attached: Gauge) -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        let (count, by_key) = (AtomicUsize::new(0), Mutex::default());
        Self { shards, hasher: RandomState::new(), count, by_key, attached }
    }

    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// How many of them are of one key.
    pub(super) fn of_key(&self, key: &KeyId) -> usize {
        self.by_key.lock().get(key).copied().unwrap_or(0)
    }

    fn shard(&self, node: &NodeId) -> &RwLock<HashMap<NodeId, Vec<Arc<Entry>>>> {
        &self.shards[self.hasher.hash_one(node) as usize % SHARDS]
    }

    pub(super) fn find(&self, node: &NodeId, session: &SessionId) -> Option<Arc<Entry>> {
        let shard = self.shard(node).read();
        shard.get(node)?.iter().find(|entry| entry.row.lock().session == *session).cloned()
    }

    /// Those of one shard.
    pub(super) fn all(&self, shard: usize) -> Vec<Arc<Entry>> {
        self.shards[shard].read().values().flatten().cloned().collect()
    }

    /// Takes over a committed row. `now_ms` counts for a new entry only.
    pub(super) fn apply(&self, row: &Arc<NodeRow>, now_ms: u64, last_heartbeat: Option<i64>) {
        let mut shard = self.shard(&row.node).write();
        let entries = shard.entry(row.node.clone()).or_default();
        let at = entries.iter().position(|entry| entry.row.lock().session == row.session);
        match (at, row.is_joined()) {
            (Some(at), true) => {
                let before = std::mem::replace(&mut *entries[at].row.lock(), row.clone());
                if before.key != row.key {
                    self.shift(&before.key, Some(&row.key));
                }
            }
            (Some(at), false) => {
                let gone = entries.swap_remove(at);
                self.shift(&gone.row.lock().key, None);
                self.count.fetch_sub(1, Ordering::Relaxed);
            }
            (None, true) => {
                entries.push(Arc::new(Entry {
                    row: Mutex::new(row.clone()),
                    heard_ms: AtomicU64::new(now_ms),
                    last_heartbeat_unix_ms: AtomicI64::new(last_heartbeat.unwrap_or(0)),
                    reported_degraded: AtomicBool::new(false),
                    unsaved: AtomicBool::new(false),
                }));
                *self.by_key.lock().entry(row.key.clone()).or_default() += 1;
                self.count.fetch_add(1, Ordering::Relaxed);
            }
            (None, false) => {}
        }
        if entries.is_empty() {
            shard.remove(&row.node);
        }
        drop(shard);
        self.attached.set(i64::try_from(self.len()).unwrap_or(i64::MAX));
    }

    /// One attachment less of a key, and one more of another.
    fn shift(&self, from: &KeyId, to: Option<&KeyId>) {
        let mut by_key = self.by_key.lock();
        if let Some(count) = by_key.get_mut(from) {
            *count -= 1;
            if *count == 0 {
                by_key.remove(from);
            }
        }
        if let Some(to) = to {
            *by_key.entry(to.clone()).or_default() += 1;
        }
    }
}

// === impl Entry ===

impl Entry {
    pub(super) fn row(&self) -> Arc<NodeRow> {
        self.row.lock().clone()
    }

    pub(super) fn beat(&self, now_ms: u64, now_unix_ms: i64, report: Report) {
        self.heard(now_ms);
        self.last_heartbeat_unix_ms.store(now_unix_ms, Ordering::Relaxed);
        self.reported_degraded.store(report == Report::Degraded, Ordering::Relaxed);
        self.unsaved.store(true, Ordering::Release);
    }

    /// Attached anew: silence counts from now, and nothing was reported yet.
    pub(super) fn begin(&self, now_ms: u64) {
        self.heard(now_ms);
        self.reported_degraded.store(false, Ordering::Relaxed);
    }

    pub(super) fn heard(&self, now_ms: u64) {
        self.heard_ms.fetch_max(now_ms, Ordering::SeqCst);
    }

    /// The gateway itself did not run for so long: not the node's silence.
    pub(super) fn excuse(&self, by_ms: u64, now_ms: u64) {
        let _always = self.heard_ms.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |heard| {
            Some(heard.saturating_add(by_ms).min(now_ms).max(heard))
        });
    }

    pub(super) fn silence_ms(&self, now_ms: u64) -> u64 {
        now_ms.saturating_sub(self.heard_ms.load(Ordering::SeqCst))
    }

    pub(super) fn last_heartbeat_unix_ms(&self) -> Option<i64> {
        Some(self.last_heartbeat_unix_ms.load(Ordering::Relaxed)).filter(|at| *at != 0)
    }

    pub(super) fn report(&self) -> Report {
        if self.reported_degraded.load(Ordering::Relaxed) { Report::Degraded } else { Report::Online }
    }

    pub(super) fn is_unsaved(&self) -> bool {
        self.unsaved.load(Ordering::Acquire)
    }

    /// For the presence table; what comes after this call is unsaved again.
    pub(super) fn take_presence(&self) -> Option<PresenceRow> {
        if !self.unsaved.swap(false, Ordering::AcqRel) {
            return None;
        }
        let row = self.row();
        let reported = match self.report() {
            Report::Online => NodeState::Online,
            Report::Degraded => NodeState::Degraded,
        };
        let last_heartbeat_unix_ms = self.last_heartbeat_unix_ms()?;
        Some(PresenceRow { node: row.node.clone(), session: row.session.clone(), last_heartbeat_unix_ms, reported })
    }

    /// The write failed.
    pub(super) fn keep_unsaved(&self) {
        self.unsaved.store(true, Ordering::Release);
    }
}
