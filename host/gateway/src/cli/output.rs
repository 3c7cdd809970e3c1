//! How results look: columns for people, JSON for programs, the same facts in both. It knows the
//! messages of the wire, not where they came from. Invariant: a write to a closed pipe is an error
//! here, never a panic.

use serde_json::{Value as Json, json};
use std::io::{self, Write};
use tidegate_client::{
    Position, values,
    wire::{Event, MxStatus, Value, event::Body, value::Kind},
};

/// One line on standard output.
pub fn line(text: impl std::fmt::Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Rows under a heading, as wide as they need to be.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> io::Result<()> {
    let mut widths = heading.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading = heading.map(str::to_owned);
    let mut out = io::stdout().lock();
    for row in std::iter::once(&heading).chain(rows) {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// A position as `--resume` takes it.
pub fn show_position(position: Position) -> String {
    format!("{:016x}:{}", position.epoch, position.after)
}

/// Reads what `show_position` wrote.
pub fn parse_position(text: &str) -> Result<Position, String> {
    let read = || {
        let (epoch, after) = text.split_once(':')?;
        Some(Position { epoch: u64::from_str_radix(epoch, 16).ok()?, after: after.parse().ok()? })
    };
    read().ok_or_else(|| "a position is EPOCH:AFTER as `client stream` prints it, e.g. 00c0ffee00c0ffee:1041".into())
}

/// What happened, as a word.
pub fn kind_of(event: &Event) -> &'static str {
    match event.body {
        Some(Body::DataChange(_)) => "data_change",
        Some(Body::WriteComplete(_)) => "write_complete",
        Some(Body::OperationComplete(_)) => "operation_complete",
        Some(Body::BufferedDataChange(_)) => "buffered_data_change",
        None => "unknown",
    }
}

/// An event as one line for people.
pub fn event_line(event: &Event, tag: &str) -> String {
    let sequence = event.sequence;
    match &event.body {
        Some(Body::DataChange(change)) => format!(
            "{sequence:>9}  {tag} = {}  {}  {}",
            values::show(change.value.as_ref()),
            quality(change.quality),
            values::show_time(change.time.as_ref())
        ),
        Some(Body::BufferedDataChange(change)) => {
            let last = change.values.last();
            format!("{sequence:>9}  {tag}: {} buffered, last = {}", change.values.len(), values::show(last))
        }
        Some(Body::WriteComplete(done)) => format!("{sequence:>9}  {tag}: write {}", outcome(&done.statuses)),
        Some(Body::OperationComplete(done)) => format!("{sequence:>9}  {tag}: operation {}", outcome(&done.statuses)),
        None => format!("{sequence:>9}  {tag}: an event this client does not know"),
    }
}

/// An event for programs.
pub fn event_json(event: &Event, tag: &str) -> Json {
    let mut object = json!({
        "kind": kind_of(event),
        "sequence": event.sequence,
        "tag": tag,
        "item_key": event.item_key,
        "server_handle": event.server_handle,
        "item_handle": event.item_handle,
    });
    match &event.body {
        Some(Body::DataChange(change)) => {
            object["value"] = value_json(change.value.as_ref());
            object["quality"] = change.quality.into();
            object["time"] = values::show_time(change.time.as_ref()).into();
            object["statuses"] = statuses_json(&change.statuses);
        }
        Some(Body::BufferedDataChange(change)) => {
            object["values"] = change.values.iter().map(|value| value_json(Some(value))).collect();
            object["qualities"] = change.qualities.clone().into();
            object["times"] = change.times.iter().map(|time| values::show_time(Some(time))).collect();
            object["statuses"] = statuses_json(&change.statuses);
        }
        Some(Body::WriteComplete(done)) => object["statuses"] = statuses_json(&done.statuses),
        Some(Body::OperationComplete(done)) => object["statuses"] = statuses_json(&done.statuses),
        None => {}
    }
    object
}

/// A value for programs: as JSON's own kind where it has one, else as text; null for no data.
pub fn value_json(value: Option<&Value>) -> Json {
    match value.and_then(|value| value.kind.as_ref()) {
        None => Json::Null,
        Some(Kind::Boolean(v)) => json!(v),
        Some(Kind::Integer(v)) => json!(v),
        // By its shortest text: widening 0.1 to a double would print 0.10000000149011612.
        Some(Kind::Single(v)) if v.is_finite() => v.to_string().parse::<f64>().map_or(Json::Null, Json::from),
        Some(Kind::Double(v)) if v.is_finite() => json!(v),
        Some(Kind::Text(v)) => json!(v),
        Some(Kind::ElapsedMs(v)) => json!(v),
        Some(Kind::Booleans(v)) => json!(v.values),
        Some(Kind::Integers(v)) => json!(v.values),
        Some(Kind::Singles(v)) => json!(v.values),
        Some(Kind::Doubles(v)) => json!(v.values),
        Some(Kind::Texts(v)) => json!(v.values),
        Some(Kind::Dates(v)) => json!(v.values),
        Some(_) => json!(values::show(value)),
    }
}

/// The OPC DA quality byte as a word and its number.
pub fn quality(byte: i32) -> String {
    match byte {
        192.. => format!("good({byte})"),
        64..=191 => format!("uncertain({byte})"),
        4 => "bad(4: configuration)".into(),
        8 => "bad(8: not connected)".into(),
        20 => "bad(20: last known)".into(),
        24 => "bad(24: comm failure)".into(),
        28 => "bad(28: out of service)".into(),
        32 => "bad(32: waiting for initial data)".into(),
        _ => format!("bad({byte})"),
    }
}

/// Whether a status array says done: non-zero `success`, and not pending (category 1).
pub fn succeeded(statuses: &[MxStatus]) -> bool {
    statuses.iter().all(|status| status.success != 0 && status.category != 1)
}

/// A status array in words.
pub fn outcome(statuses: &[MxStatus]) -> String {
    if succeeded(statuses) {
        return "done".into();
    }
    let failures: Vec<String> = statuses
        .iter()
        .filter(|status| status.success == 0 || status.category == 1)
        .map(|status| {
            let secured = match status.detail {
                1012 => ": the attribute is secured, use WriteSecured",
                1013 => ": the attribute wants two people, use WriteSecured with a verifier",
                _ => "",
            };
            format!("{} (detail {}{secured})", category(status.category), status.detail)
        })
        .collect();
    format!("failed: {}", failures.join("; "))
}

fn category(number: i32) -> &'static str {
    match number {
        0 => "ok",
        1 => "pending",
        2 => "warning",
        3 => "communication",
        4 => "configuration",
        5 => "operational",
        6 => "security",
        7 => "software",
        8 => "other",
        _ => "unknown",
    }
}

fn statuses_json(statuses: &[MxStatus]) -> Json {
    let one = |s: &MxStatus| json!({ "success": s.success, "category": category(s.category), "detected_by": s.detected_by, "detail": s.detail });
    statuses.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_read_back() {
        let position = Position { epoch: 0xfeed, after: 1041 };
        assert_eq!(parse_position(&show_position(position)), Ok(position));
        for wrong in ["", "12", "x:1", "1:y", "1:-1"] {
            assert!(parse_position(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_keep_their_digits_and_odd_ones_are_text() {
        let of = |kind| value_json(Some(&Value { kind: Some(kind), data_type: 0 })).to_string();
        assert_eq!(of(Kind::Single(0.1)), "0.1");
        assert_eq!(of(Kind::Double(73.967322)), "73.967322");
        assert_eq!(of(Kind::Double(f64::NAN)), "\"NaN\"");
        assert_eq!(value_json(None), Json::Null);
    }

    #[test]
    fn a_pending_or_secured_write_is_not_done() {
        let status = |success, category, detail| MxStatus { success, category, detected_by: 0, detail };
        assert_eq!(outcome(&[status(-1, 0, 0)]), "done");
        assert!(outcome(&[status(-1, 1, 0)]).contains("pending"));
        assert!(outcome(&[status(0, 6, 1012)]).contains("WriteSecured"));
    }
}
