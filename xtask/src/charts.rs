//! The charts, and what they render to. One case for the defaults and one for each file of values in this repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{command, kube};

/// The chart of the operator.
pub const OPERATOR: &str = "charts/openlambda";
/// The chart of the custom resource definitions.
pub const DEFINITIONS: &str = "charts/openlambda-crds";
/// Where files of values are: those that are there to be rendered, and those of the quick start.
const VALUES: [&str; 2] = ["charts/openlambda/ci", "quickstart"];
const SUFFIX: &str = "-values.yaml";
/// The namespace that the operator's chart is rendered for.
const NAMESPACE: &str = "functions";

/// A way to use the operator's chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// `default`, or what the file of values is called before `-values.yaml`.
    pub name: String,
    /// The file of values.
    pub values: Option<PathBuf>,
}

/// All of them, by name.
pub fn cases(workspace: &Workspace) -> Result<Vec<Case>> {
    let mut cases = vec![Case { name: "default".to_owned(), values: None }];
    for folder in VALUES {
        let folder = workspace.path(folder);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let file = entry?.file_name();
            if let Some(name) = file.to_str().and_then(|file| file.strip_suffix(SUFFIX)) {
                cases.push(Case { name: name.to_owned(), values: Some(folder.join(&file)) });
            }
        }
    }
    cases.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(cases)
}

/// Whether a file has values for a chart: it is YAML, but no manifest.
pub fn has_values(file: &Path) -> bool {
    file.to_string_lossy().ends_with(SUFFIX)
}

/// helm, if it was built.
pub fn helm() -> Option<PathBuf> {
    kube::tool("helm")
}

/// `helm template` of the operator's chart. It is run inside the chart, so that no path of this checkout can get in.
pub fn render(workspace: &Workspace, helm: &Path, case: &Case) -> Result<String> {
    let mut template = Command::new(helm);
    template.current_dir(workspace.path(OPERATOR));
    template.args(["template", "openlambda", ".", "--namespace", NAMESPACE]).args(flags(case));
    command::output(&mut template)
}

/// `helm template` of the chart of the definitions.
pub fn render_definitions(workspace: &Workspace, helm: &Path) -> Result<String> {
    let mut template = Command::new(helm);
    template.current_dir(workspace.path(DEFINITIONS)).args(["template", "openlambda-crds", "."]);
    command::output(&mut template)
}

/// `helm lint` of a chart; a warning is an error.
pub fn lint(workspace: &Workspace, helm: &Path, chart: &str, case: &Case) -> Result<()> {
    let mut lint = Command::new(helm);
    lint.current_dir(workspace.path(chart));
    lint.args(["lint", ".", "--strict", "--namespace", NAMESPACE]).args(flags(case));
    command::output(&mut lint).map(drop).with_context(|| format!("{chart} with the values {}", case.name))
}

fn flags(case: &Case) -> impl Iterator<Item = String> {
    case.values.iter().map(|file| format!("--values={}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_values_is_a_case() {
        let cases = cases(&Workspace::find().unwrap()).unwrap();
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names, ["default", "full", "kind"]);
        assert!(cases.iter().skip(1).all(|case| has_values(case.values.as_deref().unwrap())));
    }
}
