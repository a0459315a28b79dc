//! The definitions: what is committed is what is generated, and the schemas are such that an API server takes them.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;

use openlambda_api::{Handler, LambdaCluster, crds};
use serde_json::{Value, json};

fn values() -> Vec<(&'static str, Value)> {
    crds::all().into_iter().map(|(file, crd)| (file, serde_json::to_value(crd).unwrap())).collect()
}

fn schema(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// Calls `look` with the path and value of every object.
fn walk(value: &Value, path: &str, look: &mut impl FnMut(&str, &serde_json::Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            look(path, map);
            for (key, inner) in map {
                walk(inner, &format!("{path}.{key}"), look);
            }
        }
        Value::Array(list) => {
            for (index, inner) in list.iter().enumerate() {
                walk(inner, &format!("{path}[{index}]"), look);
            }
        }
        _ => {}
    }
}

#[test]
fn committed_files_are_as_generated() {
    for (file, crd) in values() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let committed: Value = serde_saphyr::from_str(&text).unwrap_or_default();
        let committed = numbers(committed);
        assert!(
            committed == numbers(crd),
            "crds/{file} is not what crates/api generates: run `cargo xtask codegen`"
        );
    }
}

/// The same with every number as a float: YAML does not tell 1 from 1.0.
fn numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(list) => list.into_iter().map(numbers).collect(),
        Value::Object(map) => Value::Object(map.into_iter().map(|(k, v)| (k, numbers(v))).collect()),
        other => other,
    }
}

#[test]
fn schemas_are_structural_and_bounded() {
    for (file, crd) in values() {
        let mut wrong = Vec::new();
        walk(schema(&crd), file, &mut |path, map| {
            let format = map.get("format").and_then(Value::as_str).unwrap_or_default();
            if format.starts_with("uint") {
                wrong.push(format!("{path}: format {format}"));
            }
            for key in
                ["$ref", "definitions", "x-kubernetes-preserve-unknown-fields", "patternProperties", "const"]
            {
                if map.contains_key(key) {
                    wrong.push(format!("{path}: {key}"));
                }
            }
            let is_schema = map.get("type").is_some_and(Value::is_string);
            if is_schema
                && map["type"] == "object"
                && map.get("properties").is_some()
                && map.get("additionalProperties").is_some()
            {
                wrong.push(format!("{path}: properties and additionalProperties"));
            }
        });
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn lists_of_objects_say_how_they_merge() {
    for (file, crd) in values() {
        let mut wrong = Vec::new();
        walk(schema(&crd), file, &mut |path, map| {
            let of_objects = map.get("items").is_some_and(|items| items["type"] == "object");
            if of_objects && !map.contains_key("x-kubernetes-list-type") {
                wrong.push(path.to_owned());
            }
        });
        assert!(wrong.is_empty(), "{wrong:#?}");
        let conditions = &schema(&crd)["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map", "{file}");
        assert_eq!(conditions["x-kubernetes-list-map-keys"], json!(["type"]), "{file}");
    }
}

#[test]
fn names_and_columns() {
    let crds = values();
    let names = |crd: &Value| {
        (crd["spec"]["names"]["shortNames"].clone(), crd["spec"]["names"]["categories"].clone())
    };
    assert_eq!(names(&crds[0].1), (json!(["lc"]), json!(["all", "openlambda"])));
    assert_eq!(names(&crds[1].1), (json!(["hd"]), json!(["all", "openlambda"])));
    let columns = |crd: &Value, priority: Option<i64>| -> Vec<String> {
        let list = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap().clone();
        let chosen = list.iter().filter(|c| c["priority"].as_i64() == priority);
        chosen.map(|c| c["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(columns(&crds[0].1, None), ["Agents", "Ready", "Age"]);
    assert_eq!(columns(&crds[1].1, None), ["URL", "Ready", "Reason", "Age"]);
    assert_eq!(columns(&crds[1].1, Some(1)), ["Memory", "Timeout", "Agents"]);
}

#[test]
fn defaults_stand_in_the_schema() {
    let crds = values();
    let cluster = schema(&crds[0].1)["properties"]["spec"]["properties"].clone();
    assert_eq!(
        cluster["handlerDefaults"]["properties"]["limits"]["properties"]["memory"]["default"],
        "128Mi"
    );
    assert_eq!(cluster["loadBalancer"]["properties"]["replicas"]["default"], 2);
    assert_eq!(cluster["loadBalancer"]["default"]["service"]["port"], 80);
    let handler = schema(&crds[1].1)["properties"]["spec"]["properties"].clone();
    assert_eq!(handler["entrypoint"]["default"], "lambda_func.handler");
    assert_eq!(handler["reuse"]["default"], "Always");
    // Else the cluster's handlerDefaults could never apply.
    assert_eq!(handler["limits"].get("default"), None);
    assert_eq!(handler["limits"]["properties"]["memory"].get("default"), None);
}

/// The manifests that the API is to accept; the API server's own verdict on them is an end-to-end test.
#[test]
fn examples_are_read_without_loss() {
    let cluster = "
apiVersion: openlambda.dev/v1alpha1
kind: LambdaCluster
metadata: {name: prod, namespace: functions}
spec:
  agent:
    nodeSelector: {node-role: functions}
    tolerations: [{key: functions, operator: Exists}]
    resources: {requests: {cpu: \"1\", memory: 4Gi}, limits: {memory: 16Gi}}
    updateStrategy: {maxUnavailable: 1}
    storage: {hostPath: /var/lib/openlambda, size: 50Gi}
    importCache: {mode: Auto, memory: 4Gi}
    handlerCache: {memory: 8Gi}
    queue: {length: 1000, timeout: 10s}
  handlerDefaults:
    limits: {memory: 128Mi, cpu: \"1\", pids: 64, timeout: 30s, scratch: 64Mi, request: 6Mi, response: 6Mi}
    concurrency: {perInstance: 1, maxInstances: 200, minWarm: 0, idleTimeout: 10m}
  packages:
    indexURL: https://packages.example.com/simple
    credentials: {secretName: index-credentials}
    ca: {configMap: {name: index-ca}}
    preinstall: [\"numpy==2.2.1\", \"pandas==2.2.3\"]
    allowSourceBuilds: false
  registry:
    s3: {endpoint: \"https://s3.example.com\", region: eu-central-1, bucket: handlers, credentials: {secretName: s3}}
  loadBalancer:
    replicas: 3
    policy: CostAware
    loadFormula: DominantResourceConnections
    loadLowPercent: 20
    loadHighPercent: 40
    maxConnectionsPerAgent: 500
    queue: {length: 5000, timeout: 10s}
    resources: {requests: {cpu: 500m, memory: 128Mi}}
    service: {type: ClusterIP, port: 80}
    registryAPI: {token: {secretName: uploads}}
  ingress: {className: traefik, host: functions.example.com, tls: {secretName: functions-tls}}
";
    lossless::<LambdaCluster>(cluster);
    let handler = "
apiVersion: openlambda.dev/v1alpha1
kind: Handler
metadata: {name: notify}
spec:
  cluster: prod
  source: {configMap: {name: notify-code}}
  entrypoint: lambda_func.handler
  reuse: Never
  requirements: [\"requests>=2.31\"]
  limits: {memory: 512Mi, timeout: 10s}
  concurrency: {maxInstances: 50, minWarm: 2}
  env:
    - {name: STAGE, value: production}
    - {name: TOKEN, valueFrom: {secretKeyRef: {name: notify, key: token}}}
  envFrom:
    - {configMapRef: {name: notify-settings}}
";
    lossless::<Handler>(handler);
}

fn lossless<K: serde::Serialize + serde::de::DeserializeOwned>(text: &str) {
    let written: Value = serde_saphyr::from_str(text).unwrap();
    let read: K = serde_json::from_value(written.clone()).unwrap();
    contains(&serde_json::to_value(read).unwrap(), &written, "");
}

/// Everything of `part` stands in `whole`.
fn contains(whole: &Value, part: &Value, path: &str) {
    match part {
        Value::Object(map) => {
            map.iter().for_each(|(key, value)| contains(&whole[key], value, &format!("{path}.{key}")))
        }
        Value::Array(list) => {
            list.iter()
                .enumerate()
                .for_each(|(i, value)| contains(&whole[i], value, &format!("{path}[{i}]")));
        }
        other => assert_eq!(whole, other, "{path}"),
    }
}
