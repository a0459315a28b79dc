//! lard in front of real workers.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use openlambda_tests::{Cluster, Request, Response, until};
use serde_json::{Value, json};

const COUNT: &str = "n = 0\ndef handler(event):\n    global n\n    n += 1\n    return n\n";

fn pair() -> Result<Cluster> {
    let cluster = Cluster::new(&json!({}))?;
    cluster.start_workers(2)?;
    cluster.start_balancer()?;
    Ok(cluster)
}

#[test]
fn a_handler_stays_where_it_is_warm() -> Result<()> {
    let cluster = pair()?;
    for name in ["a", "b", "c", "d"] {
        cluster.handler(name, COUNT)?;
        for wanted in 1..=5 {
            let response = Request::call(name, &Value::Null).send(cluster.balancer_port())?;
            ensure!(response.ok()? == json!(wanted), "{name} moved: {response:?}");
            ensure!(response.header("endpoint-load-metrics").is_none(), "the load report reached the client");
            ensure!(response.header("x-request-id").is_some());
        }
    }
    let direct = Request::call("a", &Value::Null).send(cluster.worker_port(0))?;
    ensure!(direct.header("endpoint-load-metrics").is_some_and(|h| h.starts_with("TEXT ")), "{direct:?}");
    let metrics = Request::get("/metrics").send(cluster.balancer_port() + 1000)?.text();
    ensure!(metrics.contains("lb_locality_total"), "{metrics}");
    cluster.stop()
}

#[test]
fn round_robin_alternates() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    cluster.start_workers(2)?;
    let file = cluster.path().join("config/load_balancer.json");
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
    config["Policy"] = json!("RoundRobin");
    std::fs::write(&file, config.to_string())?;
    cluster.start_balancer()?;
    cluster.handler("count", COUNT)?;
    let answers: Vec<_> = (0..6)
        .map(|_| Request::call("count", &Value::Null).send(cluster.balancer_port())?.ok())
        .collect::<Result<_>>()?;
    ensure!(answers == [1, 1, 2, 2, 3, 3].map(|n| json!(n)), "{answers:?}");
    cluster.stop()
}

#[test]
fn a_dead_worker_costs_no_call_that_had_not_begun() -> Result<()> {
    let cluster = pair()?;
    cluster.handler("echo", "def handler(event):\n    return event\n")?;
    let big = json!("x".repeat(1 << 20));
    for index in 0..2 {
        ensure!(Request::call("echo", &big).send(cluster.balancer_port())?.ok()? == big);
        let pid = cluster.worker_pid(index)?;
        cluster.signal_worker(index, Signal::SIGKILL)?;
        // From this moment on, with the body intact, whether lard knows of it yet or not.
        for _ in 0..20 {
            ensure!(Request::call("echo", &big).send(cluster.balancer_port())?.ok()? == big);
        }
        cluster.wait_for_worker_end(pid)?;
        cluster.restart_worker(index)?;
    }
    cluster.stop()
}

#[test]
fn calls_under_way_when_a_worker_dies_are_honest() -> Result<()> {
    let cluster = pair()?;
    cluster
        .handler("sleep", "import time\ndef handler(event):\n    time.sleep(event)\n    return event\n")?;
    let calls: Vec<_> = (0..4)
        .map(|_| Request::call("sleep", &json!(20)).open(cluster.balancer_port()))
        .collect::<Result<_>>()?;
    let busy = until("the calls in a sandbox", || {
        for index in 0..2 {
            let state = cluster.state(index)?;
            let running = state["instances"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|i| i["state"] == "running")
                .count();
            if running == 4 {
                return Ok(Some(index));
            }
        }
        Ok(None)
    })?;
    cluster.signal_worker(busy, Signal::SIGKILL)?;
    for call in calls {
        // It had begun: whether it may be repeated is not for lard to say.
        Response::read(call)?.error(502, "agent_unreachable")?;
    }
    ensure!(Request::call("sleep", &json!(0)).send(cluster.balancer_port())?.ok()? == json!(0));
    cluster.stop()
}

#[test]
fn no_worker_at_all() -> Result<()> {
    let cluster = pair()?;
    for index in 0..2 {
        let pid = cluster.worker_pid(index)?;
        cluster.signal_worker(index, Signal::SIGTERM)?;
        cluster.wait_for_worker_end(pid)?;
    }
    let response = Request::call("x", &json!(0)).send(cluster.balancer_port())?;
    response.error(503, "no_capacity")?;
    response.header("retry-after").context("no Retry-After")?;
    let bad = Request::get("/run/..").send(cluster.balancer_port())?;
    ensure!([400, 404].contains(&bad.status), "{bad:?}");
    cluster.admin("kill", &[])?;
    cluster.stop()
}
