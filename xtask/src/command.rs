//! Runs other programs: shows the command, stops with it when interrupted, and names it when it fails.

use std::io::Write;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

use crate::interrupt;

/// Runs a command with its output on ours.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("+ {}", interrupt::describe(command));
    let status = status(command)?;
    if !status.success() {
        bail!("{} ended with {status}", interrupt::describe(command));
    }
    Ok(())
}

/// Runs a command with its output on ours and gives its status.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    let mut child = interrupt::spawn(command.stdin(Stdio::null()))?;
    let status = child.wait();
    interrupt::forget(child.id());
    status.with_context(|| format!("cannot wait for {}", interrupt::describe(command)))
}

/// Runs a command and gives what it wrote to standard output; its errors are shown only if it fails.
pub fn output(command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = interrupt::spawn(command)?;
    let pid = child.id();
    let output = child.wait_with_output();
    interrupt::forget(pid);
    let output = output.with_context(|| format!("cannot wait for {}", interrupt::describe(command)))?;
    if !output.status.success() {
        let mut terminal = std::io::stderr().lock();
        let _ = terminal.write_all(&output.stdout).and_then(|()| terminal.write_all(&output.stderr));
        bail!("{} ended with {}", interrupt::describe(command), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The cargo that runs this task, else the one in `PATH`.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}
