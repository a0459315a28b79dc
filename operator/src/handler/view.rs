//! What the operator needs of a `Handler`. The code may be large and stays out of its memory.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use openlambda_api::handler::Share;
use openlambda_api::{Handler, HandlerStatus};
use serde::Deserialize;

/// A `Handler` without its code.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "Handler")]
pub struct HandlerView {
    /// The metadata; managed fields are dropped on the way in.
    pub metadata: ObjectMeta,
    /// The part of the spec that is looked at.
    pub spec: SpecView,
    /// The status as it stands.
    pub status: Option<HandlerStatus>,
}

/// The part of the spec that is looked at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpecView {
    /// The cluster that is to serve it.
    pub cluster: Option<String>,
    /// The packages that it needs.
    #[serde(default)]
    pub requirements: Vec<String>,
    /// Which revisions get how much of the calls.
    #[serde(default)]
    pub traffic: Vec<Share>,
    /// How many revisions are kept.
    pub revision_history_limit: Option<i32>,
}
