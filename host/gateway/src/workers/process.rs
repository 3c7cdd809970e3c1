//! The process of a worker, our own child or one that another gateway started, and its end. Knows the process table, not
//! what a worker does. Invariants: a process that is not our child is named by a pidfd taken while its start time and its
//! command line said that it is the one meant, so a reused pid is never ended; dropping a `Process` ends it.

use crate::ids::SessionId;
use parking_lot::Mutex;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use std::{
    collections::VecDeque, fs, os::fd::OwnedFd, os::unix::ffi::OsStrExt as _, path::Path, process::ExitStatus,
    sync::Arc, time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader, unix::AsyncFd},
    process::Child,
};

/// Lines of a worker's standard error that are kept for its last words, and the longest line. Guessed.
const LAST_LINES: usize = 8;
const LINE_BYTES_MAX: u64 = 512;

/// A worker's process. Dropping it ends it; the runtime reaps a child of ours.
#[derive(Debug)]
pub struct Process {
    kind: Kind,
    words: LastWords,
    released: bool,
}

#[derive(Debug)]
enum Kind {
    Child(Child),
    Orphan(Orphan),
}

/// A worker that another gateway started: not our child, so its exit has no code for us.
#[derive(Debug)]
pub struct Orphan {
    /// Readable once the process has ended.
    pidfd: AsyncFd<OwnedFd>,
}

/// The newest lines of a worker's standard error, for the message of a fault.
#[derive(Clone, Debug, Default)]
pub struct LastWords(Arc<Mutex<VecDeque<String>>>);

/// When a process started, as no other process of this machine can have it with the same pid: the boot and the time since
/// then. `None`: there is no such process, or only what is left of one.
pub(super) fn started(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows the last one is plain.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let ticks = fields.nth(18)?;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(format!("{} {ticks}", boot.trim()))
}

// === impl Orphan ===

impl Orphan {
    /// The process that was started as this session's worker at this socket; `None` when it is gone, or another process
    /// has its pid, or it never was one of ours.
    pub fn find(pid: u32, since: &str, session: &SessionId, socket: &Path) -> Option<Self> {
        let raw = Pid::from_raw(pid.cast_signed())?;
        let pidfd = pidfd_open(raw, PidfdFlags::NONBLOCK).ok()?;
        if started(pid)? != since || !is_worker_of(pid, session, socket) {
            return None;
        }
        // It lives still, so the pid was its own while we looked.
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::default())).ok()? != 0 {
            return None;
        }
        // SAFETY: the `OwnedFd` is open, nobody else has it, and it stays the same one until the `AsyncFd` is dropped.
        let pidfd = unsafe { AsyncFd::register(pidfd) }.ok()?;
        Some(Self { pidfd })
    }

    pub async fn ended(&self) {
        // An error would mean that the runtime is going down.
        let _ended = self.pidfd.readable().await;
    }

    /// Now, without waiting.
    pub fn has_ended(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready != 0)
    }

    fn signal_kill(&self) {
        // It may have ended just now.
        let _gone = pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
    }

    /// Ends it and waits until it has ended. A stopped process ends as well.
    pub async fn kill(&self) {
        self.signal_kill();
        self.ended().await;
    }
}

/// The arguments it was started with. A manifest that names another process, by accident or not, ends nobody.
fn is_worker_of(pid: u32, session: &SessionId, socket: &Path) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
    let pair = |name: &[u8], value: &[u8]| words.windows(2).any(|pair| pair[0] == name && pair[1] == value);
    words.get(1) == Some(&&b"worker"[..])
        && pair(b"--connect", socket.as_os_str().as_bytes())
        && pair(b"--session", session.as_str().as_bytes())
}

// === impl Process ===

impl Process {
    pub(super) fn child(child: Child, words: LastWords) -> Self {
        Self { kind: Kind::Child(child), words, released: false }
    }

    pub(super) fn orphan(orphan: Orphan) -> Self {
        Self { kind: Kind::Orphan(orphan), words: LastWords::default(), released: false }
    }

    /// Waits for the end of the process. Cancel safe.
    pub async fn wait(&mut self) -> String {
        match &mut self.kind {
            Kind::Child(child) => {
                let status = child.wait().await.ok();
                self.words.settle().await;
                describe(status)
            }
            Kind::Orphan(orphan) => {
                orphan.ended().await;
                "ended".into()
            }
        }
    }

    /// How it ended by itself, given a moment; else it is ended.
    pub(super) async fn wait_or_kill(&mut self) -> String {
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
        match &mut self.kind {
            Kind::Child(child) => {
                // An error here means that it is gone already; the wait reaps it either way.
                let _gone = child.kill().await;
                self.words.settle().await;
            }
            Kind::Orphan(orphan) => orphan.kill().await,
        }
    }

    /// From here on it lives on when this is dropped: the next gateway takes it.
    pub fn release(&mut self) {
        self.released = true;
    }

    /// The last lines it wrote to its standard error; an orphan's are lost with its first gateway.
    pub fn last_words(&self) -> String {
        self.words.text()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.released {
            return;
        }
        match &mut self.kind {
            // Gone already is well; the runtime reaps.
            Kind::Child(child) => drop(child.start_kill()),
            Kind::Orphan(orphan) => orphan.signal_kill(),
        }
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

    pub(super) async fn listen(self, session: SessionId, stderr: impl AsyncRead + Unpin) {
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

#[cfg(test)]
pub(super) mod stand_in {
    use super::*;

    /// Waits for its standard input to end; looks like a worker of ours to whoever reads command lines. Its child, when it
    /// started, and what finds it.
    pub(crate) async fn start(folder: &Path, socket: &Path, session: &SessionId) -> (Child, String, Orphan) {
        fs::write(folder.join("worker"), "read line\n").expect("written");
        let child = tokio::process::Command::new("sh")
            .arg("worker")
            .arg("--connect")
            .arg(socket)
            .args(["--session", session.as_str()])
            .current_dir(folder)
            .stdin(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("it starts");
        let pid = child.id().expect("it runs");
        let since = started(pid).expect("it runs");
        // A process has no command line for a moment after it has begun.
        let orphan = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                match Orphan::find(pid, &since, session, socket) {
                    Some(orphan) => break orphan,
                    None => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        let orphan = orphan.await.expect("it is the one");
        (child, since, orphan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: W-05
    #[tokio::test]
    async fn a_process_is_known_by_its_start_and_its_command_line_not_by_its_pid() {
        let folder = tempfile::tempdir().expect("a folder");
        let session = SessionId::mint();
        let socket = folder.path().join("workers.sock");
        let (mut child, since, orphan) = stand_in::start(folder.path(), &socket, &session).await;
        let pid = child.id().expect("it runs");
        assert!(Orphan::find(pid, "another boot 1", &session, &socket).is_none(), "a reused pid");
        assert!(Orphan::find(pid, &since, &SessionId::mint(), &socket).is_none(), "another session's");
        assert!(Orphan::find(pid, &since, &session, Path::new("/elsewhere/workers.sock")).is_none(), "another's");
        orphan.kill().await;
        assert!(started(pid).is_none(), "it has ended, reaped or not");
        assert!(Orphan::find(pid, &since, &session, &socket).is_none());
        child.wait().await.expect("reaped");

        let us = std::process::id();
        let since = started(us).expect("we live");
        assert!(Orphan::find(us, &since, &session, &socket).is_none(), "a test is nobody's worker");
        assert!(Orphan::find(0, &since, &session, &socket).is_none());
    }
}
