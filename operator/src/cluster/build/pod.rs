//! What the pods of a cluster have in common.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
    KeyToPath, ObjectFieldSelector, PodSecurityContext, PodSpec, Probe, SeccompProfile, SecretKeySelector,
    SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use openlambda_api::cluster::Resources;
use openlambda_api::labels::{self, Component, children};

use super::{ValidCluster, pull_secrets, requirements};
use crate::settings::Settings;

/// The volume with the configuration.
const CONFIG: &str = "config";
/// The volume with the certificates of the registry.
const REGISTRY_CA: &str = "registry-ca";
/// Nobody: the user of the images of lard and of the registry.
const USER: i64 = 65_532;
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

/// Has other keys of the embedded registry replace the pods.
pub(super) fn note_keys(meta: &mut ObjectMeta, cluster: &ValidCluster) {
    if let Some(keys) = &cluster.registry_keys {
        meta.annotations.get_or_insert_default().insert(labels::REGISTRY_KEYS.to_owned(), keys.clone());
    }
}

/// What each part fills the common frame with.
pub(super) struct Part<'a> {
    /// The container.
    pub name: &'a str,
    /// Who it is.
    pub account: String,
    pub image: &'a str,
    /// Its configuration file.
    pub file: &'a str,
    pub resources: &'a Resources,
    pub node_selector: &'a BTreeMap<String, String>,
    pub tolerations: &'a [Toleration],
    pub priority_class: Option<&'a str>,
    /// Seconds from SIGTERM to SIGKILL.
    pub grace: i64,
}

/// The pod around its container.
pub(super) fn spec(
    cluster: &ValidCluster,
    settings: &Settings,
    part: Part<'_>,
    container: Container,
) -> PodSpec {
    PodSpec {
        service_account_name: Some(part.account),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        node_selector: node_selector(part.node_selector),
        tolerations: (!part.tolerations.is_empty()).then(|| part.tolerations.to_vec()),
        priority_class_name: part.priority_class.map(str::to_owned),
        image_pull_secrets: pull_secrets(settings),
        termination_grace_period_seconds: Some(part.grace),
        containers: vec![container],
        volumes: Some(vec![config_volume(cluster, part.file)]),
        ..PodSpec::default()
    }
}

/// The container, without what is each part's own.
pub(super) fn container(cluster: &ValidCluster, settings: &Settings, part: &Part<'_>) -> Container {
    Container {
        name: part.name.to_owned(),
        image: Some(part.image.to_owned()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(arguments(cluster, part.file)),
        env: Some(environment()),
        ports: Some(ports()),
        resources: requirements(part.resources),
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 1, 2)),
        volume_mounts: Some(vec![config_mount()]),
        ..Container::default()
    }
}

fn ports() -> Vec<ContainerPort> {
    let port = |name: &str, number: u16| ContainerPort {
        name: Some(name.to_owned()),
        container_port: i32::from(number),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    };
    vec![port(HTTP, labels::HTTP_PORT), port(ADMIN, labels::ADMIN_PORT)]
}

/// Who and where the pod is.
fn environment() -> Vec<EnvVar> {
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
fn arguments(cluster: &ValidCluster, file: &str) -> Vec<String> {
    let file = format!("{}/{file}", children::CONFIG_DIR);
    ["kubernetes", "--cluster", &cluster.name, "--config", &file].map(str::to_owned).into()
}

/// The keys for a registry, from a Secret.
pub(super) fn registry_keys(secret: &str) -> [EnvVar; 2] {
    [
        from_secret(secret, children::REGISTRY_ACCESS_KEY, children::ACCESS_KEY),
        from_secret(secret, children::REGISTRY_SECRET_KEY, children::SECRET_KEY),
    ]
}

/// The same for whoever uses the cluster's registry, if that has a Secret.
pub(super) fn keys_of_registry(cluster: &ValidCluster) -> Vec<EnvVar> {
    let secret = cluster.bucket().and_then(|bucket| bucket.credentials);
    secret.map(|secret| registry_keys(&secret.secret_name).into()).unwrap_or_default()
}

/// The certificates to trust for the registry, if there are some.
pub(super) fn registry_ca(cluster: &ValidCluster) -> Option<(Volume, VolumeMount)> {
    let ca = cluster.bucket()?.ca?;
    Some(mounted(REGISTRY_CA, &ca.config_map.name, children::REGISTRY_CA_DIR))
}

/// A ConfigMap of the user's as a folder.
pub(super) fn mounted(name: &str, config_map: &str, folder: &str) -> (Volume, VolumeMount) {
    let volume = Volume {
        name: name.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config_map.to_owned(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    };
    let mount = VolumeMount {
        name: name.to_owned(),
        mount_path: folder.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    (volume, mount)
}

/// A variable with a key of a Secret.
pub(super) fn from_secret(secret: &str, name: &str, key: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.to_owned(),
                key: key.to_owned(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

pub(super) fn nobody() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), ..SeccompProfile::default() }),
        ..PodSecurityContext::default()
    }
}

pub(super) fn locked_down() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        ..SecurityContext::default()
    }
}

/// Where the file is.
pub(super) fn config_mount() -> VolumeMount {
    VolumeMount {
        name: CONFIG.to_owned(),
        mount_path: children::CONFIG_DIR.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// One file of the ConfigMap, so that a pod does not see the other part's.
pub(super) fn config_volume(cluster: &ValidCluster, file: &str) -> Volume {
    Volume {
        name: CONFIG.to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: children::config(&cluster.name),
            items: Some(vec![KeyToPath { key: file.to_owned(), path: file.to_owned(), mode: None }]),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// A probe of the admin port.
pub(super) fn probe(path: &str, period: i32, failures: i32) -> Probe {
    probe_at(ADMIN, path, period, failures)
}

/// A probe of a port.
pub(super) fn probe_at(port: &str, path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String(port.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

/// A grace period.
pub(super) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 2)
}

/// The user's choice of nodes, and Linux.
pub(super) fn node_selector(chosen: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    let mut all = chosen.clone();
    all.entry("kubernetes.io/os".to_owned()).or_insert_with(|| "linux".to_owned());
    Some(all)
}
