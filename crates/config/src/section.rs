//! Reads one JSON object key by key, keeping every problem instead of stopping at the first.
//!
//! Each key that is asked for counts as known; [`Section::finish`] reports the rest. `null` is the same as an
//! absent key, as it was for the original.

use serde_json::{Map, Value};

use crate::problem::Problem;
use crate::unknown;

/// One object of a file while it is read.
pub(crate) struct Section<'a> {
    map: Option<&'a Map<String, Value>>,
    path: String,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
    /// The value is no object, so what its keys lack is not worth a word.
    broken: bool,
}

impl<'a> Section<'a> {
    /// Begins with a value that should be an object; an absent one is an empty object.
    pub(crate) fn new(value: Option<&'a Value>, path: impl Into<String>) -> Self {
        let mut section =
            Self { map: None, path: path.into(), known: Vec::new(), problems: Vec::new(), broken: false };
        match value {
            Some(Value::Object(map)) => section.map = Some(map),
            None | Some(Value::Null) => {}
            Some(other) => section.breaks(other),
        }
        section
    }

    /// Begins with the value of a whole file, which must be an object: `null` will not do here.
    pub(crate) fn root(value: &'a Value) -> Self {
        let mut section = Self::new(Some(value), "");
        if value.is_null() {
            section.breaks(value);
        }
        section
    }

    fn breaks(&mut self, value: &Value) {
        self.problems.push(Problem::new(self.path.clone(), Some(value), "must be an object {…}"));
        self.broken = true;
    }

    /// The raw value of a key, which is known from now on.
    pub(crate) fn get(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.map.and_then(|map| map.get(key)).filter(|value| !value.is_null())
    }

    /// The converted value of a key, or `None` where it is absent or wrong.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        convert: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.get(key)?;
        match convert(value) {
            Ok(converted) => Some(converted),
            Err(message) => {
                self.blame(key, Some(value), message);
                None
            }
        }
    }

    /// The converted value of a key, or its default.
    pub(crate) fn read<T>(
        &mut self,
        key: &'static str,
        default: T,
        convert: impl FnOnce(&Value) -> Result<T, String>,
    ) -> T {
        self.optional(key, convert).unwrap_or(default)
    }

    /// The object under a key, with its path.
    pub(crate) fn section(&mut self, key: &'static str) -> Section<'a> {
        let path = self.path_of(key);
        Section::new(self.get(key), path)
    }

    /// Whether the key has a value.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.and_then(|map| map.get(key)).is_some_and(|value| !value.is_null())
    }

    /// Notes a problem with one of the keys.
    pub(crate) fn blame(&mut self, key: &str, value: Option<&Value>, message: impl Into<String>) {
        let path = self.path_of(key);
        self.problems.push(Problem::new(path, value, message));
    }

    /// Takes over the problems of an inner section.
    pub(crate) fn absorb(&mut self, inner: Vec<Problem>) {
        self.problems.extend(inner);
    }

    /// The full path of a key.
    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// All problems: those noted, then every key that nobody asked for.
    pub(crate) fn finish(mut self) -> Vec<Problem> {
        if self.broken {
            self.problems.truncate(1);
        }
        for key in self.map.into_iter().flat_map(Map::keys) {
            if !self.known.contains(&key.as_str()) {
                self.problems.push(unknown::problem(self.path_of(key), key, &self.known));
            }
        }
        self.problems
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::values;

    #[test]
    fn every_problem_is_kept() {
        let value = json!({"a": 1, "wrng": 2, "in": {"x": "y", "zz": 1}, "n": null});
        let mut section = Section::new(Some(&value), "");
        assert!(!section.read("a", false, values::boolean));
        assert!(section.read("n", true, values::boolean));
        section.get("wrong");
        let mut inner = section.section("in");
        inner.optional("x", values::boolean);
        section.absorb(inner.finish());
        let texts: Vec<String> = section.finish().iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "a = 1: must be true or false",
                "in.x = \"y\": must be true or false",
                "in.zz: unknown key; remove it. Known here: x",
                "wrng: unknown key; do you mean \"wrong\"?",
            ]
        );
    }

    #[test]
    fn something_else_than_an_object_is_named() {
        let value = json!([1]);
        let problems = Section::new(Some(&value), "limits").finish();
        assert_eq!(problems[0].to_string(), "limits = [1]: must be an object {…}");
        let mut root = Section::root(&Value::Null);
        root.blame("a", None, "is missing");
        let problems = root.finish();
        assert_eq!(
            (problems.len(), problems[0].to_string().as_str()),
            (1, "the file = null: must be an object {…}")
        );
    }
}
