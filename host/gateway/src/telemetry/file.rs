//! A log in a file: rotated when it has reached its size, opened anew when asked to (SIGUSR1), so that other
//! people's rotation works too. Knows lines, not what they say. Invariants: a line is in one file, whole; a
//! full disk costs lines, which are counted, and never the process; files of before move only when the next one is there.

use crate::error::{Code, Error, Result};
use parking_lot::Mutex;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
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
    /// Why it is not rotated though it is full.
    stuck: Option<String>,
}

// === impl LogFile ===

impl LogFile {
    /// Opens the file to append. `data.unusable` when that cannot be.
    pub fn open(path: &Path, bytes_max: u64, keep: usize) -> Result<Self> {
        let (file, bytes) = append(path).map_err(|error| {
            Error::new(Code::DataFolderUnusable, format!("cannot write the log {}: {error}", path.display()))
                .with("path", path.display())
        })?;
        let state = State { file, bytes, lost: 0, trouble: None, stuck: None };
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
        (state.file, state.bytes, state.stuck) = (file, bytes, None);
        Ok(())
    }

    /// Tries again what fails, so that a silent gateway notices, too, when it is over.
    pub fn heal(&self) {
        let mut state = self.shared.state.lock();
        if state.stuck.is_some() {
            self.shared.rotate(&mut state);
        }
        state.tell_what_was_lost();
    }

    /// Why lines are being lost or the file grows, if so: for the health page.
    pub fn trouble(&self) -> Option<String> {
        let state = self.shared.state.lock();
        state.trouble.clone().or_else(|| state.stuck.clone())
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
        // Once it is stuck, `heal` tries again, not every line.
        if state.bytes > 0 && state.bytes + line.len() as u64 > self.bytes_max && state.stuck.is_none() {
            self.rotate(&mut state);
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

    /// Not rotated is written on: too long is better than lost.
    fn rotate(&self, state: &mut State) {
        match self.next(&state.file) {
            Ok(Some((file, bytes))) => (state.file, state.bytes, state.stuck) = (file, bytes, None),
            Ok(None) => state.stuck = None,
            Err(error) => {
                let words = format!("{} is full and cannot be rotated: {error}; it is written on", self.path.display());
                state.stuck = Some(words);
            }
        }
    }

    /// The file to write after `present`. `None`: somebody moved that away, and says so soon.
    fn next(&self, present: &File) -> io::Result<Option<(File, u64)>> {
        let there = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            there => there?,
        };
        let ours = present.metadata()?;
        if (there.dev(), there.ino()) != (ours.dev(), ours.ino()) {
            // Whoever put another one here has shifted those beside it.
            return append(&self.path).map(Some);
        }
        let draft = self.beside("new");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = append(&draft)?;
        if let Err(error) = self.shift(&draft) {
            let _stays = fs::remove_file(&draft);
            return Err(error);
        }
        Ok(Some(file))
    }

    /// Puts the draft at the place of the present file, which becomes `.1`; all or nothing.
    fn shift(&self, draft: &Path) -> io::Result<()> {
        let numbered = |nth: usize| self.beside(&nth.to_string());
        let mut moves: Vec<_> = (1..self.keep).rev().map(|nth| (numbered(nth), numbered(nth + 1))).collect();
        moves.retain(|(from, _)| from.exists());
        if self.keep > 0 {
            moves.push((self.path.clone(), numbered(1)));
        }
        moves.push((draft.to_owned(), self.path.clone()));
        for (done, (from, to)) in moves.iter().enumerate() {
            if let Err(error) = fs::rename(from, to) {
                for (from, to) in moves[..done].iter().rev() {
                    let _stays = fs::rename(to, from);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{end}"));
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
    fn a_rotation_that_fails_shifts_nothing_and_is_tried_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("gateway.log");
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        fs::write(folder.path().join("gateway.log.1"), "day -1\n").expect("written");
        fs::write(folder.path().join("gateway.log.2"), "day -2\n").expect("written");
        let mut log = LogFile::open(&path, 10, 3).expect("opens");
        // As when there are no descriptors or no inodes left: the next file cannot be made.
        let in_the_way = folder.path().join("gateway.log.new");
        fs::create_dir(&in_the_way).expect("made");
        for _ in 0..5 {
            log.write_all(b"today ...\n").expect("never fails");
        }
        let of_before = || (read("gateway.log.1"), read("gateway.log.2"), read("gateway.log.3"));
        assert_eq!(of_before(), ("day -1\n".into(), "day -2\n".into(), String::new()));
        assert_eq!(read("gateway.log").lines().count(), 5);
        assert!(log.trouble().is_some_and(|words| words.contains("cannot be rotated")), "{:?}", log.trouble());
        fs::remove_dir(&in_the_way).expect("removed");
        // One of those before cannot be moved.
        fs::remove_file(folder.path().join("gateway.log.2")).expect("removed");
        let in_the_way = folder.path().join("gateway.log.2/here");
        fs::create_dir_all(&in_the_way).expect("made");
        fs::write(folder.path().join("gateway.log.3"), "day -3\n").expect("written");
        log.heal();
        assert!(log.trouble().is_some() && !folder.path().join("gateway.log.new").exists());
        assert_eq!((read("gateway.log.1"), read("gateway.log.3")), ("day -1\n".into(), "day -3\n".into()));
        fs::remove_dir_all(folder.path().join("gateway.log.2")).expect("removed");
        log.heal();
        assert_eq!(log.trouble(), None);
        assert_eq!((read("gateway.log.1").lines().count(), read("gateway.log.2")), (5, "day -1\n".into()));
    }

    #[test]
    fn a_file_that_somebody_moved_away_is_written_on_and_those_beside_it_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, moved) = (folder.path().join("gateway.log"), folder.path().join("gateway.log.1"));
        let mut log = LogFile::open(&path, 10, 3).expect("opens");
        log.write_all(b"before ..\n").expect("never fails");
        fs::rename(&path, &moved).expect("moved");
        for _ in 0..5 {
            log.write_all(b"after ...\n").expect("never fails");
        }
        assert_eq!(fs::read_to_string(&moved).expect("there").lines().count(), 6);
        assert!(!path.exists() && !folder.path().join("gateway.log.2").exists());
        assert_eq!(log.trouble(), None);
        // Some rotations put the next file there themselves.
        fs::write(&path, "").expect("made");
        log.write_all(b"new .....\n").expect("never fails");
        assert_eq!(fs::read_to_string(&path).expect("there"), "new .....\n");
        assert!(!folder.path().join("gateway.log.2").exists());
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
