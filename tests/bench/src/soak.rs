//! Everything at once: a full event load to readers that are fast, filtered, slow; commands that each ask the access
//! policy; and swaps, good and bad ones mixed. Ends with one line of JSON. Invariant: the exit code is 1 when a promise
//! broke, whatever the figures are.

mod callers;
mod readers;
mod swapper;

use crate::{
    event::ITEMS,
    gateway::{Gateway, samples},
    process,
    rows::round,
    stats::{percentile, slope},
};
use callers::Calls;
use readers::{How, Seen};
use serde_json::json;
use std::{
    collections::HashMap,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use swapper::Swaps;
use tidegate_client::wire::CreateKeyRequest;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Swaps to try, good and bad
    #[arg(long, default_value_t = 1_000)]
    swaps: u32,
    /// How long it takes at least
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Events per second of the simulator
    #[arg(long, default_value_t = 100_000)]
    rate: u32,
    /// Callers that send one command after the other
    #[arg(long, default_value_t = 4)]
    callers: usize,
    /// Only the line of JSON on the standard output
    #[arg(long)]
    json: bool,
}

/// The two halves of the items: each set of policies denies one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Area {
    One,
    Two,
}

/// Generations are replaced, so at most these live (semantics.md, Decisions and swaps).
const GENERATIONS_MAX: usize = 3;
/// A leak shows at once at eight swaps a second; below this is what allocators do. Guessed.
const RSS_SLOPE_MAX: f64 = 4_096.0;
/// Shorter runs have not come to rest, so their slope is told and not judged.
const RSS_JUDGED_SECONDS: u64 = 60;
/// Share of the run that counts as warming up for memory.
const WARM_UP: f64 = 0.3;
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// For readers to come to the end of the events.
const DRAIN: Duration = Duration::from_secs(60);

/// What was seen of the gateway from outside while it ran.
#[derive(Debug, Default)]
struct Watched {
    rss: Vec<(f64, f64)>,
    live_generations: usize,
    /// Means of the decisions since the last swap, at each look.
    decision_ns: Vec<u64>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let backend = format!("rate={},write_ms=5", args.rate);
    let mut gateway = Gateway::start(None, &backend, &["--max-event-subscribers-per-session", "64"]).await?;
    let (client, admin) = (gateway.client().await?, gateway.admin().await?);
    let swaps = Swaps::begin(&gateway).await?;
    let session = gateway.open(&client).await?;
    let tags: Vec<String> = (0..ITEMS).map(|n| format!("{}.Pump{n}.Sine", Area::of(n).name())).collect();
    let setpoints: Vec<String> = (0..2).map(|n| format!("{}.Setpoint.Speed", Area::of(n).name())).collect();
    let mut areas = HashMap::new();
    let mut handles = Vec::new();
    for (n, advised) in
        client.subscribe(&session.id, session.server, &[setpoints, tags].concat()).await?.into_iter().enumerate()
    {
        let area = Area::of(n);
        match advised.item {
            Ok((handle, key)) => {
                areas.insert(key, area);
                handles.push((area, handle));
            }
            // The set that serves denies this half, so another registration has to bring it.
            Err((_, message)) => anyhow::bail!("{} was not advised: {message}", advised.tag),
        }
    }
    let areas = Arc::new(areas);
    let narrow = CreateKeyRequest {
        name: "narrow".into(),
        scopes: vec!["sessions:all".into()],
        read: vec!["Area1.*".into()],
        write: Vec::new(),
    };
    let narrow = admin.create_key(narrow).await?.secret;
    let key = std::fs::read_to_string(gateway.key_file())?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut reading = Vec::new();
    for (name, key, how) in [
        ("fast-1", key.trim(), How::Fast),
        ("fast-2", key.trim(), How::Fast),
        ("narrow", narrow.as_str(), How::Fast),
        ("slow", key.trim(), How::Slow),
    ] {
        let reader = readers::Reader::open(&gateway.address, key, &session.id, name, how).await?;
        reading.push(tokio::spawn(reader.run(areas.clone(), stop.clone())));
    }
    let calling: Vec<_> = (0..args.callers)
        .map(|n| tokio::spawn(callers::run(client.clone(), session.clone(), handles[n % 2], stop.clone())))
        .collect();
    let watching = tokio::spawn(watch(gateway.pid(), admin.clone(), stop.clone()));
    let started = Instant::now();
    let length = Duration::from_secs(args.seconds);
    let swaps = swaps.run(&gateway, &admin, args.swaps, length).await?;
    // Whatever is left of the time, without swaps.
    while started.elapsed() < length {
        gateway.check()?;
        tokio::time::sleep(SAMPLE_EVERY).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut calls = Calls::default();
    for caller in calling {
        calls.add(caller.await??);
    }
    let mut watched = watching.await??;
    let decision_metrics = gateway.metrics().await?;
    client.unregister(&session.id, session.server).await?;
    let head = client.state(&session.id).await?.head;
    let mut seen = Vec::new();
    for reader in reading {
        let reader = reader.await??;
        seen.push(tokio::time::timeout(DRAIN, reader.finish(head)).await??);
    }
    let refused: f64 = samples(&decision_metrics, "tidegate_swaps_total")
        .filter(|(labels, _)| labels.contains("refused"))
        .map(|(_, value)| value)
        .sum();
    let told = Told::of(&swaps, &seen, &calls);
    for line in &told.lines {
        eprintln!("{line}");
    }
    let unaccounted: u64 = seen.iter().map(Seen::unaccounted).sum();
    let events: u64 = seen.iter().map(|seen| seen.counts.produced).sum();
    let mut across = calls.across(&swaps);
    let slope = slope(&watched.after_warm_up());
    let broken = calls.failed > 0
        || told.mixed + told.denied_after_flip + unaccounted > 0
        || watched.live_generations > GENERATIONS_MAX
        || (args.seconds >= RSS_JUDGED_SECONDS && slope > RSS_SLOPE_MAX)
        || refused < f64::from(swaps.bad);
    if !args.json {
        eprintln!("load averages {} (other work on this machine counts)", process::load());
        for seen in &seen {
            eprintln!("{}: {}; {} times resumed", seen.name, seen.counts, seen.resumed);
        }
        let errors = gateway.log().lines().filter(|line| line.contains("ERROR")).count();
        eprintln!(
            "gateway: {errors} errors logged; memory {:.0} KiB at the end",
            watched.rss.last().map_or(0.0, |r| r.1)
        );
    }
    println!(
        "{}",
        json!({
            "decisions": calls.answered(),
            "events": events,
            "swaps": swaps.good.len(),
            "refused_swaps": refused as u64,
            "failed": calls.failed,
            "mixed": told.mixed,
            "unaccounted": unaccounted,
            "denied_after_flip": told.denied_after_flip,
            "live_generations": watched.live_generations,
            "rss_slope_kib_per_min": round(slope),
            "decision_ns_p50": percentile(&mut watched.decision_ns, 50.0),
            "decision_ns_p99": percentile(&mut watched.decision_ns, 99.0),
            "calls_across_swap_us_p99": percentile(&mut across, 99.0),
        })
    );
    Ok(if broken { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What broke, and a line for each.
#[derive(Debug, Default)]
struct Told {
    mixed: u64,
    denied_after_flip: u64,
    lines: Vec<String>,
}

// === impl Told ===

impl Told {
    /// Holds what readers and callers saw against what each generation denies.
    fn of(swaps: &Swaps, seen: &[Seen], calls: &Calls) -> Self {
        let mut told = Self::default();
        for seen in seen {
            for (generation, of) in &seen.generations {
                // Before the first set that denies a half, both are there.
                if of.mixed > 0 && swaps.denies.contains_key(generation) {
                    told.mixed += of.mixed;
                    told.lines.push(format!("{}: generation {generation} let both areas through", seen.name));
                }
                let denied = swaps.denies.get(generation).map_or(0, |area| of.events[*area as usize]);
                if denied > 0 {
                    told.denied_after_flip += denied;
                    told.lines.push(format!("{}: {denied} events that generation {generation} denies", seen.name));
                }
            }
            // Nothing that an older generation let through lies behind the fence.
            for swap in &swaps.good {
                let Some((_, fence)) = swap.fences.iter().find(|(reader, _)| *reader == seen.name) else { continue };
                let before = seen.generations.iter().filter(|(generation, _)| **generation < swap.generation);
                let last = before.map(|(_, of)| of.last).max().unwrap_or_default();
                if last > *fence {
                    told.denied_after_flip += last - fence;
                    told.lines.push(format!(
                        "{}: {last} was let through by a generation before {}, behind the fence {fence}",
                        seen.name, swap.generation
                    ));
                }
            }
        }
        for (generation, area) in &calls.denials {
            if swaps.denies.get(generation).is_some_and(|denied| denied != area) {
                told.mixed += 1;
                told.lines
                    .push(format!("a command to {area:?} was denied by generation {generation}, which allows it"));
            }
        }
        told
    }
}

// === impl Area ===

impl Area {
    fn of(n: usize) -> Self {
        if n.is_multiple_of(2) { Self::One } else { Self::Two }
    }

    fn other(self) -> Self {
        if self == Self::One { Self::Two } else { Self::One }
    }

    fn name(self) -> &'static str {
        match self {
            Self::One => "Area1",
            Self::Two => "Area2",
        }
    }
}

// === impl Watched ===

impl Watched {
    /// Minutes and KiB.
    fn after_warm_up(&self) -> Vec<(f64, f64)> {
        let end = self.rss.last().map_or(0.0, |(at, _)| *at);
        self.rss.iter().filter(|(at, _)| *at >= end * WARM_UP).copied().collect()
    }
}

async fn watch(pid: u32, admin: tidegate_client::Admin, stop: Arc<AtomicBool>) -> anyhow::Result<Watched> {
    let mut watched = Watched::default();
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(SAMPLE_EVERY).await;
        let at = started.elapsed().as_secs_f64() / 60.0;
        watched.rss.push((at, process::rss_kib(pid)? as f64));
        let listing = admin.policies().await?;
        watched.live_generations = watched.live_generations.max(listing.live_generations as usize);
        if let Some(access) = listing.policies.first().filter(|access| access.calls > 0) {
            watched.decision_ns.push(access.time_us * 1_000 / access.calls);
        }
    }
    Ok(watched)
}
