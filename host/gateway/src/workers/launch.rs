//! One worker process from spawn to proof, and its end. Knows nothing of what the worker does.
//! Invariant: the secret goes through standard input only, never through arguments or environment.

use super::{
    Process, WorkerHub,
    process::{self, LastWords},
};
use crate::{
    error::{Code, Error, Result},
    ids::SessionId,
};
use std::{path::Path, process::Stdio, time::Duration};
use tidegate_pipe::{GatewayReader, GatewayWriter, Secret};
use tidegate_proto::worker::v1::{Accept, Hello, from_worker};
use tokio::{io::AsyncWriteExt as _, process::Command};

/// Where Linux has the program of a process, whatever became of its file.
const RUNNING: &str = "/proc/self/exe";

/// A backend that the operator configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub name: String,
    /// `sim`.
    pub kind: String,
    /// What the worker gets as `Accept.settings`.
    pub settings: String,
}

/// What a launch needs beyond the hub.
#[derive(Clone, Debug)]
pub struct Launch {
    pub session: SessionId,
    pub backend: Backend,
    pub heartbeat: Duration,
    /// From spawn to proof.
    pub timeout: Duration,
    /// How long the worker may look for another gateway when this one is gone; zero: not at all.
    pub orphan_lifetime: Duration,
}

/// A worker that proved itself. Dropping it kills the process; the runtime reaps it.
#[derive(Debug)]
pub struct Worker {
    pub hello: Hello,
    pub pid: u32,
    /// When the process started (`process::started`).
    pub started: String,
    pub secret: Secret,
    pub reader: GatewayReader,
    pub writer: GatewayWriter,
    pub process: Process,
}

// === impl WorkerHub ===

impl WorkerHub {
    /// Starts a worker and waits until it has proved itself. A failure leaves no process behind; cancelling does
    /// not either.
    pub async fn launch(&self, launch: Launch) -> Result<Worker> {
        let started = tokio::time::Instant::now();
        let secret = Secret::mint().map_err(|error| failed("no random bytes for a secret", &error))?;
        let (awaiting, arrival) = self.expect_new(launch.session.clone(), secret.clone());
        let name = std::env::current_exe().map_err(|error| failed("the gateway cannot find its program", &error))?;
        // The very program that runs: an upgrade that puts another one in its place leaves this name without a file.
        let program = if name.exists() { &name } else { Path::new(RUNNING) };
        let mut child = Command::new(program)
            .arg0(&name)
            .args(["worker", &launch.backend.kind, "--connect"])
            .arg(&self.shared.socket)
            .args(["--session", launch.session.as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Its own group: a signal from a terminal is for the gateway, which ends its workers in order.
            .process_group(0)
            .spawn()
            .map_err(|error| failed("the worker process cannot be started", &error))?;
        let pid = child.id().unwrap_or_default();
        // Before it has the secret, and so before it can call.
        awaiting.process(pid);
        let words = LastWords::default();
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        // From here on cancelling ends it.
        let process = Process::child(child, words.clone());
        // Not reaped yet, so the pid is its own.
        let since = process::started(pid).unwrap_or_default();
        if let Some(stderr) = stderr {
            // Ends with the worker's standard error.
            tokio::spawn(words.listen(launch.session.clone(), stderr));
        }
        if let Some(mut stdin) = stdin {
            let line = format!("{}\n", secret.to_hex());
            // A worker that is dead already is reported by its exit, below.
            let _dead = stdin.write_all(line.as_bytes()).await;
        }
        let left = launch.timeout.saturating_sub(started.elapsed());
        let (mut process, arrived) = process.or_exit(tokio::time::timeout(left, arrival)).await?;
        let proven = match arrived {
            Ok(Ok(proven)) => proven,
            Ok(Err(_refused)) => {
                process.kill().await;
                return Err(process.failed("the worker did not prove itself"));
            }
            Err(_elapsed) => {
                process.kill().await;
                let waited = launch.timeout.as_millis();
                return Err(process.failed(&format!("the worker did not come within {waited} ms")));
            }
        };
        let hello = proven.hello.clone();
        let accept = Accept {
            heartbeat_ms: launch.heartbeat.as_millis() as u32,
            settings: launch.backend.settings.clone(),
            orphan_lifetime_ms: super::millis(launch.orphan_lifetime),
            ..Accept::default()
        };
        match proven.accept(accept, super::STEP_TIMEOUT).await {
            Ok(end) => {
                let (mut reader, writer) = end.split();
                let left = launch.timeout.saturating_sub(started.elapsed());
                let first = tokio::time::timeout(left, reader.recv()).await;
                match first.map(|received| received.map(|message| message.and_then(|message| message.frame))) {
                    Ok(Ok(Some(from_worker::Frame::Heartbeat(_)))) => {
                        Ok(Worker { hello, pid, started: since, secret, reader, writer, process })
                    }
                    Ok(Ok(Some(from_worker::Frame::Goodbye(goodbye)))) => {
                        process.kill().await;
                        Err(Error::new(
                            Code::SessionStartFailed,
                            format!("the backend {} cannot start: {}", launch.backend.name, goodbye.reason),
                        ))
                    }
                    Ok(_) => {
                        let ended = process.wait_or_kill().await;
                        Err(process.failed(&format!("the worker {ended} while setting up its backend")))
                    }
                    Err(_elapsed) => {
                        process.kill().await;
                        Err(process.failed("the worker did not set up its backend in time"))
                    }
                }
            }
            Err(error) => {
                process.kill().await;
                Err(process.failed(&format!("the worker could not be accepted: {error}")))
            }
        }
    }
}

// === impl Process ===

impl Process {
    /// Waits for something while the process lives.
    async fn or_exit<T>(mut self, other: impl Future<Output = T>) -> Result<(Self, T)> {
        tokio::select! {
            biased;
            done = other => Ok((self, done)),
            ended = self.wait() => Err(self.failed(&format!("the worker {ended} while starting"))),
        }
    }

    fn failed(&self, what: &str) -> Error {
        let words = self.last_words();
        let said = if words.is_empty() { String::new() } else { format!("; it said: {words}") };
        Error::new(Code::SessionStartFailed, format!("{what}{said}"))
    }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::SessionStartFailed, format!("{what}: {error}"))
}
