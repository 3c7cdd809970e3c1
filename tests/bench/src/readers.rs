//! The clients of the fan-out: N readers with a connection each, in a process of their own, so that what they use is
//! not counted. Each checks every sequence. Answers `look` with what has come since the last look.

use crate::{
    event::{self, Seen},
    nats, plain, redis, stats,
};
use anyhow::Context as _;
use prost::Message as _;
use serde_json::json;
use std::{
    io::BufRead as _,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tidegate_proto::v1::{StreamEventsRequest, stream_events_request as request};
use tonic::{
    Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

pub(crate) use crate::event::Response;

const STREAM_EVENTS: &str = "/tidegate.v1.Gateway/StreamEvents";
/// As the Rust client sets it; without it the default of 64 KiB.
const WIDE_WINDOW: u32 = 4 << 20;
const WIDE_FRAME: u32 = 1 << 20;

/// What is read, and how.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    kind: Kind,
    #[arg(long)]
    address: String,
    #[arg(long, default_value_t = 1)]
    readers: usize,
    #[arg(long, default_value = "")]
    session: String,
    /// Where the API key stands; a command line is readable for everybody.
    #[arg(long)]
    key_file: Option<PathBuf>,
    #[arg(long, default_value_t = 0)]
    linger_ms: u32,
    /// Look at the age of every event, which costs the readers more.
    #[arg(long)]
    ages: bool,
    /// The HTTP/2 windows that a client has by default.
    #[arg(long)]
    small_windows: bool,
    /// Open the streams and never read them.
    #[arg(long)]
    never: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    Tidegate,
    Plain,
    Nats,
    Redis,
}

/// What has come, all readers together.
#[derive(Debug, Default)]
struct Tally {
    delivered: AtomicU64,
    bytes: AtomicU64,
    messages: AtomicU64,
    /// Sequences that did not come, came twice or out of order.
    wrong: AtomicU64,
    /// Readers that ended.
    ended: AtomicU64,
    ages_us: Option<Mutex<Vec<u32>>>,
}

/// One reader's place.
#[derive(Debug)]
struct Place {
    tally: Arc<Tally>,
    next: Option<u64>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let ages_us = args.ages.then(Mutex::default);
    let tally = Arc::new(Tally { ages_us, ..Tally::default() });
    let mut unread = Vec::new();
    for _ in 0..args.readers {
        if args.never {
            unread.push(subscribe(channel(&args).await?, &args).await?);
            continue;
        }
        let place = Place { tally: tally.clone(), next: None };
        match args.kind {
            Kind::Tidegate => spawn(tally.clone(), ours(subscribe(channel(&args).await?, &args).await?, place)),
            Kind::Plain => spawn(tally.clone(), baseline(subscribe_plain(&args).await?, place)),
            Kind::Nats => {
                let mut connection = nats::Connection::open(&args.address).await?;
                connection.subscribe(SUBJECT).await?;
                spawn(tally.clone(), from_nats(connection, place));
            }
            Kind::Redis => {
                let connection = redis::Connection::subscribe(&args.address, SUBJECT).await?;
                spawn(tally.clone(), from_redis(connection, place));
            }
        }
    }
    println!("{}", json!({ "ready": true }));
    let (asks, mut asked) = tokio::sync::mpsc::channel(1);
    // A thread: reading the standard input must not hold up the readers.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if line.is_err() || asks.blocking_send(()).is_err() {
                return;
            }
        }
    });
    while asked.recv().await.is_some() {
        println!("{}", tally.look());
    }
    drop(unread);
    Ok(())
}

/// The one subject of NATS, and channel of Redis.
pub(crate) const SUBJECT: &str = "ev";

fn spawn(tally: Arc<Tally>, reading: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = reading.await {
            eprintln!("a reader ended: {error:#}");
        }
        tally.ended.fetch_add(1, Relaxed);
    });
}

pub(crate) async fn channel(args: &Args) -> anyhow::Result<Channel> {
    let mut endpoint = Endpoint::from_shared(format!("http://{}", args.address))?.tcp_nodelay(true);
    if !args.small_windows {
        endpoint = endpoint
            .initial_stream_window_size(WIDE_WINDOW)
            .initial_connection_window_size(2 * WIDE_WINDOW)
            .max_frame_size(WIDE_FRAME);
    }
    Ok(endpoint.connect().await?)
}

/// A stream of our events over a connection that others may use, too.
pub(crate) async fn subscribe(channel: Channel, args: &Args) -> anyhow::Result<Streaming<Response>> {
    let mut client = Grpc::new(channel).max_decoding_message_size(64 << 20);
    client.ready().await?;
    let mut call = tonic::Request::new(StreamEventsRequest {
        session_id: args.session.clone(),
        start: Some(request::Start::Live(request::Live {})),
        max_linger_ms: Some(args.linger_ms),
        reader_name: "bench".into(),
        status_every_ms: 0,
    });
    let key = std::fs::read_to_string(args.key_file.as_ref().context("no key")?)?;
    call.metadata_mut().insert("authorization", format!("Bearer {}", key.trim()).parse()?);
    let codec = ProstCodec::<StreamEventsRequest, Response>::default();
    Ok(client.server_streaming(call, PathAndQuery::from_static(STREAM_EVENTS), codec).await?.into_inner())
}

async fn subscribe_plain(args: &Args) -> anyhow::Result<Streaming<Seen>> {
    let mut client = Grpc::new(channel(args).await?);
    client.ready().await?;
    let codec = ProstCodec::<(), Seen>::default();
    let call = tonic::Request::new(());
    Ok(client.server_streaming(call, PathAndQuery::from_static(plain::METHOD), codec).await?.into_inner())
}

async fn ours(mut stream: Streaming<Response>, mut place: Place) -> anyhow::Result<()> {
    while let Some(response) = stream.message().await? {
        if let Some(batch) = response.batch {
            if place.next.is_some_and(|next| batch.from != next) {
                place.wrong(1);
            }
            for event in &batch.events {
                place.take(event)?;
            }
            place.message();
            if place.next.is_some_and(|next| batch.to + 1 != next) {
                place.wrong(1);
            }
        }
        if let Some(gap) = response.gap {
            place.wrong(gap.to - gap.from + 1);
            place.next = Some(gap.to + 1);
        }
        if let Some(opened) = response.opened {
            place.next = Some(opened.after + 1);
        }
    }
    Ok(())
}

async fn baseline(mut stream: Streaming<Seen>, mut place: Place) -> anyhow::Result<()> {
    while let Some(seen) = stream.message().await? {
        place.passed(seen.sequence);
        place.message();
        if let Some(ages) = &place.tally.ages_us {
            keep_age(ages, &seen);
        }
    }
    Ok(())
}

async fn from_nats(mut connection: nats::Connection, mut place: Place) -> anyhow::Result<()> {
    loop {
        let payload = connection.message().await?;
        place.take(payload)?;
        place.message();
    }
}

async fn from_redis(mut connection: redis::Connection, mut place: Place) -> anyhow::Result<()> {
    loop {
        let payload = connection.message().await?;
        place.take(payload)?;
        place.message();
    }
}

// === impl Place ===

impl Place {
    /// One encoded event.
    fn take(&mut self, event: &[u8]) -> anyhow::Result<()> {
        self.passed(event::sequence(event).context("an event without its sequence")?);
        self.tally.bytes.fetch_add(event.len() as u64, Relaxed);
        if let Some(ages) = &self.tally.ages_us {
            keep_age(ages, &Seen::decode(event)?);
        }
        Ok(())
    }

    fn passed(&mut self, sequence: u64) {
        if self.next.is_some_and(|next| sequence != next) {
            self.wrong(1);
        }
        self.next = Some(sequence + 1);
        self.tally.delivered.fetch_add(1, Relaxed);
    }

    fn message(&self) {
        self.tally.messages.fetch_add(1, Relaxed);
    }

    fn wrong(&self, count: u64) {
        self.tally.wrong.fetch_add(count, Relaxed);
    }
}

fn keep_age(ages: &Mutex<Vec<u32>>, seen: &Seen) {
    if let (Ok(mut ages), Some(age)) = (ages.lock(), seen.age_us()) {
        ages.push(age);
    }
}

// === impl Tally ===

impl Tally {
    fn look(&self) -> serde_json::Value {
        let mut ages =
            self.ages_us.as_ref().and_then(|ages| ages.lock().ok()).map(|mut ages| std::mem::take(&mut *ages));
        let age = |percent| ages.as_mut().map(|ages| stats::percentile(ages, percent));
        let [p50, p99] = [50.0, 99.0].map(age);
        json!({
            "delivered": self.delivered.swap(0, Relaxed),
            "bytes": self.bytes.swap(0, Relaxed),
            "messages": self.messages.swap(0, Relaxed),
            "wrong": self.wrong.load(Relaxed),
            "ended": self.ended.load(Relaxed),
            "p50_us": p50,
            "p99_us": p99,
        })
    }
}

// === impl Kind ===

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Plain => "plain",
            Self::Nats => "nats",
            Self::Redis => "redis",
        }
    }

    /// For a row.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Tidegate => "tidegate",
            Self::Plain => "plain tonic",
            Self::Nats => "nats-server",
            Self::Redis => "redis-server",
        }
    }
}

// === impl Args ===

impl Args {
    pub(crate) fn new(kind: Kind, address: &str) -> Self {
        let (session, address) = (String::new(), address.to_owned());
        Self {
            kind,
            address,
            readers: 1,
            session,
            key_file: None,
            linger_ms: 0,
            ages: false,
            small_windows: false,
            never: false,
        }
    }

    /// Readers of a session of a gateway.
    pub(crate) fn of(address: &str, session: &str, key_file: PathBuf) -> Self {
        Self { session: session.to_owned(), key_file: Some(key_file), ..Self::new(Kind::Tidegate, address) }
    }

    pub(crate) fn count(mut self, readers: usize) -> Self {
        self.readers = readers;
        self
    }

    pub(crate) fn linger(mut self, linger_ms: u32, ages: bool) -> Self {
        (self.linger_ms, self.ages) = (linger_ms, ages);
        self
    }

    pub(crate) fn small_windows(mut self, small: bool) -> Self {
        self.small_windows = small;
        self
    }

    /// They take what a client's windows take by default, and then nothing.
    pub(crate) fn never(mut self) -> Self {
        (self.never, self.small_windows) = (true, true);
        self
    }

    /// As the words that start it.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words: Vec<String> =
            ["read", "--kind", self.kind.name(), "--address", &self.address].map(str::to_owned).into();
        words.extend(["--readers".to_owned(), self.readers.to_string()]);
        words.extend(["--linger-ms".to_owned(), self.linger_ms.to_string()]);
        if let Some(file) = &self.key_file {
            words.extend(["--session".to_owned(), self.session.clone()]);
            words.extend(["--key-file".to_owned(), file.display().to_string()]);
        }
        if self.ages {
            words.push("--ages".to_owned());
        }
        if self.small_windows {
            words.push("--small-windows".to_owned());
        }
        if self.never {
            words.push("--never".to_owned());
        }
        words
    }
}
