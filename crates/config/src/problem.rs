//! What can be wrong with a configuration file: one error that lists every problem.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// One key that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key with those around it, such as `limits.memory` or `Servers[0].Port`; empty for the file itself.
    pub key: String,
    /// The value as it stands in the file; none where the key is missing.
    pub value: Option<String>,
    /// What is wrong, and what to write instead.
    pub message: String,
}

/// The longest value that a message repeats.
const SHOWN: usize = 60;

impl Problem {
    /// A problem with the value of a key. Long values are cut; secrets must not be passed.
    pub fn new(key: impl Into<String>, value: Option<&Value>, message: impl Into<String>) -> Self {
        let value = value.map(|v| {
            let text = v.to_string();
            match text.char_indices().nth(SHOWN) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        });
        Self { key: key.into(), value, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = if self.key.is_empty() { "the file" } else { &self.key };
        match &self.value {
            Some(value) => write!(f, "{key} = {value}: {}", self.message),
            None => write!(f, "{key}: {}", self.message),
        }
    }
}

/// All problems of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub list: Vec<Problem>,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.list.len() == 1 { "" } else { "s" };
        write!(f, "{}: {} problem{plural}", self.file.display(), self.list.len())?;
        self.list.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is no JSON.
    #[error("{} is no JSON: {source}", file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Keys or values are wrong.
    #[error("{0}")]
    Invalid(Problems),
}

impl ConfigError {
    /// `value`, or all the problems that were found.
    pub(crate) fn unless<T>(file: &Path, list: Vec<Problem>, value: T) -> Result<T, Self> {
        if list.is_empty() { Ok(value) } else { Err(Self::Invalid(Problems { file: file.to_owned(), list })) }
    }

    /// The single problems, if it is keys or values that are wrong.
    pub fn problems(&self) -> &[Problem] {
        if let Self::Invalid(problems) = self { &problems.list } else { &[] }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_message_lists_every_problem() {
        let list = vec![
            Problem::new("limits.memory", Some(&json!(true)), "must be a size"),
            Problem::new("worker_dir", None, "is missing"),
        ];
        let error = ConfigError::unless(Path::new("w.json"), list, ()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "w.json: 2 problems\n  - limits.memory = true: must be a size\n  - worker_dir: is missing"
        );
        assert_eq!(error.problems().len(), 2);
    }

    #[test]
    fn long_values_are_cut() {
        let problem = Problem::new("k", Some(&json!("ä".repeat(200))), "no");
        assert!(problem.to_string().chars().count() < 80);
    }
}
