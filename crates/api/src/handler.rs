//! `Handler`: a Python function as its user wants it, and what came of it.
#![allow(clippy::duplicated_attributes, reason = "columns of a table have the same attributes")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube_derive::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::limits::{Concurrency, Limits};
use crate::schema::{self, rules};
use crate::source::{EnvFrom, EnvVar, Source};

/// The entrypoint of a handler that names none.
pub const DEFAULT_ENTRYPOINT: &str = "lambda_func.handler";

/// What a handler is to be.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "openlambda.dev",
    version = "v1alpha1",
    kind = "Handler",
    plural = "handlers",
    shortname = "hd",
    category = "all",
    category = "openlambda",
    namespaced,
    status = "HandlerStatus",
    derive = "PartialEq",
    doc = "A Python function. It answers under /run/NAME of its LambdaCluster.",
    crates(kube_core = "::kube_core"),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].status"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type=='Ready')].reason"
    ),
    printcolumn(name = "Memory", type_ = "string", json_path = ".spec.limits.memory", priority = "1"),
    printcolumn(name = "Timeout", type_ = "string", json_path = ".spec.limits.timeout", priority = "1"),
    printcolumn(name = "Agents", type_ = "string", json_path = ".status.agents.summary", priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct HandlerSpec {
    /// The LambdaCluster of the same namespace that serves it; may be left out if there is only one. It stays with
    /// that when others are created later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub cluster: Option<String>,
    /// Where the code comes from.
    pub source: Source,
    /// The function that is called: MODULE.FUNCTION.
    #[serde(default = "default_entrypoint")]
    #[schemars(schema_with = "schema::entrypoint")]
    pub entrypoint: String,
    /// Python packages that the code imports, as in a requirements file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::requirements")]
    pub requirements: Vec<String>,
    /// What one instance and one call may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// How many instances and calls there may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// Variables of the environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Secrets and ConfigMaps whose keys become variables; env wins over them, and a later one over an earlier one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub env_from: Vec<EnvFrom>,
    /// Whether an instance serves more than one call.
    #[serde(default)]
    pub reuse: Reuse,
    /// Whether a call may run twice: then lard sends it to another agent when the one that had it dies. Without it only GET, HEAD and
    /// OPTIONS are sent again once they may have run.
    #[serde(default)]
    pub idempotent: bool,
    /// Which revisions get how much of the calls; all go to this spec if there is no word of it. Calls with the same
    /// X-Request-ID go to the same revision. A change of this makes no revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = rules(&[
            ("self.size() == 0 || self.map(share, share.percent).sum() == 100", "the percents must add up to 100"),
            (
                "self.all(a, self.exists_one(b, (has(a.revision) ? a.revision : '') == (has(b.revision) ? b.revision : '')))",
                "each revision, and this spec, may be named once",
            ),
        ]))
    )]
    pub traffic: Vec<Share>,
    /// How many revisions are kept to go back to, besides those that get calls.
    #[serde(default = "default_history", skip_serializing_if = "is_default_history")]
    #[schemars(range(min = 1, max = 100))]
    pub revision_history_limit: i32,
}

/// A part of the calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    /// The revision that gets it, by its name in status.revisions; without it, this spec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub revision: Option<String>,
    /// How much of the calls.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
}

fn default_entrypoint() -> String {
    DEFAULT_ENTRYPOINT.to_owned()
}

/// How many revisions are kept of a handler that does not say it.
pub const DEFAULT_HISTORY: i32 = 10;

fn default_history() -> i32 {
    DEFAULT_HISTORY
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_default_history(limit: &i32) -> bool {
    *limit == DEFAULT_HISTORY
}

/// Whether an instance serves more than one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Reuse {
    /// An instance serves call after call.
    #[default]
    Always,
    /// Each call gets a fresh sandbox, which is destroyed after it.
    Never,
}

/// What came of a handler.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HandlerStatus {
    /// The generation of the spec that this status is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The revision that serves; of several the one with most of the calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_revision: Option<String>,
    /// The revisions that there are to go back to, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub revisions: Vec<Revision>,
    /// The nodes that should and do have it ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agents: Option<Counts>,
    /// The packages that the requirements resolved to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packages: Option<PackagesStatus>,
    /// Ready, and what it is made of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A spec of the handler that serves or served.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Revision {
    /// The handler's name, `-`, and the generation of the spec that it was first.
    pub name: String,
    /// The digest of the code: of the sorted files and the entrypoint.
    pub digest: String,
    /// The generation of the spec that it was first.
    pub generation: i64,
    /// When it was first seen to serve.
    pub created_at: Time,
    /// How much of the traffic it gets.
    #[schemars(range(min = 0, max = 100))]
    pub percent: i32,
}

/// How many there should be and are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Counts {
    /// How many there should be.
    pub desired: i32,
    /// How many are ready.
    pub ready: i32,
    /// Both, for people: `ready/desired`.
    #[serde(default)]
    pub summary: String,
}

impl Counts {
    /// Both numbers and their summary.
    pub fn new(ready: i32, desired: i32) -> Self {
        Self { desired, ready, summary: format!("{ready}/{desired}") }
    }
}

/// What the requirements resolved to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PackagesStatus {
    /// The digest of the requirements that this is of; others are resolved anew.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub requirements: String,
    /// `name==version`, one each.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub locked: Vec<String>,
}
