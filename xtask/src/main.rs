//! `cargo xtask`: everything one does with this repository beyond writing code.
//!
//! It prints for people, so it may print; it takes its children and what it made along when it is interrupted.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command-line tool talks through its output")]

mod bench;
mod build;
mod charts;
mod check;
mod cluster;
mod codegen;
mod command;
mod demo;
mod http;
mod interrupt;
mod kube;
mod leftovers;
mod metadata;
mod ports;
mod setup;
mod soak;
mod test;
mod uv;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set-up, demo, tests, checks and benchmarks of OpenLambda")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Set up, build, start a local cluster, call `hello` through lard and say what happened
    Demo(demo::Args),
    /// Set up and run every test
    Test(test::Args),
    /// Formatting, lints, dependency directions, documentation, licences, charts
    Check(check::Args),
    /// Measure against anchors in the same run
    Bench(bench::Args),
    /// Calls, edits and faults for as long as one likes; every answer checked, and nothing left at the end
    Soak(soak::Args),
    /// Build the binaries and lay out the runtime files beside them
    Build(build::Args),
    /// Write the custom resource definitions of crates/api into crds/ and the chart
    Codegen(codegen::Args),
    /// Install what the other tasks need, as far as it is missing
    Setup,
    /// Run a command in the virtual machine with cgroup v2
    Vm(vm::Args),
    /// A real Kubernetes on this machine: up, down, load, image
    Cluster(kube::Args),
    /// Build the images of the parts that run in a cluster
    Image(kube::images::Args),
}

fn main() -> ExitCode {
    let task = Cli::parse().task;
    interrupt::run(move || dispatch(task))
}

fn dispatch(task: Task) -> Result<()> {
    match task {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Check(args) => check::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Build(args) => build::run(&args),
        Task::Codegen(args) => codegen::run(&args),
        Task::Setup => setup::run(),
        Task::Vm(args) => vm::run(&args),
        Task::Cluster(args) => kube::run(&args),
        Task::Image(args) => kube::images::run(&args),
    }
}
