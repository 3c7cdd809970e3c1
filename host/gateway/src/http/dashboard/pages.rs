//! The pages: each asks the parts it shows and puts the views together. Knows nothing of streams. Invariant: a session
//! that a person does not see and one that does not exist answer alike.

use super::{Viewer, page, views};
use crate::{
    error::{Code, Error, Result},
    http::{HttpState, problem},
    nodes::Holder,
    sessions::Session,
};
use axum::{
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use maud::{Markup, html};
use std::sync::Arc;
use views::LivePage;

/// Nodes on one page.
const NODES_SHOWN: u32 = 1_000;

pub(super) async fn sign_in() -> Response {
    page(StatusCode::OK, &views::sign_in(None))
}

pub(super) async fn overview(viewer: Viewer, State(state): State<HttpState>) -> Response {
    let look = viewer.dashboard.board.look();
    let mine = || look.rows.iter().filter(|row| viewer.seen.sees_tag(&row.tag));
    let body = html! {
        div #totals { (views::totals(mine(), &trouble(&state))) }
        table {
            caption { "Open sessions" }
            thead { tr { th scope="col" { "Session" } th scope="col" { "Tag" } th scope="col" { "Backend" } th scope="col" { "State" } th scope="col" { "Events per second" } th scope="col" { "Last minute" } th scope="col" { "Readers" } th scope="col" { "Largest lag" } } }
            tbody #rows { @for row in mine() { (maud::PreEscaped(&row.html)) } }
        }
        @if mine().next().is_none() { p.quiet { "There is no session that you may see." } }
    };
    let live = LivePage { page: "overview", session: "" };
    page(StatusCode::OK, &views::frame("Sessions", &viewer.signed_in, Some(&live), &body))
}

pub(super) async fn session(viewer: Viewer, Path(id): Path<String>) -> Response {
    let session = match find(&viewer, &id) {
        Ok(session) => session,
        Err(error) => return refused(&viewer, &error),
    };
    let name = if session.identity.name.is_empty() { &id } else { &session.identity.name };
    let newest = super::live::newest(&session).await;
    let body = html! {
        div #facts { (views::session_facts(&session)) }
        div #readers { (views::readers(&session)) }
        div #events { (views::events(&newest)) }
        @if viewer.is_admin() {
            details {
                summary { "End this session…" }
                form method="post" action={"/sessions/" (id) "/end"} {
                    (views::form_token(&viewer.signed_in))
                    label { "Reason, told to every reader" input name="reason" required maxlength="200"; }
                    button { "End the session" }
                }
            }
        }
    };
    let live = LivePage { page: "session", session: &id };
    page(StatusCode::OK, &views::frame(name, &viewer.signed_in, Some(&live), &body))
}

pub(super) async fn policies(viewer: Viewer) -> Response {
    let listing = viewer.dashboard.sessions.policies().host().list();
    let admin = viewer.is_admin();
    let button = |change: &str, words: &str| {
        html! {
            form.inline method="post" action={"/policies/" (change)} { (views::form_token(&viewer.signed_in)) button { (words) } }
        }
    };
    let body = html! {
        p { "Generation " strong { (listing.generation.0) } ", " (listing.live_generations) " live"
            @if listing.pinned.is_some() { ", " span.bad { "pinned: changes of the folder are not taken" } } }
        table {
            caption { "What decides" }
            thead { tr { th scope="col" { "Policy" } th scope="col" { "Answered by" } th scope="col" { "From" } th scope="col" { "Digest" } th scope="col" { "Settings" } th scope="col" { "Rules" } } }
            tbody { @for row in &listing.policies {
                tr {
                    th scope="row" { (row.policy.name()) }
                    td { (row.name) " " (row.version) }
                    td { (row.origin.to_string()) }
                    td { code { (short(&row.digest.to_hex())) } }
                    td { code { (short(&row.settings_digest.to_hex())) } }
                    td { (row.rules.join(", ")) }
                }
            } }
        }
        table {
            caption { "What was tried, newest first" }
            thead { tr { th scope="col" { "Generation" } th scope="col" { "Outcome" } th scope="col" { "Set off by" } th scope="col" { "What" } th scope="col" { "Gate" } th scope="col" { "Enforced after" } } }
            tbody { @for swap in listing.swaps.iter().rev() { (views::swap(swap)) } }
        }
        @if admin {
            (button("reload", "Look at the folder now"))
            @if listing.pinned.is_some() { (button("unpin", "Take changes of the folder again")) } @else { (button("pin", "Pin this generation")) }
            details {
                summary { "Roll back…" }
                form method="post" action="/policies/rollback" {
                    (views::form_token(&viewer.signed_in))
                    p { "Goes back to the set before, on open streams too, and pins it. " (listing.earlier) " earlier sets can be reached." }
                    label { "Reason, kept in the record" input name="reason" required maxlength="200"; }
                    button disabled[listing.earlier == 0] { "Roll back" }
                }
            }
        }
    };
    page(StatusCode::OK, &views::frame("Policies", &viewer.signed_in, None, &body))
}

pub(super) async fn nodes(viewer: Viewer) -> Response {
    let nodes = &viewer.dashboard.nodes;
    let (shown, more) = match nodes.list(&Holder::Operator, None, false, 0, NODES_SHOWN).await {
        Ok(listed) => listed,
        Err(error) => return refused(&viewer, &error),
    };
    let sees =
        |id: &str| viewer.dashboard.sessions.find(id).map_or(viewer.is_admin(), |session| viewer.seen.sees(&session));
    let floor = nodes.floor();
    let body = html! {
        p { "Version floor: " @match &floor.floor { Some(floor) => strong { (floor) }, None => "none" } }
        @if more.is_some() { p.quiet { "The first " (NODES_SHOWN) " nodes are shown; " code { "tidegate node list" } " has all." } }
        table {
            caption { "Attached nodes" }
            thead { tr { th scope="col" { "Node" } th scope="col" { "Kind" } th scope="col" { "Version" } th scope="col" { "State" } th scope="col" { "Session" } th scope="col" { "Capabilities" } } }
            tbody { @for one in shown.iter().filter(|one| sees(one.row.session.as_str())) {
                tr {
                    th scope="row" { (one.row.node) }
                    td { (one.row.kind) }
                    td { (one.row.version) }
                    td { (one.row.state.as_str()) }
                    td { a href={"/sessions/" (one.row.session)} { (one.row.session) } }
                    td { (one.row.capabilities.join(", ")) }
                }
            } }
        }
    };
    page(StatusCode::OK, &views::frame("Nodes", &viewer.signed_in, None, &body))
}

pub(super) async fn keys(viewer: Viewer) -> Response {
    if !viewer.is_admin() {
        return refused(&viewer, &admins_only());
    }
    let keys = match viewer.dashboard.keys.list().await {
        Ok(keys) => keys,
        Err(error) => return refused(&viewer, &error),
    };
    let body = html! {
        p.quiet { "Keys are made on the gateway's machine with " code { "tidegate key create" } "; their secrets are shown there once." }
        table {
            caption { "API keys" }
            thead { tr { th scope="col" { "Key" } th scope="col" { "Name" } th scope="col" { "Scopes" } th scope="col" { "Reads" } th scope="col" { "Writes" } th scope="col" { "State" } } }
            tbody { @for key in &keys {
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
            } }
        }
    };
    page(StatusCode::OK, &views::frame("Keys", &viewer.signed_in, None, &body))
}

pub(super) async fn audit(viewer: Viewer) -> Response {
    if !viewer.is_admin() {
        return refused(&viewer, &admins_only());
    }
    let rows = match viewer.dashboard.people.audited().await {
        Ok(rows) => rows,
        Err(error) => return refused(&viewer, &error),
    };
    let body = html! {
        table {
            caption { "What people changed here, newest first" }
            thead { tr { th scope="col" { "When (ms since 1970)" } th scope="col" { "Who" } th scope="col" { "What" } th scope="col" { "Target" } th scope="col" { "Outcome" } } }
            tbody { @for row in &rows {
                tr { td.number { (row.at_unix_ms) } td { (row.who) } td { (row.what) } td { (row.target) } td { (row.outcome) } }
            } }
        }
    };
    page(StatusCode::OK, &views::frame("Audit", &viewer.signed_in, None, &body))
}

/// A session that this person sees.
pub(super) fn find(viewer: &Viewer, id: &str) -> Result<Arc<Session>> {
    let found = viewer.dashboard.sessions.find(id).ok().filter(|session| viewer.seen.sees(session));
    found.ok_or_else(|| Error::new(Code::SessionNotPermitted, "there is no such session, or you may not see it"))
}

pub(super) fn admins_only() -> Error {
    Error::new(Code::SignInRole, "this is for people of the role Admin")
}

/// What went wrong, as a page.
pub(super) fn refused(viewer: &Viewer, error: &Error) -> Response {
    let status = problem(error).status();
    let body = html! { p.bad role="alert" { (error.message()) } p.quiet { code { (error.code().as_str()) } } };
    page(status, &views::frame("Not done", &viewer.signed_in, None, &body)).into_response()
}

/// The parts that do not do their work, in words.
pub(super) fn trouble(state: &HttpState) -> Vec<String> {
    let health = state.health.health();
    let parts = health.degraded.iter().map(|part| format!("{}: {}", part.part, part.message));
    (!health.ready).then(|| "not ready".to_owned()).into_iter().chain(parts).collect()
}

fn short(digest: &str) -> Markup {
    html! { abbr title=(digest) { (digest.get(..12).unwrap_or(digest)) } }
}
