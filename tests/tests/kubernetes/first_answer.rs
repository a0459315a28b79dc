//! From `kubectl apply` to the first answer, through the Service and through an Ingress.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use openlambda_tests::kubernetes::{self, kubectl, repository};
use openlambda_tests::{Request, until};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::shared::{self, HELLO, HOST};

#[test]
fn apply_ready_call() -> Result<()> {
    let release = shared::release()?;
    release.deploy("hello", HELLO)?;
    let answer = release.call("hello", &json!({"name": "Service"}))?;
    ensure!(answer.ok()? == json!("Hello, Service!"));
    ensure!(answer.header("x-request-id").is_some());
    ensure!(answer.header("endpoint-load-metrics").is_none(), "the load report got through");
    // Through Traefik, which learns of a new Ingress some time after it is made.
    let call = Request::call("hello", &json!({"name": "Ingress"})).header("Host", HOST);
    until("the Ingress", || Ok((call.send_to(kubernetes::ingress()?)?.status == 200).then_some(())))?;
    ensure!(call.send_to(kubernetes::ingress()?)?.ok()? == json!("Hello, Ingress!"));
    let elsewhere = Request::call("hello", &json!({"name": "x"})).header("Host", "other.example.com");
    ensure!(elsewhere.send_to(kubernetes::ingress()?)?.status == 404, "another host is served as well");
    Ok(())
}

#[test]
fn what_kubectl_shows() -> Result<()> {
    let release = shared::release()?;
    release.deploy("shown", HELLO)?;
    let table = release.namespace.kubectl(&["get", "hd", "shown"])?;
    let (head, row) = table.split_once('\n').context("no row")?;
    ensure!(head.split_whitespace().eq(["NAME", "URL", "READY", "REASON", "AGE"]), "{head}");
    ensure!(row.contains(&format!("http://{HOST}/run/shown")) && row.contains("True"), "{row}");
    let wide = release.namespace.kubectl(&["get", "handler", "shown", "-o", "wide"])?;
    ensure!(["MEMORY", "TIMEOUT", "AGENTS", "2/2"].iter().all(|word| wide.contains(word)), "{wide}");
    let cluster = release.namespace.kubectl(&["get", "lc"])?;
    ensure!(cluster.contains("AGENTS") && cluster.contains("2/2") && cluster.contains("True"), "{cluster}");
    let all = release.namespace.kubectl(&["get", "openlambda"])?;
    ensure!(
        all.contains("handler.openlambda.dev/shown") && all.contains("lambdacluster.openlambda.dev/demo")
    );
    let explained = kubectl(&["explain", "handler.spec.limits.memory"])?;
    ensure!(explained.contains("Memory of one instance"), "{explained}");
    Ok(())
}

#[test]
fn files_config_maps_secrets_and_environment() -> Result<()> {
    let release = shared::release()?;
    release
        .namespace
        .apply(&fs::read_to_string(repository().join("tests/tests/kubernetes/environment.yaml"))?)?;
    for (handler, answer) in [
        ("from-files", json!({"rate": 0.92, "stage": "production", "file": "/handler/lambda_func.py"})),
        ("from-config-map", json!({"token": "s3cret", "color": "blue", "missing": null})),
    ] {
        release.namespace.wait_ready(&format!("handler/{handler}"))?;
        let found = release.call(handler, &json!("USD"))?.ok()?;
        ensure!(found == answer, "{handler}: {found}");
    }
    // A ConfigMap that changes is a new revision.
    let patch = json!({"data": {"color": "green"}}).to_string();
    release.namespace.kubectl(&["patch", "configmap", "settings", "-p", &patch])?;
    let answer = json!({"token": "s3cret", "color": "green", "missing": null});
    release.wait_for_answer("from-config-map", &json!("USD"), &answer)
}

#[test]
fn a_bundle_by_http_with_its_digest() -> Result<()> {
    let release = shared::release()?;
    let folder = tempfile::tempdir()?;
    let archive = folder.path().join("bundle.tar.gz");
    fs::write(
        folder.path().join("lambda_func.py"),
        "def handler(event):\n    return [\"a bundle\", event]\n",
    )?;
    let tar = Command::new("tar")
        .arg("czf")
        .arg(&archive)
        .arg("-C")
        .arg(folder.path())
        .arg("lambda_func.py")
        .status()?;
    ensure!(tar.success(), "tar: {tar}");
    let digest = format!("sha256:{:x}", Sha256::digest(fs::read(&archive)?));
    release.namespace.kubectl(&[
        "create",
        "configmap",
        "archives",
        "--from-file",
        &archive.to_string_lossy(),
    ])?;
    let manifest = fs::read_to_string(repository().join("tests/tests/kubernetes/http_source.yaml"))?;
    release.namespace.apply(&manifest.replace("DIGEST", &digest).replace("TAG", &kubernetes::image_tag()))?;
    release.namespace.wait_ready("pod/files")?;
    release.namespace.wait_ready("handler/by-http")?;
    ensure!(release.call("by-http", &json!(1))?.ok()? == json!(["a bundle", 1]));
    until("the refusal of the wrong digest", || {
        let source = release.namespace.condition("handler/wrong-digest", "SourceResolved")?;
        let says = source["message"].as_str().unwrap_or_default();
        Ok((source["reason"] == "DigestMismatch" && says.contains(&digest)).then_some(()))
    })
}
