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
