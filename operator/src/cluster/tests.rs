//! Tests of the whole pipeline against an API server that keeps what it is sent.

use kube::core::DeserializeGuard;
use serde_json::{Value, json};

use super::*;
use crate::fixtures::{Server, cluster as object, context};

const NETWORKING: &str = "/apis/networking.k8s.io/v1/namespaces/functions";
const APPS: &str = "/apis/apps/v1/namespaces/functions";
const STATUS: &str = "PATCH /apis/openlambda.dev/v1alpha1/namespaces/functions/lambdaclusters/demo/status";

async fn reconciled(context: &Arc<Context>, spec: Value) -> Result<Action, Error> {
    let cluster = DeserializeGuard(Ok(object("demo", spec)));
    reconcile(Arc::new(cluster), Arc::clone(context)).await
}

#[tokio::test]
async fn twice_writes_once() {
    let server = Server::default();
    let context = context(&server);
    reconciled(&context, json!({})).await.unwrap();
    let writes = server.writes();
    assert_eq!(writes.len(), 14, "13 children and the status: {writes:#?}");
    assert!(writes.iter().all(|write| write.starts_with("PATCH ")));
    assert_eq!(writes.last().unwrap(), STATUS);
    reconciled(&context, json!({})).await.unwrap();
    assert_eq!(server.writes(), [""; 0]);
}

#[tokio::test]
async fn what_another_changed_is_put_right() {
    let server = Server::default();
    let context = context(&server);
    reconciled(&context, json!({})).await.unwrap();
    let path = format!("{APPS}/deployments/demo-lard");
    server.edit(&path, |object| object["spec"]["replicas"] = json!(0));
    server.writes();
    reconciled(&context, json!({})).await.unwrap();
    assert_eq!(server.writes(), [format!("PATCH {path}")]);
    assert_eq!(server.object(&path).unwrap()["spec"]["replicas"], 2);
}

#[tokio::test]
async fn what_is_no_longer_wanted_is_deleted() {
    let server = Server::default();
    let context = context(&server);
    let path = format!("{NETWORKING}/ingresses/demo");
    reconciled(&context, json!({"ingress": {"host": "f.example.com"}})).await.unwrap();
    assert!(server.object(&path).is_some());
    server.writes();
    reconciled(&context, json!({})).await.unwrap();
    assert_eq!(server.object(&path), None);
    assert_eq!(server.writes(), [format!("DELETE {path}"), STATUS.to_owned()]);
}

#[tokio::test]
async fn another_cluster_s_children_are_left_alone() {
    let server = Server::default();
    let context = context(&server);
    reconciled(&context, json!({"ingress": {}})).await.unwrap();
    let path = format!("{NETWORKING}/ingresses/demo");
    server.edit(&path, |ingress| ingress["metadata"]["ownerReferences"][0]["uid"] = json!("another"));
    reconciled(&context, json!({})).await.unwrap();
    assert!(server.object(&path).is_some());
}

#[tokio::test]
async fn a_name_that_is_taken_is_left_to_its_owner() {
    let server = Server::default();
    let context = context(&server);
    let path = "/api/v1/namespaces/functions/services/demo";
    let theirs =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo"}, "spec": {"x": 1}});
    server.put(path, theirs.clone());
    let error = reconciled(&context, json!({})).await.unwrap_err();
    assert!(error.to_string().starts_with("Service demo is there already"), "{error}");
    assert_eq!(server.object(path), Some(theirs));
    let status = server.object(STATUS.trim_start_matches("PATCH ")).unwrap()["status"].clone();
    assert_eq!(status["conditions"][0]["reason"], "ApplyFailed");
}

#[tokio::test]
async fn an_invalid_spec_changes_nothing_but_the_status() {
    let server = Server::default();
    let context = context(&server);
    reconciled(&context, json!({})).await.unwrap();
    server.writes();
    let both = json!({"embedded": {}, "s3": {"bucket": "handlers"}});
    reconciled(&context, json!({"registry": both, "loadBalancer": {"replicas": 9}})).await.unwrap();
    assert_eq!(server.writes(), [STATUS]);
    let status = server.object(STATUS.trim_start_matches("PATCH ")).unwrap()["status"].clone();
    assert_eq!(status["conditions"][0]["reason"], "InvalidSpec");
    let message = status["conditions"][0]["message"].as_str().unwrap();
    assert!(message.starts_with("spec.registry"), "{message}");
    assert_eq!(server.object(&format!("{APPS}/deployments/demo-lard")).unwrap()["spec"]["replicas"], 2);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_says_so() {
    let server = Server::default();
    let context = context(&server);
    let guard: DeserializeGuard<LambdaCluster> = serde_json::from_value(json!({
        "apiVersion": "openlambda.dev/v1alpha1", "kind": "LambdaCluster",
        "metadata": {"name": "demo", "namespace": "functions", "uid": "u"},
        "spec": {"loadBalancer": {"replicas": "two"}},
    }))
    .unwrap();
    reconcile(Arc::new(guard), Arc::clone(&context)).await.unwrap();
    assert_eq!(server.writes(), [STATUS]);
    let status = server.object(STATUS.trim_start_matches("PATCH ")).unwrap()["status"].clone();
    assert_eq!(status["conditions"][0]["reason"], "Unreadable");
}

const KEYS: &str = "/api/v1/namespaces/functions/secrets/demo-registry";
const REGISTRY: &str = "/apis/apps/v1/namespaces/functions/statefulsets/demo-registry";

#[tokio::test]
async fn keys_of_an_embedded_registry_are_made_once() {
    let server = Server::default();
    let spec = json!({"registry": {"embedded": {"size": "1Gi"}}});
    reconciled(&context(&server), spec.clone()).await.unwrap();
    let keys = server.object(KEYS).unwrap();
    let length = |key: &str| keys["stringData"][key].as_str().unwrap().len();
    assert_eq!((length("accessKeyID"), length("secretAccessKey")), (32, 64));
    assert_eq!(keys["metadata"]["ownerReferences"][0]["uid"], "uid-of-demo");
    server.writes();
    // Another operator takes over.
    reconciled(&context(&server), spec).await.unwrap();
    assert!(server.writes().iter().all(|write| !write.contains("secrets")));
    assert_eq!(server.object(KEYS), Some(keys));
}

#[tokio::test]
async fn who_deletes_the_keys_gets_new_ones_and_new_pods() {
    let server = Server::default();
    let context = context(&server);
    let spec = json!({"registry": {"embedded": {}}});
    let template = |path: &str| server.object(path).unwrap()["spec"]["template"].clone();
    let agents = format!("{APPS}/daemonsets/demo-agent");
    reconciled(&context, spec.clone()).await.unwrap();
    let before = (template(REGISTRY), template(&agents));
    server.remove(KEYS);
    reconciled(&context, spec).await.unwrap();
    assert!(server.object(KEYS).is_some());
    assert_ne!(before.0, template(REGISTRY));
    assert_ne!(before.1, template(&agents));
}

#[tokio::test]
async fn without_a_registry_its_keys_and_its_volume_stay() {
    let server = Server::default();
    let context = context(&server);
    reconciled(&context, json!({"registry": {"embedded": {}}})).await.unwrap();
    let claim = &server.object(REGISTRY).unwrap()["spec"]["volumeClaimTemplates"][0];
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "10Gi");
    assert_eq!(claim["metadata"]["ownerReferences"], Value::Null);
    server.writes();
    reconciled(&context, json!({})).await.unwrap();
    let deleted: Vec<_> = server.writes().into_iter().filter(|write| write.starts_with("DELETE")).collect();
    let service = "/api/v1/namespaces/functions/services/demo-registry";
    assert_eq!(deleted, [format!("DELETE {service}"), format!("DELETE {REGISTRY}")]);
    assert!(server.object(KEYS).is_some());
}

#[tokio::test]
async fn somebody_s_secret_is_not_taken_for_the_keys() {
    let server = Server::default();
    let context = context(&server);
    let theirs =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "demo-registry", "uid": "u"}});
    server.put(KEYS, theirs.clone());
    let error = reconciled(&context, json!({"registry": {"embedded": {}}})).await.unwrap_err();
    assert!(error.to_string().starts_with("Secret demo-registry is there already"), "{error}");
    assert_eq!(server.object(KEYS), Some(theirs));
}
