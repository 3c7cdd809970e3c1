//! The connection between the gateway that serves and the one that follows: a line of JSON for each word, descriptors
//! beside it, and who is at the other end. Knows words, not what they lead to. Invariants: only a process of our own user
//! is talked to; what it says is bounded; a descriptor that came is closed in what we start.

use crate::error::{Code, Error, Result};
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg,
    },
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use serde::{Deserialize, Serialize};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
};

/// Longest line.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Most descriptors that come with one.
const DESCRIPTORS_MAX: usize = 8;

/// What is said, in the order of `takeover.rs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "snake_case")]
pub(super) enum Word {
    Hello {
        protocol: u32,
        version: String,
        instance: String,
        /// Of the database, the newest that it knows.
        schema: usize,
        /// Of the workers' pipe.
        pipe: u32,
    },
    Welcome {
        pid: u32,
        version: String,
        schema: usize,
        grpc: Address,
        http: Address,
        /// How long the one that follows may take from `Released` to `Started`.
        within_ms: u64,
    },
    Refused {
        code: String,
        message: String,
    },
    Ready,
    /// In the order of the descriptors.
    Sockets {
        names: Vec<String>,
    },
    /// How long nothing has been accepted by now.
    Released {
        paused_ms: u64,
    },
    Started,
    Failed {
        message: String,
    },
    Go,
    Back {
        message: String,
    },
    Serving,
}

/// Where a listener is: as it was asked for, and as the system gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Address {
    pub(super) wanted: SocketAddr,
    pub(super) bound: SocketAddr,
}

/// One end.
#[derive(Debug)]
pub(super) struct Line {
    stream: UnixStream,
    said: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

/// The process that called, by a descriptor that no later process of the same number has.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) pid: u32,
    process: AsyncFd<OwnedFd>,
}

// === impl Line ===

impl Line {
    /// `PermissionDenied`: it is another user's.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        let peer = stream.peer_cred()?;
        if peer.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it is of user {}", peer.uid())));
        }
        Ok(Self { stream, said: Vec::new(), descriptors: Vec::new() })
    }

    /// Who called. Only for the side that was called: to the other one the system names the process that began to
    /// listen, which may be a gateway of long ago.
    pub(super) fn caller(&self) -> io::Result<Peer> {
        let pid = self.stream.peer_cred()?.pid();
        Peer::of(pid.map_or(0, i32::cast_unsigned))
    }

    pub(super) async fn say(&self, word: &Word) -> io::Result<()> {
        self.say_with(word, &[]).await
    }

    /// The descriptors go with the first byte.
    pub(super) async fn say_with(&self, word: &Word, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut line = serde_json::to_vec(word)?;
        line.push(b'\n');
        let (mut rest, mut with) = (line.as_slice(), descriptors);
        while !rest.is_empty() {
            let sent = self
                .stream
                .async_io(Interest::WRITABLE, || {
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
                    let mut beside = SendAncillaryBuffer::new(&mut space);
                    if !with.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(with)) {
                        return Err(io::Error::other("more descriptors than fit"));
                    }
                    Ok(sendmsg(&self.stream, &[IoSlice::new(rest)], &mut beside, SendFlags::NOSIGNAL)?)
                })
                .await?;
            (rest, with) = (&rest[sent..], &[]);
        }
        Ok(())
    }

    /// The next word; `None`: it has ended. Cancel safe.
    pub(super) async fn hear(&mut self) -> io::Result<Option<Word>> {
        loop {
            if let Some(word) = self.whole()? {
                return Ok(Some(word));
            }
            let (said, descriptors) = (&mut self.said, &mut self.descriptors);
            let stream = &self.stream;
            let heard = stream.async_io(Interest::READABLE, || take(stream.as_fd(), said, descriptors)).await;
            match heard {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // It closed without having read everything: it has ended all the same.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// The next word, if it has come already; asks the socket itself, which may know more than the runtime does just now.
    pub(super) fn at_hand(&mut self) -> io::Result<Option<Word>> {
        loop {
            if let Some(word) = self.whole()? {
                return Ok(Some(word));
            }
            match take(self.stream.as_fd(), &mut self.said, &mut self.descriptors) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes a whole line out of what was said.
    fn whole(&mut self) -> io::Result<Option<Word>> {
        if let Some(end) = self.said.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            return Ok(Some(serde_json::from_slice(&line)?));
        }
        if self.said.len() > LINE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
        }
        Ok(None)
    }

    /// What came beside the words so far.
    pub(super) fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }
}

fn take(stream: BorrowedFd<'_>, said: &mut Vec<u8>, descriptors: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let heard = recvmsg(stream, &mut [IoSliceMut::new(&mut bytes)], &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            // What is too much is closed at once.
            let room = DESCRIPTORS_MAX.saturating_sub(descriptors.len());
            descriptors.extend(came.take(room));
        }
    }
    said.extend_from_slice(&bytes[..heard.bytes]);
    Ok(heard.bytes)
}

// === impl Peer ===

impl Peer {
    /// The process that has this number now.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid.cast_signed());
        let pid = pid.ok_or_else(|| io::Error::other("the system does not tell who it is"))?;
        let process = pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        // SAFETY: the `OwnedFd` is open, nobody else has it, and it stays the same one until the `AsyncFd` is dropped.
        let process = unsafe { AsyncFd::register(process) }.map_err(io::Error::other)?;
        Ok(Peer { pid: pid.as_raw_pid().cast_unsigned(), process })
    }

    pub(super) async fn ended(&self) {
        // An error would mean that the runtime is going down.
        let _ended = self.process.readable().await;
    }

    /// SIGKILL; whoever has ended already is not hurt.
    pub(super) fn kill(&self) {
        match pidfd_send_signal(self.process.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::error!(%error, pid = self.pid, "a gateway that hangs cannot be ended"),
        }
    }
}

/// A word that has no place here, if it is not one of those that end a hand-over at any time.
pub(super) fn unexpected(word: Option<Word>) -> Error {
    match word {
        Some(Word::Back { message } | Word::Failed { message }) => Error::new(Code::TakeOverFailed, message),
        Some(word) => {
            let word = serde_json::to_value(&word).unwrap_or_default();
            let name = word["word"].as_str().unwrap_or("a word").to_owned();
            Error::new(Code::TakeOverFailed, format!("the other gateway said {name} out of turn"))
        }
        None => Error::new(Code::TakeOverFailed, "the other gateway has gone away"),
    }
}

pub(super) fn broken(error: &io::Error) -> Error {
    Error::new(Code::TakeOverFailed, format!("the other gateway cannot be talked to: {error}"))
}

/// As lines carry it.
pub(super) fn result(heard: io::Result<Option<Word>>) -> Result<Option<Word>> {
    heard.map_err(|error| broken(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[tokio::test]
    async fn words_and_descriptors_arrive_whole_and_nonsense_is_refused() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let (one, mut other) = (Line::new(one).expect("ours"), Line::new(other).expect("ours"));
        assert_eq!(other.caller().expect("it lives").pid, std::process::id());
        let (mut reads, writes) = io::pipe().expect("a pipe");
        let names = vec!["x".repeat(8 << 10)];
        let sockets = Word::Sockets { names };
        one.say_with(&sockets, &[writes.as_fd()]).await.expect("said");
        one.say(&Word::Ready).await.expect("said");
        drop(writes);
        assert_eq!(other.hear().await.expect("heard"), Some(sockets));
        assert_eq!(other.hear().await.expect("heard"), Some(Word::Ready));
        let mut came = other.take_descriptors();
        assert_eq!(came.len(), 1);
        let mut pipe = std::fs::File::from(came.remove(0));
        pipe.write_all(b"through").expect("written");
        drop(pipe);
        let mut text = String::new();
        reads.read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");

        one.stream.try_write(b"{\"word\":\"nonsense\"}\n").expect("written");
        assert!(other.hear().await.is_err());
        let mut written = 0;
        while written <= LINE_BYTES_MAX {
            written += one.stream.try_write(&[b'x'; 4096]).expect("written");
        }
        assert_eq!(other.hear().await.expect_err("too long").kind(), io::ErrorKind::InvalidData);
        drop(one);
        let mut gone = Line::new(UnixStream::pair().expect("a pair").0).expect("ours");
        assert_eq!(gone.hear().await.expect("an end"), None);
    }
}
