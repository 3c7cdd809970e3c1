//! `tidegate policy explain|decisions|replay|diff`: what was decided and why, whether it would be again, and what a
//! candidate would have decided otherwise. It knows records, not components.

use super::super::{Usage, files, output, remote::Local};
use clap::Args;
use serde_json::{Value as Json, json};
use std::path::{Path, PathBuf};
use tidegate_client::{
    values,
    wire::{Decision, DecisionLoss, DecisionWindow, DiffPolicyRequest, PolicyCandidate, PolicyDifference},
};

/// One decision.
#[derive(Args, Debug)]
pub struct Explain {
    /// The decision's id: `decision` in the details of an error, or as `policy decisions` lists it.
    id: String,
    /// What was answered about this tag, of a bulk question.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
    #[command(flatten)]
    pub(super) local: Local,
}

/// Which decisions.
#[derive(Args, Debug)]
pub struct Decisions {
    #[command(flatten)]
    window: Wanted,
    /// Only those that denied or limited something.
    #[arg(long)]
    denied: bool,
    #[command(flatten)]
    pub(super) local: Local,
}

/// Which decisions to ask again.
#[derive(Args, Debug)]
pub struct ReplayArgs {
    #[command(flatten)]
    window: Wanted,
    /// How long it may take, seconds, at most 600.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    budget: u64,
    #[command(flatten)]
    pub(super) local: Local,
}

/// What to compare with what was decided.
#[derive(Args, Debug)]
pub struct Diff {
    #[command(flatten)]
    candidate: CandidateFiles,
    /// Run it although nobody signed it, where the gateway takes only signed policies. It decides nothing.
    #[arg(long)]
    allow_unsigned: bool,
    #[command(flatten)]
    window: Wanted,
    /// How long it may take, seconds, at most 600.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    budget: u64,
    #[command(flatten)]
    pub(super) local: Local,
}

/// Files of a candidate.
#[derive(Args, Debug)]
pub(super) struct CandidateFiles {
    /// A component, or a settings file (NAME.toml, NAME.json) for the built-in policy of that name.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Settings of the component, TOML or JSON; not taken from beside it.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
}

/// A window over the log.
#[derive(Args, Debug)]
struct Wanted {
    /// So many (`1000`), or of so long (`90s`, `15m`, `1h`, `2d`).
    #[arg(long, value_name = "COUNT|TIME", default_value = "1000")]
    last: String,
    /// Only of this policy.
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// Only about this key (of nodes: their kind; of the dashboard: the person).
    #[arg(long = "about", value_name = "ID")]
    key: Option<String>,
    /// Only about this tag.
    #[arg(long, value_name = "TAG")]
    tag: Option<String>,
}

// === impl Wanted ===

impl Wanted {
    fn window(self) -> anyhow::Result<DecisionWindow> {
        let (last_count, last_ms) = last(&self.last).ok_or_else(|| {
            Usage(format!("--last {} is neither a count (1000) nor a time (90s, 15m, 1h, 2d)", self.last))
        })?;
        Ok(DecisionWindow {
            last_count,
            last_ms,
            policy: self.policy.unwrap_or_default(),
            who: self.key.unwrap_or_default(),
            tag: self.tag.unwrap_or_default(),
            ..DecisionWindow::default()
        })
    }
}

/// Count or milliseconds, one of them 0.
fn last(text: &str) -> Option<(u64, u64)> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok().filter(|number| *number > 0)?;
    let ms = match &text[digits.len()..] {
        "" => return Some((number, 0)),
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some((0, number.checked_mul(ms)?))
}

// === impl CandidateFiles ===

impl CandidateFiles {
    pub(super) fn read(&self) -> anyhow::Result<PolicyCandidate> {
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let content = match name(&self.file).rsplit_once('.') {
            Some((_, "toml" | "json")) => files::settings(&self.file)?.into_bytes(),
            _ => files::component(&self.file)?,
        };
        let (settings_file, settings) = match &self.settings {
            Some(path) => (name(path), files::settings(path)?),
            None => Default::default(),
        };
        let seal = self.file.with_file_name(format!("{}.minisig", name(&self.file)));
        let signature = files::seal_if_any(&seal)?.unwrap_or_default();
        Ok(PolicyCandidate { file: name(&self.file), content: content.into(), settings_file, settings, signature })
    }
}

pub(super) async fn explain(args: Explain) -> anyhow::Result<()> {
    if args.id.is_empty() {
        return Err(Usage("an id is 16 hexadecimal digits, not nothing".to_owned()).into());
    }
    let window = DecisionWindow {
        decision_id: Some(args.id.clone()),
        tag: args.tag.unwrap_or_default(),
        ..DecisionWindow::default()
    };
    let found = args.local.admin().await?.decisions(window).await?;
    // A gateway of before says nothing instead of `policy.decision_unknown`.
    let Some(decision) = found.decisions.first() else {
        anyhow::bail!("the log has no decision {}", args.id);
    };
    if args.local.json {
        output::line(decision_json(decision))?;
        return Ok(());
    }
    output::line(format_args!(
        "{}  {}  {}",
        decision.decision_id,
        values::show_unix_ms(decision.at_unix_ms),
        decision.policy
    ))?;
    for words in &decision.words {
        output::line(words)?;
    }
    Ok(())
}

pub(super) async fn decisions(args: Decisions) -> anyhow::Result<()> {
    let window = DecisionWindow { denied_only: args.denied, ..args.window.window()? };
    let found = args.local.admin().await?.decisions(window).await?;
    if args.local.json {
        let decisions: Vec<_> = found.decisions.iter().map(decision_json).collect();
        let loss = loss_json(found.loss.unwrap_or_default());
        output::line(json!({ "decisions": decisions, "more": found.more, "loss": loss }))?;
        return Ok(());
    }
    let rows: Vec<_> = found
        .decisions
        .iter()
        .map(|d| {
            let answer = match (&*d.cause, d.denied) {
                ("", true) => "denied",
                ("", false) => "passed",
                (cause, _) => cause,
            };
            let time = values::show_unix_ms(d.at_unix_ms);
            [d.decision_id.clone(), time, d.policy.clone(), d.who.clone(), answer.to_owned(), d.rule.clone()]
        })
        .collect();
    output::table(["DECISION", "TIME", "POLICY", "WHO", "ANSWER", "RULE"], &rows)?;
    if found.more > 0 {
        output::line(format_args!("and {} before these", found.more))?;
    }
    tell_loss(found.loss)
}

pub(super) async fn replay(args: ReplayArgs) -> anyhow::Result<()> {
    let window = args.window.window()?;
    let done = args.local.admin().await?.replay_decisions(window, args.budget.saturating_mul(1000)).await?;
    let mismatches = done.mismatches.len() as u64 + done.more;
    if args.local.json {
        let listed = done.mismatches.iter().map(|m| json!({ "decision": m.decision_id, "was": m.was, "now": m.now }));
        let listed: Vec<_> = listed.collect();
        output::line(json!({
            "replayed": done.replayed, "mismatches": mismatches, "listed": listed, "gone": done.gone,
            "unanswered": done.unanswered, "skipped": done.skipped, "loss": loss_json(done.loss.unwrap_or_default()),
        }))?;
    } else {
        for m in &done.mismatches {
            output::line(format_args!("{}: was {}, is {}", m.decision_id, m.was, m.now))?;
        }
        output::line(format_args!(
            "{} asked again, {mismatches} mismatches; not asked: {} whose component is not kept any more, \
             {} that no component had answered, {} for want of time",
            done.replayed, done.gone, done.unanswered, done.skipped
        ))?;
        tell_loss(done.loss)?;
    }
    anyhow::ensure!(mismatches == 0, "the same components with the same settings answer otherwise");
    Ok(())
}

pub(super) async fn diff(args: Diff) -> anyhow::Result<()> {
    let candidate = args.candidate.read()?;
    let request = DiffPolicyRequest {
        candidate: Some(candidate),
        window: Some(args.window.window()?),
        budget_ms: args.budget.saturating_mul(1000),
        allow_unsigned: args.allow_unsigned,
    };
    let found = args.local.admin().await?.diff_policy(request).await?;
    let difference = found.difference.unwrap_or_default();
    if args.local.json {
        let mut json = difference_json(&difference);
        json["loss"] = loss_json(found.loss.unwrap_or_default());
        output::line(json)?;
        return Ok(());
    }
    tell_difference(&difference)?;
    tell_loss(found.loss)
}

/// For people: the rows, then their sum.
pub(super) fn tell_difference(of: &PolicyDifference) -> anyhow::Result<()> {
    let by = |what: &str, rule: &str| if rule.is_empty() { what.to_owned() } else { format!("{what} by {rule}") };
    let rows: Vec<_> = of
        .changes
        .iter()
        .map(|c| {
            let example = match &*c.example_tag {
                "" => c.example_decision_id.clone(),
                tag => format!("{} {tag}", c.example_decision_id),
            };
            let (was, now) = (by(&c.was, &c.was_rule), by(&c.now, &c.now_rule));
            [c.policy.clone(), c.who.clone(), was, now, c.count.to_string(), example]
        })
        .collect();
    if !rows.is_empty() {
        output::table(["POLICY", "WHO", "WAS", "WOULD BE", "COUNT", "FOR EXAMPLE"], &rows)?;
    }
    let percent = if of.asked == 0 { 0.0 } else { of.changed as f64 * 100.0 / of.asked as f64 };
    output::line(format_args!(
        "{} answers compared, {} would be others ({percent:.2} %); {} without an answer, {} not compared",
        of.asked, of.changed, of.failed, of.skipped
    ))?;
    Ok(())
}

pub(super) fn difference_json(of: &PolicyDifference) -> Json {
    let changes: Vec<_> = of
        .changes
        .iter()
        .map(|c| {
            json!({
                "policy": c.policy, "who": c.who, "was": c.was, "was_rule": c.was_rule, "now": c.now,
                "now_rule": c.now_rule, "count": c.count, "decision": c.example_decision_id, "tag": c.example_tag,
            })
        })
        .collect();
    json!({
        "asked": of.asked, "changed": of.changed, "failed": of.failed, "skipped": of.skipped, "changes": changes,
        "more": of.more,
    })
}

fn decision_json(d: &Decision) -> Json {
    let read = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| Json::from(text));
    json!({
        "decision": d.decision_id, "at_unix_ms": d.at_unix_ms, "generation": d.generation, "policy": d.policy,
        "digest": d.digest, "settings_digest": d.settings_digest, "file": d.file, "who": d.who,
        "session_id": d.session_id, "question": read(&d.question), "answer": read(&d.answer), "denied": d.denied,
        "rule": d.rule, "reason": d.reason, "cause": d.cause, "took_ns": d.took_ns, "words": d.words,
    })
}

fn loss_json(loss: DecisionLoss) -> Json {
    json!({
        "lost": loss.lost, "dropped": loss.dropped, "damaged_lines": loss.damaged_lines, "cut_runs": loss.cut_runs,
        "since_unix_ms": loss.since_unix_ms,
    })
}

fn tell_loss(loss: Option<DecisionLoss>) -> anyhow::Result<()> {
    let loss = loss.unwrap_or_default();
    if loss.lost + loss.damaged_lines + loss.cut_runs > 0 {
        output::line(format_args!(
            "the log is not whole: {} decisions are missing ({} of them were never written), {} lines are damaged, \
             {} runs were cut off",
            loss.lost, loss.dropped, loss.damaged_lines, loss.cut_runs
        ))?;
    }
    Ok(())
}
