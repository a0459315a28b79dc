//! The worker of one node: serves handlers from sandboxes over HTTP.

mod agent;
mod body;
mod bundles;
mod call;
mod compile;
mod frame;
mod functions;
mod gate;
mod inflight;
mod instance;
mod invoke;
mod load;
mod logs;
mod metrics;
mod outcome;
mod pool;
mod reply;
mod room;
mod run;
mod server;
mod shared;
mod tree;
mod zygotes;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The worker of one node: serves handlers from sandboxes over HTTP.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves until SIGTERM or SIGINT.
    Run {
        /// The worker's configuration, as `admin new` and `admin workers` write it.
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    // The spawner is this binary again, and forks: nothing may have been set up before it.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "spawner") {
        return openlambda_sandbox::spawner_main();
    }
    let Command::Run { config } = Arguments::parse().command;
    match run::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If even this cannot be written there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "openlambda-node-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
