//! The registry on Kubernetes: the one inside the cluster, and a bucket of a server that is not ours. Uploads from outside,
//! going back, bundles that are not what they should be, and a registry that is away.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use openlambda_tests::kubernetes::{Bucket, Outcome, Release, Volume, admin, kubectl};
use openlambda_tests::{until, until_within};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::shared::constant;

/// Agents look at a registry that answers twice a minute.
const NOTICED: Duration = Duration::from_secs(75);
const CLUSTER: &str = "lambdacluster/demo";

/// The handler's folder with code that gives this answer.
fn folder(answer: &str) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("lambda_func.py"), constant(answer))?;
    Ok(folder)
}

/// `admin COMMAND --cluster k8s://…`, whatever comes of it.
fn tried(release: &Release, command: &str, arguments: &[&str]) -> Result<Outcome> {
    let cluster = format!("k8s://{}/demo", release.namespace.name());
    admin(&[&[command, "--cluster", &cluster], arguments].concat())
}

/// The same, which must go well.
fn done(release: &Release, command: &str, arguments: &[&str]) -> Result<String> {
    let outcome = tried(release, command, arguments)?;
    ensure!(outcome.success, "admin {command}: {}", outcome.text);
    Ok(outcome.text)
}

fn upload(release: &Release, handler: &str, answer: &str) -> Result<String> {
    let folder = folder(answer)?;
    done(release, "upload", &["--handler", handler, "--file", &folder.path().to_string_lossy()])
}

fn await_registry(release: &Release, status: &str, reason: &str) -> Result<Value> {
    until_within(NOTICED, &format!("RegistryReady={status} {reason}"), || {
        let condition = release.namespace.condition(CLUSTER, "RegistryReady")?;
        Ok((condition["status"] == status && condition["reason"] == reason).then_some(condition))
    })
}

fn answers(release: &Release, handler: &str, answer: &str) -> Result<()> {
    release.wait_for_answer(handler, &Value::Null, &json!(answer))
}

fn embedded(class: &str) -> Value {
    json!({"registry": {"embedded": {"size": "1Gi", "storageClassName": class}}})
}

#[test]
fn uploads_serve_are_taken_back_and_outlive_their_registry() -> Result<()> {
    let _volume = Volume::new("uploads")?;
    let release = Release::install_with("uploads", &embedded("uploads"))?;
    let namespace = &release.namespace;
    let said = upload(&release, "report", "one")?;
    ensure!(said.contains("revision 1") && said.contains("2/2 agents serve it"), "{said}");
    answers(&release, "report", "one")?;
    ensure!(upload(&release, "report", "two")?.contains("revision 2"), "no second revision");
    answers(&release, "report", "two")?;
    done(&release, "rollback", &["--handler", "report"])?;
    answers(&release, "report", "one")?;
    let (list, all) = (done(&release, "list", &[])?, done(&release, "describe", &["--handler", "report"])?);
    ensure!(list.contains("report") && all.lines().count() == 4, "{list}\n{all}");
    let downloads = tempfile::tempdir()?;
    let file = downloads.path().join("report.tar.gz");
    done(&release, "download", &["--handler", "report", "--file", &file.to_string_lossy()])?;
    ensure!(fs::metadata(&file)?.len() > 0, "an empty bundle");

    another_digest(&release)?;
    registry_away(&release)?;

    // Without a registry, and with one again: nothing of what was uploaded is lost.
    let keys = namespace.get("secret/demo-registry")?["data"].clone();
    release.upgrade(&json!({}), &[])?;
    until("the end of the registry's pod", || {
        Ok(namespace.pods_of("app.kubernetes.io/component=registry")?.is_empty().then_some(()))
    })?;
    namespace.get("persistentvolumeclaim/data-demo-registry-0")?;
    let refused = tried(&release, "list", &[])?;
    ensure!(!refused.success && refused.text.contains("has no spec.registry"), "{}", refused.text);
    release.upgrade(&embedded("uploads"), &[])?;
    namespace.wait_ready(CLUSTER)?;
    ensure!(namespace.get("secret/demo-registry")?["data"] == keys, "the keys are others");
    ensure!(done(&release, "list", &[])?.contains("report"), "the list is empty");
    answers(&release, "report", "two")?;
    done(&release, "delete", &["--handler", "report"])?;
    until("the end of the Handler", || {
        Ok((!namespace.attempt(&["get", "handler/report"], "")?.success).then_some(()))
    })
}

/// A bundle that has not the digest that its Handler says is named, and the former one serves.
fn another_digest(release: &Release) -> Result<()> {
    let namespace = &release.namespace;
    let digest = format!("sha256:{}", "0".repeat(64));
    let patch = json!({"spec": {"source": {"bundle": {"digest": digest}}}}).to_string();
    namespace.kubectl(&["patch", "handler/report", "--type=merge", "-p", &patch])?;
    let condition = until("the condition that names the digest", || {
        let condition = namespace.condition("handler/report", "SourceResolved")?;
        Ok((condition["reason"] == "DigestMismatch").then_some(condition))
    })?;
    let message = condition["message"].as_str().unwrap_or_default();
    ensure!(message.contains(&digest), "{condition}");
    let ready = namespace.condition("handler/report", "Ready")?;
    ensure!(ready["message"].as_str().is_some_and(|text| text.contains("keeps serving")), "{ready}");
    ensure!(release.call("report", &Value::Null)?.json()? == json!("one"), "the former revision is gone");
    done(release, "rollback", &["--handler", "report", "--revision", "2"])?;
    answers(release, "report", "two")
}

/// Nodes that take no new pods; they do again when this is dropped.
struct Cordoned(Vec<String>);

impl Cordoned {
    fn all() -> Result<Self> {
        let names = kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
        let all = Self(names.split_whitespace().map(str::to_owned).collect());
        all.0.iter().try_for_each(|node| kubectl(&["cordon", node]).map(drop))?;
        Ok(all)
    }
}

impl Drop for Cordoned {
    fn drop(&mut self) {
        for node in &self.0 {
            let _ = kubectl(&["uncordon", node]);
        }
    }
}

/// What serves goes on to; what is new waits and says why; and then all is as before.
fn registry_away(release: &Release) -> Result<()> {
    let namespace = &release.namespace;
    let cordoned = Cordoned::all()?;
    namespace.kubectl(&["delete", "pod/demo-registry-0", "--wait"])?;
    let source = namespace.get("handler/report")?["spec"]["source"].clone();
    let new = json!({
        "apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler", "metadata": {"name": "new"},
        "spec": {"source": {"bundle": {"key": source["bundle"]["key"], "digest": source["bundle"]["digest"]}}},
    });
    // The agents have this bundle already: one that they do not have.
    let mut other = new.clone();
    other["spec"]["source"]["bundle"]["key"] = json!("uploads/bundles/new/none.tar.gz");
    other["spec"]["source"]["bundle"]["digest"] = json!(format!("sha256:{}", "1".repeat(64)));
    namespace.apply(&other.to_string())?;
    let condition = until_within(NOTICED, "the condition of a Handler without its bundle", || {
        let condition = namespace.condition("handler/new", "SourceResolved")?;
        Ok((condition["reason"] == "FetchFailed").then_some(condition))
    })?;
    ensure!(condition["message"].as_str().is_some_and(|text| text.contains("demo-registry")), "{condition}");
    let refused =
        tried(release, "upload", &["--handler", "new", "--file", &folder("x")?.path().to_string_lossy()])?;
    ensure!(!refused.success && refused.text.contains("demo-registry-0"), "{}", refused.text);
    let condition = await_registry(release, "False", "RegistryUnreachable")?;
    ensure!(condition["message"].as_str().is_some_and(|text| text.contains("demo-registry")), "{condition}");
    for _ in 0..20 {
        ensure!(release.call("report", &Value::Null)?.json()? == json!("two"), "not what served before");
    }
    drop(cordoned);
    await_registry(release, "True", "AsExpected")?;
    // The bundle is on the nodes, or is fetched: the same code under another name.
    namespace.apply(&new.to_string())?;
    answers(release, "new", "two")?;
    namespace.kubectl(&["delete", "handler/new"]).map(drop)
}

/// What an agent has fetched outlives its pod, if its storage does. One agent: the nodes of the test cluster share their disk.
#[test]
fn an_agent_that_starts_without_the_registry_serves_what_it_had() -> Result<()> {
    let _volume = Volume::new("restart")?;
    let node = kubectl(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"])?;
    let mut spec = embedded("restart");
    spec["agent"] = json!({
        "storage": {"hostPath": "/var/lib/openlambda-cluster/agents"},
        "nodeSelector": {"kubernetes.io/hostname": node},
    });
    let release = Release::install_with("restart", &spec)?;
    let namespace = &release.namespace;
    upload(&release, "report", "one")?;
    let cordoned = Cordoned::all()?;
    namespace.kubectl(&["delete", "pod/demo-registry-0", "--wait"])?;
    let before = release.agents()?;
    namespace.kubectl(&["delete", "pods", "-l", "app.kubernetes.io/component=agent", "--wait"])?;
    namespace.kubectl(&["rollout", "status", "daemonset/demo-agent", "--timeout=90s"])?;
    ensure!(release.agents()? != before, "the same agent");
    answers(&release, "report", "one")?;
    namespace.wait_ready("handler/report")?;
    drop(cordoned);
    await_registry(&release, "True", "AsExpected").map(drop)
}

#[test]
fn keys_are_kept_by_an_operator_that_restarts() -> Result<()> {
    let _volume = Volume::new("keys")?;
    let release = Release::install_with("keys", &embedded("keys"))?;
    let namespace = &release.namespace;
    let before = namespace.get("secret/demo-registry")?;
    namespace.kubectl(&["delete", "pod", "-l", "app.kubernetes.io/component=operator", "--wait"])?;
    namespace.kubectl(&[
        "rollout",
        "status",
        "deployment",
        "-l",
        "app.kubernetes.io/component=operator",
        "--timeout=60s",
    ])?;
    // Something for the new one to do, so that it is known to have looked.
    let mut spec = embedded("keys");
    spec["loadBalancer"] = json!({"replicas": 1});
    release.upgrade(&spec, &[])?;
    until("one replica of lard", || {
        Ok((namespace.get("deployment/demo-lard")?["spec"]["replicas"] == 1).then_some(()))
    })?;
    ensure!(namespace.get("secret/demo-registry")? == before, "the Secret was written again");
    // The volume of a spec cannot change.
    let refused = namespace.attempt(
        &[
            "patch",
            CLUSTER,
            "--type=merge",
            "-p",
            "{\"spec\":{\"registry\":{\"embedded\":{\"size\":\"2Gi\"}}}}",
        ],
        "",
    )?;
    ensure!(
        !refused.success && refused.text.contains("size and storageClassName cannot change"),
        "{}",
        refused.text
    );
    Ok(())
}

#[test]
fn a_bucket_of_another_server_with_a_certificate_of_its_own() -> Result<()> {
    let bucket = Bucket::start()?;
    let release = Release::install_with("bucket", &json!({}))?;
    let namespace = &release.namespace;
    let ca = format!("--from-file=ca.crt={}", bucket.variable("CA")?);
    namespace.kubectl(&["create", "configmap", "s3-ca", &ca])?;
    let access = format!("--from-literal=accessKeyID={}", bucket.variable("ACCESS_KEY")?);
    for (name, secret) in [("s3", bucket.variable("SECRET_KEY")?), ("wrong", "not-the-secret-key")] {
        let secret = format!("--from-literal=secretAccessKey={secret}");
        namespace.kubectl(&["create", "secret", "generic", name, &access, &secret])?;
    }
    let endpoint = bucket.variable("TLS_SERVER")?;
    // Not by helm, which would wait for it to be ready.
    let set = |change: Value| {
        let mut s3 = json!({
            "endpoint": endpoint, "bucket": "registry",
            "credentials": {"secretName": "s3"}, "ca": {"configMap": {"name": "s3-ca"}},
        });
        if let (Some(s3), Value::Object(change)) = (s3.as_object_mut(), change) {
            s3.extend(change);
        }
        let patch = json!({"spec": {"registry": {"s3": s3}}}).to_string();
        namespace.kubectl(&["patch", CLUSTER, "--type=merge", "-p", &patch]).map(drop)
    };
    for (change, reason) in [
        (json!({"credentials": {"secretName": "wrong"}}), "RegistryDenied"),
        (json!({"bucket": "nowhere"}), "BucketNotFound"),
        (json!({"ca": null}), "RegistryUnreachable"),
    ] {
        set(change)?;
        let condition = await_registry(&release, "False", reason)?;
        ensure!(condition["message"].as_str().is_some_and(|text| text.contains(endpoint)), "{condition}");
    }
    set(json!({}))?;
    await_registry(&release, "True", "AsExpected")?;
    namespace.wait_ready(CLUSTER)?;
    upload(&release, "report", "one")?;
    answers(&release, "report", "one")?;
    upload(&release, "report", "two")?;
    answers(&release, "report", "two")
}
