//! The configuration files of agents, lard and an embedded registry, in the formats of `crates/config`.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use openlambda_api::cluster::{LoadFormula, Policy, S3};
use openlambda_api::labels::{self, Component, children};
use openlambda_config::LIVE_KEYS;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{ValidCluster, registry};

/// lard gives an agent this much longer than the agent takes at most, so that the agent's own answer arrives.
const MARGIN: Duration = Duration::from_secs(5);
/// The least that calls in flight get when a pod ends.
const DRAIN_MIN: Duration = Duration::from_secs(60);
/// Of an agent's storage, packages may take so much; the rest is for bundles, and for what is just being installed.
const PACKAGES_PERCENT: u64 = 75;
/// cgroups that an agent keeps ready.
const CGROUP_POOL: u32 = 16;

/// The ConfigMap, and the digest of each file for the pods that read it.
pub(super) struct Config {
    pub config_map: ConfigMap,
    pub worker_digest: String,
    pub balancer_digest: String,
    pub registry_digest: String,
}

pub(super) fn config(cluster: &ValidCluster) -> Config {
    let (worker, balancer) = (text(&worker(cluster)), balancer(cluster));
    let registry = text(&registry::file());
    let mut metadata = cluster.meta(children::config(&cluster.name), Component::Agent);
    // It belongs to all parts.
    metadata.labels.get_or_insert_default().remove(labels::COMPONENT);
    let mut files = BTreeMap::from([
        (children::WORKER_FILE.to_owned(), worker.clone()),
        (children::BALANCER_FILE.to_owned(), text(&balancer)),
    ]);
    if cluster.embedded().is_some() {
        files.insert(children::REGISTRY_FILE.to_owned(), registry.clone());
    }
    Config {
        registry_digest: digest(&registry),
        worker_digest: digest(&worker),
        balancer_digest: digest(&text(&without_live(&balancer))),
        config_map: ConfigMap { metadata, data: Some(files), ..ConfigMap::default() },
    }
}

/// An agent's file: what holds for handlers that say nothing else, and the agent's own limits.
pub(super) fn worker(cluster: &ValidCluster) -> Value {
    let spec = &cluster.spec;
    let (limits, concurrency) = (&spec.handler_defaults.limits, &spec.handler_defaults.concurrency);
    let state = |name: &str| format!("{}/{name}", children::STATE_DIR);
    let mut file = json!({
        "registry": "local",
        "registry_dir": state("handlers"),
        "Pkgs_dir": state("packages"),
        "worker_dir": state("worker"),
        "cluster_name": format!("{}/{}", cluster.namespace, cluster.name),
        "sandbox": "sock",
        "SOCK_base_path": "host",
        "worker_port": labels::HTTP_PORT,
        "admin_port": labels::ADMIN_PORT,
        "cg_pool_size": CGROUP_POOL,
        "max_runners": concurrency.per_instance,
        "max_instances": concurrency.max_instances,
        "min_warm": concurrency.min_warm,
        "idle_timeout": concurrency.idle_timeout,
        "handler_cache_size": spec.agent.handler_cache.memory,
        "import_cache_size": cluster.import_cache.to_string(),
        "queue_length": spec.agent.queue.length,
        "queue_timeout": spec.agent.queue.timeout,
        "drain_timeout": format!("{}s", cluster.agent_drain().as_secs()),
        "limits": {
            "memory": limits.memory,
            "cpu_weight": limits.cpu_weight,
            "pids": limits.pids,
            "open_files": limits.open_files,
            "timeout": limits.timeout,
            "scratch": limits.scratch,
            "request": limits.request,
            "response": limits.response,
        },
    });
    if let Some(pool) = &spec.agent.memory_pool {
        file["memory_pool"] = json!(pool);
    }
    if let Some(cpu) = &limits.cpu {
        file["limits"]["cpu"] = json!(cpu.0);
    }
    put_packages(&mut file, cluster);
    if let Some(s3) = cluster.bucket() {
        put_registry(&mut file, &s3, s3.bucket.clone());
    }
    file
}

/// Where packages come from and how much they may take; and the tree of those that are imported ahead.
fn put_packages(file: &mut Value, cluster: &ValidCluster) {
    let spec = &cluster.spec;
    if let Some(index) = &spec.packages.index_url {
        file["pip_mirror"] = json!(index);
    }
    if spec.packages.ca.is_some() {
        file["packages_ca"] = json!(format!("{}/{}", children::CA_DIR, children::CA_FILE));
    }
    if spec.packages.allow_source_builds {
        file["allow_source_builds"] = json!(true);
    }
    if spec.agent.import_cache.tree.is_some() {
        file["import_cache_tree"] = json!(format!("{}/{}", children::TREE_DIR, children::TREE_FILE));
    }
    if let Some(size) = cluster.storage {
        file["packages_size"] = json!((size.bytes() / 100 * PACKAGES_PERCENT).to_string());
    }
    if !spec.packages.preinstall.is_empty() {
        file["startup_pkgs"] = json!(spec.packages.preinstall);
    }
}

/// Where its handlers' bundles are: in a bucket, or in a part of one.
fn put_registry(file: &mut Value, s3: &S3, part: String) {
    file["registry"] = json!(format!("s3://{part}"));
    file["registry_region"] = json!(s3.region);
    if let Some(endpoint) = &s3.endpoint {
        file["registry_server"] = json!(endpoint);
    }
    if s3.ca.is_some() {
        file["registry_ca"] = json!(format!("{}/{}", children::REGISTRY_CA_DIR, children::CA_FILE));
    }
}

/// lard's file. Its servers are the EndpointSlices of the agents' Service.
pub(super) fn balancer(cluster: &ValidCluster) -> Value {
    let balancer = &cluster.spec.load_balancer;
    let mut file = json!({
        "Host": "0.0.0.0",
        "Port": labels::HTTP_PORT,
        "AdminPort": labels::ADMIN_PORT,
        "Policy": policy(balancer.policy),
        "LoadFormula": formula(balancer.load_formula),
        "LoadLow": fraction(balancer.load_low_percent),
        "LoadHigh": fraction(balancer.load_high_percent),
        "RequestLimit": cluster.spec.handler_defaults.limits.request,
        "Timeout": format!("{}ms", cluster.balancer_timeout().as_millis()),
        "QueueLength": balancer.queue.length,
        "QueueTimeout": balancer.queue.timeout,
        "DrainTimeout": format!("{}s", cluster.balancer_drain().as_secs()),
        "Servers": [],
    });
    if let Some(most) = balancer.max_connections_per_agent {
        file["MaxConnPerServer"] = json!(most);
    }
    if let (Some(_), Some(s3)) = (&balancer.registry_api, cluster.bucket()) {
        let mut registry = json!({});
        // Uploads are kept below the namespace.
        put_registry(&mut registry, &s3, format!("{}/{}", s3.bucket, cluster.namespace));
        let token = format!("{}/{}", children::TOKEN_DIR, children::TOKEN_FILE);
        file["RegistryApi"] = json!({"TokenFile": token, "Registry": registry});
    }
    file
}

/// What of lard's file a running lard does not take up when it changes: what its pods are replaced for.
fn without_live(balancer: &Value) -> Value {
    let mut rest = balancer.clone();
    if let Some(keys) = rest.as_object_mut() {
        LIVE_KEYS.iter().for_each(|key| drop(keys.shift_remove(*key)));
    }
    rest
}

impl ValidCluster {
    /// What a call may take at lard if its handler has no timeout of its own. One that has gets that on top.
    fn balancer_timeout(&self) -> Duration {
        self.timeout + self.agent_queue + self.balancer_queue + MARGIN
    }

    /// What calls in flight get when an agent ends, in whole seconds: what a call of a handler without a timeout of its
    /// own may take, waiting included, and never less than `DRAIN_MIN`. A handler may allow itself up to an hour, but a
    /// pod with that grace would hold up the deletion of its namespace for half of it.
    pub(super) fn agent_drain(&self) -> Duration {
        whole_seconds(self.timeout.max(DRAIN_MIN) + self.agent_queue)
    }

    /// The same for lard, through which every call goes.
    pub(super) fn balancer_drain(&self) -> Duration {
        whole_seconds(self.balancer_timeout().max(DRAIN_MIN + self.agent_queue + self.balancer_queue))
    }
}

fn whole_seconds(exact: Duration) -> Duration {
    Duration::from_secs(exact.as_secs() + u64::from(exact.subsec_nanos() > 0))
}

fn policy(policy: Policy) -> &'static str {
    match policy {
        Policy::RoundRobin => "RoundRobin",
        Policy::LeastLoaded => "LeastLoaded",
        Policy::PowerOfTwo => "PowerOfTwo",
        Policy::ConsistentHashBoundedLoads => "ConsistentHashBoundedLoads",
        Policy::Lard => "LARD",
        Policy::LardReplicated => "LARD/R",
        Policy::CostAware => "CostAware",
    }
}

fn formula(formula: LoadFormula) -> &'static str {
    match formula {
        LoadFormula::Connections => "Connections",
        LoadFormula::AverageResource => "AverageResource",
        LoadFormula::AverageResourceConnections => "AverageResourceConnections",
        LoadFormula::DominantResource => "DominantResource",
        LoadFormula::DominantResourceConnections => "DominantResourceConnections",
    }
}

fn fraction(percent: i32) -> f64 {
    f64::from(percent) / 100.0
}

fn text(value: &Value) -> String {
    // The alternate form is indented; a Value always has one.
    format!("{value:#}\n")
}

fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
