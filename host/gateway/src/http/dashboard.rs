//! The dashboard: pages made on the server, parts of them sent again when they change. Knows people, sessions,
//! policies and nodes; decides nothing: who sees which session is the dashboard-tags policy's answer (H-03), who
//! changes things the role's. Invariant: every page but the sign-in and the assets has a signed-in person.

mod alarms;
mod board;
mod changes;
mod live;
mod pages;
mod places;
mod rules;
mod sight;
mod standing;
mod views;

use super::{HttpState, accept::Peer, problem};
use crate::{
    config::ServeConfig,
    data_dir::InstanceId,
    error::{Code, Error, Result},
    keys::Keys,
    nodes::Nodes,
    people::{People, Person, Role, SignedIn},
    policies::Policies,
    sessions::{Session, Sessions},
};
use axum::{
    Extension, Router,
    extract::{FromRequestParts, Path},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use axum_extra::extract::cookie::CookieJar;
use board::Board;
pub(super) use pages::trouble;
use places::Places;
use sight::Seen;
use standing::Alarms;
use std::{fmt, sync::Arc};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio_util::sync::CancellationToken;

/// What its cookie's name begins with; behind it stands which gateway, because browsers tell two on one host apart by
/// nothing else. `__Host-` would want TLS, which a loopback listener need not have.
const COOKIE: &str = "tidegate_signed_in_";
/// Characters of the installation's id in it.
const COOKIE_OF: usize = 12;
/// What a page may load and where its forms may go: here, and nothing else.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                              connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What the dashboard shows and changes.
#[derive(Clone)]
pub struct Shown {
    pub people: People,
    pub sessions: Sessions,
    pub nodes: Nodes,
    pub keys: Keys,
    pub instance: InstanceId,
    /// As it is in force.
    pub config: watch::Receiver<Arc<ServeConfig>>,
    /// Open pages end with it.
    pub stopping: CancellationToken,
}

/// What the pages work with.
#[derive(Clone)]
pub struct Dashboard {
    shown: Shown,
    board: Arc<Board>,
    alarms: Arc<Alarms>,
    places: Arc<Places>,
    cookie: Arc<str>,
    /// Held by whoever changes policies here, from the look at what there is to the end of it.
    policies_turn: Arc<Mutex<()>>,
    /// Held by whoever has the decision log read: it can be large.
    log: Arc<Semaphore>,
}

/// Somebody who is signed in, as a page needs it.
pub(super) struct Viewer {
    signed_in: SignedIn,
    dashboard: Dashboard,
    seen: Seen,
}

// === impl Dashboard ===

impl Dashboard {
    pub fn new(shown: Shown) -> Self {
        let board = Arc::new(Board::new(shown.sessions.clone()));
        let alarms = Arc::new(Alarms::new(shown.sessions.clone()));
        let instance = shown.instance.to_string();
        let cookie = format!("{COOKIE}{}", instance.get(..COOKIE_OF).unwrap_or(&instance)).into();
        Self {
            shown,
            board,
            alarms,
            places: Arc::default(),
            cookie,
            policies_turn: Arc::default(),
            log: Arc::new(Semaphore::new(1)),
        }
    }

    fn policies(&self) -> &Policies {
        self.shown.sessions.policies()
    }

    /// What this browser holds; empty: nothing of this gateway.
    fn token_in<'j>(&self, jar: &'j CookieJar) -> &'j str {
        jar.get(&self.cookie).map_or("", |cookie| cookie.value())
    }

    pub(super) fn has_directory(&self) -> bool {
        self.shown.people.has_directory()
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

impl fmt::Debug for Dashboard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dashboard").finish_non_exhaustive()
    }
}

// === impl Viewer ===

impl Viewer {
    /// By the cookie; an error: nobody is signed in here, or the policy's side does not answer.
    pub(super) async fn of(headers: &HeaderMap, state: &HttpState) -> Result<Self> {
        let dashboard = of(state)?.clone();
        let jar = CookieJar::from_headers(headers);
        let signed_in = dashboard.shown.people.who(dashboard.token_in(&jar))?;
        let seen = Seen::of(&dashboard, &signed_in.person).await?;
        Ok(Self { signed_in, dashboard, seen })
    }

    pub(super) fn person(&self) -> &Person {
        &self.signed_in.person
    }

    /// Those that this person sees, oldest first.
    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        let mut sessions = self.dashboard.shown.sessions.all();
        sessions.retain(|session| self.seen.sees(session));
        sessions
    }

    pub(super) fn stream_token(&self) -> String {
        self.dashboard.shown.people.stream_token(&self.signed_in, self.seen.tags())
    }

    fn is_admin(&self) -> bool {
        self.signed_in.person.role == Role::Admin
    }
}

impl FromRequestParts<HttpState> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> std::result::Result<Self, Response> {
        Self::of(&parts.headers, state).await.map_err(|error| match error.code() {
            Code::SignInFailed => Redirect::to(&sign_in_for(parts)).into_response(),
            _ => problem(&error),
        })
    }
}

pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/", get(pages::overview))
        .route("/sign-in", get(pages::sign_in).post(changes::sign_in))
        .route("/sign-out", post(changes::sign_out))
        .route("/sessions/{id}", get(pages::session))
        .route("/sessions/{id}/end", get(pages::end).post(changes::end_session))
        .route("/alarms", get(alarms::all))
        .route("/alarms/{session}", get(alarms::of_session))
        .route("/alarms/{session}/acknowledge", get(alarms::choose).post(alarms::acknowledge))
        .route("/alarms/{session}/{alarm}", get(alarms::one))
        .route("/policies", get(rules::policies))
        .route("/policies/{change}", post(changes::policies))
        .route("/shadow", get(rules::shadow))
        .route("/shadow/{change}", post(changes::shadow))
        .route("/decisions", get(rules::decisions))
        .route("/decisions/{id}", get(rules::decision))
        .route("/configuration", get(pages::configuration))
        .route("/nodes", get(pages::nodes))
        .route("/keys", get(pages::keys))
        .route("/keys/{id}/revoke", post(changes::revoke_key))
        .route("/audit", get(pages::audit))
        .route("/live", get(live::live))
        .route("/live/token", get(live::token))
        .route("/assets/{name}", get(asset))
}

fn of(state: &HttpState) -> Result<&Dashboard> {
    state.dashboard.as_ref().ok_or_else(|| Error::new(Code::HttpNoSuchPage, "no dashboard is served here"))
}

/// Whether an administrator asks; nobody, where there is no dashboard.
pub(super) fn is_admin(headers: &HeaderMap, state: &HttpState) -> bool {
    state.dashboard.as_ref().is_some_and(|dashboard| {
        let jar = CookieJar::from_headers(headers);
        let signed_in = dashboard.shown.people.who(dashboard.token_in(&jar));
        signed_in.is_ok_and(|signed_in| signed_in.person.role == Role::Admin)
    })
}

/// Where to sign in, and to which page that leads.
fn sign_in_for(parts: &Parts) -> String {
    let path = parts.uri.path();
    // What the script asks for, and what a form does, is no page to come back to.
    if parts.method != Method::GET || path == "/" || path.starts_with("/live") {
        return "/sign-in".to_owned();
    }
    format!("/sign-in?next={path}")
}

fn peer(peer: Option<Extension<Peer>>) -> Option<std::net::IpAddr> {
    peer.map(|Extension(peer)| peer.ip)
}

async fn asset(Path(name): Path<String>) -> Response {
    let (kind, text) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", include_str!("dashboard/assets/style.css")),
        "live.js" => ("text/javascript; charset=utf-8", include_str!("dashboard/assets/live.js")),
        _ => return super::no_such_page(StatusCode::NOT_FOUND),
    };
    // Named by the build in every page, so a cached one is never of another build.
    let kept = "public, max-age=86400, immutable";
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, kept)], text).into_response()
}

/// A page with the headers of one.
fn page(status: StatusCode, markup: &maud::Markup) -> Response {
    let mut response = (status, markup.0.clone()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_POLICY));
    // With `no-referrer` browsers send forms from the origin `null`, which is nobody's.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}
