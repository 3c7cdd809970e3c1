//! Runtime nodes: durable attaches, state changes and heartbeats over gRPC, beside plain SQLite that syncs each row
//! alone, and in groups; then all nodes beating at the rate that clients beat. Knows the gateway's API. Invariant: every call counted was answered without an error.

use crate::{
    gateway::Gateway,
    process,
    rows::{Ratio, Rows},
    stats::percentile,
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
/// Between the beats of one node.
const EVERY: Duration = Duration::from_secs(15);

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
    /// Nodes that beat every 15 seconds
    #[arg(long, default_value_t = 100_000)]
    beating: usize,
    /// Seconds that they beat; 0 leaves that part out
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
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
    let timed = async |call: Call| -> anyhow::Result<(f64, f64)> {
        let (cpu, began) = (process::cpu_time(gateway.pid())?, Instant::now());
        drive(&connections, &session, 0..args.nodes, args.at_once, call).await?;
        let (cpu, took) = (process::cpu_time(gateway.pid())? - cpu, began.elapsed());
        Ok((args.nodes as f64 / took.as_secs_f64(), per_call(cpu, args.nodes)))
    };
    let (attach, attach_cpu) = timed(Call::Attach).await?;
    rows.add("attach, durable", attach, Some(("sqlite, one by one", alone, Ratio::Multiple)), "per second")?;
    rows.add("attach, durable", attach, Some(("sqlite, groups of 256", grouped, Ratio::Multiple)), "per second")?;
    rows.add("attach: processor time of the gateway", attach_cpu, None, "us per call")?;
    let (change, _) = timed(Call::Heartbeat(NodeReport::Degraded)).await?;
    rows.add(
        "heartbeat that changes the state, durable",
        change,
        Some(("sqlite, one by one", alone, Ratio::Multiple)),
        "per second",
    )?;
    let (beat, beat_cpu) = timed(Call::Heartbeat(NodeReport::Degraded)).await?;
    rows.add(
        "heartbeat that changes nothing",
        beat,
        Some(("sqlite, one by one", alone, Ratio::Multiple)),
        "per second",
    )?;
    rows.add("heartbeat: processor time of the gateway", beat_cpu, None, "us per call")?;
    if args.seconds > 0.0 {
        // Those of the parts before beat as well.
        drive(&connections, &session, args.nodes..args.beating, args.at_once, Call::Attach).await?;
        beating(&mut rows, &gateway, &connections, &session, &args).await?;
    }
    Ok(())
}

/// Each beat is due at its own time, and its lag counts from then, so that a gateway that falls behind shows it.
async fn beating(
    rows: &mut Rows,
    gateway: &Gateway,
    connections: &[Nodes],
    session: &str,
    args: &Args,
) -> anyhow::Result<()> {
    let nodes = args.beating.max(args.nodes);
    let between = EVERY.div_f64(nodes as f64);
    let transitions = gateway.metric("tidegate_node_transitions_total").await?;
    let (cpu, began) = (process::cpu_time(gateway.pid())?, Instant::now());
    let mut calls: JoinSet<Result<u64, ClientError>> = JoinSet::new();
    let mut lags = Vec::with_capacity((args.seconds / between.as_secs_f64()) as usize + 1);
    for n in 0.. {
        let due = began + between.mul_f64(f64::from(n));
        if due.duration_since(began).as_secs_f64() >= args.seconds {
            break;
        }
        tokio::time::sleep_until(due.into()).await;
        while let Some(answered) = calls.try_join_next() {
            lags.push(answered??);
        }
        let n = n as usize % nodes;
        let (client, session, id) =
            (connections[n % connections.len()].clone(), session.to_owned(), format!("node-{n}"));
        calls.spawn(async move {
            client.heartbeat(&id, &session, Some(NodeReport::Online)).await?;
            Ok(due.elapsed().as_micros() as u64)
        });
    }
    while let Some(answered) = calls.join_next().await {
        lags.push(answered??);
    }
    let share = (process::cpu_time(gateway.pid())? - cpu).as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
    let transitions = gateway.metric("tidegate_node_transitions_total").await? - transitions;
    anyhow::ensure!(transitions <= nodes as f64, "nodes that beat were taken for silent: {transitions} transitions");
    rows.add(&format!("{nodes} nodes, a beat every 15 s: share of one core"), share, None, "percent")?;
    for (name, percent) in [("p50", 50.0), ("p99", 99.0)] {
        let ms = percentile(&mut lags, percent) as f64 / 1e3;
        rows.add(&format!("{nodes} nodes, a beat every 15 s: due to answered {name}"), ms, None, "ms")?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Call {
    Attach,
    Heartbeat(NodeReport),
}

async fn drive(
    connections: &[Nodes],
    session: &str,
    nodes: std::ops::Range<usize>,
    at_once: usize,
    call: Call,
) -> anyhow::Result<()> {
    let mut calls: JoinSet<Result<(), ClientError>> = JoinSet::new();
    for n in nodes {
        if calls.len() >= at_once
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
