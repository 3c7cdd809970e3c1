//! Settings against the JSON Schema that a component brings. A strict part of JSON Schema: `type`, `enum`,
//! `properties`, `required`, `additionalProperties`, `items`, lengths and bounds; a keyword beyond it is
//! refused, because a rule that is silently not applied protects nobody. Invariant: bounded by the size
//! of schema and settings, both capped by the caller; no recursion deeper than `DEPTH_MAX`.

use serde_json::{Map, Value};

/// Deeper schemas are refused. Guessed: settings are flat.
const DEPTH_MAX: usize = 16;

/// Whose fault it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    Schema(String),
    Settings(String),
}

/// An empty schema takes `{}` only.
pub(super) fn check(schema: &str, settings: &str) -> Result<(), Wrong> {
    let settings: Value = serde_json::from_str(settings).map_err(|e| Wrong::Settings(format!("not JSON: {e}")))?;
    if schema.is_empty() {
        return match &settings {
            Value::Object(fields) if fields.is_empty() => Ok(()),
            _ => Err(Wrong::Settings("this component takes no settings".into())),
        };
    }
    let schema: Value = serde_json::from_str(schema).map_err(|e| Wrong::Schema(format!("not JSON: {e}")))?;
    if schema.get("type").and_then(Value::as_str) != Some("object") {
        return Err(Wrong::Schema("at the top it must say \"type\": \"object\"".into()));
    }
    understood(&schema, 0).map_err(Wrong::Schema)?;
    fits(&schema, &settings, "settings").map_err(Wrong::Settings)
}

/// Every keyword is known and has the right form.
fn understood(schema: &Value, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err("it is too deep".into());
    }
    let fields = schema.as_object().ok_or("a schema must be an object")?;
    for (keyword, value) in fields {
        let well = match keyword.as_str() {
            "$schema" | "$id" | "$comment" | "title" | "description" | "default" | "examples" => true,
            "type" => value.as_str().is_some_and(|name| type_matches(name, &Value::Null).is_some()),
            "enum" => value.as_array().is_some_and(|all| !all.is_empty()),
            "properties" => {
                let all = value.as_object().ok_or("`properties` must be an object")?;
                all.values().try_for_each(|inner| understood(inner, depth + 1))?;
                true
            }
            "required" => value.as_array().is_some_and(|all| all.iter().all(Value::is_string)),
            "additionalProperties" => match value {
                Value::Bool(_) => true,
                inner => understood(inner, depth + 1).map(|()| true)?,
            },
            "items" => understood(value, depth + 1).map(|()| true)?,
            "minimum" | "maximum" => value.is_number(),
            "minLength" | "maxLength" | "minItems" | "maxItems" => value.is_u64(),
            _ => return Err(format!("the keyword `{}` is not supported", crate::instance::clip(keyword, 64))),
        };
        if !well {
            return Err(format!("`{keyword}` has the wrong form"));
        }
    }
    Ok(())
}

fn fits(schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let Some(schema) = schema.as_object() else { return Ok(()) };
    if let Some(name) = schema.get("type").and_then(Value::as_str)
        && type_matches(name, value) != Some(true)
    {
        return Err(format!("{at} must be of type {name}"));
    }
    if let Some(choices) = schema.get("enum").and_then(Value::as_array)
        && !choices.contains(value)
    {
        let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
        return Err(format!("{at} must be one of {}", choices.join(", ")));
    }
    match value {
        Value::Object(fields) => object(schema, fields, at),
        Value::Array(items) => {
            within(schema, "minItems", "maxItems", items.len() as f64, at, "items")?;
            match schema.get("items") {
                Some(inner) => {
                    items.iter().enumerate().try_for_each(|(n, item)| fits(inner, item, &format!("{at}[{n}]")))
                }
                None => Ok(()),
            }
        }
        Value::String(text) => within(schema, "minLength", "maxLength", text.chars().count() as f64, at, "characters"),
        Value::Number(number) => {
            within(schema, "minimum", "maximum", number.as_f64().unwrap_or(f64::NAN), at, "as its value")
        }
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

fn object(schema: &Map<String, Value>, fields: &Map<String, Value>, at: &str) -> Result<(), String> {
    for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if let Some(name) = required.as_str()
            && !fields.contains_key(name)
        {
            return Err(format!("{at}.{name} is missing"));
        }
    }
    let known = schema.get("properties").and_then(Value::as_object);
    for (name, value) in fields {
        let at = format!("{at}.{}", crate::instance::clip(name, 64));
        match (known.and_then(|known| known.get(name)), schema.get("additionalProperties")) {
            (Some(inner), _) => fits(inner, value, &at)?,
            (None, Some(Value::Bool(false))) => return Err(format!("{at} is not a setting")),
            (None, Some(inner @ Value::Object(_))) => fits(inner, value, &at)?,
            (None, _) => {}
        }
    }
    Ok(())
}

fn within(
    schema: &Map<String, Value>,
    least: &str,
    most: &str,
    number: f64,
    at: &str,
    unit: &str,
) -> Result<(), String> {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    match (bound(least), bound(most)) {
        (Some(least), _) if number.is_nan() || number < least => Err(format!("{at} needs at least {least} {unit}")),
        (_, Some(most)) if number.is_nan() || number > most => Err(format!("{at} may have at most {most} {unit}")),
        _ => Ok(()),
    }
}

/// None: there is no such type.
fn type_matches(name: &str, value: &Value) -> Option<bool> {
    Some(match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type": "object", "additionalProperties": false, "required": ["at"], "properties": {
        "at": {"type": "number", "minimum": 0, "maximum": 1},
        "tags": {"type": "array", "maxItems": 2, "items": {"type": "string", "maxLength": 3}},
        "mode": {"enum": ["a", "b"]}}}"#;

    #[test]
    fn settings_fit_or_are_told_where_they_do_not() {
        assert_eq!(check(SCHEMA, r#"{"at": 0.5, "tags": ["abc"], "mode": "a"}"#), Ok(()));
        for (settings, says) in [
            ("{", "not JSON"),
            ("{}", "settings.at is missing"),
            (r#"{"at": 2}"#, "settings.at may have at most 1"),
            (r#"{"at": "1"}"#, "settings.at must be of type number"),
            (r#"{"at": 1, "tags": ["a", "b", "c"]}"#, "settings.tags may have at most 2 items"),
            (r#"{"at": 1, "tags": ["abcd"]}"#, "settings.tags[0] may have at most 3"),
            (r#"{"at": 1, "mode": "c"}"#, "settings.mode must be one of"),
            (r#"{"at": 1, "moed": "a"}"#, "settings.moed is not a setting"),
        ] {
            let Err(Wrong::Settings(message)) = check(SCHEMA, settings) else { panic!("{settings} passed") };
            assert!(message.contains(says), "{settings}: {message}");
        }
    }

    #[test]
    fn a_schema_that_is_not_understood_is_refused() {
        for schema in [
            "x",
            "[]",
            r#"{"type": "array"}"#,
            r#"{"type": "object", "pattern": "x"}"#,
            r#"{"type": "object", "properties": []}"#,
            r#"{"type": "object", "properties": {"a": {"type": "text"}}}"#,
        ] {
            assert!(matches!(check(schema, "{}"), Err(Wrong::Schema(_))), "{schema}");
        }
        assert!(matches!(check("", r#"{"a": 1}"#), Err(Wrong::Settings(_))));
        assert_eq!(check("", "{}"), Ok(()));
    }
}
