//! Sends requests to the collector, one after another. Knows HTTP/1.1 as a client, not what is in a request. Invariants:
//! there is never more than one on its way; one that fails is not sent again, because the next one has everything it
//! had; a collector that is away costs a line of the log, not more.

use super::{About, request};
use crate::telemetry::{Metrics, OtlpExport};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
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

/// Bytes of an answer. A collector that says more has not understood.
const ANSWER_MAX: usize = 64 << 10;
/// Causes that are said while it fails; a collector that finds a new one each time does not fill the log.
const CAUSES_MAX: usize = 8;

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
    // Why it fails, as far as it was said.
    let mut said: Vec<String> = Vec::new();
    loop {
        tick.tick().await;
        look();
        let body = request(&metrics.expose(), &about, unix_ms()).encode_to_vec();
        let sent = timeout(PATIENCE, post(&collector, body)).await;
        let sent = sent.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())));
        let fails = sent.is_err();
        metrics.otlp.of(if fails { OtlpExport::Failed } else { OtlpExport::Sent }).inc();
        match sent {
            Ok(()) if !said.is_empty() => {
                said.clear();
                tracing::info!(%collector, "the collector takes metrics again");
            }
            Err(why) if said.len() < CAUSES_MAX && !said.contains(&why) => {
                tracing::warn!(%collector, why, "the collector takes no metrics");
                said.push(why);
            }
            Ok(()) | Err(_) => {}
        }
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
    let asked = async {
        let answer = sender.send_request(request).await.map_err(|error| words(&error))?;
        let status = answer.status();
        // To its end: one that breaks off was taken by nobody. What it says beside the status is not looked at.
        let rest = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        rest.map_err(|error| format!("it answered {status}, and not to the end: {error}"))?;
        if status.is_success() { Ok(()) } else { Err(format!("it answered {status}")) }
    };
    let (mut asked, mut connection) = (pin!(asked), pin!(connection));
    tokio::select! {
        biased;
        done = &mut asked => done,
        // Who answers may hang up at once; what had come by then is there.
        _ended = &mut connection => asked.await,
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.path)
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
