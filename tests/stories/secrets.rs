//! Keys and values stay where they belong: nothing a gateway says anywhere repeats one.

use crate::harness::{Launch, reason};
use tidegate_client::wire::{Value, event::Body, value::Kind};

/// Values nobody would see by chance, as the text in which they would show.
const WRITTEN: f64 = 31_337.062_5;
const WRITTEN_TEXT: &str = "31337.0625";

// shows: S-20
#[tokio::test]
async fn keys_and_values_are_in_no_log_and_no_metric() {
    let launch = Launch::new().backend("users", "rate=100,faults=true,users=ann:Sesame-6f1d:{guid}");
    let launch = launch.flag("--log-level", "trace").flag("--log-format", "json");
    let gw = launch.start().await;
    let key = gw.key(&["Area1.*"], "sessions:all").await;
    let s = gw.open("line-1").await;
    let mut reader = s.reader("one").await;
    let item = s.advise(&["Area1.Setpoint.Speed"]).await.remove(0);
    reader.until("a first value", |event| event.item_key == item.key).await;
    s.write(&item, WRITTEN).await.expect("taken");
    reader.until("completion", |event| matches!(event.body, Some(Body::WriteComplete(_)))).await;
    // Wrong things are logged more readily than right ones.
    let with_key = gw.client_with(&key).await;
    with_key.snapshot(&s.id).await.expect("a snapshot");
    let wrong = gw.client_with("tg_0123456789abcdefWRONGKEYSECRET").await;
    assert_eq!(reason(wrong.snapshot(&s.id).await), "auth.invalid");
    let user = tidegate_client::wire::AuthenticateUser {
        server_handle: s.server,
        user: "ann".into(),
        password: "Sesame-7777".into(),
    };
    let method = tidegate_client::wire::command::Method::AuthenticateUser(user);
    let refused = s.client.invoke(&s.id, method, 0).await.expect_err("a wrong password");
    let raised = s.fault("31337.0625 is no fault").await.expect_err("no fault");
    let nowhere = s.client.write(&s.id, s.server, 9_999, written(), 0).await.expect_err("no such item");
    let narrow = gw.client_with(&gw.key(&["Area2.*"], "sessions:all").await).await;
    let unseen = narrow.write(&s.id, s.server, item.handle, written(), 77).await;
    let errors = format!("{refused:?} {refused} {raised:?} {nowhere:?} {unseen:?}");
    let head = s.silence().await;
    reader.to(head).await;
    s.close().await;

    let metrics = gw.metrics().await;
    let listing = gw.run(&["session", "list", "--json"]).await;
    let keys = gw.run(&["key", "list", "--json"]).await;
    let log = gw.log();
    assert!(log.contains(&s.id), "the log tells of the session at all");
    assert!(metrics.contains("# TYPE"), "{metrics}");
    let shown = [&log, &metrics, &text(&listing.stdout), &text(&keys.stdout), &errors];
    for secret in [gw.first_key(), &key, WRITTEN_TEXT, "Sesame", "WRONGKEYSECRET"] {
        for (place, text) in ["log", "metrics", "session list", "key list", "errors"].iter().zip(shown) {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "a secret is in the {place}: {line:?}");
        }
    }
}

fn written() -> Value {
    Value { kind: Some(Kind::Double(WRITTEN)), data_type: 0 }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
