//! Where a handler's code comes from, and what its environment is.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, Digest, rules};

/// Where the code comes from: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "[has(self.inline), has(self.files), has(self.configMap), has(self.http), has(self.bundle)].filter(x, x).size() == 1",
    "give exactly one of inline, files, configMap, http and bundle",
)])))]
pub struct Source {
    /// The code itself: the file of the entrypoint's module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1_048_576))]
    pub inline: Option<String>,
    /// Several files, by name; one must be the file of the entrypoint's module.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::files")]
    pub files: Option<BTreeMap<String, String>>,
    /// A ConfigMap of the same namespace whose keys are the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,
    /// An archive (.tar.gz) behind a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpSource>,
    /// An archive (.tar.gz) in the cluster's registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<BundleSource>,
}

/// A ConfigMap with the code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapSource {
    /// Its name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
}

/// An archive behind a URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HttpSource {
    /// Where the archive is.
    #[schemars(schema_with = "schema::url")]
    pub url: String,
    /// The digest that the archive must have.
    pub digest: Digest,
}

/// An archive in the cluster's registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BundleSource {
    /// Its key in the registry.
    #[schemars(length(min = 1, max = 512))]
    pub key: String,
    /// The digest that the archive must have.
    pub digest: Digest,
}

/// One variable of the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "!(has(self.value) && has(self.valueFrom))",
    "give value or valueFrom, not both",
)])))]
pub struct EnvVar {
    /// Its name.
    #[schemars(schema_with = "schema::variable")]
    pub name: String,
    /// Its value; empty if there is neither this nor valueFrom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 131_072))]
    pub value: Option<String>,
    /// Where its value comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<ValueFrom>,
}

/// Where a value comes from: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "has(self.secretKeyRef) != has(self.configMapKeyRef)",
    "give exactly one of secretKeyRef and configMapKeyRef",
)])))]
pub struct ValueFrom {
    /// A key of a Secret of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// A key of a ConfigMap of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// A key of a Secret or a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeyRef {
    /// The object's name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// The key.
    #[schemars(schema_with = "schema::data_key")]
    pub key: String,
    /// Whether the variable is left out if there is no such object or key; otherwise the handler is not Ready.
    #[serde(default)]
    pub optional: bool,
}

/// All keys of a Secret or a ConfigMap as variables: exactly one of the two references.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "has(self.secretRef) != has(self.configMapRef)",
    "give exactly one of secretRef and configMapRef",
)])))]
pub struct EnvFrom {
    /// Stands in front of each key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub prefix: String,
    /// A Secret of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectRef>,
    /// A ConfigMap of the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ObjectRef>,
}

/// A Secret or a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ObjectRef {
    /// Its name.
    #[schemars(schema_with = "schema::object_name")]
    pub name: String,
    /// Whether it may be missing; otherwise the handler is not Ready without it.
    #[serde(default)]
    pub optional: bool,
}

/// A Secret of the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    #[schemars(schema_with = "schema::object_name")]
    pub secret_name: String,
}
