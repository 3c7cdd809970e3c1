//! People of a directory service (LDAP): a password is tried by binding as its person, groups are read, the role follows
//! from them. The only place that knows ldap3; keeps no password but the gateway's own, and no connection. Invariants:
//! nothing that was typed reaches a name or a filter unescaped, and an empty password, which servers take for
//! nobody's, is never sent.

#[cfg(test)]
mod tests;

use super::{GROUPS_MAX, NAME_MAX, Person, Role, Source};
use crate::{
    config::{DirectorySettings, FindPerson, ServiceAccount},
    error::{Code, Error, Result},
    tls::ClientTls,
};
use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchEntry, SearchOptions, dn_escape, ldap_escape,
    parse_filter,
};
use std::{fs, io::Read as _, os::unix::fs::PermissionsExt as _, path::Path};
use tokio::sync::Semaphore;

/// Questions at a time; more wait within their time. Guessed.
const AT_ONCE: usize = 8;
/// Groups that are looked at for a role; people of large directories have some hundred.
const GROUPS_READ: usize = 1_000;
/// Where entries name their groups, if no groups are searched for.
const MEMBER_OF: &str = "memberOf";
/// Bytes of the file with the gateway's own password.
const PASSWORD_MAX: u64 = 4096;

/// Codes of results (RFC 4511, section 4.1.9) that say no to this name with this password, rather than that something
/// is out of order: no such attribute or object, a name that is none, refused by rule, wrong credentials.
const SAYS_NO: &[u32] = &[16, 19, 32, 34, 48, 49, 50, 53];
const SUCCESS: u32 = 0;
const SIZE_LIMIT: u32 = 4;
/// There is more elsewhere, where nobody is asked.
const REFERRAL: u32 = 10;

/// The directory of a gateway.
pub struct Directory {
    settings: DirectorySettings,
    /// Name and password to search as.
    account: Option<(String, String)>,
    tls: Option<ClientTls>,
    places: Semaphore,
}

/// What was found of somebody whose password is right.
struct Found {
    groups: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Ldap(#[from] LdapError),
    #[error("{what} was answered with code {code}")]
    Refused { what: &'static str, code: u32 },
    #[error("the connection ended")]
    Ended,
    #[error("it took longer than {0} s")]
    Late(u64),
}

// === impl Directory ===

impl Directory {
    /// Reads the files and tries the filters; asks nobody yet.
    pub fn new(settings: DirectorySettings) -> Result<Self> {
        let tls = settings.ca.as_deref().map(ClientTls::trusting).transpose()?;
        let (account, person) = match &settings.find {
            FindPerson::Search { filter, account, .. } => (account.as_ref().map(of_file).transpose()?, Some(filter)),
            FindPerson::Template(_) => (None, None),
        };
        for filter in person.into_iter().chain(settings.groups.as_ref().map(|groups| &groups.filter)) {
            if parse_filter(fill(filter, "name", "cn=name")).is_err() {
                return Err(Error::new(Code::ConfigInvalid, format!("{filter:?} is no filter of a directory")));
            }
        }
        Ok(Self { settings, account, tls, places: Semaphore::new(AT_ONCE) })
    }

    /// Somebody whose password is right; `None`: it is not, or there is no such person. In no group that has a role:
    /// `signin.no_role`. Nobody answers: `signin.directory`.
    pub(super) async fn sign_in(&self, name: &str, password: &str) -> Result<Option<Person>> {
        if name.is_empty() || password.is_empty() {
            return Ok(None);
        }
        let asked = async {
            let _place = self.places.acquire().await.expect("the semaphore is never closed");
            Box::pin(self.ask(name, password)).await
        };
        let answer = tokio::time::timeout(self.settings.timeout, asked).await;
        match answer.unwrap_or(Err(Trouble::Late(self.settings.timeout.as_secs()))) {
            Ok(None) => Ok(None),
            Ok(Some(found)) => self.person(name, found.groups).map(Some),
            Err(trouble) => {
                // Addresses and codes; what was typed is in none of them.
                tracing::warn!(url = self.settings.url, %trouble, "the directory gives no answer");
                let message = "the directory gives no answer; people of the gateway itself can sign in";
                Err(Error::new(Code::SignInDirectory, message))
            }
        }
    }

    async fn ask(&self, name: &str, password: &str) -> Result<Option<Found>, Trouble> {
        let mut connect = LdapConnSettings::new().set_starttls(self.settings.start_tls);
        if let Some(tls) = &self.tls {
            connect = connect.set_config(tls.config());
        }
        let (connection, mut ldap) = LdapConnAsync::with_settings(connect, &self.settings.url).await?;
        // The connection lives as long as the conversation, and ends with it.
        tokio::select! {
            ended = connection.drive() => Err(ended.map_or_else(Trouble::from, |()| Trouble::Ended)),
            found = self.converse(&mut ldap, name, password) => found,
        }
    }

    async fn converse(&self, ldap: &mut Ldap, name: &str, password: &str) -> Result<Option<Found>, Trouble> {
        let dn = match &self.settings.find {
            FindPerson::Template(template) => fill(template, &dn_escape(name), ""),
            FindPerson::Search { base, filter, .. } => {
                self.bind_as_ourselves(ldap).await?;
                let filter = fill(filter, &ldap_escape(name), "");
                // No attribute (RFC 4511, section 4.5.1.8): the name is all that is wanted. Two are nobody.
                let mut found = search(ldap, base, Scope::Subtree, &filter, "1.1", 2).await?;
                match (found.pop(), found.is_empty()) {
                    (Some(one), true) if !one.dn.is_empty() => one.dn,
                    (Some(_), false) => {
                        tracing::warn!("more than one person of the directory fits the name that was typed");
                        return Ok(None);
                    }
                    _ => return Ok(None),
                }
            }
        };
        let bound = ldap.simple_bind(&dn, password).await?.rc;
        match bound {
            SUCCESS => {}
            no if SAYS_NO.contains(&no) => return Ok(None),
            code => return Err(Trouble::Refused { what: "a person's password", code }),
        }
        Ok(Some(Found { groups: self.groups(ldap, name, &dn).await? }))
    }

    async fn bind_as_ourselves(&self, ldap: &mut Ldap) -> Result<(), Trouble> {
        let Some((dn, password)) = &self.account else { return Ok(()) };
        match ldap.simple_bind(dn, password).await?.rc {
            SUCCESS => Ok(()),
            code => Err(Trouble::Refused { what: "the gateway's own password", code }),
        }
    }

    /// Asked as the gateway where it has a name there, else as the person.
    async fn groups(&self, ldap: &mut Ldap, name: &str, dn: &str) -> Result<Vec<String>, Trouble> {
        self.bind_as_ourselves(ldap).await?;
        let Some(groups) = &self.settings.groups else {
            let own = search(ldap, dn, Scope::Base, "(objectClass=*)", MEMBER_OF, 1).await?;
            let named = own.into_iter().flat_map(|entry| values(entry, MEMBER_OF));
            return Ok(named.filter_map(|dn| first_part(&dn)).take(GROUPS_READ).collect());
        };
        let filter = fill(&groups.filter, &ldap_escape(name), &ldap_escape(dn));
        let found = search(ldap, &groups.base, Scope::Subtree, &filter, &groups.attribute, GROUPS_READ).await?;
        Ok(found.into_iter().filter_map(|entry| values(entry, &groups.attribute).into_iter().next()).collect())
    }

    /// Names are lower case here: a directory does not tell them apart, and grants, throttle and audit should not.
    fn person(&self, name: &str, mut groups: Vec<String>) -> Result<Person> {
        let Some(role) = role(&self.settings, &groups) else {
            let message = "none of your groups may sign in here; ask an administrator of the directory";
            return Err(Error::new(Code::SignInNoRole, message));
        };
        groups.retain(|group| super::checked("group", group, NAME_MAX).is_ok());
        groups.sort();
        groups.dedup();
        if groups.len() > GROUPS_MAX {
            tracing::warn!(groups = groups.len(), "a person of the directory is in more groups than are looked at");
            groups.truncate(GROUPS_MAX);
        }
        Ok(Person { name: name.to_lowercase().into(), role, groups: groups.into(), source: Source::Directory })
    }
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// At most `most` entries; a server that sends more is not listened to any longer.
async fn search(
    ldap: &mut Ldap,
    base: &str,
    scope: Scope,
    filter: &str,
    attribute: &str,
    most: usize,
) -> Result<Vec<SearchEntry>, Trouble> {
    let limit = i32::try_from(most).unwrap_or(i32::MAX);
    ldap.with_search_options(SearchOptions::new().sizelimit(limit));
    let mut stream = ldap.streaming_search(base, scope, filter, vec![attribute]).await?;
    let mut found = Vec::new();
    while let Some(entry) = stream.next().await? {
        if !entry.is_ref() && !entry.is_intermediate() {
            found.push(SearchEntry::construct(entry));
        }
        if found.len() >= most {
            break;
        }
    }
    match stream.finish().await.rc {
        SUCCESS | SIZE_LIMIT | REFERRAL => Ok(found),
        _ if found.len() >= most => Ok(found),
        code => Err(Trouble::Refused { what: "a search", code }),
    }
}

/// A directory's attributes have no case.
fn values(entry: SearchEntry, attribute: &str) -> Vec<String> {
    let found = entry.attrs.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(attribute));
    found.map(|(_, values)| values).unwrap_or_default()
}

/// Puts a name and a distinguished name, both escaped, where the template has their marks. What is put in is not looked
/// at again.
fn fill(template: &str, name: &str, dn: &str) -> String {
    let mut filled = String::with_capacity(template.len() + name.len() + dn.len());
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        filled.push_str(&rest[..at]);
        let (text, mark) = match &rest[at..] {
            here if here.starts_with("{name}") => (name, "{name}"),
            here if here.starts_with("{dn}") => (dn, "{dn}"),
            _ => ("{", "{"),
        };
        filled.push_str(text);
        rest = &rest[at + mark.len()..];
    }
    filled.push_str(rest);
    filled
}

/// `crew` of `CN=crew,OU=groups,DC=plant`. Names with escapes are left out: what they stand for is the server's matter.
fn first_part(dn: &str) -> Option<String> {
    let (_, value) = dn.split(',').next()?.split_once('=')?;
    let value = value.trim();
    (!value.is_empty() && !value.contains(['\\', '+', '#', '"'])).then(|| value.to_owned())
}

fn role(settings: &DirectorySettings, groups: &[String]) -> Option<Role> {
    let same = |one: &str, other: &str| one.to_lowercase() == other.to_lowercase();
    let is_in = |list: &[String]| groups.iter().any(|group| list.iter().any(|of| same(of, group)));
    if is_in(&settings.admin_groups) {
        return Some(Role::Admin);
    }
    (settings.viewer_groups.is_empty() || is_in(&settings.viewer_groups)).then_some(Role::Viewer)
}

fn of_file(account: &ServiceAccount) -> Result<(String, String)> {
    let wrong = |why: String| {
        let message = format!("ldap_search_password_file: {} {why}", account.password_file.display());
        Error::new(Code::ConfigInvalid, message)
    };
    let text = private_text(&account.password_file).map_err(wrong)?;
    let password = text.lines().next().unwrap_or_default().to_owned();
    // It would be nobody's bind, and succeed.
    if password.is_empty() { Err(wrong("has an empty first line".into())) } else { Ok((account.dn.clone(), password)) }
}

fn private_text(path: &Path) -> Result<String, String> {
    let file = fs::File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
    let mode = file.metadata().map_err(|error| format!("cannot be looked at: {error}"))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(format!("can be used by group or others (mode {mode:04o}); chmod 600 it"));
    }
    let mut text = String::new();
    file.take(PASSWORD_MAX).read_to_string(&mut text).map_err(|error| format!("cannot be read: {error}"))?;
    Ok(text)
}
