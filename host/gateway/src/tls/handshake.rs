//! One handshake: within a time, at most so many at once, and an end that says why to those who speak no TLS. Knows
//! sockets. Invariant: whoever comes out of it has spoken TLS and, where one is required, shown a certificate that
//! an authority of ours signed.

use super::{Certificate, Tls};
use crate::telemetry::TlsFailure;
use std::{io, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// From the accepted connection to the last message of the handshake. Guessed: two round trips around the earth.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The first byte of a TLS connection: a record of the type handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;
/// What is read of a peer that is turned away, so that its end is an end and no reset: bytes, and how long.
const FAREWELL_BYTES: u64 = 64 << 10;
const FAREWELL: Duration = Duration::from_secs(1);

/// An encrypted connection.
pub type Stream = TlsStream<TcpStream>;

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2, and nothing else.
    Grpc,
    Http,
}

// === impl Tls ===

impl Tls {
    /// The connection and the names of its peer; none when it came to nothing, which is counted.
    pub async fn accept(&self, io: TcpStream, protocol: Protocol) -> Option<(Stream, Certificate)> {
        let peer = io.peer_addr().ok();
        let shaken = timeout(HANDSHAKE_TIMEOUT, Box::pin(self.shake(io, protocol))).await;
        match shaken.unwrap_or(Err(TlsFailure::Timeout)) {
            Ok(stream) => {
                self.shared.metrics.handshakes.inc();
                let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
                let certificate = shown.map(Certificate::read).unwrap_or_default();
                Some((stream, certificate))
            }
            Err(why) => {
                self.shared.metrics.failed.of(why).inc();
                tracing::debug!(?peer, reason = why.as_str(), "a TLS handshake came to nothing");
                None
            }
        }
    }

    async fn shake(&self, mut io: TcpStream, protocol: Protocol) -> Result<Stream, TlsFailure> {
        let mut first = [0];
        match io.peek(&mut first).await {
            Ok(1..) if first[0] == HANDSHAKE_RECORD => {}
            Ok(1..) => {
                turn_away(&mut io, protocol).await;
                return Err(TlsFailure::Plaintext);
            }
            Ok(0) | Err(_) => return Err(TlsFailure::Gone),
        }
        // After the first byte: who is silent takes no turn from those who speak.
        let _turn = self.shared.handshakes.acquire().await.map_err(|_closed| TlsFailure::Gone)?;
        let serving = self.shared.serving.load_full();
        let config = match protocol {
            Protocol::Grpc => serving.grpc.clone(),
            Protocol::Http => serving.http.clone(),
        };
        let stream = TlsAcceptor::from(config).accept(io).await.map_err(|error| failure(&error))?;
        // A client that offers no protocol at all is no gRPC client.
        if protocol == Protocol::Grpc && stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(TlsFailure::Protocol);
        }
        Ok(stream)
    }
}

fn failure(error: &io::Error) -> TlsFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)) => TlsFailure::Certificate,
        Some(rustls::Error::AlertReceived(_)) => TlsFailure::Refused,
        Some(_) => TlsFailure::Protocol,
        None => TlsFailure::Gone,
    }
}

async fn turn_away(io: &mut TcpStream, protocol: Protocol) {
    const ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 41\r\n\
        Connection: close\r\n\r\nThis address speaks TLS: begin https://\r\n";
    let farewell = async {
        if protocol == Protocol::Http {
            io.write_all(ANSWER).await?;
        }
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(FAREWELL_BYTES), &mut tokio::io::sink()).await
    };
    // Whoever does not listen is not waited for.
    let _told = timeout(FAREWELL, farewell).await;
}
