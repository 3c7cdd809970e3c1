//! A history file as the demo checks it: what was recorded, and whether exactly that arrived. It reads
//! the file itself, with other code than the simulator's, so that neither can hide the other's mistake.

use crate::cli::files;
use std::{collections::HashMap, fmt, path::Path};
use tidegate_client::wire::{Event, event::Body, source_time::Form, value::Kind};

/// Of a history that is kept in memory twice. Guessed: some millions of readings.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// The readings of a file, in its order.
#[derive(Clone, Debug)]
pub(super) struct History {
    readings: Vec<Reading>,
    pub(super) tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
struct Reading {
    tag: usize,
    time: String,
    /// Bits, so that -0 and 0 differ.
    value: u64,
    quality: i32,
}

/// How the comparison went.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Comparison {
    pub(super) delivered: usize,
    pub(super) expected: usize,
    /// The first reading that differs, in words.
    pub(super) difference: Option<String>,
}

// === impl History ===

impl History {
    /// Reads `timestamp,tag,value[,quality]` with a heading; the error is a sentence.
    pub(super) fn read(file: &Path) -> Result<Self, String> {
        let bytes = files::plain(file, FILE_BYTES_MAX).map_err(|error| format!("{error:#}"))?;
        let text = String::from_utf8(bytes).map_err(|_| format!("{} is not text", file.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", file.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut history = Self { readings: Vec::new(), tags: Vec::new() };
        let mut known = HashMap::new();
        for (number, line) in text.lines().enumerate().skip(1) {
            let wrong = |what: &str| format!("line {} {what}", number + 1);
            let fields: Vec<&str> = line.split(',').collect();
            let (time, name, value, quality) = match fields[..] {
                [time, name, value] => (time, name, value, "192"),
                [time, name, value, quality] => (time, name, value, quality),
                _ => return Err(wrong("is not timestamp,tag,value[,quality]")),
            };
            let tag = *known.entry(name.to_owned()).or_insert_with(|| {
                history.tags.push(name.to_owned());
                history.tags.len() - 1
            });
            let value: f64 = value.parse().map_err(|_| wrong("has a value that is no number"))?;
            let quality = quality.parse().map_err(|_| wrong("has a quality that is no number"))?;
            history.readings.push(Reading { tag, time: time.to_owned(), value: value.to_bits(), quality });
        }
        if history.readings.is_empty() {
            return Err("holds no readings".into());
        }
        Ok(history)
    }

    pub(super) fn len(&self) -> usize {
        self.readings.len()
    }

    /// Compares the events of the history's items with the file; `tags` by item key.
    pub(super) fn compare(&self, events: &[Event], tags: &HashMap<u64, String>) -> Comparison {
        let differs = self.readings.iter().zip(events).enumerate().find_map(|(at, (expected, event))| {
            let found = self.reading(event, tags);
            let same = found.as_ref() == Some(expected);
            (!same).then(|| {
                format!("reading {} should be {expected}, sequence {} is {}", at + 1, event.sequence, shown(&found))
            })
        });
        let expected = self.readings.len();
        let length = (events.len() != expected).then(|| format!("{} readings arrived", events.len()));
        Comparison { delivered: events.len(), expected, difference: differs.or(length) }
    }

    fn reading(&self, event: &Event, tags: &HashMap<u64, String>) -> Option<Reading> {
        let Some(Body::DataChange(change)) = &event.body else { return None };
        let tag = tags.get(&event.item_key)?;
        let tag = self.tags.iter().position(|known| known == tag)?;
        let Some(Kind::Double(value)) = change.value.as_ref()?.kind else { return None };
        let Some(Form::Text(time)) = change.time.as_ref()?.form.clone() else { return None };
        Some(Reading { tag, time, value: value.to_bits(), quality: change.quality })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "history: delivered {} of {}, ", self.delivered, self.expected)?;
        match &self.difference {
            None => f.write_str("identical"),
            Some(difference) => write!(f, "different: {difference}"),
        }
    }
}

impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} quality {} at {}", f64::from_bits(self.value), self.quality, self.time)
    }
}

fn shown(reading: &Option<Reading>) -> String {
    reading.as_ref().map_or_else(|| "none of the file".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_client::wire::{DataChange, SourceTime, Value};

    const FILE: &str =
        "timestamp,tag,value,quality\n2013-12-02T21:15:00Z,A.T,73.967322,192\n2013-12-02T21:15:00Z,A.T,-0,64\n";

    fn event(time: &str, value: f64, quality: i32) -> Event {
        let value = Some(Value { kind: Some(Kind::Double(value)), data_type: 0 });
        let time = Some(SourceTime { form: Some(Form::Text(time.into())) });
        let change = DataChange { value, quality, time, statuses: Vec::new() };
        Event { sequence: 1, item_key: 5, body: Some(Body::DataChange(change)), ..Event::default() }
    }

    #[test]
    fn only_the_same_bits_in_the_same_order_are_identical() {
        let history = History::parse(FILE).expect("a history");
        let tags = HashMap::from([(5, "A.T".to_owned())]);
        let (one, two) = (event("2013-12-02T21:15:00Z", 73.967322, 192), event("2013-12-02T21:15:00Z", -0.0, 64));
        let good = history.compare(&[one.clone(), two.clone()], &tags);
        assert_eq!(good.to_string(), "history: delivered 2 of 2, identical");
        for wrong in [
            vec![two.clone(), one.clone()],
            vec![one.clone()],
            vec![one.clone(), event("2013-12-02T21:15:00Z", 0.0, 64)],
            vec![one.clone(), event("2013-12-02T21:15:01Z", -0.0, 64)],
            vec![one.clone(), two.clone(), two.clone()],
        ] {
            assert!(history.compare(&wrong, &tags).difference.is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line() {
        for (text, word) in [("h\n", "no readings"), ("h\na,b\n", "line 2"), ("h\nt,A,1\nt,A,x\n", "line 3")] {
            assert!(History::parse(text).is_err_and(|error| error.contains(word)), "{text}");
        }
    }
}
