//! Handlers that need the same packages meet at the worker whose Zygote has them.
//!
//! Instances are not kept here, so that each call starts one. Handlers of a directory say nothing of their packages before
//! they were called once: their first call may go anywhere. By CostAware, the default, a handler then stays where it ran for a while; here it goes
//! by LARD's rules, which know no such home.

use std::fs;

use anyhow::{Context, Result, ensure};
use openlambda_tests::{Cluster, LoopbackIndex, Request, Response, until};
use serde_json::{Value, json};

const WORKERS: u16 = 3;
/// Where the Zygote is.
const HOME: u16 = 2;
const PLAIN: &str = "def handler(event):\n    return 1\n";
const HEAVY: &str = "import heavy\ndef handler(event):\n    return heavy.VALUE\n";

/// Three workers, the last of which has a Zygote with a package, and a lard that may ask at the admin ports or not.
fn cluster(asks: bool) -> Result<(Cluster, LoopbackIndex)> {
    let index = LoopbackIndex::start()?;
    // It takes long to import, so that a Zygote of it pays.
    index.wheel("heavy", "1.0", &[], &[("heavy.py", "import time\ntime.sleep(0.3)\nVALUE = 7\n")])?;
    let conf = json!({"pip_mirror": index.url(), "handler_cache_size": 0, "import_cache_size": "256Mi"});
    let cluster = Cluster::new(&conf)?;
    cluster.start_workers(WORKERS)?;
    let server = |index: u16| {
        let port = cluster.worker_port(index);
        // Nobody listens on port 1.
        let admin = if asks { port + 1000 } else { 1 };
        json!({"Name": format!("w{index}"), "Host": "127.0.0.1", "Port": port, "AdminPort": admin})
    };
    let file = cluster.path().join("config/load_balancer.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    config["Policy"] = json!("LARD");
    config["Servers"] = (0..WORKERS).map(server).collect();
    fs::write(&file, config.to_string())?;
    cluster.start_balancer()?;
    heavy(&cluster, "first")?;
    until("a Zygote with the package", || {
        let response = Request::call("first", &Value::Null).send(cluster.worker_port(HOME))?;
        Ok((response.status == 200 && is_hit(&response)).then_some(()))
    })?;
    Ok((cluster, index))
}

fn heavy(cluster: &Cluster, name: &str) -> Result<()> {
    cluster.file(name, "requirements.txt", "heavy==1.0\n")?;
    cluster.handler(name, HEAVY)
}

fn is_hit(response: &Response) -> bool {
    matches!(response.header("x-start-kind"), Some("zygote" | "spare"))
}

fn call(cluster: &Cluster, name: &str) -> Result<Response> {
    Request::call(name, &Value::Null).send(cluster.balancer_port())
}

/// What lard knows.
fn targets(cluster: &Cluster) -> Result<Value> {
    Request::get("/debug/targets").send(cluster.balancer_port() + 1000)?.ok()
}

/// The digests of the package sets that a worker has a Zygote for, as far as lard knows.
fn zygotes(cluster: &Cluster, index: u16) -> Result<Vec<Value>> {
    let targets = targets(cluster)?;
    let servers = targets["servers"].as_array().context("no servers")?;
    let server = servers.iter().find(|server| server["name"] == json!(format!("w{index}")));
    Ok(server.and_then(|server| server["zygotes"].as_array()).cloned().unwrap_or_default())
}

/// Answers that a worker gave for handlers.
fn answers(cluster: &Cluster, index: u16) -> Result<u64> {
    let text = Request::get("/metrics").send(cluster.worker_port(index) + 1000)?.text();
    let lines = text.lines().filter(|line| line.starts_with("openlambda_starts_total{"));
    lines.map(|line| Ok(line.rsplit(' ').next().context("a metric without a value")?.parse::<u64>()?)).sum()
}

/// From the second call on each goes to the worker with the Zygote, and starts there from it.
fn they_meet(cluster: &Cluster) -> Result<()> {
    let names: Vec<String> = (0..4).map(|number| format!("h{number}")).collect();
    for name in &names {
        heavy(cluster, name)?;
        until(&format!("the packages of {name}"), || Ok((call(cluster, name)?.status == 200).then_some(())))?;
    }
    let before: Vec<u64> = (0..WORKERS).map(|index| answers(cluster, index)).collect::<Result<_>>()?;
    for name in &names {
        let response = call(cluster, name)?;
        ensure!(response.ok()? == json!(7) && is_hit(&response), "{name}: {response:?}");
        ensure!(response.header("x-packages").is_none(), "what is for lard reached the client");
    }
    let after: Vec<u64> = (0..WORKERS).map(|index| answers(cluster, index)).collect::<Result<_>>()?;
    let more: Vec<u64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    ensure!(more == [0, 0, names.len() as u64], "{more:?} {}", targets(cluster)?);
    let homes = targets(cluster)?["packages"].clone();
    ensure!(homes.as_object().is_some_and(|homes| homes.values().all(|at| *at == json!(["w2"]))), "{homes}");
    Ok(())
}

#[test]
fn they_meet_by_what_answers_say_alone() -> Result<()> {
    let (cluster, _index) = cluster(false)?;
    ensure!(zygotes(&cluster, HOME)?.is_empty(), "nobody can have told lard");
    let mut number = 0;
    until("an answer of each worker, and the Zygote's report", || {
        number += 1;
        let name = format!("plain{number}");
        cluster.handler(&name, PLAIN)?;
        call(&cluster, &name)?.ok()?;
        Ok((!zygotes(&cluster, HOME)?.is_empty()).then_some(()))
    })?;
    they_meet(&cluster)?;
    cluster.stop()
}

#[test]
fn a_worker_that_gets_no_calls_is_asked() -> Result<()> {
    let (cluster, _index) = cluster(true)?;
    until("its report", || Ok((!zygotes(&cluster, HOME)?.is_empty()).then_some(())))?;
    they_meet(&cluster)?;
    let shown = cluster.admin("targets", &[])?;
    for want in
        ["LARD by Connections", "w2 at 127.0.0.1:", "  package sets: ", "  Zygotes for package sets: "]
    {
        ensure!(shown.contains(want), "no {want:?} in {shown}");
    }
    cluster.stop()
}
