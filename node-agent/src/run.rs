//! The worker from start to end: configuration, ports, sandboxes, calls, drain.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use axum::routing::get;
use axum::{Json, Router};
use openlambda_api::AgentState;
use openlambda_api::load::LOAD_PATH;
use openlambda_api::state::STATE_PATH;
use openlambda_config::{Base as ConfigBase, WorkerConfig};
use openlambda_sandbox::{Base, Host, HostConfig, Nursery};
use openlambda_telemetry::{AdminServer, Readiness, Registry as Series, Signals, admin, logging};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};

use crate::agent::Agent;
use crate::directory::Directory;
use crate::functions::Source;
use crate::kubernetes::{self, Report, Scope};
use crate::metrics::Metrics;
use crate::packages::Packages;
use crate::registry::{self, Registry};
use crate::server;

/// Connections that wait to be taken.
const BACKLOG: i32 = 4096;
/// Where the files of the Python runtime are, if not beside the binary.
const RUNTIME_DIR: &str = "OPENLAMBDA_RUNTIME_DIR";
/// The answers to calls that were cut off get so long to go out.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What may still run on blocking threads at the end: looks at directories, removal of bundles.
const LAST_GRACE: Duration = Duration::from_secs(1);

/// Where handlers come from.
pub enum Mode {
    /// The registry directory.
    Directory,
    /// The Kubernetes API.
    Kubernetes {
        /// Which of them.
        scope: Scope,
        /// The node that this is.
        node: String,
    },
}

/// Serves until a signal.
pub fn run(file: &Path, mode: Mode) -> anyhow::Result<()> {
    logging::init()?;
    let config = WorkerConfig::load(file)?;
    if let Mode::Kubernetes { scope, node } = &mode {
        tracing::info!(cluster = scope.cluster, namespace = scope.namespace, node, "starting");
    }
    if matches!(mode, Mode::Kubernetes { .. }) || config.registry.is_some() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.install_default().map_err(|_| anyhow!("a TLS provider is already installed"))?;
    }
    raise_open_files()?;
    let listener = bind(config.listen, "worker_port", file)?;
    let admin = bind(config.admin, "admin_port", file)?;
    // Single-threaded up to here: it changes what only a process without threads may change.
    let memory = memory(&config)?;
    let host = openlambda_sandbox::prepare(host_config(&config, memory)?)?;
    let runtime = runtime(config.data_threads).context("cannot start the runtime")?;
    let result = runtime.block_on(serve(config, memory, mode, host, listener, admin));
    runtime.shutdown_timeout(LAST_GRACE);
    result
}

fn bind(address: SocketAddr, key: &str, file: &Path) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "port {} ({key} in {}) is in use: stop what uses it, or set another {key}",
            address.port(),
            file.display()
        ),
        _ => anyhow!("cannot listen on {address} ({key} in {}): {error}", file.display()),
    })?;
    // The standard library asks for 128; asking again changes that.
    rustix::net::listen(&listener, BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Each instance holds a few descriptors, each connection one.
fn raise_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
        .context("cannot raise the limit of open files")
}

/// What all sandboxes may take together.
fn memory(config: &WorkerConfig) -> anyhow::Result<u64> {
    let there_is = openlambda_sandbox::memory_of_node()
        .context("cannot tell how much memory there is; set memory_pool")?;
    Ok(config.memory_pool.map_or(there_is / 5 * 4, |pool| pool.bytes()))
}

fn host_config(config: &WorkerConfig, memory: u64) -> anyhow::Result<HostConfig> {
    Ok(HostConfig {
        base: match &config.base {
            ConfigBase::Host => Base::Host,
            ConfigBase::Dir(directory) => Base::Dir(directory.clone()),
        },
        state_dir: config.worker_dir.clone(),
        runtime_dir: runtime_dir()?,
        packages_dir: Packages::visible(config),
        python: config.python.clone(),
        cgroup_pool: config.cgroup_pool as usize,
        memory,
    })
}

fn runtime_dir() -> anyhow::Result<PathBuf> {
    if let Some(directory) = std::env::var_os(RUNTIME_DIR) {
        return Ok(directory.into());
    }
    let binary =
        std::env::current_exe().context("cannot tell where this binary is; set OPENLAMBDA_RUNTIME_DIR")?;
    Ok(binary.with_file_name("runtime"))
}

fn runtime(threads: u32) -> io::Result<Runtime> {
    let mut builder = if threads == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if threads > 1 {
        builder.worker_threads(threads as usize);
    }
    builder.thread_name("data").enable_all().build()
}

async fn serve(
    config: WorkerConfig,
    memory: u64,
    mode: Mode,
    host: Host,
    listener: TcpListener,
    admin: TcpListener,
) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("cannot listen for signals")?;
    let series = Series::new("node-agent")?;
    let metrics = Arc::new(Metrics::new(&series)?);
    let readiness = Readiness::new();
    let starting = readiness.block("nursery");
    let (listen, drain_timeout) = (config.listen, config.drain_timeout);
    let source = match (&mode, &config.registry) {
        (Mode::Directory, None) => Source::Directory(Directory::new(config.registry_dir.clone())),
        (Mode::Directory, Some(registry)) => Source::Registry(Arc::new(Registry::new(registry.clone()))),
        (Mode::Kubernetes { .. }, _) => Source::Pushed,
    };
    let agent = Agent::new(config, memory, source, metrics, readiness.clone())
        .context("cannot prepare worker_dir")?;
    let report = Arc::new(Report::default());
    let router = router(series, &agent, &mode, &report);
    let _admin = AdminServer::start(admin, router)?;
    let nursery = host.start().await?;
    agent.packages.start(nursery.clone());
    agent.packages.preinstall(&agent.config.startup_packages);
    let _sampler = agent.start_upkeep().context("cannot start the load sampler")?;
    let watching = match mode {
        Mode::Directory => None,
        Mode::Kubernetes { scope, .. } => {
            Some(kubernetes::start(&agent, kubernetes::client_config().await?, scope, report)?)
        }
    };
    let looking = agent.functions.registry().map(|registry| registry::start(&agent, registry)).transpose()?;
    let zygotes = Arc::clone(&agent.zygotes);
    let supervisor =
        zygotes.supervise(nursery.clone(), readiness, Arc::clone(&agent.metrics), agent.drain.clone());
    let mut supervisor = tokio::spawn(supervisor);
    let listener = tokio::net::TcpListener::from_std(listener).context("cannot serve the worker's port")?;
    tokio::spawn(server::serve(Arc::clone(&agent), listener));
    drop(starting);
    tracing::info!(%listen, "serving");
    let result = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, in_flight = agent.drain.in_flight(), "draining");
            Ok(())
        }
        // Nothing can be served any more: whoever started the worker is to start another.
        ended = &mut supervisor => match ended {
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(())) | Err(_) => Err(anyhow!("the task that starts Zygotes has ended")),
        },
    };
    // No handler changes any more.
    drop((watching, looking));
    end(&agent, &nursery, drain_timeout, &mut signals).await;
    supervisor.abort();
    tracing::info!("ended");
    result
}

/// The paths of the admin port.
fn router(series: Series, agent: &Arc<Agent>, mode: &Mode, report: &Arc<Report>) -> Router {
    let (state, load, report) = (Arc::clone(agent), Arc::clone(agent), Arc::clone(report));
    let router = admin::router(series, agent.readiness.clone())
        .route("/debug/state", get(async move || Json(state.state())))
        .route(LOAD_PATH, get(async move || load.load.header().to_str().unwrap_or_default().to_owned()));
    match mode {
        Mode::Directory => match agent.functions.registry() {
            Some(registry) => router.merge(registry::router(Arc::clone(registry))),
            None => router,
        },
        Mode::Kubernetes { .. } => {
            let cache = Arc::clone(&agent.import_cache);
            let document = move || AgentState { excluded: cache.excluded(), ..report.state() };
            router.route(STATE_PATH, get(async move || Json(document())))
        }
    }
}

/// Lets running calls end, then removes everything. A second signal cuts the waiting short.
async fn end(agent: &Agent, nursery: &Nursery, deadline: Duration, signals: &mut Signals) {
    tokio::select! {
        finished = agent.drain.finish(deadline) => if let Err(error) = finished {
            tracing::warn!("{error}; they are cut off");
        },
        signal = signals.next() => tracing::warn!(signal, "asked again: running calls are cut off"),
    }
    nursery.shutdown().await;
    // Whose call was cut off is told so. A client that takes nothing is not waited for.
    let _ = agent.drain.finish(LAST_WORDS).await;
    agent.functions.remove_bundles();
}
