//! `cargo xtask soak`: a cluster under calls, edits and faults for as long as one likes, here or on cgroup v2. The soak itself is the
//! tests' own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use openlambda_tests::soak::{self, Plan};

use crate::build::{Built, Profile, build};
use crate::workspace::Workspace;
use crate::{command, setup, test};

/// Set for the process that soaks: where the binaries are.
const BIN_DIR: &str = "OPENLAMBDA_BIN_DIR";
/// An emulated machine is slower: a time limit for it, in seconds, if the soak has none.
const VM_LIMIT: u64 = 7200;

/// Arguments of `cargo xtask soak`.
#[derive(clap::Args)]
pub struct Args {
    /// How long
    #[arg(long, default_value_t = 10.0, conflicts_with = "calls")]
    minutes: f64,
    /// Until so many calls were made, instead
    #[arg(long)]
    calls: Option<u64>,
    /// What the choice of calls and faults begins with
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Faults per call
    #[arg(long, default_value_t = 0.01)]
    fault_rate: f64,
    /// Clients that call at the same time
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Where to write the account
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// In the virtual machine with cgroup v2
    #[arg(long)]
    vm: bool,
    /// The profile of the binaries
    #[arg(long, value_enum, default_value_t = Profile::Release)]
    profile: Profile,
}

/// `cargo xtask soak`.
pub fn run(args: &Args) -> Result<()> {
    setup::require_root("the soak")?;
    if std::env::var_os(BIN_DIR).is_some() {
        return soak(args);
    }
    setup::run()?;
    let workspace = Workspace::find()?;
    let built = build(&workspace, args.profile)?;
    let own = std::env::current_exe().context("cannot find xtask's own file")?;
    if args.vm { in_vm(args, &workspace, &built, own) } else { here(&built, own) }
}

/// With the variables that the tests' clusters want, which a running process cannot give itself.
fn here(built: &Built, own: PathBuf) -> Result<()> {
    let mut again = Command::new(own);
    command::run(again.args(std::env::args_os().skip(1)).envs(test::variables(built)))
}

fn in_vm(args: &Args, workspace: &Workspace, built: &Built, own: PathBuf) -> Result<()> {
    let minutes = if args.calls.is_some() { VM_LIMIT } else { (args.minutes * 60.0) as u64 + VM_LIMIT };
    let mut guest = test::guest(workspace, built, &minutes.to_string())?;
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--vm");
    // The machine has no file of ours that it could write to: the account comes with the output.
    let arguments: Vec<OsString> = without_json(arguments);
    command::run(guest.arg("--").arg(own).args(arguments))
}

fn without_json(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        if argument == "--json" {
            arguments.next();
        } else if !argument.to_string_lossy().starts_with("--json=") {
            kept.push(argument);
        }
    }
    kept
}

fn soak(args: &Args) -> Result<()> {
    let time = args.calls.is_none().then(|| Duration::from_secs_f64(args.minutes * 60.0));
    let (calls, seed, fault_rate) = (args.calls, args.seed, args.fault_rate);
    let plan = Plan { calls, time, seed, fault_rate, clients: args.clients };
    let account = soak::run(&plan, |line| println!("{line}"))?;
    let text = format!("{:#}\n", account.json());
    print!("{text}");
    if let Some(file) = &args.json {
        std::fs::write(file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if !account.is_good() {
        bail!("the soak with seed {seed} went wrong: see wrong, dishonest, unexplained and leaks above");
    }
    println!("all {} answers were right, or errors that a fault explains; nothing is left", account.calls);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_left_out_in_either_form() {
        let all = ["soak", "--json", "a", "--calls", "5", "--json=b"].map(OsString::from);
        assert_eq!(without_json(all.into_iter()), ["soak", "--calls", "5"]);
    }
}
