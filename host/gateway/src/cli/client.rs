//! `tidegate client`: a gateway by hand, as its clients use it. Streams and writes have files of
//! their own. It keeps nothing between two commands: sessions live in the gateway.

mod stream;
mod write;

use super::{output, remote::Remote};
use clap::{Args, Subcommand};
use serde_json::json;
use tidegate_client::{
    Advised, Gateway, values,
    wire::{BulkResult, OpenSessionRequest, session_state::ServerState},
};

/// How this client registers itself with the server of a session.
const CLIENT_NAME: &str = "tidegate-cli";

/// Use a gateway as its clients do.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Open a session; prints its id.
    #[command(after_help = "Examples:\n  tidegate client open\n  \
        tidegate client open --name night-shift --tag line-1 --backend sim")]
    Open(Open),
    /// Close a session, its worker and its streams; closing twice is no error.
    #[command(after_help = "Example:\n  tidegate client close session-0123…")]
    Close(OfSession),
    /// Add items and advise them, so that their events come.
    #[command(after_help = "Example:\n  tidegate client advise session-0123… Area1.Pump1.Flow Area1.Pump1.Speed")]
    Advise(Tags),
    /// Write a value and wait until the server says that it is done.
    #[command(after_help = "Examples:\n  tidegate client write session-0123… Area1.Setpoint.Speed 12.5\n  \
        tidegate client write session-0123… Area1.Setpoint.Level 3 --type double\n  \
        tidegate client write session-0123… Area1.Setpoint.Speed 12.5 --node press-7")]
    Write(write::WriteArgs),
    /// Read the present value of items.
    #[command(after_help = "Example:\n  tidegate client read session-0123… Area1.Pump1.Flow")]
    Read(Tags),
    /// Show the last value of every item that the key may read.
    #[command(after_help = "Example:\n  tidegate client snapshot session-0123… --json")]
    Snapshot(OfSession),
    /// Show events as they come, check that none is missing, and say so at the end.
    #[command(after_help = "Examples:\n  tidegate client stream session-0123… --count 100\n  \
        tidegate client stream session-0123… --from-oldest --json\n  \
        tidegate client stream session-0123… --resume 00c0ffee00c0ffee:1041\n\n\
        Ctrl-C ends it; the account and the position to resume at go to standard error.")]
    Stream(stream::StreamArgs),
}

/// A session to open.
#[derive(Args, Debug)]
pub struct Open {
    /// A name for people; at most 64 characters.
    #[arg(long, value_name = "TEXT", default_value = "")]
    name: String,
    /// Which sessions belong together, e.g. line-1.
    #[arg(long, value_name = "TAG", default_value = "")]
    tag: String,
    /// One of the gateway's backends [default: the gateway's default].
    #[arg(long, value_name = "NAME", default_value = "")]
    backend: String,
    /// How long a command of this session may take; 0: the gateway's default.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    timeout_ms: u32,
    #[command(flatten)]
    remote: Remote,
}

/// A session.
#[derive(Args, Debug)]
pub struct OfSession {
    /// The session's id, as `client open` printed it.
    #[arg(value_name = "SESSION")]
    session: String,
    #[command(flatten)]
    remote: Remote,
}

/// Items of a session.
#[derive(Args, Debug)]
pub struct Tags {
    /// The session's id, as `client open` printed it.
    #[arg(value_name = "SESSION")]
    session: String,
    /// Items, e.g. Area1.Pump1.Flow.
    #[arg(value_name = "TAG", required = true)]
    tags: Vec<String>,
    /// How long to wait for a first value.
    #[arg(long, value_name = "MS", default_value_t = 10_000)]
    timeout_ms: u32,
    #[command(flatten)]
    remote: Remote,
}

// === impl ClientCommand ===

impl ClientCommand {
    pub(super) fn json(&self) -> bool {
        let remote = match self {
            Self::Open(args) => &args.remote,
            Self::Close(args) | Self::Snapshot(args) => &args.remote,
            Self::Advise(args) | Self::Read(args) => &args.remote,
            Self::Write(args) => &args.remote,
            Self::Stream(args) => &args.remote,
        };
        remote.local.json
    }
}

pub(super) async fn run(command: ClientCommand) -> anyhow::Result<()> {
    match command {
        ClientCommand::Open(args) => open(args).await,
        ClientCommand::Close(args) => close(args).await,
        ClientCommand::Advise(args) => advise(args).await,
        ClientCommand::Read(args) => read(args).await,
        ClientCommand::Snapshot(args) => snapshot(args).await,
        ClientCommand::Write(args) => write::run(args).await,
        ClientCommand::Stream(args) => stream::run(args).await,
    }
}

async fn open(args: Open) -> anyhow::Result<()> {
    let opened = args
        .remote
        .connect()
        .await?
        .open(OpenSessionRequest {
            client_session_name: args.name,
            requested_backend: args.backend,
            tag: args.tag,
            command_timeout_ms: args.timeout_ms,
            client_kind: CLIENT_NAME.into(),
            client_version: env!("CARGO_PKG_VERSION").into(),
        })
        .await?;
    if args.remote.local.json {
        output::line(json!({
            "session_id": opened.session_id, "worker_pid": opened.worker_pid, "epoch": format!("{:016x}", opened.epoch),
            "capabilities": opened.capabilities, "protocol_version": opened.protocol_version,
            "client_correlation_id": opened.client_correlation_id,
        }))?;
    } else {
        // The id alone on standard output, so that `S=$(tidegate client open)` works.
        eprintln!("opened; worker {}", opened.worker_pid);
        output::line(&opened.session_id)?;
    }
    Ok(())
}

async fn close(args: OfSession) -> anyhow::Result<()> {
    let head = args.remote.connect().await?.close(&args.session).await?;
    if args.remote.local.json {
        output::line(json!({ "closed": args.session, "head": head }))?;
    } else {
        output::line(format_args!("closed {} after {head} events", args.session))?;
    }
    Ok(())
}

async fn advise(args: Tags) -> anyhow::Result<()> {
    let gateway = args.remote.connect().await?;
    let server = server_handle(&gateway, &args.session).await?;
    let advised = gateway.subscribe(&args.session, server, &args.tags).await?;
    let mut failed = 0;
    for Advised { tag, item, decision } in &advised {
        failed += usize::from(item.is_err());
        match item {
            Ok((handle, key)) if args.remote.local.json => {
                output::line(json!({ "tag": tag, "server_handle": server, "item_handle": handle, "item_key": key }))?;
            }
            Err((hresult, message)) if args.remote.local.json => {
                output::line(json!({ "tag": tag, "hresult": hresult, "message": message, "decision": decision }))?;
            }
            Ok((handle, _)) => output::line(format_args!("{tag}  item {handle}"))?,
            Err((hresult, message)) => output::line(failed_element(tag, *hresult, message, decision))?,
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} items could not be advised", advised.len());
    Ok(())
}

async fn read(args: Tags) -> anyhow::Result<()> {
    let gateway = args.remote.connect().await?;
    // Where the items are advised already they are answered from there, else by a registration that
    // goes again, so that nothing of this read stays in the session.
    let state = gateway.state(&args.session).await?;
    let advised =
        |server: &&ServerState| server.items.iter().any(|item| item.advised && args.tags.contains(&item.definition));
    let results = match state.servers.iter().find(advised) {
        Some(server) => gateway.read(&args.session, server.server_handle, &args.tags, args.timeout_ms).await?.results,
        None => {
            let server = gateway.register(&args.session, CLIENT_NAME).await?;
            let read = gateway.read(&args.session, server, &args.tags, args.timeout_ms).await;
            gateway.unregister(&args.session, server).await?;
            read?.results
        }
    };
    let mut failed = 0;
    for (tag, result) in args.tags.iter().zip(&results) {
        failed += usize::from(result.hresult != 0);
        let BulkResult { hresult, message, value, quality, time, decision_id, .. } = result;
        let time = values::show_time(time.as_ref());
        match (hresult, args.remote.local.json) {
            (0, true) => {
                let value = output::value_json(value.as_ref());
                output::line(json!({ "tag": tag, "value": value, "quality": quality, "time": time }))?;
            }
            (0, false) => {
                let (value, quality) = (values::show(value.as_ref()), output::quality(*quality));
                output::line(format_args!("{tag} = {value}  {quality}  {time}"))?;
            }
            (_, true) => {
                output::line(json!({ "tag": tag, "hresult": hresult, "message": message, "decision": decision_id }))?
            }
            (_, false) => output::line(failed_element(tag, *hresult, message, decision_id))?,
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} items could not be read", results.len());
    Ok(())
}

/// One element of a bulk command that came to nothing; who was refused can quote the decision.
fn failed_element(tag: &str, hresult: i32, message: &str, decision: &str) -> String {
    let decision = if decision.is_empty() { String::new() } else { format!(", decision {decision}") };
    format!("{tag}  failed: {message} (0x{hresult:08x}{decision})")
}

async fn snapshot(args: OfSession) -> anyhow::Result<()> {
    let snapshot = args.remote.connect().await?.snapshot(&args.session).await?;
    if args.remote.local.json {
        let items: Vec<_> = snapshot
            .items
            .iter()
            .map(|item| match &item.last {
                Some(event) => output::event_json(event, &item.tag),
                None => json!({ "tag": item.tag, "item_key": item.item_key, "item_handle": item.item_handle }),
            })
            .collect();
        output::line(json!({
            "epoch": format!("{:016x}", snapshot.epoch), "as_of": snapshot.as_of,
            "generation": snapshot.generation, "items": items,
        }))?;
        return Ok(());
    }
    for item in &snapshot.items {
        match &item.last {
            Some(event) => output::line(output::event_line(event, &item.tag))?,
            None => output::line(format_args!("        -  {} has no value yet", item.tag))?,
        }
    }
    output::line(format_args!("{} items as of {}", snapshot.items.len(), snapshot.as_of))?;
    Ok(())
}

/// The registration of this program in the session; made when it is the first time.
async fn server_handle(gateway: &Gateway, session: &str) -> anyhow::Result<i32> {
    let state = gateway.state(session).await?;
    let ours = state.servers.iter().find(|server| server.client_name == CLIENT_NAME);
    Ok(match ours {
        Some(server) => server.server_handle,
        None => gateway.register(session, CLIENT_NAME).await?,
    })
}
