//! One reader of a session's alarms: a snapshot, its end, then changes; anew when it was too slow, when its rights changed,
//! when the provider did. Knows the table and the rights, no transport. Invariants: what it hands over was allowed by the
//! generation and the keys that are current at that moment; between the beginning and the end of a snapshot there is no
//! change; a change that it does not hand over is withheld, or in a snapshot that it announces.

use super::{
    super::{Session, Share, session::AlarmPlace},
    rights::Rights,
    table::{Change, Look, Standing, Why},
};
use crate::{
    error::Result,
    policies::Policies,
    telemetry::{AlarmMetrics, AlarmSnapshot},
};
use std::{collections::VecDeque, sync::Arc};
use tidegate_proto::v1::{Alarm, AlarmProvider, alarm_transition::Kind};
use tokio::sync::watch;

/// Alarms handed over at a time.
const PART_ALARMS: usize = 256;

/// What a reader hears.
#[derive(Clone, Debug)]
pub enum Told {
    Begins { why: Why, provider: AlarmProvider },
    Standing(Vec<Arc<Alarm>>),
    Complete { revision: u64, epoch: u64, generation: u64, standing: u32, withheld: u32, not_kept: u32 },
    Transition(Kind, Arc<Alarm>),
    Provider(AlarmProvider),
}

/// A client's reader. Dropping it gives its places back.
#[derive(Debug)]
pub struct AlarmReader {
    session: Arc<Session>,
    policies: Policies,
    rights: Rights,
    bell: watch::Receiver<u64>,
    /// Behind the last change that was handed over; none: a snapshot is due.
    position: Option<u64>,
    /// Why the next snapshot, when it is this reader's own doing.
    why: Option<Why>,
    sending: Option<Sending>,
    provider: Option<AlarmProvider>,
    metrics: AlarmMetrics,
    _place: AlarmPlace,
    _share: Share,
}

/// A snapshot on its way.
#[derive(Debug)]
struct Sending {
    why: Why,
    begun: bool,
    left: VecDeque<Arc<Alarm>>,
    of: Standing,
    standing: u32,
    withheld: u32,
}

// === impl AlarmReader ===

impl AlarmReader {
    pub(super) fn new(
        session: Arc<Session>,
        policies: Policies,
        rights: Rights,
        place: AlarmPlace,
        share: Share,
    ) -> Self {
        let metrics = session.metrics.alarms.clone();
        metrics.streams_open.inc();
        Self {
            bell: session.alarms.bell(),
            session,
            policies,
            rights,
            position: None,
            why: None,
            sending: None,
            provider: None,
            metrics,
            _place: place,
            _share: share,
        }
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// The next thing to hear. An error is the end. Nothing is awaited between the look at the stamp and the return.
    pub async fn next(&mut self) -> Result<Told> {
        let mut generations = self.policies.host().watch();
        let mut keys = self.session.watch_keys();
        loop {
            self.bell.borrow_and_update();
            generations.borrow_and_update();
            keys.borrow_and_update();
            if !self.rights.is_current(&self.session, &self.policies) {
                if self.rights.renew(&self.session, &self.policies).await? {
                    self.position = None;
                    self.why = Some(Why::Rights);
                    self.sending = None;
                }
                continue;
            }
            if let Some(told) = self.send() {
                return Ok(told);
            }
            match self.session.alarms.look(self.position) {
                Look::Anew(why, standing) => {
                    if self.rights.judge(&self.session, &self.policies, &standing.tags()).await? {
                        self.begin(why, standing);
                    }
                }
                Look::Next(Change::Provider(provider)) => {
                    self.advance();
                    self.provider = Some(provider.clone());
                    return Ok(Told::Provider(provider));
                }
                Look::Next(Change::Transition(kind, alarm)) => {
                    if !self.rights.knows(&alarm.tag) {
                        let tag: Arc<str> = alarm.tag.as_str().into();
                        self.rights.judge(&self.session, &self.policies, &[tag]).await?;
                        continue;
                    }
                    self.advance();
                    if self.rights.sees(&alarm.tag) {
                        return Ok(Told::Transition(kind, alarm));
                    }
                }
                Look::Ended(error) => return Err(error),
                Look::Wait => {
                    tokio::select! {
                        _rung = self.bell.changed() => {}
                        _flipped = generations.changed() => {}
                        _changed = keys.changed() => {}
                    }
                }
            }
        }
    }

    fn advance(&mut self) {
        self.position = self.position.map(|at| at + 1);
    }

    fn begin(&mut self, why: Why, of: Standing) {
        let why = self.why.take().unwrap_or(why);
        let rights = &self.rights;
        let left: VecDeque<Arc<Alarm>> = of.alarms.iter().filter(|alarm| rights.sees(&alarm.tag)).cloned().collect();
        let (standing, withheld) = (count(left.len()), count(of.alarms.len() - left.len()));
        self.position = Some(of.at);
        self.metrics.snapshots.of(counted(why)).inc();
        let of = Standing { alarms: Vec::new(), ..of };
        self.sending = Some(Sending { why, begun: false, left, of, standing, withheld });
    }

    /// The next piece of the snapshot under way.
    fn send(&mut self) -> Option<Told> {
        let sending = self.sending.as_mut()?;
        if !sending.begun {
            // Said before the snapshot that follows from it, and only to who knew another one.
            let provider = sending.of.provider.clone();
            let before = self.provider.replace(provider.clone());
            if before.is_some_and(|before| before != provider) {
                return Some(Told::Provider(provider));
            }
            sending.begun = true;
            return Some(Told::Begins { why: sending.why, provider });
        }
        if !sending.left.is_empty() {
            let part = sending.left.len().min(PART_ALARMS);
            return Some(Told::Standing(sending.left.drain(..part).collect()));
        }
        let complete = Told::Complete {
            revision: sending.of.revision,
            epoch: self.session.identity.epoch,
            generation: self.rights.generation(),
            standing: sending.standing,
            withheld: sending.withheld,
            not_kept: u32::try_from(sending.of.not_kept).unwrap_or(u32::MAX),
        };
        self.sending = None;
        Some(complete)
    }
}

impl Drop for AlarmReader {
    fn drop(&mut self) {
        self.metrics.streams_open.dec();
    }
}

fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn counted(why: Why) -> AlarmSnapshot {
    match why {
        Why::Opened => AlarmSnapshot::Opened,
        Why::TooSlow => AlarmSnapshot::TooSlow,
        Why::Provider => AlarmSnapshot::Provider,
        Why::Rights => AlarmSnapshot::Rights,
        Why::Resynced => AlarmSnapshot::Resynced,
    }
}
