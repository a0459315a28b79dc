//! The cluster that the scripts in tests/cluster make without docker. The README there says how it is built.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::workspace::{self, Workspace};
use crate::{command, setup};

const FOLDER: &str = "tests/cluster";
/// As in tests/cluster/env.sh.
const STATE: (&str, &str) = ("CLUSTER_STATE", "/var/lib/openlambda-cluster");
const CACHE: &str = "CLUSTER_CACHE";

/// See the module.
#[derive(Clone)]
pub struct Plain {
    workspace: Workspace,
}

impl Plain {
    /// Fails unless this process is root.
    pub fn new(workspace: &Workspace) -> Result<Self> {
        setup::require_root("a cluster without docker and kind")?;
        Ok(Self { workspace: workspace.clone() })
    }

    pub fn up(&self, nodes: u8) -> Result<()> {
        self.run("up", &[nodes.to_string()])
    }

    pub fn down(&self) -> Command {
        command_line(&self.workspace, "down")
    }

    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        self.run("load", archives)
    }

    pub fn image(&self, name: &str, context: &Path, dockerfile: Option<&Path>) -> Result<()> {
        let mut args = vec![OsStr::new(name), context.as_os_str()];
        args.extend(dockerfile.map(Path::as_os_str));
        self.run("image", &args)
    }

    pub fn ingress(&self) -> Result<()> {
        self.run("ingress", &[] as &[&str])
    }

    pub fn kubeconfig(&self) -> PathBuf {
        std::env::var_os(STATE.0).map_or_else(|| PathBuf::from(STATE.1), PathBuf::from).join("kubeconfig")
    }

    fn run(&self, name: &str, args: &[impl AsRef<OsStr>]) -> Result<()> {
        script(&self.workspace, name, args)
    }
}

/// Runs one of the scripts. What it says goes to standard error: standard output is for what a shell reads.
pub fn script(workspace: &Workspace, name: &str, args: &[impl AsRef<OsStr>]) -> Result<()> {
    command::run(command_line(workspace, name).args(args))
}

fn command_line(workspace: &Workspace, name: &str) -> Command {
    let mut script = Command::new(workspace.path(FOLDER).join(name));
    script.env(CACHE, cache()).stdout(std::io::stderr());
    script
}

/// What they have built.
pub fn cache() -> PathBuf {
    std::env::var_os(CACHE).map_or_else(|| workspace::cache().join("cluster"), PathBuf::from)
}
