//! Instructions for each delivered event, counted by callgrind: a figure that other work on the machine does not move.
//! Starts gateway and worker under valgrind, gives them groups of events, and divides. Knows valgrind's command line and
//! the summary of its files. Invariant: a count beyond the committed one by more than the tolerance fails the job.

use crate::{
    gateway::{Gateway, place},
    process::{self, Role},
    readers,
    rows::{Ratio, Rows},
};
use anyhow::{Context as _, bail, ensure};
use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows as JSON, one for each line, into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measured seconds of each of four turns; valgrind is some 50 times slower than the machine
    #[arg(long, default_value_t = 12.0)]
    seconds: f64,
    /// Take what was counted as the committed figure from now on
    #[arg(long)]
    bless: bool,
}

/// Instructions for each delivery, and what was delivered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub(crate) gateway: f64,
    pub(crate) worker: f64,
    pub(crate) per_message: f64,
}

const READERS: usize = 8;
const RATE: u32 = 10_000;
/// 200 events at a time, so that a message's own cost is a small and steady part.
const GRAIN_US: u32 = 20_000;
/// What may be above the committed figure: groups that a busy machine tears or joins make this much. (Measured.)
const TOLERANCE: f64 = 0.10;
/// The committed figures: gateway and worker, instructions for each delivery.
const COMMITTED: &str = "instructions.json";
/// What policies may cost for each event: verdicts are kept, so nothing is asked.
const POLICIES_MAX: f64 = 0.02;
/// Five components compile under valgrind.
const PATIENCE: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const WARM_UP: Duration = Duration::from_secs(5);

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut rows = Rows::new("instructions", args.json.as_deref())?;
    let mut sides = [Vec::new(), Vec::new()];
    // In turns, so that what wears off or builds up falls on both.
    for policies in [false, true, true, false] {
        sides[usize::from(policies)].push(count(READERS, 0, args.seconds, policies).await?);
    }
    let [without, with] = sides.map(|counts| Counted::mean(&counts));
    println!("{:.1} events per message", without.per_message);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(COMMITTED);
    let committed: serde_json::Value =
        std::fs::read(&file).ok().map_or(Ok(serde_json::Value::Null), |bytes| serde_json::from_slice(&bytes))?;
    let mut counted = serde_json::Map::new();
    let mut worse = Vec::new();
    for (name, ours) in [("gateway", without.gateway), ("worker", without.worker)] {
        let before = committed[name].as_f64();
        let baseline = before.map(|before| ("committed", before, Ratio::Cheaper));
        rows.add(&format!("{name}, N={READERS}, 200 at a time"), ours, baseline, "instructions per delivery")?;
        if before.is_some_and(|before| ours > before * (1.0 + TOLERANCE)) {
            worse.push(format!("{name} got dearer; if that is meant, say so with --bless"));
        }
        counted.insert(name.to_owned(), ours.into());
    }
    let case = format!("gateway, N={READERS}, 200 at a time, five policies of the folder");
    let baseline = ("embedded policies", without.gateway, Ratio::Cheaper);
    rows.add(&case, with.gateway, Some(baseline), "instructions per delivery")?;
    if with.gateway > without.gateway * (1.0 + POLICIES_MAX) {
        worse.push("policies of the folder cost more for each event than the goal allows".into());
    }
    if args.bless {
        std::fs::write(&file, format!("{:#}\n", serde_json::Value::Object(counted)))?;
        println!("wrote tests/bench/{COMMITTED}");
    } else if !worse.is_empty() {
        bail!("{}", worse.join("; "));
    }
    Ok(())
}

/// Runs a gateway under callgrind with so many readers, and so many more that never read; `policies`: with five
/// components in its folder.
pub(crate) async fn count(readers: usize, never: usize, seconds: f64, policies: bool) -> anyhow::Result<Counted> {
    let valgrind = process::find("valgrind").context("valgrind is not installed (Debian: apt-get install valgrind)")?;
    ensure!(process::find("callgrind_control").is_some(), "callgrind_control, a part of valgrind, is missing");
    let folder = tempfile::tempdir()?;
    let settings = format!("rate={RATE},grain_us={GRAIN_US}");
    let flags =
        ["--max-event-subscribers-per-session", "1000", "--lag-events-max", "1000000", "--log-bytes-max", "256MiB"];
    let out = format!("--callgrind-out-file={}/%p", folder.path().display());
    let around = under(&valgrind, &["--tool=callgrind", &out]);
    // The processor that valgrind plays has fewer features than this machine's, so native code of another start does not
    // do: it is compiled under the tool that slows least.
    let gateway = Gateway::start_under(&under(&valgrind, &["--tool=none"]), &around, &settings, &flags).await?;
    if policies {
        serve(&gateway).await?;
    }
    let client = gateway.client().await?;
    let session = gateway.open(&client).await?;
    let wanted = readers::Args::of(&gateway.address, &session.id, gateway.key_file());
    let mut clients = Role::start(None, &wanted.clone().count(readers).words())?;
    clients.answer().context("the readers do not get ready")?;
    let mut stalled = (never > 0).then(|| Role::start(None, &wanted.count(never).never().words())).transpose()?;
    if let Some(stalled) = &mut stalled {
        stalled.answer().context("those that never read do not get ready")?;
    }
    session.advise(&client).await?;
    tokio::time::sleep(WARM_UP).await;
    let pids = [gateway.pid(), session.worker];
    for pid in pids {
        control("--zero", pid)?;
    }
    clients.ask("look")?;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let seen = clients.ask("look")?;
    for pid in pids {
        control("--dump", pid)?;
    }
    let delivered = seen["delivered"].as_f64().unwrap_or_default();
    ensure!(delivered > 0.0, "nothing was delivered");
    ensure!(seen["wrong"].as_u64() == Some(0), "sequences were lost");
    let each = |pid| anyhow::Ok((instructions(folder.path(), pid)? as f64 / delivered * 10.0).round() / 10.0);
    Ok(Counted {
        gateway: each(pids[0])?,
        worker: each(pids[1])?,
        per_message: delivered / seen["messages"].as_f64().unwrap_or(1.0).max(1.0),
    })
}

/// All five from the folder, with a rule that is searched for each item and denies none.
async fn serve(gateway: &Gateway) -> anyhow::Result<()> {
    let admin = gateway.admin().await?;
    let before = admin.policies().await?.generation;
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/dist");
    place(&gateway.plugins(), "access.toml", b"deny = [\"*.Secret\"]\n")?;
    for name in ["access", "backpressure", "dashboard-tags", "rate-limit", "version-floor"] {
        let file = format!("{name}.wasm");
        place(&gateway.plugins(), &file, &std::fs::read(dist.join(&file))?)?;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listing = admin.policies().await?;
        if listing.generation > before && listing.policies.iter().all(|policy| policy.source != "embedded") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "the five policies do not serve: {:?}", listing.swaps.first());
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

// === impl Counted ===

impl Counted {
    fn mean(counts: &[Self]) -> Self {
        let mean =
            |of: fn(&Self) -> f64| (counts.iter().map(of).sum::<f64>() / counts.len() as f64 * 10.0).round() / 10.0;
        Self {
            gateway: mean(|one| one.gateway),
            worker: mean(|one| one.worker),
            per_message: mean(|one| one.per_message),
        }
    }
}

fn under(valgrind: &Path, words: &[&str]) -> Vec<String> {
    let valgrind = valgrind.to_string_lossy();
    [&valgrind, "--quiet", "--trace-children=yes"].iter().chain(words).map(|word| (*word).to_owned()).collect()
}

fn control(what: &str, pid: u32) -> anyhow::Result<()> {
    let status = Command::new("callgrind_control").arg(what).arg(pid.to_string()).output()?.status;
    ensure!(status.success(), "callgrind_control {what} failed");
    Ok(())
}

/// The sum over the dumps of a process: the line `summary:` or `totals:` of each file that carries its id.
fn instructions(folder: &Path, pid: u32) -> anyhow::Result<u64> {
    let mut newest: Option<(u32, u64)> = None;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(part) = name.strip_prefix(&format!("{pid}.")).and_then(|part| part.parse().ok()) else { continue };
        let text = std::fs::read_to_string(&path)?;
        let sum = text.lines().filter_map(|line| line.strip_prefix("summary:")?.trim().parse::<u64>().ok()).sum();
        if newest.is_none_or(|(other, _)| part > other) {
            newest = Some((part, sum));
        }
    }
    newest.map(|(_, sum)| sum).context("callgrind wrote nothing")
}
