//! API keys: their text, their digests, who they are for the policies. All live keys are in memory;
//! storage is behind them, never on the path of a call. Invariants: a change is committed before it
//! is visible; a revoked key is refused from the moment `revoke` returns; a secret exists only in what
//! `create` hands out.

mod first;
pub mod resume;
mod secret;
#[cfg(test)]
mod tests;

pub use first::FirstKeyOut;
pub use secret::KeySecret;

use crate::{
    error::{Code, Error, Result},
    ids::{KEY_PREFIX, KeyId},
    storage::{KeyRow, Storage, now_unix_ms},
    telemetry::KeyMetrics,
};
use arc_swap::ArcSwap;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::watch;

/// How many keys may be live; required by the caps of semantics.md, the number is a guess.
pub const KEYS_MAX: usize = 10_000;
/// How many globs a key may have, for reading and for writing each.
pub const GLOBS_MAX: usize = 64;
/// Characters of a glob.
pub const GLOB_MAX: usize = 128;
/// Characters of a key's name.
pub const NAME_MAX: usize = 128;

/// What a key may do, beyond what policies decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Sessions that this key opened.
    SessionsOwn,
    /// Everybody's sessions.
    SessionsAll,
    /// Writes only on behalf of a runtime node that it names, so that the version floor holds for each of them.
    Node,
    /// The operators' API over the network.
    Admin,
}

/// Who asks: what the gateway knows of a live key. Immutable; a change makes a new one.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    pub id: KeyId,
    pub name: Arc<str>,
    /// Sorted, at least one.
    pub scopes: Arc<[Scope]>,
    /// Globs of tags; none: no constraint beyond the policy's.
    pub read: Arc<[String]>,
    pub write: Arc<[String]>,
    /// The revision of all keys at which this one came to be; with the id it names a class of readers.
    pub revision: u64,
    digest: [u8; 32],
}

/// What `create` is asked for.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// For people; may be empty.
    pub name: String,
    /// Texts as in the contract; none: `sessions:own`.
    pub scopes: Vec<String>,
    pub read: Vec<String>,
    pub write: Vec<String>,
}

/// A key as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyInfo {
    pub id: KeyId,
    pub name: String,
    pub scopes: Vec<String>,
    pub read: Vec<String>,
    pub write: Vec<String>,
    pub created_unix_ms: i64,
    pub revoked_unix_ms: Option<i64>,
}

/// All keys; a clone is the same set.
#[derive(Clone)]
pub struct Keys {
    shared: Arc<Shared>,
}

struct Shared {
    live: ArcSwap<HashMap<KeyId, Arc<Key>>>,
    revision: AtomicU64,
    changed: watch::Sender<u64>,
    /// Changes are made one after another, so that memory follows the order of the commits.
    changing: tokio::sync::Mutex<()>,
    storage: Storage,
    metrics: KeyMetrics,
}

// === impl Scope ===

impl Scope {
    pub const ALL: [Self; 4] = [Self::SessionsOwn, Self::SessionsAll, Self::Node, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionsOwn => "sessions:own",
            Self::SessionsAll => "sessions:all",
            Self::Node => "node",
            Self::Admin => "admin",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == text)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Key ===

impl Key {
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// `Ok` or `auth.scope`, naming the scope.
    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.has(scope) {
            return Ok(());
        }
        Err(Error::new(Code::AuthScope, format!("the key {} lacks the scope {scope}", self.id)).with("scope", scope))
    }

    /// The scopes' texts, as policies take them.
    pub fn scope_texts(&self) -> Vec<String> {
        self.scopes.iter().map(|scope| scope.as_str().to_owned()).collect()
    }

    fn from_row(row: &KeyRow, revision: u64) -> Self {
        // A scope that this version does not know grants nothing.
        let mut scopes: Vec<Scope> = row.scopes.iter().filter_map(|text| Scope::parse(text)).collect();
        scopes.sort();
        Self {
            id: row.id.clone(),
            name: row.name.as_str().into(),
            scopes: scopes.into(),
            read: row.read.clone().into(),
            write: row.write.clone().into(),
            revision,
            digest: row.digest,
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("scopes", &self.scopes)
            .field("revision", &self.revision)
            .finish_non_exhaustive()
    }
}

// === impl Keys ===

impl Keys {
    /// Reads the keys from storage.
    pub async fn load(storage: Storage, metrics: KeyMetrics) -> Result<Self> {
        let rows = storage.keys().await?;
        let revision = 1;
        let live: HashMap<KeyId, Arc<Key>> = rows
            .iter()
            .filter(|row| row.revoked_unix_ms.is_none())
            .map(|row| (row.id.clone(), Arc::new(Key::from_row(row, revision))))
            .collect();
        metrics.live.set(count(live.len()));
        let shared = Shared {
            live: ArcSwap::from_pointee(live),
            revision: AtomicU64::new(revision),
            changed: watch::Sender::new(revision),
            changing: tokio::sync::Mutex::default(),
            storage,
            metrics,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Rises with every change. Whoever reads it after `revoke` returned sees a new number.
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::SeqCst)
    }

    /// Wakes at every change; a slow watcher sees only the newest.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// The live key of this id: open streams ask again when the revision moved.
    pub fn get(&self, id: &KeyId) -> Option<Arc<Key>> {
        self.shared.live.load().get(id).cloned()
    }

    /// How many are live.
    pub fn live(&self) -> usize {
        self.shared.live.load().len()
    }

    /// Takes the text of a key (without `Bearer `). Malformed, unknown and revoked answer alike. Whoever
    /// turns the caller away counts it: `KeyMetrics::auth_failures`.
    pub fn authenticate(&self, text: &str) -> Result<Arc<Key>> {
        let found = KeySecret::parse(text).and_then(|(id, secret)| {
            let live = self.shared.live.load();
            let key = live.get(&id)?;
            secret.matches(&key.digest).then(|| Arc::clone(key))
        });
        found.ok_or_else(|| Error::new(Code::AuthInvalid, "the key is malformed, unknown or revoked"))
    }

    /// Makes a key; live when this returns. The secret is shown here and nowhere else.
    pub async fn create(&self, new: NewKey) -> Result<(KeyInfo, KeySecret)> {
        let (row, secret) = draft(new)?;
        let info = KeyInfo::from(row.clone());
        self.to_the_end(async move |keys| keys.add(row).await).await?;
        Ok((info, secret))
    }

    /// Refused from the moment this returns. `key.unknown` when it is not live.
    pub async fn revoke(&self, id: &KeyId) -> Result<()> {
        let id = id.clone();
        self.to_the_end(async move |keys| keys.take(id).await).await
    }

    /// All of them, revoked ones too, oldest first.
    pub async fn list(&self) -> Result<Vec<KeyInfo>> {
        Ok(self.shared.storage.keys().await?.into_iter().map(KeyInfo::from).collect())
    }

    async fn add(self, row: KeyRow) -> Result<()> {
        let _turn = self.shared.changing.lock().await;
        self.shared.storage.add_key(row.clone(), KEYS_MAX).await?;
        self.change(|live, revision| {
            live.insert(row.id.clone(), Arc::new(Key::from_row(&row, revision)));
        });
        tracing::info!(key = %row.id, "a key was created");
        Ok(())
    }

    async fn take(self, id: KeyId) -> Result<()> {
        let _turn = self.shared.changing.lock().await;
        let known = self.shared.storage.revoke_key(id.clone(), now_unix_ms()).await?;
        // Also when storage does not know it: what is not on disk must not be live.
        if known || self.get(&id).is_some() {
            self.change(|live, _| {
                live.remove(&id);
            });
        }
        if !known {
            return Err(Error::new(Code::KeyUnknown, format!("there is no live key {id}")).with("key", id));
        }
        tracing::info!(key = %id, "a key was revoked");
        Ok(())
    }

    /// First the map, then the number: who sees the new number finds the new map.
    fn change(&self, edit: impl FnOnce(&mut HashMap<KeyId, Arc<Key>>, u64)) {
        let revision = self.revision() + 1;
        let mut live = HashMap::clone(&self.shared.live.load());
        edit(&mut live, revision);
        self.shared.metrics.live.set(count(live.len()));
        self.shared.live.store(Arc::new(live));
        self.shared.revision.store(revision, Ordering::SeqCst);
        self.shared.changed.send_replace(revision);
    }

    /// Runs a change even when its caller goes away: a revocation that is committed must also be in force.
    async fn to_the_end<F>(&self, change: impl FnOnce(Self) -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        tokio::spawn(change(self.clone()))
            .await
            .unwrap_or_else(|_| Err(Error::new(Code::Internal, "changing a key panicked")))
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("live", &self.live()).field("revision", &self.revision()).finish_non_exhaustive()
    }
}

impl From<KeyRow> for KeyInfo {
    fn from(row: KeyRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            scopes: row.scopes,
            read: row.read,
            write: row.write,
            created_unix_ms: row.created_unix_ms,
            revoked_unix_ms: row.revoked_unix_ms,
        }
    }
}

/// The key's text in an `authorization` header (RFC 6750), whose text is unreadable when empty.
pub fn bearer(header: Option<&str>) -> Result<&str> {
    let Some(text) = header else {
        return Err(Error::new(Code::AuthMissing, "send `authorization: Bearer` with a key of this gateway"));
    };
    match text.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ => Err(Error::new(Code::AuthInvalid, "the authorization header is not `Bearer` and a key")),
    }
}

/// A key that is not live yet.
fn draft(new: NewKey) -> Result<(KeyRow, KeySecret)> {
    let scopes = checked(&new)?;
    let id = KeyId::mint();
    let secret = KeySecret::mint(&id);
    let row = KeyRow {
        id,
        name: new.name.trim().to_owned(),
        digest: secret.digest(),
        scopes: scopes.iter().map(|scope| scope.as_str().to_owned()).collect(),
        read: new.read,
        write: new.write,
        created_unix_ms: now_unix_ms(),
        revoked_unix_ms: None,
    };
    Ok((row, secret))
}

/// Checks everything that a caller chose, and names all that is wrong at once.
fn checked(new: &NewKey) -> Result<Vec<Scope>> {
    let mut wrong = Vec::new();
    if new.name.chars().count() > NAME_MAX || new.name.chars().any(char::is_control) {
        wrong.push(format!("the name must have at most {NAME_MAX} characters and no control characters"));
    }
    let mut scopes = Vec::new();
    for text in &new.scopes {
        match Scope::parse(text) {
            Some(scope) => scopes.push(scope),
            None => wrong.push(format!("there is no scope {:?}", shortened(text))),
        }
    }
    if new.scopes.is_empty() {
        scopes.push(Scope::SessionsOwn);
    }
    scopes.sort();
    scopes.dedup();
    for (what, globs) in [("read", &new.read), ("write", &new.write)] {
        if globs.len() > GLOBS_MAX {
            wrong.push(format!("{} globs to {what} are more than {GLOBS_MAX}", globs.len()));
        }
        // All that are too many need not be looked at.
        for glob in globs.iter().take(GLOBS_MAX) {
            if let Err(why) = check_glob(glob) {
                wrong.push(format!("the glob {:?} to {what} {why}", shortened(glob)));
            }
        }
    }
    if wrong.is_empty() { Ok(scopes) } else { Err(Error::new(Code::KeyInvalid, wrong.join("; "))) }
}

/// A glob is text in which `*` stands for any run of characters and `?` for one; everything else is
/// itself. As strict as the policies' own reading, so that no key can make one refuse.
pub fn check_glob(glob: &str) -> Result<(), &'static str> {
    match glob {
        "" => Err("is empty"),
        _ if glob.chars().count() > GLOB_MAX => Err("has more than 128 characters"),
        _ if glob.contains("**") => Err("has `**`, and `*` crosses dots already"),
        _ if glob.chars().any(char::is_control) => Err("has control characters"),
        _ if glob.trim() != glob => Err("begins or ends with white space"),
        _ => Ok(()),
    }
}

/// What is quoted back of hostile input. Keys get pasted into wrong fields; those are not repeated.
fn shortened(text: &str) -> String {
    if text.contains(KEY_PREFIX) { "…".into() } else { text.chars().take(40).collect() }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
