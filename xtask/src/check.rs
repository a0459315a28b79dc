//! `cargo xtask check`: what must hold of the code without running it.

mod directions;
mod manifests;
mod schemas;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::workspace::{Workspace, cache};
use crate::{command, setup};

const DENY_VERSION: &str = "0.20.2";

/// Arguments of `cargo xtask check`.
#[derive(clap::Args)]
pub struct Args {
    /// Install cargo-deny into the cache if it is not there (takes some minutes)
    #[arg(long)]
    with_deny: bool,
    /// Only the charts and manifests; builds helm and kubeconform if they are not there (takes minutes and needs Go)
    #[arg(long)]
    charts: bool,
    /// Whether what checks charts is built if it is not there.
    #[arg(skip)]
    build_tools: bool,
}

impl Args {
    /// What `cargo xtask test` asks for: where CI is set, a missing cargo-deny is installed. helm is needed by its tests
    /// in Kubernetes, too.
    pub fn for_test() -> Self {
        Self { with_deny: std::env::var_os("CI").is_some(), charts: false, build_tools: true }
    }
}

/// `cargo xtask check`.
pub fn run(args: &Args) -> Result<()> {
    let workspace = Workspace::find()?;
    if args.charts {
        return manifests::check(&workspace, true);
    }
    directions::check(&workspace)?;
    cargo(&workspace, &["fmt", "--all", "--check"], None)?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    cargo(&workspace, &clippy, None)?;
    cargo(
        &workspace,
        &["doc", "--workspace", "--no-deps", "--quiet"],
        Some(("RUSTDOCFLAGS", "-D warnings")),
    )?;
    manifests::check(&workspace, args.build_tools)?;
    deny(&workspace, args.with_deny)
}

fn cargo(workspace: &Workspace, args: &[&str], variable: Option<(&str, &str)>) -> Result<()> {
    command::run(command::cargo().current_dir(&workspace.root).args(args).envs(variable))
}

/// Licences, bans and sources of all dependencies against deny.toml. Advisories are left to a scheduled run: they
/// change without us and need a database from outside.
fn deny(workspace: &Workspace, install: bool) -> Result<()> {
    let tools = cache().join("tools");
    let own = tools.join("bin/cargo-deny");
    let program = if setup::present("cargo-deny") {
        PathBuf::from("cargo-deny")
    } else if own.exists() {
        own
    } else if install {
        install_deny(&tools)?;
        own
    } else {
        println!(
            "not checked: deny.toml (there is no cargo-deny; `cargo xtask check --with-deny` installs it)"
        );
        return Ok(());
    };
    let mut deny = Command::new(program);
    deny.current_dir(&workspace.root).args(["--log-level", "error", "check"]);
    command::run(deny.args(["bans", "licenses", "sources"]))
}

fn install_deny(tools: &Path) -> Result<()> {
    let mut cargo = command::cargo();
    cargo.args(["install", "--locked", "--quiet", "--root"]).arg(tools);
    command::run(cargo.args(["cargo-deny", "--version", DENY_VERSION]))
}
