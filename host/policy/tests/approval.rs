//! Stories of what passes the gate only with an operator's word.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use support::*;
use tidegate_policy::*;

// shows
#[tokio::test]
async fn what_would_change_too_much_is_refused_until_it_is_approved() {
    let mut bench = Bench::new();
    bench.config.difference_max = Some(0.1);
    let host = bench.start();
    let who = key("k", "sessions:all");
    for n in 0..20 {
        host.access(&who, &place("boom"), Action::Command { method: "write".into(), tag: format!("A.T{n}") }).await;
    }
    host.decisions(&Window { last: Last::Count(1), ..Window::default() }).expect("they are known by now");
    bench.put("access.toml", b"deny = [\"A.T7\"]");
    until_generation(&host, 2).await;
    let told = host.list().swaps.pop().and_then(|swap| swap.difference).expect("compared");
    assert_eq!((told.asked, told.changed), (20, 1), "what is allowed to differ is told: {told:?}");
    bench.put("access.toml", b"deny = [\"A.*\"]");
    let refused = until_refused(&host, 1).await;
    assert_eq!(refused.code, Some(RefusalCode::Differs), "{refused:?}");
    assert_eq!(refused.difference.map(|of| of.changed), Some(20));
    let held = host.list().held;
    assert_eq!((held.len(), held[0].file.as_str()), (1, "access.toml"));
    assert_eq!(host.approve("00000000", "no").await.err(), Some(UnknownDigest));
    let done = host.approve(&held[0].identity.to_hex()[..12], "it is meant so").await.expect("approved");
    assert_eq!((done.outcome, done.trigger, done.to), (Outcome::Swapped, Trigger::Approval, GenerationId(3)));
    let listing = host.list();
    assert_eq!((listing.held.len(), listing.approved[0].reason.as_str()), (0, "it is meant so"));
    assert!(
        !host
            .access(&who, &place("boom"), Action::Command { method: "write".into(), tag: "A.T1".into() })
            .await
            .value
            .is_allow()
    );
    // The word outlives the process.
    drop(host);
    assert_eq!(bench.start().list().approved, listing.approved);
}
