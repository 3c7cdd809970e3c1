//! Makes a connection: TCP, with TLS or without (h2c), or a Unix socket, with windows wide enough for event
//! streams. It knows addresses, keys and certificates, not calls. A key never appears in `Debug`.

use crate::{Admin, Alarms, ClientError, Gateway, NodeAdmin, Nodes, PeopleAdmin};
use hyper_util::rt::TokioIo;
use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};
use tidegate_proto::v1::{admin_client::AdminClient, gateway_client::GatewayClient};
use tonic::{
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri},
};

/// Measured: the default window of 64 KiB costs 20-40 % of the throughput of a stream.
const STREAM_WINDOW: u32 = 4 << 20;
/// Of one connection, so that one stream nobody reads does not hold back the ones beside it.
const STREAMS_PER_WINDOW: u32 = 16;
/// A snapshot of a big session is one message; the gateway bounds what it sends.
const MESSAGE_MAX: usize = 256 << 20;
/// HTTP/2 frames this long are taken, so that a batch of events comes as one. The default of 16 KiB cuts it up.
const FRAME_BYTES: u32 = 1 << 20;
/// Guessed: a gateway on the same network answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A gateway that does not answer a ping in time is gone; the gateway asks its clients alike.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a gateway listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `host:port`, with or without `http://`; TLS with `https://`.
    Tcp(String),
    /// A Unix socket.
    Socket(PathBuf),
}

/// How a certificate begins in PEM (RFC 7468, 5.1).
const CERTIFICATE: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// A connection to be.
#[derive(Clone)]
pub struct Connect {
    target: Target,
    key: Option<String>,
    tls: ClientTlsConfig,
    /// How many of the authorities' texts had a certificate; without any, no certificate of a gateway can be checked.
    /// None: nobody named any.
    authorities: Option<usize>,
    stream_window: u32,
}

// === impl Connect ===

impl Connect {
    pub fn to(address: impl Into<String>) -> Self {
        Self::target(Target::Tcp(address.into()))
    }

    pub fn socket(path: impl AsRef<Path>) -> Self {
        Self::target(Target::Socket(path.as_ref().to_owned()))
    }

    pub fn target(target: Target) -> Self {
        let tls = ClientTlsConfig::new();
        Self { target, key: None, tls, authorities: None, stream_window: STREAM_WINDOW }
    }

    /// The API key that every call carries.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Authorities, PEM, one of which must have signed the gateway's certificate. For `https://`.
    #[must_use]
    pub fn authorities(mut self, pem: impl AsRef<[u8]>) -> Self {
        // TLS passes over what is no PEM; a gateway's certificate would then be of nobody.
        let marked = pem.as_ref().windows(CERTIFICATE.len()).any(|window| window == CERTIFICATE);
        self.authorities = Some(self.authorities.unwrap_or_default() + usize::from(marked));
        self.tls = self.tls.ca_certificate(Certificate::from_pem(pem));
        self
    }

    /// This client's own certificate and its private key, PEM, for gateways that ask for one.
    #[must_use]
    pub fn certificate(mut self, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Self {
        self.tls = self.tls.identity(Identity::from_pem(certificate, key));
        self
    }

    /// The name that the gateway's certificate has, where it is not the one in the address.
    #[must_use]
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.tls = self.tls.domain_name(name);
        self
    }

    /// How many bytes a stream may send ahead of its reader; small ones let the gateway feel a slow
    /// reader sooner. HTTP/2 allows 1 to 2^31 - 1.
    #[must_use]
    pub fn stream_window(mut self, bytes: u32) -> Self {
        self.stream_window = bytes.clamp(1, i32::MAX as u32);
        self
    }

    /// The client API.
    pub async fn gateway(self) -> Result<Gateway, ClientError> {
        let key = self.bearer()?;
        let client = GatewayClient::new(self.channel().await?).max_decoding_message_size(MESSAGE_MAX);
        Ok(Gateway::new(client, key))
    }

    /// The operators' API.
    pub async fn admin(self) -> Result<Admin, ClientError> {
        let key = self.bearer()?;
        let client = AdminClient::new(self.channel().await?).max_decoding_message_size(MESSAGE_MAX);
        Ok(Admin::new(client, key))
    }

    /// The API of alarms.
    pub async fn alarms(self) -> Result<Alarms, ClientError> {
        let key = self.bearer()?;
        Ok(Alarms::new(self.channel().await?, key))
    }

    /// The API of runtime nodes.
    pub async fn nodes(self) -> Result<Nodes, ClientError> {
        let key = self.bearer()?;
        Ok(Nodes::new(self.channel().await?, key))
    }

    /// The operators' API about nodes.
    pub async fn node_admin(self) -> Result<NodeAdmin, ClientError> {
        let key = self.bearer()?;
        Ok(NodeAdmin::new(self.channel().await?, key))
    }

    /// The operators' API about people of the dashboard.
    pub async fn people_admin(self) -> Result<PeopleAdmin, ClientError> {
        let key = self.bearer()?;
        Ok(PeopleAdmin::new(self.channel().await?, key))
    }

    fn bearer(&self) -> Result<Option<MetadataValue<Ascii>>, ClientError> {
        let Some(key) = &self.key else { return Ok(None) };
        let mut value = MetadataValue::try_from(format!("Bearer {key}"))
            .map_err(|_| ClientError::Usage("the key holds characters that no key has".into()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    async fn channel(&self) -> Result<Channel, ClientError> {
        let address = self.target.to_string();
        let uri = match &self.target {
            Target::Tcp(address) if address.contains("://") => address.clone(),
            Target::Tcp(address) => format!("http://{address}"),
            Target::Socket(_) => "http://localhost".to_owned(),
        };
        let tls = uri.starts_with("https:");
        match self.authorities {
            None if tls => {
                return Err(ClientError::Usage(format!("{uri}: name the authorities that its certificate may be of")));
            }
            Some(0) => {
                return Err(ClientError::Usage("the authorities hold no certificates in PEM".to_owned()));
            }
            _ => {}
        }
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|_| ClientError::Usage(format!("{address} is not an address such as 127.0.0.1:7410")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .initial_stream_window_size(self.stream_window)
            .initial_connection_window_size(self.stream_window.saturating_mul(STREAMS_PER_WINDOW).min(i32::MAX as u32))
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_frame_size(FRAME_BYTES)
            .tcp_nodelay(true);
        let endpoint = if tls {
            let usable = endpoint.tls_config(self.tls.clone());
            usable.map_err(|error| {
                ClientError::Usage(format!("the certificates cannot be used: {}", root_cause(&error)))
            })?
        } else {
            endpoint
        };
        let connected = match &self.target {
            Target::Tcp(_) => endpoint.connect().await,
            Target::Socket(path) => {
                let path = path.clone();
                let connector = tower::service_fn(move |_: Uri| {
                    let path = path.clone();
                    async move { connect_unix(&path).await.map(TokioIo::new) }
                });
                endpoint.connect_with_connector(connector).await
            }
        };
        connected.map_err(|error| ClientError::Connect { address, cause: root_cause(&error) })
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect")
            .field("target", &self.target)
            .field("key", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Socket(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The backlog takes a connection whether there is anybody or not; a gateway speaks first (its SETTINGS, RFC 9113, 3.4).
#[cfg(unix)]
async fn connect_unix(path: &Path) -> io::Result<tokio::net::UnixStream> {
    let stream = tokio::net::UnixStream::connect(path).await?;
    let late = |_elapsed| {
        let why = "the gateway hangs, hands over, or has no file descriptors left";
        let message = format!("nobody answered within {} s: {why}", CONNECT_TIMEOUT.as_secs());
        io::Error::new(io::ErrorKind::TimedOut, message)
    };
    tokio::time::timeout(CONNECT_TIMEOUT, stream.readable()).await.map_err(late)??;
    Ok(stream)
}

#[cfg(not(unix))]
async fn connect_unix(_: &Path) -> io::Result<tokio::net::TcpStream> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no Unix sockets"))
}

/// tonic says `transport error` and keeps what a person wants to know at the end of the chain.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_there_is_said_plainly() {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let error = Connect::to(gone.to_string()).gateway().await.expect_err("nothing listens");
        assert!(matches!(&error, ClientError::Connect { address, .. } if *address == gone.to_string()), "{error}");
        let error = Connect::socket("/nonexistent/admin.sock").admin().await.expect_err("no socket");
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn a_socket_that_nobody_answers_is_given_up_in_words() {
        let path = std::env::temp_dir().join(format!("tidegate-mute-{}.sock", std::process::id()));
        let _mute = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let error = Connect::socket(&path).admin().await.expect_err("nobody accepts");
        drop(std::fs::remove_file(&path));
        assert!(error.to_string().contains("nobody answered"), "{error}");
    }

    #[tokio::test]
    async fn unusable_input_is_refused_before_connecting() {
        for (connect, word) in [
            (Connect::to("127.0.0.1:1").key("line\nbreak"), "key"),
            (Connect::to("not an address"), "address"),
            (Connect::to("https://127.0.0.1:1"), "authorities"),
            (Connect::to("https://127.0.0.1:1").authorities("no PEM"), "certificates"),
        ] {
            let error = connect.gateway().await.expect_err("refused");
            assert!(matches!(&error, ClientError::Usage(text) if text.contains(word)), "{error}");
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let shown = format!("{:?}", Connect::to("127.0.0.1:1").key("secret-of-mine"));
        assert!(!shown.contains("secret-of-mine"), "{shown}");
    }
}
