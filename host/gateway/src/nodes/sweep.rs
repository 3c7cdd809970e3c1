//! The look at all nodes every five seconds: who fell silent, whose session has ended, which signs of life
//! are to be saved. Knows rules and registry. Invariants: only transitions are written, at most `BATCH` in one
//! piece, so that other writers get in between; time in which the gateway stood still is nobody's silence.

use super::{Nodes, registry::Entry, registry::SHARDS, rules};
use crate::{
    error::Result,
    ids::SessionId,
    storage::{NodeEdited, NodeRow, NodeState},
};
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Required by N-06.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Rows in one piece of a write; measured: a few milliseconds.
const BATCH: usize = 512;
/// Signs of life are saved with every so many sweeps: after a crash a stored one is at most 30 s old.
const SAVE_EVERY: u32 = 6;
/// A pause between two sweeps longer than this means that the gateway stood still (stopped, suspended,
/// starved), and heartbeats may wait in its sockets. Guessed: twice the cadence.
const STALL_MS: u64 = 2 * SWEEP_EVERY.as_millis() as u64;

/// What one sweep leaves for the next.
#[derive(Debug)]
pub(super) struct Memory {
    swept_ms: u64,
    until_save: u32,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub degraded: usize,
    pub offline: usize,
    /// Detached because their session has ended.
    pub ended: usize,
    /// Signs of life written.
    pub saved: usize,
    /// How long the gateway stood still, if it did.
    pub excused_ms: u64,
}

// === impl Memory ===

impl Memory {
    pub(super) fn new(now_ms: u64) -> Self {
        Self { swept_ms: now_ms, until_save: SAVE_EVERY }
    }
}

// === impl Nodes ===

impl Nodes {
    /// Sweeps until it is cancelled.
    pub async fn run(self) {
        let mut tick = tokio::time::interval(SWEEP_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        tick.tick().await;
        loop {
            tick.tick().await;
            if let Err(error) = self.sweep().await {
                tracing::warn!(%error, "a sweep over the nodes was not finished; the next one is in 5 s");
            }
        }
    }

    /// One sweep. The floor is read again with it, so that damage in the file stops writes and shows on the health page.
    pub async fn sweep(&self) -> Result<Swept> {
        let mut memory = self.shared.sweeping.lock().await;
        let swept = self.sweep_all(&mut memory).await;
        // The end counts: a sweep that took long was at work, not standing still.
        memory.swept_ms = self.shared.clock.monotonic_ms();
        swept
    }

    async fn sweep_all(&self, memory: &mut Memory) -> Result<Swept> {
        let shared = &self.shared;
        let mut swept = Swept::default();
        // What is wrong with the floor holds up nothing else; it is told at the end.
        let floor = self.look_at_floor().await;
        let now = shared.clock.monotonic_ms();
        let pause = now.saturating_sub(memory.swept_ms);
        if pause > STALL_MS {
            swept.excused_ms = pause - SWEEP_EVERY.as_millis() as u64;
            tracing::warn!(ms = swept.excused_ms, "the gateway stood still; nodes are not blamed for it");
        }
        let mut open = HashMap::<SessionId, bool>::new();
        let (mut silent, mut ended) = (Vec::new(), Vec::new());
        for shard in 0..SHARDS {
            for entry in shared.registry.all(shard) {
                if swept.excused_ms > 0 {
                    entry.excuse(swept.excused_ms, now);
                }
                let row = entry.row();
                let is_open = |session: &SessionId| shared.places.is_open(session);
                if !*open.entry(row.session.clone()).or_insert_with_key(is_open) {
                    ended.push((row.seq, entry));
                } else if rules::silent(row.state, entry.silence_ms(now)).is_some() {
                    silent.push((row.seq, entry));
                }
            }
            tokio::task::yield_now().await;
        }
        for batch in in_order(silent).chunks(BATCH) {
            self.silent(batch, &mut swept).await?;
        }
        for batch in in_order(ended).chunks(BATCH) {
            swept.ended += self.ended(batch).await?;
        }
        memory.until_save = memory.until_save.saturating_sub(1);
        if memory.until_save == 0 {
            memory.until_save = SAVE_EVERY;
            swept.saved = self.save_presence().await?;
        }
        floor.map(|()| swept)
    }

    /// Writes the signs of life that are not saved yet; also the last act of a gateway that stops.
    pub async fn save_presence(&self) -> Result<usize> {
        let shared = &self.shared;
        let mut unsaved = Vec::new();
        for shard in 0..SHARDS {
            let found = shared.registry.all(shard).into_iter().filter(|entry| entry.is_unsaved());
            unsaved.extend(found.map(|entry| (entry.row().node.clone(), entry)));
        }
        let mut saved = 0;
        for batch in in_order(unsaved).chunks(BATCH) {
            let rows: Vec<_> = batch.iter().filter_map(|entry| entry.take_presence()).collect();
            saved += rows.len();
            if let Err(error) = shared.storage.node_presence(rows).await {
                batch.iter().for_each(|entry| entry.keep_unsaved());
                return Err(error);
            }
        }
        Ok(saved)
    }

    async fn silent(&self, batch: &[Arc<Entry>], swept: &mut Swept) -> Result<()> {
        let (entries, clock) = (batch.to_vec(), self.shared.clock.clone());
        // Looks once more when the write's turn has come: a heartbeat may have been quicker.
        let rule = move |at: usize, row: &NodeRow| {
            // The row has moved on and memory has yet to follow: the next sweep judges what it is then.
            if *entries[at].row() != *row {
                return None;
            }
            let silence = entries[at].silence_ms(clock.monotonic_ms());
            let state = rules::silent(row.state, silence).filter(|_| row.is_joined())?;
            Some(NodeRow { state, updated_unix_ms: clock.unix_ms() as i64, ..row.clone() })
        };
        let edited = self.edit_batch(batch, "stale", rule).await?;
        let offline = edited.iter().filter(|one| one.row.state == NodeState::Offline).count();
        swept.offline += offline;
        swept.degraded += edited.len() - offline;
        // And one that came between that look and the commit brings the node back now, not with the next one.
        let now = self.shared.clock.monotonic_ms();
        for entry in batch.iter().filter(|entry| entry.silence_ms(now) <= rules::DEGRADED_AFTER_MS) {
            let (row, report) = (entry.row(), entry.report());
            if row.state == report.state() || !matches!(row.state, NodeState::Degraded | NodeState::Offline) {
                continue;
            }
            let at = self.shared.clock.unix_ms() as i64;
            let rule = move |old: Option<&NodeRow>| rules::heartbeat(old, &super::Holder::Operator, report, at);
            if let Err(error) = self.edit(row.node.clone(), row.session.clone(), "heartbeat", false, rule).await {
                tracing::debug!(node = %row.node, %error, "the node stays as it is until its next heartbeat");
            }
        }
        Ok(())
    }

    async fn ended(&self, batch: &[Arc<Entry>]) -> Result<usize> {
        let clock = self.shared.clock.clone();
        let rule = move |_: usize, row: &NodeRow| rules::session_ended(row, clock.unix_ms() as i64);
        Ok(self.edit_batch(batch, "session-ended", rule).await?.len())
    }

    async fn edit_batch<R>(&self, batch: &[Arc<Entry>], cause: &'static str, rule: R) -> Result<Vec<NodeEdited>>
    where
        R: Fn(usize, &NodeRow) -> Option<NodeRow> + Send + 'static,
    {
        let which = batch.iter().map(|entry| entry.row()).map(|row| (row.node.clone(), row.session.clone())).collect();
        let shared = self.shared.clone();
        let follow = move |edited: &Vec<NodeEdited>| edited.iter().for_each(|one| shared.follow(one, cause));
        self.shared.storage.edit_nodes(which, rule, follow).await
    }
}

/// As they lie in the table: a batch then touches tens of pages, not hundreds.
fn in_order<K: Ord>(mut found: Vec<(K, Arc<Entry>)>) -> Vec<Arc<Entry>> {
    found.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    found.into_iter().map(|(_, entry)| entry).collect()
}
