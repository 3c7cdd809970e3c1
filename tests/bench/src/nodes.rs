//! Runtime nodes: durable attaches, state changes and heartbeats over gRPC, beside plain SQLite that syncs each row
//! alone, and in groups. Knows the gateway's API. Invariant: every call counted was answered without an error.

use crate::{
    gateway::Gateway,
    process,
    rows::{Ratio, Rows},
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tidegate_client::{
    ClientError, Connect, Nodes,
    wire::{AttachNodeRequest, NodeReport},
};
use tokio::task::JoinSet;

/// What the gateway's writer takes into one commit at most.
const GROUP: usize = 256;
/// Connections; each carries at most 256 calls at once.
const CONNECTIONS: usize = 4;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows as JSON, one for each line, into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How many nodes
    #[arg(long, default_value_t = 20_000)]
    nodes: usize,
    /// Calls in flight
    #[arg(long, default_value_t = 512)]
    at_once: usize,
    /// Rows that the baseline writes one by one
    #[arg(long, default_value_t = 1_000)]
    alone: usize,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let mut rows = Rows::new("nodes", args.json.as_deref())?;
    let alone = plain(args.alone, 1)?;
    let grouped = plain(args.nodes, GROUP)?;

    let gateway = Gateway::start(None, "rate=1", &[]).await?;
    let client = gateway.client().await?;
    let session = gateway.open(&client).await?.id;
    let key = std::fs::read_to_string(gateway.key_file())?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Connect::to(&gateway.address).key(key.trim()).nodes().await?);
    }
    let drive = async |call: Call| -> anyhow::Result<(f64, f64)> {
        let (cpu, began) = (process::cpu_time(gateway.pid())?, Instant::now());
        drive(&connections, &session, &args, call).await?;
        let (cpu, took) = (process::cpu_time(gateway.pid())? - cpu, began.elapsed());
        Ok((args.nodes as f64 / took.as_secs_f64(), per_call(cpu, args.nodes)))
    };
    let (attach, attach_cpu) = drive(Call::Attach).await?;
    rows.add("attach, durable", attach, Some(("sqlite, one by one", alone, Ratio::Multiple)), "per second")?;
    rows.add("attach, durable", attach, Some(("sqlite, groups of 256", grouped, Ratio::Multiple)), "per second")?;
    rows.add("attach: processor time of the gateway", attach_cpu, None, "us per call")?;
    let (change, _) = drive(Call::Heartbeat(NodeReport::Degraded)).await?;
    rows.add(
        "heartbeat that changes the state, durable",
        change,
        Some(("sqlite, one by one", alone, Ratio::Multiple)),
        "per second",
    )?;
    let (beat, beat_cpu) = drive(Call::Heartbeat(NodeReport::Degraded)).await?;
    rows.add(
        "heartbeat that changes nothing",
        beat,
        Some(("sqlite, one by one", alone, Ratio::Multiple)),
        "per second",
    )?;
    rows.add("heartbeat: processor time of the gateway", beat_cpu, None, "us per call")?;
    // One heartbeat per node and 15 s.
    rows.add("100,000 nodes: share of one core", beat_cpu * 100_000.0 / 15.0 / 10_000.0, None, "percent")
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Attach,
    Heartbeat(NodeReport),
}

async fn drive(connections: &[Nodes], session: &str, args: &Args, call: Call) -> anyhow::Result<()> {
    let mut calls: JoinSet<Result<(), ClientError>> = JoinSet::new();
    for n in 0..args.nodes {
        if calls.len() >= args.at_once
            && let Some(answered) = calls.join_next().await
        {
            answered??;
        }
        let (nodes, session, id) =
            (connections[n % connections.len()].clone(), session.to_owned(), format!("node-{n}"));
        calls.spawn(async move {
            match call {
                Call::Heartbeat(report) => nodes.heartbeat(&id, &session, Some(report)).await.map(drop),
                Call::Attach => {
                    let request = AttachNodeRequest {
                        node_id: id,
                        session_id: session,
                        kind: "panel".into(),
                        version: "1.0".into(),
                        capabilities: vec!["read".into()],
                    };
                    nodes.attach(request).await.map(drop)
                }
            }
        });
    }
    while let Some(answered) = calls.join_next().await {
        answered??;
    }
    Ok(())
}

/// Rows per second into a table like the gateway's, synced after each group.
fn plain(rows: usize, group: usize) -> anyhow::Result<f64> {
    let folder = tempfile::tempdir()?;
    let db = rusqlite::Connection::open(folder.path().join("plain.db"))?;
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         CREATE TABLE nodes (seq INTEGER PRIMARY KEY, node TEXT NOT NULL, session TEXT NOT NULL, key TEXT NOT NULL, \
         kind TEXT NOT NULL, version TEXT NOT NULL, capabilities TEXT NOT NULL, state TEXT NOT NULL, \
         attached INTEGER NOT NULL, updated INTEGER NOT NULL, UNIQUE (node, session)) STRICT; \
         CREATE UNIQUE INDEX active ON nodes (node) WHERE state IN ('registering', 'online', 'degraded'); \
         CREATE INDEX by_session ON nodes (session);",
    )?;
    let began = Instant::now();
    for first in (0..rows).step_by(group) {
        db.execute_batch("BEGIN")?;
        for n in first..rows.min(first + group) {
            db.prepare_cached(
                "INSERT INTO nodes (node, session, key, kind, version, capabilities, state, attached, updated) VALUES \
                 (?1, 'session-0123456789abcdef0123456789abcdef', 'k0123456789abcdef', 'panel', '1.0', '[\"read\"]', \
                 'registering', 1, 1)",
            )?
            .execute([format!("node-{n}")])?;
        }
        db.execute_batch("COMMIT")?;
    }
    Ok(rows as f64 / began.elapsed().as_secs_f64())
}

fn per_call(cpu: Duration, calls: usize) -> f64 {
    cpu.as_secs_f64() * 1e6 / calls as f64
}
