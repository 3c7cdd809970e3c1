//! Versions as nodes and floors write them: strictly MAJOR.MINOR, compared as numbers, so that 1.10 is
//! newer than 1.9. Anything else is malformed. Invariant: two texts that parse alike are alike.

use std::fmt;

/// MAJOR.MINOR
///
/// ```
/// use tidegate_plugin_sdk::version::Version;
///
/// assert!(Version::parse("1.10").unwrap() > Version { major: 1, minor: 9 });
/// assert_eq!(Version { major: 1, minor: 10 }.to_string(), "1.10");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Before the dot; counts first.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
}

impl Version {
    /// Reads exactly two decimal numbers without sign, space or leading zero.
    ///
    /// ```
    /// use tidegate_plugin_sdk::version::Version;
    ///
    /// assert_eq!(Version::parse("1.02").unwrap_err(), "`1.02` is not a version MAJOR.MINOR");
    /// ```
    pub fn parse(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("`{}` is not a version MAJOR.MINOR", text.escape_default().take(64).collect::<String>());
        let (major, minor) = text.split_once('.').ok_or_else(malformed)?;
        Ok(Self { major: number(major).ok_or_else(malformed)?, minor: number(minor).ok_or_else(malformed)? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

fn number(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text.len() == 1 || !text.starts_with('0'));
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_not_text() {
        assert!(Version::parse("1.10").unwrap() > Version::parse("1.9").unwrap());
        assert!(Version::parse("2.0").unwrap() > Version::parse("1.999").unwrap());
        for bad in
            ["", "1", "1.", ".1", "1.2.3", "v1.2", "1.2 ", "+1.2", "01.2", "1.02", "1.2-rc", "99999999999.1", "१.२"]
        {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Version::parse("0.0").unwrap().to_string(), "0.0");
    }
}
