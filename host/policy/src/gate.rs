//! What stands between a file and a decision: the bytes are compiled, their imports and exports read,
//! the component asked who it is, its settings checked, its own vectors run. All off to the side. Knows
//! no folder and no generation. Invariant: what comes out answers as its vectors say, each time.

mod refusal;
mod schema;
mod survey;
mod vectors;
mod workbench;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use wasmtime::component::Component;

use crate::cache::CompileCache;
use crate::config::PolicyConfig;
use crate::contract::{Contract, Description, Exports, Unusable};
use crate::counters::PhaseCounters;
use crate::engine::{self, Engines};
use crate::failure::BreakerState;
use crate::instance::{AnswerLimits, CallFailure, PolicyPre, PolicySource, clip};
use crate::model::*;
use crate::quick::Quickness;
use crate::starting::Starting;
use crate::words::Patience;

use survey::Survey;

pub use refusal::{Refusal, RefusalCode};
pub use workbench::{Cost, Inspection, Tried, Wanted, Workbench};

/// A component that passed, with its settings; immutable and shared by the generations it is part of.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) source: PolicySource,
    pub(crate) pre: PolicyPre,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) contract: Contract,
    pub(crate) rules: Vec<Arc<str>>,
    pub(crate) answers: Vec<Policy>,
    /// Its notable imports, without versions.
    pub(crate) imports: BTreeSet<String>,
    pub(crate) counters: PhaseCounters,
    pub(crate) breaker: BreakerState,
    pub(crate) quickness: Quickness,
    pub(crate) patience: Patience,
}

/// The gate of one process.
#[derive(Debug)]
pub(crate) struct Gate {
    engines: Arc<Engines>,
    cache: CompileCache,
    config: PolicyConfig,
    /// A compilation that nobody waits for any more, and when its time is over. It cannot be stopped; while it lasts, no
    /// other is begun.
    overdue: Mutex<Option<(JoinHandle<()>, Instant)>>,
    starting: Starting,
}

/// First bytes of a component in binary form; a core module differs in the last four.
const MAGIC: [u8; 8] = *b"\0asm\x0d\0\x01\0";
/// Guessed: names and rules are for tables that people read.
const NAME_BYTES_MAX: usize = 64;
const RULES_MAX: usize = 256;
/// A rule's words: as long as a reason may be by default, which they stand for.
const RULE_TEXT_BYTES_MAX: usize = 256;
/// The compiler recurses.
const COMPILE_STACK_BYTES: usize = 8 << 20;
const STOPPING: &str = "the gateway is stopping";
/// How soon whoever waits for the compiler sees that the gateway stops.
const HALT_SEEN: Duration = Duration::from_millis(20);
/// How soon he sees that nobody needs it any more; that may mean reading the file.
const MOOT_SEEN: Duration = Duration::from_millis(100);
const COMPILER_BUSY: &str =
    "another component is still being compiled, long after its time; this one is tried when that ends";
const MOOT: &str = "the folder says otherwise by now, so nobody waits for it to be compiled";

// === impl Gate ===

impl Gate {
    pub(crate) fn new(engines: Arc<Engines>, cache: CompileCache, config: PolicyConfig) -> Self {
        Self::of_start(engines, cache, config, Starting::default())
    }

    pub(crate) fn of_start(
        engines: Arc<Engines>,
        cache: CompileCache,
        config: PolicyConfig,
        starting: Starting,
    ) -> Self {
        Self { engines, cache, config, overdue: Mutex::new(None), starting }
    }

    /// Nothing passes any more. A compilation under way is left to the end of the process: it writes nothing.
    pub(crate) fn halt(&self) {
        self.starting.give_up();
    }

    /// The whole way for one component. Whatever it sets off here, whoever watches the folder goes on.
    pub(crate) fn load(&self, source: PolicySource) -> Result<Loaded, Refusal> {
        self.load_unless(source, &|| false)
    }

    /// The same, as `Compiling` if nobody needs it any more while it is being compiled.
    pub(crate) fn load_unless(&self, source: PolicySource, is_moot: &dyn Fn() -> bool) -> Result<Loaded, Refusal> {
        let file = Arc::clone(&source.file);
        catch_unwind(AssertUnwindSafe(|| self.pass(source, is_moot))).unwrap_or_else(|_told| {
            let message = "the gateway itself failed while it judged it; its log says where";
            Err(Refusal::new(RefusalCode::StartFailed, &file, message))
        })
    }

    /// The compiler is at something that nobody waits for.
    pub(crate) fn is_compiling(&self) -> bool {
        self.overdue.lock().as_ref().is_some_and(|(thread, _)| !thread.is_finished())
    }

    fn pass(&self, source: PolicySource, is_moot: &dyn Fn() -> bool) -> Result<Loaded, Refusal> {
        let (loaded, description) = self.prepare(source, is_moot)?;
        if self.starting.is_given_up() {
            return Err(Refusal::new(RefusalCode::StartFailed, &loaded.source.file, STOPPING));
        }
        vectors::run(&loaded.pre, &loaded.answers, &description.vectors, self.config.deadlines.vectors)
            .map_err(|(code, message)| Refusal::new(code, &loaded.source.file, message))?;
        Ok(loaded)
    }

    /// The way up to its vectors.
    fn prepare(&self, source: PolicySource, is_moot: &dyn Fn() -> bool) -> Result<(Loaded, Description), Refusal> {
        let refuse = |code, message: String| Refusal::new(code, &source.file, message);
        if source.bytes.is_empty() {
            return Err(refuse(RefusalCode::NotAComponent, "the file is empty".into()));
        }
        if source.bytes.get(..8) != Some(&MAGIC[..]) {
            let what = if source.bytes.starts_with(b"\0asm") { "a core module" } else { "no WebAssembly" };
            return Err(refuse(RefusalCode::NotAComponent, format!("the file is {what}, not a component")));
        }
        let unusable = |wrong| match wrong {
            Unusable::Unknown(message) => refuse(RefusalCode::ContractUnknown, message),
            Unusable::Mismatch(message) => refuse(RefusalCode::ContractMismatch, message),
        };
        // What is no policy, or too much to compile, is not compiled to find that out.
        let survey =
            Survey::of(&source.bytes).map_err(|message| refuse(RefusalCode::CompileFailed, clip(&message, 512)))?;
        check_imports(survey.imports.iter().map(String::as_str))
            .map_err(|message| refuse(RefusalCode::ImportForbidden, message))?;
        Exports::check_names(survey.exports.iter().map(String::as_str)).map_err(unusable)?;
        let (component, allocation) = self.compile(&source, is_moot)?;
        let ty = component.component_type();
        check_imports(ty.imports(component.engine()).map(|(name, _)| name))
            .map_err(|message| refuse(RefusalCode::ImportForbidden, message))?;
        let exports = Exports::of(&component).map_err(unusable)?;
        let pre = self
            .engines
            .linker(allocation)
            .instantiate_pre(&component)
            .map_err(|error| refuse(RefusalCode::ImportForbidden, format!("{error:#}")))?;
        let (contract, answers) = (exports.contract, exports.answers.clone());
        let mut pre = PolicyPre {
            engines: Arc::clone(&self.engines),
            pre,
            exports,
            limits: AnswerLimits {
                rules: 0,
                reason_bytes_max: self.config.limits.reason_bytes_max,
                tags_max: 4096,
                tag_bytes_max: 512,
            },
            rule_texts: Arc::default(),
            configure_deadline: self.config.deadlines.configure,
            decide_deadline: self.config.deadlines.decide,
        };
        let description = self.describe(&pre, &source)?;
        pre.limits.rules = description.rules.len() as u16;
        pre.rule_texts = description.rules.iter().map(|rule| Arc::from(&*rule.text)).collect();
        schema::check(&description.settings_schema, &source.settings).map_err(|wrong| match wrong {
            schema::Wrong::Schema(message) => refuse(RefusalCode::SchemaInvalid, message),
            schema::Wrong::Settings(message) => refuse(RefusalCode::SettingsInvalid, message),
        })?;
        self.configure(&pre, &source)?;
        let loaded = Loaded {
            pre,
            name: description.name.clone(),
            version: description.version.clone(),
            contract,
            rules: description.rules.iter().map(|rule| Arc::from(&*rule.name)).collect(),
            answers,
            imports: notable_imports(&component),
            counters: PhaseCounters::default(),
            breaker: BreakerState::new(&self.config.breaker),
            quickness: Quickness::default(),
            patience: Patience::default(),
            source,
        };
        Ok((loaded, description))
    }

    fn compile(
        &self,
        source: &PolicySource,
        is_moot: &dyn Fn() -> bool,
    ) -> Result<(Component, engine::Allocation), Refusal> {
        if let Some(found) = self.cache.load(&self.engines, &source.digest) {
            return Ok(found);
        }
        let compiled = {
            let _told = self.starting.compile(&source.file);
            self.compile_in_time(&source.bytes, is_moot)
                .map_err(|(code, message)| Refusal::new(code, &source.file, clip(&message, 512)))?
        };
        self.cache.keep(&self.engines, &source.digest, &compiled);
        // SAFETY: `compiled` was made by this engine a line above.
        unsafe { self.engines.load(&compiled) }
            .map_err(|error| Refusal::new(RefusalCode::CompileFailed, &source.file, clip(&format!("{error:#}"), 512)))
    }

    /// On a thread of its own: no epoch reaches the compiler, and small components can be made that
    /// keep it busy for minutes.
    fn compile_in_time(&self, bytes: &Arc<[u8]>, is_moot: &dyn Fn() -> bool) -> Result<Vec<u8>, (RefusalCode, String)> {
        self.until_free(is_moot)?;
        let failed = |message: String| (RefusalCode::CompileFailed, message);
        let deadline =
            self.config.deadlines.compile + self.config.deadlines.compile_per_mib * (bytes.len() >> 20) as u32;
        let (engines, bytes) = (Arc::clone(&self.engines), Arc::clone(bytes));
        let (done, compiled) = std::sync::mpsc::sync_channel(1);
        let compile = move || {
            engine::give_way();
            drop(done.send(engines.compile(&bytes)));
        };
        let thread = std::thread::Builder::new().name("policy-compile".into()).stack_size(COMPILE_STACK_BYTES);
        let thread = thread.spawn(compile).map_err(|e| failed(format!("starting a thread: {e}")))?;
        let begun = Instant::now();
        let (end, mut looks) = (begun + deadline, 1);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match compiled.recv_timeout(left.min(HALT_SEEN)) {
                _ if self.starting.is_given_up() => return Err(failed(STOPPING.to_owned())),
                Ok(compiled) => return compiled.map_err(|error| failed(format!("{error:#}"))),
                Err(RecvTimeoutError::Disconnected) => return Err(failed("the compiler gave up".to_owned())),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    *self.overdue.lock() = Some((thread, end));
                    return Err(failed(format!("compiling it takes longer than {} s", deadline.as_secs())));
                }
                Err(RecvTimeoutError::Timeout) if begun.elapsed() >= MOOT_SEEN * looks => {
                    looks += 1;
                    if is_moot() {
                        *self.overdue.lock() = Some((thread, end));
                        return Err((RefusalCode::Compiling, MOOT.to_owned()));
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// What was given up in its time is likely to end soon, and is waited for; what is beyond it is not.
    fn until_free(&self, is_moot: &dyn Fn() -> bool) -> Result<(), (RefusalCode, String)> {
        while self.is_compiling() {
            if self.overdue.lock().as_ref().is_some_and(|(_, end)| Instant::now() >= *end) {
                return Err((RefusalCode::Compiling, COMPILER_BUSY.to_owned()));
            }
            if self.starting.is_given_up() {
                return Err((RefusalCode::CompileFailed, STOPPING.to_owned()));
            }
            if is_moot() {
                return Err((RefusalCode::Compiling, MOOT.to_owned()));
            }
            std::thread::sleep(MOOT_SEEN);
        }
        Ok(())
    }

    fn describe(&self, pre: &PolicyPre, source: &PolicySource) -> Result<Description, Refusal> {
        let refuse = |code, message: String| Refusal::new(code, &source.file, message);
        let failed = |failure: CallFailure| {
            refuse(RefusalCode::DescribeFailed, format!("describe: {} ({})", failure.message, failure.cause.as_str()))
        };
        let mut instance = pre.instantiate().map_err(|failure| match failure.cause {
            FailureCause::BadAnswer => refuse(RefusalCode::ContractMismatch, failure.message),
            FailureCause::Host => refuse(RefusalCode::StartFailed, failure.message),
            _ => failed(failure),
        })?;
        let description = instance.describe(self.config.deadlines.configure).map_err(failed)?;
        let wrong = |what: &str| Err(refuse(RefusalCode::DescribeFailed, format!("describe: {what}")));
        let short = |text: &str| !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control);
        if !short(&description.name) {
            return wrong("the name is empty, too long or not printable");
        }
        if !is_version(&description.version) {
            return wrong("the version is not MAJOR.MINOR.PATCH");
        }
        if description.rules.len() > RULES_MAX || !description.rules.iter().all(|rule| short(&rule.name)) {
            return wrong("there are more than 256 rules, or a rule's name is empty, too long or not printable");
        }
        if pre.exports.contract.needs_rules() && description.rules.is_empty() {
            return wrong("there is no rule, and every answer names one");
        }
        let text = |text: &str| text.len() <= RULE_TEXT_BYTES_MAX && !text.contains(char::is_control);
        if !description.rules.iter().all(|rule| text(&rule.text)) {
            return wrong("a rule's text is too long or not printable");
        }
        Ok(description)
    }

    fn configure(&self, pre: &PolicyPre, source: &PolicySource) -> Result<(), Refusal> {
        let mut instance = pre.instantiate().map_err(|failure| {
            let is_hosts = failure.cause == FailureCause::Host;
            let code = if is_hosts { RefusalCode::StartFailed } else { RefusalCode::DescribeFailed };
            Refusal::new(code, &source.file, failure.message)
        })?;
        match instance.configure(&source.settings, self.config.deadlines.configure) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(message)) => Err(Refusal::new(RefusalCode::SettingsInvalid, &source.file, message)),
            Err(failure) => Err(Refusal::new(
                RefusalCode::ConfigureFailed,
                &source.file,
                format!("configure: {} ({})", failure.message, failure.cause.as_str()),
            )),
        }
    }
}

fn check_imports<'a>(names: impl Iterator<Item = &'a str>) -> Result<(), String> {
    for name in names {
        if !engine::is_inert_import(name) {
            let hint = if name.starts_with("wasi:sockets/") || name.starts_with("wasi:http/") {
                "a policy has no network"
            } else {
                "only the inert parts of WASI 0.2 are offered"
            };
            return Err(format!("it imports `{}`: {hint}", clip(name, 128)));
        }
    }
    Ok(())
}

fn notable_imports(component: &Component) -> BTreeSet<String> {
    let ty = component.component_type();
    let names = ty.imports(component.engine()).map(|(name, _)| name).filter(|name| engine::is_notable_import(name));
    names.map(|name| name.split_once('@').map_or(name, |(name, _)| name).to_owned()).collect()
}

fn is_version(text: &str) -> bool {
    let core = text.split(['-', '+']).next().unwrap_or("");
    text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_graphic())
        && core.split('.').count() == 3
        && core.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded;

    #[test]
    fn a_stop_waits_for_no_compiler() {
        let dir = tempfile::tempdir().expect("tempdir");
        let config = PolicyConfig::new(dir.path());
        let engines = Arc::new(Engines::new(&config.limits, config.threads).expect("engines"));
        let gate = Gate::new(engines, CompileCache::open(dir.path(), 1 << 30).expect("cache"), config);
        // Of a kind that keeps the compiler busy for much longer than the word to stop takes.
        let body = "(local.set 0 (i32.mul (local.get 0) (i32.add (local.get 0) (i32.const 7))))".repeat(300);
        let functions = format!("(func (param i32) (result i32) {body} (local.get 0))").repeat(2_000);
        let exports =
            ["plugin", "access"].map(|name| format!("(export \"tidegate:policy/{name}@0.2.0\" (instance $i))"));
        let text = format!("(component (core module {functions}) (instance $i) {})", exports.concat());
        let bytes = wat::parse_str(text).expect("a component");
        let source = PolicySource::new("busy", "busy.wasm", false, bytes.into(), "{}");
        let refused = std::thread::scope(|scope| {
            let loading = scope.spawn(|| gate.load(source));
            gate.halt();
            loading.join().expect("no panic").expect_err("it stops")
        });
        assert_eq!(refused.message, STOPPING);
        let cached = std::fs::read_dir(dir.path().join("cache")).map_or(0, Iterator::count);
        assert_eq!(cached, 0, "what was being compiled is written nowhere");
    }

    // shows: X-05
    #[test]
    fn compiling_ends_in_time_and_overdue_ones_do_not_pile_up() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut config = PolicyConfig::new(dir.path());
        config.deadlines.compile = Duration::ZERO;
        let engines = Arc::new(Engines::new(&config.limits, config.threads).expect("engines"));
        let mut gate = Gate::new(engines, CompileCache::open(dir.path(), 1 << 30).expect("cache"), config);
        let source = || embedded::sources().next().expect("access");
        let refused = gate.load(source()).expect_err("no time at all");
        assert_eq!(refused.code, RefusalCode::CompileFailed);
        assert!(refused.message.contains("longer"), "{refused}");
        gate.config.deadlines.compile = Duration::from_secs(60);
        let busy = gate.is_compiling();
        let again = gate.load(source());
        assert!(!busy || again.is_ok() || again.is_err_and(|refused| refused.code == RefusalCode::Compiling));
        let end = Instant::now() + Duration::from_secs(60);
        while gate.load(source()).is_err() {
            assert!(Instant::now() < end, "the overdue one never ends");
            std::thread::yield_now();
        }
    }
}
