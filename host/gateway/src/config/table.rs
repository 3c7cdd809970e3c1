//! Every setting of `tidegate serve`, once: its key, what it may be, its default, what it does, when a change takes
//! effect. Flags, variables, the file, the example, the reference page and the bounds that are enforced all come
//! from here. Knows no value in force. Invariant: what is not in this table cannot be set.

use std::{collections::HashMap, sync::LazyLock};

/// One setting. Its flag is the key with hyphens, its variable the key in capitals after `TIDEGATE_`.
#[derive(Debug)]
pub struct Setting {
    /// As in the file.
    pub key: &'static str,
    pub part: Part,
    pub kind: Kind,
    /// As one would write it; empty: there is none.
    pub default: &'static str,
    /// A sentence or two, without the full stop at the end.
    pub what: &'static str,
    pub takes: Takes,
}

/// Under which heading it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Gateway,
    Sessions,
    EventLog,
    Workers,
    Policies,
    People,
}

/// What its text may be.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A folder or a file; relative ones are of the folder that the gateway was started in.
    Path(&'static str),
    /// `ADDRESS:PORT`, numeric.
    Address,
    /// True or false; on the command line its name alone says true.
    Switch,
    /// True or false, always written out.
    Truth,
    /// A whole number in these bounds, both included, of this unit.
    Number(&'static str, u64, u64),
    /// Bytes, or with KiB, MiB, GiB; at least 1 MiB.
    Bytes,
    Choice(&'static [&'static str]),
    /// Free text, checked by whoever reads it; how help calls it.
    Text(&'static str),
    /// Several texts of this form, or none.
    Texts(&'static str),
    /// `NAME=KIND:SETTINGS`, several.
    Backends,
}

/// When a changed value takes effect after a SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// At once, for everything that is there.
    Now,
    /// For sessions that are opened from then on.
    NewSessions,
    /// At the next start.
    Restart,
}

const fn set(
    key: &'static str,
    part: Part,
    kind: Kind,
    default: &'static str,
    takes: Takes,
    what: &'static str,
) -> Setting {
    Setting { key, part, kind, default, what, takes }
}

const fn count(least: u64, most: u64) -> Kind {
    Kind::Number("COUNT", least, most)
}

const fn seconds(least: u64, most: u64) -> Kind {
    Kind::Number("SECONDS", least, most)
}

const fn millis(least: u64, most: u64) -> Kind {
    Kind::Number("MS", least, most)
}

const YEAR: u64 = 31_536_000;

use Kind::{Address, Backends, Bytes, Choice, Path, Switch, Text, Truth};
use Part::{EventLog, Gateway, People, Policies, Sessions, Workers};
use Takes::{NewSessions, Now, Restart};

/// In the order in which people read them.
#[rustfmt::skip]
pub const SETTINGS: &[Setting] = &[
    set("data", Gateway, Path("DIR"), "data", Restart,
        "Folder of the database, sockets and keys; made private (0700)"),
    set("listen", Gateway, Address, "127.0.0.1:7410", Restart,
        "Address of the gRPC listener; port 0 takes a free one"),
    set("http", Gateway, Address, "127.0.0.1:7411", Restart,
        "Address of the HTTP listener (metrics, health)"),
    set("insecure_listen", Gateway, Switch, "false", Restart,
        "Listen without TLS on addresses that others can reach: keys and data cross the network readable for \
         everybody on it"),
    set("tls_cert", Gateway, Path("FILE"), "", Restart,
        "Certificate of the listeners, PEM, with what leads to its authority; both listeners speak TLS then. This file \
         and those of the next settings are watched: what is in them is taken without a restart"),
    set("tls_key", Gateway, Path("FILE"), "", Restart,
        "Private key of that certificate, PEM, readable for its owner only"),
    set("tls_client_ca", Gateway, Path("FILE"), "", Restart,
        "Authorities, PEM, whose certificates clients may show"),
    set("tls_client_auth", Gateway, Choice(&["off", "optional", "required"]), "off", Restart,
        "Whether clients show a certificate of their own, on both listeners; its names are what the access policy can \
         ask for, beside the key"),
    set("tls_version_min", Gateway, Choice(&["1.2", "1.3"]), "1.2", Restart,
        "The oldest version of TLS that is spoken"),
    set("admin_over_network", Gateway, Switch, "false", Restart,
        "Answer operators' commands on the gRPC listener, too: for keys with the scope admin, over TLS or from this \
         machine"),
    set("plugins", Gateway, Path("DIR"), "", Restart,
        "Folder of policy components, watched; without it the embedded policies decide"),
    set("backend", Gateway, Backends, "sim=sim:rate=100", NewSessions,
        "A backend that sessions can ask for; may be repeated. KIND is `sim`; SETTINGS is its text, e.g. \
         line-1=sim:rate=100"),
    set("default_backend", Gateway, Text("NAME"), "", NewSessions,
        "Backend of sessions that ask for none; unset: the first"),
    set("internal_session", Gateway, Kind::Texts("NAME=BACKEND"), "", Restart,
        "A session that the gateway opens by itself, e.g. watch=sim, at its start and again 5 s after it ended; may be repeated. It belongs \
         to no key: the dashboard and keys with the scope sessions:all see it. Its tag is its name"),
    set("drain_seconds", Gateway, seconds(0, 600), "10", Restart,
        "How long a stop waits for streams and connections to end"),
    set("take_over_seconds", Gateway, seconds(1, 600), "30", Restart,
        "How long a gateway that takes over (serve --take-over) may take from the release of the data folder until it \
         is ready; then the one before goes on. Never more than half of max_orphan_lifetime_seconds"),
    set("otlp_url", Gateway, Text("URL"), "", Restart,
        "Send the metrics of /metrics to a collector that speaks OTLP over HTTP, e.g. http://127.0.0.1:4318; without a path \
         to /v1/metrics"),
    set("otlp_every_seconds", Gateway, seconds(1, 3_600), "15", Restart,
        "How often they are sent there"),
    set("log_file", Gateway, Path("FILE"), "", Restart,
        "Write the log to this file instead of standard error; SIGUSR1 opens it anew"),
    set("log_file_mib", Gateway, Kind::Number("MIB", 1, 1 << 20), "64", Restart,
        "Size at which the log file is rotated"),
    set("log_files_kept", Gateway, count(0, 1_000), "4", Restart,
        "Full log files kept beside it, as FILE.1 (the youngest), FILE.2 and so on"),
    set("log_format", Gateway, Choice(&["human", "json"]), "human", Restart,
        "Log lines for people (human) or machines (json)"),
    set("log_level", Gateway, Text("LEVEL"), "info", Now,
        "error, warn, info, debug, trace, or a list such as info,tidegate::events=debug"),

    set("max_sessions", Sessions, count(1, 4096), "64", Now,
        "Sessions at a time; fewer than are open ends none"),
    set("max_pending_commands_per_session", Sessions, count(1, 255), "128", NewSessions,
        "Commands that may wait for a worker, per session"),
    set("max_event_subscribers_per_session", Sessions, count(1, 100_000), "8", NewSessions,
        "Event streams of clients per session"),
    set("allow_multiple_event_subscribers", Sessions, Truth, "true", NewSessions,
        "Whether a session may have more than one event stream"),
    set("max_sessions_per_key", Sessions, count(0, 4096), "0", Now,
        "Sessions that one key may have open at a time; 0: as many as max_sessions"),
    set("max_event_subscribers_per_key", Sessions, count(0, 100_000), "0", Now,
        "Event streams that one key may have open at a time, over all sessions; 0: as many as the sessions take"),
    set("max_event_streams_per_connection", Sessions, count(1, 10_000), "256", Restart,
        "Event streams on one connection of a client"),
    set("max_items_per_session", Sessions, count(1, 10_000_000), "100000", NewSessions,
        "Items per session"),
    set("max_alarms_per_session", Sessions, count(1, 1_000_000), "10000", NewSessions,
        "Alarms that can stand in a session's table; more are counted and not kept until there is room"),
    set("max_bulk_items", Sessions, count(1, 1_000_000), "10000", NewSessions,
        "Elements of a bulk command"),
    set("command_timeout_ms", Sessions, millis(1, 3_600_000), "30000", NewSessions,
        "How long a worker may take for a command"),
    set("default_lease_seconds", Sessions, seconds(1, YEAR), "1800", Now,
        "A session that nobody uses or renews ends after this"),
    set("default_linger_ms", Sessions, millis(0, 1000), "10", NewSessions,
        "How long events may wait for others, for a stream that does not say (max_linger_ms); the first after a pause \
         goes at once. Fewer and larger messages are what costs less; 0: every event as soon as it is there"),
    set("detach_grace_seconds", Sessions, seconds(0, 86_400), "60", Now,
        "How long a session waits for a reader after the last one left"),

    set("replay_buffer_capacity", EventLog, Kind::Number("EVENTS", 0, 10_000_000), "1024", NewSessions,
        "Newest events that can be replayed, per session; 0: none"),
    set("replay_retention_seconds", EventLog, seconds(0, YEAR), "300", NewSessions,
        "Age up to which events can be replayed; 0: any age"),
    // A batch has up to 256 events; a smaller lag would gap every reader.
    set("lag_events_max", EventLog, Kind::Number("EVENTS", 256, 100_000_000), "10000", NewSessions,
        "How far an attached reader may fall behind"),
    set("log_bytes_max", EventLog, Bytes, "16MiB", NewSessions,
        "Memory of one session's log"),
    set("log_bytes_total_max", EventLog, Bytes, "1GiB", Restart,
        "Memory of all logs"),

    set("worker_start_timeout_seconds", Workers, seconds(1, 600), "10", NewSessions,
        "How long a worker may take to start and prove itself"),
    set("heartbeat_seconds", Workers, seconds(1, 300), "5", NewSessions,
        "How often a worker gives a sign of life"),
    set("heartbeat_grace_seconds", Workers, seconds(1, 3600), "15", NewSessions,
        "Silence after which a worker counts as dead; more than heartbeat_seconds"),
    set("stuck_ceiling_seconds", Workers, seconds(1, 86_400), "75", NewSessions,
        "A worker this long in one call counts as hung; more than heartbeat_grace_seconds"),
    set("enable_orphan_reattach", Workers, Switch, "false", Restart,
        "Workers outlive a gateway that dies, and the next one on this folder takes them and their sessions over; \
         without it they end with their gateway, and what is left of them is ended at the next start"),
    set("leave_workers", Workers, Switch, "false", Restart,
        "A stop (SIGTERM) leaves the workers running for the next gateway on this folder, as for a restart after an \
         upgrade; needs enable_orphan_reattach"),
    set("max_orphan_lifetime_seconds", Workers, seconds(1, 86_400), "300", Restart,
        "How long a worker without a gateway looks for one before it ends itself"),

    set("policy_deadline_ms", Policies, millis(1, 60_000), "50", Restart,
        "How long a policy may take for an answer"),
    set("policy_memory_mib", Policies, Kind::Number("MIB", 1, 4096), "64", Restart,
        "Memory of one policy instance"),
    set("policy_threads", Policies, count(1, 64), "2", Restart,
        "Threads that decide"),
    set("policy_queue", Policies, count(1, 1_000_000), "1024", Restart,
        "Decisions that may wait for a thread"),
    set("policy_keys", Policies, Path("PATH"), "", Restart,
        "Public keys (minisign) of those who may sign policies: a file, or a folder of *.pub; its content is read \
         again at a reload"),
    set("policy_unsigned", Policies, Choice(&["allow", "refuse"]), "allow", Restart,
        "What becomes of policies and settings that none of these keys signed"),
    set("policy_cache_bytes", Policies, Bytes, "512MiB", Restart,
        "Compiled policies that are kept on the disk; the ones that were not used for longest leave"),
    set("decision_log_file_bytes", Policies, Bytes, "8MiB", Restart,
        "Size of a file of the decision log"),
    set("decision_log_files", Policies, count(0, 10_000), "8", Restart,
        "Files of the decision log; the oldest is removed; 0: no decision is kept"),
    set("policy_diff_max", Policies, Text("PERCENT"), "", Restart,
        "A candidate that would have answered more of the latest 1000 decisions otherwise is refused until it is \
         approved, 0% to 100%; without it the difference is only told"),

    set("ldap_url", People, Text("URL"), "", Restart,
        "Directory whose people may sign in on the dashboard, beside those of the gateway: ldap://HOST or ldaps://HOST, \
         with :PORT where it is another than 389 or 636"),
    set("ldap_starttls", People, Truth, "true", Restart,
        "Whether an ldap:// connection turns to TLS (StartTLS) before a password is sent"),
    set("ldap_insecure", People, Switch, "false", Restart,
        "Ask an ldap:// directory on another machine without TLS: passwords cross the network readable for everybody \
         on it"),
    set("ldap_ca", People, Path("FILE"), "", Restart,
        "Authorities, PEM, that sign the directory's certificate; unset: those of this machine"),
    set("ldap_bind", People, Text("DN"), "", Restart,
        "Name of a person in the directory, with {name} for what was typed, e.g. uid={name},ou=people,dc=example,dc=org; \
         where people stand in several places, ldap_search_base instead"),
    set("ldap_search_base", People, Text("DN"), "", Restart,
        "Where in the directory, and below, the person who signs in is searched for"),
    set("ldap_search_filter", People, Text("FILTER"), "(uid={name})", Restart,
        "How that person is found, with {name} for what was typed; Active Directory: (sAMAccountName={name})"),
    set("ldap_search_dn", People, Text("DN"), "", Restart,
        "Name as which people and groups are searched for; unset: nobody's"),
    set("ldap_search_password_file", People, Path("FILE"), "", Restart,
        "File whose first line is the password of that name, readable for its owner only"),
    set("ldap_group_base", People, Text("DN"), "", Restart,
        "Where in the directory, and below, groups are searched for; unset: what a person's entry names as memberOf"),
    set("ldap_group_filter", People, Text("FILTER"), "(|(member={dn})(uniqueMember={dn})(memberUid={name}))", Restart,
        "How the groups of a person are found, with {dn} for the person's name in the directory and {name} for what \
         was typed"),
    set("ldap_group_attribute", People, Text("NAME"), "cn", Restart,
        "Attribute that holds a group's name, as grants and the next two settings write it"),
    set("ldap_admin_groups", People, Text("GROUPS"), "", Restart,
        "Groups whose people have the role Admin, separated by commas"),
    set("ldap_viewer_groups", People, Text("GROUPS"), "", Restart,
        "Groups whose people have the role Viewer, separated by commas; unset: everybody in the directory has it"),
    set("ldap_timeout_seconds", People, seconds(1, 60), "5", Restart,
        "How long a sign-in waits for the directory"),
];

struct Names {
    flag: String,
    variable: String,
}

static NAMES: LazyLock<HashMap<&str, Names>> = LazyLock::new(|| {
    let names = |setting: &Setting| Names {
        flag: setting.key.replace('_', "-"),
        variable: format!("TIDEGATE_{}", setting.key.to_uppercase()),
    };
    SETTINGS.iter().map(|setting| (setting.key, names(setting))).collect()
});

// === impl Setting ===

impl Setting {
    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Without the two hyphens.
    pub fn flag(&self) -> &'static str {
        &NAMES[self.key].flag
    }

    pub fn variable(&self) -> &'static str {
        &NAMES[self.key].variable
    }

    /// What it may be, in a few words; empty when its name says it.
    pub fn bounds(&self) -> String {
        match self.kind {
            Kind::Number(unit, least, most) => {
                let unit = match unit {
                    "MS" => "milliseconds, ",
                    "SECONDS" => "seconds, ",
                    "EVENTS" => "events, ",
                    "MIB" => "MiB, ",
                    _ => "",
                };
                format!("{unit}{least} to {most}")
            }
            Bytes => "bytes or with KiB, MiB, GiB, at least 1MiB".into(),
            Truth | Switch => "true or false".into(),
            Choice(words) => words.join(" or "),
            Path(_) | Address | Text(_) | Kind::Texts(_) | Backends => String::new(),
        }
    }

    /// How help calls its value.
    pub fn value_name(&self) -> &'static str {
        match self.kind {
            Path(name) | Text(name) | Kind::Texts(name) | Kind::Number(name, ..) => name,
            Address => "ADDRESS:PORT",
            Switch | Truth => "BOOL",
            Bytes => "BYTES",
            Choice(_) => "WORD",
            Backends => "NAME=KIND:SETTINGS",
        }
    }
}

// === impl Part ===

impl Part {
    pub const ALL: [Self; 6] =
        [Self::Gateway, Self::Sessions, Self::EventLog, Self::Workers, Self::Policies, Self::People];

    pub const fn title(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::Sessions => "Sessions",
            Self::EventLog => "Event log",
            Self::Workers => "Workers",
            Self::Policies => "Policies",
            Self::People => "People",
        }
    }
}

// === impl Takes ===

impl Takes {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Now => "at once",
            Self::NewSessions => "for new sessions",
            Self::Restart => "at the next start",
        }
    }
}
