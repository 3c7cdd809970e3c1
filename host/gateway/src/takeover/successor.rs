//! Starts the program that lies where this one was started from, to follow this gateway: a package put a new one there, and
//! a signal says so. Knows command lines, nothing of the hand-over. Invariant: what a service manager gave to this process
//! by its number is not inherited.

use std::{
    env,
    ffi::OsString,
    io,
    path::{self, PathBuf},
    process::Stdio,
};
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
    /// To be asked early: later another file may lie at the path, or a link in it lead elsewhere.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let program = as_called(arguments.next(), env::current_exe()?);
        Ok(Self { program, arguments: arguments.filter(|argument| argument != TAKE_OVER).collect() })
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

/// The path by which `running` was called, if it leads there: a link in it may lead to another program by the time.
fn as_called(name: Option<OsString>, running: PathBuf) -> PathBuf {
    let Some(name) = name.map(PathBuf::from) else { return running };
    // A bare name was found on the search path.
    let search = env::var_os("PATH").filter(|_| name.components().count() == 1).unwrap_or_default();
    let found = env::split_paths(&search).map(|folder| folder.join(&name));
    let called = found.chain([name.clone()]).filter_map(|path| path::absolute(path).ok());
    let leads_here = |called: &PathBuf| called.canonicalize().is_ok_and(|file| file == running);
    called.into_iter().find(leads_here).unwrap_or_else(|| running.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    // shows: W-08
    #[test]
    fn a_program_that_was_called_through_a_link_is_called_through_it_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().canonicalize().expect("a path");
        let (running, called) = (folder.join("v1/tidegate"), folder.join("current/tidegate"));
        fs::create_dir(folder.join("v1")).expect("made");
        fs::write(&running, "").expect("written");
        symlink("v1", folder.join("current")).expect("linked");
        assert_eq!(as_called(Some(called.clone().into()), running.clone()), called);
        assert_eq!(as_called(Some(running.clone().into()), running.clone()), running);
        // What somebody else calls it leads nowhere, or to another program.
        for wrong in [None, Some("tidegate".into()), Some(folder.join("v2/tidegate").into()), Some("/bin/sh".into())] {
            assert_eq!(as_called(wrong, running.clone()), running);
        }
    }
}
