//! Builds the binaries and lays out what they look for beside them: `target/<profile>/runtime/` holds the Python
//! files and the native extension under the name Python imports.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::command;
use crate::uv;
use crate::workspace::Workspace;

/// Always all of them: another choice is another choice of their dependencies' features, which compiles those anew.
const PACKAGES: [&str; 6] = [
    "openlambda-node-agent",
    "openlambda-lard",
    "openlambda-admin",
    "openlambda-registry",
    "openlambda-operator",
    "openlambda-runtime-native",
];
/// The extension as cargo names it, and as Python finds it.
const NATIVE_BUILT: &str = "lib_openlambda.so";
const NATIVE: &str = "_openlambda.abi3.so";

/// Arguments of `cargo xtask build`.
#[derive(clap::Args)]
pub struct Args {
    /// The profile to build with
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// A cargo profile.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Profile {
    /// Quick to build, with checks.
    Dev,
    /// What users run and benchmarks measure.
    Release,
}

impl Profile {
    /// What cargo calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Release => "release",
        }
    }

    /// The folder below `target`.
    pub fn folder(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }
}

/// What a build has made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The folder of the binaries.
    pub bin: PathBuf,
    /// The folder that sandboxes see as `/runtime`.
    pub runtime: PathBuf,
}

impl Built {
    /// The path of a binary.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }
}

/// `cargo xtask build`.
pub fn run(args: &Args) -> Result<()> {
    let built = build(&Workspace::find()?, args.profile)?;
    println!("binaries in {}, runtime files in {}", built.bin.display(), built.runtime.display());
    Ok(())
}

/// Builds everything that runs.
pub fn build(workspace: &Workspace, profile: Profile) -> Result<Built> {
    let mut cargo = command::cargo();
    cargo.current_dir(&workspace.root).args(["build", "--profile", profile.name()]);
    cargo.args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    command::run(&mut cargo)?;
    let bin = workspace.target.join(profile.folder());
    let runtime = lay_out(&workspace.path("runtime"), &bin)?;
    uv::lay_out(workspace, &bin)?;
    Ok(Built { bin, runtime })
}

/// Fills `bin/runtime`. Files are replaced one by one and only when they differ: a running agent may use them.
fn lay_out(sources: &Path, bin: &Path) -> Result<PathBuf> {
    let runtime = bin.join("runtime");
    fs::create_dir_all(&runtime).with_context(|| format!("cannot make {}", runtime.display()))?;
    let mut wanted = vec![(bin.join(NATIVE_BUILT), PathBuf::from(NATIVE))];
    for entry in fs::read_dir(sources).with_context(|| format!("cannot read {}", sources.display()))? {
        let path = entry?.path();
        if path.extension() == Some(OsStr::new("py")) {
            let name = PathBuf::from(path.file_name().unwrap_or_default());
            wanted.push((path, name));
        }
    }
    if wanted.len() < 2 {
        bail!("{} holds no Python file", sources.display());
    }
    for (source, name) in &wanted {
        replace(source, &runtime.join(name))?;
    }
    for entry in fs::read_dir(&runtime)? {
        let path = entry?.path();
        if path.is_file() && !wanted.iter().any(|(_, name)| path.ends_with(name)) {
            fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(runtime)
}

fn replace(source: &Path, place: &Path) -> Result<()> {
    let new = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
    if fs::read(place).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let beside = place.with_extension("new");
    fs::write(&beside, new)
        .and_then(|()| fs::rename(&beside, place))
        .with_context(|| format!("cannot write {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runtime_folder_follows_its_sources() {
        let base = std::env::temp_dir().join(format!("openlambda-lay-out-{}", std::process::id()));
        let (sources, bin) = (base.join("runtime"), base.join("bin"));
        fs::create_dir_all(&sources).unwrap();
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join(NATIVE_BUILT), "elf").unwrap();
        assert!(lay_out(&sources, &bin).is_err());
        fs::write(sources.join("server.py"), "one").unwrap();
        fs::write(sources.join("README.md"), "no").unwrap();
        let runtime = lay_out(&sources, &bin).unwrap();
        fs::rename(sources.join("server.py"), sources.join("zygote.py")).unwrap();
        lay_out(&sources, &bin).unwrap();
        let mut names: Vec<_> =
            fs::read_dir(&runtime).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, [NATIVE, "zygote.py"]);
        fs::remove_dir_all(base).unwrap();
    }
}
