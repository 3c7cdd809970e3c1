//! People of the dashboard: who may sign in, in which role and groups, and what groups are granted. Knows storage
//! and time, no page and no session of a worker. Invariants: a password is never kept, compared or logged in the
//! clear; whoever is removed or changed is signed out before that change is answered.

mod alias;
mod directory;
mod password;
mod refusals;
mod signed_in;
mod stream_token;
#[cfg(test)]
mod tests;
mod throttle;

pub use alias::Aliases;
pub use directory::Directory;
pub use signed_in::{SignInToken, SignedIn};
pub use stream_token::STREAM_TOKEN_MINUTES;

use crate::{
    clock::Clock,
    error::{Code, Error, Result},
    storage::{AuditRow, PersonRow, Storage},
};
use parking_lot::Mutex;
use password::Passwords;
use refusals::Refusals;
use signed_in::SignIns;
use std::{collections::HashMap, fmt, hash::Hash, net::IpAddr, sync::Arc, time::Duration};
use stream_token::StreamKey;
use throttle::Throttle;
use tidegate_policy::Person as Asked;
use tokio::sync::watch;

/// How many people may be known; guessed, more belong into a directory service.
const PEOPLE_MAX: usize = 1_000;
/// How many grants.
const GRANTS_MAX: usize = 10_000;
/// Characters of names and groups, and of tags.
const NAME_MAX: usize = 64;
const TAG_MAX: usize = 128;
/// Groups of one person.
const GROUPS_MAX: usize = 64;
/// Rows on a page of the audit.
const AUDIT_SHOWN: u32 = 200;

/// What a person may do on the dashboard (H-02).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sees what the policy says and changes things.
    Admin,
    /// Sees what the policy says.
    Viewer,
}

/// Who knows a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The gateway's own storage: present for as long as it is there.
    Local,
    /// The directory service: as it was when the person signed in, for as long as one sign-in lasts.
    Directory,
}

/// Somebody who may sign in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    pub name: Arc<str>,
    pub role: Role,
    pub groups: Arc<[String]>,
    pub source: Source,
}

/// What is to be stored of a person.
pub struct NewPerson {
    pub name: String,
    pub role: Role,
    pub groups: Vec<String>,
    pub password: String,
}

/// All people; clones are the same.
#[derive(Clone)]
pub struct People {
    shared: Arc<Shared>,
}

struct Shared {
    storage: Storage,
    clock: Arc<dyn Clock>,
    passwords: Passwords,
    /// `None`: local people only.
    directory: Option<Directory>,
    signed_in: Mutex<SignIns>,
    throttle: Mutex<Throttle>,
    refusals: Mutex<Refusals>,
    stream_key: StreamKey,
    /// What people are called in the log.
    aliases: Aliases,
    /// Rises with every change of a person or a grant.
    changed: watch::Sender<u64>,
}

// === impl Role ===

impl Role {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::Viewer => "Viewer",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Admin, Self::Viewer].into_iter().find(|role| role.as_str().eq_ignore_ascii_case(text))
    }
}

// === impl Person ===

impl Person {
    /// As the dashboard-tags policy is asked about it.
    pub fn asked(&self) -> Asked {
        Asked { name: self.name.to_string(), roles: vec![self.role.as_str().to_owned()], groups: self.groups.to_vec() }
    }

    fn from_row(row: &PersonRow) -> Self {
        // A role that this version does not know may do nothing beyond seeing.
        let role = Role::parse(&row.role).unwrap_or(Role::Viewer);
        Self { name: row.name.as_str().into(), role, groups: row.groups.clone().into(), source: Source::Local }
    }
}

// === impl People ===

impl People {
    pub fn new(storage: Storage, clock: Arc<dyn Clock>, directory: Option<Directory>, aliases: Aliases) -> Self {
        let shared = Shared {
            storage,
            clock,
            passwords: Passwords::default(),
            directory,
            signed_in: Mutex::default(),
            throttle: Mutex::default(),
            refusals: Mutex::default(),
            stream_key: StreamKey::mint(),
            aliases,
            changed: watch::Sender::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What the log calls somebody.
    pub fn alias(&self, name: &str) -> String {
        self.shared.aliases.of(name)
    }

    /// Whether somebody else is asked about names that are not known here.
    pub fn has_directory(&self) -> bool {
        self.shared.directory.is_some()
    }

    /// Wakes at every change of a person or a grant.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// Rises with every change of a person or a grant.
    pub fn revision(&self) -> u64 {
        *self.shared.changed.borrow()
    }

    /// Adds a person or replaces one, who is signed out by that.
    pub async fn put(&self, new: NewPerson) -> Result<()> {
        let NewPerson { name, role, groups, password } = new;
        let name = checked("name", &name, NAME_MAX)?;
        if groups.len() > GROUPS_MAX {
            return Err(invalid("groups", format!("a person has at most {GROUPS_MAX} groups")));
        }
        let groups = groups.iter().map(|group| checked("group", group, NAME_MAX)).collect::<Result<Vec<_>>>()?;
        let password = self.shared.passwords.hash(password).await?;
        let changed_unix_ms = self.shared.clock.unix_ms() as i64;
        let row = PersonRow { name: name.clone(), password, role: role.as_str().to_owned(), groups, changed_unix_ms };
        self.shared.storage.put_person(row, PEOPLE_MAX).await?;
        self.changed(Some(&name));
        tracing::info!(person = self.alias(&name), role = role.as_str(), "a person was stored");
        Ok(())
    }

    pub async fn remove(&self, name: &str) -> Result<()> {
        if !self.shared.storage.remove_person(name.to_owned()).await? {
            return Err(Error::new(Code::PersonUnknown, "there is no such person"));
        }
        self.changed(Some(name));
        tracing::info!(person = self.alias(name), "a person was removed");
        Ok(())
    }

    pub async fn list(&self) -> Result<Vec<Person>> {
        Ok(self.shared.storage.people().await?.iter().map(Person::from_row).collect())
    }

    /// Lets a group see the sessions of a tag, as far as the policy follows grants.
    pub async fn grant(&self, group: &str, tag: &str) -> Result<()> {
        let (group, tag) = (checked("group", group, NAME_MAX)?, checked("tag", tag, TAG_MAX)?);
        self.shared.storage.put_grant(group, tag, GRANTS_MAX).await?;
        self.changed(None);
        Ok(())
    }

    pub async fn take_grant(&self, group: &str, tag: &str) -> Result<()> {
        if !self.shared.storage.remove_grant(group.to_owned(), tag.to_owned()).await? {
            return Err(Error::new(Code::PersonUnknown, "there is no such grant"));
        }
        self.changed(None);
        Ok(())
    }

    /// Group and tag.
    pub async fn grants(&self) -> Result<Vec<(String, String)>> {
        self.shared.storage.group_grants().await
    }

    /// Checks a password. Wrong names and wrong passwords answer alike; too many of them have to wait
    /// (`signin.throttled`), and whoever leaves before the answer has tried. A name that is known here is never looked up in the
    /// directory, in whatever case.
    pub async fn sign_in(&self, name: &str, password: String, peer: Option<IpAddr>) -> Result<(SignInToken, SignedIn)> {
        let shared = &self.shared;
        let admitted = shared.throttle.lock().admit(name, peer, shared.clock.monotonic_ms())?;
        let (token, signed_in) = loop {
            let before = self.revision();
            let person = match self.known(name, password.clone()).await {
                Ok(Some(person)) => person,
                Ok(None) => {
                    tracing::info!(peer = ?peer, "a sign-in was refused");
                    return Err(Error::new(Code::SignInFailed, "name or password is wrong"));
                }
                Err(error) => {
                    shared.throttle.lock().taken_back(admitted);
                    return Err(error);
                }
            };
            let (token, signed_in) = shared.signed_in.lock().add(person, shared.clock.monotonic_ms());
            if self.revision() == before {
                break (token, signed_in);
            }
            // People changed while the password was compared: whether it is still right is asked again.
            self.sign_out(token.expose());
        };
        shared.throttle.lock().succeeded(admitted, name, peer);
        let person = &signed_in.person;
        tracing::info!(person = self.alias(&person.name), source = ?person.source, peer = ?peer, "signed in");
        Ok((token, signed_in))
    }

    /// The person of this name and password.
    async fn known(&self, name: &str, password: String) -> Result<Option<Person>> {
        let shared = &self.shared;
        let name = checked("name", name, NAME_MAX).ok();
        let row = match &name {
            Some(name) => shared.storage.person(name.clone()).await?,
            None => None,
        };
        if let (None, Some(name), Some(directory)) = (&row, &name, &shared.directory)
            && !shared.storage.is_person_in_any_case(name.clone()).await?
        {
            return directory.sign_in(name, &password).await;
        }
        // Without a row it costs the same.
        let right = shared.passwords.verify(row.as_ref().map(|row| row.password.clone()), password).await?;
        Ok(row.filter(|_| right).as_ref().map(Person::from_row))
    }

    /// Who holds this token.
    pub fn who(&self, token: &str) -> Result<SignedIn> {
        let now_ms = self.shared.clock.monotonic_ms();
        let held = self.shared.signed_in.lock().find(token, now_ms);
        held.ok_or_else(|| Error::new(Code::SignInFailed, "nobody is signed in here, or no longer"))
    }

    pub fn sign_out(&self, token: &str) {
        self.shared.signed_in.lock().remove(token);
    }

    /// A token for one stream: of this sign-in, with name, role and tags, for 30 minutes (H-04).
    pub fn stream_token(&self, signed_in: &SignedIn, tags: Option<&[String]>) -> String {
        self.shared.stream_key.sign(signed_in, tags, self.shared.clock.unix_ms())
    }

    /// The sign-in of a stream token, if it lasts, and for how long this token is good. Rights are asked anew.
    pub fn of_stream(&self, token: &str) -> Result<(SignedIn, Duration)> {
        let (id, token_ms) = self.shared.stream_key.verify(token, self.shared.clock.unix_ms())?;
        let now_ms = self.shared.clock.monotonic_ms();
        let signed_in = self.shared.signed_in.lock().get(id, now_ms).ok_or_else(stream_token::invalid)?;
        let left = Duration::from_millis(signed_in.left_ms(now_ms).min(token_ms));
        Ok((signed_in, left))
    }

    /// Writes down what somebody changed, or tried to: very many tries in vain only now and then, with their number. A
    /// failure is logged: the change itself is done.
    pub async fn audit(&self, who: &str, what: &str, target: &str, result: &Result<()>) {
        let shared = &self.shared;
        let left_out = match result {
            Ok(()) => Some(0),
            Err(_) => shared.refusals.lock().again(who, shared.clock.monotonic_ms()),
        };
        let Some(left_out) = left_out else { return };
        let outcome = result.as_ref().map_or_else(|error| error.code().as_str(), |()| "done");
        tracing::info!(person = self.alias(who), what, target, outcome, left_out, "changed on the dashboard");
        let more = if left_out > 0 { format!(" (and {left_out} refused tries before)") } else { String::new() };
        let row = AuditRow {
            seq: 0,
            at_unix_ms: shared.clock.unix_ms() as i64,
            who: who.to_owned(),
            what: what.to_owned(),
            target: format!("{target}{more}"),
            outcome: outcome.to_owned(),
        };
        if let Err(error) = shared.storage.add_audit(row).await {
            tracing::warn!(%error, "a change was not written to the audit");
        }
    }

    /// A page of changes, newest first, and whether there are older ones. `before`: older than this row.
    pub async fn audited(&self, before: Option<i64>, done_only: bool) -> Result<(Vec<AuditRow>, bool)> {
        let mut rows = self.shared.storage.audit(before, done_only, AUDIT_SHOWN + 1).await?;
        let more = rows.len() > AUDIT_SHOWN as usize;
        rows.truncate(AUDIT_SHOWN as usize);
        Ok((rows, more))
    }

    /// In this order: who signs in meanwhile is signed out here, or sees that something changed.
    fn changed(&self, name: Option<&str>) {
        self.shared.changed.send_modify(|revision| *revision += 1);
        if let Some(name) = name {
            self.shared.signed_in.lock().remove_all_of(name);
        }
    }
}

impl fmt::Debug for People {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("People").finish_non_exhaustive()
    }
}

impl fmt::Debug for NewPerson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewPerson").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

/// Makes room in a map that is bounded: what is oldest leaves.
fn forget_oldest<K: Clone + Eq + Hash, V>(map: &mut HashMap<K, V>, at_ms: impl Fn(&V) -> u64) {
    let oldest = map.iter().min_by_key(|(_, value)| at_ms(value)).map(|(key, _)| key.clone());
    oldest.map(|key| map.remove(&key));
}

fn checked(field: &'static str, text: &str, max: usize) -> Result<String> {
    let length = text.chars().count();
    if length == 0 || length > max || text.chars().any(char::is_control) || text.trim() != text {
        return Err(invalid(field, format!("{field} must have 1 to {max} characters, none of them for control")));
    }
    Ok(text.to_owned())
}

fn invalid(field: &'static str, why: String) -> Error {
    Error::new(Code::PersonInvalid, why).with("field", field)
}
