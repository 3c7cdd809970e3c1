//! The dashboard as a browser meets it, without one: signing in, what each person sees, live parts, rights that are
//! taken away on open pages, changes and their audit.

use crate::harness::{Browser, Gateway, Launch, add, eventually, people, place, refused};
use std::{fs, path::Path};

// shows: H-01, H-02
#[tokio::test]
async fn pages_want_a_sign_in_and_say_what_they_are() {
    let gw = Gateway::start().await;
    add(&gw, "ada", "Admin", &[]).await;
    let stranger = Browser::of(&gw);
    for page in ["/", "/live/token"] {
        let answer = stranger.get(page).await;
        assert_eq!((answer.status, answer.header("location")), (303, Some("/sign-in")), "{page}");
    }
    let pages = [
        "/policies",
        "/nodes",
        "/alarms",
        "/keys",
        "/audit",
        "/shadow",
        "/decisions",
        "/configuration",
        "/sessions/session-0",
    ];
    for page in pages {
        let answer = stranger.get(page).await;
        let location = format!("/sign-in?next={page}");
        assert_eq!((answer.status, answer.header("location")), (303, Some(location.as_str())), "{page}");
        assert!(stranger.get(&location).await.body.contains(&format!("name=\"next\" value=\"{page}\"")), "{page}");
    }
    for (next, leads) in
        [("/audit", "/audit"), ("//evil.example", "/"), ("/%0d%0aX", "/"), ("https://evil.example", "/")]
    {
        let answer = stranger.post("/sign-in", &format!("name=ada&password=correct+horse&next={next}")).await;
        assert_eq!((answer.status, answer.header("location")), (303, Some(leads)), "{next}");
    }
    assert_eq!(stranger.get("/live?token=nonsense").await.status, 401);
    let wrong = stranger.post("/sign-in", "name=ada&password=wrong").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    assert!(wrong.body.contains("name or password is wrong"), "{}", wrong.body);
    let forged =
        stranger.send("POST", "/sign-in", "Origin: http://evil.example\r\n", "name=ada&password=correct+horse");
    assert_eq!(forged.await.status, 403);

    let session = gw.open("<b>press</b>").await;
    session.advise(&["Area1.Pump1.Sine"]).await;
    let ada = Browser::signed_in(&gw, "ada").await;
    let overview = ada.get("/").await;
    assert!(overview.body.contains("&lt;b&gt;press") && !overview.body.contains("<b>press"), "{}", overview.body);
    let policy = overview.header("content-security-policy").expect("a policy");
    // Anything stricter makes browsers send forms from the origin `null`.
    assert_eq!(overview.header("referrer-policy"), Some("same-origin"));
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    for page in [
        "/policies",
        "/nodes",
        "/keys",
        "/audit",
        "/shadow",
        "/decisions",
        "/configuration",
        &format!("/sessions/{}", session.id),
    ] {
        assert_eq!(ada.get(page).await.status, 200, "{page}");
    }
    for (asset, kind) in [("style.css", "text/css"), ("live.js", "text/javascript")] {
        let answer = ada.get(&format!("/assets/{asset}")).await;
        assert!(answer.status == 200 && answer.header("content-type").is_some_and(|found| found.starts_with(kind)));
    }
    let mut live = ada.live(&session.id).await;
    live.until("Area1.Pump1.Sine").await;
    live.until("event: tick").await;

    let token = ada.form_token("/").await;
    assert_eq!(ada.post("/sign-out", "form_token=wrong").await.status, 403);
    assert_eq!(ada.post("/sign-out", &format!("form_token={token}")).await.header("location"), Some("/sign-in"));
    assert_eq!(ada.get("/").await.status, 303);
}

// shows: H-03, S-09, X-01, X-03
#[tokio::test]
async fn a_viewer_sees_what_is_granted_and_loses_it_on_the_open_page() {
    let gw = Gateway::start().await;
    add(&gw, "ben", "Viewer", &["crew"]).await;
    let people = people(&gw).await;
    people.set_grant("crew", "line-1", false).await.expect("granted");
    let (one, two) = (gw.open("line-1").await, gw.open("line-2").await);
    one.advise(&["Area1.Pump1.Sine"]).await;
    let ben = Browser::signed_in(&gw, "ben").await;
    let overview = ben.get("/").await.body;
    assert!(overview.contains(&one.id) && !overview.contains(&two.id), "{overview}");
    assert_eq!(ben.get(&format!("/sessions/{}", two.id)).await.status, 403);
    let unknown = ben.get(&format!("/sessions/session-{}", "0".repeat(32))).await;
    assert_eq!(unknown.status, 403, "a foreign and an unknown session answer alike");

    // A grant is taken away: the row goes from the open page, the session's page is emptied.
    let (mut rows, mut page) = (ben.live("").await, ben.live(&one.id).await);
    rows.until(&one.id).await;
    page.until("Area1.Pump1.Sine").await;
    people.set_grant("crew", "line-1", true).await.expect("taken");
    rows.until("event: gone").await;
    page.until("you may not see it").await;
    let after = page.until("event: tick").await;
    assert!(!after.contains("Area1.Pump1"), "{after}");

    // A policy that shows everybody line-2, on the same open page; then its removal.
    let before = gw.admin().await.policies().await.expect("a listing").generation;
    place(&gw.plugins(), "dashboard-tags.toml", b"common = [\"line-2\"]\n");
    rows.until(&two.id).await;
    fs::remove_file(Path::new(&gw.plugins()).join("dashboard-tags.toml")).expect("removed");
    rows.until("event: gone").await;
    assert!(gw.admin().await.policies().await.expect("a listing").generation >= before + 2);

    people.remove("ben").await.expect("removed");
    rows.until("event: over").await;
    rows.ends().await;
    assert_eq!(ben.get("/").await.status, 303);
}

// shows: H-02
#[tokio::test]
async fn administrators_change_things_and_the_audit_knows() {
    let gw = Gateway::start().await;
    add(&gw, "ada", "Admin", &[]).await;
    add(&gw, "ben", "Viewer", &[]).await;
    let session = gw.open("line-1").await;
    let (ada, ben) = (Browser::signed_in(&gw, "ada").await, Browser::signed_in(&gw, "ben").await);
    let (hers, his) = (ada.form_token("/").await, ben.form_token("/").await);
    let end = format!("/sessions/{}/end", session.id);
    for (who, form) in [
        (&ben, format!("form_token={his}&reason=because")),
        (&ada, "form_token=&reason=because".to_owned()),
        (&ada, format!("form_token={his}&reason=because")),
        (&ada, "reason=because".to_owned()),
    ] {
        assert_eq!(who.post(&end, &form).await.status, 403, "{form}");
    }
    let blank = ada.post(&end, &format!("form_token={hers}&reason=+")).await;
    assert_eq!(blank.status, 400);
    for page in ["/keys", "/audit", "/shadow", "/decisions", "/decisions/0123456789abcdef", "/configuration"] {
        assert_eq!(ben.get(page).await.status, 403);
    }

    gw.swap("access", "deny = [\"Area2.*\"]\n").await;
    let generation = async || gw.admin().await.policies().await.expect("a listing").generation;
    let before = generation().await;
    let rollback = format!("form_token={hers}&generation={before}&reason=too+strict");
    let rolled = ada.post("/policies/rollback", &rollback).await;
    assert_eq!(rolled.header("location"), Some("/policies"), "{}", rolled.body);
    assert!(generation().await > before);
    assert!(ada.get("/policies").await.body.contains("pinned"));

    let done = ada.post(&end, &format!("form_token={hers}&reason=maintenance")).await;
    assert_eq!((done.status, done.header("location")), (303, Some("/")));
    eventually("the end", async || gw.admin().await.sessions().await.expect("a list").is_empty().then_some(())).await;

    let audit = ada.get("/audit").await.body;
    for row in ["policy.rollback", "session.end", "signin.forged", "signin.role", "request.invalid"] {
        assert!(audit.contains(row), "{row} is missing: {audit}");
    }
    let listed = String::from_utf8(gw.run(&["user", "list", "--json"]).await.stdout).expect("text");
    assert!(listed.contains("\"ada\"") && !listed.contains("horse") && !listed.contains("argon2"), "{listed}");
    assert!(!gw.log().contains("horse"));
}

// shows: H-06, X-10, X-11
#[tokio::test]
async fn what_the_gate_holds_waits_for_an_administrator_and_what_it_then_decides_is_explained() {
    let launch = Launch::new().flag("--policy-diff-max", "10%").backend("sim", "rate=200");
    let gw = launch.backend("plc", "rate=1,password=hunter2").start().await;
    add(&gw, "ada", "Admin", &[]).await;
    add(&gw, "ben", "Viewer", &[]).await;
    let (ada, ben) = (Browser::signed_in(&gw, "ada").await, Browser::signed_in(&gw, "ben").await);
    let (hers, his) = (ada.form_token("/").await, ben.form_token("/").await);
    let shown = ada.get("/configuration").await.body;
    for part in ["policy_diff_max", "10%", "--policy-diff-max", "at the next start", "ldap_url", "plc"] {
        assert!(shown.contains(part), "{part} is missing: {shown}");
    }
    assert!(!shown.contains("hunter2") && !shown.contains(gw.first_key()), "{shown}");

    let session = gw.open("line-1").await;
    let items = session.advise(&["Area1.Setpoint.Speed"]).await;
    for n in 0..30 {
        session.write(&items[0], f64::from(n)).await.expect("allowed");
    }
    // What was decided is known to the gate once it is in the log.
    gw.run(&["policy", "decisions", "--last", "1"]).await;
    place(&gw.plugins(), "access.toml", b"deny = [\"Area1.*\"]\n");
    let identity = eventually("the rule to be held", async || {
        let page = ada.get("/policies").await.body;
        let (_, rest) = page.split_once("name=\"identity\" value=\"")?;
        Some(rest.split('"').next().expect("a value").to_owned())
    })
    .await;
    let held = ben.get("/policies").await.body;
    assert!(held.contains("Held back by the gate") && !held.contains("/policies/approve"), "{held}");
    let before = gw.admin().await.policies().await.expect("a listing").generation;
    let approve = async |who: &Browser, token: &str, identity: &str, reason: &str| {
        let form = format!("form_token={token}&generation={before}&identity={identity}&reason={reason}");
        who.post("/policies/approve", &form).await.status
    };
    assert_eq!(approve(&ben, &his, &identity, "because").await, 403);
    assert_eq!(approve(&ada, &his, &identity, "because").await, 403);
    assert_eq!(approve(&ada, &hers, &identity, "+").await, 400);
    assert_eq!(approve(&ada, &hers, "<script>", "because").await, 400);
    assert_eq!(gw.admin().await.policies().await.expect("a listing").generation, before);
    // Tried on live questions first, while it is held back.
    let tried = ada.post("/shadow/start", &format!("form_token={hers}&identity={identity}")).await;
    assert_eq!((tried.status, tried.header("location")), (303, Some("/shadow")), "{}", tried.body);
    session.write(&items[0], 2.0).await.expect("still allowed");
    let shadow = ada.get("/shadow").await.body;
    for part in ["access.toml", &identity, "The gate holds it back", "1 of 1 answers would be others"] {
        assert!(shadow.contains(part), "{part} is missing: {shadow}");
    }
    assert_eq!(approve(&ada, &hers, &identity, "looked+at").await, 303);
    assert!(gw.admin().await.policies().await.expect("a listing").generation > before);
    let page = ada.get("/policies").await.body;
    assert!(page.contains("Approved before") && page.contains("looked at") && page.contains("answers would be others"));

    let denied = refused(session.write(&items[0], 1.0).await);
    let id = denied.details["decision"].as_str();
    let listed = ada.get("/decisions?policy=access&denied=yes&tag=Area1.Setpoint.Speed&last=5").await.body;
    assert!(listed.contains(&format!("/decisions/{id}?tag=Area1.Setpoint.Speed")), "{listed}");
    let explained = ada.get(&format!("/decisions/{id}")).await.body;
    for part in ["wanted write on Area1.Setpoint.Speed", "denied, by the rule", &session.id] {
        assert!(explained.contains(part), "{part} is missing: {explained}");
    }
    for (page, status) in [
        ("/decisions?policy=nonsense", 400),
        ("/decisions?last=many", 400),
        ("/decisions/0123456789abcdef", 404),
        ("/decisions/nonsense", 404),
    ] {
        assert_eq!(ada.get(page).await.status, status, "{page}");
    }
    let audit = ada.get("/audit").await.body;
    for part in ["policy.approve", &identity, "signin.role", "signin.forged", "request.invalid", "done", "identity ?"] {
        assert!(audit.contains(part), "{part} is missing: {audit}");
    }
}

// shows: X-12
#[tokio::test]
async fn a_shadow_is_promoted_and_stopped_on_the_dashboard() {
    let gw = Gateway::start().await;
    add(&gw, "ada", "Admin", &[]).await;
    let ada = Browser::signed_in(&gw, "ada").await;
    let token = ada.form_token("/").await;
    assert!(ada.get("/shadow").await.body.contains("There is no shadow"));
    assert_eq!(ada.post("/shadow/stop", &format!("form_token={token}")).await.status, 409);
    let file = gw.data().with_file_name("dashboard-tags.toml");
    fs::write(&file, "common = [\"line-9\"]\n").expect("written");
    let start = async || {
        let started = gw.run(&["policy", "shadow", "start", &file.display().to_string()]).await;
        assert!(started.status.success(), "{started:?}");
        // Each page asks who sees what.
        for _ in 0..3 {
            ada.get("/").await;
        }
    };
    start().await;
    let page = ada.get("/shadow").await.body;
    assert!(page.contains("dashboard-tags.toml") && page.contains("0 of "), "{page}");
    let identity = ada.field("/shadow", "identity").await;
    let promote = async |token: &str, most: &str, least: &str| {
        let form = format!("form_token={token}&identity={identity}&most_percent={most}&least_answers={least}");
        ada.post("/shadow/promote", &form).await
    };
    for (form_token, most, least, status) in
        [("", "100", "1", 403), (&token, "100", "1000000", 409), (&token, "101", "1", 400), (&token, "few", "1", 400)]
    {
        assert_eq!(promote(form_token, most, least).await.status, status, "{most} {least}");
    }
    let before = gw.admin().await.policies().await.expect("a listing").generation;
    let done = promote(&token, "100", "1").await;
    assert_eq!(done.header("location"), Some("/policies"), "{}", done.body);
    assert!(gw.admin().await.policies().await.expect("a listing").generation > before);
    assert!(gw.plugins().join("dashboard-tags.toml").exists(), "it stands in the folder");

    // One of settings, from the page itself: what decides now with other settings. Nothing else begins one.
    add(&gw, "ben", "Viewer", &[]).await;
    let ben = Browser::signed_in(&gw, "ben").await;
    let his = ben.form_token("/").await;
    let begin = async |who: &Browser, form: String| who.post("/shadow/start", &form).await;
    let settings = "policy=dashboard-tags&settings=common+%3D+%5B%22line-7%22%5D%0D%0A";
    for (who, form, status) in [
        (&ben, format!("form_token={his}&{settings}"), 403),
        (&ada, format!("form_token={his}&{settings}"), 403),
        (&ada, format!("form_token={token}&policy=nonsense&settings=x"), 400),
        (&ada, format!("form_token={token}&policy=access&settings=+"), 400),
        (&ada, format!("form_token={token}&policy=access&settings={}", "x".repeat(17_000)), 400),
        (&ada, format!("form_token={token}&policy=access&settings=denny+%3D+%5B%5D"), 409),
        (&ada, format!("form_token={token}&identity={}", "0".repeat(64)), 400),
    ] {
        assert_eq!(begin(who, form.clone()).await.status, status, "{form}");
    }
    assert!(ada.get("/shadow").await.body.contains("There is no shadow"));
    let begun = begin(&ada, format!("form_token={token}&{settings}")).await;
    assert_eq!((begun.status, begun.header("location")), (303, Some("/shadow")), "{}", begun.body);
    ada.get("/").await;
    let page = ada.get("/shadow").await.body;
    assert!(page.contains("dashboard-tags.toml") && page.contains("being asked"), "{page}");
    let identity = ada.field("/shadow", "identity").await;
    assert_eq!(ada.post("/shadow/stop", &format!("form_token={token}&identity={identity}")).await.status, 303);
    assert!(ada.get("/shadow").await.body.contains("There is no shadow"));
    let audit = ada.get("/audit").await.body;
    let parts =
        ["shadow.promote", "shadow.stop", "shadow.start", "dashboard-tags.toml", "policy.unproven", "policy.no_shadow"];
    for part in parts.into_iter().chain(["settings of access", "policy.refused", "signin.role"]) {
        assert!(audit.contains(part), "{part} is missing: {audit}");
    }
}

// shows: H-02
#[tokio::test]
async fn while_the_directory_is_down_local_people_sign_in_and_the_others_hear_why_not() {
    // Whoever had this port has gone: nobody answers.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let bind = "uid={name},ou=people,dc=plant,dc=example";
    let launch = Launch::new().flag("--ldap-url", &format!("ldap://{gone}")).flag("--ldap-bind", bind);
    let gw = launch.start().await;
    add(&gw, "ada", "Admin", &[]).await;
    let browser = Browser::of(&gw);
    let answer = browser.post("/sign-in", "name=ben&password=battery+staple").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("people of the gateway itself can sign in"), "{}", answer.body);
    assert_eq!(browser.post("/sign-in", "name=ben&password=").await.status, 401);
    assert_eq!(Browser::signed_in(&gw, "ada").await.get("/audit").await.status, 200);
    assert!(gw.log().contains("the directory gives no answer") && !gw.log().contains("battery"));
}

// shows: S-09
#[tokio::test]
async fn a_session_at_its_cap_of_readers_is_still_seen() {
    let gw = Launch::new().flag("--max-event-subscribers-per-session", "1").start().await;
    add(&gw, "ada", "Admin", &[]).await;
    let session = gw.open("line-1").await;
    let mut reader = session.reader("one").await;
    session.advise(&["Area1.Pump1.Sine"]).await;
    reader.count(1).await;
    let ada = Browser::signed_in(&gw, "ada").await;
    let mut page = ada.live(&session.id).await;
    page.until("Area1.Pump1.Sine").await;
    page.until("event: tick").await;
    let client = gw.client().await;
    let listed = gw.admin().await.sessions().await.expect("a list");
    let readers = &listed.iter().find(|one| one.session_id == session.id).expect("the session").readers;
    assert_eq!(readers.len(), 1, "the open page is none of its readers");
    drop(client);
    let head = session.silence().await;
    reader.to(head).await;
}

// shows: D-15
#[tokio::test]
async fn people_have_another_name_in_the_log_and_operators_find_them_by_it() {
    let gw = Launch::new().flag("--log-level", "debug").start().await;
    add(&gw, "lovelace", "Admin", &["engine-room"]).await;
    let browser = Browser::signed_in(&gw, "lovelace").await;
    let token = browser.form_token("/").await;
    let generation = browser.field("/policies", "generation").await;
    let reload = format!("form_token={token}&generation={generation}");
    assert_eq!(browser.post("/policies/reload", &reload).await.status, 303);
    assert_eq!(browser.post("/sign-in", "name=Lovelace&password=wrong").await.status, 401);
    let listed: serde_json::Value =
        serde_json::from_slice(&gw.run(&["user", "list", "--json"]).await.stdout).expect("JSON");
    let in_log = listed["people"][0]["in_log"].as_str().expect("a name");
    let audit = browser.get("/audit").await.body;
    assert!(audit.contains("lovelace") && audit.contains(in_log), "the audit has both: {audit}");
    people(&gw).await.remove("lovelace").await.expect("removed");
    let log = gw.log();
    for said in ["a person was stored", "signed in", "changed on the dashboard", "a person was removed"] {
        assert!(log.lines().any(|line| line.contains(said) && line.contains(in_log)), "{said}: {log}");
    }
    assert!(!log.to_lowercase().contains("lovelace"), "{log}");
}

// shows: D-03, D-04, H-03, H-04
#[tokio::test]
async fn a_web_client_begins_with_what_it_may_know() {
    let gw = Gateway::start().await;
    add(&gw, "ben", "Viewer", &["crew"]).await;
    people(&gw).await.set_grant("crew", "line-1", false).await.expect("granted");
    let (one, two) = (gw.open("line-1").await, gw.open("line-2").await);
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let stranger = Browser::of(&gw);
    let before = stranger.get("/api/bootstrap").await;
    let told = json(&before.body);
    assert_eq!(
        (before.status, &told["auth"]["methods"][0], &told["auth"]["directory"]),
        (200, &"password".into(), &false.into())
    );
    assert_eq!((&told["features"]["dashboard"], &told["features"]["tls"]), (&true.into(), &false.into()));
    for secret in [one.id.as_str(), "line-1", "ben", gw.first_key()] {
        assert!(!before.body.contains(secret), "{secret}");
    }
    let build = told["version"].as_str().expect("a version").to_owned();
    let begin = told["paths"]["session_bootstrap"].as_str().expect("a path").to_owned();
    assert_eq!(stranger.get(&format!("{begin}?build={build}")).await.status, 401);

    let ben = Browser::signed_in(&gw, "ben").await;
    for wrong in ["", "?build=0.0.0"] {
        let refused = ben.get(&format!("{begin}{wrong}")).await;
        let told = json(&refused.body);
        assert_eq!(
            (refused.status, &told["code"], &told["details"]["version"]),
            (409, &"http.version_mismatch".into(), &build.as_str().into())
        );
        assert!(!refused.body.contains(&one.id), "{}", refused.body);
    }
    let begun = ben.get(&format!("{begin}?build={build}")).await;
    let state = json(&begun.body);
    assert_eq!((&state["person"]["name"], &state["person"]["role"]), (&"ben".into(), &"Viewer".into()));
    assert_eq!(state["sessions"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        (&state["sessions"][0]["session_id"], &state["sessions"][0]["ready"]),
        (&one.id.as_str().into(), &true.into())
    );
    assert!(!begun.body.contains(&two.id));
    // The token that came with it opens a stream.
    let token = state["stream_token"].as_str().expect("a token");
    stranger.live_with(token, "session", &one.id).await.until("event: tick").await;
}
