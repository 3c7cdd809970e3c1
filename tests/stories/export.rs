//! Metrics that are sent to a collector, one of the story's own: what it gets, and what a gateway makes of one that refuses.

use crate::harness::{Launch, PATIENCE, eventually};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    time::timeout,
};

/// The next request, head and body, which is answered with `status`.
async fn request(listener: &TcpListener, status: &str) -> (String, Vec<u8>) {
    answered(listener, &format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await
}

async fn answered(listener: &TcpListener, answer: &str) -> (String, Vec<u8>) {
    let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.expect("a request in time").expect("accepted");
    let (mut read, mut piece) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        let more = timeout(PATIENCE, stream.read(&mut piece)).await.expect("in time").expect("readable");
        assert!(more > 0, "it hung up in the middle");
        read.extend_from_slice(&piece[..more]);
        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let length: usize = length.expect("a length");
        if read.len() >= end + 4 + length {
            stream.write_all(answer.as_bytes()).await.expect("answered");
            return (head, read.split_off(end + 4));
        }
    }
}

// shows: D-15, S-20
#[tokio::test]
async fn a_collector_gets_the_metrics_and_one_that_is_away_harms_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let gw = Launch::new().flag("--otlp-url", &url).flag("--otlp-every-seconds", "1").start().await;
    let session = gw.open("line-1").await;
    let (head, body) = request(&listener, "200 OK").await;
    assert!(head.starts_with("post /v1/metrics http/1.1\r\n"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    // Texts stand in the message as they are; what it says, the unit tests and a Python collector read.
    let has = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has("tidegate_sessions_open") && has("service.instance.id"));
    for secret in [gw.first_key(), session.id.as_str(), "line-1"] {
        assert!(!has(secret), "{secret}");
    }
    request(&listener, "503 Service Unavailable").await;
    eventually("the refusal", async || gw.log().contains("the collector takes no metrics").then_some(())).await;
    request(&listener, "503 Service Unavailable").await;
    request(&listener, "500 Internal Server Error").await;
    request(&listener, "503 Service Unavailable").await;
    // One that breaks off in the middle has taken nothing.
    answered(&listener, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await;
    request(&listener, "202 Accepted").await;
    eventually("the end of it", async || gw.log().contains("the collector takes metrics again").then_some(())).await;
    let log = gw.log();
    let causes: Vec<&str> = log.lines().filter(|line| line.contains("the collector takes no metrics")).collect();
    assert_eq!(causes.len(), 3, "each cause is said once: {causes:?}");
    for (line, cause) in causes.iter().zip(["503", "500", "not to the end"]) {
        assert!(line.contains(cause), "{line}");
    }
    session.advise(&["Area1.Pump1.Sine"]).await;
    let told = gw.metrics().await;
    let count = |outcome: &str| -> u64 {
        let name = format!("tidegate_otlp_exports_total{{outcome=\"{outcome}\"}} ");
        told.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).expect("the count")
    };
    // More, if this machine has been slow: nobody answers any longer.
    assert!(count("failed") >= 5 && count("sent") == 2, "{told}");
}
