//! Who may listen in, who must show a certificate, who operates from afar, and how much one key or connection may have.

use crate::harness::{Gateway, Launch, PATIENCE, Session, eventually, open_as, reason, refused, tidegate};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::Value as Json;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};
use tidegate_client::{Connect, GrpcCode, Start};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// What `tidegate tls dev` made.
struct Certificates(PathBuf);

impl Certificates {
    async fn make(dir: &Path, client: &str) -> Self {
        let line = ["tls", "dev", "--json", "--client", client, "--dir"];
        let made = tidegate().args(line).arg(dir).output().await.expect("it runs");
        assert!(made.status.success(), "{made:?}");
        Self(dir.to_owned())
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("text").to_owned()
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).expect("read")
    }

    /// A gateway that has this certificate.
    fn serve(&self, launch: Launch) -> Launch {
        launch.flag("--tls-cert", &self.path("server.pem")).flag("--tls-key", &self.path("server.key"))
    }

    /// To a gateway with a certificate of this authority.
    fn to(&self, gw: &Gateway) -> Connect {
        Connect::to(format!("https://{}", gw.address())).authorities(self.read("ca.pem"))
    }

    /// The same, showing the client's certificate.
    fn shown_to(&self, gw: &Gateway) -> Connect {
        self.to(gw).certificate(self.read("client.pem"), self.read("client.key"))
    }
}

/// The page of the HTTP address, over TLS.
async fn page(gw: &Gateway, certificates: &Certificates, path: &str) -> String {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&certificates.read("ca.pem")).expect("PEM")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(http(gw)).await.expect("it listens");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a handshake");
    get(stream, path).await
}

async fn get(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut answer)).await.expect("in time").expect("text");
    answer
}

fn http(gw: &Gateway) -> String {
    let addresses: Json =
        serde_json::from_slice(&fs::read(gw.data().join("addresses.json")).expect("announced")).expect("JSON");
    assert_eq!(addresses["tls"], true);
    addresses["http"].as_str().expect("an address").to_owned()
}

fn sample(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find(|line| line.split(' ').next() == Some(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("no {name}:\n{metrics}"))
}

fn put(path: &Path, bytes: &[u8], mode: u32) {
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes).expect("written");
    fs::set_permissions(&draft, fs::Permissions::from_mode(mode)).expect("mode set");
    fs::rename(&draft, path).expect("in place");
}

#[tokio::test]
async fn both_listeners_speak_tls_and_a_new_certificate_costs_no_connection() {
    let launch = Launch::new();
    let folder = launch.folder();
    let (old, new) = (folder.path().join("tls"), folder.path().join("next"));
    let (old, new) = (Certificates::make(&old, "c").await, Certificates::make(&new, "c").await);
    for name in ["ca.key", "server.key", "client.key"] {
        assert_eq!(fs::metadata(old.0.join(name)).expect("made").permissions().mode() & 0o777, 0o600, "{name}");
    }
    let again = tidegate().args(["tls", "dev", "--dir"]).arg(&old.0).output().await.expect("it runs");
    assert_eq!(again.status.code(), Some(2), "nothing is written over: {again:?}");
    // Reachable by others, in other words than `--insecure-listen`.
    let launch = old.serve(launch.without_addresses().flag("--listen", "0.0.0.0:0").flag("--http", "127.0.0.1:0"));
    let gw = launch.start().await;
    let port = gw.address().rsplit(':').next().expect("a port").to_owned();
    let at = format!("https://localhost:{port}");
    let connect = |with: &Certificates| Connect::to(&at).authorities(with.read("ca.pem")).key(gw.first_key());
    let client = connect(&old).gateway().await.expect("a handshake");
    let s = Session::new(client.clone(), open_as(&client, "line-1", "").await.expect("a session")).await;
    let mut reader = s.reader("one").await;
    s.advise(&["Area1.Pump1.Sine"]).await;
    reader.count(20).await;
    let line = ["client", "snapshot", s.id.as_str(), "--json", "--endpoint", at.as_str(), "--ca"];
    let seen = gw.run(&[&line[..], &[&old.path("ca.pem")]].concat()).await;
    assert!(seen.status.success(), "{seen:?}");

    // Who speaks no TLS gets an end, and on the HTTP address a word.
    let plain = Connect::to(format!("127.0.0.1:{port}")).key(gw.first_key()).gateway().await;
    let plain = match plain {
        Ok(client) => open_as(&client, "x", "").await.map(drop),
        Err(error) => Err(error),
    };
    plain.expect_err("no plain text");
    let answer = get(TcpStream::connect(http(&gw)).await.expect("it listens"), "/metrics").await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
    connect(&new).gateway().await.expect_err("an authority that has not signed it");
    // Each is counted when its farewell is over.
    let failed = |metrics: &str, why: &str| sample(metrics, &format!("tidegate_tls_handshakes_failed_total{{{why}}}"));
    let metrics = eventually("all three counted", async || {
        let metrics = page(&gw, &old, "/metrics").await;
        let plain = failed(&metrics, "reason=\"plaintext\"");
        (plain >= 2 && failed(&metrics, "reason=\"refused\"") >= 1).then_some(metrics)
    })
    .await;
    let not_after = sample(&metrics, "tidegate_tls_certificate_not_after_seconds");

    // Half of a change is refused: the old pair serves, and the health says so.
    put(&old.0.join("server.pem"), &new.read("server.pem"), 0o644);
    eventually("the refusal", async || {
        let metrics = page(&gw, &old, "/metrics").await;
        (sample(&metrics, "tidegate_tls_reloads_total{outcome=\"refused\"}") == 1).then_some(())
    })
    .await;
    // Strangers read which part; whoever may ask the socket reads why.
    let health = page(&gw, &old, "/api/health").await;
    assert!(health.contains("\"certificate\"") && !health.contains("belong together"), "{health}");
    let status = gw.run(&["status"]).await;
    let status = String::from_utf8_lossy(&status.stdout);
    assert!(status.contains("do not belong together"), "{status}");
    connect(&old).gateway().await.expect("the old one serves");
    let ca = old.read("ca.pem");
    put(&old.0.join("server.key"), &new.read("server.key"), 0o600);
    eventually("the new certificate", async || connect(&new).gateway().await.ok()).await;
    Connect::to(&at).authorities(&ca).key(gw.first_key()).gateway().await.expect_err("the old one is gone");
    let metrics = page(&gw, &new, "/metrics").await;
    assert_eq!(sample(&metrics, "tidegate_tls_reloads_total{outcome=\"taken\"}"), 1, "{metrics}");
    assert!(sample(&metrics, "tidegate_tls_certificate_not_after_seconds") >= not_after);
    assert_eq!(sample(&metrics, "tidegate_degraded_parts"), 0, "{metrics}");
    // The connection of before, with the certificate of before.
    let before = reader.events.len();
    reader.count(before + 20).await;
}

#[tokio::test]
async fn a_key_that_others_can_read_is_not_used() {
    let launch = Launch::new();
    let certificates = Certificates::make(&launch.folder().path().join("tls"), "c").await;
    let key = certificates.0.join("server.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("mode set");
    let refused = certificates.serve(launch).refused().await;
    assert!(!refused.status.success());
    assert!(refused.words.contains("chmod 600") && refused.words.contains("server.key"), "{}", refused.words);
}

#[tokio::test]
async fn a_rule_asks_for_a_certificate_beside_the_key_also_of_open_streams() {
    let launch = Launch::new();
    let folder = launch.folder();
    let dir = |name: &str| folder.path().join(name);
    let ours = Certificates::make(&dir("tls"), "historian").await;
    let foreign = Certificates::make(&dir("foreign"), "historian").await;
    let launch = ours.serve(launch).flag("--tls-client-ca", &ours.path("ca.pem"));
    let gw = launch.flag("--tls-client-auth", "optional").start().await;
    let key = gw.first_key().to_owned();
    let shown = ours.shown_to(&gw).key(&key).gateway().await.expect("a handshake");
    let bare = ours.to(&gw).key(&key).gateway().await.expect("a handshake");
    let keyless = ours.shown_to(&gw).gateway().await.expect("a handshake");
    assert_eq!(reason(open_as(&keyless, "x", "").await), "auth.missing", "a certificate is no key");
    let forged = ours.to(&gw).certificate(foreign.read("client.pem"), foreign.read("client.key")).key(&key);
    let forged = match forged.gateway().await {
        // TLS 1.3: the client learns of the refusal when it reads.
        Ok(client) => open_as(&client, "x", "").await.map(drop),
        Err(error) => Err(error),
    };
    forged.expect_err("signed by a stranger");
    eventually("the refusal counted", async || {
        let metrics = page(&gw, &ours, "/metrics").await;
        (sample(&metrics, "tidegate_tls_handshakes_failed_total{reason=\"certificate\"}") >= 1).then_some(())
    })
    .await;

    // The same key from the same address: only the certificate tells the two apart.
    let s = Session::new(shown.clone(), open_as(&shown, "line-1", "").await.expect("a session")).await;
    let mut with = s.try_reader(&shown, "with", Start::Live).await.expect("a stream");
    let mut without = s.try_reader(&bare, "without", Start::Live).await.expect("a stream");
    s.advise(&["Area1.Pump1.Sine"]).await;
    with.count(10).await;
    without.count(10).await;
    gw.swap("access", "certificates = [\"CN=historian\"]").await;
    let end = without.ended().await;
    assert_eq!((end.reason.as_str(), end.details["rule"].as_str()), ("policy.denied", "settings-certificate"), "{end}");
    let before = with.events.len();
    with.count(before + 20).await;
    let denied = refused(open_as(&bare, "x", "").await);
    assert_eq!(denied.details["rule"], "settings-certificate", "{denied}");
    open_as(&shown, "line-2", "").await.expect("the certificate is what was asked for");
    gw.swap("access", "certificates = [\"CN=somebody-else\"]").await;
    assert_eq!(with.ended().await.reason, "policy.denied");
    // The decision log knows the certificate.
    let denied = refused(open_as(&shown, "x", "").await);
    let words = eventually("the decision on the disk", async || {
        let told = gw.run(&["policy", "explain", denied.details["decision"].as_str()]).await;
        told.status.success().then(|| String::from_utf8_lossy(&told.stdout).into_owned())
    })
    .await;
    assert!(words.contains("with the certificate CN=historian") && words.contains("settings-certificate"), "{words}");
}

#[tokio::test]
async fn where_a_certificate_is_required_nobody_comes_in_without_one() {
    let launch = Launch::new();
    let ours = Certificates::make(&launch.folder().path().join("tls"), "c").await;
    let launch = ours.serve(launch).flag("--tls-client-ca", &ours.path("ca.pem")).flag("--tls-version-min", "1.3");
    let gw = launch.flag("--tls-client-auth", "required").start().await;
    let key = gw.first_key().to_owned();
    let bare = match ours.to(&gw).key(&key).gateway().await {
        Ok(client) => open_as(&client, "x", "").await.map(drop),
        Err(error) => Err(error),
    };
    bare.expect_err("no certificate");
    let shown = ours.shown_to(&gw).key(&key).gateway().await.expect("a handshake");
    open_as(&shown, "line-1", "").await.expect("a session");
}

#[tokio::test]
async fn operators_work_from_afar_where_it_is_switched_on_and_leave_their_name() {
    let launch = Launch::new();
    let ours = Certificates::make(&launch.folder().path().join("tls"), "c").await;
    let gw = ours.serve(launch.switch("--admin-over-network")).start().await;
    let (at, ca) = (format!("https://{}", gw.address()), ours.path("ca.pem"));
    let file = gw.folder().path().join("operator.key");
    fs::write(&file, gw.first_key()).expect("written");
    let file = file.to_str().expect("text").to_owned();
    let elsewhere = gw.folder().path().join("elsewhere");
    let run = async |line: &[&str], file: &str| {
        let mut command = tidegate();
        command.args(line).args(["--endpoint", &at, "--ca", &ca, "--api-key-file", file]);
        // No socket here: what works came over the network.
        command.arg("--data").arg(&elsewhere).arg("--json");
        timeout(PATIENCE, command.output()).await.expect("in time").expect("it runs")
    };
    for line in [&["policy", "list"][..], &["status"], &["session", "list"], &["user", "list"], &["node", "list"]] {
        let done = run(line, &file).await;
        assert!(done.status.success(), "{line:?}: {done:?}");
    }
    let made = run(&["key", "create", "--name", "historian"], &file).await;
    let made: Json = serde_json::from_slice(&made.stdout).expect("JSON");
    let log = gw.log();
    assert!(log.lines().any(|line| line.contains("an operator's call") && line.contains("CreateKey")), "{log}");
    let keys = gw.admin().await.keys().await.expect("a listing");
    let first = keys.iter().find(|key| key.name == "first").expect("the first key");
    assert!(log.contains(&format!("by=\"{}\"", first.key_id)), "{log}");
    // Without the scope a key operates nothing.
    let own = gw.folder().path().join("own.key");
    fs::write(&own, made["key"].as_str().expect("a secret")).expect("written");
    let denied = run(&["policy", "list"], own.to_str().expect("text")).await;
    let words = String::from_utf8_lossy(&denied.stderr).into_owned();
    assert!(!denied.status.success() && words.contains("auth.scope"), "{words}");
}

#[tokio::test]
async fn operators_calls_are_off_over_the_network_unless_switched_on() {
    let gw = Gateway::start().await;
    let admin = gw.connect().key(gw.first_key()).admin().await.expect("connected");
    let fault = refused(admin.policies().await);
    assert_eq!((fault.code, fault.reason.as_str()), (GrpcCode::PermissionDenied, "auth.transport"));
    assert_eq!(fault.details["needs"], "admin_over_network");
}

#[tokio::test]
async fn what_one_key_and_one_connection_may_have_is_bounded() {
    let launch = Launch::new().flag("--max-sessions-per-key", "2").flag("--max-event-subscribers-per-key", "3");
    let gw = launch.flag("--max-event-streams-per-connection", "2").start().await;
    let (mine, theirs) = (gw.key(&[], "sessions:own").await, gw.key(&[], "sessions:own").await);
    let client = gw.client_with(&mine).await;
    let one = Session::new(client.clone(), open_as(&client, "one", "").await.expect("the first")).await;
    let two = open_as(&client, "two", "").await.expect("the second");
    let third = refused(open_as(&client, "three", "").await);
    assert_eq!((third.code, third.reason.as_str()), (GrpcCode::ResourceExhausted, "session.key_limit"));
    assert_eq!(third.details["max"], "2");
    assert!(third.details["quota"].starts_with("key:") && third.details["retry_ms"] == "1000", "{third}");
    let other = gw.client_with(&theirs).await;
    open_as(&other, "theirs", "").await.expect("another key has its own");
    client.close(&two.session_id).await.expect("closed");
    open_as(&client, "again", "").await.expect("given back");

    let mut readers = vec![one.reader("a").await, one.reader("b").await];
    let full = refused(one.client.stream(&one.id, Start::Live, Default::default()).await);
    assert_eq!((full.reason.as_str(), full.details["quota"].as_str()), ("stream.connection_limit", "connection"));
    // What a connection has beside its streams is not in their way.
    one.advise(&["Area1.Pump1.Sine"]).await;
    let second = gw.client_with(&mine).await;
    let third = one.try_reader(&second, "c", Start::Live).await.expect("another connection");
    assert_eq!(reason(second.stream(&one.id, Start::Live, Default::default()).await), "stream.key_limit");
    drop(third);
    let third = eventually("the place that was given back", async || {
        second.stream(&one.id, Start::Live, Default::default()).await.ok()
    })
    .await;
    for reader in &mut readers {
        reader.count(10).await;
    }
    drop(third);
    let metrics = gw.metrics().await;
    for limit in ["sessions-per-key", "streams-per-key", "streams-per-connection"] {
        assert!(sample(&metrics, &format!("tidegate_limits_reached_total{{limit=\"{limit}\"}}")) >= 1, "{metrics}");
    }
}
