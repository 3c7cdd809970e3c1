//! The HTTP listener: metrics, health, version, bootstrap, runtime nodes, the dashboard. The only place that knows axum, and the one projection
//! of errors to problem+json. Knows health by a trait, not who is healthy. Invariant: `serve` returns
//! with no connection left, within the bound it was given.

mod accept;
mod bootstrap;
mod dashboard;
mod guard;
mod nodes;
mod problem;
#[cfg(test)]
mod tests;

pub use dashboard::{Dashboard, Shown};
pub use nodes::NodePages;
pub use problem::{problem, status};

use crate::{
    error::{Code, Error},
    health::HealthSource,
    telemetry::Metrics,
    tls::Tls,
};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use std::{fmt, sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// What the pages need.
#[derive(Clone)]
pub struct HttpState {
    pub metrics: Metrics,
    pub health: Arc<dyn HealthSource>,
    /// `None`: no nodes are served here.
    pub nodes: Option<NodePages>,
    /// `None`: no dashboard is served here.
    pub dashboard: Option<Dashboard>,
    /// Whether this listener speaks TLS, so that cookies are for TLS only.
    pub tls: bool,
}

/// Serves until `shutdown` ends, then lets requests under way finish for at most `drain`.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    state: HttpState,
    shutdown: impl Future<Output = ()>,
    drain: Duration,
) {
    let loopback = listener.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let failures = state.metrics.accept_failures.clone();
    let bounds = accept::Bounds::default();
    accept::serve(listener, tls, router(state, loopback), failures, shutdown, drain, bounds).await;
}

fn router(state: HttpState, loopback: bool) -> Router {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/api/health", get(health))
        .route("/api/version", get(version))
        .route("/api/bootstrap", get(bootstrap::before))
        .route("/api/session/bootstrap", get(bootstrap::behind))
        .merge(nodes::routes())
        .merge(dashboard::routes())
        .fallback(async || no_such_page(StatusCode::NOT_FOUND))
        .method_not_allowed_fallback(async || no_such_page(StatusCode::METHOD_NOT_ALLOWED))
        .with_state(state)
        .layer(middleware::from_fn(guard::body_limit))
        .layer(middleware::map_response(guard::no_plain_refusal));
    let router = if loopback { router.layer(middleware::from_fn(guard::loopback_host)) } else { router };
    // Outermost: refusals carry the headers too.
    router.layer(middleware::map_response(guard::security_headers))
}

async fn metrics(State(state): State<HttpState>) -> Response {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    state.metrics.health.degraded.set(state.health.health().degraded.len() as i64);
    ([(header::CONTENT_TYPE, TYPE)], state.metrics.expose()).into_response()
}

/// Words are for administrators: strangers and viewers hear which part, and its code.
async fn health(headers: HeaderMap, State(state): State<HttpState>) -> Response {
    let health = state.health.health();
    let health = if dashboard::is_admin(&headers, &state) { health } else { health.without_words() };
    let status = if health.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(health)).into_response()
}

async fn version() -> Response {
    #[derive(Serialize)]
    struct Version {
        name: &'static str,
        version: &'static str,
    }
    Json(Version { name: "tidegate", version: env!("CARGO_PKG_VERSION") }).into_response()
}

fn no_such_page(status: StatusCode) -> Response {
    problem::with_status(status, &Error::new(Code::HttpNoSuchPage, "nothing is served at this path with this method"))
}

impl fmt::Debug for HttpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpState").finish_non_exhaustive()
    }
}
