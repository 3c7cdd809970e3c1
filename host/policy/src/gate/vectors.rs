//! Runs a component's own vectors: each on a fresh instance, then all on one that is used again, forwards
//! and backwards. Arguments and answers are WAVE text, read by the types of the exports, so that vectors
//! of any language are the same text. Invariant: what passed answered every vector three times alike.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde::Deserialize;
use wasmtime::component::{Func, Val};

use super::refusal::RefusalCode;
use crate::engine;
use crate::instance::{PolicyInstance, PolicyPre, classify, clip};
use crate::model::Policy;
use crate::packed;

/// Guessed: more belong into the author's own tests.
const VECTORS_MAX: usize = 500;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Vectors {
    vector: Vec<Vector>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Vector {
    pub(super) name: String,
    /// JSON; the vectors of a component do not depend on what an operator set.
    #[serde(default = "no_settings")]
    pub(super) settings: String,
    /// `access.decide`, `plugin.configure`, …
    pub(super) call: String,
    pub(super) args: Vec<String>,
    pub(super) expect: String,
}

/// A vector, read by the types of the instance it belongs to.
#[derive(Debug)]
pub(super) struct Question {
    function: Func,
    arguments: Vec<Val>,
    expected: Val,
}

/// What came of asking one vector once.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It cannot be asked: no such function, arguments of other types.
    Unusable(String),
    /// No answer.
    Failed(String),
    /// Another answer; both as WAVE text.
    Differs { answer: String, expected: String },
}

type Wrong = (RefusalCode, String);

/// Vectors that ask about every one of `answers`.
pub(super) fn read(answers: &[Policy], text: &str) -> Result<Vec<Vector>, String> {
    let vectors: Vectors = toml::from_str(text).map_err(|e| format!("vectors: {}", clip(e.message(), 256)))?;
    let vectors = vectors.vector;
    if vectors.len() > VECTORS_MAX {
        return Err(format!("there are more than {VECTORS_MAX} vectors"));
    }
    for policy in answers {
        let of = format!("{}.", policy.name());
        if !vectors.iter().any(|vector| vector.call.starts_with(&of)) {
            return Err(format!("no vector asks {policy}"));
        }
    }
    Ok(vectors)
}

pub(super) fn run(pre: &PolicyPre, answers: &[Policy], text: &str, deadline: Duration) -> Result<(), Wrong> {
    let vectors = read(answers, text).map_err(|message| (RefusalCode::VectorsMissing, message))?;
    let until = Instant::now() + deadline;
    for vector in &vectors {
        in_time(until)?;
        fresh(pre, vector).map_err(|trouble| trouble.refusal(vector, RefusalCode::VectorFailed))?;
    }
    for (vector, asked) in reused(pre, &vectors) {
        in_time(until)?;
        asked.map_err(|trouble| trouble.refusal(vector, RefusalCode::NotStateless))?;
    }
    Ok(())
}

/// On an instance of its own.
pub(super) fn fresh(pre: &PolicyPre, vector: &Vector) -> Result<(), Trouble> {
    ask(&mut configured(pre, &vector.settings)?, vector, pre.decide_deadline)
}

/// On one instance for all vectors of the same settings, there and back. Configuring again is not deciding again, so
/// vectors of `configure` are left out. Lazy: what is not taken is not asked.
pub(super) fn reused<'v>(
    pre: &PolicyPre,
    vectors: &'v [Vector],
) -> impl Iterator<Item = (&'v Vector, Result<(), Trouble>)> {
    let mut alike: BTreeMap<&str, Vec<&Vector>> = BTreeMap::new();
    for vector in vectors.iter().filter(|vector| vector.call != "plugin.configure") {
        alike.entry(&vector.settings).or_default().push(vector);
    }
    alike.into_iter().flat_map(move |(settings, group)| {
        let mut instance = configured(pre, settings);
        let back: Vec<_> = group.iter().rev().copied().collect();
        group.into_iter().chain(back).map(move |vector| {
            let asked = match &mut instance {
                Ok(instance) => ask(instance, vector, pre.decide_deadline),
                Err(trouble) => Err(Trouble::Failed(trouble.to_string())),
            };
            (vector, asked)
        })
    })
}

pub(super) fn configured(pre: &PolicyPre, settings: &str) -> Result<PolicyInstance, Trouble> {
    pre.instance(settings).map_err(|failure| Trouble::Failed(format!("configuring it: {}", failure.message)))
}

pub(super) fn ask(instance: &mut PolicyInstance, vector: &Vector, deadline: Duration) -> Result<(), Trouble> {
    let question = Question::read(instance, vector)?;
    let answer = question.put(instance, deadline)?;
    if answer != question.expected {
        let text = |val: &Val| val.to_wave().unwrap_or_else(|e| format!("{e:#}"));
        return Err(Trouble::Differs { answer: text(&answer), expected: text(&question.expected) });
    }
    if vector.call.starts_with("access.") && instance.answers_packed() {
        let packed = packed::of_vector(&question.arguments)
            .ok_or_else(|| Trouble::Unusable("no question of `access`".into()))?;
        let said = instance
            .packed(&vector.call, &packed)
            .map_err(|failure| Trouble::Failed(format!("packed: {} ({})", failure.message, failure.cause.as_str())))?;
        let expected = packed::expected(&question.expected);
        if Some(&said) != expected.as_ref() {
            let expected = format!("packed {:?}", expected.unwrap_or_default());
            return Err(Trouble::Differs { answer: format!("packed {said:?}"), expected });
        }
    }
    Ok(())
}

fn in_time(until: Instant) -> Result<(), Wrong> {
    if Instant::now() > until {
        return Err((RefusalCode::VectorFailed, "the vectors take too long together".into()));
    }
    Ok(())
}

fn no_settings() -> String {
    "{}".to_owned()
}

// === impl Question ===

impl Question {
    pub(super) fn read(instance: &mut PolicyInstance, vector: &Vector) -> Result<Self, Trouble> {
        let unusable = |message: String| Trouble::Unusable(clip(&message, 512));
        let (interface, function) =
            vector.call.split_once('.').ok_or_else(|| unusable("`call` must be INTERFACE.FUNCTION".into()))?;
        let export = instance.contract().export(interface);
        let (store, guest) = instance.raw();
        let function = guest
            .get_export_index(&mut *store, None, &export)
            .and_then(|at| guest.get_export_index(&mut *store, Some(&at), function))
            .and_then(|at| guest.get_func(&mut *store, at))
            .ok_or_else(|| unusable(format!("there is no function `{}`", vector.call)))?;
        let ty = function.ty(&*store);
        let parameters: Vec<_> = ty.params().map(|(_, ty)| ty).collect();
        if parameters.len() != vector.args.len() {
            return Err(unusable(format!("{} arguments where {} are taken", vector.args.len(), parameters.len())));
        }
        let mut arguments = Vec::with_capacity(parameters.len());
        for (n, (ty, text)) in parameters.iter().zip(&vector.args).enumerate() {
            arguments.push(Val::from_wave(ty, text).map_err(|e| unusable(format!("argument {n}: {e:#}")))?);
        }
        let result = ty.results().next().ok_or_else(|| unusable("the function has no result".into()))?;
        let expected = Val::from_wave(&result, &vector.expect).map_err(|e| unusable(format!("expect: {e:#}")))?;
        Ok(Self { function, arguments, expected })
    }

    /// One call.
    pub(super) fn put(&self, instance: &mut PolicyInstance, deadline: Duration) -> Result<Val, Trouble> {
        let (store, _) = instance.raw();
        engine::set_deadline(store, deadline);
        let mut answer = [Val::Bool(false)];
        self.function.call(&mut *store, &self.arguments, &mut answer).map_err(|error| {
            let failure = classify(&error, store);
            Trouble::Failed(format!("{} ({})", failure.message, failure.cause.as_str()))
        })?;
        let [answer] = answer;
        Ok(answer)
    }
}

// === impl Trouble ===

impl Trouble {
    /// `otherwise` is what a wrong answer means.
    fn refusal(self, vector: &Vector, otherwise: RefusalCode) -> Wrong {
        let code = match &self {
            Self::Unusable(_) => RefusalCode::VectorsMissing,
            Self::Failed(_) => RefusalCode::VectorFailed,
            Self::Differs { .. } => otherwise,
        };
        (code, format!("vector `{}`: {self}", clip(&vector.name, 64)))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable(message) | Self::Failed(message) => f.write_str(message),
            Self::Differs { answer, expected } => {
                write!(f, "it answers {}, not {}", clip(answer, 256), clip(expected, 256))
            }
        }
    }
}
