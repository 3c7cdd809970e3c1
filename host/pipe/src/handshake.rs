//! The order of a start, as stages that can only be passed forwards: `Incoming` → `PendingHello` → `Proven` →
//! `GatewayEnd` on the gateway's side, `start_worker` on the other. Runs over any stream; knows no paths and no
//! sessions. Invariant: neither side sends a proof before it has a fresh challenge of the other, and the worker
//! sends none before the gateway has shown its own.

use crate::{
    FrameReader, FrameWriter, MAX_FRAME, MAX_FRAME_BEFORE_ACCEPT, MessageReader, MessageWriter, PROTOCOL_VERSION,
    PipeError, Result, Secret,
    proof::{self, End},
};
use std::{future::Future, time::Duration};
use tidegate_proto::worker::v1::{
    Accept, Adopt, Answer, Challenge, FromGateway, FromWorker, Hello, Reject, from_gateway, from_worker,
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Longest session id in Hello; ours have 40 characters.
const SESSION_MAX: usize = 128;
/// Longest backend name or version in Hello.
const TEXT_MAX: usize = 64;
/// How long a Reject may take to leave; the peer may not be reading. (Guessed.)
const REJECT_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection of which nothing is known but the user of its peer.
#[derive(Debug)]
pub struct Incoming<R, W> {
    end: GatewayEnd<R, W>,
    peer_pid: Option<u32>,
}

/// A connection that says which session it belongs to. `hello` is a claim until `challenge` has passed.
#[derive(Debug)]
pub struct PendingHello<R, W> {
    /// Checked: version, lengths, a non-zero epoch. Not checked: that it is true.
    pub hello: Hello,
    /// As the system says, not as the peer does.
    pub peer_pid: Option<u32>,
    end: GatewayEnd<R, W>,
}

/// A worker that knows the secret of the session it named.
#[derive(Debug)]
pub struct Proven<R, W> {
    pub hello: Hello,
    pub peer_pid: Option<u32>,
    end: GatewayEnd<R, W>,
}

/// The gateway's end of an accepted worker.
#[derive(Debug)]
pub struct GatewayEnd<R, W> {
    reader: MessageReader<R, FromWorker>,
    writer: MessageWriter<W, FromGateway>,
}

/// The worker's end once accepted.
#[derive(Debug)]
pub struct WorkerEnd<R, W> {
    pub accept: Accept,
    pub reader: MessageReader<R, FromGateway>,
    pub writer: MessageWriter<W, FromWorker>,
}

/// What a worker says of itself.
#[derive(Clone, Debug)]
pub struct HelloFields {
    /// `simulator`, `mxaccess`.
    pub backend: String,
    pub version: String,
    /// Non-zero.
    pub epoch: u64,
    /// Set by a worker that comes back to a gateway that restarted.
    pub adopt: Option<Adopt>,
    /// It answers AlarmSync.
    pub alarms: bool,
}

// === impl Incoming ===

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Incoming<R, W> {
    pub fn new(reader: R, writer: W, peer_pid: Option<u32>) -> Self {
        let reader = MessageReader::new(FrameReader::new(reader, MAX_FRAME_BEFORE_ACCEPT));
        let writer = MessageWriter::new(FrameWriter::new(writer, MAX_FRAME_BEFORE_ACCEPT));
        Self { end: GatewayEnd { reader, writer }, peer_pid }
    }

    /// As the system says; `None` where it does not.
    pub fn peer_pid(&self) -> Option<u32> {
        self.peer_pid
    }

    /// Reads Hello. A peer of another version is told so before the error is returned.
    pub async fn hello(self, timeout: Duration) -> Result<PendingHello<R, W>> {
        let Self { mut end, peer_pid } = self;
        let frame = within(timeout, "Hello", end.reader.recv()).await?;
        let hello = match frame.and_then(|message| message.frame) {
            Some(from_worker::Frame::Hello(hello)) => hello,
            Some(other) => return Err(PipeError::WrongOrder { awaited: "Hello", got: name(&other) }),
            None => return Err(PipeError::WrongOrder { awaited: "Hello", got: "an unknown frame" }),
        };
        if hello.protocol_version != PROTOCOL_VERSION {
            let theirs = hello.protocol_version;
            end.reject("pipe.version", &format!("this gateway speaks version {PROTOCOL_VERSION} of the pipe")).await;
            return Err(PipeError::Version { theirs, ours: PROTOCOL_VERSION });
        }
        check(&hello)?;
        Ok(PendingHello { hello, peer_pid, end })
    }
}

// === impl PendingHello ===

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> PendingHello<R, W> {
    /// Shows our proof, asks for the peer's and checks it. A wrong one is told to the peer before the error is
    /// returned.
    pub async fn challenge(self, secret: &Secret, timeout: Duration) -> Result<Proven<R, W>> {
        let Self { hello, peer_pid, mut end } = self;
        let ours = proof::challenge()?;
        let shown = proof::gateway(secret, &hello.session_id, &hello.challenge, &ours);
        let challenge = Challenge { challenge: ours.to_vec().into(), proof: shown.to_vec().into() };
        let frame = within(timeout, "Answer", async {
            end.writer.send(&gateway_frame(from_gateway::Frame::Challenge(challenge))).await?;
            end.reader.recv().await
        })
        .await?;
        let answer = match frame.and_then(|message| message.frame) {
            Some(from_worker::Frame::Answer(answer)) => answer,
            Some(other) => return Err(PipeError::WrongOrder { awaited: "Answer", got: name(&other) }),
            None => return Err(PipeError::WrongOrder { awaited: "Answer", got: "an unknown frame" }),
        };
        if !proof::verify(End::Worker, secret, &hello.session_id, &hello.challenge, &ours, &answer.proof) {
            end.reject("pipe.proof", "the proof is wrong").await;
            return Err(PipeError::WrongProof);
        }
        Ok(Proven { hello, peer_pid, end })
    }

    /// Sends Reject and closes; a peer that does not read cannot hold this up for more than a second.
    pub async fn reject(mut self, code: &str, message: &str) {
        self.end.reject(code, message).await;
    }
}

// === impl Proven ===

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Proven<R, W> {
    /// Sends Accept; from here frames may be as large as it says (0: `MAX_FRAME`).
    pub async fn accept(self, mut accept: Accept, timeout: Duration) -> Result<GatewayEnd<R, W>> {
        let Self { mut end, .. } = self;
        let max = frame_max(accept.max_frame_bytes)?;
        accept.max_frame_bytes = max as u32;
        within(timeout, "room for Accept", async {
            end.writer.send(&gateway_frame(from_gateway::Frame::Accept(accept))).await.map(Some)
        })
        .await?;
        end.reader.frames.set_max(max);
        end.writer.frames.set_max(max);
        Ok(end)
    }

    /// Sends Reject and closes, as `PendingHello::reject`.
    pub async fn reject(mut self, code: &str, message: &str) {
        self.end.reject(code, message).await;
    }
}

// === impl GatewayEnd ===

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> GatewayEnd<R, W> {
    pub fn split(self) -> (MessageReader<R, FromWorker>, MessageWriter<W, FromGateway>) {
        (self.reader, self.writer)
    }

    async fn reject(&mut self, code: &str, message: &str) {
        let reject = Reject { code: code.to_owned(), message: message.to_owned() };
        let reject = gateway_frame(from_gateway::Frame::Reject(reject));
        // The connection is closed next either way; a peer that cannot be told sees just that.
        let _told = tokio::time::timeout(REJECT_TIMEOUT, self.writer.send(&reject)).await;
    }
}

/// The worker's side of the start, all of it within `timeout`.
pub async fn start_worker<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    reader: R,
    writer: W,
    session: &str,
    secret: &Secret,
    fields: HelloFields,
    timeout: Duration,
) -> Result<WorkerEnd<R, W>> {
    let mut reader = MessageReader::<R, FromGateway>::new(FrameReader::new(reader, MAX_FRAME_BEFORE_ACCEPT));
    let mut writer = MessageWriter::<W, FromWorker>::new(FrameWriter::new(writer, MAX_FRAME_BEFORE_ACCEPT));
    let deadline = tokio::time::Instant::now() + timeout;
    let left = || deadline.saturating_duration_since(tokio::time::Instant::now());

    let ours = proof::challenge()?;
    let hello = Hello {
        protocol_version: PROTOCOL_VERSION,
        session_id: session.to_owned(),
        challenge: ours.to_vec().into(),
        pid: std::process::id(),
        backend: fields.backend,
        version: fields.version,
        epoch: fields.epoch,
        adopt: fields.adopt,
        alarms: fields.alarms,
    };
    let frame = within(left(), "Challenge", async {
        writer.send(&worker_frame(from_worker::Frame::Hello(hello))).await?;
        reader.recv().await
    })
    .await?;
    let challenge = match expect(frame, "Challenge")? {
        from_gateway::Frame::Challenge(challenge) => challenge,
        other => return Err(PipeError::WrongOrder { awaited: "Challenge", got: gateway_name(&other) }),
    };
    if challenge.challenge.len() != proof::LEN {
        return Err(PipeError::Handshake("the challenge has not 32 bytes"));
    }
    if !proof::verify(End::Gateway, secret, session, &ours, &challenge.challenge, &challenge.proof) {
        return Err(PipeError::WrongProof);
    }

    let answer = Answer { proof: proof::worker(secret, session, &ours, &challenge.challenge).to_vec().into() };
    let frame = within(left(), "Accept", async {
        writer.send(&worker_frame(from_worker::Frame::Answer(answer))).await?;
        reader.recv().await
    })
    .await?;
    let accept = match expect(frame, "Accept")? {
        from_gateway::Frame::Accept(accept) => accept,
        other => return Err(PipeError::WrongOrder { awaited: "Accept", got: gateway_name(&other) }),
    };
    let max = frame_max(accept.max_frame_bytes)?;
    reader.frames.set_max(max);
    writer.frames.set_max(max);
    Ok(WorkerEnd { accept, reader, writer })
}

fn check(hello: &Hello) -> Result<()> {
    if hello.session_id.is_empty() || hello.session_id.len() > SESSION_MAX {
        return Err(PipeError::Handshake("the session id is empty or too long"));
    }
    if hello.challenge.len() != proof::LEN {
        return Err(PipeError::Handshake("the challenge has not 32 bytes"));
    }
    if hello.epoch == 0 {
        return Err(PipeError::Handshake("the epoch is zero"));
    }
    if hello.backend.len() > TEXT_MAX || hello.version.len() > TEXT_MAX {
        return Err(PipeError::Handshake("the backend's name or version is too long"));
    }
    Ok(())
}

fn frame_max(bytes: u32) -> Result<usize> {
    match bytes as usize {
        0 => Ok(MAX_FRAME),
        max if (MAX_FRAME_BEFORE_ACCEPT..=MAX_FRAME).contains(&max) => Ok(max),
        _ => Err(PipeError::Handshake("max_frame_bytes is not between 64 KiB and 16 MiB")),
    }
}

/// `None` of the inner future is an early end of the pipe.
async fn within<T>(
    timeout: Duration,
    awaited: &'static str,
    step: impl Future<Output = Result<Option<T>>>,
) -> Result<Option<T>> {
    match tokio::time::timeout(timeout, step).await {
        Ok(Ok(None)) => Err(PipeError::Closed { awaited }),
        Ok(done) => done,
        Err(_elapsed) => Err(PipeError::Timeout { awaited }),
    }
}

/// Turns a Reject, which may come at any step, into its error.
fn expect(message: Option<FromGateway>, awaited: &'static str) -> Result<from_gateway::Frame> {
    match message.and_then(|message| message.frame) {
        Some(from_gateway::Frame::Reject(Reject { code, message })) => Err(PipeError::Rejected { code, message }),
        Some(frame) => Ok(frame),
        None => Err(PipeError::WrongOrder { awaited, got: "an unknown frame" }),
    }
}

fn gateway_frame(frame: from_gateway::Frame) -> FromGateway {
    FromGateway { frame: Some(frame) }
}

fn worker_frame(frame: from_worker::Frame) -> FromWorker {
    FromWorker { frame: Some(frame) }
}

/// The name of a worker's frame, for errors and logs.
pub fn name(frame: &from_worker::Frame) -> &'static str {
    match frame {
        from_worker::Frame::Hello(_) => "Hello",
        from_worker::Frame::Answer(_) => "Answer",
        from_worker::Frame::Events(_) => "Events",
        from_worker::Frame::Reply(_) => "Reply",
        from_worker::Frame::Heartbeat(_) => "Heartbeat",
        from_worker::Frame::Resend(_) => "Resend",
        from_worker::Frame::Goodbye(_) => "Goodbye",
        from_worker::Frame::AlarmTable(_) => "AlarmTable",
        from_worker::Frame::AlarmChange(_) => "AlarmChange",
        from_worker::Frame::LastValues(_) => "LastValues",
    }
}

/// The name of a gateway's frame, for errors and logs.
pub fn gateway_name(frame: &from_gateway::Frame) -> &'static str {
    match frame {
        from_gateway::Frame::Challenge(_) => "Challenge",
        from_gateway::Frame::Accept(_) => "Accept",
        from_gateway::Frame::Reject(_) => "Reject",
        from_gateway::Frame::Command(_) => "Command",
        from_gateway::Frame::Shutdown(_) => "Shutdown",
        from_gateway::Frame::Gather(_) => "Gather",
        from_gateway::Frame::AlarmSync(_) => "AlarmSync",
    }
}
