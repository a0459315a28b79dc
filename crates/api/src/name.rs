//! Names of handlers: parsed once, at the edge.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest name, in bytes: it must fit into a Kubernetes label value.
pub const MAX_LEN: usize = 63;

/// A handler's name: 1 to 63 of `A-Z a-z 0-9 . _ -`, beginning and ending with a letter or digit.
///
/// The set contains no `/` and no `%`, and `..` cannot stand alone, so a name is always one path component.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HandlerName(String);

/// Why a text is no handler name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing between the slashes.
    #[error("the handler name is empty: call /run/<handler>")]
    Empty,
    /// Over [`MAX_LEN`] bytes.
    #[error("the handler name has {0} bytes; at most {MAX_LEN} are allowed")]
    TooLong(usize),
    /// A byte outside the set.
    #[error(
        "the handler name {0:?} has a character other than letters, digits, '.', '_' and '-', or begins or ends with other than a letter or digit"
    )]
    Charset(String),
}

impl HandlerName {
    /// Parses a name.
    ///
    /// ```
    /// use openlambda_api::HandlerName;
    /// assert_eq!(HandlerName::parse("hello").unwrap().as_str(), "hello");
    /// assert!(HandlerName::parse("..").is_err());
    /// assert!(HandlerName::parse("a%00").is_err());
    /// ```
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        if text.is_empty() {
            return Err(InvalidName::Empty);
        }
        if text.len() > MAX_LEN {
            return Err(InvalidName::TooLong(text.len()));
        }
        let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
        let bytes = text.as_bytes();
        let inside = bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
        if !(inside && edge(bytes.first()) && edge(bytes.last())) {
            return Err(InvalidName::Charset(text.chars().take(MAX_LEN).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for HandlerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HandlerName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}

impl From<HandlerName> for String {
    fn from(name: HandlerName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_single_path_components() {
        for bad in ["", ".", "..", "a/b", "a/../b", "a%00", "a\0", "-a", "a-", "ä", "a b", &"x".repeat(300)]
        {
            assert!(HandlerName::parse(bad).is_err(), "{bad:?} was taken");
        }
        for good in ["a", "hello", "A.b_c-1", &"x".repeat(MAX_LEN)] {
            assert_eq!(HandlerName::parse(good).map(|n| n.to_string()).as_deref(), Ok(good));
        }
    }
}
