//! The charts and every manifest of this repository: `helm lint`, whether the charts render to what is committed, and
//! kubeconform against the schemas of the pinned Kubernetes and of our own definitions.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::schemas::{self, Schemas};
use crate::workspace::Workspace;
use crate::{charts, codegen, command, kube, setup};

/// What helm and kubeconform are called in tests/cluster/tools.
const TOOLS: [&str; 2] = ["helm", "kubeconform"];
/// Files of manifests, and folders of them.
const MANIFESTS: [&str; 5] =
    ["crds", "examples", "quickstart", codegen::RENDERED, "tests/cluster/ingress.yaml"];
const DEFINITIONS: &str = "crds";
/// Names the version of Kubernetes.
const PIN: &str = "tests/cluster/kube/go.mod";
const KUBERNETES: &str = "k8s.io/kubernetes";
const SWAGGER: &str = "api/openapi-spec/swagger.json";
/// Kinds of other projects, whose schemas are in no module that is pinned here.
const FOREIGN: &str = "monitoring.coreos.com/v1/ServiceMonitor,gateway.networking.k8s.io/v1/HTTPRoute";

/// Checks them; says so if the tools are missing and may not be built.
pub fn check(workspace: &Workspace, build: bool) -> Result<()> {
    if build {
        kube::tools(workspace, &TOOLS)?;
    }
    let (Some(helm), Some(kubeconform)) = (charts::helm(), kube::tool("kubeconform")) else {
        return skip("helm and kubeconform were not built; `cargo xtask check --charts` builds them");
    };
    if !build && !setup::present("go") {
        return skip("the schemas of Kubernetes come from a Go module, and there is no go in PATH");
    }
    lint(workspace, &helm)?;
    conform(workspace, &helm, &kubeconform)
}

fn skip(reason: &str) -> Result<()> {
    println!("not checked: charts and manifests ({reason})");
    Ok(())
}

fn lint(workspace: &Workspace, helm: &Path) -> Result<()> {
    let cases = charts::cases(workspace)?;
    for case in &cases {
        charts::lint(workspace, helm, charts::OPERATOR, case)?;
    }
    let defaults =
        cases.iter().find(|case| case.values.is_none()).context("there is no case for the defaults")?;
    charts::lint(workspace, helm, charts::DEFINITIONS, defaults)?;
    codegen::check_rendered(workspace, helm)
}

fn conform(workspace: &Workspace, helm: &Path, kubeconform: &Path) -> Result<()> {
    let folder = workspace.target.join("manifests");
    let schemas = folder.join("schemas");
    write_schemas(workspace, &schemas)?;
    let definitions = folder.join("openlambda-crds.yaml");
    write(&definitions, &charts::render_definitions(workspace, helm)?)?;
    let mut command = Command::new(kubeconform);
    command.current_dir(&workspace.root).args(["-strict", "-summary", "-skip", FOREIGN, "-schema-location"]);
    command.arg(schemas.join("{{.ResourceKind}}{{.KindSuffix}}.json"));
    command::run(command.args(manifests(workspace)?).arg(definitions))?;
    println!("not checked: {FOREIGN} (kinds of other projects)");
    Ok(())
}

/// Every file of manifests. A folder that has none has moved.
fn manifests(workspace: &Workspace) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for place in MANIFESTS.map(|place| workspace.path(place)) {
        let files = if place.is_dir() { yaml_files(&place)? } else { vec![place.clone()] };
        if files.is_empty() {
            bail!("there is no manifest in {}", place.display());
        }
        all.extend(files);
    }
    Ok(all)
}

fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| file.extension() == Some(OsStr::new("yaml")) && !charts::has_values(file));
    files.sort();
    Ok(files)
}

/// Those of the pinned Kubernetes, and of our own kinds.
fn write_schemas(workspace: &Workspace, folder: &Path) -> Result<()> {
    let swagger = kubernetes(workspace)?.join(SWAGGER);
    let mut all = schemas::of_kubernetes(
        serde_json::from_str(&read(&swagger)?)
            .with_context(|| format!("{} is no JSON", swagger.display()))?,
    )?;
    all.extend(ours(workspace)?);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    all.iter().try_for_each(|(name, schema)| write(&folder.join(name), &schema.to_string()))
}

fn ours(workspace: &Workspace) -> Result<Schemas> {
    let mut all = Schemas::new();
    for file in yaml_files(&workspace.path(DEFINITIONS))? {
        let definition: Value = serde_saphyr::from_str(&read(&file)?)
            .with_context(|| format!("{} is no YAML", file.display()))?;
        all.extend(schemas::of_definition(&definition).with_context(|| file.display().to_string())?);
    }
    Ok(all)
}

/// The folder of the pinned Kubernetes' module, which is fetched if it is not there.
fn kubernetes(workspace: &Workspace) -> Result<PathBuf> {
    let version = pinned(&read(&workspace.path(PIN))?)?;
    let mut go = Command::new("go");
    // Outside of any module, so that nothing but the argument counts.
    go.current_dir("/").env("GOWORK", "off");
    let text = command::output(go.args(["mod", "download", "-json", &format!("{KUBERNETES}@{version}")]))?;
    let module: Value = serde_json::from_str(&text).context("go mod download gave no JSON")?;
    module["Dir"]
        .as_str()
        .map(PathBuf::from)
        .with_context(|| format!("go has no folder of {KUBERNETES}: {text}"))
}

fn pinned(go_mod: &str) -> Result<String> {
    let mut lines = go_mod.lines().map(str::trim);
    let version = lines.find_map(|line| line.strip_prefix(KUBERNETES)?.strip_prefix(' '));
    version.map(str::to_owned).with_context(|| format!("{PIN} names no version of {KUBERNETES}"))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_is_read() {
        assert_eq!(
            pinned("require (\n\tk8s.io/kubectl v0.0.0\n\tk8s.io/kubernetes v1.2.3\n)\n").unwrap(),
            "v1.2.3"
        );
        assert!(pinned("k8s.io/kubernetes-other v1\n").is_err());
        assert!(pinned(include_str!("../../../tests/cluster/kube/go.mod")).is_ok());
    }

    #[test]
    fn every_place_of_manifests_is_there() {
        let workspace = Workspace::find().unwrap();
        let files = manifests(&workspace).unwrap();
        assert!(files.contains(&workspace.path("quickstart/hello.yaml")));
        assert!(!files.contains(&workspace.path("quickstart/kind-values.yaml")));
    }
}
