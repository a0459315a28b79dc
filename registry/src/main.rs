//! `openlambda-registry --config FILE`: the registry's server as a process.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Parser;
use openlambda_config::registry::{Keys, Secret, ServerConfig};
use openlambda_registry::bucket::Bucket;
use openlambda_registry::server;
use openlambda_telemetry::{Drain, Signals, logging};

/// Requests that run get so long at the end.
const GRACE: Duration = Duration::from_secs(30);
/// The keys, if the configuration has none.
const VARIABLES: (&str, &str) = ("OPENLAMBDA_REGISTRY_ACCESS_KEY", "OPENLAMBDA_REGISTRY_SECRET_KEY");

/// The registry of OpenLambda: an S3 server over a directory.
#[derive(Debug, Parser)]
#[command(name = "openlambda-registry", version)]
struct Arguments {
    /// The configuration (config/registry.json of a cluster)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed there is nobody to tell.
            let _ = writeln!(io::stderr(), "openlambda-registry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    logging::init()?;
    let config = ServerConfig::load(&arguments.config)?;
    let keys = keys(&config)?;
    let bucket = Bucket::open(&config.directory)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(serve(&config, bucket, &keys))
}

/// Those of the file, else those of the environment. There is no server without.
fn keys(config: &ServerConfig) -> anyhow::Result<Keys> {
    if let Some(keys) = &config.keys {
        return Ok(keys.clone());
    }
    let (access, secret) = (std::env::var(VARIABLES.0), std::env::var(VARIABLES.1));
    let (Ok(access), Ok(secret)) = (access, secret) else {
        bail!(
            "there are no keys: set access_key and secret_key in the file, or {} and {}",
            VARIABLES.0,
            VARIABLES.1
        )
    };
    let keys = Keys { access, secret: Secret::new(secret) };
    match keys.weaknesses().first() {
        None => Ok(keys),
        Some((name, message)) => bail!("{name} of the environment {message}"),
    }
}

async fn serve(config: &ServerConfig, bucket: Bucket, keys: &Keys) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("take over SIGTERM and SIGINT")?;
    let listener = tokio::net::TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}: choose another port, or end what uses it", config.listen)
    })?;
    let drain = Drain::new();
    let serving = tokio::spawn(server::serve(listener, server::service(bucket, keys), drain.clone()));
    tracing::info!(address = %config.listen, directory = %config.directory.display(), "ready");
    let signal = signals.next().await;
    tracing::info!(signal, requests = drain.in_flight(), "stopping");
    drain.begin();
    // If it panicked it has said so itself.
    let _ = serving.await;
    if let Err(error) = drain.finish(GRACE).await {
        tracing::warn!(%error, "stopped with requests unfinished");
    }
    Ok(())
}
