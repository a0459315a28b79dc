//! `spec.registry`: where bundles are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Certificates;
use super::agent::Resources;
use crate::labels::{self, children};
use crate::schema::{self, ByteSize, rules};
use crate::source::SecretRef;

/// The bucket of a registry inside the cluster.
pub const REGISTRY_BUCKET: &str = "registry";
/// A claim of a StatefulSet cannot be changed through it.
const VOLUME_STAYS: &str = "self.size == oldSelf.size && has(self.storageClassName) == has(oldSelf.storageClassName) && \
                            (!has(self.storageClassName) || self.storageClassName == oldSelf.storageClassName)";

/// Where bundles are: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "has(self.s3) != has(self.embedded)",
    "give exactly one of s3 and embedded",
)])))]
pub struct Registry {
    /// A bucket of an S3 service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    /// A store inside this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedded: Option<Embedded>,
}

/// A bucket of an S3 service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// The service's URL; that of AWS for the region if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::url")]
    pub endpoint: Option<String>,
    /// The region.
    #[serde(default = "default_region")]
    #[schemars(length(min = 1, max = 64))]
    pub region: String,
    /// The bucket.
    #[schemars(length(min = 3, max = 63))]
    pub bucket: String,
    /// A Secret with the keys accessKeyID and secretAccessKey.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
    /// Certificates to trust for it besides the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Certificates>,
}

fn default_region() -> String {
    "us-east-1".to_owned()
}

/// A store inside the cluster: one pod with a volume, which stays when the store or the cluster goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    VOLUME_STAYS,
    "size and storageClassName cannot change: enlarge the PersistentVolumeClaim itself",
)])))]
pub struct Embedded {
    /// The size of its volume.
    #[schemars(schema_with = "schema::volume")]
    pub size: ByteSize,
    /// The class of its volume; the cluster's default one if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub storage_class_name: Option<String>,
    /// Resources of its pod.
    pub resources: Resources,
}

impl Default for Embedded {
    fn default() -> Self {
        Self { size: "10Gi".into(), storage_class_name: None, resources: Resources::default() }
    }
}

impl Registry {
    /// The bucket: that of the S3 service, or the embedded one's as pods of the Kubernetes cluster reach it.
    pub fn bucket(&self, namespace: &str, cluster: &str) -> Option<S3> {
        let embedded = || {
            self.embedded.as_ref()?;
            let name = children::registry(cluster);
            Some(S3 {
                endpoint: Some(format!("http://{name}.{namespace}.svc:{}", labels::REGISTRY_PORT)),
                region: default_region(),
                bucket: REGISTRY_BUCKET.to_owned(),
                credentials: Some(SecretRef { secret_name: name }),
                ca: None,
            })
        };
        self.s3.clone().or_else(embedded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_embedded_one_is_a_bucket_like_any_other() {
        let embedded = Registry { embedded: Some(Embedded::default()), s3: None };
        let s3 = embedded.bucket("functions", "demo").unwrap();
        assert_eq!(s3.endpoint.as_deref(), Some("http://demo-registry.functions.svc:9000"));
        assert_eq!(s3.credentials.unwrap().secret_name, "demo-registry");
        assert_eq!(Registry::default().bucket("functions", "demo"), None);
    }
}
