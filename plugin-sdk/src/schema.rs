//! Settings that know their own JSON Schema: what [`settings`](macro@crate::settings) fills in. The part of JSON Schema that
//! gateways understand, written piece by piece, so that a component gets no schema library. Invariant: what is read by
//! `serde` and fits no schema written here does not reach `configure`.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

/// A type of a setting.
///
/// ```
/// use tidegate_plugin_sdk::schema::{self, Schema};
///
/// assert_eq!(schema::of::<u8>(), r#"{"type":"integer","minimum":0,"maximum":255}"#);
/// assert_eq!(schema::of::<Vec<bool>>(), r#"{"type":"array","items":{"type":"boolean"}}"#);
/// ```
pub trait Schema {
    /// Of the type itself, a JSON string; a field's own comment goes before it.
    const DOC: &'static str = "\"\"";

    /// Writes one JSON Schema to the end of `out`.
    fn write(of: &Bounds, out: &mut String);
}

/// What a field adds to the schema of its type: JSON texts, empty where it says nothing.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// A JSON string.
    pub doc: &'static str,
    /// Any JSON value.
    pub default: &'static str,
    /// Of numbers.
    pub min: &'static str,
    /// Of numbers.
    pub max: &'static str,
    /// Of texts, characters.
    pub min_length: &'static str,
    /// Of texts, characters.
    pub max_length: &'static str,
    /// Of lists.
    pub min_items: &'static str,
    /// Of lists.
    pub max_items: &'static str,
}

/// The schema of a type by itself.
///
/// ```
/// use tidegate_plugin_sdk::{schema, settings};
///
/// /// How loud.
/// #[settings]
/// struct Volume {
///     /// Of 100.
///     #[setting(default = 40, max = 100)]
///     percent: u8,
/// }
///
/// assert_eq!(
///     schema::of::<Volume>(),
///     r#"{"type":"object","additionalProperties":false,"properties":{"percent":"#.to_owned()
///         + r#"{"type":"integer","minimum":0,"maximum":100,"description":"Of 100.","default":40}},"#
///         + r#""description":"How loud."}"#
/// );
/// ```
pub fn of<T: Schema>() -> String {
    let mut out = String::new();
    T::write(&Bounds::NONE, &mut out);
    out
}

/// The default of a field from its JSON. One that does not fit is the author's mistake, which the gate finds at once,
/// because it configures with nothing set.
#[doc(hidden)]
pub fn default<T: DeserializeOwned>(field: &str, json: &str) -> T {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("the default of `{field}`: {error}"))
}

// === impl Bounds ===

impl Bounds {
    /// Says nothing.
    pub const NONE: Self = Self {
        doc: "\"\"",
        default: "",
        min: "",
        max: "",
        min_length: "",
        max_length: "",
        min_items: "",
        max_items: "",
    };

    /// The end of an object that was begun: description and default of the field, or of the type.
    pub fn end<T: Schema + ?Sized>(&self, out: &mut String) {
        let doc = if self.doc == "\"\"" { T::DOC } else { self.doc };
        if doc != "\"\"" {
            pair(out, "description", doc);
        }
        pair(out, "default", self.default);
        out.push('}');
    }

    /// Of the elements of a list or map: lengths and values, nothing that is the whole's.
    fn inner(&self) -> Self {
        Self { doc: "\"\"", default: "", min_items: "", max_items: "", ..*self }
    }

    /// `min` and `max`, or those of the type.
    fn number(&self, kind: &str, least: &'static str, most: &'static str, out: &mut String) {
        out.push_str("{\"type\":\"");
        out.push_str(kind);
        out.push('"');
        pair(out, "minimum", if self.min.is_empty() { least } else { self.min });
        pair(out, "maximum", if self.max.is_empty() { most } else { self.max });
    }
}

fn pair(out: &mut String, key: &str, json: &str) {
    if !json.is_empty() {
        out.push_str(",\"");
        out.push_str(key);
        out.push_str("\":");
        out.push_str(json);
    }
}

// === impl Schema ===

macro_rules! numbers {
    ($($ty:ty: $kind:literal, $least:literal, $most:literal;)*) => {$(
        impl Schema for $ty {
            fn write(of: &Bounds, out: &mut String) {
                of.number($kind, $least, $most, out);
                of.end::<Self>(out);
            }
        }
    )*};
}

// Bounds of 64-bit numbers are beyond what JSON's numbers hold exactly.
numbers! {
    u8: "integer", "0", "255";
    u16: "integer", "0", "65535";
    u32: "integer", "0", "4294967295";
    u64: "integer", "0", "";
    i8: "integer", "-128", "127";
    i16: "integer", "-32768", "32767";
    i32: "integer", "-2147483648", "2147483647";
    i64: "integer", "", "";
    f32: "number", "", "";
    f64: "number", "", "";
}

impl Schema for bool {
    fn write(of: &Bounds, out: &mut String) {
        out.push_str("{\"type\":\"boolean\"");
        of.end::<Self>(out);
    }
}

impl Schema for String {
    fn write(of: &Bounds, out: &mut String) {
        out.push_str("{\"type\":\"string\"");
        pair(out, "minLength", of.min_length);
        pair(out, "maxLength", of.max_length);
        of.end::<Self>(out);
    }
}

/// Absent or there.
impl<T: Schema> Schema for Option<T> {
    const DOC: &'static str = T::DOC;

    fn write(of: &Bounds, out: &mut String) {
        T::write(of, out);
    }
}

/// Bounds of lengths and values are those of the elements.
impl<T: Schema> Schema for Vec<T> {
    fn write(of: &Bounds, out: &mut String) {
        out.push_str("{\"type\":\"array\"");
        pair(out, "minItems", of.min_items);
        pair(out, "maxItems", of.max_items);
        out.push_str(",\"items\":");
        T::write(&of.inner(), out);
        of.end::<Self>(out);
    }
}

/// Any name to a value; bounds are those of the values.
impl<T: Schema> Schema for BTreeMap<String, T> {
    fn write(of: &Bounds, out: &mut String) {
        out.push_str("{\"type\":\"object\",\"additionalProperties\":");
        T::write(&of.inner(), out);
        of.end::<Self>(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;

    /// What can be set.
    #[settings]
    #[derive(Debug, PartialEq)]
    struct All {
        /// A \"list\".
        #[setting(max_items = 1_024, max_length = 512, default = ["a", "b"])]
        texts: Vec<String>,
        #[setting(default = [{"at": 0.5, "what": "fault-session"}])]
        levels: Vec<Level>,
        maybe: Option<u32>,
        kinds: BTreeMap<String, Level>,
        #[setting(min = -5, default = -1)]
        below: i8,
    }

    /// A level.
    #[settings]
    #[derive(Debug, PartialEq)]
    struct Level {
        #[setting(required, min = 0, max = 1)]
        at: f64,
        what: Option<Choice>,
    }

    /// One of these.
    #[settings]
    #[derive(Debug, PartialEq)]
    enum Choice {
        Wait,
        FaultSession,
    }

    // shows: X-14
    #[test]
    fn defaults_reader_and_schema_are_of_the_same_words() {
        let none: All = serde_json::from_str("{}").unwrap();
        assert_eq!(none, All::default());
        assert_eq!((none.texts.len(), none.below, none.maybe), (2, -1, None));
        assert_eq!(none.levels, [Level { at: 0.5, what: Some(Choice::FaultSession) }]);
        let schema: serde_json::Value = serde_json::from_str(&of::<All>()).expect("JSON");
        assert_eq!(schema["description"], "What can be set.");
        let texts = &schema["properties"]["texts"];
        assert_eq!((&texts["maxItems"], &texts["items"]["maxLength"]), (&1024.into(), &512.into()));
        assert_eq!((&texts["default"], &texts["items"]["default"]), (&["a", "b"].into(), &serde_json::Value::Null));
        assert_eq!(texts["description"], "A \\\"list\\\".");
        let level = &schema["properties"]["levels"]["items"];
        assert_eq!((&level["required"], &level["description"]), (&["at"].into(), &"A level.".into()));
        assert_eq!(level["properties"]["what"]["enum"], serde_json::json!(["wait", "fault-session"]));
        assert_eq!(schema["properties"]["kinds"]["additionalProperties"]["properties"]["at"]["maximum"], 1);
        assert_eq!(schema["properties"]["below"]["minimum"], -5);
        serde_json::from_str::<All>(r#"{"textss": []}"#).expect_err("misspelt");
        serde_json::from_str::<Level>("{}").expect_err("required");
    }
}
