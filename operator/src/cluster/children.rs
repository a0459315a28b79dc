//! The children of a `LambdaCluster`, by kind. Destructured without `..` wherever all of them are meant, so that a new
//! kind cannot be forgotten.

use std::marker::PhantomData;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};

/// As the build step wants them.
#[derive(Clone, Copy, Debug)]
pub struct Prepared;
/// As the API server has them: found, or just written.
#[derive(Clone, Copy, Debug)]
pub struct Live;

/// The children of one cluster.
#[derive(Clone, Debug)]
pub struct Children<State> {
    /// Who agents and lard are.
    pub service_accounts: Vec<ServiceAccount>,
    /// What they may do.
    pub roles: Vec<Role>,
    /// Who may do it.
    pub role_bindings: Vec<RoleBinding>,
    /// Their configuration.
    pub config_maps: Vec<ConfigMap>,
    /// The headless one of the agents, and the one before lard.
    pub services: Vec<Service>,
    /// The agents.
    pub daemon_sets: Vec<DaemonSet>,
    /// lard.
    pub deployments: Vec<Deployment>,
    /// The embedded registry, if asked for.
    pub stateful_sets: Vec<StatefulSet>,
    /// How many replicas of lard may be away.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// Who reaches the agents.
    pub network_policies: Vec<NetworkPolicy>,
    /// The way in from outside, if asked for.
    pub ingresses: Vec<Ingress>,
    /// Whether they are wanted or there.
    pub state: PhantomData<State>,
}

impl Children<Live> {
    /// The agents.
    pub fn agents(&self) -> Option<&DaemonSet> {
        self.daemon_sets.first()
    }

    /// lard.
    pub fn lard(&self) -> Option<&Deployment> {
        self.deployments.first()
    }
}
