//! `tidegate node`: runtime nodes over the operators' socket, and by hand as a node of one's own. What it watches goes on
//! under the next gateway; what changed between the two is not told, and that is said.

use super::{
    follow::{Follow, Told},
    output,
    remote::{Local, Remote},
};
use clap::{Args, Subcommand};
use serde_json::json;
use tidegate_client::{
    ClientError, NodeWatch, values,
    wire::{
        AttachNodeRequest, ListNodesRequest, NodeAccess, NodeAttachment, NodeReport, SourceTime, VersionFloor,
        WatchNodesResponse, source_time::Form, watch_nodes_response::Message,
    },
};

/// See and revoke runtime nodes, set the version below which they only read, and be one to try it.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Show attached nodes and how they are.
    #[command(after_help = "Examples:\n  tidegate node list\n  tidegate node list --ended --json")]
    List(List),
    /// Show, set or clear the version floor; each node's next write feels it.
    #[command(after_help = "Examples:\n  tidegate node floor\n  tidegate node floor --set 1.10\n  \
        tidegate node floor --clear")]
    Floor(Floor),
    /// Bar a node from a session for good, or from all it has joined.
    #[command(after_help = "Example:\n  tidegate node revoke press-7 --session session-0123…")]
    Revoke(Revoke),
    /// Print each change of a node's state as it happens, until stopped.
    #[command(
        after_help = "Example:\n  tidegate node watch --json\n\nCtrl-C ends it; a gateway that is gone is looked for \
        for a minute."
    )]
    Watch(Watch),
    /// Join a session as a node, with the key of a client.
    #[command(after_help = "Example:\n  tidegate node attach press-7 session-0123… --version 1.9")]
    Attach(Attach),
    /// Tell that a node lives; due every 15 seconds.
    #[command(after_help = "Examples:\n  tidegate node heartbeat press-7 session-0123…\n  \
        tidegate node heartbeat press-7 session-0123… --degraded")]
    Heartbeat(Heartbeat),
    /// Leave a session; the record stays.
    #[command(after_help = "Example:\n  tidegate node detach press-7 session-0123…")]
    Detach(Own),
}

/// Which attachments.
#[derive(Args, Debug)]
pub struct List {
    /// Only those of this session.
    #[arg(long, value_name = "SESSION", default_value = "")]
    session: String,
    /// Detached and revoked ones too.
    #[arg(long)]
    ended: bool,
    #[command(flatten)]
    local: Local,
}

/// The version floor.
#[derive(Args, Debug)]
pub struct Floor {
    /// MAJOR.MINOR; nodes below it read and do not write.
    #[arg(long, value_name = "VERSION", conflicts_with = "clear")]
    set: Option<String>,
    /// No floor any more.
    #[arg(long)]
    clear: bool,
    #[command(flatten)]
    local: Local,
}

/// A node to bar.
#[derive(Args, Debug)]
pub struct Revoke {
    /// The node's id.
    #[arg(value_name = "NODE")]
    node: String,
    /// Only from this session.
    #[arg(long, value_name = "SESSION", default_value = "")]
    session: String,
    #[command(flatten)]
    local: Local,
}

/// What to watch.
#[derive(Args, Debug)]
pub struct Watch {
    /// Only nodes of this session.
    #[arg(long, value_name = "SESSION", default_value = "")]
    session: String,
    /// End after so many changes.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    local: Local,
}

/// A node of this key in a session.
#[derive(Args, Debug)]
pub struct Own {
    /// The node's id.
    #[arg(value_name = "NODE")]
    node: String,
    /// The session's id, as `client open` printed it.
    #[arg(value_name = "SESSION")]
    session: String,
    #[command(flatten)]
    remote: Remote,
}

/// A node that joins.
#[derive(Args, Debug)]
pub struct Attach {
    #[command(flatten)]
    own: Own,
    /// The node's version, MAJOR.MINOR.
    #[arg(long, value_name = "VERSION")]
    version: String,
    /// What the node is.
    #[arg(long, value_name = "KIND", default_value = "shell")]
    kind: String,
    /// What it can do; may be given several times.
    #[arg(long = "capability", value_name = "TEXT")]
    capabilities: Vec<String>,
}

/// A sign of life.
#[derive(Args, Debug)]
pub struct Heartbeat {
    #[command(flatten)]
    own: Own,
    /// Report `degraded` instead of `online`.
    #[arg(long)]
    degraded: bool,
}

// === impl NodeCommand ===

impl NodeCommand {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::List(List { local, .. })
            | Self::Floor(Floor { local, .. })
            | Self::Revoke(Revoke { local, .. })
            | Self::Watch(Watch { local, .. }) => local.json,
            Self::Attach(Attach { own, .. }) | Self::Heartbeat(Heartbeat { own, .. }) | Self::Detach(own) => {
                own.remote.local.json
            }
        }
    }
}

pub(super) async fn run(command: NodeCommand) -> anyhow::Result<()> {
    match command {
        NodeCommand::List(args) => list(args).await,
        NodeCommand::Floor(args) => floor(args).await,
        NodeCommand::Watch(args) => watch(args).await,
        NodeCommand::Attach(args) => attach(args).await,
        NodeCommand::Heartbeat(args) => heartbeat(args).await,
        NodeCommand::Detach(args) => {
            let left = args.remote.nodes().await?.detach(&args.node, &args.session).await?;
            if args.remote.local.json {
                output::line(json!({ "attachment": attachment_json(&left) }))?;
            } else {
                output::line(format_args!("{} has left", left.node_id))?;
            }
            Ok(())
        }
        NodeCommand::Revoke(args) => {
            let revoked = args.local.node_admin().await?.revoke(&args.node, &args.session).await?;
            if args.local.json {
                output::line(json!({ "node_id": args.node, "revoked": revoked }))?;
            } else {
                output::line(format_args!("revoked {} in {revoked} session(s)", args.node))?;
            }
            Ok(())
        }
    }
}

async fn attach(args: Attach) -> anyhow::Result<()> {
    let Attach { own, version, kind, capabilities } = args;
    let request = AttachNodeRequest { node_id: own.node, session_id: own.session, kind, version, capabilities };
    let attached = own.remote.nodes().await?.attach(request).await?;
    let access = match attached.access() {
        NodeAccess::ReadOnly => "read-only",
        _ => "read-write",
    };
    let node = attached.attachment.unwrap_or_default();
    if own.remote.local.json {
        output::line(json!({
            "attachment": attachment_json(&node), "access": access, "heartbeat_every_ms": attached.heartbeat_every_ms,
        }))?;
    } else {
        output::line(format_args!("{} is {}, {access}", node.node_id, node.state))?;
    }
    Ok(())
}

async fn heartbeat(args: Heartbeat) -> anyhow::Result<()> {
    let Heartbeat { own, degraded } = args;
    let report = degraded.then_some(NodeReport::Degraded);
    let heard = own.remote.nodes().await?.heartbeat(&own.node, &own.session, report).await?;
    if own.remote.local.json {
        output::line(json!({ "state": heard.state, "received_at_unix_ms": heard.received_at_unix_ms }))?;
    } else {
        output::line(format_args!("{} is {}", own.node, heard.state))?;
    }
    Ok(())
}

async fn list(args: List) -> anyhow::Result<()> {
    let request = ListNodesRequest { session_id: args.session, ended: args.ended, ..Default::default() };
    let nodes = args.local.node_admin().await?.list(request).await?;
    if args.local.json {
        output::line(json!({ "nodes": nodes.iter().map(attachment_json).collect::<Vec<_>>() }))?;
        return Ok(());
    }
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            let heard = node.last_heartbeat_unix_ms.map_or("never".to_owned(), time);
            let NodeAttachment { node_id, kind, version, state, session_id, .. } = node.clone();
            [node_id, kind, version, state, heard, session_id]
        })
        .collect();
    output::table(["NODE", "KIND", "VERSION", "STATE", "LAST HEARTBEAT", "SESSION"], &rows)?;
    Ok(())
}

async fn floor(args: Floor) -> anyhow::Result<()> {
    let admin = args.local.node_admin().await?;
    let VersionFloor { floor, revision, set_at_unix_ms } = match (&args.set, args.clear) {
        (Some(floor), _) => admin.set_floor(Some(floor)).await?,
        (None, true) => admin.set_floor(None).await?,
        (None, false) => admin.floor().await?,
    };
    if args.local.json {
        output::line(json!({ "floor": floor, "revision": revision, "set_at_unix_ms": set_at_unix_ms }))?;
    } else {
        let floor = floor.map_or("no floor: every version writes".to_owned(), |floor| {
            format!("floor {floor}: nodes below it read and do not write")
        });
        output::line(format_args!("{floor} (revision {revision})"))?;
    }
    Ok(())
}

async fn watch(args: Watch) -> anyhow::Result<()> {
    let mut watched = Follow::new(args.local.node_admin().await?.watch(&args.session).await?);
    let mut left = args.count;
    while left != Some(0) {
        let message = match watched.next(async || again(&args).await).await? {
            Some(Told::Message(message)) => message,
            Some(Told::Again) => {
                show_again(args.local.json)?;
                continue;
            }
            None => break,
        };
        if matches!(message.message, Some(Message::Transition(_))) {
            left = left.map(|left| left - 1);
        }
        show(&message, args.local.json)?;
    }
    Ok(())
}

async fn again(args: &Watch) -> Result<NodeWatch, ClientError> {
    match args.local.node_admin().await {
        Ok(admin) => admin.watch(&args.session).await,
        // Without a reason it passes: addresses are not announced while the next gateway starts.
        Err(error) => Err(error.downcast().unwrap_or(ClientError::Incomplete("a gateway"))),
    }
}

/// What changed while nobody was there to tell is not kept.
fn show_again(as_json: bool) -> std::io::Result<()> {
    if as_json {
        return output::line(json!({ "connected_again": true }));
    }
    output::line("(connected again; `tidegate node list` says what changed meanwhile)")
}

fn show(message: &WatchNodesResponse, as_json: bool) -> std::io::Result<()> {
    match &message.message {
        Some(Message::Transition(change)) if as_json => output::line(json!({
            "node_id": change.node_id, "session_id": change.session_id, "from": change.from,
            "to": change.to, "cause": change.cause, "at_unix_ms": change.at_unix_ms,
        })),
        Some(Message::Transition(change)) => {
            let from = if change.from.is_empty() { "new" } else { &change.from };
            output::line(format_args!(
                "{}  {}  {from} -> {}  ({})  {}",
                time(change.at_unix_ms),
                change.node_id,
                change.to,
                change.cause,
                change.session_id
            ))
        }
        Some(Message::Missed(missed)) if as_json => output::line(json!({ "missed": missed })),
        Some(Message::Missed(missed)) => {
            output::line(format_args!("({missed} changes came too fast and were not kept)"))
        }
        None => Ok(()),
    }
}

/// ISO 8601, UTC; the wire's dates count days.
fn time(unix_ms: i64) -> String {
    const DAYS_BEFORE_UNIX: f64 = 25_569.0;
    let date = unix_ms as f64 / 86_400_000.0 + DAYS_BEFORE_UNIX;
    values::show_time(Some(&SourceTime { form: Some(Form::Date(date)) }))
}

fn attachment_json(node: &NodeAttachment) -> serde_json::Value {
    json!({
        "node_id": node.node_id, "session_id": node.session_id, "kind": node.kind, "version": node.version,
        "capabilities": node.capabilities, "state": node.state, "attached_at_unix_ms": node.attached_at_unix_ms,
        "updated_at_unix_ms": node.updated_at_unix_ms, "last_heartbeat_unix_ms": node.last_heartbeat_unix_ms,
        "key_id": node.key_id,
    })
}
