//! `cargo xtask vm -- COMMAND`: runs a command as root in a virtual machine with nothing but cgroup v2.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{command, setup};

const RUNNER: &str = "tests/vm/vm-run";

/// Arguments of `cargo xtask vm`.
#[derive(clap::Args)]
pub struct Args {
    /// Options of tests/vm/vm-run (it lists them when given none), `--` and the command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// `cargo xtask vm`.
pub fn run(args: &Args) -> Result<()> {
    let mut runner = runner(&Workspace::find()?)?;
    command::run(runner.args(&args.args))
}

/// The command that runs others in the machine; options and the command come after it.
pub fn runner(workspace: &Workspace) -> Result<Command> {
    setup::require_root("the virtual machine")?;
    if !is_debian_12() {
        bail!("the virtual machine is built from Debian 12's packages and needs Debian 12 to be built on");
    }
    Ok(Command::new(workspace.path(RUNNER)))
}

/// Whether this machine can build the virtual machine.
pub fn is_debian_12() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let has = |want: &str| release.lines().any(|line| line.replace('"', "") == want);
    has("ID=debian") && has("VERSION_ID=12")
}

/// Whether this machine itself has nothing but cgroup v2, so that tests on it are tests of v2.
pub fn host_has_cgroup_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}
