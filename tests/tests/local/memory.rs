//! The memory of a node: what does not fit waits in turn, what is idle makes room, and what can never fit is refused.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use openlambda_tests::{Cluster, Request, Response, until};
use serde_json::{Value, json};

const SLEEP: &str = "import time\ndef handler(event):\n    time.sleep(event)\n    return event\n";
const ECHO: &str = "def handler(event):\n    return event\n";

/// Room for three sandboxes beside the Zygote.
fn small_pool() -> Value {
    json!({"memory_pool": "512Mi", "limits": {"memory": "128Mi"}, "import_cache_size": 0})
}

fn memory(cluster: &Cluster, what: &str) -> Result<u64> {
    cluster.state(0)?["memory"][what].as_u64().with_context(|| format!("no memory.{what}"))
}

fn running(cluster: &Cluster) -> Result<usize> {
    let state = cluster.state(0)?;
    let all = state["instances"].as_array().context("no instances")?;
    Ok(all.iter().filter(|instance| instance["state"] == "running").count())
}

#[test]
fn what_does_not_fit_waits_and_none_is_lost() -> Result<()> {
    let cluster = Cluster::with_worker(&small_pool())?;
    let port = cluster.worker_port(0);
    let names: Vec<_> = (0..5).map(|number| format!("sleep{number}")).collect();
    names.iter().try_for_each(|name| cluster.handler(name, SLEEP))?;
    let calls: Vec<_> = (0..20).map(|n| Request::call(&names[n % 5], &json!(0.1)).open(port)).collect();
    until("a full node, with calls that wait", || {
        ensure!(memory(&cluster, "charged_bytes")? <= memory(&cluster, "capacity_bytes")?);
        ensure!(running(&cluster)? <= 3);
        Ok((running(&cluster)? == 3 && memory(&cluster, "waiting")? > 0).then_some(()))
    })?;
    for call in calls {
        ensure!(Response::read(call?)?.ok()? == json!(0.1));
    }
    until("the end of the waiting", || Ok((memory(&cluster, "waiting")? == 0).then_some(())))?;
    cluster.stop()
}

#[test]
fn a_hot_handler_holds_nobody_up() -> Result<()> {
    let cluster = Cluster::with_worker(&small_pool())?;
    let port = cluster.worker_port(0);
    cluster.handler("hot", SLEEP)?;
    cluster.handler("cold", SLEEP)?;
    let began = Instant::now();
    let hot: Vec<_> = (0..24).map(|_| Request::call("hot", &json!(0.2)).open(port)).collect();
    until("a full node, with calls that wait", || Ok((memory(&cluster, "waiting")? > 0).then_some(())))?;
    ensure!(Request::call("cold", &json!(0)).send(port)?.ok()? == json!(0));
    let cold = began.elapsed();
    for call in hot {
        ensure!(Response::read(call?)?.ok()? == json!(0.2));
    }
    // Its turn comes when the next instance of the other is through, not when all are.
    ensure!(cold < began.elapsed() / 2, "{cold:?} of {:?}", began.elapsed());
    cluster.stop()
}

#[test]
fn paused_instances_take_what_they_hold_and_make_room() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({
        "memory_pool": "300Mi", "limits": {"memory": "200Mi"}, "import_cache_size": 0
    }))?;
    let hold = "held = b'x' * (8 << 20)\ndef handler(event):\n    return event\n";
    for number in 0..5 {
        let name = format!("hold{number}");
        cluster.handler(&name, hold)?;
        ensure!(cluster.call(&name, &json!(number))?.ok()? == json!(number));
    }
    until("five paused instances that take little", || {
        let state = cluster.state(0)?;
        let all = state["instances"].as_array().cloned().unwrap_or_default();
        let paused = all.iter().filter(|instance| instance["state"] == "paused").count();
        Ok((paused == 5 && memory(&cluster, "charged_bytes")? < 100 << 20).then_some(()))
    })?;
    // More of them than there is room for: the oldest go, and every call is answered.
    for number in 5..15 {
        let name = format!("hold{number}");
        cluster.handler(&name, hold)?;
        ensure!(cluster.call(&name, &json!(number))?.ok()? == json!(number));
    }
    ensure!(cluster.instances("hold0")?.is_empty(), "the oldest is still there");
    ensure!(!cluster.instances("hold14")?.is_empty(), "the youngest is gone");
    let metrics = cluster.metrics()?;
    ensure!(metrics.contains("openlambda_evictions_total{reason=\"memory\"}"), "{metrics}");
    ensure!(cluster.call("hold0", &json!("again"))?.ok()? == json!("again"));
    cluster.stop()
}

#[test]
fn a_paused_instance_wakes_only_into_room() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({
        "memory_pool": "300Mi", "limits": {"memory": "200Mi"}, "import_cache_size": 0
    }))?;
    let port = cluster.worker_port(0);
    cluster.handler("echo", ECHO)?;
    cluster.handler("sleep", SLEEP)?;
    cluster.call("echo", &json!(1))?.ok()?;
    until("a paused instance", || {
        Ok(cluster.instances("echo")?.iter().any(|i| i["state"] == "paused").then_some(()))
    })?;
    let call = Request::call("sleep", &json!(0.5)).open(port)?;
    until("the running call", || Ok((running(&cluster)? == 1).then_some(())))?;
    // It waits for the call, and then wakes: it is not made anew.
    let answer = Request::call("echo", &json!(2)).send(port)?;
    ensure!(answer.header("x-start-kind") == Some("unpaused"), "{answer:?}");
    ensure!(answer.ok()? == json!(2) && Response::read(call)?.ok()? == json!(0.5));
    cluster.stop()
}

#[test]
fn what_gets_no_memory_is_told_so() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({
        "memory_pool": "300Mi", "limits": {"memory": "200Mi"}, "import_cache_size": 0, "queue_timeout": "300ms"
    }))?;
    let port = cluster.worker_port(0);
    cluster.handler("sleep", SLEEP)?;
    cluster.handler("echo", ECHO)?;
    let call = Request::call("sleep", &json!(2)).open(port)?;
    until("the running call", || Ok((running(&cluster)? == 1).then_some(())))?;
    let began = Instant::now();
    let refused = Request::call("echo", &json!(0)).send(port)?;
    ensure!(began.elapsed() >= Duration::from_millis(300), "it did not wait");
    ensure!(refused.status == 503 && refused.header("retry-after").is_some(), "{refused:?}");
    let body = refused.json()?;
    ensure!(body["reason"] == "no_capacity", "{body}");
    ensure!(body["message"].as_str().is_some_and(|text| text.contains("no memory")), "{body}");
    ensure!(Response::read(call)?.ok()? == json!(2));
    ensure!(Request::call("echo", &json!(0)).send(port)?.ok()? == json!(0));
    cluster.stop()
}

#[test]
fn a_sandbox_larger_than_the_node_is_refused_with_the_remedy() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({
        "memory_pool": "256Mi", "limits": {"memory": "1Gi"}, "import_cache_size": 0
    }))?;
    cluster.handler("echo", ECHO)?;
    let refused = cluster.call("echo", &json!(0))?;
    let body = refused.json()?;
    let message = body["message"].as_str().unwrap_or_default();
    ensure!(
        refused.status == 503 && message.contains("limits.memory") && message.contains("memory_pool"),
        "{body}"
    );
    cluster.stop()
}

#[test]
fn the_state_document_says_what_each_sandbox_waits_for() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("sleep", SLEEP)?;
    let call = Request::call("sleep", &json!(1)).open(cluster.worker_port(0))?;
    let one = |state: &str| -> Result<Value> {
        until(&format!("a {state} instance"), || {
            Ok(cluster.instances("sleep")?.into_iter().find(|instance| instance["state"] == state))
        })
    };
    let running = one("running")?;
    ensure!(running["waits_for"] == "its handler to answer", "{running}");
    ensure!(Response::read(call)?.ok()? == json!(1));
    let paused = one("paused")?;
    ensure!(paused["waits_for"].as_str().is_some_and(|text| text.starts_with("a call")), "{paused}");
    for field in ["age_ms", "unused_ms", "memory_bytes"] {
        ensure!(paused[field].is_u64() && running[field].is_u64(), "{field}: {paused} {running}");
    }
    ensure!(paused["memory_bytes"].as_u64() > Some(100_000), "{paused}");
    cluster.stop()
}
