//! `tidegate policy`: which components decide, what the last swaps came to, and changing that by
//! hand. It knows records, not components.

mod author;
mod build;
mod decisions;
mod project;
mod seal;
mod shadow;

use super::{Usage, output, remote::Local};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use tidegate_client::wire::{
    ListPoliciesResponse, PolicyRefusal, PolicySummary, SwapRecord,
    list_policies_response::{Approval, HeldPolicy},
};

/// See which policies decide, and change that.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Show the generation that decides, its components, and the last swaps and refusals.
    #[command(after_help = "Example:\n  tidegate policy list --json")]
    List(Local),
    /// Show who answers one policy: component, settings, rules, and what its decisions took.
    #[command(after_help = "Examples:\n  tidegate policy show access\n  tidegate policy show rate-limit --json")]
    Show(Show),
    /// Look at the plugins folder now; also unpins.
    #[command(after_help = "Example:\n  tidegate policy reload")]
    Reload(Local),
    /// Go back to the generation before, and stay there until a new file or a reload.
    #[command(after_help = "Example:\n  tidegate policy rollback --reason 'denies too much'")]
    Rollback(Rollback),
    /// Show what the gate holds back until an operator says yes, and what was approved.
    #[command(after_help = "Example:\n  tidegate policy held")]
    Held(Local),
    /// Let in what is held: a component with its settings.
    #[command(
        after_help = "Example:\n  tidegate policy approve 3f9a02b1c4d5 --reason 'reviewed, it needs the clock for its log'"
    )]
    Approve(Approve),
    /// Try a candidate on live questions beside what serves, and let it serve when it differs little enough.
    #[command(subcommand)]
    Shadow(shadow::ShadowCommand),
    /// Say in words what was decided, by which rule of which component, and of whom.
    #[command(after_help = "Example:\n  tidegate policy explain 0193a5b2c4d00017")]
    Explain(decisions::Explain),
    /// List decisions of the log.
    #[command(
        after_help = "Examples:\n  tidegate policy decisions --denied --last 1h\n  tidegate policy decisions --tag Area1.Pump7.Flow"
    )]
    Decisions(decisions::Decisions),
    /// Ask the same components what they were asked before; any other answer fails the command.
    #[command(after_help = "Example:\n  tidegate policy replay --last 1h")]
    Replay(decisions::ReplayArgs),
    /// Show what a candidate would have decided otherwise; it decides nothing.
    #[command(after_help = "Example:\n  tidegate policy diff access.wasm --settings access.toml --last 1h")]
    Diff(decisions::Diff),
    /// Stay on the present generation whatever the folder says; --off follows the folder again.
    #[command(after_help = "Examples:\n  tidegate policy pin\n  tidegate policy pin --off")]
    Pin(Pin),
    /// Make a project for a policy of your own.
    #[command(
        after_help = "Examples:\n  tidegate policy new night-shift --kind access\n  tidegate policy new night-shift --kind access --lang python"
    )]
    New(author::New),
    /// Build a project's component with the tools of its language.
    #[command(after_help = "Example:\n  tidegate policy build night-shift")]
    Build(author::Of),
    /// Put vectors to a component, on the engine that gateways run, and show what it answers otherwise.
    #[command(
        after_help = "Examples:\n  tidegate policy test night-shift\n  tidegate policy test access.wasm --vectors mine.toml"
    )]
    Test(author::Test),
    /// Bring a component through the whole gate, as a swap would.
    #[command(after_help = "Example:\n  tidegate policy check night-shift.wasm --settings night-shift.toml")]
    Check(author::Check),
    /// Show what a component says of itself.
    #[command(after_help = "Example:\n  tidegate policy inspect access.wasm --json")]
    Inspect(author::Check),
    /// Measure what each vector costs: nanoseconds here, and fuel, which is the same everywhere.
    #[command(after_help = "Example:\n  tidegate policy bench night-shift --against old.wasm --max-regress 10%")]
    Bench(author::BenchArgs),
    /// Build, test and check now and at each change; with --into, put what passed into a plugins folder.
    #[command(after_help = "Example:\n  tidegate policy watch night-shift --into plugins.d")]
    Watch(author::Watch),
    /// Make a pair of keys for signing policies.
    #[command(after_help = "Example:\n  tidegate policy keygen ada")]
    Keygen(seal::Keygen),
    /// Sign a component with its settings.
    #[command(
        after_help = "Example:\n  tidegate policy sign night-shift.wasm --settings night-shift.toml --key ada.key"
    )]
    Sign(seal::Sign),
    /// Say whose signature a component and its settings carry.
    #[command(
        after_help = "Example:\n  tidegate policy verify night-shift.wasm --settings night-shift.toml --keys ada.pub"
    )]
    Verify(seal::Verify),
}

/// Whose answerer.
#[derive(Args, Debug)]
pub struct Show {
    /// A policy (access, backpressure, version-floor, dashboard-tags, rate-limit) or a component's name.
    name: String,
    #[command(flatten)]
    local: Local,
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

/// Whose word.
#[derive(Args, Debug)]
pub struct Approve {
    /// What `policy held` shows; eight digits of it and more are enough.
    identity: String,
    /// Why; it is kept.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    local: Local,
}

// === impl PolicyCommand ===

impl PolicyCommand {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::List(local) | Self::Reload(local) => local.json,
            Self::New(author::New { json, .. })
            | Self::Build(author::Of { json, .. })
            | Self::Test(author::Test { json, .. })
            | Self::Check(author::Check { json, .. })
            | Self::Inspect(author::Check { json, .. })
            | Self::Bench(author::BenchArgs { json, .. })
            | Self::Watch(author::Watch { json, .. })
            | Self::Keygen(seal::Keygen { json, .. })
            | Self::Sign(seal::Sign { json, .. })
            | Self::Verify(seal::Verify { json, .. }) => *json,
            Self::Shadow(command) => command.json(),
            Self::Held(local) | Self::Approve(Approve { local, .. }) => local.json,
            Self::Explain(decisions::Explain { local, .. })
            | Self::Decisions(decisions::Decisions { local, .. })
            | Self::Replay(decisions::ReplayArgs { local, .. })
            | Self::Diff(decisions::Diff { local, .. }) => local.json,
            Self::Show(Show { local, .. }) | Self::Rollback(Rollback { local, .. }) | Self::Pin(Pin { local, .. }) => {
                local.json
            }
        }
    }
}

pub(super) async fn run(command: PolicyCommand) -> anyhow::Result<()> {
    match command {
        PolicyCommand::List(local) => list(local).await,
        PolicyCommand::Show(args) => show(args).await,
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
        PolicyCommand::Held(local) => held(local).await,
        PolicyCommand::Shadow(command) => shadow::run(command).await,
        PolicyCommand::Approve(args) => {
            let swap = args.local.admin().await?.approve_policy(&args.identity, &args.reason).await?;
            told(&swap, args.local.json)
        }
        PolicyCommand::Explain(args) => decisions::explain(args).await,
        PolicyCommand::Decisions(args) => decisions::decisions(args).await,
        PolicyCommand::Replay(args) => decisions::replay(args).await,
        PolicyCommand::Diff(args) => decisions::diff(args).await,
        PolicyCommand::New(args) => author::new(&args),
        PolicyCommand::Build(args) => author::build(&args),
        PolicyCommand::Test(args) => author::test(&args),
        PolicyCommand::Check(args) => author::check(&args),
        PolicyCommand::Inspect(args) => author::inspect(&args),
        PolicyCommand::Bench(args) => author::bench(&args),
        PolicyCommand::Watch(args) => author::watch(args).await,
        PolicyCommand::Keygen(args) => seal::keygen(&args),
        PolicyCommand::Sign(args) => seal::sign(&args),
        PolicyCommand::Verify(args) => seal::verify(&args),
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
        refusals(&swap.refusals, swap.refusals_more)?;
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
    let pinned = match listing.pinned_by.as_str() {
        "rollback" => ", pinned by a roll-back",
        _ if listing.pinned => ", pinned",
        _ => "",
    };
    let folder = if listing.plugins_dir.is_empty() { "(no plugins folder)" } else { &listing.plugins_dir };
    output::line(format_args!("generation {}{pinned}  {folder}", listing.generation))?;
    let rows: Vec<_> = listing
        .policies
        .iter()
        .map(|p| {
            let digest = p.digest.chars().take(12).collect();
            let answers = format!("{} {}", p.name, p.version);
            let (calls, failures) = (p.calls.to_string(), p.failures.to_string());
            [p.policy.clone(), answers, p.source.clone(), p.contract.clone(), digest, calls, failures]
        })
        .collect();
    output::table(["POLICY", "ANSWERED BY", "FROM", "CONTRACT", "DIGEST", "CALLS", "FAILURES"], &rows)?;
    if !listing.pending.is_empty() {
        output::line(format_args!("\nbeing written: {}", listing.pending.join(", ")))?;
    }
    if !listing.refused.is_empty() {
        output::line("\nin the folder and not taken:")?;
        refusals(&listing.refused, 0)?;
    }
    if !listing.swaps.is_empty() {
        output::line("\nlast swaps, newest first:")?;
    }
    for swap in &listing.swaps {
        output::line(format_args!("  {}", swap_line(swap)))?;
    }
    Ok(())
}

/// Each file with its reason and what to do about it.
fn refusals(of: &[PolicyRefusal], more: u32) -> anyhow::Result<()> {
    for PolicyRefusal { file, code, message, remedy } in of {
        output::line(format_args!("  {file}: {message} [{code}]"))?;
        output::line(format_args!("    hint: {remedy}"))?;
    }
    if more > 0 {
        output::line(format_args!("  and {more} files more"))?;
    }
    Ok(())
}

async fn held(local: Local) -> anyhow::Result<()> {
    let listing = local.admin().await?.policies().await?;
    if local.json {
        output::line(json!({ "held": held_json(&listing), "approved": approved_json(&listing) }))?;
        return Ok(());
    }
    for held in &listing.held {
        let short: String = held.identity.chars().take(12).collect();
        output::line(format_args!("{short}  {}: {} [{}]", held.file, held.message, held.code))?;
    }
    if listing.held.is_empty() {
        output::line("nothing waits for an approval")?;
    }
    for approval in &listing.approved {
        let short: String = approval.identity.chars().take(12).collect();
        let at = tidegate_client::values::show_unix_ms(approval.at_unix_ms);
        output::line(format_args!("approved {at}: {short} ({})", approval.reason))?;
    }
    Ok(())
}

/// A component that answers several policies is shown once for each.
async fn show(args: Show) -> anyhow::Result<()> {
    let listing = args.local.admin().await?.policies().await?;
    let named = |p: &&PolicySummary| p.policy == args.name;
    let mut found: Vec<_> = listing.policies.iter().filter(named).collect();
    if found.is_empty() {
        found = listing.policies.iter().filter(|p| p.name == args.name).collect();
    }
    if found.is_empty() {
        let known: Vec<_> = listing.policies.iter().map(|p| p.policy.as_str()).collect();
        return Err(
            Usage(format!("no policy and no component is called {}; try {}", args.name, known.join(", "))).into()
        );
    }
    for p in found {
        let mean_us = p.time_us as f64 / p.calls.max(1) as f64;
        if args.local.json {
            let mut shown = policy_json(p);
            shown["generation"] = listing.generation.into();
            shown["rules"] = json!(p.rules);
            shown["mean_us"] = json!((mean_us * 1e3).round() / 1e3);
            output::line(shown)?;
            continue;
        }
        let signer = if p.signer.is_empty() { "nobody" } else { &p.signer };
        for (what, text) in [
            ("policy", p.policy.clone()),
            ("answered by", format!("{} {}", p.name, p.version)),
            ("from", p.source.clone()),
            ("generation", listing.generation.to_string()),
            ("contract", p.contract.clone()),
            ("digest", p.digest.clone()),
            ("settings", p.settings_digest.clone()),
            ("signed by", signer.to_owned()),
            ("rules", p.rules.join(", ")),
            ("calls", format!("{}, {mean_us:.1} us each", p.calls)),
            ("failures", p.failures.to_string()),
        ] {
            output::line(format_args!("{what:<12} {text}"))?;
        }
    }
    Ok(())
}

fn held_json(listing: &ListPoliciesResponse) -> Vec<Json> {
    let json = |held: &HeldPolicy| json!({ "file": held.file, "identity": held.identity, "code": held.code, "message": held.message });
    listing.held.iter().map(json).collect()
}

fn approved_json(listing: &ListPoliciesResponse) -> Vec<Json> {
    let json = |of: &Approval| json!({ "identity": of.identity, "at_unix_ms": of.at_unix_ms, "reason": of.reason });
    listing.approved.iter().map(json).collect()
}

/// A swap as one line for people.
pub fn swap_line(swap: &SwapRecord) -> String {
    let SwapRecord { generation, outcome, trigger, code, message, gate_us, enforced_us, .. } = swap;
    match outcome.as_str() {
        "refused" => {
            let file = swap.refusals.first().map(|refusal| format!("{}: ", refusal.file)).unwrap_or_default();
            let others = swap.refusals.len().saturating_sub(1) + swap.refusals_more as usize;
            let others = if others > 0 { format!(" and {others} more") } else { String::new() };
            format!("refused ({trigger}): {file}{message} [{code}]{others}; generation {generation} serves on")
        }
        "unchanged" => format!("unchanged ({trigger}): {message}; generation {generation} serves"),
        _ => {
            let enforced = match *enforced_us as f64 / 1e3 {
                0.0 => "being enforced".to_owned(),
                ms => format!("enforced after {ms:.1} ms"),
            };
            let gate = *gate_us as f64 / 1e3;
            format!("{outcome} to generation {generation} ({trigger}): gate {gate:.1} ms, {enforced}{}", differs(swap))
        }
    }
}

fn differs(swap: &SwapRecord) -> String {
    match &swap.difference {
        Some(of) if of.asked > 0 => {
            format!("; {} of the latest {} answers would have been others", of.changed, of.asked)
        }
        _ => String::new(),
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
        "difference": swap.difference.as_ref().map(decisions::difference_json),
        "refusals": swap.refusals.iter().map(refusal_json).collect::<Vec<_>>(), "refusals_more": swap.refusals_more,
    })
}

fn refusal_json(of: &PolicyRefusal) -> Json {
    json!({ "file": of.file, "code": of.code, "message": of.message, "remedy": of.remedy })
}

fn policy_json(p: &PolicySummary) -> Json {
    json!({
        "policy": p.policy, "name": p.name, "version": p.version, "digest": p.digest,
        "settings_digest": p.settings_digest, "contract": p.contract, "source": p.source,
        "calls": p.calls, "failures": p.failures, "signer": p.signer,
    })
}

fn listing_json(listing: &ListPoliciesResponse) -> Json {
    let policies: Vec<_> = listing.policies.iter().map(policy_json).collect();
    json!({
        "generation": listing.generation, "pinned": listing.pinned, "pinned_by": listing.pinned_by,
        "plugins_dir": listing.plugins_dir,
        "held": held_json(listing), "approved": approved_json(listing), "decisions_dropped": listing.decisions_dropped,
        "pending": listing.pending,
        "refused": listing.refused.iter().map(refusal_json).collect::<Vec<_>>(),
        "policies": policies, "swaps": listing.swaps.iter().map(swap_json).collect::<Vec<_>>(),
    })
}
