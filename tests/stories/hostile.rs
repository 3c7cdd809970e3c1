//! Hostile policies dropped into a gateway that is at work. Each guest of host/policy/tests/guests is put in
//! place while a session streams at a high rate and its commands are decided; what goes wrong stays with
//! the one session that the guest turns on.

#[path = "../../host/policy/tests/support/guests.rs"]
pub(crate) mod guests;

use crate::harness::{Gateway, Item, Launch, Session, eventually, open_as, place};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};
use tidegate_client::wire::SwapRecord;

/// Sound, so nothing happens to them.
const SOUND: [&str; 3] = ["deny", "slow_judge", "well"];

/// What goes on beside the guests.
struct Load {
    ended: Arc<AtomicBool>,
    decided: Arc<AtomicU64>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

// === impl Load ===

impl Load {
    /// Readers and a writer of one session, none of which may ever be disappointed.
    async fn start(session: &Arc<Session>, item: &Item) -> Self {
        let (ended, decided) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = Vec::new();
        for name in ["first", "second"] {
            let mut reader = session.reader(name).await;
            let ended = Arc::clone(&ended);
            tasks.push(tokio::spawn(async move {
                while !ended.load(Ordering::SeqCst) {
                    reader.batch().await;
                    reader.events.clear();
                }
            }));
        }
        let (session, item) = (Arc::clone(session), item.clone());
        let (over, count) = (Arc::clone(&ended), Arc::clone(&decided));
        tasks.push(tokio::spawn(async move {
            while !over.load(Ordering::SeqCst) {
                session.write(&item, 1.0).await.expect("a command of a session that no guest minds");
                count.fetch_add(1, Ordering::SeqCst);
            }
        }));
        Self { ended, decided, tasks }
    }

    /// Ends it; whatever went wrong in it comes out here.
    async fn end(self) -> u64 {
        self.ended.store(true, Ordering::SeqCst);
        for task in self.tasks {
            task.await.expect("the load went on");
        }
        self.decided.load(Ordering::SeqCst)
    }
}

/// Puts a guest in place and keeps asking about its victim until it is refused or taken back.
async fn outlive(gw: &Gateway, victim: &Session, item: &Item, name: &str) -> SwapRecord {
    let admin = gw.admin().await;
    let before = admin.policies().await.expect("a listing").swaps.first().map_or(0, |swap| swap.at_unix_ms);
    place(&gw.plugins(), "access.wasm", &guests::tagged(name));
    eventually(name, async || {
        // Whether it works is the guest's affair as long as it decides.
        let _denied = victim.write(item, 1.0).await;
        let newest = admin.policies().await.expect("a listing").swaps.into_iter().next()?;
        let over = newest.outcome == "refused" || newest.trigger == "breaker";
        (newest.at_unix_ms > before && over).then_some(newest)
    })
    .await
}

// shows
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_policies_under_load_hurt_only_whom_they_decide_about() {
    let gw = Launch::new().backend("sim", "rate=20000").start().await;
    // Somebody slow on a busy machine is moved on, which its account shows, and not ended.
    gw.swap("backpressure", "levels = [{ at = 0.8, answer = \"skip\" }]\n").await;
    place(&gw.plugins(), "access.wasm", &guests::tagged("well"));
    let admin = gw.admin().await;
    let access = async || {
        let listing = admin.policies().await.expect("a listing");
        listing.policies.into_iter().find(|row| row.policy == "access").expect("access is answered")
    };
    let good =
        eventually("the sound guest", async || Some(access().await).filter(|row| row.source == "access.wasm")).await;

    let session = Arc::new(gw.open("line-1").await);
    let item = session.advise(&["Area1.Pump1.Sine", "Area1.Pump2.Sine"]).await.remove(0);
    let client = gw.client().await;
    let victim = Session::new(client.clone(), open_as(&client, "boom", "").await.expect("a session")).await;
    let victims = victim.advise(&["Area1.Pump1.Sine"]).await.remove(0);
    let load = Load::start(&session, &item).await;

    let mut decided = 0;
    for name in guests::guests().iter().filter(|name| !SOUND.contains(&name.as_str())) {
        let over = outlive(&gw, &victim, &victims, name).await;
        assert!(
            over.outcome == "refused" && !over.code.is_empty() || over.outcome == "rolled-back",
            "{name}: {over:?}"
        );
        let now = access().await;
        assert_eq!(now.digest, good.digest, "{name} was not replaced by what served before it");
        victim.write(&victims, 2.0).await.unwrap_or_else(|error| panic!("after {name}: {error}"));
        decided = eventually("decisions to go on", async || {
            Some(load.decided.load(Ordering::SeqCst)).filter(|count| *count > decided)
        })
        .await;
    }
    let decided = load.end().await;
    let listing = admin.policies().await.expect("a listing");
    let others: u64 = listing.policies.iter().filter(|row| row.policy != "access").map(|row| row.failures).sum();
    assert_eq!(others, 0, "{:?}", listing.policies);
    assert!(decided > 100, "{decided} commands were decided beside the guests");
}

// shows
#[tokio::test]
async fn what_was_taken_back_is_bad_health_until_something_else_serves() {
    let gw = Gateway::start().await;
    let degraded = async || {
        let status = gw.run(&["status", "--json"]).await;
        String::from_utf8_lossy(&status.stdout).contains("failed too often")
    };
    let victim =
        Session::new(gw.client().await, open_as(&gw.client().await, "boom", "").await.expect("a session")).await;
    let item = victim.advise(&["Area1.Pump1.Sine"]).await.remove(0);
    let over = outlive(&gw, &victim, &item, "trap").await;
    assert_eq!(over.trigger, "breaker", "{over:?}");
    assert!(degraded().await);
    place(&gw.plugins(), "access.wasm", &guests::tagged("well"));
    eventually("another version to serve", async || (!degraded().await).then_some(())).await;
}
