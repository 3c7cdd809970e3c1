//! What a decision costs: in the thread beside the same rule as native code, end to end with the queue at a fixed
//! rate, with and without a shadow, in bulk; what the gate takes; and that the event path asks nobody. All but the last in this process, with the
//! policy crate as the gateway uses it.

use crate::{
    gateway::{Gateway, place},
    process::{self, CLIENTS, Role, SERVERS},
    readers,
    rows::{Ratio, Rows},
    stats::{median, percentile},
};
use anyhow::{Context as _, ensure};
use std::{
    hint::black_box,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tidegate_plugin_access::Access;
use tidegate_plugin_sdk::{
    Policy as _,
    access::{self as native, AccessPolicy as _},
};
use tidegate_policy::{
    Action, Candidate, DecisionLog, Outcome, PolicyConfig, PolicyHost, Principal, SessionFacts, SwapRecord,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows as JSON, one for each line, into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Slices of each side; the median counts
    #[arg(long, default_value_t = 40)]
    slices: usize,
    /// Seconds of the paced part and of the stretch of events
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Trips through the gate, from the cache; a third as many cold
    #[arg(long, default_value_t = 100)]
    swaps: usize,
}

pub(crate) const COMPONENT: &[u8] = include_bytes!("../../../plugins/dist/access.wasm");
/// A tag as plants have them, 41 characters.
const TAG: &str = "Area1.Building12.Line07.Pump0042.FlowRate";
/// Denies nothing that is asked for here, and is searched all the same.
const SETTINGS: &str = "deny = [\"*.Secret\"]\n";
const CALLS_PER_SLICE: u32 = 2_000;
const PACED: u32 = 20_000;
const BULK: usize = 10_000;
/// Of each side in turn.
const SHADOW_SLICE_SECONDS: f64 = 0.25;

/// A policy host with a folder of its own, which looks only when told to.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) host: PolicyHost,
    pub(crate) plugins: PathBuf,
    /// Decisions go to files.
    logs: bool,
    _folder: TempDir,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut rows = Rows::new("policy", args.json.as_deref())?;
    let host = Host::start(None).await?;
    in_thread(&mut rows, &host, args.slices).await?;
    paced(&mut rows, &host, args.seconds).await?;
    shadowed(&mut rows, &host, args.slices).await?;
    bulk(&mut rows, &host, args.slices).await?;
    gate(&mut rows, &host, args.swaps).await?;
    drop(host);
    event_path(&mut rows, args.seconds).await
}

/// All that a decision costs the processor, beside the same rule compiled natively; and again with its line in the
/// decision log, as far as that keeps up. A component that has proved to be quick answers on this thread; what is
/// counted is the whole process, wherever it answers and writes.
async fn in_thread(rows: &mut Rows, logging: &Host, slices: usize) -> anyhow::Result<()> {
    let silent = Host::start(Some(DecisionLog { files_max: 0, ..DecisionLog::default() })).await?;
    let access = native_access()?;
    let (who, place) = asker();
    let (native_who, native_place) = native_asker();
    let command = native::Action::Command(native::Command { method: "write".into(), tag: TAG.into() });
    let sides = [Some(&silent), None, Some(logging)];
    let mut times = [const { Vec::new() }; 3];
    for slice in 0..slices {
        for step in 0..sides.len() {
            // There and back: A-B-C-C-B-A.
            let side = if slice % 2 == 0 { step } else { sides.len() - 1 - step };
            let since = process::own_cpu_time();
            for _ in 0..CALLS_PER_SLICE {
                match sides[side] {
                    Some(host) => {
                        let decision = host.host.access(&who, &place, action()).await;
                        let fine = decision.value.is_allow() && decision.cause.is_none();
                        ensure!(fine, "the decision failed: {decision:?}");
                    }
                    None => {
                        let verdict = access.decide(black_box(&native_who), &native_place, black_box(&command));
                        ensure!(black_box(verdict).allow, "the native rule denied");
                    }
                }
            }
            if sides[side].is_some_and(|host| host.logs) {
                // Three times what a decision waits for its file. Waiting costs no processor time.
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
            let took = process::own_cpu_time() - since;
            times[side].push(took.as_nanos() as f64 / f64::from(CALLS_PER_SLICE));
        }
    }
    let [silent, native, logged] = times.map(|times| median(&times));
    let native = Some(("the same rule, native", native, Ratio::Multiple));
    rows.add("decision in-thread", silent, native, "ns")?;
    rows.add("decision in-thread, with its line in the decision log", logged, native, "ns")
}

/// One caller, one decision each 50 µs, late ones counted from when they were due.
async fn paced(rows: &mut Rows, host: &Host, seconds: f64) -> anyhow::Result<()> {
    let mut times = ask_paced(host, seconds)?;
    for (name, percent) in [("p50", 50.0), ("p99", 99.0)] {
        let us = percentile(&mut times, percent) as f64 / 1e3;
        rows.add(&format!("decision end to end at {PACED}/s {name}"), us, None, "us")?;
    }
    Ok(())
}

/// The same with a shadow that is asked everything, and without: A-B-B-A, two hosts of one process.
async fn shadowed(rows: &mut Rows, alone: &Host, slices: usize) -> anyhow::Result<()> {
    let beside = Host::start(None).await?;
    let candidate = Candidate {
        file: "access.wasm".into(),
        bytes: COMPONENT.to_vec(),
        settings: Some(("access.toml".into(), "deny = [\"*.Secret\", \"Area9.*\"]\n".into())),
        signature: None,
    };
    let host = beside.host.clone();
    tokio::task::spawn_blocking(move || host.shadow_start(candidate)).await??;
    let mut times = [Vec::new(), Vec::new()];
    for side in [0, 1, 1, 0].into_iter().cycle().take(slices.next_multiple_of(4)) {
        times[side].extend(ask_paced([alone, &beside][side], SHADOW_SLICE_SECONDS)?);
    }
    let host = beside.host.clone();
    let status = tokio::task::spawn_blocking(move || host.shadow_stop()).await?.context("there was a shadow")?;
    ensure!(status.compared.asked > 0 && status.ended.is_none(), "the shadow was not asked: {status:?}");
    for (name, percent) in [("p50", 50.0), ("p99", 99.0)] {
        let [without, with] = times.each_mut().map(|times| percentile(times, percent) as f64 / 1e3);
        let without = Some(("without a shadow", without, Ratio::Multiple));
        rows.add(&format!("decision end to end at {PACED}/s beside a shadow {name}"), with, without, "us")?;
    }
    let asked = status.compared.asked + status.skipped;
    let share = status.compared.asked as f64 * 100.0 / asked as f64;
    rows.add(&format!("of {asked} decisions the shadow was asked"), share, None, "%")
}

fn ask_paced(host: &Host, seconds: f64) -> anyhow::Result<Vec<u64>> {
    let (asked, places) = (host.host.clone(), asker());
    let asking = std::thread::spawn(move || -> anyhow::Result<Vec<u64>> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        // A task as the gateway's calls are, so that waking it costs what it costs there.
        let calling = runtime.spawn(async move {
            let (who, place) = places;
            let between = Duration::from_nanos(1_000_000_000 / u64::from(PACED));
            let count = (seconds * f64::from(PACED)) as u32;
            let mut times = Vec::with_capacity(count as usize);
            let since = Instant::now();
            for n in 0..count {
                let due = since + between * n;
                while Instant::now() < due {
                    std::hint::spin_loop();
                }
                let decision = asked.access(&who, &place, action()).await;
                ensure!(decision.cause.is_none(), "the decision failed: {decision:?}");
                times.push(due.elapsed().as_nanos() as u64);
            }
            Ok(times)
        });
        runtime.block_on(calling)?
    });
    asking.join().map_err(|_| anyhow::anyhow!("the caller panicked"))?
}

async fn bulk(rows: &mut Rows, host: &Host, slices: usize) -> anyhow::Result<()> {
    let (who, place) = asker();
    let tags: Vec<Arc<str>> = (0..BULK).map(|n| format!("Area1.Building12.Line07.Pump{n:05}.Flow").into()).collect();
    let (mut guest_ns, mut all_ns, mut native_ns) = (Vec::new(), Vec::new(), Vec::new());
    let access = native_access()?;
    let (native_who, native_place) = native_asker();
    for _ in 0..slices.div_ceil(2) {
        let (before, since) = (process::own_cpu_time(), Instant::now());
        let decision = host.host.judge_items(&who, &place, &tags).await;
        all_ns.push(since.elapsed().as_nanos() as f64 / BULK as f64);
        guest_ns.push((process::own_cpu_time() - before).as_nanos() as f64 / BULK as f64);
        ensure!(decision.value.len() == BULK && decision.value.iter().all(|one| one.allow), "not all were allowed");
        let since = process::own_cpu_time();
        for tag in &tags {
            ensure!(
                black_box(access.may_read(&native_who, &native_place, black_box(tag))).allow,
                "the native rule denied"
            );
        }
        native_ns.push((process::own_cpu_time() - since).as_nanos() as f64 / BULK as f64);
    }
    let native = Some(("the same rule, native", median(&native_ns), Ratio::Multiple));
    rows.add("judge_items per item, in-thread", median(&guest_ns), native, "ns")?;
    rows.add("judge_items per item, end to end", median(&all_ns), native, "ns")
}

/// Reading, compiling and proving, by the swap's own record.
async fn gate(rows: &mut Rows, host: &Host, swaps: usize) -> anyhow::Result<()> {
    let mut cached = Vec::new();
    for n in 0..swaps {
        let settings = format!("deny = [\"*.Secret\", \"Cached.{n}\"]\n");
        cached.push(host.swap(COMPONENT, &settings).await?.gate_us);
    }
    let mut cold = Vec::new();
    for n in 0..swaps.div_ceil(3) {
        cold.push(host.swap(&marked(n), SETTINGS).await?.gate_us);
    }
    for (name, mut times) in [("from the compile cache", cached), ("cold", cold)] {
        for (label, percent) in [("p50", 50.0), ("p99", 99.0)] {
            let ms = percentile(&mut times, percent) as f64 / 1e3;
            rows.add(&format!("gate {name} {label} of {}", times.len()), ms, None, "ms")?;
        }
    }
    Ok(())
}

/// Calls into components while events flow to eight readers.
async fn event_path(rows: &mut Rows, seconds: f64) -> anyhow::Result<()> {
    let pin = process::can_pin();
    let flags =
        ["--max-event-subscribers-per-session", "100", "--lag-events-max", "1000000", "--log-bytes-max", "256MiB"];
    let gateway = Gateway::start(pin.then_some(SERVERS), "rate=100000", &flags).await?;
    let client = gateway.client().await?;
    let session = gateway.open(&client).await?;
    let args = readers::Args::of(&gateway.address, &session.id, gateway.key_file()).count(8);
    let mut readers = Role::start(pin.then_some(CLIENTS), &args.words())?;
    readers.answer()?;
    session.advise(&client).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (calls, appended) = (gateway.guest_calls().await?, gateway.metric("tidegate_events_appended_total").await?);
    readers.ask("look")?;
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let seen = readers.ask("look")?;
    let (calls, events) =
        (gateway.guest_calls().await? - calls, gateway.metric("tidegate_events_appended_total").await? - appended);
    ensure!(events > 0.0 && seen["wrong"] == 0, "the stretch of events is not sound: {events} events, {seen}");
    let delivered = seen["delivered"].as_f64().context("no count")?;
    rows.add(&format!("guest calls while {delivered:.0} were delivered"), calls as f64, None, "calls")
}

fn action() -> Action {
    Action::Command { method: "write".into(), tag: TAG.into() }
}

/// A key with constraints, and a session of its own.
pub(crate) fn asker() -> (Principal, SessionFacts) {
    let globs = vec!["Area1.*".to_owned(), "Area2.*".to_owned()];
    let who = Principal::new("key-1", vec!["sessions:own".into()], globs.clone(), globs, "127.0.0.1");
    (who, SessionFacts::new("session-0123456789abcdef0123456789abcdef", "key-1", "line-1", "sim"))
}

/// `SETTINGS`, natively.
fn native_access() -> anyhow::Result<Access> {
    let settings = serde_json::from_value(serde_json::json!({ "deny": ["*.Secret"] }))?;
    Access::configure(settings).map_err(anyhow::Error::msg)
}

fn native_asker() -> (native::Principal, native::Session) {
    let globs = vec!["Area1.*".to_owned(), "Area2.*".to_owned()];
    let who = native::Principal {
        id: "key-1".into(),
        scopes: vec!["sessions:own".into()],
        read: globs.clone(),
        write: globs,
        peer: "127.0.0.1".into(),
        certificate: Vec::new(),
    };
    let place = native::Session {
        id: "session-0123456789abcdef0123456789abcdef".into(),
        owner: "key-1".into(),
        tag: "line-1".into(),
        backend: "sim".into(),
    };
    (who, place)
}

/// The default component with a custom section more (Core specification, 5.5.3): another digest, the same answers.
pub(crate) fn marked(mark: usize) -> Vec<u8> {
    let name = format!("mark-{mark:06}");
    let mut bytes = COMPONENT.to_vec();
    // Custom section, its size, its name with length; it may be empty behind that.
    bytes.extend([0, name.len() as u8 + 1, name.len() as u8]);
    bytes.extend(name.as_bytes());
    bytes
}

// === impl Host ===

impl Host {
    /// None: decisions are kept as a gateway keeps them.
    pub(crate) async fn start(decisions: Option<DecisionLog>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidegate-bench").tempdir()?;
        let (plugins, store) = (folder.path().join("plugins"), folder.path().join("store"));
        private(&plugins)?;
        private(&store)?;
        place(&plugins, "access.toml", SETTINGS.as_bytes())?;
        place(&plugins, "access.wasm", COMPONENT)?;
        let mut config = PolicyConfig::new(store);
        config.plugins_dir = Some(plugins.clone());
        config.decisions = decisions.unwrap_or_default();
        let logs = config.decisions.files_max > 0;
        config.watch.notify = false;
        config.watch.poll = Duration::from_secs(3_600);
        let host = tokio::task::spawn_blocking(move || PolicyHost::start(config)).await??;
        host.reload().await;
        let this = Self { host, plugins, logs, _folder: folder };
        ensure!(this.host.generation().0 > 0, "no generation");
        Ok(this)
    }

    pub(crate) async fn swap(&self, component: &[u8], settings: &str) -> anyhow::Result<SwapRecord> {
        place(&self.plugins, "access.toml", settings.as_bytes())?;
        place(&self.plugins, "access.wasm", component)?;
        let record = self.host.reload().await;
        ensure!(record.outcome == Outcome::Swapped, "not swapped: {record:?}");
        Ok(record)
    }
}

fn private(folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    Ok(std::fs::DirBuilder::new().mode(0o700).create(folder)?)
}
