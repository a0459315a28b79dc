//! `openlambda-operator`: makes of `LambdaCluster`s what they ask for, and says of `Handler`s what came of them.
//!
//! It is never on the way of a call: calls go on without it.
#![forbid(unsafe_code)]

mod args;
mod cluster;
mod context;
mod events;
mod failure;
#[cfg(test)]
mod fixtures;
mod handler;
mod lease;
mod metrics;
mod run;
mod scope;
mod settings;
mod throttle;
mod written;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The operator of OpenLambda.
#[derive(Debug, Parser)]
#[command(name = "openlambda-operator", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Reconcile until SIGTERM or SIGINT
    Run(Box<args::Args>),
    /// Print the custom resource definitions as YAML
    Crd,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Crd => print_definitions(),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // If standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "openlambda-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_definitions() -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    for (_, definition) in openlambda_api::crds::all() {
        writeln!(out, "---\n{}", serde_saphyr::to_string(&definition)?.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}
