//! What one sandbox and one call may use, and how many of them there are: of one handler, and the cluster's defaults.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, ByteSize, Span, rules};

/// The longest that a handler may let a call take: what its schema allows.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Limits of one handler; what is not given is the cluster's `handlerDefaults`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Memory of one instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::memory")]
    pub memory: Option<ByteSize>,
    /// Cores that one instance may use at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::cpu")]
    pub cpu: Option<Quantity>,
    /// The handler's share of busy processors, beside others that have 100; its running instances divide it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub cpu_weight: Option<i32>,
    /// Processes and threads of one instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 32_768))]
    pub pids: Option<i32>,
    /// Open files of each process of an instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 16, max = 1_048_576))]
    pub open_files: Option<i32>,
    /// Time of one call; the instance is killed at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::timeout")]
    pub timeout: Option<Span>,
    /// What one instance may write to /host and /tmp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::scratch")]
    pub scratch: Option<ByteSize>,
    /// The longest body of a call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::body")]
    pub request: Option<ByteSize>,
    /// The longest answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::body")]
    pub response: Option<ByteSize>,
}

/// How many instances and calls one handler has; what is not given is the cluster's `handlerDefaults`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "!has(self.minWarm) || !has(self.maxInstances) || self.maxInstances >= self.minWarm",
    "minWarm must not be greater than maxInstances",
)])))]
pub struct Concurrency {
    /// Calls at a time in one instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1024))]
    pub per_instance: Option<i32>,
    /// Instances on one node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_instances: Option<i32>,
    /// Instances that each serving node keeps ready without calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10_000))]
    pub min_warm: Option<i32>,
    /// An instance without calls for so long is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::wait")]
    pub idle_timeout: Option<Span>,
}

/// Limits of the handlers that name none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct DefaultLimits {
    /// Memory of one instance.
    #[schemars(schema_with = "schema::memory")]
    pub memory: ByteSize,
    /// Cores that one instance may use at a time; all of the node if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::cpu")]
    pub cpu: Option<Quantity>,
    /// A handler's share of busy processors, beside others that have 100; its running instances divide it.
    #[schemars(range(min = 1, max = 10_000))]
    pub cpu_weight: i32,
    /// Processes and threads of one instance.
    #[schemars(range(min = 1, max = 32_768))]
    pub pids: i32,
    /// Open files of each process of an instance.
    #[schemars(range(min = 16, max = 1_048_576))]
    pub open_files: i32,
    /// Time of one call; the instance is killed at it.
    #[schemars(schema_with = "schema::timeout")]
    pub timeout: Span,
    /// What one instance may write to /host and /tmp.
    #[schemars(schema_with = "schema::scratch")]
    pub scratch: ByteSize,
    /// The longest body of a call.
    #[schemars(schema_with = "schema::body")]
    pub request: ByteSize,
    /// The longest answer.
    #[schemars(schema_with = "schema::body")]
    pub response: ByteSize,
}

impl Default for DefaultLimits {
    fn default() -> Self {
        Self {
            memory: "128Mi".into(),
            cpu: None,
            cpu_weight: 100,
            pids: 64,
            open_files: 1024,
            timeout: "30s".into(),
            scratch: "64Mi".into(),
            request: "6Mi".into(),
            response: "6Mi".into(),
        }
    }
}

/// Concurrency of the handlers that name none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "self.maxInstances >= self.minWarm",
    "minWarm must not be greater than maxInstances",
)])))]
pub struct DefaultConcurrency {
    /// Calls at a time in one instance.
    #[schemars(range(min = 1, max = 1024))]
    pub per_instance: i32,
    /// Instances of one handler on one node.
    #[schemars(range(min = 1, max = 100_000))]
    pub max_instances: i32,
    /// Instances of one handler that each serving node keeps ready without calls.
    #[schemars(range(min = 0, max = 10_000))]
    pub min_warm: i32,
    /// An instance without calls for so long is removed.
    #[schemars(schema_with = "schema::wait")]
    pub idle_timeout: Span,
}

impl Default for DefaultConcurrency {
    fn default() -> Self {
        Self { per_instance: 1, max_instances: 200, min_warm: 0, idle_timeout: "10m".into() }
    }
}
