//! `cargo xtask image`: the images of the parts that run in a cluster, from images/*.Dockerfile, as archives below
//! `target/images`.
//!
//! Where docker answers, it builds them as a user would, from source. Elsewhere the binaries are built here and the
//! same Dockerfiles take them from a folder (`BINARIES=staged`), for the compiler's image cannot be had then.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use super::{Cluster, kind, plain};
use crate::build::{Profile, build};
use crate::metadata::{self, Packages};
use crate::workspace::Workspace;
use crate::{command, uv, vm};

/// The workspace's, and the charts'.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const RUNTIME: &str = "usr/lib/openlambda/runtime";

/// Arguments of `cargo xtask image`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these (all that the workspace has, if none is given)
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// The images are named localhost/openlambda-PART:TAG; the chart asks for its appVersion, which is the default
    #[arg(long, default_value = VERSION)]
    tag: String,
    /// The profile of the binaries, where docker does not build them
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
    /// Load them into the cluster that runs
    #[arg(long)]
    load: bool,
}

/// What has an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// openlambda-operator
    Operator,
    /// openlambda-lard
    Lard,
    /// openlambda-node-agent
    NodeAgent,
    /// openlambda-registry
    Registry,
}

impl Part {
    const ALL: [Self; 4] = [Self::Operator, Self::Lard, Self::NodeAgent, Self::Registry];

    /// The package without its prefix, and the Dockerfile's name.
    fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Lard => "lard",
            Self::NodeAgent => "node-agent",
            Self::Registry => "registry",
        }
    }

    fn package(self) -> String {
        format!("openlambda-{}", self.name())
    }

    fn dockerfile(self, workspace: &Workspace) -> PathBuf {
        workspace.path("images").join(format!("{}.Dockerfile", self.name()))
    }
}

/// `cargo xtask image`.
pub fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::find()?;
    let archives = images(&workspace, &args.parts, &args.tag, args.profile)?;
    for archive in &archives {
        println!("{}", archive.display());
    }
    if args.load { Cluster::choose(&workspace)?.load(&archives) } else { Ok(()) }
}

/// Builds the images of `parts` (of all, if none is named) and gives their archives. docker builds releases always.
pub fn images(workspace: &Workspace, parts: &[Part], tag: &str, profile: Profile) -> Result<Vec<PathBuf>> {
    let parts = there(&metadata::packages(workspace)?, parts)?;
    let docker = kind::docker_works();
    if !docker {
        compile(workspace, profile)?;
    }
    let folder = workspace.target.join("images");
    parts
        .iter()
        .map(|part| {
            let image = format!("localhost/{}:{tag}", part.package());
            let archive = folder.join(format!("{}-{tag}.tar", part.name()));
            if docker {
                with_docker(workspace, *part, &image, &archive)?;
            } else {
                from_binaries(workspace, *part, &image, &archive, profile)?;
            }
            Ok(archive)
        })
        .collect()
}

/// Those of `wanted` that the workspace has; one that was named and is not there is an error.
fn there(packages: &Packages, wanted: &[Part]) -> Result<Vec<Part>> {
    if let Some(missing) = wanted.iter().find(|part| !packages.contains_key(part.name())) {
        bail!("the workspace has no package {}", missing.package());
    }
    let all = if wanted.is_empty() { &Part::ALL } else { wanted };
    Ok(all.iter().copied().filter(|part| packages.contains_key(part.name())).collect())
}

fn with_docker(workspace: &Workspace, part: Part, image: &str, archive: &Path) -> Result<()> {
    let mut build = Command::new("docker");
    build.args(["build", "--tag", image, "--file"]).arg(part.dockerfile(workspace)).arg(&workspace.root);
    command::run(build.stdout(std::io::stderr()))?;
    make_folder(archive.parent())?;
    command::run(Command::new("docker").args(["save", "--output"]).arg(archive).arg(image))
}

fn compile(workspace: &Workspace, profile: Profile) -> Result<()> {
    if !vm::is_debian_12() {
        bail!(
            "without docker, images get the binaries built on this machine, and only those of a Debian 12 fit"
        );
    }
    build(workspace, profile).map(drop)
}

fn from_binaries(
    workspace: &Workspace,
    part: Part,
    image: &str,
    archive: &Path,
    profile: Profile,
) -> Result<()> {
    let context = workspace.target.join("images/context").join(part.name());
    if context.exists() {
        fs::remove_dir_all(&context).with_context(|| format!("cannot empty {}", context.display()))?;
    }
    stage(&workspace.target.join(profile.folder()), workspace, part, &context)?;
    let dockerfile = part.dockerfile(workspace);
    let words: [&OsStr; 7] = [
        "-o".as_ref(),
        archive.as_ref(),
        "-a".as_ref(),
        "BINARIES=staged".as_ref(),
        image.as_ref(),
        context.as_ref(),
        dockerfile.as_ref(),
    ];
    plain::script(workspace, "image", &words)
}

/// Lays out below `context` what the Dockerfile's `compiled` stage lays out below /out.
fn stage(binaries: &Path, workspace: &Workspace, part: Part, context: &Path) -> Result<()> {
    install(&binaries.join(part.package()), &context.join("usr/bin").join(part.package()), true)?;
    if part != Part::NodeAgent {
        return Ok(());
    }
    install(&uv::ensure(workspace)?, &context.join("usr/bin/uv"), true)?;
    let runtime = context.join(RUNTIME);
    install(&binaries.join("lib_openlambda.so"), &runtime.join("_openlambda.abi3.so"), true)?;
    let sources = workspace.path("runtime");
    for entry in fs::read_dir(&sources).with_context(|| format!("cannot read {}", sources.display()))? {
        let file = entry?.path();
        if file.extension() == Some(OsStr::new("py")) {
            install(&file, &runtime.join(file.file_name().unwrap_or_default()), false)?;
        }
    }
    Ok(())
}

/// Copies with the time of the original, so that what has not changed makes no new layer.
fn install(source: &Path, place: &Path, program: bool) -> Result<()> {
    let mut install = Command::new("install");
    install.args(["-D", "--preserve-timestamps", "--mode", if program { "755" } else { "644" }]);
    if program {
        install.arg("--strip");
    }
    command::output(install.arg(source).arg(place)).map(drop)
}

fn make_folder(folder: Option<&Path>) -> Result<()> {
    let folder = folder.context("no folder for the archive")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Package;

    #[test]
    fn only_what_the_workspace_has_is_built() {
        let packages = Packages::from([("lard".to_owned(), Package::default())]);
        assert_eq!(there(&packages, &[]).unwrap(), [Part::Lard]);
        assert_eq!(there(&packages, &[Part::Lard]).unwrap(), [Part::Lard]);
        let error = there(&packages, &[Part::NodeAgent]).unwrap_err();
        assert!(error.to_string().contains("openlambda-node-agent"), "{error}");
    }

    #[test]
    fn every_part_has_a_dockerfile() {
        let workspace = Workspace::find().unwrap();
        for part in Part::ALL {
            let text = fs::read_to_string(part.dockerfile(&workspace)).unwrap();
            assert!(text.contains(&part.package()) && text.contains("ARG BINARIES=compiled"), "{part:?}");
        }
    }
}
