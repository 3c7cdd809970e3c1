//! Runtime nodes over HTTP+JSON: `POST /api/runtimenode.<method>` with the key as a bearer. Translates; every
//! rule is of `nodes`. Invariant: a body that is not exactly the schema reaches no rule (N-10).

use super::{HttpState, accept::Peer, problem};
use crate::{
    error::{Code, Error, Result},
    keys::{self, Keys},
    nodes::{Attach, Attachment, HEARTBEAT_EVERY, Holder, Nodes, Report},
    sessions::Caller,
};
use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// What these pages need.
#[derive(Clone, Debug)]
pub struct NodePages {
    pub nodes: Nodes,
    pub keys: Keys,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AttachBody {
    node_id: String,
    session_id: String,
    kind: String,
    version: String,
    #[serde(default)]
    capabilities: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeartbeatBody {
    node_id: String,
    session_id: String,
    status: Option<ReportBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CapabilityBody {
    node_id: String,
    session_id: String,
    capabilities: Vec<String>,
    status: Option<ReportBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DetachBody {
    node_id: String,
    session_id: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListBody {
    session_id: Option<String>,
    ended: bool,
    after: i64,
    limit: u32,
}

/// All that a node may say of itself, as a plain text.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
enum ReportBody {
    Online,
    Degraded,
}

#[derive(Serialize)]
struct AttachmentBody {
    node_id: String,
    session_id: String,
    kind: String,
    version: String,
    capabilities: Vec<String>,
    state: &'static str,
    attached_at_unix_ms: i64,
    updated_at_unix_ms: i64,
    last_heartbeat_unix_ms: Option<i64>,
    key_id: String,
}

pub(super) fn routes() -> Router<HttpState> {
    Router::new()
        .route("/api/runtimenode.attach", post(attach))
        .route("/api/runtimenode.heartbeat", post(heartbeat))
        .route("/api/runtimenode.capabilityupdate", post(capability_update))
        .route("/api/runtimenode.detach", post(detach))
        .route("/api/runtimenode.list", post(list))
}

async fn attach(
    State(state): State<HttpState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let (pages, caller) = enter(&state, peer, &headers).await?;
        let AttachBody { node_id, session_id, kind, version, capabilities } = read(&headers, &body)?;
        let asked = Attach { node: node_id, session: session_id, kind, version, capabilities };
        let (attached, judged) = pages.nodes.attach(&caller, asked).await?;
        let access = if judged.may_write { "read-write" } else { "read-only" };
        let every = HEARTBEAT_EVERY.as_millis() as u64;
        Ok(serde_json::json!({
            "attachment": shown(attached), "access": access, "heartbeat_every_ms": every,
        }))
    })
    .await
}

async fn heartbeat(
    State(state): State<HttpState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let (pages, caller) = known(&state, peer, &headers)?;
        let HeartbeatBody { node_id, session_id, status } = read(&headers, &body)?;
        let report = status.map_or(Report::Online, Report::from);
        let (state, at) = pages.nodes.heartbeat(&caller, &node_id, &session_id, report).await?;
        Ok(serde_json::json!({ "state": state.as_str(), "received_at_unix_ms": at }))
    })
    .await
}

async fn capability_update(
    State(state): State<HttpState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let (pages, caller) = enter(&state, peer, &headers).await?;
        let CapabilityBody { node_id, session_id, capabilities, status } = read(&headers, &body)?;
        let report = status.map(Report::from);
        let updated = pages.nodes.capability_update(&caller, &node_id, &session_id, capabilities, report).await?;
        Ok(serde_json::json!({ "attachment": shown(updated) }))
    })
    .await
}

async fn detach(
    State(state): State<HttpState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let (pages, caller) = enter(&state, peer, &headers).await?;
        let DetachBody { node_id, session_id } = read(&headers, &body)?;
        let left = pages.nodes.detach(&caller, &node_id, &session_id).await?;
        Ok(serde_json::json!({ "attachment": shown(left) }))
    })
    .await
}

async fn list(
    State(state): State<HttpState>,
    peer: Option<Extension<Peer>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(async {
        let (pages, caller) = enter(&state, peer, &headers).await?;
        let ListBody { session_id, ended, after, limit } = read(&headers, &body)?;
        let holder = Holder::from(&caller);
        let (page, next) = pages.nodes.list(&holder, session_id.as_deref(), ended, after, limit).await?;
        let attachments: Vec<_> = page.into_iter().map(shown).collect();
        Ok(serde_json::json!({ "attachments": attachments, "next_after": next }))
    })
    .await
}

async fn answer(work: impl Future<Output = Result<serde_json::Value>>) -> Response {
    match work.await {
        Ok(body) => Json(body).into_response(),
        Err(error) => problem(&error),
    }
}

/// Who calls, once the rate-limit policy has let the call through.
async fn enter<'s>(
    state: &'s HttpState,
    peer: Option<Extension<Peer>>,
    headers: &HeaderMap,
) -> Result<(&'s NodePages, Caller)> {
    let (pages, caller) = known(state, peer, headers)?;
    pages.nodes.admit(&caller).await?;
    Ok((pages, caller))
}

/// The key first: a stranger learns nothing about bodies.
fn known<'s>(
    state: &'s HttpState,
    peer: Option<Extension<Peer>>,
    headers: &HeaderMap,
) -> Result<(&'s NodePages, Caller)> {
    let pages = state.nodes.as_ref().ok_or_else(|| Error::new(Code::HttpNoSuchPage, "no nodes are served here"))?;
    let header = headers.get(header::AUTHORIZATION).map(|value| value.to_str().unwrap_or_default());
    let key = keys::bearer(header).and_then(|text| pages.keys.authenticate(text)).inspect_err(|_| {
        state.metrics.keys.auth_failures.inc();
    })?;
    let (peer, certificate) = match peer {
        Some(Extension(Peer { ip, certificate })) => (Some(ip), certificate),
        None => (None, Default::default()),
    };
    Ok((pages, Caller { key, peer, certificate }))
}

fn read<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T> {
    let json = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|text| {
        text.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
    });
    if !json {
        return Err(Error::new(Code::RequestInvalid, "the body must be application/json").with("field", "content-type"));
    }
    // Where a struct is wanted, serde takes an array of its fields as well.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Error::new(Code::RequestInvalid, "the body must be one JSON object").with("field", "body"));
    }
    // What serde says names fields and places, and may quote what a client sent to itself only.
    serde_json::from_slice(body)
        .map_err(|error| Error::new(Code::RequestInvalid, format!("the body is not as it should be: {error}")))
}

fn shown(Attachment { row, last_heartbeat_unix_ms }: Attachment) -> AttachmentBody {
    AttachmentBody {
        node_id: row.node.to_string(),
        session_id: row.session.to_string(),
        kind: row.kind.to_string(),
        version: row.version.to_string(),
        capabilities: row.capabilities.to_vec(),
        state: row.state.as_str(),
        attached_at_unix_ms: row.attached_unix_ms,
        updated_at_unix_ms: row.updated_unix_ms,
        last_heartbeat_unix_ms,
        key_id: row.key.to_string(),
    }
}

impl TryFrom<String> for ReportBody {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        match text.as_str() {
            "online" => Ok(Self::Online),
            "degraded" => Ok(Self::Degraded),
            _ => Err("a status is `online` or `degraded`"),
        }
    }
}

impl From<ReportBody> for Report {
    fn from(body: ReportBody) -> Self {
        match body {
            ReportBody::Online => Self::Online,
            ReportBody::Degraded => Self::Degraded,
        }
    }
}
