//! lard's Deployment and how many of its pods may be away.

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Container, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec, SleepAction, TopologySpreadConstraint,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use openlambda_api::labels::{Component, children};

use super::{ValidCluster, pod};
use crate::settings::Settings;

/// Between the end of readiness and SIGTERM: kube-proxies and Ingress controllers learn it meanwhile.
const BEFORE_TERM_SECONDS: i64 = 5;
/// Beyond the drain of calls.
const CLEANUP_SECONDS: i64 = 5;

pub(super) fn deployment(cluster: &ValidCluster, settings: &Settings, config_digest: &str) -> Deployment {
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
            template: PodTemplateSpec {
                metadata: Some(pod::meta(cluster, Component::Lard, config_digest)),
                spec: Some(pod_spec(cluster, settings)),
            },
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
    PodSpec {
        topology_spread_constraints: Some(vec![spread(cluster)]),
        security_context: Some(pod::nobody()),
        ..pod::spec(cluster, settings, part, container)
    }
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
