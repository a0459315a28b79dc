//! The commands and their flags.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

mod handlers;

pub use handlers::{
    Completion, Delete, Describe, Download, Invoke, List, Logs, Registry, RegistryArgs, RevisionName,
    Rollback, Upload,
};

/// Runs OpenLambda on this machine.
#[derive(Debug, Parser)]
#[command(
    name = "admin",
    version,
    arg_required_else_help = true,
    after_help = "Flags may have one dash or two: -cluster X, -cluster=X, --cluster X and --cluster=X are the same.\n\
                  Exit codes: 0 done, 1 failed, 2 wrong usage.\n\n\
                  A first cluster, from nothing to an answer:\n  \
                  admin new --cluster my-cluster\n  \
                  cp -r quickstart/handlers/hello my-cluster/registry/hello\n  \
                  admin workers --cluster my-cluster\n  \
                  curl -X POST localhost:8080/runLambda/hello -d '{\"name\": \"Alice\"}'"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    New(New),
    Setconf(Setconf),
    Workers(Workers),
    WorkerExec(Exec),
    LoadBalancer(LoadBalancer),
    LoadBalancerExec(Exec),
    Status(Status),
    Zygotes(Zygotes),
    Targets(Targets),
    Kill(Kill),
    Registry(Registry),
    RegistryExec(Exec),
    Upload(Upload),
    List(List),
    Describe(Describe),
    Rollback(Rollback),
    Download(Download),
    Delete(Delete),
    Invoke(Invoke),
    Logs(Logs),
    Completion(Completion),
}

/// Which cluster.
#[derive(Debug, Args)]
pub struct ClusterArg {
    /// The directory of the cluster, or k8s://[CONTEXT/]NAMESPACE/NAME
    #[arg(long, value_name = "DIR|k8s://…", env = "OPENLAMBDA_CLUSTER", hide_env_values = true)]
    pub cluster: PathBuf,
}

/// Makes the directory of a new cluster
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  admin new --cluster my-cluster\n  \
                        admin new --cluster my-cluster --base /srv/debian-root")]
pub struct New {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// What sandboxes see as their root: this machine's own system (host), or an unpacked root directory
    #[arg(long, value_name = "host|DIR", default_value = "host")]
    pub base: String,
}

/// Changes the configuration of workers that are started later
#[derive(Debug, Args)]
#[command(
    after_help = "JSON is merged over config/template.json: objects key by key, null removes a key.\n\n\
                        Examples:\n  admin setconf --cluster my-cluster '{\"handler_cache_size\": \"1Gi\"}'\n  \
                        admin setconf --cluster my-cluster '{\"limits\": {\"memory\": \"256Mi\", \"cpu\": null}}'"
)]
pub struct Setconf {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// A JSON object with the keys to set
    #[arg(value_name = "JSON")]
    pub json: String,
}

/// Starts workers in the background and waits until they answer
#[derive(Debug, Args)]
#[command(after_help = "Worker i listens on the port plus i, and logs to logs/worker-i.out.\n\n\
                        Examples:\n  admin workers --cluster my-cluster\n  \
                        admin workers --cluster my-cluster --num-workers 2 --port 8080")]
pub struct Workers {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// How many [default: 1; on Kubernetes one on each node]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub num_workers: Option<u32>,
    /// The port of the first one [default: worker_port of the template, else 8080]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
}

/// Starts the load balancer in the background and waits until it answers
#[derive(Debug, Args)]
#[command(
    after_help = "Servers in config/load_balancer.json that you wrote stay; an empty list, or one that this \
                        command filled, is filled with the workers of this cluster.\n\n\
                        Examples:\n  admin load-balancer --cluster my-cluster\n  \
                        admin load-balancer --cluster my-cluster --port 80\n  \
                        admin load-balancer --cluster my-cluster --registry-api"
)]
pub struct LoadBalancer {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// Its port [default: Port of config/load_balancer.json, which is 7079 at first]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Take uploads at /registry/HANDLER from now on, with a token that is made if there is none
    #[arg(long)]
    pub registry_api: bool,
}

/// Runs one process of the cluster in the foreground
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  admin worker-exec --config my-cluster/config/worker-0.json\n  \
                        admin load-balancer-exec --config my-cluster/config/load_balancer.json\n  \
                        admin registry-exec --config my-cluster/config/registry.json")]
pub struct Exec {
    /// Its configuration file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Leave the terminal first: for the commands that start it in the background
    #[arg(long, hide = true)]
    pub detached: bool,
}

/// Asks the load balancer and every worker that was started for their status
#[derive(Debug, Args)]
#[command(after_help = "Fails if one of them does not answer, or if nothing was started.\n\n\
                        Example:\n  admin status --cluster my-cluster")]
pub struct Status {
    #[command(flatten)]
    pub cluster: ClusterArg,
}

/// Draws the import cache of each worker: which Zygotes there are, what they hold and how often they were forked
#[derive(Debug, Args)]
#[command(
    after_help = "A Zygote has its own packages and those of the ones above it. A package that no Zygote may hold is named with the \
                  reason.\n\nExample:\n  admin zygotes --cluster my-cluster"
)]
pub struct Zygotes {
    #[command(flatten)]
    pub cluster: ClusterArg,
}

/// Shows what the load balancer knows: who serves what, how loaded the workers are, and what moved lately and why
#[derive(Debug, Args)]
#[command(
    after_help = "A package set is shown by its digest. The same as JSON: /debug/targets on the admin port.\n\n\
                        Example:\n  admin targets --cluster my-cluster"
)]
pub struct Targets {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// All names and moves, not only the first twenty of each place
    #[arg(long)]
    pub all: bool,
}

/// Ends the load balancer, then the workers, then the registry
#[derive(Debug, Args)]
#[command(after_help = "Calls that run get the drain_timeout of the configuration to finish.\n\n\
                        Example:\n  admin kill --cluster my-cluster")]
pub struct Kill {
    #[command(flatten)]
    pub cluster: ClusterArg,
}
