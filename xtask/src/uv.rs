//! uv, which the worker installs packages with: fetched once from PyPI, as images/uv.txt pins it, into the cache outside the
//! checkout.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::workspace::{Workspace, cache};

/// The pin, which the image of node-agent uses as well.
const PIN: &str = "images/uv.txt";

/// The pinned uv; fetched if it is not there.
pub fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let pin = workspace.path(PIN);
    let text = fs::read_to_string(&pin).with_context(|| format!("cannot read {}", pin.display()))?;
    let version = version(&text).with_context(|| format!("{} does not pin uv==VERSION", pin.display()))?;
    let tools = cache().join("tools");
    let place = tools.join(format!("uv-{version}/uv"));
    if !place.is_file() {
        eprintln!("set-up: fetching uv {version}");
        let work = tools.join(format!("fetch-uv-{}", std::process::id()));
        let fetched = fetch(&pin, version, &work, &place);
        let _ = fs::remove_dir_all(&work);
        fetched?;
    }
    Ok(place)
}

fn version(pin: &str) -> Option<&str> {
    pin.lines().find_map(|line| line.strip_prefix("uv==")?.split_whitespace().next())
}

fn fetch(pin: &Path, version: &str, work: &Path, place: &Path) -> Result<()> {
    fs::create_dir_all(work).with_context(|| format!("cannot make {}", work.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes"]);
    command::output(pip.arg("--dest").arg(work).arg("--requirement").arg(pin))
        .context("pip cannot fetch uv; is python3-pip installed (`cargo xtask setup`), and is there a way to an index?")?;
    let wheel = fs::read_dir(work)?.next().context("pip has fetched nothing")??.path();
    let unpacked = work.join("unpacked");
    command::output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(&unpacked))?;
    let program = unpacked.join(format!("uv-{version}.data/scripts/uv"));
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("the wheel of uv has no {}", program.display()))?;
    fs::create_dir_all(place.parent().context("no folder for uv")?)?;
    fs::rename(&program, place).with_context(|| format!("cannot write {}", place.display()))
}

/// Puts uv beside the binaries, where the worker looks for it.
pub fn lay_out(workspace: &Workspace, bin: &Path) -> Result<()> {
    let (source, place) = (ensure(workspace)?, bin.join("uv"));
    let same = |one: &Path| fs::metadata(one).ok().and_then(|data| Some((data.len(), data.modified().ok()?)));
    if same(&place).is_some() && same(&place) == same(&source) {
        return Ok(());
    }
    let beside = bin.join("uv.new");
    let _ = fs::remove_file(&beside);
    // Another file system has no links to it.
    fs::hard_link(&source, &beside).or_else(|_| fs::copy(&source, &beside).map(drop))?;
    fs::rename(&beside, &place).with_context(|| format!("cannot write {}", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pin_names_a_version() {
        let text = fs::read_to_string(Workspace::find().unwrap().path(PIN)).unwrap();
        assert!(version(&text).is_some_and(|version| version.contains('.')), "{text}");
        assert!(text.contains("--hash=sha256:"));
        assert_eq!(version("# uv==1\nother==2"), None);
    }
}
