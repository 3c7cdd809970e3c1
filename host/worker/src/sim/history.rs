//! A recorded history as rows: `timestamp,tag,value[,quality]`. Knows no items. Invariant: rows stay in the order of
//! the file, none is dropped, mended or merged; numbers keep their bits and times their text.

use std::{collections::HashMap, fs, io, path::Path, sync::Arc};
use tidegate_proto::v1::value::Kind;

/// Largest file read, in bytes; a history is held in memory. (Guessed.)
const FILE_MAX: u64 = 512 << 20;
/// Longest tag.
const TAG_MAX: usize = 1_024;

/// A whole history.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) rows: Vec<Row>,
    pub(super) tags: HashMap<Arc<str>, u32>,
}

/// One reading.
#[derive(Debug)]
pub(super) struct Row {
    /// Index of the tag, in order of first appearance.
    pub(super) tag: u32,
    pub(super) value: Kind,
    pub(super) quality: i32,
    /// Verbatim.
    pub(super) time: Box<str>,
    /// Milliseconds since 1970; only when the speed asks for it.
    pub(super) at_ms: i64,
}

/// Why a history is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum HistoryError {
    #[error("csv: {path} cannot be read: {source}")]
    Unreadable { path: String, source: io::Error },
    #[error("csv: {path} has {len} bytes, more than the {FILE_MAX} allowed")]
    TooLarge { path: String, len: u64 },
    #[error("csv: {path}, line {line}: {what}")]
    Row { path: String, line: usize, what: String },
}

// === impl History ===

impl History {
    /// Reads and checks a file; with `timed`, timestamps must be of the form `2013-12-02T21:15:00[.123][Z]`.
    pub(super) fn read(path: &Path, timed: bool) -> Result<Self, HistoryError> {
        let shown = || path.display().to_string();
        let unreadable = |source| HistoryError::Unreadable { path: shown(), source };
        let len = fs::metadata(path).map_err(unreadable)?.len();
        if len > FILE_MAX {
            return Err(HistoryError::TooLarge { path: shown(), len });
        }
        let text = fs::read_to_string(path).map_err(unreadable)?;
        Self::parse(&text, timed).map_err(|(line, what)| HistoryError::Row { path: shown(), line, what })
    }

    /// An error is the line, from 1, and what is wrong there.
    pub(super) fn parse(text: &str, timed: bool) -> Result<Self, (usize, String)> {
        let mut lines = text.strip_prefix('\u{FEFF}').unwrap_or(text).lines().enumerate();
        let columns = match lines.next().map(|(_, header)| header.trim()) {
            Some("timestamp,tag,value") => 3,
            Some("timestamp,tag,value,quality") => 4,
            _ => return Err((1, "the header must be timestamp,tag,value or timestamp,tag,value,quality".to_owned())),
        };
        let mut history = Self::default();
        let mut fields = Vec::new();
        for (number, line) in lines {
            let line_number = number + 1;
            history.row(line, columns, timed, &mut fields).map_err(|what| (line_number, what))?;
        }
        Ok(history)
    }

    fn row(&mut self, line: &str, columns: usize, timed: bool, fields: &mut Vec<String>) -> Result<(), String> {
        split(line, fields)?;
        if fields.len() != columns {
            return Err(format!("{} fields instead of {columns}", fields.len()));
        }
        let (time, tag, value) = (&fields[0], fields[1].trim(), &fields[2]);
        if time.is_empty() {
            return Err("the timestamp is empty".to_owned());
        }
        if tag.is_empty() || tag.len() > TAG_MAX {
            return Err(format!("the tag is empty or longer than {TAG_MAX} bytes"));
        }
        let quality = match fields.get(3).map(|text| text.trim()) {
            None => 192,
            Some(text) => match text.parse::<u8>() {
                Ok(quality) => quality.into(),
                Err(_) => return Err("the quality is not a number from 0 to 255".to_owned()),
            },
        };
        let at_ms = match timed.then(|| milliseconds(time)) {
            None => 0,
            Some(Some(at_ms)) => at_ms,
            Some(None) => return Err("the timestamp is not of the form 2013-12-02T21:15:00Z".to_owned()),
        };
        let tag = match self.tags.get(tag) {
            Some(&index) => index,
            None => {
                let index = self.tags.len() as u32;
                self.tags.insert(tag.into(), index);
                index
            }
        };
        self.rows.push(Row { tag, value: typed(value), quality, time: time.as_str().into(), at_ms });
        Ok(())
    }
}

/// Fields may be in double quotes, a quote within is doubled (RFC 4180); a field does not span lines.
fn split(line: &str, fields: &mut Vec<String>) -> Result<(), String> {
    fields.clear();
    let mut rest = line;
    loop {
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut tail = quoted;
            rest = loop {
                let Some((part, after)) = tail.split_once('"') else {
                    return Err("a quote is not closed".to_owned());
                };
                field.push_str(part);
                match after.strip_prefix('"') {
                    Some(after) => {
                        field.push('"');
                        tail = after;
                    }
                    None => break after,
                }
            };
            fields.push(field);
            match rest.strip_prefix(',') {
                Some(after) => rest = after,
                None if rest.is_empty() => return Ok(()),
                None => return Err("something follows a closing quote".to_owned()),
            }
        } else if let Some((field, after)) = rest.split_once(',') {
            fields.push(field.to_owned());
            rest = after;
        } else {
            fields.push(rest.to_owned());
            return Ok(());
        }
    }
}

/// A number when it is written as one (`inf` and `nan` are words here), else `true` or `false`, else text.
fn typed(text: &str) -> Kind {
    let trimmed = text.trim();
    let number = trimmed.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'));
    match trimmed.parse::<f64>() {
        Ok(value) if number => Kind::Double(value),
        _ if trimmed.eq_ignore_ascii_case("true") => Kind::Boolean(true),
        _ if trimmed.eq_ignore_ascii_case("false") => Kind::Boolean(false),
        _ => Kind::Text(text.to_owned()),
    }
}

/// `2013-12-02T21:15:00[.123][Z]` (or a blank for the T) as milliseconds since 1970.
fn milliseconds(text: &str) -> Option<i64> {
    let text = text.trim().trim_end_matches('Z');
    let (date, time) = text.split_once(['T', ' '])?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (time.next()?.parse::<i64>().ok()?, time.next()?.parse::<i64>().ok()?);
    let second = time.next().unwrap_or("0").parse::<f64>().ok()?;
    let fits = (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..61.0).contains(&second)
        && (0..=9_999).contains(&year);
    if !fits {
        return None;
    }
    // Days from a civil date, counted in years that begin in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + (153 * m + 2) / 5 + day - 1;
    let minutes = ((days - 719_468) * 24 + hour) * 60 + minute;
    Some(minutes * 60_000 + (second * 1_000.0).round() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rows_keep_order_bits_and_times() {
        let text = "\u{FEFF}timestamp,tag,value,quality\r\n\
                    2013-12-02T21:15:00Z,A.B,73.967322,192\r\n\
                    2013-12-02T21:15:00Z,A.B,-0,24\r\n\
                    2013-12-02T21:10:00Z,A.C,\"say \"\"hi\"\", twice\",64\r\n\
                    x,A.B,TRUE,0\r\n\
                    y,A.B,nan,255\r\n";
        let history = History::parse(text, false).unwrap();
        let shown: Vec<_> = history.rows.iter().map(|row| (row.tag, &row.value, row.quality, &*row.time)).collect();
        assert_eq!(shown[0], (0, &Kind::Double(73.967322), 192, "2013-12-02T21:15:00Z"));
        assert!(matches!(shown[1].1, Kind::Double(zero) if zero.is_sign_negative()));
        assert_eq!(shown[2], (1, &Kind::Text("say \"hi\", twice".to_owned()), 64, "2013-12-02T21:10:00Z"));
        assert_eq!(shown[3], (0, &Kind::Boolean(true), 0, "x"));
        assert_eq!(shown[4], (0, &Kind::Text("nan".to_owned()), 255, "y"));
    }

    #[test]
    fn a_bad_row_is_named_by_its_line() {
        let bad = |rows: &str| History::parse(&format!("timestamp,tag,value,quality\n{rows}"), true).unwrap_err();
        let good = "2013-12-02 21:15:00.5,A,1,192\n";
        assert_eq!(bad(&format!("{good}2013-12-02T21:15:00Z,A,1")).0, 3);
        assert_eq!(bad(&format!("{good}{good}2013-12-02T21:15:00Z,A,1,256")).0, 4);
        for (row, what) in [
            ("yesterday,A,1,192", "timestamp"),
            (",A,1,192", "timestamp"),
            ("2013-13-02T21:15:00Z,A,1,192", "timestamp"),
            ("2013-12-02T21:15:00Z,,1,192", "tag"),
            ("2013-12-02T21:15:00Z,\"A,1,192", "quote"),
            ("2013-12-02T21:15:00Z,\"A\"x,1,192", "quote"),
            ("\n", "fields"),
        ] {
            let (line, error) = bad(row);
            assert!(line == 2 && error.contains(what), "{row}: {error}");
        }
        assert_eq!(History::parse("time,tag,value", false).unwrap_err().0, 1);
        assert_eq!(History::parse("", false).unwrap_err().0, 1);
    }

    #[test]
    fn times_are_counted_as_the_calendar_does() {
        assert_eq!(milliseconds("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(milliseconds("2013-12-02T21:15:00Z"), Some(1_386_018_900_000));
        assert_eq!(milliseconds("2000-02-29 12:00:00.250"), Some(951_825_600_250));
        assert_eq!(milliseconds("1969-12-31T23:59:59"), Some(-1_000));
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*", rows in "[0-9TZ:,\"\n.eE+-]{0,60}") {
            let _any = History::parse(&text, true);
            let _any = History::parse(&format!("timestamp,tag,value\n{rows}"), true);
        }

        #[test]
        fn every_number_keeps_its_bits(value in any::<f64>().prop_filter("finite", |value| value.is_finite())) {
            let parsed = typed(&value.to_string());
            prop_assert!(matches!(parsed, Kind::Double(read) if read.to_bits() == value.to_bits()));
        }
    }
}
