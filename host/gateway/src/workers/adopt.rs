//! A worker that another gateway started, from the row of the manifest to the pipe. Knows proofs and processes; what is to
//! become of the session is the caller's. Invariant: nobody is adopted who did not prove the secret from the process that
//! the manifest names, and whoever is not adopted is still the caller's to end.

use super::{Orphan, Process, STEP_TIMEOUT, Worker, WorkerHub, millis};
use crate::{
    error::{Code, Error, Result},
    ids::SessionId,
};
use std::time::Duration;
use tidegate_pipe::{GatewayReader, GatewayWriter, Proven, Secret};
use tidegate_proto::worker::v1::{Accept, from_worker};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

/// Who is to come back.
#[derive(Debug)]
pub struct Adoption {
    pub session: SessionId,
    pub secret: Secret,
    pub pid: u32,
    pub started: String,
    pub epoch: u64,
    pub heartbeat: Duration,
    pub orphan_lifetime: Duration,
}

/// A worker that came back.
#[derive(Debug)]
pub struct Adopted {
    pub worker: Worker,
    /// The first event that it sends again.
    pub from: u64,
    /// The newest command that it has had.
    pub command: u64,
}

impl WorkerHub {
    /// Waits until the worker has come back and begins to send, until the deadline or until told to stop. To be called
    /// before the socket is answered: a worker that nobody expects is turned away for good. An error gives the process
    /// back; `gateway.draining` says that nothing was found against it.
    pub fn adopt(
        &self,
        orphan: Orphan,
        adoption: Adoption,
        deadline: Instant,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<Adopted, (Orphan, Error)>> + Send + use<> {
        let (awaiting, mut arrivals) =
            self.expect_again(adoption.session.clone(), adoption.secret.clone(), adoption.pid);
        async move {
            let _awaiting = awaiting;
            let mut late = "the worker did not come back in time".to_owned();
            loop {
                let arrived = tokio::select! {
                    biased;
                    () = stop.cancelled() => {
                        return Err((orphan, Error::new(Code::Draining, "the gateway is shutting down")));
                    }
                    arrived = timeout_at(deadline, arrivals.recv()) => arrived,
                    () = orphan.ended() => return Err((orphan, failed("the worker has ended"))),
                };
                let Ok(Some(proven)) = arrived else { return Err((orphan, failed(&late))) };
                let hello = proven.hello.clone();
                if hello.epoch != adoption.epoch {
                    return Err((orphan, failed("the worker came back with another epoch")));
                }
                match begin(proven, &adoption).await {
                    Ok((reader, writer, from)) => {
                        let command = hello.adopt.map_or(0, |adopt| adopt.command);
                        let Adoption { pid, started, secret, .. } = adoption;
                        let process = Process::orphan(orphan);
                        let worker = Worker { hello, pid, started, secret, reader, writer, process };
                        return Ok(Adopted { worker, from, command });
                    }
                    // A pipe that broke on the way is no end: the worker calls again, or it has died.
                    Err(why) => late = why,
                }
            }
        }
    }
}

/// Accepts a worker and hears where it goes on.
async fn begin(proven: Proven, adoption: &Adoption) -> Result<(GatewayReader, GatewayWriter, u64), String> {
    let accept = Accept {
        heartbeat_ms: millis(adoption.heartbeat),
        orphan_lifetime_ms: millis(adoption.orphan_lifetime),
        // The log died with the gateway before this one.
        have_sequence: Some(0),
        last_values: true,
        ..Accept::default()
    };
    let accepted = proven.accept(accept, STEP_TIMEOUT).await;
    let (mut reader, writer) = accepted.map_err(|error| format!("the worker could not be accepted: {error}"))?.split();
    let first = timeout(STEP_TIMEOUT, reader.recv()).await;
    match first.map(|received| received.map(|message| message.and_then(|message| message.frame))) {
        Ok(Ok(Some(from_worker::Frame::Resend(resend)))) if resend.from > 0 => Ok((reader, writer, resend.from)),
        _ => Err("the worker did not say where it goes on".to_owned()),
    }
}

fn failed(what: &str) -> Error {
    Error::new(Code::SessionStartFailed, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{telemetry::Counter, workers::process::stand_in};
    use std::path::Path;
    use tidegate_pipe::{
        FrameReader, FrameWriter, HelloFields, MAX_FRAME, MessageReader, MessageWriter, PROTOCOL_VERSION, PipeError,
        WorkerEnd, WorkerListener, connect,
    };
    use tidegate_proto::worker::v1::{Adopt, Answer, FromGateway, FromWorker, Heartbeat, Hello, Resend, from_gateway};
    use tokio::{net::UnixStream, process::Child, task::JoinHandle};

    const PATIENCE: Duration = Duration::from_secs(30);
    const EPOCH: u64 = 7;

    /// A hub that waits for one worker. This process calls in its place, so its number is the one in the manifest.
    struct Waiting {
        folder: tempfile::TempDir,
        session: SessionId,
        secret: Secret,
        hub: WorkerHub,
        stop: CancellationToken,
        /// What is to be ended in the end.
        process: Child,
        adopted: JoinHandle<Result<Adopted, (Orphan, Error)>>,
    }

    impl Waiting {
        async fn begin() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let (session, secret) = (SessionId::mint(), Secret::mint().expect("random bytes"));
            let socket = folder.path().join("workers.sock");
            let (process, started, orphan) = stand_in::start(folder.path(), &socket, &session).await;
            let hub = WorkerHub::new(socket.clone(), Counter::default());
            let adoption = Adoption {
                session: session.clone(),
                secret: secret.clone(),
                pid: std::process::id(),
                started,
                epoch: EPOCH,
                heartbeat: Duration::from_secs(5),
                orphan_lifetime: Duration::from_secs(60),
            };
            let stop = CancellationToken::new();
            let adopted = hub.adopt(orphan, adoption, Instant::now() + PATIENCE, stop.clone());
            let adopted = tokio::spawn(adopted);
            tokio::spawn(hub.clone().run(WorkerListener::bind(&socket).expect("it listens")));
            Self { folder, session, secret, hub, stop, process, adopted }
        }

        fn socket(&self) -> &Path {
            self.hub.socket()
        }

        async fn call(&self, epoch: u64) -> Result<WorkerEnd, PipeError> {
            let adopt = Some(Adopt { head: 9, tail: 5, command: 3 });
            let fields = HelloFields { backend: "x".into(), version: "1".into(), epoch, adopt, alarms: false };
            connect(self.socket(), self.session.as_str(), &self.secret, fields, PATIENCE).await
        }

        async fn end(mut self) {
            self.process.kill().await.expect("it ends");
            drop(self.folder);
        }
    }

    fn frame(frame: from_worker::Frame) -> FromWorker {
        FromWorker { frame: Some(frame) }
    }

    // shows: W-03, W-05, W-08
    #[tokio::test]
    async fn a_wrong_proof_from_the_right_process_takes_no_place_and_a_line_that_breaks_is_not_the_last() {
        let mut waiting = Waiting::begin().await;
        // It names the session, looks at the gateway's proof, and has none of its own.
        let (read, write) = UnixStream::connect(waiting.socket()).await.expect("connected").into_split();
        let mut reader = MessageReader::<_, FromGateway>::new(FrameReader::new(read, MAX_FRAME));
        let mut writer = MessageWriter::<_, FromWorker>::new(FrameWriter::new(write, MAX_FRAME));
        let hello = Hello {
            protocol_version: PROTOCOL_VERSION,
            session_id: waiting.session.as_str().into(),
            challenge: vec![1; 32].into(),
            pid: std::process::id(),
            backend: "x".into(),
            version: "1".into(),
            epoch: EPOCH,
            adopt: Some(Adopt { head: 9, tail: 5, command: 3 }),
            alarms: false,
        };
        writer.send(&frame(from_worker::Frame::Hello(hello))).await.expect("sent");
        let challenge = reader.recv().await.expect("answered").and_then(|message| message.frame);
        assert!(matches!(challenge, Some(from_gateway::Frame::Challenge(_))), "{challenge:?}");
        let answer = Answer { proof: vec![2; 32].into() };
        writer.send(&frame(from_worker::Frame::Answer(answer))).await.expect("sent");
        let told = reader.recv().await.expect("answered").and_then(|message| message.frame);
        assert!(matches!(told, Some(from_gateway::Frame::Reject(reject)) if reject.code == "pipe.proof"));

        // The right one, whose line breaks; then it says something else than where it goes on; then it works.
        drop(waiting.call(EPOCH).await.expect("accepted"));
        let mut line = waiting.call(EPOCH).await.expect("accepted");
        line.writer.send(&frame(from_worker::Frame::Heartbeat(Heartbeat::default()))).await.expect("sent");
        assert!(line.reader.recv().await.expect("in order").is_none(), "its line ends");
        assert!(!waiting.adopted.is_finished());
        let mut line = waiting.call(EPOCH).await.expect("accepted");
        line.writer.send(&frame(from_worker::Frame::Resend(Resend { from: 5 }))).await.expect("sent");
        let adopted = (&mut waiting.adopted).await.expect("no panic").expect("adopted");
        assert_eq!((adopted.from, adopted.command, adopted.worker.hello.epoch), (5, 3, EPOCH));

        // Who is not awaited is not ended as long as the gateway before may come back, and afterwards it is.
        waiting.hub.reject(false);
        let called = waiting.call(EPOCH).await;
        assert!(!matches!(called, Ok(_) | Err(PipeError::Rejected { .. })), "{called:?}");
        waiting.hub.reject(true);
        let late = waiting.call(EPOCH).await;
        assert!(matches!(late, Err(PipeError::Rejected { code, .. }) if code == "worker.unknown_session"));
        waiting.end().await;
    }

    // shows: W-03, W-05
    #[tokio::test]
    async fn another_epoch_is_refused_and_a_stop_refuses_nobody() {
        let mut waiting = Waiting::begin().await;
        assert!(waiting.call(EPOCH + 1).await.is_err(), "it is not accepted");
        let (_orphan, error) = (&mut waiting.adopted).await.expect("no panic").expect_err("refused");
        assert_eq!(error.code(), Code::SessionStartFailed);
        waiting.end().await;

        let mut waiting = Waiting::begin().await;
        waiting.hub.close();
        waiting.stop.cancel();
        let (_orphan, error) = (&mut waiting.adopted).await.expect("no panic").expect_err("not taken");
        assert_eq!(error.code(), Code::Draining);
        // A Reject would have ended it: it finds nobody, and calls again.
        let called = waiting.call(EPOCH).await;
        assert!(!matches!(called, Ok(_) | Err(PipeError::Rejected { .. })), "{called:?}");
        assert!(waiting.process.try_wait().expect("waiting works").is_none(), "its process lives");
        waiting.end().await;
    }
}
