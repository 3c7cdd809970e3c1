//! One session, N readers: processor time per delivered event, ours (gateway and worker together) beside a plain tonic
//! stream and nats-server (server and publisher), at the same offered rate. Sides take turns (A-B-B-A), runs are
//! summed up by their median. Invariant: a run in which a sequence was lost, or the rate was not met, is an error.

use crate::{
    event,
    gateway::{Gateway, Session},
    process::{self, CLIENTS, Process, Role, SERVERS},
    readers::{self, Kind},
    rows::{Ratio, Rows},
    stats::median,
};
use anyhow::{Context as _, ensure};
use prost::Message as _;
use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows as JSON, one for each line, into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Runs of each side of each case; the median counts
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Measured seconds of each run
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Numbers of readers
    #[arg(long, value_delimiter = ',', default_value = "1,8,64")]
    readers: Vec<usize>,
    /// Deliveries per second that the rate of each case is made from: rate = deliveries / readers. By default one that
    /// every side keeps up with, and one that drives them hard
    #[arg(long, value_delimiter = ',', default_value = "400000,2400000")]
    deliveries: Vec<u32>,
    /// How long our readers let events wait for others, in milliseconds
    #[arg(long, value_delimiter = ',', default_value = "0,10")]
    lingers: Vec<u32>,
    /// Only the throughput cases, or only the paced ones at 20,000 events per second
    #[arg(long)]
    only: Option<Part>,
    /// Let the system place servers and clients instead of one core each
    #[arg(long)]
    no_pin: bool,
    /// Without nats-server, although it is installed
    #[arg(long)]
    no_nats: bool,
    /// Without redis-server, although it is installed
    #[arg(long)]
    no_redis: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Throughput,
    Paced,
}

/// The rate of the paced cases: what a large plant makes.
const PACED: u32 = 20_000;
/// Groups of the throughput cases: what a timer of a millisecond makes of them anyway, on every side.
const GRAIN_US: u32 = 1_000;
/// The simulator takes no more.
const RATE_MAX: u32 = 500_000;
/// From the first event until counting begins: windows are open, heaps have their size.
const WARM_UP: Duration = Duration::from_millis(700);
/// Deliveries that may be missing from what was offered, for the edges of the window.
const SHORT: f64 = 0.05;

/// A case: how many, how fast, how.
#[derive(Clone, Copy, Debug)]
struct Case {
    readers: usize,
    rate: u32,
    /// Events become due in groups at multiples of this; 0: one by one.
    grain_us: u32,
    linger_ms: u32,
    ages: bool,
    small_windows: bool,
}

/// What one run of one side said.
#[derive(Clone, Copy, Debug)]
struct Run {
    us_per_delivery: f64,
    delivered_per_second: f64,
    event_bytes: f64,
    per_message: f64,
    p50_us: f64,
    p99_us: f64,
}

/// The peers that are installed.
#[derive(Debug)]
struct Peers {
    nats: Option<PathBuf>,
    redis: Option<PathBuf>,
}

/// What is running, to be dropped at the end of a run.
#[derive(Debug)]
struct Side {
    kind: Kind,
    /// Whose processor time counts.
    pids: Vec<u32>,
    readers: Role,
    // In the order in which they end: a publisher before its server, or it complains.
    _gateway: Option<Gateway>,
    _roles: Vec<Role>,
    _processes: Vec<Process>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    job("fanout", args).await
}

/// The paced cases alone.
pub(crate) async fn latency(args: Args) -> anyhow::Result<()> {
    job("latency", Args { only: Some(Part::Paced), ..args }).await
}

async fn job(name: &'static str, args: Args) -> anyhow::Result<()> {
    let peers = Peers::find(args.no_nats, args.no_redis);
    let pin = !args.no_pin && process::can_pin();
    let mut rows = Rows::new(name, args.json.as_deref())?;
    for case in cases(&args) {
        let runs = measure(&case, &peers, pin, args.runs, args.seconds).await?;
        report(&mut rows, &case, &runs)?;
    }
    Ok(())
}

fn cases(args: &Args) -> Vec<Case> {
    let throughput = |deliveries: u32, readers: usize, linger_ms, small_windows| Case {
        readers,
        rate: (deliveries / readers.max(1) as u32).clamp(1, RATE_MAX),
        grain_us: GRAIN_US,
        linger_ms,
        ages: false,
        small_windows,
    };
    let mut cases = Vec::new();
    if args.only != Some(Part::Paced) {
        for deliveries in &args.deliveries {
            for readers in &args.readers {
                let one = |linger: &u32| throughput(*deliveries, *readers, *linger, false);
                cases.extend(args.lingers.iter().map(one));
                cases.extend((*readers == 8).then(|| throughput(*deliveries, 8, 0, true)));
            }
        }
    }
    if args.only != Some(Part::Throughput) {
        let paced =
            |linger_ms| Case { readers: 8, rate: PACED, grain_us: 0, linger_ms, ages: true, small_windows: false };
        cases.extend([paced(0), paced(1)]);
    }
    cases
}

/// All sides in turns.
async fn measure(case: &Case, peers: &Peers, pin: bool, runs: usize, seconds: f64) -> anyhow::Result<Vec<(Kind, Run)>> {
    let mut kinds = vec![Kind::Tidegate, Kind::Plain];
    kinds.extend(peers.nats.as_ref().map(|_| Kind::Nats));
    kinds.extend(peers.redis.as_ref().map(|_| Kind::Redis));
    let mut done: Vec<(Kind, Run)> = Vec::new();
    for turn in 0..runs.max(1) {
        for kind in &kinds {
            let side = Side::start(*kind, case, pin, peers).await?;
            done.push((*kind, side.measure(case, seconds).await?));
        }
        if turn + 1 < runs {
            kinds.reverse();
        }
    }
    Ok(done)
}

fn report(rows: &mut Rows, case: &Case, runs: &[(Kind, Run)]) -> anyhow::Result<()> {
    let of = |kind: Kind, what: fn(&Run) -> f64| -> Option<f64> {
        let values: Vec<f64> = runs.iter().filter(|(of, _)| *of == kind).map(|(_, run)| what(run)).collect();
        (!values.is_empty()).then(|| median(&values))
    };
    let name = case.name();
    for kind in [Kind::Plain, Kind::Nats, Kind::Redis] {
        let label = kind.label();
        let Some(baseline) = of(kind, |run| run.us_per_delivery) else { continue };
        let ours = of(Kind::Tidegate, |run| run.us_per_delivery).context("no run of ours")?;
        rows.add(&name, ours, Some((label, baseline, Ratio::Cheaper)), "us of CPU per delivery")?;
        if case.ages {
            for (percent, what) in [("p50", (|run| run.p50_us) as fn(&Run) -> f64), ("p99", |run| run.p99_us)] {
                let (ours, baseline) = (of(Kind::Tidegate, what), of(kind, what));
                let (ours, baseline) = ours.zip(baseline).context("no ages")?;
                rows.add(
                    &format!("{name} {percent}"),
                    ours,
                    Some((label, baseline, Ratio::Cheaper)),
                    "us from event to reader",
                )?;
            }
        }
    }
    for kind in [Kind::Tidegate, Kind::Plain, Kind::Nats, Kind::Redis] {
        let every: Vec<f64> = runs.iter().filter(|(of, _)| *of == kind).map(|(_, run)| run.us_per_delivery).collect();
        if let Some(((rate, bytes), gathered)) = of(kind, |run| run.delivered_per_second)
            .zip(of(kind, |run| run.event_bytes))
            .zip(of(kind, |run| run.per_message))
        {
            let shown: Vec<String> = every.iter().map(|us| format!("{us:.3}")).collect();
            println!(
                "  {:<9} {rate:>9.0} deliveries/s of {bytes:.0} bytes, {gathered:.1} events per message; runs: {}",
                kind.name(),
                shown.join(" ")
            );
        }
    }
    Ok(())
}

// === impl Peers ===

impl Peers {
    fn find(no_nats: bool, no_redis: bool) -> Self {
        let find = |name: &str, without: bool| {
            let found = process::find(name).filter(|_| !without);
            if found.is_none() {
                println!("without {name} (see docs/performance.md): its rows are left out");
            }
            found
        };
        Self { nats: find("nats-server", no_nats), redis: find("redis-server", no_redis) }
    }
}

// === impl Case ===

impl Case {
    fn name(&self) -> String {
        let linger = format!(" linger {} ms", self.linger_ms);
        let windows = if self.small_windows { " 64 KiB windows" } else { "" };
        format!("N={} {}/s{linger}{windows}", self.readers, self.rate)
    }

    fn readers(&self, args: readers::Args) -> readers::Args {
        args.count(self.readers).linger(self.linger_ms, self.ages).small_windows(self.small_windows)
    }
}

// === impl Side ===

impl Side {
    async fn start(kind: Kind, case: &Case, pin: bool, peers: &Peers) -> anyhow::Result<Self> {
        let (servers, clients) = (pin.then_some(SERVERS), pin.then_some(CLIENTS));
        let read = |args: readers::Args| -> anyhow::Result<Role> {
            let mut readers = Role::start(clients, &case.readers(args).words())?;
            readers.answer().context("the readers do not get ready")?;
            Ok(readers)
        };
        let role = |words: &[&str]| Role::start(servers, &words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>());
        let (rate, grain) = (case.rate.to_string(), case.grain_us.to_string());
        match kind {
            Kind::Tidegate => {
                let (gateway, session, client) = ours(case, servers).await?;
                let readers = read(readers::Args::of(&gateway.address, &session.id, gateway.key_file()))?;
                session.advise(&client).await?;
                let pids = vec![gateway.pid(), session.worker];
                Ok(Self { kind, pids, readers, _gateway: Some(gateway), _processes: vec![], _roles: vec![] })
            }
            Kind::Plain => {
                let mut server = role(&["plain", "--rate", &rate, "--grain-us", &grain])?;
                let address = server.answer()?["address"].as_str().context("no address")?.to_owned();
                let readers = read(readers::Args::new(kind, &address))?;
                let pids = vec![server.pid()];
                Ok(Self { kind, pids, readers, _gateway: None, _processes: vec![], _roles: vec![server] })
            }
            Kind::Nats => {
                let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
                let mut command = process::on_cpu(peers.nats.as_ref().context("nats-server is not there")?, servers);
                command.args(["-a", "127.0.0.1", "-p", &port]).stdout(Stdio::null()).stderr(Stdio::null());
                let server = Process::start(command)?;
                let address = format!("127.0.0.1:{port}");
                answering(&address).await?;
                let readers = read(readers::Args::new(kind, &address))?;
                let mut publisher =
                    role(&["nats-publisher", "--rate", &rate, "--grain-us", &grain, "--address", &address])?;
                publisher.answer()?;
                let pids = vec![server.pid(), publisher.pid()];
                let (processes, roles) = (vec![server], vec![publisher]);
                Ok(Self { kind, pids, readers, _gateway: None, _processes: processes, _roles: roles })
            }
            Kind::Redis => {
                let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
                let mut command = process::on_cpu(peers.redis.as_ref().context("redis-server is not there")?, servers);
                command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
                // As everyone else here, it does not cut a subscriber off that a busy machine holds up.
                command.args(["--client-output-buffer-limit", "pubsub 256mb 256mb 0"]);
                command.stdout(Stdio::null()).stderr(Stdio::null());
                let server = Process::start(command)?;
                let address = format!("127.0.0.1:{port}");
                answering(&address).await?;
                let readers = read(readers::Args::new(kind, &address))?;
                let mut publisher =
                    role(&["redis-publisher", "--rate", &rate, "--grain-us", &grain, "--address", &address])?;
                publisher.answer()?;
                let pids = vec![server.pid(), publisher.pid()];
                let (processes, roles) = (vec![server], vec![publisher]);
                Ok(Self { kind, pids, readers, _gateway: None, _processes: processes, _roles: roles })
            }
        }
    }

    async fn measure(mut self, case: &Case, seconds: f64) -> anyhow::Result<Run> {
        tokio::time::sleep(WARM_UP).await;
        self.readers.ask("look")?;
        let (since, before) = (Instant::now(), self.cpu()?);
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        let seen = self.readers.ask("look")?;
        let (took, used) = (since.elapsed(), self.cpu()? - before);
        let number = |name: &str| seen[name].as_f64().unwrap_or_default();
        let delivered = number("delivered");
        let name = format!("{} {}", self.kind.name(), case.name());
        ensure!(number("wrong") == 0.0, "{name}: {} sequences were lost or twice", number("wrong"));
        ensure!(number("ended") == 0.0, "{name}: {} readers ended", number("ended"));
        let offered = f64::from(case.rate) * case.readers as f64 * took.as_secs_f64();
        if delivered < offered * (1.0 - SHORT) {
            println!("  {name}: {:.0} % of the offered rate was met", 100.0 * delivered / offered);
        }
        ensure!(delivered > 0.0, "{name}: nothing was delivered");
        let event_bytes = match self.kind {
            Kind::Plain => event::make(1 << 20).encoded_len() as f64,
            Kind::Tidegate | Kind::Nats | Kind::Redis => number("bytes") / delivered,
        };
        Ok(Run {
            us_per_delivery: used.as_secs_f64() * 1e6 / delivered,
            delivered_per_second: delivered / took.as_secs_f64(),
            event_bytes,
            per_message: delivered / number("messages").max(1.0),
            p50_us: number("p50_us"),
            p99_us: number("p99_us"),
        })
    }

    fn cpu(&self) -> anyhow::Result<Duration> {
        self.pids.iter().map(|pid| process::cpu_time(*pid)).sum()
    }
}

/// A gateway with a session, and room for readers that a busy machine holds up.
async fn ours(case: &Case, cpu: Option<usize>) -> anyhow::Result<(Gateway, Session, tidegate_client::Gateway)> {
    let flags = [
        ["--max-event-subscribers-per-session", "1000"],
        ["--lag-events-max", "1000000"],
        ["--log-bytes-max", "256MiB"],
    ];
    let gateway =
        Gateway::start(cpu, &format!("rate={},grain_us={}", case.rate, case.grain_us), &flags.concat()).await?;
    let client = gateway.client().await?;
    let session = gateway.open(&client).await?;
    Ok((gateway, session, client))
}

/// Waits until something listens there.
async fn answering(address: &str) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while tokio::net::TcpStream::connect(address).await.is_err() {
        ensure!(Instant::now() < deadline, "nothing listens on {address}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}
