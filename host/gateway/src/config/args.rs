//! What was said to `tidegate serve`: the flags and variables of the table, as texts with where each came from. Builds
//! the command line out of the table, checks nothing. Invariant: a flag's help says unit, bounds and default.

use super::{
    file::nearest,
    table::{Kind, Part, SETTINGS, Setting},
};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, parser::ValueSource};
use std::{ffi::OsString, fmt, path::PathBuf};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// A file and the line in it.
    File(PathBuf, usize),
    Variable(&'static str),
    Flag(&'static str),
}

/// Texts for one setting; several for one that may be repeated.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    pub(super) texts: Vec<String>,
    pub(super) origin: Origin,
}

/// Every flag has a variable: `--max-sessions` is `TIDEGATE_MAX_SESSIONS`. A flag wins over its variable; an empty
/// variable says nothing.
#[derive(Clone, Debug, Default)]
pub struct ServeArgs {
    /// The file that was named.
    pub(super) file: Option<PathBuf>,
    pub(super) given: Vec<Given>,
}

const CONFIG: &str = "config";
const CONFIG_VARIABLE: &str = "TIDEGATE_CONFIG";
const CONFIG_HELP: &str = "Configuration file (TOML); flags and variables win over it [default: tidegate.toml in the \
                           data folder, if it is there]";

const PREFIX: &str = "TIDEGATE_";
/// Variables of clients, operators and authors.
const OTHERS: [&str; 9] = [
    CONFIG_VARIABLE,
    "TIDEGATE_CA",
    "TIDEGATE_CERT",
    "TIDEGATE_CERT_KEY",
    "TIDEGATE_CLANG",
    "TIDEGATE_COMPONENTIZE_PY",
    "TIDEGATE_ENDPOINT",
    "TIDEGATE_JCO",
    "TIDEGATE_KEY",
];

/// A sentence for each variable that looks like a setting and is none. Not an error: others name variables, too, e.g.
/// `TIDEGATE_SERVICE_HOST` for a service of that name.
pub fn unknown_variables(names: impl Iterator<Item = OsString>) -> Vec<String> {
    let names = names.filter_map(|name| name.to_str().map(str::to_owned));
    let mut unknown: Vec<_> = names
        .filter_map(|name| Some((name.strip_prefix(PREFIX)?.to_owned(), name)))
        .filter(|(_, name)| !OTHERS.contains(&name.as_str()) && SETTINGS.iter().all(|one| one.variable() != name))
        .map(|(rest, name)| match nearest(&rest) {
            Some(key) => format!("the variable {name} sets nothing; did you mean {PREFIX}{}?", key.to_uppercase()),
            None => format!("the variable {name} sets nothing"),
        })
        .collect();
    unknown.sort();
    unknown
}

// === impl ServeArgs ===

impl ServeArgs {
    /// As if these flags had been given, by their keys.
    pub fn of(flags: &[(&str, &str)]) -> Self {
        let mut args = Self::default();
        for (key, text) in flags {
            match args.given.iter_mut().find(|given| given.setting.key == *key) {
                Some(given) => given.texts.push((*text).to_owned()),
                None => args.given.extend(Setting::find(key).map(|setting| Given {
                    setting,
                    texts: vec![(*text).to_owned()],
                    origin: Origin::Flag(setting.flag()),
                })),
            }
        }
        args
    }

    /// Only this file, no flag and no variable.
    pub fn file(path: PathBuf) -> Self {
        Self { file: Some(path), given: Vec::new() }
    }
}

impl Args for ServeArgs {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new(CONFIG).long(CONFIG).env(CONFIG_VARIABLE).value_name("FILE").help(CONFIG_HELP);
        SETTINGS.iter().fold(command.arg(config), |command, setting| command.arg(arg(setting)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ServeArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let file = matches.get_one::<String>(CONFIG).filter(|path| !path.is_empty()).map(PathBuf::from);
        let given = SETTINGS.iter().filter_map(|setting| {
            let texts: Vec<String> = matches.get_many::<String>(setting.key)?.cloned().collect();
            let origin = match matches.value_source(setting.key)? {
                ValueSource::EnvVariable if texts.iter().all(String::is_empty) => return None,
                ValueSource::EnvVariable => Origin::Variable(setting.variable()),
                _ => Origin::Flag(setting.flag()),
            };
            Some(Given { setting, texts, origin })
        });
        Ok(Self { file, given: given.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn arg(setting: &'static Setting) -> Arg {
    let arg = Arg::new(setting.key)
        .long(setting.flag())
        .env(setting.variable())
        .hide_env_values(true)
        .value_name(setting.value_name())
        .help(help(setting));
    let arg = if setting.part == Part::Gateway { arg } else { arg.help_heading(setting.part.title()) };
    match setting.kind {
        Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::Backends | Kind::Texts(_) => arg.action(ArgAction::Append),
        _ => arg.allow_hyphen_values(true),
    }
}

fn help(setting: &Setting) -> String {
    let mut help = setting.what.to_owned();
    let bounds = setting.bounds();
    if !bounds.is_empty() && !matches!(setting.kind, Kind::Switch) {
        help.push_str(&format!("; {bounds}"));
    }
    if !setting.default.is_empty() && !matches!(setting.kind, Kind::Switch) {
        help.push_str(&format!(" [default: {}]", setting.default));
    }
    help
}

// === impl Origin ===

impl Origin {
    /// The name under which its author knows the setting.
    pub(super) fn name(&self, key: &str) -> String {
        match self {
            Self::Default => format!("--{}", key.replace('_', "-")),
            Self::File(path, line) => format!("{}:{line}: {key}", path.display()),
            Self::Variable(variable) => (*variable).to_owned(),
            Self::Flag(flag) => format!("--{flag}"),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Variable(variable) => f.write_str(variable),
            Self::Flag(flag) => write!(f, "--{flag}"),
        }
    }
}

// === impl Given ===

/// A backend's text may hold a password.
impl fmt::Debug for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given").field("key", &self.setting.key).field("origin", &self.origin).finish_non_exhaustive()
    }
}

impl PartialEq for Setting {
    /// There is one of each key.
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Setting {}
