//! Dereference and validate: which cluster serves a handler, and what its agents have of it.

use std::collections::HashMap;

use k8s_openapi::jiff::Timestamp;
use kube::{Resource as _, ResourceExt as _};
use openlambda_api::HandlerState;
use openlambda_api::conditions::{ConditionReason, Verdict};
use openlambda_api::labels::{self, Component};
use openlambda_policy::belonging::{self, Choice};

use super::agents::{Agents, Known};
use super::registry;
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
    created: Option<Timestamp>,
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
            let created = object.creation_timestamp().map(|time| time.0);
            world.clusters.insert(key, Cluster { created, url, ..Cluster::default() });
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

    /// What the agents of a cluster say of its registry.
    pub fn registry(&self, key: &Key) -> Verdict {
        let agents = self.clusters.get(key).into_iter().flat_map(|cluster| &cluster.agents);
        registry::verdict(
            agents.filter_map(|known| Some((known.pod.node.as_str(), known.registry.as_ref()?))),
        )
    }

    /// The cluster that serves a handler, with what there is of it.
    pub fn look(&self, handler: &HandlerView) -> Result<Found<'a>, Nowhere> {
        let namespace = handler.namespace().unwrap_or_default();
        let there = self.clusters.iter().filter(|(key, _)| key.0 == namespace);
        let there: Vec<_> = there
            .map(|(key, cluster)| belonging::Cluster { name: &key.1, created: cluster.created })
            .collect();
        let created = handler.creation_timestamp().map(|time| time.0);
        let name = choose(handler.spec.cluster.as_deref(), created, &there, &namespace)?;
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

/// The cluster by [`belonging`], as the agents decide it too; or what to tell the user.
fn choose<T: Ord + Copy>(
    wanted: Option<&str>,
    created: T,
    clusters: &[belonging::Cluster<'_, T>],
    namespace: &str,
) -> Result<String, Nowhere> {
    let mut there: Vec<_> = clusters.iter().map(|cluster| cluster.name).collect();
    there.sort_unstable();
    let there = there.join(", ");
    let (reason, message) = match belonging::choose(wanted, created, clusters) {
        Choice::Served(name) => return Ok(name.to_owned()),
        Choice::Missing(wanted) if there.is_empty() => (
            ConditionReason::ClusterNotFound,
            format!("namespace {namespace} has no LambdaCluster {wanted}: create it"),
        ),
        Choice::Missing(wanted) => (
            ConditionReason::ClusterNotFound,
            format!("namespace {namespace} has no LambdaCluster {wanted}; it has {there}"),
        ),
        Choice::None => (
            ConditionReason::ClusterNotFound,
            format!("namespace {namespace} has no LambdaCluster: create one"),
        ),
        Choice::Ambiguous => (
            ConditionReason::ClusterAmbiguous,
            format!("namespace {namespace} has the LambdaClusters {there}: set spec.cluster"),
        ),
    };
    Err(Nowhere { reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_or_what_to_do() {
        let choose = |wanted: Option<&str>, there: &[(&str, u8)]| {
            let there: Vec<_> =
                there.iter().map(|&(name, created)| belonging::Cluster { name, created }).collect();
            super::choose(wanted, 5, &there, "n")
        };
        assert_eq!(choose(Some("b"), &[("a", 1), ("b", 2)]), Ok("b".into()));
        assert_eq!(choose(None, &[("a", 1)]), Ok("a".into()));
        assert_eq!(choose(None, &[("a", 1), ("late", 9)]), Ok("a".into()));
        let error = |wanted, there: &[_]| choose(wanted, there).unwrap_err();
        let none = error(None, &[]);
        assert_eq!(none.reason, ConditionReason::ClusterNotFound);
        assert!(none.message.contains("create one"));
        let many = error(None, &[("b", 1), ("a", 2)]);
        assert_eq!(many.reason, ConditionReason::ClusterAmbiguous);
        assert_eq!(many.message, "namespace n has the LambdaClusters a, b: set spec.cluster");
        assert!(error(Some("c"), &[("a", 1)]).message.contains("it has a"));
    }
}
