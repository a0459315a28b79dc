//! The cluster that kind makes from kind-config.yaml, in docker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::workspace::Workspace;
use crate::{command, setup};

const CONFIG: &str = "kind-config.yaml";
/// The name in kind-config.yaml.
const NAME: &str = "openlambda";
const WORKER: &str = "  - role: worker\n";
const INGRESS: &str = "tests/cluster/ingress.yaml";
/// The manifest is for the scripts' own image and nodes; here the public image of the same version serves.
const INGRESS_HERE: [(&str, &str); 3] = [
    ("image: localhost/traefik:1", "image: docker.io/library/traefik:v3.7"),
    ("imagePullPolicy: Never", "imagePullPolicy: IfNotPresent"),
    ("NODE1_IP", "127.0.0.1"),
];

/// Whether docker answers and kind is there.
pub fn works() -> bool {
    let answers = |program: &str, argument: &str| {
        let mut command = Command::new(program);
        command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    setup::present("kind") && docker_works() && answers("kind", "version")
}

/// Whether there is a docker that answers: its client alone builds nothing.
pub fn docker_works() -> bool {
    let mut docker = Command::new("docker");
    docker.arg("info").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    docker.status().is_ok_and(|status| status.success())
}

/// See the module.
#[derive(Clone)]
pub struct Kind {
    workspace: Workspace,
}

impl Kind {
    pub fn new(workspace: &Workspace) -> Self {
        Self { workspace: workspace.clone() }
    }

    pub fn up(&self, nodes: u8) -> Result<()> {
        command::run(&mut self.down())?;
        let text = fs::read_to_string(self.workspace.path(CONFIG)).context(CONFIG)?;
        let folder = self.folder();
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let config = folder.join(CONFIG);
        fs::write(&config, with_workers(&text, nodes)?)
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut kind = kind(&["create", "cluster", "--wait", "120s"]);
        kind.arg("--config").arg(config).arg("--kubeconfig").arg(self.kubeconfig());
        command::run(&mut kind)
    }

    pub fn down(&self) -> Command {
        let mut kind = kind(&["delete", "cluster", "--name", NAME]);
        kind.arg("--kubeconfig").arg(self.kubeconfig());
        kind
    }

    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        archives.iter().try_for_each(|archive| {
            command::run(kind(&["load", "image-archive", "--name", NAME]).arg(archive))
        })
    }

    pub fn image(&self, name: &str, context: &Path, dockerfile: Option<&Path>) -> Result<()> {
        let mut docker = Command::new("docker");
        docker.args(["build", "--tag", name]).stdout(std::io::stderr());
        if let Some(dockerfile) = dockerfile {
            docker.arg("--file").arg(dockerfile);
        }
        command::run(docker.arg(context))?;
        command::run(&mut kind(&["load", "docker-image", "--name", NAME, name]))
    }

    pub fn ingress(&self) -> Result<()> {
        let manifest = fs::read_to_string(self.workspace.path(INGRESS)).context(INGRESS)?;
        let file = self.folder().join("ingress.yaml");
        fs::write(&file, for_kind(&manifest)?).with_context(|| format!("cannot write {}", file.display()))?;
        command::run(self.kubectl().arg("apply").arg("--filename").arg(&file))?;
        let wait = ["--namespace", "ingress", "rollout", "status", "deployment/traefik", "--timeout=180s"];
        command::run(self.kubectl().args(wait))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder().join("kubeconfig")
    }

    fn folder(&self) -> PathBuf {
        self.workspace.target.join("kind")
    }

    fn kubectl(&self) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl.env("KUBECONFIG", self.kubeconfig()).stdout(std::io::stderr());
        kubectl
    }
}

fn kind(args: &[&str]) -> Command {
    let mut kind = Command::new("kind");
    kind.args(args).stdout(std::io::stderr());
    kind
}

/// The configuration with so many workers instead of its own.
fn with_workers(config: &str, nodes: u8) -> Result<String> {
    if !config.ends_with(WORKER) {
        bail!("{CONFIG} does not end with its workers");
    }
    Ok(config.replace(WORKER, "") + &WORKER.repeat(usize::from(nodes)))
}

fn for_kind(manifest: &str) -> Result<String> {
    INGRESS_HERE.iter().try_fold(manifest.to_owned(), |text, (theirs, ours)| {
        if !text.contains(theirs) {
            bail!("{INGRESS} has no {theirs:?} to be replaced for kind");
        }
        Ok(text.replace(theirs, ours))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_this_repository_fit_kind() {
        let config = with_workers(include_str!("../../../kind-config.yaml"), 3).unwrap();
        assert_eq!(config.matches("role: worker").count(), 3);
        assert_eq!(config.matches("role: control-plane").count(), 1);
        assert!(with_workers("nodes: []\n", 1).is_err());
        let manifest = for_kind(include_str!("../../../tests/cluster/ingress.yaml")).unwrap();
        assert!(!manifest.contains("localhost/"));
    }
}
