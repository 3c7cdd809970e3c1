//! File descriptors of this process: how many there are and may be. Every session takes a few (its worker's
//! pipe), every connection one. Knows the system's limit, not who uses it.

use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use std::{fs::File, io};

/// What a gateway wants with the default caps: 64 sessions, two listeners of 1,024 connections, and some air.
const WANTED: u64 = 4_096;

/// The limit of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// What counts.
    pub soft: u64,
    /// What the soft one may be raised to.
    pub hard: u64,
}

/// One that is kept for somebody who has to be heard when there is none left.
#[derive(Debug, Default)]
pub struct Spare(Option<File>);

/// Raises the soft limit to the hard one, as far as the system lets it, and says what is there now.
pub fn raise() -> Descriptors {
    let before = limit();
    if before.soft < before.hard {
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        // Refused: the old one stays, and is what the caller hears of.
        let _kept = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
    limit()
}

pub fn limit() -> Descriptors {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    Descriptors { soft: current.unwrap_or(u64::MAX), hard: maximum.unwrap_or(u64::MAX) }
}

/// How many are open now; `None` where the system does not tell, or has none left to look with.
pub fn open_now() -> Option<u64> {
    // The folder that is read is one of them.
    std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1) as u64)
}

/// Whether this failed because there is none left, for the process or the machine.
pub fn are_out(error: &io::Error) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|out| error.raw_os_error() == Some(out.raw_os_error()))
}

// === impl Spare ===

impl Spare {
    /// Unless there is none to be had.
    pub fn keep(&mut self) {
        if self.0.is_none() {
            self.0 = File::open("/dev/null").ok();
        }
    }

    /// False: it is given away already.
    pub fn give(&mut self) -> bool {
        self.0.take().is_some()
    }
}

// === impl Descriptors ===

impl Descriptors {
    /// Fewer than a gateway with the default caps may come to need.
    pub fn is_tight(self) -> bool {
        self.soft < WANTED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let raised = raise();
        assert_eq!(raised, limit());
        assert!(raised.soft == raised.hard || raised.soft >= limit().soft, "{raised:?}");
        assert!(open_now().is_some_and(|open| open >= 3 && open <= raised.soft));
    }
}
