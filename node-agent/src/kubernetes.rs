//! Handlers from the Kubernetes API: one watch of the namespace's Handlers, one of its LambdaClusters' metadata, one of
//! its ConfigMaps' metadata as soon as a handler names one, and a look at the Secrets that handlers name now and then.
//!
//! All of it runs on a thread of its own, beside the calls: nothing on their way talks to the API server, and what was
//! deployed goes on to serve while that is away.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use openlambda_api::LambdaCluster;
use openlambda_store::Store;
use openlambda_telemetry::{Blocker, Readiness};
use serde::de::DeserializeOwned;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};

use crate::agent::Agent;
use crate::functions::Functions;
use crate::pool::Pool;
use crate::registry::{self, Shelf};
use crate::trial::{self, Trial};

mod clusters;
mod deploy;
mod fetch;
mod files;
mod make;
mod objects;
mod order;
mod probe;
mod report;
mod spec;
#[cfg(test)]
mod tests;

use clusters::Clusters;
use deploy::{Deployer, News};
use make::Maker;
use objects::Objects;
pub use report::Report;
use spec::{HandlerView, Reference};

/// All agents that start at once do not ask at once.
const JITTER: Duration = Duration::from_millis(300);
/// Time between two looks at the Secrets that handlers name.
const LOOK_AT_SECRETS: Duration = Duration::from_secs(60);
/// After the first list, so long at most until the worker is ready: what is not made by then, calls wait for.
const FIRST_REVISIONS: Duration = Duration::from_secs(10);

/// Which handlers.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The name of the `LambdaCluster`.
    pub cluster: String,
    /// The namespace of both.
    pub namespace: String,
}

/// The thread that watches; it ends with this.
#[derive(Debug)]
pub struct Watching {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Watching {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so itself.
            let _ = thread.join();
        }
    }
}

/// How to reach the API server: from inside the cluster, or by the user's kubeconfig.
pub async fn client_config() -> anyhow::Result<kube::Config> {
    kube::Config::infer().await.context("no way to reach a Kubernetes API server")
}

/// Starts to watch. The worker becomes ready when all handlers that there are have been seen to. Must be called from
/// the runtime that serves calls.
pub fn start(
    agent: &Arc<Agent>,
    config: kube::Config,
    scope: Scope,
    report: Arc<Report>,
) -> anyhow::Result<Watching> {
    let blockers = Blockers::new(&agent.readiness);
    let trial = trial::in_sandbox(Arc::clone(agent), Handle::current());
    let (functions, pool) = (Arc::clone(&agent.functions), Arc::clone(&agent.pool));
    let shelf = agent.config.registry.as_ref().map(|registry| {
        let store = Store::open(&registry.place)?;
        let shelf = registry::shelf(agent, store.clone(), registry.cache.bytes())?;
        Ok::<_, anyhow::Error>((store, shelf))
    });
    let (store, shelf) = shelf.transpose()?.unzip();
    let (stop, stopped) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let work = async move {
        if let Some(store) = store {
            tokio::spawn(probe::watch(store, Arc::clone(&report)));
        }
        match Client::try_from(config) {
            Ok(client) => {
                let objects = Objects::new(&client, &scope.namespace);
                tokio::time::sleep(jitter()).await;
                watch(client, scope, Parts { functions, pool, report, objects, trial, shelf }, blockers)
                    .await;
            }
            Err(error) => {
                tracing::error!(%error, "no client of the API server: no handler is ever served");
                std::future::pending::<()>().await;
            }
        }
    };
    let thread = std::thread::Builder::new().name("handlers".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = work => {}
                _ = stopped => {}
            }
        });
        runtime.shutdown_background();
    });
    Ok(Watching { stop: Some(stop), thread: Some(thread.context("start a thread")?) })
}

fn jitter() -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() % 1000;
    JITTER.mul_f64(random as f64 / 1000.0)
}

/// What keeps the worker from being ready.
pub struct Blockers {
    list: Option<Blocker>,
    revisions: Option<Blocker>,
    deadline: Option<Instant>,
}

impl Blockers {
    /// Nothing is known yet.
    pub fn new(readiness: &Readiness) -> Self {
        let (list, revisions) = (readiness.block("list of Handlers"), readiness.block("first revisions"));
        Self { list: Some(list), revisions: Some(revisions), deadline: None }
    }

    fn listed(&mut self) {
        if self.list.take().is_some() {
            self.deadline = Some(Instant::now() + FIRST_REVISIONS);
        }
    }

    fn look(&mut self, deployer: &Deployer) {
        if self.deadline.is_some_and(|deadline| deployer.is_settled() || deadline <= Instant::now()) {
            self.revisions = None;
            self.deadline = None;
        }
    }
}

/// What the watch works with.
pub struct Parts {
    functions: Arc<Functions>,
    pool: Arc<Pool>,
    report: Arc<Report>,
    objects: Objects,
    trial: Trial,
    shelf: Option<Shelf>,
}

type Events<K> = BoxStream<'static, watcher::Result<Event<K>>>;

/// Watches for ever.
async fn watch(client: Client, scope: Scope, parts: Parts, mut blockers: Blockers) {
    let mut clusters =
        events(Api::<PartialObjectMeta<LambdaCluster>>::namespaced(client.clone(), &scope.namespace));
    let api: Api<DeserializeGuard<HandlerView>> = Api::namespaced(client, &scope.namespace);
    let (mut handlers, mut config_maps) = (None, None);
    let maker = Arc::new(Maker::new(parts.functions, parts.objects, parts.trial, parts.shelf));
    let (news, mut heard) = mpsc::unbounded_channel();
    let known = Clusters::new(scope.cluster);
    let mut deployer = Deployer::new(known, Arc::clone(&maker), parts.pool, parts.report, news.clone());
    let mut looks = tokio::time::interval(LOOK_AT_SECRETS);
    loop {
        tokio::select! {
            Some(event) = clusters.next() => if others(&mut deployer, event) {
                // Which handlers are ours may be another question now: the list is gone through anew.
                handlers = Some(events(api.clone()));
            },
            Some(event) = next(&mut handlers) => handle(&mut deployer, event, &mut blockers),
            Some(news) = heard.recv() => deployer.hear(news),
            Some(event) = next(&mut config_maps) => note(&mut deployer, event),
            _ = looks.tick() => look_at_secrets(&mut deployer, &maker, &news),
            () = until(blockers.deadline) => {}
        }
        blockers.look(&deployer);
        if config_maps.is_none() && deployer.names_config_maps() {
            config_maps = Some(events(maker.objects().metadata()));
        }
    }
}

/// A watch that begins with a list and is taken up again whenever it breaks off.
fn events<K>(api: Api<K>) -> Events<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    watcher(api, watcher::Config::default().any_semantic()).backoff(patience()).boxed()
}

async fn next<K>(stream: &mut Option<Events<K>>) -> Option<watcher::Result<Event<K>>> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

fn handle(
    deployer: &mut Deployer,
    event: watcher::Result<Event<DeserializeGuard<HandlerView>>>,
    blockers: &mut Blockers,
) {
    match event {
        Ok(Event::Init) => deployer.begin_list(),
        Ok(Event::Apply(object) | Event::InitApply(object)) => deployer.apply(object),
        Ok(Event::Delete(object)) => deployer.delete(&object),
        Ok(Event::InitDone) => {
            deployer.end_list();
            blockers.listed();
        }
        Err(error) => tracing::warn!(%error, "cannot watch Handlers; those that are here go on to serve"),
    }
}

/// Whether other clusters are known now than before.
fn others(deployer: &mut Deployer, event: watcher::Result<Event<PartialObjectMeta<LambdaCluster>>>) -> bool {
    match event {
        Ok(event) => deployer.clusters(event),
        Err(error) => {
            tracing::warn!(%error, "cannot watch LambdaClusters; those that are known count");
            false
        }
    }
}

fn note(deployer: &mut Deployer, event: watcher::Result<Event<PartialObjectMeta<ConfigMap>>>) {
    match event {
        Ok(Event::Apply(object) | Event::InitApply(object)) => {
            deployer.seen(&Reference::ConfigMap(object.name_any()), object.resource_version());
        }
        Ok(Event::Delete(object)) => deployer.seen(&Reference::ConfigMap(object.name_any()), None),
        Ok(Event::Init | Event::InitDone) => {}
        Err(error) => tracing::warn!(%error, "cannot watch ConfigMaps; what handlers read of them stays"),
    }
}

/// Asks for the versions of all Secrets that handlers name, one after the other, beside the watch.
fn look_at_secrets(deployer: &mut Deployer, maker: &Arc<Maker>, news: &mpsc::UnboundedSender<News>) {
    let mut secrets = deployer.references();
    secrets.retain(|reference| matches!(reference, Reference::Secret(_)));
    if secrets.is_empty() {
        return;
    }
    let (maker, news) = (Arc::clone(maker), news.clone());
    tokio::spawn(async move {
        for reference in secrets {
            match maker.objects().version(&reference).await {
                Ok(version) => drop(news.send(News::Seen(reference, version))),
                Err(error) => return tracing::warn!(%error, "cannot look whether Secrets have changed"),
            }
        }
    });
}

/// Between two tries of a watch: soon at first, and never so long that people wait for it once the API server is back.
fn patience() -> watcher::ExponentialBackoff {
    let (first, last) = (Duration::from_millis(200), Duration::from_secs(5));
    let builder = backon::ExponentialBuilder::default().with_min_delay(first).with_max_delay(last);
    builder.with_factor(2.0).with_jitter().without_max_times().into()
}
