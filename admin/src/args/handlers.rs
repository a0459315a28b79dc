//! The flags of what is done with handlers.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;

use clap::Args;
use openlambda_api::HandlerName;
use openlambda_config::registry::DEFAULT_PORT;

use super::ClusterArg;

/// Starts the registry of this cluster in the background: an S3 server that keeps what is uploaded in store/
#[derive(Debug, Args)]
#[command(
    after_help = "Workers that are started from then on take their handlers from it, and those in registry/ do not count any more. \
                  Without keys, those of the last start hold.\n\n\
                  Example:\n  admin registry --cluster my-cluster --access-key handlers --secret-key \"$(openssl rand -hex 16)\""
)]
pub struct Registry {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// Its port
    #[arg(short, long, default_value_t = DEFAULT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: u16,
    /// The address to listen on; 0.0.0.0 to be reached from other machines
    #[arg(long, value_name = "IP", default_value_t = Ipv4Addr::LOCALHOST.into())]
    pub host: IpAddr,
    #[command(flatten)]
    pub keys: Keys,
}

/// Who asks.
#[derive(Debug, Args)]
pub struct Keys {
    /// The access key: 8 characters or more
    #[arg(
        long,
        value_name = "KEY",
        env = "OPENLAMBDA_REGISTRY_ACCESS_KEY",
        hide_env_values = true,
        requires = "secret_key"
    )]
    pub access_key: Option<String>,
    /// The secret key: 16 characters or more
    #[arg(
        long,
        value_name = "KEY",
        env = "OPENLAMBDA_REGISTRY_SECRET_KEY",
        hide_env_values = true,
        requires = "access_key"
    )]
    pub secret_key: Option<String>,
}

/// Which registry, and who asks.
#[derive(Debug, Args)]
pub struct RegistryArgs {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// The registry's server, if it is another than the cluster's configuration says
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    #[command(flatten)]
    pub keys: Keys,
}

/// Which handler.
#[derive(Debug, Args)]
pub struct HandlerArg {
    /// The handler's name
    #[arg(long, value_name = "NAME", value_parser = |text: &str| HandlerName::parse(text))]
    pub handler: HandlerName,
}

/// Uploads a handler and waits until every worker serves it
#[derive(Debug, Args)]
#[command(
    after_help = "FILE is a directory, a .tar.gz, a Python file, or - for one of the last two on standard input. At its root are \
                  lambda_func.py with handler(event), or f.py with f(event); a requirements.txt or packages.txt names packages.\n\n\
                  Examples:\n  admin upload --cluster my-cluster --handler hello --file quickstart/handlers/hello\n  \
                  tar cz -C hello . | admin upload --cluster my-cluster --handler hello --file -"
)]
pub struct Upload {
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub handler: HandlerArg,
    /// What to upload
    #[arg(long, value_name = "FILE|DIR|-")]
    pub file: PathBuf,
    /// Do not wait for the workers
    #[arg(long)]
    pub no_wait: bool,
    /// Do not look for syntax errors and imports that nothing provides
    #[arg(long)]
    pub no_check: bool,
}

/// Lists the handlers of the registry
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  admin list --cluster my-cluster")]
pub struct List {
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Shows a handler's revisions, and which of them each worker serves
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  admin describe --cluster my-cluster --handler hello")]
pub struct Describe {
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub handler: HandlerArg,
}

/// Has a former revision serve again
#[derive(Debug, Args)]
#[command(
    after_help = "Nothing is uploaded or lost: the registry only says that another revision serves.\n\n\
                  Examples:\n  admin rollback --cluster my-cluster --handler hello\n  \
                  admin rollback --cluster my-cluster --handler hello --revision 7\n  \
                  admin rollback --cluster k8s://functions/demo --handler hello --revision hello-7"
)]
pub struct Rollback {
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub handler: HandlerArg,
    /// The revision of the registry, or on Kubernetes one of the Handler's status.revisions [default: the one before the one
    /// that serves]
    #[arg(long, value_name = "N|NAME")]
    pub revision: Option<RevisionName>,
    /// Do not wait for the workers
    #[arg(long)]
    pub no_wait: bool,
}

/// A revision of the registry, or of a Handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RevisionName {
    /// Of the registry.
    Number(u64),
    /// Of a Handler.
    Name(String),
}

impl FromStr for RevisionName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(number) => Ok(Self::Number(number)),
            Err(_) if text.contains('-') => Ok(Self::Name(text.to_owned())),
            Err(_) => Err(
                "give a number of the registry, such as 7, or a name of status.revisions, such as hello-7"
                    .into(),
            ),
        }
    }
}

/// Fetches the bundle of a handler
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  admin download --cluster my-cluster --handler hello --file hello.tar.gz")]
pub struct Download {
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub handler: HandlerArg,
    /// Where to; - is standard output [default: NAME.tar.gz]
    #[arg(long, value_name = "FILE|-")]
    pub file: Option<PathBuf>,
    /// The revision [default: the one that serves]
    #[arg(long, value_name = "N")]
    pub revision: Option<u64>,
}

/// Removes a handler with all its revisions
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  admin delete --cluster my-cluster --handler hello")]
pub struct Delete {
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub handler: HandlerArg,
    /// Do not wait for the workers
    #[arg(long)]
    pub no_wait: bool,
}

/// Calls a handler: through the load balancer if it runs, else on the first worker
#[derive(Debug, Args)]
#[command(after_help = "The answer's body goes to standard output. Code 1 if the status is 400 or more.\n\n\
                  Examples:\n  admin invoke --cluster my-cluster --handler hello --data '{\"name\": \"Alice\"}'\n  \
                  admin invoke --cluster my-cluster --handler hello --data @event.json --timing")]
pub struct Invoke {
    #[command(flatten)]
    pub cluster: ClusterArg,
    #[command(flatten)]
    pub handler: HandlerArg,
    /// The event: JSON, @FILE, or - for standard input [default: null]
    #[arg(long, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub data: Option<String>,
    /// The request id, to find its lines with admin logs
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// Tell status, request id, how it started and how long it took, on standard error
    #[arg(long)]
    pub timing: bool,
}

/// Shows what handlers print, and what workers say of them
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  admin logs --cluster my-cluster --handler hello --follow\n  \
                  admin logs --cluster my-cluster --request-id 6a1f")]
pub struct Logs {
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// Only lines of this handler
    #[arg(long, value_name = "NAME", value_parser = |text: &str| HandlerName::parse(text))]
    pub handler: Option<HandlerName>,
    /// Only lines of this request
    #[arg(long, value_name = "ID")]
    pub request_id: Option<String>,
    /// Go on with what is written from now on
    #[arg(short, long)]
    pub follow: bool,
}

/// Prints a script that completes commands and flags, for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  admin completion bash > /etc/bash_completion.d/admin")]
pub struct Completion {
    /// The shell
    pub shell: clap_complete::Shell,
}
