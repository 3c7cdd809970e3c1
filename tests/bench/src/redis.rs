//! As much of Redis' protocol (RESP2, redis.io) as a publisher and a subscriber need, over plain TCP. The server is
//! whatever `redis-server` is installed; nothing here starts it.

use crate::event::{self, Pace};
use anyhow::{bail, ensure};
use prost::Message as _;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

/// Room for what one read of the socket may bring.
const READ_BYTES: usize = 256 << 10;
/// Longest string that is believed.
const STRING_MAX: usize = 1 << 20;

/// A subscription.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
    line: Vec<u8>,
    string: Vec<u8>,
}

// === impl Connection ===

impl Connection {
    pub(crate) async fn subscribe(address: &str, channel: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream = BufReader::with_capacity(READ_BYTES, stream);
        let mut connection = Self { stream, line: Vec::new(), string: Vec::new() };
        let subscribe = command(&[b"SUBSCRIBE", channel.as_bytes()]);
        connection.stream.write_all(&subscribe).await?;
        // An array of the kind, the channel and the number of subscriptions.
        ensure!(connection.length(b'*').await? == 3, "redis-server answers oddly");
        connection.string().await?;
        connection.string().await?;
        connection.length(b':').await?;
        Ok(connection)
    }

    /// The next message's payload.
    pub(crate) async fn message(&mut self) -> anyhow::Result<&[u8]> {
        ensure!(self.length(b'*').await? == 3, "redis-server sends something else than a message");
        self.string().await?;
        self.string().await?;
        self.string().await?;
        Ok(&self.string)
    }

    async fn string(&mut self) -> anyhow::Result<()> {
        let length = self.length(b'$').await?;
        ensure!(length <= STRING_MAX, "a string of {length} bytes");
        self.string.resize(length + 2, 0);
        self.stream.read_exact(&mut self.string).await?;
        self.string.truncate(length);
        Ok(())
    }

    async fn length(&mut self, kind: u8) -> anyhow::Result<usize> {
        self.line.clear();
        ensure!(self.stream.read_until(b'\n', &mut self.line).await? > 0, "redis-server closed the connection");
        match self.line.split_first() {
            Some((first, rest)) if *first == kind => Ok(std::str::from_utf8(rest)?.trim().parse()?),
            _ => bail!("redis-server says {}", String::from_utf8_lossy(&self.line).trim()),
        }
    }
}

/// Publishes at the offered rate until it is killed; what is due goes out in one write.
pub(crate) async fn publish(address: &str, channel: &str, rate: u32, grain_us: u32) -> anyhow::Result<()> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (from, mut to) = stream.into_split();
    let mut answers = BufReader::with_capacity(READ_BYTES, from);
    println!("{}", json!({ "ready": true }));
    let mut pace = Pace::new(rate, grain_us);
    let (mut out, mut line) = (Vec::new(), Vec::new());
    loop {
        let mut unanswered = 0;
        for (sequence, late) in pace.due().await {
            let event = event::make_late(sequence, late).encode_to_vec();
            out.extend(command(&[b"PUBLISH", channel.as_bytes(), &event]));
            unanswered += 1;
        }
        to.write_all(&out).await?;
        out.clear();
        // Each PUBLISH is answered with a number; a full socket of answers would stop the server.
        for _ in 0..unanswered {
            line.clear();
            ensure!(answers.read_until(b'\n', &mut line).await? > 0, "redis-server closed the connection");
            ensure!(line.first() == Some(&b':'), "redis-server says {}", String::from_utf8_lossy(&line).trim());
        }
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
