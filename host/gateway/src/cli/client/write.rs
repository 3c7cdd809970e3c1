//! `tidegate client write`: advise, wait for the first value, write, wait for OnWriteComplete. That
//! order is MXAccess's own: before the first data change the type is unknown and a write fails, and
//! an item must stay advised until its write is complete.

use super::CLIENT_NAME;
use crate::cli::{Usage, output, remote::Remote};
use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde_json::json;
use std::time::Duration;
use tidegate_client::{
    Advised, EventStream, Gateway, Message, Start, StreamOptions, values,
    wire::{Value, Write, command::Method, event::Body},
};
use tokio::time::timeout;

/// A value to write.
#[derive(Args, Debug)]
pub struct WriteArgs {
    /// The session's id, as `client open` printed it.
    #[arg(value_name = "SESSION")]
    session: String,
    /// The item, e.g. Area1.Setpoint.Speed.
    #[arg(value_name = "TAG")]
    tag: String,
    /// The value.
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    value: String,
    /// How to read the value [default: the type of the item's present value].
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// The user who writes, as AuthenticateUser returned it.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    user: i32,
    /// Write on behalf of this runtime node, which the same key attached to the session.
    #[arg(long, value_name = "NODE")]
    node: Option<String>,
    /// Do not wait for OnWriteComplete; the item stays advised.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait, for the first value and for completion each.
    #[arg(long, value_name = "MS", default_value_t = 30_000)]
    timeout_ms: u64,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Types of values.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Boolean,
    Integer,
    Single,
    Double,
    Text,
    /// Days since 1899-12-30.
    Date,
    /// Milliseconds.
    Elapsed,
}

/// An advised item of the session.
struct Item {
    server: i32,
    handle: i32,
    key: u64,
    /// Whether this command registered for it, and has to clean up.
    ours: bool,
}

pub(super) async fn run(args: WriteArgs) -> anyhow::Result<()> {
    let gateway = args.remote.connect().await?;
    // Before the advise, so that the first value and the completion cannot be missed.
    let options = StreamOptions { reader_name: CLIENT_NAME.into(), ..Default::default() };
    let mut stream = gateway.stream(&args.session, Start::Live, options).await?;
    let item = advised(&gateway, &args.session, &args.tag).await?;
    let result = write(&gateway, &mut stream, &item, &args).await;
    if item.ours && !args.no_wait {
        gateway.unregister(&args.session, item.server).await.context("the item could not be removed again")?;
    }
    result
}

async fn write(gateway: &Gateway, stream: &mut EventStream, item: &Item, args: &WriteArgs) -> anyhow::Result<()> {
    let patience = Duration::from_millis(args.timeout_ms);
    let present = match last_value(gateway, &args.session, item.key).await? {
        Some(value) => value,
        None => timeout(patience, first_value(stream, item.key)).await.with_context(|| {
            format!("{} had no first value within {} ms; without one its type is unknown", args.tag, args.timeout_ms)
        })??,
    };
    let kind = args.kind.map(values::Type::from).or_else(|| values::type_of(&present));
    let value = values::parse(&args.value, kind.unwrap_or_else(|| values::guess(&args.value))).map_err(Usage)?;
    let write = Write { server_handle: item.server, item_handle: item.handle, value: Some(value), user_id: args.user };
    let node = args.node.as_deref().unwrap_or_default();
    gateway.invoke_for(node, &args.session, Method::Write(write), 0).await?;
    if args.no_wait {
        return said(args, "handed to the server", None);
    }
    let statuses = timeout(patience, completion(stream, item.key)).await.with_context(|| {
        format!("no OnWriteComplete within {} ms; whether the write took effect is unknown", args.timeout_ms)
    })??;
    let outcome = output::outcome(&statuses);
    anyhow::ensure!(output::succeeded(&statuses), "write to {} {outcome}", args.tag);
    said(args, "written", Some(&outcome))
}

fn said(args: &WriteArgs, what: &str, outcome: Option<&str>) -> anyhow::Result<()> {
    if args.remote.local.json {
        output::line(json!({ "tag": args.tag, "written": outcome.is_some(), "outcome": outcome }))?;
    } else {
        output::line(format_args!("{}: {what}", args.tag))?;
    }
    Ok(())
}

/// The item as someone advised it already, else advised now.
async fn advised(gateway: &Gateway, session: &str, tag: &str) -> anyhow::Result<Item> {
    for server in gateway.state(session).await?.servers {
        if let Some(item) = server.items.iter().find(|item| item.definition == tag && item.advised && !item.suspended) {
            let (handle, key) = (item.item_handle, item.item_key);
            return Ok(Item { server: server.server_handle, handle, key, ours: false });
        }
    }
    let server = gateway.register(session, CLIENT_NAME).await?;
    let advised = gateway.subscribe(session, server, &[tag]).await;
    match advised.map(|mut all| all.pop()) {
        Ok(Some(Advised { item: Ok((handle, key)), .. })) => Ok(Item { server, handle, key, ours: true }),
        Ok(refused) => {
            gateway.unregister(session, server).await?;
            let decision = refused.as_ref().map(|one| one.decision.clone()).unwrap_or_default();
            let (hresult, message) = refused.and_then(|one| one.item.err()).unwrap_or_default();
            anyhow::bail!(super::failed_element(tag, hresult, &message, &decision))
        }
        Err(error) => {
            gateway.unregister(session, server).await?;
            Err(error.into())
        }
    }
}

async fn last_value(gateway: &Gateway, session: &str, key: u64) -> anyhow::Result<Option<Value>> {
    let items = gateway.snapshot(session).await?.items;
    let last = items.into_iter().find(|item| item.item_key == key).and_then(|item| item.last);
    Ok(match last.and_then(|event| event.body) {
        Some(Body::DataChange(change)) => change.value,
        _ => None,
    })
}

async fn first_value(stream: &mut EventStream, key: u64) -> anyhow::Result<Value> {
    body_of(stream, key, |body| match body {
        Body::DataChange(change) => change.value,
        _ => None,
    })
    .await
}

async fn completion(stream: &mut EventStream, key: u64) -> anyhow::Result<Vec<tidegate_client::wire::MxStatus>> {
    body_of(stream, key, |body| match body {
        Body::WriteComplete(done) => Some(done.statuses),
        _ => None,
    })
    .await
}

/// The first event of an item that `pick` takes.
async fn body_of<T>(stream: &mut EventStream, key: u64, pick: impl Fn(Body) -> Option<T>) -> anyhow::Result<T> {
    while let Some(message) = stream.next().await? {
        let Message::Batch(batch) = message else { continue };
        let of_item = batch.events.into_iter().filter(|event| event.item_key == key);
        if let Some(found) = of_item.filter_map(|event| event.body).find_map(&pick) {
            return Ok(found);
        }
    }
    anyhow::bail!("the stream ended while waiting")
}

impl From<Kind> for values::Type {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Boolean => Self::Boolean,
            Kind::Integer => Self::Integer,
            Kind::Single => Self::Single,
            Kind::Double => Self::Double,
            Kind::Text => Self::Text,
            Kind::Date => Self::Date,
            Kind::Elapsed => Self::ElapsedMs,
        }
    }
}
