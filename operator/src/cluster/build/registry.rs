//! The embedded registry: one pod with a volume, and the address that agents know.
//!
//! A StatefulSet, for two servers must never be at one volume, and the volume's claim outlives it.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, PersistentVolumeClaim, PersistentVolumeClaimSpec, PodSecurityContext, PodSpec,
    PodTemplateSpec, Service, ServiceSpec, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use openlambda_api::cluster::Embedded;
use openlambda_api::labels::{self, Component, children};
use serde_json::{Value, json};

use super::{ValidCluster, network, pod, pull_secrets, requirements};
use crate::settings::Settings;

/// The volume, and so the beginning of its claim's name.
const DATA: &str = "data";
/// The port's name.
const S3: &str = "s3";
/// Requests that run get 30 s from the server.
const GRACE_SECONDS: i64 = 35;

/// The server's file; its keys come by the environment.
pub(super) fn file() -> Value {
    json!({
        "host": "0.0.0.0",
        "port": labels::REGISTRY_PORT,
        "directory": format!("{}/store", children::STATE_DIR),
    })
}

pub(super) fn service(cluster: &ValidCluster) -> Service {
    Service {
        metadata: cluster.meta(children::registry(&cluster.name), Component::Registry),
        spec: Some(ServiceSpec {
            selector: Some(cluster.selected(Component::Registry)),
            ports: Some(vec![network::port(S3, labels::REGISTRY_PORT.into())]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

pub(super) fn stateful_set(
    cluster: &ValidCluster,
    spec: &Embedded,
    settings: &Settings,
    config_digest: &str,
) -> StatefulSet {
    let name = children::registry(&cluster.name);
    let mut meta = pod::meta(cluster, Component::Registry, config_digest);
    // It has no metrics.
    meta.annotations.get_or_insert_default().retain(|key, _| !key.starts_with("prometheus.io/"));
    pod::note_keys(&mut meta, cluster);
    StatefulSet {
        metadata: cluster.meta(name.clone(), Component::Registry),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(name),
            selector: cluster.selector(Component::Registry),
            revision_history_limit: Some(2),
            template: PodTemplateSpec { metadata: Some(meta), spec: Some(pod_spec(cluster, spec, settings)) },
            volume_claim_templates: Some(vec![claim(cluster, spec)]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

/// Without an owner: what was uploaded is not lost with the object that asked for a place to keep it.
fn claim(cluster: &ValidCluster, spec: &Embedded) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.to_owned()),
            labels: Some(cluster.labels(Component::Registry)),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: spec.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(spec.size.as_str().to_owned()))].into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn pod_spec(cluster: &ValidCluster, spec: &Embedded, settings: &Settings) -> PodSpec {
    let security = pod::nobody();
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        node_selector: pod::node_selector(&Default::default()),
        image_pull_secrets: pull_secrets(settings),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            // A new volume is root's.
            fs_group: security.run_as_group,
            fs_group_change_policy: Some("OnRootMismatch".to_owned()),
            ..security
        }),
        containers: vec![container(cluster, spec, settings)],
        volumes: Some(vec![pod::config_volume(cluster, children::REGISTRY_FILE)]),
        ..PodSpec::default()
    }
}

fn container(cluster: &ValidCluster, spec: &Embedded, settings: &Settings) -> Container {
    let probe = |period, failures| pod::probe_at(S3, "/status", period, failures);
    Container {
        name: "registry".to_owned(),
        image: Some(settings.registry_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(vec![
            "--config".to_owned(),
            format!("{}/{}", children::CONFIG_DIR, children::REGISTRY_FILE),
        ]),
        env: Some(pod::registry_keys(&children::registry(&cluster.name)).into()),
        ports: Some(vec![ContainerPort {
            name: Some(S3.to_owned()),
            container_port: labels::REGISTRY_PORT.into(),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: requirements(&spec.resources),
        startup_probe: Some(probe(1, 60)),
        liveness_probe: Some(probe(10, 6)),
        readiness_probe: Some(probe(1, 2)),
        security_context: Some(pod::locked_down()),
        volume_mounts: Some(vec![
            pod::config_mount(),
            VolumeMount {
                name: DATA.to_owned(),
                mount_path: children::STATE_DIR.to_owned(),
                ..VolumeMount::default()
            },
        ]),
        ..Container::default()
    }
}
