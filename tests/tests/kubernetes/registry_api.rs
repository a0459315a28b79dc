//! The registry's API at lard's port: `curl` alone brings code into the cluster, and who has not the token gets nowhere.

use anyhow::{Result, ensure};
use openlambda_tests::kubernetes::{Release, Volume, handler};
use openlambda_tests::{Request, Response, until};
use serde_json::{Value, json};

use crate::control_plane::ApiServerStopped;
use crate::shared::constant;

const TOKEN: &str = "a-token-of-the-tests";

fn ask(release: &Release, method: &str, path: &str, body: &[u8]) -> Result<Response> {
    let request = Request::new(method, path).header("Authorization", &format!("Bearer {TOKEN}"));
    request.body(body).send_to(release.lard()?)
}

/// What a POST is answered with.
fn post(release: &Release, handler: &str, body: &[u8]) -> Result<Value> {
    let response = ask(release, "POST", &format!("/registry/{handler}"), body)?;
    ensure!(response.status == 201, "status {}: {}", response.status, response.text());
    response.json()
}

/// A LambdaCluster with the API, which its operator may serve only once it may give lard the right to write Handlers.
fn install() -> Result<Release> {
    let release = Release::without_cluster("uploading")?;
    let namespace = &release.namespace;
    let token = format!("--from-literal=token={TOKEN}");
    namespace.kubectl(&["create", "secret", "generic", "uploads", &token])?;
    let cluster = json!({
        "apiVersion": "openlambda.dev/v1alpha1", "kind": "LambdaCluster", "metadata": {"name": "demo"},
        "spec": {
            "registry": {"embedded": {"size": "1Gi", "storageClassName": "uploading"}},
            "loadBalancer": {
                "service": {"type": "NodePort"}, "registryAPI": {"token": {"secretName": "uploads"}},
            },
        },
    });
    namespace.apply(&cluster.to_string())?;
    let refused = until("the condition that names what the operator lacks", || {
        let ready = namespace.condition("lambdacluster/demo", "Ready")?;
        Ok((ready["reason"] == "ApplyFailed").then_some(ready))
    })?;
    ensure!(refused["message"].as_str().is_some_and(|text| text.contains("rbac.registryAPI")), "{refused}");
    let more = ["--set", "cluster.create=false", "--set", "rbac.registryAPI=true"];
    release.upgrade(&json!({}), &more)?;
    namespace.wait_ready("lambdacluster/demo")?;
    Ok(release)
}

#[test]
fn what_is_posted_to_lard_serves_until_it_is_deleted() -> Result<()> {
    let _volume = Volume::new("uploading")?;
    let release = install()?;
    let namespace = &release.namespace;
    for wrong in ["", "Bearer a-token-of-the-test"] {
        let request = Request::new("POST", "/registry/h").header("Authorization", wrong);
        request.body(constant("one")).send_to(release.lard()?)?.error(401, "unauthorized")?;
    }
    ensure!(ask(&release, "GET", "/registry/", b"")?.ok()? == json!([]), "strangers have uploaded");

    for (text, revision) in [("one", 1), ("two", 2)] {
        let told = post(&release, "h", constant(text).as_bytes())?;
        ensure!(told["serves"] == true && told["revision"] == revision, "{told}");
        ensure!(told["agents"]["ready"] == 2 && told["agents"]["desired"] == 2, "{told}");
        ensure!(release.call("h", &Value::Null)?.ok()? == json!(text), "not what was uploaded");
    }
    let config = ask(&release, "GET", "/registry/h/config", b"")?.ok()?;
    ensure!(config["revision"] == 2 && config["digest"].is_string(), "{config}");
    // What comes out goes in, under another name.
    let archive = ask(&release, "GET", "/registry/h", b"")?.body;
    ensure!(post(&release, "g", &archive)?["serves"] == true, "it does not serve");
    ensure!(release.call("g", &Value::Null)?.ok()? == json!("two"), "another code came out");

    let told = post(&release, "h", b"raise ValueError('not today')\n")?;
    ensure!(told["serves"] == false && told["message"].to_string().contains("not today"), "{told}");
    ensure!(release.call("h", &Value::Null)?.ok()? == json!("two"), "the former revision is gone");
    ask(&release, "POST", "/registry/h", b"\x7fELF\0")?.error(400, "bad_bundle")?;

    namespace.apply(&handler("inline", &constant("mine")).to_string())?;
    let said = ask(&release, "GET", "/registry/inline", b"")?.error(409, "conflict")?;
    ensure!(said.contains("spec.source.inline"), "{said}");
    ensure!(ask(&release, "GET", "/registry/", b"")?.ok()? == json!(["g", "h"]));

    ask(&release, "DELETE", "/registry/h", b"")?.ok()?;
    ensure!(!namespace.attempt(&["get", "handler/h"], "")?.success, "the Handler is there");
    until("the end of the handler on every agent", || {
        Ok((release.call("h", &Value::Null)?.status == 404).then_some(()))
    })?;
    ask(&release, "DELETE", "/registry/h", b"")?.error(404, "handler_not_found")?;
    without_the_api_server(&release)
}

/// It is said, and calls go on; and what was refused can be sent again.
fn without_the_api_server(release: &Release) -> Result<()> {
    let lard = release.lard()?;
    let request = |method: &str, path: &str| {
        Request::new(method, path).header("Authorization", &format!("Bearer {TOKEN}")).body(constant("three"))
    };
    let stopped = ApiServerStopped::new()?;
    for (method, path) in [("POST", "/registry/g"), ("DELETE", "/registry/g"), ("GET", "/registry/")] {
        let refused = request(method, path).send_to(lard)?;
        refused.error(503, "api_server_unavailable")?;
        ensure!(refused.header("retry-after").is_some(), "{method}: no Retry-After");
    }
    ensure!(Request::call("g", &Value::Null).send_to(lard)?.ok()? == json!("two"), "not what served before");
    drop(stopped);
    let posted = until("the upload once the API server is back", || {
        let posted = request("POST", "/registry/g").send_to(lard)?;
        Ok((posted.status == 201).then_some(posted))
    })?;
    // The refused one has left no revision behind.
    ensure!(posted.json()?["revision"] == 2, "{}", posted.text());
    release.wait_for_answer("g", &Value::Null, &json!("three"))
}
