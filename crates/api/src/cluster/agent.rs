//! `spec.agent`: the workers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, ByteSize, Span, rules};
use crate::source::ConfigMapSource;

/// The workers: one on each node that is chosen.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentSpec {
    /// The nodes that get one: those with these labels; all Linux nodes if empty.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that do not keep it away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// Resources of the pod: sandboxes, Zygotes and the agent live inside them.
    pub resources: Resources,
    /// How many may be replaced at a time.
    pub update_strategy: UpdateStrategy,
    /// The pod's priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub priority_class_name: Option<String>,
    /// Where packages and bundles are kept.
    pub storage: Storage,
    /// Memory that all sandboxes of a node may take together, Zygotes included; four fifths of the pod's limit, or of the node, if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::memory_pool")]
    pub memory_pool: Option<ByteSize>,
    /// Zygotes that have packages imported.
    pub import_cache: ImportCache,
    /// Paused instances, least recently used first out.
    pub handler_cache: Cache,
    /// Calls of one handler that wait for an instance on one node.
    pub queue: Queue,
}

/// Resources of a pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// What the scheduler sets aside.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::amounts")]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::amounts")]
    pub limits: BTreeMap<String, Quantity>,
}

/// How agents are replaced.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// How many may be away at a time: a number, or a percentage of all.
    #[schemars(schema_with = "schema::number_or_percent")]
    pub max_unavailable: IntOrString,
}

impl Default for UpdateStrategy {
    fn default() -> Self {
        Self { max_unavailable: IntOrString::Int(1) }
    }
}

/// Where packages and bundles are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Storage {
    /// A directory of the node, which outlives the pod; without it they go with the pod. Each cluster uses its own
    /// directory below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::host_path")]
    pub host_path: Option<String>,
    /// How much they may take; without hostPath the kubelet enforces it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
}

/// Zygotes that have packages imported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "(self.mode == 'Tree') == has(self.tree)",
    "tree belongs to mode Tree, and mode Tree needs tree",
)])))]
pub struct ImportCache {
    /// Who decides which Zygotes there are.
    pub mode: ImportCacheMode,
    /// Memory that they may hold on one node; a quarter of the pod's limit if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// The tree of mode Tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tree: Option<Tree>,
}

impl Default for ImportCache {
    fn default() -> Self {
        Self { mode: ImportCacheMode::Auto, memory: None, tree: None }
    }
}

/// Who decides which Zygotes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImportCacheMode {
    /// Observed use.
    #[default]
    Auto,
    /// A given tree.
    Tree,
    /// There are none with packages.
    Off,
}

/// A given tree of Zygotes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tree {
    /// A ConfigMap whose key tree.json is the tree in the original's JSON.
    pub config_map: ConfigMapSource,
}

/// Memory for instances that are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Cache {
    /// Memory that they may hold on one node; 0 keeps none.
    pub memory: ByteSize,
}

impl Default for Cache {
    fn default() -> Self {
        Self { memory: "512Mi".into() }
    }
}

/// A bounded queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Queue {
    /// So many may wait; further ones are refused.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub length: i32,
    /// Each waits so long at most.
    #[schemars(schema_with = "schema::wait")]
    pub timeout: Span,
}

impl Default for Queue {
    fn default() -> Self {
        Self { length: 1000, timeout: "10s".into() }
    }
}
