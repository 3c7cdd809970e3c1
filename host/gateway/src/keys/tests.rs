//! What keys promise: commit before effect, revocation at once, nothing told to a stranger, bounds.
//! Real storage in a temporary folder.

use super::*;
use crate::{data_dir::DataDir, telemetry::Metrics};
use std::{io::Write, sync::Mutex};

struct Bed {
    _folder: tempfile::TempDir,
    data: DataDir,
    metrics: Metrics,
}

impl Bed {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = DataDir::open(&folder.path().join("data")).expect("opens");
        Self { _folder: folder, data, metrics: Metrics::new() }
    }

    async fn keys(&self) -> Keys {
        let instance = self.data.instance().expect("an id");
        let storage =
            Storage::open(&self.data.database(), instance, self.metrics.storage.clone()).expect("storage opens");
        Keys::load(storage, self.metrics.keys.clone()).await.expect("keys load")
    }
}

fn asked(scopes: &[&str], read: &[&str]) -> NewKey {
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    NewKey { name: "test".into(), scopes: texts(scopes), read: texts(read), write: vec![] }
}

// shows: H-05
#[tokio::test]
async fn a_key_works_from_its_creation_to_its_revocation_also_over_a_restart() {
    let bed = Bed::new();
    let keys = bed.keys().await;
    let mut watch = keys.watch();
    let before = keys.revision();
    let (info, secret) = keys.create(asked(&["sessions:all", "sessions:own"], &["Area1.*"])).await.expect("created");
    assert_eq!(keys.revision(), before + 1);
    assert_eq!(*watch.borrow_and_update(), before + 1);
    let key = keys.authenticate(secret.expose()).expect("live");
    assert_eq!((&key.id, key.revision), (&info.id, before + 1));
    assert_eq!(key.scope_texts(), ["sessions:own", "sessions:all"]);
    assert_eq!(&key.read[..], ["Area1.*"]);
    assert!(key.require(Scope::SessionsAll).is_ok());
    assert_eq!(key.require(Scope::Admin).expect_err("not an operator").code(), Code::AuthScope);
    keys.shared.storage.close().await;

    let again = bed.keys().await;
    assert_eq!(again.authenticate(secret.expose()).expect("live after a restart").id, info.id);
    assert_eq!(bed.metrics.keys.live.get(), 1);
    let before = again.revision();
    again.revoke(&info.id).await.expect("revoked");
    assert_eq!(again.authenticate(secret.expose()).expect_err("revoked").code(), Code::AuthInvalid);
    assert!(again.get(&info.id).is_none() && again.revision() > before);
    assert_eq!(again.revoke(&info.id).await.expect_err("twice").code(), Code::KeyUnknown);
    assert!(again.list().await.expect("lists")[0].revoked_unix_ms.is_some());
    again.shared.storage.close().await;

    let last = bed.keys().await;
    assert_eq!(last.authenticate(secret.expose()).expect_err("for good").code(), Code::AuthInvalid);
    assert_eq!(last.live(), 0);
}

#[tokio::test]
async fn what_is_no_live_key_gets_one_and_the_same_answer() {
    let bed = Bed::new();
    let keys = bed.keys().await;
    let (info, secret) = keys.create(NewKey::default()).await.expect("created");
    let (_, stranger) = draft(NewKey::default()).expect("a key that was never added");
    let text = secret.expose();
    let mut flipped = text.to_owned();
    let last = if flipped.pop() == Some('0') { '1' } else { '0' };
    flipped.push(last);
    let borrowed = format!("tg_{}_{}", info.id, &stranger.expose()[text.len() - 64..]);
    let upper = text.to_uppercase();
    let longer = format!("{text}0");
    let wrong =
        ["", "tg_", "tg__", "tg_k_", text[3..].as_ref(), &text[..text.len() - 1], &flipped, &borrowed, &upper, &longer];
    let answers: std::collections::BTreeSet<String> = wrong
        .iter()
        .chain([&stranger.expose()])
        .map(|text| keys.authenticate(text).expect_err("refused").to_string())
        .collect();
    assert_eq!(answers.len(), 1, "{answers:?}");
    keys.authenticate(text).expect("the right one still works");
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_new_key_is_said_at_once() {
    let bed = Bed::new();
    let keys = bed.keys().await;
    let new = NewKey {
        name: "x".repeat(NAME_MAX + 1),
        scopes: vec!["root".into()],
        read: vec!["".into(), "a\nb".into(), "**".into(), " a".into(), "é".repeat(GLOB_MAX + 1)],
        write: vec!["a".into(); GLOBS_MAX + 1],
    };
    let error = keys.create(new).await.expect_err("refused");
    assert_eq!(error.code(), Code::KeyInvalid);
    assert_eq!(error.message().split("; ").count(), 8, "{error}");
    assert_eq!(keys.live(), 0);
    let edge = NewKey {
        name: "x".repeat(NAME_MAX),
        scopes: vec![],
        read: vec!["é".repeat(GLOB_MAX); GLOBS_MAX],
        write: vec!["Area?.*[1]".into()],
    };
    let (info, _) = keys.create(edge).await.expect("at the bounds");
    assert_eq!(info.scopes, ["sessions:own"], "the default is the least");
}

#[tokio::test]
async fn a_change_reaches_its_end_although_its_caller_goes() {
    let bed = Bed::new();
    let keys = bed.keys().await;
    let (info, secret) = keys.create(NewKey::default()).await.expect("created");
    let turn = keys.shared.changing.lock().await;
    let (revoking, id) = (keys.clone(), info.id.clone());
    let call = tokio::spawn(async move { revoking.revoke(&id).await });
    tokio::task::yield_now().await;
    call.abort();
    let _ = call.await;
    drop(turn);
    let mut watch = keys.watch();
    let gone = watch.wait_for(|_| keys.get(&info.id).is_none());
    tokio::time::timeout(std::time::Duration::from_secs(30), gone).await.expect("in time").expect("revoked");
    assert!(keys.authenticate(secret.expose()).is_err());
}

// shows: H-05
#[tokio::test]
async fn the_disk_knows_the_digest_and_not_the_secret() {
    let bed = Bed::new();
    let keys = bed.keys().await;
    let (_, secret) = keys.create(NewKey::default()).await.expect("created");
    keys.shared.storage.close().await;
    let (_, parsed) = KeySecret::parse(secret.expose()).expect("a key");
    for entry in std::fs::read_dir(bed.data.root()).expect("reads") {
        let path = entry.expect("an entry").path();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        assert!(!holds(&secret.expose().as_bytes()[20..]) && !holds(&from(secret.expose())), "{path:?}");
        if path == bed.data.database() {
            assert!(holds(&parsed.digest()));
        }
    }
}

/// The raw bytes of a key's secret half.
fn from(text: &str) -> Vec<u8> {
    let digits = &text[text.len() - 64..];
    (0..32).map(|n| u8::from_str_radix(&digits[n * 2..n * 2 + 2], 16).expect("digits")).collect()
}

#[derive(Clone, Default)]
struct Terminal(Arc<Mutex<Vec<u8>>>);

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("sound").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_first_key_is_shown_on_a_terminal_and_nowhere_else() {
    let bed = Bed::new();
    let keys = bed.keys().await;
    let terminal = Terminal::default();
    let out = FirstKeyOut::Terminal(Box::new(terminal.clone()));
    let (id, file) = keys.ensure_first_key(&bed.data, out).await.expect("made").expect("the first");
    assert!(file.is_none() && !bed.data.first_key().exists());
    let shown = String::from_utf8(terminal.0.lock().expect("sound").clone()).expect("text");
    let text = shown.split_whitespace().find(|word| word.starts_with("tg_")).expect("a key");
    let key = keys.authenticate(text).expect("live");
    assert!(key.id == id && key.has(Scope::SessionsAll) && key.has(Scope::Admin));
    assert!(keys.ensure_first_key(&bed.data, FirstKeyOut::File).await.expect("asked").is_none(), "only once");
    keys.revoke(&id).await.expect("revoked");
    assert!(keys.ensure_first_key(&bed.data, FirstKeyOut::File).await.expect("asked").is_none(), "not behind backs");
}

#[tokio::test]
async fn without_a_terminal_the_first_key_is_left_in_a_private_file() {
    use std::os::unix::fs::PermissionsExt as _;
    for out in [FirstKeyOut::File, FirstKeyOut::Terminal(Box::new(Broken))] {
        let bed = Bed::new();
        let keys = bed.keys().await;
        let (_, file) = keys.ensure_first_key(&bed.data, out).await.expect("made").expect("the first");
        let file = file.expect("a file");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        let text = std::fs::read_to_string(&file).expect("reads");
        keys.authenticate(text.trim()).expect("live");
    }
}

#[test]
fn no_scope_looks_like_the_name_in_a_certificate() {
    // Policies get both in one list.
    assert!(Scope::ALL.iter().all(|scope| !scope.as_str().starts_with("cert:")));
    assert!(Scope::parse("cert:CN=historian").is_none());
}
