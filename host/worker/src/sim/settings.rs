//! What an operator can set of a simulator, as text that came with Accept: TOML, or `key=value,key=value` on one line.
//! Invariants: all mistakes are told at once, each with its key; no value of `users` reaches an error or a log.

use serde::de::DeserializeOwned;
use std::{fmt, path::PathBuf};
use toml::{Table, Value};

/// Events per second; more is refused. Required, and measured: about 0.3 µs of one core for each event.
pub const RATE_MAX: u32 = 500_000;

const KEYS: &str = "rate, grain_us, seed, wave, first_change_ms, write_ms, faults, users, csv, speed, hold, alarms, \
                    alarm_every_ms, alarm_reopen_ms, alarm_providers";
/// Tags that may alarm; as many as fit into the settings' text.
const ALARMS_MAX: usize = 4_096;
/// Providers of alarms, and the longest name of one.
const PROVIDERS_MAX: usize = 8;
const PROVIDER_CHARS_MAX: usize = 64;

/// Settings of one simulator.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Waveform events per second of the whole session, spread over the advised items in turn; 0: none but each
    /// item's first. Unset: 10 for waveforms, and a replay is not held back.
    pub rate: Option<u32>,
    /// Waveform events come in groups every so many microseconds; 0: each at its own time. Below 1,000 only Linux
    /// has a timer that fine.
    pub grain_us: u32,
    /// What random walks and steps begin with: the same seed and tag give the same values.
    pub seed: u64,
    /// The waveform of tags whose last part does not name one; unset: by the tag.
    pub wave: Option<super::waves::Shape>,
    /// From Advise to an item's first data change. A real server takes 3,000 to 8,000.
    pub first_change_ms: u32,
    /// From Write to its OnWriteComplete.
    pub write_ms: u32,
    /// Whether writing to `$Sim.Fault` and `$Sim.Rate` has an effect. Never in production.
    pub faults: bool,
    /// Who may be authenticated. In TOML tables, else `name:password:guid;name:password`.
    pub users: Vec<User>,
    /// A history to replay: `timestamp,tag,value[,quality]`.
    pub csv: Option<PathBuf>,
    /// 0: as fast as `rate` allows; else that many times as fast as the timestamps say.
    pub speed: f64,
    /// The replay begins when `start` is written to `$Sim.Replay`, not with the first advised tag of the file.
    pub hold: bool,
    /// Tags that alarm, and at which limits; each has one alarm at most. In TOML tables of `tag`, `low_low`, `low`, `high`,
    /// `high_high`; else `TAG:LOW_LOW:LOW:HIGH:HIGH_HIGH;...`, where a limit may be empty and those at the end left out.
    /// A tag that is written (`Setpoint.` in it) alarms by what is written, any other by a waveform of its own.
    pub alarms: Vec<AlarmTag>,
    /// How often the waveforms of `alarms` are compared with their limits.
    pub alarm_every_ms: u32,
    /// From the failure of a provider of alarms until the next one is open.
    pub alarm_reopen_ms: u32,
    /// Who tells of alarms: the first one, and after a failure the next. A list in TOML, else `A;B`.
    pub alarm_providers: Vec<String>,
}

/// A tag that alarms, and where: at a limit it does.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlarmTag {
    pub tag: String,
    pub low_low: Option<f64>,
    pub low: Option<f64>,
    pub high: Option<f64>,
    pub high_high: Option<f64>,
}

/// A user that the simulator knows. Ids count from 1 in the order of the settings.
#[derive(Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    pub name: String,
    pub password: String,
    #[serde(default)]
    pub guid: String,
}

/// All that is wrong with a settings text, one line for each key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the simulator's settings are wrong: {}", .0.join("; "))]
pub struct SettingsError(pub Vec<String>);

impl Default for Settings {
    fn default() -> Self {
        Self {
            rate: None,
            grain_us: 0,
            seed: 1,
            wave: None,
            first_change_ms: 0,
            write_ms: 20,
            faults: false,
            users: Vec::new(),
            csv: None,
            speed: 0.0,
            hold: false,
            alarms: Vec::new(),
            alarm_every_ms: 1_000,
            alarm_reopen_ms: 5_000,
            alarm_providers: vec!["primary".to_owned(), "secondary".to_owned()],
        }
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

// === impl Settings ===

impl Settings {
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let table = table(text)?;
        let mut reader = Reader { table, errors: Vec::new() };
        let defaults = Self::default();
        let settings = Self {
            rate: reader.take("rate", |&rate: &u32| rate <= RATE_MAX, "a whole number from 0 to 500000"),
            grain_us: reader
                .take("grain_us", |&us: &u32| us <= 1_000_000, "microseconds, at most 1000000")
                .unwrap_or(defaults.grain_us),
            seed: reader.take("seed", |_| true, "a whole number that is not negative").unwrap_or(defaults.seed),
            wave: reader.take("wave", |_| true, super::waves::SHAPES),
            first_change_ms: reader.milliseconds("first_change_ms", defaults.first_change_ms),
            write_ms: reader.milliseconds("write_ms", defaults.write_ms),
            faults: reader.take("faults", |_| true, "true or false").unwrap_or(defaults.faults),
            users: reader.users(),
            csv: reader.take("csv", |path: &PathBuf| !path.as_os_str().is_empty(), "the path of a file"),
            speed: reader.speed(),
            hold: reader.take("hold", |_| true, "true or false").unwrap_or(defaults.hold),
            alarms: reader.alarms(),
            alarm_every_ms: reader.milliseconds("alarm_every_ms", defaults.alarm_every_ms),
            alarm_reopen_ms: reader.milliseconds("alarm_reopen_ms", defaults.alarm_reopen_ms),
            alarm_providers: reader.providers().unwrap_or(defaults.alarm_providers),
        };
        let Reader { table, mut errors } = reader;
        errors.extend(table.keys().map(|key| format!("{key}: there is no such key; there are {KEYS}")));
        if errors.is_empty() { Ok(settings) } else { Err(SettingsError(errors)) }
    }
}

/// Takes keys out of the table and gathers what is wrong with them.
struct Reader {
    table: Table,
    errors: Vec<String>,
}

impl Reader {
    fn take<T: DeserializeOwned>(&mut self, key: &str, fits: impl FnOnce(&T) -> bool, wanted: &str) -> Option<T> {
        let value = self.table.remove(key)?;
        match value.try_into::<T>() {
            Ok(value) if fits(&value) => Some(value),
            _ => {
                self.errors.push(format!("{key}: must be {wanted}"));
                None
            }
        }
    }

    fn milliseconds(&mut self, key: &str, default: u32) -> u32 {
        self.take(key, |&ms: &u32| ms <= 600_000, "milliseconds, at most 600000").unwrap_or(default)
    }

    fn speed(&mut self) -> f64 {
        if let Some(Value::Integer(whole)) = self.table.get("speed") {
            let whole = *whole as f64;
            self.table.insert("speed".to_owned(), Value::Float(whole));
        }
        let fits = |&speed: &f64| (0.0..=1e9).contains(&speed);
        self.take("speed", fits, "a number from 0 to 1000000000").unwrap_or_default()
    }

    fn alarms(&mut self) -> Vec<AlarmTag> {
        let alarms = match self.table.remove("alarms") {
            None => return Vec::new(),
            Some(Value::String(text)) => text.split(';').filter(|alarm| !alarm.is_empty()).map(alarm).collect(),
            Some(value) => value.try_into::<Vec<AlarmTag>>().ok(),
        };
        let wrong = match &alarms {
            None => Some("tables of tag and limits, or `TAG:LOW_LOW:LOW:HIGH:HIGH_HIGH;...`"),
            Some(alarms) if alarms.len() > ALARMS_MAX => Some("4096 tags at most"),
            Some(alarms) if !alarms.iter().all(|alarm| alarm.is_sound()) => {
                Some("tags with at least one limit each, the lower ones below the higher ones")
            }
            Some(alarms) if !alarms.iter().all(|alarm| can_alarm(&alarm.tag)) => {
                Some("tags that have values, of 1 to 512 bytes, without `[`")
            }
            Some(alarms) => {
                let tags: std::collections::HashSet<&str> = alarms.iter().map(|alarm| alarm.tag.as_str()).collect();
                (tags.len() < alarms.len()).then_some("tags that are there once")
            }
        };
        if let Some(wanted) = wrong {
            self.errors.push(format!("alarms: must be {wanted}"));
            return Vec::new();
        }
        alarms.unwrap_or_default()
    }

    fn providers(&mut self) -> Option<Vec<String>> {
        if let Some(Value::String(text)) = self.table.get("alarm_providers") {
            let names = text.split(';').map(|name| Value::String(name.trim().to_owned())).collect();
            self.table.insert("alarm_providers".to_owned(), Value::Array(names));
        }
        let named = |name: &String| (1..=PROVIDER_CHARS_MAX).contains(&name.chars().count());
        let fits = |names: &Vec<String>| (1..=PROVIDERS_MAX).contains(&names.len()) && names.iter().all(named);
        self.take("alarm_providers", fits, "1 to 8 names")
    }

    fn users(&mut self) -> Vec<User> {
        let users = match self.table.remove("users") {
            None => Some(Vec::new()),
            Some(Value::String(text)) => text.split(';').filter(|user| !user.is_empty()).map(user).collect(),
            Some(value) => value.try_into::<Vec<User>>().ok(),
        };
        match users {
            Some(users) if users.iter().all(|user| !user.name.is_empty()) => users,
            _ => {
                self.errors
                    .push("users: must be tables of name, password, guid or `name:password:guid;...`".to_owned());
                Vec::new()
            }
        }
    }
}

// === impl AlarmTag ===

impl AlarmTag {
    /// The outermost limit that the value reaches: its name, itself, and whether it is one of the outer two.
    pub fn crossed(&self, value: f64) -> Option<(&'static str, f64, bool)> {
        let above = |limit: &f64| value >= *limit;
        let below = |limit: &f64| value <= *limit;
        if let Some(limit) = self.high_high.filter(above) {
            Some(("high-high", limit, true))
        } else if let Some(limit) = self.low_low.filter(below) {
            Some(("low-low", limit, true))
        } else if let Some(limit) = self.high.filter(above) {
            Some(("high", limit, false))
        } else {
            self.low.filter(below).map(|limit| ("low", limit, false))
        }
    }

    fn is_sound(&self) -> bool {
        let all: Vec<f64> = [self.low_low, self.low, self.high, self.high_high].into_iter().flatten().collect();
        !all.is_empty() && all.iter().all(|limit| limit.is_finite()) && all.is_sorted_by(|one, next| one < next)
    }
}

/// Not those that stand for nothing, and no part of an array.
fn can_alarm(tag: &str) -> bool {
    (1..=512).contains(&tag.len())
        && !tag.contains('[')
        && !tag.starts_with("$Sim.")
        && !super::items::under(tag, "Invalid")
        && !super::items::under(tag, "Denied")
}

fn alarm(text: &str) -> Option<AlarmTag> {
    let mut parts = text.split(':');
    let tag = parts.next()?.to_owned();
    let mut limits = [None; 4];
    for limit in &mut limits {
        *limit = match parts.next().map(str::trim) {
            None | Some("") => None,
            Some(number) => Some(number.parse().ok()?),
        };
    }
    let [low_low, low, high, high_high] = limits;
    parts.next().is_none().then_some(AlarmTag { tag, low_low, low, high, high_high })
}

fn user(text: &str) -> Option<User> {
    let mut parts = text.splitn(3, ':');
    let (name, password) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    Some(User { name, password, guid: parts.next().unwrap_or_default().to_owned() })
}

/// Both forms as one. A single line that is no TOML is read as `key=value,...`.
fn table(text: &str) -> Result<Table, SettingsError> {
    let text = text.trim();
    let error = match text.parse::<Table>() {
        Ok(table) => return Ok(table),
        Err(error) => error,
    };
    if text.contains('\n') {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        // The message alone: the whole error quotes the line, which may hold a password.
        return Err(SettingsError(vec![format!("line {line}: {}", error.message().replace('\n', ", "))]));
    }
    let mut table = Table::new();
    let mut errors = Vec::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            // Only its place: without a key it may be part of a password that has a comma.
            errors.push(format!("part {}: must be key=value", 1 + table.len() + errors.len()));
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        if table.insert(key.to_owned(), scalar(key, value)).is_some() {
            errors.push(format!("{key}: is there twice"));
        }
    }
    if errors.is_empty() { Ok(table) } else { Err(SettingsError(errors)) }
}

fn scalar(key: &str, text: &str) -> Value {
    // Paths, shapes and users are text even when they look like numbers.
    if matches!(key, "csv" | "users" | "wave" | "alarms" | "alarm_providers") {
        return Value::String(text.trim_matches('"').to_owned());
    }
    if let Ok(whole) = text.parse() {
        return Value::Integer(whole);
    }
    if let Ok(flag) = text.parse() {
        return Value::Boolean(flag);
    }
    text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_mean_the_same() {
        let short = "rate=1000,seed=7,first_change_ms=3000,faults=true,users=ann:secret:{g};bo:pw,csv=/a/b.csv,speed=2,wave=sine,\
                     alarms=A.Level::10:80:95;B.Setpoint.Speed:::1.5,alarm_providers=one;two";
        let long = r#"
            rate = 1000
            seed = 7
            first_change_ms = 3000
            faults = true
            csv = "/a/b.csv"
            speed = 2.0
            wave = "sine"
            alarm_providers = ["one", "two"]
            [[users]]
            name = "ann"
            password = "secret"
            guid = "{g}"
            [[users]]
            name = "bo"
            password = "pw"
            [[alarms]]
            tag = "A.Level"
            low = 10.0
            high = 80.0
            high_high = 95.0
            [[alarms]]
            tag = "B.Setpoint.Speed"
            high = 1.5
        "#;
        let settings = Settings::parse(short).unwrap();
        assert_eq!(settings, Settings::parse(long).unwrap());
        assert_eq!((settings.rate, settings.seed, settings.speed), (Some(1_000), 7, 2.0));
        assert_eq!(settings.users[0].guid, "{g}");
        assert!(!format!("{settings:?}").contains("secret"));
        assert_eq!(settings.alarms[0].crossed(95.0), Some(("high-high", 95.0, true)));
        assert_eq!(settings.alarms[0].crossed(9.0), Some(("low", 10.0, false)));
        assert_eq!(settings.alarms[0].crossed(50.0), None);
        for wrong in ["A", "A:x", "A:2:1", "A:::1;A:::2", "Invalid.A:1", "A:1:2:3:4:5", "A:nan"] {
            let error = Settings::parse(&format!("alarms={wrong}")).unwrap_err().to_string();
            assert!(error.contains("alarms: "), "{wrong}: {error}");
        }
        assert_eq!(Settings::parse("").unwrap(), Settings::default());
        assert_eq!(Settings::parse("rate=5").unwrap(), Settings::parse("rate = 5").unwrap());
    }

    #[test]
    fn all_mistakes_are_told_at_once_each_with_its_key() {
        for text in [
            "rate=500001,seed=x,speed=-1,users=secret,tempo=3",
            "rate = 500001\nseed = \"x\"\nspeed = nan\nusers = [{ name = \"\", password = \"secret\" }]\ntempo = 3",
        ] {
            let SettingsError(errors) = Settings::parse(text).unwrap_err();
            for key in ["rate: ", "seed: ", "speed: ", "users: ", "tempo: "] {
                assert!(errors.iter().any(|error| error.starts_with(key)), "{key} in {errors:?}");
            }
            assert_eq!(errors.len(), 5);
            assert!(!errors.join("").contains("secret"));
        }
        assert!(Settings::parse("a\nb").unwrap_err().to_string().contains("line 1"));
        assert!(Settings::parse("rate=1,rate=2").unwrap_err().to_string().contains("rate: is there twice"));
        assert!(!Settings::parse("users=ann:se,cret").unwrap_err().to_string().contains("cret"));
    }
}
