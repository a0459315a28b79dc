//! The worker of one node: serves handlers from sandboxes over HTTP.

mod agent;
mod birth;
mod births;
mod body;
mod bundles;
mod call;
mod compile;
mod costs;
mod directory;
mod frame;
mod functions;
mod gate;
mod import_cache;
mod inflight;
mod instance;
mod invoke;
mod kubernetes;
mod load;
mod logs;
mod memory;
mod metrics;
mod outcome;
mod packages;
mod pool;
mod pressure;
mod registry;
mod relief;
mod reply;
mod revision;
mod room;
mod run;
mod server;
mod shared;
mod trial;
mod trouble;
mod warm;
mod zygotes;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::kubernetes::Scope;
use crate::run::Mode;

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
    /// The same, with the Handlers of a Kubernetes namespace instead of a registry directory.
    Kubernetes {
        /// The LambdaCluster whose Handlers are served.
        #[arg(long, value_name = "NAME")]
        cluster: String,
        /// The worker's configuration, as the operator writes it.
        #[arg(long, default_value = "/etc/openlambda/worker.json")]
        config: PathBuf,
        /// The namespace of the LambdaCluster and its Handlers.
        #[arg(long, env = "POD_NAMESPACE")]
        namespace: String,
        /// The node, for the logs.
        #[arg(long, env = "NODE_NAME", default_value = "")]
        node: String,
    },
}

fn main() -> ExitCode {
    // The spawner is this binary again, and forks: nothing may have been set up before it.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "spawner") {
        return openlambda_sandbox::spawner_main();
    }
    let result = match Arguments::parse().command {
        Command::Run { config } => run::run(&config, Mode::Directory),
        Command::Kubernetes { cluster, config, namespace, node } => {
            run::run(&config, Mode::Kubernetes { scope: Scope { cluster, namespace }, node })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If even this cannot be written there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "openlambda-node-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
