//! What the pods of agents and of lard have in common.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath,
    ObjectFieldSelector, Probe, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use openlambda_api::labels::{self, Component, children};

use super::ValidCluster;

/// The volume with the configuration.
const CONFIG: &str = "config";
/// The ports' names, which Services and probes use.
pub(super) const HTTP: &str = "http";
pub(super) const ADMIN: &str = "admin";

/// The metadata of a pod template. A new configuration changes the annotation, which replaces the pods.
pub(super) fn meta(cluster: &ValidCluster, component: Component, config_digest: &str) -> ObjectMeta {
    let annotations = [
        (labels::CONFIG_DIGEST, config_digest.to_owned()),
        ("prometheus.io/scrape", "true".to_owned()),
        ("prometheus.io/port", labels::ADMIN_PORT.to_string()),
        ("prometheus.io/path", "/metrics".to_owned()),
    ];
    ObjectMeta {
        labels: Some(cluster.labels(component)),
        annotations: Some(annotations.map(|(key, value)| (key.to_owned(), value)).into()),
        ..ObjectMeta::default()
    }
}

pub(super) fn ports() -> Vec<ContainerPort> {
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    vec![port(HTTP, labels::HTTP_PORT), port(ADMIN, labels::ADMIN_PORT)]
}

/// Who and where the pod is.
pub(super) fn environment() -> Vec<EnvVar> {
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: path.to_owned(),
                api_version: Some("v1".into()),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    vec![
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_NAME", "metadata.name"),
        field("NODE_NAME", "spec.nodeName"),
        field("POD_IP", "status.podIP"),
    ]
}

/// The mode, the cluster and the file.
pub(super) fn arguments(cluster: &ValidCluster, file: &str) -> Vec<String> {
    let file = format!("{}/{file}", children::CONFIG_DIR);
    ["kubernetes", "--cluster", &cluster.name, "--config", &file].map(str::to_owned).into()
}

/// One file of the ConfigMap, so that a pod does not see the other part's.
pub(super) fn config_volume(cluster: &ValidCluster, file: &str) -> (Volume, VolumeMount) {
    let volume = Volume {
        name: CONFIG.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: children::config(&cluster.name),
            items: Some(vec![KeyToPath { key: file.to_owned(), path: file.to_owned(), mode: None }]),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mount = VolumeMount {
        name: CONFIG.to_owned(),
        mount_path: children::CONFIG_DIR.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    (volume, mount)
}

/// A probe of the admin port.
pub(super) fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(ADMIN.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// The user's choice of nodes, and Linux.
pub(super) fn node_selector(chosen: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let mut all = chosen.clone();
    all.entry("kubernetes.io/os".to_owned()).or_insert_with(|| "linux".to_owned());
    Some(all)
}

pub(super) fn tolerations(chosen: &[Toleration]) -> Option<Vec<Toleration>> {
    (!chosen.is_empty()).then(|| chosen.to_vec())
}
