//! The sockets that a gateway listens on: bound by itself, given by a service manager, or received from the gateway
//! before. They live as long as the process: an `App` accepts on handles of its own, so that between two of them
//! connections wait in the kernel. Invariant: a socket's file is removed only while the data folder is locked by us.

use super::{line::Address, socket};
use crate::{
    config::ServeConfig,
    data_dir::DataDir,
    error::{Code, Error, Result},
};
use rustix::net::sockopt;
use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::{fs::PermissionsExt as _, net::UnixListener as StdUnixListener},
    },
    path::{Path, PathBuf},
};
use tidegate_pipe::WorkerListener;
use tokio::net::{TcpListener, UnixListener};

/// As they are handed over.
pub(super) const NAMES: [&str; 5] = ["grpc", "http", "admin", "workers", "takeover"];

/// All of them.
#[derive(Debug)]
pub struct Sockets {
    grpc: Tcp,
    http: Tcp,
    admin: Unix,
    workers: WorkerListener,
    takeover: Unix,
}

/// Sockets that need not be bound any more.
#[derive(Debug, Default)]
pub struct Given {
    grpc: Option<Tcp>,
    http: Option<Tcp>,
    admin: Option<OwnedFd>,
    workers: Option<OwnedFd>,
    takeover: Option<OwnedFd>,
}

#[derive(Debug)]
struct Tcp {
    listener: std::net::TcpListener,
    address: Address,
}

#[derive(Debug)]
struct Unix {
    listener: StdUnixListener,
    path: PathBuf,
}

// === impl Given ===

impl Given {
    /// What systemd passed (`LISTEN_FDS`): each must be where `listen` or `http` is to be. To be called once, before
    /// anything else opens files.
    pub fn by_service_manager(config: &ServeConfig) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(Code::ListenFailed, format!("the service manager's sockets cannot be had: {error}"))
        };
        let mut given = Self::default();
        for raw in sd_notify::listen_fds().map_err(failed)? {
            // SAFETY: the service manager opened it for this very process (LISTEN_PID), at this number, and nobody
            // else here takes it: this is called once.
            let listener = std::net::TcpListener::from(unsafe { OwnedFd::from_raw_fd(raw) });
            if !sockopt::socket_acceptconn(&listener).unwrap_or(false) {
                return Err(failed(io::Error::other(format!("descriptor {raw} is no listening socket"))));
            }
            let bound = listener.local_addr().map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            let tcp = Tcp { listener, address: Address { wanted: bound, bound } };
            let place = if bound == config.listen && given.grpc.is_none() {
                &mut given.grpc
            } else if bound == config.http && given.http.is_none() {
                &mut given.http
            } else {
                let message = format!("the service manager listens on {bound}, which is neither --listen nor --http");
                return Err(Error::new(Code::ListenFailed, message).with("address", bound));
            };
            *place = Some(tcp);
        }
        Ok(given)
    }

    /// Binds what the gateway before has at other addresses than this one is told.
    pub(super) async fn others(config: &ServeConfig, grpc: Address, http: Address) -> Result<Self> {
        let same = |wanted: SocketAddr, there: Address| wanted == there.wanted || wanted == there.bound;
        let mut given = Self::default();
        if !same(config.listen, grpc) {
            given.grpc = Some(Tcp::bind("listen", config.listen).await?);
        }
        if !same(config.http, http) {
            given.http = Some(Tcp::bind("http", config.http).await?);
        }
        Ok(given)
    }

    /// What the gateway before handed over, where it is not there already.
    pub(super) fn received(&mut self, names: &[String], descriptors: Vec<OwnedFd>, config: &ServeConfig) -> Result<()> {
        let failed = |what: String| Error::new(Code::TakeOverFailed, what);
        if names.len() != descriptors.len() {
            let (names, came) = (names.len(), descriptors.len());
            return Err(failed(format!("{names} sockets were named and {came} came")));
        }
        let tcp = |descriptor: OwnedFd, wanted: SocketAddr| {
            let listener = std::net::TcpListener::from(descriptor);
            let bound = listener.local_addr().map_err(|error| failed(format!("a socket has no address: {error}")))?;
            Ok::<_, Error>(Tcp { listener, address: Address { wanted, bound } })
        };
        for (name, descriptor) in names.iter().zip(descriptors) {
            match name.as_str() {
                "grpc" if self.grpc.is_none() => self.grpc = Some(tcp(descriptor, config.listen)?),
                "http" if self.http.is_none() => self.http = Some(tcp(descriptor, config.http)?),
                "admin" => self.admin = Some(descriptor),
                "workers" => self.workers = Some(descriptor),
                "takeover" => self.takeover = Some(descriptor),
                // Ours is elsewhere, or it is of a later version: closed.
                _ => {}
            }
        }
        let all = [self.grpc.is_some(), self.http.is_some(), self.admin.is_some(), self.workers.is_some()];
        if all != [true; 4] || self.takeover.is_none() {
            return Err(failed("not all sockets were handed over".into()));
        }
        Ok(())
    }
}

// === impl Sockets ===

impl Sockets {
    /// Takes what was given and binds the rest. The folder's lock is ours, so a socket that is there belongs to nobody.
    pub async fn open(config: &ServeConfig, data: &DataDir, given: Given) -> Result<Self> {
        let grpc = match given.grpc {
            Some(tcp) => tcp,
            None => Tcp::bind("listen", config.listen).await?,
        };
        let http = match given.http {
            Some(tcp) => tcp,
            None => Tcp::bind("http", config.http).await?,
        };
        let unusable =
            |error| Error::new(Code::DataFolderUnusable, format!("the workers' socket cannot be made: {error}"));
        let workers = match given.workers {
            Some(descriptor) => WorkerListener::received(descriptor, data.workers_socket()),
            None => WorkerListener::bind(data.workers_socket()),
        };
        Ok(Self {
            grpc,
            http,
            workers: workers.map_err(unusable)?,
            admin: Unix::open(data.admin_socket(), given.admin)?,
            takeover: Unix::open(socket(data), given.takeover)?,
        })
    }

    pub fn grpc(&self) -> Result<TcpListener> {
        self.grpc.share()
    }

    pub fn http(&self) -> Result<TcpListener> {
        self.http.share()
    }

    pub fn admin(&self) -> Result<UnixListener> {
        self.admin.share()
    }

    pub fn workers(&self) -> Result<WorkerListener> {
        self.workers.share().map_err(|error| {
            Error::new(Code::DataFolderUnusable, format!("the workers' socket cannot be used: {error}"))
        })
    }

    pub(super) fn takeover(&self) -> Result<UnixListener> {
        self.takeover.share()
    }

    /// gRPC and HTTP, where the system put them.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        (self.grpc.address.bound, self.http.address.bound)
    }

    pub(super) fn tcp(&self) -> (Address, Address) {
        (self.grpc.address, self.http.address)
    }

    /// In the order of `NAMES`.
    pub(super) fn descriptors(&self) -> [BorrowedFd<'_>; 5] {
        [
            self.grpc.listener.as_fd(),
            self.http.listener.as_fd(),
            self.admin.listener.as_fd(),
            self.workers.as_fd(),
            self.takeover.listener.as_fd(),
        ]
    }

    /// The end of the gateway, with the folder still locked. The workers' file goes with the last handle.
    pub fn remove_files(&self) {
        for path in [&self.admin.path, &self.takeover.path] {
            // Left behind it is replaced by the next start.
            let _gone = fs::remove_file(path);
        }
    }

    /// The files belong to the gateway that follows.
    pub(super) fn leave(&self) {
        self.workers.own(false);
    }

    /// The files are this gateway's: there is no other any more.
    pub fn own(&self) {
        self.workers.own(true);
    }
}

// === impl Tcp ===

impl Tcp {
    async fn bind(what: &'static str, wanted: SocketAddr) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(Code::ListenFailed, format!("cannot listen on {wanted} (--{what}): {error}"))
                .with("address", wanted)
        };
        // Made by the runtime, for what it sets before it binds.
        let listener = TcpListener::bind(wanted).await.and_then(TcpListener::into_std).map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address: Address { wanted, bound } })
    }

    fn share(&self) -> Result<TcpListener> {
        self.listener.try_clone().and_then(TcpListener::from_std).map_err(|error| {
            Error::new(Code::ListenFailed, format!("the socket at {} cannot be used: {error}", self.address.bound))
        })
    }
}

// === impl Unix ===

impl Unix {
    fn open(path: PathBuf, given: Option<OwnedFd>) -> Result<Self> {
        let failed = |error: io::Error| {
            Error::new(Code::DataFolderUnusable, format!("cannot listen on {}: {error}", path.display()))
                .with("path", path.display())
        };
        let listener = match given {
            Some(descriptor) => StdUnixListener::from(descriptor),
            None => bind(&path).map_err(failed)?,
        };
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Self { listener, path })
    }

    fn share(&self) -> Result<UnixListener> {
        self.listener.try_clone().and_then(UnixListener::from_std).map_err(|error| {
            Error::new(Code::DataFolderUnusable, format!("{} cannot be used: {error}", self.path.display()))
        })
    }
}

fn bind(path: &Path) -> io::Result<StdUnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // The folder is 0700, so nobody else can connect before the mode is set.
    let listener = StdUnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
