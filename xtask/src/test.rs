//! `cargo xtask test`: every test, tier by tier. What cannot run fails; nothing is skipped in silence.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::build::{Built, Profile, build};
use crate::leftovers::{self, Snapshot};
use crate::metadata::{self, Packages};
use crate::workspace::Workspace;
use crate::{check, command, kube, setup, vm};

/// The integration tests that need root and change the machine while they run.
const PRIVILEGED: &str = "privileged";
/// The package of the end-to-end tests.
const END_TO_END: &str = "tests";
/// Those of them that need a Kubernetes.
const KUBERNETES: &str = "on_kubernetes";
/// Nodes of the cluster that these begin with.
const NODES: u8 = 2;
/// The tag of the images that are tested.
const TAG: &str = "dev";
/// A time limit for the whole of the emulated machine, in seconds: it is some 15 times slower than this one.
const VM_LIMIT: &str = "2400";

/// Arguments of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these tiers (repeatable); all that make sense on this machine if none is given
    #[arg(long, value_enum)]
    tier: Vec<Tier>,
    /// Leave out `check`
    #[arg(long)]
    no_check: bool,
}

/// Tests that need the same things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Tier {
    /// No root, no network, no clock to wait for
    Pure,
    /// Root: real namespaces, mounts and cgroups
    Privileged,
    /// A local cluster of real processes
    E2e,
    /// A real Kubernetes, with the charts in it
    Kubernetes,
    /// The privileged tests and a smoke test in a machine with cgroup v2
    Vm,
}

/// `cargo xtask test`.
pub fn run(args: &Args) -> Result<()> {
    let tiers = if args.tier.is_empty() { default_tiers() } else { args.tier.clone() };
    if tiers.iter().any(|tier| *tier != Tier::Pure) {
        setup::require_root("testing")?;
    }
    setup::run()?;
    let workspace = Workspace::find()?;
    let mut times = Vec::new();
    if !args.no_check && args.tier.is_empty() {
        times.push(timed("check", || check::run(&check::Args::for_test()))?);
    }
    let packages = metadata::packages(&workspace)?;
    let built = build(&workspace, Profile::Dev)?;
    for tier in tiers {
        let before = Snapshot::take(&built.bin);
        let name = format!("{tier:?}").to_lowercase();
        times.push(timed(&name, || tier.run(&workspace, &packages, &built))?);
        leftovers::check(&before, &built.bin, &format!("the tier {name}"))?;
    }
    println!("\nall passed, and nothing of ours is left on the machine");
    for (name, time) in times {
        println!("  {name:<10} {:>6.1} s", time.as_secs_f64());
    }
    Ok(())
}

/// A machine with cgroup v2 tests v2 by itself; one with v1 needs the virtual machine for it.
fn default_tiers() -> Vec<Tier> {
    let mut tiers = vec![Tier::Pure, Tier::Privileged, Tier::E2e, Tier::Kubernetes];
    if vm::host_has_cgroup_v2() {
        println!("tier vm: not needed, this machine has cgroup v2");
    } else if vm::is_debian_12() {
        tiers.push(Tier::Vm);
    } else {
        println!("tier vm: not run, it needs Debian 12; cgroup v2 is not tested here");
    }
    tiers
}

fn timed(name: &str, work: impl FnOnce() -> Result<()>) -> Result<(String, Duration)> {
    println!("\n== {name}");
    let start = Instant::now();
    work().with_context(|| format!("{name} failed"))?;
    Ok((name.to_owned(), start.elapsed()))
}

impl Tier {
    fn run(self, workspace: &Workspace, packages: &Packages, built: &Built) -> Result<()> {
        match self {
            Self::Pure => pure(workspace, packages),
            Self::Privileged => serial(workspace, &[PRIVILEGED.to_owned()], variables(built)),
            Self::E2e => serial(workspace, &end_to_end(packages)?, variables(built)),
            Self::Kubernetes => in_kubernetes(workspace, built),
            Self::Vm => in_vm(workspace, built),
        }
    }
}

/// All tests are built as one workspace, so that a tier does not compile the dependencies anew.
fn cargo_test(workspace: &Workspace) -> Command {
    let mut cargo = command::cargo();
    cargo.current_dir(&workspace.root).args(["test", "--workspace"]);
    cargo
}

fn pure(workspace: &Workspace, packages: &Packages) -> Result<()> {
    let others: BTreeSet<&String> = packages
        .iter()
        .filter(|(name, _)| *name != END_TO_END)
        .flat_map(|(_, package)| &package.tests)
        .filter(|test| *test != PRIVILEGED)
        .collect();
    let mut cargo = cargo_test(workspace);
    cargo.args(["--lib", "--bins"]).args(others.into_iter().flat_map(|test| ["--test", test]));
    command::run(&mut cargo)?;
    command::run(cargo_test(workspace).arg("--doc"))
}

/// The tests on a local cluster.
fn end_to_end(packages: &Packages) -> Result<Vec<String>> {
    let tests = packages.get(END_TO_END).map(|package| package.tests.clone()).unwrap_or_default();
    let local: Vec<String> = tests.into_iter().filter(|test| test != KUBERNETES).collect();
    if local.is_empty() {
        bail!("the package openlambda-tests has no tests on a local cluster");
    }
    Ok(local)
}

/// The store's tests on an S3 server that is not ours. In this tier because that is built from Go modules too.
fn on_another_s3(workspace: &Workspace) -> Result<()> {
    let mut cargo = Command::new(workspace.path("tests/cluster/s3"));
    cargo.current_dir(&workspace.root).args(["cargo", "test", "--workspace", "--test", "store"]);
    command::run(&mut cargo)
}

/// Starts a cluster with an Ingress controller and our images in it, and takes it down again.
fn in_kubernetes(workspace: &Workspace, built: &Built) -> Result<()> {
    on_another_s3(workspace)?;
    let cluster = kube::Cluster::choose(workspace)?;
    let images = kube::images::images(workspace, &[], TAG, Profile::Dev)?;
    kube::tools(workspace, &["helm"])?;
    let down = cluster.up(NODES)?;
    cluster.load(&images)?;
    cluster.ingress()?;
    let scripts = ("OPENLAMBDA_CLUSTER_SCRIPTS", workspace.path("tests/cluster").into_os_string());
    let tag = ("OPENLAMBDA_IMAGE_TAG", OsString::from(TAG));
    serial(
        workspace,
        &[KUBERNETES.to_owned()],
        cluster.variables().into_iter().chain([scripts, tag]).chain(variables(built)),
    )?;
    drop(down);
    Ok(())
}

/// Tests that share the machine's state run one at a time.
fn serial(
    workspace: &Workspace,
    tests: &[String],
    variables: impl IntoIterator<Item = (&'static str, OsString)>,
) -> Result<()> {
    let mut cargo = cargo_test(workspace);
    cargo.args(tests.iter().flat_map(|test| ["--test", test])).envs(variables);
    command::run(cargo.args(["--", "--test-threads=1"]))
}

/// What the tests' clusters find the binaries by.
pub fn variables(built: &Built) -> [(&'static str, OsString); 2] {
    [
        ("OPENLAMBDA_BIN_DIR", built.bin.clone().into()),
        ("OPENLAMBDA_RUNTIME_DIR", built.runtime.clone().into()),
    ]
}

fn in_vm(workspace: &Workspace, built: &Built) -> Result<()> {
    let test = executable(workspace, PRIVILEGED)?;
    let mut privileged = guest(workspace, built, VM_LIMIT)?;
    privileged.arg("--").arg(test).arg("--test-threads=1");
    command::run(&mut privileged)?;
    let mut smoke = guest(workspace, built, VM_LIMIT)?;
    smoke.arg("--").arg(workspace.path("tests/vm/smoke"));
    command::run(&mut smoke)
}

/// The virtual machine with the checkout and the target folder at their own paths.
pub fn guest(workspace: &Workspace, built: &Built, limit: &str) -> Result<Command> {
    let mut guest = vm::runner(workspace)?;
    guest.args(["-t", limit, "-s"]).arg(&workspace.root);
    if !built.bin.starts_with(&workspace.root) {
        guest.arg("-s").arg(&workspace.target);
    }
    for (name, value) in variables(built) {
        guest.arg("-e").arg(format!("{name}={}", value.to_string_lossy()));
    }
    Ok(guest)
}

/// Where cargo has put the program of an integration test.
fn executable(workspace: &Workspace, test: &str) -> Result<String> {
    let mut cargo = cargo_test(workspace);
    let text = command::output(cargo.args(["--test", test, "--no-run", "--message-format=json"]))?;
    text.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == test)
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
        .with_context(|| format!("cargo built no test {test:?}"))
}
