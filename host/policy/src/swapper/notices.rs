//! What the file system tells about the plugins folder, as names whose writers have finished. Reads no file and decides
//! nothing. Invariant: a name stands in `Heard` only while nothing was heard of it after its close or its rename.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use notify::event::{AccessKind, AccessMode, CreateKind, MetadataKind, ModifyKind, RenameMode};
use notify::{EventKind, RecursiveMode, Watcher};

use super::Desk;
use crate::config::PolicyConfig;
use crate::folder::{Heard, counts};

/// Names heard of between two looks; what is beyond is found by two equal looks.
const HEARD_MAX: usize = 1024;

/// The watch of one folder, made anew when another folder stands in its place.
pub(super) struct Notices {
    desk: Arc<Desk>,
    /// None: nothing is watched, the looks find everything, later.
    folder: Option<PathBuf>,
    watched: Option<(Identity, notify::RecommendedWatcher)>,
    /// Its failure was told.
    told: bool,
}

/// Which folder it is; a name can come to lead to another one.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    place: (u64, u64),
    made: Option<SystemTime>,
}

// === impl Notices ===

impl Notices {
    pub(super) fn of(folder: Option<&Path>, config: &PolicyConfig, desk: &Arc<Desk>) -> Self {
        let folder = folder.filter(|_| config.watch.notify).map(Path::to_owned);
        Self { desk: Arc::clone(desk), folder, watched: None, told: false }
    }

    /// Watches what stands there now; nothing to do while that is what is watched.
    pub(super) fn renew(&mut self) {
        let Some(folder) = &self.folder else { return };
        let stands = identity(folder);
        if stands.is_some() && self.watched.as_ref().map(|(watched, _)| watched) == stands.as_ref() {
            return;
        }
        if self.watched.take().is_some() {
            self.desk.inbox.lock().heard.unclosed.clear();
            tracing::warn!(folder = %folder.display(), "another plugins folder stands in the place of the one before");
        }
        // Without a folder there is nothing to watch; the look says so.
        let Some(stands) = stands else { return };
        match watch(folder, &self.desk) {
            Ok(watcher) => {
                self.watched = Some((stands, watcher));
                self.told = false;
            }
            Err(error) if !self.told => {
                tracing::warn!(%error, "no notices about the plugins folder; looking at it instead");
                self.told = true;
            }
            Err(_) => {}
        }
    }
}

fn watch(folder: &Path, desk: &Arc<Desk>) -> notify::Result<notify::RecommendedWatcher> {
    let desk = Arc::clone(desk);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) => desk.heard(&event),
        Err(error) => tracing::warn!(%error, "notices about the plugins folder fail; looking at it instead"),
    })?;
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

fn identity(folder: &Path) -> Option<Identity> {
    let metadata = fs::metadata(folder).ok()?;
    #[cfg(unix)]
    let place = {
        use std::os::unix::fs::MetadataExt;
        (metadata.dev(), metadata.ino())
    };
    #[cfg(not(unix))]
    let place = (0, 0);
    Some(Identity { place, made: metadata.created().ok() })
}

// === impl Desk ===

impl Desk {
    fn heard(&self, event: &notify::Event) {
        let mut inbox = self.inbox.lock();
        if event.need_rescan() {
            // Notices were lost, and what was closed may have been opened again.
            inbox.heard.closed.clear();
        }
        let paths = &event.paths[..];
        let worth_a_look = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
                paths.iter().for_each(|path| inbox.heard.finished(path));
                true
            }
            // The name before comes first, and it was told by itself.
            EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
                paths.last().inspect(|path| inbox.heard.placed(path)).is_some()
            }
            EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Any)) => {
                paths.iter().for_each(|path| inbox.heard.placed(path));
                true
            }
            // Something went, or links were made: worth a look, but it finishes no file.
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                paths.iter().for_each(|path| inbox.heard.went(path));
                true
            }
            EventKind::Create(of) => {
                paths.iter().for_each(|path| inbox.heard.created(path));
                if matches!(of, CreateKind::File | CreateKind::Any) {
                    paths.iter().for_each(|path| inbox.heard.linked(path));
                }
                true
            }
            // Another mode, owner or time: the same bytes.
            EventKind::Modify(ModifyKind::Metadata(of)) if of != MetadataKind::WriteTime => {
                paths.iter().for_each(|path| inbox.heard.touched(path));
                false
            }
            EventKind::Modify(_) => {
                paths.iter().for_each(|path| inbox.heard.begun(path));
                false
            }
            _ => false,
        };
        if !worth_a_look && !event.need_rescan() {
            return;
        }
        let now = Instant::now();
        inbox.since = Some((inbox.since.map_or(now, |(first, _)| first), now));
        drop(inbox);
        self.arrived.notify_all();
    }
}

// === impl Heard ===

impl Heard {
    /// Its writer closed it.
    fn finished(&mut self, path: &Path) {
        let Some(name) = name(path).filter(|name| counts(name)) else { return };
        self.unclosed.remove(name);
        if self.closed.len() < HEARD_MAX {
            self.closed.insert(name.to_owned(), SystemTime::now());
        }
    }

    /// It was moved here, as a whole.
    fn placed(&mut self, path: &Path) {
        self.linked(path);
        self.finished(path);
    }

    /// Somebody writes it.
    fn begun(&mut self, path: &Path) {
        if let Some(name) = name(path) {
            self.closed.remove(name);
            // Elsewhere nothing tells of a close.
            if cfg!(target_os = "linux") && counts(name) && self.unclosed.len() < HEARD_MAX {
                self.unclosed.insert(name.to_owned());
            }
        }
    }

    /// A file that is begun, if it is empty; a link has no writer, and no close follows.
    fn created(&mut self, path: &Path) {
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_file() && metadata.len() == 0 => self.begun(path),
            _ => self.went(path),
        }
    }

    /// It is not there any more, or is another one.
    fn went(&mut self, path: &Path) {
        if let Some(name) = name(path) {
            self.closed.remove(name);
            self.unclosed.remove(name);
        }
    }

    fn touched(&mut self, path: &Path) {
        if let Some(at) = name(path).and_then(|name| self.closed.get_mut(name)) {
            *at = SystemTime::now();
        }
    }

    /// A link that others may lead through: with it they all changed at once.
    fn linked(&mut self, path: &Path) {
        let is_link = || path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
        self.flipped |= name(path).is_some_and(|name| !counts(name)) && is_link();
    }
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::time::Duration;

    fn until(what: &str, mut condition: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < end, "waited in vain until {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    // shows: X-02
    #[test]
    fn a_folder_that_takes_the_place_of_another_is_watched() {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = dir.path().join("plugins");
        fs::create_dir(&folder).expect("folder");
        let desk = Arc::new(Desk::default());
        let mut notices = Notices::of(Some(&folder), &PolicyConfig::new(dir.path()), &desk);
        notices.renew();
        let told = |name: &str| {
            fs::write(folder.join(name), b"").expect("write");
            until("it is told", || desk.inbox.lock().heard.closed.contains_key(name));
        };
        told("one.toml");
        fs::rename(&folder, dir.path().join("before")).expect("rename");
        notices.renew();
        fs::create_dir(&folder).expect("folder");
        notices.renew();
        told("two.toml");
        fs::remove_dir_all(&folder).expect("remove");
        fs::create_dir(&folder).expect("folder");
        notices.renew();
        told("three.toml");
    }

    // shows: X-02
    #[test]
    fn what_is_written_again_or_moved_away_is_not_finished() {
        let dir = tempfile::tempdir().expect("tempdir");
        let desk = Arc::new(Desk::default());
        let mut notices = Notices::of(Some(dir.path()), &PolicyConfig::new(dir.path()), &desk);
        notices.renew();
        let at = |name: &str| dir.path().join(name);
        let closed = |name: &str| desk.inbox.lock().heard.closed.contains_key(name);
        fs::write(at("a.toml"), b"x = 1").expect("write");
        until("it is closed", || closed("a.toml"));
        let again = fs::File::create(at("a.toml")).expect("create");
        until("it is open again", || !closed("a.toml"));
        assert!(desk.unclosed().contains("a.toml"), "and its writer is known");
        drop(again);
        until("it is closed again", || closed("a.toml"));
        assert!(desk.unclosed().is_empty());
        fs::rename(at("a.toml"), at("a.toml~")).expect("rename");
        until("it is gone", || !closed("a.toml"));
        assert!(desk.unclosed().is_empty(), "nobody writes any more");
        fs::write(at("b.toml"), b"").expect("write");
        until("the next is told", || closed("b.toml"));
        assert!(!desk.inbox.lock().heard.flipped, "a plain file is no link");
        std::os::unix::fs::symlink(".", at("..tmp")).expect("link");
        fs::rename(at("..tmp"), at("..data")).expect("rename");
        until("the link is told", || desk.inbox.lock().heard.flipped);
    }
}
