//! `admin worker-exec`, `admin load-balancer-exec` and `admin registry-exec`: become the program itself, in the foreground.

use std::convert::Infallible;
use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::args::Exec;

/// A program that admin runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its file name, which is the name of its package too.
    pub binary: &'static str,
    /// Arguments before `--config FILE`.
    pub arguments: &'static [&'static str],
    /// The command of admin that becomes it.
    pub command: &'static str,
}

/// The worker.
pub const WORKER: Program =
    Program { binary: "openlambda-node-agent", arguments: &["run"], command: "worker-exec" };
/// The load balancer.
pub const BALANCER: Program =
    Program { binary: "openlambda-lard", arguments: &[], command: "load-balancer-exec" };
/// The registry's server.
pub const REGISTRY: Program =
    Program { binary: "openlambda-registry", arguments: &[], command: "registry-exec" };

/// Becomes the program; returns only with an error.
pub fn run(program: Program, args: &Exec) -> Result<()> {
    if args.detached {
        // A new session: the terminal that started it may go. Fails only if this is a group's leader already.
        rustix::process::setsid().context("cannot leave the terminal's session")?;
    }
    let config = std::path::absolute(&args.config)
        .with_context(|| format!("--config {} is no usable path", args.config.display()))?;
    become_program(program, &config).map(|never| match never {})
}

fn become_program(program: Program, config: &Path) -> Result<Infallible> {
    let binary = find(program)?;
    let error = Command::new(&binary).args(program.arguments).arg("--config").arg(config).exec();
    Err(anyhow!(error).context(format!("cannot run {}", binary.display())))
}

/// The program's file: beside admin's own, else in `PATH`.
pub fn find(program: Program) -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find admin's own file")?;
    let beside = own.parent().unwrap_or(Path::new("/")).to_owned();
    let path = env::var_os("PATH").unwrap_or_default();
    let candidates = std::iter::once(beside.clone()).chain(env::split_paths(&path));
    let mut files = candidates.map(|directory| directory.join(program.binary));
    files.find(|file| file.is_file()).ok_or_else(|| {
        anyhow!(
            "{} is neither in {} nor in PATH: build it with cargo build --release --package {}",
            program.binary,
            beside.display(),
            program.binary
        )
    })
}
