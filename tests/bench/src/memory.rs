//! What a session costs the gateway at rest: resident memory of its process with idle sessions, and with as many
//! sessions and readers as a large site has. Workers are processes of their own and do not count. Invariant: every
//! reader that counts has been told where it begins, so it is attached.

use crate::{
    gateway::Gateway,
    process,
    readers::{self, Response},
    rows::{Ratio, Rows},
};
use anyhow::{Context as _, ensure};
use std::{path::PathBuf, time::Duration};
use tonic::Streaming;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows as JSON, one for each line, into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Idle sessions of the first row
    #[arg(long, default_value_t = 100)]
    idle: usize,
    /// Sessions of the second row
    #[arg(long, default_value_t = 1_000)]
    sessions: usize,
    /// Readers of each of them
    #[arg(long, default_value_t = 10)]
    readers: usize,
}

/// Goals (issue 4): KiB for each idle session, and for everything.
const IDLE_KIB: f64 = 256.0;
const ALL_KIB: f64 = 200.0 * 1024.0;
/// Readers on one connection; the gateway allows 256.
const STREAMS: usize = 200;
/// Until what a start left behind is given back.
const SETTLE: Duration = Duration::from_secs(3);

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut rows = Rows::new("memory", args.json.as_deref())?;
    let sessions = args.sessions.max(args.idle).max(1).to_string();
    let readers = args.readers.max(1).to_string();
    let flags = ["--max-sessions", &sessions, "--max-event-subscribers-per-session", &readers];
    let gateway = Gateway::start(None, "rate=0", &flags).await?;
    let client = gateway.client().await?;
    // Heaps and pools that the first session makes stay for all.
    let mut open = vec![gateway.open(&client).await?.id];
    tokio::time::sleep(SETTLE).await;
    let bare = process::rss_kib(gateway.pid())?;
    while open.len() <= args.idle {
        open.push(gateway.open(&client).await?.id);
    }
    tokio::time::sleep(SETTLE).await;
    let used = process::rss_kib(gateway.pid())?.saturating_sub(bare);
    let goal = |kib| Some(("goal", kib, Ratio::Cheaper));
    rows.add("an idle session", used as f64 / args.idle as f64, goal(IDLE_KIB), "KiB")?;

    while open.len() < args.sessions {
        open.push(gateway.open(&client).await?.id);
    }
    let mut streams: Vec<Streaming<Response>> = Vec::new();
    let mut channel = None;
    for nth in 0..args.sessions * args.readers {
        let session = &open[nth / args.readers];
        let args = readers::Args::of(&gateway.address, session, gateway.key_file());
        if nth % STREAMS == 0 {
            channel = Some(readers::channel(&args).await?);
        }
        let mut stream = readers::subscribe(channel.clone().context("no connection")?, &args).await?;
        let first = stream.message().await?.context("a stream that ends at once")?;
        ensure!(first.opened.is_some(), "a stream that does not say where it begins");
        streams.push(stream);
    }
    tokio::time::sleep(SETTLE).await;
    let all = process::rss_kib(gateway.pid())?;
    let name = format!("{} sessions, {} readers each", args.sessions, args.readers);
    rows.add(&name, all as f64, goal(ALL_KIB), "KiB")?;
    rows.add("the gateway with one session", bare as f64, None, "KiB")?;
    Ok(())
}
