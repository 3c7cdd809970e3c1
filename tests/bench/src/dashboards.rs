//! What open pages of the dashboard cost the gateway while events come: its processor time without any, with many, and
//! without again, in one run; and what the first page weighs. Knows the pages as browsers ask for them, not what is in them. Invariant: every page that
//! counts was told something in the time that is measured.

use crate::{
    gateway::Gateway,
    process,
    readers::{self, Args as ReaderArgs, Response},
    rows::{Ratio, Rows},
};
use anyhow::{Context as _, ensure};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tidegate_client::wire::PutPersonRequest;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tonic::Streaming;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows as JSON, one for each line, into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Open pages; half of them the overview, half a session's
    #[arg(long, default_value_t = 50)]
    pages: usize,
    /// Events a second, all sessions together
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    #[arg(long, default_value_t = 10)]
    sessions: usize,
    /// How long each of the three stretches is
    #[arg(long, default_value_t = 20)]
    seconds: u64,
}

/// Goal (issue 8): of the processor time that the server has, all cores together.
const SHARE_PERCENT: f64 = 5.0;
/// Goal (issue 8), here without a browser's share: `cargo xtask browser` measures it in one.
const FIRST_LOAD_MS: f64 = 1_000.0;
/// Loads, of which the quickest counts: what else the machine does is no matter of the page's.
const LOADS: usize = 5;
const SETTLE: Duration = Duration::from_secs(3);
const NAME: &str = "bench";
/// Live pages of each of them.
const PAGES_OF_ONE: usize = 10;
const PASSWORD: &str = "a password of the bench";

/// One stretch: percent of one core, and events a second.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    core_percent: f64,
    per_second: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut rows = Rows::new("dashboards", args.json.as_deref())?;
    let sessions = args.sessions.max(1);
    let each = (args.rate as usize / sessions).max(1);
    let most = (sessions + 1).to_string();
    let gateway = Gateway::start(None, &format!("rate={each}"), &["--max-sessions", &most]).await?;
    let client = gateway.client().await?;
    let mut open = Vec::new();
    for _ in 0..sessions {
        let session = gateway.open(&client).await?;
        session.advise(&client).await?;
        open.push(session);
    }
    // Somebody reads, as in a plant.
    let mut reading = JoinSet::new();
    for session in &open {
        let args = ReaderArgs::of(&gateway.address, &session.id, gateway.key_file());
        let stream = readers::subscribe(readers::channel(&args).await?, &args).await?;
        reading.spawn(drain(stream));
    }
    // A person has at most 16 live pages.
    let mut cookies = Vec::new();
    for nth in 0..args.pages.div_ceil(PAGES_OF_ONE).max(1) {
        cookies.push(signed_in(&gateway, &format!("{NAME}-{nth}")).await?);
    }

    let (load, took) = first_load(&gateway, &cookies[0]).await?;
    rows.add("first page with sheet and script", load as f64 / 1024.0, None, "KiB")?;
    let goal = Some(("goal", FIRST_LOAD_MS, Ratio::Cheaper));
    rows.add("until all of it is there", took.as_secs_f64() * 1_000.0, goal, "ms")?;
    let before = stretch(&gateway, args.seconds).await?;
    let heard = Arc::new(AtomicU64::new(0));
    let mut pages = JoinSet::new();
    for nth in 0..args.pages {
        let session = if nth % 2 == 0 { "" } else { open[nth % sessions].id.as_str() };
        let cookie = cookies[nth / PAGES_OF_ONE].clone();
        pages.spawn(page(gateway.http().to_owned(), cookie, session.to_owned(), heard.clone()));
    }
    tokio::time::sleep(SETTLE).await;
    heard.store(0, Ordering::Relaxed);
    let with = stretch(&gateway, args.seconds).await?;
    let bytes = heard.load(Ordering::Relaxed);
    ensure!(pages.try_join_next().is_none(), "a page ended while it was measured");
    ensure!(bytes > 0 || args.pages == 0, "no page was told anything");
    pages.shutdown().await;
    let after = stretch(&gateway, args.seconds).await?;
    ensure!(reading.try_join_next().is_none(), "a reader ended while it was measured");

    let without = f64::midpoint(before.core_percent, after.core_percent);
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    let cost = (with.core_percent - without).max(0.0);
    rows.add(
        "events a second, without and with",
        before.per_second,
        Some(("with", with.per_second, Ratio::Multiple)),
        "",
    )?;
    rows.add(
        "without pages, before and after",
        before.core_percent,
        Some(("after", after.core_percent, Ratio::Multiple)),
        "% of a core",
    )?;
    rows.add(
        &format!("with {} pages", args.pages),
        with.core_percent,
        Some(("without", without, Ratio::Multiple)),
        "% of a core",
    )?;
    rows.add("cost of the pages", cost, None, "% of a core")?;
    rows.add("of all cores of this machine", cost / cores, Some(("goal", SHARE_PERCENT, Ratio::Cheaper)), "%")?;
    rows.add("of what the gateway uses", 100.0 * cost / with.core_percent.max(0.01), None, "%")?;
    rows.add(
        "sent to each page",
        bytes as f64 / 1024.0 / args.pages.max(1) as f64 / args.seconds as f64,
        None,
        "KiB/s",
    )?;
    Ok(())
}

async fn stretch(gateway: &Gateway, seconds: u64) -> anyhow::Result<Stretch> {
    tokio::time::sleep(SETTLE).await;
    let events = async || gateway.metric("tidegate_events_appended_total").await;
    let (began, cpu, first) = (Instant::now(), process::cpu_time(gateway.pid())?, events().await?);
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let (spent, last) = (process::cpu_time(gateway.pid())? - cpu, events().await?);
    let took = began.elapsed().as_secs_f64();
    Ok(Stretch { core_percent: 100.0 * spent.as_secs_f64() / took, per_second: (last - first) / took })
}

async fn drain(mut stream: Streaming<Response>) -> anyhow::Result<()> {
    while stream.message().await?.is_some() {}
    Ok(())
}

/// The cookie of an administrator.
async fn signed_in(gateway: &Gateway, name: &str) -> anyhow::Result<String> {
    let person =
        PutPersonRequest { name: name.into(), role: "Admin".into(), groups: Vec::new(), password: PASSWORD.into() };
    gateway.people().await?.put(person).await?;
    let form = format!("name={name}&password={}", PASSWORD.replace(' ', "+"));
    let kind = "Content-Type: application/x-www-form-urlencoded";
    let more = format!("{kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{form}", form.len());
    let mut stream = ask(gateway.http(), "POST /sign-in", &more).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let cookie = answer.lines().find_map(|line| line.strip_prefix("set-cookie: ")?.split(';').next());
    cookie.map(str::to_owned).with_context(|| format!("nobody is signed in: {answer}"))
}

/// Bytes on the wire, headers included, and time of the overview with what it names, nothing cached, one after another.
async fn first_load(gateway: &Gateway, cookie: &str) -> anyhow::Result<(usize, Duration)> {
    let mut quickest = Duration::MAX;
    let mut bytes = 0;
    for _ in 0..LOADS {
        let began = Instant::now();
        bytes = 0;
        for path in ["/", "/assets/style.css", "/assets/live.js"] {
            let more = format!("Cookie: {cookie}\r\nConnection: close\r\n\r\n");
            let mut stream = ask(gateway.http(), &format!("GET {path}"), &more).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            ensure!(answer.starts_with(b"HTTP/1.1 200 "), "{path} is not there");
            bytes += answer.len();
        }
        quickest = quickest.min(began.elapsed());
    }
    Ok((bytes, quickest))
}

/// What an open page asks for, for ever.
async fn page(http: String, cookie: String, session: String, heard: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut stream = ask(&http, "GET /live/token", &format!("Cookie: {cookie}\r\nConnection: close\r\n\r\n")).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (_, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let token: serde_json::Value = serde_json::from_str(body)?;
    let token = token["token"].as_str().context("no token")?;
    let mut stream = ask(&http, &format!("GET /live?token={token}&session={session}"), "\r\n").await?;
    let mut piece = vec![0; 64 << 10];
    loop {
        let read = stream.read(&mut piece).await?;
        ensure!(read > 0, "the page's stream ended");
        heard.fetch_add(read as u64, Ordering::Relaxed);
    }
}

async fn ask(http: &str, line: &str, more: &str) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(http).await?;
    stream.write_all(format!("{line} HTTP/1.1\r\nHost: {http}\r\n{more}").as_bytes()).await?;
    Ok(stream)
}
