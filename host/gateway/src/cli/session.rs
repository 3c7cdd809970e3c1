//! `tidegate session`: see and end sessions over the operators' socket.

use super::{Usage, output, remote::Local};
use clap::{Args, Subcommand};
use serde_json::json;
use tidegate_client::wire::{ReaderSummary, SessionSummary};

/// See and end sessions.
#[derive(Debug, Subcommand)]
pub enum SessionCommand {
    /// Show all sessions and who reads them.
    #[command(after_help = "Example:\n  tidegate session list --json")]
    List(Local),
    /// End a session: its worker is asked to end, and killed if it does not in time.
    #[command(after_help = "Example:\n  tidegate session close session-0123… --reason maintenance")]
    Close(End),
    /// End a session by killing its worker at once; wants a reason.
    #[command(after_help = "Example:\n  tidegate session kill session-0123… --reason 'worker hangs'")]
    Kill(End),
    /// The signing key of the tokens with which readers resume.
    #[command(subcommand)]
    Tokens(TokensCommand),
}

/// What to do with the signing key.
#[derive(Debug, Subcommand)]
pub enum TokensCommand {
    /// A new key signs from now on; tokens of the one before stay valid. The gateway does it once a day by itself.
    #[command(after_help = "Example:\n  tidegate session tokens rotate")]
    Rotate(Local),
    /// A new key signs from now on, and every token handed out before is refused. Open streams go on.
    #[command(after_help = "Example:\n  tidegate session tokens revoke")]
    Revoke(Local),
}

/// A session to end.
#[derive(Args, Debug)]
pub struct End {
    /// The session's id.
    #[arg(value_name = "SESSION")]
    session: String,
    /// Why; readers are told, and it is logged.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    local: Local,
}

// === impl SessionCommand ===

impl SessionCommand {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Tokens(TokensCommand::Rotate(local) | TokensCommand::Revoke(local)) => local.json,
            Self::List(local) | Self::Close(End { local, .. }) | Self::Kill(End { local, .. }) => local.json,
        }
    }
}

pub(super) async fn run(command: SessionCommand) -> anyhow::Result<()> {
    let (args, kill) = match command {
        SessionCommand::List(local) => return list(local).await,
        SessionCommand::Close(args) => (args, false),
        SessionCommand::Kill(args) => (args, true),
        SessionCommand::Tokens(command) => return tokens(command).await,
    };
    if kill && args.reason.trim().is_empty() {
        return Err(Usage("a kill wants a reason: --reason 'why'".into()).into());
    }
    let admin = args.local.admin().await?;
    if kill {
        admin.kill_session(&args.session, &args.reason).await?;
    } else {
        admin.close_session(&args.session, &args.reason).await?;
    }
    if args.local.json {
        output::line(json!({ "ended": args.session, "killed": kill }))?;
    } else {
        output::line(format_args!("{} {}", if kill { "killed" } else { "closed" }, args.session))?;
    }
    Ok(())
}

async fn tokens(command: TokensCommand) -> anyhow::Result<()> {
    let (local, revoke) = match command {
        TokensCommand::Rotate(local) => (local, false),
        TokensCommand::Revoke(local) => (local, true),
    };
    local.admin().await?.rotate_tokens(revoke).await?;
    if local.json {
        output::line(json!({ "rotated": true, "revoked": revoke }))?;
    } else if revoke {
        output::line("every resume token handed out before is refused from now on")?;
    } else {
        output::line("resume tokens have a new signing key; those of the one before stay valid")?;
    }
    Ok(())
}

async fn list(local: Local) -> anyhow::Result<()> {
    let sessions = local.admin().await?.sessions().await?;
    if local.json {
        output::line(json!({ "sessions": sessions.iter().map(session_json).collect::<Vec<_>>() }))?;
        return Ok(());
    }
    for session in &sessions {
        let SessionSummary { session_id, state, tag, backend, worker_pid, head, items, .. } = session;
        output::line(format_args!(
            "{session_id}  {state}  tag {tag:?}  backend {backend}  worker {worker_pid}  {items} items  head {head}"
        ))?;
        if !session.fault.is_empty() {
            output::line(format_args!("  fault: {}", session.fault))?;
        }
        for reader in &session.readers {
            output::line(format_args!("  reader {:?} {}", reader.name, reader_line(reader)))?;
        }
    }
    output::line(format_args!("{} session(s)", sessions.len()))?;
    Ok(())
}

fn reader_line(reader: &ReaderSummary) -> String {
    let ReaderSummary { key_id, position, lag, lag_high_water, mode, seconds_until_gap, .. } = reader;
    let until = seconds_until_gap.map(|s| format!("  a gap in {s:.0} s at this rate")).unwrap_or_default();
    format!("({key_id})  at {position}, {lag} behind (most {lag_high_water})  {mode}{until}")
}

pub(super) fn session_json(session: &SessionSummary) -> serde_json::Value {
    let readers: Vec<_> = session
        .readers
        .iter()
        .map(|reader| {
            json!({
                "name": reader.name, "key_id": reader.key_id, "position": reader.position, "lag": reader.lag,
                "lag_high_water": reader.lag_high_water, "mode": reader.mode,
                "seconds_until_gap": reader.seconds_until_gap, "lag_bound": reader.lag_bound,
                "per_second": reader.per_second,
            })
        })
        .collect();
    json!({
        "session_id": session.session_id, "name": session.name, "tag": session.tag, "backend": session.backend,
        "owner_key_id": session.owner_key_id, "state": session.state, "worker_pid": session.worker_pid,
        "epoch": format!("{:016x}", session.epoch), "head": session.head, "log_bytes": session.log_bytes,
        "events_per_second": session.events_per_second, "log_bytes_max": session.log_bytes_max,
        "items": session.items, "fault": session.fault, "opened_at_unix_ms": session.opened_at_unix_ms,
        "readers": readers,
    })
}
