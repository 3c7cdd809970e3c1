//! Sends requests to the collector, one after another. Knows HTTP/1.1 as a client, not what is in a request. Invariants:
//! there is never more than one on its way; one that fails is not sent again, because the next one has everything it
//! had; a collector that is away costs a line of the log, not more.

use super::{About, request};
use crate::telemetry::{Metrics, OtlpExport};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use prost::Message as _;
use std::{
    fmt,
    pin::pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpStream, time::timeout};

/// For one request, from the connection to the answer. Guessed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the collector is, and how often it hears of everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    pub host: String,
    pub port: u16,
    pub path: String,
    pub every: Duration,
}

/// Runs until cancelled. `look` has what is only counted when somebody looks counted.
pub async fn export(collector: Collector, metrics: Metrics, about: About, look: impl Fn() + Send) {
    let mut tick = tokio::time::interval(collector.every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut failing = false;
    loop {
        tick.tick().await;
        look();
        let body = request(&metrics.expose(), &about, unix_ms()).encode_to_vec();
        let sent = timeout(PATIENCE, post(&collector, body)).await;
        let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())));
        let fails = sent.is_err();
        metrics.otlp.of(if fails { OtlpExport::Failed } else { OtlpExport::Sent }).inc();
        match sent {
            Ok(()) if failing => tracing::info!(%collector, "the collector takes metrics again"),
            Err(why) if !failing => tracing::warn!(%collector, why, "the collector takes no metrics"),
            Ok(()) | Err(_) => {}
        }
        failing = fails;
    }
}

async fn post(collector: &Collector, body: Vec<u8>) -> Result<(), String> {
    let words = |error: &dyn fmt::Display| error.to_string();
    let stream = TcpStream::connect((collector.host.as_str(), collector.port)).await.map_err(|error| words(&error))?;
    let request = Request::post(collector.path.as_str())
        .header(header::HOST, format!("{}:{}", collector.host, collector.port))
        .header(header::CONTENT_TYPE, "application/x-protobuf")
        .header(header::USER_AGENT, concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| words(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| words(&error))?;
    let (mut answer, mut connection) = (pin!(sender.send_request(request)), pin!(connection));
    let answer = tokio::select! {
        biased;
        answer = &mut answer => answer,
        // Who answers may hang up at once; what had come by then is there.
        _ended = &mut connection => answer.await,
    };
    let answer = answer.map_err(|error| words(&error))?;
    // What it says beside the status is not read.
    if answer.status().is_success() { Ok(()) } else { Err(format!("it answered {}", answer.status())) }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.path)
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
