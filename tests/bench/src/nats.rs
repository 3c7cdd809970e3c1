//! As much of the NATS protocol as a publisher and a subscriber need (docs.nats.io, Client Protocol), over plain
//! TCP. The server is whatever `nats-server` is installed; nothing here starts it.

use crate::event::{self, Pace};
use anyhow::{Context as _, bail};
use prost::Message as _;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// Room for what one read of the socket may bring.
const READ_BYTES: usize = 256 << 10;
/// Longest payload that is believed.
const PAYLOAD_MAX: usize = 1 << 20;

/// A connection that the server has greeted.
#[derive(Debug)]
pub(crate) struct Connection {
    from: BufReader<OwnedReadHalf>,
    to: OwnedWriteHalf,
    line: Vec<u8>,
    payload: Vec<u8>,
}

// === impl Connection ===

impl Connection {
    pub(crate) async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (from, to) = stream.into_split();
        let from = BufReader::with_capacity(READ_BYTES, from);
        let mut connection = Self { from, to, line: Vec::new(), payload: Vec::new() };
        connection
            .send(b"CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"rust\",\"version\":\"0\"}\r\n")
            .await?;
        connection.settled().await?;
        Ok(connection)
    }

    pub(crate) async fn subscribe(&mut self, subject: &str) -> anyhow::Result<()> {
        self.send(format!("SUB {subject} 1\r\n").as_bytes()).await?;
        self.settled().await
    }

    /// The next message's payload.
    pub(crate) async fn message(&mut self) -> anyhow::Result<&[u8]> {
        loop {
            self.read_line().await?;
            if let Some(rest) = self.line.strip_prefix(b"MSG ") {
                let length = rest.rsplit(|byte| *byte == b' ').next().and_then(|word| std::str::from_utf8(word).ok());
                let length: usize = length.context("MSG without a length")?.trim().parse()?;
                anyhow::ensure!(length <= PAYLOAD_MAX, "a payload of {length} bytes");
                self.payload.resize(length + 2, 0);
                self.from.read_exact(&mut self.payload).await?;
                return Ok(&self.payload[..length]);
            }
            self.control().await?;
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.to.write_all(bytes).await?)
    }

    /// Waits until the server has taken everything sent so far.
    async fn settled(&mut self) -> anyhow::Result<()> {
        self.send(b"PING\r\n").await?;
        loop {
            self.read_line().await?;
            if self.line.starts_with(b"PONG") {
                return Ok(());
            }
            self.control().await?;
        }
    }

    async fn control(&mut self) -> anyhow::Result<()> {
        match self.line.as_slice() {
            line if line.starts_with(b"PING") => self.send(b"PONG\r\n").await,
            line if line.starts_with(b"-ERR") => bail!("nats-server says {}", String::from_utf8_lossy(line).trim()),
            _ => Ok(()),
        }
    }

    async fn read_line(&mut self) -> anyhow::Result<()> {
        self.line.clear();
        let read = self.from.read_until(b'\n', &mut self.line).await?;
        anyhow::ensure!(read > 0, "nats-server closed the connection");
        while self.line.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
            self.line.pop();
        }
        Ok(())
    }
}

/// Publishes at the offered rate until it is killed; what is due goes out in one write.
pub(crate) async fn publish(address: &str, subject: &str, rate: u32, grain_us: u32) -> anyhow::Result<()> {
    let Connection { mut from, mut to, .. } = Connection::open(address).await?;
    // The server's PINGs are answered here, or it would end the connection.
    let (pings, mut pinged) = tokio::sync::mpsc::channel::<()>(1);
    tokio::spawn(async move {
        let mut line = String::new();
        while matches!(from.read_line(&mut line).await, Ok(1..)) {
            if line.starts_with("PING") && pings.send(()).await.is_err() {
                return;
            }
            line.clear();
        }
    });
    println!("{}", json!({ "ready": true }));
    let mut pace = Pace::new(rate, grain_us);
    let mut out = Vec::new();
    loop {
        for (sequence, late) in pace.due().await {
            let event = event::make_late(sequence, late);
            out.extend_from_slice(format!("PUB {subject} {}\r\n", event.encoded_len()).as_bytes());
            event.encode_raw(&mut out);
            out.extend_from_slice(b"\r\n");
        }
        if pinged.try_recv().is_ok() {
            out.extend_from_slice(b"PONG\r\n");
        }
        to.write_all(&out).await?;
        out.clear();
    }
}
