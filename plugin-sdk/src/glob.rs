//! Globs over MXAccess references. MXAccess does not tell `Area1.Pump` from `AREA1.PUMP`, so a glob
//! does not either: a rule that did could be walked around by writing a tag in capitals.
//! `*` stands for any run of characters, dots included, `?` for exactly one; nothing else is special.
//! Invariant: matching takes at most pattern × tag steps and no memory.

/// Longest pattern taken, bytes. Guessed: a reference is shorter.
pub const PATTERN_BYTES_MAX: usize = 512;

/// Says what is wrong with a pattern, if something is: empty, too long, control characters, or `**`
/// (which elsewhere means 'across folders' and here could only be misread).
///
/// ```
/// use tidegate_plugin_sdk::glob;
///
/// assert_eq!(glob::check("Area1.*"), Ok(()));
/// assert_eq!(glob::check("").unwrap_err(), "a glob is empty; `*` means every tag");
/// ```
pub fn check(pattern: &str) -> Result<(), String> {
    if pattern.is_empty() {
        return Err("a glob is empty; `*` means every tag".to_owned());
    }
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("a glob has more than {PATTERN_BYTES_MAX} bytes"));
    }
    if pattern.contains("**") {
        return Err(format!("`{pattern}`: `**` is not a glob here; `*` crosses dots already"));
    }
    if pattern.chars().any(char::is_control) {
        return Err("a glob has a control character".to_owned());
    }
    Ok(())
}

/// Checks every pattern of a list.
///
/// ```
/// use tidegate_plugin_sdk::glob;
///
/// assert!(glob::check_all(&["*.Flow".to_owned(), "Area1.**".to_owned()]).is_err());
/// ```
pub fn check_all<'a>(patterns: impl IntoIterator<Item = &'a String>) -> Result<(), String> {
    patterns.into_iter().try_for_each(|pattern| check(pattern))
}

/// Does `pattern` match all of `tag`?
///
/// ```
/// use tidegate_plugin_sdk::glob;
///
/// assert!(glob::matches("Area?.*.Flow", "AREA1.Pump7.Flow"));
/// assert!(!glob::matches("Area1.*", "Area10.Pump7"));
/// ```
pub fn matches(pattern: &str, tag: &str) -> bool {
    let mut pattern_at = pattern.chars();
    let mut tag_at = tag.chars();
    // Where to go on if what follows the last star does not fit: that star takes one more character.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        match (pattern_at.next(), tag_at.clone().next()) {
            (Some('*'), _) => retry = Some((pattern_at.clone(), tag_at.clone())),
            (Some('?'), Some(_)) => {
                tag_at.next();
            }
            (Some(p), Some(t)) if fold(p) == fold(t) => {
                tag_at.next();
            }
            (None, None) => return true,
            _ => {
                let Some((after_star, taken)) = &mut retry else { return false };
                if taken.next().is_none() {
                    return false;
                }
                pattern_at = after_star.clone();
                tag_at = taken.clone();
            }
        }
    }
}

/// Does any of `patterns` match?
///
/// ```
/// use tidegate_plugin_sdk::glob;
///
/// assert!(glob::any(&["*.Flow".to_owned(), "*.Level".to_owned()], "Area1.Tank.Level"));
/// ```
pub fn any(patterns: &[String], tag: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, tag))
}

fn fold(c: char) -> char {
    if c.is_ascii() { c.to_ascii_lowercase() } else { c.to_lowercase().next().unwrap_or(c) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_cross_dots_and_case_does_not_matter() {
        for (pattern, tag, expected) in [
            ("*", "", true),
            ("*", "Area1.Pump7.Flow", true),
            ("Area1.*", "Area1.Pump7.Flow", true),
            ("area1.*", "AREA1.pump7", true),
            ("Area1.*", "Area1", false),
            ("Area1.*", "Area10.Pump", false),
            ("Area?.Pump", "Area1.Pump", true),
            ("Area?.Pump", "Area.Pump", false),
            ("*.Flow", "Area1.Pump7.Flow", true),
            ("*.Flow", "Area1.Pump7.Flow.Raw", false),
            ("*Pump*Flow", "Area1.Pump7.Pump8.Flow", true),
            ("Bereich.Ä*", "bereich.ärger", true),
            ("a.b", "aXb", false),
            ("", "", true),
            ("", "a", false),
            ("a*b*c", "aXXbYYc", true),
            ("a*b*c", "aXXbYY", false),
        ] {
            assert_eq!(matches(pattern, tag), expected, "{pattern} on {tag}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends() {
        let pattern = "*a".repeat(200);
        assert!(!matches(&pattern, &"a".repeat(100)));
    }

    #[test]
    fn what_is_not_a_glob_is_said() {
        assert!(check("").is_err() && check("Area1.**").is_err() && check("a\nb").is_err());
        assert!(check(&"x".repeat(PATTERN_BYTES_MAX + 1)).is_err());
        assert!(check("Area1.*").is_ok());
    }
}
