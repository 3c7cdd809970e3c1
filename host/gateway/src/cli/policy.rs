//! `tidegate policy`: which components decide, what the last swaps came to, and changing that by
//! hand. It knows records, not components.

use super::{Usage, output, remote::Local};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use tidegate_client::wire::{ListPoliciesResponse, SwapRecord};

/// See which policies decide, and change that.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the generation that decides, its components, and the last swaps and refusals.
    #[command(after_help = "Example:\n  tidegate policy list --json")]
    List(Local),
    /// Look at the plugins folder now; also unpins.
    #[command(after_help = "Example:\n  tidegate policy reload")]
    Reload(Local),
    /// Go back to the generation before, and stay there until a new file or a reload.
    #[command(after_help = "Example:\n  tidegate policy rollback --reason 'denies too much'")]
    Rollback(Rollback),
    /// Stay on the present generation whatever the folder says; --off follows the folder again.
    #[command(after_help = "Examples:\n  tidegate policy pin\n  tidegate policy pin --off")]
    Pin(Pin),
}

/// Why to go back.
#[derive(Args, Debug)]
pub struct Rollback {
    /// Why; it is logged.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    local: Local,
}

/// Whether to stay.
#[derive(Args, Debug)]
pub struct Pin {
    /// Follow the folder again.
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    local: Local,
}

// === impl PolicyCommand ===

impl PolicyCommand {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::List(local) | Self::Reload(local) => local.json,
            Self::Rollback(Rollback { local, .. }) | Self::Pin(Pin { local, .. }) => local.json,
        }
    }
}

pub(super) async fn run(command: PolicyCommand) -> anyhow::Result<()> {
    match command {
        PolicyCommand::List(local) => list(local).await,
        PolicyCommand::Reload(local) => {
            let swap = local.admin().await?.reload_policies().await?;
            told(&swap, local.json)
        }
        PolicyCommand::Rollback(args) => {
            if args.reason.trim().is_empty() {
                return Err(Usage("a rollback wants a reason: --reason 'why'".into()).into());
            }
            let swap = args.local.admin().await?.rollback_policies(&args.reason).await?;
            told(&swap, args.local.json)
        }
        PolicyCommand::Pin(args) => {
            args.local.admin().await?.pin_policies(!args.off).await?;
            if args.local.json {
                output::line(json!({ "pinned": !args.off }))?;
            } else {
                output::line(if args.off { "following the folder" } else { "pinned" })?;
            }
            Ok(())
        }
    }
}

/// A refused swap is a failure of the command, too.
fn told(swap: &SwapRecord, json: bool) -> anyhow::Result<()> {
    if json {
        output::line(swap_json(swap))?;
    } else {
        output::line(swap_line(swap))?;
    }
    anyhow::ensure!(swap.outcome != "refused", "the candidate was refused; the generation before serves on");
    Ok(())
}

async fn list(local: Local) -> anyhow::Result<()> {
    let listing = local.admin().await?.policies().await?;
    if local.json {
        output::line(listing_json(&listing))?;
        return Ok(());
    }
    let pinned = if listing.pinned { ", pinned" } else { "" };
    let folder = if listing.plugins_dir.is_empty() { "(no plugins folder)" } else { &listing.plugins_dir };
    output::line(format_args!("generation {}{pinned}  {folder}", listing.generation))?;
    let rows: Vec<_> = listing
        .policies
        .iter()
        .map(|p| {
            let digest = p.digest.chars().take(12).collect();
            let answers = format!("{} {}", p.name, p.version);
            [p.policy.clone(), answers, p.source.clone(), digest, p.calls.to_string(), p.failures.to_string()]
        })
        .collect();
    output::table(["POLICY", "ANSWERED BY", "FROM", "DIGEST", "CALLS", "FAILURES"], &rows)?;
    if !listing.swaps.is_empty() {
        output::line("\nlast swaps, newest first:")?;
    }
    for swap in &listing.swaps {
        output::line(format_args!("  {}", swap_line(swap)))?;
    }
    Ok(())
}

/// A swap as one line for people.
pub fn swap_line(swap: &SwapRecord) -> String {
    let SwapRecord { generation, outcome, trigger, code, message, gate_us, enforced_us, .. } = swap;
    match outcome.as_str() {
        "refused" => format!("refused ({trigger}): {message} [{code}]; generation {generation} serves on"),
        "unchanged" => format!("unchanged ({trigger}): generation {generation} serves"),
        _ => format!(
            "{outcome} to generation {generation} ({trigger}): gate {:.1} ms, enforced after {:.1} ms",
            *gate_us as f64 / 1e3,
            *enforced_us as f64 / 1e3
        ),
    }
}

fn swap_json(swap: &SwapRecord) -> Json {
    let fences: Vec<_> = swap
        .fences
        .iter()
        .map(|f| json!({ "session_id": f.session_id, "reader": f.reader, "sequence": f.sequence }))
        .collect();
    json!({
        "at_unix_ms": swap.at_unix_ms, "generation": swap.generation, "outcome": swap.outcome,
        "trigger": swap.trigger, "code": swap.code, "message": swap.message, "gate_us": swap.gate_us,
        "enforced_us": swap.enforced_us, "fences": fences,
    })
}

fn listing_json(listing: &ListPoliciesResponse) -> Json {
    let policies: Vec<_> = listing
        .policies
        .iter()
        .map(|p| {
            json!({
                "policy": p.policy, "name": p.name, "version": p.version, "digest": p.digest,
                "settings_digest": p.settings_digest, "contract": p.contract, "source": p.source,
                "calls": p.calls, "failures": p.failures, "signer": p.signer,
            })
        })
        .collect();
    json!({
        "generation": listing.generation, "pinned": listing.pinned, "plugins_dir": listing.plugins_dir,
        "policies": policies, "swaps": listing.swaps.iter().map(swap_json).collect::<Vec<_>>(),
    })
}
