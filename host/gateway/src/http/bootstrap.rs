//! What a web client asks first: before a sign-in which gateway this is and how to get in, behind it who it is and what it
//! sees (D-03). Knows paths and people; starts nothing. Invariants: before the sign-in nothing is said that a
//! stranger could not find out by trying; a client of another build hears so and gets no state.

use super::{
    HttpState,
    dashboard::{self, Viewer},
    problem,
};
use crate::error::{Code, Error, Result};
use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Sessions in a first state. As many as a gateway can have.
const SESSIONS_MAX: usize = 4_096;

#[derive(Serialize)]
struct Bootstrap {
    name: &'static str,
    version: &'static str,
    auth: Auth,
    paths: Paths,
    features: Features,
}

#[derive(Serialize)]
struct Auth {
    /// How somebody signs in; none: nobody can.
    methods: Vec<&'static str>,
    /// Names of a directory service are known, too.
    directory: bool,
    stream_token_minutes: u64,
}

/// Where what is.
#[derive(Serialize)]
struct Paths {
    pages: &'static str,
    sign_in: &'static str,
    session_bootstrap: &'static str,
    live: &'static str,
    live_token: &'static str,
    health: &'static str,
    version: &'static str,
    metrics: &'static str,
}

#[derive(Serialize)]
struct Features {
    dashboard: bool,
    alarms: bool,
    nodes: bool,
    tls: bool,
}

/// What a client says of itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Claimed {
    /// The version that it was made for.
    build: String,
}

type Asked = std::result::Result<Query<Claimed>, QueryRejection>;

/// The first state.
#[derive(Serialize)]
struct Begun {
    version: &'static str,
    person: Me,
    stream_token: String,
    degraded: Vec<String>,
    sessions: Vec<Shown>,
}

#[derive(Serialize)]
struct Me {
    name: String,
    role: &'static str,
}

#[derive(Serialize)]
struct Shown {
    session_id: String,
    name: String,
    tag: String,
    backend: String,
    ready: bool,
    /// Decimal: JavaScript's numbers end at 2^53.
    epoch: String,
    head: String,
}

pub(super) async fn before(State(state): State<HttpState>) -> Response {
    let shown = state.dashboard.as_ref();
    let directory = shown.is_some_and(dashboard::Dashboard::has_directory);
    let bootstrap = Bootstrap {
        name: "tidegate",
        version: VERSION,
        auth: Auth {
            methods: if shown.is_some() { vec!["password"] } else { Vec::new() },
            directory,
            stream_token_minutes: crate::people::STREAM_TOKEN_MINUTES,
        },
        paths: Paths {
            pages: "/",
            sign_in: "/sign-in",
            session_bootstrap: "/api/session/bootstrap",
            live: "/live",
            live_token: "/live/token",
            health: "/api/health",
            version: "/api/version",
            metrics: "/metrics",
        },
        features: Features {
            dashboard: shown.is_some(),
            alarms: shown.is_some(),
            nodes: state.nodes.is_some(),
            tls: state.tls,
        },
    };
    Json(bootstrap).into_response()
}

/// For who is signed in; a client of another build is refused before anything of the state is told.
pub(super) async fn behind(asked: Asked, headers: HeaderMap, State(state): State<HttpState>) -> Response {
    let begun = async {
        let viewer = Viewer::of(&headers, &state).await?;
        checked(asked)?;
        Ok(first_state(&state, &viewer))
    };
    match begun.await {
        Ok(begun) => Json(begun).into_response(),
        Err(error) => problem(&error),
    }
}

fn checked(asked: Asked) -> Result<()> {
    let wrong = |_| Error::new(Code::RequestInvalid, "the query cannot be read").with("field", "build");
    let Query(Claimed { build }) = asked.map_err(wrong)?;
    if build == VERSION {
        return Ok(());
    }
    let message = "this client was made for another version of the gateway; load it again";
    Err(Error::new(Code::HttpVersionMismatch, message).with("version", VERSION))
}

fn first_state(state: &HttpState, viewer: &Viewer) -> Begun {
    let person = viewer.person();
    let sessions = viewer.sessions().into_iter().take(SESSIONS_MAX).map(|session| Shown {
        session_id: session.identity.id.to_string(),
        name: session.identity.name.clone(),
        tag: session.identity.tag.clone(),
        backend: session.identity.backend.clone(),
        ready: session.check_ready().is_ok(),
        epoch: session.identity.epoch.to_string(),
        head: session.log.head().to_string(),
    });
    Begun {
        version: VERSION,
        person: Me { name: person.name.to_string(), role: person.role.as_str() },
        stream_token: viewer.stream_token(),
        degraded: dashboard::trouble(state, person),
        sessions: sessions.collect(),
    }
}
