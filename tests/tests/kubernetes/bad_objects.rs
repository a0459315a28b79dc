//! Handlers and LambdaClusters that are wrong in every way we could think of: what the API server refuses, and what the
//! status says of the rest.

use anyhow::{Context as _, Result, ensure};
use openlambda_tests::kubernetes::{Namespace, Release, handler};
use openlambda_tests::until;
use serde_json::{Value, json};

use crate::shared;

/// A change of a good Handler, and what the refusal must say of it.
fn refused_handlers() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let many_files: serde_json::Map<String, Value> =
        (0..2000).map(|n| (format!("f{n}.py"), json!(""))).collect();
    vec![
        ("no source", json!({"source": null}), &["spec.source", "Required"]),
        ("an empty source", json!({"source": {"inline": null}}), &["give exactly one of inline, files"]),
        (
            "two sources",
            json!({"source": {"configMap": {"name": "x"}}}),
            &["give exactly one of inline, files"],
        ),
        ("empty code", json!({"source": {"inline": ""}}), &["spec.source.inline"]),
        ("too many files", json!({"source": {"inline": null, "files": many_files}}), &["spec.source.files"]),
        (
            "a file outside",
            json!({"source": {"inline": null, "files": {"../x.py": ""}}}),
            &["spec.source.files"],
        ),
        (
            "a digest that is none",
            json!({"source": {"inline": null, "http": {"url": "http://x/", "digest": "md5:1"}}}),
            &["digest"],
        ),
        (
            "a URL that is none",
            json!({"source": {"inline": null, "http": {"url": "ftp://x/", "digest": DIGEST}}}),
            &["url"],
        ),
        ("an entrypoint that is none", json!({"entrypoint": "lambda func"}), &["spec.entrypoint"]),
        ("no memory", json!({"limits": {"memory": "0"}}), &["spec.limits.memory"]),
        ("memory in words", json!({"limits": {"memory": "much"}}), &["spec.limits.memory"]),
        ("a negative timeout", json!({"limits": {"timeout": "-1s"}}), &["spec.limits.timeout"]),
        ("a timeout of a year", json!({"limits": {"timeout": "9000h"}}), &["spec.limits.timeout"]),
        ("no pids", json!({"limits": {"pids": 0}}), &["spec.limits.pids"]),
        ("pids in words", json!({"limits": {"pids": "ten"}}), &["spec.limits.pids"]),
        ("no instances", json!({"concurrency": {"maxInstances": 0}}), &["spec.concurrency.maxInstances"]),
        (
            "more warm than there may be",
            json!({"concurrency": {"maxInstances": 1, "minWarm": 2}}),
            &["minWarm must not be greater"],
        ),
        ("a variable with a space", json!({"env": [{"name": "A B", "value": "1"}]}), &["spec.env[0].name"]),
        (
            "a variable twice over",
            json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}),
            &["spec.env"],
        ),
        (
            "a value from two places",
            json!({"env": [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            &["give value or valueFrom"],
        ),
        (
            "a value from nowhere",
            json!({"env": [{"name": "A", "valueFrom": {}}]}),
            &["give exactly one of secretKeyRef"],
        ),
        ("all of nothing", json!({"envFrom": [{}]}), &["give exactly one of secretRef"]),
        ("a field with a typo", json!({"limit": {"memory": "64Mi"}}), &["spec.limit"]),
        ("a reuse that is none", json!({"reuse": "Sometimes"}), &["spec.reuse"]),
    ]
}

const DIGEST: &str = "sha256:0f343b0931126a20f133d67c2b018a3b5d6d1d6a8c9f2d3a5c3f0a6b7e8d9c01";

#[test]
fn what_the_api_server_refuses() -> Result<()> {
    let release = shared::release()?;
    for (what, change, parts) in refused_handlers() {
        let mut object = handler("refused", "def handler(event):\n    return 1\n");
        merge(&mut object["spec"], &change);
        let arguments = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        let outcome = release.namespace.attempt(&arguments, &object.to_string())?;
        ensure!(!outcome.success, "{what} was taken: {}", outcome.text);
        let told = parts.iter().all(|part| outcome.text.contains(part));
        ensure!(told, "{what}: the refusal does not say {parts:?}: {}", outcome.text);
    }
    for (name, says) in [("UPPER", "lowercase"), ("a".repeat(64).as_str(), "name")] {
        let object = handler(name, "def handler(event):\n    return 1\n");
        let outcome =
            release.namespace.attempt(&["create", "--dry-run=server", "-f", "-"], &object.to_string())?;
        ensure!(!outcome.success && outcome.text.contains(says), "{name}: {}", outcome.text);
    }
    Ok(())
}

#[test]
fn clusters_that_the_api_server_refuses() -> Result<()> {
    let release = shared::release()?;
    let cases: [(Value, &str); 7] = [
        (
            json!({"loadBalancer": {"loadLowPercent": 50, "loadHighPercent": 40}}),
            "loadLowPercent must be below",
        ),
        (json!({"loadBalancer": {"replicas": 0}}), "spec.loadBalancer.replicas"),
        (json!({"loadBalancer": {"service": {"nodePort": 30100}}}), "nodePort belongs to type"),
        (json!({"loadBalancer": {"policy": "Random"}}), "spec.loadBalancer.policy"),
        (json!({"registry": {}}), "give exactly one of s3 and embedded"),
        (
            json!({"loadBalancer": {"registryAPI": {"token": {"secretName": "x"}}}}),
            "loadBalancer.registryAPI needs registry",
        ),
        (json!({"ingress": {"host": "no host"}}), "spec.ingress.host"),
    ];
    for (spec, says) in cases {
        let object = json!({"apiVersion": "openlambda.dev/v1alpha1", "kind": "LambdaCluster",
            "metadata": {"name": "refused"}, "spec": spec});
        let arguments = ["create", "--dry-run=server", "-f", "-"];
        let outcome = release.namespace.attempt(&arguments, &object.to_string())?;
        ensure!(!outcome.success && outcome.text.contains(says), "{object}: {}", outcome.text);
    }
    Ok(())
}

/// Code that the API server takes and no agent can serve: with the reason, and what the message must name.
const BROKEN: [(&str, &str, &str, &[&str]); 6] = [
    ("syntax", "def handler(event):\n    retrun 1\n", "ImportFailed", &["lambda_func.py", "line 2"]),
    ("no-function", "def main(event):\n    return 1\n", "ImportFailed", &["handler"]),
    ("no-callable", "handler = 3\n", "ImportFailed", &["handler"]),
    ("raises", "import os\n\nos.environ[\"NO_SUCH\"]\n", "ImportFailed", &["line 3", "NO_SUCH"]),
    ("exits", "import os\nos._exit(3)\n", "ImportFailed", &["exit"]),
    ("hangs", "while True:\n    pass\n", "ImportFailed", &["time"]),
];

#[test]
fn what_the_status_says_of_the_rest() -> Result<()> {
    let release = shared::release()?;
    for (name, code, ..) in BROKEN {
        release.namespace.handler(name, code)?;
    }
    for (name, change) in others() {
        let mut object = handler(name, "def handler(event):\n    return 1\n");
        merge(&mut object["spec"], &change);
        release.namespace.apply(&object.to_string())?;
    }
    let broken = BROKEN.iter().map(|(name, _, reason, parts)| (*name, *reason, *parts));
    let other: [(&str, &str, &[&str]); 4] = [
        ("no-config-map", "ReferenceNotFound", &["no-such-map"]),
        ("no-secret", "ReferenceNotFound", &["no-such-secret"]),
        ("no-key", "ReferenceNotFound", &["no-such-key"]),
        ("no-cluster", "ClusterNotFound", &["no-such-cluster"]),
    ];
    for (name, reason, parts) in broken.chain(other) {
        expect(release, name, reason, parts).with_context(|| name.to_owned())?;
    }
    // A reference that appears later is taken then.
    let map =
        ["create", "configmap", "no-such-map", "--from-literal=lambda_func.py=def handler(event): return 5"];
    release.namespace.kubectl(&map)?;
    release.namespace.wait_ready("handler/no-config-map")?;
    ensure!(release.call("no-config-map", &json!(0))?.ok()? == json!(5));
    for (name, ..) in BROKEN {
        release.namespace.kubectl(&["delete", "handler", name])?;
    }
    Ok(())
}

fn others() -> [(&'static str, Value); 4] {
    let from = |reference: Value| json!({"env": [{"name": "A", "valueFrom": reference}]});
    [
        ("no-config-map", json!({"source": {"inline": null, "configMap": {"name": "no-such-map"}}})),
        ("no-secret", from(json!({"secretKeyRef": {"name": "no-such-secret", "key": "a"}}))),
        ("no-key", from(json!({"configMapKeyRef": {"name": "kube-root-ca.crt", "key": "no-such-key"}}))),
        ("no-cluster", json!({"cluster": "no-such-cluster"})),
    ]
}

fn expect(release: &Release, name: &str, reason: &str, parts: &[&str]) -> Result<()> {
    let object = format!("handler/{name}");
    let found = until(&format!("{reason} of {name}"), || {
        let ready = release.namespace.condition(&object, "Ready")?;
        Ok((ready["status"] == "False" && ready["reason"] == reason).then_some(ready))
    });
    let found = match found {
        Ok(found) => found,
        Err(error) => return Err(error.context(release.namespace.get(&object)?["status"].to_string())),
    };
    let message = found["message"].as_str().unwrap_or_default();
    ensure!(parts.iter().all(|part| message.contains(part)), "{message:?} does not say {parts:?}");
    Ok(())
}

#[test]
fn another_namespace_is_left_alone() -> Result<()> {
    let release = shared::release()?;
    let elsewhere = Namespace::new("nobody")?;
    // No operator looks after it: the object is there, and no more.
    elsewhere.handler("alone", "def handler(event):\n    return 1\n")?;
    release.deploy("alone", "def handler(event):\n    return 2\n")?;
    ensure!(
        elsewhere.get("handler/alone")?["status"].is_null(),
        "another namespace's operator wrote its status"
    );
    Ok(())
}

/// Puts what `more` has into `all`, object by object; null takes away.
fn merge(all: &mut Value, more: &Value) {
    match (all, more) {
        (Value::Object(all), Value::Object(more)) => {
            for (key, value) in more {
                if value.is_null() {
                    all.remove(key);
                } else {
                    merge(all.entry(key.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (all, more) => *all = more.clone(),
    }
}
