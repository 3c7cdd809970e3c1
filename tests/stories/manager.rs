//! A service manager that holds the listening sockets, and one that is told who the main process is after a take-over.

use crate::{
    harness::{Launch, eventually, is_alive},
    hostile::guests::busy,
    restart::{TAGS, again, signal},
    takeover::{goes_on, usual},
};
use rustix::process::Signal;
use std::{
    fs::{self, File},
    os::{fd::OwnedFd, unix::net::UnixDatagram},
    path::Path,
    process::Stdio,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Starts a gateway whose listeners a service manager has opened, which is this story.
fn activated(data: &Path, log: &File, sockets: &[std::net::TcpListener; 2]) -> std::process::Child {
    let at = |socket: &std::net::TcpListener| socket.local_addr().expect("an address").to_string();
    let handle =
        |socket: &std::net::TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().expect("a second handle")));
    // The number of its process is known only to itself, and the descriptors have to be 3 and 4.
    let line = "LISTEN_PID=$$ LISTEN_FDS=2 exec \"$@\" 3<&0 4<&1 0</dev/null 1>&2";
    let mut command = std::process::Command::new("sh");
    command.args(["-c", line, "sh", env!("CARGO_BIN_EXE_tidegate"), "serve", "--data"]).arg(data);
    command.args(["--listen", &at(&sockets[0]), "--http", &at(&sockets[1])]);
    command.stdin(handle(&sockets[0])).stdout(handle(&sockets[1])).stderr(log.try_clone().expect("a second handle"));
    command.spawn().expect("it starts")
}

// shows: E-13
#[tokio::test]
async fn sockets_of_a_service_manager_outlive_a_restart_and_refuse_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, log) = (folder.path().join("data"), File::create(folder.path().join("log")).expect("a log"));
    let bind = || std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let sockets = [bind(), bind()];
    let http = sockets[1].local_addr().expect("an address").to_string();
    let ask = async || {
        let mut stream = TcpStream::connect(&http).await.expect("no connection is refused");
        let request = format!("GET /api/version HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("taken");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    };
    for _ in 0..2 {
        // Asked before there is anybody, and answered once there is.
        let (mut gateway, ()) = tokio::join!(async { activated(&data, &log, &sockets) }, ask());
        signal(gateway.id(), Signal::TERM);
        let ended =
            tokio::task::spawn_blocking(move || gateway.wait()).await.expect("no panic").expect("waiting works");
        assert!(ended.success(), "{}", fs::read_to_string(folder.path().join("log")).expect("a log"));
    }
}

// shows: E-13, E-16
#[tokio::test]
async fn a_start_that_compiles_for_long_says_so_and_ends_when_it_is_told() {
    for flag in [None, Some("--take-over")] {
        let launch = Launch::new()
            .prepare(|folder| fs::write(folder.join("plugins/access.wasm"), busy(4_000)).expect("written"));
        let launch = if let Some(flag) = flag { usual(launch).switch(flag) } else { launch };
        let folder = launch.folder();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        socket.set_nonblocking(true).expect("set");
        let mut starting = launch.env("NOTIFY_SOCKET", path.to_str().expect("a path")).begun();
        let told = eventually("a word of what takes so long", async || {
            let mut message = [0; 4_096];
            let read = socket.recv(&mut message).ok()?;
            Some(String::from_utf8_lossy(&message[..read]).into_owned())
                .filter(|told| told.contains("STATUS=compiling"))
        })
        .await;
        assert!(told.contains("access.wasm") && told.contains("EXTEND_TIMEOUT_USEC="), "{told}");
        starting.signal(Signal::TERM);
        let status = starting.ended().await;
        let log = fs::read_to_string(folder.path().join("gateway.log")).expect("a log");
        assert!(status.success(), "{status} {log}");
        assert!(
            log.contains("until these policies are compiled") && log.contains("asked to stop before it served"),
            "{log}"
        );
        assert!(!folder.path().join("data/addresses.json").exists(), "it never served");
    }
}

// shows: E-13
#[tokio::test]
async fn a_service_manager_is_told_who_is_the_main_process_now() {
    let launch = usual(Launch::new());
    let folder = launch.folder();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_nonblocking(true).expect("set");
    let launch = launch.env("NOTIFY_SOCKET", path.to_str().expect("a path")).env("WATCHDOG_USEC", "5000000");
    let mut gw = launch.start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(20).await;
    // As after an upgrade: the program at its path is to follow it.
    gw.signal(Signal::USR2);
    let heard = async |what: &str| {
        eventually(what, async || {
            let mut message = [0; 4_096];
            let read = socket.recv(&mut message).ok()?;
            let message = String::from_utf8_lossy(&message[..read]).into_owned();
            message.lines().find_map(|line| line.strip_prefix(what).map(str::to_owned))
        })
        .await
    };
    let pid: u32 = heard("MAINPID=").await.parse().expect("a process id");
    assert!(gw.ended().await.success());
    heard("WATCHDOG=").await;
    drop(goes_on(&gw, &s, &reader).await);
    again(&gw, &s).await.close().await;
    signal(pid, Signal::TERM);
    eventually("the other one to end", async || (!is_alive(pid)).then_some(())).await;
}
