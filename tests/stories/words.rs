//! Take-overs in which the story is one of the two gateways, and says its words: what it knows, when it hangs up, what it
//! leaves behind.

use crate::{
    harness::{Gateway, Launch, PATIENCE, eventually},
    restart::{again, database},
    takeover::{goes_on, says, serving, usual},
};
use rustix::{
    fs::{FlockOperation, flock},
    net::{RecvAncillaryBuffer, RecvFlags, recvmsg},
    process::Signal,
};
use serde_json::{Value as Json, json};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
};
use tidegate_client::wire::CreateKeyRequest;
use tokio::net::TcpStream;

// shows: W-08
#[tokio::test]
async fn a_follower_whose_gateway_dies_before_it_lets_anything_go_starts_as_usual() {
    let (mut gw, s, mut reader) = serving(Launch::new()).await;
    let instance = fs::read_to_string(gw.data().join("instance")).expect("an id");
    let (grpc, http) = (gw.address().to_owned(), gw.http().to_owned());
    let at = |address: &str| json!({"wanted": address, "bound": address});
    let welcome = json!({"word": "welcome", "pid": 1, "version": "9.9.9", "schema": schema(gw.folder().path()),
        "grpc": at(&grpc), "http": at(&http), "within_ms": 30_000});
    let follow = |gw: &Gateway| {
        let launch = usual(Launch::again(gw.folder())).without_addresses();
        launch.flag("--listen", &grpc).flag("--http", &http).follow()
    };
    // The story answers in the place of the one before: not at all, and then until the other one is ready.
    for answers in [false, true] {
        gw.signal(Signal::KILL);
        gw.ended().await;
        let before = Answering::in_the_place_of(&gw);
        let follower = follow(&gw);
        let mut line = before.called().await;
        assert_eq!(line.hear()["instance"], instance.trim());
        if answers {
            line.say(&welcome);
            assert_eq!(line.hear()["word"], "ready");
        }
        drop(line);
        gw = follower.inherits(gw);
        eventually("it to listen", async || TcpStream::connect(&grpc).await.ok()).await;
        reader = goes_on(&gw, &s, &reader).await;
    }
    // One that ends in order takes its socket's file along: it was asked to, and nobody is to serve in its place.
    gw.signal(Signal::KILL);
    gw.ended().await;
    let before = Answering::in_the_place_of(&gw);
    let mut follower = follow(&gw);
    let line = before.called().await;
    line.hear();
    fs::remove_file(gw.data().join("takeover.sock")).expect("removed");
    drop(line);
    assert_eq!(follower.ended().await.code(), Some(1), "{}", gw.log());
    let gw = usual(Launch::again(gw.folder())).start().await;
    drop(goes_on(&gw, &s, &reader).await);
    again(&gw, &s).await.close().await;
}

/// The desk of a gateway that was killed, kept by the story.
struct Answering(UnixListener);

impl Answering {
    fn in_the_place_of(gw: &Gateway) -> Self {
        let path = gw.data().join("takeover.sock");
        fs::remove_file(&path).expect("it was left behind");
        let listener = UnixListener::bind(path).expect("bound");
        listener.set_nonblocking(true).expect("set");
        Self(listener)
    }

    async fn called(&self) -> Talk {
        let (stream, _) = eventually("a follower", async || self.0.accept().ok()).await;
        stream.set_nonblocking(false).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Talk { stream }
    }
}

/// The words of a follower, said by the story.
pub(crate) struct Talk {
    pub(crate) stream: UnixStream,
}

impl Talk {
    pub(crate) fn to(gw: &Gateway) -> Self {
        let stream = UnixStream::connect(gw.data().join("takeover.sock")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Self { stream }
    }

    pub(crate) fn say(&mut self, word: &Json) {
        self.stream.write_all(format!("{word}\n").as_bytes()).expect("sent");
    }

    pub(crate) fn hear(&self) -> Json {
        self.read().expect("an answer")
    }

    pub(crate) fn read(&self) -> Option<Json> {
        let mut line = String::new();
        BufReader::new(&self.stream).read_line(&mut line).expect("a line");
        (!line.is_empty()).then(|| serde_json::from_str(&line).expect("JSON"))
    }

    /// A word that comes with descriptors, which are closed again.
    fn take_sockets(&self) -> Json {
        let (mut bytes, mut space) = ([0; 4096], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))]);
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let heard = recvmsg(&self.stream, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC).expect("sockets");
        let line = bytes[..heard.bytes].split(|byte| *byte == b'\n').next().expect("a line").to_vec();
        serde_json::from_slice(&line).expect("JSON")
    }
}

pub(crate) fn schema(folder: &Path) -> i64 {
    database(folder).query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a version")
}

// shows: W-08
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_program_that_migrated_and_did_not_come_to_serve_is_undone() {
    let (gw, s, reader) = serving(Launch::new()).await;
    let request =
        |name: &str| CreateKeyRequest { name: name.into(), scopes: vec!["node".into()], ..Default::default() };
    gw.admin().await.create_key(request("before")).await.expect("acknowledged");
    let instance = fs::read_to_string(gw.data().join("instance")).expect("an id");
    let schema = schema(gw.folder().path());
    let mut newer = Talk::to(&gw);
    newer.say(&json!({"word": "hello", "protocol": 1, "version": "9.9.9", "instance": instance.trim(),
        "schema": schema + 1, "pipe": 1}));
    assert_eq!(newer.hear()["word"], "welcome");
    newer.say(&json!({"word": "ready"}));
    assert_eq!(newer.take_sockets()["names"].as_array().map(Vec::len), Some(5));
    assert_eq!(newer.hear()["word"], "released");
    let lock = File::open(gw.data().join("lock")).expect("a lock");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("it was let go");
    let db = database(gw.folder().path());
    db.execute_batch(&format!("DROP TABLE keys; PRAGMA user_version = {}", schema + 1)).expect("migrated");
    drop(db);
    // It is this process, so it has to go without dying.
    newer.say(&json!({"word": "failed", "message": "on purpose"}));
    assert_eq!(newer.hear()["word"], "back");
    drop(lock);
    drop(newer);
    says(&gw, "its copy is back in place").await;
    says(&gw, "serving again").await;
    drop(goes_on(&gw, &s, &reader).await);
    let keys = gw.admin().await.keys().await.expect("a listing");
    assert!(keys.iter().any(|key| key.name == "before"), "{keys:?}");
    gw.admin().await.create_key(request("after")).await.expect("it writes again");
    assert!(!gw.data().join("tidegate.db.aside").exists());
}
