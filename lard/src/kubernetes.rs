//! lard in Kubernetes: agents are the ready endpoints of their Service, and a Handler's own limits hold for its calls.
//!
//! Both are watched beside the calls, which never wait for the API server: while that is away, what was known last
//! holds, and agents that are gone are set aside as they always are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use openlambda_api::handler::PackagesStatus;
use openlambda_api::labels::children;
use openlambda_api::{Handler, limits, packages};
use openlambda_config::{Server, Size, durations};
use openlambda_telemetry::Readiness;
use serde::Deserialize;

use crate::gateway::Gateway;
use crate::limits::Own;

/// The label of an EndpointSlice that names its Service.
const SERVICE: &str = "kubernetes.io/service-name";
/// The name of the port for calls.
const PORT: &str = "http";
/// The name of the port that tells the load.
const ADMIN: &str = "admin";
/// Handlers that are asked for at a time: their code comes along, and is not to fill the memory.
const PAGE: u32 = 50;

/// Which agents and handlers.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The name of the `LambdaCluster`.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
}

/// An endpoint that can be called.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Agent {
    /// Its pod, or its address if it names none.
    pod: String,
    node: Option<String>,
    address: String,
    port: u16,
    admin_port: Option<u16>,
}

/// Follows the agents for ever. lard is ready when they are known, even if there is none: calls wait for one at lard,
/// while a Service without a ready lard refuses them.
pub fn follow_agents(
    client: Client,
    scope: &Scope,
    gateway: Arc<Gateway>,
    readiness: Readiness,
) -> impl Future<Output = ()> + use<> {
    let service = children::agent(&scope.cluster);
    let blocker = readiness.block(format!("EndpointSlices of Service {service}"));
    let api: Api<EndpointSlice> = Api::namespaced(client, &scope.namespace);
    let config = watcher::Config::default().any_semantic().labels(&format!("{SERVICE}={service}"));
    async move {
        let mut events = watcher(api, config).backoff(patience()).boxed();
        let (mut slices, mut published, mut blocker) = (Slices::default(), None, Some(blocker));
        let max_conn = gateway.settings.max_conn_per_agent.and_then(|most| u32::try_from(most).ok());
        while let Some(event) = events.next().await {
            let changed = event.map(|event| slices.take(event)).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot watch EndpointSlices; the agents stay those that they were");
                false
            });
            let servers =
                changed.then(|| slices.servers(max_conn)).filter(|new| published.as_ref() != Some(new));
            if let Some(servers) = servers {
                publish(&servers, &gateway);
                drop(blocker.take());
                published = Some(servers);
            }
        }
    }
}

/// The EndpointSlices of the agents' Service, and those of a list that is coming in.
#[derive(Debug, Default)]
struct Slices {
    known: BTreeMap<(String, String), Vec<Agent>>,
    listed: BTreeMap<(String, String), Vec<Agent>>,
}

impl Slices {
    /// Takes an event in. True if what is known may have changed: half a list is not known yet.
    fn take(&mut self, event: Event<EndpointSlice>) -> bool {
        match event {
            Event::Init => {
                self.listed.clear();
                return false;
            }
            Event::InitApply(slice) => {
                self.listed.insert(key(&slice), agents(&slice));
                return false;
            }
            Event::InitDone => self.known = std::mem::take(&mut self.listed),
            Event::Apply(slice) => drop(self.known.insert(key(&slice), agents(&slice))),
            Event::Delete(slice) => drop(self.known.remove(&key(&slice))),
        }
        true
    }

    fn servers(&self, max_conn: Option<u32>) -> Vec<Server> {
        servers(self.known.values().flatten(), max_conn)
    }
}

/// These are the agents from now on.
fn publish(servers: &[Server], gateway: &Gateway) {
    gateway.targets.replace(servers);
    gateway.gate.agents(servers.len());
    gateway.hold.changed();
    let names: Vec<_> = servers.iter().map(|server| &*server.name).collect();
    tracing::info!(agents = names.len(), "the agents are {}", names.join(", "));
}

/// A slice's identity; IPv4 before IPv6.
fn key(slice: &EndpointSlice) -> (String, String) {
    (slice.address_type.clone(), slice.name_any())
}

/// The endpoints of a slice that take calls.
fn agents(slice: &EndpointSlice) -> Vec<Agent> {
    let port = |name: &str| {
        let ports = slice.ports.iter().flatten();
        let port = ports.filter(|port| port.name.as_deref() == Some(name)).find_map(|port| port.port);
        port.and_then(|port| u16::try_from(port).ok())
    };
    let (Some(calls), admin) = (port(PORT), port(ADMIN)) else { return Vec::new() };
    let endpoints = slice.endpoints.iter().filter(|endpoint| takes_calls(endpoint));
    endpoints.filter_map(|endpoint| agent(endpoint, calls, admin)).collect()
}

fn takes_calls(endpoint: &Endpoint) -> bool {
    let Some(conditions) = &endpoint.conditions else { return true };
    conditions.ready.unwrap_or(true) && conditions.terminating != Some(true)
}

fn agent(endpoint: &Endpoint, port: u16, admin_port: Option<u16>) -> Option<Agent> {
    let address = endpoint.addresses.first()?.clone();
    let pod = endpoint.target_ref.as_ref().and_then(|pod| pod.name.clone());
    Some(Agent {
        pod: pod.unwrap_or_else(|| address.clone()),
        node: endpoint.node_name.clone(),
        address,
        port,
        admin_port,
    })
}

/// Each pod once, by the name of its node: that stays when the pod is replaced, and with it its handlers stay where
/// their packages are. Replicas of lard come to the same names.
fn servers<'a>(agents: impl Iterator<Item = &'a Agent>, max_conn: Option<u32>) -> Vec<Server> {
    let mut pods: BTreeMap<&str, &Agent> = BTreeMap::new();
    for agent in agents {
        pods.entry(&agent.pod).or_insert(agent);
    }
    let mut servers: BTreeMap<String, Server> = BTreeMap::new();
    for agent in pods.into_values() {
        let mut name = agent.node.clone().unwrap_or_else(|| agent.address.clone());
        if servers.contains_key(&name) {
            name = format!("{name}/{}", agent.pod);
        }
        let (host, port, admin_port) = (agent.address.clone(), agent.port, agent.admin_port);
        let server = Server { name: name.clone(), host, port, admin_port, max_conn };
        servers.insert(name, server);
    }
    servers.into_values().collect()
}

/// What is looked at of a `Handler`.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "Handler")]
struct HandlerView {
    metadata: ObjectMeta,
    spec: SpecView,
    #[serde(default)]
    status: Option<StatusView>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct SpecView {
    cluster: Option<String>,
    limits: Option<limits::Limits>,
    #[serde(default)]
    requirements: Vec<String>,
    #[serde(default)]
    idempotent: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct StatusView {
    packages: Option<PackagesStatus>,
}

/// Follows what Handlers have of their own, for ever.
pub async fn follow_limits(client: Client, scope: Scope, gateway: Arc<Gateway>) {
    let api: Api<DeserializeGuard<HandlerView>> = Api::namespaced(client, &scope.namespace);
    let mut events = watcher(api, watcher::Config::default().page_size(PAGE)).backoff(patience()).boxed();
    let mut listed = HashMap::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::Init) => listed.clear(),
            Ok(Event::InitApply(handler)) => {
                let (name, own) = own(&handler, &scope);
                if own != Own::default() {
                    listed.insert(name, own);
                }
            }
            Ok(Event::InitDone) => gateway.limits.replace(std::mem::take(&mut listed)),
            Ok(Event::Apply(handler)) => {
                let (name, own) = own(&handler, &scope);
                gateway.limits.set(name, own);
            }
            Ok(Event::Delete(handler)) => gateway.limits.set(handler.name_any(), Own::default()),
            Err(error) => {
                tracing::warn!(%error, "cannot watch Handlers; their limits stay those that they were")
            }
        }
    }
}

/// A handler's name and what it has of its own. What cannot be read the agent complains of. Whether one that names no
/// cluster is ours the agents decide (ADR 3): in a namespace a name is one handler, whoever serves it.
fn own(handler: &DeserializeGuard<HandlerView>, scope: &Scope) -> (String, Own) {
    let name = handler.name_any();
    let Ok(view) = &handler.0 else { return (name, Own::default()) };
    let is_ours = view.spec.cluster.as_ref().is_none_or(|cluster| *cluster == scope.cluster);
    if !is_ours {
        return (name, Own::default());
    }
    let limits = view.spec.limits.as_ref();
    let request = limits.and_then(|limits| limits.request.as_ref());
    let request = request.and_then(|size| Size::parse(size.as_str()).ok());
    let timeout = limits.and_then(|limits| limits.timeout.as_ref());
    let own = Own {
        request: request.and_then(|size| usize::try_from(size.bytes()).ok()),
        timeout: timeout.and_then(|span| durations::parse(span.as_str()).ok()),
        packages: needed(view),
        idempotent: view.spec.idempotent,
    };
    (name, own)
}

/// The digest of the packages that a handler needs: of their lock, which agents know their Zygotes by. Until there is
/// one what is asked for stands in: handlers that ask for the same meet all the same.
fn needed(view: &HandlerView) -> Option<u64> {
    let recorded = view.status.as_ref().and_then(|status| status.packages.as_ref());
    let asked = || {
        let lines = view.spec.requirements.iter().map(|line| line.trim());
        (!view.spec.requirements.is_empty()).then(|| packages::digest(lines))
    };
    recorded.and_then(|recorded| packages::of_lock(&recorded.locked)).or_else(asked)
}

/// Between two tries of a watch: soon at first, and never so long that people wait for it once the API server is back.
fn patience() -> watcher::ExponentialBackoff {
    let (first, last) = (Duration::from_millis(200), Duration::from_secs(5));
    let builder = backon::ExponentialBuilder::default().with_min_delay(first).with_max_delay(last);
    builder.with_factor(2.0).with_jitter().without_max_times().into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn slice(name: &str, family: &str, endpoints: &Value) -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": name}, "addressType": family, "endpoints": endpoints,
            "ports": [{"name": "admin", "port": 9080}, {"name": "http", "port": 8080}],
        }))
        .unwrap()
    }

    fn endpoint(node: &str, address: &str, ready: bool) -> Value {
        json!({
            "addresses": [address], "nodeName": node, "targetRef": {"kind": "Pod", "name": format!("agent-{node}")},
            "conditions": {"ready": ready, "serving": true, "terminating": !ready},
        })
    }

    fn names(slices: &Slices) -> Vec<String> {
        slices.servers(None).iter().map(|one| format!("{} {}:{}", one.name, one.host, one.port)).collect()
    }

    #[test]
    fn ready_endpoints_are_agents_named_by_their_nodes() {
        let mut slices = Slices::default();
        assert!(!slices.take(Event::Init));
        let four = [
            endpoint("b", "10.0.0.2", true),
            endpoint("a", "10.0.0.1", true),
            endpoint("c", "10.0.0.3", false),
        ];
        assert!(!slices.take(Event::InitApply(slice(
            "six",
            "IPv6",
            &json!([endpoint("a", "fd00::1", true)])
        ))));
        assert!(!slices.take(Event::InitApply(slice("four", "IPv4", &json!(four)))));
        assert!(slices.take(Event::InitDone));
        assert_eq!(names(&slices), ["a 10.0.0.1:8080", "b 10.0.0.2:8080"]);
        let going = [endpoint("b", "10.0.0.2", false), endpoint("c", "10.0.0.3", true)];
        assert!(slices.take(Event::Apply(slice("four", "IPv4", &json!(going)))));
        assert_eq!(names(&slices), ["a fd00::1:8080", "c 10.0.0.3:8080"]);
        assert!(slices.take(Event::Delete(slice("six", "IPv6", &json!([])))));
        assert_eq!(names(&slices), ["c 10.0.0.3:8080"]);
        // A list that begins anew changes nothing until it is complete.
        assert!(!slices.take(Event::Init));
        assert_eq!(names(&slices), ["c 10.0.0.3:8080"]);
    }

    #[test]
    fn two_pods_of_a_node_have_two_names() {
        let mut second = endpoint("a", "10.0.0.2", true);
        second["targetRef"]["name"] = json!("agent-z");
        let mut slices = Slices::default();
        slices.take(Event::Apply(slice("s", "IPv4", &json!([endpoint("a", "10.0.0.1", true), second]))));
        assert_eq!(names(&slices), ["a 10.0.0.1:8080", "a/agent-z 10.0.0.2:8080"]);
    }

    #[test]
    fn handlers_have_limits_of_their_own() {
        let scope = Scope { cluster: "demo".into(), namespace: "n".into() };
        let of = |spec: Value| {
            let value = json!({"apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler", "metadata": {"name": "h"}, "spec": spec});
            own(&serde_json::from_value(value).unwrap(), &scope).1
        };
        let limits = json!({"timeout": "2m", "request": "8Mi", "memory": "1Gi"});
        let own = Own {
            request: Some(8 << 20),
            timeout: Some(std::time::Duration::from_secs(120)),
            ..Own::default()
        };
        assert_eq!(of(json!({"source": {"inline": "x"}, "limits": limits})), own);
        assert_eq!(of(json!({"cluster": "other", "limits": limits})), Own::default());
        assert_eq!(of(json!({"source": {"inline": "x"}})), Own::default());
        assert_eq!(of(json!(7)), Own::default());
        let idempotent = Own { idempotent: true, ..Own::default() };
        assert_eq!(of(json!({"source": {"inline": "x"}, "idempotent": true})), idempotent);
    }

    #[test]
    fn packages_are_those_of_the_lock_or_else_those_asked_for() {
        let of = |requirements: &[&str], locked: Option<&[&str]>| {
            let mut value = json!({
                "apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler", "metadata": {"name": "h"},
                "spec": {"source": {"inline": "x"}, "requirements": requirements},
            });
            if let Some(locked) = locked {
                value["status"] = json!({"packages": {"requirements": "d", "locked": locked}});
            }
            let scope = Scope { cluster: "demo".into(), namespace: "n".into() };
            own(&serde_json::from_value(value).unwrap(), &scope).1.packages
        };
        let locked = of(&["pandas"], Some(&["pandas==2.2.3", "numpy==2.2.1"]));
        assert_eq!(locked, Some(packages::digest(["numpy-2.2.1", "pandas-2.2.3"])));
        assert_eq!(of(&["pandas>=2"], Some(&["numpy==2.2.1", "pandas==2.2.3"])), locked);
        let asked = of(&["pandas", "six"], None);
        assert!(asked.is_some() && asked == of(&["six", "pandas"], Some(&[])) && asked != of(&["six"], None));
        assert_eq!(of(&[], None), None);
    }
}
