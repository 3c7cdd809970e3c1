//! The HTTP listener over real sockets: pages, refusals, limits, the bounded stop.

use super::*;
use crate::{
    error::{CODES, Class},
    health::{Degraded, Health},
};
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Default)]
struct Moods {
    away: AtomicBool,
}

impl HealthSource for Moods {
    fn health(&self) -> Health {
        let away = self.away.load(Ordering::SeqCst);
        let degraded = vec![Degraded::new("storage", "no room is left")];
        Health { ready: !away, degraded: if away { degraded } else { vec![] } }
    }
}

struct Server {
    address: SocketAddr,
    moods: Arc<Moods>,
    metrics: Metrics,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<()>,
}

impl Server {
    async fn start(drain: Duration) -> Self {
        Self::bounded(drain, accept::Bounds::default()).await
    }

    async fn bounded(drain: Duration, bounds: accept::Bounds) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("an address");
        let (moods, metrics) = (Arc::new(Moods::default()), Metrics::new());
        let state =
            HttpState { metrics: metrics.clone(), health: moods.clone(), nodes: None, dashboard: None, tls: false };
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            let failures = state.metrics.accept_failures.clone();
            accept::serve(listener, None, router(state, true), failures, shutdown, drain, bounds).await;
        });
        Self { address, moods, metrics, stop, ended }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }

    /// From another address of this machine.
    async fn connect_from(&self, from: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("binds");
        socket.connect(self.address).await.expect("connects")
    }

    /// Status and whole answer to one request.
    async fn ask(&self, request: &str) -> (u16, String) {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.expect("sends");
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("reads");
        let answer = String::from_utf8(answer).expect("text");
        let status = answer.split(' ').nth(1).and_then(|number| number.parse().ok()).unwrap_or_default();
        (status, answer)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")).await
    }
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").expect("a body").1
}

fn code_of(answer: &str) -> String {
    assert!(answer.contains("content-type: application/problem+json\r\n"), "{answer}");
    let problem: Value = serde_json::from_str(body(answer)).expect("JSON");
    problem["code"].as_str().expect("a code").to_owned()
}

// shows: D-03
#[tokio::test]
async fn the_pages_answer_and_carry_their_headers() {
    let server = Server::start(PATIENCE).await;
    server.metrics.sessions.opened.inc();
    let (status, answer) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(answer.contains("application/openmetrics-text") && answer.contains("tidegate_sessions_opened_total 1\n"));
    assert!(answer.contains("x-content-type-options: nosniff\r\n") && answer.contains("cache-control: no-store\r\n"));
    assert!(answer.trim_end().ends_with("# EOF"));

    let (status, answer) = server.get("/api/health").await;
    assert_eq!((status, body(&answer)), (200, r#"{"ready":true,"degraded":[]}"#));
    server.moods.away.store(true, Ordering::SeqCst);
    let (status, answer) = server.get("/api/health").await;
    assert_eq!(status, 503);
    assert_eq!(body(&answer), r#"{"ready":false,"degraded":[{"part":"storage"}]}"#, "words are not for strangers");

    let (status, answer) = server.get("/api/version").await;
    assert!(status == 200 && answer.contains(env!("CARGO_PKG_VERSION")), "{answer}");

    // What is not served here is not promised.
    let (status, answer) = server.get("/api/bootstrap").await;
    let told: Value = serde_json::from_str(body(&answer)).expect("JSON");
    assert_eq!(
        (status, &told["version"], &told["auth"]["methods"]),
        (200, &env!("CARGO_PKG_VERSION").into(), &Value::Array(vec![]))
    );
    assert_eq!((&told["features"]["dashboard"], &told["features"]["nodes"]), (&false.into(), &false.into()));
    let (status, answer) = server.get("/api/session/bootstrap?build=0.0.0").await;
    assert_eq!((status, code_of(&answer).as_str()), (404, "http.no_such_page"));
}

#[tokio::test]
async fn what_is_wrong_gets_problem_json() {
    let server = Server::start(PATIENCE).await;
    let (status, answer) = server.get("/nothing").await;
    assert_eq!((status, code_of(&answer).as_str()), (404, "http.no_such_page"));
    assert!(answer.contains("x-frame-options: DENY\r\n"), "refusals carry the headers too");
    let (status, answer) =
        server.ask("POST /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((status, code_of(&answer).as_str()), (405, "http.no_such_page"));
    let (status, answer) = server
        .ask("POST /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 99999999\r\n\r\n")
        .await;
    assert_eq!((status, code_of(&answer).as_str()), (413, "http.too_large"));
    // What fits no path and no query is answered as everything else.
    for path in ["/sessions/%ff", "/live?page=nonsense", "/api/session/bootstrap?build=%ff"] {
        let (status, answer) = server.get(path).await;
        assert!(
            matches!((status, code_of(&answer).as_str()), (400, "request.invalid") | (404, "http.no_such_page")),
            "{answer}"
        );
    }
    let (status, _) = server.ask("nonsense\r\n\r\n").await;
    assert_eq!(status, 400);
    let (status, _) = server.ask(&format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(128 << 10))).await;
    assert!(matches!(status, 414 | 431), "{status}");
}

#[tokio::test]
async fn a_foreign_name_for_the_loopback_is_refused() {
    let server = Server::start(PATIENCE).await;
    for host in ["Host: evil.example", "Host: evil.example:7411", "X-None: 1", "Host: localhost\r\nHost: evil.example"]
    {
        let (status, answer) =
            server.ask(&format!("GET /metrics HTTP/1.1\r\n{host}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!((status, code_of(&answer).as_str()), (403, "http.host_refused"), "{host}");
        assert!(!answer.contains("tidegate_"), "{host}");
    }
    let port = server.address.port();
    for host in [format!("127.0.0.1:{port}"), format!("LOCALHOST:{port}"), "[::1]".into()] {
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        assert_eq!(server.ask(&request).await.0, 200, "{host}");
    }
}

#[tokio::test]
async fn a_stop_ends_idle_connections_at_once() {
    let server = Server::start(Duration::from_secs(600)).await;
    let mut idle = server.connect().await;
    idle.write_all(b"GET /api/version HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("sends");
    let mut some = [0; 12];
    idle.read_exact(&mut some).await.expect("the answer begins");
    server.stop.send(()).expect("told");
    tokio::time::timeout(PATIENCE, server.ended).await.expect("long before the bound").expect("ends");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_stop_cuts_a_request_that_never_comes_to_its_end() {
    let server = Server::start(Duration::from_millis(50)).await;
    let mut slow = server.connect().await;
    slow.write_all(b"GET /api/version HT").await.expect("sends");
    // Answered, so the slow connection, which came first, is accepted too.
    assert_eq!(server.get("/api/version").await.0, 200);
    let began = Instant::now();
    server.stop.send(()).expect("told");
    tokio::time::timeout(PATIENCE, server.ended).await.expect("in time").expect("ends");
    assert!(began.elapsed() < PATIENCE);
    let mut rest = Vec::new();
    let read = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut rest)).await.expect("in time");
    assert!(read.is_err() || !rest.starts_with(b"HTTP/1.1 200"), "cut, not served");
}

// 128 connections of a stranger that sent half a body, or took no answer, stopped metrics, health and sign-in.
#[tokio::test]
async fn who_sends_half_a_body_or_takes_no_answer_loses_the_connection() {
    let short = Duration::from_millis(100);
    let bounds = accept::Bounds { connections: 4, body: short, taking: short, ..Default::default() };
    let server = Server::bounded(PATIENCE, bounds).await;
    let half = "POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\r\nname=";
    for _ in 0..2 {
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut slow = server.connect().await;
            slow.write_all(half.as_bytes()).await.expect("sends");
            held.push(slow);
        }
        let mut ended = Vec::new();
        for _ in 0..2 {
            let mut greedy = server.connect().await;
            ended.push(tokio::spawn(async move {
                let more = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
                // Until the buffers of both sides are full, and then until nobody is there any more.
                while greedy.write_all(more.as_bytes()).await.is_ok() {}
            }));
        }
        // All four places are taken: this one waits until one of them is free.
        let (status, _) = tokio::time::timeout(PATIENCE, server.get("/api/version")).await.expect("answered");
        assert_eq!(status, 200);
        for mut slow in held {
            let mut answer = Vec::new();
            let read = tokio::time::timeout(PATIENCE, slow.read_to_end(&mut answer)).await.expect("it ends in time");
            assert!(read.is_err() || !answer.starts_with(b"HTTP/1.1 2"), "no half form is taken");
        }
        for greedy in ended {
            tokio::time::timeout(PATIENCE, greedy).await.expect("it ends in time").expect("no panic");
        }
    }
}

#[tokio::test]
async fn one_address_leaves_connections_for_others() {
    let bounds = accept::Bounds { connections: 6, of_loopback: 4, ..Default::default() };
    let server = Server::bounded(PATIENCE, bounds).await;
    let mut crowd = Vec::new();
    for _ in 0..12 {
        crowd.push(server.connect().await);
    }
    let mut other = server.connect_from([127, 0, 0, 2]).await;
    let asked = "GET /api/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    other.write_all(asked.as_bytes()).await.expect("sends");
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, other.read_to_string(&mut answer)).await.expect("in time");
    assert!(read.is_ok() && answer.starts_with("HTTP/1.1 200"), "{answer}");
    // The crowd's own first ones are served, the last ones were closed.
    for (n, mut one) in crowd.into_iter().enumerate() {
        let sent = one.write_all(asked.as_bytes()).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, one.read_to_end(&mut answer)).await.expect("in time");
        let served = sent.is_ok() && read.is_ok() && answer.starts_with(b"HTTP/1.1 200");
        assert_eq!(served, n < 4, "connection {n}");
    }
}

// Half a form held the stop for the whole of the drain.
#[tokio::test]
async fn a_stop_does_not_wait_for_the_rest_of_a_form() {
    let long = Duration::from_secs(600);
    let server = Server::bounded(long, accept::Bounds { body: long, ..Default::default() }).await;
    let mut slow = server.connect().await;
    let half = "POST /sign-in HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\
                Content-Type: application/x-www-form-urlencoded\r\n\r\nname=";
    slow.write_all(half.as_bytes()).await.expect("sends");
    // Answered, so the slow connection, which came first, is accepted too.
    assert_eq!(server.get("/api/version").await.0, 200);
    server.stop.send(()).expect("told");
    tokio::time::timeout(PATIENCE, server.ended).await.expect("long before the drain's end").expect("ends");
}

#[test]
fn every_code_projects_to_an_error_status() {
    for row in CODES {
        let answer = problem(&Error::new(row.code, "words").with("key", "value"));
        assert!(answer.status().is_client_error() || answer.status().is_server_error(), "{}", row.text);
        let challenged = answer.headers().contains_key(header::WWW_AUTHENTICATE);
        assert_eq!(challenged, row.class == Class::Unauthenticated, "{}", row.text);
    }
}
