//! Tests of what is built: snapshots of the smallest and of a full cluster.

use std::path::Path;
use std::time::Duration;

use openlambda_config::registry::ServerConfig;
use openlambda_config::{BalancerConfig, WorkerConfig, durations};
use serde::Serialize;
use serde_json::json;

use super::*;
use crate::cluster::validate::validate;
use crate::fixtures::{cluster, settings};

fn built(spec: serde_json::Value) -> Children<Prepared> {
    build(&validate(&cluster("demo", spec)).unwrap(), &settings())
}

fn full() -> serde_json::Value {
    json!({
        "agent": {
            "nodeSelector": {"node-role": "functions"},
            "tolerations": [{"key": "functions", "operator": "Exists"}],
            "resources": {"requests": {"cpu": 1, "memory": "4Gi"}, "limits": {"memory": "16Gi"}},
            "updateStrategy": {"maxUnavailable": "10%"},
            "storage": {"hostPath": "/var/lib/openlambda/", "size": "50Gi"},
            "importCache": {"memory": "4Gi"},
            "handlerCache": {"memory": "8Gi"},
        },
        "handlerDefaults": {"limits": {"cpu": "1", "timeout": "1500ms"}},
        "packages": {
            "indexURL": "https://packages.example.com/simple", "preinstall": ["numpy==2.2.1"], "allowSourceBuilds": true,
            "credentials": {"secretName": "index"}, "ca": {"configMap": {"name": "index-ca"}},
        },
        "loadBalancer": {
            "replicas": 3, "policy": "RoundRobin", "loadFormula": "DominantResource",
            "maxConnectionsPerAgent": 500, "queue": {"length": 7, "timeout": "3s"},
            "service": {"type": "NodePort", "port": 8000, "nodePort": 30080, "annotations": {"a": "b"}},
        },
        "ingress": {"className": "traefik", "host": "f.example.com", "tls": {"secretName": "f-tls"}},
    })
}

/// All children as the API server would be sent them.
fn everything(children: Children<Prepared>) -> Vec<serde_json::Value> {
    let Children {
        service_accounts,
        roles,
        role_bindings,
        config_maps,
        services,
        daemon_sets,
        deployments,
        stateful_sets,
        disruption_budgets,
        network_policies,
        ingresses,
        state: _,
    } = children;
    let mut all = Vec::new();
    add(&mut all, service_accounts);
    add(&mut all, roles);
    add(&mut all, role_bindings);
    add(&mut all, config_maps);
    add(&mut all, services);
    add(&mut all, daemon_sets);
    add(&mut all, deployments);
    add(&mut all, stateful_sets);
    add(&mut all, disruption_budgets);
    add(&mut all, network_policies);
    add(&mut all, ingresses);
    all
}

fn add<K: Serialize>(all: &mut Vec<serde_json::Value>, list: Vec<K>) {
    all.extend(list.iter().map(|object| serde_json::to_value(object).unwrap()));
}

#[test]
fn minimal() {
    insta::assert_yaml_snapshot!(everything(built(json!({}))));
}

#[test]
fn complete() {
    insta::assert_yaml_snapshot!(everything(built(full())));
}

#[test]
fn the_files_are_taken_by_those_who_read_them() {
    for spec in [json!({}), full()] {
        let map = built(spec.clone()).config_maps.remove(0).data.unwrap();
        let worker = serde_json::from_str(&map["worker.json"]).unwrap();
        let worker = WorkerConfig::from_value(&worker, Path::new("/etc/openlambda/worker.json")).unwrap();
        assert_eq!((worker.listen.port(), worker.admin.port()), (8080, 9080));
        assert_eq!(worker.worker_dir, Path::new("/var/lib/openlambda/worker"));
        let balancer = serde_json::from_str(&map["load_balancer.json"]).unwrap();
        let balancer = BalancerConfig::from_value(&balancer, Path::new("/etc/openlambda/b.json")).unwrap();
        assert_eq!((balancer.port, balancer.admin_port), (8080, 9080));
        assert!(balancer.timeout > worker.limits.timeout + worker.queue_timeout);
        let limits = (balancer.max_conn_per_server, balancer.queue_length, balancer.queue_timeout.as_secs());
        assert_eq!(limits, if spec == json!({}) { (None, 5000, 10) } else { (Some(500), 7, 3) });
    }
}

#[test]
fn every_policy_is_one_of_lard_s() {
    let policies = [
        "RoundRobin",
        "LeastLoaded",
        "PowerOfTwo",
        "ConsistentHashBoundedLoads",
        "LARD",
        "LARDR",
        "CostAware",
    ];
    let mut seen = std::collections::HashSet::new();
    for policy in policies {
        let map = built(json!({"loadBalancer": {"policy": policy}})).config_maps.remove(0).data.unwrap();
        let file = serde_json::from_str(&map["load_balancer.json"]).unwrap();
        let config = BalancerConfig::from_value(&file, Path::new("/etc/openlambda/b.json")).unwrap();
        seen.insert(format!("{:?}", config.policy));
    }
    assert_eq!(seen.len(), policies.len(), "{seen:?}");
}

#[test]
fn pods_live_as_long_as_their_calls() {
    for (timeout, wanted) in [("5s", 60), ("10m", 600)] {
        let limits = json!({"limits": {"timeout": timeout}});
        let queues = json!({"agent": {"queue": {"timeout": "1m"}}, "loadBalancer": {"queue": {"timeout": "2m"}}, "handlerDefaults": limits});
        let built = built(queues);
        let grace =
            |pod: Option<&k8s_openapi::api::core::v1::PodSpec>| pod.unwrap().termination_grace_period_seconds;
        let agent = built.daemon_sets[0].spec.as_ref().unwrap().template.spec.as_ref();
        let lard = built.deployments[0].spec.as_ref().unwrap().template.spec.as_ref();
        let map = built.config_maps[0].data.as_ref().unwrap();
        let file = |name: &str| serde_json::from_str::<serde_json::Value>(&map[name]).unwrap();
        let drain = |text: &serde_json::Value| durations::parse(text.as_str().unwrap()).unwrap();
        let wanted = Duration::from_secs(wanted);
        let (worker, balancer) = (file("worker.json"), file("load_balancer.json"));
        assert!(drain(&worker["drain_timeout"]) >= wanted + Duration::from_secs(60));
        assert!(drain(&balancer["DrainTimeout"]) >= wanted + Duration::from_secs(180));
        for (pod, file) in [(agent, &worker["drain_timeout"]), (lard, &balancer["DrainTimeout"])] {
            assert!(grace(pod).unwrap() > i64::try_from(drain(file).as_secs()).unwrap());
        }
    }
}

#[test]
fn only_a_part_whose_file_changes_restarts() {
    let digest = |children: &Children<Prepared>| {
        let of = |meta: &Option<ObjectMeta>| {
            meta.as_ref().unwrap().annotations.as_ref().unwrap()[labels::CONFIG_DIGEST].clone()
        };
        (
            of(&children.daemon_sets[0].spec.as_ref().unwrap().template.metadata),
            of(&children.deployments[0].spec.as_ref().unwrap().template.metadata),
        )
    };
    let before = digest(&built(json!({})));
    let timeout = digest(&built(json!({"loadBalancer": {"queue": {"timeout": "20s"}}})));
    assert_eq!(before.0, timeout.0);
    assert_ne!(before.1, timeout.1);
    let live = json!({"policy": "CostAware", "loadFormula": "DominantResource", "loadHighPercent": 60});
    assert_eq!(before, digest(&built(json!({"loadBalancer": live}))), "lard takes these up as it runs");
    assert_eq!(before, digest(&built(json!({}))));
}

#[test]
fn two_clusters_of_a_node_do_not_share_a_directory() {
    let path = |name| {
        let valid = validate(&cluster(name, json!({"agent": {"storage": {"hostPath": "/d"}}}))).unwrap();
        let set = build(&valid, &settings()).daemon_sets.remove(0);
        let volumes = set.spec.unwrap().template.spec.unwrap().volumes.unwrap();
        volumes.into_iter().find_map(|volume| volume.host_path).unwrap().path
    };
    assert_eq!(path("a"), "/d/functions/a");
    assert_ne!(path("a"), path("b"));
}

#[test]
fn agents_are_told_where_the_registry_is() {
    let mut children = built(json!({"registry": {"s3": {
        "endpoint": "https://s3.example.com", "region": "eu-central-1", "bucket": "handlers",
        "credentials": {"secretName": "s3"}, "ca": {"configMap": {"name": "s3-ca"}},
    }}}));
    let file = &children.config_maps.remove(0).data.unwrap()["worker.json"];
    let config =
        WorkerConfig::from_value(&serde_json::from_str(file).unwrap(), Path::new("/c/worker.json")).unwrap();
    let place = config.registry.unwrap().place.to_string();
    assert_eq!(place, "s3://handlers at https://s3.example.com");
    let pod = serde_json::to_string(&children.daemon_sets.remove(0).spec.unwrap().template).unwrap();
    for part in ["OPENLAMBDA_REGISTRY_SECRET_KEY", "secretAccessKey", "s3-ca", "/etc/openlambda-registry-ca"]
    {
        assert!(pod.contains(part), "{part} is not in {pod}");
    }
}

#[test]
fn an_embedded_registry() {
    let mut valid = validate(&cluster(
        "demo",
        json!({"registry": {"embedded": {
            "size": "5Gi", "storageClassName": "fast", "resources": {"limits": {"memory": "256Mi"}},
        }}}),
    ))
    .unwrap();
    valid.registry_keys = Some("uid-of-the-keys".into());
    let mut children = build(&valid, &settings());
    insta::assert_yaml_snapshot!(children.stateful_sets);
    let files = children.config_maps.remove(0).data.unwrap();
    let file = |name: &str| serde_json::from_str::<serde_json::Value>(&files[name]).unwrap();
    let server = ServerConfig::from_value(&file("registry.json"), Path::new("/c/registry.json")).unwrap();
    assert_eq!((server.listen.port(), server.directory.to_str()), (9000, Some("/var/lib/openlambda/store")));
    let worker = WorkerConfig::from_value(&file("worker.json"), Path::new("/c/worker.json")).unwrap();
    let place = worker.registry.unwrap().place.to_string();
    assert_eq!(place, "s3://registry at http://demo-registry.functions.svc:9000");
    let agent = serde_json::to_string(&children.daemon_sets.remove(0).spec.unwrap().template).unwrap();
    for part in ["uid-of-the-keys", "\"name\":\"demo-registry\"", "OPENLAMBDA_REGISTRY_ACCESS_KEY"] {
        assert!(agent.contains(part), "{part} is not in {agent}");
    }
    let service = children.services.pop().unwrap();
    assert_eq!(service.metadata.name.as_deref(), Some("demo-registry"));
}

/// With an embedded registry.
fn uploads() -> serde_json::Value {
    json!({
        "registry": {"embedded": {}},
        "loadBalancer": {"registryAPI": {"token": {"secretName": "uploads"}}},
    })
}

#[test]
fn a_lard_that_takes_uploads_has_what_they_take() {
    let mut valid = validate(&cluster("demo", uploads())).unwrap();
    valid.registry_keys = Some("uid-of-the-keys".into());
    let mut children = build(&valid, &settings());
    let file = &children.config_maps.remove(0).data.unwrap()["load_balancer.json"];
    let file = serde_json::from_str(file).unwrap();
    let config = BalancerConfig::from_value(&file, Path::new("/etc/openlambda/b.json")).unwrap();
    let uploads = config.registry_api.unwrap();
    assert_eq!(uploads.token_file, Path::new("/etc/openlambda-registry-api/token"));
    let place = uploads.place().unwrap().to_string();
    assert_eq!(place, "s3://registry/functions at http://demo-registry.functions.svc:9000");
    insta::assert_yaml_snapshot!(children.deployments);
    let role = children.roles.into_iter().find(|role| role.metadata.name.as_deref() == Some("demo-lard"));
    assert!(serde_json::to_string(&role).unwrap().contains("\"delete\""), "{role:?}");
}

#[test]
fn without_uploads_a_registry_is_nothing_to_lard() {
    let of = |spec| {
        let mut valid = validate(&cluster("demo", spec)).unwrap();
        valid.registry_keys = valid.embedded().map(|_| "uid-of-the-keys".into());
        let children = build(&valid, &settings());
        let lard = |name: Option<&String>| name.is_some_and(|name| name.ends_with("-lard"));
        let roles: Vec<_> =
            children.roles.into_iter().filter(|role| lard(role.metadata.name.as_ref())).collect();
        (children.deployments, roles)
    };
    assert_eq!(of(json!({"registry": {"embedded": {}}})), of(json!({})));
    let with = of(uploads());
    assert_ne!(with, of(json!({})));
}

#[test]
fn the_registry_s_certificates_are_lard_s_too_if_it_takes_uploads() {
    let mut spec = uploads();
    spec["registry"] = json!({"s3": {
        "bucket": "handlers", "credentials": {"secretName": "s3"}, "ca": {"configMap": {"name": "s3-ca"}},
    }});
    let mut children = built(spec);
    let pod = serde_json::to_string(&children.deployments.remove(0).spec.unwrap().template).unwrap();
    for part in ["\"s3\"", "s3-ca", "/etc/openlambda-registry-ca", "OPENLAMBDA_REGISTRY_SECRET_KEY"] {
        assert!(pod.contains(part), "{part} is not in {pod}");
    }
    let file = &children.config_maps.remove(0).data.unwrap()["load_balancer.json"];
    assert!(
        file.contains("/etc/openlambda-registry-ca/ca.crt") && file.contains("s3://handlers/functions"),
        "{file}"
    );
}
