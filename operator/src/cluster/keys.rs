//! The keys of an embedded registry: a Secret that is made once, with random keys, and never written again.
//!
//! Only its metadata is read. Who deletes it gets new keys, and pods with them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Resource as _, ResourceExt as _};
use openlambda_api::labels::{self, children};
use uuid::Uuid;

use super::apply::{Error, failed};
use super::validate::ValidCluster;
use crate::context::Context;

/// Which keys there are: the Secret's uid. Makes them if there are none and there are to be some.
pub async fn ensure(context: &Context, cluster: &ValidCluster) -> Result<Option<String>, Error> {
    if cluster.embedded().is_none() {
        return Ok(None);
    }
    let wanted = cluster.keys(random());
    let api: Api<Secret> = Api::namespaced(context.client.clone(), &cluster.namespace);
    let there = api.get_metadata_opt(&wanted.name_any()).await;
    if let Some(there) = there.map_err(|source| failed("get", &wanted, source))? {
        if there.owner_references().iter().all(|owner| owner.uid != cluster.uid) {
            return Err(Error::Foreign { kind: Secret::kind(&()).into_owned(), name: wanted.name_any() });
        }
        return Ok(there.uid());
    }
    context.throttle.turn().await;
    let parameters =
        PostParams { field_manager: Some(labels::MANAGER_CHILDREN.to_owned()), ..PostParams::default() };
    let made = api.create(&parameters, &wanted).await;
    context.metrics.wrote("keys", made.is_ok());
    Ok(made.map_err(|source| failed("create", &wanted, source))?.uid())
}

/// 122 and 244 random bits.
fn random() -> BTreeMap<String, String> {
    let part = || Uuid::new_v4().simple().to_string();
    [(children::ACCESS_KEY.to_owned(), part()), (children::SECRET_KEY.to_owned(), part() + &part())].into()
}
