//! Third step: what is wanted, from the valid cluster and the operator's settings alone. No client, no clock.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use k8s_openapi::api::core::v1::{LocalObjectReference, ResourceRequirements, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::Resource as _;
use openlambda_api::LambdaCluster;
use openlambda_api::cluster::Resources;
use openlambda_api::labels::{self, Component, children};

use super::children::{Children, Prepared};
use super::validate::ValidCluster;
use crate::settings::Settings;

mod access;
mod agent;
mod config;
mod lard;
mod network;
mod pod;
mod registry;
#[cfg(test)]
mod tests;

/// Everything that the cluster is to consist of.
pub fn build(cluster: &ValidCluster, settings: &Settings) -> Children<Prepared> {
    let config = config::config(cluster);
    let embedded = cluster.embedded();
    let registry =
        embedded.map(|spec| registry::stateful_set(cluster, spec, settings, &config.registry_digest));
    let mut services = vec![network::agent_service(cluster), network::front_service(cluster)];
    services.extend(embedded.map(|_| registry::service(cluster)));
    Children {
        service_accounts: access::service_accounts(cluster),
        roles: access::roles(cluster),
        role_bindings: access::role_bindings(cluster),
        daemon_sets: vec![agent::daemon_set(cluster, settings, &config.worker_digest)],
        deployments: vec![lard::deployment(cluster, settings, &config.balancer_digest)],
        config_maps: vec![config.config_map],
        services,
        stateful_sets: registry.into_iter().collect(),
        disruption_budgets: vec![lard::disruption_budget(cluster)],
        network_policies: vec![network::agent_policy(cluster, settings)],
        ingresses: network::ingress(cluster).into_iter().collect(),
        state: PhantomData,
    }
}

impl ValidCluster {
    /// The metadata of a child.
    fn meta(&self, name: String, component: Component) -> ObjectMeta {
        ObjectMeta {
            name: Some(name),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels(component)),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    /// The Secret of the embedded registry.
    pub fn keys(&self, keys: BTreeMap<String, String>) -> Secret {
        Secret {
            metadata: self.meta(children::registry(&self.name), Component::Registry),
            string_data: Some(keys),
            ..Secret::default()
        }
    }

    /// The labels of children and pods. The version is not among them: it would restart every pod.
    fn labels(&self, component: Component) -> BTreeMap<String, String> {
        let mut all = self.selected(component);
        all.insert(labels::NAME.into(), labels::APP_NAME.into());
        all.insert(labels::INSTANCE.into(), self.name.clone());
        all.insert(labels::MANAGED_BY.into(), labels::MANAGED_BY_OPERATOR.into());
        all
    }

    /// The labels that select a part's pods; they can never change.
    fn selected(&self, component: Component) -> BTreeMap<String, String> {
        BTreeMap::from([
            (labels::CLUSTER.to_owned(), self.name.clone()),
            (labels::COMPONENT.to_owned(), component.as_str().to_owned()),
        ])
    }

    fn selector(&self, component: Component) -> LabelSelector {
        LabelSelector { match_labels: Some(self.selected(component)), ..LabelSelector::default() }
    }

    fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: LambdaCluster::api_version(&()).into_owned(),
            kind: LambdaCluster::kind(&()).into_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

fn pull_secrets(settings: &Settings) -> Option<Vec<LocalObjectReference>> {
    let secrets = settings.image_pull_secrets.iter();
    let list: Vec<_> = secrets.map(|name| LocalObjectReference { name: name.clone() }).collect();
    (!list.is_empty()).then_some(list)
}

fn requirements(resources: &Resources) -> Option<ResourceRequirements> {
    let some = |map: &BTreeMap<_, _>| (!map.is_empty()).then(|| map.clone());
    (*resources != Resources::default()).then(|| ResourceRequirements {
        requests: some(&resources.requests),
        limits: some(&resources.limits),
        claims: None,
    })
}
