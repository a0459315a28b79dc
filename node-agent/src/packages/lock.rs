//! A lock: which version of which package, each once, with the hashes that its wheel may have. Pure.

use std::fmt::Write as _;

/// What is to be installed, sorted by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    pins: Vec<Pin>,
}

/// One version of a package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The name as PEP 503 normalizes it.
    pub name: String,
    /// The version.
    pub version: String,
    /// What the wheel may hash to, as `sha256:…`; none: nothing is known.
    pub hashes: Vec<String>,
}

impl Pin {
    /// `name==version`.
    pub fn text(&self) -> String {
        format!("{}=={}", self.name, self.version)
    }

    /// The folder of this version below the store.
    pub fn folder(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }

    /// The line that uv installs it by.
    pub fn line(&self) -> String {
        let mut line = self.text();
        for hash in &self.hashes {
            // Writing to a String cannot fail.
            let _ = write!(line, " --hash={hash}");
        }
        line.push('\n');
        line
    }
}

impl Lock {
    /// Sorted; a name with two versions is an error.
    pub fn new(mut pins: Vec<Pin>) -> Result<Self, String> {
        pins.sort_unstable();
        pins.dedup();
        let twice = pins.windows(2).find(|pair| pair[0].name == pair[1].name);
        match twice {
            Some(pair) if pair[0].version == pair[1].version => {
                Err(format!("{} is there twice with different hashes", pair[0].text()))
            }
            Some(pair) => {
                Err(format!("{} and {}: one handler has one version", pair[0].text(), pair[1].text()))
            }
            None => Ok(Self { pins }),
        }
    }

    /// The versions.
    pub fn pins(&self) -> &[Pin] {
        &self.pins
    }

    /// `name==version`, one each.
    pub fn locked(&self) -> Vec<String> {
        self.pins.iter().map(Pin::text).collect()
    }

    /// As a file that can be read again.
    pub fn text(&self) -> String {
        self.pins.iter().map(Pin::line).collect()
    }
}
