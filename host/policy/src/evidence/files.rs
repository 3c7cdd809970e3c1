//! The files of the decision log: appended to, followed by a new one when full, the oldest removed. Knows lines,
//! not decisions' meaning. Invariant: together they hold no more than their number times their size, and a line;
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
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// What this file has been told already.
    sets: BTreeSet<u64>,
    lists: BTreeSet<String>,
}

// === impl Files ===

impl Files {
    pub(super) fn new(folder: &Path, config: DecisionLog, first: u64, at_ms: u64) -> io::Result<Self> {
        private_folder(folder)?;
        Ok(Self { folder: folder.to_owned(), config, open: None, run: (first, at_ms) })
    }

    /// Appends, in one write; on an error nothing of it counts as written.
    pub(super) fn append(&mut self, records: &[std::sync::Arc<Record>], dropped: u64) -> io::Result<()> {
        let mut out = Vec::new();
        if dropped > 0 {
            Line::Dropped { count: dropped }.write(&mut out);
        }
        let mut open = self.opened()?;
        for record in records {
            if open.bytes + out.len() as u64 >= self.config.file_bytes_max {
                self.put(open, &mut out)?;
                self.open = None;
                open = self.opened()?;
            }
            let (kept, lists) = Kept::of(record);
            if open.sets.insert(record.facts.generation) {
                Line::Set((*record.facts).clone()).write(&mut out);
            }
            for (list, tags) in lists {
                if open.lists.insert(list.clone()) {
                    Line::Tags { list, tags: tags.to_vec() }.write(&mut out);
                }
            }
            Line::Decision(kept).write(&mut out);
        }
        self.put(open, &mut out)
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

    /// The file to go on with. After an error it is opened anew, and told everything anew.
    fn opened(&mut self) -> io::Result<Open> {
        if let Some(open) = self.open.take() {
            return Ok(open);
        }
        let numbers = numbers(&self.folder)?;
        let last = numbers.last().copied().unwrap_or(0);
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            options.mode(0o600);
        }
        let mut file = options.open(path(&self.folder, last.max(1)))?;
        let mut bytes = file.seek(SeekFrom::End(0))?;
        if bytes >= self.config.file_bytes_max {
            file = options.open(path(&self.folder, last + 1))?;
            bytes = 0;
            let surplus = (numbers.len() + 1).saturating_sub(self.config.files_max);
            for number in numbers.iter().take(surplus) {
                let _ = fs::remove_file(path(&self.folder, *number));
            }
        }
        let mut top = Vec::new();
        if bytes > 0 && !ends_with_line(&mut file)? {
            top.push(b'\n');
        }
        Line::Run { first: self.run.0, at_ms: self.run.1 }.write(&mut top);
        file.write_all(&top)?;
        Ok(Open { file, bytes: bytes + top.len() as u64, sets: BTreeSet::new(), lists: BTreeSet::new() })
    }
}

/// Rising; what is named otherwise is none of ours.
pub(super) fn numbers(folder: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number: Option<u64> =
            name.to_str().and_then(|name| name.strip_suffix(".log")).and_then(|number| number.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
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
