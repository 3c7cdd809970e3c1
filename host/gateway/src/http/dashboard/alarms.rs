//! The pages of alarms: of all sessions that a person sees, of one, one alarm in full; and acknowledging. Knows the shared
//! look and forms. Invariants: whom the dashboard-tags policy does not show a session it shows no alarm of it, and answers
//! as if there was none; nobody acknowledges what they have not seen.

use super::{
    Viewer, changes, page, pages, peer,
    standing::SHOWN,
    views::{self, LivePage, alarms as pieces},
};
use crate::{
    error::{Code, Error, Result},
    http::accept::Peer,
    sessions::{Session, alarms::waits},
};
use axum::{
    Extension,
    extract::{Form, Path, rejection::FormRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use maud::html;
use std::{collections::HashMap, sync::Arc};
use tidegate_proto::v1::{Alarm, AlarmAcknowledged};

/// What the name of a field begins with that chooses an alarm.
const CHOSEN: &str = "alarm-";
/// E_ACCESSDENIED, with which an element is answered that the access policy denied.
const ACCESS_DENIED: i32 = 0x8007_0005_u32 as i32;
/// Alarms whose trouble is told in words.
const TOLD_MAX: usize = 5;

type Acknowledgement = std::result::Result<Form<HashMap<String, String>>, FormRejection>;

pub(super) async fn all(viewer: Viewer) -> Response {
    let look = viewer.dashboard.alarms.look();
    let body = pieces::page(&look.visible(&viewer.seen, ""));
    let live = LivePage { page: "alarms", session: "" };
    page(StatusCode::OK, &views::frame("Alarms", &viewer.signed_in, Some(&live), &body))
}

pub(super) async fn of_session(viewer: Viewer, Path(id): Path<String>) -> Response {
    let session = match telling(&viewer, &id) {
        Ok(session) => session,
        Err(error) => return pages::refused(&viewer, &error),
    };
    let look = viewer.dashboard.alarms.look();
    let body = html! {
        p {
            a href="/alarms" { "Alarms of all sessions" } " · " a href={"/sessions/" (id)} { "The session" }
            @if viewer.is_admin() { " · " a href={"/alarms/" (id) "/acknowledge"} { "Acknowledge several…" } }
        }
        (pieces::page(&look.visible(&viewer.seen, &id)))
    };
    let title = format!("Alarms of {}", views::name_of(&session.identity.name, &id));
    let live = LivePage { page: "alarms", session: &id };
    page(StatusCode::OK, &views::frame(&title, &viewer.signed_in, Some(&live), &body))
}

pub(super) async fn one(viewer: Viewer, Path((id, alarm)): Path<(String, String)>) -> Response {
    let found = telling(&viewer, &id).and_then(|session| {
        let gone = || Error::new(Code::AlarmUnknown, "no alarm of this id stands in this session, or no longer");
        let alarm = alarm.parse().ok().and_then(|alarm| session.alarms.one(alarm)).ok_or_else(gone)?;
        Ok((session, alarm))
    });
    let (session, alarm) = match found {
        Ok(found) => found,
        Err(error) => return pages::refused(&viewer, &error),
    };
    let body = html! {
        p {
            a href={"/alarms/" (id)} { "Alarms of " (views::name_of(&session.identity.name, &id)) }
            " · " a href={"/sessions/" (id)} { "The session" }
        }
        (pieces::facts(&alarm))
        @if waits(&alarm) {
            @if viewer.is_admin() { (pieces::acknowledge_one(&viewer.signed_in, &id, &alarm)) }
            @else { p.quiet { "People of the role Admin acknowledge it here; clients do with " code { "tidegate alarms ack" } "." } }
        }
    };
    page(StatusCode::OK, &views::frame(&alarm.tag, &viewer.signed_in, None, &body))
}

/// Chosen one by one: what comes meanwhile is acknowledged by nobody who has not seen it.
pub(super) async fn choose(viewer: Viewer, Path(id): Path<String>) -> Response {
    if !viewer.is_admin() {
        return pages::refused(&viewer, &pages::admins_only());
    }
    let session = match telling(&viewer, &id) {
        Ok(session) => session,
        Err(error) => return pages::refused(&viewer, &error),
    };
    let standing = session.alarms.standing();
    let mut waiting: Vec<&Alarm> = standing.alarms.iter().map(|alarm| &**alarm).filter(|alarm| waits(alarm)).collect();
    let all = waiting.len();
    waiting.sort_by_key(|alarm| (alarm.priority, alarm.alarm_id));
    waiting.truncate(SHOWN);
    let body = html! {
        p { a href={"/alarms/" (id)} { "Alarms of " (views::name_of(&session.identity.name, &id)) } }
        @if waiting.is_empty() { p { "Every alarm that stands is acknowledged." } }
        @else { (pieces::acknowledge_several(&viewer.signed_in, &id, &waiting)) }
        @if all > waiting.len() { p.quiet { (all - waiting.len()) " more follow when these are acknowledged." } }
    };
    page(StatusCode::OK, &views::frame("Acknowledge alarms", &viewer.signed_in, None, &body))
}

pub(super) async fn acknowledge(
    viewer: Viewer,
    Path(id): Path<String>,
    from: Option<Extension<Peer>>,
    headers: HeaderMap,
    form: Acknowledgement,
) -> Response {
    let mut chosen: Vec<u64> = Vec::new();
    let mut changed = false;
    let done = async {
        let Form(mut fields) = form.map_err(|_| changes::forged())?;
        changes::admin_by(&viewer, &headers, fields.get("form_token").map_or("", String::as_str))?;
        let of = |(field, seen): (&String, &String)| Some((field.strip_prefix(CHOSEN)?.parse().ok()?, seen.clone()));
        let mut seen: Vec<(u64, String)> = fields.iter().filter_map(of).collect();
        seen.sort_unstable();
        chosen = seen.iter().map(|(alarm, _)| *alarm).collect();
        let session = telling(&viewer, &id)?;
        as_seen(&session, &seen).inspect_err(|_| changed = true)?;
        let comment = fields.remove("comment").unwrap_or_default().trim().to_owned();
        let (sessions, person) = (&viewer.dashboard.shown.sessions, &viewer.signed_in.person.name);
        all_done(&sessions.acknowledge_alarms_as(person, peer(from), &session, chosen.clone(), comment).await?)
    };
    let done = done.await;
    let ids: Vec<String> = chosen.iter().map(u64::to_string).collect();
    let target = format!("{} {}", changes::session_id(&id), ids.join(" "));
    let back = format!("/alarms/{}", changes::session_id(&id));
    if let (true, Err(error)) = (changed, &done) {
        changes::noted(&viewer, "alarm.acknowledge", &target, &done).await;
        let again = match &chosen[..] {
            [alarm] => format!("{back}/{alarm}"),
            _ => format!("{back}/acknowledge"),
        };
        return pages::refused_with(&viewer, error, &html! { p { a href=(again) { "What there is now" } } });
    }
    changes::finish(&viewer, "alarm.acknowledge", &target, done, &back).await
}

/// What stands must be what the form showed: all of it, or nothing is acknowledged. What does not stand any more the
/// acknowledgement itself tells.
fn as_seen(session: &Session, seen: &[(u64, String)]) -> Result<()> {
    let now = seen.iter().filter_map(|(alarm, was)| session.alarms.one(*alarm).map(|now| (now, was)));
    let changed: Vec<Alarm> =
        now.filter(|(now, was)| *was != &pieces::seen(now)).map(|(now, _)| Alarm::clone(&now)).collect();
    if changed.is_empty() {
        return Ok(());
    }
    let words: Vec<_> = changed.iter().take(TOLD_MAX).map(pieces::words).collect();
    let more = changed.len().saturating_sub(TOLD_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let message = format!("since the page was made this changed: {}{more}. Nothing was acknowledged", words.join("; "));
    Err(Error::new(Code::AlarmChanged, message))
}

/// What was not acknowledged is said; what was stays so.
fn all_done(results: &[AlarmAcknowledged]) -> Result<()> {
    let failed: Vec<_> = results.iter().filter(|one| one.hresult != 0).collect();
    let Some(first) = failed.first() else { return Ok(()) };
    let code = if first.hresult == ACCESS_DENIED { Code::PolicyDenied } else { Code::AlarmNotAcknowledged };
    let words: Vec<_> = failed.iter().take(TOLD_MAX).map(|one| format!("{}: {}", one.alarm_id, one.message)).collect();
    let more = failed.len().saturating_sub(TOLD_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let message = format!("{} of {} were not acknowledged. {}{more}", failed.len(), results.len(), words.join("; "));
    Err(Error::new(code, message))
}

/// A session that this person sees, and whose worker tells of alarms.
fn telling(viewer: &Viewer, id: &str) -> Result<Arc<Session>> {
    let session = pages::find(viewer, id)?;
    session.alarms.supported()?;
    Ok(session)
}
