//! `openlambda-lard --config FILE`, `openlambda-lard kubernetes --cluster NAME`: the balancer as a process.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use openlambda_config::{BalancerConfig, durations};
use openlambda_lard::kubernetes::{self, Scope};
use openlambda_lard::registry::{Handlers, RegistryApi};
use openlambda_lard::{Gateway, Settings, admin, poll, registry, reload, server};
use openlambda_telemetry::{AdminServer, Drain, Readiness, Registry, Signals, logging};

/// A call makes and frees some dozens of small things, and this does that with less CPU time than the C library.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The locality-aware balancer of OpenLambda.
///
/// Passes /run/<handler> and /runLambda/<handler> on to the workers of its configuration.
#[derive(Debug, Parser)]
#[command(
    name = "openlambda-lard",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    /// The configuration (config/load_balancer.json of a cluster)
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Passes calls on to the agents of a LambdaCluster.
    Kubernetes(Kubernetes),
}

#[derive(Debug, Args)]
struct Kubernetes {
    /// The LambdaCluster
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// The configuration, as the operator writes it
    #[arg(long, value_name = "FILE", default_value = "/etc/openlambda/load_balancer.json")]
    config: PathBuf,
    /// The namespace of the LambdaCluster
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: String,
    /// After SIGTERM it serves for so long, not ready any more, until everybody who sends calls has learnt it
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = |text: &str| durations::parse(text))]
    drain_delay: Duration,
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
    let (file, kubernetes) = match (&arguments.command, &arguments.config) {
        (Some(Command::Kubernetes(kubernetes)), _) => (&kubernetes.config, Some(kubernetes)),
        (None, Some(file)) => (file, None),
        (None, None) => bail!("--config is missing"),
    };
    let config = BalancerConfig::load(file)?;
    if kubernetes.is_some() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.install_default().map_err(|_| anyhow!("a TLS provider is already installed"))?;
    }
    // One thread for all calls: no lock is contended and no task moves. The admin port has its own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(work(&config, kubernetes))
}

async fn work(config: &BalancerConfig, kubernetes: Option<&Kubernetes>) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen().context("take over SIGTERM and SIGINT")?;
    let mut settings = Settings::from(config);
    if kubernetes.is_some() {
        settings = settings.in_kubernetes();
    }
    let drain_timeout = settings.drain_timeout;
    let registry = Registry::new("lard")?;
    let gateway = Gateway::new(config, settings, &registry)?;
    let cluster = match kubernetes {
        Some(options) => Some(Cluster::of(options).await?),
        None => None,
    };
    if let Some(registry_api) = &config.registry_api {
        let handlers =
            cluster.as_ref().map(|Cluster { client, scope }| Handlers::new(client.clone(), scope.clone()));
        let opened = RegistryApi::open(registry_api, handlers);
        // It is the first.
        let _ = gateway.registry.set(opened.with_context(|| config.file.display().to_string())?);
        tokio::spawn(registry::follow(Arc::clone(&gateway)));
    }
    let listener = server::bind(&config.host, config.port, "Port").await?;
    let address = listener.local_addr()?;
    let admin_listener = server::bind(&config.host, config.admin_port, "AdminPort").await?.into_std()?;
    let readiness = Readiness::new();
    let starting = readiness.block("start");
    let admin = AdminServer::start(admin_listener, admin::router(registry, readiness.clone(), &gateway))?;
    let drain = Drain::new();
    if let Some(cluster) = cluster {
        cluster.follow(&gateway, &readiness);
    }
    tokio::spawn(reload::follow(config.clone(), Arc::clone(&gateway), kubernetes.is_none()));
    tokio::spawn(poll::follow(Arc::clone(&gateway)));
    let serving = tokio::spawn(server::serve(listener, Arc::clone(&gateway), drain.clone()));
    drop(starting);
    tracing::info!(%address, admin = %admin.address(), servers = config.servers.len(), policy = ?config.policy, "ready");

    let signal = signals.next().await;
    let _blocker = readiness.block("end of the process");
    if let Some(delay) = kubernetes.map(|kubernetes| kubernetes.drain_delay).filter(|delay| !delay.is_zero())
    {
        tracing::info!(signal, ?delay, "stopping soon: not ready any more, still serving");
        gateway.leaving.store(true, Ordering::Relaxed);
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            _ = signals.next() => {}
        }
    }
    tracing::info!(
        signal,
        calls = drain.in_flight(),
        "stopping: no new connections, calls in flight may end"
    );
    drain.begin();
    // The accepting task ends with the drain; if it panicked it has said so itself.
    let _ = serving.await;
    match drain.finish(drain_timeout).await {
        Ok(()) => tracing::info!("stopped"),
        Err(error) => tracing::warn!(%error, "stopped with calls unfinished"),
    }
    Ok(ExitCode::SUCCESS)
}

/// The LambdaCluster, and the way to its API server.
struct Cluster {
    client: kube::Client,
    scope: Scope,
}

impl Cluster {
    /// As a pod, or by the kubeconfig. Nothing is asked yet.
    async fn of(options: &Kubernetes) -> anyhow::Result<Self> {
        let client = kube::Client::try_default().await.context("no way to reach a Kubernetes API server")?;
        let scope = Scope { cluster: options.cluster.clone(), namespace: options.namespace.clone() };
        Ok(Self { client, scope })
    }

    /// Begins to follow what the API server says.
    fn follow(self, gateway: &Arc<Gateway>, readiness: &Readiness) {
        let Self { client, scope } = self;
        let gateway = Arc::clone(gateway);
        let agents =
            kubernetes::follow_agents(client.clone(), &scope, Arc::clone(&gateway), readiness.clone());
        tokio::spawn(agents);
        tokio::spawn(kubernetes::follow_limits(client, scope, gateway));
    }
}
