//! Processes that are measured: started (on a core of their own where there are two), asked what they have used,
//! ended. Knows /proc, not what the processes do. Invariant: a process that is dropped is gone, its children too.

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use serde_json::Value as Json;
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

/// `sysconf(_SC_CLK_TCK)`: the unit of utime and stime, the same on every Linux that runs this.
const TICKS_PER_SECOND: u64 = 100;

/// Where what is measured runs, and where its clients do.
pub(crate) const SERVERS: usize = 0;
pub(crate) const CLIENTS: usize = 1;

/// A started process and its children.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    group: Pid,
}

/// A process of this program that answers each line with a line.
#[derive(Debug)]
pub(crate) struct Role {
    process: Process,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

// === impl Process ===

impl Process {
    pub(crate) fn start(mut command: Command) -> anyhow::Result<Self> {
        let child = command.process_group(0).spawn().with_context(|| format!("cannot start {command:?}"))?;
        let group = Pid::from_child(&child);
        Ok(Self { child, group })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Still there?
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the process ended: {status}"),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _gone = rustix::process::kill_process_group(self.group, Signal::KILL);
        }
        let _reaped = self.child.wait();
    }
}

// === impl Role ===

impl Role {
    /// Starts this program as `role ARGS` and waits until it says that it is ready.
    pub(crate) fn start(cpu: Option<usize>, args: &[String]) -> anyhow::Result<Self> {
        let mut command = on_cpu(&std::env::current_exe()?, cpu);
        command.arg("role").args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(command)?;
        let (asks, answers) = (process.child.stdin.take(), process.child.stdout.take());
        let (asks, answers) = (asks.context("no stdin")?, BufReader::new(answers.context("no stdout")?));
        Ok(Self { process, asks, answers })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its next line.
    pub(crate) fn answer(&mut self) -> anyhow::Result<Json> {
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            bail!("a role ended before its answer");
        }
        Ok(serde_json::from_str(&line)?)
    }

    pub(crate) fn ask(&mut self, line: &str) -> anyhow::Result<Json> {
        writeln!(self.asks, "{line}")?;
        self.asks.flush()?;
        self.answer()
    }
}

/// A command that runs on one core, if asked and if `taskset` is there.
pub(crate) fn on_cpu(program: &Path, cpu: Option<usize>) -> Command {
    let Some(cpu) = cpu else { return Command::new(program) };
    let mut command = Command::new("taskset");
    command.args(["-c", &cpu.to_string()]).arg(program);
    command
}

/// Whether there are two cores to keep apart, and the means to do it.
pub(crate) fn can_pin() -> bool {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    cores > CLIENTS && find("taskset").is_some()
}

/// A program on PATH, or where a system keeps its servers.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Processor time of a process so far: user and system, ended threads included.
pub(crate) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat =
        std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    // The name may hold anything; what follows its `)` is plain. utime and stime are fields 14 and 15 (proc(5)).
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks = |at: usize| after.split_whitespace().nth(at - 3)?.parse::<u64>().ok();
    let all = ticks(14).zip(ticks(15)).map(|(user, system)| user + system).context("/proc/<pid>/stat is odd")?;
    Ok(Duration::from_millis(all * 1_000 / TICKS_PER_SECOND))
}

/// Resident memory, KiB.
pub(crate) fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// What else the machine was doing: the load averages.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// What this process has had of the processors, all threads together: a busy machine changes it little.
pub(crate) fn own_cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_uses() {
        let before = cpu_time(std::process::id()).expect("time");
        let mut sum = 0_u64;
        while cpu_time(std::process::id()).expect("time") == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(rss_kib(std::process::id()).expect("memory") > 500);
    }
}
