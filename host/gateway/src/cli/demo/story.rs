//! What happens in the demo, in order: readers attach, items are advised, a policy denies half of them,
//! allows them again, a worker of another session is killed, everyone reads to the end. It measures
//! through clients and the operators' API. Invariant: readers attach before the first item is advised,
//! so their accounts begin with the session's first event.

use super::{
    gateway::GatewayProcess,
    history::History,
    reader::{Pace, Reader, Spec, Watch},
    screen::{Row, Screen},
    summary::{ReaderResult, Summary, SwapTimes},
};
use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tidegate_client::{
    Admin, Gateway,
    wire::{Advise, CreateKeyRequest, ListPoliciesResponse, OpenSessionRequest, SwapRecord, command::Method},
};
use tokio::time::{Instant, sleep};

/// Items in each area.
const ITEMS_PER_AREA: usize = 20;
/// How often the story looks around.
const TICK: Duration = Duration::from_millis(50);
/// Guessed: for things that take milliseconds, on a loaded machine in a debug build.
const PATIENCE: Duration = Duration::from_secs(20);
/// Conflates for readers that are behind by a tenth of what is allowed: visible within a second.
const BACKPRESSURE: &str = "levels = [{ at = 0.1, answer = \"conflate\" }]\n";
const ALLOW: &str = "deny = []\n";
const DENY: &str = "deny = [\"Area2.*\"]\n";

/// How the story goes.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) duration: Duration,
    pub(super) rate: u32,
    pub(super) history: Option<History>,
    pub(super) csv: Option<PathBuf>,
    pub(super) keep: bool,
    /// Standard output is for the last line only.
    pub(super) quiet: bool,
}

/// A swap that was asked for and happened.
#[derive(Clone, Debug)]
struct Swap {
    record: SwapRecord,
}

/// Counts decisions over swaps: the gateway counts anew for each component that it loads.
#[derive(Debug, Default)]
struct Decisions {
    total: u64,
    /// By policy: which component and settings, and its count at the last look.
    last: HashMap<String, (String, u64)>,
}

struct Story {
    screen: Screen,
    gateway: GatewayProcess,
    admin: Admin,
    readers: Vec<Reader>,
    decisions: Decisions,
    broken: Vec<String>,
}

pub(super) async fn tell(settings: Settings) -> anyhow::Result<Summary> {
    let mut screen = Screen::new(settings.quiet);
    screen.say("starting a gateway with a simulator and two policies in a plugins folder")?;
    let backends = backends(&settings)?;
    let gateway = GatewayProcess::start(&backends, |plugins| {
        place(plugins, "access.wasm", crate::cli::demo::ACCESS)?;
        place(plugins, "access.toml", ALLOW.as_bytes())?;
        place(plugins, "backpressure.wasm", crate::cli::demo::BACKPRESSURE)?;
        place(plugins, "backpressure.toml", BACKPRESSURE.as_bytes())
    })
    .await?;
    let admin = gateway.admin().await?;
    let mut story =
        Story { screen, gateway, admin, readers: Vec::new(), decisions: Decisions::default(), broken: Vec::new() };
    let told = story.tell(&settings).await;
    if settings.keep
        && let Some(folder) = story.gateway.keep()
    {
        story.screen.say(format_args!("data and log of the gateway are in {}", folder.display()))?;
    }
    told
}

// === impl Story ===

impl Story {
    async fn tell(&mut self, settings: &Settings) -> anyhow::Result<Summary> {
        let client = self.gateway.connect().key(self.gateway.key()).gateway().await?;
        let main = client.open(open_request("line-1", "line")).await?;
        let other = client.open(open_request("line-2", "bystander")).await?;
        self.screen.say(format_args!(
            "two sessions, each with a worker of its own: {}, {}",
            main.worker_pid, other.worker_pid
        ))?;

        let restricted = self.restricted_key().await?;
        let watch = Arc::new(Watch::default());
        let owner = self.gateway.key().to_owned();
        let slow = Pace::Bursts { events: u64::from(settings.rate / 4).max(1), rest: Duration::from_millis(900) };
        for (name, key, session, pace, keeps) in [
            ("fast-1", &owner, &main.session_id, Pace::Full, true),
            ("fast-2", &owner, &main.session_id, Pace::Full, false),
            ("slow", &owner, &main.session_id, slow, false),
            ("restricted", &restricted, &main.session_id, Pace::Full, false),
            ("bystander", &owner, &other.session_id, Pace::Full, false),
        ] {
            let (key, session, watch) = (key.clone(), session.clone(), watch.clone());
            let spec = Spec { name, key, session, pace, watch, keeps };
            self.readers.push(Reader::start(self.gateway.connect(), spec).await?);
        }

        let history_tags = settings.history.as_ref().map_or(&[][..], |history| &history.tags);
        let server = client.register(&main.session_id, "tidegate-demo").await?;
        let items = add_items(&client, &main.session_id, server, history_tags, &watch).await?;
        let other_server = client.register(&other.session_id, "tidegate-demo").await?;
        client.subscribe(&other.session_id, other_server, &["Area9.Pump1.Flow", "Area9.Pump1.Speed"]).await?;
        let started = Instant::now();
        for handle in items.keys() {
            let advise = Method::Advise(Advise { server_handle: server, item_handle: *handle });
            client.invoke(&main.session_id, advise, 0).await?;
        }
        let rate = settings.rate;
        self.screen.say(format_args!("{} items advised, {rate} events a second, five readers", items.len()))?;

        let part = |share: f64| started + settings.duration.mul_f64(share);
        self.watch_until(part(0.25)).await?;
        let denied = self.swap("access.toml now denies Area2.*", DENY).await?;
        self.watch_until(part(0.5)).await?;
        let allowed = self.swap("access.toml allows everything again", ALLOW).await?;
        self.watch_until(part(0.7)).await?;
        self.kill_worker(other.worker_pid, &other.session_id).await?;
        self.watch_until(part(1.0)).await?;
        if let Some(history) = &settings.history {
            self.watch_while("the history to arrive", |this| this.readers[0].kept() < history.len()).await?;
        }

        self.screen.say("unregistering: no more events; everyone reads to the end")?;
        client.unregister(&main.session_id, server).await?;
        self.read_to_the_end(&main.session_id).await?;
        self.policies().await?;
        let results = self.finish_readers().await?;
        client.close(&main.session_id).await?;
        client.close(&other.session_id).await?;
        self.stop(&[main.worker_pid, other.worker_pid]).await?;

        let tags: HashMap<u64, String> = items.into_values().collect();
        let history = settings.history.as_ref().map(|history| {
            let events = results.first().map(|reader| reader.outcome.events.as_slice()).unwrap_or_default();
            history.compare(events, &tags)
        });
        self.judge(&results, &denied, &allowed);
        let mut summary =
            Summary { sessions: 2, policy_decisions: self.decisions.total, history, ..Summary::default() };
        summary.denied_after_flip = denied_after_flip(&results, &denied, &allowed);
        summary.add_readers(results);
        summary.add_swaps(
            &[denied, allowed]
                .map(|swap| SwapTimes { gate_us: swap.record.gate_us, enforced_us: swap.record.enforced_us }),
        );
        summary.broken = std::mem::take(&mut self.broken);
        Ok(summary)
    }

    async fn restricted_key(&self) -> anyhow::Result<String> {
        let request = CreateKeyRequest {
            name: "demo: Area1 only".into(),
            scopes: vec!["sessions:all".into()],
            read: vec!["Area1.*".into()],
            write: Vec::new(),
        };
        Ok(self.admin.create_key(request).await?.secret)
    }

    async fn policies(&mut self) -> anyhow::Result<ListPoliciesResponse> {
        let listing = self.admin.policies().await?;
        self.decisions.look(&listing);
        Ok(listing)
    }

    /// Puts settings into the plugins folder and waits until they are in force on every stream.
    async fn swap(&mut self, what: &str, settings: &str) -> anyhow::Result<Swap> {
        let before = self.policies().await?.generation;
        self.screen.say(format_args!("swap: {what}"))?;
        place(self.gateway.plugins(), "access.toml", settings.as_bytes())?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let listing = self.policies().await?;
            if let Some(refused) = listing.swaps.first().filter(|swap| swap.outcome == "refused") {
                anyhow::bail!("the gateway refused the swap: {} [{}]", refused.message, refused.code);
            }
            let done = listing.swaps.iter().find(|swap| swap.generation > before && swap.outcome == "swapped");
            if let Some(record) = done.filter(|swap| swap.enforced_us > 0) {
                let (gate, enforced) = (record.gate_us as f64 / 1e3, record.enforced_us as f64 / 1e3);
                let generation = record.generation;
                self.screen.say(format_args!(
                    "generation {generation}: gate {gate:.1} ms, in force on every stream {enforced:.2} ms after the flip"
                ))?;
                return Ok(Swap { record: record.clone() });
            }
            anyhow::ensure!(
                Instant::now() < deadline,
                "the swap is not in force after {} s: the gateway {}",
                PATIENCE.as_secs(),
                if done.is_some() { "did not report that every stream follows it" } else { "did not notice the file" }
            );
            self.tick().await?;
        }
    }

    async fn kill_worker(&mut self, pid: u32, session: &str) -> anyhow::Result<()> {
        self.screen.say(format_args!("killing worker {pid} of the second session"))?;
        let target = i32::try_from(pid).ok().and_then(Pid::from_raw).context("the worker has no process id")?;
        rustix::process::kill_process(target, Signal::KILL).context("cannot kill the worker")?;
        let bystander = self.readers.len() - 1;
        self.watch_while("the reader of the killed worker to be told", |this| !this.readers[bystander].is_over())
            .await?;
        let sessions = self.admin.sessions().await?;
        let state = sessions.iter().find(|one| one.session_id == session).map_or("gone", |one| one.state.as_str());
        let others = sessions.iter().filter(|one| one.session_id != session && one.state == "ready").count();
        self.screen.say(format_args!(
            "that session is {state}; the other one is {}",
            if others == 1 { "ready" } else { "not ready" }
        ))?;
        if state != "faulted" || others != 1 {
            self.broken.push(format!("after the kill its session is {state}, and {others} other sessions are ready"));
        }
        Ok(())
    }

    /// Waits until the readers of the session have accounted for every event it ever had.
    async fn read_to_the_end(&mut self, session: &str) -> anyhow::Result<()> {
        self.readers.iter().for_each(Reader::hurry);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let sessions = self.admin.sessions().await?;
            let head = sessions.iter().find(|one| one.session_id == session).context("the session is gone")?.head;
            let mine = &self.readers[..self.readers.len() - 1];
            let late: Vec<_> = mine.iter().filter(|reader| !reader.is_over() && reader.position() < head).collect();
            if late.is_empty() {
                return Ok(());
            }
            if Instant::now() > deadline {
                let late: Vec<_> =
                    late.iter().map(|reader| format!("{} at {}", reader.name, reader.position())).collect();
                self.broken.push(format!("not read to the end, which is {head}: {}", late.join(", ")));
                return Ok(());
            }
            self.tick().await?;
        }
    }

    async fn finish_readers(&mut self) -> anyhow::Result<Vec<ReaderResult>> {
        let last = self.readers.len() - 1;
        let mut results = Vec::new();
        for (at, reader) in std::mem::take(&mut self.readers).into_iter().enumerate() {
            let (name, pace) = (reader.name, reader.pace);
            results.push(ReaderResult { name, pace, doomed: at == last, outcome: reader.finish().await? });
        }
        Ok(results)
    }

    /// Ends the gateway in good order; nothing may be left of it.
    async fn stop(&mut self, workers: &[u32]) -> anyhow::Result<()> {
        let status = self.gateway.stop().await?;
        if !status.success() {
            self.broken.push(format!("the gateway ended with {status}"));
        }
        let alive = |pid: &&u32| {
            let pid = i32::try_from(**pid).ok().and_then(Pid::from_raw);
            pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
        };
        if let Some(pid) = workers.iter().find(alive) {
            self.broken.push(format!("worker {pid} outlived its gateway"));
        }
        Ok(())
    }

    /// Checks what swaps and constraints must show beside the account.
    fn judge(&mut self, results: &[ReaderResult], denied: &Swap, allowed: &Swap) {
        for ReaderResult { name, outcome, doomed, .. } in results {
            let seen = &outcome.sightings;
            match *name {
                _ if *doomed => {}
                "restricted" if seen.total() > 0 => {
                    self.broken.push(format!("the restricted reader saw {} events it may not see", seen.total()));
                }
                "restricted" => {}
                _ if outcome.counts.filtered == 0 => {
                    self.broken.push(format!("generation {} withheld nothing from {name}", denied.record.generation));
                }
                _ if seen.since(allowed.record.generation) == 0 => {
                    self.broken.push(format!("generation {} gave {name} nothing back", allowed.record.generation));
                }
                _ => {}
            }
        }
    }

    async fn watch_until(&mut self, until: Instant) -> anyhow::Result<()> {
        while Instant::now() < until {
            self.tick().await?;
        }
        Ok(())
    }

    async fn watch_while(&mut self, what: &str, go_on: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while go_on(self) {
            anyhow::ensure!(Instant::now() < deadline, "waited {} s for {what}", PATIENCE.as_secs());
            self.tick().await?;
        }
        Ok(())
    }

    async fn tick(&mut self) -> anyhow::Result<()> {
        sleep(TICK).await;
        // The last one reads another session, alone.
        let main = &self.readers[..self.readers.len().saturating_sub(1)];
        let ahead = main.iter().map(Reader::position).max().unwrap_or_default();
        let row = |(at, reader): (usize, &Reader)| Row {
            name: reader.name,
            counts: reader.counts(),
            behind: if at < main.len() { ahead.saturating_sub(reader.position()) } else { 0 },
            over: reader.is_over(),
        };
        let rows = self.readers.iter().enumerate().map(row).collect();
        Ok(self.screen.rates(rows)?)
    }
}

// === impl Decisions ===

impl Decisions {
    fn look(&mut self, listing: &ListPoliciesResponse) {
        for policy in &listing.policies {
            let component = format!("{}/{}", policy.digest, policy.settings_digest);
            let last = self.last.insert(policy.policy.clone(), (component.clone(), policy.calls));
            let counted = last.filter(|(before, calls)| *before == component && *calls <= policy.calls);
            self.total += policy.calls - counted.map_or(0, |(_, calls)| calls);
        }
    }
}

/// Events of denied items that readers got although the flip was before them: in a batch of the denying
/// generation, or of an older one beyond what was in that stream's transport at the flip.
fn denied_after_flip(results: &[ReaderResult], denied: &Swap, allowed: &Swap) -> u64 {
    let (from, until) = (denied.record.generation, allowed.record.generation);
    let fence = |name: &str| denied.record.fences.iter().find(|fence| fence.reader == name).map(|fence| fence.sequence);
    let of_reader = |reader: &ReaderResult| {
        let seen = &reader.outcome.sightings;
        // A reader that was between two streams at the flip has no fence; its batches tell by generation.
        seen.between_generations(from, until) + fence(reader.name).map_or(0, |fence| seen.older_beyond(from, fence))
    };
    results.iter().filter(|reader| !reader.doomed).map(of_reader).sum()
}

/// Adds the items without advising them, so that their keys are known before their first event. By handle.
async fn add_items(
    client: &Gateway,
    session: &str,
    server: i32,
    history: &[String],
    watch: &Watch,
) -> anyhow::Result<HashMap<i32, (u64, String)>> {
    let mut items = HashMap::new();
    let shapes = ["Sine", "Ramp", "Walk", "Step", "Counter"];
    for area in 1..=2 {
        for at in 0..ITEMS_PER_AREA {
            let tag = format!("Area{area}.Pump{}.{}", at / shapes.len() + 1, shapes[at % shapes.len()]);
            let (handle, key) = client.add_item(session, server, &tag).await?;
            if area == 2 {
                watch.see(key);
            }
            items.insert(handle, (key, tag));
        }
    }
    for tag in history {
        let (handle, key) = client.add_item(session, server, tag).await?;
        watch.keep(key);
        items.insert(handle, (key, tag.clone()));
    }
    Ok(items)
}

fn backends(settings: &Settings) -> anyhow::Result<Vec<String>> {
    let mut line = toml::Table::new();
    line.insert("rate".into(), i64::from(settings.rate).into());
    if let Some(csv) = &settings.csv {
        let path = fs::canonicalize(csv).with_context(|| format!("cannot find {}", csv.display()))?;
        line.insert("csv".into(), path.to_str().context("the path of the history is not UTF-8")?.into());
    }
    Ok(vec![format!("line=sim:{line}"), "bystander=sim:rate=1000".to_owned()])
}

fn open_request(tag: &str, backend: &str) -> OpenSessionRequest {
    OpenSessionRequest {
        client_session_name: format!("demo {tag}"),
        requested_backend: backend.into(),
        tag: tag.into(),
        client_kind: "tidegate-demo".into(),
        client_version: env!("CARGO_PKG_VERSION").into(),
        ..Default::default()
    }
}

/// Writes a file beside its place and renames it there, so that no half of it is ever seen.
fn place(folder: &Path, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
    let draft = folder.with_extension("draft");
    fs::write(&draft, bytes)?;
    fs::rename(&draft, folder.join(name)).with_context(|| format!("cannot place {name} into {}", folder.display()))
}
