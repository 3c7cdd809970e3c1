//! One gateway follows another while everybody works on: sockets, folder and workers change hands, and when that comes to
//! nothing the one before goes on. Whoever dies, hangs or is refused in the middle of it, nothing is lost and nothing twice.

use crate::{
    harness::{Follower, Gateway, Launch, Session, eventually, is_alive, place},
    restart::{TAGS, again, killed, reattach, signal},
    words::{Talk, schema},
};
use rustix::process::Signal;
use serde_json::json;
use std::{
    fs,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tidegate_client::{
    AutoReader, ClientError, Connect, Counts, ReaderOptions, Start,
    wire::{Event, Value, event::Body, value::Kind},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

/// New connections all the time, on both addresses.
#[derive(Default)]
struct Knocks {
    answered: AtomicU64,
    /// How long the slowest answer took.
    longest_ms: AtomicU64,
    stop: AtomicBool,
}

/// What a reader of the load saw.
struct Read {
    counts: Counts,
    reconnects: u64,
    /// Longest time between two messages.
    pause: Duration,
}

#[derive(Debug, Default)]
struct Written {
    acknowledged: u64,
    unknown: u64,
}

impl Knocks {
    async fn http(self: Arc<Self>, address: String) {
        while !self.stop.load(Ordering::SeqCst) {
            let began = Instant::now();
            let mut stream = TcpStream::connect(&address).await.expect("no connection is refused");
            let request = format!("GET /api/version HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("taken");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("answered to the end");
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
            self.answered(began);
        }
    }

    async fn grpc(self: Arc<Self>, connect: impl Fn() -> Connect, session: String) {
        while !self.stop.load(Ordering::SeqCst) {
            let began = Instant::now();
            let client = connect().gateway().await.expect("no connection is refused");
            match client.state(&session).await {
                Ok(_) => {}
                // Told, and so not cut.
                Err(error) => {
                    let told = error.reason().unwrap_or_default().to_owned();
                    assert!(["gateway.draining", "session.adopting"].contains(&told.as_str()), "{error:?}");
                    let fault = error.fault().expect("told");
                    let again = fault.message.contains("another gateway") && fault.details.contains_key("retry_ms");
                    assert!(told == "session.adopting" || again, "{error:?}");
                }
            }
            self.answered(began);
        }
    }

    fn answered(&self, began: Instant) {
        self.answered.fetch_add(1, Ordering::SeqCst);
        self.longest_ms.fetch_max(began.elapsed().as_millis() as u64, Ordering::SeqCst);
    }
}

fn is_completed(event: &Event) -> bool {
    matches!(event.body, Some(Body::WriteComplete(_)))
}

/// What the readers of one session are told and tell.
#[derive(Default)]
struct Told {
    /// Where the events end; 0: not known yet.
    end: AtomicU64,
    /// OnWriteComplete events; each reader counts them all.
    completed: [AtomicU64; 3],
}

/// Reads over all gateways until everything up to the end, when that is known, is accounted for.
fn reads(gw: &Gateway, s: &Session, n: usize, told: Arc<Told>) -> JoinHandle<Read> {
    let (address, key) = (gw.address().to_owned(), gw.first_key().to_owned());
    let options = ReaderOptions { start: Start::Oldest, reader_name: n.to_string(), ..ReaderOptions::default() };
    let dial = move || Connect::to(&address).key(&key);
    let mut reader = AutoReader::new(dial, s.id.clone(), options);
    tokio::spawn(async move {
        let (mut pause, mut last) = (Duration::ZERO, Instant::now());
        loop {
            let end = told.end.load(Ordering::SeqCst);
            if end > 0 && reader.position().is_some_and(|position| position.after >= end) {
                return Read { counts: reader.account().counts(), reconnects: reader.reconnects(), pause };
            }
            // Looks at the end again when nothing comes any more.
            let next = tokio::time::timeout(Duration::from_millis(200), reader.next()).await;
            let Ok(next) = next else { continue };
            if let tidegate_client::Message::Batch(batch) = next.expect("it goes on") {
                let completed = batch.events.iter().filter(|event| is_completed(event)).count() as u64;
                told.completed[n].fetch_add(completed, Ordering::SeqCst);
            }
            pause = pause.max(last.elapsed());
            last = Instant::now();
        }
    })
}

/// One write after the other; one whose outcome nobody knows is not repeated.
fn writes(gw: &Gateway, s: &Session, item: i32, stop: Arc<AtomicBool>) -> JoinHandle<Written> {
    let (address, key, id, server) = (gw.address().to_owned(), gw.first_key().to_owned(), s.id.clone(), s.server);
    tokio::spawn(async move {
        let mut written = Written::default();
        let mut client = None;
        while !stop.load(Ordering::SeqCst) {
            let connected = match client.take() {
                Some(connected) => connected,
                None => Connect::to(&address).key(&key).gateway().await.expect("no connection is refused"),
            };
            let value = Value { kind: Some(Kind::Double(written.acknowledged as f64)), data_type: 0 };
            match connected.write(&id, server, item, value, 0).await {
                Ok(()) => written.acknowledged += 1,
                // The worker never had it.
                Err(error) if matches!(error.reason(), Some("gateway.draining" | "session.adopting")) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
                Err(ClientError::Fault(fault)) => {
                    assert!(["", "command.outcome_unknown"].contains(&fault.reason.as_str()), "{fault}");
                    written.unknown += 1;
                    continue;
                }
                Err(error) => panic!("{error}"),
            }
            client = Some(connected);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        written
    })
}

/// Few enough that the worker's tail has all of them until the next gateway is there.
pub(crate) fn usual(launch: Launch) -> Launch {
    reattach(launch).backend("sim", "rate=100,faults=true")
}

pub(crate) async fn says(gw: &Gateway, words: &str) {
    eventually(words, async || gw.log().contains(words).then_some(())).await;
}

/// The session goes on under whoever serves now, without a gap for this reader.
pub(crate) async fn goes_on(gw: &Gateway, s: &Session, before: &crate::harness::Reader) -> crate::harness::Reader {
    let s = again(gw, s).await;
    let mut next = s.go_on("one", before).await;
    let head = s.head().await;
    next.to(head + 10).await;
    assert!(next.gaps.is_empty(), "{:?}", next.gaps);
    next
}

/// A gateway with a session and a reader.
pub(crate) async fn serving(launch: Launch) -> (Gateway, Session, crate::harness::Reader) {
    let gw = usual(launch).start().await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    s.advise(TAGS).await;
    reader.count(20).await;
    (gw, s, reader)
}

/// A follower that has the folder and waits for a worker which stands still.
async fn in_the_middle(gw: &Gateway, s: &Session, patience: &str) -> Follower {
    signal(s.pid, Signal::STOP);
    // Whoever has the lock writes down where it is before it waits for workers.
    let announced = gw.data().join("addresses.json");
    let _absent = fs::remove_file(&announced);
    let launch = usual(Launch::again(gw.folder())).flag("--worker-start-timeout-seconds", patience);
    let follower = launch.follow();
    eventually("the follower to have the folder", async || announced.exists().then_some(())).await;
    follower
}

// shows: W-06, W-08, S-14, E-13
#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_follows_another_under_load_and_nobody_is_refused() {
    let mut gw = usual(Launch::new()).start().await;
    let (one, other) = (gw.open("line-1").await, gw.open("line-2").await);
    let knocks = Arc::new(Knocks::default());
    let (told, stop) = ([Arc::<Told>::default(), Arc::default()], Arc::<AtomicBool>::default());
    let (mut readers, mut writers) = (Vec::new(), Vec::new());
    for (s, told) in [&one, &other].into_iter().zip(&told) {
        let items = s.advise(TAGS).await;
        readers.push((0..3).map(|n| reads(&gw, s, n, told.clone())).collect::<Vec<_>>());
        writers.push(writes(&gw, s, items[0].handle, stop.clone()));
    }
    let mut knocking = vec![tokio::spawn(knocks.clone().http(gw.http().to_owned()))];
    let (address, key, id) = (gw.address().to_owned(), gw.first_key().to_owned(), one.id.clone());
    let connect = move || Connect::to(&address).key(&key);
    knocking.push(tokio::spawn(knocks.clone().grpc(connect, id)));

    let mut pauses = Vec::new();
    for _ in 0..2 {
        let answered = knocks.answered.load(Ordering::SeqCst);
        let more = async || (knocks.answered.load(Ordering::SeqCst) > answered + 50).then_some(());
        eventually("connections before", more).await;
        gw = usual(Launch::again(gw.folder())).follow().serves(gw).await;
        let client = gw.client().await;
        eventually("the follower to answer", async || client.state(&one.id).await.ok()).await;
        let answered = knocks.answered.load(Ordering::SeqCst);
        let more = async || (knocks.answered.load(Ordering::SeqCst) > answered + 50).then_some(());
        eventually("connections afterwards", more).await;
        pauses.push(knocks.longest_ms.swap(0, Ordering::SeqCst));
    }
    assert!(is_alive(one.pid) && is_alive(other.pid), "the workers are the same");
    knocks.stop.store(true, Ordering::SeqCst);
    for knocking in knocking {
        knocking.await.expect("nobody was refused or cut");
    }
    stop.store(true, Ordering::SeqCst);
    for (((s, told), readers), writer) in [&one, &other].into_iter().zip(told).zip(readers).zip(writers) {
        let written = writer.await.expect("it wrote to the end");
        let (least, most) = (written.acknowledged, written.acknowledged + written.unknown);
        let completed = || told.completed.each_ref().map(|completed| completed.load(Ordering::SeqCst));
        let all = async || completed().iter().all(|completed| *completed >= least).then_some(());
        eventually("what was acknowledged to be complete", all).await;
        let head = again(&gw, s).await.silence().await;
        told.end.store(head, Ordering::SeqCst);
        for reader in readers {
            let read = reader.await.expect("it read to the end");
            assert_eq!((read.counts.delivered, read.counts.produced), (head, head), "{}", read.counts);
            assert!(read.counts.closes() && read.reconnects >= 2, "{}", read.counts);
            println!("a stream paused for {} ms at most", read.pause.as_millis());
        }
        // None twice.
        let completed = completed();
        assert!(completed.iter().all(|completed| (least..=most).contains(completed)), "{completed:?} of {written:?}");
    }
    let paused: Vec<_> =
        gw.log().split("paused_ms=").skip(1).map(|rest| rest.lines().next().unwrap_or("").to_owned()).collect();
    println!("accepting paused for {paused:?} ms; the slowest answers to new connections took {pauses:?} ms");
    assert!(gw.metrics().await.contains("tidegate_workers_adopted_total 2"));
}

// shows: W-08
#[tokio::test]
async fn a_follower_that_is_refused_or_cannot_start_disturbs_nobody() {
    let (gw, s, mut reader) = serving(Launch::new()).await;
    let lone = || Launch::again(gw.folder()).switch("--take-over");
    let refused = lone().refused().await;
    assert!(
        refused.words.contains("takeover.refused") && refused.words.contains("orphan-reattach"),
        "{}",
        refused.words
    );
    let wrong = usual(lone()).flag("--max-sessions", "0").refused().await;
    assert_eq!(wrong.status.code(), Some(1), "{}", wrong.words);
    let missing = usual(lone()).without_plugins().flag("--plugins", "/nonexistent").refused().await;
    assert!(missing.words.contains("plugins.unusable"), "{}", missing.words);
    let taken =
        usual(lone()).without_addresses().flag("--listen", gw.http()).flag("--http", "127.0.0.1:0").refused().await;
    assert!(taken.words.contains("listen.failed"), "{}", taken.words);

    // Others who call, each with something that does not fit.
    let instance = fs::read_to_string(gw.data().join("instance")).expect("an id");
    let schema = schema(gw.folder().path());
    let hello = json!({"word": "hello", "protocol": 1, "version": "9.9.9", "instance": instance.trim(),
        "schema": schema, "pipe": 1});
    for (key, value, code) in [
        ("protocol", json!(2), "takeover.refused"),
        ("instance", json!("0"), "takeover.refused"),
        ("schema", json!(schema - 1), "storage.newer"),
        ("pipe", json!(9), "takeover.refused"),
    ] {
        let mut hello = hello.clone();
        hello[key] = value;
        let mut line = Talk::to(&gw);
        line.say(&hello);
        assert_eq!(line.hear()["code"], code, "{key}");
    }
    let mut mute = Talk::to(&gw);
    mute.stream.write_all(b"nonsense\n").expect("sent");
    assert_eq!(mute.read(), None, "cut");
    let head = s.head().await;
    reader.to(head + 10).await;
    assert!(!gw.log().contains("handing over"), "nothing was let go");

    // Without a gateway to follow it starts as usual.
    let folder = killed(gw).await;
    let gw = usual(Launch::again(folder)).switch("--take-over").start().await;
    drop(goes_on(&gw, &s, &reader).await);
}

// shows: W-08, X-06
#[tokio::test]
async fn a_change_of_access_that_was_not_taken_closes_it_to_nobody_when_another_gateway_follows() {
    let (gw, s, reader) = serving(Launch::new()).await;
    place(&gw.plugins(), "access.toml", b"denny = []");
    let admin = gw.admin().await;
    let not_taken = async || {
        let listing = admin.policies().await.expect("a listing");
        listing.swaps.iter().any(|swap| swap.outcome == "refused").then_some(())
    };
    eventually("the change to be refused", not_taken).await;
    let gw = usual(Launch::again(gw.folder())).follow().serves(gw).await;
    let reader = goes_on(&gw, &s, &reader).await;
    // What serves now stands in the folder; who has none would deny everything, and does not follow.
    place(&gw.plugins(), "access.toml", b"");
    assert!(gw.run(&["policy", "reload"]).await.status.success());
    let lone = usual(Launch::again(gw.folder())).switch("--take-over").without_plugins().refused().await;
    assert!(lone.words.contains("policy.refused") && lone.words.contains("would answer access"), "{}", lone.words);
    drop(goes_on(&gw, &s, &reader).await);
}

// shows: W-05, W-08
#[tokio::test]
async fn a_follower_that_dies_hangs_or_gets_no_worker_gives_way_to_the_one_before() {
    let (mut gw, s, mut reader) = serving(Launch::new().flag("--take-over-seconds", "3")).await;
    // It dies with the folder in its hands.
    let mut follower = in_the_middle(&gw, &s, "60").await;
    follower.signal(Signal::KILL);
    follower.ended().await;
    signal(s.pid, Signal::CONT);
    says(&gw, "serving again").await;
    reader = goes_on(&gw, &s, &reader).await;
    // It hangs with the folder in its hands, and is ended.
    let mut follower = in_the_middle(&gw, &s, "60").await;
    follower.signal(Signal::STOP);
    signal(s.pid, Signal::CONT);
    assert!(!follower.ended().await.success());
    says(&gw, "hangs and is ended").await;
    reader = goes_on(&gw, &s, &reader).await;
    // It gives up by itself: the worker is not there in time, and is not ended for that.
    let mut follower = in_the_middle(&gw, &s, "1").await;
    assert_eq!(follower.ended().await.code(), Some(1));
    assert!(is_alive(s.pid), "nobody is ended who may still go on");
    signal(s.pid, Signal::CONT);
    let words = "cannot be taken over: the worker did not come back in time";
    says(&gw, words).await;
    eventually("serving again", async || (gw.log().matches("serving again").count() == 3).then_some(())).await;
    reader = goes_on(&gw, &s, &reader).await;
    // And then one that does well.
    gw = usual(Launch::again(gw.folder())).follow().serves(gw).await;
    drop(goes_on(&gw, &s, &reader).await);
    again(&gw, &s).await.close().await;
}

// shows: E-16, W-08
#[tokio::test]
async fn whoever_is_asked_to_stop_in_the_middle_of_a_hand_over_stops_in_order() {
    let (mut gw, s, mut reader) = serving(Launch::new()).await;
    // The one that follows, with the folder in its hands: it gives way, and no session ends.
    let mut follower = in_the_middle(&gw, &s, "60").await;
    follower.signal(Signal::TERM);
    let ended = follower.ended().await;
    assert!(ended.success(), "{ended}: {}", gw.log());
    signal(s.pid, Signal::CONT);
    says(&gw, "serving again").await;
    reader = goes_on(&gw, &s, &reader).await;
    // The one before, which has let everything go: it takes it back, and ends as at any other time.
    let mut follower = in_the_middle(&gw, &s, "60").await;
    gw.signal(Signal::TERM);
    let ended = follower.ended().await;
    assert_eq!(ended.code(), Some(1), "it did not take over: {}", gw.log());
    signal(s.pid, Signal::CONT);
    let ended = gw.ended().await;
    assert!(ended.success(), "{ended}: {}", gw.log());
    assert!(!gw.log().contains("took over, serving"), "{}", gw.log());
    eventually("the worker to end", async || (!is_alive(s.pid)).then_some(())).await;
    for left in ["admin.sock", "workers.sock", "takeover.sock", "addresses.json"] {
        assert!(!gw.data().join(left).exists(), "{left} is left");
    }
    drop(reader);
}

// shows: W-08
#[tokio::test]
async fn a_gateway_that_stood_still_while_it_handed_over_finds_that_the_other_one_serves() {
    let (gw, s, reader) = serving(Launch::new().flag("--take-over-seconds", "60")).await;
    let follower = in_the_middle(&gw, &s, "60").await;
    // It does not hear that the other one is ready, and its `Go` comes to nobody any more.
    gw.signal(Signal::STOP);
    signal(s.pid, Signal::CONT);
    says(&gw, "going on without its word").await;
    says(&gw, "took over, serving").await;
    gw.signal(Signal::CONT);
    let gw = follower.serves(gw).await;
    assert!(gw.log().contains("handed over"), "{}", gw.log());
    // It took longer than the worker's tail reaches, perhaps: then there is a gap, and it is exact.
    let s = again(&gw, &s).await;
    let mut next = s.go_on("one", &reader).await;
    let head = s.silence().await;
    next.to(head).await;
    drop(next);
    s.close().await;
}

// shows: W-05, W-08
#[tokio::test]
async fn whichever_of_the_two_is_killed_in_the_middle_nothing_is_lost() {
    let (mut gw, s, mut reader) = serving(Launch::new()).await;
    // The one before dies while it lets go: a command is in flight, so that it waits for the answer.
    s.fault("stall 1500").await.expect("it hangs from now on");
    let (client, id) = (s.client.clone(), s.id.clone());
    let caller = tokio::spawn(async move { client.unregister(&id, 9_999).await });
    let follower = usual(Launch::again(gw.folder())).follow();
    says(&gw, "handing over").await;
    gw.signal(Signal::KILL);
    gw.ended().await;
    gw = follower.inherits(gw);
    says(&gw, "took over, serving").await;
    caller.await.expect("an answer").expect_err("nobody knows");
    reader = goes_on(&gw, &s, &reader).await;
    // It dies when it has let go; the other one goes on.
    let follower = in_the_middle(&gw, &s, "60").await;
    gw.signal(Signal::KILL);
    gw.ended().await;
    gw = follower.inherits(gw);
    signal(s.pid, Signal::CONT);
    reader = goes_on(&gw, &s, &reader).await;
    // Both die: whoever is started next has everything.
    let mut follower = in_the_middle(&gw, &s, "60").await;
    gw.signal(Signal::KILL);
    follower.signal(Signal::KILL);
    gw.ended().await;
    follower.ended().await;
    signal(s.pid, Signal::CONT);
    let gw = usual(Launch::again(gw.folder())).start().await;
    drop(goes_on(&gw, &s, &reader).await);
    again(&gw, &s).await.close().await;
}

// shows: W-08
#[tokio::test]
async fn of_two_that_want_to_follow_one_wins_and_the_other_is_told() {
    let (gw, s, reader) = serving(Launch::new()).await;
    let first = in_the_middle(&gw, &s, "60").await;
    let second = usual(Launch::again(gw.folder())).switch("--take-over").refused().await;
    assert!(second.words.contains("takeover.busy"), "{}", second.words);
    assert!(second.words.contains(&format!("process {} ", first.pid().as_raw_nonzero())), "{}", second.words);
    signal(s.pid, Signal::CONT);
    let gw = first.serves(gw).await;
    drop(goes_on(&gw, &s, &reader).await);
}
