//! Scans everything that leaves the gateway's ground floor for secrets: log at the finest level,
//! metrics, errors, problem+json, Debug. A process of its own, because it takes the global log.

use std::{
    fmt::Debug,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};
use tidegate::{
    config::{ServeArgs, ServeConfig},
    data_dir::DataDir,
    error::Error,
    http::problem,
    keys::{FirstKeyOut, Keys, NewKey},
    storage::Storage,
    tasks::Tasks,
    telemetry::{LogFormat, Metrics, subscriber},
};
use tracing_subscriber::fmt::MakeWriter;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("sound").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// What was seen outside, gathered for the scan.
#[derive(Default)]
struct Seen(Vec<String>);

impl Seen {
    fn debug(&mut self, value: &dyn Debug) {
        self.0.push(format!("{value:?} {value:#?}"));
    }

    async fn error(&mut self, error: &Error) {
        self.0.push(format!("{error} {error:?}"));
        let body = http_body_util::BodyExt::collect(problem(error).into_body()).await.expect("a body").to_bytes();
        self.0.push(String::from_utf8(body.to_vec()).expect("text"));
        tracing::warn!(%error, debug = ?error, "provoked");
    }
}

// shows: S-20
#[tokio::test]
async fn no_secret_reaches_a_log_a_metric_an_error_or_debug() {
    let sink = Sink::default();
    let log = subscriber(LogFormat::Json, "trace", sink.clone(), false).expect("a level");
    tracing::dispatcher::set_global_default(log).expect("the first");

    let folder = tempfile::tempdir().expect("a folder");
    let data = DataDir::open(&folder.path().join("data")).expect("opens");
    let metrics = Metrics::new();
    let instance = data.instance().expect("an id");
    let storage = Storage::open(&data.database(), instance, metrics.storage.clone()).expect("opens");
    let keys = Keys::load(storage.clone(), metrics.keys.clone()).await.expect("loads");
    let mut seen = Seen::default();
    let mut secrets = Vec::new();

    let (_, file) = keys.ensure_first_key(&data, FirstKeyOut::File).await.expect("made").expect("the first");
    let text = std::fs::read_to_string(file.expect("a file")).expect("reads");
    secrets.push(text.trim().to_owned());
    for n in 0..20 {
        let new = NewKey { name: format!("key {n}"), ..NewKey::default() };
        let (info, secret) = keys.create(new).await.expect("created");
        seen.debug(&info);
        seen.debug(&secret);
        seen.debug(&keys.authenticate(secret.expose()).expect("live"));
        let tampered = secret.expose().replace("tg_k", "tg_kk");
        seen.error(&keys.authenticate(&tampered).expect_err("malformed")).await;
        if n % 2 == 0 {
            keys.revoke(&info.id).await.expect("revoked");
            seen.error(&keys.authenticate(secret.expose()).expect_err("revoked")).await;
            seen.error(&keys.revoke(&info.id).await.expect_err("twice")).await;
        }
        // A caller that sends its key where a name or a glob belongs.
        let confused = NewKey { name: "\u{7}".into(), scopes: vec![secret.expose().into()], ..NewKey::default() };
        let error = keys.create(confused.clone()).await.expect_err("no scope");
        tracing::info!(?confused, %error, "the log redacts even what it is handed");
        secrets.push(secret.expose().to_owned());
    }
    seen.debug(&keys.list().await.expect("lists"));
    seen.debug(&storage.keys().await.expect("reads"));
    seen.error(&DataDir::open(data.root()).expect_err("locked")).await;
    storage.close().await;
    seen.error(&keys.create(NewKey::default()).await.expect_err("closed")).await;

    let password = "hunter2-hunter2";
    secrets.push(password.into());
    let (good, bad) = (format!("plc=sim:password={password}"), format!("bad=none:password={password}"));
    let args = ServeArgs::of(&[("backend", &good)]);
    seen.debug(&args);
    let config = ServeConfig::load(&args).expect("valid");
    seen.debug(&config);
    seen.0.push(config.effective().to_string());
    seen.error(&ServeConfig::load(&ServeArgs::of(&[("backend", &bad)])).expect_err("wrong")).await;

    let tasks = Tasks::new();
    tasks.spawn("faulty", async { panic!("on purpose, for a test") });
    assert!(tasks.shutdown(tokio::time::Instant::now() + Duration::from_secs(30)).await.is_empty());
    for value in [&data as &dyn Debug, &storage, &keys, &metrics, &tasks, &metrics.keys, &metrics.storage] {
        seen.debug(value);
    }
    seen.0.push(metrics.expose());
    seen.0.push(String::from_utf8(sink.0.lock().expect("sound").clone()).expect("text"));

    let everything = seen.0.join("\n");
    for marker in ["a key was created", "a task panicked", "auth.invalid", "tidegate_keys_live"] {
        assert!(everything.contains(marker), "the scan sees {marker}");
    }
    for secret in &secrets {
        // The first and the last digits of the secret half; a password is scanned for whole.
        let half = secret.rsplit('_').next().unwrap_or(secret);
        for part in [&half[..half.len().min(12)], &half[half.len() - half.len().min(12)..]] {
            let found = everything.find(part).map(|at| &everything[at.saturating_sub(200)..at]);
            assert_eq!(found, None, "a secret got out behind this");
        }
    }
}
