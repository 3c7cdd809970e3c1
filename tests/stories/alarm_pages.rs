//! Alarms on the dashboard: who sees which, what changes on open pages, who acknowledges, and how much is shown when much
//! stands.

use crate::{
    alarms::{FLOW, LEVEL, alarms, limits, standing, writable},
    harness::{Browser, Launch, add, eventually, people, place},
};
use tidegate_client::wire::AlarmState;

// shows: H-01, H-02, H-03, S-18, X-01, X-03, X-12
#[tokio::test]
async fn alarms_stand_on_open_pages_are_acknowledged_there_and_go_with_the_tag() {
    let gw = limits().start().await;
    add(&gw, "ada", "Admin", &[]).await;
    add(&gw, "ben", "Viewer", &["crew"]).await;
    let people = people(&gw).await;
    people.set_grant("crew", "line-1", false).await.expect("granted");
    let (one, two) = (gw.open("line-1").await, gw.open("line-2").await);
    let level = writable(&one, &[LEVEL]).await.remove(0);
    let flow = writable(&two, &[FLOW]).await.remove(0);
    one.write(&level, 85.0).await.expect("written");
    two.write(&flow, 6.0).await.expect("written");
    let api = alarms(&gw, gw.first_key()).await;
    let first = async |session: &str| eventually("an alarm", async || standing(&api, session).await.pop()).await;
    let (high, flows) = (first(&one.id).await, first(&two.id).await);

    // Each sees the alarms of the sessions that they see; others are as if they were not.
    let (ada, ben) = (Browser::signed_in(&gw, "ada").await, Browser::signed_in(&gw, "ben").await);
    let (hers, his) = (ada.form_token("/").await, ben.form_token("/").await);
    let all = ada.get("/alarms").await.body;
    assert!(all.contains(LEVEL) && all.contains(FLOW) && all.contains("medium"), "{all}");
    let some = ben.get("/alarms").await.body;
    assert!(some.contains(LEVEL) && !some.contains(FLOW) && !some.contains(&two.id), "{some}");
    let nowhere = format!("session-{}", "0".repeat(32));
    for page in
        [format!("/alarms/{}", two.id), format!("/alarms/{}/{}", two.id, flows.alarm_id), format!("/alarms/{nowhere}")]
    {
        assert_eq!(ben.get(&page).await.status, 403, "{page}");
    }
    assert!(ada.get(&format!("/sessions/{}", one.id)).await.body.contains("1 stand, 1 to acknowledge"));
    let mine = format!("/alarms/{}/{}", one.id, high.alarm_id);
    assert!(!ben.get(&mine).await.body.contains("/acknowledge\""), "nothing to send for who only looks");
    assert!(ada.get(&mine).await.body.contains("/acknowledge\""));
    assert_eq!(ada.get(&format!("/alarms/{}/4711", one.id)).await.status, 404);

    // What changes is told on the open page.
    let mut page = ben.live_of("alarms", "").await;
    page.until(LEVEL).await;
    one.write(&level, 97.0).await.expect("written");
    page.until("high-high").await;

    // Who may not, without the form of that sign-in, too much of a comment, nothing chosen: nothing is acknowledged.
    let acknowledge = format!("/alarms/{}/acknowledge", one.id);
    // As the page shows it.
    let field = format!("alarm-{}", high.alarm_id);
    let chosen = format!("{field}={}", ada.field(&mine, &field).await);
    for (who, form, status) in [
        (&ben, format!("form_token={his}&{chosen}"), 403),
        (&ada, format!("form_token={his}&{chosen}"), 403),
        (&ada, chosen.clone(), 403),
        (&ada, format!("form_token={hers}"), 400),
        (&ada, format!("form_token={hers}&{chosen}&comment={}", "x".repeat(257)), 400),
    ] {
        assert_eq!(who.post(&acknowledge, &form).await.status, status, "{form}");
    }
    let form = format!("form_token={hers}&{chosen}");
    assert_eq!(ada.send("POST", &acknowledge, "Origin: http://evil.example\r\n", &form).await.status, 403);
    assert_eq!(standing(&api, &one.id).await[0].state(), AlarmState::Active);
    assert_eq!(ben.get(&acknowledge).await.status, 403);
    assert!(ada.get(&acknowledge).await.body.contains(&format!("name=\"alarm-{}\"", high.alarm_id)));

    let done = ada.post(&acknowledge, &format!("form_token={hers}&{chosen}&comment=pump+is+off")).await;
    let back = format!("/alarms/{}", one.id);
    assert_eq!((done.status, done.header("location")), (303, Some(back.as_str())), "{}", done.body);
    page.until("pump is off").await;
    let now = standing(&api, &one.id).await.remove(0);
    assert_eq!((now.state(), now.acknowledged_by.as_str()), (AlarmState::Acknowledged, "dashboard:ada"));
    let partly = ada.post(&acknowledge, &format!("form_token={hers}&{chosen}&alarm-4711=yes")).await;
    assert!(
        partly.status == 409 && partly.body.contains("1 of 2 were not acknowledged. 4711: it does not stand"),
        "{}",
        partly.body
    );

    // The access policy has its say, as about a key.
    gw.swap("access", "deny = [\"Line2.*\"]\n").await;
    let flow_of = format!("/alarms/{}/acknowledge", two.id);
    let field = format!("alarm-{}", flows.alarm_id);
    let seen = ada.field(&flow_of, &field).await;
    let denied = ada.post(&flow_of, &format!("form_token={hers}&{field}={seen}")).await;
    assert!(denied.status == 403 && denied.body.contains("policy.denied"), "{}", denied.body);
    let counted = ada.get(&format!("/alarms/{}", two.id)).await.body;
    assert!(counted.contains(FLOW) && counted.contains("active"), "the page shows the whole session still");

    // A shadow of other settings is of the component that decides, which is one of the folder now.
    let gentler = "policy=access&settings=deny+%3D+%5B%22Line9.*%22%5D";
    assert_eq!(ada.post("/shadow/start", &format!("form_token={hers}&{gentler}")).await.status, 303);
    assert!(ada.get("/shadow").await.body.contains("access.wasm"));

    // The grant goes, and with it the alarm from the open page; then a rule of the policy, on the same page.
    people.set_grant("crew", "line-1", true).await.expect("taken");
    page.until("No alarm stands that you may see").await;
    place(&gw.plugins(), "dashboard-tags.toml", b"common = [\"line-2\"]\n");
    let between = page.until(FLOW).await;
    assert!(!between.contains(LEVEL), "{between}");
    assert_eq!(ben.get(&mine).await.status, 403);

    let audit = ada.get("/audit").await.body;
    let target = format!("{} {}", one.id, high.alarm_id);
    for part in
        ["alarm.acknowledge", &target, "signin.role", "signin.forged", "policy.denied", "alarm.not_acknowledged"]
    {
        assert!(audit.contains(part), "{part} is missing: {audit}");
    }
}

// shows: H-01, S-18
#[tokio::test]
async fn of_many_alarms_the_most_urgent_are_shown_and_the_rest_is_counted() {
    let tags: Vec<String> = (0..210).map(|n| format!("Tank{n}.Counter:::1")).collect();
    let settings = format!("rate=20,faults=true,alarm_every_ms=20,alarm_reopen_ms=600000,alarms={}", tags.join(";"));
    let gw = Launch::new().backend("many", &settings).start().await;
    add(&gw, "ada", "Admin", &[]).await;
    let ada = Browser::signed_in(&gw, "ada").await;
    let empty = ada.get("/alarms").await.body;
    assert!(empty.contains("No session that you may see has a worker that tells of alarms"), "{empty}");
    let s = gw.open("tanks").await;
    let page = eventually("all alarms", async || {
        let page = ada.get("/alarms").await.body;
        page.contains("10 more stand and are not shown here").then_some(page)
    })
    .await;
    assert_eq!(page.matches("<tr id=\"alarm-").count(), 200);
    let several = format!("/alarms/{}/acknowledge", s.id);
    let form = ada.get(&several).await.body;
    assert!(form.matches("type=\"checkbox\"").count() == 200 && form.contains("10 more follow"), "{form}");

    // What is acknowledged gives its place to what is not.
    let token = ada.form_token("/").await;
    let seen = |id: usize| {
        let (_, value) = form.split_once(&format!("name=\"alarm-{id}\" value=\"")).expect("a row of the form");
        format!("alarm-{id}={}", value.split('"').next().expect("a value"))
    };
    let chosen: Vec<String> = (1..=200).map(seen).collect();
    let done = ada.post(&several, &format!("form_token={token}&{}", chosen.join("&"))).await;
    assert_eq!(done.status, 303, "{}", done.body);
    let page = eventually("the others to be first", async || {
        let page = ada.get(&format!("/alarms/{}", s.id)).await.body;
        page.contains("<span class=\"bad\">10</span>").then_some(page)
    })
    .await;
    let first = page.split("<tr id=\"alarm-").nth(1).expect("a row");
    assert!(first.contains("active"), "{first}");

    s.fault("alarm-provider").await.expect("a fault");
    eventually("the provider to be lost", async || {
        let page = ada.get("/alarms").await.body;
        page.contains("lost: this is how it was").then_some(())
    })
    .await;
    let seen = ada.field(&several, "alarm-205").await;
    let refused = ada.post(&several, &format!("form_token={token}&alarm-205={seen}")).await;
    assert!(refused.status == 409 && refused.body.contains("alarm.not_acknowledged"), "{}", refused.body);
}
