//! Start, drain, death, and what is left afterwards: nothing.

use std::fs;

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openlambda_tests::{Cluster, Request, Response, until};
use serde_json::json;

const SLEEP: &str = "import time\ndef handler(event):\n    time.sleep(event)\n    return event\n";

fn running(cluster: &Cluster) -> Result<usize> {
    Ok(cluster.instances("sleep")?.iter().filter(|i| i["state"] == "running").count())
}

#[test]
fn a_drain_finishes_what_runs_and_refuses_what_comes() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("sleep", SLEEP)?;
    let call = Request::call("sleep", &json!(1)).open(cluster.worker_port(0))?;
    // A connection opened before, on which a request comes too late.
    let mut early = openlambda_tests::http::connect(cluster.worker_port(0))?;
    until("the running call", || Ok((running(&cluster)? == 1).then_some(())))?;
    let (pid, cgroups) = (cluster.worker_pid(0)?, cluster.cgroups(0)?);
    cluster.signal_worker(0, Signal::SIGTERM)?;
    until("the drain", || {
        // Refused or not connected at all: both are a worker that takes no more.
        let late = Request::call("sleep", &json!(0)).send(cluster.worker_port(0));
        Ok(late.map_or(true, |response| response.status == 503).then_some(()))
    })?;
    let late = std::io::Write::write_all(&mut early, &Request::call("sleep", &json!(0)).head());
    drop((late, early));
    ensure!(Response::read(call)?.ok()? == json!(1));
    cluster.wait_for_worker_end(pid)?;
    ensure!(cgroups.iter().all(|path| !path.exists()), "cgroups are left: {cgroups:?}");
    cluster.stop()
}

#[test]
fn a_killed_worker_takes_everything_along() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("sleep", SLEEP)?;
    let _calls: Vec<_> =
        (0..5).map(|_| Request::call("sleep", &json!(60)).open(cluster.worker_port(0))).collect();
    until("five running calls", || Ok((running(&cluster)? == 5).then_some(())))?;
    // A paused one as well: frozen processes do not take a signal.
    cluster.handler("rest", "def handler(event):\n    return event\n")?;
    cluster.call("rest", &json!(0))?.ok()?;
    until("a paused instance", || {
        Ok(cluster.instances("rest")?.iter().any(|i| i["state"] == "paused").then_some(()))
    })?;
    let (pid, cgroups) = (cluster.worker_pid(0)?, cluster.cgroups(0)?);
    let processes = until("the Zygote and six sandboxes", || {
        Ok(Some(cluster.sandboxed_processes(0)?).filter(|processes| processes.len() >= 7))
    })?;
    cluster.signal_worker(0, Signal::SIGKILL)?;
    cluster.wait_for_worker_end(pid)?;
    until("the end of all sandboxes", || {
        Ok(processes.iter().all(|pid| kill(Pid::from_raw(*pid), None).is_err()).then_some(()))
    })?;
    until("the end of all cgroups", || Ok(cgroups.iter().all(|path| !path.exists()).then_some(())))?;
    cluster.start_workers(1)?;
    ensure!(cluster.call("sleep", &json!(0))?.ok()? == json!(0));
    cluster.stop()
}

#[test]
fn a_zygote_that_dies_is_replaced_and_no_call_fails() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("sleep", SLEEP)?;
    let call = Request::call("sleep", &json!(1)).open(cluster.worker_port(0))?;
    until("the running call", || Ok((running(&cluster)? == 1).then_some(())))?;
    let zygotes = || -> Result<Vec<i32>> {
        let all = cluster.sandboxed_processes(0)?;
        let is_zygote = |pid: &i32| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.lines().any(|line| line.rsplit('/').next().is_some_and(|name| name.starts_with("z-")))
        };
        Ok(all.into_iter().filter(is_zygote).collect())
    };
    // A spare is one of them for a moment, until it has joined its own cgroup.
    let old = until("the Zygote alone", || Ok(Some(zygotes()?).filter(|all| all.len() == 1)))?;
    kill(Pid::from_raw(old[0]), Signal::SIGKILL)?;
    // At once, while there is none: the calls wait for the new one.
    for index in 0..5 {
        let name = format!("fresh-{index}");
        cluster.handler(&name, "def handler(event):\n    return event\n")?;
        ensure!(cluster.call(&name, &json!(index))?.ok()? == json!(index));
    }
    ensure!(Response::read(call)?.ok()? == json!(1), "a sandbox died with its Zygote");
    ensure!(zygotes()? != old);
    ensure!(cluster.metrics()?.contains("openlambda_zygote_restarts_total 1"), "{}", cluster.metrics()?);
    cluster.stop()
}

#[test]
fn two_workers_cannot_share_a_directory() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    let mut config: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(cluster.path().join("config/worker-0.json"))?)?;
    config["worker_port"] = json!(cluster.worker_port(1));
    let path = cluster.path().join("config/second.json");
    fs::write(&path, config.to_string())?;
    let output = std::process::Command::new(openlambda_tests::cluster::binary("admin")?)
        .arg("worker-exec")
        .arg("--config")
        .arg(&path)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && text.contains("worker_dir"), "{text}");
    cluster.stop()
}

#[test]
fn nothing_piles_up_over_many_sandboxes() -> Result<()> {
    // Without an import cache there are no spares, so that nothing but the Zygote is left.
    let cluster = Cluster::with_worker(&json!({"handler_cache_size": 0, "import_cache_size": 0}))?;
    cluster.handler("echo", "def handler(event):\n    return event\n")?;
    let pid = cluster.worker_pid(0)?;
    let descriptors = || Ok::<_, anyhow::Error>(fs::read_dir(format!("/proc/{pid}/fd"))?.count());
    for index in 0..20 {
        cluster.call("echo", &json!(index))?.ok()?;
    }
    until("rest", || Ok((cluster.sandboxed_processes(0)?.len() <= 1).then_some(())))?;
    let before = descriptors()?;
    for index in 0..300 {
        ensure!(cluster.call("echo", &json!(index))?.ok()? == json!(index));
    }
    until("only the Zygote", || Ok((cluster.sandboxed_processes(0)?.len() <= 1).then_some(())))?;
    until("descriptors as before", || Ok((descriptors()? <= before + 20).then_some(())))?;
    let groups: usize = cluster
        .cgroups(0)?
        .iter()
        .map(|root| fs::read_dir(root).map_or(0, Iterator::count))
        .max()
        .unwrap_or(0);
    ensure!(groups < 150, "{groups} entries in a cgroup folder");
    cluster.stop()
}
