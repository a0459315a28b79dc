//! `cargo xtask bench`: figures that mean something elsewhere, since each is a ratio to an anchor that was measured
//! in the same run, block by block in turn.

mod anchor;
mod apply;
mod burst;
mod create;
mod deploy;
mod failover;
mod idle;
mod import;
mod kubernetes;
mod lard;
mod machine;
mod node;
mod operator;
mod overhead;
mod overload;
mod paced;
mod process;
mod report;
mod stats;
mod subject;
mod upload;
mod warm;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::build::{Built, Profile, build};
use crate::workspace::Workspace;
use crate::{command, interrupt, setup};

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// Rounds of blocks that are measured in turn
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), global = true)]
    rounds: u32,
    /// Write all figures to this file
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    /// Fail if a target is missed
    #[arg(long, global = true)]
    gate: bool,
    /// Wait up to so many seconds until the machine is quiet
    #[arg(long, default_value_t = 60, global = true)]
    quiet: u64,
}

#[derive(Clone, Subcommand)]
enum What {
    /// Cold starts against the original's steps: 20 a second, one after the other, four at once
    Create,
    /// Warm calls against a bare hyper server: one connection and sixteen, directly and through lard
    Warm,
    /// On Kubernetes: from the write of a Handler to its answer, first calls, warm calls
    Apply,
    /// On Kubernetes: first calls of many new handlers at once, with and without packages, and what idle ones hold
    Burst,
    /// On Kubernetes: a thousand Handlers at once, resync, memory of the parts
    Operator,
    /// Cold starts with packages: from Zygotes and spares against none, what idle handlers hold, a workload that rotates
    Import,
    /// Memory of an idle, paused handler
    Idle {
        /// How many handlers are kept
        #[arg(long, default_value_t = 500)]
        handlers: u32,
    },
    /// A node full of handlers, neighbours at their limits, and waking a paused instance
    Node,
    /// What lard adds to a warm call, against haproxy and nginx where they are in PATH
    Overhead,
    /// An agent is killed under 2,000 calls a second
    Failover,
    /// Ten times as many calls as can be served
    Overload {
        /// For how long
        #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
        seconds: u64,
    },
    /// On Kubernetes: a change of code by `admin upload` and by `kubectl apply`, until three agents answer with it
    Deploy,
    /// From `admin upload` to the first answer on three workers, memory for a large bundle, what a thousand leave behind
    Upload,
    /// The balancing policies, simulated, or live
    Lard(lard::Args),
}

/// What a benchmark runs with.
struct Bench {
    workspace: Workspace,
    built: Built,
    /// Whether the binaries were there before: then none is built.
    given: bool,
    rounds: u32,
}

impl Bench {
    /// Builds what is wanted: release binaries, unless `OPENLAMBDA_BIN_DIR` names a folder that has all of them.
    fn new(rounds: u32) -> Result<Self> {
        let workspace = Workspace::find()?;
        let given = std::env::var_os("OPENLAMBDA_BIN_DIR").map(PathBuf::from);
        let built = match given.clone() {
            Some(bin) => Built { runtime: bin.join("runtime"), bin },
            None => build(&workspace, Profile::Release)?,
        };
        Ok(Self { workspace, built, given: given.is_some(), rounds })
    }

    /// Builds an example and gives its path.
    fn example(&self, package: &str, name: &str) -> Result<PathBuf> {
        if !self.given {
            let mut cargo = command::cargo();
            cargo.current_dir(&self.workspace.root);
            command::run(cargo.args(["build", "--release", "-p", package, "--example", name]))?;
        }
        Ok(self.built.bin.join("examples").join(name))
    }
}

/// `cargo xtask bench`.
pub fn run(args: &Args) -> Result<()> {
    if let What::Lard(lard) = &args.what
        && !lard.live
    {
        let svg = Workspace::find()?.target.join("bench-lard.svg");
        return lard::run(lard, args.json.as_deref(), args.gate, &svg);
    }
    setup::require_root("measuring")?;
    setup::run()?;
    let bench = Bench::new(args.rounds)?;
    let warning = machine::wait_until_quiet(Duration::from_secs(args.quiet));
    if let What::Lard(lard) = &args.what {
        return lard::run_live(&bench, lard, args.json.as_deref(), args.gate);
    }
    let mut report = match args.what {
        What::Lard(_) => bail!("it has a report of its own"),
        What::Create => create::run(&bench)?,
        What::Warm => warm::run(&bench)?,
        What::Node => node::run(&bench)?,
        What::Overhead => overhead::run(&bench)?,
        What::Failover => failover::run(&bench)?,
        What::Overload { seconds } => overload::run(&bench, seconds)?,
        What::Apply => apply::run(&bench)?,
        What::Burst => burst::run(&bench)?,
        What::Operator => operator::run(&bench)?,
        What::Import => import::run(&bench)?,
        What::Deploy => deploy::run(&bench)?,
        What::Upload => upload::run(&bench)?,
        What::Idle { handlers } => idle::run(&bench, handlers)?,
    };
    if bench.given {
        report.note(format!("NOT BUILT HERE: the binaries of {}", bench.built.bin.display()));
    }
    warning.into_iter().for_each(|warning| report.note(warning));
    report.print();
    if let Some(path) = &args.json {
        report.write(path)?;
        println!("figures written to {}", path.display());
    }
    if args.gate && !report.met() {
        bail!("a target was missed");
    }
    Ok(())
}

/// A folder for the time of a benchmark.
fn work_folder(purpose: &str) -> Result<(PathBuf, interrupt::Cleanup)> {
    let folder = std::env::temp_dir().join(format!("openlambda-{purpose}-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let cleanup = interrupt::Cleanup::new({
        let folder = folder.clone();
        move || {
            if let Err(error) = std::fs::remove_dir_all(&folder) {
                eprintln!("cannot remove {}: {error}", folder.display());
            }
        }
    });
    Ok((folder, cleanup))
}
