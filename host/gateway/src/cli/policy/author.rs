//! The author's bench: a project from a template, built, tried on the gateway's own engine, measured, and taken into a
//! folder at each change. Needs no gateway. Invariant: what `check` lets through, a gateway with default limits lets
//! through; nothing but a component that passed reaches a plugins folder.

use super::{
    build,
    project::{Kind, Language, Project},
};
use crate::cli::{Usage, files, output};
use anyhow::{Context as _, ensure};
use clap::Args;
use serde_json::{Value as Json, json};
use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tidegate_policy::{Cost, Inspection, Tried, Wanted, Workbench, settings_json};

/// Make a project.
#[derive(Args, Debug)]
pub struct New {
    /// Of the policy: a to z, digits, inner dashes.
    name: String,
    /// Which question it answers.
    #[arg(long, value_enum)]
    kind: Kind,
    /// What it is written in.
    #[arg(long, value_enum, default_value = "rust")]
    lang: Language,
    /// Where; absent: a folder of that name here.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// One project.
#[derive(Args, Debug)]
pub struct Of {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// A project or a component.
#[derive(Args, Debug)]
pub struct Test {
    /// A project's folder (what `build` made of it), or a component.
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    of: PathBuf,
    /// Vectors as TOML; absent: the project's `vectors.toml`, or those in the component.
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// A component, with settings.
#[derive(Args, Debug)]
pub struct Check {
    /// A project's folder, a component, or settings for the embedded policy of that name (access.toml).
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    of: PathBuf,
    /// Settings as they would stand beside it, TOML or JSON.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What to measure.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// A project's folder, or a component.
    #[arg(default_value = ".", value_name = "DIR|FILE")]
    of: PathBuf,
    /// Calls of each vector.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rounds: u32,
    /// Vectors as TOML; absent: the project's `vectors.toml`, or those in the component.
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,
    /// An older component; its cost for the same vectors is the measure.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// How much more fuel than the older one a vector may take, such as 10%; more fails the command.
    #[arg(long, value_name = "PERCENT", requires = "against", value_parser = percent)]
    max_regress: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What to watch.
#[derive(Args, Debug)]
pub struct Watch {
    /// The project's folder.
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// A plugins folder that gets each component that passed; made if it is not there.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// End after the first build.
    #[arg(long)]
    once: bool,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// A component, the vectors to put to it, and the name its errors carry.
struct Subject {
    file: String,
    bytes: Vec<u8>,
    vectors: Option<String>,
}

/// Between two looks at a project's files.
const LOOK: Duration = Duration::from_millis(300);

pub(super) fn new(args: &New) -> anyhow::Result<()> {
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let project = Project::create(&args.name, args.kind, args.lang, &dir)?;
    if args.json {
        output::line(json!({ "name": project.name, "dir": dir, "component": project.component() }))?;
        return Ok(());
    }
    let shown = dir.display();
    output::line(format_args!(
        "made {shown}\n\n  tidegate policy build {shown}\n  tidegate policy test {shown}\n  tidegate policy watch {shown} \
         --into plugins.d"
    ))?;
    Ok(())
}

pub(super) fn build(args: &Of) -> anyhow::Result<()> {
    let made = build::build(&Project::open(&args.dir)?)?;
    let bytes = fs::metadata(&made)?.len();
    if args.json {
        output::line(json!({ "component": made, "bytes": bytes }))?;
    } else {
        output::line(format_args!("{} ({bytes} bytes)", made.display()))?;
    }
    Ok(())
}

pub(super) fn test(args: &Test) -> anyhow::Result<()> {
    let subject = Subject::read(&args.of, args.vectors.as_deref())?;
    let store = tempfile::tempdir()?;
    let bench = Workbench::new(store.path())?;
    let (tried, rules) = bench.test(&subject.file, &subject.bytes, subject.vectors.as_deref())?;
    let wrong = tried.iter().filter(|one| one.wrong.is_some()).count();
    if args.json {
        let vectors: Vec<_> = tried.iter().map(tried_json).collect();
        output::line(json!({ "tested": tried.len(), "wrong": wrong, "vectors": vectors }))?;
    } else {
        for one in &tried {
            output::line(told(one, &rules))?;
        }
    }
    ensure!(wrong == 0, "{wrong} of {} vectors are wrong", tried.len());
    if !args.json {
        output::line(format_args!("{} vectors, each asked alone and among the others", tried.len()))?;
    }
    Ok(())
}

pub(super) fn check(args: &Check) -> anyhow::Result<()> {
    let passed = inspected(args)?;
    if args.json {
        return shown(&passed);
    }
    let answers: Vec<_> = passed.answers.iter().map(|policy| policy.name()).collect();
    output::line(format_args!(
        "{} {} passes the gate as {} in {:.1} ms",
        passed.name,
        passed.version,
        answers.join(", "),
        passed.gate_us as f64 / 1e3
    ))?;
    Ok(())
}

pub(super) fn inspect(args: &Check) -> anyhow::Result<()> {
    let of = inspected(args)?;
    if args.json {
        return shown(&of);
    }
    let or_none = |text: String| if text.is_empty() { "none".to_owned() } else { text };
    let answers: Vec<_> = of.answers.iter().map(|policy| policy.name()).collect();
    for (what, text) in [
        ("name", format!("{} {}", of.name, of.version)),
        ("answers", answers.join(", ")),
        ("contract", of.contract.to_owned()),
        ("rules", or_none(rules(&of))),
        ("inert imports", or_none(of.imports.join(", "))),
        ("settings", or_none(of.settings_schema.trim().to_owned())),
        ("digest", of.digest.to_hex()),
        ("size", format!("{} bytes", of.bytes)),
        ("gate", format!("{:.1} ms, compiled anew", of.gate_us as f64 / 1e3)),
    ] {
        output::line(format_args!("{what:<14} {text}"))?;
    }
    Ok(())
}

pub(super) fn bench(args: &BenchArgs) -> anyhow::Result<()> {
    let subject = Subject::read(&args.of, args.vectors.as_deref())?;
    let store = tempfile::tempdir()?;
    let bench = Workbench::new(store.path())?;
    let measure = |file: &str, bytes: &[u8], vectors: Option<&str>| {
        bench.bench(file, bytes, vectors, args.rounds as usize).map_err(anyhow::Error::from)
    };
    let vectors = subject.vectors.as_deref();
    let costs = measure(&subject.file, &subject.bytes, vectors)?;
    let before = match &args.against {
        Some(path) => {
            let (file, bytes) = (name_of(path), files::component(path)?);
            // Another contract puts the same questions in other words: then the older one's own count, by their names.
            let alike = bench.contract(&file, &bytes)? == bench.contract(&subject.file, &subject.bytes)?;
            measure(&file, &bytes, vectors.filter(|_| alike)).context("measuring the older component")?
        }
        None => Vec::new(),
    };
    let more = |cost: &Cost| {
        let old = before.iter().find(|old| old.name == cost.name)?;
        Some((cost.fuel as f64 / old.fuel.max(1) as f64 - 1.0) * 100.0)
    };
    if args.json {
        let json = |cost: &Cost| {
            json!({
                "vector": cost.name, "ns_median": cost.ns_median, "ns_p99": cost.ns_p99, "fuel": cost.fuel,
                "fuel_more_percent": more(cost),
            })
        };
        output::line(json!({ "vectors": costs.iter().map(json).collect::<Vec<_>>() }))?;
    } else {
        let row = |cost: &Cost| {
            let more = more(cost).map(|percent| format!("{percent:+.1} %")).unwrap_or_default();
            [cost.name.clone(), cost.ns_median.to_string(), cost.ns_p99.to_string(), cost.fuel.to_string(), more]
        };
        output::table(["VECTOR", "NS", "P99", "FUEL", "MORE"], &costs.iter().map(row).collect::<Vec<_>>())?;
    }
    if let Some(max) = args.max_regress {
        let worst = costs.iter().filter_map(|cost| Some((more(cost)?, &cost.name)));
        let worst = worst.max_by(|a, b| a.0.total_cmp(&b.0)).context("the two have no vector in common")?;
        ensure!(worst.0 <= max, "`{}` takes {:+.1} % of fuel, more than {max} %", worst.1, worst.0);
    }
    Ok(())
}

/// Builds and tests now, and again whenever a file changes; ends with Ctrl-C.
pub(super) async fn watch(args: Watch) -> anyhow::Result<()> {
    let project = Project::open(&args.dir)?;
    if let Some(into) = &args.into {
        make(into)?;
    }
    let mut seen = None;
    loop {
        let now = state(&project.folder)?;
        if seen.as_ref() != Some(&now) {
            seen = Some(now);
            let done = take(&project, args.into.as_deref());
            if args.once {
                return done;
            }
            if let Err(error) = done {
                output::line(format_args!("{error:#}"))?;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            stopped = tokio::signal::ctrl_c() => return Ok(stopped?),
        }
    }
}

/// One round of `watch`.
fn take(project: &Project, into: Option<&Path>) -> anyhow::Result<()> {
    let made = build::build(project)?;
    test(&Test { of: project.folder.clone(), vectors: None, json: false })?;
    check(&Check { of: made.clone(), settings: None, json: false })?;
    let Some(into) = into else { return Ok(()) };
    put(&format!("{}.wasm", project.name), &files::component(&made)?, into)?;
    output::line(format_args!("put into {}", into.display()))?;
    Ok(())
}

/// A gateway takes nothing from a folder that others may write.
fn make(into: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o755).create(into);
    made.map_err(|error| Usage(format!("{} is no folder and cannot be made one: {error}", into.display())).into())
}

/// Makes the folder again if it has gone meanwhile.
fn put(name: &str, bytes: &[u8], into: &Path) -> anyhow::Result<()> {
    make(into)?;
    // Beside it first, under a name that no gateway looks at: a rename is seen as a whole.
    let part = into.join(format!(".{name}.part"));
    let written = (|| {
        let _left_by_one_that_was_killed = fs::remove_file(&part);
        // Whatever the umask: what others may write is refused.
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&part)?;
        file.write_all(bytes)?;
        fs::rename(&part, into.join(name))
    })();
    written.with_context(|| format!("putting {name} into {}", into.display()))
}

/// Names, sizes and times of what a build reads.
fn state(folder: &Path) -> anyhow::Result<Vec<(PathBuf, u64, Option<std::time::SystemTime>)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let name = entry.file_name();
            if ["build", "target", "node_modules", "__pycache__", "Cargo.lock"].iter().any(|skip| name == *skip)
                || name.to_string_lossy().starts_with('.')
            {
                continue;
            }
            let meta = entry.metadata()?;
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                found.push((entry.path(), meta.len(), meta.modified().ok()));
            }
            ensure!(found.len() <= 10_000, "more than 10,000 files are no policy's project");
        }
    }
    found.sort();
    Ok(found)
}

// === impl Subject ===

impl Subject {
    fn read(of: &Path, vectors: Option<&Path>) -> anyhow::Result<Self> {
        let given = vectors.map(files::source);
        if !of.is_dir() {
            return Ok(Self { file: name_of(of), bytes: files::component(of)?, vectors: given.transpose()? });
        }
        let project = Project::open(of)?;
        let component = project.component();
        if !component.is_file() {
            return Err(Usage(format!("{} is not there; `tidegate policy build` makes it", component.display())).into());
        }
        let vectors = given.unwrap_or_else(|| project.read("vectors.toml"))?;
        Ok(Self { file: name_of(&component), bytes: files::component(&component)?, vectors: Some(vectors) })
    }
}

fn inspected(args: &Check) -> anyhow::Result<Inspection> {
    let json = |path: &Path| {
        let text = files::settings(path)?;
        let json = settings_json(&name_of(path), &text);
        Ok::<_, anyhow::Error>(json.map_err(|message| Usage(format!("{}: {message}", path.display())))?)
    };
    let store = tempfile::tempdir()?;
    let name = name_of(&args.of);
    if matches!(name.rsplit_once('.'), Some((_, "toml" | "json"))) && !args.of.is_dir() {
        if args.settings.is_some() {
            return Err(Usage("the file is settings itself; --settings is for a component's".to_owned()).into());
        }
        return Ok(Workbench::new(store.path())?.inspect_settings(&name, &json(&args.of)?)?);
    }
    let settings = args.settings.as_deref().map_or_else(|| Ok("{}".to_owned()), json)?;
    let subject = Subject::read(&args.of, None)?;
    Ok(Workbench::new(store.path())?.inspect(&subject.file, &subject.bytes, &settings)?)
}

/// A line for each that has words, else a list of names.
fn rules(of: &Inspection) -> String {
    if of.rule_texts.iter().all(String::is_empty) {
        return of.rules.join(", ");
    }
    let line = |(name, text): (&String, &String)| format!("{name}: {text}");
    of.rules.iter().zip(&of.rule_texts).map(line).collect::<Vec<_>>().join("\n               ")
}

fn shown(of: &Inspection) -> anyhow::Result<()> {
    let answers: Vec<_> = of.answers.iter().map(|policy| policy.name()).collect();
    let schema: Json = serde_json::from_str(&of.settings_schema).unwrap_or(Json::Null);
    output::line(json!({
        "name": of.name, "version": of.version, "contract": of.contract, "answers": answers, "rules": of.rules,
        "rule_texts": of.rule_texts,
        "imports": of.imports, "settings_schema": schema, "digest": of.digest.to_hex(), "bytes": of.bytes,
        "gate_us": of.gate_us,
    }))?;
    Ok(())
}

/// One vector for people; a wrong one with all that was asked.
fn told(one: &Tried, rules: &[String]) -> String {
    let Some(wrong) = &one.wrong else { return format!("ok     {}", one.name) };
    let mut text = format!("WRONG  {}\n    call      {}", one.name, one.call);
    for arg in &one.args {
        text += &format!("\n    argument  {arg}");
    }
    if one.settings != "{}" {
        text += &format!("\n    settings  {}", one.settings);
    }
    match wrong {
        Wanted::Answer(why) => text += &format!("\n    no answer: {why}"),
        Wanted::Otherwise { expected, answer, reused } => {
            text += &format!("\n    expected  {}\n    answered  {}", named(expected, rules), named(answer, rules));
            if *reused {
                text += "\n    asked alone it answers rightly: it remembers something between questions";
            }
        }
    }
    text
}

/// With the names of the rules that it gives by index.
fn named(answer: &str, rules: &[String]) -> String {
    let mut names = Vec::new();
    for before in ["allow(", "rule: "] {
        for (at, _) in answer.match_indices(before) {
            let digits: String = answer[at + before.len()..].chars().take_while(char::is_ascii_digit).collect();
            names.extend(digits.parse().ok().and_then(|rule: usize| rules.get(rule)).map(String::as_str));
        }
    }
    names.dedup();
    if names.is_empty() { answer.to_owned() } else { format!("{answer}  ({})", names.join(", ")) }
}

fn tried_json(one: &Tried) -> Json {
    let wrong = one.wrong.as_ref().map(|wrong| match wrong {
        Wanted::Answer(why) => json!({ "no_answer": why }),
        Wanted::Otherwise { expected, answer, reused } => {
            json!({ "expected": expected, "answered": answer, "remembers": reused })
        }
    });
    json!({ "name": one.name, "call": one.call, "wrong": wrong })
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim().parse::<f64>().map_err(|e| e.to_string())?;
    if (0.0..=1000.0).contains(&number) { Ok(number) } else { Err("0% to 1000%".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: X-14
    #[test]
    fn what_watch_fills_is_made_again_and_named_when_it_cannot_be() {
        let dir = tempfile::tempdir().expect("tempdir");
        let into = dir.path().join("plugins.d");
        for _ in 0..2 {
            put("mine.wasm", b"bytes", &into).expect("put there");
            assert_eq!(fs::read(into.join("mine.wasm")).expect("there"), b"bytes");
            fs::remove_dir_all(&into).expect("removed");
        }
        fs::write(&into, b"").expect("written");
        let error = format!("{:#}", put("mine.wasm", b"bytes", &into).expect_err("it is a file"));
        assert!(error.contains(&into.display().to_string()), "{error}");
    }
}
