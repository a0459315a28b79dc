//! `LambdaCluster`: agents on nodes, a balancer before them, and what holds for all their handlers.
#![allow(clippy::duplicated_attributes, reason = "columns of a table have the same attributes")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::handler::Counts;
use crate::limits::{DefaultConcurrency, DefaultLimits};
use crate::schema;
use crate::source::{ConfigMapSource, SecretRef};

mod agent;
mod balancer;
mod registry;

pub use agent::{
    AgentSpec, Cache, ImportCache, ImportCacheMode, Queue, Resources, Storage, Tree, UpdateStrategy,
};
pub use balancer::{Ingress, LoadBalancer, LoadFormula, Policy, RegistryApi, Service, ServiceType, Tls};
pub use registry::{Embedded, REGISTRY_BUCKET, Registry, S3};

/// What a cluster is to be. Everything has a default.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "openlambda.dev",
    version = "v1alpha1",
    kind = "LambdaCluster",
    plural = "lambdaclusters",
    shortname = "lc",
    category = "all",
    category = "openlambda",
    namespaced,
    status = "LambdaClusterStatus",
    derive = "PartialEq",
    doc = "Agents on nodes and a balancer before them: serves the Handlers of its namespace.",
    crates(kube_core = "::kube_core"),
    printcolumn(name = "Agents", type_ = "string", json_path = ".status.agents.summary"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason",
        priority = "1"
    ),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = "1"),
    printcolumn(name = "Handlers", type_ = "string", json_path = ".status.handlers.summary", priority = "1"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.version", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[(
    "!has(self.loadBalancer) || !has(self.loadBalancer.registryAPI) || has(self.registry)",
    "loadBalancer.registryAPI needs registry, where uploads go",
)])))]
pub struct LambdaClusterSpec {
    /// The workers: one on each node that is chosen.
    pub agent: AgentSpec,
    /// What holds for the handlers that say nothing else.
    pub handler_defaults: HandlerDefaults,
    /// Where Python packages come from.
    pub packages: Packages,
    /// Where bundles are; without it there are inline, files, configMap and http sources only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<Registry>,
    /// lard, which all calls go through.
    pub load_balancer: LoadBalancer,
    /// An Ingress before lard; none if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Ingress>,
}

/// What holds for the handlers that say nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HandlerDefaults {
    /// What one instance and one call may use.
    pub limits: DefaultLimits,
    /// How many instances and calls a handler may have on one node.
    pub concurrency: DefaultConcurrency,
}

/// Where Python packages come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Packages {
    /// The package index; the public one if not given.
    #[serde(rename = "indexURL", skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::url")]
    pub index_url: Option<String>,
    /// A Secret with the keys username and password for the index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
    /// Certificates to trust for the index besides the usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<Certificates>,
    /// Packages that every node installs when it starts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::requirements")]
    pub preinstall: Vec<String>,
    /// Whether packages without a wheel may be built, which runs their code.
    pub allow_source_builds: bool,
}

/// Certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Certificates {
    /// A ConfigMap whose key ca.crt has them in PEM.
    pub config_map: ConfigMapSource,
}

/// What came of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LambdaClusterStatus {
    /// The generation of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where its handlers answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Counts>,
    /// The replicas of lard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<Counts>,
    /// The handlers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handlers: Option<HandlerCounts>,
    /// The version of OpenLambda that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Ready, and what it is made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// How many handlers there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HandlerCounts {
    /// All.
    pub total: i32,
    /// Those that are Ready.
    pub ready: i32,
    /// Both, for people: `ready/total`.
    #[serde(default)]
    pub summary: String,
}

impl HandlerCounts {
    /// Both numbers and their summary.
    pub fn new(ready: i32, total: i32) -> Self {
        Self { total, ready, summary: format!("{ready}/{total}") }
    }
}
