//! `spec.loadBalancer` and `spec.ingress`: the way in.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Toleration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::agent::{Queue, Resources};
use crate::schema::{self, rules};
use crate::source::SecretRef;

/// lard, which all calls go through.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "self.loadLowPercent < self.loadHighPercent",
    "loadLowPercent must be below loadHighPercent",
)])))]
pub struct LoadBalancer {
    /// How many there are.
    #[schemars(range(min = 1, max = 100))]
    pub replicas: i32,
    /// How an agent is chosen.
    pub policy: Policy,
    /// How the load of an agent is computed.
    pub load_formula: LoadFormula,
    /// An agent below this load has room.
    #[schemars(range(min = 0, max = 100))]
    pub load_low_percent: i32,
    /// An agent with this load is overloaded.
    #[schemars(range(min = 1, max = 100))]
    pub load_high_percent: i32,
    /// Calls in flight from one replica of lard to one agent; no limit if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_connections_per_agent: Option<i32>,
    /// Calls that wait at one replica of lard, because every agent is full or none is there yet.
    pub queue: Queue,
    /// Resources of each pod.
    pub resources: Resources,
    /// The nodes that its pods may run on: those with these labels; all Linux nodes if empty.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints of nodes that do not keep its pods away.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub tolerations: Vec<Toleration>,
    /// The pods' priority class.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub priority_class_name: Option<String>,
    /// The Service before it.
    pub service: Service,
    /// Uploads at its port, under /registry/; they need spec.registry. Off if not given.
    #[serde(rename = "registryAPI", skip_serializing_if = "Option::is_none")]
    pub registry_api: Option<RegistryApi>,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            replicas: 2,
            policy: Policy::default(),
            load_formula: LoadFormula::default(),
            load_low_percent: 20,
            load_high_percent: 40,
            max_connections_per_agent: None,
            queue: Queue { length: 5000, ..Queue::default() },
            resources: Resources::default(),
            node_selector: BTreeMap::new(),
            tolerations: Vec::new(),
            priority_class_name: None,
            service: Service::default(),
            registry_api: None,
        }
    }
}

/// Uploads at lard's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryApi {
    /// A Secret whose key token has what clients must know: 16 printable characters or more. Who has it may upload, read and delete
    /// every handler of this cluster that was uploaded.
    pub token: SecretRef,
}

/// How an agent is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Policy {
    /// One after the other.
    RoundRobin,
    /// The least loaded.
    LeastLoaded,
    /// The less loaded of two at random.
    PowerOfTwo,
    /// By the handler's name, as long as the load allows it.
    ConsistentHashBoundedLoads,
    /// Locality-aware: a handler stays on an agent until that is overloaded.
    #[serde(rename = "LARD")]
    Lard,
    /// Locality-aware with replication: a handler has as many agents as it needs.
    #[serde(rename = "LARDR")]
    LardReplicated,
    /// Locality-aware: a handler leaves its agent when to wait there costs more than to start elsewhere.
    #[default]
    CostAware,
}

/// How the load of an agent is computed, 0 to 100 percent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadFormula {
    /// Calls in flight.
    #[default]
    Connections,
    /// Mean of memory and CPU.
    AverageResource,
    /// Mean of memory, CPU and calls in flight.
    AverageResourceConnections,
    /// The larger of memory and CPU.
    DominantResource,
    /// The largest of memory, CPU and calls in flight.
    DominantResourceConnections,
}

/// The Service before lard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = rules(&[(
    "!has(self.nodePort) || self.type != 'ClusterIP'",
    "nodePort belongs to type NodePort or LoadBalancer",
)])))]
pub struct Service {
    /// How it is reached.
    #[serde(rename = "type")]
    pub type_: ServiceType,
    /// Its port.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// The port of every node, with types NodePort and LoadBalancer; Kubernetes chooses one if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub node_port: Option<i32>,
    /// Annotations, which cloud providers read.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

impl Default for Service {
    fn default() -> Self {
        Self { type_: ServiceType::default(), port: 80, node_port: None, annotations: BTreeMap::new() }
    }
}

/// How a Service is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// From inside the Kubernetes cluster.
    #[default]
    ClusterIP,
    /// On a port of every node.
    NodePort,
    /// Through a load balancer of the cloud.
    LoadBalancer,
}

/// An Ingress before lard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Ingress {
    /// The Ingress controller; the cluster's default one if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::object_name")]
    pub class_name: Option<String>,
    /// The host; every host if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::host_name")]
    pub host: Option<String>,
    /// Ends TLS; plain HTTP if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Annotations, which Ingress controllers and certificate issuers read.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    pub annotations: BTreeMap<String, String>,
}

/// TLS of an Ingress.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// The Secret with the certificate and its key.
    #[schemars(schema_with = "schema::object_name")]
    pub secret_name: String,
}
