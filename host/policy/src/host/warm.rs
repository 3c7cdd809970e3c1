//! What a start needs and takes long to make: engines, compiled guests that passed the gate. Made beside a gateway that
//! still serves on the same folders, so it decides nothing and writes nothing but compiled code. Invariant: `start`
//! takes up what is remembered then, not what was remembered when this was made.

use std::sync::Arc;

use super::kept::{KeptShadow, Taken};
use super::{Inner, PolicyHost};
use crate::cache::{CacheTrouble, CompileCache};
use crate::config::{PolicyConfig, StartError};
use crate::control::{Control, taken_back};
use crate::decider::Decider;
use crate::embedded;
use crate::engine::Engines;
use crate::evidence::Recorder;
use crate::failure::Closure;
use crate::folder::Folder;
use crate::gate::{Gate, Loaded, Refusal, RefusalCode};
use crate::generation::Set;
use crate::instance::PolicySource;
use crate::model::{Digest, Policy};
use crate::shadow::Shadow;
use crate::starting::Starting;
use crate::store::{ContentStore, Member, Remembered};
use crate::swapper::Swapper;
use crate::trust::Vouching;
use crate::warden::Warden;

/// Everything but the threads.
#[derive(Debug)]
pub struct Warm {
    config: PolicyConfig,
    starting: Starting,
    store: ContentStore,
    gate: Arc<Gate>,
    cache_trouble: CacheTrouble,
    embedded: Vec<Arc<Loaded>>,
    vouching: Arc<Vouching>,
    folder: Option<Folder>,
    /// What served last when this was made, and what could be taken up of it.
    members: Vec<Member>,
    chosen: LastGood,
    /// The shadow of the run before, if there was one.
    shadow: Option<Taken>,
}

#[derive(Debug, Default)]
struct LastGood {
    loaded: Vec<Arc<Loaded>>,
    /// File and reason of each that was not taken up.
    refused: Vec<String>,
    /// Why nothing would answer access, where something did.
    closed: Option<Closure>,
}

// === impl LastGood ===

impl LastGood {
    /// Which of several answered access is not known; the one of that name did, most likely.
    fn refuse(&mut self, refusal: &Refusal) {
        self.refused.push(refusal.to_string());
        if self.closed.is_none() || refusal.file.split('.').next() == Some(Policy::Access.name()) {
            self.closed = Some(Closure::Refused(refusal.code));
        }
    }
}

// === impl Warm ===

impl Warm {
    /// Compiles, or reads what was compiled, and has everything judged. `starting` says how far it is, and ends it and what
    /// comes of it.
    pub fn new(mut config: PolicyConfig, starting: &Starting) -> Result<Self, StartError> {
        config.threads = config.threads.max(1);
        let store_wrong = |e: std::io::Error| StartError::Store { path: config.store_dir.clone(), why: e.to_string() };
        let store = ContentStore::open(&config.store_dir).map_err(store_wrong)?;
        let cache = CompileCache::open(&config.store_dir, config.cache_bytes_max).map_err(store_wrong)?;
        let cache_trouble = cache.trouble();
        let engines =
            Arc::new(Engines::new(&config.limits, config.threads).map_err(|e| StartError::Engine(format!("{e:#}")))?);
        let gate = Arc::new(Gate::of_start(engines, cache, config.clone(), starting.clone()));
        let embedded = load_all(&gate, embedded::sources().collect())
            .into_iter()
            .collect::<Result<Vec<_>, _>>()
            .map_err(|refusal| match starting.is_given_up() {
                true => StartError::GivenUp,
                false => StartError::Embedded(refusal.to_string()),
            })?;
        let vouching = Arc::new(Vouching::new(config.trust.clone())?);
        let folder = config.plugins_dir.as_deref().map(|path| Folder::open(path, &config)).transpose()?;
        let remembered = store.remembered();
        // Without a folder nothing is chosen; but what had been chosen is missing then.
        let chosen = taken_up(folder.as_ref(), &gate, &store, &remembered, &vouching);
        let members = remembered.last_good;
        let shadow = KeptShadow::new(&config.store_dir).take(&gate, &vouching, &config.limits);
        let starting = starting.clone();
        // What it could not take up for that reason is no trouble of the last run's.
        if starting.is_given_up() {
            return Err(StartError::GivenUp);
        }
        Ok(Self { config, starting, store, gate, cache_trouble, embedded, vouching, folder, members, chosen, shadow })
    }

    /// What it is at while it starts, and the word to give up.
    pub fn starting(&self) -> &Starting {
        &self.starting
    }

    /// What serves now and would not be taken up, each with its reason; and that access would be closed.
    pub fn refused(&self) -> &[String] {
        &self.chosen.refused
    }

    /// Decides from here on, and watches the folder.
    pub fn start(self) -> Result<PolicyHost, StartError> {
        let Self { config, starting, store, gate, cache_trouble, embedded, vouching, folder, members, chosen, shadow } =
            self;
        let store_wrong = |e: std::io::Error| StartError::Store { path: config.store_dir.clone(), why: e.to_string() };
        let remembered = store.remembered();
        // Another set may have begun to serve since.
        let chosen = if remembered.last_good == members {
            chosen
        } else {
            taken_up(folder.as_ref(), &gate, &store, &remembered, &vouching)
        };
        let refused = |refusal: Refusal| StartError::Embedded(refusal.to_string());
        let unclaimed = remembered.unclaimed();
        let mut first = Set::compose(&chosen.loaded, &embedded, unclaimed)
            .or_else(|_| Set::compose(&[], &embedded, unclaimed))
            .map_err(refused)?;
        let closed_by = remembered.closed.as_deref().map(Closure::parse).or(chosen.closed);
        first.closed_by = closed_by.unwrap_or(Closure::Forgotten);
        let known = remembered.pin.iter().flat_map(|pin| &pin.known).filter_map(|hex| Digest::from_hex(hex)).collect();
        if starting.is_given_up() {
            return Err(StartError::GivenUp);
        }
        let control = Control::new(embedded, first, config.clone(), store, &remembered, starting.clone());
        let control = Arc::new(control.map_err(refused)?);
        let spawned = |e: std::io::Error| StartError::Engine(format!("starting a thread: {e}"));
        let recorder = Recorder::start(&config.store_dir.join("decisions"), &config.decisions).map_err(store_wrong)?;
        let recorder = Arc::new(recorder);
        let decider = Decider::start(config.threads, config.queue.max(1)).map_err(spawned)?;
        let warden = Warden::start(Arc::clone(&control)).map_err(spawned)?;
        let swapper = Swapper::start(
            &config,
            Arc::clone(&gate),
            folder,
            Arc::clone(&control),
            known,
            Arc::clone(&vouching),
            Arc::clone(&recorder),
        )
        .map_err(spawned)?;
        let kept_shadow = KeptShadow::new(&config.store_dir);
        // Another one may have begun, or this one ended, since.
        let shadow = match (shadow, kept_shadow.read()) {
            (Some(taken), Some(kept)) if taken.kept == kept => Some(taken),
            (_, Some(_)) => kept_shadow.take(&gate, &vouching, &config.limits),
            (_, None) => None,
        };
        let begin = |Taken { loaded, papers, .. }: Taken| {
            Shadow::start(loaded, papers, config.breaker.clone(), Arc::clone(&recorder))
        };
        let shadow = shadow.map(begin).transpose().map_err(spawned)?;
        let host = PolicyHost {
            inner: Arc::new(Inner {
                control,
                decider,
                swapper,
                warden,
                recorder,
                gate,
                cache_trouble,
                past: parking_lot::Mutex::default(),
                shadow: parking_lot::Mutex::new(shadow),
                kept_shadow,
                vouching,
                plugins: config.plugins_dir.clone().map(|path| (path, config.clone())),
                breaker: config.breaker,
                limits: config.limits,
            }),
        };
        if starting.is_given_up() {
            // Its threads end with it; it has decided nothing.
            drop(host);
            return Err(StartError::GivenUp);
        }
        Ok(host)
    }
}

/// What a start goes on with. Without a folder nothing is chosen; but what had been chosen is missing then.
fn taken_up(
    folder: Option<&Folder>,
    gate: &Gate,
    store: &ContentStore,
    remembered: &Remembered,
    vouching: &Vouching,
) -> LastGood {
    let mut found = match folder {
        Some(_) => last_good(gate, store, remembered, vouching),
        None => LastGood::default(),
    };
    let answered = found.loaded.iter().any(|loaded| loaded.answers.contains(&Policy::Access));
    if answered || !remembered.access_chosen || remembered.closed.is_some() {
        found.closed = None;
        return found;
    }
    let why = match folder {
        None => Closure::NoFolder,
        Some(_) => found.closed.unwrap_or(Closure::Forgotten),
    };
    found.refused.push(format!("nothing would answer access, and everything would be denied: {}", why.as_str()));
    LastGood { closed: Some(why), ..found }
}

/// The set that served when the last run ended. Trouble with it is told and passed over: the folder and
/// the embedded defaults are there.
fn last_good(gate: &Gate, store: &ContentStore, remembered: &Remembered, vouching: &Vouching) -> LastGood {
    let mut found = LastGood::default();
    let mut sources = Vec::new();
    for member in &remembered.last_good {
        match store.source(member) {
            // Its signature is asked for anew: whose word counts may have changed since.
            Ok(source) if remembered.poisoned.contains(&source.identity().to_hex()) => {
                let refusal = taken_back(&source.file, &source.identity());
                tracing::error!(%refusal, "a policy of the last run is not taken up");
                found.refuse(&refusal);
            }
            Ok(mut source) => match vouching.vouch(&mut source) {
                Ok(()) => sources.push(source),
                Err(refusal) => {
                    tracing::error!(%refusal, "a policy of the last run is not taken up");
                    found.refuse(&refusal);
                }
            },
            Err(error) => {
                tracing::error!(file = %member.file, %error, "a policy of the last run cannot be read");
                found.refused.push(format!("{}: {error}", member.file));
            }
        }
    }
    for loaded in load_all(gate, sources) {
        match loaded {
            Ok(loaded) => found.loaded.push(loaded),
            Err(refusal) => {
                tracing::error!(%refusal, "a policy of the last run cannot be taken up");
                found.refuse(&refusal);
            }
        }
    }
    found
}

/// Each on a thread of its own, because a start waits for the slowest; in the order given.
fn load_all(gate: &Gate, sources: Vec<PolicySource>) -> Vec<Result<Arc<Loaded>, Refusal>> {
    std::thread::scope(|scope| {
        let load = |source: PolicySource| {
            let file = Arc::clone(&source.file);
            let thread = std::thread::Builder::new().name("policy-load".into());
            (file, thread.spawn_scoped(scope, move || gate.load(source).map(Arc::new)))
        };
        let loading: Vec<_> = sources.into_iter().map(load).collect();
        let failed = |file: &str| Refusal::new(RefusalCode::StartFailed, file, "no thread could load it");
        let loaded = |(file, thread): (Arc<str>, std::io::Result<std::thread::ScopedJoinHandle<'_, _>>)| {
            thread.ok().and_then(|thread| thread.join().ok()).unwrap_or_else(|| Err(failed(&file)))
        };
        loading.into_iter().map(loaded).collect()
    })
}
