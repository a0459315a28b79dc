//! Fourth step: writes what differs and deletes what is no longer wanted.
//!
//! Only server-side apply, with a field manager of this site, forced: the fields that we set are ours. An object is
//! left alone if it has all that we want and we applied exactly this before.

use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::marker::PhantomData;

use k8s_openapi::NamespaceResourceScope;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Resource, ResourceExt as _};
use openlambda_api::{LambdaCluster, labels};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::children::{Children, Live, Prepared};
use crate::context::Context;
use crate::failure;

/// A child could not be written or deleted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused.
    #[error("{act} {kind} {name}: {}", failure::text(source))]
    Refused {
        /// What was tried.
        act: &'static str,
        /// The child's kind.
        kind: String,
        /// The child's name.
        name: String,
        /// Why.
        source: kube::Error,
    },
    /// The name is taken.
    #[error(
        "{kind} {name} is there already and belongs to another: remove it, or give the LambdaCluster another name"
    )]
    Foreign {
        /// The child's kind.
        kind: String,
        /// The child's name.
        name: String,
    },
}

/// Brings all children to what is wanted.
pub async fn apply(
    context: &Context,
    cluster: &LambdaCluster,
    wanted: Children<Prepared>,
    live: &Children<Live>,
) -> Result<Children<Live>, Error> {
    // Without `..`: a new kind cannot be forgotten.
    let Children {
        service_accounts,
        roles,
        role_bindings,
        config_maps,
        services,
        daemon_sets,
        deployments,
        stateful_sets,
        disruption_budgets,
        network_policies,
        ingresses,
        state: _,
    } = wanted;
    let sync = Sync {
        context,
        namespace: cluster.namespace().unwrap_or_default(),
        owner: cluster.uid().unwrap_or_default(),
    };
    // Pods come after what they run as and read; the rest in any order.
    Ok(Children {
        service_accounts: sync.kind(service_accounts, &live.service_accounts).await?,
        roles: sync.kind(roles, &live.roles).await?,
        role_bindings: sync.kind(role_bindings, &live.role_bindings).await?,
        config_maps: sync.kind(config_maps, &live.config_maps).await?,
        network_policies: sync.kind(network_policies, &live.network_policies).await?,
        services: sync.kind(services, &live.services).await?,
        stateful_sets: sync.kind(stateful_sets, &live.stateful_sets).await?,
        daemon_sets: sync.kind(daemon_sets, &live.daemon_sets).await?,
        deployments: sync.kind(deployments, &live.deployments).await?,
        disruption_budgets: sync.kind(disruption_budgets, &live.disruption_budgets).await?,
        ingresses: sync.kind(ingresses, &live.ingresses).await?,
        state: PhantomData,
    })
}

struct Sync<'a> {
    context: &'a Context,
    namespace: String,
    owner: String,
}

impl Sync<'_> {
    async fn kind<K>(&self, wanted: Vec<K>, live: &[K]) -> Result<Vec<K>, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &self.namespace);
        for orphan in live.iter().filter(|l| wanted.iter().all(|w| w.name_any() != l.name_any())) {
            self.delete(&api, orphan).await?;
        }
        let mut applied = Vec::with_capacity(wanted.len());
        for object in wanted {
            let old = live.iter().find(|l| l.name_any() == object.name_any());
            applied.push(self.one(&api, object, old).await?);
        }
        Ok(applied)
    }

    async fn one<K>(&self, api: &Api<K>, wanted: K, live: Option<&K>) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let body = serde_json::to_value(&wanted).unwrap_or_default();
        let key = format!("{}/{}/{}", K::kind(&()), self.namespace, wanted.name_any());
        let digest = digest(&body);
        let same = self.context.applied.lock().get(&key) == Some(&digest);
        if let Some(live) = live.filter(|_| same) {
            let has = serde_json::to_value(live).unwrap_or_default();
            if contains(&has, &body) {
                return Ok(live.clone());
            }
        }
        if live.is_none() {
            self.refuse_foreign(api, &wanted).await?;
        }
        self.context.throttle.turn().await;
        let parameters = PatchParams::apply(labels::MANAGER_CHILDREN).force();
        let result = api.patch(&wanted.name_any(), &parameters, &Patch::Apply(&body)).await;
        self.context.metrics.wrote("child", result.is_ok());
        let applied = result.map_err(|source| failed("apply", &wanted, source))?;
        self.context.applied.lock().insert(key, digest);
        Ok(applied)
    }

    /// Forced apply would take over whatever has the name; a user's Service must not become ours.
    async fn refuse_foreign<K>(&self, api: &Api<K>, wanted: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        let name = wanted.name_any();
        let there = api.get_metadata_opt(&name).await.map_err(|source| failed("get", wanted, source))?;
        match there {
            Some(there) if there.owner_references().iter().all(|owner| owner.uid != self.owner) => {
                Err(Error::Foreign { kind: K::kind(&()).into_owned(), name })
            }
            _ => Ok(()),
        }
    }

    async fn delete<K>(&self, api: &Api<K>, orphan: &K) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    {
        self.context.throttle.turn().await;
        let result = api.delete(&orphan.name_any(), &DeleteParams::background()).await;
        self.context.metrics.wrote("orphan", result.is_ok());
        match result {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(failed("delete", orphan, source)),
        }
    }
}

/// A refusal.
pub fn failed<K: Resource<DynamicType = ()>>(act: &'static str, object: &K, source: kube::Error) -> Error {
    Error::Refused { act, kind: K::kind(&()).into_owned(), name: object.name_any(), source }
}

fn digest(body: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.to_string().hash(&mut hasher);
    hasher.finish()
}

/// Whether everything of `part` stands in `whole`. What the API server adds or another wrote does not matter; what
/// it writes in another form (`1000m` as `1`) counts as a difference and costs a write that changes nothing.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part.iter().all(|(key, value)| {
            whole.get(key).map_or_else(|| value.is_null(), |other| contains(other, value))
        }),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        _ => whole == part,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn additions_do_not_matter_and_changes_do() {
        let wanted = json!({"spec": {"replicas": 2, "containers": [{"name": "a", "image": "x"}]}});
        let mut live = json!({
            "spec": {"replicas": 2, "containers": [{"name": "a", "image": "x", "tty": false}]}, "status": {"ready": 1}
        });
        assert!(contains(&live, &wanted));
        live["spec"]["replicas"] = json!(3);
        assert!(!contains(&live, &wanted));
        live["spec"]["replicas"] = json!(2);
        live["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "injected"}));
        assert!(!contains(&live, &wanted));
    }
}
