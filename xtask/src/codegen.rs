//! `cargo xtask codegen`: the custom resource definitions of `crates/api` as files, for `kubectl` and for the chart; and
//! what the chart of the operator renders to, so that a change of it is seen in review.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;
use crate::{charts, command};

const PLAIN: &str = "crds";
const CHART: &str = "charts/openlambda-crds/templates";
/// What the operator's chart renders to.
pub const RENDERED: &str = "charts/openlambda/ci/rendered";
const HEAD: &str = "# Generated from crates/api by `cargo xtask codegen`.\n";

/// Arguments of `cargo xtask codegen`.
#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail if a file is not as it would be written
    #[arg(long)]
    check: bool,
}

/// `cargo xtask codegen`.
pub fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::find()?;
    let mut cargo = command::cargo();
    cargo.current_dir(&workspace.root);
    let text = command::output(cargo.args(["run", "--quiet", "-p", "openlambda-operator", "--", "crd"]))?;
    let mut generated = vec![(PLAIN, plain(&text)?), (CHART, chart(&text)?)];
    match charts::helm() {
        Some(helm) => generated.push((RENDERED, rendered(&workspace, &helm)?)),
        None => {
            println!("not looked at: {RENDERED} (helm was not built; `tests/cluster/tools helm` builds it)")
        }
    }
    for (folder, files) in generated {
        let folder = workspace.path(folder);
        if args.check {
            check(&folder, &files)?;
        } else {
            write(&folder, &files)?;
        }
    }
    println!("{PLAIN}, {CHART} and {RENDERED} are as generated");
    Ok(())
}

/// The operator's chart in all its cases.
fn rendered(workspace: &Workspace, helm: &Path) -> Result<BTreeMap<String, String>> {
    let cases = charts::cases(workspace)?;
    let render =
        |case: &charts::Case| Ok((format!("{}.yaml", case.name), charts::render(workspace, helm, case)?));
    cases.iter().map(render).collect()
}

/// Fails if the operator's chart does not render to what is committed.
pub fn check_rendered(workspace: &Workspace, helm: &Path) -> Result<()> {
    check(&workspace.path(RENDERED), &rendered(workspace, helm)?)
}

/// The documents by file name, which is the kind's plural.
fn documents(text: &str) -> Result<BTreeMap<String, &str>> {
    let documents = text.split("---\n").map(str::trim_start).filter(|document| !document.is_empty());
    documents
        .map(|document| {
            let plural = document.lines().find_map(|line| line.trim().strip_prefix("plural: "));
            let plural = plural.context("a definition without a plural name")?;
            Ok((format!("{}.yaml", plural.trim_matches('"')), document))
        })
        .collect()
}

fn plain(text: &str) -> Result<BTreeMap<String, String>> {
    Ok(documents(text)?.into_iter().map(|(name, document)| (name, format!("{HEAD}{document}"))).collect())
}

/// As templates: kept when the chart is removed, unless `keep` is false.
fn chart(text: &str) -> Result<BTreeMap<String, String>> {
    let keep = "metadata:\n  labels:\n    {{- include \"openlambda-crds.labels\" . | nindent 4 }}\n  {{- if .Values.keep }}\n  annotations:\n    helm.sh/resource-policy: keep\n  {{- end }}\n";
    let mut files = BTreeMap::new();
    for (name, document) in documents(text)? {
        let (before, after) = document.split_once("metadata:\n").context("a definition without metadata")?;
        files.insert(name, format!("{HEAD}{before}{keep}{after}"));
    }
    Ok(files)
}

fn write(folder: &Path, files: &BTreeMap<String, String>) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn check(folder: &Path, files: &BTreeMap<String, String>) -> Result<()> {
    let stale: Vec<String> = files
        .iter()
        .map(|(name, text)| (folder.join(name), text))
        .filter(|(path, text)| fs::read_to_string(path).ok().as_ref() != Some(text))
        .map(|(path, _)| path.display().to_string())
        .collect();
    if !stale.is_empty() {
        bail!("not as generated: {}; run `cargo xtask codegen`", stale.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "---\napiVersion: v1\nmetadata:\n  name: xs.y\nspec:\n  names:\n    plural: xs\n";

    #[test]
    fn one_file_per_definition() {
        let files = plain(TEXT).unwrap();
        assert_eq!(files.keys().collect::<Vec<_>>(), ["xs.yaml"]);
        assert!(files["xs.yaml"].ends_with("plural: xs\n"));
    }

    #[test]
    fn the_chart_keeps_them() {
        let text = &chart(TEXT).unwrap()["xs.yaml"];
        assert!(text.contains("helm.sh/resource-policy: keep\n  {{- end }}\n  name: xs.y\n"), "{text}");
    }
}
