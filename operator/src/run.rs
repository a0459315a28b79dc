//! `openlambda-operator run`: wiring. Only here are things made; everything else is handed what it needs.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures::{Stream, StreamExt as _};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::ListParams;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::controller::{self, Controller};
use kube::runtime::watcher;
use kube::{Client, Resource};
use openlambda_api::{Handler, LambdaCluster};
use openlambda_telemetry::{AdminServer, Readiness, Registry, Signals, admin, logging};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::args::Args;
use crate::cluster;
use crate::context::Context;
use crate::events::Events;
use crate::failure;
use crate::handler::{Observer, Watches};
use crate::lease::Claim;
use crate::metrics::Metrics;
use crate::scope::Scope;

/// Events of one object that come together make one reconciliation.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Clusters that are reconciled at a time.
const CONCURRENCY: u16 = 2;
/// What the handler part saw reaches a cluster's status this often at most.
const COUNT_PAUSE: Duration = Duration::from_secs(1);
/// Time between two looks for the definitions.
const DEFINITIONS_PAUSE: Duration = Duration::from_secs(2);

/// Runs until SIGTERM or SIGINT, or until the lease is lost.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    logging::init()?;
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("a TLS provider is already installed"))?;
    // One thread: the work is waiting. The admin port has its own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    runtime.block_on(work(args))
}

async fn work(args: &Args) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen().context("take over SIGTERM and SIGINT")?;
    let stop = CancellationToken::new();
    tokio::spawn({
        let stop = stop.clone();
        async move {
            let signal = signals.next().await;
            tracing::info!(signal, "stopping");
            stop.cancel();
        }
    });
    let registry = Registry::new("operator")?;
    let metrics = Metrics::new(&registry)?;
    let readiness = Readiness::new();
    let mut blocker = Some(readiness.block("API server"));
    let listener = TcpListener::bind(args.admin_address)
        .with_context(|| format!("listen on {} (--admin-address)", args.admin_address))?;
    let _admin = AdminServer::start(listener, admin::router(registry, readiness))?;

    let client = Client::try_default().await.context("no way to reach a Kubernetes API server")?;
    let mut claim = Claim::new(&client, args.namespace(), &args.lease, &args.identity);
    tracing::info!(scope = ?args.scope(), identity = args.identity, "waiting for the lease {}", args.lease);
    // One that waits is ready: it can take over.
    let acquired = claim.acquire(&stop, || drop(blocker.take())).await;
    drop(blocker.take());
    if !acquired {
        return Ok(ExitCode::SUCCESS);
    }
    metrics.leader.set(1);
    let kept = lead(args, &client, metrics, &mut claim, &stop).await;
    if kept {
        claim.release().await;
        return Ok(ExitCode::SUCCESS);
    }
    // Another may act already: nothing of this process may go on.
    tracing::error!("the lease {} is lost", args.lease);
    Ok(ExitCode::FAILURE)
}

/// Acts as long as the lease is held; whether it was held to the end.
async fn lead(
    args: &Args,
    client: &Client,
    metrics: Metrics,
    claim: &mut Claim,
    stop: &CancellationToken,
) -> bool {
    tracing::info!("leading");
    let acting = stop.child_token();
    let act = act(args, client, metrics, acting.clone());
    let hold = async {
        let kept = claim.hold(stop).await;
        acting.cancel();
        kept
    };
    let ((), kept) = tokio::join!(act, hold);
    kept
}

async fn act(args: &Args, client: &Client, metrics: Metrics, stop: CancellationToken) {
    let scope = args.scope();
    if !definitions(client, &scope, &stop).await {
        return;
    }
    let events = Events::start(client.clone(), &args.identity, metrics.clone());
    let context =
        Arc::new(Context::new(client.clone(), args.settings(), metrics, events, args.writes_per_second));
    let observer = Observer::new(Arc::clone(&context), Watches::start(client, &scope));
    let clusters = clusters(client, &scope, context, &stop);
    tokio::join!(observer.run(stop.clone()), clusters);
}

/// Waits until both kinds are served; false when it is time to stop.
async fn definitions(client: &Client, scope: &Scope, stop: &CancellationToken) -> bool {
    let one = ListParams::default().limit(1);
    loop {
        let clusters = scope.api::<PartialObjectMeta<LambdaCluster>>(client).list_metadata(&one).await;
        let handlers = scope.api::<PartialObjectMeta<Handler>>(client).list_metadata(&one).await;
        match clusters.map(drop).and(handlers.map(drop)) {
            Ok(()) => return true,
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::error!(
                    "the custom resource definitions are missing: install the chart openlambda-crds"
                );
            }
            Err(error) => {
                tracing::error!(error = failure::text(&error), "the objects to look after cannot be listed")
            }
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(DEFINITIONS_PAUSE) => {}
        }
    }
}

/// The cluster part, until it is told to stop.
async fn clusters(client: &Client, scope: &Scope, context: Arc<Context>, stop: &CancellationToken) {
    let config = controller::Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY);
    let root = scope.api::<DeserializeGuard<LambdaCluster>>(client);
    let mut controller = Controller::new(root, watcher::Config::default())
        .with_config(config)
        .reconcile_all_on(counted(&context))
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    controller = owns::<DaemonSet>(controller, client, scope);
    controller = owns::<Deployment>(controller, client, scope);
    controller = owns::<StatefulSet>(controller, client, scope);
    controller = owns::<Service>(controller, client, scope);
    controller = owns::<Ingress>(controller, client, scope);
    controller = owns::<ConfigMap>(controller, client, scope);
    controller = owns::<ServiceAccount>(controller, client, scope);
    controller = owns::<Role>(controller, client, scope);
    controller = owns::<RoleBinding>(controller, client, scope);
    controller = owns::<PodDisruptionBudget>(controller, client, scope);
    controller = owns::<NetworkPolicy>(controller, client, scope);
    controller
        .run(cluster::reconcile, cluster::error_policy, context)
        .for_each(|result| async move {
            if let Err(error) = result {
                tracing::debug!(%error, "clusters");
            }
        })
        .await;
}

type Clusters = Controller<DeserializeGuard<LambdaCluster>>;

/// Looks at the cluster again when a child of a kind changes. Only metadata is kept of it.
fn owns<K>(controller: Clusters, client: &Client, scope: &Scope) -> Clusters
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let config = watcher::Config::default().labels(&cluster::children_selector());
    controller.owns(scope.api::<PartialObjectMeta<K>>(client), config)
}

/// An item whenever the handler part has seen something else.
fn counted(context: &Context) -> impl Stream<Item = ()> + Send + 'static {
    futures::stream::unfold(context.seen.watch(), |mut counts| async {
        counts.changed().await.ok()?;
        tokio::time::sleep(COUNT_PAUSE).await;
        counts.mark_unchanged();
        Some(((), counts))
    })
}
