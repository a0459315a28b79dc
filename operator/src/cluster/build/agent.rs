//! The agents' DaemonSet.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, HostPathVolumeSource, PodSpec, PodTemplateSpec, SecurityContext, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use openlambda_api::labels::{Component, children};

use super::{ValidCluster, pod, pull_secrets, requirements};
use crate::settings::Settings;

const STATE: &str = "state";
/// Beyond the drain of calls: killing sandboxes, removing cgroups and mounts.
const CLEANUP_SECONDS: i64 = 15;

pub(super) fn daemon_set(cluster: &ValidCluster, settings: &Settings, config_digest: &str) -> DaemonSet {
    let spec = &cluster.spec.agent;
    DaemonSet {
        metadata: cluster.meta(children::agent(&cluster.name), Component::Agent),
        spec: Some(DaemonSetSpec {
            selector: cluster.selector(Component::Agent),
            update_strategy: Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_unavailable: Some(spec.update_strategy.max_unavailable.clone()),
                    max_surge: None,
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(pod::meta(cluster, Component::Agent, config_digest)),
                spec: Some(pod_spec(cluster, settings)),
            },
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

fn pod_spec(cluster: &ValidCluster, settings: &Settings) -> PodSpec {
    let spec = &cluster.spec.agent;
    let (config_volume, config_mount) = pod::config_volume(cluster, children::WORKER_FILE);
    let state_mount = VolumeMount {
        name: STATE.to_owned(),
        mount_path: children::STATE_DIR.to_owned(),
        ..VolumeMount::default()
    };
    PodSpec {
        service_account_name: Some(children::agent(&cluster.name)),
        automount_service_account_token: Some(true),
        enable_service_links: Some(false),
        node_selector: pod::node_selector(&spec.node_selector),
        tolerations: pod::tolerations(&spec.tolerations),
        priority_class_name: spec.priority_class_name.clone(),
        image_pull_secrets: pull_secrets(settings),
        termination_grace_period_seconds: Some(seconds(cluster.drain()) + CLEANUP_SECONDS),
        containers: vec![container(cluster, settings, vec![config_mount, state_mount])],
        volumes: Some(vec![config_volume, state_volume(cluster)]),
        ..PodSpec::default()
    }
}

fn container(cluster: &ValidCluster, settings: &Settings, mounts: Vec<VolumeMount>) -> Container {
    Container {
        name: "agent".to_owned(),
        image: Some(settings.agent_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(pod::arguments(cluster, children::WORKER_FILE)),
        env: Some(pod::environment()),
        ports: Some(pod::ports()),
        resources: requirements(&cluster.spec.agent.resources),
        // Namespaces, mounts and cgroups for sandboxes; no handler gets any of it.
        security_context: Some(SecurityContext { privileged: Some(true), ..SecurityContext::default() }),
        // Until the root Zygote is up and the handlers are synced; a node may be slow.
        startup_probe: Some(pod::probe("/livez", 1, 120)),
        liveness_probe: Some(pod::probe("/livez", 10, 6)),
        readiness_probe: Some(pod::probe("/readyz", 1, 2)),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// A directory of the node that is this cluster's alone, or one that goes with the pod.
fn state_volume(cluster: &ValidCluster) -> Volume {
    let storage = &cluster.spec.agent.storage;
    let mut volume = Volume { name: STATE.to_owned(), ..Volume::default() };
    match &storage.host_path {
        Some(path) => {
            let path = format!("{}/{}/{}", path.trim_end_matches('/'), cluster.namespace, cluster.name);
            volume.host_path = Some(HostPathVolumeSource { path, type_: Some("DirectoryOrCreate".into()) });
        }
        None => {
            volume.empty_dir = Some(EmptyDirVolumeSource {
                size_limit: storage.size.as_ref().map(|size| Quantity(size.as_str().to_owned())),
                medium: None,
            });
        }
    }
    volume
}

fn seconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 2)
}
