//! `cargo xtask cluster`: a real Kubernetes on this machine. kind makes it where docker and kind are, else the scripts
//! in tests/cluster do, which need root and nothing that is not built or installed on the way. Same commands for both.
//!
//! There is one such cluster on a machine, and no image registry: images are loaded into its nodes.

pub mod images;
mod kind;
mod plain;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::command;
use crate::interrupt::{self, Cleanup};
use crate::workspace::{self, Workspace};

/// Chooses who makes the cluster: `kind` or `plain` (the scripts in tests/cluster).
const CHOICE: &str = "OPENLAMBDA_CLUSTER";

/// Arguments of `cargo xtask cluster`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Start a cluster in place of one that runs, and print what to put into a shell to use it
    Up {
        /// Nodes that run pods
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=9))]
        nodes: u8,
        /// An Ingress controller as well (Traefik, class `traefik`, the default one)
        #[arg(long)]
        ingress: bool,
    },
    /// Stop it and remove all of it
    Down,
    /// Load image archives into its nodes
    Load {
        /// Archives as `docker save` and `cargo xtask image` write them
        #[arg(required = true, value_name = "IMAGE.tar")]
        archives: Vec<PathBuf>,
    },
    /// Build an image from a Dockerfile and load it into its nodes
    Image {
        /// Its name; begin it with `localhost/`, so that no node looks for it elsewhere
        #[arg(value_name = "NAME:TAG")]
        name: String,
        /// The folder that the Dockerfile copies from
        context: PathBuf,
        /// CONTEXT/Dockerfile if not given
        dockerfile: Option<PathBuf>,
    },
    /// Build tools that are pinned in tests/cluster/tools, once, and print the folder they are in
    Tools {
        /// helm, kubeconform, …
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// `cargo xtask cluster`.
pub fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::find()?;
    let cluster = Cluster::choose(&workspace)?;
    match &args.action {
        Action::Up { nodes, ingress } => {
            let undo = cluster.up(*nodes)?;
            if *ingress {
                cluster.ingress()?;
            }
            undo.forget();
            for (name, value) in cluster.variables() {
                println!("export {name}='{}'", value.to_string_lossy());
            }
            Ok(())
        }
        Action::Down => cluster.down(),
        Action::Load { archives } => cluster.load(archives),
        Action::Image { name, context, dockerfile } => cluster.image(name, context, dockerfile.as_deref()),
        Action::Tools { names } => {
            tools(&workspace, names)?;
            println!("{}", bin().display());
            Ok(())
        }
    }
}

/// A cluster on this machine, whether it runs or not.
#[derive(Clone)]
pub enum Cluster {
    /// Made by kind.
    Kind(kind::Kind),
    /// Made by tests/cluster.
    Plain(plain::Plain),
}

impl Cluster {
    /// kind where it can work, unless `OPENLAMBDA_CLUSTER` says otherwise.
    pub fn choose(workspace: &Workspace) -> Result<Self> {
        let choice = std::env::var(CHOICE).ok();
        match choice.as_deref() {
            Some("kind") => Ok(Self::Kind(kind::Kind::new(workspace))),
            Some("plain") => Ok(Self::Plain(plain::Plain::new(workspace)?)),
            None | Some("") if kind::works() => Ok(Self::Kind(kind::Kind::new(workspace))),
            None | Some("") => Ok(Self::Plain(plain::Plain::new(workspace)?)),
            Some(other) => bail!("{CHOICE} is {other:?}: set it to kind or plain, or not at all"),
        }
    }

    /// Starts it in place of one that runs. What is returned takes it down when dropped.
    pub fn up(&self, nodes: u8) -> Result<Cleanup> {
        let undo = Cleanup::new({
            let cluster = self.clone();
            move || {
                // Not by `command::run`, which starts nothing more once this process was interrupted.
                let mut down = cluster.down_command();
                if !down.stdin(Stdio::null()).status().is_ok_and(|status| status.success()) {
                    eprintln!("the cluster is still there: {} failed", interrupt::describe(&down));
                }
            }
        });
        match self {
            Self::Kind(kind) => kind.up(nodes)?,
            Self::Plain(plain) => plain.up(nodes)?,
        }
        Ok(undo)
    }

    /// Removes it, if there is one.
    pub fn down(&self) -> Result<()> {
        command::run(&mut self.down_command())
    }

    fn down_command(&self) -> Command {
        match self {
            Self::Kind(kind) => kind.down(),
            Self::Plain(plain) => plain.down(),
        }
    }

    /// Loads image archives into its nodes.
    pub fn load(&self, archives: &[PathBuf]) -> Result<()> {
        if let Some(missing) = archives.iter().find(|archive| !archive.is_file()) {
            bail!("there is no image archive {}", missing.display());
        }
        match self {
            Self::Kind(kind) => kind.load(archives),
            Self::Plain(plain) => plain.load(archives),
        }
    }

    /// Builds an image and loads it into its nodes.
    pub fn image(&self, name: &str, context: &Path, dockerfile: Option<&Path>) -> Result<()> {
        match self {
            Self::Kind(kind) => kind.image(name, context, dockerfile),
            Self::Plain(plain) => plain.image(name, context, dockerfile),
        }
    }

    /// Puts an Ingress controller into it and waits until that is ready.
    pub fn ingress(&self) -> Result<()> {
        match self {
            Self::Kind(kind) => kind.ingress(),
            Self::Plain(plain) => plain.ingress(),
        }
    }

    /// What a process that uses it has in its environment: `KUBECONFIG`, and a `PATH` with kubectl and pinned tools.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let kubeconfig = match self {
            Self::Kind(kind) => kind.kubeconfig(),
            Self::Plain(plain) => plain.kubeconfig(),
        };
        vec![("KUBECONFIG", kubeconfig.into()), ("PATH", path())]
    }
}

/// Builds pinned tools that are not there yet; they are found by `PATH` in what `Cluster::variables` gives.
pub fn tools(workspace: &Workspace, names: &[impl AsRef<std::ffi::OsStr>]) -> Result<()> {
    plain::script(workspace, "tools", names)
}

/// A pinned tool, if it was built. One in `PATH` may be of another version and say something else.
pub fn tool(name: &str) -> Option<PathBuf> {
    Some(bin().join(name)).filter(|own| own.exists())
}

/// Where the cluster's programs and the tools are: outside the checkout, for they take minutes to build.
fn bin() -> PathBuf {
    plain::cache().join("bin")
}

fn path() -> OsString {
    let old = std::env::var_os("PATH").unwrap_or_default();
    let mut path = bin().into_os_string();
    path.push(":");
    path.push(old);
    path
}
