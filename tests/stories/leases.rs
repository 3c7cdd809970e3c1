//! Sessions that nobody uses: what ends them, what keeps them, and who may come back in time.

use crate::{
    harness::{Gateway, Launch, Session, eventually, is_alive, is_gone},
    restart::{again, database, killed, reattach},
};

const TAGS: &[&str] = &["Area1.Pump1.Sine", "Area1.Pump1.Counter"];

/// What operators see of a session; looking renews nothing.
async fn is_listed(gw: &Gateway, s: &Session) -> bool {
    let sessions = gw.admin().await.sessions().await.expect("a listing");
    sessions.iter().any(|one| one.session_id == s.id)
}

async fn is_over(gw: &Gateway, s: &Session) {
    eventually("the session to be gone", async || (!is_listed(gw, s).await).then_some(())).await;
    eventually("its worker to be gone", async || is_gone(s.pid).then_some(())).await;
}

async fn ended(gw: &Gateway, reason: &str, sessions: u32) {
    let line = format!("tidegate_sessions_closed_total{{reason=\"{reason}\"}} {sessions}\n");
    eventually(&line, async || gw.metrics().await.contains(&line).then_some(())).await;
}

// shows: S-11
#[tokio::test]
async fn an_unused_session_ends_with_its_lease_and_readers_and_calls_keep_theirs() {
    let gw = Launch::new().flag("--default-lease-seconds", "3").start().await;
    let read = gw.open("read").await;
    let mut reader = read.reader("one").await;
    read.advise(TAGS).await;
    let called = gw.open("called").await;
    let unused = gw.open("unused").await;
    // The unused one was used last of the three, so the others' leases would be over before its own.
    eventually("the unused session to be gone", async || {
        called.client.snapshot(&called.id).await.expect("it lives by its calls");
        (!is_listed(&gw, &unused).await).then_some(())
    })
    .await;
    ended(&gw, "lease", 1).await;
    called.head().await;
    let before = reader.position().after;
    reader.to(before + 50).await;
    assert!(is_listed(&gw, &read).await);

    // The lease of each begins when it is left alone.
    is_over(&gw, &called).await;
    ended(&gw, "lease", 2).await;
    let before = reader.position().after;
    reader.to(before + 50).await;
    drop(reader);
    is_over(&gw, &read).await;
    ended(&gw, "lease", 3).await;
}

// shows: S-12
#[tokio::test]
async fn a_reader_who_comes_back_within_the_grace_keeps_the_session() {
    let gw = Launch::new().flag("--detach-grace-seconds", "3").start().await;
    let (kept, left) = (gw.open("kept").await, gw.open("left").await);
    let (first, other) = (kept.reader("first").await, left.reader("other").await);
    kept.advise(TAGS).await;
    drop(first);
    let readers = async || {
        let sessions = gw.admin().await.sessions().await.expect("a listing");
        let session = sessions.into_iter().find(|one| one.session_id == kept.id).expect("it is ready");
        assert_eq!(session.state, "ready");
        session.readers.len()
    };
    eventually("the last reader to have left", async || (readers().await == 0).then_some(())).await;
    let mut back = kept.reader("back").await;
    // This one is left later and for good: when its grace is over, that of the other would be, too.
    drop(other);
    is_over(&gw, &left).await;
    ended(&gw, "detach", 1).await;
    assert_eq!(readers().await, 1);
    let before = back.position().after;
    back.to(before + 50).await;
    let head = kept.silence().await;
    back.to(head).await;
    drop(back);
    is_over(&gw, &kept).await;
    ended(&gw, "detach", 2).await;
}

// shows: S-12, W-06
#[tokio::test]
async fn the_grace_of_a_session_that_was_left_runs_on_under_the_gateways_after() {
    let with_grace = |launch, seconds| reattach(launch).flag("--detach-grace-seconds", seconds);
    let gw = with_grace(Launch::new(), "600").start().await;
    let [left, torn, late, unread] =
        [gw.open("left").await, gw.open("torn").await, gw.open("late").await, gw.open("unread").await];
    drop(left.reader("one").await);
    let reader = torn.reader("one").await;
    let db = database(gw.folder().path());
    let read = || -> i64 {
        db.query_row("SELECT count(*) FROM workers WHERE attended = 1", [], |row| row.get(0)).expect("a number")
    };
    eventually("two to be known as read", async || (read() == 2).then_some(())).await;
    // One gateway dies, the next gives way, and a reader comes and goes in between.
    let gw = with_grace(Launch::again(killed(gw).await), "600").start().await;
    drop(reader);
    drop(again(&gw, &late).await.reader("one").await);
    eventually("three to be known as read", async || (read() == 3).then_some(())).await;
    drop(db);
    let gw = with_grace(Launch::again(gw.folder()), "3").follow().serves(gw).await;
    for s in [&left, &torn, &late] {
        eventually("the session to be gone", async || (!is_listed(&gw, s).await).then_some(())).await;
        eventually("its worker to have ended", async || (!is_alive(s.pid)).then_some(())).await;
    }
    ended(&gw, "detach", 3).await;
    assert!(is_listed(&gw, &unread).await, "one that nobody read has its lease");
    again(&gw, &unread).await.close().await;
}
