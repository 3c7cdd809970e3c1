//! The files of the decision log: appended to, followed by a new one when full, the oldest removed. Knows lines,
//! not decisions' meaning. Invariant: none is larger than its size, unless a single decision with what belongs to it is;
//! what an earlier process left half-written is closed with a line's end before anything follows.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::line::{Kept, Line};
use super::{DecisionLog, Record};
use crate::store::private_folder;

/// The writing end.
#[derive(Debug)]
pub(super) struct Files {
    folder: PathBuf,
    config: DecisionLog,
    open: Option<Open>,
    /// First id of this run, for the line at the top of each file.
    run: (u64, u64),
    /// What stands in the way of files, told once.
    odd: bool,
}

/// What is in the folder under names of ours.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// Rising.
    pub(super) logs: Vec<u64>,
    /// No regular files: passed over, and their names are not used.
    odd: Vec<u64>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// It holds a decision: another one that does not fit goes into the next file.
    told: bool,
    /// What this file has been told already.
    sets: BTreeSet<u64>,
    lists: BTreeSet<String>,
}

/// Room for the line that ends a run: 8 digits, a space, `"end"` and the line's end are 15 bytes.
const END_BYTES: u64 = 16;
/// And for the one that begins it, with its two numbers.
const TOP_BYTES: u64 = 96;
/// No gateway writes so many files.
const NUMBER_MAX: u64 = 1 << 48;

// === impl Files ===

impl Files {
    pub(super) fn new(folder: &Path, config: DecisionLog, first: u64, at_ms: u64) -> io::Result<Self> {
        private_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), config, open: None, run: (first, at_ms), odd: false })
    }

    /// Appends, in one write; on an error nothing of it counts as written.
    pub(super) fn append(&mut self, records: &[std::sync::Arc<Record>], dropped: u64) -> io::Result<()> {
        let (mut out, mut lines) = (Vec::new(), Vec::new());
        let mut open = self.opened(false)?;
        if dropped > 0 {
            Line::Dropped { count: dropped }.write(&mut out);
            if !self.fits(&open, out.len()) {
                open = self.opened(true)?;
            }
        }
        for record in records {
            open.write(record, &mut lines);
            if open.told && !self.fits(&open, out.len() + lines.len()) {
                self.put(open, &mut out)?;
                self.open = None;
                open = self.opened(true)?;
                // Told anew what the one before had been told.
                lines.clear();
                open.write(record, &mut lines);
            }
            open.told = true;
            out.append(&mut lines);
        }
        self.put(open, &mut out)
    }

    /// With the last word of a process behind it.
    fn fits(&self, open: &Open, more: usize) -> bool {
        open.bytes + more as u64 + END_BYTES <= self.config.file_bytes_max
    }

    pub(super) fn end(&mut self) {
        if let Some(open) = &mut self.open {
            let mut out = Vec::new();
            Line::End.write(&mut out);
            // The last word of a process; without it a reader says that the run did not end well.
            let _ = open.file.write_all(&out);
        }
    }

    fn put(&mut self, mut open: Open, out: &mut Vec<u8>) -> io::Result<()> {
        open.file.write_all(out)?;
        open.bytes += out.len() as u64;
        out.clear();
        self.open = Some(open);
        Ok(())
    }

    /// The file to go on with; a `fresh` one where the one before is full. After an error it is opened anew, and told
    /// everything anew.
    fn opened(&mut self, fresh: bool) -> io::Result<Open> {
        if let Some(open) = self.open.take().filter(|_| !fresh) {
            return Ok(open);
        }
        let Numbers { logs, odd } = numbers(&self.folder)?;
        if let Some(first) = odd.first().filter(|_| !self.odd) {
            tracing::warn!(path = %path(&self.folder, *first).display(), count = odd.len(),
                "among the files of the decision log stands something else; it is passed over");
            self.odd = true;
        }
        // The first name behind all that is there.
        let free = logs.last().max(odd.last()).map_or(1, |last| last + 1);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        let mut file = options.open(path(&self.folder, logs.last().copied().unwrap_or(free)))?;
        let mut bytes = file.seek(SeekFrom::End(0))?;
        if fresh && bytes > 0 || bytes + TOP_BYTES + END_BYTES > self.config.file_bytes_max {
            file = options.open(path(&self.folder, if logs.is_empty() { free + 1 } else { free }))?;
            bytes = 0;
            let surplus = (logs.len() + 1).saturating_sub(self.config.files_max);
            for number in logs.iter().take(surplus) {
                let _ = fs::remove_file(path(&self.folder, *number));
            }
        }
        let mut top = Vec::new();
        if bytes > 0 && !ends_with_line(&mut file)? {
            top.push(b'\n');
        }
        Line::Run { first: self.run.0, at_ms: self.run.1 }.write(&mut top);
        file.write_all(&top)?;
        let told = bytes > 0;
        Ok(Open { file, bytes: bytes + top.len() as u64, told, sets: BTreeSet::new(), lists: BTreeSet::new() })
    }
}

// === impl Open ===

impl Open {
    /// The lines of a decision, with what this file has not been told yet.
    fn write(&mut self, record: &Record, out: &mut Vec<u8>) {
        let (kept, lists) = Kept::of(record);
        if self.sets.insert(record.facts.generation) {
            Line::Set((*record.facts).clone()).write(out);
        }
        for (list, tags) in lists {
            if self.lists.insert(list.clone()) {
                Line::Tags { list, tags: tags.to_vec() }.write(out);
            }
        }
        Line::Decision(kept).write(out);
    }
}

/// What is named otherwise is none of ours.
pub(super) fn numbers(folder: &Path) -> io::Result<Numbers> {
    let mut numbers = Numbers::default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|number| number.parse().ok());
        let Some(number) = number.filter(|number| *number < NUMBER_MAX) else { continue };
        // A link, a folder or a pipe is nothing that this process made.
        let regular = entry.file_type().is_ok_and(|kind| kind.is_file());
        if regular { &mut numbers.logs } else { &mut numbers.odd }.push(number);
    }
    numbers.logs.sort_unstable();
    numbers.odd.sort_unstable();
    Ok(numbers)
}

pub(super) fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{number:08}.log"))
}

fn ends_with_line(file: &mut File) -> io::Result<bool> {
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
