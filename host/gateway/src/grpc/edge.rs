//! The accept loop: connections, keys, deadlines, the way of each request to its service, and the drain. Owned
//! here because tonic's own server has neither a bounded shutdown nor limits per connection. Knows no
//! session. Invariant: `serve` returns within the drain deadline, with every connection ended.

mod connection;

pub(super) use connection::{Connection, OnConnection};

use super::{
    admin::{AdminContext, AdminService},
    alarms::AlarmService,
    body::{EdgeBody, Lasting},
    gateway::GatewayService,
    gather::Gathering,
    health::HealthService,
    nodes::NodeService,
    people::PeopleService,
    status::status,
    stream::{self, EventStream},
};
use crate::{
    descriptors::{self, Spare},
    error::{Code, Error, Result},
    keys::{self, Keys, Scope},
    neighbours::Neighbours,
    sessions::{Caller, Sessions},
    telemetry::{Metrics, Repeated},
    tls::{Protocol, Tls},
};
use connection::FIRST_REQUEST;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};
use tidegate_proto::v1::{
    admin_server::AdminServer, alarms_server::AlarmsServer, gateway_server::GatewayServer,
    node_admin_server::NodeAdminServer, people_admin_server::PeopleAdminServer,
    runtime_nodes_server::RuntimeNodesServer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{server::NamedService, service::Routes};
use tonic_health::pb::health_server::HealthServer;
use tower::ServiceExt as _;

/// A message of an operator: a candidate is a component of up to 64 MiB, and its settings.
const CANDIDATE_BYTES_MAX: usize = 66 << 20;
/// Any other message; tonic's own default.
const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Open connections per listener; more wait in the backlog. Guessed: 64 sessions with 8 readers each, twice.
const CONNECTIONS_MAX: usize = 1024;
/// Of them, those of one address, or network (IPv6), on which no key was accepted yet: half; and three quarters of this
/// machine's own, behind whose proxy many may be. More are closed.
const OF_ONE_ADDRESS_MAX: usize = 512;
const OF_LOOPBACK_MAX: usize = 768;
/// HTTP/2 streams per connection, beside its event streams: calls under way. Above it a client waits without a word.
const CALLS_PER_CONNECTION_MAX: u32 = 128;
/// 64 KiB windows cost a fifth and more (measured); uploads are small, so only downloads matter, and those the client sets.
const WINDOW_BYTES: u32 = 1 << 20;
/// What h2 may hold of one response: one message in flight, not more (semantics.md, Streams).
const SEND_BUFFER_BYTES: usize = 256 << 10;
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A peer that does not answer a ping in time is gone (S-12 then counts from there).
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the system had no descriptor for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a peer may take to begin HTTP/2; strangers hold a place among `CONNECTIONS_MAX` no longer. Guessed.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(5);
/// Services of the operators: on their socket, and where it is switched on over the network.
const ADMIN: [&str; 3] = ["/tidegate.v1.Admin/", "/tidegate.v1.NodeAdmin/", "/tidegate.v1.PeopleAdmin/"];
/// tonic names them by types that it does not let out.
const REFLECTION: [&str; 2] = ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
/// How operators' methods that change nothing begin.
const READS: [&str; 5] = ["Get", "List", "Watch", "Replay", "Diff"];
/// The service whose calls may carry a candidate.
const CANDIDATES: &str = "/tidegate.v1.Admin/";
const STREAM_EVENTS: &str = "/tidegate.v1.Gateway/StreamEvents";

/// Where requests come from.
#[derive(Debug)]
pub enum Listener {
    /// Clients: the Gateway service, health and reflection.
    Clients(TcpListener, Option<Tls>),
    /// The operator on this machine: the Admin service. The file's mode is the credential.
    Operator(UnixListener),
}

/// How long and until when to serve.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Cancelled: take nothing new, end what is there.
    pub shutdown: CancellationToken,
    /// How long connections may take to end after that.
    pub drain: Duration,
}

/// What the operator set about connections.
#[derive(Clone, Copy, Debug)]
pub struct EdgeBounds {
    /// Operators' calls are answered to clients that have the scope and are not overheard.
    pub admin_over_network: bool,
    /// Event streams.
    pub streams_per_connection: u32,
}

/// Everything a request may need. Shared by all connections.
#[derive(Debug)]
pub struct Edge {
    sessions: Sessions,
    keys: Keys,
    metrics: Metrics,
    clients: Routes,
    operator: Routes,
    bounds: EdgeBounds,
    /// Cancelled when the end begins: watches of health hear it.
    stopping: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Clients { peer: Option<IpAddr> },
    Operator,
}

// === impl Edge ===

impl Edge {
    pub async fn new(
        sessions: Sessions,
        keys: Keys,
        metrics: Metrics,
        admin: AdminContext,
        bounds: EdgeBounds,
    ) -> Result<Arc<Self>> {
        let stopping = CancellationToken::new();
        let mut services = vec![
            <GatewayServer<GatewayService> as NamedService>::NAME,
            <RuntimeNodesServer<NodeService> as NamedService>::NAME,
            <AlarmsServer<AlarmService> as NamedService>::NAME,
            <HealthServer<HealthService> as NamedService>::NAME,
        ];
        if bounds.admin_over_network {
            services.push(<AdminServer<AdminService> as NamedService>::NAME);
            services.push(<NodeAdminServer<NodeService> as NamedService>::NAME);
            services.push(<PeopleAdminServer<PeopleService> as NamedService>::NAME);
        }
        let unserved = |error| Error::new(Code::Internal, format!("the descriptors cannot be served: {error}"));
        let reflection = |own: &str| {
            let builder = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(tidegate_proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
            // What is not answered here is not listed.
            services.iter().fold(builder, |builder, name| builder.with_service_name(*name)).with_service_name(own)
        };
        // Both: older clients, Python's among them, know the alpha only.
        let reflection_alpha = reflection(REFLECTION[1]).build_v1alpha().map_err(unserved)?;
        let reflection = reflection(REFLECTION[0]).build_v1().map_err(unserved)?;
        services.extend(REFLECTION);
        let health = HealthService { services, stopping: stopping.clone() };
        let gateway = GatewayServer::new(GatewayService { sessions: sessions.clone() });
        let nodes = NodeService { nodes: admin.nodes.clone(), keys: keys.clone() };
        let clients = Routes::new(gateway)
            .add_service(RuntimeNodesServer::new(nodes.clone()))
            .add_service(AlarmsServer::new(AlarmService { sessions: sessions.clone() }))
            .add_service(HealthServer::new(health))
            .add_service(reflection)
            .add_service(reflection_alpha)
            .prepare();
        let people = PeopleService(admin.people.clone());
        let operators = AdminServer::new(AdminService::new(sessions.clone(), admin));
        let operator = Routes::new(operators.max_decoding_message_size(CANDIDATE_BYTES_MAX))
            .add_service(NodeAdminServer::new(nodes))
            .add_service(PeopleAdminServer::new(people))
            .prepare();
        Ok(Arc::new(Self { sessions, keys, metrics, clients, operator, bounds, stopping }))
    }

    /// Accepts and serves until the shutdown, then drains.
    pub async fn serve(self: Arc<Self>, listener: Listener, listening: Listening) {
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let neighbours = Arc::new(Neighbours::new(OF_ONE_ADDRESS_MAX, OF_LOOPBACK_MAX));
        let mut connections = JoinSet::new();
        let (mut trouble, mut crowd, mut full) = (Repeated::default(), Repeated::default(), Repeated::default());
        // Whoever can help must come in when others have taken every descriptor.
        let mut spare = matches!(listener, Listener::Operator(_)).then(Spare::default);
        loop {
            spare.iter_mut().for_each(Spare::keep);
            let accepted = loop {
                let accepted = tokio::select! {
                    biased;
                    () = listening.shutdown.cancelled() => break None,
                    Some(_ended) = connections.join_next() => {
                        spare.iter_mut().for_each(Spare::keep);
                        continue;
                    }
                    accepted = self.accept(&listener, &permits, &mut full) => accepted,
                };
                match accepted {
                    Err(error) if descriptors::are_out(&error) && spare.as_mut().is_some_and(Spare::give) => {}
                    accepted => break Some(accepted),
                }
            };
            let (permit, side, io) = match accepted {
                None => break,
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    self.metrics.accept_failures.inc();
                    if let Some(more) = trouble.again() {
                        tracing::warn!(%error, more, "cannot accept connections just now");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let neighbour = match side {
                Side::Clients { peer: Some(peer) } => {
                    let Some(neighbour) = neighbours.join(peer) else {
                        if let Some(more) = crowd.again() {
                            let what =
                                "an address has as many gRPC connections without a key as it may; more are closed";
                            tracing::warn!(%peer, more, "{what}");
                        }
                        continue;
                    };
                    Some(neighbour)
                }
                _ => None,
            };
            let (edge, shutdown) = (self.clone(), listening.shutdown.clone());
            connections.spawn(async move {
                let _place = permit;
                let facts = Connection { stranger: Mutex::new(neighbour), ..Connection::default() };
                match io {
                    Io::Tcp(io, None) => {
                        if in_time(&shutdown, begins_http2(&io)).await == Some(true) {
                            edge.connection(io, side, facts, shutdown).await;
                        }
                    }
                    Io::Tcp(io, Some(tls)) => {
                        if let Some(Some((io, certificate))) = in_time(&shutdown, tls.accept(io, Protocol::Grpc)).await
                        {
                            let facts = Connection { private: true, certificate, ..facts };
                            edge.connection(io, side, facts, shutdown).await;
                        }
                    }
                    Io::Unix(io) => edge.connection(io, side, facts, shutdown).await,
                }
            });
        }
        drop(listener);
        self.stopping.cancel();
        let ended = tokio::time::timeout(listening.drain, async { while connections.join_next().await.is_some() {} });
        if ended.await.is_err() {
            tracing::warn!(left = connections.len(), "connections did not end in time and are cut");
            connections.shutdown().await;
        }
    }

    async fn accept(
        &self,
        listener: &Listener,
        permits: &Arc<Semaphore>,
        full: &mut Repeated,
    ) -> std::io::Result<(tokio::sync::OwnedSemaphorePermit, Side, Io)> {
        if permits.available_permits() == 0
            && let Some(more) = full.again()
        {
            let max = CONNECTIONS_MAX;
            tracing::warn!(max, more, "a gRPC listener has as many connections open as it may; more wait");
        }
        let permit = permits.clone().acquire_owned().await.map_err(std::io::Error::other)?;
        match listener {
            Listener::Clients(listener, tls) => {
                let (io, peer) = listener.accept().await?;
                io.set_nodelay(true)?;
                Ok((permit, Side::Clients { peer: Some(peer.ip().to_canonical()) }, Io::Tcp(io, tls.clone())))
            }
            Listener::Operator(listener) => loop {
                let (io, _) = listener.accept().await?;
                let peer = io.peer_cred()?;
                // The mode of the file says it already; a looser mode must not widen it.
                if peer.uid() == rustix::process::geteuid().as_raw() || peer.uid() == 0 {
                    return Ok((permit, Side::Operator, Io::Unix(io)));
                }
                tracing::warn!(uid = peer.uid(), "another user connected to the admin socket and was turned away");
            },
        }
    }

    async fn connection<S: AsyncRead + AsyncWrite + Unpin>(
        self: Arc<Self>,
        io: S,
        side: Side,
        facts: Connection,
        shutdown: CancellationToken,
    ) {
        let facts = Arc::new(Connection { streams_max: self.bounds.streams_per_connection, ..facts });
        let cut = facts.cut.clone();
        let (edge, shared) = (self.clone(), facts.clone());
        let service = hyper::service::service_fn(move |request: Request<Incoming>| {
            let (edge, facts) = (edge.clone(), shared.clone());
            async move {
                let in_hand = facts.take_in_hand();
                let response = edge.respond(request, side, &facts).await;
                Ok::<_, Infallible>(response.map(|body| Lasting { body, _lasts: in_hand }))
            }
        });
        let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_concurrent_streams(self.bounds.streams_per_connection.saturating_add(CALLS_PER_CONNECTION_MAX))
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_header_list_size(HEADER_BYTES_MAX)
            .keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT);
        let connection = Gathering::new(io, |io| http.serve_connection(TokioIo::new(io), service));
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            () = connection.as_mut() => {}
            () = facts.unused() => {}
            () = cut.cancelled() => {}
            () = shutdown.cancelled() => {
                tokio::select! {
                    () = connection.as_mut() => return,
                    () = cut.cancelled() => return,
                    () = facts.first_request() => {}
                }
                connection.as_mut().connection().graceful_shutdown();
                tokio::select! {
                    () = connection => {}
                    () = cut.cancelled() => {}
                    () = facts.silence() => {}
                }
            }
        }
    }

    async fn respond(&self, request: Request<Incoming>, side: Side, facts: &Arc<Connection>) -> Response<EdgeBody> {
        let deadline = deadline(request.headers());
        let streaming = side != Side::Operator && request.uri().path() == STREAM_EVENTS;
        let answer = async {
            match side {
                Side::Operator => {
                    // The socket's mode let it in.
                    facts.let_in();
                    Ok(self.operate(request, "the operators' socket").await)
                }
                Side::Clients { peer } => self.client(request, peer, facts).await,
            }
        };
        let answer = match deadline {
            // A stream's deadline is the client's to keep: the server cannot tell 'enough' from 'too slow'.
            Some(after) if !streaming => tokio::time::timeout(after, answer).await.unwrap_or_else(|_elapsed| {
                Err(Error::new(Code::CommandTimeout, "the deadline of the call passed; it may still take effect"))
            }),
            _ => answer.await,
        };
        answer.unwrap_or_else(|error| status(&error).into_http::<tonic::body::Body>().map(EdgeBody::Tonic))
    }

    async fn client(
        &self,
        mut request: Request<Incoming>,
        peer: Option<IpAddr>,
        facts: &Arc<Connection>,
    ) -> Result<Response<EdgeBody>> {
        // Health and reflection tell nothing that needs a key.
        if !request.uri().path().starts_with("/tidegate.") {
            facts.asked_without_key();
            return Ok(pass(&self.clients, request).await);
        }
        let admin = ADMIN.iter().any(|service| request.uri().path().starts_with(service));
        if admin {
            // Before the key is looked at: where it may be overheard it is worth nothing.
            admits_operators(self.bounds.admin_over_network, facts.private, peer)?;
        }
        let key = bearer(request.headers()).and_then(|text| self.keys.authenticate(text)).inspect_err(|_| {
            self.metrics.keys.auth_failures.inc();
        })?;
        facts.let_in();
        if admin {
            key.require(Scope::Admin)?;
            return Ok(self.operate(request, key.id.as_str()).await);
        }
        let caller = Caller { key, peer, certificate: facts.certificate.clone() };
        if request.uri().path() == STREAM_EVENTS {
            let body =
                Limited::new(request.into_body(), stream::REQUEST_BYTES_MAX).collect().await.map_err(|error| {
                    Error::new(Code::RequestInvalid, format!("the request of StreamEvents cannot be read: {error}"))
                })?;
            let asked = stream::request(&body.to_bytes())?;
            let events = EventStream::open(&self.sessions, &caller, asked, facts.clone()).await?;
            let mut response = Response::new(EdgeBody::Events(Box::new(events)));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            return Ok(response);
        }
        request.extensions_mut().insert(caller);
        // Streams of alarms count on it.
        request.extensions_mut().insert(facts.clone());
        Ok(typed(pass(&self.clients, request).await, MESSAGE_BYTES_MAX))
    }

    /// Does what an operator asks for, and leaves a line about who it was and what it came to.
    async fn operate(&self, request: Request<Incoming>, who: &str) -> Response<EdgeBody> {
        let path = request.uri().path().to_owned();
        let max = if path.starts_with(CANDIDATES) { CANDIDATE_BYTES_MAX } else { MESSAGE_BYTES_MAX };
        let response = typed(pass(&self.operator, request).await, max);
        let method = path.rsplit('/').next().unwrap_or_default();
        // What fails at once says so in the head; a stream's end is in nobody's head.
        let refused = response.headers().get("grpc-status").is_some_and(|status| status != "0");
        if READS.iter().any(|begin| method.starts_with(begin)) {
            tracing::debug!(by = who, method, refused, "an operator looked");
        } else {
            tracing::info!(by = who, method, refused, "an operator's call");
        }
        response
    }
}

/// Whether operators' calls are answered on a connection: `private` ones, and those from this machine.
fn admits_operators(switched_on: bool, private: bool, peer: Option<IpAddr>) -> Result<()> {
    if !switched_on {
        let message = "operators' calls are answered on the machine's own socket only";
        return Err(Error::new(Code::AuthTransport, message).with("needs", "admin_over_network"));
    }
    if private || peer.is_some_and(|peer| peer.is_loopback()) {
        return Ok(());
    }
    Err(Error::new(Code::AuthTransport, "operators' calls from another machine need TLS").with("needs", "tls"))
}

/// Gives a refusal that tonic made before any code of ours its code: what came could not be read, was too long, or is
/// not served. Ours carry details already.
fn typed(response: Response<EdgeBody>, max: usize) -> Response<EdgeBody> {
    let headers = response.headers();
    if headers.contains_key("grpc-status-details-bin") {
        return response;
    }
    // Numbers of gRPC; tonic 0.14 uses OUT_OF_RANGE for a message over its limit and INTERNAL for one it cannot decode.
    let error = match headers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"11") => {
            let message = format!("the request's message is longer than {} MiB", max >> 20);
            Error::new(Code::RequestTooLarge, message).with("max_bytes", max)
        }
        Some(b"13") => Error::new(Code::RequestMalformed, "the request cannot be read as this method's message"),
        Some(b"12") => Error::new(Code::RequestUnimplemented, "no such method or encoding is served here"),
        _ => return response,
    };
    status(&error).into_http::<tonic::body::Body>().map(EdgeBody::Tonic)
}

/// What comes of a beginning, unless the end of the gateway has begun and it takes longer than a first request may.
async fn in_time<T>(shutdown: &CancellationToken, beginning: impl Future<Output = T>) -> Option<T> {
    let late = async {
        shutdown.cancelled().await;
        tokio::time::sleep(FIRST_REQUEST).await;
    };
    tokio::select! {
        biased;
        begun = beginning => Some(begun),
        () = late => None,
    }
}

/// Waits, for a bounded time, until the peer has sent the preface of HTTP/2 (RFC 9113, section 3.4).
async fn begins_http2(io: &tokio::net::TcpStream) -> bool {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// Between two looks at a preface that came in part: readiness would say 'ready' without a pause.
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    let complete = async {
        let mut begin = [0; PREFACE.len()];
        loop {
            match io.peek(&mut begin).await {
                Ok(0) | Err(_) => return false,
                Ok(read) if read == PREFACE.len() => return begin == PREFACE,
                Ok(read) if begin[..read] != PREFACE[..read] => return false,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    };
    tokio::time::timeout(PREFACE_TIMEOUT, complete).await.unwrap_or(false)
}

/// What was accepted.
enum Io {
    Tcp(tokio::net::TcpStream, Option<Tls>),
    Unix(tokio::net::UnixStream),
}

async fn pass(routes: &Routes, request: Request<Incoming>) -> Response<EdgeBody> {
    match routes.clone().oneshot(request).await {
        Ok(response) => response.map(EdgeBody::Tonic),
        Err(never) => match never {},
    }
}

fn bearer(headers: &HeaderMap) -> Result<&str> {
    keys::bearer(headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default()))
}

/// `grpc-timeout`: at most eight digits and a unit (gRPC over HTTP/2, Requests).
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
    }

    #[test]
    fn deadlines_are_read_as_the_protocol_says() {
        assert_eq!(deadline(&with("grpc-timeout", "1500m")), Some(Duration::from_millis(1500)));
        assert_eq!(deadline(&with("grpc-timeout", "2H")), Some(Duration::from_secs(7200)));
        for wrong in ["", "m", "5", "5x", "123456789m", "-5m"] {
            assert_eq!(deadline(&with("grpc-timeout", wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn operators_are_heard_where_nobody_listens_in() {
        let (here, there) = (Some(IpAddr::from([127, 0, 0, 1])), Some(IpAddr::from([10, 1, 2, 3])));
        let needs = |on, private, peer| admits_operators(on, private, peer).err().map(|e| e.details()[0].1.clone());
        assert_eq!(needs(true, true, there), None);
        assert_eq!(needs(true, false, here), None);
        assert_eq!(needs(true, false, there).as_deref(), Some("tls"));
        assert_eq!(needs(true, false, None).as_deref(), Some("tls"));
        assert_eq!(needs(false, true, here).as_deref(), Some("admin_over_network"));
    }

    #[test]
    fn bearer_wants_its_scheme() {
        assert_eq!(bearer(&with("authorization", "bearer abc")).unwrap(), "abc");
        assert_eq!(bearer(&HeaderMap::new()).unwrap_err().code(), Code::AuthMissing);
        for wrong in ["Basic abc", "abc", ""] {
            assert_eq!(bearer(&with("authorization", wrong)).unwrap_err().code(), Code::AuthInvalid, "{wrong}");
        }
    }
}
