//! SIGTERM under load: what runs ends, what waits is refused at once so that it can go elsewhere, and nobody is cut off without a word.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use openlambda_tests::load::Load;
use openlambda_tests::{Cluster, Request, Response, until};
use serde_json::{Value, json};

const SLEEP: &str = "import time\ndef handler(event):\n    time.sleep(event)\n    return event\n";

fn metric(cluster: &Cluster, line: &str) -> Result<()> {
    until(line, || Ok(cluster.metrics()?.lines().any(|found| found == line).then_some(())))
}

/// A worker on which two calls run for so long, and five wait.
fn busy(conf: &Value, seconds: f64) -> Result<(Cluster, Vec<std::net::TcpStream>, Vec<std::net::TcpStream>)> {
    let cluster = Cluster::with_worker(conf)?;
    cluster.handler("sleep", SLEEP)?;
    cluster.call("sleep", &json!(0))?.ok()?;
    let open = |count: usize| {
        (0..count)
            .map(|_| Request::call("sleep", &json!(seconds)).open(cluster.worker_port(0)))
            .collect::<Result<Vec<_>>>()
    };
    let run = open(2)?;
    until("two running calls", || {
        let instances = cluster.instances("sleep")?;
        Ok((instances.iter().filter(|i| i["state"] == "running").count() == 2).then_some(()))
    })?;
    let wait = open(5)?;
    metric(&cluster, "openlambda_queue_depth 5")?;
    Ok((cluster, run, wait))
}

#[test]
fn what_waits_is_refused_at_once_and_what_runs_ends() -> Result<()> {
    let (cluster, run, wait) = busy(&json!({"max_instances": 2}), 2.0)?;
    let pid = cluster.worker_pid(0)?;
    let began = Instant::now();
    cluster.signal_worker(0, Signal::SIGTERM)?;
    for call in wait {
        let refused = Response::read(call)?;
        refused.error(503, "draining")?;
        ensure!(refused.header("retry-after").is_some(), "{refused:?}");
        ensure!(began.elapsed() < Duration::from_secs(1), "refused after {:?}", began.elapsed());
    }
    for call in run {
        ensure!(Response::read(call)?.ok()? == json!(2.0));
    }
    cluster.wait_for_worker_end(pid)?;
    cluster.stop()
}

#[test]
fn a_call_over_the_grace_period_is_killed_and_told() -> Result<()> {
    let (cluster, run, wait) = busy(&json!({"max_instances": 2, "drain_timeout": "1s"}), 60.0)?;
    let pid = cluster.worker_pid(0)?;
    let began = Instant::now();
    cluster.signal_worker(0, Signal::SIGTERM)?;
    for call in wait {
        Response::read(call)?.error(503, "draining")?;
    }
    for call in run {
        // It did begin: this must not look as if it could be sent elsewhere.
        let message = Response::read(call)?.error(502, "agent_unreachable")?;
        ensure!(message.contains("drain_timeout"), "{message}");
    }
    let took = began.elapsed();
    ensure!(took > Duration::from_millis(900) && took < Duration::from_secs(10), "after {took:?}");
    cluster.wait_for_worker_end(pid)?;
    ensure!(cluster.log(0)?.contains("cut off"), "{}", cluster.log(0)?);
    cluster.stop()
}

#[test]
fn a_second_signal_ends_the_grace_period() -> Result<()> {
    for second in [Signal::SIGTERM, Signal::SIGINT] {
        let (cluster, run, _wait) = busy(&json!({"max_instances": 2, "drain_timeout": "60s"}), 60.0)?;
        let pid = cluster.worker_pid(0)?;
        cluster.signal_worker(0, Signal::SIGTERM)?;
        until("the drain", || {
            // Refused or not connected at all: both are a worker that takes no more.
            let late = Request::call("sleep", &json!(0)).send(cluster.worker_port(0));
            Ok(late.map_or(true, |response| response.status == 503).then_some(()))
        })?;
        let began = Instant::now();
        cluster.signal_worker(0, second)?;
        for call in run {
            Response::read(call)?.error(502, "agent_unreachable")?;
        }
        cluster.wait_for_worker_end(pid)?;
        ensure!(began.elapsed() < Duration::from_secs(10), "{second} took {:?}", began.elapsed());
        cluster.stop()?;
    }
    Ok(())
}

#[test]
fn behind_lard_a_drain_costs_no_call() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    cluster.start_workers(2)?;
    cluster.start_balancer()?;
    let names = ["a", "b", "c", "d"];
    for name in names {
        cluster.handler(name, SLEEP)?;
    }
    let to = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, cluster.balancer_port()));
    let load = Load::start(8, to, &names.map(|name| Request::call(name, &json!(0.02))));
    load.progress(100)?;
    for index in [0, 1, 0] {
        let pid = cluster.worker_pid(index)?;
        cluster.signal_worker(index, Signal::SIGTERM)?;
        cluster.wait_for_worker_end(pid)?;
        load.progress(100)?;
        cluster.restart_worker(index)?;
        // The next round ends the other one: by then this one has to be found again.
        load.progress(100)?;
    }
    load.stop()?.without_failure()?;
    cluster.stop()
}
