//! Readers that lose their connection and come back: with what they prove who they are, whose place they take, and
//! that their account closes over all their streams.

use crate::harness::{Gateway, Launch, Reader, Session, eventually, reason};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tidegate_client::{
    AutoReader, ClientError, Connect, EventStream, Gateway as Client, GrpcCode, ReaderOptions, Start, StreamOptions,
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

const TAGS: &[&str] = &["Area1.Pump1.Sine", "Area1.Pump1.Counter"];

async fn by_token(client: &Client, s: &Session, from: &Reader, token: &str) -> Result<EventStream, ClientError> {
    let options = StreamOptions {
        resume_token: Some(token.into()),
        account: from.account(),
        reader_name: "again".into(),
        ..Default::default()
    };
    client.stream(&s.id, Start::Resume(from.position()), options).await
}

// shows: S-06, S-10, S-12
#[tokio::test]
async fn a_resume_takes_the_place_of_its_own_half_open_stream_and_of_no_other() {
    let gw = Launch::new().flag("--max-event-subscribers-per-session", "2").start().await;
    let s = gw.open("line-1").await;
    let mut other = s.reader("other").await;
    // It will never be read again, as behind a connection that is half dead: its place is not free by itself.
    let narrow = gw.connect().key(gw.first_key()).stream_window(4096).gateway().await.expect("connected");
    let mut older = s.try_reader(&narrow, "older", Start::Live).await.expect("a stream");
    s.advise(TAGS).await;
    older.count(20).await;
    other.count(200).await;
    assert_eq!(reason(s.try_reader(&s.client, "third", Start::Live).await.map(drop)), "stream.limit");

    let token = older.resume_token();
    let again = by_token(&s.client, &s, &older, &token).await.expect("its own place");
    let mut again = Reader::new("again", again);
    // The policy was told how far back it begins.
    let asked = gw.run(&["policy", "decisions", "--last", "1000", "--policy", "access", "--json"]).await;
    let asked: serde_json::Value = serde_json::from_slice(&asked.stdout).expect("JSON");
    let decisions = asked["decisions"].as_array().expect("a list").iter();
    let mut behind = decisions.filter_map(|of| of["question"]["access"]["what"]["resume-from"]["behind"].as_u64());
    assert!(behind.any(|events| events > 100), "{asked}");
    let readers = gw.admin().await.sessions().await.expect("a listing").remove(0).readers;
    let mut names: Vec<&str> = readers.iter().map(|reader| reader.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["again", "other"]);
    let end = older.ended().await;
    assert_eq!((end.code, end.reason.as_str()), (GrpcCode::Aborted, "stream.taken_over"), "{end}");
    let line = "tidegate_streams_ended_total{reason=\"taken-over\"} 1\n";
    eventually(line, async || gw.metrics().await.contains(line).then_some(())).await;

    let head = s.silence().await;
    again.to(head).await;
    other.to(head).await;
    assert_eq!((again.counts().delivered, again.counts().produced), (head, head), "each once over both streams");
}

// shows: S-13, S-20
#[tokio::test]
async fn a_token_is_refused_to_whom_and_when_it_should_be() {
    let gw = Gateway::start().await;
    let (s, elsewhere) = (gw.open("line-1").await, gw.open("line-2").await);
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(10).await;
    let token = reader.resume_token();

    // A key that may read every session, with somebody's token.
    let thief = gw.client_with(&gw.key(&[], "sessions:all").await).await;
    let mut damaged = token.clone();
    damaged.replace_range(40..41, if &token[40..41] == "0" { "1" } else { "0" });
    for (client, session, token, code) in [
        (&thief, &s, &token, "stream.token_foreign"),
        (&s.client, &elsewhere, &token, "stream.token_foreign"),
        (&s.client, &s, &damaged, "stream.token_damaged"),
        (&s.client, &s, &"nonsense".to_owned(), "stream.token_damaged"),
    ] {
        assert_eq!(reason(by_token(client, session, &reader, token).await), code);
    }
    let before = reader.events.len();
    reader.count(before + 5).await;

    // A new key signs; the one before it still counts, until it is revoked.
    let rotated = gw.run(&["session", "tokens", "rotate"]).await;
    assert!(rotated.status.success(), "{rotated:?}");
    let mut second = Reader::new("second", by_token(&s.client, &s, &reader, &token).await.expect("taken"));
    assert_eq!(reader.ended().await.reason, "stream.taken_over");
    let newer = second.resume_token();
    let revoked = gw.run(&["session", "tokens", "revoke"]).await;
    assert!(revoked.status.success(), "{revoked:?}");
    for old in [&token, &newer] {
        assert_eq!(reason(by_token(&s.client, &s, &second, old).await), "stream.token_revoked");
    }
    second.count(20).await;
    let head = s.silence().await;
    second.to(head).await;
    for told in [gw.log(), gw.metrics().await] {
        assert!(!told.contains(&token) && !told.contains(&newer), "a token was told to others");
    }
}

// shows: S-06, S-08
#[tokio::test]
async fn a_reader_hears_how_far_behind_it_is_before_it_loses_anything() {
    let gw = Launch::new().backend("fast", "rate=3000").flag("--lag-events-max", "100000").start().await;
    let s = gw.open("line-1").await;
    let options = StreamOptions { status_every_ms: 100, reader_name: "slow".into(), ..Default::default() };
    let narrow = gw.connect().key(gw.first_key()).stream_window(4096).gateway().await.expect("connected");
    let stream = narrow.stream(&s.id, Start::Live, options).await.expect("a stream");
    let mut slow = Reader::new("slow", stream);
    let mut fast = s.reader("fast").await;
    s.advise(TAGS).await;
    fast.count(10_000).await;
    // It reads one message at a time, so that it stays behind.
    let told = eventually("a status that says so", async || {
        slow.batch().await;
        slow.status().filter(|status| status.lag > 100)
    })
    .await;
    assert!(told.lag_high_water >= told.lag && told.lag_bound >= 10_000, "{told:?}");
    assert_eq!((told.epoch, told.mode.as_str()), (s.epoch, "normal"));
    assert!(told.after <= slow.position().after);
    // Operators see it in the numbers over all readers.
    let behind = "tidegate_readers_lag_max ";
    eventually("a lag among the metrics", async || {
        let metrics = gw.metrics().await;
        let lag: u64 = metrics.lines().find_map(|line| line.strip_prefix(behind)?.parse().ok())?;
        (lag > 100).then_some(())
    })
    .await;
    let head = s.silence().await;
    slow.to(head).await;
    fast.to(head).await;
    assert_eq!((slow.counts().delivered, slow.gaps.len()), (head, 0));
    let wrong = StreamOptions { status_every_ms: 99, ..Default::default() };
    assert_eq!(reason(s.client.stream(&s.id, Start::Live, wrong).await), "request.invalid");
}

/// Passes bytes on until it is told to cut every connection.
struct Wire {
    address: String,
    cut: watch::Sender<u64>,
    refuses: Arc<AtomicBool>,
}

impl Wire {
    async fn to(gateway: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (cut, cuts) = watch::channel(0);
        let refuses = Arc::new(AtomicBool::new(false));
        let refusing = refuses.clone();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if refusing.load(Ordering::SeqCst) {
                    continue;
                }
                let (gateway, mut cuts) = (gateway.clone(), cuts.clone());
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(gateway).await.expect("the gateway");
                    tokio::select! {
                        _ended = copy_bidirectional(&mut near, &mut far) => {}
                        _told = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, cut, refuses }
    }
}

// shows: S-06, S-12
#[tokio::test]
async fn a_reader_whose_connection_is_torn_again_and_again_keeps_its_account() {
    let gw = Launch::new().backend("fast", "rate=2000").start().await;
    let s = gw.open("line-1").await;
    s.advise(TAGS).await;
    let wire = Wire::to(gw.address().to_owned()).await;
    let (address, key) = (wire.address.clone(), gw.first_key().to_owned());
    let options = ReaderOptions { start: Start::Oldest, reader_name: "torn".into(), ..Default::default() };
    let mut reader = AutoReader::new(move || Connect::to(address.clone()).key(key.clone()), s.id.clone(), options);
    for tear in 1..=8_u64 {
        let seen = reader.account().counts().produced;
        let more = async {
            // What was on its way when it was torn last is read first.
            while reader.account().counts().produced < seen + 300 || reader.reconnects() + 1 < tear {
                reader.next().await.expect("it goes on");
            }
        };
        timeout(crate::harness::PATIENCE, more).await.expect("more events");
        wire.refuses.store(tear % 2 == 0, Ordering::SeqCst);
        wire.cut.send_replace(tear);
        if tear % 2 == 0 {
            // Nobody answers for a while, so that it has to try more than once.
            let tries = timeout(std::time::Duration::from_millis(300), reader.next()).await;
            assert!(tries.is_err() || tries.is_ok_and(|one| one.is_ok()), "it does not give up");
            wire.refuses.store(false, Ordering::SeqCst);
        }
    }
    let head = s.silence().await;
    let rest = async {
        while reader.position().is_none_or(|position| position.after < head) || reader.reconnects() < 8 {
            // At the head nothing more comes; the last tear is noticed nevertheless.
            if let Ok(next) = timeout(std::time::Duration::from_millis(100), reader.next()).await {
                next.expect("it goes on");
            }
        }
    };
    timeout(crate::harness::PATIENCE, rest).await.expect("the head");
    let counts = reader.account().counts();
    assert!(reader.reconnects() >= 8, "{reader:?}");
    assert!(counts.closes() && counts.produced == head, "{counts}");

    // What is over is over: no further try.
    s.close().await;
    let end = timeout(crate::harness::PATIENCE, reader.next()).await.expect("an end").expect_err("the session ended");
    assert_eq!(end.reason(), Some("stream.session_ended"), "{end}");
}
