//! Heartbeats, the sweep, watchers, restarts: N-06.

use super::*;

async fn next(watcher: &mut Watcher) -> Watched {
    let heard = tokio::time::timeout(Duration::from_secs(30), watcher.next());
    heard.await.expect("in time").expect("the gateway runs")
}

async fn transition(watcher: &mut Watcher) -> (String, &'static str, &'static str, &'static str) {
    match next(watcher).await {
        Watched::Transition(t) => (t.node.to_string(), t.from.map_or("", NodeState::as_str), t.to.as_str(), t.cause),
        Watched::Missed(missed) => panic!("missed {missed}"),
    }
}

// shows: N-06
#[tokio::test]
async fn n06_silence_degrades_then_ends_and_a_heartbeat_restores_at_once() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    let mut watcher = bed.nodes.watch(Holder::Operator, None).expect("watches");
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.beat("n", &session).await.expect("heard");
    bed.pass(30).await;
    assert_eq!(bed.state("n", &session).await, NodeState::Online, "30 s are not more than 30 s");
    bed.pass(5).await;
    assert_eq!(bed.state("n", &session).await, NodeState::Degraded);
    bed.write("n", &session).await.expect("a degraded node is active");
    assert_eq!(bed.beat("n", &session).await.expect("heard"), NodeState::Online);
    assert_eq!(bed.state("n", &session).await, NodeState::Online, "stored before it is told");
    bed.pass(60).await;
    assert_eq!(bed.state("n", &session).await, NodeState::Degraded, "60 s are not more than 60 s");
    bed.pass(5).await;
    assert_eq!(bed.state("n", &session).await, NodeState::Offline);
    assert_eq!(code(bed.write("n", &session).await), "runtimenode.state");
    assert_eq!(bed.beat("n", &session).await.expect("heard"), NodeState::Online);
    bed.write("n", &session).await.expect("back");

    let mut told = Vec::new();
    for _ in 0..7 {
        let (_, from, to, cause) = transition(&mut watcher).await;
        told.push((from, to, cause));
    }
    assert_eq!(
        told,
        [
            ("", "registering", "attach"),
            ("registering", "online", "heartbeat"),
            ("online", "degraded", "stale"),
            ("degraded", "online", "heartbeat"),
            ("online", "degraded", "stale"),
            ("degraded", "offline", "stale"),
            ("offline", "online", "heartbeat"),
        ]
    );
}

// shows: N-06
#[tokio::test]
async fn n06_only_transitions_are_written() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.beat("n", &session).await.expect("heard");
    let writes = bed.metrics.storage.rows.get();
    for _ in 0..5 {
        bed.beat("n", &session).await.expect("heard");
        bed.pass(5).await;
    }
    assert_eq!(bed.metrics.storage.rows.get(), writes, "neither heartbeats nor sweeps write");
    assert_eq!(bed.pass(5).await.saved, 1, "each half minute the signs of life go out together");
    assert_eq!(bed.metrics.storage.rows.get(), writes + 1);
}

// shows: N-06
#[tokio::test]
async fn n06_a_heartbeat_that_reports_something_else_counts_as_a_call() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.limit_calls(1);
    assert_eq!(bed.beat("n", &session).await.expect("the first comes with the attach"), NodeState::Online);
    assert_eq!(bed.report("n", &session, Report::Degraded).await.expect("one call fits"), NodeState::Degraded);
    assert_eq!(bed.report("n", &session, Report::Degraded).await.expect("plain ones are free"), NodeState::Degraded);
    let (before, writes) = (bed.stored("n", &session).await, bed.metrics.storage.rows.get());
    for _ in 0..100 {
        assert_eq!(code(bed.beat("n", &session).await), "rate.limited");
    }
    assert_eq!(bed.stored("n", &session).await, before, "what was refused changed nothing");
    assert_eq!(bed.metrics.storage.rows.get(), writes);
    bed.pass(65).await;
    assert_eq!(bed.state("n", &session).await, NodeState::Offline, "what was refused was no sign of life");
    let back = bed.report("n", &session, Report::Degraded).await.expect("back after a silence, as it was before");
    assert_eq!(back, NodeState::Degraded);
    assert_eq!(code(bed.beat("n", &session).await), "rate.limited");
    bed.attach("n", &session, "1.0").await.expect("joined anew");
    assert_eq!(bed.beat("n", &session).await.expect("the first comes with the attach"), NodeState::Online);
}

// shows: N-06
#[tokio::test]
async fn n06_a_node_that_never_beats_is_registering_until_it_is_gone() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.pass(60).await;
    assert_eq!(bed.state("n", &session).await, NodeState::Registering);
    bed.pass(5).await;
    assert_eq!(bed.state("n", &session).await, NodeState::Offline);
    bed.attach("n", &session, "1.0").await.expect("again");
    bed.pass(60).await;
    assert_eq!(bed.state("n", &session).await, NodeState::Registering, "silence counts from the new attach");
}

// shows: N-06
#[tokio::test]
async fn n06_jumps_of_the_clock_and_standstills_blame_nobody() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.beat("n", &session).await.expect("heard");
    // Someone sets the machine's time, forward and back: people read it, no rule does.
    for unix_ms in [4_000_000_000_000, 1_000] {
        bed.clock.set_unix_ms(unix_ms);
        assert_eq!(bed.pass(5).await, Swept::default());
        let updated = bed.nodes.capability_update(&bed.caller, "n", session.as_str(), vec![], None).await;
        assert_eq!(updated.expect("taken").row.updated_unix_ms, bed.clock.unix_ms() as i64);
    }
    // The gateway was stopped for an hour: heartbeats wait in its sockets.
    bed.clock.advance_ms(3_600_000);
    let swept = bed.nodes.sweep().await.expect("sweeps");
    assert_eq!((swept.degraded, swept.offline, swept.excused_ms), (0, 0, 3_595_000));
    assert_eq!(bed.state("n", &session).await, NodeState::Online);
    bed.pass(30).await;
    assert_eq!(bed.state("n", &session).await, NodeState::Degraded, "from then on silence counts again");
}

// shows: N-06
#[tokio::test]
async fn n06_a_restart_gives_every_node_its_full_time_again() {
    let mut bed = Bed::new().await;
    let session = bed.session().await;
    for node in ["online", "lapsed", "left"] {
        bed.attach(node, &session, "1.0").await.expect("joined");
        bed.beat(node, &session).await.expect("heard");
    }
    bed.nodes.detach(&bed.caller, "left", session.as_str()).await.expect("left");
    for _ in 0..14 {
        bed.beat("online", &session).await.expect("heard");
        bed.pass(5).await;
    }
    assert_eq!(bed.state("lapsed", &session).await, NodeState::Offline);
    bed.nodes.save_presence().await.expect("saved");
    let heard = bed.clock.unix_ms() as i64 - 5_000;
    bed.restart().await;
    bed.pass(30).await;
    assert_eq!(bed.state("online", &session).await, NodeState::Online);
    let (page, _) = bed.nodes.list(&Holder::Operator, None, false, 0, 0).await.expect("listed");
    assert_eq!(page.iter().map(|one| one.row.node.as_str()).collect::<Vec<_>>(), ["online", "lapsed"]);
    assert_eq!(page[0].last_heartbeat_unix_ms, Some(heard), "the stored sign of life is shown");
    bed.pass(5).await;
    assert_eq!(bed.state("online", &session).await, NodeState::Degraded);
    assert_eq!(bed.beat("lapsed", &session).await.expect("known after the restart"), NodeState::Online);
    assert_eq!(code(bed.beat("left", &session).await), "runtimenode.state");
}

// shows: N-06
#[tokio::test]
async fn an_ended_session_sends_its_nodes_away() {
    let bed = Bed::new().await;
    let (session, next_session) = (bed.session().await, bed.session().await);
    bed.attach("n", &session, "1.0").await.expect("joined");
    bed.beat("n", &session).await.expect("heard");
    bed.close(&session);
    assert_eq!(bed.pass(5).await.ended, 1);
    let row = bed.stored("n", &session).await;
    assert!(row.state == NodeState::Offline && row.detached_unix_ms.is_some());
    bed.attach("n", &next_session, "1.0").await.expect("free for the next session");
}

// shows: N-06
#[tokio::test]
async fn a_slow_watcher_is_told_how_many_it_missed_and_sees_only_its_own() {
    let bed = Bed::new().await;
    let session = bed.session().await;
    let mut slow = bed.nodes.watch(Holder::from(&bed.caller), None).expect("watches");
    let mut stranger = bed.nodes.watch(Holder::from(&bed.other), None).expect("watches");
    bed.attach("n", &session, "1.0").await.expect("joined");
    let rounds = WATCH_QUEUE as u64 / 2;
    for _ in 0..rounds {
        bed.report("n", &session, Report::Degraded).await.expect("heard");
        bed.beat("n", &session).await.expect("heard");
    }
    assert_eq!(next(&mut slow).await, Watched::Missed(1));
    assert_eq!(transition(&mut slow).await.3, "heartbeat");
    assert!(matches!(next(&mut stranger).await, Watched::Missed(_)), "told as well: what it missed is unknown");
    bed.nodes.end_watches();
    while slow.next().await.is_some() {}
    assert_eq!(stranger.next().await, None, "nothing of another key");
}

/// 100,000 nodes fall silent together; meanwhile others write and are not held up.
// shows: N-06
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn n06_a_hundred_thousand_nodes_are_swept_without_stalling_writers() {
    const NODES: usize = 100_000;
    let mut bed = Bed::new().await;
    let session = bed.session().await;
    bed.storage
        .execute(&format!(
            "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {NODES} - 1) \
             INSERT INTO runtime_node_attachments (node_id, session_id, key_id, kind, version, capabilities, state, \
             attached_at_unix_ms, updated_at_unix_ms) \
             SELECT 'node-' || i, '{session}', '{}', 'panel', '1.0', '[]', 'online', 1, 1 FROM n",
            bed.caller.key.id
        ))
        .await;
    bed.restart().await;
    for n in 0..NODES {
        bed.beat(&format!("node-{n}"), &session).await.expect("heard");
    }
    assert_eq!(bed.pass(30).await.saved, NODES);
    bed.clock.advance_ms(5_000);
    let nodes = bed.nodes.clone();
    let sweep = tokio::spawn(async move {
        let began = std::time::Instant::now();
        let swept = nodes.sweep().await;
        (swept, began.elapsed())
    });
    let (mut writes, mut slowest) = (0, Duration::ZERO);
    while !sweep.is_finished() {
        let began = std::time::Instant::now();
        bed.storage.touch().await;
        slowest = slowest.max(began.elapsed());
        writes += 1;
    }
    let (swept, took) = sweep.await.expect("no panic");
    assert_eq!(swept.expect("sweeps").degraded, NODES);
    println!("{NODES} transitions in {took:?}; beside them {writes} writes, the slowest {slowest:?}");
    assert!(writes >= 20, "others got in between: {writes}");
    assert!(slowest < took / 4, "no write waited for the sweep: {slowest:?} of {took:?}");
}
