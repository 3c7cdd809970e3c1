//! What people change: sign-ins, ends of sessions, policies, keys. Knows forms. Invariants: a form that did not come
//! from a page of this sign-in changes nothing; every change and every try by somebody signed in is in the audit.

use super::{Viewer, page, pages, peer, views};
use crate::{
    error::{Code, Error, Result},
    http::{HttpState, accept::Peer, problem},
    ids::{KeyId, SessionId},
    policies::Trial,
    sessions::Stop,
    telemetry::CloseReason,
};
use axum::{
    Extension,
    extract::{Form, Path, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use tidegate_policy::{Outcome, Policy, SwapRecord};

/// Bytes of settings that come from a page; a form has at most 64 KiB, each byte as three. Larger ones come as files.
pub(super) const SETTINGS_MAX: usize = 16 << 10;
/// Characters of what was changed, in the audit: a digest and some words.
const TARGET_MAX: usize = 128;

#[derive(Deserialize)]
pub(super) struct SignInForm {
    name: String,
    password: String,
    /// The page to come to.
    #[serde(default)]
    next: String,
}

#[derive(Deserialize)]
pub(super) struct ChangeForm {
    form_token: String,
    #[serde(default)]
    reason: String,
    /// Of the policies that the page showed.
    #[serde(default)]
    generation: String,
    /// Of what is held and let in, and of the shadow that the page showed.
    #[serde(default)]
    identity: String,
    /// Of a promotion: how much may differ, percent, and how much must have been compared.
    #[serde(default)]
    most_percent: String,
    #[serde(default)]
    least_answers: String,
    /// Of a shadow that begins: which policy, with which settings.
    #[serde(default)]
    policy: String,
    #[serde(default)]
    settings: String,
}

type Change = std::result::Result<Form<ChangeForm>, FormRejection>;

pub(super) async fn sign_in(
    State(state): State<HttpState>,
    from: Option<Extension<Peer>>,
    headers: HeaderMap,
    jar: CookieJar,
    form: std::result::Result<Form<SignInForm>, FormRejection>,
) -> Response {
    // A mistyped password does not lose the page to come to.
    let mut next = String::new();
    let signed_in = async {
        let dashboard = super::of(&state)?;
        same_origin(&headers)?;
        let Form(form) = form.map_err(|_| Error::new(Code::RequestInvalid, "name and password are needed"))?;
        next = form.next;
        let people = &dashboard.shown.people;
        let (token, _) = people.sign_in(&form.name, form.password, peer(from)).await?;
        // Nobody has the cookie of the sign-in before any more.
        people.sign_out(dashboard.token_in(&jar));
        Ok((dashboard.cookie.to_string(), token))
    };
    let signed_in = signed_in.await;
    match signed_in {
        Ok((name, token)) => {
            let cookie = Cookie::build((name, token.expose().to_owned()))
                .path("/")
                .http_only(true)
                .same_site(SameSite::Strict)
                .secure(state.tls);
            (jar.add(cookie), Redirect::to(pages::own_page(&next))).into_response()
        }
        Err(error) => page(problem(&error).status(), &views::sign_in(Some(error.message()), pages::own_page(&next))),
    }
}

pub(super) async fn sign_out(viewer: Viewer, headers: HeaderMap, jar: CookieJar, form: Change) -> Response {
    if let Err(error) = checked(&viewer, &headers, form) {
        return pages::refused(&viewer, &error);
    }
    viewer.dashboard.shown.people.sign_out(viewer.dashboard.token_in(&jar));
    let gone = Cookie::build((viewer.dashboard.cookie.to_string(), "")).path("/").removal();
    (jar.add(gone), Redirect::to("/sign-in")).into_response()
}

pub(super) async fn end_session(viewer: Viewer, Path(id): Path<String>, headers: HeaderMap, form: Change) -> Response {
    let done = async {
        let reason = admin(&viewer, &headers, form)?;
        let session = pages::find(&viewer, &id)?;
        let reason = format!("ended on the dashboard: {}", reason_of(&reason)?);
        session.end(Stop { kill: false, why: CloseReason::Kill, reason }).await
    };
    finish(&viewer, "session.end", &session_id(&id), done.await, "/").await
}

pub(super) async fn policies(viewer: Viewer, Path(change): Path<String>, headers: HeaderMap, form: Change) -> Response {
    let what = match change.as_str() {
        "reload" => "policy.reload",
        "pin" => "policy.pin",
        "unpin" => "policy.unpin",
        "rollback" => "policy.rollback",
        "approve" => "policy.approve",
        _ => return crate::http::no_such_page(StatusCode::NOT_FOUND),
    };
    let policies = viewer.dashboard.policies();
    let mut target = String::new();
    let done = async {
        let form = admin(&viewer, &headers, form)?;
        let _turn = viewer.dashboard.policies_turn.lock().await;
        of_this_generation(&form, policies.host().generation().0)?;
        match what {
            "policy.reload" => drop(policies.host().reload().await),
            "policy.rollback" => drop(policies.rollback(reason_of(&form)?).await?),
            "policy.approve" => {
                target = format!("identity {}", identity_of(&form));
                served(policies.approve(&form.identity, reason_of(&form)?).await?)?;
            }
            _ => policies.host().pin(what == "policy.pin"),
        }
        Ok(())
    };
    let done = done.await;
    if target.is_empty() {
        target = format!("generation {}", policies.host().generation().0);
    }
    finish(&viewer, what, &target, done, "/policies").await
}

pub(super) async fn shadow(viewer: Viewer, Path(change): Path<String>, headers: HeaderMap, form: Change) -> Response {
    let (what, next) = match change.as_str() {
        "start" => ("shadow.start", "/shadow"),
        "promote" => ("shadow.promote", "/policies"),
        "stop" => ("shadow.stop", "/shadow"),
        _ => return crate::http::no_such_page(StatusCode::NOT_FOUND),
    };
    let policies = viewer.dashboard.policies();
    let mut target = "shadow".to_owned();
    let done = async {
        let form = admin(&viewer, &headers, form)?;
        let _turn = viewer.dashboard.policies_turn.lock().await;
        if what == "shadow.start" {
            let (trial, words) = trial_of(&form)?;
            target = words;
            let begun = policies.start_shadow(trial).await?;
            target = format!("{} {}", begun.identity.to_hex().get(..12).unwrap_or_default(), begun.file);
            return Ok(());
        }
        let status = policies.shadow().await?;
        target = format!("{} {}", status.identity.to_hex().get(..12).unwrap_or_default(), status.file);
        policies.shadow_is(&form.identity).await?;
        if what == "shadow.stop" {
            policies.stop_shadow().await?;
            return Ok(());
        }
        let wrong = |field, why| Error::new(Code::RequestInvalid, why).with("field", field);
        let most: f64 =
            form.most_percent.trim().parse().map_err(|_| wrong("most_percent", "a percentage is needed"))?;
        let least: u64 = form.least_answers.trim().parse().map_err(|_| wrong("least_answers", "a number is needed"))?;
        served(policies.promote_shadow(&form.identity, most / 100.0, least).await?)
    };
    let done = done.await;
    finish(&viewer, what, &target, done, next).await
}

/// Who has seen other policies than those that serve wants something that is done already, or not this.
fn of_this_generation(form: &ChangeForm, now: u64) -> Result<()> {
    if form.generation == now.to_string() {
        return Ok(());
    }
    let message =
        format!("the policies are of generation {now} now, not of the one that the page showed; look at them first");
    Err(Error::new(Code::PolicyChanged, message).with("generation", now))
}

/// What is to be asked as a shadow, and how the audit calls it. No code comes from a browser: what is held stands in the
/// folder, and settings are settings of what decides.
fn trial_of(form: &ChangeForm) -> Result<(Trial, String)> {
    let wrong = |field, why: &str| Error::new(Code::RequestInvalid, why).with("field", field);
    if !form.identity.is_empty() {
        let identity = identity_of(form);
        return Ok((Trial::Held(identity.to_owned()), format!("identity {identity}")));
    }
    let policy = Policy::ALL.into_iter().find(|policy| policy.name() == form.policy);
    let policy = policy.ok_or_else(|| wrong("policy", "there is no policy of this name"))?;
    if form.settings.trim().is_empty() || form.settings.len() > SETTINGS_MAX {
        return Err(wrong("settings", "settings of 1 byte to 16 KiB are needed; larger ones come as a file"));
    }
    // Forms end lines with a carriage return, too; files of the folder do not.
    let settings = form.settings.replace("\r\n", "\n");
    Ok((Trial::Settings(policy, settings), format!("settings of {}", policy.name())))
}

/// What is no identity may be anything, also a secret in the wrong place.
fn identity_of(form: &ChangeForm) -> &str {
    let hex = form.identity.len() <= 64 && form.identity.bytes().all(|byte| byte.is_ascii_hexdigit());
    if hex { &form.identity } else { "?" }
}

/// What the gate refused was not done.
fn served(swap: SwapRecord) -> Result<()> {
    match swap.code {
        Some(code) if swap.outcome == Outcome::Refused => {
            let message = format!("refused [{}]: {}", code.as_str(), swap.message);
            Err(Error::new(Code::PolicyRefused, message).with("refusal", code.as_str()))
        }
        _ => Ok(()),
    }
}

pub(super) async fn revoke_key(viewer: Viewer, Path(id): Path<String>, headers: HeaderMap, form: Change) -> Response {
    let done = async {
        admin(&viewer, &headers, form)?;
        let id = KeyId::parse(&id).ok_or_else(|| Error::new(Code::KeyUnknown, "there is no key of this id"))?;
        viewer.dashboard.shown.keys.revoke(&id).await
    };
    // What is no key's id may be anything, also a secret in the wrong place.
    let target = KeyId::parse(&id).map_or_else(|| "?".to_owned(), |id| id.to_string());
    finish(&viewer, "key.revoke", &target, done.await, "/keys").await
}

pub(super) async fn finish(viewer: &Viewer, what: &str, target: &str, done: Result<()>, next: &str) -> Response {
    noted(viewer, what, target, &done).await;
    match done {
        Ok(()) => Redirect::to(next).into_response(),
        Err(error) => pages::refused(viewer, &error),
    }
}

/// In the audit.
pub(super) async fn noted(viewer: &Viewer, what: &str, target: &str, done: &Result<()>) {
    let target: String = target.chars().take(TARGET_MAX).collect();
    viewer.dashboard.shown.people.audit(&viewer.signed_in.person.name, what, &target, done).await;
}

/// The form of an administrator's change.
fn admin(viewer: &Viewer, headers: &HeaderMap, form: Change) -> Result<ChangeForm> {
    let form = checked(viewer, headers, form)?;
    if viewer.is_admin() { Ok(form) } else { Err(pages::admins_only()) }
}

/// The same for a form of other fields, by its token.
pub(super) fn admin_by(viewer: &Viewer, headers: &HeaderMap, form_token: &str) -> Result<()> {
    genuine(viewer, headers, form_token)?;
    if viewer.is_admin() { Ok(()) } else { Err(pages::admins_only()) }
}

/// A form of a page of this very sign-in.
fn checked(viewer: &Viewer, headers: &HeaderMap, form: Change) -> Result<ChangeForm> {
    let Form(form) = form.map_err(|_| forged())?;
    genuine(viewer, headers, &form.form_token)?;
    Ok(form)
}

fn genuine(viewer: &Viewer, headers: &HeaderMap, form_token: &str) -> Result<()> {
    same_origin(headers)?;
    let right = form_token.as_bytes().ct_eq(viewer.signed_in.form_token.as_bytes());
    if bool::from(right) { Ok(()) } else { Err(forged()) }
}

/// Browsers say where a form comes from; what says nothing is no browser and has to have the form's token.
fn same_origin(headers: &HeaderMap) -> Result<()> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let from = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
    if from.is_some() && from == host { Ok(()) } else { Err(forged()) }
}

fn reason_of(form: &ChangeForm) -> Result<&str> {
    let reason = form.reason.trim();
    if reason.is_empty() || reason.chars().count() > 200 || reason.chars().any(char::is_control) {
        let error = Error::new(Code::RequestInvalid, "a reason of at most 200 characters is needed");
        return Err(error.with("field", "reason"));
    }
    Ok(reason)
}

/// For the audit and for links: what is no session's id may be anything, also a secret in the wrong place.
pub(super) fn session_id(id: &str) -> String {
    SessionId::parse(id).map_or_else(|| "?".to_owned(), |id| id.to_string())
}

pub(super) fn forged() -> Error {
    Error::new(Code::SignInForged, "this form is not of this sign-in; open the page again")
}
