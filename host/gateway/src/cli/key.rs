//! `tidegate key`: API keys over the operators' socket. The one place that prints a secret, once.

use super::{output, remote::Local};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use tidegate_client::wire::CreateKeyRequest;

/// Make, list and revoke API keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key and print it, once; the gateway keeps only its hash.
    #[command(after_help = "Examples:\n  tidegate key create --name historian\n  \
        tidegate key create --name pumps --read 'Area1.*' --write 'Area1.Pump1.*'")]
    Create(Create),
    /// Show all keys, without their secrets.
    #[command(after_help = "Example:\n  tidegate key list --json")]
    List(Local),
    /// Take a key back; its streams end at once.
    #[command(after_help = "Example:\n  tidegate key revoke k0123456789abcdef")]
    Revoke(Revoke),
}

/// A key to be.
#[derive(Args, Debug)]
pub struct Create {
    /// For people: who uses it.
    #[arg(long, value_name = "TEXT")]
    name: String,
    /// What it may do; may be given several times.
    #[arg(long = "scope", value_name = "SCOPE", default_value = "sessions:own")]
    scopes: Vec<Scope>,
    /// Tags whose events it may see, e.g. 'Area1.*'; may be given several times; none: all that the policy allows.
    #[arg(long, value_name = "GLOB")]
    read: Vec<String>,
    /// Tags it may write; may be given several times; none: all that the policy allows.
    #[arg(long, value_name = "GLOB")]
    write: Vec<String>,
    #[command(flatten)]
    local: Local,
}

/// What a key may do.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Scope {
    /// Open sessions and use them.
    #[value(name = "sessions:own")]
    Own,
    /// Use every session.
    #[value(name = "sessions:all")]
    All,
    /// Write only for runtime nodes, each named with its write.
    #[value(name = "node")]
    Node,
    /// Use the operators' API over the network.
    #[value(name = "admin")]
    Admin,
}

/// A key to take back.
#[derive(Args, Debug)]
pub struct Revoke {
    /// The key's id as `key list` shows it.
    #[arg(value_name = "KEY_ID")]
    key_id: String,
    #[command(flatten)]
    local: Local,
}

// === impl KeyCommand ===

impl KeyCommand {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Create(Create { local, .. }) | Self::List(local) | Self::Revoke(Revoke { local, .. }) => local.json,
        }
    }
}

pub(super) async fn run(command: KeyCommand) -> anyhow::Result<()> {
    match command {
        KeyCommand::Create(args) => create(args).await,
        KeyCommand::List(local) => list(local).await,
        KeyCommand::Revoke(args) => {
            args.local.admin().await?.revoke_key(&args.key_id).await?;
            if args.local.json {
                output::line(json!({ "revoked": args.key_id }))?;
            } else {
                output::line(format_args!("revoked {}", args.key_id))?;
            }
            Ok(())
        }
    }
}

async fn create(args: Create) -> anyhow::Result<()> {
    let scopes = args.scopes.iter().filter_map(ValueEnum::to_possible_value);
    let request = CreateKeyRequest {
        name: args.name,
        scopes: scopes.map(|scope| scope.get_name().to_owned()).collect(),
        read: args.read,
        write: args.write,
    };
    let created = args.local.admin().await?.create_key(request).await?;
    if args.local.json {
        output::line(json!({ "key_id": created.key_id, "key": created.secret }))?;
    } else {
        // The key alone on standard output, so that `> file` keeps exactly it.
        eprintln!("key {} was made; this is the only time it is shown:", created.key_id);
        output::line(&created.secret)?;
    }
    Ok(())
}

async fn list(local: Local) -> anyhow::Result<()> {
    let keys = local.admin().await?.keys().await?;
    if local.json {
        let one = |key: &tidegate_client::wire::KeySummary| {
            json!({
                "key_id": key.key_id, "name": key.name, "scopes": key.scopes, "read": key.read, "write": key.write,
                "created_at_unix_ms": key.created_at_unix_ms, "revoked_at_unix_ms": key.revoked_at_unix_ms,
            })
        };
        output::line(json!({ "keys": keys.iter().map(one).collect::<Vec<_>>() }))?;
        return Ok(());
    }
    let any = |globs: &[String]| if globs.is_empty() { "(any)".to_owned() } else { globs.join(" ") };
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            let state = if key.revoked_at_unix_ms.is_some() { "revoked" } else { "live" };
            let (read, write) = (any(&key.read), any(&key.write));
            [key.key_id.clone(), key.name.clone(), state.into(), key.scopes.join(" "), read, write]
        })
        .collect();
    output::table(["KEY", "NAME", "STATE", "SCOPES", "READ", "WRITE"], &rows)?;
    Ok(())
}
