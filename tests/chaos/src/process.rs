//! Processes as the process table tells of them. Knows no gateway. Invariant: what is gone already is no error.

use rustix::process::{Pid, Signal};
use std::{fs, path::Path};

pub(crate) fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _gone = rustix::process::kill_process(pid, signal);
    }
}

/// There, and not only waiting to be reaped.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Living processes that have this path as a word of their command line, whoever started them.
pub(crate) fn of_socket(socket: &Path) -> Vec<u32> {
    let socket = socket.as_os_str().as_encoded_bytes();
    all()
        .filter(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| word == socket) && is_alive(*pid)
        })
        .collect()
}

/// Children, those that nobody has reaped among them.
pub(crate) fn children(parent: u32) -> usize {
    let of_parent = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name in parentheses may hold anything; the parent is the second field behind it.
        let field = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1));
        field.and_then(|field| field.parse().ok()) == Some(parent)
    };
    all().filter(of_parent).count()
}

pub(crate) fn descriptors(pid: u32) -> i64 {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |open| open.count() as i64)
}

/// What they lead to.
pub(crate) fn open(pid: u32) -> Vec<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    links.filter_map(|link| Some(fs::read_link(link.ok()?.path()).ok()?.display().to_string())).collect()
}

pub(crate) fn rss_kib(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().trim_end_matches("kB").trim().parse().ok()
}

fn all() -> impl Iterator<Item = u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten();
    processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}
