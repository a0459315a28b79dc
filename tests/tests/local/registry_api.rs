//! The registry's API at lard's port, with real workers and a real registry: `admin load-balancer --registry-api`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use openlambda_tests::{Cluster, Request, Response};
use serde_json::{Value, json};

fn answers(text: &str) -> String {
    format!("def handler(event):\n    return {text:?}\n")
}

/// With a registry, two workers and lard with the API; gives what `admin` said of it.
fn with_api() -> Result<(Cluster, String)> {
    let cluster = Cluster::new(&json!({}))?;
    cluster.start_registry()?;
    cluster.start_workers(2)?;
    let port = cluster.balancer_port().to_string();
    let said = cluster.admin("load-balancer", &["--port", &port, "--registry-api"])?;
    Ok((cluster, said))
}

fn token(cluster: &Cluster) -> Result<String> {
    Ok(fs::read_to_string(cluster.path().join("config/registry_api.token"))?.trim().to_owned())
}

fn ask(cluster: &Cluster, method: &str, path: &str, body: &[u8]) -> Result<Response> {
    let request = Request::new(method, path).header("Authorization", &format!("Bearer {}", token(cluster)?));
    request.body(body).send(cluster.balancer_port())
}

fn call(cluster: &Cluster) -> Result<Value> {
    Request::call("h", &Value::Null).send(cluster.balancer_port())?.ok()
}

#[test]
fn what_is_posted_to_lard_serves_on_every_worker_until_it_is_deleted() -> Result<()> {
    let (cluster, said) = with_api()?;
    ensure!(
        said.contains("curl -H \"Authorization: Bearer $(cat ") && !said.contains(&token(&cluster)?),
        "{said}"
    );
    let mode = fs::metadata(cluster.path().join("config/registry_api.token"))?.permissions().mode();
    ensure!(mode & 0o777 == 0o600, "{mode:o}");
    for (text, revision) in [("one", 1), ("two", 2)] {
        let posted = ask(&cluster, "POST", "/registry/h", answers(text).as_bytes())?;
        let told = posted.json()?;
        ensure!(posted.status == 201 && told["serves"] == true && told["revision"] == revision, "{told}");
        ensure!(told["workers"].as_array().is_some_and(|all| all.len() == 2), "{told}");
        // The next call has the new code, wherever it goes.
        for worker in [cluster.worker_port(0), cluster.worker_port(1), cluster.balancer_port()] {
            let answer = Request::call("h", &Value::Null).send(worker)?.ok()?;
            ensure!(answer == json!(text), "{answer}");
        }
    }
    ensure!(ask(&cluster, "GET", "/registry/", b"")?.ok()? == json!(["h"]));
    ensure!(ask(&cluster, "GET", "/registry/h/config", b"")?.ok()?["revision"] == 2);
    // What comes out goes in, under another name.
    let archive = ask(&cluster, "GET", "/registry/h", b"")?.body;
    ensure!(ask(&cluster, "POST", "/registry/g", &archive)?.status == 201);
    // Code that does not load is told, and the former goes on to serve.
    let told = ask(&cluster, "POST", "/registry/h", b"raise ValueError('not today')\n")?.json()?;
    ensure!(told["serves"] == false && told.to_string().contains("not today"), "{told}");
    ensure!(call(&cluster)? == json!("two"));
    ensure!(Request::get("/registry/").send(cluster.balancer_port())?.status == 401);
    ensure!(ask(&cluster, "DELETE", "/registry/h", b"")?.ok()?["workers"][1]["ok"] == true);
    ensure!(Request::call("h", &Value::Null).send(cluster.balancer_port())?.status == 404);
    ensure!(ask(&cluster, "DELETE", "/registry/h", b"")?.status == 404);
    cluster.stop()
}

#[test]
fn two_posts_at_once_are_two_revisions_and_the_last_one_serves() -> Result<()> {
    let (cluster, _) = with_api()?;
    let posts = ["one", "two"].map(|text| {
        let (port, token) = (cluster.balancer_port(), token(&cluster));
        thread::spawn(move || {
            let request =
                Request::new("POST", "/registry/h").header("Authorization", &format!("Bearer {}", token?));
            let posted = request.body(answers(text)).send(port)?;
            ensure!(posted.status == 201, "{}: {}", posted.status, posted.text());
            Ok((posted.json()?["revision"].as_u64(), text))
        })
    });
    let mut told = Vec::new();
    for post in posts {
        told.push(post.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
    }
    told.sort_unstable();
    ensure!(told[0].0 == Some(1) && told[1].0 == Some(2), "{told:?}");
    ensure!(call(&cluster)? == json!(told[1].1), "{told:?}");
    cluster.stop()
}

#[test]
fn a_registry_that_is_away_or_refuses_is_said_and_calls_go_on() -> Result<()> {
    let (cluster, _) = with_api()?;
    ensure!(ask(&cluster, "POST", "/registry/h", answers("one").as_bytes())?.status == 201);
    let pid = cluster.registry_pid()?;
    kill(pid, Signal::SIGKILL)?;
    cluster.wait_for_worker_end(pid)?;
    for (method, path) in [("POST", "/registry/h"), ("GET", "/registry/"), ("DELETE", "/registry/h")] {
        ask(&cluster, method, path, answers("two").as_bytes())?.error(503, "registry_unavailable")?;
        ensure!(call(&cluster)? == json!("one"));
    }
    // Another server with other keys in its place.
    let config: Value =
        serde_json::from_str(&fs::read_to_string(cluster.path().join("config/registry.json"))?)?;
    let keys = ["--access-key", "another-key", "--secret-key", "another-secret-key"];
    let port = config["port"].to_string();
    cluster.admin("registry", &[&["--port", &port][..], &keys].concat())?;
    let message =
        ask(&cluster, "POST", "/registry/h", answers("two").as_bytes())?.error(502, "registry_refused")?;
    ensure!(message.contains("access key") && !message.contains("another-secret-key"), "{message}");
    ensure!(call(&cluster)? == json!("one"));
    cluster.stop()
}

#[test]
fn without_a_registry_it_is_not_turned_on() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    let refused = cluster.try_admin("load-balancer", &["--registry-api"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("names no registry"), "{said}");
    ensure!(!cluster.path().join("config/registry_api.token").exists());
    let config = fs::read_to_string(cluster.path().join("config/load_balancer.json"))?;
    ensure!(!config.contains("RegistryApi"), "{config}");
    cluster.stop()
}
