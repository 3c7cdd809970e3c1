//! What is known of one connection, and what is counted on it: requests in hand, event streams, those that deliver. Knows no
//! socket and no service. Invariant: whatever is counted is given back when its guard is dropped.

use crate::{
    error::{Code, Error, Result},
    neighbours::Neighbour,
    telemetry::{Limit, Metrics},
    tls::Certificate,
};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long a connection that was accepted just before the end may take to be used: what it asks first is answered, with
/// the reason, instead of being cut. Guessed: a round trip.
pub(super) const FIRST_REQUEST: Duration = Duration::from_millis(300);
const FIRST_REQUEST_LOOK: Duration = Duration::from_millis(10);
/// At the end a connection on which nothing is under way is cut when its peer does not answer the goodbye in this time.
/// Guessed: some round trips.
const SILENCE: Duration = Duration::from_secs(1);

/// How long a connection lives on which nobody was let in and nothing is under way: strangers hold a place no longer.
/// Guessed.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(20);

/// What is known of one connection, shared with its streams.
#[derive(Debug, Default)]
pub(in crate::grpc) struct Connection {
    /// Nobody on the way can read it.
    pub(super) private: bool,
    pub(super) certificate: Certificate,
    pub(super) cut: CancellationToken,
    /// A key was accepted on it, or its socket lets in whoever can open it.
    pub(super) let_in: AtomicBool,
    /// Its place among those of its address, until a key was accepted.
    pub(super) stranger: Mutex<Option<Neighbour>>,
    /// Calls of health and reflection that came, which need no key.
    pub(super) without_key: AtomicU64,
    /// Requests that came, and those that are not answered to the end.
    pub(super) asked: AtomicU64,
    pub(super) in_hand: AtomicUsize,
    /// Event streams that are not stalled.
    pub(super) live: Arc<AtomicUsize>,
    /// Event streams, and how many there may be.
    pub(super) streams: Arc<AtomicU32>,
    pub(super) streams_max: u32,
}

/// Counts one request of a connection until its answer has been handed over to the end.
#[derive(Debug)]
pub(super) struct InHand(Arc<Connection>);

/// Counts one event stream of a connection against its bound for as long as it lives.
#[derive(Debug)]
pub(in crate::grpc) struct OnConnection(Arc<AtomicU32>);

/// Counts one event stream for as long as it lives.
#[derive(Debug)]
pub(in crate::grpc) struct LiveStream(Arc<AtomicUsize>);

// === impl Connection ===

impl Connection {
    pub(in crate::grpc) fn live_stream(&self) -> LiveStream {
        self.live.fetch_add(1, Ordering::SeqCst);
        LiveStream(self.live.clone())
    }

    /// A place for one more event stream on it.
    pub(in crate::grpc) fn stream(&self, metrics: &Metrics) -> Result<OnConnection> {
        let max = self.streams_max;
        let taken = |count: u32| (count < max).then_some(count + 1);
        if self.streams.fetch_update(Ordering::SeqCst, Ordering::SeqCst, taken).is_ok() {
            return Ok(OnConnection(self.streams.clone()));
        }
        metrics.limits.reached.of(Limit::StreamsPerConnection).inc();
        let message = format!("the connection carries {max} event streams, the most it may");
        Err(Error::new(Code::StreamConnectionLimit, message)
            .with("max", max)
            .with("quota", "connection")
            .with("retry_ms", 1_000))
    }

    /// No event stream on it delivers.
    pub(in crate::grpc) fn is_idle(&self) -> bool {
        self.live.load(Ordering::SeqCst) == 0
    }

    pub(in crate::grpc) fn cut(&self) {
        self.cut.cancel();
    }

    pub(super) fn let_in(&self) {
        if !self.let_in.swap(true, Ordering::SeqCst) {
            drop(self.stranger.lock().take());
        }
    }

    pub(super) fn asked_without_key(&self) {
        self.without_key.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns when it holds a place for nothing. Whoever was let in may keep it; who asks without a key has it while
    /// something is under way, and for a while after that.
    pub(super) async fn unused(&self) {
        loop {
            let asked = self.without_key.load(Ordering::SeqCst);
            tokio::time::sleep(UNUSED_TIMEOUT).await;
            if self.let_in.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let goes_on = asked > 0 && self.in_hand.load(Ordering::SeqCst) > 0;
            if !goes_on && self.without_key.load(Ordering::SeqCst) == asked {
                return;
            }
        }
    }

    /// Returns when it has been used, or was not in time.
    pub(super) async fn first_request(&self) {
        let is_used = || self.let_in.load(Ordering::SeqCst) || self.without_key.load(Ordering::SeqCst) > 0;
        let used = async {
            while !is_used() {
                tokio::time::sleep(FIRST_REQUEST_LOOK).await;
            }
        };
        let _unused = tokio::time::timeout(FIRST_REQUEST, used).await;
    }

    pub(super) fn take_in_hand(self: &Arc<Self>) -> InHand {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.in_hand.fetch_add(1, Ordering::SeqCst);
        InHand(self.clone())
    }

    /// Returns when nothing has been asked for `SILENCE`. Never, if something is under way at first: what was handed over of
    /// it to the end may be on its way to a slow peer, which has the time of the drain.
    pub(super) async fn silence(&self) {
        if self.in_hand.load(Ordering::SeqCst) > 0 {
            std::future::pending::<()>().await;
        }
        loop {
            let asked = self.asked.load(Ordering::SeqCst);
            tokio::time::sleep(SILENCE).await;
            if self.in_hand.load(Ordering::SeqCst) == 0 && self.asked.load(Ordering::SeqCst) == asked {
                return;
            }
        }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for OnConnection {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for LiveStream {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::neighbours::Neighbours;
    use std::net::{IpAddr, Ipv4Addr};
    use tokio::time::{Instant, sleep, timeout};

    const LONG: Duration = Duration::from_secs(600);
    const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    #[test]
    fn who_was_let_in_leaves_its_place_to_the_strangers_of_its_address() {
        let neighbours = Arc::new(Neighbours::new(1, 1));
        let client = Connection { stranger: Mutex::new(neighbours.join(LOCALHOST)), ..Connection::default() };
        assert!(neighbours.join(LOCALHOST).is_none());
        client.let_in();
        client.let_in();
        let stranger = neighbours.join(LOCALHOST).expect("its place is free");
        assert!(neighbours.join(LOCALHOST).is_none());
        drop((client, stranger));
        assert!(neighbours.join(LOCALHOST).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_keeps_a_connection_only_while_something_is_under_way() {
        let stranger = Arc::new(Connection::default());
        let began = Instant::now();
        stranger.asked_without_key();
        let call = stranger.take_in_hand();
        assert!(timeout(LONG, stranger.unused()).await.is_err(), "a watch of health");
        drop(call);
        let (since, unused) = (Instant::now(), stranger.unused());
        let again = async {
            sleep(UNUSED_TIMEOUT / 2).await;
            stranger.asked_without_key();
        };
        tokio::join!(timeout(LONG, unused), again).0.expect("over");
        assert_eq!(since.elapsed(), UNUSED_TIMEOUT * 2, "looked at once in a while");
        assert!(began.elapsed() > LONG);

        let wrong_key = Arc::new(Connection::default());
        let _call = wrong_key.take_in_hand();
        timeout(UNUSED_TIMEOUT * 2, wrong_key.unused()).await.expect("whatever it sends");
        let client = Connection::default();
        client.let_in();
        assert!(timeout(LONG, client.unused()).await.is_err());
    }
}
