//! The configuration file: TOML into texts, each with the line it stands in. Knows keys and shapes, no bounds.
//! Invariant: everything that is wrong with the file's form is told in one run, unknown keys with the nearest one.

use super::{
    args::{Given, Origin},
    read::quoted,
    table::{Kind, SETTINGS, Setting},
};
use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Read as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Longest file that is read; the example has about 6 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How alike a key must be to be suggested, 0 to 1. Guessed.
const ALIKE: f64 = 0.7;

/// What a file gave, and what is wrong with it: where (`FILE:LINE: KEY`) and a sentence.
#[derive(Debug, Default)]
pub(super) struct FileRead {
    pub(super) given: Vec<Given>,
    pub(super) problems: Vec<(String, String)>,
}

/// Reads the file at `path`.
pub(super) fn read(path: &Path) -> FileRead {
    let wrong = |why: String| FileRead { problems: vec![(path.display().to_string(), why)], ..FileRead::default() };
    let text = match text(path) {
        Ok(text) => text,
        Err(why) => return wrong(why),
    };
    parse(path, &text)
}

fn text(path: &Path) -> Result<String, String> {
    // A pipe opens at once, and is seen to be one.
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = file.map_err(|error| format!("it cannot be opened: {error}"))?;
    let facts = file.metadata().map_err(|error| format!("it cannot be looked at: {error}"))?;
    if !facts.is_file() {
        return Err("it is not a regular file".into());
    }
    if facts.permissions().mode() & 0o002 != 0 {
        return Err("everybody on this machine may change it; take that right away: chmod o-w".into());
    }
    let mut text = String::new();
    match file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text) {
        Ok(bytes) if bytes as u64 > FILE_BYTES_MAX => Err("it has more than 1 MiB".into()),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("it cannot be read as text: {error}")),
    }
}

fn parse(path: &Path, text: &str) -> FileRead {
    let mut read = FileRead::default();
    let line = |at: usize| text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let at = error.span().map_or(1, |span| line(span.start));
        // Never the line itself: it may hold a password.
        read.problems.push((format!("{}:{at}", path.display()), format!("not TOML: {}", error.message())));
    }
    for (key, value) in table.into_inner() {
        let at = line(key.span().start);
        let name = key.get_ref().as_ref();
        let place = format!("{}:{at}: {name}", path.display());
        let Some(setting) = Setting::find(name) else {
            read.problems.push((place, unknown(name, value.get_ref())));
            continue;
        };
        let origin = Origin::File(path.to_owned(), at);
        match texts(setting, value.get_ref()) {
            Ok(texts) => read.given.push(Given { setting, texts, origin }),
            Err(why) => read.problems.push((place, why)),
        }
    }
    read
}

fn unknown(name: &str, value: &DeValue<'_>) -> String {
    if matches!(value, DeValue::Table(_)) {
        return "there are no sections; every setting stands at the top level".into();
    }
    match nearest(name) {
        Some(key) => format!("there is no such setting; did you mean {key}?"),
        None => "there is no such setting; `tidegate config example` shows all".into(),
    }
}

/// The key that is most like `name`, hyphens and capitals aside.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = name.replace('-', "_").to_lowercase();
    let alike = |setting: &Setting| strsim::jaro_winkler(&name, setting.key).max(contained(&name, setting.key));
    SETTINGS
        .iter()
        .map(|setting| (alike(setting), setting.key))
        .filter(|(alike, _)| *alike >= ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0))
        .map(|(_, key)| key)
}

/// `bulk_items` for `max_bulk_items`: whole words that stand in the key say more than letters.
fn contained(name: &str, key: &str) -> f64 {
    let part = name.len() >= 4 && (key.contains(name) || name.contains(key));
    if part { name.len().min(key.len()) as f64 / name.len().max(key.len()) as f64 + 0.3 } else { 0.0 }
}

/// The texts that a flag would have.
fn texts(setting: &Setting, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match (setting.kind, value) {
        (Kind::Backends, DeValue::Array(values)) => values.iter().map(backend).collect(),
        (Kind::Backends, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Kind::Backends, _) => Err("write [[backend]] with name, kind and settings, or a list of texts".into()),
        (Kind::Texts(form), DeValue::Array(values)) => {
            let text = |value: &Spanned<DeValue<'_>>| match value.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err(format!("each of them is a text in quotes, {form}")),
            };
            values.iter().map(text).collect()
        }
        (_, DeValue::String(text)) => Ok(vec![text.to_string()]),
        (Kind::Number(..) | Kind::Bytes, DeValue::Integer(number)) => {
            i128::from_str_radix(number.as_str(), number.radix())
                .map(|number| vec![number.to_string()])
                .map_err(|_| format!("{} is too large a number", quoted(number.as_str())))
        }
        (Kind::Switch | Kind::Truth, DeValue::Boolean(truth)) => Ok(vec![truth.to_string()]),
        (kind, _) => Err(format!(
            "it is of the wrong form; write {}",
            match kind {
                Kind::Number(..) => "a whole number",
                Kind::Bytes => "a size such as \"16MiB\"",
                Kind::Switch | Kind::Truth => "true or false",
                Kind::Texts(_) => "a list of texts in quotes",
                _ => "a text in quotes",
            }
        )),
    }
}

/// `"line-1=sim:rate=100"`, or a table of name, kind and settings.
fn backend(value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    const FORM: &str = "a backend has name and kind, and settings if it likes, all texts";
    match value.get_ref() {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Table(table) => {
            let mut fields = BTreeMap::new();
            for (key, value) in table {
                let key = key.get_ref().as_ref();
                match key {
                    "name" | "kind" | "settings" => {}
                    key if Setting::find(key).is_some() => {
                        return Err(format!(
                            "{key} stands behind [[backend]] and so belongs to it; write it above the first [[backend]]"
                        ));
                    }
                    key => return Err(format!("a backend has no {}; {FORM}", quoted(key).trim_matches('"'))),
                }
                let DeValue::String(text) = value.get_ref() else { return Err(FORM.into()) };
                fields.insert(key, text.as_ref());
            }
            let settings = fields.remove("settings").unwrap_or_default();
            match (fields.remove("name"), fields.remove("kind")) {
                (Some(name), Some(kind)) => Ok(format!("{name}={kind}:{settings}")),
                _ => Err(FORM.into()),
            }
        }
        _ => Err(FORM.into()),
    }
}
