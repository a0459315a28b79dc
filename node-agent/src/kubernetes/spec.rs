//! From a spec to what holds for the handler's instances and calls: a pure mapping. What the spec leaves out is the
//! worker's default.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use openlambda_api::conditions::ConditionReason;
use openlambda_api::handler::{PackagesStatus, Reuse};
use openlambda_api::schema::{ByteSize, Span};
use openlambda_api::{Handler, HandlerSpec};
use openlambda_config::{Size, durations};
use serde::Deserialize;

use crate::registry::Unpacked;
use crate::revision::{Settings, wide};
use crate::trouble::Trouble;

/// Below this a Python interpreter does not start.
const MIN_MEMORY: u64 = 16 << 20;
/// The shortest share of a CPU that the kernel grants, in thousandths.
const MIN_CPU: u32 = 10;

/// A `Handler` without most of its status, which changes more often than it does.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "Handler")]
pub struct HandlerView {
    /// The metadata.
    pub metadata: ObjectMeta,
    /// The spec.
    pub spec: HandlerSpec,
    /// What of the status concerns agents.
    #[serde(default)]
    pub status: Option<StatusView>,
}

/// What agents read of a status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct StatusView {
    /// Which versions the requirements mean, on every node.
    #[serde(default)]
    pub packages: Option<PackagesStatus>,
}

/// An object of the namespace that a spec names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reference {
    /// A ConfigMap.
    ConfigMap(String),
    /// A Secret.
    Secret(String),
}

impl std::fmt::Display for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ConfigMap(name) => write!(f, "ConfigMap {name}"),
            Self::Secret(name) => write!(f, "Secret {name}"),
        }
    }
}

/// All objects that a spec names.
pub fn references(spec: &HandlerSpec) -> BTreeSet<Reference> {
    let mut all = BTreeSet::new();
    all.extend(spec.source.config_map.iter().map(|source| Reference::ConfigMap(source.name.clone())));
    for from in &spec.env_from {
        all.extend(from.config_map_ref.iter().map(|one| Reference::ConfigMap(one.name.clone())));
        all.extend(from.secret_ref.iter().map(|one| Reference::Secret(one.name.clone())));
    }
    for from in spec.env.iter().filter_map(|variable| variable.value_from.as_ref()) {
        all.extend(from.config_map_key_ref.iter().map(|one| Reference::ConfigMap(one.name.clone())));
        all.extend(from.secret_key_ref.iter().map(|one| Reference::Secret(one.name.clone())));
    }
    all
}

/// What holds for a handler whose bundle may say something too: the spec's word is the last.
pub fn settings_with(
    spec: &HandlerSpec,
    defaults: &Settings,
    env: BTreeMap<String, String>,
    unpacked: &Unpacked,
) -> Result<Settings, Trouble> {
    let said = unpacked.settings(defaults);
    let mut env_of_both = said.env.clone();
    env_of_both.extend(env);
    let mut settings = settings(spec, &said, env_of_both)?;
    settings.entrypoint = said.entrypoint;
    if !said.reuse {
        settings.runners = 1;
    }
    Ok(settings)
}

/// What holds for the handler.
pub fn settings(
    spec: &HandlerSpec,
    defaults: &Settings,
    env: BTreeMap<String, String>,
) -> Result<Settings, Trouble> {
    let limits = spec.limits.clone().unwrap_or_default();
    let concurrency = spec.concurrency.clone().unwrap_or_default();
    let mut settings = Settings { entrypoint: entrypoint(&spec.entrypoint)?, env, ..defaults.clone() };
    let sandbox = &mut settings.limits;
    set(&mut sandbox.memory, "spec.limits.memory", limits.memory, |size| size_from(MIN_MEMORY, size))?;
    set(&mut sandbox.cpu_weight, "spec.limits.cpuWeight", limits.cpu_weight, positive)?;
    set(&mut sandbox.open_files, "spec.limits.openFiles", limits.open_files, positive)?;
    set(&mut sandbox.pids, "spec.limits.pids", limits.pids, positive)?;
    set(&mut sandbox.scratch, "spec.limits.scratch", limits.scratch, |size| size_from(4096, size))?;
    set(&mut sandbox.cpu_millis, "spec.limits.cpu", limits.cpu, cpu_millis)?;
    set(&mut settings.timeout, "spec.limits.timeout", limits.timeout, span)?;
    set(&mut settings.request, "spec.limits.request", limits.request, |size| size_from(1, size))?;
    let response = |size| size_from(1, size).map(wide);
    set(&mut settings.response, "spec.limits.response", limits.response, response)?;
    set(&mut settings.runners, "spec.concurrency.perInstance", concurrency.per_instance, positive)?;
    set(&mut settings.max_instances, "spec.concurrency.maxInstances", concurrency.max_instances, positive)?;
    set(&mut settings.min_warm, "spec.concurrency.minWarm", concurrency.min_warm, from_zero)?;
    set(&mut settings.idle_timeout, "spec.concurrency.idleTimeout", concurrency.idle_timeout, span)?;
    if spec.reuse == Reuse::Never {
        settings.reuse = false;
        settings.runners = 1;
    }
    Ok(settings)
}

/// Replaces a default with what the field says, if it says something.
fn set<T, F>(
    target: &mut T,
    field: &str,
    value: Option<F>,
    read: impl FnOnce(F) -> Result<T, String>,
) -> Result<(), Trouble> {
    if let Some(value) = value {
        *target = read(value)
            .map_err(|why| Trouble::lasting(ConditionReason::InvalidSpec, format!("{field}: {why}")))?;
    }
    Ok(())
}

fn entrypoint(text: &str) -> Result<String, Trouble> {
    let part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if text.contains('.') && text.split('.').all(part) {
        return Ok(text.to_owned());
    }
    let message = format!("spec.entrypoint: {text:?} is not MODULE.FUNCTION, such as lambda_func.handler");
    Err(Trouble::lasting(ConditionReason::InvalidSpec, message))
}

fn size_from(least: u64, size: ByteSize) -> Result<u64, String> {
    let bytes = Size::parse(size.as_str()).map_err(|error| format!("{:?} {error}", size.as_str()))?.bytes();
    if bytes < least {
        return Err(format!("{size} is too little: at least {}", Size::from_bytes(least)));
    }
    Ok(bytes)
}

fn span(span: Span) -> Result<Duration, String> {
    match durations::parse(span.as_str()) {
        Ok(duration) if !duration.is_zero() => Ok(duration),
        Ok(_) => Err(format!("{:?} must be above 0", span.as_str())),
        Err(error) => Err(format!("{:?} {error}", span.as_str())),
    }
}

fn positive(number: i32) -> Result<u32, String> {
    match u32::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{number} must be 1 or more")),
    }
}

fn from_zero(number: i32) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("{number} must be 0 or more"))
}

fn cpu_millis(quantity: Quantity) -> Result<Option<u32>, String> {
    let text = quantity.0.trim();
    let wrong = || format!("{text:?} is no number of cores such as 1, \"0.5\" or 500m");
    let millis = match text.strip_suffix('m') {
        Some(millis) => millis.parse().map_err(|_| wrong())?,
        None => {
            let (whole, part) = text.split_once('.').unwrap_or((text, ""));
            let whole: u32 = whole.parse().map_err(|_| wrong())?;
            let digits: String = part.chars().chain("000".chars()).take(3).collect();
            let part: u32 = digits.parse().map_err(|_| wrong())?;
            whole.checked_mul(1000).and_then(|millis| millis.checked_add(part)).ok_or_else(wrong)?
        }
    };
    if millis == 0 { Err(wrong()) } else { Ok(Some(millis.max(MIN_CPU))) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::revision::tests::defaults;

    fn spec(value: Value) -> HandlerSpec {
        let mut whole = json!({"source": {"inline": "x"}});
        for (key, value) in value.as_object().unwrap() {
            whole[key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn map(value: Value) -> Result<Settings, Trouble> {
        settings(&spec(value), &defaults(), BTreeMap::new())
    }

    #[test]
    fn a_spec_that_says_nothing_has_the_defaults() {
        assert_eq!(map(json!({})).unwrap(), defaults());
    }

    #[test]
    fn what_is_said_holds() {
        let settings = map(json!({
            "entrypoint": "app.api.main",
            "limits": {
                "memory": "512Mi", "cpu": "500m", "cpuWeight": 50, "pids": 7, "openFiles": 32, "timeout": "1m30s", "scratch": "1Gi", "request": "1Ki",
                "response": "2Ki"
            },
            "concurrency": {"perInstance": 4, "maxInstances": 9, "minWarm": 2, "idleTimeout": "5s"},
        }))
        .unwrap();
        let limits = settings.limits;
        assert_eq!((limits.memory, limits.pids, limits.scratch), (512 << 20, 7, 1 << 30));
        assert_eq!((limits.cpu_millis, settings.timeout.as_secs()), (Some(500), 90));
        assert_eq!((settings.request, settings.response), (1024, 2048));
        assert_eq!((limits.cpu_weight, limits.open_files), (50, 32));
        assert_eq!((settings.runners, settings.max_instances, settings.min_warm), (4, 9, 2));
        assert_eq!((settings.idle_timeout.as_secs(), settings.reuse), (5, true));
        assert_eq!(settings.entrypoint, "app.api.main");
    }

    #[test]
    fn without_reuse_an_instance_has_one_call() {
        let settings = map(json!({"reuse": "Never", "concurrency": {"perInstance": 8}})).unwrap();
        assert_eq!((settings.reuse, settings.runners), (false, 1));
    }

    #[test]
    fn cores() {
        let read = |text: &str| cpu_millis(Quantity(text.into()));
        for (text, millis) in [("1", 1000), ("0.5", 500), ("2.25", 2250), ("250m", 250), ("1m", MIN_CPU)] {
            assert_eq!(read(text), Ok(Some(millis)), "{text}");
        }
        for text in ["", "x", "-1", "0", "1.5m", "0.0001x", "99999999"] {
            assert!(read(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn what_is_wrong_names_its_field() {
        for (value, part) in [
            (json!({"limits": {"memory": "1Mi"}}), "spec.limits.memory: 1Mi is too little: at least 16Mi"),
            (json!({"limits": {"memory": "lots"}}), "spec.limits.memory: \"lots\""),
            (json!({"limits": {"timeout": "0s"}}), "spec.limits.timeout: \"0s\" must be above 0"),
            (json!({"limits": {"pids": -1}}), "spec.limits.pids: -1 must be 1 or more"),
            (json!({"concurrency": {"maxInstances": 0}}), "spec.concurrency.maxInstances: 0"),
            (json!({"entrypoint": "handler"}), "spec.entrypoint: \"handler\" is not MODULE.FUNCTION"),
            (json!({"entrypoint": "../x.handler"}), "spec.entrypoint"),
        ] {
            let trouble = map(value.clone()).unwrap_err();
            assert_eq!(trouble.reason, ConditionReason::InvalidSpec);
            assert!(trouble.message.starts_with(part), "{value}: {}", trouble.message);
        }
    }

    #[test]
    fn references_are_found_wherever_they_are() {
        let spec = spec(json!({
            "source": {"configMap": {"name": "code"}},
            "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
                {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
            ],
            "envFrom": [{"secretRef": {"name": "s2"}}, {"configMapRef": {"name": "c2"}}],
        }));
        let names: Vec<_> = references(&spec).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["ConfigMap c1", "ConfigMap c2", "ConfigMap code", "Secret s1", "Secret s2"]);
    }
}
