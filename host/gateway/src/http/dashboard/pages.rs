//! The pages: each asks the parts it shows and puts the views together. Knows nothing of streams. Invariant: a session
//! that a person does not see and one that does not exist answer alike.

use super::{Viewer, page, views};
use crate::{
    config::{Origin, table::Part},
    error::{Code, Error, Result},
    health::Degraded,
    http::{HttpState, problem},
    nodes::Holder,
    people::{Person, Role},
    sessions::Session,
};
use axum::{
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use tidegate_client::values;
use views::LivePage;

/// Bytes of the path of a page.
const NEXT_MAX: usize = 256;
/// Nodes on one page.
const NODES_SHOWN: u32 = 1_000;

/// Where a sign-in leads.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Next {
    next: String,
}

/// What of the audit is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Audited {
    /// Older than this row.
    before: Option<i64>,
    /// `done`: no tries in vain.
    only: String,
}

pub(super) async fn sign_in(next: std::result::Result<Query<Next>, QueryRejection>) -> Response {
    let next = next.map(|Query(next)| next.next).unwrap_or_default();
    page(StatusCode::OK, &views::sign_in(None, own_page(&next)))
}

/// The path of a page of ours; whatever else was asked for is the first page. `//host` and `/\host` lead elsewhere.
pub(super) fn own_page(path: &str) -> &str {
    let own = path.starts_with('/') && path.len() <= NEXT_MAX;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.');
    if own && !path.starts_with("//") && path.bytes().all(plain) { path } else { "/" }
}

pub(super) async fn overview(viewer: Viewer, State(state): State<HttpState>) -> Response {
    let look = viewer.dashboard.board.look();
    let mine = || look.rows.iter().filter(|row| viewer.seen.sees_tag(&row.tag));
    let rows = html! { @for row in mine() { (maud::PreEscaped(&row.html)) } };
    let heads =
        ["Session", "Tag", "Backend", "State", "Events per second", "Last minute", "Readers", "Largest lag", "Alarms"];
    let body = html! {
        div #totals { (views::totals(mine(), &trouble(&state, viewer.person()))) }
        (views::table("Open sessions", &heads, Some("rows"), &rows))
        @if mine().next().is_none() { p.quiet { "There was no session that you may see when this page was opened." } }
    };
    let live = LivePage { page: "overview", session: "" };
    page(StatusCode::OK, &views::frame("Sessions", &viewer.signed_in, Some(&live), &body))
}

pub(super) async fn session(viewer: Viewer, Path(id): Path<String>) -> Response {
    let session = match find(&viewer, &id) {
        Ok(session) => session,
        Err(error) => return refused(&viewer, &error),
    };
    let name = views::name_of(&session.identity.name, &id);
    let newest = super::live::newest(&session).await;
    let body = html! {
        div #facts { (views::session_facts(&session)) }
        (views::table("Readers", views::READERS, Some("readers"), &views::readers(&session)))
        (views::table("Newest events", views::EVENTS, Some("events"), &views::events(&newest)))
        @if viewer.is_admin() { p { a href={"/sessions/" (id) "/end"} { "End this session…" } } }
    };
    let live = LivePage { page: "session", session: &id };
    page(StatusCode::OK, &views::frame(name, &viewer.signed_in, Some(&live), &body))
}

/// A page of its own: one that is loaded again every five seconds, as those with scripts off are, takes away what is typed.
pub(super) async fn end(viewer: Viewer, Path(id): Path<String>) -> Response {
    if !viewer.is_admin() {
        return refused(&viewer, &admins_only());
    }
    let session = match find(&viewer, &id) {
        Ok(session) => session,
        Err(error) => return refused(&viewer, &error),
    };
    let name = views::name_of(&session.identity.name, &id);
    let body = html! {
        p { a href={"/sessions/" (id)} { "The session" } }
        form.stack method="post" action={"/sessions/" (id) "/end"} {
            (views::form_token(&viewer.signed_in))
            label { "Reason, told to every reader" input name="reason" required maxlength="200"; }
            button { "End the session" }
        }
    };
    page(StatusCode::OK, &views::frame(&format!("End {name}"), &viewer.signed_in, None, &body))
}

pub(super) async fn nodes(viewer: Viewer) -> Response {
    let nodes = &viewer.dashboard.shown.nodes;
    let (shown, more) = match nodes.list(&Holder::Operator, None, false, 0, NODES_SHOWN).await {
        Ok(listed) => listed,
        Err(error) => return refused(&viewer, &error),
    };
    let sees = |id: &str| {
        viewer.dashboard.shown.sessions.find(id).map_or(viewer.is_admin(), |session| viewer.seen.sees(&session))
    };
    let floor = nodes.floor().await;
    let rows = html! { @for one in shown.iter().filter(|one| sees(one.row.session.as_str())) {
        tr {
            th scope="row" { (one.row.node) }
            td { (one.row.kind) }
            td { (one.row.version) }
            td { (one.row.state.as_str()) }
            td { a href={"/sessions/" (one.row.session)} { (one.row.session) } }
            td { (one.row.capabilities.join(", ")) }
        }
    } };
    let body = html! {
        p { "Version floor: " @match &floor {
            Ok(row) => { @match &row.floor { Some(floor) => strong { (floor) }, None => "none" } }
            Err(error) => { strong { (error.message()) } }
        } }
        @if more.is_some() { p.quiet { "The first " (NODES_SHOWN) " nodes are shown; " code { "tidegate node list" } " has all." } }
        (views::table("Attached nodes", &["Node", "Kind", "Version", "State", "Session", "Capabilities"], None, &rows))
    };
    page(StatusCode::OK, &views::frame("Nodes", &viewer.signed_in, None, &body))
}

pub(super) async fn keys(viewer: Viewer) -> Response {
    if !viewer.is_admin() {
        return refused(&viewer, &admins_only());
    }
    let keys = match viewer.dashboard.shown.keys.list().await {
        Ok(keys) => keys,
        Err(error) => return refused(&viewer, &error),
    };
    let rows = html! { @for key in &keys {
        tr {
            th scope="row" { code { (key.id) } }
            td { (key.name) }
            td { (key.scopes.join(" ")) }
            td { @if key.read.is_empty() { span.quiet { "any" } } @else { (key.read.join(" ")) } }
            td { @if key.write.is_empty() { span.quiet { "any" } } @else { (key.write.join(" ")) } }
            td { @if key.revoked_unix_ms.is_some() { "revoked" } @else {
                details { summary { "live" } form method="post" action={"/keys/" (key.id) "/revoke"} { (views::form_token(&viewer.signed_in)) button { "Revoke; its streams end at once" } } }
            } }
        }
    } };
    let body = html! {
        p.quiet { "Keys are made on the gateway's machine with " code { "tidegate key create" } "; their secrets are shown there once." }
        (views::table("API keys", &["Key", "Name", "Scopes", "Reads", "Writes", "State"], None, &rows))
    };
    page(StatusCode::OK, &views::frame("Keys", &viewer.signed_in, None, &body))
}

pub(super) async fn audit(viewer: Viewer, asked: std::result::Result<Query<Audited>, QueryRejection>) -> Response {
    if !viewer.is_admin() {
        return refused(&viewer, &admins_only());
    }
    let Audited { before, only } = asked.map(|Query(asked)| asked).unwrap_or_default();
    let done_only = only == "done";
    let (rows, more) = match viewer.dashboard.shown.people.audited(before, done_only).await {
        Ok(found) => found,
        Err(error) => return refused(&viewer, &error),
    };
    let listed = html! { @for row in &rows {
        tr { td { (values::show_unix_ms(row.at_unix_ms)) } td { (row.who) } td { code { (viewer.dashboard.shown.people.alias(&row.who)) } } td { (row.what) } td { (row.target) } td { (row.outcome) } }
    } };
    let heads = ["When", "Who", "In the log", "What", "Target", "Outcome"];
    let of = if done_only { "?only=done&" } else { "?" };
    let body = html! {
        p {
            @if done_only { a href="/audit" { "All tries" } } @else { a href="/audit?only=done" { "Only what was done" } }
            @if before.is_some() { " · " a href={"/audit" (if done_only { "?only=done" } else { "" })} { "The newest" } }
        }
        (views::table("What people changed here, newest first", &heads, None, &listed))
        @if let (true, Some(last)) = (more, rows.last()) { p { a href={"/audit" (of) "before=" (last.seq)} { "Older ones" } } }
    };
    page(StatusCode::OK, &views::frame("Audit", &viewer.signed_in, None, &body))
}

/// What is in force and where it came from; no setting holds a secret.
pub(super) async fn configuration(viewer: Viewer) -> Response {
    if !viewer.is_admin() {
        return refused(&viewer, &admins_only());
    }
    let config = viewer.dashboard.shown.config.borrow().clone();
    let text = |value: &Value| match value {
        Value::Null => "(none)".to_owned(),
        Value::String(text) if text.is_empty() => "(none)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let part = |part: Part| {
        html! { @for (setting, shown) in config.settings().filter(|(setting, _)| setting.part == part) {
            tr {
                th scope="row" { code { (setting.key) } }
                td { (text(&shown.value)) }
                td { @if shown.origin == Origin::Default { span.quiet { "default" } } @else { (shown.origin) } }
                td { (setting.takes.as_str()) }
                td.quiet { (setting.what) }
            }
        } }
    };
    let heads = ["Setting", "In force", "From", "A change takes effect", "What it is"];
    let body = html! {
        p.quiet { "Changed in the file, by variables or by flags on the gateway's machine; a SIGHUP has the file read again." }
        @for one in Part::ALL { (views::table(one.title(), &heads, None, &part(one))) }
    };
    page(StatusCode::OK, &views::frame("Configuration", &viewer.signed_in, None, &body))
}

/// A session that this person sees.
pub(super) fn find(viewer: &Viewer, id: &str) -> Result<Arc<Session>> {
    let found = viewer.dashboard.shown.sessions.find(id).ok().filter(|session| viewer.seen.sees(session));
    found.ok_or_else(|| Error::new(Code::SessionNotPermitted, "there is no such session, or you may not see it"))
}

pub(super) fn admins_only() -> Error {
    Error::new(Code::SignInRole, "this is for people of the role Admin")
}

/// What went wrong, as a page.
pub(super) fn refused(viewer: &Viewer, error: &Error) -> Response {
    refused_with(viewer, error, &html! {})
}

/// The same, and where to go on.
pub(super) fn refused_with(viewer: &Viewer, error: &Error, more: &Markup) -> Response {
    let status = problem(error).status();
    let body = html! { p.bad role="alert" { (error.message()) } p.quiet { code { (error.code().as_str()) } } (more) };
    page(status, &views::frame("Not done", &viewer.signed_in, None, &body)).into_response()
}

/// The parts that do not do their work: for administrators in words, for others with their code.
pub(in super::super) fn trouble(state: &HttpState, to: &Person) -> Vec<String> {
    let health = state.health.health();
    let health = if to.role == Role::Admin { health } else { health.without_words() };
    let parts = health.degraded.iter().map(Degraded::told);
    (!health.ready).then(|| "not ready".to_owned()).into_iter().chain(parts).collect()
}

#[cfg(test)]
mod tests {
    use super::own_page;

    #[test]
    fn a_sign_in_leads_to_our_own_pages_only() {
        for right in ["/", "/policies", "/sessions/session-0f", "/decisions/00ff"] {
            assert_eq!(own_page(right), right);
        }
        let long = format!("/{}", "a".repeat(300));
        for wrong in ["", "policies", "//evil.example", "/\\evil.example", "https://evil.example", "/a?b", "/\n", &long]
        {
            assert_eq!(own_page(wrong), "/", "{wrong}");
        }
    }
}
