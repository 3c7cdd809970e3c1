//! The default access policy: owners and `sessions:all` reach a session, the key's globs and the
//! operator's settings say which tags. Knows nothing of sessions' state. Invariant: what no rule allows
//! is denied, and every answer names its rule.

use tidegate_plugin_sdk::access::{AccessPolicy, Action, Command, ItemVerdict, Principal, Session, Verdict};
use tidegate_plugin_sdk::{Policy, glob, settings};

/// Who may open sessions and use its own.
pub const SCOPE_OWN: &str = "sessions:own";
/// Who may use everybody's, too.
pub const SCOPE_ALL: &str = "sessions:all";

/// Indexes into [`Policy::RULES`], in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Rule {
    Gateway,
    Owner,
    SessionsAll,
    NoScope,
    NotOwner,
    SettingsDeny,
    SettingsWritable,
    SettingsAllow,
    KeyRead,
    KeyWrite,
    SettingsCertificate,
}

/// What an operator can set in `access.toml` or `access.json`.
#[settings]
#[derive(Debug)]
pub struct Settings {
    /// Tags nobody reads or writes, whatever else allows them.
    #[setting(max_items = 1024, max_length = 512)]
    deny: Vec<String>,
    /// The only tags that are ever written; absent: those that the keys allow.
    #[setting(max_items = 1024, max_length = 512)]
    writable: Option<Vec<String>>,
    /// If there are any, a tag has to be allowed by one of them, beside the key's own constraints.
    #[setting(max_items = 1024)]
    allow: Vec<AllowRule>,
    /// If there are any, a key is worth something only beside a client certificate of such a name.
    #[setting(max_items = 1024, max_length = 512)]
    certificates: Vec<String>,
}

/// Tags for some keys.
#[settings]
#[derive(Debug)]
struct AllowRule {
    /// Glob over key ids.
    #[setting(required, max_length = 512)]
    key: String,
    /// Globs of tags that they read.
    #[setting(max_items = 1024, max_length = 512)]
    read: Vec<String>,
    /// Globs of tags that they write.
    #[setting(max_items = 1024, max_length = 512)]
    write: Vec<String>,
    /// Glob over the names in the client's certificate, `CN=historian` or `dns=*.plant.example`; absent: any client.
    #[setting(max_length = 512)]
    certificate: Option<String>,
}

/// The configured policy.
#[derive(Debug)]
pub struct Access {
    settings: Settings,
}

tidegate_plugin_sdk::export_access!(Access);

// === impl Access ===

impl Policy for Access {
    type Settings = Settings;
    const NAME: &'static str = "access";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const RULES: &'static [(&'static str, &'static str)] = &[
        ("gateway", "the gateway itself asks"),
        ("owner", "the session is the key's own, or is being opened"),
        ("sessions-all", "the key reaches every session"),
        ("no-scope", "the key has neither the scope sessions:own nor sessions:all"),
        ("not-owner", "the session belongs to another key"),
        ("settings-deny", "the settings deny this tag"),
        ("settings-writable", "the settings do not let this tag be written"),
        ("settings-allow", "no allow rule of the settings covers this key and tag"),
        ("key-read", "the key may not read this tag"),
        ("key-write", "the key may not write this tag"),
        ("settings-certificate", "the settings ask for a client certificate with another name"),
    ];
    const VECTORS: &'static str = include_str!("../vectors.toml");

    fn configure(settings: Settings) -> Result<Self, String> {
        glob::check_all(&settings.deny).map_err(|e| format!("deny: {e}"))?;
        glob::check_all(settings.writable.iter().flatten()).map_err(|e| format!("writable: {e}"))?;
        glob::check_all(&settings.certificates).map_err(|e| format!("certificates: {e}"))?;
        for (at, rule) in settings.allow.iter().enumerate() {
            glob::check(&rule.key)
                .and_then(|()| glob::check_all(&rule.certificate))
                .and_then(|()| glob::check_all(rule.read.iter().chain(&rule.write)))
                .map_err(|e| format!("allow[{at}]: {e}"))?;
        }
        Ok(Self { settings })
    }
}

impl AccessPolicy for Access {
    fn decide(&self, who: &Principal, place: &Session, what: &Action) -> Verdict {
        let gate = match what {
            Action::Open => self.scope(who),
            Action::Read | Action::Resume(_) | Action::Close | Action::Command(_) => self.owner_gate(who, place),
        };
        answer(gate.and_then(|by| match what {
            Action::Command(command) if !command.tag.is_empty() => self.command(who, command).map(|()| by),
            _ => Ok(by),
        }))
    }

    fn may_read(&self, who: &Principal, place: &Session, tag: &str) -> ItemVerdict {
        match self.owner_gate(who, place).and_then(|by| self.read(who, tag).map(|()| by)) {
            Ok(by) => ItemVerdict::allow(by as u16),
            Err(by) => ItemVerdict::deny(by as u16),
        }
    }
}

impl Access {
    fn scope(&self, who: &Principal) -> Result<Rule, Rule> {
        // The gateway's own readers (the dashboard's mirror) come without a key.
        if who.id.is_empty() {
            return Ok(Rule::Gateway);
        }
        let by = scope(who)?;
        let wanted = &self.settings.certificates;
        if wanted.is_empty() || wanted.iter().any(|glob| shows(who, glob)) {
            Ok(by)
        } else {
            Err(Rule::SettingsCertificate)
        }
    }

    fn owner_gate(&self, who: &Principal, place: &Session) -> Result<Rule, Rule> {
        match self.scope(who)? {
            Rule::Owner if place.owner != who.id => Err(Rule::NotOwner),
            by => Ok(by),
        }
    }

    /// Methods that return values need the right to read, those that set them the right to write; the
    /// rest (adding, advising, suspending) either.
    fn command(&self, who: &Principal, command: &Command) -> Result<(), Rule> {
        let tag = &command.tag;
        if command.method.starts_with("write") {
            self.write(who, tag)
        } else if command.method.starts_with("read") {
            self.read(who, tag)
        } else {
            self.read(who, tag).or_else(|by| self.write(who, tag).map_err(|_| by))
        }
    }

    fn read(&self, who: &Principal, tag: &str) -> Result<(), Rule> {
        if glob::any(&self.settings.deny, tag) {
            return Err(Rule::SettingsDeny);
        }
        if !who.read.is_empty() && !glob::any(&who.read, tag) {
            return Err(Rule::KeyRead);
        }
        self.allowed(who, tag, |rule| &rule.read)
    }

    fn write(&self, who: &Principal, tag: &str) -> Result<(), Rule> {
        if glob::any(&self.settings.deny, tag) {
            return Err(Rule::SettingsDeny);
        }
        if self.settings.writable.as_ref().is_some_and(|globs| !glob::any(globs, tag)) {
            return Err(Rule::SettingsWritable);
        }
        if !who.write.is_empty() && !glob::any(&who.write, tag) {
            return Err(Rule::KeyWrite);
        }
        self.allowed(who, tag, |rule| &rule.write)
    }

    fn allowed(&self, who: &Principal, tag: &str, globs: impl Fn(&AllowRule) -> &Vec<String>) -> Result<(), Rule> {
        let rules = &self.settings.allow;
        let by_some = rules.iter().any(|rule| {
            glob::matches(&rule.key, &who.id)
                && rule.certificate.as_ref().is_none_or(|glob| shows(who, glob))
                && glob::any(globs(rule), tag)
        });
        if rules.is_empty() || who.id.is_empty() || by_some { Ok(()) } else { Err(Rule::SettingsAllow) }
    }
}

fn scope(who: &Principal) -> Result<Rule, Rule> {
    if has(who, SCOPE_ALL) {
        Ok(Rule::SessionsAll)
    } else if has(who, SCOPE_OWN) {
        Ok(Rule::Owner)
    } else {
        Err(Rule::NoScope)
    }
}

/// Whether the client showed a certificate with such a name.
fn shows(who: &Principal, glob: &str) -> bool {
    who.certificate.iter().any(|name| glob::matches(glob, name))
}

fn has(who: &Principal, scope: &str) -> bool {
    who.scopes.iter().any(|have| have == scope)
}

fn answer(by: Result<Rule, Rule>) -> Verdict {
    match by {
        Ok(by) => Verdict::allow(by as u16),
        Err(by) => Verdict::deny(by as u16),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugin_sdk::access::Resumption;

    fn key(id: &str, scope: &str, read: &[&str], write: &[&str]) -> Principal {
        let all = |of: &[&str]| of.iter().map(|s| (*s).to_owned()).collect();
        Principal { id: id.into(), scopes: all(&[scope]), read: all(read), write: all(write), ..Principal::default() }
    }

    fn session_of(owner: &str) -> Session {
        Session { id: "session-1".into(), owner: owner.into(), tag: "line-1".into(), backend: "sim".into() }
    }

    fn policy(settings: &str) -> Access {
        Access::configure(serde_json::from_str(settings).expect("settings")).expect("policy")
    }

    fn command(method: &str, tag: &str) -> Action {
        Action::command(method, tag)
    }

    fn rule_of(verdict: Verdict) -> (bool, &'static str) {
        (verdict.allow, Access::RULES[verdict.rule as usize].0)
    }

    // shows: S-13
    #[test]
    fn a_session_is_for_its_owner_and_for_sessions_all() {
        let p = policy("{}");
        let place = session_of("a");
        for what in [Action::Read, Action::Resume(Resumption { behind: 5 }), Action::Close, command("register", "")] {
            assert_eq!(rule_of(p.decide(&key("a", SCOPE_OWN, &[], &[]), &place, &what)), (true, "owner"));
            assert_eq!(rule_of(p.decide(&key("b", SCOPE_OWN, &[], &[]), &place, &what)), (false, "not-owner"));
            assert_eq!(rule_of(p.decide(&key("b", SCOPE_ALL, &[], &[]), &place, &what)), (true, "sessions-all"));
            assert_eq!(rule_of(p.decide(&key("a", "admin", &[], &[]), &place, &what)), (false, "no-scope"));
        }
    }

    // shows: S-07
    #[test]
    fn globs_of_the_key_bound_reading_and_writing() {
        let p = policy("{}");
        let (who, place) = (key("a", SCOPE_OWN, &["Area1.*"], &["*.Setpoint"]), session_of("a"));
        assert!(p.may_read(&who, &place, "AREA1.Pump7.Flow").allow);
        assert!(!p.may_read(&who, &place, "Area2.Pump7.Flow").allow);
        assert_eq!(rule_of(p.decide(&who, &place, &command("write", "Area1.Pump7.Flow"))), (false, "key-write"));
        assert_eq!(rule_of(p.decide(&who, &place, &command("write2", "Area9.Setpoint"))), (true, "owner"));
        assert_eq!(rule_of(p.decide(&who, &place, &command("read-bulk", "Area9.Setpoint"))), (false, "key-read"));
        assert_eq!(rule_of(p.decide(&who, &place, &command("add-item", "Area9.Setpoint"))), (true, "owner"));
        assert_eq!(rule_of(p.decide(&who, &place, &command("add-item", "Area9.Flow"))), (false, "key-read"));
    }

    #[test]
    fn settings_narrow_and_never_widen() {
        let p = policy(
            r#"{"deny": ["*.Secret"], "writable": ["Area1.*"], "allow": [{"key": "a*", "read": ["*"], "write": ["*"]}]}"#,
        );
        let place = session_of("a");
        let a = key("a", SCOPE_ALL, &[], &[]);
        assert_eq!(rule_of(p.decide(&a, &place, &command("write", "Area1.Secret"))), (false, "settings-deny"));
        assert_eq!(rule_of(p.decide(&a, &place, &command("write", "Area2.X"))), (false, "settings-writable"));
        assert_eq!(rule_of(p.decide(&a, &place, &command("write", "Area1.X"))), (true, "sessions-all"));
        assert!(!p.may_read(&key("b", SCOPE_ALL, &[], &[]), &place, "Area1.X").allow);
        assert!(!p.may_read(&key("a", SCOPE_ALL, &["Area2.*"], &[]), &place, "Area1.X").allow);
    }

    #[test]
    fn a_certificate_is_asked_for_beside_the_key_and_never_instead_of_it() {
        let place = session_of("a");
        let with = |scope: &str, names: &[&str]| Principal {
            certificate: names.iter().map(|s| (*s).to_owned()).collect(),
            ..key("a", scope, &[], &[])
        };
        let p = policy(r#"{"certificates": ["CN=historian*", "dns=*.plant.example"]}"#);
        let decided = |scope: &str, names: &[&str]| rule_of(p.decide(&with(scope, names), &place, &Action::Read));
        assert_eq!(decided(SCOPE_OWN, &[]), (false, "settings-certificate"));
        assert_eq!(decided(SCOPE_OWN, &["CN=other", "O=historian"]), (false, "settings-certificate"));
        assert_eq!(decided(SCOPE_OWN, &["CN=historian-2"]), (true, "owner"));
        assert_eq!(decided(SCOPE_OWN, &["dns=h.plant.example"]), (true, "owner"));
        assert_eq!(decided("CN=historian", &["CN=historian"]), (false, "no-scope"), "a certificate alone is no key");
        assert!(p.may_read(&Principal { id: String::new(), ..with("", &[]) }, &place, "X").allow, "the gateway itself");
        let p = policy(
            r#"{"allow": [{"key": "*", "read": ["*"]}, {"key": "*", "certificate": "CN=writer", "write": ["*"]}]}"#,
        );
        let write = |names: &[&str]| rule_of(p.decide(&with(SCOPE_OWN, names), &place, &command("write", "X")));
        assert_eq!(write(&[]), (false, "settings-allow"));
        assert_eq!(write(&["CN=writer"]), (true, "owner"));
        assert!(p.may_read(&with(SCOPE_OWN, &[]), &place, "X").allow);
    }

    #[test]
    fn wrong_settings_are_said() {
        let bad = |settings| serde_json::from_str(settings).map_err(|e| e.to_string()).and_then(Access::configure);
        assert!(bad(r#"{"deny": [""]}"#).unwrap_err().starts_with("deny:"));
        assert!(bad(r#"{"dney": []}"#).is_err());
        assert!(bad(r#"{"certificates": ["**"]}"#).unwrap_err().starts_with("certificates:"));
        assert!(bad(r#"{"allow": [{"key": "a", "certificate": ""}]}"#).unwrap_err().starts_with("allow[0]:"));
        assert!(bad(r#"{"allow": [{"key": "**"}]}"#).unwrap_err().starts_with("allow[0]:"));
    }
}
