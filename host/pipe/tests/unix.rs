//! The socket itself: its mode, what may be in its way, who may connect, and that nothing of it stays.
#![cfg(unix)]

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
    time::Duration,
};
use tidegate_pipe::{HelloFields, PipeError, Secret, WorkerListener, connect};
use tidegate_proto::worker::v1::Accept;

const LIMIT: Duration = Duration::from_secs(10);

fn fields() -> HelloFields {
    HelloFields { backend: "simulator".to_owned(), version: "0".to_owned(), epoch: 1, adopt: None, alarms: false }
}

#[tokio::test]
async fn a_worker_connects_and_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("workers.sock");
    let listener = WorkerListener::bind(&path).unwrap();
    assert_eq!(fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = Secret::mint().unwrap();
    let gateway = async {
        let pending = listener.accept().await.unwrap().hello(LIMIT).await.unwrap();
        assert_eq!(pending.hello.session_id, "session-1");
        #[cfg(target_os = "linux")]
        assert_eq!(pending.peer_pid, Some(std::process::id()));
        pending.challenge(&secret, LIMIT).await.unwrap().accept(Accept::default(), LIMIT).await.unwrap()
    };
    let (end, worker) = tokio::join!(gateway, connect(&path, "session-1", &secret, fields(), LIMIT));
    let mut worker = worker.unwrap();
    drop(end);
    assert!(worker.reader.recv().await.unwrap().is_none());
    drop(listener);
    assert!(!path.exists(), "the socket goes with its listener");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("workers.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "std leaves it behind");
    let listener = WorkerListener::bind(&path).unwrap();
    assert!(matches!(WorkerListener::bind(&path), Err(PipeError::InUse { .. })));
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_is_not_a_socket_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("workers.sock");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(WorkerListener::bind(&path), Err(PipeError::NotASocket { .. })));
    let link = folder.path().join("link.sock");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(WorkerListener::bind(&link), Err(PipeError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test]
async fn dropping_a_listener_spares_its_successors_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("workers.sock");
    let first = WorkerListener::bind(&path).unwrap();
    fs::rename(&path, folder.path().join("moved.sock")).unwrap();
    let second = WorkerListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
    drop(second);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_path_that_is_too_long_and_one_where_nobody_listens_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("x".repeat(120));
    match WorkerListener::bind(&long) {
        Err(PipeError::PathTooLong { len, max, .. }) => assert!(len > max),
        other => panic!("{other:?}"),
    }
    let secret = Secret::mint().unwrap();
    assert!(matches!(connect(&long, "s", &secret, fields(), LIMIT).await, Err(PipeError::PathTooLong { .. })));
    let nobody = folder.path().join("nobody.sock");
    assert!(matches!(connect(&nobody, "s", &secret, fields(), LIMIT).await, Err(PipeError::Io { .. })));
}
