//! The demo as a newcomer runs it: its last line, its exit code, and that it leaves nothing behind.

use crate::harness::{PATIENCE, eventually, is_alive, tidegate};
use rustix::process::{Pid, Signal};
use serde_json::Value as Json;
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    time::timeout,
};

// shows: S-03, S-07, S-15, X-02, X-03
#[tokio::test]
async fn the_account_closes() {
    let csv =
        "timestamp,tag,value,quality\n2026-01-01T00:00:00Z,Area1.H.T,1.5,192\n2026-01-01T00:00:00Z,Area1.H.T,-0,64\n";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("history.csv");
    std::fs::write(&file, csv).expect("written");
    let mut command = tidegate();
    command.args(["demo", "--seconds", "4", "--rate", "4000", "--json", "--csv"]).arg(&file).kill_on_drop(true);
    let output = timeout(PATIENCE * 2, command.output()).await.expect("it ends").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let summary: Json = serde_json::from_str(text.lines().last().expect("a last line")).expect("JSON");
    for field in ["unaccounted", "duplicated", "reordered", "denied_after_flip"] {
        assert_eq!(summary[field], 0, "{summary}");
    }
    assert_eq!((&summary["sessions"], &summary["swaps"]), (&2.into(), &2.into()), "{summary}");
    let number = |field: &str| summary[field].as_u64().unwrap_or_else(|| panic!("{field} in {summary}"));
    let explained = ["delivered", "filtered", "conflated", "gapped"].map(number).iter().sum::<u64>();
    assert!(number("produced") > 10_000 && number("produced") == explained, "{summary}");
    assert!(text.contains("history: delivered 2 of 2, identical"), "{text}");
}

#[tokio::test]
async fn an_interrupted_demo_takes_its_gateway_and_workers_with_it() {
    let mut command = tidegate();
    command.args(["demo", "--seconds", "60", "--rate", "1000"]).stdout(Stdio::piped()).kill_on_drop(true);
    let mut demo = command.spawn().expect("it runs");
    let mut lines = BufReader::new(demo.stdout.take().expect("its output")).lines();
    let workers = timeout(PATIENCE * 2, async {
        loop {
            let line = lines.next_line().await.expect("text").expect("a line about workers");
            if let Some((_, pids)) = line.split_once("a worker of its own: ") {
                break pids.split(", ").map(|pid| pid.parse::<u32>().expect("a process id")).collect::<Vec<_>>();
            }
        }
    });
    let workers = workers.await.expect("it starts");
    let pid = Pid::from_raw(demo.id().expect("it runs").cast_signed()).expect("a process id");
    rustix::process::kill_process(pid, Signal::TERM).expect("it is there");
    let status = timeout(PATIENCE, demo.wait()).await.expect("it ends").expect("waiting works");
    assert_eq!(status.code(), Some(1));
    eventually("the workers to be gone", async || workers.iter().all(|pid| !is_alive(*pid)).then_some(())).await;
}
