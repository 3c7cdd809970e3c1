//! Gateways as processes: started in a folder of their own, asked, stopped, killed.

use super::{LOOK_EVERY, PATIENCE, Session, eventually};
use rustix::process::{Pid, Signal};
use serde_json::Value as Json;
use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    sync::{Arc, OnceLock},
};
use tempfile::TempDir;
use tidegate_client::{
    Admin, ClientError, Connect, Gateway as Client,
    wire::{CreateKeyRequest, OpenSessionRequest, OpenSessionResponse, SwapRecord},
};
use tidegate_policy::{PolicyConfig, PolicyHost};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

pub(crate) const ACCESS: &[u8] = include_bytes!("../../../plugins/dist/access.wasm");
pub(crate) const BACKPRESSURE: &[u8] = include_bytes!("../../../plugins/dist/backpressure.wasm");

/// Few events, faults on demand, everything else as it comes.
const BACKEND: &str = "sim=sim:rate=200,faults=true";

/// Made once for all stories of a run.
static COMPILED: OnceLock<Store> = OnceLock::new();

/// What a gateway's policy store holds once the embedded policies were compiled.
struct Store {
    key: Vec<u8>,
    files: Vec<(OsString, Vec<u8>)>,
}

/// A gateway to be.
pub(crate) struct Launch {
    folder: Arc<TempDir>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    backends: Vec<String>,
    plugins: bool,
    addresses: bool,
    announcement: bool,
}

/// A running gateway. Dropping it kills it and whatever it started.
pub(crate) struct Gateway {
    child: Child,
    group: Pid,
    folder: Arc<TempDir>,
    grpc: String,
    http: String,
    key: String,
}

/// A gateway that does not serve yet: it was started to follow another one, or takes its time. Dropping it kills it.
pub(crate) struct Follower {
    /// `None` once it is a gateway of its own.
    child: Option<Child>,
}

/// How a gateway that did not start ended.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: ExitStatus,
    pub(crate) words: String,
}

// === impl Store ===

impl Store {
    fn compile() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        drop(PolicyHost::start(PolicyConfig::new(folder.path().to_owned())).expect("the embedded policies start"));
        let key = fs::read(folder.path().join("cache.key")).expect("the cache has a key");
        let cached = fs::read_dir(folder.path().join("cache")).expect("a cache");
        let read = |entry: fs::DirEntry| (entry.file_name(), fs::read(entry.path()).expect("a compiled component"));
        Self { key, files: cached.map(|entry| read(entry.expect("an entry"))).collect() }
    }
}

// === impl Launch ===

impl Launch {
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("tide").tempdir().expect("a folder");
        Self::again(Arc::new(folder))
    }

    /// In a folder that was used before.
    pub(crate) fn again(folder: Arc<TempDir>) -> Self {
        let plugins = folder.path().join("plugins");
        if !plugins.exists() {
            DirBuilder::new().mode(0o700).create(&plugins).expect("a plugins folder");
        }
        Self {
            folder,
            flags: Vec::new(),
            environment: Vec::new(),
            backends: Vec::new(),
            plugins: true,
            addresses: true,
            announcement: true,
        }
    }

    /// A simulator of its own settings; replaces the usual one.
    pub(crate) fn backend(mut self, name: &str, settings: &str) -> Self {
        self.backends.push(format!("{name}=sim:{settings}"));
        self
    }

    pub(crate) fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.to_owned(), value.to_owned()]);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A flag without a value.
    pub(crate) fn switch(mut self, name: &str) -> Self {
        self.flags.push(name.to_owned());
        self
    }

    /// The story gives `--plugins` or none.
    pub(crate) fn without_plugins(mut self) -> Self {
        self.plugins = false;
        self
    }

    /// The story gives `--listen` and `--http`.
    pub(crate) fn without_addresses(mut self) -> Self {
        self.addresses = false;
        self
    }

    /// It cannot write down where it is, which the story knows: it is there when it answers.
    pub(crate) fn without_announcement(mut self) -> Self {
        self.announcement = false;
        self
    }

    /// What is to be there when the gateway starts.
    pub(crate) fn prepare(self, prepare: impl FnOnce(&Path)) -> Self {
        prepare(self.folder.path());
        self
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn folder(&self) -> Arc<TempDir> {
        self.folder.clone()
    }

    fn spawn(&self) -> (Child, PathBuf) {
        let log = self.folder.path().join("gateway.log");
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command = tidegate();
        command.arg("serve");
        if !self.flags.iter().any(|flag| flag == "--data") {
            command.arg("--data").arg(self.data());
        }
        if self.plugins {
            command.arg("--plugins").arg(self.folder.path().join("plugins"));
        }
        if self.addresses {
            command.args(["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"]);
        }
        if self.backends.is_empty() {
            command.args(["--backend", BACKEND]);
        }
        for backend in &self.backends {
            command.args(["--backend", backend]);
        }
        command.args(&self.flags).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdout(file.try_clone().expect("a second handle")).stderr(file).process_group(0).kill_on_drop(true);
        (command.spawn().expect("the gateway starts"), log)
    }

    pub(crate) async fn start(self) -> Gateway {
        self.warm();
        // A gateway that was killed left its own behind.
        let announced = self.data().join("addresses.json");
        let _absent = fs::remove_file(&announced);
        let (mut child, log) = self.spawn();
        let words = || fs::read_to_string(&log).unwrap_or_default();
        let deadline = Instant::now() + PATIENCE;
        let addresses: Json = loop {
            if !self.announcement {
                let at = self.flags.iter().skip_while(|flag| *flag != "--listen").nth(1).expect("its address");
                if TcpStream::connect(at).await.is_ok() {
                    break serde_json::json!({ "grpc": at, "http": "" });
                }
            } else if let Ok(bytes) = fs::read(&announced) {
                break serde_json::from_slice(&bytes).expect("addresses.json is JSON and whole");
            }
            if let Some(status) = child.try_wait().expect("waiting works") {
                panic!("the gateway did not start: {status}\n{}", words());
            }
            assert!(Instant::now() < deadline, "the gateway does not get ready:\n{}", words());
            sleep(LOOK_EVERY).await;
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let address = |name: &str| addresses[name].as_str().expect("an address").to_owned();
        let key = fs::read_to_string(self.data().join("first-key")).expect("a first key").trim().to_owned();
        Gateway {
            group: pid.expect("it runs"),
            child,
            folder: self.folder,
            grpc: address("grpc"),
            http: address("http"),
            key,
        }
    }

    /// Gives a new folder the compile cache of the first gateway of this run: compiling the embedded policies takes a
    /// debug build more than a second. The cache is bound to its key, so the two go together.
    fn warm(&self) {
        let store = self.data().join("policies");
        if self.flags.iter().any(|flag| flag == "--data") || store.exists() {
            return;
        }
        let compiled = COMPILED.get_or_init(Store::compile);
        let private =
            |path: &Path| DirBuilder::new().recursive(true).mode(0o700).create(path).expect("a private folder");
        private(&store.join("cache"));
        let put = |path: &Path, bytes: &[u8]| {
            fs::write(path, bytes).expect("written");
            fs::set_permissions(path, Permissions::from_mode(0o600)).expect("mode set");
        };
        put(&store.join("cache.key"), &compiled.key);
        for (name, bytes) in &compiled.files {
            put(&store.join("cache").join(name), bytes);
        }
    }

    /// Starts it to follow a gateway that runs; what comes of it is the story's to find out. Its last words are in the log
    /// that both write to.
    pub(crate) fn follow(self) -> Follower {
        let (child, _) = self.switch("--take-over").spawn();
        Follower { child: Some(child) }
    }

    /// Starts a gateway of which nobody waits until it serves.
    pub(crate) fn begun(self) -> Follower {
        self.warm();
        let (child, _) = self.spawn();
        Follower { child: Some(child) }
    }

    /// Starts a gateway that must not start.
    pub(crate) async fn refused(self) -> Refused {
        let (mut child, log) = self.spawn();
        let status = timeout(PATIENCE, child.wait()).await.expect("it gives up by itself").expect("waiting works");
        Refused { status, words: fs::read_to_string(log).unwrap_or_default() }
    }
}

// === impl Gateway ===

impl Gateway {
    pub(crate) async fn start() -> Self {
        Launch::new().start().await
    }

    /// A client with the first key, which may see every session.
    pub(crate) async fn client(&self) -> Client {
        self.client_with(&self.key).await
    }

    pub(crate) async fn client_with(&self, key: &str) -> Client {
        self.connect().key(key).gateway().await.expect("the gateway answers")
    }

    pub(crate) fn connect(&self) -> Connect {
        Connect::to(&self.grpc)
    }

    pub(crate) async fn admin(&self) -> Admin {
        Connect::socket(self.data().join("admin.sock")).admin().await.expect("the operators' socket answers")
    }

    /// A key of its own, for its own sessions.
    pub(crate) async fn key(&self, read: &[&str], scope: &str) -> String {
        let request = CreateKeyRequest {
            name: "story".into(),
            scopes: vec![scope.to_owned()],
            read: read.iter().map(|glob| (*glob).to_owned()).collect(),
            write: Vec::new(),
        };
        self.admin().await.create_key(request).await.expect("a key").secret
    }

    pub(crate) async fn open(&self, name: &str) -> Session {
        self.try_open(name, "").await.expect("a session")
    }

    pub(crate) async fn open_on(&self, backend: &str) -> Session {
        self.try_open("story", backend).await.expect("a session")
    }

    pub(crate) async fn try_open(&self, name: &str, backend: &str) -> Result<Session, ClientError> {
        let client = self.client().await;
        let opened = open_as(&client, name, backend).await?;
        Ok(Session::new(client, opened).await)
    }

    /// Puts settings (and the default component, the first time) into the folder and waits for the flip.
    pub(crate) async fn swap(&self, policy: &str, settings: &str) -> SwapRecord {
        let component = if policy == "access" { ACCESS } else { BACKPRESSURE };
        let admin = self.admin().await;
        let before = admin.policies().await.expect("a listing").generation;
        place(&self.plugins(), &format!("{policy}.toml"), settings.as_bytes());
        if !self.plugins().join(format!("{policy}.wasm")).exists() {
            place(&self.plugins(), &format!("{policy}.wasm"), component);
        }
        eventually("the swap", async || {
            let listing = admin.policies().await.expect("a listing");
            let swap = listing.swaps.into_iter().next()?;
            assert!(swap.outcome != "refused", "refused: {} [{}]", swap.message, swap.code);
            (swap.generation > before && swap.outcome == "swapped").then_some(swap)
        })
        .await
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn plugins(&self) -> PathBuf {
        self.folder.path().join("plugins")
    }

    pub(crate) fn folder(&self) -> Arc<TempDir> {
        self.folder.clone()
    }

    pub(crate) fn address(&self) -> &str {
        &self.grpc
    }

    pub(crate) fn http(&self) -> &str {
        &self.http
    }

    pub(crate) fn first_key(&self) -> &str {
        &self.key
    }

    /// Everything the gateway has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("gateway.log")).expect("a log")
    }

    pub(crate) async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(&self.http).await.expect("the HTTP listener answers");
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.http);
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
        answer
    }

    /// Runs a command line against this gateway.
    pub(crate) async fn run(&self, line: &[&str]) -> Output {
        let mut command = tidegate();
        command.args(line).arg("--data").arg(self.data()).kill_on_drop(true);
        timeout(PATIENCE, command.output()).await.expect("the command ends").expect("it runs")
    }

    pub(crate) fn pid(&self) -> Pid {
        self.group
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.group, signal).expect("the gateway is there");
    }

    /// Waits for its end after a signal.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        timeout(PATIENCE, self.child.wait()).await.expect("it ends").expect("waiting works")
    }
}

// === impl Follower ===

impl Follower {
    pub(crate) fn pid(&self) -> Pid {
        let pid = self.child.as_ref().and_then(Child::id);
        pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).expect("it runs")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(self.pid(), signal).expect("the follower is there");
    }

    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("it is no gateway yet");
        timeout(PATIENCE, child.wait()).await.expect("it ends").expect("waiting works")
    }

    /// The one before has handed over and ends: this is the gateway now, at the same addresses.
    pub(crate) async fn serves(self, mut before: Gateway) -> Gateway {
        assert!(before.ended().await.success(), "{}", before.log());
        self.inherits(before)
    }

    /// The same for one before that was killed.
    pub(crate) fn inherits(mut self, before: Gateway) -> Gateway {
        let group = self.pid();
        let (folder, grpc, http) = (before.folder.clone(), before.grpc.clone(), before.http.clone());
        let child = self.child.take().expect("it is no gateway yet");
        Gateway { child, group, folder, grpc, http, key: before.key.clone() }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child
            && let Ok(None) = child.try_wait()
        {
            let _ended = rustix::process::kill_process_group(self.pid(), Signal::KILL);
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ended = rustix::process::kill_process_group(self.group, Signal::KILL);
        }
        if std::thread::panicking() {
            eprintln!("--- gateway ---\n{}---", self.log());
        }
    }
}

/// Opens a session and nothing else.
pub(crate) async fn open_as(client: &Client, name: &str, backend: &str) -> Result<OpenSessionResponse, ClientError> {
    let (name, backend) = (name.to_owned(), backend.to_owned());
    let request = OpenSessionRequest {
        client_session_name: name.clone(),
        tag: name,
        requested_backend: backend,
        client_kind: "story".into(),
        client_version: "1.0".into(),
        ..Default::default()
    };
    client.open(request).await
}

/// Writes a file beside the folder and renames it into it, readable for everybody, writable for its owner.
pub(crate) fn place(folder: &Path, name: &str, bytes: &[u8]) {
    let draft = folder.with_extension("draft");
    fs::write(&draft, bytes).expect("written");
    fs::set_permissions(&draft, Permissions::from_mode(0o644)).expect("mode set");
    fs::rename(&draft, folder.join(name)).expect("placed");
}

/// The program under test, without what the caller's environment says about gateways.
pub(crate) fn tidegate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDEGATE_") {
            command.env_remove(name);
        }
    }
    command
}
