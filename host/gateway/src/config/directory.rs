//! What is said about a directory service (LDAP): where it is, how a person and their groups are found in it, which
//! groups mean which role. Knows texts, asks nobody. Invariant: settings that exist name one way to find a person, and
//! send no password in the clear to another machine unless the words for that were said.

use super::read::{Reader, quoted};
use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

/// Longest name, filter or list of groups, bytes.
const TEXT_MAX: usize = 4096;
const NAME: &str = "{name}";
const DN: &str = "{dn}";

/// A directory in which people are looked up who are not local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectorySettings {
    /// `ldap://` or `ldaps://`, a host, a port where one was given.
    pub url: String,
    /// Only with `ldap://`.
    pub start_tls: bool,
    /// `None`: the authorities of this machine.
    pub ca: Option<PathBuf>,
    pub find: FindPerson,
    /// `None`: `memberOf` of the person's entry.
    pub groups: Option<GroupSearch>,
    /// Whose people are Admin.
    pub admin_groups: Vec<String>,
    /// Whose people are Viewer; empty: everybody.
    pub viewer_groups: Vec<String>,
    /// For a whole sign-in.
    pub timeout: Duration,
}

/// How a person's name in the directory comes of what was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FindPerson {
    /// A name with `{name}` in it.
    Template(String),
    /// A filter with `{name}` in it, at and below `base`.
    Search { base: String, filter: String, account: Option<ServiceAccount> },
}

/// As whom the gateway searches.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    pub dn: String,
    pub password_file: PathBuf,
}

/// How the groups of a person are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSearch {
    pub base: String,
    /// With `{dn}` or `{name}` in it.
    pub filter: String,
    /// Holds a group's name.
    pub attribute: String,
}

impl fmt::Debug for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServiceAccount").field("dn", &self.dn).finish_non_exhaustive()
    }
}

// === impl Reader ===

impl Reader {
    /// `None`: no directory was named, or what was said is wrong.
    pub(super) fn directory(&mut self) -> Option<DirectorySettings> {
        let url = self.bounded("ldap_url");
        let (start_tls, insecure) = (self.truth("ldap_starttls"), self.truth("ldap_insecure"));
        let ca = self.path("ldap_ca");
        let template = self.bounded("ldap_bind");
        let base = self.bounded("ldap_search_base");
        let filter = self.bounded("ldap_search_filter").unwrap_or_default();
        let account = self.account();
        let group_base = self.bounded("ldap_group_base");
        let group_filter = self.bounded("ldap_group_filter").unwrap_or_default();
        let attribute = self.bounded("ldap_group_attribute").unwrap_or_default();
        let admin_groups = self.names("ldap_admin_groups");
        let viewer_groups = self.names("ldap_viewer_groups");
        let timeout = self.seconds("ldap_timeout_seconds");

        let Some(url) = url else {
            let others =
                [("ldap_bind", template.is_some()), ("ldap_search_base", base.is_some()), ("ldap_ca", ca.is_some())];
            for (key, _) in others.into_iter().filter(|(_, said)| *said) {
                self.wrong(key, "there is no directory; name it with ldap_url".into());
            }
            return None;
        };
        let place = self.place(&url);
        let (secure, host) = place.clone().unwrap_or_default();
        let is_near = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback());
        if place.is_some() && !secure && !start_tls && !is_near && !insecure {
            let why = "passwords would cross the network readable for everybody on it; leave ldap_starttls on, use \
                       ldaps://, or add ldap_insecure if they may be read on the way";
            self.wrong("ldap_starttls", why.into());
        }
        if !group_filter.contains(DN) && !group_filter.contains(NAME) {
            self.wrong(
                "ldap_group_filter",
                "it has neither {dn} nor {name}: everybody would be in the same groups".into(),
            );
        }
        if attribute.is_empty() || !attribute.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | ';' | '.'))
        {
            self.wrong("ldap_group_attribute", format!("{} is no attribute; write e.g. cn", quoted(&attribute)));
        }
        let find = match (template, base) {
            (Some(template), None) => {
                if template.matches(NAME).count() != 1 {
                    self.wrong("ldap_bind", "it needs {name} once, for what was typed".into());
                }
                if account.is_some() {
                    self.wrong(
                        "ldap_search_dn",
                        "nothing is searched for with ldap_bind; people read their own groups".into(),
                    );
                }
                FindPerson::Template(template)
            }
            (None, Some(base)) => {
                if !filter.contains(NAME) {
                    self.wrong("ldap_search_filter", "it has no {name}: everybody would be the same person".into());
                }
                FindPerson::Search { base, filter, account }
            }
            (template, _) => {
                let why = match template {
                    Some(_) => "either ldap_bind or ldap_search_base, not both",
                    None => "how is a person found? Name ldap_bind or ldap_search_base",
                };
                self.wrong("ldap_bind", why.into());
                return None;
            }
        };
        let groups = group_base.map(|base| GroupSearch { base, filter: group_filter, attribute });
        Some(DirectorySettings {
            url,
            start_tls: start_tls && !secure,
            ca,
            find,
            groups,
            admin_groups,
            viewer_groups,
            timeout,
        })
    }

    /// Whether the address speaks TLS from the first byte, and its host.
    fn place(&mut self, url: &str) -> Option<(bool, String)> {
        let parsed = url
            .strip_prefix("ldaps://")
            .map(|rest| (true, rest))
            .or_else(|| url.strip_prefix("ldap://").map(|rest| (false, rest)))
            .and_then(|(secure, rest)| {
                let authority = rest.trim_end_matches('/');
                let plain =
                    authority.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']'));
                let (host, port) = match authority.strip_prefix('[') {
                    Some(rest) => rest.split_once(']').map(|(host, port)| (host, port.strip_prefix(':')))?,
                    None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
                };
                let port_is_right = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
                (plain && !host.is_empty() && port_is_right).then(|| (secure, host.to_ascii_lowercase()))
            });
        if parsed.is_none() {
            let why = format!("{} is no directory's address; write e.g. ldaps://ldap.plant.example", quoted(url));
            self.wrong("ldap_url", why);
        }
        parsed
    }

    fn account(&mut self) -> Option<ServiceAccount> {
        let (dn, password_file) = (self.bounded("ldap_search_dn"), self.path("ldap_search_password_file"));
        match (dn, password_file) {
            (Some(dn), Some(password_file)) => Some(ServiceAccount { dn, password_file }),
            (Some(_), None) => {
                self.wrong("ldap_search_password_file", "the name to search as has a password; name its file".into());
                None
            }
            (None, Some(_)) => {
                self.wrong("ldap_search_dn", "whose password is it? Name the one to search as".into());
                None
            }
            (None, None) => None,
        }
    }

    fn bounded(&mut self, key: &'static str) -> Option<String> {
        let text = self.text(key)?;
        if text.len() > TEXT_MAX || text.chars().any(char::is_control) {
            self.wrong(key, format!("it has more than {TEXT_MAX} bytes, or one for control"));
        }
        (!text.trim().is_empty()).then(|| text.trim().to_owned())
    }

    fn names(&mut self, key: &'static str) -> Vec<String> {
        let text = self.bounded(key).unwrap_or_default();
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ServeArgs, ServeConfig};

    const URL: (&str, &str) = ("ldap_url", "ldap://ldap.plant.example");
    const BIND: (&str, &str) = ("ldap_bind", "uid={name},dc=example");

    fn wrong(flags: &[(&str, &str)]) -> String {
        ServeConfig::load(&ServeArgs::of(flags)).expect_err("wrong").message().to_owned()
    }

    fn right(flags: &[(&str, &str)]) -> DirectorySettings {
        ServeConfig::load(&ServeArgs::of(flags)).expect("valid").directory.expect("a directory")
    }

    // shows: H-02, H-06
    #[test]
    fn a_directory_is_asked_with_tls_unless_it_is_near_or_the_words_for_that_were_said() {
        assert!(right(&[URL, BIND]).start_tls);
        assert!(!right(&[("ldap_url", "ldaps://ldap.plant.example:1636"), BIND]).start_tls);
        let off = ("ldap_starttls", "false");
        let said = wrong(&[URL, BIND, off]);
        assert!(said.contains("ldap-starttls") && said.contains("ldap_insecure"), "{said}");
        assert!(!right(&[URL, BIND, off, ("ldap_insecure", "true")]).start_tls);
        for near in ["ldap://localhost", "ldap://127.0.0.1:1389/", "ldap://[::1]:389"] {
            assert!(!right(&[("ldap_url", near), BIND, off]).start_tls, "{near}");
        }
        for far in ["ldap://127.0.0.1.evil.example", "ldap://10.0.0.1", "ldap://localhost.evil.example"] {
            wrong(&[("ldap_url", far), BIND, off]);
        }
        assert_eq!(ServeConfig::default().directory, None);
    }

    #[test]
    fn what_cannot_find_a_person_or_a_directory_is_refused_by_name() {
        for url in ["http://a", "ldap://", "ldap://a:0", "ldap://a:b", "ldap://user@a", "ldap://a/dc=x", "ldap://[::1"]
        {
            assert!(wrong(&[("ldap_url", url), BIND]).contains("ldap-url"), "{url}");
        }
        let search = ("ldap_search_base", "dc=example");
        for (flags, part) in [
            (&[URL][..], "how is a person found"),
            (&[BIND], "there is no directory"),
            (&[URL, BIND, search], "not both"),
            (&[URL, ("ldap_bind", "uid=ada")], "needs {name} once"),
            (&[URL, search, ("ldap_search_filter", "(uid=ada)")], "no {name}"),
            (&[URL, search, ("ldap_search_dn", "cn=reader")], "has a password"),
            (&[URL, search, ("ldap_search_password_file", "x")], "whose password"),
            (&[URL, BIND, ("ldap_group_filter", "(cn=all)")], "same groups"),
            (&[URL, BIND, ("ldap_group_attribute", "c n")], "no attribute"),
            (&[URL, BIND, ("ldap_timeout_seconds", "0")], "ldap-timeout-seconds"),
        ] {
            let said = wrong(flags);
            assert!(said.contains(part), "{part}: {said}");
        }
        let settings = right(&[URL, search, ("ldap_admin_groups", " ops , , night shift")]);
        assert_eq!(settings.admin_groups, ["ops", "night shift"]);
        assert!(matches!(settings.find, FindPerson::Search { ref filter, .. } if filter == "(uid={name})"));
    }
}
