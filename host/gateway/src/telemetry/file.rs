//! A log in a file: rotated when it has reached its size, opened anew when asked to (SIGUSR1), so that other
//! people's rotation works too. Knows lines, not what they say. Invariants: a line is in one file, whole; a
//! full disk costs lines, which are counted, and never the process.

use crate::error::{Code, Error, Result};
use parking_lot::Mutex;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tracing_subscriber::fmt::MakeWriter;

/// A handle; clones write to the same file.
#[derive(Clone, Debug)]
pub struct LogFile {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    bytes_max: u64,
    /// Full files beside the present one: `.1` is the youngest.
    keep: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    bytes: u64,
    lost: u64,
    trouble: Option<String>,
}

// === impl LogFile ===

impl LogFile {
    /// Opens the file to append. `data.unusable` when that cannot be.
    pub fn open(path: &Path, bytes_max: u64, keep: usize) -> Result<Self> {
        let (file, bytes) = append(path).map_err(|error| {
            Error::new(Code::DataFolderUnusable, format!("cannot write the log {}: {error}", path.display()))
                .with("path", path.display())
        })?;
        let state = State { file, bytes, lost: 0, trouble: None };
        let shared = Shared { path: path.to_owned(), bytes_max: bytes_max.max(1), keep, state: Mutex::new(state) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Somebody moved the file away. Where it cannot be opened anew, the old one is written on.
    pub fn reopen(&self) -> Result<()> {
        let mut state = self.shared.state.lock();
        let (file, bytes) = append(&self.shared.path).map_err(|error| {
            Error::new(Code::DataFolderUnusable, format!("cannot open the log anew: {error}"))
                .with("path", self.shared.path.display())
        })?;
        (state.file, state.bytes) = (file, bytes);
        Ok(())
    }

    /// Tries to write while writing fails, so that a silent gateway notices, too, when it is over.
    pub fn heal(&self) {
        self.shared.state.lock().tell_what_was_lost();
    }

    /// Why lines are being lost, if they are: for the health page.
    pub fn trouble(&self) -> Option<String> {
        self.shared.state.lock().trouble.clone()
    }
}

// === impl State ===

impl State {
    /// The first line after some that were lost says how many. Nothing while none were, or nothing can be written.
    fn tell_what_was_lost(&mut self) {
        if self.lost == 0 {
            return;
        }
        let note = format!("{} lines of this log were lost: they could not be written\n", self.lost);
        if self.file.write_all(note.as_bytes()).is_ok() {
            self.bytes += note.len() as u64;
            self.lost = 0;
            self.trouble = None;
        }
    }
}

// === impl Shared ===

impl Shared {
    fn line(&self, line: &[u8]) {
        let mut state = self.state.lock();
        if state.bytes > 0 && state.bytes + line.len() as u64 > self.bytes_max {
            // Not rotated is written on: too long is better than lost.
            if let Ok((file, bytes)) = self.rotate() {
                (state.file, state.bytes) = (file, bytes);
            }
        }
        state.tell_what_was_lost();
        let written = state.file.write_all(line);
        match written {
            Ok(()) => state.bytes += line.len() as u64,
            Err(error) => {
                state.lost += 1;
                state.trouble =
                    Some(format!("{} cannot be written: {error}; {} lines lost", self.path.display(), state.lost));
            }
        }
    }

    fn rotate(&self) -> io::Result<(File, u64)> {
        if self.keep == 0 {
            fs::remove_file(&self.path)?;
        } else {
            for nth in (1..self.keep).rev() {
                match fs::rename(self.numbered(nth), self.numbered(nth + 1)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&self.path, self.numbered(1))?;
        }
        append(&self.path)
    }

    fn numbered(&self, nth: usize) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{nth}"));
        self.path.with_file_name(name)
    }
}

/// One line at a time: a formatted event comes in one piece.
impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogFile {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn append(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
    let bytes = file.metadata()?.len();
    Ok((file, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rotates_by_size_and_keeps_so_many() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gateway.log");
        let mut log = LogFile::open(&path, 20, 2).expect("opens");
        for n in 0..9 {
            log.write_all(format!("line {n} ...\n").as_bytes()).expect("never fails");
        }
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        assert_eq!(read("gateway.log"), "line 8 ...\n");
        assert_eq!(read("gateway.log.1"), "line 7 ...\n");
        assert_eq!(read("gateway.log.2"), "line 6 ...\n");
        assert!(!folder.path().join("gateway.log.3").exists());
    }

    #[test]
    fn it_is_opened_anew_and_goes_on_behind_what_is_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gateway.log");
        let mut log = LogFile::open(&path, 1 << 20, 1).expect("opens");
        log.write_all(b"before\n").expect("never fails");
        fs::rename(&path, folder.path().join("moved")).expect("moved");
        log.write_all(b"still there\n").expect("never fails");
        log.reopen().expect("opens");
        log.write_all(b"after\n").expect("never fails");
        assert_eq!(fs::read_to_string(folder.path().join("moved")).expect("there"), "before\nstill there\n");
        assert_eq!(fs::read_to_string(&path).expect("there"), "after\n");
        LogFile::open(&path, 1 << 20, 1).expect("opens").write_all(b"again\n").expect("never fails");
        assert_eq!(fs::read_to_string(&path).expect("there"), "after\nagain\n");
    }

    #[test]
    fn a_full_disk_costs_lines_and_is_told_until_it_is_over() {
        // The kernel's own full disk.
        let mut log = LogFile::open(Path::new("/dev/full"), 1 << 20, 0).expect("opens");
        assert_eq!(log.trouble(), None);
        log.write_all(b"lost\n").expect("never fails");
        log.write_all(b"lost too\n").expect("never fails");
        assert!(log.trouble().is_some_and(|words| words.contains("2 lines lost")), "{:?}", log.trouble());
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        log.shared.state.lock().file = append(&path).expect("opens").0;
        log.write_all(b"room again\n").expect("never fails");
        assert_eq!(log.trouble(), None);
        assert!(fs::read_to_string(path).expect("there").contains("2 lines of this log were lost"));
    }
}
