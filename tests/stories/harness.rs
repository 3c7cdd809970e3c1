//! The harness in which a story reads like a sentence. Knows processes, files and the client library.
//! Invariant: every wait has a bound, and a gateway that is dropped leaves no process behind.

mod browser;
mod process;
mod reader;
mod session;

pub(crate) use browser::{Browser, add, people};
pub(crate) use process::{ACCESS, Follower, Gateway, Launch, Refused, open_as, place, tidegate};
pub(crate) use reader::Reader;
pub(crate) use session::{Item, Session};

use std::{fmt::Debug, path::Path, time::Duration};
use tidegate_client::{ClientError, Fault};
use tokio::time::{Instant, sleep};

/// For things that take milliseconds, in a debug build on a machine that does four other things. Guessed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks until there is something, or the story has failed.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {} s for {what}", PATIENCE.as_secs());
        sleep(LOOK_EVERY).await;
    }
}

/// Whether a process is there and not only waiting to be reaped by somebody else's parent.
pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Whether any trace of a process is left, a zombie too.
pub(crate) fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// The gateway's answer, which must be an error.
pub(crate) fn refused<T: Debug>(result: Result<T, ClientError>) -> Fault {
    match result {
        Err(ClientError::Fault(fault)) => *fault,
        other => panic!("the gateway should have refused this: {other:?}"),
    }
}

/// The dotted code of an answer that must be an error.
pub(crate) fn reason<T: Debug>(result: Result<T, ClientError>) -> String {
    refused(result).reason
}
