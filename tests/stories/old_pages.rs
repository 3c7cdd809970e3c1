//! Pages and sign-ins that are older than what is: who acts on what they saw hears that it is another thing now, and nothing is
//! done; what a sign-in gave ends with it.

use crate::{
    alarms::{LEVEL, alarms, limits, standing, writable},
    harness::{Browser, Gateway, Launch, add, eventually, people},
};
use std::fs;
use tidegate_client::wire::AlarmState;

// An alarm that got worse was acknowledged by who had seen the milder one.
// shows: H-02, S-18
#[tokio::test]
async fn an_alarm_that_got_worse_is_not_acknowledged_by_who_saw_the_milder_one() {
    let gw = limits().start().await;
    add(&gw, "ada", "Admin", &[]).await;
    let session = gw.open("line-1").await;
    let level = writable(&session, &[LEVEL]).await.remove(0);
    let api = alarms(&gw, gw.first_key()).await;
    session.write(&level, 85.0).await.expect("written");
    let high = eventually("an alarm", async || standing(&api, &session.id).await.pop()).await;
    let ada = Browser::signed_in(&gw, "ada").await;
    let page = format!("/alarms/{}/{}", session.id, high.alarm_id);
    let several = format!("/alarms/{}/acknowledge", session.id);
    let (token, field) = (ada.form_token("/").await, format!("alarm-{}", high.alarm_id));
    let acknowledge = async |seen: &str| ada.post(&several, &format!("form_token={token}&{field}={seen}")).await;
    let seen = ada.field(&page, &field).await;
    assert_eq!(ada.field(&several, &field).await, seen, "both forms carry what they show");

    session.write(&level, 97.0).await.expect("written");
    eventually("it to get worse", async || {
        standing(&api, &session.id).await.iter().find(|alarm| alarm.condition == "high-high").map(drop)
    })
    .await;
    let refused = acknowledge(&seen).await;
    assert_eq!(refused.status, 409);
    for part in ["alarm.changed", LEVEL, "high-high", "Nothing was acknowledged", &format!("href=\"{page}\"")] {
        assert!(refused.body.contains(part), "{part} is missing: {}", refused.body);
    }
    assert_eq!(acknowledge("").await.status, 409, "who says nothing has seen nothing");
    assert_eq!(standing(&api, &session.id).await[0].state(), AlarmState::Active);
    let seen = ada.field(&page, &field).await;
    assert_eq!(acknowledge(&seen).await.status, 303);
    assert_eq!(standing(&api, &session.id).await[0].state(), AlarmState::Acknowledged);
    assert!(ada.get("/audit").await.body.contains("alarm.changed"));
}

// Two administrators, or a double click, went back two sets; a shadow was promoted that nobody had looked at.
// shows: H-02, X-12
#[tokio::test]
async fn policies_and_shadows_are_changed_only_by_who_sees_what_serves() {
    let gw = Gateway::start().await;
    add(&gw, "ada", "Admin", &[]).await;
    add(&gw, "eve", "Admin", &[]).await;
    let (ada, eve) = (Browser::signed_in(&gw, "ada").await, Browser::signed_in(&gw, "eve").await);
    let (hers, other) = (ada.form_token("/").await, eve.form_token("/").await);
    for area in 1..=3 {
        gw.swap("access", &format!("deny = [\"Area{area}.*\"]\n")).await;
    }
    let generation = async || gw.admin().await.policies().await.expect("a listing").generation;
    let before = generation().await;
    let seen = ada.field("/policies", "generation").await;
    let form = |token: &str| format!("form_token={token}&generation={seen}&reason=Area3+is+wrong");
    let (first, second) = (form(&hers), form(&other));
    let (one, two) = tokio::join!(ada.post("/policies/rollback", &first), eve.post("/policies/rollback", &second));
    let mut answers = [one.status, two.status];
    answers.sort_unstable();
    assert_eq!(answers, [303, 409], "{} {}", one.body, two.body);
    let late = if one.status == 409 { one } else { two };
    assert!(late.body.contains("policy.changed") && late.body.contains("look at them first"), "{}", late.body);
    assert_eq!(generation().await, before + 1, "one set back, not two");
    for change in ["pin", "unpin", "reload", "approve"] {
        let stale = ada.post(&format!("/policies/{change}"), &first).await;
        assert!(stale.status == 409 && stale.body.contains("policy.changed"), "{change}: {}", stale.body);
    }
    assert_eq!(
        ada.post("/policies/reload", &format!("form_token={hers}")).await.status,
        409,
        "who says nothing saw nothing"
    );

    let begin = async |who: &Browser, token: &str, settings: &str| {
        let begun = who.post("/shadow/start", &format!("form_token={token}&policy=access&settings={settings}")).await;
        assert_eq!(begun.status, 303, "{}", begun.body);
    };
    begin(&ada, &hers, "writable+%3D+%5B%22Area1.*%22%5D").await;
    let seen = ada.field("/shadow", "identity").await;
    begin(&eve, &other, "deny+%3D+%5B%22*%22%5D").await;
    let before = generation().await;
    let form = format!("form_token={hers}&identity={seen}&most_percent=100&least_answers=0");
    for change in ["promote", "stop"] {
        let stale = ada.post(&format!("/shadow/{change}"), &form).await;
        assert!(stale.status == 409 && stale.body.contains("policy.changed"), "{change}: {}", stale.body);
    }
    // From the command line, too, where a shadow is named.
    let line = ["policy", "shadow", "promote", "--max-rate", "100%", "--min-answers", "0", "--identity", &seen];
    let named = gw.run(&line).await;
    assert!(String::from_utf8_lossy(&named.stderr).contains("policy.changed"), "{named:?}");
    assert_eq!(generation().await, before);
    let now = ada.field("/shadow", "identity").await;
    assert_ne!(now, seen, "the other one goes on being asked");
    assert_eq!(ada.post("/shadow/stop", &format!("form_token={hers}&identity={now}")).await.status, 303);
}

// Pages stayed open behind a sign-out and behind a new password, and their tokens stayed good.
// shows: H-02, H-04
#[tokio::test]
async fn what_a_sign_in_gave_ends_with_it() {
    let gw = Gateway::start().await;
    add(&gw, "bob", "Viewer", &["crew"]).await;
    let token = async |browser: &Browser| {
        let told: serde_json::Value = serde_json::from_str(&browser.get("/live/token").await.body).expect("JSON");
        told["token"].as_str().expect("a token").to_owned()
    };
    let stranger = Browser::of(&gw);
    let refused = async |token: &str| stranger.get(&format!("/live?token={token}")).await.status;

    // Signing out: this browser's page, and no other's.
    let (here, there) = (Browser::signed_in(&gw, "bob").await, Browser::signed_in(&gw, "bob").await);
    let (mut mine, mut theirs) = (here.live("").await, there.live("").await);
    mine.until("event: tick").await;
    let old = token(&here).await;
    let form = here.form_token("/").await;
    assert_eq!(here.post("/sign-out", &format!("form_token={form}")).await.status, 303);
    mine.until("event: over").await;
    mine.ends().await;
    assert_eq!(refused(&old).await, 401);
    theirs.until("event: tick").await;

    // Signing in anew in the same browser: nobody has the old cookie any more, so it is worth nothing.
    let mut again = Browser::signed_in(&gw, "bob").await;
    let old = again.cookie().to_owned();
    again.sign_in("bob").await;
    assert_ne!(again.cookie(), old);
    assert_eq!(stranger.send("GET", "/live/token", &format!("Cookie: {old}\r\n"), "").await.status, 303);
    assert_eq!(again.get("/live/token").await.status, 200);

    // Another password, and another person of the same name.
    let old = token(&there).await;
    add(&gw, "bob", "Viewer", &["crew"]).await;
    theirs.until("event: over").await;
    assert_eq!(refused(&old).await, 401);
    let there = Browser::signed_in(&gw, "bob").await;
    let old = token(&there).await;
    let mut page = there.live("").await;
    page.until("event: tick").await;
    people(&gw).await.remove("bob").await.expect("removed");
    page.until("event: over").await;
    add(&gw, "bob", "Viewer", &[]).await;
    let _other = Browser::signed_in(&gw, "bob").await;
    assert_eq!(refused(&old).await, 401);
}

// Two gateways on one host signed each other's people out; a mistyped password lost the page to come back to.
// shows: H-02
#[tokio::test]
async fn a_browser_has_two_gateways_of_one_host_and_comes_back_to_its_page() {
    let (one, two) = (Gateway::start().await, Gateway::start().await);
    add(&one, "ada", "Admin", &[]).await;
    add(&two, "ada", "Admin", &[]).await;
    let (ada, elsewhere) = (Browser::signed_in(&one, "ada").await, Browser::signed_in(&two, "ada").await);
    let name = |browser: &Browser| browser.cookie().split_once('=').expect("a name").0.to_owned();
    assert_ne!(name(&ada), name(&elsewhere));
    let mistyped = Browser::of(&one).post("/sign-in", "name=ada&password=wrong&next=/audit").await;
    assert!(mistyped.status == 401 && mistyped.body.contains("name=\"next\" value=\"/audit\""), "{}", mistyped.body);

    // With scripts off a page is loaded again every five seconds, but none with something to type.
    let session = one.open("line-1").await;
    let page = ada.get(&format!("/sessions/{}", session.id)).await.body;
    assert!(page.contains("http-equiv=\"refresh\"") && !page.contains("name=\"reason\""), "{page}");
    let end = ada.get(&format!("/sessions/{}/end", session.id)).await.body;
    assert!(end.contains("name=\"reason\"") && !end.contains("refresh"), "{end}");
}

// Strangers and viewers read the words of parts that fail, with names of sessions and lines of files.
// shows: D-03, H-03
#[tokio::test]
async fn what_a_part_says_of_itself_is_for_administrators() {
    let launch = Launch::new();
    let csv = launch.folder().path().join("history.csv");
    fs::write(&csv, "secret-column\n1\n").expect("written");
    let launch = launch.backend("sim", "rate=10").backend("history", &format!("csv={}", csv.display()));
    let gw = launch.flag("--internal-session", "secret-line=history").start().await;
    add(&gw, "ada", "Admin", &[]).await;
    add(&gw, "ben", "Viewer", &[]).await;
    let (ada, ben, stranger) =
        (Browser::signed_in(&gw, "ada").await, Browser::signed_in(&gw, "ben").await, Browser::of(&gw));
    eventually("health to name the part", async || {
        stranger.get("/api/health").await.body.contains("internal-sessions").then_some(())
    })
    .await;
    let build = env!("CARGO_PKG_VERSION");
    for page in ["/api/health".to_owned(), "/".to_owned(), format!("/api/session/bootstrap?build={build}")] {
        let (hers, his) = (ada.get(&page).await.body, ben.get(&page).await.body);
        assert!(hers.contains("secret-line"), "{page}: {hers}");
        assert!(his.contains("internal-sessions") && !his.contains("secret"), "{page}: {his}");
    }
    assert!(!stranger.get("/api/health").await.body.contains("secret"));
    let (mut hers, mut his) = (ada.live("").await, ben.live("").await);
    assert!(hers.until("event: tick").await.contains("secret-line"));
    let shown = his.until("event: tick").await;
    assert!(shown.contains("internal-sessions") && !shown.contains("secret"), "{shown}");
}
