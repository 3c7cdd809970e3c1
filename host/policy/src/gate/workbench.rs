//! The gate for authors: a component alone, without a folder and a gateway, on the engine that a gateway runs. Every
//! vector is tried instead of stopping at the first that is wrong, and what a call costs is measured. Knows no
//! project and no language. Invariant: what `inspect` lets through, a gateway with the same limits lets through.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::vectors::{self, Question, Trouble, Vector};
use super::{Gate, Loaded};
use crate::cache::CompileCache;
use crate::config::PolicyConfig;
use crate::engine::Engines;
use crate::gate::{Refusal, RefusalCode};
use crate::instance::PolicySource;
use crate::model::*;

/// Engines and a compile cache of their own.
#[derive(Debug)]
pub struct Workbench {
    gate: Gate,
    config: PolicyConfig,
}

/// What a component that passed the gate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    pub name: String,
    /// MAJOR.MINOR.PATCH
    pub version: String,
    /// Of the contract it keeps.
    pub contract: &'static str,
    pub answers: Vec<Policy>,
    /// Names.
    pub rules: Vec<String>,
    /// What they say; empty where the contract has no words for them.
    pub rule_texts: Vec<String>,
    /// JSON Schema; empty: it takes no settings.
    pub settings_schema: String,
    /// TOML
    pub vectors: String,
    /// Imports that mean something elsewhere and are inert here (time, randomness, files), without versions.
    pub imports: Vec<String>,
    /// SHA-256 of the bytes.
    pub digest: Digest,
    pub bytes: usize,
    /// Compiling, describing, configuring and all vectors, microseconds.
    pub gate_us: u64,
}

/// One vector, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    pub name: String,
    /// `access.decide`, …
    pub call: String,
    /// WAVE text.
    pub args: Vec<String>,
    /// JSON
    pub settings: String,
    /// None: as it should be, alone and after the others, in both orders.
    pub wrong: Option<Wanted>,
}

/// What is wrong about a vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Expected and answered, WAVE text. `reused`: it answered rightly when asked first, so it remembers something.
    Otherwise { expected: String, answer: String, reused: bool },
    /// No answer, and why.
    Answer(String),
}

/// What one vector costs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    pub name: String,
    /// One call with its arguments and answer, nanoseconds, by the clock.
    pub ns_median: u64,
    pub ns_p99: u64,
    /// Instructions in wasmtime's fuel: the same on every machine and in every run.
    pub fuel: u64,
}

// === impl Workbench ===

impl Workbench {
    /// `store`: a private folder for compiled code.
    pub fn new(store: &Path) -> Result<Self, Refusal> {
        Self::with(PolicyConfig::new(store))
    }

    fn with(config: PolicyConfig) -> Result<Self, Refusal> {
        let failed = |error: String| Refusal::new(RefusalCode::StartFailed, "the workbench", error);
        let engines = Engines::new(&config.limits, config.threads).map_err(|e| failed(format!("{e:#}")))?;
        let cache = CompileCache::open(&config.store_dir, config.cache_bytes_max).map_err(|e| failed(e.to_string()))?;
        Ok(Self { gate: Gate::new(Arc::new(engines), cache, config.clone()), config })
    }

    /// The whole gate, as at a swap.
    pub fn inspect(&self, file: &str, bytes: &[u8], settings: &str) -> Result<Inspection, Refusal> {
        self.inspected(self.source(file, bytes, settings)?)
    }

    /// The same for settings that stand alone in a folder, `NAME.toml` or `NAME.json`, for the embedded policy of that
    /// name; JSON as `settings_json` makes it.
    pub fn inspect_settings(&self, file: &str, settings: &str) -> Result<Inspection, Refusal> {
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
        let source = crate::embedded::configured(stem, file, settings).ok_or_else(|| {
            let known: Vec<&str> = Policy::ALL.into_iter().map(Policy::name).collect();
            let message = format!(
                "settings alone are for an embedded policy, and none is called {stem} (there are {}); a component's own \
                 are checked with it: `policy check {stem}.wasm --settings {file}`",
                known.join(", ")
            );
            Refusal::new(RefusalCode::SettingsInvalid, file, message)
        })?;
        self.inspected(source)
    }

    fn inspected(&self, source: PolicySource) -> Result<Inspection, Refusal> {
        let began = Instant::now();
        let loaded = self.gate.load(source)?;
        let gate_us = began.elapsed().as_micros() as u64;
        let described = self.describe(&loaded)?;
        Ok(Inspection {
            name: loaded.name,
            version: loaded.version,
            contract: loaded.contract.name(),
            answers: loaded.answers,
            rules: loaded.rules.iter().map(|name| name.to_string()).collect(),
            rule_texts: loaded.pre.rule_texts.iter().map(|text| text.to_string()).collect(),
            settings_schema: described.settings_schema,
            vectors: described.vectors,
            imports: loaded.imports.into_iter().collect(),
            digest: loaded.source.digest,
            bytes: loaded.source.bytes.len(),
            gate_us,
        })
    }

    /// Version of the contract that it keeps.
    pub fn contract(&self, file: &str, bytes: &[u8]) -> Result<&'static str, Refusal> {
        Ok(self.gate.prepare(self.source(file, bytes, "{}")?, &|| false)?.0.contract.name())
    }

    /// Every vector: on a fresh instance, then on one that answers all, there and back. `vectors`: those of the component
    /// itself if absent. Gives the names of its rules, too.
    pub fn test(&self, file: &str, bytes: &[u8], vectors: Option<&str>) -> Result<(Vec<Tried>, Vec<String>), Refusal> {
        let (loaded, vectors) = self.prepared(file, bytes, vectors)?;
        let mut tried: Vec<Tried> = vectors
            .iter()
            .map(|vector| Tried {
                name: vector.name.clone(),
                call: vector.call.clone(),
                args: vector.args.clone(),
                settings: vector.settings.clone(),
                wrong: vectors::fresh(&loaded.pre, vector).err().map(|trouble| wanted(trouble, false)),
            })
            .collect();
        let at: BTreeMap<*const Vector, usize> = vectors.iter().enumerate().map(|(n, v)| (&raw const *v, n)).collect();
        for (vector, asked) in vectors::reused(&loaded.pre, &vectors) {
            if let (Some(n), Err(trouble)) = (at.get(&(&raw const *vector)), asked) {
                tried[*n].wrong.get_or_insert_with(|| wanted(trouble, true));
            }
        }
        Ok((tried, loaded.rules.iter().map(|rule| rule.to_string()).collect()))
    }

    /// Asks each vector `rounds` times on one instance, after as many to warm it.
    pub fn bench(&self, file: &str, bytes: &[u8], vectors: Option<&str>, rounds: usize) -> Result<Vec<Cost>, Refusal> {
        let mut metered = self.config.clone();
        metered.limits.metered = true;
        let metered = Self::with(metered)?;
        let (with_fuel, _) = metered.prepared(file, bytes, vectors)?;
        let (loaded, vectors) = self.prepared(file, bytes, vectors)?;
        let refuse = |vector: &Vector, trouble: Trouble| {
            Refusal::new(RefusalCode::VectorFailed, file, format!("vector `{}`: {trouble}", vector.name))
        };
        let mut costs = Vec::new();
        for vector in vectors.iter().filter(|vector| vector.call != "plugin.configure") {
            let wrong = |trouble| refuse(vector, trouble);
            let deadline = self.config.deadlines.decide;
            let mut counted = vectors::configured(&with_fuel.pre, &vector.settings).map_err(wrong)?;
            // A wrong answer is not worth measuring; and the first call sets up what later ones find.
            vectors::ask(&mut counted, vector, deadline).map_err(wrong)?;
            let question = Question::read(&mut counted, vector).map_err(wrong)?;
            let before = counted.fuel_used();
            question.put(&mut counted, deadline).map_err(wrong)?;
            let fuel = counted.fuel_used() - before;
            let mut instance = vectors::configured(&loaded.pre, &vector.settings).map_err(wrong)?;
            let question = Question::read(&mut instance, vector).map_err(wrong)?;
            let mut times = Vec::with_capacity(rounds);
            for round in 0..rounds * 2 {
                let began = Instant::now();
                question.put(&mut instance, deadline).map_err(wrong)?;
                if round >= rounds {
                    times.push(began.elapsed().as_nanos() as u64);
                }
            }
            times.sort_unstable();
            let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or_default();
            costs.push(Cost { name: vector.name.clone(), ns_median: at(50), ns_p99: at(99), fuel });
        }
        Ok(costs)
    }

    fn prepared(&self, file: &str, bytes: &[u8], own: Option<&str>) -> Result<(Loaded, Vec<Vector>), Refusal> {
        let (loaded, description) = self.gate.prepare(self.source(file, bytes, "{}")?, &|| false)?;
        let missing = |message| Refusal::new(RefusalCode::VectorsMissing, file, message);
        let vectors = vectors::read(&loaded.answers, own.unwrap_or(&description.vectors)).map_err(missing)?;
        Ok((loaded, vectors))
    }

    fn source(&self, file: &str, bytes: &[u8], settings: &str) -> Result<PolicySource, Refusal> {
        let max = self.config.limits.component_bytes_max;
        if bytes.len() as u64 > max {
            let message = format!("the file has {} bytes, more than {max}", bytes.len());
            return Err(Refusal::new(RefusalCode::TooLarge, file, message));
        }
        let stem = file.strip_suffix(".wasm").unwrap_or(file);
        Ok(PolicySource::new(stem, file, false, Arc::from(bytes), settings))
    }

    fn describe(&self, loaded: &Loaded) -> Result<crate::contract::Description, Refusal> {
        let described = loaded.pre.instantiate().and_then(|mut guest| guest.describe(self.config.deadlines.configure));
        described.map_err(|failure| Refusal::new(RefusalCode::DescribeFailed, &loaded.source.file, failure.message))
    }
}

fn wanted(trouble: Trouble, reused: bool) -> Wanted {
    match trouble {
        Trouble::Differs { answer, expected } => Wanted::Otherwise { expected, answer, reused },
        Trouble::Unusable(message) | Trouble::Failed(message) => Wanted::Answer(message),
    }
}
