//! Values between the wire and people: as text, and from text. It mends nothing: a number is shown
//! with as many digits as it takes to read the same bits back.

use std::fmt::Write as _;
use tidegate_proto::v1::{SourceTime, Value, source_time::Form, value::Kind};

/// The types that a value can be read as, by the name of `--type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Boolean,
    Integer,
    Single,
    Double,
    Text,
    Date,
    ElapsedMs,
}

/// The value as one line.
pub fn show(value: Option<&Value>) -> String {
    let Some(kind) = value.and_then(|value| value.kind.as_ref()) else { return "(no data)".into() };
    match kind {
        Kind::Boolean(v) => v.to_string(),
        Kind::Integer(v) => v.to_string(),
        Kind::Single(v) => v.to_string(),
        Kind::Double(v) => v.to_string(),
        Kind::Text(v) => format!("{v:?}"),
        Kind::Date(v) => format!("{} (date)", iso(*v)),
        Kind::ElapsedMs(v) => format!("{v} ms"),
        Kind::Booleans(v) => list(&v.values),
        Kind::Integers(v) => list(&v.values),
        Kind::Singles(v) => list(&v.values),
        Kind::Doubles(v) => list(&v.values),
        Kind::Texts(v) => list(&v.values),
        Kind::Dates(v) => list(&v.values),
        Kind::Opaque(v) => format!("({} bytes)", v.len()),
    }
}

/// The time as text: dates in ISO 8601, texts as they came.
pub fn show_time(time: Option<&SourceTime>) -> String {
    match time.and_then(|time| time.form.as_ref()) {
        Some(Form::Date(date)) => iso(*date),
        Some(Form::Text(text)) => text.clone(),
        None => String::new(),
    }
}

/// A time of the gateway's as text, ISO 8601.
pub fn show_unix_ms(ms: i64) -> String {
    iso(ms as f64 / 86_400_000.0 + 25_569.0)
}

/// What kind of value it is.
pub fn type_of(value: &Value) -> Option<Type> {
    Some(match value.kind.as_ref()? {
        Kind::Boolean(_) => Type::Boolean,
        Kind::Integer(_) => Type::Integer,
        Kind::Single(_) => Type::Single,
        Kind::Double(_) => Type::Double,
        Kind::Text(_) => Type::Text,
        Kind::Date(_) => Type::Date,
        Kind::ElapsedMs(_) => Type::ElapsedMs,
        _ => return None,
    })
}

/// Reads a value of a type; the error says what would do.
pub fn parse(text: &str, kind: Type) -> Result<Value, String> {
    let number = |what: &str| format!("{text:?} is not {what}");
    let kind = match kind {
        Type::Boolean => match text {
            "true" | "1" | "on" => Kind::Boolean(true),
            "false" | "0" | "off" => Kind::Boolean(false),
            _ => return Err(format!("{text:?} is neither true nor false")),
        },
        Type::Integer => Kind::Integer(text.parse().map_err(|_| number("a whole number of 32 bits"))?),
        Type::Single => Kind::Single(text.parse().map_err(|_| number("a number"))?),
        Type::Double => Kind::Double(text.parse().map_err(|_| number("a number"))?),
        Type::Text => Kind::Text(text.to_owned()),
        Type::Date => Kind::Date(text.parse().map_err(|_| number("a date as days since 1899-12-30"))?),
        Type::ElapsedMs => Kind::ElapsedMs(text.parse().map_err(|_| number("a number of milliseconds"))?),
    };
    Ok(Value { kind: Some(kind), data_type: 0 })
}

/// The type a text looks like: boolean, integer, double, else text.
pub fn guess(text: &str) -> Type {
    if matches!(text, "true" | "false") {
        Type::Boolean
    } else if text.parse::<i32>().is_ok() {
        Type::Integer
    } else if text.parse::<f64>().is_ok() {
        Type::Double
    } else {
        Type::Text
    }
}

fn list<T: std::fmt::Debug>(values: &[T]) -> String {
    const SHOWN: usize = 8;
    let mut text = String::from("[");
    for (at, value) in values.iter().take(SHOWN).enumerate() {
        let _ = write!(text, "{}{value:?}", if at == 0 { "" } else { ", " });
    }
    if values.len() > SHOWN {
        let _ = write!(text, ", … {} in all", values.len());
    }
    text + "]"
}

/// An OLE automation date as ISO 8601 to the millisecond, UTC; the bare number outside of years 1 to 9999.
fn iso(date: f64) -> String {
    const DAYS_TO_UNIX: i64 = 25_569;
    const MS_PER_DAY: i64 = 86_400_000;
    if !(-693_593.0..2_958_466.0).contains(&date) {
        return date.to_string();
    }
    // Before 1899-12-30 the fraction still counts forward: -1.25 is the day before, 06:00.
    let days = date.trunc();
    let ms = ((date - days).abs() * MS_PER_DAY as f64).round() as i64;
    let days = days as i64 - DAYS_TO_UNIX + ms.div_euclid(MS_PER_DAY);
    let ms = ms.rem_euclid(MS_PER_DAY);
    // Civil date from days: Howard Hinnant, "chrono-compatible low-level date algorithms".
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let of_era = z.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_shown_as_people_write_them() {
        for (date, text) in [
            (25_569.0, "1970-01-01T00:00:00.000Z"),
            (0.0, "1899-12-30T00:00:00.000Z"),
            (-1.25, "1899-12-29T06:00:00.000Z"),
            (41_610.885_416_666_664, "2013-12-02T21:15:00.000Z"),
            (45_351.999_999_999_9, "2024-03-01T00:00:00.000Z"),
            (1e9, "1000000000"),
            (f64::NAN, "NaN"),
        ] {
            assert_eq!(iso(date), text);
        }
    }

    #[test]
    fn what_is_shown_reads_back_the_same() {
        for (text, kind) in [
            ("73.967322", Type::Double),
            ("0.1", Type::Single),
            ("-7", Type::Integer),
            ("true", Type::Boolean),
            ("1e300", Type::Double),
        ] {
            let value = parse(text, kind).expect("readable");
            assert_eq!(type_of(&value), Some(kind));
            assert_eq!(parse(&show(Some(&value)), kind), Ok(value));
        }
    }

    #[test]
    fn wrong_texts_are_refused_with_what_would_do() {
        for (text, kind) in
            [("maybe", Type::Boolean), ("3000000000", Type::Integer), ("x", Type::Double), ("1.5", Type::ElapsedMs)]
        {
            assert!(parse(text, kind).is_err_and(|error| error.contains(text)));
        }
        assert_eq!([guess("true"), guess("12"), guess("1.5"), guess("on")].map(|t| t as u8), [0, 1, 3, 4]);
    }
}
