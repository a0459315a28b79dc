//! What cargo knows of this workspace, as far as checks and tests need it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command;
use crate::workspace::Workspace;

const PREFIX: &str = "openlambda-";

/// A package of the workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Package {
    /// Normal and build dependencies within the workspace, by short name.
    pub ours: BTreeSet<String>,
    /// Normal and build dependencies outside of it.
    pub foreign: BTreeSet<String>,
    /// Whether it has a binary.
    pub is_binary: bool,
    /// The names of its integration tests.
    pub tests: BTreeSet<String>,
}

/// The packages of the workspace by short name: `openlambda-policy` is `policy`.
pub type Packages = BTreeMap<String, Package>;

/// Asks cargo.
pub fn packages(workspace: &Workspace) -> Result<Packages> {
    let mut cargo = command::cargo();
    cargo.current_dir(&workspace.root).args(["metadata", "--no-deps", "--format-version", "1"]);
    let text = command::output(&mut cargo)?;
    parse(&serde_json::from_str(&text).context("cargo metadata is no JSON")?)
}

/// The name as it stands in ARCHITECTURE.md.
fn short(name: &str) -> String {
    name.strip_prefix(PREFIX).unwrap_or(name).to_owned()
}

fn parse(metadata: &Value) -> Result<Packages> {
    let list = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    list.iter()
        .map(|package| {
            let name = package["name"].as_str().context("a package without a name")?;
            Ok((short(name), parse_package(package)))
        })
        .collect()
}

fn parse_package(package: &Value) -> Package {
    let mut parsed = Package::default();
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let name = dependency["name"].as_str().unwrap_or_default();
        if dependency["kind"].as_str() == Some("dev") {
            continue;
        }
        if dependency["path"].is_string() {
            parsed.ours.insert(short(name));
        } else {
            parsed.foreign.insert(name.to_owned());
        }
    }
    for target in package["targets"].as_array().into_iter().flatten() {
        let is =
            |kind: &str| target["kind"].as_array().into_iter().flatten().any(|k| k.as_str() == Some(kind));
        parsed.is_binary |= is("bin");
        if is("test") {
            parsed.tests.insert(target["name"].as_str().unwrap_or_default().to_owned());
        }
    }
    parsed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_targets_and_short_names_are_read() {
        let metadata = serde_json::json!({"packages": [{
            "name": "openlambda-lard",
            "dependencies": [
                {"name": "openlambda-policy", "path": "/x", "kind": null},
                {"name": "openlambda-tests", "path": "/y", "kind": "dev"},
                {"name": "hyper", "kind": null}],
            "targets": [{"kind": ["bin"], "name": "openlambda-lard"}, {"kind": ["test"], "name": "failover"}],
        }]});
        let set = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<BTreeSet<_>>();
        let package = Package {
            ours: set(&["policy"]),
            foreign: set(&["hyper"]),
            is_binary: true,
            tests: set(&["failover"]),
        };
        assert_eq!(parse(&metadata).unwrap(), BTreeMap::from([("lard".to_owned(), package)]));
    }
}
