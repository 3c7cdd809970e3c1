//! The accept loop: bounds on connections, in all and of one address, on the time for heads, bodies and answers, on the
//! drain. Knows sockets and a router, no page. Invariants: no connection outlives it; who says nothing and who takes nothing
//! loses the connection.

mod patient;

pub(super) use patient::Patience;

use crate::{
    neighbours::Neighbours,
    telemetry::{Counter, Repeated},
    tls::{Certificate, Protocol, Tls},
};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use patient::Taken;
use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Bytes of a request's head.
const HEAD_MAX: usize = 64 << 10;
/// When the process is out of descriptors, accepting again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection that was accepted just before the end may take to send its request: that is answered instead of
/// being cut. Guessed: a round trip.
const FIRST_REQUEST: Duration = Duration::from_millis(300);

/// What connections may take. There is no setting for it: nobody has needed another one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Open at once; more wait in the kernel's backlog. Guessed: half of them for open pages.
    pub(super) connections: usize,
    /// Of one address, or one network of IPv6: the others have the rest.
    pub(super) of_one_address: usize,
    /// The same for this machine, where a proxy may speak for everybody.
    pub(super) of_loopback: usize,
    /// A request's head must be there by then, also on a connection that is kept alive.
    pub(super) head: Duration,
    /// So must its body.
    pub(super) body: Duration,
    /// Of an answer something must be taken by then.
    pub(super) taking: Duration,
}

/// Whose request it is, in its extensions.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) ip: IpAddr,
    pub(super) certificate: Certificate,
}

pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    router: Router,
    failures: Counter,
    shutdown: impl Future<Output = ()>,
    drain: Duration,
    bounds: Bounds,
) {
    let (mut trouble, mut crowd) = (Repeated::default(), Repeated::default());
    let mut connections = JoinSet::new();
    let places = Arc::new(Semaphore::new(bounds.connections));
    let neighbours = Arc::new(Neighbours::new(bounds.of_one_address, bounds.of_loopback));
    let stopping = CancellationToken::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (listener.accept().await, place)
        };
        tokio::select! {
            () = &mut shutdown => break,
            (accepted, place) = accepted => match accepted {
                Ok((stream, peer)) => {
                    let _ = stream.set_nodelay(true);
                    let peer = Peer { ip: peer.ip().to_canonical(), certificate: Certificate::default() };
                    let Some(neighbour) = neighbours.join(peer.ip) else {
                        if let Some(more) = crowd.again() {
                            tracing::warn!(peer = %peer.ip, more, "an address has as many HTTP connections open as it may; more are closed");
                        }
                        continue;
                    };
                    let (tls, router, stopping) = (tls.clone(), router.clone(), stopping.clone());
                    connections.spawn(async move {
                        match tls {
                            None => connection(stream, peer, router, stopping, bounds).await,
                            Some(tls) => {
                                let late = async {
                                    stopping.cancelled().await;
                                    tokio::time::sleep(FIRST_REQUEST).await;
                                };
                                let shaken = tokio::select! {
                                    biased;
                                    shaken = tls.accept(stream, Protocol::Http) => shaken,
                                    () = late => None,
                                };
                                if let Some((stream, certificate)) = shaken {
                                    connection(stream, Peer { certificate, ..peer }, router, stopping, bounds).await;
                                }
                            }
                        }
                        drop((neighbour, place));
                    });
                }
                Err(error) => {
                    failures.inc();
                    if let Some(more) = trouble.again() {
                        tracing::warn!(%error, more, "the HTTP listener cannot accept connections just now");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    tracing::error!("an HTTP connection panicked; this is a defect");
                }
            }
        }
    }
    drop(listener);
    stopping.cancel();
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(drain, all).await.is_err() {
        tracing::warn!(left = connections.len(), "HTTP connections did not end in time and were cut");
        connections.shutdown().await;
    }
}

async fn connection<S>(stream: S, peer: Peer, router: Router, stopping: CancellationToken, bounds: Bounds)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(bounds.head).max_buf_size(HEAD_MAX);
    // One extension per request; layering the router would rebuild it for each connection.
    let (used, is_used) = watch::channel(false);
    let patience = Patience { limit: bounds.body, stopping: stopping.clone(), then: FIRST_REQUEST };
    let service = tower::ServiceBuilder::new()
        .map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            used.send_replace(true);
            request.extensions_mut().insert(peer.clone());
            request.extensions_mut().insert(patience.clone());
            request
        })
        .service(router);
    let service = TowerToHyperService::new(service);
    let mut connection = pin!(server.serve_connection(TokioIo::new(Taken::new(stream, bounds.taking)), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            let mut is_used = is_used;
            let first_request = async { is_used.wait_for(|used| *used).await.is_ok() };
            tokio::select! {
                ended = connection.as_mut() => ended,
                asked = timeout(FIRST_REQUEST, first_request) => {
                    if asked != Ok(true) {
                        // It has said nothing, and nobody waits for it.
                        return;
                    }
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            }
        }
    };
    if let Err(error) = ended {
        // Clients that go away are everyday.
        tracing::debug!(%error, "an HTTP connection ended early");
    }
}

// === impl Bounds ===

impl Default for Bounds {
    fn default() -> Self {
        let ten_seconds = Duration::from_secs(10);
        Self {
            connections: 256,
            of_one_address: 64,
            of_loopback: 192,
            head: ten_seconds,
            body: ten_seconds,
            taking: ten_seconds,
        }
    }
}
