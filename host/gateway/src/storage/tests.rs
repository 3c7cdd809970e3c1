//! Provokes what storage must stand: gathered writes, a kill at any byte, every old version, a full
//! disk, damaged, foreign and newer files. Knows the inside of the module. Invariant: what was
//! acknowledged is there afterwards.

use super::{open::*, *};
use crate::{
    ids::{KeyId, SessionId},
    telemetry::Metrics,
};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    time::Duration,
};

const INSTANCE: &str = "00112233445566778899aabbccddeeff";
const PATIENCE: Duration = Duration::from_secs(30);

struct Bed {
    folder: tempfile::TempDir,
    metrics: Metrics,
}

impl Bed {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), metrics: Metrics::new() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tidegate.db")
    }

    fn open(&self) -> Result<Storage> {
        Storage::open(&self.path(), &InstanceId::parse(INSTANCE).expect("an id"), self.metrics.storage.clone())
    }
}

fn key(name: &str) -> KeyRow {
    KeyRow {
        id: KeyId::mint(),
        name: name.into(),
        digest: crate::ids::random(),
        scopes: vec!["sessions:own".into()],
        read: vec!["Area1.*".into()],
        write: vec![],
        created_unix_ms: 1,
        revoked_unix_ms: None,
    }
}

fn swap(generation: u64) -> SwapRow {
    SwapRow {
        at_unix_ms: 5,
        generation,
        outcome: "swapped".into(),
        cause: "file".into(),
        gate_us: 1_000,
        digests: [("access".to_owned(), "ab".to_owned())].into(),
        fences: vec![FenceRow { session: "s".into(), reader: "r".into(), sequence: u64::MAX }],
        ..SwapRow::default()
    }
}

async fn names(storage: &Storage) -> Vec<String> {
    storage.keys().await.expect("reads").into_iter().map(|row| row.name).collect()
}

/// Holds the writer inside a transaction until the returned sender is dropped.
async fn hold(storage: &Storage) -> std::sync::mpsc::Sender<()> {
    let (release, released) = std::sync::mpsc::channel::<()>();
    let (held, holding) = oneshot::channel();
    let storage = storage.clone();
    tokio::spawn(async move {
        storage
            .write(move |_| {
                let _ = held.send(());
                let _ = released.recv();
                Ok(())
            })
            .await
    });
    holding.await.expect("the writer took it");
    release
}

async fn queued(storage: &Storage, count: usize) {
    tokio::time::timeout(PATIENCE, async {
        while storage.orders.max_capacity() - storage.orders.capacity() < count {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the writes are queued");
}

#[tokio::test]
async fn writes_that_gather_are_committed_together() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    let release = hold(&storage).await;
    let writes: Vec<_> = (0..600)
        .map(|n| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.add_key(key(&n.to_string()), usize::MAX).await })
        })
        .collect();
    queued(&storage, 600).await;
    drop(release);
    for write in writes {
        write.await.expect("runs").expect("written");
    }
    // One for the holder, then groups of 256, 256 and 88.
    assert_eq!((bed.metrics.storage.commits.get(), bed.metrics.storage.rows.get()), (4, 601));
    assert_eq!(storage.keys().await.expect("reads").len(), 600);
}

#[tokio::test]
async fn a_failing_write_fails_only_its_caller() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    let twin = key("twin");
    let release = hold(&storage).await;
    let (first, second, defect, last) = {
        let add = |row: KeyRow| {
            let storage = storage.clone();
            tokio::spawn(async move { storage.add_key(row, usize::MAX).await })
        };
        let first = add(twin.clone());
        queued(&storage, 1).await;
        let second = add(twin);
        queued(&storage, 2).await;
        let other = storage.clone();
        let defect = tokio::spawn(async move { other.write::<(), _>(|_| panic!("on purpose, for a test")).await });
        queued(&storage, 3).await;
        (first, second, defect, add(key("last")))
    };
    queued(&storage, 4).await;
    drop(release);
    first.await.expect("runs").expect("the first of the twins is written");
    assert_eq!(second.await.expect("runs").expect_err("the same id").code(), Code::Internal);
    assert_eq!(defect.await.expect("runs").expect_err("panicked").code(), Code::Internal);
    last.await.expect("runs").expect("written all the same");
    assert_eq!(names(&storage).await.len(), 2);
    assert_eq!(bed.metrics.storage.commits.get(), 2, "all four shared one commit");
    assert!(storage.trouble().is_none(), "a wrong statement is no trouble of the disk");
}

#[tokio::test]
async fn a_caller_that_goes_away_does_not_take_its_write_back() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    let release = hold(&storage).await;
    let gone = storage.clone();
    let write = tokio::spawn(async move { gone.add_key(key("orphan"), 1).await });
    queued(&storage, 1).await;
    write.abort();
    let _ = write.await;
    drop(release);
    storage.close().await;
    assert_eq!(names(&bed.open().expect("opens again")).await, ["orphan"]);
}

#[tokio::test]
async fn closing_commits_what_waits_and_refuses_what_comes() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    let waiting = storage.clone();
    let release = hold(&storage).await;
    let write = tokio::spawn(async move { waiting.add_key(key("waited"), 1).await });
    queued(&storage, 1).await;
    drop(release);
    storage.close().await;
    write.await.expect("runs").expect("committed");
    assert!(!bed.path().with_extension("db-wal").exists(), "one whole file is left");
    assert_eq!(storage.add_key(key("late"), 9).await.expect_err("closed").code(), Code::StorageUnavailable);
    assert_eq!(storage.keys().await.expect_err("closed").code(), Code::StorageUnavailable);
    storage.close().await;
}

#[tokio::test]
async fn records_come_back_as_they_went_in() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    let session = SessionRow {
        id: SessionId::mint(),
        owner: Some(KeyId::mint()),
        name: "line-1".into(),
        tag: "area".into(),
        backend: "sim".into(),
        opened_unix_ms: 7,
        end: None,
    };
    let lost = SessionRow { id: SessionId::mint(), owner: None, ..session.clone() };
    storage.session_opened(session.clone()).await.expect("written");
    storage.session_opened(lost.clone()).await.expect("written");
    let end = SessionEnd { at_unix_ms: 9, reason: "client".into() };
    storage.session_closed(session.id.clone(), end.clone()).await.expect("written");
    let second = SessionEnd { at_unix_ms: 10, reason: "kill".into() };
    storage.session_closed(session.id.clone(), second).await.expect("changes nothing");
    assert_eq!(storage.end_lost_sessions(11).await.expect("written"), 1);
    let ended = SessionRow { end: Some(end), ..session };
    let lost = SessionRow { end: Some(SessionEnd { at_unix_ms: 11, reason: "lost".into() }), ..lost };
    assert_eq!(storage.sessions(10).await.expect("reads"), [lost, ended]);

    assert_eq!(storage.last_generation().await.expect("reads"), 0);
    storage.swap_recorded(swap(3)).await.expect("written");
    storage.swap_enforced(3, 42).await.expect("written");
    assert_eq!(storage.last_generation().await.expect("reads"), 3);
    let mut wanted = swap(3);
    wanted.enforced_us = Some(42);
    assert_eq!(storage.swaps(10).await.expect("reads"), [wanted]);
}

/// Copies the database as it lies on the disk, with the journal cut off after `bytes`.
fn torn(from: &Path, to: &Path, bytes: usize) {
    fs::copy(from, to).expect("copies");
    let mut wal = fs::read(from.with_extension("db-wal")).expect("a journal");
    wal.truncate(bytes);
    fs::write(to.with_extension("db-wal"), wal).expect("writes");
    let _ = fs::remove_file(to.with_extension("db-shm"));
}

#[tokio::test]
async fn a_copy_torn_at_any_byte_opens_with_whole_commits_only() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    for n in 0..24 {
        storage.swap_recorded(swap(n + 1)).await.expect("written");
    }
    let length = usize::try_from(fs::metadata(bed.path().with_extension("db-wal")).expect("a journal").len()).unwrap();
    let copy = bed.folder.path().join("copy.db");
    let mut seen = BTreeSet::new();
    // A prime step walks over pages' and frames' borders at ever other places.
    for cut in (0..length).step_by(2_003).chain([length]) {
        torn(&bed.path(), &copy, cut);
        let db = match writer(&copy) {
            Ok(db) => db,
            // Before the first commit reached the main file there is nothing to lose.
            Err(error) => panic!("cut at {cut}: {error}"),
        };
        let generations: Vec<i64> = db
            .prepare("SELECT generation FROM swaps ORDER BY seq")
            .and_then(|mut s| s.query_map([], |row| row.get(0))?.collect())
            .expect("reads");
        let count = generations.len() as i64;
        assert_eq!(generations, (1..=count).collect::<Vec<_>>(), "cut at {cut}");
        seen.insert(count);
    }
    assert_eq!(seen.last(), Some(&24), "all acknowledged writes are in the uncut copy");
    assert!(seen.len() > 10, "the cuts fell between commits: {seen:?}");
}

const CHILD: &str = "TIDEGATE_TEST_STORAGE_CHILD";

/// Writes until it is killed, telling each write that was acknowledged. Does nothing in an ordinary run.
#[tokio::test]
async fn child_that_writes_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let instance = InstanceId::parse(INSTANCE).expect("an id");
    let storage = Storage::open(Path::new(&path), &instance, Metrics::new().storage).expect("opens");
    for generation in 1.. {
        storage.swap_recorded(swap(generation)).await.expect("written");
        println!("acknowledged {generation}");
    }
}

#[tokio::test]
async fn what_was_acknowledged_survives_sigkill() {
    let bed = Bed::new();
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["storage::tests::child_that_writes_until_it_is_killed", "--exact", "--nocapture"])
        .env(CHILD, bed.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines().map_while(std::result::Result::ok);
    let told = |line: String| line.split_once("acknowledged ").and_then(|(_, n)| n.trim().parse::<u64>().ok());
    let mut last = lines.by_ref().filter_map(told).nth(49).expect("fifty writes");
    child.kill().expect("killed");
    last = lines.filter_map(told).last().unwrap_or(last);
    child.wait().expect("gone");
    let found = bed.open().expect("opens clean").last_generation().await.expect("reads");
    assert!(found >= last, "acknowledged up to {last}, found {found}");
}

#[tokio::test]
async fn every_past_version_is_migrated_and_backed_up() {
    for from in 0..MIGRATIONS.len() {
        let bed = Bed::new();
        let old = writer_with(&bed.path(), &MIGRATIONS[..from]).expect("an old file");
        if from >= 1 {
            old.execute(
                "INSERT INTO keys VALUES ('k0123456789abcdef', 'old', zeroblob(32), '[]', '[]', '[]', 1, NULL)",
                [],
            )
            .expect("a key of old");
        }
        drop(old);
        let storage = bed.open().expect("migrates");
        let kept = if from >= 1 { vec!["old".to_owned()] } else { vec![] };
        assert_eq!(names(&storage).await, kept, "from {from}");
        storage.swap_recorded(swap(1)).await.expect("the newest tables are there");
        let backup = backup_path(&bed.path(), from);
        assert_eq!(backup.exists(), from > 0, "from {from}");
        if from > 0 {
            let db = Connection::open(&backup).expect("the backup opens");
            assert_eq!(version(&db, &backup).expect("reads"), from);
        }
    }
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let bed = Bed::new();
    let broken = [MIGRATIONS[0], ("0002_broken", "CREATE TABLE half (x) STRICT; CREATE nonsense;")];
    drop(writer_with(&bed.path(), &broken[..1]).expect("version 1"));
    assert_eq!(writer_with(&bed.path(), &broken).expect_err("broken").code(), Code::Internal);
    let db = Connection::open(bed.path()).expect("opens");
    assert_eq!(version(&db, &bed.path()).expect("reads"), 1);
    let tables: i64 =
        db.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'half'", [], |row| row.get(0)).expect("reads");
    assert_eq!(tables, 0);
}

#[test]
fn a_newer_database_is_left_alone() {
    let bed = Bed::new();
    drop(bed.open().expect("opens"));
    wait_until_closed(&bed);
    Connection::open(bed.path()).and_then(|db| db.pragma_update(None, "user_version", 99)).expect("from the future");
    let error = bed.open().expect_err("refused");
    assert_eq!(error.code(), Code::StorageNewer);
    assert!(error.details().contains(&("found", "99".to_owned())), "{error:?}");
}

/// The writer's thread closes the file after the last handle has gone; its journal goes with it.
fn wait_until_closed(bed: &Bed) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while bed.path().with_extension("db-wal").exists() {
        assert!(std::time::Instant::now() < deadline, "the file is still open");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_no_whole_database_of_ours_is_refused_and_kept() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
        for n in 0..200 {
            storage.add_key(key(&n.to_string()), usize::MAX).await.expect("written");
        }
        storage.close().await;
    });
    drop(storage);
    let sound = fs::read(bed.path()).expect("reads");
    let mut scribbled = sound.clone();
    // Over the pages behind the first one, which says what the file is.
    scribbled[4096..].chunks_mut(4096).for_each(|page| page[..64].fill(0xA5));
    for (what, bytes) in [
        (
            "no database",
            b"hello, I am a text file and rather longer than a header of SQLite is, which is 100 bytes\n".repeat(9),
        ),
        ("cut off", sound[..sound.len() / 2].to_vec()),
        ("scribbled over", scribbled),
    ] {
        let path = bed.folder.path().join("wrong.db");
        fs::write(&path, &bytes).expect("writes");
        let error = writer(&path).expect_err(what);
        assert_eq!(error.code(), Code::StorageCorrupt, "{what}: {error}");
        assert_eq!(fs::read(&path).expect("reads"), bytes, "{what}: not touched");
    }
    let foreign = bed.folder.path().join("foreign.db");
    Connection::open(&foreign).and_then(|db| db.execute_batch("CREATE TABLE theirs (x)")).expect("a foreign file");
    assert_eq!(writer(&foreign).expect_err("foreign").code(), Code::StorageCorrupt);
}

#[tokio::test]
async fn a_full_disk_is_said_and_survived() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    storage.add_key(key("before"), usize::MAX).await.expect("written");
    let pages = |count: &'static str| storage.write_sql(move |db| db.query_row(count, [], |row| row.get::<_, i64>(0)));
    pages("PRAGMA max_page_count = 1").await.expect("set; SQLite keeps at least what is there");
    let mut big = swap(1);
    big.message = "x".repeat(64 << 10);
    let error = storage.swap_recorded(big.clone()).await.expect_err("full");
    assert_eq!(error.code(), Code::StorageFull);
    assert_eq!(storage.trouble().expect("known to the health page").code(), Code::StorageFull);
    assert!(bed.metrics.storage.failures.get() > 0);
    assert_eq!(names(&storage).await, ["before"], "reading goes on");
    pages("PRAGMA max_page_count = 1000000").await.expect("room again");
    storage.heal().await;
    assert!(storage.trouble().is_none(), "noticed without a write of anybody");
    storage.swap_recorded(big).await.expect("written");
}

#[tokio::test]
async fn a_full_disk_fails_its_neighbours_honestly() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    storage
        .write_sql(|db| db.query_row("PRAGMA max_page_count = 1", [], |row| row.get::<_, i64>(0)))
        .await
        .expect("set");
    let release = hold(&storage).await;
    let writes: Vec<_> = (0..20)
        .map(|n| {
            let storage = storage.clone();
            let mut row = key(&n.to_string());
            if n == 10 {
                row.name = "x".repeat(64 << 10);
            }
            tokio::spawn(async move { storage.add_key(row, usize::MAX).await.is_ok() })
        })
        .collect();
    queued(&storage, 20).await;
    drop(release);
    let mut acknowledged = 0;
    for write in writes {
        acknowledged += usize::from(write.await.expect("runs"));
    }
    assert!(acknowledged < 20);
    assert_eq!(names(&storage).await.len(), acknowledged, "what was acknowledged is there, and nothing else");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_storage_unavailable() {
    let bed = Bed::new();
    let path = bed.folder.path().join("none/tidegate.db");
    assert_eq!(writer(&path).expect_err("no folder").code(), Code::StorageUnavailable);
    let storage = bed.open().expect("opens");
    storage.write_sql(|db| db.pragma_update(None, "query_only", true)).await.expect("set");
    let error = storage.add_key(key("x"), 9).await.expect_err("read-only");
    assert_eq!(error.code(), Code::StorageUnavailable);
    assert!(storage.trouble().is_some());

    // Modes do not bind the superuser; the kernel's own folders do.
    let sealed = if rustix::process::geteuid().is_root() {
        PathBuf::from("/proc/tidegate.db")
    } else {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = bed.folder.path().join("sealed");
        fs::create_dir(&folder).expect("creates");
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o500)).expect("seals");
        folder.join("tidegate.db")
    };
    assert_eq!(writer(&sealed).expect_err("sealed").code(), Code::StorageUnavailable);
}

#[tokio::test]
async fn the_number_of_live_keys_is_bounded() {
    let bed = Bed::new();
    let storage = bed.open().expect("opens");
    let first = key("first");
    storage.add_key(first.clone(), 2).await.expect("one");
    storage.add_key(key("second"), 2).await.expect("two");
    assert_eq!(storage.add_key(key("third"), 2).await.expect_err("three").code(), Code::KeyLimit);
    assert!(storage.revoke_key(first.id.clone(), 9).await.expect("written"));
    assert!(!storage.revoke_key(first.id, 10).await.expect("known to be dead"));
    storage.add_key(key("third"), 2).await.expect("a revoked one does not count");
}
