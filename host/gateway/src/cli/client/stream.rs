//! `tidegate client stream`: events as lines, gaps as lines of their own, the account at the end.
//! Tags come from snapshots, because events carry only keys.

use crate::cli::{output, remote::Remote};
use clap::Args;
use serde_json::json;
use std::{collections::HashMap, io};
use tidegate_client::{
    ClientError, EventStream, Gateway, Message, Position, Start, StreamOptions, account, wire::Event,
};

/// What to show of a session's events.
#[derive(Args, Debug)]
pub struct StreamArgs {
    /// The session's id, as `client open` printed it.
    #[arg(value_name = "SESSION")]
    session: String,
    /// Begin with the oldest event still kept.
    #[arg(long, conflicts_with = "resume")]
    from_oldest: bool,
    /// Begin after a position that an earlier stream ended with.
    #[arg(long, value_name = "EPOCH:AFTER", value_parser = output::parse_position)]
    resume: Option<Position>,
    /// End after so many events [default: go on].
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// How long the gateway may gather events to send them together; at most 1000 [default: as it is set to].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u32).range(..=1000))]
    linger_ms: Option<u32>,
    #[command(flatten)]
    pub(super) remote: Remote,
}

/// Tags by item key, asked for again when an unknown key comes by.
#[derive(Debug)]
struct Tags<'a> {
    gateway: &'a Gateway,
    session: &'a str,
    known: HashMap<u64, String>,
}

pub(super) async fn run(args: StreamArgs) -> anyhow::Result<()> {
    let gateway = args.remote.connect().await?;
    let start = match args.resume {
        Some(position) => Start::Resume(position),
        None if args.from_oldest => Start::Oldest,
        None => Start::Live,
    };
    let options =
        StreamOptions { linger_ms: args.linger_ms, reader_name: super::CLIENT_NAME.into(), ..Default::default() };
    let mut stream = gateway.stream(&args.session, start, options).await?;
    let mut tags = Tags { gateway: &gateway, session: &args.session, known: HashMap::new() };
    let shown = tokio::select! {
        shown = show(&mut stream, &mut tags, &args) => shown,
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
    };
    let counts = stream.account().counts();
    let position = output::show_position(stream.position());
    if args.remote.local.json {
        eprintln!("{}", json!({ "account": account_json(&counts), "closes": counts.closes(), "position": position }));
    } else {
        eprintln!("account: {counts}\nresume with: --resume {position}");
    }
    shown
}

async fn show(stream: &mut EventStream, tags: &mut Tags<'_>, args: &StreamArgs) -> anyhow::Result<()> {
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        match stream.next().await? {
            Some(Message::Batch(batch)) => {
                for event in batch.events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
                    let tag = tags.of(event).await?;
                    if args.remote.local.json {
                        output::line(output::event_json(event, &tag))?;
                    } else {
                        output::line(output::event_line(event, &tag))?;
                    }
                    left -= 1;
                }
            }
            Some(Message::Gap(gap)) => show_gap(&gap, args.remote.local.json)?,
            None => return Ok(()),
        }
    }
    Ok(())
}

fn show_gap(gap: &tidegate_client::wire::Gap, json: bool) -> io::Result<()> {
    let (from, to, reason) = (gap.from, gap.to, account::reason_name(gap));
    if json {
        output::line(json!({ "kind": "gap", "from": from, "to": to, "reason": reason }))
    } else {
        let many = to.saturating_sub(from).saturating_add(1);
        output::line(format_args!(
            "{from:>9}  gap up to {to}: {many} events {reason}; `client snapshot` has the last values"
        ))
    }
}

fn account_json(counts: &tidegate_client::Counts) -> serde_json::Value {
    json!({
        "produced": counts.produced, "delivered": counts.delivered, "filtered": counts.filtered,
        "conflated": counts.conflated, "gapped": counts.gapped, "unaccounted": counts.unaccounted,
        "duplicated": counts.duplicated, "reordered": counts.reordered,
    })
}

// === impl Tags ===

impl Tags<'_> {
    async fn of(&mut self, event: &Event) -> Result<String, ClientError> {
        let key = event.item_key;
        if key == 0 {
            return Ok("-".into());
        }
        if !self.known.contains_key(&key) {
            let items = self.gateway.snapshot(self.session).await?.items;
            self.known.extend(items.into_iter().map(|item| (item.item_key, item.tag)));
            // An item that was removed since: its key stands for it, and is not asked for again.
            self.known.entry(key).or_insert_with(|| format!("item {key}"));
        }
        Ok(self.known[&key].clone())
    }
}
