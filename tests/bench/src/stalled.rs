//! What readers that never read cost those that do: the latency of the healthy ones with and without them, in pairs that take
//! turns, and the gateway's instructions for each delivery. Knows readers and percentiles, no policy. Invariants: the healthy
//! ones miss nothing, or the job fails; an interval makes no assumption on how the pairs scatter.

use crate::{
    gateway::Gateway,
    instructions,
    process::{self, CLIENTS, Role, SERVERS},
    readers,
    rows::{Ratio, Rows},
    stats::{between, median},
};
use anyhow::{Context as _, ensure};
use std::{path::PathBuf, time::Duration};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows as JSON, one for each line, into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Pairs of runs, with and without those that never read; six and more give an interval of 95 %
    #[arg(long, default_value_t = 10)]
    pairs: usize,
    /// Measured seconds of each run
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Readers, those that never read among them
    #[arg(long, default_value_t = 100)]
    readers: usize,
    /// Percent of them that never read
    #[arg(long, default_value_t = 10)]
    never: usize,
    /// Events per second
    #[arg(long, default_value_t = 500)]
    rate: u32,
    /// Also count instructions, which takes valgrind and some minutes
    #[arg(long)]
    instructions: bool,
    /// Let the system place servers and clients instead of one core each
    #[arg(long)]
    no_pin: bool,
}

/// As in the fan-out.
const WARM_UP: Duration = Duration::from_secs(1);
/// Those that never read lag by what their windows do not hold, from the first seconds on.
const FLAGS: [&str; 2] = ["--max-event-subscribers-per-session", "10000"];

/// One run of the healthy ones.
#[derive(Clone, Copy, Debug)]
struct Run {
    p50_us: f64,
    p99_us: f64,
    us_per_delivery: f64,
}

type Value = fn(&Run) -> f64;

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let never = args.readers * args.never / 100;
    let healthy = args.readers - never;
    ensure!(never > 0 && healthy > 0, "there must be readers of both kinds");
    let pin = !args.no_pin && process::can_pin();
    let mut rows = Rows::new("readers", args.json.as_deref())?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for pair in 0..args.pairs {
        // A-B-B-A, so that what drifts meets both alike.
        for stalled in [pair % 2 == 0, pair % 2 != 0] {
            let run = measure(&args, healthy, if stalled { never } else { 0 }, pin).await?;
            (if stalled { &mut with } else { &mut without }).push(run);
        }
    }
    let case = format!("{healthy} healthy, {never} never read, {}/s", args.rate);
    let values: [(&str, &str, Value); 3] = [
        ("p50", "us", |run| run.p50_us),
        ("p99", "us", |run| run.p99_us),
        ("processor", "us per healthy delivery", |run| run.us_per_delivery),
    ];
    for (name, unit, value) in values {
        let ours: Vec<f64> = with.iter().map(value).collect();
        let alone: Vec<f64> = without.iter().map(value).collect();
        let baseline = Some(("without them", median(&alone), Ratio::Multiple));
        rows.add(&format!("{case}: {name}"), median(&ours), baseline, unit)?;
        let ratios: Vec<f64> = ours.iter().zip(&alone).map(|(ours, alone)| ours / alone).collect();
        let (low, high, confidence) = between(&ratios);
        rows.add(&format!("{name}, with / without, median of pairs"), median(&ratios), None, "times")?;
        let interval = format!("times ({:.1} % sure)", confidence * 100.0);
        rows.add(&format!("{name}, with / without, at least"), low, None, &interval)?;
        rows.add(&format!("{name}, with / without, at most"), high, None, &interval)?;
    }
    if args.instructions {
        // Fewer: valgrind is some 50 times slower than the machine.
        let alone = instructions::count(9, 0, args.seconds * 5.0, false).await?;
        let ours = instructions::count(9, 1, args.seconds * 5.0, false).await?;
        let baseline = Some(("without it", alone.gateway, Ratio::Multiple));
        rows.add("9 healthy, 1 never reads: gateway", ours.gateway, baseline, "instructions per healthy delivery")?;
    }
    Ok(())
}

async fn measure(args: &Args, healthy: usize, never: usize, pin: bool) -> anyhow::Result<Run> {
    let cpu = |cpu| pin.then_some(cpu);
    let settings = format!("rate={},grain_us=0", args.rate);
    let mut gateway = Gateway::start(cpu(SERVERS), &settings, &FLAGS).await?;
    let client = gateway.client().await?;
    let session = gateway.open(&client).await?;
    let wanted = readers::Args::of(&gateway.address, &session.id, gateway.key_file());
    let mut clients = Role::start(cpu(CLIENTS), &wanted.clone().count(healthy).linger(0, true).words())?;
    clients.answer().context("the readers do not get ready")?;
    let mut stalled = None;
    if never > 0 {
        let role = stalled.insert(Role::start(cpu(CLIENTS), &wanted.count(never).never().words())?);
        role.answer().context("those that never read do not get ready")?;
    }
    session.advise(&client).await?;
    tokio::time::sleep(WARM_UP).await;
    let spent = |gateway: &Gateway| {
        Ok::<_, anyhow::Error>(process::cpu_time(gateway.pid())? + process::cpu_time(session.worker)?)
    };
    clients.ask("look")?;
    let before = spent(&gateway)?;
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    let used = spent(&gateway)? - before;
    let seen = clients.ask("look")?;
    gateway.check()?;
    ensure!(
        seen["wrong"].as_u64() == Some(0) && seen["ended"].as_u64() == Some(0),
        "a healthy reader missed something: {seen}"
    );
    let delivered = seen["delivered"].as_f64().unwrap_or_default();
    ensure!(delivered > 0.0, "nothing was delivered");
    if let Some(stalled) = &mut stalled {
        let read = stalled.ask("look")?;
        ensure!(read["delivered"].as_u64() == Some(0), "one of those that never read did: {read}");
        let open = gateway.metric("tidegate_streams_open").await?;
        println!("  {open} streams are open, {} of them never read", open - healthy as f64);
    }
    let age = |name: &str| seen[name].as_f64().context("no ages");
    Ok(Run { p50_us: age("p50_us")?, p99_us: age("p99_us")?, us_per_delivery: used.as_secs_f64() * 1e6 / delivered })
}
