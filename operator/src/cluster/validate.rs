//! Second step: a cluster with every text parsed. Nobody reads the raw spec's texts after it.
//!
//! The schema has checked what it can; here is the rest, and what a server without our rules would let pass. All
//! problems are named at once.

use std::time::Duration;

use kube::ResourceExt as _;
use openlambda_api::LambdaCluster;
use openlambda_api::cluster::{Embedded, ImportCacheMode, LambdaClusterSpec, S3};
use openlambda_api::schema::{ByteSize, Span};
use openlambda_config::{Size, durations};

/// Memory of the import cache where nothing else says how much, in MiB.
const IMPORT_CACHE_MIB: u64 = 512;

/// A cluster that can be built.
#[derive(Clone, Debug)]
pub struct ValidCluster {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid, which makes its children its own.
    pub uid: String,
    /// Its spec, for what needs no parsing.
    pub spec: LambdaClusterSpec,
    /// `handlerDefaults.limits.timeout`.
    pub timeout: Duration,
    /// `agent.queue.timeout`.
    pub agent_queue: Duration,
    /// `loadBalancer.queue.timeout`.
    pub balancer_queue: Duration,
    /// `agent.storage.size`.
    pub storage: Option<Size>,
    /// Zygotes with packages may hold so much; zero: there are none.
    pub import_cache: Size,
    /// Which keys the embedded registry has, once there are some.
    pub registry_keys: Option<String>,
}

impl ValidCluster {
    /// Where bundles are, if anywhere.
    pub fn bucket(&self) -> Option<S3> {
        self.spec.registry.as_ref()?.bucket(&self.namespace, &self.name)
    }

    /// Whether lard takes uploads.
    pub fn takes_uploads(&self) -> bool {
        self.spec.load_balancer.registry_api.is_some()
    }

    /// The registry inside the cluster, if there is to be one.
    pub fn embedded(&self) -> Option<&Embedded> {
        self.spec.registry.as_ref()?.embedded.as_ref()
    }
}

/// A thing that is wrong with a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which field.
    pub field: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Checks and parses.
pub fn validate(cluster: &LambdaCluster) -> Result<ValidCluster, Vec<Problem>> {
    let spec = &cluster.spec;
    let mut check = Check::default();
    contradictions(spec, &mut check);
    let valid = ValidCluster {
        name: cluster.name_any(),
        namespace: cluster.namespace().unwrap_or_default(),
        uid: cluster.uid().unwrap_or_default(),
        timeout: check.span("spec.handlerDefaults.limits.timeout", &spec.handler_defaults.limits.timeout),
        agent_queue: check.span("spec.agent.queue.timeout", &spec.agent.queue.timeout),
        balancer_queue: check.span("spec.loadBalancer.queue.timeout", &spec.load_balancer.queue.timeout),
        storage: spec.agent.storage.size.as_ref().map(|size| check.size("spec.agent.storage.size", size)),
        import_cache: import_cache(spec, &mut check),
        registry_keys: None,
        spec: spec.clone(),
    };
    sizes(spec, &mut check);
    if check.problems.is_empty() { Ok(valid) } else { Err(check.problems) }
}

/// What the schema's rules say too; an API server that runs without them must not make us do harm.
fn contradictions(spec: &LambdaClusterSpec, check: &mut Check) {
    let balancer = &spec.load_balancer;
    if balancer.load_low_percent >= balancer.load_high_percent {
        check.blame("spec.loadBalancer.loadLowPercent", "must be below loadHighPercent");
    }
    if balancer.registry_api.is_some() && spec.registry.is_none() {
        check.blame("spec.loadBalancer.registryAPI", "needs spec.registry, where uploads go");
    }
    if let Some(registry) = &spec.registry {
        if registry.s3.is_some() == registry.embedded.is_some() {
            check.blame("spec.registry", "give exactly one of s3 and embedded");
        }
        registry.s3.iter().for_each(|s3| bucket(s3, check));
        if let Some(embedded) = &registry.embedded {
            check.size("spec.registry.embedded.size", &embedded.size);
        }
    }
    let path = spec.agent.storage.host_path.as_deref();
    if path
        .is_some_and(|path| !path.starts_with('/') || path == "/" || path.split('/').any(|part| part == ".."))
    {
        check.blame("spec.agent.storage.hostPath", "must be an absolute path below / without ..");
    }
}

/// What an agent would refuse in its file.
fn bucket(s3: &S3, check: &mut Check) {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte);
    if !s3.bucket.bytes().all(plain) {
        check.blame("spec.registry.s3.bucket", "may have lower-case letters, digits, dots and dashes");
    }
    let host = s3.endpoint.as_deref().and_then(|url| url.split_once("://")).map(|(_, host)| host);
    if host.is_some_and(|host| host.trim_end_matches('/').contains(['/', '@', '?'])) {
        check
            .blame("spec.registry.s3.endpoint", "must be a URL without a path, as in https://s3.example.com");
    }
}

/// What Zygotes may hold: as given, else a quarter of the pod's memory, else [`IMPORT_CACHE_MIB`].
fn import_cache(spec: &LambdaClusterSpec, check: &mut Check) -> Size {
    let cache = &spec.agent.import_cache;
    match (&cache.memory, cache.mode) {
        (_, ImportCacheMode::Off) => Size::ZERO,
        (Some(memory), _) => check.size("spec.agent.importCache.memory", memory),
        (None, _) => {
            let limit = spec.agent.resources.limits.get("memory");
            let limit = limit.and_then(|limit| Size::parse(&limit.0).ok());
            limit.map_or(Size::from_mib(IMPORT_CACHE_MIB), |limit| Size::from_bytes(limit.bytes() / 4))
        }
    }
}

fn sizes(spec: &LambdaClusterSpec, check: &mut Check) {
    let limits = &spec.handler_defaults.limits;
    for (field, size) in [
        ("spec.handlerDefaults.limits.memory", &limits.memory),
        ("spec.handlerDefaults.limits.scratch", &limits.scratch),
        ("spec.handlerDefaults.limits.request", &limits.request),
        ("spec.handlerDefaults.limits.response", &limits.response),
        ("spec.agent.handlerCache.memory", &spec.agent.handler_cache.memory),
    ] {
        check.size(field, size);
    }
    check.span(
        "spec.handlerDefaults.concurrency.idleTimeout",
        &spec.handler_defaults.concurrency.idle_timeout,
    );
}

/// Gathers problems.
#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn blame(&mut self, field: &'static str, message: impl Into<String>) {
        self.problems.push(Problem { field, message: message.into() });
    }

    fn size(&mut self, field: &'static str, text: &ByteSize) -> Size {
        Size::parse(text.as_str()).unwrap_or_else(|error| {
            self.blame(field, format!("{text:?} {error}", text = text.as_str()));
            Size::ZERO
        })
    }

    fn span(&mut self, field: &'static str, text: &Span) -> Duration {
        durations::parse(text.as_str()).unwrap_or_else(|error| {
            self.blame(field, format!("{text:?} {error}", text = text.as_str()));
            Duration::ZERO
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::cluster;

    fn problems(spec: serde_json::Value) -> Vec<String> {
        validate(&cluster("demo", spec)).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_empty_spec_is_valid() {
        let valid = validate(&cluster("demo", json!({}))).unwrap();
        assert_eq!((valid.timeout, valid.agent_queue), (Duration::from_secs(30), Duration::from_secs(10)));
        assert_eq!((valid.name.as_str(), valid.import_cache), ("demo", Size::from_mib(512)));
    }

    #[test]
    fn the_import_cache_has_what_is_given_or_a_quarter_or_a_default() {
        let size = |agent: serde_json::Value| {
            validate(&cluster("demo", json!({"agent": agent}))).unwrap().import_cache
        };
        let limits = json!({"limits": {"memory": "16Gi"}});
        assert_eq!(
            size(json!({"importCache": {"memory": "1Gi"}, "resources": limits})),
            Size::from_mib(1024)
        );
        assert_eq!(size(json!({"resources": limits})), Size::from_mib(4096));
        assert_eq!(size(json!({})), Size::from_mib(512));
        assert_eq!(size(json!({"importCache": {"mode": "Off", "memory": "1Gi"}})), Size::ZERO);
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let texts = problems(json!({
            "agent": {"storage": {"hostPath": "/a/../etc", "size": "much"}, "queue": {"timeout": "10"}},
            "handlerDefaults": {"limits": {"memory": "128MB"}},
            "loadBalancer": {"loadLowPercent": 50, "loadHighPercent": 50},
        }));
        assert_eq!(texts.len(), 5, "{texts:#?}");
        for start in [
            "spec.loadBalancer.loadLowPercent: must be below",
            "spec.agent.storage.hostPath: must be an absolute path",
            "spec.agent.queue.timeout: \"10\" has no unit",
            "spec.handlerDefaults.limits.memory: \"128MB\" is no quantity",
            "spec.agent.storage.size: \"much\" is no quantity",
        ] {
            assert!(texts.iter().any(|text| text.starts_with(start)), "{start} is not in {texts:#?}");
        }
    }

    #[test]
    fn buckets_are_checked() {
        let s3 = |bucket: &str, endpoint: &str| json!({"registry": {"s3": {"bucket": bucket, "endpoint": endpoint}}});
        validate(&cluster("demo", s3("handlers-1", "https://s3.example.com/"))).unwrap();
        let texts = problems(s3("Handlers", "https://s3.example.com/path"));
        assert!(texts[0].starts_with("spec.registry.s3.bucket: may have"), "{texts:?}");
        assert!(texts[1].starts_with("spec.registry.s3.endpoint: must be"), "{texts:?}");
    }

    #[test]
    fn uploads_need_a_registry() {
        let balancer = json!({"registryAPI": {"token": {"secretName": "uploads"}}});
        let valid =
            validate(&cluster("demo", json!({"loadBalancer": balancer, "registry": {"embedded": {}}})));
        assert!(
            valid.unwrap().takes_uploads() && !validate(&cluster("demo", json!({}))).unwrap().takes_uploads()
        );
        let texts = problems(json!({"loadBalancer": balancer}));
        assert_eq!(texts, ["spec.loadBalancer.registryAPI: needs spec.registry, where uploads go"]);
    }

    #[test]
    fn a_registry_is_one_of_two() {
        validate(&cluster("demo", json!({"registry": {"embedded": {}}}))).unwrap();
        for registry in [json!({}), json!({"embedded": {}, "s3": {"bucket": "handlers"}})] {
            let texts = problems(json!({"registry": registry}));
            assert_eq!(texts, ["spec.registry: give exactly one of s3 and embedded"]);
        }
        let texts = problems(json!({"registry": {"embedded": {"size": "much"}}}));
        assert!(texts[0].starts_with("spec.registry.embedded.size: \"much\" is no quantity"), "{texts:?}");
    }
}
