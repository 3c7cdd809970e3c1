//! `tidegate alarms`: see the alarms of a session, watch them, acknowledge them, as a client does. It keeps nothing; what it
//! watches comes as the gateway tells it, from the beginning after each connection that was lost.

use super::{
    Usage,
    follow::{Follow, Told},
    output,
    remote::{Addresses, Remote},
};
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use tidegate_client::{
    AlarmStream, ClientError, Connect, values,
    wire::{
        Alarm, AlarmProvider, AlarmState, SourceTime, alarm_provider::State, alarm_snapshot_begins::Reason,
        alarm_transition::Kind, source_time::Form, stream_alarms_response::Message,
    },
};

/// See, watch and acknowledge the alarms of a session.
#[derive(Debug, Subcommand)]
pub enum AlarmsCommand {
    /// List the alarms that stand.
    #[command(
        after_help = "Examples:\n  tidegate alarms list session-0123…\n  tidegate alarms list session-0123… --json"
    )]
    List(List),
    /// Show the alarms that stand, then each change as it comes.
    #[command(after_help = "Examples:\n  tidegate alarms watch session-0123…\n  \
        tidegate alarms watch session-0123… --count 5 --json\n\nCtrl-C ends it; a gateway that \
        restarts or gives way to another one does not: then it connects again and shows all that stand anew.")]
    Watch(Watch),
    /// Acknowledge alarms.
    #[command(after_help = "Examples:\n  tidegate alarms ack session-0123… 3 7 --comment 'pump is being changed'\n  \
        tidegate alarms ack session-0123… --all")]
    Ack(Ack),
}

/// A session.
#[derive(Args, Debug)]
pub struct List {
    /// The session's id.
    #[arg(value_name = "SESSION")]
    session: String,
    #[command(flatten)]
    remote: Remote,
}

/// What to watch.
#[derive(Args, Debug)]
pub struct Watch {
    /// The session's id.
    #[arg(value_name = "SESSION")]
    session: String,
    /// End after so many changes.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    remote: Remote,
}

/// What to acknowledge.
#[derive(Args, Debug)]
pub struct Ack {
    /// The session's id.
    #[arg(value_name = "SESSION")]
    session: String,
    /// Ids of alarms, as `alarms list` shows them.
    #[arg(value_name = "ALARM", required_unless_present = "all")]
    alarms: Vec<u64>,
    /// All that stand and are not acknowledged yet.
    #[arg(long, conflicts_with = "alarms")]
    all: bool,
    /// What to keep with them; at most 256 characters.
    #[arg(long, value_name = "TEXT", default_value = "")]
    comment: String,
    #[command(flatten)]
    remote: Remote,
}

/// Ids of one request, as the gateway takes them.
const AT_ONCE: usize = 1_000;

// === impl AlarmsCommand ===

impl AlarmsCommand {
    pub(super) fn json(&self) -> bool {
        let (Self::List(List { remote, .. }) | Self::Watch(Watch { remote, .. }) | Self::Ack(Ack { remote, .. })) =
            self;
        remote.local.json
    }
}

pub(super) async fn run(command: AlarmsCommand) -> anyhow::Result<()> {
    match command {
        AlarmsCommand::List(args) => list(args).await,
        AlarmsCommand::Watch(args) => watch(args).await,
        AlarmsCommand::Ack(args) => acknowledge(args).await,
    }
}

async fn list(args: List) -> anyhow::Result<()> {
    let listed = args.remote.alarms().await?.list(&args.session).await?;
    let provider = listed.provider.clone().unwrap_or_default();
    if args.remote.local.json {
        output::line(json!({
            "alarms": listed.alarms.iter().map(alarm_json).collect::<Vec<_>>(), "revision": listed.revision,
            "provider": provider_json(&provider), "not_kept": listed.not_kept,
        }))?;
        return Ok(());
    }
    let rows: Vec<_> = listed
        .alarms
        .iter()
        .map(|alarm| {
            [
                alarm.alarm_id.to_string(),
                state(alarm.state()).to_owned(),
                alarm.priority.to_string(),
                alarm.tag.clone(),
                alarm.condition.clone(),
                values::show(alarm.value.as_ref()),
                time(alarm.raised_at_unix_ms),
                alarm.acknowledged_by.clone(),
                alarm.comment.clone(),
            ]
        })
        .collect();
    output::table(["ALARM", "STATE", "PRIO", "TAG", "CONDITION", "VALUE", "RAISED", "BY", "COMMENT"], &rows)?;
    if provider.state() == State::Lost {
        output::line(format_args!("the provider {} is lost: this is how it was", provider.name))?;
    }
    if listed.not_kept > 0 {
        output::line(format_args!("{} more found no room in the gateway's table", listed.not_kept))?;
    }
    Ok(())
}

async fn watch(args: Watch) -> anyhow::Result<()> {
    let dial = args.remote.client()?;
    let mut watched = Follow::new(args.remote.alarms().await?.stream(&args.session).await?);
    let mut left = args.count;
    while left != Some(0) {
        let message = match watched.next(async || again(&args, &dial).await).await? {
            Some(Told::Message(message)) => message,
            // Its first words are a snapshot of all that stand now.
            Some(Told::Again) => continue,
            None => break,
        };
        if matches!(message, Message::Transition(_)) {
            left = left.map(|left| left - 1);
        }
        show(&message, args.remote.local.json)?;
    }
    Ok(())
}

/// Where the gateway that follows says it is; the address is the same unless that was started with another one.
async fn again(args: &Watch, dial: &Connect) -> Result<AlarmStream, ClientError> {
    let announced = Addresses::read(&args.remote.local.data).is_ok_and(|addresses| addresses.is_some());
    let dial = args.remote.client().ok().filter(|_| announced).unwrap_or_else(|| dial.clone());
    dial.alarms().await?.stream(&args.session).await
}

fn show(message: &Message, as_json: bool) -> std::io::Result<()> {
    if as_json {
        return output::line(message_json(message));
    }
    match message {
        Message::SnapshotBegins(begins) => output::line(format_args!("--- {} ---", because(begins.reason()))),
        Message::Standing(part) => part.alarms.iter().try_for_each(|alarm| output::line(line("stands", alarm))),
        Message::SnapshotComplete(end) => {
            let more = if end.not_kept > 0 { format!(", {} found no room", end.not_kept) } else { String::new() };
            output::line(format_args!("--- {} stand{more} ---", end.standing))
        }
        Message::Transition(change) => {
            change.alarm.as_ref().map_or(Ok(()), |alarm| output::line(line(kind(change.kind()), alarm)))
        }
        Message::Provider(provider) => {
            let open = if provider.state() == State::Lost { "lost" } else { "open" };
            output::line(format_args!("--- provider {} is {open} ---", provider.name))
        }
    }
}

async fn acknowledge(args: Ack) -> anyhow::Result<()> {
    let alarms = args.remote.alarms().await?;
    let ids = if args.all {
        let standing = alarms.list(&args.session).await?.alarms;
        standing.iter().filter(|alarm| alarm.state() != AlarmState::Acknowledged).map(|one| one.alarm_id).collect()
    } else {
        args.alarms
    };
    let mut results = Vec::new();
    for ids in ids.chunks(AT_ONCE) {
        results.extend(alarms.acknowledge(&args.session, ids, &args.comment).await?);
    }
    let failed = results.iter().filter(|one| one.hresult != 0).count();
    if args.remote.local.json {
        let one = |one: &tidegate_client::wire::AlarmAcknowledged| json!({ "alarm_id": one.alarm_id, "hresult": hresult(one.hresult), "message": one.message });
        output::line(json!({ "results": results.iter().map(one).collect::<Vec<_>>() }))?;
    } else {
        for one in &results {
            if one.hresult == 0 {
                output::line(format_args!("acknowledged {}", one.alarm_id))?;
            } else {
                output::line(format_args!("{}: {} ({})", one.alarm_id, one.message, hresult(one.hresult)))?;
            }
        }
    }
    if failed > 0 {
        anyhow::bail!("{failed} of {} were not acknowledged", results.len());
    }
    if results.is_empty() && !args.all {
        return Err(Usage("name an alarm".to_owned()).into());
    }
    Ok(())
}

fn line(what: &str, alarm: &Alarm) -> String {
    let mut line = format!(
        "{}  {what:<12}  {}  {} {} = {}  ({}, priority {})",
        time(alarm.changed_at_unix_ms),
        alarm.alarm_id,
        alarm.tag,
        alarm.condition,
        values::show(alarm.value.as_ref()),
        state(alarm.state()),
        alarm.priority
    );
    if !alarm.acknowledged_by.is_empty() {
        line.push_str(&format!("  by {}", alarm.acknowledged_by));
    }
    if !alarm.comment.is_empty() {
        line.push_str(&format!(": {}", alarm.comment));
    }
    line
}

fn message_json(message: &Message) -> Json {
    match message {
        Message::SnapshotBegins(begins) => json!({
            "message": "snapshot_begins", "reason": reason(begins.reason()),
            "provider": provider_json(&begins.provider.clone().unwrap_or_default()),
        }),
        Message::Standing(part) => {
            json!({ "message": "standing", "alarms": part.alarms.iter().map(alarm_json).collect::<Vec<_>>() })
        }
        Message::SnapshotComplete(end) => json!({
            "message": "snapshot_complete", "revision": end.revision, "epoch": format!("{:016x}", end.epoch),
            "generation": end.generation, "standing": end.standing, "withheld": end.withheld, "not_kept": end.not_kept,
        }),
        Message::Transition(change) => json!({
            "message": "transition", "kind": kind(change.kind()), "alarm": change.alarm.as_ref().map(alarm_json),
        }),
        Message::Provider(provider) => json!({ "message": "provider", "provider": provider_json(provider) }),
    }
}

fn alarm_json(alarm: &Alarm) -> Json {
    json!({
        "alarm_id": alarm.alarm_id, "tag": alarm.tag, "condition": alarm.condition, "state": state(alarm.state()),
        "priority": alarm.priority, "value": output::value_json(alarm.value.as_ref()),
        "limit": output::value_json(alarm.limit.as_ref()), "raised_at_unix_ms": alarm.raised_at_unix_ms,
        "changed_at_unix_ms": alarm.changed_at_unix_ms, "acknowledged_at_unix_ms": alarm.acknowledged_at_unix_ms,
        "acknowledged_by": alarm.acknowledged_by, "comment": alarm.comment,
        "returned_at_unix_ms": alarm.returned_at_unix_ms, "revision": alarm.revision,
    })
}

fn provider_json(provider: &AlarmProvider) -> Json {
    json!({ "name": provider.name, "state": if provider.state() == State::Lost { "lost" } else { "open" } })
}

fn state(state: AlarmState) -> &'static str {
    match state {
        AlarmState::Active => "active",
        AlarmState::Acknowledged => "acknowledged",
        AlarmState::Returned => "returned",
        AlarmState::Gone => "gone",
        AlarmState::Unspecified => "unknown",
    }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Raised => "raised",
        Kind::Acknowledged => "acknowledged",
        Kind::Returned => "returned",
        Kind::Changed => "changed",
        Kind::Unspecified => "unknown",
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Opened => "opened",
        Reason::TooSlow => "too-slow",
        Reason::Provider => "provider",
        Reason::Rights => "rights",
        Reason::Resynced => "resynced",
        Reason::Unspecified => "unknown",
    }
}

fn because(reason: Reason) -> &'static str {
    match reason {
        Reason::TooSlow => "too slow for the changes: all that stand, anew",
        Reason::Provider => "from another provider: all that stand, anew",
        Reason::Rights => "what this key may see has changed: all that stand, anew",
        Reason::Resynced => "the gateway read them anew: all that stand",
        Reason::Opened | Reason::Unspecified => "all that stand",
    }
}

fn hresult(hresult: i32) -> String {
    format!("0x{:08X}", hresult.cast_unsigned())
}

/// ISO 8601, UTC; the wire's dates count days.
fn time(unix_ms: i64) -> String {
    const DAYS_BEFORE_UNIX: f64 = 25_569.0;
    let date = unix_ms as f64 / 86_400_000.0 + DAYS_BEFORE_UNIX;
    values::show_time(Some(&SourceTime { form: Some(Form::Date(date)) }))
}
