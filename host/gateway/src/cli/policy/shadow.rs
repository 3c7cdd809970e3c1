//! `tidegate policy shadow`: a candidate beside what serves. It knows what the gateway tells of it, nothing more.

use super::super::{Usage, output, remote::Local};
use super::decisions::{CandidateFiles, difference_json, tell_difference};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use tidegate_client::{
    values,
    wire::{PolicyDifference, PromoteShadowRequest, ShadowStatus},
};

/// A candidate on live questions. It answers nobody; it goes on after a restart of the gateway.
#[derive(Debug, Subcommand)]
pub enum ShadowCommand {
    /// Begin; takes the place of the one before. The candidate must pass the gate.
    #[command(after_help = "Example:\n  tidegate policy shadow start access.wasm --settings access.toml")]
    Start(Start),
    /// Show how much it was asked and how much differs.
    #[command(after_help = "Example:\n  tidegate policy shadow status --json")]
    Status(Local),
    /// Show what differs, by whom it is about and by rule.
    #[command(after_help = "Example:\n  tidegate policy shadow diff")]
    Diff(Local),
    /// Put it into the plugins folder and let it serve, if it differs little enough.
    #[command(after_help = "Example:\n  tidegate policy shadow promote --max-rate 0.1%")]
    Promote(Promote),
    /// End it.
    #[command(after_help = "Example:\n  tidegate policy shadow stop")]
    Stop(Local),
}

/// What to try.
#[derive(Args, Debug)]
pub struct Start {
    #[command(flatten)]
    candidate: CandidateFiles,
    #[command(flatten)]
    local: Local,
}

/// When it may serve.
#[derive(Args, Debug)]
pub struct Promote {
    /// Most of the compared answers that may differ, percent.
    #[arg(long, value_name = "PERCENT", default_value = "0.1%")]
    max_rate: String,
    /// Fewest answers that must have been compared.
    #[arg(long, value_name = "COUNT", default_value_t = 100)]
    min_answers: u64,
    /// The shadow that is meant, as `shadow status` shows it, or its beginning; another one by now is refused.
    #[arg(long, value_name = "HEX", default_value = "")]
    identity: String,
    #[command(flatten)]
    local: Local,
}

// === impl ShadowCommand ===

impl ShadowCommand {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Start(Start { local, .. }) | Self::Promote(Promote { local, .. }) => local.json,
            Self::Status(local) | Self::Diff(local) | Self::Stop(local) => local.json,
        }
    }
}

pub(super) async fn run(command: ShadowCommand) -> anyhow::Result<()> {
    match command {
        ShadowCommand::Start(args) => {
            let candidate = args.candidate.read()?;
            tell(&args.local.admin().await?.start_shadow(candidate).await?, args.local.json, false)
        }
        ShadowCommand::Status(local) => tell(&local.admin().await?.shadow().await?, local.json, false),
        ShadowCommand::Diff(local) => tell(&local.admin().await?.shadow().await?, local.json, true),
        ShadowCommand::Stop(local) => tell(&local.admin().await?.stop_shadow().await?, local.json, false),
        ShadowCommand::Promote(args) => {
            let (max_difference, min_asked) = (rate(&args.max_rate)?, args.min_answers);
            let request = PromoteShadowRequest { max_difference, min_asked, identity: args.identity };
            let swap = args.local.admin().await?.promote_shadow(request).await?;
            super::told(&swap, args.local.json)
        }
    }
}

/// `5` and `5%` are the same; the part of 1.
fn rate(text: &str) -> Result<f64, Usage> {
    let percent = text.trim_end_matches('%').parse::<f64>().ok();
    let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
    percent
        .map(|percent| percent / 100.0)
        .ok_or_else(|| Usage(format!("--max-rate {text} is no part; write e.g. 0.1% or 5%")))
}

fn tell(status: &ShadowStatus, json: bool, rows: bool) -> anyhow::Result<()> {
    let difference = status.difference.clone().unwrap_or_default();
    if json {
        output::line(status_json(status, difference_json(&difference)))?;
        return Ok(());
    }
    output::line(format_args!(
        "{} {} from {} for {}, since {}; identity {}",
        status.name,
        status.version,
        status.file,
        status.policies.join(", "),
        values::show_unix_ms(status.since_unix_ms),
        status.identity,
    ))?;
    if status.generation > 0 {
        output::line(format_args!("compared with generation {}", status.generation))?;
    }
    if !status.ended.is_empty() {
        output::line(format_args!("ended: {}", status.ended))?;
    }
    let skipped = difference.skipped + status.skipped;
    let difference = PolicyDifference { skipped, ..difference };
    let shown = if rows { difference } else { PolicyDifference { changes: Vec::new(), ..difference } };
    tell_difference(&shown)
}

fn status_json(status: &ShadowStatus, difference: Json) -> Json {
    json!({
        "file": status.file, "name": status.name, "version": status.version, "identity": status.identity,
        "policies": status.policies, "since_unix_ms": status.since_unix_ms, "generation": status.generation,
        "skipped": status.skipped, "ended": status.ended, "difference": difference,
    })
}
