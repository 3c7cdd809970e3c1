//! What a swap costs those who are there: calls that are under way when the pointer moves, and the time until every
//! open stream is judged by the new generation, on 10,000 pairs of reader and item.

use crate::{
    gateway::{Gateway, place},
    policy::{COMPONENT, Host, asker},
    process::{self, SERVERS},
    rows::{Ratio, Rows},
    stats::percentile,
};
use anyhow::ensure;
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tidegate_client::{Admin, Connect, Start, wire::CreateKeyRequest};
use tidegate_policy::Action;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows as JSON, one for each line, into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Swaps under calling threads
    #[arg(long, default_value_t = 200)]
    swaps: usize,
    /// Swaps under open streams
    #[arg(long, default_value_t = 50)]
    flips: usize,
    /// Readers, each with a key of its own, and items: their product is the number of pairs
    #[arg(long, default_value_t = 100)]
    readers: usize,
    #[arg(long, default_value_t = 100)]
    items: usize,
}

/// A swap must be through all of it in this time. Guessed: a thousand times the floor.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut rows = Rows::new("swap", args.json.as_deref())?;
    calls(&mut rows, args.swaps).await?;
    enforced(&mut rows, &args).await
}

/// Two callers that never pause, and swaps of settings under them.
async fn calls(rows: &mut Rows, swaps: usize) -> anyhow::Result<()> {
    let host = Host::start(None).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (host, stop) = (host.host.clone(), stop.clone());
            std::thread::spawn(move || -> anyhow::Result<(Vec<u64>, Vec<u64>)> {
                let runtime = tokio::runtime::Builder::new_current_thread().build()?;
                runtime.block_on(async {
                    let (who, place) = asker();
                    let (mut all, mut across) = (Vec::new(), Vec::new());
                    let mut generation = host.generation();
                    while !stop.load(Ordering::Relaxed) {
                        let what = Action::Command { method: "write".into(), tag: "Area1.Pump7.Flow".into() };
                        let since = Instant::now();
                        let decision = host.access(&who, &place, what).await;
                        let took = since.elapsed().as_nanos() as u64;
                        ensure!(decision.cause.is_none() && decision.value.is_allow(), "a call failed: {decision:?}");
                        // The first answer of a new generation: this call met the swap.
                        if decision.generation != generation {
                            generation = decision.generation;
                            across.push(took);
                        }
                        all.push(took);
                    }
                    Ok((all, across))
                })
            })
        })
        .collect();
    for n in 0..swaps {
        host.swap(COMPONENT, &format!("deny = [\"Nobody.{n}\"]\n")).await?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (mut all, mut across) = (Vec::new(), Vec::new());
    for caller in callers {
        let (some, met) = caller.join().map_err(|_| anyhow::anyhow!("a caller panicked"))??;
        all.extend(some);
        across.extend(met);
    }
    let met = across.len();
    for (name, percent) in [("p50", 50.0), ("p99", 99.0)] {
        let (ours, every) = (percentile(&mut across, percent) as f64 / 1e3, percentile(&mut all, percent) as f64 / 1e3);
        let case = format!("{met} calls that met a swap {name}");
        rows.add(&case, ours, Some(("all calls of the run", every, Ratio::Multiple)), "us")?;
    }
    Ok(())
}

/// Streams with a key each, so that nothing judged for one serves another.
async fn enforced(rows: &mut Rows, args: &Args) -> anyhow::Result<()> {
    let cpu = process::can_pin().then_some(SERVERS);
    let gateway = Gateway::start(cpu, "rate=1000", &["--max-event-subscribers-per-session", "10000"]).await?;
    let (client, admin) = (gateway.client().await?, gateway.admin().await?);
    place(&gateway.plugins(), "access.toml", settings(0).as_bytes())?;
    place(&gateway.plugins(), "access.wasm", COMPONENT)?;
    flipped(&admin, 1).await?;
    let session = gateway.open(&client).await?;
    let tags: Vec<String> = (0..args.items).map(|n| format!("Area{}.Pump{n}.Sine", 1 + n % 2)).collect();
    client.subscribe(&session.id, session.server, &tags).await?;
    let mut reading = Vec::new();
    for n in 0..args.readers {
        let request =
            CreateKeyRequest { name: format!("r{n}"), scopes: vec!["sessions:all".into()], ..Default::default() };
        let key = admin.create_key(request).await?.secret;
        let reader = Connect::to(&gateway.address).key(key).gateway().await?;
        let mut stream = reader.stream(&session.id, Start::Live, Default::default()).await?;
        reading.push(tokio::spawn(async move {
            while stream.next().await?.is_some() {}
            Ok::<_, tidegate_client::ClientError>(())
        }));
    }
    let mut times = Vec::new();
    for n in 1..=args.flips {
        let before = admin.policies().await?.generation;
        place(&gateway.plugins(), "access.toml", settings(n).as_bytes())?;
        times.push(flipped(&admin, before).await?);
    }
    for reader in &reading {
        ensure!(!reader.is_finished(), "a stream ended: {}", gateway.log());
    }
    let pairs = args.readers * args.items;
    for (name, percent) in [("p50", 50.0), ("p99", 99.0)] {
        let ms = percentile(&mut times, percent) as f64 / 1e3;
        rows.add(&format!("flip to enforced, {pairs} pairs, {name} of {}", args.flips), ms, None, "ms")?;
    }
    Ok(())
}

/// Denies the one area, then the other.
fn settings(n: usize) -> String {
    format!("deny = [\"Area{}.*\", \"Nobody.{n}\"]\n", 1 + n % 2)
}

/// Waits for the swap behind `before` and until it is enforced; microseconds from its flip.
async fn flipped(admin: &Admin, before: u64) -> anyhow::Result<u64> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listing = admin.policies().await?;
        let newest = listing.swaps.iter().find(|swap| swap.generation > before && swap.outcome == "swapped");
        if let Some(swap) = newest.filter(|swap| swap.enforced_us > 0) {
            return Ok(swap.enforced_us);
        }
        ensure!(Instant::now() < deadline, "no swap in {PATIENCE:?}: {:?}", listing.swaps.first());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
