//! `ol.yaml`: what a bundle says of its own handler, with the keys of today's OpenLambda.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{BundleError, invalid};

/// Its name, at the bundle's root.
pub const MANIFEST_FILE: &str = "ol.yaml";
/// The longest one.
const MAX_BYTES: u64 = 64 << 10;
/// In the environment: the file whose function `f` is called.
const ENTRY_FILE: &str = "OL_ENTRY_FILE";
/// In the environment: frameworks that are not served.
const FRAMEWORKS: [&str; 2] = ["OL_WSGI_ENTRY", "OL_ASGI_ENTRY"];

/// What a bundle says of its handler. What it does not say is the worker's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Manifest {
    /// MODULE.FUNCTION, if it names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<String>,
    /// Variables of the environment.
    pub environment: BTreeMap<String, String>,
    /// What one instance and one call may use.
    pub limits: ManifestLimits,
    /// Whether an instance serves more than one call.
    #[serde(rename = "reuse-sandbox")]
    pub reuse: bool,
    /// What it asks for and does not get.
    pub notes: Vec<String>,
}

/// Limits in OpenLambda's units.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestLimits {
    /// Memory of one instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_mb: Option<u64>,
    /// Hundredths of a core.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_percent: Option<u32>,
    /// Processes and threads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub procs: Option<u32>,
    /// Time of one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime_sec: Option<u64>,
    /// Of no effect: sandboxes do not swap.
    #[serde(skip_serializing_if = "Option::is_none")]
    swappiness: Option<u64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(default)]
    triggers: Triggers,
    #[serde(default)]
    environment: BTreeMap<String, Scalar>,
    #[serde(default)]
    limits: ManifestLimits,
    #[serde(default = "yes", rename = "reuse-sandbox")]
    reuse: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Triggers {
    #[serde(default)]
    http: Vec<HttpTrigger>,
    #[serde(default)]
    cron: Vec<BTreeMap<String, serde::de::IgnoredAny>>,
    #[serde(default)]
    kafka: Vec<BTreeMap<String, serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HttpTrigger {
    method: String,
}

/// A value as people write it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Whole(i64),
    Real(f64),
    Truth(bool),
}

fn yes() -> bool {
    true
}

impl Manifest {
    /// That of an unpacked bundle; one that has none says nothing.
    pub fn of(directory: &Path) -> Result<Self, BundleError> {
        let path = directory.join(MANIFEST_FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::parse("{}"),
            other => other.map_err(|source| BundleError::io(&path, source))?,
        };
        let mut text = String::new();
        let read = file.take(MAX_BYTES + 1).read_to_string(&mut text);
        read.map_err(|error| invalid(format!("{MANIFEST_FILE}: {error}")))?;
        if text.len() as u64 > MAX_BYTES {
            return Err(invalid(format!("{MANIFEST_FILE} has more than {} KiB", MAX_BYTES >> 10)));
        }
        Self::parse(&text)
    }

    /// Reads its text.
    pub fn parse(text: &str) -> Result<Self, BundleError> {
        let text = if text.trim().is_empty() { "{}" } else { text };
        let file: Text = serde_saphyr::from_str(text).map_err(|error| {
            invalid(format!(
                "{MANIFEST_FILE}: {error}; known are triggers, environment, limits (mem_mb, cpu_percent, procs, \
                 runtime_sec) and reuse-sandbox"
            ))
        })?;
        let environment = environment(file.environment)?;
        let entrypoint = environment.get(ENTRY_FILE).map(|file| entrypoint(file)).transpose()?;
        Ok(Self {
            entrypoint,
            environment,
            notes: notes(&file.triggers, &file.limits),
            limits: checked(file.limits)?,
            reuse: file.reuse,
        })
    }
}

fn environment(values: BTreeMap<String, Scalar>) -> Result<BTreeMap<String, String>, BundleError> {
    let mut all = BTreeMap::new();
    for (name, value) in values {
        let plain = !name.is_empty() && !name.contains(['=', '\0']);
        if !plain {
            return Err(invalid(format!(
                "{MANIFEST_FILE}: environment: {name:?} cannot be a variable's name"
            )));
        }
        if FRAMEWORKS.contains(&&*name) {
            return Err(invalid(format!(
                "{MANIFEST_FILE}: environment: {name}: WSGI and ASGI are not served here: give a function f(event)"
            )));
        }
        let text = match value {
            Scalar::Text(text) => text,
            Scalar::Whole(number) => number.to_string(),
            Scalar::Real(number) => number.to_string(),
            Scalar::Truth(truth) => truth.to_string(),
        };
        if text.contains('\0') {
            return Err(invalid(format!("{MANIFEST_FILE}: environment: {name} has a NUL in its value")));
        }
        all.insert(name, text);
    }
    Ok(all)
}

fn entrypoint(file: &str) -> Result<String, BundleError> {
    let is_name = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    match file.strip_suffix(".py") {
        Some(module) if module.split('/').all(is_name) => Ok(format!("{}.f", module.replace('/', "."))),
        _ => Err(invalid(format!(
            "{MANIFEST_FILE}: environment: {ENTRY_FILE}: {file:?} is no Python file of the bundle, such as f.py"
        ))),
    }
}

fn checked(limits: ManifestLimits) -> Result<ManifestLimits, BundleError> {
    let of = |name: &str, value: Option<u64>, least: u64, most: u64| match value {
        Some(value) if value < least || value > most => {
            Err(invalid(format!("{MANIFEST_FILE}: limits.{name}: {value} is not within {least} and {most}")))
        }
        _ => Ok(()),
    };
    of("mem_mb", limits.mem_mb, 16, 1 << 20)?;
    of("cpu_percent", limits.cpu_percent.map(u64::from), 1, 100_000)?;
    of("procs", limits.procs.map(u64::from), 1, 32_768)?;
    of("runtime_sec", limits.runtime_sec, 1, 3600)?;
    Ok(limits)
}

fn notes(triggers: &Triggers, limits: &ManifestLimits) -> Vec<String> {
    let mut notes = Vec::new();
    let mut note = |condition: bool, text: &str| {
        if condition {
            notes.push(format!("{MANIFEST_FILE}: {text}"));
        }
    };
    let any = triggers.http.iter().all(|trigger| trigger.method == "*");
    note(!any, "triggers.http: a call with any method reaches the handler, not only with those");
    note(!triggers.cron.is_empty(), "triggers.cron: nothing calls the handler by a schedule here");
    note(!triggers.kafka.is_empty(), "triggers.kafka: nothing calls the handler for messages here");
    note(limits.swappiness.is_some(), "limits.swappiness: sandboxes do not swap");
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_today_s_openlambda_writes_is_read() {
        let manifest = Manifest::parse(
            "triggers:\n  http:\n    - method: \"*\"\nenvironment:\n  STAGE: prod\n  N: 3\n  ON: true\n\
             limits:\n  mem_mb: 256\n  cpu_percent: 50\n  procs: 8\n  runtime_sec: 5\nreuse-sandbox: false\n",
        )
        .unwrap();
        let environment = ["N", "ON", "STAGE"].map(|name| &*manifest.environment[name]);
        assert_eq!(environment, ["3", "true", "prod"]);
        let limits = ManifestLimits {
            mem_mb: Some(256),
            cpu_percent: Some(50),
            procs: Some(8),
            runtime_sec: Some(5),
            swappiness: None,
        };
        assert_eq!((manifest.limits, manifest.reuse, manifest.entrypoint), (limits, false, None));
        assert_eq!(manifest.notes, Vec::<String>::new());
        for nothing in ["", "{}", "# only a comment\n{}\n"] {
            assert_eq!(Manifest::parse(nothing).unwrap(), Manifest { reuse: true, ..Manifest::default() });
        }
    }

    #[test]
    fn what_it_asks_for_in_vain_is_noted() {
        let manifest = Manifest::parse(
            "triggers:\n  http: [{method: GET}]\n  cron: [{schedule: \"* * * * *\"}]\n  kafka: [{topics: [a]}]\n\
             limits: {swappiness: 1}\n",
        )
        .unwrap();
        let said = manifest.notes.join("\n");
        for part in ["triggers.http", "triggers.cron", "triggers.kafka", "swappiness"] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn another_entry_file_is_taken_and_frameworks_are_refused() {
        let manifest = Manifest::parse("environment: {OL_ENTRY_FILE: api/app.py}").unwrap();
        assert_eq!(manifest.entrypoint.as_deref(), Some("api.app.f"));
        for (text, part) in [
            ("environment: {OL_ENTRY_FILE: ../x.py}", "no Python file"),
            ("environment: {OL_WSGI_ENTRY: app}", "WSGI and ASGI are not served"),
            ("environment: {\"A=B\": 1}", "cannot be a variable's name"),
            ("limits: {mem_mb: 1}", "limits.mem_mb: 1 is not within 16"),
            ("limits: {memory: 1}", "known are triggers, environment, limits"),
            ("environement: {}", "known are"),
            ("reuse-sandbox: perhaps", "ol.yaml"),
            ("[1", "ol.yaml"),
        ] {
            let error = Manifest::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_long_one_is_refused() {
        let work = tempfile::tempdir().unwrap();
        std::fs::write(work.path().join(MANIFEST_FILE), "#".repeat(70_000)).unwrap();
        let error = Manifest::of(work.path()).unwrap_err().to_string();
        assert!(error.contains("more than 64 KiB"), "{error}");
    }
}
