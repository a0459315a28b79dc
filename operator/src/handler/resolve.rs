//! Dereference and validate: which cluster serves a handler, and what its agents have of it.

use std::collections::HashMap;

use kube::{Resource as _, ResourceExt as _};
use openlambda_api::HandlerState;
use openlambda_api::conditions::ConditionReason;
use openlambda_api::labels::{self, Component};

use super::agents::{Agents, Known};
use super::view::HandlerView;
use super::watch::Watches;
use crate::context::Key;

/// Clusters with their agents and balancers.
#[derive(Debug, Default)]
pub struct World<'a> {
    clusters: HashMap<Key, Cluster<'a>>,
}

#[derive(Debug, Default)]
struct Cluster<'a> {
    url: Option<String>,
    desired: i32,
    balancers: i32,
    agents: Vec<&'a Known>,
}

/// A handler's cluster.
#[derive(Debug)]
pub struct Found<'a> {
    /// Which.
    pub key: Key,
    /// Where it answers.
    pub url: Option<String>,
    /// Nodes that should have an agent.
    pub desired: i32,
    /// Whether a replica of lard is ready.
    pub balanced: bool,
    /// The agents that serve, each with what it has of the handler; by node.
    pub agents: Vec<(&'a str, Option<&'a HandlerState>)>,
}

/// No cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nowhere {
    /// Why.
    pub reason: ConditionReason,
    /// Why, and what to do.
    pub message: String,
}

impl<'a> World<'a> {
    /// From what is watched.
    pub fn new(watches: &Watches, agents: &'a Agents) -> Self {
        let mut world = Self::default();
        for object in watches.clusters() {
            let status = object.0.as_ref().ok().and_then(|cluster| cluster.status.as_ref());
            let url = status.and_then(|status| status.url.clone());
            let key = (object.namespace().unwrap_or_default(), object.name_any());
            world.clusters.insert(key, Cluster { url, ..Cluster::default() });
        }
        for set in watches.daemon_sets() {
            let desired = set.status.as_ref().map_or(0, |status| status.desired_number_scheduled);
            if let Some(cluster) = world.of(&*set, Component::Agent) {
                cluster.desired = desired;
            }
        }
        for deployment in watches.deployments() {
            let ready =
                deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or_default();
            if let Some(cluster) = world.of(&*deployment, Component::Lard) {
                cluster.balancers = ready;
            }
        }
        for known in agents.all().filter(|known| known.pod.ready) {
            if let Some(cluster) = world.clusters.get_mut(&known.pod.cluster) {
                cluster.agents.push(known);
            }
        }
        for cluster in world.clusters.values_mut() {
            cluster.agents.sort_by(|a, b| a.pod.node.cmp(&b.pod.node));
        }
        world
    }

    /// The cluster that an object is a part of.
    fn of<K: kube::Resource>(&mut self, object: &K, part: Component) -> Option<&mut Cluster<'a>> {
        let labels = object.labels();
        if labels.get(labels::COMPONENT).map(String::as_str) != Some(part.as_str()) {
            return None;
        }
        self.clusters.get_mut(&(object.namespace()?, labels.get(labels::CLUSTER)?.clone()))
    }

    /// All clusters.
    pub fn clusters(&self) -> impl Iterator<Item = &Key> {
        self.clusters.keys()
    }

    /// The cluster that serves a handler, with what there is of it.
    pub fn look(&self, handler: &HandlerView) -> Result<Found<'a>, Nowhere> {
        let namespace = handler.namespace().unwrap_or_default();
        let names = self.clusters.keys().filter(|key| key.0 == namespace).map(|key| key.1.as_str());
        let name = choose(handler.spec.cluster.as_deref(), names.collect(), &namespace)?;
        let key = (namespace, name);
        let (name, empty) = (handler.meta().name.clone().unwrap_or_default(), Cluster::default());
        let cluster = self.clusters.get(&key).unwrap_or(&empty);
        let state = |known: &'a Known| {
            (known.pod.node.as_str(), known.states.as_ref().and_then(|states| states.get(&name)))
        };
        Ok(Found {
            url: cluster.url.clone(),
            desired: cluster.desired,
            balanced: cluster.balancers > 0,
            agents: cluster.agents.iter().map(|known| state(known)).collect(),
            key,
        })
    }
}

/// The named cluster, or the only one.
fn choose(wanted: Option<&str>, mut there: Vec<&str>, namespace: &str) -> Result<String, Nowhere> {
    there.sort_unstable();
    let nowhere = |reason, message| Err(Nowhere { reason, message });
    match (wanted, there.as_slice()) {
        (Some(wanted), there) if there.contains(&wanted) => Ok(wanted.to_owned()),
        (Some(wanted), []) => nowhere(
            ConditionReason::ClusterNotFound,
            format!("namespace {namespace} has no LambdaCluster {wanted}: create it"),
        ),
        (Some(wanted), there) => nowhere(
            ConditionReason::ClusterNotFound,
            format!("namespace {namespace} has no LambdaCluster {wanted}; it has {}", there.join(", ")),
        ),
        (None, [only]) => Ok((*only).to_owned()),
        (None, []) => nowhere(
            ConditionReason::ClusterNotFound,
            format!("namespace {namespace} has no LambdaCluster: create one"),
        ),
        (None, many) => nowhere(
            ConditionReason::ClusterAmbiguous,
            format!("namespace {namespace} has the LambdaClusters {}: set spec.cluster", many.join(", ")),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_or_the_only_one() {
        assert_eq!(choose(Some("b"), vec!["a", "b"], "n"), Ok("b".into()));
        assert_eq!(choose(None, vec!["a"], "n"), Ok("a".into()));
        let error = |wanted, there| choose(wanted, there, "n").unwrap_err();
        let none = error(None, vec![]);
        assert_eq!(none.reason, ConditionReason::ClusterNotFound);
        assert!(none.message.contains("create one"));
        let many = error(None, vec!["b", "a"]);
        assert_eq!(many.reason, ConditionReason::ClusterAmbiguous);
        assert_eq!(many.message, "namespace n has the LambdaClusters a, b: set spec.cluster");
        assert!(error(Some("c"), vec!["a"]).message.contains("it has a"));
    }
}
