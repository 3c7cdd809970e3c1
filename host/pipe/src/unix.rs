//! The pipe over a Unix socket: one socket per gateway, mode 0600, and only peers of our own user. Knows paths and
//! users, not frames. Invariant: nothing that is not a dead socket of ours is ever removed from the file system.

use crate::{HelloFields, MessageReader, MessageWriter, PipeError, Result, Secret, handshake};
use rustix::fs::Mode;
use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            ffi::OsStrExt as _,
            fs::{FileTypeExt as _, MetadataExt as _},
        },
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};
use tidegate_proto::worker::v1::{FromGateway, FromWorker};
use tokio::net::{
    UnixListener, UnixSocket, UnixStream,
    unix::{OwnedReadHalf, OwnedWriteHalf},
};

pub type Incoming = handshake::Incoming<OwnedReadHalf, OwnedWriteHalf>;
pub type PendingHello = handshake::PendingHello<OwnedReadHalf, OwnedWriteHalf>;
pub type Proven = handshake::Proven<OwnedReadHalf, OwnedWriteHalf>;
pub type GatewayEnd = handshake::GatewayEnd<OwnedReadHalf, OwnedWriteHalf>;
pub type GatewayReader = MessageReader<OwnedReadHalf, FromWorker>;
pub type GatewayWriter = MessageWriter<OwnedWriteHalf, FromGateway>;
pub type WorkerEnd = handshake::WorkerEnd<OwnedReadHalf, OwnedWriteHalf>;
pub type WorkerReader = MessageReader<OwnedReadHalf, FromGateway>;
pub type WorkerWriter = MessageWriter<OwnedWriteHalf, FromWorker>;

/// Room of `sun_path` less the terminating zero.
#[cfg(any(target_os = "linux", target_os = "android"))]
const PATH_MAX: usize = 107;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const PATH_MAX: usize = 103;

/// Connections that may wait for `accept`; more of them are refused by the system. As many as sessions start at once.
const BACKLOG: u32 = 128;

/// The socket that workers connect to. Removed from the file system on drop, unless it is shared or left.
#[derive(Debug)]
pub struct WorkerListener {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode, so that drop does not remove a successor's socket.
    identity: (u64, u64),
    /// The file goes with this handle.
    owned: AtomicBool,
}

// === impl WorkerListener ===

impl WorkerListener {
    /// Listens on `path` with mode 0600. A socket there that nobody listens on is removed; anything else in the way
    /// is an error. The folder has to exist and should be private: whoever can write to it can replace the socket.
    pub fn bind(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        check_length(&path)?;
        clear(&path)?;
        let binding = PipeError::io("listening on the workers' socket");
        let (listener, identity) = (|| {
            let socket = UnixSocket::new_stream()?;
            // On Linux the file takes this mode at birth; elsewhere the call below closes the window.
            let _unsupported = rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR);
            socket.bind(&path)?;
            rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR)?;
            let file = fs::symlink_metadata(&path)?;
            Ok((socket.listen(BACKLOG)?, (file.dev(), file.ino())))
        })()
        .map_err(binding)?;
        Ok(Self { listener, path, identity, owned: AtomicBool::new(true) })
    }

    /// A socket that listens on `path` already, from the process that bound it and whose file it is until `own`.
    pub fn received(socket: OwnedFd, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let taking = PipeError::io("taking the workers' socket over");
        let (listener, identity) = (|| {
            let file = fs::symlink_metadata(&path)?;
            Ok((listener(socket)?, (file.dev(), file.ino())))
        })()
        .map_err(taking)?;
        Ok(Self { listener, path, identity, owned: AtomicBool::new(false) })
    }

    /// Another handle to the same socket; dropping it leaves the file where it is. Of several, one accepts at a time.
    pub fn share(&self) -> Result<Self> {
        let sharing = PipeError::io("sharing the workers' socket");
        let listener = self.listener.as_fd().try_clone_to_owned().and_then(listener).map_err(sharing)?;
        Ok(Self { listener, path: self.path.clone(), identity: self.identity, owned: AtomicBool::new(false) })
    }

    /// Whether the file goes with this handle; if not, it belongs to another process that has the socket.
    pub fn own(&self, own: bool) {
        self.owned.store(own, Ordering::SeqCst);
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next connection. `PeerUid` concerns that one connection only; go on accepting. `Io` is usually a lack of
    /// descriptors: go on after a pause. Cancel safe.
    pub async fn accept(&self) -> Result<Incoming> {
        let (stream, _) = self.listener.accept().await.map_err(PipeError::io("accepting a worker"))?;
        let peer = own_user(&stream)?;
        let (reader, writer) = stream.into_split();
        Ok(Incoming::new(reader, writer, peer))
    }
}

impl AsFd for WorkerListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for WorkerListener {
    fn drop(&mut self) {
        if !self.owned.load(Ordering::SeqCst) {
            return;
        }
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            // Left behind, it is the stale socket that the next bind removes.
            let _gone = fs::remove_file(&self.path);
        }
    }
}

fn listener(socket: OwnedFd) -> io::Result<UnixListener> {
    let socket = std::os::unix::net::UnixListener::from(socket);
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
}

/// Connects a worker and passes the whole start within `timeout`. The gateway's proof is checked before ours is sent.
pub async fn connect(
    path: &Path,
    session: &str,
    secret: &Secret,
    fields: HelloFields,
    timeout: Duration,
) -> Result<WorkerEnd> {
    check_length(path)?;
    let connecting = tokio::time::timeout(timeout, UnixStream::connect(path)).await;
    let stream = connecting
        .map_err(|_elapsed| PipeError::Timeout { awaited: "connection" })?
        .map_err(PipeError::io("connecting to the gateway's socket"))?;
    own_user(&stream)?;
    let (reader, writer) = stream.into_split();
    handshake::start_worker(reader, writer, session, secret, fields, timeout).await
}

/// Checks that the peer is of our own user; its process id, where the system tells.
fn own_user(stream: &UnixStream) -> Result<Option<u32>> {
    let peer = stream.peer_cred().map_err(PipeError::io("asking who the peer is"))?;
    let ours = rustix::process::geteuid().as_raw();
    if peer.uid() != ours {
        return Err(PipeError::PeerUid { theirs: peer.uid(), ours });
    }
    Ok(peer.pid().and_then(|pid| u32::try_from(pid).ok()))
}

fn check_length(path: &Path) -> Result<()> {
    let len = path.as_os_str().as_bytes().len();
    if len > PATH_MAX {
        return Err(PipeError::PathTooLong { path: path.to_owned(), len, max: PATH_MAX });
    }
    Ok(())
}

/// Removes a socket that nobody listens on.
fn clear(path: &Path) -> Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PipeError::io("looking at the workers' socket")(error)),
    };
    if !file.file_type().is_socket() {
        return Err(PipeError::NotASocket { path: path.to_owned() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(PipeError::io("removing a stale socket"))
        }
        // Whoever does not refuse is alive, even where we may not talk to it.
        _ => Err(PipeError::InUse { path: path.to_owned() }),
    }
}
