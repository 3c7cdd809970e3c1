//! What others may see of a reader and tell it: its position, how far it ever was behind, the order it
//! has not yet followed. The cursor itself belongs to its stream. Knows no policy. Invariant: a reader
//! that waits is woken by every order, and by every event unless it said from which one on.

mod bell;

use super::{EndReason, pace::Meter};
use bell::{Bell, Fence};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::Waker,
};

/// Who a reader is, said when it attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReaderSpec {
    /// For people.
    pub name: String,
    pub key_id: String,
    /// A client, not a part of the gateway (S-09).
    pub external: bool,
    /// How long an event may be held back to go together with others; 0: not at all.
    pub max_linger_ms: u64,
}

/// What the back-pressure policy or the session wants of a reader. Each is followed at its next poll.
#[derive(Clone, Debug)]
pub enum Order {
    /// Only the newest value per item until it has caught up.
    Conflate,
    /// Move on to the newest `keep_newest` events as of the poll that follows; the rest is told as a gap.
    Skip { keep_newest: u64 },
    /// End now, without draining.
    End(EndReason),
}

/// How a reader is being served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReaderMode {
    Normal = 0,
    Conflating = 1,
}

/// The shared half of a cursor.
#[derive(Debug)]
pub struct ReaderControl {
    id: u64,
    spec: ReaderSpec,
    /// Everything up to here is delivered, filtered, conflated or told as a gap. The cursor writes it.
    position: AtomicU64,
    /// What may already be on its way to the socket. Never below what is.
    fence: Fence,
    lag_high_water: AtomicU64,
    mode: AtomicU8,
    has_orders: AtomicBool,
    orders: Mutex<Orders>,
    bell: Bell<Waker>,
    /// How fast it reads; whoever looks after the log takes the samples.
    pub(super) meter: Meter,
}

/// Orders not yet followed. A new one replaces its like.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) conflate: bool,
    pub(super) keep_newest: Option<u64>,
    pub(super) end: Option<EndReason>,
}

// === impl ReaderControl ===

impl ReaderControl {
    pub(super) fn new(id: u64, spec: ReaderSpec, position: u64, now_ms: u64) -> Arc<Self> {
        Arc::new(Self {
            id,
            spec,
            position: AtomicU64::new(position),
            fence: Fence::new(position),
            lag_high_water: AtomicU64::new(0),
            mode: AtomicU8::new(ReaderMode::Normal as u8),
            has_orders: AtomicBool::new(false),
            orders: Mutex::default(),
            bell: Bell::new(),
            meter: Meter::new(now_ms, position),
        })
    }

    /// Unique within the log.
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    pub fn key_id(&self) -> &str {
        &self.spec.key_id
    }

    pub fn is_external(&self) -> bool {
        self.spec.external
    }

    pub fn max_linger_ms(&self) -> u64 {
        self.spec.max_linger_ms
    }

    /// The newest sequence this reader is done with.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::Acquire)
    }

    /// The newest sequence that may be in the transport: the fence of a swap. Sequentially consistent, so
    /// that of "publish the position, read the generation" and "publish the generation, read the position"
    /// at least one sees the other.
    pub fn intended(&self) -> u64 {
        self.fence.read()
    }

    /// The largest lag at any poll, in events.
    pub fn lag_high_water(&self) -> u64 {
        self.lag_high_water.load(Ordering::Relaxed)
    }

    pub fn mode(&self) -> ReaderMode {
        if self.mode.load(Ordering::Relaxed) == 0 { ReaderMode::Normal } else { ReaderMode::Conflating }
    }

    /// Tells the reader what to do and wakes it.
    pub fn order(&self, order: Order) {
        {
            let mut orders = self.orders.lock();
            match order {
                Order::Conflate => orders.conflate = true,
                Order::Skip { keep_newest } => orders.keep_newest = Some(keep_newest),
                // The first reason is the one the client hears.
                Order::End(reason) => drop(orders.end.get_or_insert(reason)),
            }
            self.has_orders.store(true, Ordering::SeqCst);
        }
        self.wake();
    }

    /// Wakes the reader whatever it waits for: to look at verdicts, orders or the end again.
    pub fn wake(&self) {
        if let Some(waker) = self.bell.ring() {
            waker.wake();
        }
    }

    /// It was told to end and has not yet: its connection takes nothing, or it will be polled in a moment.
    pub fn is_told_to_end(&self) -> bool {
        self.has_orders() && self.orders.lock().end.is_some()
    }

    pub(super) fn has_orders(&self) -> bool {
        self.has_orders.load(Ordering::SeqCst)
    }

    pub(super) fn take_orders(&self) -> Option<Orders> {
        self.has_orders().then(|| {
            let mut orders = self.orders.lock();
            self.has_orders.store(false, Ordering::SeqCst);
            std::mem::take(&mut *orders)
        })
    }

    /// The waker, if the reader waits for an event that `head` has reached.
    pub(super) fn take_waker_at(&self, head: u64) -> Option<Waker> {
        self.bell.ring_at(head)
    }

    /// Waits for an event from `wake_from` on. The caller looks again afterwards, so nothing is missed.
    pub(super) fn wait(&self, waker: &Waker, wake_from: u64) {
        self.bell.wait(wake_from, |old| old.will_wake(waker), || waker.clone());
    }

    pub(super) fn saw_lag(&self, lag: u64) {
        if lag > self.lag_high_water.load(Ordering::Relaxed) {
            self.lag_high_water.store(lag, Ordering::Relaxed);
        }
    }

    pub(super) fn move_to(&self, position: u64) {
        self.position.store(position, Ordering::Release);
    }

    pub(super) fn intend(&self, to: u64) {
        self.fence.intend(to);
    }

    pub(super) fn set_mode(&self, mode: ReaderMode) {
        self.mode.store(mode as u8, Ordering::Relaxed);
    }
}
