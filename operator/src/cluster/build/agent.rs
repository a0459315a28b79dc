//! The agents' DaemonSet.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, HostPathVolumeSource, PodSpec, PodTemplateSpec, SecurityContext,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use openlambda_api::labels::{Component, children};

use super::{ValidCluster, pod};
use crate::settings::Settings;

const STATE: &str = "state";
const CERTIFICATES: &str = "index-ca";
const TREE: &str = "zygote-tree";
/// Beyond the drain of calls: killing sandboxes, removing cgroups and mounts.
const CLEANUP_SECONDS: i64 = 15;

pub(super) fn daemon_set(cluster: &ValidCluster, settings: &Settings, config_digest: &str) -> DaemonSet {
    let spec = &cluster.spec.agent;
    let mut meta = pod::meta(cluster, Component::Agent, config_digest);
    pod::note_keys(&mut meta, cluster);
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
            template: PodTemplateSpec { metadata: Some(meta), spec: Some(pod_spec(cluster, settings)) },
            ..DaemonSetSpec::default()
        }),
        status: None,
    }
}

fn pod_spec(cluster: &ValidCluster, settings: &Settings) -> PodSpec {
    let spec = &cluster.spec.agent;
    let part = pod::Part {
        name: "agent",
        account: children::agent(&cluster.name),
        image: &settings.agent_image,
        file: children::WORKER_FILE,
        resources: &spec.resources,
        node_selector: &spec.node_selector,
        tolerations: &spec.tolerations,
        priority_class: spec.priority_class_name.as_deref(),
        grace: pod::seconds(cluster.agent_drain()) + CLEANUP_SECONDS,
    };
    let mut container = Container {
        // Namespaces, mounts and cgroups for sandboxes; no handler gets any of it.
        security_context: Some(SecurityContext { privileged: Some(true), ..SecurityContext::default() }),
        // Until the root Zygote is up and the handlers are synced; a node may be slow.
        startup_probe: Some(pod::probe("/livez", 1, 120)),
        ..pod::container(cluster, settings, &part)
    };
    container.volume_mounts.get_or_insert_default().push(VolumeMount {
        name: STATE.to_owned(),
        mount_path: children::STATE_DIR.to_owned(),
        ..VolumeMount::default()
    });
    container.env.get_or_insert_default().extend(credentials(cluster));
    let certificates = cluster.spec.packages.ca.as_ref();
    let certificates =
        certificates.map(|ca| pod::mounted(CERTIFICATES, &ca.config_map.name, children::CA_DIR));
    let tree = spec.import_cache.tree.as_ref();
    let tree = tree.map(|tree| pod::mounted(TREE, &tree.config_map.name, children::TREE_DIR));
    let all = certificates.into_iter().chain(tree).chain(pod::registry_ca(cluster));
    let (volumes, mounts): (Vec<_>, Vec<_>) = all.unzip();
    container.volume_mounts.get_or_insert_default().extend(mounts);
    let mut pod = pod::spec(cluster, settings, part, container);
    pod.volumes.get_or_insert_default().push(state_volume(cluster));
    pod.volumes.get_or_insert_default().extend(volumes);
    pod
}

/// User and password for the package index, and keys for the registry: of the agent's environment, which nothing that it
/// starts inherits.
fn credentials(cluster: &ValidCluster) -> Vec<EnvVar> {
    let mut all = Vec::new();
    if let Some(secret) = &cluster.spec.packages.credentials {
        all.push(pod::from_secret(&secret.secret_name, children::INDEX_USERNAME, "username"));
        all.push(pod::from_secret(&secret.secret_name, children::INDEX_PASSWORD, "password"));
    }
    all.extend(pod::keys_of_registry(cluster));
    all
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
