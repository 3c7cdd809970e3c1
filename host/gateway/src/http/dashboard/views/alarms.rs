//! The pieces of pages about alarms: a row, who tells of them, one alarm in full, the forms that acknowledge. Knows how
//! they look, asks nobody. Invariant: a state is a word, never a colour alone.

use super::{
    super::{
        board::hash,
        standing::{Source, Visible},
    },
    form_token, table,
};
use crate::{
    people::SignedIn,
    sessions::alarms::{COMMENT_CHARS_MAX, Counts},
};
use maud::{Markup, PreEscaped, html};
use tidegate_client::values;
use tidegate_proto::v1::{Alarm, AlarmProvider, AlarmState, Value, alarm_provider::State, value::Kind};

pub(in super::super) const ALARMS: &[&str] =
    &["Priority", "State", "Tag", "Condition", "Value", "Limit", "Since", "Session", "Acknowledged"];
const SOURCES: &[&str] = &["Session", "Alarms come from", "State", "Standing", "To acknowledge", "Without room"];
/// Characters of a worker's text in a row.
const CELL_MAX: usize = 80;

pub(in super::super) fn row(id: &str, session_id: &str, session: &str, alarm: &Alarm) -> Markup {
    html! {
        tr id=(id) {
            td.number { (alarm.priority) " " span.quiet { (severity(alarm.priority)) } }
            td { (state(alarm.state())) }
            th scope="row" { a href={"/alarms/" (session_id) "/" (alarm.alarm_id)} { (cut(&alarm.tag)) } }
            td { (cut(&alarm.condition)) }
            td { (short(alarm.value.as_ref())) }
            td { @if alarm.limit.is_some() { (short(alarm.limit.as_ref())) } }
            td.time { (values::show_unix_ms(alarm.raised_at_unix_ms)) }
            td { a href={"/sessions/" (session_id)} { (super::name_of(session, session_id)) } }
            td { @if alarm.acknowledged_at_unix_ms != 0 { (cut(&alarm.acknowledged_by)) @if !alarm.comment.is_empty() { ": " (cut(&alarm.comment)) } } }
        }
    }
}

/// Everything of a page of alarms; each part has the id under which it is sent again.
pub(in super::super) fn page(visible: &Visible<'_>) -> Markup {
    let [totals, more, sources] = parts(visible).map(|(_, html)| PreEscaped(html));
    html! {
        div #totals { (totals) }
        (table("Alarms, the most urgent first", ALARMS, Some("rows"), &rows(visible)))
        p #more .quiet { (more) }
        (table("Where they come from", SOURCES, Some("sources"), &sources))
        p.quiet {
            "active: the condition holds and nobody has acknowledged it. returned: it is over, and nobody has. acknowledged: "
            "it holds, and somebody knows. What is over and acknowledged is gone. Priorities go from 1, the most urgent, to 999."
        }
    }
}

pub(in super::super) fn rows(visible: &Visible<'_>) -> Markup {
    html! { @for row in &visible.rows { (PreEscaped(&row.html)) } }
}

/// What is beside the rows, by its element's id.
pub(in super::super) fn parts(visible: &Visible<'_>) -> [(&'static str, String); 3] {
    let Visible { rows, sources, sources_in_all, counts, troubled } = visible;
    let totals = html! {
        dl.tiles {
            div { dt { "To acknowledge" } dd { @if counts.waiting > 0 { span.bad { (counts.waiting) } } @else { "0" } } }
            div { dt { "Standing" } dd { (counts.standing) } }
            div { dt { "Told by" } dd { (sources_in_all) @if *sources_in_all == 1 { " session" } @else { " sessions" } } }
            div { dt { "In trouble" } dd { @if *troubled > 0 { span.bad { (troubled) } } @else { span.good { "none" } } } }
        }
    };
    let hidden = counts.standing.saturating_sub(rows.len());
    let more = html! {
        @if counts.standing == 0 { "No alarm stands that you may see. " }
        @if hidden > 0 { (hidden) " more stand and are not shown here; " code { "tidegate alarms list" } " has all. " }
        @if counts.not_kept > 0 { (counts.not_kept) " more found no room in the gateway's tables (" code { "max_alarms_per_session" } "). " }
        @if *sources_in_all == 0 { "No session that you may see has a worker that tells of alarms. " }
        @if *sources_in_all > sources.len() { "Below, " (sources.len()) " of " (sources_in_all) " sessions." }
    };
    let listed = html! { @for source in sources { (of_source(source)) } };
    [("totals", totals.0), ("more", more.0), ("sources", listed.0)]
}

fn of_source(source: &Source) -> Markup {
    let Counts { standing, waiting, not_kept } = source.counts;
    html! {
        tr {
            th scope="row" { a href={"/alarms/" (source.id)} { (source.name) } }
            td { @if source.provider.name.is_empty() { "–" } @else { (cut(&source.provider.name)) } }
            td { @match &source.over { Some(why) => span.bad { (cut(why)) }, None => (provider(&source.provider)) } }
            td.number { (standing) }
            td.number { (waiting) }
            td.number { (not_kept) }
        }
    }
}

pub(in super::super) fn is_lost(provider: &AlarmProvider) -> bool {
    provider.state() == State::Lost
}

fn provider(provider: &AlarmProvider) -> Markup {
    match provider.state() {
        State::Open => html! { span.good { "open" } },
        State::Lost => {
            html! { span.bad { "lost: this is how it was, and nothing can be acknowledged until another one is open" } }
        }
        State::Unspecified => html! { "has told nothing yet" },
    }
}

/// One alarm in full.
pub(in super::super) fn facts(alarm: &Alarm) -> Markup {
    let time = |at: i64| html! { @if at == 0 { "–" } @else { (values::show_unix_ms(at)) } };
    html! {
        dl.facts {
            dt { "State" } dd { (state(alarm.state())) }
            dt { "Priority" } dd { (alarm.priority) ", " (severity(alarm.priority)) }
            dt { "Condition" } dd { (alarm.condition) }
            dt { "Value, limit" } dd { (values::show(alarm.value.as_ref())) ", " (values::show(alarm.limit.as_ref())) }
            dt { "Raised" } dd { (time(alarm.raised_at_unix_ms)) }
            dt { "Changed" } dd { (time(alarm.changed_at_unix_ms)) }
            dt { "Over" } dd { (time(alarm.returned_at_unix_ms)) }
            dt { "Acknowledged" } dd { (time(alarm.acknowledged_at_unix_ms)) @if !alarm.acknowledged_by.is_empty() { " by " code { (alarm.acknowledged_by) } } }
            dt { "Comment" } dd { @if alarm.comment.is_empty() { "–" } @else { (alarm.comment) } }
            dt { "Id" } dd { code { (alarm.alarm_id) } }
        }
    }
}

/// The form that acknowledges one alarm, to be opened first.
pub(in super::super) fn acknowledge_one(who: &SignedIn, session_id: &str, alarm: &Alarm) -> Markup {
    html! {
        details {
            summary { "Acknowledge…" }
            form method="post" action={"/alarms/" (session_id) "/acknowledge"} {
                (form_token(who))
                input type="hidden" name={"alarm-" (alarm.alarm_id)} value=(seen(alarm));
                (comment())
                button { "Acknowledge " (cut(&alarm.tag)) }
            }
        }
    }
}

/// The form that acknowledges several of one session: each is chosen.
pub(in super::super) fn acknowledge_several(who: &SignedIn, session_id: &str, alarms: &[&Alarm]) -> Markup {
    let rows = html! { @for alarm in alarms {
        tr {
            td { input type="checkbox" name={"alarm-" (alarm.alarm_id)} value=(seen(alarm)) aria-label={"Acknowledge " (alarm.tag) " " (alarm.condition)}; }
            td.number { (alarm.priority) " " span.quiet { (severity(alarm.priority)) } }
            td { (state(alarm.state())) }
            th scope="row" { (cut(&alarm.tag)) }
            td { (cut(&alarm.condition)) }
            td.time { (values::show_unix_ms(alarm.raised_at_unix_ms)) }
        }
    } };
    html! {
        form.stack method="post" action={"/alarms/" (session_id) "/acknowledge"} {
            (form_token(who))
            (table("Nobody has acknowledged these", &["Choose", "Priority", "State", "Tag", "Condition", "Since"], None, &rows))
            (comment())
            button { "Acknowledge what is chosen" }
        }
    }
}

/// What somebody who acknowledges it has seen of it: another condition, another urgency and a new beginning are news. That it
/// is over is none: who knew that it held knows enough.
pub(in super::super) fn seen(alarm: &Alarm) -> String {
    format!("{:016x}", hash(&format!("{} {} {}", alarm.raised_at_unix_ms, alarm.priority, alarm.condition)))
}

/// How it stands, in one line.
pub(in super::super) fn words(alarm: &Alarm) -> String {
    let (tag, condition) = (cut(&alarm.tag), cut(&alarm.condition));
    let since = values::show_unix_ms(alarm.changed_at_unix_ms);
    format!("{tag} is {condition}, priority {} ({}), since {since}", alarm.priority, severity(alarm.priority))
}

fn comment() -> Markup {
    html! { label { "Comment, kept with the alarm" input name="comment" maxlength=(COMMENT_CHARS_MAX); } }
}

pub(in super::super) fn state(state: AlarmState) -> Markup {
    match state {
        AlarmState::Active => html! { span.bad { "active" } },
        AlarmState::Returned => html! { span.bad { "returned" } },
        AlarmState::Acknowledged => html! { "acknowledged" },
        AlarmState::Gone => html! { "gone" },
        AlarmState::Unspecified => html! { "unknown" },
    }
}

/// As AVEVA divides priorities by default.
fn severity(priority: u32) -> &'static str {
    match priority {
        0..=249 => "critical",
        250..=499 => "high",
        500..=749 => "medium",
        _ => "low",
    }
}

/// As much of a number as a row needs; the alarm's own page has all of it.
fn short(value: Option<&Value>) -> String {
    let digits = |number: f64| match number.abs() {
        0.001..1e9 => format!("{number:.3}").trim_end_matches('0').trim_end_matches('.').to_owned(),
        _ => number.to_string(),
    };
    match value.and_then(|value| value.kind.as_ref()) {
        Some(Kind::Double(number)) => digits(*number),
        Some(Kind::Single(number)) => digits(f64::from(*number)),
        _ => cut(&values::show(value)),
    }
}

fn cut(text: &str) -> String {
    super::cut(text, CELL_MAX)
}
