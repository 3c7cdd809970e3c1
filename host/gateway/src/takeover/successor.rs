//! Starts the program that lies where this one was started from, to follow this gateway: a package put a new one there, and
//! a signal says so. Knows command lines, nothing of the hand-over. Invariant: what a service manager gave to this process
//! by its number is not inherited.

use std::{env, ffi::OsString, io, path::PathBuf, process::Stdio};
use tokio::process::Command;

const TAKE_OVER: &str = "--take-over";
/// `LISTEN_*` and `WATCHDOG_PID` are for one process; the time of the watchdog is for whoever is the main one.
const OURS: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// The program and how it was called.
#[derive(Debug)]
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
}

// === impl Successor ===

impl Successor {
    /// To be asked early: later another file may lie at the path.
    pub fn of_this_process() -> io::Result<Self> {
        let arguments = env::args_os().skip(1).filter(|argument| argument != TAKE_OVER).collect();
        Ok(Self { program: env::current_exe()?, arguments })
    }

    /// It answers for itself: in the log, and by taking over or not.
    pub fn start(&self) {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).arg(TAKE_OVER).stdin(Stdio::null());
        for name in OURS {
            command.env_remove(name);
        }
        let program = self.program.display();
        match command.spawn() {
            Ok(mut child) => {
                tracing::info!(%program, pid = child.id(), "started a gateway to take over");
                tokio::spawn(async move {
                    if let Ok(status) = child.wait().await {
                        tracing::warn!(%status, "the gateway that was started to take over has ended");
                    }
                });
            }
            Err(error) => tracing::error!(%program, %error, "the gateway that was to take over does not start"),
        }
    }
}
