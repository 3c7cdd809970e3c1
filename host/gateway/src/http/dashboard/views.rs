//! The pieces that pages are made of. Knows how things look, asks nobody. Invariant: everything that came from outside
//! is escaped, because only `maud` puts text together here.

pub(super) mod alarms;
pub(super) mod policies;

use super::board::Row;
use crate::{
    events::ReaderMode,
    people::{Role, SignedIn},
    sessions::{Session, State},
};
use maud::{DOCTYPE, Markup, html};
use tidegate_client::values;
use tidegate_proto::v1::{Event, event::Body};

const BUILD: &str = env!("CARGO_PKG_VERSION");

/// What a page tells its script.
pub(super) struct LivePage<'a> {
    pub(super) page: &'a str,
    pub(super) session: &'a str,
}

/// The frame around every page of a signed-in person.
pub(super) fn frame(title: &str, who: &SignedIn, live: Option<&LivePage<'_>>, body: &Markup) -> Markup {
    let admin = who.person.role == Role::Admin;
    html! {
        (DOCTYPE)
        html lang="en" data-build=(BUILD) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · Tidegate" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href={"/assets/style.css?" (BUILD)};
                @if let Some(live) = live {
                    noscript { meta http-equiv="refresh" content="5"; }
                    script type="module" src={"/assets/live.js?" (BUILD)} data-page=(live.page) data-session=(live.session) {}
                }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    strong { "Tidegate" }
                    nav aria-label="Pages" {
                        a href="/" { "Sessions" }
                        a href="/alarms" { "Alarms" }
                        a href="/policies" { "Policies" }
                        a href="/nodes" { "Nodes" }
                        @if admin {
                            a href="/shadow" { "Shadow" }
                            a href="/decisions" { "Decisions" }
                            a href="/keys" { "Keys" }
                            a href="/configuration" { "Configuration" }
                            a href="/audit" { "Audit" }
                        }
                    }
                    // Words for everybody; what changes every second is not read out.
                    @if live.is_some() { span.state { span #connection role="status" { "static" } " " span #connection-more aria-hidden="true" {} } }
                    form method="post" action="/sign-out" {
                        (form_token(who))
                        span { (who.person.name) " (" (who.person.role.as_str()) ")" }
                        " "
                        button { "Sign out" }
                    }
                }
                main #main { h1 { (title) } (body) }
            }
        }
    }
}

/// A table in a frame of its own, which scrolls where the page is narrow, also by keyboard. `rows`: the body's id, for
/// what changes on open pages.
pub(super) fn table(caption: &str, heads: &[&str], rows: Option<&str>, body: &Markup) -> Markup {
    html! {
        div.scroll role="region" tabindex="0" aria-label=(caption) {
            table {
                caption { (caption) }
                thead { tr { @for head in heads { th scope="col" { (head) } } } }
                tbody id=[rows] { (body) }
            }
        }
    }
}

/// `next`: the page to come to.
pub(super) fn sign_in(wrong: Option<&str>, next: &str) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" data-build=(BUILD) {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "Sign in · Tidegate" }
                link rel="icon" href="data:,";
                link rel="stylesheet" href={"/assets/style.css?" (BUILD)};
            }
            body {
                main #main .narrow {
                    h1 { "Tidegate" }
                    @if let Some(wrong) = wrong { p.bad role="alert" { (wrong) } }
                    form method="post" action="/sign-in" {
                        @if next != "/" { input type="hidden" name="next" value=(next); }
                        label { "Name" input name="name" autocomplete="username" required maxlength="64" autofocus; }
                        label { "Password" input name="password" type="password" autocomplete="current-password" required maxlength="256"; }
                        button { "Sign in" }
                    }
                    p.quiet { "Those of a directory sign in if the gateway has one. Others are added on the gateway's machine with " code { "tidegate user add" } "." }
                }
            }
        }
    }
}

pub(super) fn form_token(who: &SignedIn) -> Markup {
    html! { input type="hidden" name="form_token" value=(who.form_token); }
}

/// Totals over the sessions that a person sees.
pub(super) fn totals<'r>(rows: impl Iterator<Item = &'r Row>, health: &[String]) -> Markup {
    let (mut sessions, mut ready, mut readers, mut per_second, mut worst, mut events) = (0, 0, 0, 0.0, 0, 0);
    let (mut waiting, mut standing) = (0, 0);
    for row in rows {
        sessions += 1;
        ready += usize::from(row.is_ready);
        readers += row.readers;
        per_second += row.per_second;
        worst = worst.max(row.worst_lag);
        events += row.head;
        waiting += row.alarms.map_or(0, |alarms| alarms.waiting);
        standing += row.alarms.map_or(0, |alarms| alarms.standing);
    }
    html! {
        dl.tiles {
            div { dt { "Sessions" } dd { (ready) " of " (sessions) " ready" } }
            div { dt { "Readers" } dd { (readers) } }
            div { dt { "Events per second" } dd { (rounded(per_second)) } }
            div { dt { "Events so far" } dd { (events) } }
            div { dt { "Largest lag" } dd { (worst) " events" } }
            div { dt { "To acknowledge" } dd { (waiting_of("/alarms", waiting, standing)) } }
            div { dt { "Health" } dd { @if health.is_empty() { span.good { "well" } } @else { span.bad { (health.join("; ")) } } } }
        }
    }
}

pub(super) fn session_row(session: &Session, row: &Row) -> Markup {
    let identity = &session.identity;
    html! {
        tr id=(row.id) {
            th scope="row" { a href={"/sessions/" (identity.id)} { (name_of(&identity.name, identity.id.as_str())) } }
            td { (identity.tag) }
            td { (identity.backend) }
            td { (state(&session.state())) }
            td.number { (rounded(row.per_second)) }
            td { (curve(&row.curve)) }
            td.number { (row.readers) }
            td.number { (row.worst_lag) }
            td.number { @match row.alarms { Some(of) => (waiting_of(&format!("/alarms/{}", identity.id), of.waiting, of.standing)), None => "–" } }
        }
    }
}

pub(super) fn state(state: &State) -> Markup {
    match state {
        State::Ready => html! { span.good { "ready" } },
        State::Closing(_) => html! { span { "closing" } },
        State::Leaving(_) => html! { span { "leaving" } },
        State::Faulted(why) => html! { span.bad { "faulted: " (why) } },
        State::Closed(_, why) => html! { span { "closed: " (why) } },
    }
}

/// What is known of one session now.
pub(super) fn session_facts(session: &Session) -> Markup {
    let (identity, stats) = (&session.identity, session.log.stats());
    html! {
        dl.facts {
            dt { "Id" } dd { code { (identity.id) } }
            dt { "State" } dd { (state(&session.state())) }
            dt { "Tag, backend" } dd { (identity.tag) ", " (identity.backend) }
            dt { "Owner" } dd { @match &identity.owner { Some(key) => code { (key) }, None => "the gateway" } }
            dt { "Worker" } dd { "process " (identity.worker_pid) ", epoch " code { (format!("{:016x}", identity.epoch)) } }
            dt { "Events" } dd { (stats.head) ", the log begins behind " (stats.held_after) }
            dt { "Log" } dd { (stats.bytes / 1024) " KiB of " (stats.bytes_max / 1024) " KiB" }
            dt { "Items" } dd { (session.with_items(|items| items.live())) }
            dt { "Alarms" } dd { @match session.alarms.counts() {
                Some(of) => a href={"/alarms/" (identity.id)} { (of.standing) " stand, " (of.waiting) " to acknowledge" },
                None => "its worker tells of none",
            } }
        }
    }
}

pub(super) const READERS: &[&str] = &["Name", "Key", "Position", "Lag", "Largest lag", "Seconds until a gap", "Mode"];

/// Rows of a session's readers.
pub(super) fn readers(session: &Session) -> Markup {
    let head = session.log.head();
    let readers = session.log.readers();
    let mine = readers.iter().filter(|reader| reader.is_external());
    html! {
        @for reader in mine {
            @let pace = session.log.pace(reader);
            tr {
                th scope="row" { (reader.name()) }
                td { code { (reader.key_id()) } }
                td.number { (reader.position()) }
                td.number { (head.saturating_sub(reader.position())) }
                td.number { (reader.lag_high_water()) }
                td.number { @match pace.seconds_until_gap { Some(seconds) => (rounded(seconds)), None => "–" } }
                td { @match reader.mode() { _ if reader.is_told_to_end() => "ending", ReaderMode::Normal => "normal", ReaderMode::Conflating => "conflating" } }
            }
        }
    }
}

pub(super) const EVENTS: &[&str] = &["Sequence", "Kind", "Item", "Value", "Quality", "Time"];

/// Rows of the newest events, newest first, with the tags of their items.
pub(super) fn events(events: &[(Event, Option<String>)]) -> Markup {
    html! {
        @for (event, tag) in events.iter().rev() {
            @let (kind, value, quality, time) = shown(event);
            tr {
                td.number { (event.sequence) }
                td { (kind) }
                td { @match tag { Some(tag) => (tag), None => code { (event.item_key) } } }
                td { (value) }
                td.number { @if let Some(quality) = quality { (quality) } }
                td { (time) }
            }
        }
    }
}

/// A link to alarms; who hears it alone knows what the numbers are.
fn waiting_of(page: &str, waiting: usize, standing: usize) -> Markup {
    html! { a href=(page) aria-label={(waiting) " of " (standing) " alarms to acknowledge"} { (waiting) " of " (standing) } }
}

/// The beginning of a text that others chose the length of.
fn cut(text: &str, chars_max: usize) -> String {
    let end = text.char_indices().nth(chars_max).map(|(end, _)| end);
    end.map_or_else(|| text.to_owned(), |end| format!("{}…", &text[..end]))
}

/// What a session is called: its name, or its id where it has none.
pub(super) fn name_of<'n>(name: &'n str, id: &'n str) -> &'n str {
    if name.is_empty() { id } else { name }
}

fn shown(event: &Event) -> (&'static str, String, Option<i32>, String) {
    match &event.body {
        Some(Body::DataChange(change)) => {
            let value = cut(&values::show(change.value.as_ref()), 80);
            ("data change", value, Some(change.quality), values::show_time(change.time.as_ref()))
        }
        Some(Body::WriteComplete(_)) => ("write complete", String::new(), None, String::new()),
        Some(Body::OperationComplete(_)) => ("operation complete", String::new(), None, String::new()),
        Some(Body::BufferedDataChange(_)) => ("buffered data change", String::new(), None, String::new()),
        None => ("unknown", String::new(), None, String::new()),
    }
}

/// A curve without axes: its last number stands beside it.
fn curve(points: &[f64]) -> Markup {
    let most = points.iter().copied().fold(1.0, f64::max);
    let at = |(n, value): (usize, &f64)| format!("{},{:.1}", n * 2, 18.0 - value / most * 16.0);
    let path: Vec<String> = points.iter().enumerate().map(at).collect();
    html! {
        svg viewBox="0 0 120 20" width="120" height="20" role="img" aria-label={"events per second, at most " (rounded(most))} {
            polyline points=(path.join(" ")) fill="none" stroke="currentColor" stroke-width="1.5" {}
        }
    }
}

fn rounded(value: f64) -> String {
    if value < 10.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}
