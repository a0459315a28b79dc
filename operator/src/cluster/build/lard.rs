//! lard's Deployment and how many of its pods may be away.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, KeyToPath, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec,
    SecretVolumeSource, SleepAction, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use openlambda_api::labels::{Component, children};
use openlambda_api::source::SecretRef;

use super::{ValidCluster, pod};
use crate::settings::Settings;

/// Between the end of readiness and SIGTERM: kube-proxies and Ingress controllers learn it meanwhile.
const BEFORE_TERM_SECONDS: i64 = 5;
/// Beyond the drain of calls.
const CLEANUP_SECONDS: i64 = 5;
/// The volumes of a lard that takes uploads.
const TOKEN: &str = "registry-api";
const UPLOADS: &str = "uploads";
/// Where the image has its temporary files.
const TEMPORARY: &str = "/tmp";
/// For root, and for lard's group.
const TOKEN_MODE: i32 = 0o440;

pub(super) fn deployment(cluster: &ValidCluster, settings: &Settings, config_digest: &str) -> Deployment {
    let mut meta = pod::meta(cluster, Component::Lard, config_digest);
    if cluster.takes_uploads() {
        pod::note_keys(&mut meta, cluster);
    }
    Deployment {
        metadata: cluster.meta(children::lard(&cluster.name), Component::Lard),
        spec: Some(DeploymentSpec {
            replicas: Some(cluster.spec.load_balancer.replicas),
            selector: cluster.selector(Component::Lard),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                // Never fewer than asked for: an update must not cost a call.
                rolling_update: Some(RollingUpdateDeployment {
                    max_unavailable: Some(IntOrString::Int(0)),
                    max_surge: Some(IntOrString::Int(1)),
                }),
            }),
            revision_history_limit: Some(2),
            template: PodTemplateSpec { metadata: Some(meta), spec: Some(pod_spec(cluster, settings)) },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn pod_spec(cluster: &ValidCluster, settings: &Settings) -> PodSpec {
    let spec = &cluster.spec.load_balancer;
    let drain = pod::seconds(cluster.balancer_drain());
    let part = pod::Part {
        name: "lard",
        account: children::lard(&cluster.name),
        image: &settings.lard_image,
        file: children::BALANCER_FILE,
        resources: &spec.resources,
        node_selector: &spec.node_selector,
        tolerations: &spec.tolerations,
        priority_class: spec.priority_class_name.as_deref(),
        grace: BEFORE_TERM_SECONDS + drain + CLEANUP_SECONDS,
    };
    let container = Container {
        security_context: Some(pod::locked_down()),
        lifecycle: Some(Lifecycle { pre_stop: Some(sleep()), ..Lifecycle::default() }),
        startup_probe: Some(pod::probe("/livez", 1, 60)),
        ..pod::container(cluster, settings, &part)
    };
    let mut whole = PodSpec {
        topology_spread_constraints: Some(vec![spread(cluster)]),
        security_context: Some(pod::nobody()),
        ..pod::spec(cluster, settings, part, container)
    };
    if let Some(uploads) = &spec.registry_api {
        take_uploads(&mut whole, cluster, &uploads.token);
    }
    whole
}

/// What uploads take: the token, the registry's keys and certificates, and room for what is just arriving.
fn take_uploads(pod: &mut PodSpec, cluster: &ValidCluster, token: &SecretRef) {
    let security = pod.security_context.get_or_insert_default();
    // A file of a Secret is root's, and this group's.
    security.fs_group = security.run_as_group;
    let all = [token_file(token), room()].into_iter().chain(pod::registry_ca(cluster));
    let (volumes, mounts): (Vec<_>, Vec<_>) = all.unzip();
    pod.volumes.get_or_insert_default().extend(volumes);
    for container in &mut pod.containers {
        container.volume_mounts.get_or_insert_default().extend(mounts.clone());
        container.env.get_or_insert_default().extend(pod::keys_of_registry(cluster));
    }
}

/// It may be missing: then nobody can upload, and calls go on.
fn token_file(token: &SecretRef) -> (Volume, VolumeMount) {
    let name = children::TOKEN_FILE.to_owned();
    let volume = Volume {
        name: TOKEN.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(token.secret_name.clone()),
            items: Some(vec![KeyToPath { key: name.clone(), path: name, mode: None }]),
            default_mode: Some(TOKEN_MODE),
            optional: Some(true),
        }),
        ..Volume::default()
    };
    let mount = VolumeMount {
        name: TOKEN.to_owned(),
        mount_path: children::TOKEN_DIR.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    };
    (volume, mount)
}

/// lard itself bounds what there is of it.
fn room() -> (Volume, VolumeMount) {
    let volume = Volume {
        name: UPLOADS.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let mount =
        VolumeMount { name: UPLOADS.to_owned(), mount_path: TEMPORARY.to_owned(), ..VolumeMount::default() };
    (volume, mount)
}

/// Two on one node die together.
fn spread(cluster: &ValidCluster) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(cluster.selector(Component::Lard)),
        ..TopologySpreadConstraint::default()
    }
}

fn sleep() -> LifecycleHandler {
    LifecycleHandler {
        sleep: Some(SleepAction { seconds: BEFORE_TERM_SECONDS }),
        ..LifecycleHandler::default()
    }
}

/// At most one at a time; a share that must stay would block the drain of a node when there is only one.
pub(super) fn disruption_budget(cluster: &ValidCluster) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: cluster.meta(children::lard(&cluster.name), Component::Lard),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(cluster.selector(Component::Lard)),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}
