//! Runs a component's own vectors: each on a fresh instance, then all on one that is used again, forwards
//! and backwards. Arguments and answers are WAVE text, read by the types of the exports, so that vectors
//! of any language are the same text. Invariant: what passed answered every vector three times alike.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use wasmtime::component::Val;

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
struct Vector {
    name: String,
    /// JSON; the vectors of a component do not depend on what an operator set.
    #[serde(default = "no_settings")]
    settings: String,
    /// `access.decide`, `plugin.configure`, …
    call: String,
    args: Vec<String>,
    expect: String,
}

type Wrong = (RefusalCode, String);

pub(super) fn run(pre: &PolicyPre, answers: &[Policy], text: &str, deadline: Duration) -> Result<(), Wrong> {
    let missing = |message: String| (RefusalCode::VectorsMissing, message);
    let vectors: Vectors = toml::from_str(text).map_err(|e| missing(format!("vectors: {}", clip(e.message(), 256))))?;
    let vectors = vectors.vector;
    if vectors.len() > VECTORS_MAX {
        return Err(missing(format!("there are more than {VECTORS_MAX} vectors")));
    }
    for policy in answers {
        let of = format!("{}.", policy.name());
        if !vectors.iter().any(|vector| vector.call.starts_with(&of)) {
            return Err(missing(format!("no vector asks {policy}")));
        }
    }
    let until = Instant::now() + deadline;
    for vector in &vectors {
        let mut fresh = configured(pre, &vector.settings, vector)?;
        ask(&mut fresh, vector, RefusalCode::VectorFailed, pre.decide_deadline, until)?;
    }
    // One instance for all vectors of the same settings; configuring again is not deciding again.
    let mut alike: BTreeMap<&str, Vec<&Vector>> = BTreeMap::new();
    for vector in vectors.iter().filter(|vector| vector.call != "plugin.configure") {
        alike.entry(&vector.settings).or_default().push(vector);
    }
    for (settings, group) in alike {
        let mut reused = configured(pre, settings, group[0])?;
        for vector in group.iter().chain(group.iter().rev()) {
            ask(&mut reused, vector, RefusalCode::NotStateless, pre.decide_deadline, until)?;
        }
    }
    Ok(())
}

fn configured(pre: &PolicyPre, settings: &str, vector: &Vector) -> Result<PolicyInstance, Wrong> {
    pre.instance(settings).map_err(|failure| {
        (RefusalCode::VectorFailed, format!("vector `{}`: configuring it: {}", clip(&vector.name, 64), failure.message))
    })
}

/// `otherwise` is what a wrong answer means.
fn ask(
    instance: &mut PolicyInstance,
    vector: &Vector,
    otherwise: RefusalCode,
    deadline: Duration,
    until: Instant,
) -> Result<(), Wrong> {
    let name = clip(&vector.name, 64);
    let failed = |message: String| (otherwise, format!("vector `{name}`: {}", clip(&message, 700)));
    let unusable = |message: String| (RefusalCode::VectorsMissing, format!("vector `{name}`: {}", clip(&message, 512)));
    if Instant::now() > until {
        return Err((RefusalCode::VectorFailed, "the vectors take too long together".into()));
    }
    let (interface, function) =
        vector.call.split_once('.').ok_or_else(|| unusable("`call` must be INTERFACE.FUNCTION".into()))?;
    let (store, guest) = instance.raw();
    let export = format!("tidegate:policy/{interface}@{}", super::CONTRACT);
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
    engine::set_deadline(store, deadline);
    let mut answer = [Val::Bool(false)];
    if let Err(error) = function.call(&mut *store, &arguments, &mut answer) {
        let failure = classify(&error, store);
        return Err((
            RefusalCode::VectorFailed,
            format!("vector `{name}`: {} ({})", failure.message, failure.cause.as_str()),
        ));
    }
    if answer[0] != expected {
        let text = |val: &Val| val.to_wave().unwrap_or_else(|e| format!("{e:#}"));
        return Err(failed(format!(
            "it answers {}, not {}",
            clip(&text(&answer[0]), 256),
            clip(&text(&expected), 256)
        )));
    }
    if interface == "access" && instance.answers_packed() {
        let question = packed::of_vector(&arguments).ok_or_else(|| unusable("no question of `access`".into()))?;
        let said = instance.packed(&vector.call, &question).map_err(|failure| {
            let (message, cause) = (failure.message, failure.cause.as_str());
            (RefusalCode::VectorFailed, format!("vector `{name}`, packed: {message} ({cause})"))
        })?;
        if Some(&said) != packed::expected(&expected).as_ref() {
            return Err(failed(format!("packed, it answers {}, not as `access`", clip(&format!("{said:?}"), 256))));
        }
    }
    Ok(())
}

fn no_settings() -> String {
    "{}".to_owned()
}
