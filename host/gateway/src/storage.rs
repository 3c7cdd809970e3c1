//! What must outlive the process: SQLite in WAL mode behind one writer with group commit. Knows tables
//! and files, not what the rows are for; never on the path of an event or a decision. Invariant:
//! `Ok` from a write means committed and on the disk.

mod aside;
mod failure;
mod keys;
#[cfg(test)]
mod node_tests;
mod nodes;
mod open;
mod people;
#[cfg(test)]
mod probe;
mod records;
mod reserve;
#[cfg(test)]
mod tests;
mod workers;
mod writer;

pub use aside::{forget_aside, put_back, set_aside};
pub use keys::KeyRow;
pub use nodes::{FloorRow, NodeEdited, NodeQuery, NodeRow, NodeState, PresenceRow};
pub use open::check_copy;
pub use people::{AuditRow, PersonRow};
pub use records::{FenceRow, SessionEnd, SessionRow, SwapRow};
pub use workers::WorkerRow;

use crate::{
    data_dir::InstanceId,
    error::{Code, Error, Result},
    telemetry::StorageMetrics,
};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot};
use writer::{Order, Trouble, Writer};

/// How many records of ended sessions and of swaps are kept; guessed to be months of audit, tens of MB.
const RECORDS_MAX: i64 = 100_000;

/// What this program brings a database to.
pub const SCHEMA: usize = open::MIGRATIONS.len();

/// Bytes that must be free on the disk before a full one counts as healed. Guessed: a group of writes, and its journal.
const ROOM: u64 = 1 << 20;

/// A handle; clones share the writer. The file is closed by `close`, or when the last clone has gone.
#[derive(Clone)]
pub struct Storage {
    /// Dropped before `orders`, so that the writer is the last to close the file and tidies the journal away.
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
}

struct Shared {
    path: PathBuf,
    /// A read holds it for one query, on a thread that may block. `None` once closed.
    reader: Mutex<Option<Connection>>,
    trouble: Trouble,
}

// === impl Storage ===

impl Storage {
    /// Opens or creates the database, migrates it, and starts the writer thread. Blocks: for the start
    /// of the process, before anything serves. Errors: `storage.corrupt`, `.newer`, `.unavailable`.
    pub fn open(path: &Path, instance: &InstanceId, metrics: StorageMetrics) -> Result<Self> {
        let db = match open::writer(path) {
            // Closed in order it has given up the room that opening it takes; what was set aside for that is ours to use.
            Err(error) if error.code() == Code::StorageFull && reserve::give_up(path) => {
                tracing::warn!(%error, "the disk is full; opening the database with the room that was set aside");
                open::writer(path)?
            }
            opened => opened?,
        };
        let noted = records::start_instance(&db, instance, now_unix_ms());
        let storage = Self::start(path, db, metrics)?;
        match noted.map_err(|e| failure::of("write to", path, &e)) {
            // What is stored can be read, and that is what serves. The note is of no use to anybody but people.
            Err(error) if error.code() == Code::StorageFull => {
                tracing::error!(code = error.code().as_str(), "storage: {}; starting without", error.message());
                *storage.shared.trouble.lock() = Some(error);
            }
            noted => {
                noted?;
                reserve::keep(path);
            }
        }
        Ok(storage)
    }

    fn start(path: &Path, db: Connection, metrics: StorageMetrics) -> Result<Self> {
        let reader = open::reader(path)?;
        let trouble = Trouble::default();
        let (sender, orders) = mpsc::channel(writer::QUEUE);
        let writer = Writer { db, path: path.to_owned(), orders, metrics, trouble: Arc::clone(&trouble) };
        std::thread::Builder::new()
            .name("storage-writer".into())
            .spawn(move || writer.run())
            .map_err(|e| Error::new(Code::StorageUnavailable, format!("cannot start the writer's thread: {e}")))?;
        let shared = Shared { path: path.to_owned(), reader: Mutex::new(Some(reader)), trouble };
        Ok(Self { shared: Arc::new(shared), orders: sender })
    }

    /// Why writes fail at present, for the health page; `None` when the last one went well.
    pub fn trouble(&self) -> Option<Error> {
        self.shared.trouble.lock().clone()
    }

    /// Tries to write while writing fails, so that the trouble ends when its cause has ended and not only with the
    /// next write of somebody. Changes nothing that anybody reads.
    pub async fn heal(&self) {
        let Some(trouble) = self.trouble() else {
            if !reserve::is_kept(&self.shared.path) && open::room(&self.shared.path).is_none_or(|bytes| bytes >= ROOM) {
                let shared = Arc::clone(&self.shared);
                // A panic there is a defect that the panic hook has logged.
                let _kept = tokio::task::spawn_blocking(move || reserve::keep(&shared.path)).await;
            }
            return;
        };
        // What the journal still has in reserve is no room: the next write of some size would fail again.
        let short = || open::room(&self.shared.path).is_some_and(|bytes| bytes < ROOM);
        if trouble.code() != Code::StorageFull || !short() {
            let version = open::MIGRATIONS.len() as i64;
            // Still failing: noted again by the writer.
            let _noted = self.write_sql(move |db| db.pragma_update(None, "user_version", version)).await;
        }
    }

    /// Copies the database as of one moment into a new file, with SQLite's backup interface on a connection of
    /// its own: writers and other readers go on. Returns the schema. Blocks.
    pub fn copy_to(&self, target: &Path) -> Result<usize> {
        open::copy(&self.shared.path, target)
    }

    /// Waits until everything handed in before is committed, and closes the file. Later calls answer
    /// `storage.unavailable`.
    pub async fn close(&self) {
        let shared = Arc::clone(&self.shared);
        // May wait for a query that runs.
        let _ = tokio::task::spawn_blocking(move || drop(shared.reader.lock().take())).await;
        let (done, closed) = oneshot::channel();
        if self.orders.send(Order::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// Hands `work` to the writer and waits for the commit. A future that is dropped meanwhile does not
    /// take the write back.
    async fn write<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.write_then(work, |_| {}).await
    }

    /// As `write`; `then` sees the outcome after the commit, on the writer's thread and in the order of the
    /// commits, also when the caller has gone. It must not wait for anything.
    async fn write_then<T, F, C>(&self, work: F, then: C) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        C: FnOnce(&T) + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Write(writer::piece_then(work, then, reply))).await.map_err(|_| failure::closed())?;
        answer.await.map_err(|_| failure::closed())?
    }

    /// Runs `query` on the read connection, off the runtime's threads.
    async fn read<T, F>(&self, query: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            let reader = shared.reader.lock();
            let db = reader.as_ref().ok_or_else(failure::closed)?;
            query(db).map_err(|e| failure::of("read", &shared.path, &e))
        })
        .await
        .map_err(|_| Error::new(Code::Internal, "a query panicked"))?
    }

    /// A writing closure over plain SQLite results.
    async fn write_sql<T, F>(&self, work: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        self.write(move |db| work(db).map_err(|e| failure::of("write to", &shared.path, &e))).await
    }
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

/// Milliseconds since the Unix epoch; a clock before 1970 counts as 1970.
pub fn now_unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
