//! What the handler part watches: handlers, clusters, the agents' pods, and how many of agents and lard there are.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment};
use k8s_openapi::api::core::v1::Pod;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use openlambda_api::LambdaCluster;
use openlambda_api::labels::{self, Component};
use openlambda_api::revision;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::agents::AgentPod;
use super::view::HandlerView;
use crate::cluster::children_selector;
use crate::failure;
use crate::scope::Scope;

/// So many objects are asked for at a time.
const PAGE: u32 = 500;

/// The watches; they end with this.
pub struct Watches {
    handlers: Store<DeserializeGuard<HandlerView>>,
    clusters: Store<DeserializeGuard<LambdaCluster>>,
    pods: Store<Pod>,
    daemon_sets: Store<DaemonSet>,
    deployments: Store<Deployment>,
    revisions: Store<PartialObjectMeta<ControllerRevision>>,
    changed: Arc<Notify>,
    _tasks: JoinSet<()>,
}

impl Watches {
    /// Starts them.
    pub fn start(client: &Client, scope: &Scope) -> Self {
        let mut start = Start { client, scope, changed: Arc::default(), tasks: JoinSet::new() };
        let agents = format!("{},{}={}", labels::CLUSTER, labels::COMPONENT, Component::Agent.as_str());
        let children = children_selector();
        Self {
            handlers: start.watch(""),
            clusters: start.watch(""),
            pods: start.watch(&agents),
            daemon_sets: start.watch(&children),
            deployments: start.watch(&children),
            revisions: start.watch(revision::HANDLER),
            changed: start.changed,
            _tasks: start.tasks,
        }
    }

    /// Resolves when all have been listed once.
    pub fn synced(&self) -> impl Future<Output = ()> + use<> {
        let (handlers, clusters, pods, daemon_sets, deployments, revisions) = (
            self.handlers.clone(),
            self.clusters.clone(),
            self.pods.clone(),
            self.daemon_sets.clone(),
            self.deployments.clone(),
            self.revisions.clone(),
        );
        async move {
            // A watch ends only with this process; then nobody waits for it any more.
            let _ = handlers.wait_until_ready().await;
            let _ = clusters.wait_until_ready().await;
            let _ = pods.wait_until_ready().await;
            let _ = daemon_sets.wait_until_ready().await;
            let _ = deployments.wait_until_ready().await;
            let _ = revisions.wait_until_ready().await;
        }
    }

    /// Resolves at the next change of anything.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The handlers.
    pub fn handlers(&self) -> Vec<Arc<DeserializeGuard<HandlerView>>> {
        self.handlers.state()
    }

    /// The clusters.
    pub fn clusters(&self) -> Vec<Arc<DeserializeGuard<LambdaCluster>>> {
        self.clusters.state()
    }

    /// The agents that can be asked.
    pub fn agent_pods(&self) -> Vec<AgentPod> {
        self.pods.state().iter().filter_map(|pod| AgentPod::of(pod)).collect()
    }

    /// The agents' sets.
    pub fn daemon_sets(&self) -> Vec<Arc<DaemonSet>> {
        self.daemon_sets.state()
    }

    /// lard's Deployments.
    pub fn deployments(&self) -> Vec<Arc<Deployment>> {
        self.deployments.state()
    }

    /// The revisions of handlers that are kept.
    pub fn revisions(&self) -> Vec<Arc<PartialObjectMeta<ControllerRevision>>> {
        self.revisions.state()
    }
}

struct Start<'a> {
    client: &'a Client,
    scope: &'a Scope,
    changed: Arc<Notify>,
    tasks: JoinSet<()>,
}

impl Start<'_> {
    /// Keeps a store of what the selector selects.
    fn watch<K>(&mut self, selector: &str) -> Store<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
        K::DynamicType: Default + Eq + Hash + Clone,
    {
        let api: Api<K> = self.scope.api(self.client);
        let config = watcher::Config::default().labels(selector).page_size(PAGE);
        let (store, writer) = reflector::store();
        let stream = watcher(api, config)
            .backoff(patience())
            .modify(|object: &mut K| object.managed_fields_mut().clear())
            .reflect(writer);
        let changed = Arc::clone(&self.changed);
        self.tasks.spawn(async move {
            let mut stream = std::pin::pin!(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(_) => changed.notify_one(),
                    Err(error) => tracing::warn!(error = failure::chain(&error), kind = %K::kind(&K::DynamicType::default()), "a watch broke off"),
                }
            }
        });
        store
    }
}

/// Between two tries of a watch: soon at first, and never so long that people wait for it once the API server is back.
fn patience() -> watcher::ExponentialBackoff {
    let (first, last) = (Duration::from_millis(200), Duration::from_secs(5));
    let builder = backon::ExponentialBuilder::default().with_min_delay(first).with_max_delay(last);
    builder.with_factor(2.0).with_jitter().without_max_times().into()
}
