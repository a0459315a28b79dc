//! `openlambda-lard --config FILE`: the balancer as a process.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use openlambda_config::BalancerConfig;
use openlambda_lard::{Gateway, Settings, admin, server};
use openlambda_telemetry::{AdminServer, Drain, Readiness, Registry, Signals, logging};

/// The locality-aware balancer of OpenLambda.
///
/// Passes /run/<handler> and /runLambda/<handler> on to the workers of its configuration.
#[derive(Debug, Parser)]
#[command(name = "openlambda-lard", version)]
struct Arguments {
    /// The configuration (config/load_balancer.json of a cluster)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // If standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "openlambda-lard: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    logging::init()?;
    let config = BalancerConfig::load(&arguments.config)?;
    // One thread for all calls: no lock is contended and no task moves. The admin port has its own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(work(&config))
}

async fn work(config: &BalancerConfig) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen().context("take over SIGTERM and SIGINT")?;
    let settings = Settings::from(config);
    let drain_timeout = settings.drain_timeout;
    let registry = Registry::new("lard")?;
    let gateway = Gateway::new(config, settings, &registry)?;
    let listener = server::bind(&config.host, config.port, "Port").await?;
    let address = listener.local_addr()?;
    let admin_listener = server::bind(&config.host, config.admin_port, "AdminPort").await?.into_std()?;
    let readiness = Readiness::new();
    let admin = AdminServer::start(admin_listener, admin::router(registry, readiness.clone(), &gateway))?;
    let drain = Drain::new();
    let serving = tokio::spawn(server::serve(listener, gateway, drain.clone()));
    tracing::info!(%address, admin = %admin.address(), servers = config.servers.len(), policy = ?config.policy, "ready");

    let signal = signals.next().await;
    tracing::info!(
        signal,
        calls = drain.in_flight(),
        "stopping: no new connections, calls in flight may end"
    );
    let _blocker = readiness.block("end of the process");
    drain.begin();
    // The accepting task ends with the drain; if it panicked it has said so itself.
    let _ = serving.await;
    match drain.finish(drain_timeout).await {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => tracing::warn!(%error, "stopped with calls unfinished"),
    }
    Ok(ExitCode::SUCCESS)
}
