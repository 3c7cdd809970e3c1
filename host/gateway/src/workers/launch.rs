//! One worker process from spawn to proof, and its end. Knows nothing of what the worker does.
//! Invariant: the secret goes through standard input only, never through arguments or environment.

use super::WorkerHub;
use crate::{
    error::{Code, Error, Result},
    ids::SessionId,
};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};
use tidegate_pipe::{GatewayReader, GatewayWriter, Secret};
use tidegate_proto::worker::v1::{Accept, Hello, from_worker};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};

/// Lines of a worker's standard error that are kept for its last words, and the longest line. Guessed.
const LAST_LINES: usize = 8;
const LINE_BYTES_MAX: u64 = 512;

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
}

/// A worker that proved itself. Dropping it kills the process; the runtime reaps it.
#[derive(Debug)]
pub struct Worker {
    pub hello: Hello,
    pub pid: u32,
    pub reader: GatewayReader,
    pub writer: GatewayWriter,
    pub process: Process,
}

/// The process of a worker.
#[derive(Debug)]
pub struct Process {
    child: Child,
    words: LastWords,
}

/// The newest lines of a worker's standard error, for the message of a fault.
#[derive(Clone, Debug, Default)]
pub struct LastWords(Arc<Mutex<VecDeque<String>>>);

// === impl WorkerHub ===

impl WorkerHub {
    /// Starts a worker and waits until it has proved itself. A failure leaves no process behind; cancelling does
    /// not either.
    pub async fn launch(&self, launch: Launch) -> Result<Worker> {
        let started = tokio::time::Instant::now();
        let secret = Secret::mint().map_err(|error| failed("no random bytes for a secret", &error))?;
        let (_awaiting, arrival) = self.expect(launch.session.clone(), secret.clone());
        let program = std::env::current_exe().map_err(|error| failed("the gateway cannot find its program", &error))?;
        let mut child = Command::new(program)
            .args(["worker", &launch.backend.kind, "--connect"])
            .arg(&self.shared.socket)
            .args(["--session", launch.session.as_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // Its own group: a signal from a terminal is for the gateway, which ends its workers in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed("the worker process cannot be started", &error))?;
        let pid = child.id().unwrap_or_default();
        let words = LastWords::default();
        if let Some(stderr) = child.stderr.take() {
            // Ends with the worker's standard error.
            tokio::spawn(words.clone().listen(launch.session.clone(), stderr));
        }
        if let Some(mut stdin) = child.stdin.take() {
            let line = format!("{}\n", secret.to_hex());
            // A worker that is dead already is reported by its exit, below.
            let _dead = stdin.write_all(line.as_bytes()).await;
        }
        let process = Process { child, words };
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
            ..Accept::default()
        };
        match proven.accept(accept, super::STEP_TIMEOUT).await {
            Ok(end) => {
                let (mut reader, writer) = end.split();
                let left = launch.timeout.saturating_sub(started.elapsed());
                let first = tokio::time::timeout(left, reader.recv()).await;
                match first.map(|received| received.map(|message| message.and_then(|message| message.frame))) {
                    Ok(Ok(Some(from_worker::Frame::Heartbeat(_)))) => {
                        Ok(Worker { hello, pid, reader, writer, process })
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
            status = self.child.wait() => {
                let ended = describe(status.ok());
                self.words.settle().await;
                Err(self.failed(&format!("the worker {ended} while starting")))
            }
        }
    }

    /// Waits for the end of the process. Cancel safe.
    pub async fn wait(&mut self) -> String {
        let status = self.child.wait().await.ok();
        self.words.settle().await;
        describe(status)
    }

    /// How it ended by itself, given a moment; else it is ended.
    async fn wait_or_kill(&mut self) -> String {
        match tokio::time::timeout(Duration::from_secs(1), self.wait()).await {
            Ok(ended) => ended,
            Err(_elapsed) => {
                self.kill().await;
                "broke the protocol".to_owned()
            }
        }
    }

    /// Ends and reaps it.
    pub async fn kill(&mut self) {
        // An error here means that it is gone already; the wait reaps it either way.
        let _gone = self.child.kill().await;
        self.words.settle().await;
    }

    /// The last lines it wrote to its standard error.
    pub fn last_words(&self) -> String {
        self.words.text()
    }

    fn failed(&self, what: &str) -> Error {
        let words = self.last_words();
        let said = if words.is_empty() { String::new() } else { format!("; it said: {words}") };
        Error::new(Code::SessionStartFailed, format!("{what}{said}"))
    }
}

// === impl LastWords ===

impl LastWords {
    fn text(&self) -> String {
        self.0.lock().iter().cloned().collect::<Vec<_>>().join(" | ")
    }

    /// Lets the listener take what is in the pipe already: bounded, it never waits for the worker.
    async fn settle(&self) {
        for _ in 0..16 {
            tokio::task::yield_now().await;
        }
    }

    async fn listen(self, session: SessionId, stderr: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let text: String = String::from_utf8_lossy(&line).trim_end().chars().filter(|c| !c.is_control()).collect();
            if text.is_empty() {
                continue;
            }
            tracing::info!(%session, worker = %text, "worker");
            let mut kept = self.0.lock();
            if kept.len() == LAST_LINES {
                kept.pop_front();
            }
            kept.push_back(text);
        }
    }
}

/// How a process ended, for people.
fn describe(status: Option<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        None => "ended in an unknown way".into(),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exited with code {code}"),
            (None, Some(signal)) => format!("was ended by signal {signal}"),
            (None, None) => "ended in an unknown way".into(),
        },
    }
}

fn failed(what: &str, error: &dyn std::fmt::Display) -> Error {
    Error::new(Code::SessionStartFailed, format!("{what}: {error}"))
}
