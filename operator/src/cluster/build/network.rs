//! How calls come in, and who reaches the agents.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule, IngressServiceBackend,
    IngressSpec, IngressTLS, NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec, ServiceBackendPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use openlambda_api::cluster::ServiceType;
use openlambda_api::labels::{self, Component, children};

use super::{ValidCluster, pod};
use crate::settings::{OPERATOR_COMPONENT, Settings};

/// Namespaces with this label may read the agents' metrics.
const SCRAPE_LABEL: &str = "openlambda.dev/scrape";

pub(super) fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        ..ServicePort::default()
    }
}

/// Without an address of its own: lard reads its EndpointSlices.
pub(super) fn agent_service(cluster: &ValidCluster) -> Service {
    Service {
        metadata: cluster.meta(children::agent(&cluster.name), Component::Agent),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(cluster.selected(Component::Agent)),
            ports: Some(vec![
                port(pod::HTTP, labels::HTTP_PORT.into()),
                port(pod::ADMIN, labels::ADMIN_PORT.into()),
            ]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The one before lard.
pub(super) fn front_service(cluster: &ValidCluster) -> Service {
    let spec = &cluster.spec.load_balancer.service;
    let mut metadata = cluster.meta(children::front(&cluster.name), Component::Lard);
    metadata.annotations = some(&spec.annotations);
    let type_ = match spec.type_ {
        ServiceType::ClusterIP => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
    };
    let exposed = spec.type_ != ServiceType::ClusterIP;
    let http = ServicePort { node_port: spec.node_port.filter(|_| exposed), ..port(pod::HTTP, spec.port) };
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(type_.to_owned()),
            selector: Some(cluster.selected(Component::Lard)),
            ports: Some(vec![http]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn some(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}

/// Calls from lard only; the admin port for lard, which asks it for the load, the operator, and who gathers metrics.
pub(super) fn agent_policy(cluster: &ValidCluster, settings: &Settings) -> NetworkPolicy {
    let port = |number: u16| NetworkPolicyPort {
        port: Some(IntOrString::Int(number.into())),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    let lard = NetworkPolicyPeer {
        pod_selector: Some(cluster.selector(Component::Lard)),
        ..NetworkPolicyPeer::default()
    };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(matching("kubernetes.io/metadata.name", &settings.namespace)),
        pod_selector: Some(matching(labels::COMPONENT, OPERATOR_COMPONENT)),
        ip_block: None,
    };
    let scrape = NetworkPolicyPeer {
        namespace_selector: Some(matching(SCRAPE_LABEL, "true")),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicy {
        metadata: cluster.meta(children::agent(&cluster.name), Component::Agent),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(cluster.selector(Component::Agent)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![
                NetworkPolicyIngressRule {
                    from: Some(vec![lard]),
                    ports: Some(vec![port(labels::HTTP_PORT), port(labels::ADMIN_PORT)]),
                },
                NetworkPolicyIngressRule {
                    from: Some(vec![operator, scrape]),
                    ports: Some(vec![port(labels::ADMIN_PORT)]),
                },
            ]),
            egress: None,
        }),
    }
}

fn matching(label: &str, value: &str) -> LabelSelector {
    LabelSelector {
        match_labels: Some(BTreeMap::from([(label.to_owned(), value.to_owned())])),
        match_expressions: None,
    }
}

/// The way in from outside, if asked for.
pub(super) fn ingress(cluster: &ValidCluster) -> Option<Ingress> {
    let spec = cluster.spec.ingress.as_ref()?;
    let mut metadata = cluster.meta(children::front(&cluster.name), Component::Lard);
    metadata.annotations = some(&spec.annotations);
    let service = IngressServiceBackend {
        name: children::front(&cluster.name),
        port: Some(ServiceBackendPort { name: Some(pod::HTTP.to_owned()), number: None }),
    };
    let path = HTTPIngressPath {
        path: Some("/".to_owned()),
        path_type: "Prefix".to_owned(),
        backend: IngressBackend { service: Some(service), resource: None },
    };
    Some(Ingress {
        metadata,
        spec: Some(IngressSpec {
            ingress_class_name: spec.class_name.clone(),
            rules: Some(vec![IngressRule {
                host: spec.host.clone(),
                http: Some(HTTPIngressRuleValue { paths: vec![path] }),
            }]),
            tls: spec.tls.as_ref().map(|tls| {
                vec![IngressTLS {
                    hosts: spec.host.clone().map(|host| vec![host]),
                    secret_name: Some(tls.secret_name.clone()),
                }]
            }),
            default_backend: None,
        }),
        status: None,
    })
}
