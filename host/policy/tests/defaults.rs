//! The embedded policies through the public door: what an unconfigured gateway decides.

use std::sync::Arc;

use tidegate_policy::*;

fn host(store: &std::path::Path) -> PolicyHost {
    PolicyHost::start(PolicyConfig::new(store)).expect("starts")
}

fn key(id: &str, scope: &str, read: &[&str]) -> Principal {
    let read = read.iter().map(|glob| (*glob).to_owned()).collect();
    Principal::new(id, vec![scope.to_owned()], read, vec![], "192.0.2.1")
}

// shows: X-01, S-13
#[tokio::test]
async fn the_embedded_five_answer() {
    let dir = tempfile::tempdir().expect("tempdir");
    let host = host(dir.path());
    assert_eq!(host.generation(), GenerationId(1));
    let place = SessionFacts::new("session-1", "k1", "line-1", "sim");

    let own = host.access(&key("k1", "sessions:own", &[]), &place, Action::Read).await;
    assert!(own.value.is_allow() && own.cause.is_none(), "{own:?}");
    let rule = host.rule_name(own.generation, Policy::Access, own.value.rule());
    assert_eq!(rule.as_deref(), Some("owner"));
    let foreign = host.access(&key("k2", "sessions:own", &[]), &place, Action::Close).await;
    assert!(!foreign.value.is_allow() && foreign.cause.is_none(), "{foreign:?}");

    let tags: Vec<Arc<str>> = (0..1000).map(|n| format!("Area{}.Tag{n}", n % 2).into()).collect();
    let judged = host.judge_items(&key("k1", "sessions:own", &["area1.*"]), &place, &tags).await;
    assert_eq!(judged.cause, None);
    assert!(judged.value.iter().enumerate().all(|(n, verdict)| verdict.allow == (n % 2 == 1)));

    let pressure = Pressure {
        now: 0,
        who: key("k1", "sessions:own", &[]),
        session: place,
        reader: "r".into(),
        lag_events: 9_500,
        lag_events_max: 10_000,
        log_bytes: 0,
        log_bytes_max: 1 << 20,
        asked: 1,
        since_ms: 10,
        readers: 1,
    };
    let pressed = host.backpressure(pressure).await;
    assert!(matches!(pressed.value, PressureAnswer::Disconnect { .. }) && pressed.cause.is_none(), "{pressed:?}");

    let node = ClientNode { id: "n".into(), kind: "web".into(), version: "1.10".into() };
    assert_eq!(host.version_floor(&node, Some("1.9")).await.value, Admission::ReadWrite);
    assert!(matches!(host.version_floor(&node, Some("x")).await.value, Admission::Refused { .. }));
    let person = Person { name: "p".into(), roles: vec!["Viewer".into()], groups: vec!["ops".into()] };
    let sight = host.dashboard_tags(&person, &[("ops".into(), "line-1".into())]).await;
    assert_eq!(sight.value, Sight::Tags(vec!["line-1".into()]));
    let request = RateRequest { kind: "chat".into(), cost: 1, tokens: Some(0.0), now: 0 };
    assert_eq!(host.rate_limit(&Principal::gateway(), request).await.value, RateAnswer::Limit { retry_ms: 200 });

    let counters = host.counters();
    assert!(counters.policies.iter().all(|policy| policy.calls > 0), "{counters:?}");
}
