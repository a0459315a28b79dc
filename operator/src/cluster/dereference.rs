//! First step: everything that a cluster's reconciliation looks at, read once.

use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::NamespaceResourceScope;
use kube::api::ListParams;
use kube::{Api, Resource, ResourceExt as _};
use openlambda_api::{LambdaCluster, labels};
use serde::de::DeserializeOwned;

use super::children::{Children, Live};
use crate::context::{Context, Seen};
use crate::failure;

/// A kind could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("list {kind} of namespace {namespace}: {}", failure::text(source))]
pub struct Error {
    kind: String,
    namespace: String,
    source: kube::Error,
}

/// What there is.
pub struct Found {
    /// The children that the API server has.
    pub children: Children<Live>,
    /// What the handler part saw last: how many handlers there are, and what agents say of the registry.
    pub seen: Option<Seen>,
}

/// Selects the children of all clusters.
pub fn children_selector() -> String {
    format!("{}={},{}", labels::MANAGED_BY, labels::MANAGED_BY_OPERATOR, labels::CLUSTER)
}

/// Reads it all.
pub async fn fetch(context: &Context, cluster: &LambdaCluster) -> Result<Found, Error> {
    let list = List { context, cluster };
    let children = Children {
        service_accounts: list.of().await?,
        roles: list.of().await?,
        role_bindings: list.of().await?,
        config_maps: list.of().await?,
        services: list.of().await?,
        daemon_sets: list.of().await?,
        deployments: list.of().await?,
        stateful_sets: list.of().await?,
        disruption_budgets: list.of().await?,
        network_policies: list.of().await?,
        ingresses: list.of().await?,
        state: PhantomData,
    };
    let key = (list.namespace(), cluster.name_any());
    Ok(Found { children, seen: context.seen.of(&key) })
}

struct List<'a> {
    context: &'a Context,
    cluster: &'a LambdaCluster,
}

impl List<'_> {
    fn namespace(&self) -> String {
        self.cluster.namespace().unwrap_or_default()
    }

    /// All of a kind that carry this cluster's labels and are owned by it.
    async fn of<K>(&self) -> Result<Vec<K>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let namespace = self.namespace();
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &namespace);
        let selector = format!(
            "{}={},{}={}",
            labels::MANAGED_BY,
            labels::MANAGED_BY_OPERATOR,
            labels::CLUSTER,
            self.cluster.name_any()
        );
        let list = api.list(&ListParams::default().labels(&selector)).await.map_err(|source| Error {
            kind: K::kind(&()).into_owned(),
            namespace,
            source,
        })?;
        let owner = self.cluster.uid();
        let ours = |object: &K| object.owner_references().iter().any(|o| Some(&o.uid) == owner.as_ref());
        Ok(list.items.into_iter().filter(ours).collect())
    }
}
