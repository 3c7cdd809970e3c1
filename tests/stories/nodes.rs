//! Runtime nodes on a real gateway: over gRPC and HTTP with status, code and details, under a policy that is
//! swapped, a damaged floor, a kill, and from the command line.

use crate::harness::{Gateway, Item, Launch, Session, eventually, place, reason, refused, tidegate};
use crate::restart::killed;
use serde_json::{Value as Json, json};
use std::{fs, process::Stdio, time::Duration};
use tidegate_client::{
    ClientError, Connect, GrpcCode, NodeAdmin, Nodes,
    wire::{
        AttachNodeRequest, CreateKeyRequest, ListNodesRequest, NodeAccess, NodeAttachment, NodeCapabilityUpdateRequest,
        NodeReport, NodeTransition, Value, Write, WriteBulk, command::Method, value::Kind,
        watch_nodes_response::Message, write_bulk,
    },
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(30);

const VECTORS: &str = r#"[[vector]]
name = "nobody writes"
call = "version-floor.admit"
args = ['{id: "n1", kind: "web", version: "9.9"}', 'none']
expect = 'ok(read-only)'
"#;

async fn nodes(gw: &Gateway) -> Nodes {
    gw.connect().key(gw.first_key()).nodes().await.expect("the gateway answers")
}

async fn operator(gw: &Gateway) -> NodeAdmin {
    Connect::socket(gw.data().join("admin.sock")).node_admin().await.expect("the operators' socket answers")
}

fn node(id: &str, session: &Session, version: &str) -> AttachNodeRequest {
    AttachNodeRequest {
        node_id: id.into(),
        session_id: session.id.clone(),
        kind: "historian".into(),
        version: version.into(),
        capabilities: vec!["read".into()],
    }
}

async fn write_for(session: &Session, node: &str, item: &Item) -> Result<(), ClientError> {
    let value = Some(Value { kind: Some(Kind::Double(1.0)), data_type: 0 });
    let write = Write { server_handle: session.server, item_handle: item.handle, value, user_id: 0 };
    session.client.invoke_for(node, &session.id, Method::Write(write), 0).await.map(|_| ())
}

/// An item whose type is known, so that it can be written.
async fn writable(session: &Session) -> Item {
    let item = session.advise(&["Area1.Setpoint.Speed"]).await.remove(0);
    eventually("a first value", async || {
        let items = session.client.snapshot(&session.id).await.expect("a snapshot").items;
        items.iter().all(|item| item.last.is_some()).then_some(())
    })
    .await;
    item
}

/// Status and body of a POST.
async fn post(gw: &Gateway, key: Option<&str>, method: &str, body: &Json) -> (u16, Json) {
    let text = fs::read_to_string(gw.data().join("addresses.json")).expect("addresses");
    let addresses: Json = serde_json::from_str(&text).expect("JSON");
    let http = addresses["http"].as_str().expect("an address");
    let body = body.to_string();
    let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
    let request = format!(
        "POST /api/runtimenode.{method} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n{key}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(http).await.expect("the HTTP listener answers");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    let status = head.split(' ').nth(1).and_then(|number| number.parse().ok()).expect("a status");
    let kind = if status < 400 { "application/json" } else { "application/problem+json" };
    assert!(head.contains(&format!("content-type: {kind}")), "{answer}");
    (status, serde_json::from_str(body).expect("JSON"))
}

async fn states(operator: &NodeAdmin, ended: bool) -> Vec<(String, String)> {
    let request = ListNodesRequest { ended, ..Default::default() };
    let all: Vec<NodeAttachment> = operator.list(request).await.expect("a list");
    all.into_iter().map(|one| (one.node_id, one.state)).collect()
}

// shows: N-01, N-05, N-08, N-09, N-10, N-11
#[tokio::test]
async fn n08_nodes_join_report_and_leave_over_grpc() {
    let gw = Gateway::start().await;
    let (a, b) = (gw.open("line-1").await, gw.open("line-2").await);
    let (client, operator) = (nodes(&gw).await, operator(&gw).await);
    let mut watch = operator.watch("").await.expect("watches");
    let attached = client.attach(node("n", &a, "0.1")).await.expect("joined");
    assert_eq!(attached.access(), NodeAccess::ReadWrite);
    assert_eq!(
        (attached.heartbeat_every_ms, attached.attachment.expect("a row").state),
        (15_000, "registering".into())
    );

    let update = |report: i32| NodeCapabilityUpdateRequest {
        node_id: "n".into(),
        session_id: a.id.clone(),
        capabilities: vec!["alarms".into()],
        report,
    };
    let early = refused(client.capability_update(update(NodeReport::Online.into())).await);
    assert_eq!((early.code, early.reason.as_str()), (GrpcCode::FailedPrecondition, "runtimenode.state"));
    assert_eq!(early.details["state"], "registering");
    let strange = refused(client.capability_update(update(7)).await);
    assert_eq!((strange.code, strange.details["field"].as_str()), (GrpcCode::InvalidArgument, "report"));
    assert_eq!(client.heartbeat("n", &a.id, None).await.expect("heard").state, "online");
    let degraded = client.capability_update(update(NodeReport::Degraded.into())).await.expect("taken");
    assert_eq!((degraded.state.as_str(), degraded.capabilities), ("degraded", vec!["alarms".to_owned()]));

    let conflict = refused(client.attach(node("n", &b, "0.1")).await);
    assert_eq!((conflict.code, conflict.reason.as_str()), (GrpcCode::AlreadyExists, "runtimenode.attach_conflict"));
    assert!(!format!("{conflict:?}").contains(&a.id), "the other session is not named");
    let stranger = gw.connect().key(gw.key(&[], "sessions:own").await).nodes().await.expect("connected");
    assert_eq!(reason(stranger.attach(node("x", &a, "0.1")).await), "session.not_permitted");
    assert_eq!(reason(stranger.heartbeat("n", &a.id, None).await), "runtimenode.unknown");
    assert!(stranger.list(ListNodesRequest::default()).await.expect("a list").is_empty());

    client.attach(node("m", &a, "0.1")).await.expect("a second node on the session");
    assert_eq!(client.detach("n", &a.id).await.expect("left").state, "offline");
    client.attach(node("n", &b, "0.1")).await.expect("free now");
    assert_eq!(operator.revoke("n", &b.id).await.expect("revoked"), 1);
    let revoked = refused(client.attach(node("n", &b, "0.1")).await);
    assert_eq!((revoked.code, revoked.reason.as_str()), (GrpcCode::FailedPrecondition, "runtimenode.attach_revoked"));

    let mut told = Vec::new();
    while told.len() < 7 {
        let message = watch.next().await.expect("a stream").expect("goes on").message;
        let Some(Message::Transition(NodeTransition { node_id, to, cause, .. })) = message else { panic!("a change") };
        told.push(format!("{node_id} {to} {cause}"));
    }
    let wanted = [
        "n registering attach",
        "n online heartbeat",
        "n degraded report",
        "m registering attach",
        "n offline detach",
        "n registering attach",
        "n revoked revoke",
    ];
    assert_eq!(told, wanted);
    a.close().await;
    eventually("the session's nodes to be sent away", async || {
        let all = states(&operator, true).await;
        all.contains(&("m".to_owned(), "offline".to_owned())).then_some(())
    })
    .await;
}

// shows: N-02, N-03, N-04, N-11, X-02, X-11
#[tokio::test]
async fn n04_the_floor_and_its_policy_reach_live_nodes_at_their_next_write() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let item = writable(&s).await;
    let (client, operator) = (nodes(&gw).await, operator(&gw).await);
    for (id, version) in [("old", "1.9"), ("new", "1.10")] {
        client.attach(node(id, &s, version)).await.expect("joined");
        client.heartbeat(id, &s.id, None).await.expect("heard");
        write_for(&s, id, &item).await.expect("no floor");
    }
    operator.set_floor(Some("1.10")).await.expect("set");
    let fault = refused(write_for(&s, "old", &item).await);
    assert_eq!((fault.code, fault.reason.as_str()), (GrpcCode::FailedPrecondition, "version.floor_exceeded"));
    let details = ["node_id", "version", "floor"].map(|key| fault.details[key].as_str());
    assert_eq!(details, ["old", "1.9", "1.10"]);
    let again = refused(write_for(&s, "old", &item).await);
    assert_eq!(again.details["decision"], fault.details["decision"], "a kept verdict keeps its decision");
    let explained = gw.run(&["policy", "explain", &fault.details["decision"]]).await;
    let words = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(words.contains("in version 1.9 wanted in, with the floor 1.10"), "{words}");
    let one = write_bulk::One { item_handle: item.handle, ..Default::default() };
    let bulk = Method::WriteBulk(WriteBulk { server_handle: s.server, writes: vec![one] });
    assert_eq!(reason(s.client.invoke_for("old", &s.id, bulk, 0).await), "version.floor_exceeded");
    write_for(&s, "new", &item).await.expect("1.10 is newer than 1.9");
    assert_eq!(client.heartbeat("old", &s.id, None).await.expect("it stays").state, "online");
    let read = s.client.read(&s.id, s.server, &["Area1.Pump1.Sine"], 5_000).await.expect("reads work");
    assert_eq!(read.results.len(), 1);
    assert_eq!(reason(write_for(&s, "nobody", &item).await), "runtimenode.unknown");
    let late = client.attach(node("late", &s, "1.0")).await.expect("admitted");
    assert_eq!(late.access(), NodeAccess::ReadOnly);

    let text = include_str!("guests/nobody_writes.wat");
    let quoted = VECTORS.replace('"', "\\22").replace('\n', "\\0a");
    let text = text.replace("@VECTORS_LEN@", &VECTORS.len().to_string()).replace("@VECTORS@", &quoted);
    let component = wat::parse_str(text).expect("well formed");
    let admin = gw.admin().await;
    let before = admin.policies().await.expect("a listing").generation;
    place(&gw.plugins(), "floor.wasm", &component);
    let swapped = eventually("the swap", async || {
        let swap = admin.policies().await.expect("a listing").swaps.into_iter().next()?;
        assert!(swap.outcome != "refused", "refused: {} [{}]", swap.message, swap.code);
        (swap.generation > before).then_some(swap.generation)
    })
    .await;
    let fault = refused(write_for(&s, "new", &item).await);
    assert_eq!(fault.reason, "version.floor_exceeded", "no re-attach was needed");
    assert_eq!(fault.details["generation"], swapped.to_string());
    admin.rollback_policies("nobody can write").await.expect("rolled back");
    write_for(&s, "new", &item).await.expect("and back");
    operator.set_floor(None).await.expect("cleared");
    write_for(&s, "old", &item).await.expect("no floor, no re-attach");
    let refused_writes = gw.metrics().await;
    assert!(refused_writes.contains("tidegate_node_writes_refused_total 4\n"), "{refused_writes}");
}

// shows: N-04, X-01
#[tokio::test]
async fn n04_a_key_for_nodes_must_name_one_and_the_policies_judge_their_calls() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let item = writable(&s).await;
    let admin = gw.admin().await;
    let scopes = vec!["sessions:all".to_owned(), "node".to_owned()];
    let request = CreateKeyRequest { name: "fleet".into(), scopes, ..Default::default() };
    let key = admin.create_key(request).await.expect("a key").secret;
    let fleet = Session { client: gw.client_with(&key).await, ..s };
    let client = gw.connect().key(&key).nodes().await.expect("the gateway answers");
    assert_eq!(reason(write_for(&fleet, "", &item).await), "version.node_required");
    fleet.client.snapshot(&fleet.id).await.expect("whoever names no node reads on");
    client.attach(node("n", &fleet, "1.0")).await.expect("joined");
    write_for(&fleet, "n", &item).await.expect("a named node writes");

    let flipped = async |before: u64| {
        eventually("a flip", async || {
            let generation = admin.policies().await.expect("a listing").generation;
            (generation > before).then_some(generation)
        })
        .await
    };
    let before = admin.policies().await.expect("a listing").generation;
    place(&gw.plugins(), "rate-limit.toml", b"[kinds.node]\nper_second = 0.001\nburst = 1.0\n");
    flipped(before).await;
    client.attach(node("n", &fleet, "1.1")).await.expect("one call fits the bucket");
    let limited = refused(client.attach(node("n", &fleet, "1.2")).await);
    assert_eq!((limited.reason.as_str(), limited.details["kind"].as_str()), ("rate.limited", "node"));
    let (status, problem) = post(&gw, Some(&key), "list", &json!({})).await;
    assert_eq!((status, &problem["code"]), (429, &"rate.limited".into()), "{problem}");
    client.heartbeat("n", &fleet.id, None).await.expect("heartbeats are not limited");
    let told = refused(client.heartbeat("n", &fleet.id, Some(NodeReport::Degraded)).await);
    assert_eq!((told.reason.as_str(), told.details["kind"].as_str()), ("rate.limited", "node"), "a changed one is");
    let body = json!({ "node_id": "n", "session_id": fleet.id, "status": "degraded" });
    assert_eq!(post(&gw, Some(&key), "heartbeat", &body).await.0, 429);
    assert_eq!(client.heartbeat("n", &fleet.id, None).await.expect("plain ones go on").state, "online");

    fs::remove_file(gw.plugins().join("rate-limit.toml")).expect("removed");
    gw.swap("access", "").await;
    for file in ["access.wasm", "access.toml"] {
        fs::remove_file(gw.plugins().join(file)).expect("removed");
    }
    eventually("closed access", async || {
        let attached = client.attach(node("n", &fleet, "1.3")).await;
        (attached.is_err() && reason(attached) == "policy.denied").then_some(())
    })
    .await;
    let (status, problem) = post(
        &gw,
        Some(&key),
        "attach",
        &json!({ "node_id": "n", "session_id": fleet.id, "kind": "panel", "version": "1.0" }),
    )
    .await;
    assert_eq!((status, &problem["code"]), (403, &"policy.denied".into()), "{problem}");
}

// shows: N-08, N-09, N-10, N-11
#[tokio::test]
async fn n11_the_same_errors_come_over_http_as_problems() {
    let gw = Gateway::start().await;
    let (a, b) = (gw.open("line-1").await, gw.open("line-2").await);
    let key = Some(gw.first_key());
    let attach = |session: &Session, version: &str| json!({ "node_id": "n", "session_id": session.id, "kind": "panel", "version": version });
    let here = json!({ "node_id": "n", "session_id": a.id });
    let (status, answer) = post(&gw, key, "attach", &attach(&a, "1.0")).await;
    assert_eq!(
        (status, &answer["access"], &answer["attachment"]["state"]),
        (200, &"read-write".into(), &"registering".into())
    );
    let early = json!({ "node_id": "n", "session_id": a.id, "capabilities": [], "status": "online" });
    for (method, body, wanted) in [
        ("attach", attach(&b, "1.0"), (409, "runtimenode.attach_conflict")),
        ("attach", attach(&a, "1.0.0"), (400, "version.malformed")),
        ("capabilityupdate", early, (409, "runtimenode.state")),
        ("heartbeat", json!({ "node_id": "n", "session_id": a.id, "status": "offline" }), (400, "request.invalid")),
        ("heartbeat", json!({ "node_id": "n", "session_id": a.id, "extra": 1 }), (400, "request.invalid")),
        ("attach", json!(["n", a.id, "panel", "1.0", []]), (400, "request.invalid")),
        ("list", json!([]), (400, "request.invalid")),
        (
            "heartbeat",
            json!({ "node_id": "n", "session_id": a.id, "status": { "online": null } }),
            (400, "request.invalid"),
        ),
        ("heartbeat", json!({ "node_id": "m", "session_id": a.id }), (404, "runtimenode.unknown")),
        ("restart", here.clone(), (404, "http.no_such_page")),
    ] {
        let (status, problem) = post(&gw, key, method, &body).await;
        assert_eq!((status, problem["code"].as_str().expect("a code")), wanted, "{problem}");
        assert_eq!(problem["type"], format!("urn:tidegate:error:{}", wanted.1));
    }
    let (status, answer) = post(&gw, key, "heartbeat", &here).await;
    assert_eq!((status, &answer["state"]), (200, &"online".into()));
    let (status, answer) = post(&gw, key, "list", &json!({})).await;
    assert_eq!((status, answer["attachments"].as_array().expect("a list").len()), (200, 1));
    assert_eq!(post(&gw, None, "heartbeat", &here).await.0, 401);
    assert_eq!(post(&gw, Some("wrong"), "heartbeat", &here).await.0, 401);
    let (status, answer) = post(&gw, key, "detach", &here).await;
    assert_eq!((status, &answer["attachment"]["state"]), (200, &"offline".into()));
    operator(&gw).await.revoke("n", "").await.expect("revoked");
    let (status, problem) = post(&gw, key, "attach", &attach(&a, "1.0")).await;
    assert_eq!((status, problem["code"].as_str()), (409, Some("runtimenode.attach_revoked")));
    assert_eq!(problem["details"]["node_id"], "n");
    let over_tcp = gw.connect().node_admin().await.expect("connected");
    assert_eq!(reason(over_tcp.floor().await), "auth.transport", "the operator's half is not for the network");
}

// shows: N-03, N-11
#[tokio::test]
async fn n03_a_damaged_floor_is_on_the_health_page_and_stops_writes_only() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let item = writable(&s).await;
    let client = nodes(&gw).await;
    client.attach(node("n", &s, "1.0")).await.expect("joined");
    client.heartbeat("n", &s.id, None).await.expect("heard");
    write_for(&s, "n", &item).await.expect("written");
    let db = rusqlite::Connection::open(gw.data().join("tidegate.db")).expect("opens");
    db.execute("UPDATE version_floor SET floor = 'latest'", []).expect("damaged");
    let asked = gw.run(&["node", "floor", "--json"]).await;
    let error: Json = serde_json::from_slice(&asked.stderr).expect("JSON");
    assert_eq!((asked.status.code(), &error["error"]["code"]), (Some(1), &"version.floor_malformed".into()));
    let fault = eventually("the damage to be seen", async || match write_for(&s, "n", &item).await {
        Ok(()) => None,
        Err(ClientError::Fault(fault)) => Some(fault),
        Err(other) => panic!("{other}"),
    })
    .await;
    assert_eq!((fault.code, fault.reason.as_str()), (GrpcCode::DataLoss, "version.floor_malformed"));
    let (status, health) = get(&gw, "/api/health").await;
    assert_eq!((status, &health["ready"], &health["degraded"][0]["part"]), (200, &true.into(), &"storage".into()));
    assert_eq!(reason(client.attach(node("m", &s, "9.0")).await), "version.floor_malformed");
    assert_eq!(client.heartbeat("n", &s.id, None).await.expect("it stays").state, "online");
    s.client.snapshot(&s.id).await.expect("reads go on");
    operator(&gw).await.set_floor(Some("1.0")).await.expect("mended");
    write_for(&s, "n", &item).await.expect("written");
    assert_eq!(get(&gw, "/api/health").await.1["degraded"], json!([]));

    db.execute("DELETE FROM version_floor", []).expect("lost");
    operator(&gw).await.set_floor(Some("2.0")).await.expect("set");
    assert_eq!(reason(write_for(&s, "n", &item).await), "version.floor_exceeded", "in force at once");
    db.execute("DELETE FROM version_floor", []).expect("lost");
    let asked = gw.run(&["node", "floor"]).await;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && said.contains("lost") && said.contains("--clear"), "{said}");
    assert_eq!(reason(write_for(&s, "n", &item).await), "version.floor_malformed");
    assert_eq!(get(&gw, "/api/health").await.1["degraded"][0]["part"], "storage");
    let mended = gw.run(&["node", "floor", "--clear"]).await;
    assert!(mended.status.success(), "{}", String::from_utf8_lossy(&mended.stderr));
    write_for(&s, "n", &item).await.expect("written");
}

async fn get(gw: &Gateway, path: &str) -> (u16, Json) {
    let text = fs::read_to_string(gw.data().join("addresses.json")).expect("addresses");
    let addresses: Json = serde_json::from_str(&text).expect("JSON");
    let http = addresses["http"].as_str().expect("an address");
    let mut stream = TcpStream::connect(http).await.expect("the HTTP listener answers");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
    let status = head.split(' ').nth(1).and_then(|number| number.parse().ok()).expect("a status");
    (status, serde_json::from_str(body).expect("JSON"))
}

// shows: N-06, N-08
#[tokio::test]
async fn n06_after_sigkill_in_the_middle_of_transitions_what_was_acknowledged_is_there() {
    const NODES: usize = 8;
    let mut gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let (acknowledge, mut acknowledged) = tokio::sync::mpsc::unbounded_channel();
    for n in 0..NODES {
        let (client, request) = (nodes(&gw).await, node(&format!("n{n}"), &s, "1.0"));
        let acknowledge = acknowledge.clone();
        tokio::spawn(async move {
            // Attach, come online, degrade, leave, until the gateway is gone.
            for round in 0.. {
                let version = format!("1.{round}");
                let (id, session) = (request.node_id.clone(), request.session_id.clone());
                let request = AttachNodeRequest { version: version.clone(), ..request.clone() };
                let steps = async {
                    client.attach(request).await?;
                    acknowledge.send((n, round)).expect("heard");
                    client.heartbeat(&id, &session, None).await?;
                    client.heartbeat(&id, &session, Some(NodeReport::Degraded)).await?;
                    client.detach(&id, &session).await
                };
                if steps.await.is_err() {
                    return;
                }
            }
        });
    }
    drop(acknowledge);
    let mut last = [None; NODES];
    let mut count = 0;
    while let Some((n, round)) = acknowledged.recv().await {
        last[n] = Some(round);
        count += 1;
        if count == 200 {
            gw.signal(rustix::process::Signal::KILL);
        }
    }
    assert!(count >= 200, "the nodes were at work: {count}");
    gw.ended().await;
    let folder = gw.folder();
    drop(gw);
    let gw = Launch::again(folder).start().await;
    let operator = operator(&gw).await;
    let rows = operator.list(ListNodesRequest { ended: true, ..Default::default() }).await.expect("a list");
    assert_eq!(rows.len(), NODES, "one row for each node of the session");
    for row in rows {
        let n: usize = row.node_id[1..].parse().expect("a number");
        let version: i32 = row.version["1.".len()..].parse().expect("a number");
        let known = last[n].expect("attached at least once");
        assert!(version == known || version == known + 1, "{row:?}, acknowledged {known}");
    }
    // The session died with its gateway; its nodes are free for another.
    let next = gw.open("line-1").await;
    let client = nodes(&gw).await;
    for n in 0..NODES {
        eventually("the node to be free", async || client.attach(node(&format!("n{n}"), &next, "1.0")).await.ok())
            .await;
    }
}

// shows: N-03, N-09
#[tokio::test]
async fn nodes_from_the_command_line() {
    let gw = Gateway::start().await;
    let s = gw.open("line-1").await;
    let client = nodes(&gw).await;
    let said = |output: std::process::Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let failed = |output: std::process::Output| {
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8(output.stderr).expect("text")
    };
    let attach = ["node", "attach", "press-7", &s.id, "--version", "1.9"];
    assert_eq!(said(gw.run(&attach).await), "press-7 is registering, read-write\n");
    let beat = ["node", "heartbeat", "press-7", &s.id, "--degraded"];
    assert_eq!(said(gw.run(&beat).await), "press-7 is degraded\n");
    let write = ["client", "write", &s.id, "Area1.Setpoint.Speed", "7", "--node", "press-7"];
    assert!(said(gw.run(&write).await).ends_with("written\n"));
    said(gw.run(&["node", "floor", "--set", "2.0"]).await);
    assert!(failed(gw.run(&write).await).contains("version.floor_exceeded"));
    said(gw.run(&["node", "floor", "--clear"]).await);
    assert_eq!(said(gw.run(&["node", "detach", "press-7", &s.id]).await), "press-7 has left\n");
    assert!(failed(gw.run(&write).await).contains("runtimenode.state"));
    assert!(failed(gw.run(&["node", "revoke", "nobody"]).await).contains("no record"));
    client.attach(node("press-7", &s, "1.9")).await.expect("joined");
    assert!(said(gw.run(&["node", "floor"]).await).starts_with("no floor"));
    assert!(said(gw.run(&["node", "floor", "--set", "1.10"]).await).starts_with("floor 1.10"));
    let wrong = gw.run(&["node", "floor", "--set", "latest", "--json"]).await;
    let error: Json = serde_json::from_slice(&wrong.stderr).expect("JSON");
    assert_eq!((wrong.status.code(), &error["error"]["code"]), (Some(1), &"version.malformed".into()));
    let list: Json = serde_json::from_str(&said(gw.run(&["node", "list", "--json"]).await)).expect("JSON");
    assert_eq!((&list["nodes"][0]["node_id"], &list["nodes"][0]["state"]), (&"press-7".into(), &"registering".into()));
    let shown = said(gw.run(&["node", "list"]).await);
    assert!(shown.contains("press-7") && shown.contains("never"), "{shown}");
    let watch = gw.run(&["node", "watch", "--count", "1"]);
    let beat = async {
        eventually("the watch to see a change", async || {
            let report = client.heartbeat("press-7", &s.id, Some(NodeReport::Degraded)).await.map(|_| ());
            report.and(client.heartbeat("press-7", &s.id, None).await.map(|_| ())).ok();
            None::<()>
        })
        .await;
    };
    let watched = tokio::select! {
        watched = watch => said(watched),
        () = beat => unreachable!("it never finds anything"),
    };
    assert!(watched.contains("press-7") && watched.contains("->"), "{watched}");
    assert!(said(gw.run(&["node", "revoke", "press-7"]).await).contains("revoked press-7 in 1"));
    assert_eq!(reason(client.attach(node("press-7", &s, "1.9")).await), "runtimenode.attach_revoked");
    said(gw.run(&["node", "floor", "--clear"]).await);
}

#[tokio::test]
async fn a_watch_of_nodes_goes_on_under_the_next_gateway() {
    let gw = Launch::new().start().await;
    let mut watch = tidegate();
    watch.args(["node", "watch", "--json", "--data"]).arg(gw.data());
    let mut watch = watch.stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("it starts");
    let mut lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
    let mut told = async || {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line in time");
        serde_json::from_str::<Json>(&line.expect("text").expect("a line")).expect("JSON")
    };
    // Nobody tells when a watch has begun; so node after node joins until one is seen.
    let s = gw.open("line-1").await;
    let (client, id) = (nodes(&gw).await, s.id.clone());
    let joins = async {
        for n in 0.. {
            client.attach(node(&format!("press-{n}"), &s, "1.9")).await.expect("joined");
            client.detach(&format!("press-{n}"), &s.id).await.expect("left");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        first = told() => assert_eq!(first["session_id"], id),
        () = joins => {}
    }
    let gw = Launch::again(killed(gw).await).start().await;
    while told().await["connected_again"] != true {}
    let s = gw.open("line-2").await;
    nodes(&gw).await.attach(node("lathe-1", &s, "1.9")).await.expect("joined");
    while told().await["session_id"] != s.id {}
}
